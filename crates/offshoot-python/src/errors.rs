//! Errors of the library as exceptions of `offshoot.errors`.

use std::path::PathBuf;

use offshoot::Error;
use pyo3::prelude::*;

/// The exception for an error that happened after these models were loaded: its message is that of the command.
pub(crate) fn raised(py: Python<'_>, error: &Error, loaded: &[PathBuf]) -> PyErr {
    let (message, file) = offshoot_cli::told(error, loaded);
    let remedies: Vec<&str> = match error {
        Error::Option { option, .. } => vec![option],
        error => error.remedies().iter().map(|remedy| remedy.name()).collect(),
    };
    let make = || {
        let class = py.import("offshoot.errors")?.getattr(class_of(error))?;
        class.call1((message, file, remedies))
    };
    make().map_or_else(|failed| failed, PyErr::from_value)
}

/// The name of the exception's class.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Format(_) | Error::Io { .. } => "FileError",
        Error::Folder(_) => "DataError",
        Error::Picture(_) | Error::Decode(_) | Error::Pixels { .. } => "PictureError",
        Error::Architecture(_)
        | Error::Build(_)
        | Error::Transfer { .. }
        | Error::Graft { .. }
        | Error::Keys { .. }
        | Error::Graph(_) => "ModelError",
        Error::Recipe(_)
        | Error::Transform(_)
        | Error::Advice { .. }
        | Error::Option { .. }
        | Error::Input(_) => "InputError",
        Error::Run(_) | Error::Train(_) | Error::Step(_) => "TrainingError",
        Error::Quant(_) => "QuantizationError",
        Error::Evaluate(_) | Error::Check(_) | Error::Network(_) | Error::Executor(_) => "NetworkError",
        _ => "OffshootError",
    }
}
