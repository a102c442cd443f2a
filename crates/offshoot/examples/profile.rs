//! Where the time of inference or of a training step goes: the least time of each step of a plan, and its rate of operations.
//! Prints Markdown.
//!
//!     cargo run --release -p offshoot --example profile -- [train] MODEL [BATCH [THREADS]]
//!
//! A step that computes several nodes is called after one of them, and the rate is that node's alone.

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod networks;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::{Bindings, Executor, costs};

use networks::Task;

const WARMUP: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::of_arguments()?;
    let Task { graph, batch, threads, .. } = &task;
    let executor =
        CpuExecutor::new(CpuOptions { threads: *threads, profile: true, ..CpuOptions::default() })?;
    let times = times(&executor, &task)?;
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let bindings = Bindings::from([("batch_size".to_string(), *batch)]);
    let operations: HashMap<&str, u64> = graph
        .nodes()
        .iter()
        .zip(costs(graph, &bindings)?)
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
fn times(executor: &CpuExecutor, task: &Task) -> Result<Vec<(String, Duration)>, Box<dyn Error>> {
    let mut session = executor.prepare(&task.graph, &task.weights)?;
    let mut least: Vec<(String, Duration)> = Vec::new();
    for run in 0..WARMUP + 40usize.div_ceil(task.batch).max(5) {
        session.run(&task.inputs())?;
        match run {
            0..WARMUP => {}
            WARMUP => least = session.profile().iter().map(|step| (step.node.clone(), step.time)).collect(),
            _ => least.iter_mut().zip(session.profile()).for_each(|(l, step)| l.1 = l.1.min(step.time)),
        }
    }
    Ok(least)
}
