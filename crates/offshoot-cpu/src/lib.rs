//! offshoot's CPU executor: it turns a graph into a plan (order, memory, kernels) and runs it.
//!
//! Activations of rank 4 are NHWC inside a plan; the graph, the inputs and the outputs stay NCHW. Results are
//! bit-identical for any number of threads.

mod buffer;
mod commit;
mod filters;
pub mod kernels;
mod lower;
mod memory;
mod operands;
pub mod optimize;
mod plan;
mod session;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use offshoot_graph::{ExecuteError, Executor, Graph, Peaks, Session, Weights};

use kernels::ceiling::{copy_bandwidth, peak_flops};
pub use kernels::simd::Isa;
use session::CpuSession;

/// How the CPU executor runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads that share the work; all the machine's by default. Results do not depend on it.
    pub threads: Option<NonZeroUsize>,
    /// The SIMD path; the machine's best by default.
    pub isa: Option<Isa>,
    /// Whether sessions measure each step ([`Session::profile`]).
    pub profile: bool,
    /// Whether a graph runs node by node, and not as [`optimize::optimize`] makes it: for tests, and to see what that brings.
    pub unoptimized: bool,
}

/// Runs graphs on this machine's processor.
#[derive(Clone, Debug)]
pub struct CpuExecutor {
    isa: Isa,
    pool: Arc<rayon::ThreadPool>,
    crowd: Arc<Crowd>,
    profile: bool,
    unoptimized: bool,
}

/// Where sessions run while another has the executor's threads: those wait for its kernels, and must not wait for two. Here
/// rayon divides the work of all of them.
#[derive(Debug, Default)]
struct Crowd {
    taken: AtomicBool,
    pool: OnceLock<Option<rayon::ThreadPool>>,
}

/// More threads than any machine this runs on can use.
const MAX_THREADS: usize = 1024;

/// The executor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// More threads than make sense.
    #[error("{0} threads are too many; give at most {MAX_THREADS}")]
    TooManyThreads(usize),
    /// The threads could not be started.
    #[error("the worker threads could not be started")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl CpuExecutor {
    /// Starts the worker threads.
    ///
    /// # Errors
    /// When the threads are too many or cannot be started.
    pub fn new(options: CpuOptions) -> Result<CpuExecutor, CpuError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if let Some(threads) = options.threads.filter(|n| n.get() > MAX_THREADS) {
            return Err(CpuError::TooManyThreads(threads.get()));
        }
        // Rayon takes 0 as "one for each processor".
        let pool = Arc::new(threads(options.threads.map_or(0, NonZeroUsize::get))?);
        let CpuOptions { profile, unoptimized, .. } = options;
        Ok(CpuExecutor { isa, pool, crowd: Arc::default(), profile, unoptimized })
    }

    /// Calls `work` on the executor's threads; `kernels` says whether it calls kernels one after the other.
    fn run<R: Send>(&self, kernels: bool, work: impl FnOnce() -> R + Send) -> R {
        /// Lets the next one have the threads, also after a panic.
        struct Leave<'a>(&'a AtomicBool);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        while self.crowd.taken.swap(true, Ordering::Acquire) {
            if let Some(pool) = self.crowd.pool.get_or_init(|| threads(self.threads()).ok()) {
                return pool.install(work);
            }
            // The system gives no more threads.
            std::thread::yield_now();
        }
        let _leave = Leave(&self.crowd.taken);
        self.pool.install(|| if kernels { kernels::together(work) } else { work() })
    }

    /// The SIMD path in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads that share the work.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

fn threads(count: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("cpu-{i}")).build()
}

impl Executor for CpuExecutor {
    fn describe(&self) -> String {
        format!("cpu {}", self.isa)
    }

    fn prepare(&self, graph: &Graph, weights: &Weights) -> Result<Box<dyn Session>, ExecuteError> {
        let mut session = CpuSession::new(self);
        session.add_graph(graph, weights)?;
        Ok(Box::new(session))
    }

    fn profiling(&self) -> Option<Arc<dyn Executor>> {
        Some(Arc::new(CpuExecutor { profile: true, ..self.clone() }))
    }

    fn peaks(&self) -> Option<Peaks> {
        Some(self.run(false, || Peaks { flops: peak_flops(self.isa), bandwidth: copy_bandwidth() }))
    }
}
