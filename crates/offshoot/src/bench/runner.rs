//! What runs the file of a target, and how long it took.

use std::path::Path;
use std::time::Instant;

use offshoot_graph::{DType, Executor, Model, Tensor};
use offshoot_infer::Inference;

use crate::source::{ModelSource, Overrides};

/// A classifier in some runtime.
pub(super) trait Runner {
    /// Runs it on pictures [n, 3, size, size], `steps` times, at least once.
    ///
    /// # Errors
    /// In words, when it cannot.
    fn run(&mut self, images: &Tensor, steps: usize) -> Result<Answer, String>;
}

/// What runs a file, or why nothing does, in words.
pub(super) type Opened = Result<Box<dyn Runner>, String>;

/// What comes out of a run.
pub(super) struct Answer {
    /// How long each step took, from the pictures in memory to the logits in memory.
    pub(super) milliseconds: Vec<f64>,
    /// The logits of the last step, [n, classes].
    pub(super) logits: Vec<f32>,
}

/// Our own runtime.
struct Own(Inference);

/// A file on our own runtime.
pub(super) fn of_file(path: &Path, executor: &dyn Executor) -> Opened {
    let network = Inference::new(&read(path)?, executor).map_err(|e| e.to_string())?;
    Ok(Box::new(Own(network)))
}

/// A file on our own runtime, with activations in bf16.
pub(super) fn of_file_in_bf16(path: &Path, executor: &dyn Executor) -> Opened {
    let network = Inference::in_half(&read(path)?, DType::BF16, executor).map_err(|e| e.to_string())?;
    Ok(Box::new(Own(network)))
}

fn read(path: &Path) -> Result<Model, String> {
    let loaded = ModelSource::Path(path.to_owned()).load(&Overrides::default());
    Ok(loaded.map_err(|e| e.to_string())?.model)
}

impl Runner for Own {
    fn run(&mut self, images: &Tensor, steps: usize) -> Result<Answer, String> {
        let mut answer = Answer { milliseconds: Vec::new(), logits: Vec::new() };
        for step in 1..=steps {
            let start = Instant::now();
            let logits = self.0.run(images).map_err(|e| e.to_string())?;
            answer.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
            if step == steps {
                answer.logits = logits.into_f32().unwrap_or_default();
            }
        }
        Ok(answer)
    }
}
