//! The tests of this crate, in one program: a module a subject.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod amp;
mod assets;
mod freeze;
mod golden;
mod groups;
mod health;
mod recipe;
mod recovery;
mod refusal;
mod report_size;
mod rule;
mod stages;
mod step;
mod support;
mod train;
mod warnings;
mod world;
