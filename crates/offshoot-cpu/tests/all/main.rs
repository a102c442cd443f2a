//! The tests of the executor from outside, a module for each kind: one program, as linking takes longer than running most
//! of them. `cargo test -p offshoot-cpu --test all conv::` runs one module.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod blocks;
mod bytes;
mod conformance;
mod conv;
mod gemm;
mod gradients;
mod half;
mod joined;
mod norm_reads;
mod passes_networks;
mod profile;
mod quantize;
mod random_graphs;
mod sizes;
mod support;
mod types;
mod winograd;
