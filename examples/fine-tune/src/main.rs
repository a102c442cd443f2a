//! Trains a new head for a MobileNetV2 on a folder of pictures and exports it: `fine-tune DATA RUN FILE.onnx [WEIGHTS]`.

#![allow(clippy::print_stdout, reason = "it is what this program is for")]

use offshoot::{FineTune, Freeze};

const USAGE: &str = "give DATA RUN FILE.onnx [WEIGHTS]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, run, file, weights @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let tuned = FineTune::new("mobilenet_v2", data)
        .set(|settings| settings.weights = weights.first().map(Into::into))
        .freeze(Freeze::Backbone)
        .epochs(2)
        .run(run)?;
    let exported = tuned.export_onnx(file)?;
    println!("{} bytes, top-1 agrees on {}", exported.bytes, exported.top1_agreement);
    Ok(())
}
