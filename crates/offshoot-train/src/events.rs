//! What a run tells while it goes on, and how it is watched and stopped.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use offshoot_data::PictureError;
use offshoot_world::{Alone, World};

use crate::cache::CacheOptions;
use crate::groups::GroupRow;
use crate::results::EpochRow;

/// What happens during a run, for those who watch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training starts, or goes on.
    Start {
        /// Elements of the parameters that training changes.
        trainable_parameters: u64,
        /// Elements of the other parameters.
        frozen_parameters: u64,
        /// Pictures to train with.
        train_images: usize,
        /// Pictures to validate with.
        val_images: usize,
        /// Epochs in all.
        epochs: u64,
        /// Steps in an epoch.
        steps: u64,
        /// Finished epochs and steps of a run that is resumed.
        resumed: Option<(u64, u64)>,
    },
    /// A stage starts or goes on: a stretch of epochs in which the same parameters train.
    Stage {
        /// The finished epochs at which it starts.
        epoch: u64,
        /// Which parameters learn, and at which rates.
        groups: &'a [GroupRow],
    },
    /// The frozen part is run once on each picture, whose features are cached.
    Features {
        /// Pictures done.
        done: usize,
        /// Pictures in all.
        total: usize,
    },
    /// A step was made.
    Step {
        /// The epoch it belongs to, from 1.
        epoch: u64,
        /// Which of the epoch's steps, from 1.
        step: u64,
        /// Steps in an epoch.
        steps: u64,
        /// The loss before its update.
        loss: f32,
        /// Training pictures a second in this epoch.
        images_per_second: f64,
        /// How long the rest of the run takes if it goes on like this session so far.
        remaining: Duration,
    },
    /// Validation goes on.
    Validate {
        /// Pictures done, those to train with that are looked at again among them.
        done: u64,
        /// Pictures in all.
        total: u64,
    },
    /// An epoch is finished.
    Epoch(&'a EpochRow),
    /// The average of the last epochs was tried.
    Average {
        /// The fraction of the validation pictures that it classifies correctly.
        val_accuracy: Option<f64>,
        /// Whether it is better than each epoch, and so kept as the best model.
        best: bool,
    },
    /// The run ends before its last epoch, because the validation accuracy has not improved.
    Ended,
    /// A picture was left out.
    Skipped(&'a PictureError),
    /// Something that is no error and may spoil the result, in a line.
    Warning(&'a str),
    /// Something that is no error and that the user should know, in a sentence.
    Notice(&'a str),
    /// A checkpoint is on disk.
    Checkpoint,
}

/// How a run is watched and stopped.
pub struct Control<'a> {
    /// Is told what happens.
    pub progress: &'a mut dyn FnMut(Event<'_>),
    /// Once true, the run ends after the current step, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Whether a run that is there is gone on with. Else it is an error.
    pub resume: bool,
    /// The longest time between two checkpoints; there is one after each epoch anyway. Ten minutes by
    /// [`Control::new`].
    pub checkpoint_every: Duration,
    /// Where features of frozen layers are cached. In the run directory by [`Control::new`].
    pub cache: CacheOptions,
    /// The command that started the run, for its log.
    pub command: Option<String>,
    /// The processes that the run is spread over. All of them call [`train`](crate::train()) with the same model, recipe and pictures; the first alone
    /// writes into the run directory and is told what happens. One process by [`Control::new`].
    pub world: &'a dyn World,
    /// What there is to warn of and to say of the start, which the run tells first and puts into its log.
    pub told: Told,
}

/// Warnings and notes, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What may spoil the result.
    pub warnings: Vec<String>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl<'a> Control<'a> {
    /// The defaults.
    pub fn new(progress: &'a mut dyn FnMut(Event<'_>), stop: &'a AtomicBool) -> Control<'a> {
        Control {
            progress,
            stop,
            resume: false,
            checkpoint_every: Duration::from_secs(600),
            cache: CacheOptions::default(),
            command: None,
            world: &Alone,
            told: Told::default(),
        }
    }
}
