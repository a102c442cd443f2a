//! Standard output: the results. Everything else goes to standard error.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use offshoot::Error;
use serde::Serialize;

use super::{Failure, Outcome};

/// Prints one line of text.
pub(crate) fn line(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|source| match source.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Error(Error::Io { path: "standard output".into(), action: "write", source }),
    })
}

/// Prints one JSON object on one line.
pub(crate) fn json(value: &impl Serialize) -> Outcome {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => Err(Error::Input(format!("the result has no JSON form: {error}")).into()),
    }
}

/// Says something on standard error, where anybody may have gone away.
pub(crate) fn aside(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says something on standard error that is no reason to worry.
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}

/// Says something on standard error.
pub(crate) fn warning(text: &str) {
    eprintln!("warning: {text}");
}

/// Pictures that were left out: each by name, and how many.
pub(crate) fn skipped<E: std::fmt::Display>(pictures: &[E]) {
    pictures.iter().for_each(|picture| warning(&format!("skipped {picture}")));
    skipped_count(pictures.len());
}

/// How many pictures were left out, where any was.
pub(crate) fn skipped_count(n: usize) {
    match n {
        0 => {}
        1 => warning("1 picture skipped"),
        n => warning(&format!("{n} pictures skipped")),
    }
}

/// A progress bar on standard error, which is silent where that is no terminal.
pub(crate) fn bar(total: u64, what: &str) -> ProgressBar {
    let style = "{prefix:>10} {bar:30} {pos}/{len} {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is well formed");
    ProgressBar::new(total).with_style(style.progress_chars("━╸─")).with_prefix(what.to_string())
}

/// 1.5 s, 2 min 5 s, 1 h 2 min.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// 12.3 MiB.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..0x10_0000 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / (1024.0 * 1024.0)),
    }
}
