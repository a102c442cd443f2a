//! A server from its start to its end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use offshoot::{Device, Error};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::body::Bodies;
use crate::connections;
use crate::metrics::Metrics;
use crate::models::{ModelFile, Models};
use crate::options::Options;
use crate::routes::router;
use crate::shared::Shared;

/// How often it is looked whether the server shall stop.
const LOOK: Duration = Duration::from_millis(50);
/// Threads that talk to clients; they compute nothing.
const TALKERS: usize = 2;

/// A server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A model cannot be used.
    #[error(transparent)]
    Model(#[from] Error),
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no threads.
    #[error("the server cannot start: {0}")]
    Start(std::io::Error),
}

/// A server that listens, with its models loaded.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Loads models and starts to listen. Nothing is answered before [`Server::run`].
    ///
    /// # Errors
    /// When a model cannot be loaded, or the address cannot be listened at.
    pub fn start(models: Vec<ModelFile>, device: Device, options: Options) -> Result<Server, ServeError> {
        let failed = |source| ServeError::Listen { address: options.listen, source };
        let metrics = Arc::new(Metrics::new());
        // Before the models: they may take long.
        let listener = TcpListener::bind(options.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let models = Models::open(models, device, options.batching, Arc::clone(&metrics))?;
        let decoders = available_parallelism().map_or(2, |n| n.get().max(2));
        let runtime = Builder::new_multi_thread()
            .worker_threads(TALKERS)
            .max_blocking_threads(decoders)
            .thread_name("offshoot-serve")
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let shared = Shared {
            models,
            limits: options.limits,
            bodies: Bodies::new(options.limits.body_bytes),
            metrics,
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        };
        Ok(Server { runtime, listener, address, shared: Arc::new(shared) })
    }

    /// Where it listens: with port 0, the port that the system has chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The names of its models, in order.
    pub fn models(&self) -> Vec<String> {
        self.shared.models.names().map(str::to_owned).collect()
    }

    /// Answers requests until `stop` is true. Then it accepts no connection any more and finishes what has begun.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn run(self, stop: impl Fn() -> bool) -> Result<(), ServeError> {
        let Server { runtime, listener, address, shared } = self;
        let result = runtime.block_on(async {
            let failed = |source| ServeError::Listen { address, source };
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
            let (stopping, stopped) = watch::channel(false);
            let router = router(Arc::clone(&shared));
            let serving = tokio::spawn(connections::serve(listener, router, shared.limits, stopped));
            while !stop() && !serving.is_finished() {
                tokio::time::sleep(LOOK).await;
            }
            tracing::info!("draining");
            shared.draining.store(true, Ordering::SeqCst);
            shared.models.hurry();
            let _ = stopping.send(true);
            serving.await.map_err(|e| ServeError::Start(std::io::Error::other(e)))
        });
        // A picture of somebody who went away may still be decoded.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }
}
