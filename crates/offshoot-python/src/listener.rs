//! What jobs say, told to a Python function.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use offshoot::jobs::Listener;
use pyo3::prelude::*;
use pythonize::pythonize;
use serde::Serialize;

use crate::errors::raised;

/// Tells a Python function `tell(kind, value)` what a job says. An exception of it, and Ctrl-C, end the job where it can be ended,
/// and are raised when it has come to its end.
pub(crate) struct Heard {
    tell: Py<PyAny>,
    loaded: Vec<PathBuf>,
    failed: Option<PyErr>,
    /// What stops the job.
    stop: Arc<AtomicBool>,
}

impl Heard {
    pub(crate) fn new(tell: Py<PyAny>) -> Heard {
        Heard::stopping(tell, Arc::default())
    }

    /// One that sets `stop` where the function fails or a signal arrives.
    pub(crate) fn stopping(tell: Py<PyAny>, stop: Arc<AtomicBool>) -> Heard {
        Heard { tell, loaded: Vec::new(), failed: None, stop }
    }

    /// Whether the job has no reason to go on.
    fn failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Calls the function, and looks whether a signal has arrived.
    pub(crate) fn tell(&mut self, kind: &str, value: &impl Serialize) {
        if self.failed() {
            return;
        }
        let told = Python::attach(|py| {
            py.check_signals()?;
            self.tell.call1(py, (kind, pythonize(py, value)?)).map(drop)
        });
        self.note_failure(told);
    }

    /// Looks whether a signal has arrived.
    pub(crate) fn look(&mut self) {
        if !self.failed() {
            self.note_failure(Python::attach(|py| py.check_signals()));
        }
    }

    fn note_failure(&mut self, told: PyResult<()>) {
        self.failed = told.err();
        if self.failed() {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    /// The result of the job, or the exception to raise.
    pub(crate) fn end<T>(self, py: Python<'_>, result: offshoot::Result<T>) -> PyResult<T> {
        match self.failed {
            Some(failed) => Err(failed),
            None => result.map_err(|error| raised(py, &error, &self.loaded)),
        }
    }
}

impl Listener for Heard {
    fn warning(&mut self, text: &str) {
        self.tell("warning", &text);
    }

    fn note(&mut self, text: &str) {
        self.tell("note", &text);
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.tell("progress", &(done, total));
    }

    fn loaded(&mut self, path: &Path) {
        self.loaded.push(path.to_owned());
    }
}
