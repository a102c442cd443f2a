//! PyTorch, in a process of its own that is told what to run.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use offshoot_graph::Tensor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::python::{Environments, PLACES};
use super::runner::{Answer, Runner};

/// The other side. It needs no more than Python and PyTorch.
const SCRIPT: &str = include_str!("pytorch.py");

/// More bytes than any line of it has.
const MAX_LINE: u64 = 1 << 20;

/// A TorchScript file in PyTorch, frozen and optimized for inference.
pub(super) struct PyTorch {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    version: String,
}

/// A line of the script.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line<T> {
    Error { error: String },
    Said(T),
}

/// Its first line.
#[derive(Deserialize)]
struct Ready {
    torch: String,
}

/// The line before logits.
#[derive(Deserialize)]
struct Ran {
    milliseconds: Vec<f64>,
    shape: Vec<usize>,
}

impl PyTorch {
    /// Starts a Python that has PyTorch, and waits until it has loaded the file.
    ///
    /// # Errors
    /// In words, where there is none, or it does not take the file.
    pub(super) fn start(environments: &Environments, file: &Path, threads: usize) -> Result<PyTorch, String> {
        let none = || format!("no Python with PyTorch was found in {PLACES}");
        let python = environments.with_torch().ok_or_else(none)?;
        let failed = |e: std::io::Error| format!("{}: cannot run: {e}", python.display());
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).arg(file).arg(threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(failed)?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the pipes to Python are missing".into());
        };
        let mut pytorch = PyTorch { process, to, from: BufReader::new(from), version: String::new() };
        pytorch.version = pytorch.line::<Ready>()?.torch;
        Ok(pytorch)
    }

    /// Its version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// What the script says next.
    fn line<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        let read = (&mut self.from).take(MAX_LINE).read_line(&mut line);
        match serde_json::from_str(&line) {
            Ok(Line::Said(said)) => Ok(said),
            Ok(Line::Error { error }) => Err(error),
            Err(_) if matches!(read, Ok(0) | Err(_)) => Err(self.end()),
            Err(_) => Err(format!("unexpected output of the Python process: {}", line.trim())),
        }
    }

    /// How the process ended, where nothing more comes from it.
    fn end(&mut self) -> String {
        let _ = self.process.kill();
        match self.process.wait() {
            Ok(status) => format!("the Python process ended early ({status})"),
            Err(error) => format!("the Python process is lost: {error}"),
        }
    }
}

impl Runner for PyTorch {
    fn run(&mut self, images: &Tensor, steps: usize) -> Result<Answer, String> {
        let pixels = images.as_f32().ok_or("pictures are f32")?;
        let mut message = format!("{}\n", json!({"steps": steps, "shape": images.shape()})).into_bytes();
        message.extend(pixels.iter().flat_map(|x| x.to_ne_bytes()));
        // Where it has ended, its last line says why.
        let _ = self.to.write_all(&message).and_then(|()| self.to.flush());
        let Ran { milliseconds, shape } = self.line()?;
        let [pictures, classes] = shape[..] else {
            return Err(format!("it returned a tensor of {shape:?}"));
        };
        let fits = pictures == images.shape()[0] && classes <= 1 << 20 && milliseconds.len() == steps;
        if !fits {
            return Err(format!("it returned {} times and a tensor of {shape:?}", milliseconds.len()));
        }
        let mut bytes = vec![0; pictures * classes * size_of::<f32>()];
        if self.from.read_exact(&mut bytes).is_err() {
            return Err(self.end());
        }
        let logits = bytes.as_chunks().0.iter().map(|&x| f32::from_ne_bytes(x)).collect();
        Ok(Answer { milliseconds, logits })
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
