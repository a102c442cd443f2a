//! One training step: the very one that `offshoot train` repeats and `offshoot bench train` times.

mod learn;
mod state;

use offshoot_graph::model::INPUT;
use offshoot_graph::passes::{
    KEYS, LossOptions, TrainingGraph, autocast, average_parameter, fold_batch_norm, step_graph,
    training_graph,
};
use offshoot_graph::remedy::LR;
use offshoot_graph::{
    Executor, Graph, Metadata, Model, RegressionLoss, Session, StepTime, Task, Tensor, Weights,
};

use offshoot_world::WorldError;

use crate::amp::{Amp, GradScaler};
use crate::fingerprint;
use crate::freeze::{FreezeError, check_matches};
use crate::groups::{GroupOptions, GroupRow, groups};
use crate::inference::{Inference, NetworkError};
use crate::optimizer::{Clip, Group, Optimizer, OptimizerOptions, StateError};
use crate::split::{Split, split};
use crate::unfreeze::Rebuild;

pub use learn::Share;
use learn::Together;
pub(crate) use state::under;
use state::{MovingAverage, averages_of};

/// How a [`TrainStep`] learns.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// The update rule.
    pub optimizer: OptimizerOptions,
    /// The rates and the weight decay.
    pub rates: GroupOptions,
    /// What is done to gradients that are too large.
    pub clip: Clip,
    /// What is minimized.
    pub task: Task,
    /// Of [`Task::Regression`], which loss.
    pub regression: RegressionLoss,
    /// The fraction of the target that is spread over all classes, 0..1; 0 of [`Task::Multi`], whose targets come smoothed.
    pub label_smoothing: f32,
    /// A weight for each class in the loss; of [`Task::Regression`] one over the deviation of each target.
    pub class_weights: Option<Vec<f32>>,
    /// Whether labels are f32 [n, classes], the classes' parts of the targets.
    pub soft_targets: bool,
    /// Mixed precision of the part that is differentiated; a frozen prefix stays f32.
    pub amp: Amp,
    /// The decay of a moving average of the weights and the running statistics, 0..1, where one is wanted.
    pub ema: Option<f64>,
}

impl StepOptions {
    /// One rate for all parameters, no weight decay, the plain loss.
    pub fn new(optimizer: OptimizerOptions, lr: f64) -> StepOptions {
        StepOptions {
            optimizer,
            rates: GroupOptions::new(lr),
            clip: Clip::Off,
            task: Task::Single,
            regression: RegressionLoss::default(),
            label_smoothing: 0.0,
            class_weights: None,
            soft_targets: false,
            amp: Amp::Off,
            ema: None,
        }
    }

    /// The loss of the graph that is differentiated.
    pub(crate) fn loss(&self) -> LossOptions {
        LossOptions {
            task: self.task,
            regression: self.regression,
            label_smoothing: self.label_smoothing,
            class_weights: self.class_weights.is_some(),
            soft_targets: self.soft_targets,
            scaled: self.amp.scaler().is_some(),
        }
    }

    /// What that graph takes as [`CLASS_WEIGHTS`].
    pub(crate) fn class_weights_input(&self) -> Option<Tensor> {
        self.class_weights.clone().map(|weights| Tensor::f32([weights.len()], weights))
    }
}

/// A step that could not be prepared or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The network cannot run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A pattern of a group matches nothing.
    #[error(transparent)]
    Pattern(#[from] FreezeError),
    /// Every parameter is frozen.
    #[error("no trainable parameter has an influence on the loss; freeze fewer")]
    NothingToTrain,
    /// The processes of a job cannot go on together.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The step would have left a number that is not finite.
    #[error(
        "{problem}. The step was refused and no weight has changed. Lower {LR}, and look for broken values in the \
         weights and in the preprocessing's mean and std", LR = LR)]
    NotFinite {
        /// What is not finite, with the parameter's name.
        problem: String,
    },
    /// A saved state that does not fit.
    #[error("the saved state does not fit this model and recipe: {0}")]
    State(String),
}

