//! Standard output: the results. Everything else goes to standard error.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use offshoot::{Error, PictureError, jobs};
use offshoot_graph::text::{escaped, escaped_lines, shortened};
use serde::Serialize;
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

pub(crate) use super::world::is_silent;
use super::{Failure, Outcome};

/// Prints one line of text for people: what would command a terminal or begin another line is escaped.
pub(crate) fn line(text: &str) -> Outcome {
    raw(&escaped(text))
}

/// [`line`] of several lines, none of which is of another's making.
pub(crate) fn lines(text: &str) -> Outcome {
    raw(&escaped_lines(text))
}

/// Prints rows of as many cells each under one another: the first `left` columns begin at the left, numbers end at the right.
pub(crate) fn table(rows: &[Vec<String>], left: usize) -> Outcome {
    let width = |column: usize| widest(rows.iter().map(|row| row[column].as_str()));
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    for row in rows {
        let cells =
            row.iter().zip(&widths).enumerate().map(|(column, (cell, &columns))| match column < left {
                true => padded(cell, columns),
                false => format!("{cell:>columns$}"),
            });
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn raw(text: &str) -> Outcome {
    if is_silent() {
        return Ok(());
    }
    written(text)
}

fn written(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(unwritten)
}

/// What it means that standard output cannot be written.
pub(crate) fn unwritten(source: std::io::Error) -> Failure {
    match source.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Error(Error::Io { path: "standard output".into(), action: "write", source }),
    }
}

/// How a command ends that has printed what it found: what is not `good` is so whether or not somebody has read it.
pub(crate) fn verdict(printed: Outcome, good: bool) -> Outcome {
    match printed {
        Ok(()) | Err(Failure::ClosedPipe) if !good => Err(Failure::Check),
        printed => printed,
    }
}

/// Prints one JSON object on one line.
pub(crate) fn json(value: &impl Serialize) -> Outcome {
    match serde_json::to_string(value) {
        Ok(text) => raw(&plain_json(&text)),
        Err(error) => Err(Error::Input(format!("the result cannot be written as JSON: {error}")).into()),
    }
}

/// The most digits of a number in a message, and of marks under it.
const DIGITS: usize = 40;

/// The most characters in a line of a message: a path and what is wrong with it, and not all that a file holds.
const LINE: usize = 2000;

/// A message without the middle of what is too long to read: of lines, and of numbers.
pub(crate) fn short(text: &str) -> String {
    shortened(&short_numbers(text), LINE).into_owned()
}

/// `text` with its numbers of hundreds of digits cut, and the marks that a parser puts under them.
fn short_numbers(text: &str) -> String {
    let kind = |c: char| match c {
        '0'..='9' => 1,
        '^' => 2,
        _ => 0,
    };
    let mut short = String::with_capacity(text.len());
    for run in text.chars().collect::<Vec<char>>().chunk_by(|&a, &b| kind(a) == kind(b)) {
        let shown = if kind(run[0]) > 0 && run.len() > DIGITS { &run[..DIGITS / 2] } else { run };
        short.extend(shown);
        if shown.len() < run.len() && kind(run[0]) == 1 {
            short += &format!("... ({} digits)", run.len());
        }
    }
    short
}

/// JSON without the characters that would change what a terminal shows, which JSON has in strings alone.
fn plain_json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut all, c| {
        match escaped(c.encode_utf8(&mut [0; 4])) {
            text if text.len() == c.len_utf8() => all.push(c),
            // JSON has escapes of UTF-16 only.
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| all += &format!("\\u{unit:04x}")),
        }
        all
    })
}

/// Prints what went wrong as one JSON object on one line: `message`, and `file` and `help` where there are any.
pub(crate) fn error(message: &str, file: Option<&Path>, help: Option<&str>) {
    let mut error = json!({"message": message});
    if let Some(file) = file {
        error["file"] = offshoot_graph::text::path_text(file).into();
    }
    if let Some(help) = help.filter(|help| !help.is_empty()) {
        error["help"] = help.into();
    }
    // Standard error and the exit code say it too, should nobody read this.
    let _ = written(&plain_json(&json!({"error": error}).to_string()));
}

/// Tells of an error that ends a job of several processes, whichever of them this is.
#[cfg(feature = "mpi")]
pub(crate) fn failure(message: &str) {
    told(&escaped_lines(&format!("error: {message}")));
    if crate::wants_json() {
        error(message, None, None);
    }
}

/// Says what is being done, or went wrong, on standard error: all that goes there comes through here. Nobody may listen any more, or the
/// disk that takes it is full; that is no reason to stop.
pub(crate) fn aside(text: &str) {
    if !is_silent() {
        told(&escaped(text));
    }
}

fn told(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// [`aside`] of several lines.
pub(crate) fn aside_lines(text: &str) {
    if !is_silent() {
        told(&escaped_lines(text));
    }
}

/// How many columns of a terminal a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The width of the widest text.
pub(crate) fn widest<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(width).max().unwrap_or(0)
}

/// A text with spaces after it, up to a number of columns.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Warns on standard error.
pub(crate) fn warning(text: &str) {
    aside(&format!("warning: {}", short(text)));
}

/// What is worth knowing about how a folder of pictures was read.
pub(crate) fn notes(notes: &[String]) {
    notes.iter().for_each(|note| warning(note));
}

/// Pictures that were left out.
pub(crate) fn skipped(pictures: &[PictureError]) {
    jobs::skipped(pictures).iter().for_each(|line| warning(line));
}

/// A progress bar on standard error, which is silent where that is no terminal.
pub(crate) fn bar(total: u64, what: &str) -> ProgressBar {
    if is_silent() {
        return ProgressBar::hidden();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_cut_and_all_else_stays() {
        let digits = "7".repeat(10_000);
        let marks = "^".repeat(10_000);
        assert_eq!(
            short_numbers(&format!("a -{digits}.5\n{marks}")),
            "a -77777777777777777777... (10000 digits).5\n^^^^^^^^^^^^^^^^^^^^"
        );
        for text in [
            "",
            "epochs 18446744073709551615",
            "Ä1.5e300",
            "/x/0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(short_numbers(text), text);
        }
    }

    #[test]
    fn json_holds_no_character_that_commands_a_terminal() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\u{2028}\"\\名\u{feff}\u{e0041}";
        let json = serde_json::to_string(text).unwrap();
        let plain = plain_json(&json);
        assert_eq!(plain, r#""a\u009b2J\u007f\u202e\u2028\"\\名\ufeff\udb40\udc41""#);
        assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), text);
    }
}
