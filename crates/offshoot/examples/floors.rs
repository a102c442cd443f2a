//! This machine's ceilings, and the floor that each network's operations and bytes put under the time of a step. Prints
//! Markdown.
//!
//!     cargo run --release -p offshoot --example floors -- [BATCH]
//!
//! The floor of a step is the sum over its operators of the longer of two times: its operations at the multiply-add peak,
//! and its operands, each read or written once, at the rate of a copy. An operator whose operands stay in a cache can be
//! below the second, and Winograd's algorithm below the first.

#![allow(clippy::print_stdout)] // what it prints is what it is for

mod networks;

use std::error::Error;

use offshoot_cpu::Isa;
use offshoot_cpu::kernels::ceiling::{copy_bandwidth, peak_flops};
use offshoot_cpu::optimize::optimize;
use offshoot_graph::{Bindings, Cost, costs};

use networks::{inference, training};

const MODELS: [&str; 4] = ["resnet50", "resnet18", "mobilenet_v2", "efficientnet_lite0"];

fn main() -> Result<(), Box<dyn Error>> {
    let batch = std::env::args().nth(1).map_or(Ok(16), |batch| batch.parse())?;
    println!("| threads | f32 multiply-add peak, GFLOP/s | copy, GB/s |\n| --- | --- | --- |");
    let mut ceilings = (0.0, 0.0);
    for threads in [1, std::thread::available_parallelism()?.get()] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        ceilings = pool.install(|| (peak_flops(Isa::best()), copy_bandwidth()));
        println!("| {threads} | {:.0} | {:.1} |", ceilings.0 / 1e9, ceilings.1 / 1e9);
    }
    println!("\n| step | model | batch | GFLOP | MB | floor, ms | at most, img/s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for model in MODELS {
        for (step, graph) in [("infer", inference(model)?.0), ("train", training(model)?.0)] {
            let bindings = Bindings::from([("batch_size".to_string(), batch)]);
            let costs = costs(&optimize(&graph)?, &bindings)?;
            let total = costs.iter().fold(Cost::default(), |a, b| Cost {
                operations: a.operations + b.operations,
                bytes: a.bytes + b.bytes,
            });
            let seconds: f64 = costs.iter().map(|cost| cost.seconds(ceilings.0, ceilings.1)).sum();
            println!(
                "| {step} | {model} | {batch} | {:.1} | {:.0} | {:.0} | {:.1} |",
                total.operations as f64 / 1e9,
                total.bytes as f64 / 1e6,
                seconds * 1e3,
                batch as f64 / seconds
            );
        }
    }
    Ok(())
}
