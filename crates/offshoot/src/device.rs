//! Where networks are computed: the one place that chooses what runs a graph. All else takes an [`Executor`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use offshoot_cpu::CpuExecutor;
pub use offshoot_cpu::{CpuOptions, Isa};
use offshoot_graph::{DType, ExecuteError, Executor, Graph, Peaks, Session, Weights};

use crate::error::Result;

/// What runs networks. Copies of it share its threads.
#[derive(Clone)]
pub struct Device {
    executor: Arc<dyn Executor>,
    isa: String,
    threads: usize,
    precision: InferencePrecision,
}

/// What the products of a network that is run for inference compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InferencePrecision {
    /// f32.
    #[default]
    F32,
    /// bf16, with sums in f32: several times as fast where the processor has a matrix unit. A logit is off by about a hundredth of the
    /// largest one.
    Bf16,
}

impl FromStr for InferencePrecision {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<InferencePrecision, String> {
        match text {
            "f32" => Ok(InferencePrecision::F32),
            "bf16" => Ok(InferencePrecision::Bf16),
            _ => Err("give f32 or bf16".into()),
        }
    }
}

impl fmt::Display for InferencePrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InferencePrecision::F32 => "f32",
            InferencePrecision::Bf16 => "bf16",
        })
    }
}

impl Device {
    /// This machine's processors.
    ///
    /// # Errors
    /// When the threads are too many or cannot be started.
    pub fn cpu(options: CpuOptions) -> Result<Device> {
        let executor = CpuExecutor::new(options)?;
        let (isa, threads) = (executor.isa().to_string(), executor.threads());
        Ok(Device { executor: Arc::new(executor), isa, threads, precision: InferencePrecision::F32 })
    }

    /// The same device, on which networks are run for inference in another precision. (Training, and proofs of exported files, are not.)
    pub fn with_precision(self, precision: InferencePrecision) -> Device {
        Device { precision, ..self }
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
        match self.precision {
            InferencePrecision::F32 => self.executor.describe(),
            InferencePrecision::Bf16 => format!("{}, bf16", self.executor.describe()),
        }
    }

    fn prepare(
        &self,
        graph: &Graph,
        weights: &Weights,
    ) -> std::result::Result<Box<dyn Session>, ExecuteError> {
        self.executor.prepare(graph, weights)
    }

    fn inference_type(&self) -> Option<DType> {
        match self.precision {
            InferencePrecision::F32 => None,
            InferencePrecision::Bf16 => Some(DType::BF16),
        }
    }

    fn profiling(&self) -> Option<Arc<dyn Executor>> {
        self.executor.profiling()
    }

    fn peaks(&self) -> Option<Peaks> {
        self.executor.peaks()
    }
}
