//! What jobs of the library say, on standard error.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::ProgressBar;
use offshoot::Error;
use offshoot::jobs::Listener;

use super::print;

/// Prints what a job says, and shows how far it is.
#[derive(Default)]
pub(crate) struct Printer {
    /// What the bar counts; without it there is none.
    counts: Option<&'static str>,
    bar: Option<ProgressBar>,
}

/// The files of the models that were loaded.
static LOADED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The text of an error and its file, where this command has loaded the models.
pub(crate) fn described(error: &Error) -> (String, Option<PathBuf>) {
    told(error, &LOADED.lock().map(|loaded| loaded.clone()).unwrap_or_default())
}

/// The text of an error and its file. What a network cannot do is told with the files of the models that were `loaded`.
pub fn told(error: &Error, loaded: &[PathBuf]) -> (String, Option<PathBuf>) {
    match error {
        Error::Option { option, text } => (format!("--{} {text}", option.replace('_', "-")), None),
        error => error.told(loaded),
    }
}

impl Printer {
    /// One that shows a bar of this name.
    pub(crate) fn counting(what: &'static str) -> Printer {
        Printer { counts: Some(what), bar: None }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Listener for Printer {
    fn warning(&mut self, text: &str) {
        self.finish();
        print::warning(text);
    }

    fn note(&mut self, text: &str) {
        self.finish();
        print::aside_lines(text);
    }

    fn progress(&mut self, done: u64, total: u64) {
        if let Some(what) = self.counts {
            self.bar.get_or_insert_with(|| print::bar(total, what)).set_position(done);
        }
    }

    fn loaded(&mut self, path: &Path) {
        if let Ok(mut all) = LOADED.lock() {
            all.push(path.to_owned());
        }
    }
}