impl From<StateError> for StepError {
    fn from(error: StateError) -> StepError {
        StepError::State(error.to_string())
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The loss before the update.
    pub loss: f32,
    /// The pictures learned from, those of other processes among them.
    pub images: usize,
    /// Pictures whose best class was their label, or whose labels were all right at a probability of 0.5, before the update. 0 of
    /// [`Task::Regression`].
    pub correct: usize,
    /// Of [`Task::Regression`], the sum over pictures of the mean absolute error of the targets, before the update. Else 0.
    pub error: f64,
    /// The 2-norm of all gradients together.
    pub gradient_norm: f64,
    /// Whether nothing has changed but the loss scale, which was too large: a gradient was not finite.
    pub skipped: bool,
}

/// What one run of the network learns from.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Of [`TrainStep::features`].
    pub features: Tensor,
    /// The classes: i64, one for each picture; f32, a row for each, with [`StepOptions::soft_targets`], [`Task::Multi`] or
    /// [`Task::Regression`], as
    /// [`LABELS`](offshoot_graph::passes::LABELS) of the graph.
    pub labels: Tensor,
    /// The keys of the dropout masks: i64, one for each picture.
    pub keys: Tensor,
}

/// A model in training.
///
/// Where everything before one value of the graph is frozen and the same in every epoch, that part runs as a
/// network of its own ([`TrainStep::features`]) and only the rest is differentiated. The features of a picture do not depend on
/// the pictures beside it, so keeping them instead of computing them again changes no bit.
pub struct TrainStep {
    /// The model as it is saved, without what steps change: that is the session's alone, as a second owner would make every
    /// step copy it.
    model: Model,
    prefix: Option<Inference>,
    /// From the border to the logits: what evaluation runs after the prefix.
    suffix: Graph,
    /// Holds the parameters that the step reads, frozen batch norms folded away, and the moments.
    session: Box<dyn Session>,
    training: TrainingGraph,
    together: Option<Together>,
    input: String,
    optimizer: Optimizer,
    table: Vec<GroupRow>,
    clip: Clip,
    class_weights: Option<Tensor>,
    has_dropout: bool,
    scaler: Option<GradScaler>,
    ema: Option<MovingAverage>,
}

impl TrainStep {
    /// Prepares `model` for training; which parameters are trainable is marked in its graph
    /// ([`crate::freeze::apply_freeze`]). A batch norm with a trainable weight or bias uses the batch's statistics, a
    /// frozen one its running ones.
    ///
    /// # Errors
    /// When nothing is trainable, a pattern of a group matches nothing, or the executor cannot run the model.
    pub fn new(
        mut model: Model,
        options: &StepOptions,
        executor: &dyn Executor,
    ) -> Result<TrainStep, StepError> {
        for (pattern, _) in &options.rates.lr_groups {
            check_matches(&model.graph, pattern)?;
        }
        let (prefix, suffix, input) = match split(&model.graph).map_err(NetworkError::from)? {
            None => (None, model.graph.clone(), INPUT.to_owned()),
            Some(Split { prefix, suffix, border }) => {
                (Some(Inference::of_graph(&prefix, &model.weights, executor)?), suffix, border)
            }
        };
        let (folded, weights) = fold_batch_norm(&suffix, &model.weights).map_err(NetworkError::from)?;
        let network = match options.amp.dtype() {
            Some(half) => autocast(&folded, half).map_err(NetworkError::from)?,
            None => folded,
        };
        let training = training_graph(&network, options.loss()).map_err(NetworkError::from)?;
        if training.trained.is_empty() {
            return Err(StepError::NothingToTrain);
        }
        let (mut groups, table) = groups(&model.graph, &options.rates);
        for group in &mut groups {
            group.names.retain(|name| training.trained.contains(name));
        }
        let optimizer = Optimizer::new(options.optimizer, groups, &weights);
        let ema = options.ema.map(|decay| MovingAverage { decay, count: 0 });
        let graph = step_graph(&training, optimizer.rule(), options.clip, ema.is_some());
        let graph = graph.map_err(NetworkError::from)?;
        let mut held: Weights = weights.into_iter().chain(optimizer.moments()).collect();
        if ema.is_some() {
            let averages = averages_of(&training, |name| held.get(name).cloned());
            held.extend(averages);
        }
        let session = executor.prepare(&graph, &held).map_err(NetworkError::from)?;
        drop(held);
        let has_dropout = graph.inputs().iter().any(|&id| graph.value(id).name == KEYS);
        for name in training.moving() {
            model.weights.remove(name);
        }
        Ok(TrainStep {
            model,
            prefix,
            suffix,
            session,
            training,
            together: None,
            input,
            optimizer,
            table,
            clip: options.clip,
            class_weights: options.class_weights_input(),
            has_dropout,
            scaler: options.amp.scaler(),
            ema,
        })
    }

