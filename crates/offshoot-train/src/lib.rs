//! Training loop, optimizers, schedules, checkpoints.

pub mod evaluate;
pub mod freeze;
pub mod inference;
pub mod memory;
pub mod metrics;
pub mod optimizer;
mod pictures;
pub mod recipe;
pub mod run;
pub mod schedule;
mod split;
pub mod step;
pub mod train;

pub use evaluate::{EvaluateError, evaluate};
pub use freeze::{FreezeError, apply_freeze};
pub use inference::{Inference, NetworkError};
pub use memory::peak_mib;
pub use metrics::Metrics;
pub use optimizer::{Optimizer, OptimizerKind, OptimizerOptions};
pub use recipe::{Freeze, Recipe, RecipeError, Settings};
pub use run::{EpochRow, RunError};
pub use schedule::{Schedule, ScheduleKind};
pub use step::{StepError, StepOptions, StepReport, TrainStep};
pub use train::{BestEpoch, Control, Event, Outcome, TrainError, TrainResult, train};
