//! Fine-tuning: the step, the loop around it, and the files that it leaves.
//!
//! [`train()`] carries out a [`Recipe`]. [`TrainStep`] is one step of it: a model with some parameters frozen becomes a
//! frozen part that is run as it would be shipped, and a part that is differentiated. [`Inference`] and [`evaluate()`]
//! (of `offshoot-infer`) measure the result.
//!
//! Everything random is a function of (seed, epoch, picture, purpose), and a step changes everything or nothing. So a
//! checkpoint needs no more than the weights, the optimizer's moments and a position, and a resumed run ends with
//! the same bytes as an uninterrupted one.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod amp;
pub mod average;
mod cache;
mod checkpoint;
mod csv;
pub mod data_check;
mod error;
mod events;
mod familiar;
mod fingerprint;
pub mod freeze;
pub mod groups;
pub mod health;
mod leftover;
pub mod log;
mod longer;
pub mod lr_find;
pub mod memory;
mod occupied;
pub mod optimizer;
mod outcome;
mod part;
mod picture_files;
mod pictures;
pub mod progressive;
pub mod ranges;
pub mod recipe;
mod recipe_error;
mod refusal;
pub mod report;
pub mod results;
pub mod run;
mod run_pictures;
mod scales;
pub mod schedule;
pub mod settings;
mod split;
mod standing;
pub mod step;
mod step_options;
mod targets;
pub mod template;
mod together;
pub mod train;
mod training;
pub mod unfreeze;

/// The hash of the running program, in hexadecimal digits: another build may round in another way.
pub fn program_hash() -> String {
    fingerprint::program().to_string()
}

pub use amp::{Amp, GradScaler, ScalerOptions};
pub use average::Average;
pub use cache::{CacheOptions, CacheType};
pub use familiar::{copies, familiar};
pub use freeze::{Freeze, FreezeError, apply_freeze};
pub use groups::{GroupOptions, GroupRow};
pub use lr_find::{RangeTest, RateCurve, RatePoint, lr_find};
pub use memory::peak_mib;
pub use offshoot_infer::{
    EvaluateError, Figures, Inference, LabelMetrics, Metrics, NetworkError, evaluate, evaluate_shared,
    evaluate_views, inference, labels, metrics,
};
pub use optimizer::{Clip, Optimizer, OptimizerKind, OptimizerOptions};
pub use progressive::Progressive;
pub use recipe::{OnNonFinite, Recipe, RecipeError, Settings};
pub use results::EpochRow;
pub use run::RunError;
pub use run_pictures::RunPictures;
pub use schedule::{Schedule, ScheduleKind};
pub use standing::Standing;
pub use step::{Batch, Share, StepError, StepOptions, StepReport, TrainStep};
pub use targets::targets;
pub use template::template;
pub use train::{BestEpoch, Control, Event, Figure, Outcome, Refusal, Told, TrainError, TrainResult, train};
pub use unfreeze::{Rebuild, Stages, Unfreeze};
