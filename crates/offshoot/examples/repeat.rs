//! Runs inference of a model with random weights, or the forward and backward pass of a training step, until it is stopped, and prints
//! when each run started and ended, in seconds since 1970: what `benches/turns` compares with ONNX Runtime.
//!
//!     cargo run --release -p offshoot --example repeat -- [train] MODEL [BATCH [THREADS]]

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod networks;

use std::error::Error;
use std::time::SystemTime;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::Executor;

use networks::Task;

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::of_arguments()?;
    let executor = CpuExecutor::new(CpuOptions { threads: task.threads, ..CpuOptions::default() })?;
    let mut session = executor.prepare(&task.graph, &task.weights)?;
    loop {
        let start = now()?;
        session.run(&task.inputs())?;
        println!("{start:.6} {:.6}", now()?);
    }
}

fn now() -> Result<f64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
