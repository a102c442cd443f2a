//! One file a command. A command parses its arguments, calls the library, and prints.

mod arguments;
mod bench;
mod bench_formats;
mod check;
mod data;
mod eval;
mod export;
mod inspect;
mod lr_find;
mod models;
mod predict;
mod print;
mod pull;
mod quantize;
mod recipe;
mod report;
mod signals;
mod train;
mod verify;

use clap::Subcommand;

pub(crate) use signals::{exit_code as interrupted_code, watch as watch_signals};

/// How a command ends when it does not end well.
pub(crate) enum Failure {
    /// What was checked does not hold. It has been said.
    Check,
    /// Bad usage or bad input, or something broke.
    Error(offshoot::Error),
    /// A signal has stopped it. That has been said.
    Interrupted,
    /// Nobody reads standard output any more.
    ClosedPipe,
}

impl<E: Into<offshoot::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.into())
    }
}

pub(crate) type Outcome = Result<(), Failure>;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model on a folder of pictures.
    Train(Box<train::Arguments>),
    /// List the models that can be fine-tuned, with their sizes and where their weights come from.
    Models(models::Arguments),
    /// Bring the published weights of a model over HTTPS, checked by their hash.
    Pull(pull::Arguments),
    /// Print the recipe that `train` follows for a model, as a file to change.
    Recipe(recipe::Arguments),
    /// Find a learning rate: try growing ones for some steps and look at the loss. Changes nothing.
    LrFind(Box<lr_find::Arguments>),
    /// Measure a model on a folder of pictures.
    Eval(eval::Arguments),
    /// Classify pictures.
    Predict(predict::Arguments),
    /// Write a model in a deployment format, proven to answer like it.
    Export(export::Arguments),
    /// Turn a trained model into one that computes in 8-bit integers, as an ONNX file.
    Quantize(quantize::Arguments),
    /// Check that two models answer alike; exit code 1 if they do not.
    Verify(verify::Arguments),
    /// Look for what is wrong with a model and a folder of pictures, without training; exit code 1 if something is.
    Check(check::Arguments),
    /// Look at a folder of pictures: what the network sees of it, and what is wrong with it.
    Data(data::Arguments),
    /// Write the report of a run anew.
    Report(report::Arguments),
    /// Time this machine.
    Bench(bench::Arguments),
    /// Say what a file is.
    Inspect(inspect::Arguments),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Command::Train(arguments) => arguments.run(),
            Command::Models(arguments) => arguments.run(),
            Command::Pull(arguments) => arguments.run(),
            Command::Recipe(arguments) => arguments.run(),
            Command::LrFind(arguments) => arguments.run(),
            Command::Eval(arguments) => arguments.run(),
            Command::Predict(arguments) => arguments.run(),
            Command::Export(arguments) => arguments.run(),
            Command::Quantize(arguments) => arguments.run(),
            Command::Verify(arguments) => arguments.run(),
            Command::Check(arguments) => arguments.run(),
            Command::Data(arguments) => arguments.run(),
            Command::Report(arguments) => arguments.run(),
            Command::Bench(arguments) => arguments.run(),
            Command::Inspect(arguments) => arguments.run(),
        }
    }
}
