//! Classifiers that are run, and not trained.
//!
//! [`Inference`] prepares a [`Model`](offshoot_graph::Model) for an [`Executor`](offshoot_graph::Executor) the way it is
//! shipped and gives its logits; [`Inference::fork`] gives another thread one that shares the weights. [`evaluate()`]
//! measures a classifier on pictures, and [`files`] names what is read of a run directory.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod calibration;
mod constants;
pub mod decision;
mod error;
pub mod evaluate;
mod figures;
pub mod files;
pub mod inference;
pub mod labels;
pub mod metrics;
mod probabilities;
pub mod selection;
pub mod targets;

pub use constants::fold_constants;
pub use decision::{Decision, Fitted};
pub use evaluate::{EvaluateError, evaluate, evaluate_shared, evaluate_views};
pub use figures::Figures;
pub use inference::{Inference, NetworkError, folded};
pub use labels::LabelMetrics;
pub use metrics::Metrics;
pub use selection::{Accepted, Selection};
pub use targets::TargetMetrics;
