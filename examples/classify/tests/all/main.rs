//! What a program that only classifies needs, and that its answers are those of the library.

#![allow(clippy::unwrap_used, reason = "tests")]

mod answers;
mod dependencies;
