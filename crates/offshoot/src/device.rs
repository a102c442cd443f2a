//! Where networks are computed: the one place that chooses what runs a graph. All else takes an [`Executor`].

use std::sync::Arc;

use offshoot_cpu::CpuExecutor;
pub use offshoot_cpu::{CpuOptions, Isa};
use offshoot_graph::{ExecuteError, Executor, Graph, Peaks, Session, Weights};

use crate::error::Result;

/// What runs networks. Copies of it share its threads.
#[derive(Clone)]
pub struct Device {
    executor: Arc<dyn Executor>,
    isa: String,
    threads: usize,
}

impl Device {
    /// This machine's processors.
    ///
    /// # Errors
    /// When the threads are too many or cannot be started.
    pub fn cpu(options: CpuOptions) -> Result<Device> {
        let executor = CpuExecutor::new(options)?;
        let (isa, threads) = (executor.isa().to_string(), executor.threads());
        Ok(Device { executor: Arc::new(executor), isa, threads })
    }

    /// The name of the instruction set that it computes with.
    pub fn isa(&self) -> &str {
        &self.isa
    }

    /// The number of threads that share the work.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The same device, with sessions that measure each step, where it can.
    #[cfg(feature = "train")]
    pub(crate) fn measuring(&self) -> Device {
        let executor = self.executor.profiling().unwrap_or_else(|| Arc::clone(&self.executor));
        Device { executor, ..self.clone() }
    }
}

impl Executor for Device {
    fn describe(&self) -> String {
        self.executor.describe()
    }

    fn prepare(
        &self,
        graph: &Graph,
        weights: &Weights,
    ) -> std::result::Result<Box<dyn Session>, ExecuteError> {
        self.executor.prepare(graph, weights)
    }

    fn profiling(&self) -> Option<Arc<dyn Executor>> {
        self.executor.profiling()
    }

    fn peaks(&self) -> Option<Peaks> {
        self.executor.peaks()
    }
}
