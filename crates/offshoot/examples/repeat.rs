//! Runs inference of a model with random weights until it is stopped, and prints when each run started and ended, in seconds
//! since 1970: what `benches/turns` compares with ONNX Runtime.
//!
//!     cargo run --release --example repeat -- MODEL [BATCH [THREADS]]

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod networks;

use std::error::Error;
use std::time::SystemTime;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::Executor;

use networks::{inference, input};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().ok_or("which model?")?;
    let batch: usize = arguments.get(1).map_or(Ok(1), |batch| batch.parse())?;
    let threads = arguments.get(2).map(|threads| threads.parse()).transpose()?;
    let (graph, weights) = inference(model)?;
    let (name, images) = input(&graph, batch)?;
    let executor = CpuExecutor::new(CpuOptions { threads, ..CpuOptions::default() })?;
    let mut session = executor.prepare(&graph, &weights)?;
    loop {
        let start = now()?;
        session.run(&[(&name, &images)], &weights)?;
        println!("{start:.6} {:.6}", now()?);
    }
}

fn now() -> Result<f64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}
