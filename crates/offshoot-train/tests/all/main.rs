//! The tests of this crate, in one program: a module a subject.

mod amp;
mod assets;
mod freeze;
mod golden;
mod health;
mod recipe;
mod recovery;
mod refusal;
mod report_size;
mod rule;
mod stages;
mod support;
mod train;
mod warnings;
