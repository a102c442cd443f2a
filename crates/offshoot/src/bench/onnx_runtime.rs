//! ONNX Runtime, whose library is looked for and loaded when it is wanted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use offshoot_graph::Tensor;
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use super::python::{Environments, PLACES};
use super::runner::{Answer, Opened, Runner};

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The library, once it is loaded: a process can hold one.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

/// ONNX Runtime.
#[derive(Clone)]
pub(super) struct OnnxRuntime {
    environment: Environment,
    version: String,
}

impl OnnxRuntime {
    /// Loads the library that `ORT_DYLIB_PATH` names, else that of a Python environment.
    ///
    /// # Errors
    /// In words, where there is none, or it cannot be loaded, or it is too old.
    pub(super) fn load(environments: &Environments) -> Result<OnnxRuntime, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let found = || environments.onnx_runtime().map(Path::to_owned);
        let path = named.clone().or_else(found).ok_or_else(|| {
            format!("no ONNX Runtime was found: {VARIABLE} names none, and there is none in {PLACES}")
        })?;
        let place = if named.is_some() {
            format!("{VARIABLE}={}", path.display())
        } else {
            path.display().to_string()
        };
        // The binding would look for a relative path beside this program first.
        let path = path.canonicalize().map_err(|e| format!("{place}: {e}"))?;
        let builder = ort::init_from(&path).map_err(|e| format!("{place}: {e}"))?;
        // What it logs is also in its errors.
        let quiet = Arc::new(|_, _: &str, _: &str, _: &str, _: &str| {});
        let environment = builder.with_name("offshoot").with_telemetry(false).with_logger(quiet).build();
        let environment = environment.map_err(|e| format!("{place}: {e}"))?;
        let runtime = OnnxRuntime { environment, version: version(&path) };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Its version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Opens a file.
    ///
    /// # Errors
    /// In words, when ONNX Runtime does not take it.
    pub(super) fn open(&self, path: &Path, threads: usize) -> Opened {
        let session = Session::builder(&self.environment)
            .and_then(|builder| Ok(builder.with_intra_threads(threads)?.with_inter_threads(1)?))
            .and_then(|mut builder| builder.commit_from_file(path));
        Ok(Box::new(OpenFile(session.map_err(|e| e.to_string())?)))
    }
}

/// The version in the name of the library, as in `libonnxruntime.so.1.32.0`; else what was built.
fn version(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = name.find(|c: char| c.is_ascii_digit());
    let digits = start.map(|start| name[start..].trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned());
    digits.unwrap_or_else(|| ort::info().to_owned())
}

/// A file in ONNX Runtime.
struct OpenFile(Session);

impl Runner for OpenFile {
    fn run(&mut self, images: &Tensor, steps: usize) -> Result<Answer, String> {
        let pixels = images.as_f32().ok_or("pictures are f32")?;
        let mut answer = Answer { milliseconds: Vec::new(), logits: Vec::new() };
        for step in 1..=steps {
            let input = TensorRef::from_array_view((images.shape(), pixels)).map_err(|e| e.to_string())?;
            let start = Instant::now();
            let outputs = self.0.run(ort::inputs![input]).map_err(|e| e.to_string())?;
            answer.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
            if step == steps {
                let output = outputs.values().next().ok_or("the file has no output")?;
                answer.logits = output.try_extract_tensor::<f32>().map_err(|e| e.to_string())?.1.to_vec();
            }
        }
        Ok(answer)
    }
}
