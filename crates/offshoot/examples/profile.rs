//! Where the time of inference goes: the least time of each step of a plan, and its rate of operations. Prints Markdown.
//!
//!     cargo run --release --example profile -- MODEL [BATCH [THREADS]]
//!
//! A step that computes several nodes is called after one of them, and the rate is that node's alone.

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod networks;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::{Bindings, Executor, Graph, Weights, costs};

use networks::{inference, input};

const WARMUP: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments.first().ok_or("which model?")?;
    let batch = arguments.get(1).map_or(Ok(1), |batch| batch.parse())?;
    let threads = arguments.get(2).map(|threads| threads.parse()).transpose()?;
    let executor = CpuExecutor::new(CpuOptions { threads, profile: true, ..CpuOptions::default() })?;
    let (graph, weights) = inference(model)?;
    let times = times(&executor, &graph, &weights, batch)?;
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let bindings = Bindings::from([("batch_size".to_string(), batch)]);
    let operations: HashMap<&str, u64> = graph
        .nodes()
        .iter()
        .zip(costs(&graph, &bindings)?)
        .map(|(node, cost)| (node.name.as_str(), cost.operations))
        .collect();
    println!("| step | ms | of all | GFLOP/s |\n| --- | --- | --- | --- |");
    for (node, time) in &times {
        let ms = time.as_secs_f64() * 1e3;
        let part = 100.0 * time.as_secs_f64() / total.as_secs_f64();
        let rate = operations.get(node.as_str()).map_or(0.0, |n| *n as f64 / time.as_secs_f64() / 1e9);
        println!("| {node} | {ms:.3} | {part:.1} % | {rate:.0} |");
    }
    println!("| all | {:.3} | | |", total.as_secs_f64() * 1e3);
    Ok(())
}

/// The steps of a run in order, each with the least time that it took in several.
fn times(
    executor: &CpuExecutor,
    graph: &Graph,
    weights: &Weights,
    batch: usize,
) -> Result<Vec<(String, Duration)>, Box<dyn Error>> {
    let (name, images) = input(graph, batch)?;
    let mut session = executor.prepare(graph, weights)?;
    let mut least: Vec<(String, Duration)> = Vec::new();
    for run in 0..WARMUP + 40usize.div_ceil(batch).max(5) {
        session.run(&[(&name, &images)], weights)?;
        match run {
            0..WARMUP => {}
            WARMUP => least = session.profile().iter().map(|step| (step.node.clone(), step.time)).collect(),
            _ => least.iter_mut().zip(session.profile()).for_each(|(l, step)| l.1 = l.1.min(step.time)),
        }
    }
    Ok(least)
}
