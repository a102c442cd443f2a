//! `offshoot data`

mod check;
mod show;

use clap::{Args, Subcommand};

use super::Outcome;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Draw a sheet of what the network sees in training.
    Show(Box<show::Arguments>),
    /// Name duplicates, unreadable files, imbalance, and pictures whose label looks wrong.
    Check(Box<check::Arguments>),
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        match self.what {
            What::Show(arguments) => arguments.run(),
            What::Check(arguments) => arguments.run(),
        }
    }
}
