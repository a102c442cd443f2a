//! Whether a model, a batch, or a folder of pictures is fit for training, and what is wrong where it is not.
//!
//! [`Probe`] runs a graph so that the values between its nodes can be looked at; [`check()`] looks at a model and pictures
//! without training.

mod check;
mod interval;
mod log;
mod probe;
mod trace;
mod watch;

pub use crate::run::HEALTH_FILE;
pub use check::{Block, CheckError, CheckReport, Idle, Pictures, check};
pub(crate) use log::{HealthLog, NormSums};
pub use probe::{NonFinite, Operand, Probe, Range};
pub(crate) use trace::{trace_frozen, trace_trained};
pub(crate) use watch::{Facts, Watch, listed};
