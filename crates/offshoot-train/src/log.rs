//! What happened in a run, with the time: `log.csv`. Nothing reads it but the report, and it is no part of a model.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use offshoot_files::{Kind, read_text};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::text::escaped;

use crate::csv::quoted;
use crate::events::Event;

pub use crate::run::LOG_FILE;

const COLUMNS: &str = "time,kind,text";

/// The lines of `log.csv`.
pub(crate) struct Log {
    path: PathBuf,
    lines: Vec<String>,
    /// Whether there is a checkpoint. Before that a run leaves no log behind.
    started: bool,
}

impl Log {
    /// The log of the folder `run`, which goes on where there is one; `command` is what started the run.
    pub(crate) fn open(run: &Path, command: Option<&str>, resumed: bool) -> Log {
        let path = run.join(LOG_FILE);
        let text = if resumed { read_text(&path, Kind::TABLE).unwrap_or_default() } else { String::new() };
        let lines = text.lines().skip(1).map(str::to_owned).collect();
        let mut log = Log { path, lines, started: resumed };
        let version = concat!("offshoot ", env!("CARGO_PKG_VERSION"));
        log.add(if resumed { "resumed" } else { "started" }, version);
        command.into_iter().for_each(|command| log.add("command", command));
        log
    }

    /// Takes in an event.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn listen(&mut self, event: &Event<'_>) -> Result<(), FormatError> {
        match event {
            Event::Warning(text) => self.add("warning", text),
            Event::Notice(text) => self.add("note", text),
            Event::Skipped(picture) => {
                self.add("skipped", &picture.to_string());
                // There may be many: they are written with what comes next.
                return Ok(());
            }
            Event::Checkpoint if !self.started => self.started = true,
            Event::Epoch(_) | Event::Ended => {}
            _ => return Ok(()),
        }
        if self.started { self.write() } else { Ok(()) }
    }

    /// Adds a line, which is written with the next event that is.
    pub(crate) fn add(&mut self, kind: &str, text: &str) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let text = escaped(&text.split_whitespace().collect::<Vec<_>>().join(" "));
        self.lines.push(format!("{time},{kind},{}", quoted(&text)));
    }

    fn write(&self) -> Result<(), FormatError> {
        write_atomically(&self.path, |file| {
            writeln!(file, "{COLUMNS}")?;
            self.lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv::records;

    #[test]
    fn a_log_starts_with_the_first_checkpoint_and_goes_on_when_resumed() {
        let root = tempfile::tempdir().unwrap();
        let lines = || {
            let text = std::fs::read_to_string(root.path().join(LOG_FILE)).unwrap();
            let rows: Vec<Vec<String>> = records(&text).into_iter().skip(1).collect();
            rows.into_iter().map(|row| [row[1].clone(), row[2].clone()].join(" ")).collect::<Vec<_>>()
        };
        let mut log = Log::open(root.path(), Some("offshoot train \"a, b\""), false);
        log.listen(&Event::Warning("the loss\n rises")).unwrap();
        assert!(!root.path().join(LOG_FILE).exists());
        log.listen(&Event::Checkpoint).unwrap();
        let version = concat!("offshoot ", env!("CARGO_PKG_VERSION"));
        let first =
            [&format!("started {version}"), "command offshoot train \"a, b\"", "warning the loss rises"];
        assert_eq!(lines(), first);
        let mut log = Log::open(root.path(), None, true);
        log.listen(&Event::Notice("another processor")).unwrap();
        assert_eq!(lines()[3..], [format!("resumed {version}"), "note another processor".to_owned()]);
    }
}
