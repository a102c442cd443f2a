//! Connections: accepted within a limit, served, and drained at the end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::failure::Failure;
use crate::options::Limits;

/// Connections above the limit that are told so at the same time; those above that are closed.
const REFUSED: usize = 32;
/// How long such a connection has to send its request.
const REFUSAL: Duration = Duration::from_secs(2);
/// How long is waited after the system has no sockets left.
const PAUSE: Duration = Duration::from_millis(100);

/// The least that hyper accepts for its buffer.
const LEAST_BUFFER: usize = 8192;

/// Accepts connections until `stop`, and returns when the last of them has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let open = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let refused = Arc::new(Semaphore::new(REFUSED));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            _ = stop.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // What is answered is small, and clients wait for it.
        let _ = stream.set_nodelay(true);
        if let Ok(place) = Arc::clone(&open).try_acquire_owned() {
            let (router, stop) = (router.clone(), stop.clone());
            tasks.spawn(async move {
                talk(stream, router, limits, stop).await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&refused).try_acquire_owned() {
            tasks.spawn(async move {
                let _ = tokio::time::timeout(REFUSAL, refuse(stream, limits)).await;
                drop(place);
            });
        }
    }
    drop(listener);
    // No request takes longer than that.
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.time + REFUSAL, all).await.is_err() {
        tracing::warn!("connections that do not end were closed");
    }
}

fn protocol(limits: Limits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new());
    protocol.header_read_timeout(limits.time).max_buf_size(limits.header_bytes.max(LEAST_BUFFER));
    protocol
}

async fn talk(stream: TcpStream, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let service =
        service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let mut connection = pin!(protocol(limits).serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Tells a client that there are too many.
async fn refuse(stream: TcpStream, limits: Limits) {
    let service = service_fn(move |_: Request<Incoming>| async move {
        let message =
            format!("{} connections are open, which is the limit; try again later", limits.connections);
        let mut response = Failure::busy(message).into_response();
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        Ok::<Response<Body>, Infallible>(response)
    });
    let _ = protocol(limits).serve_connection(TokioIo::new(stream), service).await;
}
