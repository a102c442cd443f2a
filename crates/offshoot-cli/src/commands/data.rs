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
    /// Write a contact sheet of augmented training pictures.
    Show(Box<show::Arguments>),
    /// Find duplicates, unreadable files, class imbalance, and pictures whose label looks wrong.
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
