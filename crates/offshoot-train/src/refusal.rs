//! A step that was refused, and which number was the reason.

use std::fmt;
use std::path::PathBuf;

use offshoot_graph::text::shown;

use crate::health::{NonFinite, listed};
use crate::step::StepError;

/// Pictures that are named in a message.
const NAMED: usize = 16;

/// A step that was refused because it would have left a number that is not finite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Refusal {
    /// The epoch, from 1.
    pub epoch: u64,
    /// Which of its steps, from 1.
    pub step: u64,
    /// What was found.
    pub error: StepError,
    /// The first number that is not finite, where running the batch again shows one: not so where only the update or the sum
    /// of several batches' gradients overflows.
    pub origin: Option<NonFinite>,
    /// The pictures of the batch in which it is; those of the whole step where there is no origin.
    pub pictures: Vec<PathBuf>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, step {}: {}", self.epoch, self.step, self.error)?;
        if let Some(origin) = &self.origin {
            write!(f, "\n{origin}")?;
        }
        write!(f, "\npictures of the batch:")?;
        self.pictures.iter().take(NAMED).try_for_each(|path| write!(f, "\n  {}", shown(path)))?;
        match self.pictures.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl Refusal {
    /// The same in a line: what was found, which node made it, and the pictures.
    pub fn brief(&self) -> String {
        let problem = match &self.error {
            StepError::NotFinite { problem } => problem.clone(),
            error => error.to_string(),
        };
        let origin = self.origin.as_ref().map_or(String::new(), |origin| format!("; {}", origin.brief()));
        let pictures = listed(&self.pictures, NAMED, |path| shown(path));
        let (epoch, step) = (self.epoch, self.step);
        format!("epoch {epoch}, step {step}: {problem}{origin}; pictures {pictures}")
    }
}