    /// The same model with other parameters in training: those that `mark` marks in its graph. Where `rebuild` says so, the
    /// optimizer's moments of parameters that go on training are kept; the loss scale is in any case.
    ///
    /// # Errors
    /// As [`TrainStep::new`].
    pub fn rebuild(
        self,
        mark: impl FnOnce(&mut Graph) -> Result<(), FreezeError>,
        options: &StepOptions,
        rebuild: Rebuild,
        executor: &dyn Executor,
    ) -> Result<TrainStep, StepError> {
        let mut model = self.model();
        let TrainStep { optimizer, scaler, session, prefix, model: old, ema, training, .. } = self;
        let read = |name: String| session.read(&name).map(|tensor| (name, tensor));
        let averaged = ema.is_some_and(|ema| ema.count > 0);
        let averages: Weights = match averaged {
            true => training.moving().filter_map(|name| read(average_parameter(name))).collect(),
            false => Weights::new(),
        };
        let mut moments: Weights = match rebuild {
            Rebuild::New => optimizer.moments().into_keys().filter_map(read).collect(),
            Rebuild::All => Weights::new(),
        };
        // Before the next ones ask for their memory, and so that the model alone owns its weights.
        drop((session, prefix, old));
        mark(&mut model.graph)?;
        let mut step = TrainStep::new(model, options, executor)?;
        if rebuild == Rebuild::New {
            let kept = step.optimizer.carry_on(&optimizer);
            moments.retain(|name, _| kept.contains(name));
            step.session.restore(&moments).map_err(NetworkError::from)?;
        }
        step.scaler = scaler;
        step.ema = ema;
        step.session.restore(&averages).map_err(NetworkError::from)?;
        Ok(step)
    }

    /// Whether a part of the network is the same function of the picture in every epoch.
    pub fn has_prefix(&self) -> bool {
        self.prefix.is_some()
    }

    /// Adds all that decides about [`TrainStep::features`] but the executor.
    pub(crate) fn fingerprint_prefix(&self, hasher: &mut blake3::Hasher) {
        if let Some(prefix) = &self.prefix {
            fingerprint::inference(hasher, prefix);
        }
    }

    /// What the trainable part reads, for pictures [n, 3, size, size]: the pictures themselves where there is no frozen
    /// part before it.
    ///
    /// # Errors
    /// When the pictures have another shape than the model's input.
    pub fn features(&mut self, images: Tensor) -> Result<Tensor, StepError> {
        let Some(prefix) = &mut self.prefix else { return Ok(images) };
        Ok(prefix.run(&images)?)
    }

    /// What each step of the last runs took, of the frozen part and of what learns: see [`Session::profile`].
    pub fn profile(&self) -> impl Iterator<Item = &StepTime> {
        self.prefix.iter().flat_map(Inference::profile).chain(self.session.profile())
    }

    /// What the model says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.model.metadata
    }

    /// The model as it is now: PyTorch's weights and running statistics, nothing folded. It shares its weights with the
    /// step: let go of it before the next one, which would have to copy them.
    pub fn model(&self) -> Model {
        let mut model = self.model.clone();
        model.weights.extend(self.moving());
        model
    }

    /// The network from [`TrainStep::features`] to the logits, to evaluate: as it is now, or with `weights`, which may be others
    /// in what trains ([`TrainStep::moving`]).
    ///
    /// # Errors
    /// When the executor cannot run it.
    pub fn evaluator(
        &self,
        weights: Option<&Weights>,
        executor: &dyn Executor,
    ) -> Result<Inference, StepError> {
        let network = match weights {
            Some(weights) => Inference::of_graph(&self.suffix, weights, executor),
            None => Inference::of_graph(&self.suffix, &self.model().weights, executor),
        };
        Ok(network?)
    }

    /// What steps change of the model: trained parameters and running statistics. The tensors are shared with the step: let go
    /// of them before the next one, which would have to copy them.
    pub fn moving(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.training.moving().filter_map(|name| Some((name.clone(), self.session.read(name)?)))
    }

    /// Parameters as they are now.
    fn read_all<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Weights {
        names.into_iter().filter_map(|name| Some((name.clone(), self.session.read(name)?))).collect()
    }

    /// The table of groups.
    pub fn table(&self) -> &[GroupRow] {
        &self.table
    }

    /// The parameters by group.
    pub fn groups(&self) -> &[Group] {
        self.optimizer.groups()
    }
}
