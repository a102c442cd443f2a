//! The command line: a thin shell over the library.

mod commands;

use std::process::ExitCode;

use clap::Parser;

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
    let arguments = Arguments::parse();
    commands::watch_signals();
    match arguments.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Check) => ExitCode::from(1),
        Err(Failure::Error(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        Err(Failure::Interrupted) => ExitCode::from(commands::interrupted_code()),
        // Whoever read our output has heard enough.
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
    }
}
