//! Serves image classifiers over HTTP.
//!
//! Pictures that arrive at about the same time go through the network together, and the result of each is bit-identical to
//! the one of [`offshoot::predict`]. Nothing that a client sends is believed: bodies, pictures, headers, connections and time
//! have limits, and what is above one is an error of the client with a message.
//!
//! ```no_run
//! use offshoot_serve::{ModelFile, Options, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = offshoot::Device::cpu(offshoot::CpuOptions::default())?;
//! let server = Server::start(vec![ModelFile::of("run", Default::default())?], device, Options::default())?;
//! println!("http://{}", server.address());
//! server.run(|| false)?;
//! # Ok(()) }
//! ```
//!
//! The modules: `connections` accepts and drains, `routes` has the table of addresses, `body` reads what clients send,
//! `classify` and `v2` answer, `batch` runs networks, `models` holds them, `metrics` and `measure` count.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod batch;
mod body;
mod classify;
mod connections;
mod failure;
mod measure;
mod metrics;
mod models;
mod options;
mod routes;
mod server;
mod shared;
mod v2;

pub use models::{ModelFile, NameError};
pub use options::{Batching, Limits, Options};
pub use server::{ServeError, Server};
