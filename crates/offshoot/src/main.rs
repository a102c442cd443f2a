//! The command line: a thin shell over the library.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use offshoot_graph::text::escaped_lines;

use commands::{Command, Failure};

/// Fine-tune a pretrained image classifier on a folder of pictures and ship it, with the proof that the shipped file
/// answers like the trained model.
#[derive(Parser)]
#[command(name = "offshoot", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Clap itself exits with 2 on bad usage.
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Check) => ExitCode::from(1),
        Err(Failure::Error(error)) => {
            eprintln!("error: {}", escaped_lines(&error.to_string()));
            ExitCode::from(2)
        }
        // Whoever read our output has heard enough.
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
    }
}
