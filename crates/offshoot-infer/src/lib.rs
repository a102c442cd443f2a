//! Classifiers that are run, and not trained.
//!
//! [`Inference`] prepares a [`Model`](offshoot_graph::Model) for an [`Executor`](offshoot_graph::Executor) the way it is
//! shipped and gives its logits; [`Inference::fork`] gives another thread one that shares the weights. [`evaluate()`]
//! measures a classifier on pictures, and [`files`] names what is read of a run directory.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod evaluate;
pub mod files;
pub mod inference;
pub mod metrics;

pub use evaluate::{EvaluateError, evaluate, evaluate_views};
pub use inference::{Inference, NetworkError};
pub use metrics::Metrics;
