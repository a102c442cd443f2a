//! The command's tests, one binary: each links all of offshoot. `cargo test -p offshoot-cli --test all resume::` runs those of
//! one file.

#![allow(clippy::unwrap_used, reason = "tests")]

mod check;
mod chinese;
mod commands;
mod data;
mod decisions;
mod deploy;
mod endings;
mod explain;
mod exports;
mod faults;
mod formats;
mod guide;
mod intact;
mod interop;
mod json_errors;
mod links;
mod litert;
mod messages;
#[cfg(all(unix, feature = "mpi"))]
mod mpi;
mod names;
mod numbers;
mod onnx_training;
mod options;
mod others;
mod preparation;
mod progressive;
mod pull;
mod quantize;
mod quantize_dynamic;
mod refusals;
mod regression;
mod remedies;
mod resume;
mod runs;
#[cfg(all(unix, feature = "serve"))]
mod serve;
mod several_labels;
mod stages;
mod starts;
mod strangers;
mod streams;
mod support;
mod tables;
mod targets;
mod words;
