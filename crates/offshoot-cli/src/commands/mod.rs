//! One file a command. A command parses its arguments, calls the library, and prints.

mod arguments;
mod bench;
mod bench_formats;
mod check;
mod data;
mod each;
mod eval;
mod explain;
mod export;
mod flags;
mod inspect;
mod lr_find;
mod models;
mod predict;
pub(crate) mod print;
mod printer;
mod pull;
mod quantize;
mod recipe;
mod report;
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod signals;
mod train;
mod verify;
mod world;

use clap::Subcommand;
use offshoot_train::ranges;

pub use flags::flag;
pub(crate) use printer::described;
pub use printer::told;
pub(crate) use signals::{exit_code as interrupted_code, watch as watch_signals};
pub(crate) use world::{check as check_world, end_job, end_quietly, within};

/// How a command fails.
pub(crate) enum Failure {
    /// A check failed. The message has been printed.
    Check,
    /// Bad usage or bad input, or something broke.
    Error(offshoot::Error),
    /// A signal stopped it. The message has been printed.
    Interrupted,
    /// Nobody reads standard output any more.
    ClosedPipe,
}

impl<E: Into<offshoot::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.into())
    }
}

/// The range of the setting that the flag called `flag` sets, in words.
pub(crate) fn range_of_flag(flag: &str) -> Option<String> {
    let tables = ["", "augmentation.", "preprocessing."];
    tables.iter().find_map(|table| ranges::in_words(&format!("{table}{flag}")))
}

pub(crate) type Outcome = Result<(), Failure>;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a pretrained model on a folder of pictures.
    Train(Box<train::Arguments>),
    /// List the architectures, with input size, parameters and the source of their weights.
    Models(models::Arguments),
    /// Download the published weights of a model over HTTPS and check their SHA-256.
    Pull(pull::Arguments),
    /// Print the recipe (all settings) that `train` uses for a model, as a file to edit.
    Recipe(recipe::Arguments),
    /// Run a learning rate range test and suggest a learning rate. Writes no model.
    LrFind(Box<lr_find::Arguments>),
    /// Evaluate a model on a folder of pictures: accuracy, loss and accuracy per class.
    Eval(eval::Arguments),
    /// Classify pictures.
    Predict(predict::Arguments),
    /// Show which places of pictures predictions rest on.
    Explain(explain::Arguments),
    /// Export a model to a deployment format and verify the file against it.
    Export(export::Arguments),
    /// Quantize a trained model to int8.
    Quantize(quantize::Arguments),
    /// Serve models over HTTP: a page, pictures to predictions, the Open Inference Protocol v2.
    #[cfg(feature = "serve")]
    Serve(Box<serve::Arguments>),
    /// Check that two models give the same outputs; exit code 1 if they do not.
    Verify(verify::Arguments),
    /// Look for problems in a model and a folder of pictures, without training; exit code 1 if there are any.
    Check(check::Arguments),
    /// Check a folder of pictures for problems, or show its augmented pictures.
    Data(data::Arguments),
    /// Write the HTML report of a run again.
    Report(report::Arguments),
    /// Measure the speed of inference, training and export formats.
    Bench(bench::Arguments),
    /// Describe a model file: inputs, outputs, classes, preprocessing, operators.
    Inspect(inspect::Arguments),
}

impl Command {
    /// Whether several processes can share its work.
    fn shares_work(&self) -> bool {
        matches!(self, Command::Train(_) | Command::Eval(_) | Command::Predict(_))
    }

    pub(crate) fn run(self) -> Outcome {
        match self {
            Command::Train(arguments) => arguments.run(),
            Command::Models(arguments) => arguments.run(),
            Command::Pull(arguments) => arguments.run(),
            Command::Recipe(arguments) => arguments.run(),
            Command::LrFind(arguments) => arguments.run(),
            Command::Eval(arguments) => arguments.run(),
            Command::Predict(arguments) => arguments.run(),
            Command::Explain(arguments) => arguments.run(),
            Command::Export(arguments) => arguments.run(),
            Command::Quantize(arguments) => arguments.run(),
            #[cfg(feature = "serve")]
            Command::Serve(arguments) => arguments.run(),
            Command::Verify(arguments) => arguments.run(),
            Command::Check(arguments) => arguments.run(),
            Command::Data(arguments) => arguments.run(),
            Command::Report(arguments) => arguments.run(),
            Command::Bench(arguments) => arguments.run(),
            Command::Inspect(arguments) => arguments.run(),
        }
    }
}
