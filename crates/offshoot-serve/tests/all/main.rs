//! The server, asked over TCP by a client that sends what the tests say and nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

mod answers;
mod lifetime;
mod limits;
mod metrics;
mod refusals;
mod support;
mod v2;
