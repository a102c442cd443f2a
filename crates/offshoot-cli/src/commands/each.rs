//! Commands that answer picture by picture: each answer is printed at once, pictures that cannot be read are told at the end.

use std::path::PathBuf;

use offshoot::{Error, FolderOptions, Model, PictureError, Transform};

use super::{Failure, Outcome, print};

/// An error where no picture is given.
pub(super) fn check_given(paths: &[PathBuf]) -> Result<(), Error> {
    match paths.is_empty() {
        true => Err(Error::Input("give pictures, or folders of them, after the model".into())),
        false => Ok(()),
    }
}

/// How pictures for `model` are looked for.
pub(super) fn folder_options(model: &Model, strict: bool) -> Result<FolderOptions, Error> {
    let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
    Ok(FolderOptions { strict, decode, ..FolderOptions::default() })
}

/// The answers that were printed.
#[derive(Default)]
pub(super) struct Printed {
    closed: bool,
    count: usize,
}

impl Printed {
    /// Counts an answer that was printed, or ends the work where that failed.
    pub(super) fn add(&mut self, printed: Outcome) -> Result<(), Error> {
        self.count += 1;
        match printed {
            Ok(()) => Ok(()),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::ClosedPipe | Failure::Check | Failure::Interrupted) => {
                self.closed = true;
                Err(Error::Input("nobody reads the output".into()))
            }
        }
    }

    /// What the work has come to: the pictures that could not be read.
    pub(super) fn ended(
        &self,
        failed: Result<Vec<PictureError>, Error>,
    ) -> Result<Vec<PictureError>, Failure> {
        match failed {
            Err(_) if self.closed => Err(Failure::ClosedPipe),
            other => Ok(other?),
        }
    }

    /// Tells the pictures that were skipped. `done` is what happened to the others: classified, explained.
    pub(super) fn finish(self, skipped: Vec<PictureError>, strict: bool, done: &str) -> Outcome {
        print::skipped(&skipped);
        match skipped.into_iter().next() {
            Some(first) if strict => Err(first.into()),
            Some(first) if self.count == 0 => {
                Err(Error::Input(format!("no picture could be {done}; the first: {first}")).into())
            }
            _ => Ok(()),
        }
    }
}
