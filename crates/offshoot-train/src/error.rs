//! What ends a training run.

use offshoot_data::{PictureError, TransformError};
use offshoot_formats::FormatError;
use offshoot_graph::GraphError;
use offshoot_graph::remedy::{ACCUMULATE, BATCH_SIZE, FREEZE_NORMS, LR, OUT, RESUME, SIZE};
use offshoot_graph::text::{escaped, quoted};
use offshoot_world::WorldError;

use crate::freeze::FreezeError;
use crate::health::listed;
use crate::refusal::Refusal;
use crate::run::RunError;
use crate::step::StepError;

/// Classes that are named in a message.
const LOST_CLASSES: usize = 5;

/// A training run that could not be started or finished. Checkpoints made before it are on disk.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The run directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FormatError),
    /// What is to be frozen does not fit the model.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// A pattern of a learning-rate group is no pattern.
    #[error("lr_groups: {0}")]
    Pattern(String),
    /// The pictures have other targets than the model predicts, or none.
    #[error("the pictures do not have the targets that the model is to predict")]
    NoTargets,
    /// The network ends in a function that bounds its outputs, and numbers are to be predicted.
    #[error(
        "the network ends in `{}` ({op}), which bounds its outputs, so that it cannot predict numbers on both sides of their mean; take another \
         architecture",
        offshoot_graph::text::quoted(node)
    )]
    Bounded {
        /// The node.
        node: String,
        /// Its operator.
        op: &'static str,
    },
    /// A target cannot be scaled.
    #[error("the target `{}` {problem}", offshoot_graph::text::quoted(name))]
    Target {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A step could not be made.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A step was refused because of a number that is not finite.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// A step was refused once too often.
    #[error("{refusal}\n{policy}")]
    GaveUp {
        /// The last one.
        refusal: Box<Refusal>,
        /// What `on_nonfinite` has done about those before it.
        policy: String,
    },
    /// Each step of an epoch was refused, and skipped.
    #[error(
        "epoch {epoch}: all of its {steps} steps had numbers that are not finite and were skipped, so nothing was learned; \
         the warnings name them"
    )]
    EpochSkipped {
        /// The epoch, from 1.
        epoch: u64,
        /// Its steps.
        steps: u64,
    },
    /// The preprocessing cannot be carried out.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A picture cannot be used (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The model has other classes than the pictures.
    #[error(
        "the model has {model} classes and the pictures have {data}; build its head for the pictures' classes"
    )]
    Classes {
        /// The model's.
        model: String,
        /// The pictures'.
        data: usize,
    },
    /// `class_weights` names a class that the pictures do not have.
    #[error("class_weights: there is no class `{}`; the classes are {classes}", quoted(class))]
    ClassWeight {
        /// The name.
        class: String,
        /// The classes there are.
        classes: String,
    },
    /// The recipe changes the size of training pictures, and the network takes only one.
    #[error("progressive: the network takes pictures of its own size only; leave it out ({0})")]
    OneSize(GraphError),
    /// A batch of one picture, of which a batch norm in training has one value a channel.
    #[error("{}", one_picture(*pictures))]
    OnePicture {
        /// The pictures to train with.
        pictures: usize,
    },
    /// No picture to validate with can be used, or none of a class.
    #[error(
        "{}; the first of {count}: {first}. Put the files back as they were and go on with {RESUME}, or repair or remove them and start again in another folder with {OUT}",
        lost(classes, set), RESUME = RESUME, OUT = OUT)]
    Lost {
        /// `train` or `val`.
        set: &'static str,
        /// The classes that have no picture left; none where all pictures of the set are lost.
        classes: Vec<String>,
        /// How many pictures those were.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// The run has come to its end, and validation gave no numbers in any epoch.
    #[error(
        "the run has no best model: in no epoch did validation give numbers that are finite. A smaller {LR} may help, and `offshoot check` \
         names where they come from; start again in another folder with {OUT}", LR = LR, OUT = OUT)]
    NoBest,
    /// More processes than batches of an update.
    #[error("{}", too_many(*processes, *batches, *batch_size))]
    Processes {
        /// The processes.
        processes: usize,
        /// The batches that an update learns from.
        batches: usize,
        /// The pictures of a batch.
        batch_size: usize,
    },
    /// The processes of the run cannot go on together.
    #[error(transparent)]
    World(#[from] WorldError),
    /// No picture can be used.
    #[error("no picture to train with could be decoded; the first of {count}: {first}")]
    NoPicture {
        /// How many were tried.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
}

fn lost(classes: &[String], set: &str) -> String {
    let classes: Vec<String> = classes.iter().map(|class| format!("`{}`", escaped(class))).collect();
    match (&classes[..], set) {
        ([], _) => "none of the validation pictures could be decoded".into(),
        (all, "val") => {
            format!("no validation picture of {} could be decoded", listed(all, LOST_CLASSES, String::clone))
        }
        (all, _) => {
            format!("no training picture of {} could be decoded", listed(all, LOST_CLASSES, String::clone))
        }
    }
}

/// What is wrong with more processes than an update has batches, and what to do.
fn too_many(processes: usize, batches: usize, batch_size: usize) -> String {
    let smaller = batch_size.saturating_mul(batches).div_ceil(processes).max(1);
    format!(
        "{processes} processes need {processes} batches in an update, one each, and it learns from {batches} ({ACCUMULATE} {batches}): start {batches} or \
         fewer, or give {ACCUMULATE} {processes}, with {BATCH_SIZE} {smaller} for updates from about as many pictures"
    )
}

/// What is wrong with a batch of one of so many pictures, and what to do.
fn one_picture(pictures: usize) -> String {
    let (what, more) = match pictures {
        1 => ("there is one picture to train with".to_owned(), "more pictures".to_owned()),
        _ => (format!("{BATCH_SIZE} 1"), format!("a larger {BATCH_SIZE}")),
    };
    format!(
        "{what}: batch norms in training take the statistics of a batch, and one value a channel has none; give {more}, {FREEZE_NORMS} \
         on, or larger pictures with {SIZE}"
    )
}
