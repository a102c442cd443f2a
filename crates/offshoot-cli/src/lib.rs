//! The command line: a thin layer over the library. The program `offshoot` is [`run`], and so is the command that the Python package
//! installs.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod commands;

use std::ffi::OsString;
use std::io::Write as _;
use std::sync::OnceLock;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use commands::{Command, Failure, print};

pub use commands::{flag, told};

/// Fine-tune a pretrained image classifier on a folder of pictures and ship it, with the proof that the shipped file
/// matches the trained model.
#[derive(Parser)]
#[command(name = "offshoot", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What the command was called with: its name and its arguments.
static ARGUMENTS: OnceLock<Vec<OsString>> = OnceLock::new();

/// Does what the arguments say, the first of which is the name of the program, and gives the exit code. One call is a whole process: it
/// takes over signals.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let _ = ARGUMENTS.set(arguments);
    offshoot::remedy::word_as(flag);
    commands::within(run_here)
}

/// Does it in this process, which may be one of several.
fn run_here() -> u8 {
    let json = wants_json();
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, json),
    };
    commands::watch_signals();
    match commands::check_world(&arguments.command).and_then(|()| arguments.command.run()) {
        Ok(()) => 0,
        Err(Failure::Check) => 1,
        Err(Failure::Error(error)) => {
            let (message, file) = commands::described(&error);
            let message = print::short(&message);
            commands::end_job(&message);
            print::aside_lines(&format!("error: {message}"));
            if json {
                print::error(&message, file.as_deref(), None);
            }
            2
        }
        Err(Failure::Interrupted) => commands::interrupted_code(),
        // Whoever read our output has heard enough.
        Err(Failure::ClosedPipe) => {
            commands::end_quietly();
            0
        }
    }
}

/// The name and the arguments of the command.
pub(crate) fn arguments() -> &'static [OsString] {
    ARGUMENTS.get().map_or(&[], Vec::as_slice)
}

/// The arguments, where the help of each flag of a setting says its range.
fn parse() -> Result<Arguments, clap::Error> {
    let mut command = with_ranges(Arguments::command());
    let matches = command.try_get_matches_from_mut(arguments())?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Adds the range of its setting to the help of each flag that has one.
fn with_ranges(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|flag| match commands::range_of_flag(flag.get_id().as_str()) {
        Some(range) if flag.get_action().takes_values() => {
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            flag.help(format!("{help} [range: {range}]"))
        }
        _ => flag,
    });
    command.mut_subcommands(with_ranges)
}

/// Whether `--json` is among the arguments, which may be ones that cannot be parsed.
fn wants_json() -> bool {
    arguments().iter().take_while(|&argument| argument != "--").any(|argument| argument == "--json")
}

/// What clap has to say: help, the version, or that it does not understand the arguments.
fn usage(error: &clap::Error, json: bool) -> u8 {
    let whole = error.render().to_string();
    let text = print::short(&whole);
    if print::is_silent() && !error.use_stderr() {
        return 0;
    }
    if error.use_stderr() {
        commands::end_job(text.trim_end().trim_start_matches("error: "));
    }
    if text != whole {
        print::aside_lines(text.trim_end());
    } else {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        if let Some(Failure::Error(error)) =
            printed.err().filter(|_| !error.use_stderr()).map(print::unwritten)
        {
            print::aside(&format!("error: {error}"));
            return 2;
        }
    }
    if json && error.use_stderr() {
        let (message, help) = match text.strip_prefix("error: ") {
            Some(text) => text.split_once("\n\n").unwrap_or((text, "")),
            // Where a command is missing, its help is all that clap says.
            None => ("a command is missing", &*text),
        };
        print::error(message.trim(), None, Some(help.trim()));
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use offshoot::Remedy;
    use offshoot_train::settings::{Form, SETTINGS};

    use super::*;

    /// The long flags of a command and of those below it.
    fn flags(command: &clap::Command) -> BTreeSet<String> {
        let own = command.get_arguments().filter_map(|flag| flag.get_long()).map(|name| format!("--{name}"));
        own.chain(command.get_subcommands().flat_map(flags)).collect()
    }

    #[test]
    fn each_setting_of_training_is_a_flag_of_train() {
        let mut command = Arguments::command();
        let train = command.find_subcommand_mut("train").unwrap();
        let (flags, places) =
            (flags(train), train.get_positionals().map(|p| p.get_id().to_string()).collect::<Vec<_>>());
        for setting in SETTINGS {
            let name = match setting.form {
                Form::Elsewhere(name) => name,
                _ => setting.flag().unwrap(),
            };
            let flag = format!("--{}", name.replace('_', "-"));
            assert!(
                flags.contains(&flag) || places.iter().any(|place| place == name),
                "{}: {flag}",
                setting.name
            );
        }
    }

    #[test]
    fn each_remedy_is_a_flag_that_there_is() {
        let flags = flags(&Arguments::command());
        for &remedy in Remedy::ALL {
            assert!(flags.contains(commands::flag(remedy)), "{remedy:?}: {}", commands::flag(remedy));
        }
    }
}
