//! What can go wrong, in one type.

use std::fmt;
use std::path::{Path, PathBuf};

#[cfg(feature = "train")]
use offshoot_data::FolderError;
use offshoot_data::{DecodeError, PictureError, TransformError};
use offshoot_formats::FormatError;
use offshoot_formats::checkpoint::KeyMismatch;
use offshoot_graph::remedy::{self, Remedy};
use offshoot_graph::{ExecuteError, GraphError};
use offshoot_infer::{EvaluateError, NetworkError};
use offshoot_models::{BuildError, GraftError, TransferError, UnknownArchitecture};
#[cfg(feature = "train")]
use offshoot_quant::QuantError;
#[cfg(feature = "train")]
use offshoot_train::health::CheckError;
#[cfg(feature = "train")]
use offshoot_train::{RecipeError, RunError, StepError, TrainError};

/// An error of any part of offshoot. Its text names the file, the place and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A folder of pictures cannot be used.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Folder(#[from] FolderError),
    /// A picture cannot be used.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The bytes of a picture cannot be used.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Pixels that are no picture of the size that was said.
    #[error("{bytes} bytes are no picture of {width} x {height} RGB pixels")]
    Pixels {
        /// The width that was said.
        width: usize,
        /// The height that was said.
        height: usize,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The preprocessing cannot be carried out.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// There is no architecture of that name.
    #[error(transparent)]
    Architecture(#[from] UnknownArchitecture),
    /// A model cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Weights do not make a model of an architecture.
    #[error("{}: {source}", offshoot_graph::text::shown(path))]
    Transfer {
        /// The file of weights.
        path: PathBuf,
        /// What does not fit.
        source: Box<TransferError>,
    },
    /// The classifier of an ONNX file cannot get a new head.
    #[error("{}: {source}", offshoot_graph::text::shown(path))]
    Graft {
        /// The ONNX file.
        path: PathBuf,
        /// What does not fit.
        source: Box<GraftError>,
    },
    /// Weights have other keys than the architecture.
    #[error("{}: {source}", offshoot_graph::text::shown(path))]
    Keys {
        /// The file of weights.
        path: PathBuf,
        /// The keys that differ.
        source: KeyMismatch,
    },
    /// A recipe cannot be used.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Recipe(#[from] RecipeError),
    /// A run directory cannot be used.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Run(#[from] RunError),
    /// A training run failed.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Train(#[from] Box<TrainError>),
    /// A training step failed.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Step(#[from] StepError),
    /// An evaluation failed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// A model cannot be quantized.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Quant(#[from] QuantError),
    /// A check could not be made.
    #[error(transparent)]
    #[cfg(feature = "train")]
    Check(#[from] CheckError),
    /// The processes of the job cannot go on together.
    #[error(transparent)]
    World(#[from] offshoot_world::WorldError),
    /// A network cannot run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// An executor cannot be used.
    #[error(transparent)]
    Executor(#[from] offshoot_cpu::CpuError),
    /// A graph broke a shape rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A file or folder cannot be used.
    #[error("{}: cannot {action}: {source}", offshoot_graph::text::shown(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Something that does not fit, and what to change.
    #[error("{text}")]
    Advice {
        /// The message.
        text: String,
        /// The settings that it tells to change.
        remedies: Vec<Remedy>,
    },
    /// An option that cannot be used as it is given.
    #[error("`{option}` {text}")]
    Option {
        /// Its name, which is that of a field of a job.
        option: &'static str,
        /// What is wrong, and what to do.
        text: String,
    },
    /// Something that does not fit, and what to do.
    #[error("{0}")]
    Input(String),
}

impl Error {
    /// The file or folder that cannot be used, where the error is about one.
    pub fn file(&self) -> Option<PathBuf> {
        self.typed_file().map(Path::to_owned).or_else(|| leading_path(&self.to_string()))
    }

    /// The text and the file, where these models were `loaded`: what a network cannot do is told with the file that it came from.
    pub fn told(&self, loaded: &[PathBuf]) -> (String, Option<PathBuf>) {
        match loaded {
            [first, rest @ ..] if self.is_of_network() => {
                let names: Vec<String> = loaded.iter().map(offshoot_graph::text::shown).collect();
                let file = rest.is_empty().then(|| first.clone());
                (format!("{}: {self}", names.join(" or ")), file)
            }
            _ => (self.to_string(), self.file()),
        }
    }

    /// The settings that the message tells to change, in its order. [`offshoot_graph::remedy::word_as`] says what the message
    /// calls them.
    pub fn remedies(&self) -> Vec<Remedy> {
        match self {
            Error::Advice { remedies, .. } => remedies.clone(),
            other => remedy::named(|| other.to_string()).1,
        }
    }

    /// What is wrong with an option of this name.
    #[cfg(feature = "train")]
    pub(crate) fn option(option: &'static str, text: fmt::Arguments<'_>) -> Error {
        Error::Option { option, text: text.to_string() }
    }

    /// A message that tells to change settings.
    pub(crate) fn advice(text: fmt::Arguments<'_>) -> Error {
        let (text, remedies) = remedy::named(|| text.to_string());
        Error::Advice { text, remedies }
    }

    /// Whether it is about a network, whose file it does not know.
    pub fn is_of_network(&self) -> bool {
        let network = match self {
            Error::Graph(_) => return true,
            #[cfg(feature = "train")]
            Error::Quant(QuantError::Graph(_) | QuantError::Execute(_)) => return true,
            Error::Network(error) | Error::Evaluate(EvaluateError::Network(error)) => error,
            #[cfg(feature = "train")]
            Error::Check(CheckError::Network(error)) => error,
            _ => return false,
        };
        // Which pictures a network gives no numbers for is more to the point.
        !matches!(network, NetworkError::NotFinite(_))
    }

    fn typed_file(&self) -> Option<&Path> {
        match self {
            Error::Format(error) => Some(&error.path),
            Error::Picture(error) => Some(&error.path),
            Error::Transfer { path, .. }
            | Error::Graft { path, .. }
            | Error::Keys { path, .. }
            | Error::Io { path, .. } => Some(path),
            #[cfg(feature = "train")]
            Error::Folder(error) => of_folder(error),
            #[cfg(feature = "train")]
            Error::Recipe(RecipeError::Read { path, .. } | RecipeError::Syntax { path, .. }) => Some(path),
            #[cfg(feature = "train")]
            Error::Run(error) => of_run(error),
            #[cfg(feature = "train")]
            Error::Train(error) => match &**error {
                TrainError::Run(error) => of_run(error),
                TrainError::File(error) => Some(&error.path),
                TrainError::Picture(error) => Some(&error.path),
                _ => None,
            },
            Error::Evaluate(EvaluateError::Picture(error)) => Some(&error.path),
            #[cfg(feature = "train")]
            Error::Check(CheckError::Picture(error)) => Some(&error.path),
            _ => None,
        }
    }
}

#[cfg(feature = "train")]
fn of_folder(error: &FolderError) -> Option<&Path> {
    match error {
        FolderError::NotFound { path } | FolderError::Read { path, .. } | FolderError::Table { path, .. } => {
            Some(path)
        }
        FolderError::Picture(error) => Some(&error.path),
        _ => None,
    }
}

#[cfg(feature = "train")]
fn of_run(error: &RunError) -> Option<&Path> {
    match error {
        RunError::File(error) => Some(&error.path),
        RunError::Create { run, .. } => Some(run),
        _ => None,
    }
}

/// The longest path at the start of a message, which is `PATH: ...` or `PATH:LINE: ...`, that is there. What is not there, or
/// may not be, has a type that holds its path.
fn leading_path(message: &str) -> Option<PathBuf> {
    let mut paths = message.match_indices(':').map(|(end, _)| Path::new(&message[..end]));
    paths.rfind(|path| path.exists()).map(Path::to_owned)
}

#[cfg(feature = "train")]
impl From<TrainError> for Error {
    fn from(error: TrainError) -> Error {
        Error::Train(Box::new(error))
    }
}

impl From<ExecuteError> for Error {
    fn from(error: ExecuteError) -> Error {
        Error::Network(error.into())
    }
}

/// A result with an [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
