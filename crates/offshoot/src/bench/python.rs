//! Python environments, for the runtimes that they hold.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Says where a Python has ONNX Runtime's library and whether it has PyTorch, without importing either.
const LOOK: &str = include_str!("look.py");

/// Where environments are looked for, for messages.
pub(super) const PLACES: &str =
    "$OFFSHOOT_PEERS, $VIRTUAL_ENV, the folder offshoot/peers among the user's caches, and python3 on PATH";

/// The environments of this machine, the likeliest first.
pub(super) struct Environments(Vec<Environment>);

struct Environment {
    python: PathBuf,
    holds: Holds,
}

/// What [`LOOK`] says.
#[derive(Deserialize)]
struct Holds {
    onnxruntime: Option<PathBuf>,
    torch: bool,
}

impl Environments {
    /// Asks each Python in [`PLACES`].
    pub(super) fn find() -> Environments {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let peers = dirs::cache_dir().map(|folder| folder.join("offshoot").join("peers"));
        let folders = [variable("OFFSHOOT_PEERS"), variable("VIRTUAL_ENV"), peers];
        let of_folder = folders.into_iter().flatten().map(|folder| interpreter(&folder));
        let on_path = ["python3", "python"]
            .map(|name| PathBuf::from(format!("{name}{}", std::env::consts::EXE_SUFFIX)));
        let mut found = Vec::new();
        for python in of_folder.chain(on_path) {
            if let Some(holds) = look(&python) {
                found.push(Environment { python, holds });
            }
        }
        Environments(found)
    }

    /// The library of ONNX Runtime.
    pub(super) fn onnx_runtime(&self) -> Option<&Path> {
        self.0.iter().find_map(|environment| environment.holds.onnxruntime.as_deref())
    }

    /// A Python that has PyTorch.
    pub(super) fn with_torch(&self) -> Option<&Path> {
        self.0.iter().find(|environment| environment.holds.torch).map(|environment| &*environment.python)
    }
}

/// The interpreter of a virtual environment.
fn interpreter(folder: &Path) -> PathBuf {
    match cfg!(windows) {
        true => folder.join("Scripts").join("python.exe"),
        false => folder.join("bin").join("python"),
    }
}

/// What a Python holds; `None` where it cannot be started.
fn look(python: &Path) -> Option<Holds> {
    let mut command = Command::new(python);
    let output = command.args(["-c", LOOK]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}
