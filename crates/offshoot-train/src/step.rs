//! One training step: the very one that `offshoot train` repeats and `offshoot bench train` times.

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::passes::{
    ACCUMULATE_FACTOR, ACCUMULATE_KEEP, AVERAGE_PART, CLASS_WEIGHTS, KEYS, LABELS, LOSS, LOSS_SCALE,
    LossOptions, SQUARES, TrainingGraph, UNSCALE, UPDATE_RATES, accumulate_graph, apply_graph, autocast,
    average_parameter, fold_batch_norm, step_graph, sum_parameter, training_graph,
};
use offshoot_graph::remedy::LR;
use offshoot_graph::{ExecuteError, Executor, Graph, Model, Session, Tensor, Weights};

use crate::amp::{Amp, GradScaler};
use crate::average::MAX_COUNT;
use crate::fingerprint;
use crate::freeze::{FreezeError, check_matches};
use crate::groups::{GroupOptions, GroupRow, groups};
use crate::inference::{Inference, NetworkError};
use crate::metrics::argmax;
use crate::optimizer::{
    Clip, Group, NotFiniteGradient, Optimizer, OptimizerOptions, StateError, sum_of_squares,
};
use crate::split::{Split, split};
use crate::unfreeze::Rebuild;

/// How a [`TrainStep`] learns.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// The update rule.
    pub optimizer: OptimizerOptions,
    /// The rates and the weight decay.
    pub rates: GroupOptions,
    /// What is done to gradients that are too large.
    pub clip: Clip,
    /// The fraction of the target that is spread over all classes, 0..1.
    pub label_smoothing: f32,
    /// A weight for each class in the loss.
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
    /// Pictures whose best class was their label, before the update.
    pub correct: usize,
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
    /// The classes: i64, one for each picture; f32, a row for each, with [`StepOptions::soft_targets`].
    pub labels: Tensor,
    /// The keys of the dropout masks: i64, one for each picture.
    pub keys: Tensor,
}

/// The graphs of a session that learn from several batches together, by their numbers.
#[derive(Clone, Copy)]
struct Together {
    accumulate: usize,
    apply: usize,
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

/// A moving average, updated as `torch.optim.swa_utils.AveragedModel` with `use_buffers=True` does: the first update copies, and
/// each later one moves the average towards the weights. The session holds the values.
///
/// What is not part of it has not changed: it is frozen. What joins later starts from the value that it has then, which is
/// what its average would have been.
#[derive(Clone, Copy)]
struct MovingAverage {
    decay: f64,
    /// Updates so far.
    count: u64,
}

impl MovingAverage {
    /// How far the next update moves the average.
    fn part(self) -> f32 {
        if self.count == 0 { 1.0 } else { (1.0 - self.decay) as f32 }
    }
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
        for name in training.trained.iter().chain(&training.states) {
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
        let averages = match ema {
            Some(MovingAverage { count: 1.., .. }) => {
                let names =
                    training.trained.iter().chain(&training.states).map(|name| average_parameter(name));
                names.filter_map(|name| Some((name.clone(), session.read(&name)?))).collect()
            }
            Some(_) | None => Weights::new(),
        };
        let mut moments = Weights::new();
        if rebuild == Rebuild::New {
            let names = optimizer.moments().into_keys();
            moments.extend(names.filter_map(|name| Some((name.clone(), session.read(&name)?))));
        }
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

    /// Learns from `features` (of [`TrainStep::features`]) with labels (as in [`Batch`]) and dropout keys i64 `[n]`, at `factor`
    /// times the rates of the options. Weights, moments and running statistics change together or not at all. With a loss
    /// scale above 1, a gradient that is not finite lowers the scale and is no error.
    ///
    /// # Errors
    /// When a shape does not fit, and when the loss, a gradient or a new value is not finite.
    pub fn learn(
        &mut self,
        features: &Tensor,
        labels: &Tensor,
        keys: &Tensor,
        factor: f64,
    ) -> Result<StepReport, StepError> {
        let unscale = self.unscale(1.0);
        let rates = self.optimizer.rates(factor);
        let (unscale_input, part) = (Tensor::full([], unscale), self.average_part());
        let mut update = vec![(UPDATE_RATES, &rates), (UNSCALE, &unscale_input)];
        update.extend(part.as_ref().map(|part| (AVERAGE_PART, part)));
        let committed = self.run_batch(0, features, labels, keys, &update);
        let (loss, correct) = (self.loss()?, self.correct(labels));
        let report = self.finish_update(committed, unscale)?;
        Ok(StepReport { loss, correct, ..report })
    }

    /// Learns from several batches at once: one update with the gradient of the loss over all their pictures. That is the
    /// update of one large batch where batch norms are frozen or absent; others normalize each batch by itself and move their
    /// running statistics with each.
    ///
    /// # Errors
    /// As [`TrainStep::learn`]; nothing has changed then, running statistics included.
    pub fn learn_together(&mut self, batches: &[Batch], factor: f64) -> Result<StepReport, StepError> {
        if let [Batch { features, labels, keys }] = batches {
            return self.learn(features, labels, keys, factor);
        }
        let statistics = self.training.states.iter();
        let statistics: Weights =
            statistics.filter_map(|name| Some((name.clone(), self.session.read(name)?))).collect();
        let report = self.accumulate(batches).and_then(|(weight, loss, correct)| {
            let report = self.apply(weight, factor)?;
            Ok(StepReport { loss, correct, ..report })
        });
        if !matches!(report, Ok(StepReport { skipped: false, .. })) {
            self.session.restore(&statistics).map_err(NetworkError::from)?;
        }
        report
    }

    /// The graphs that learn from several batches, added to the session at the first call.
    fn together(&mut self) -> Result<Together, NetworkError> {
        if let Some(together) = self.together {
            return Ok(together);
        }
        let accumulate = accumulate_graph(&self.training)?;
        let apply = apply_graph(&self.training, self.optimizer.rule(), self.clip, self.ema.is_some())?;
        let sum = |name: &String| {
            let len = self.session.read(name).map_or(0, |weight| weight.len());
            (sum_parameter(name), Tensor::zeros([len]))
        };
        let sums: Weights = self.training.trained.iter().map(sum).collect();
        let accumulate = self.session.add_graph(&accumulate, &sums)?;
        let apply = self.session.add_graph(&apply, &sums)?;
        Ok(*self.together.insert(Together { accumulate, apply }))
    }

    /// Sums the gradients. Gives the sum of the batches' weights, the loss over all pictures, and how many were classified correctly.
    fn accumulate(&mut self, batches: &[Batch]) -> Result<(f64, f32, usize), StepError> {
        let Together { accumulate, .. } = self.together()?;
        let (mut sum, mut loss, mut correct) = (0.0, 0.0, 0);
        for (index, Batch { features, labels, keys }) in batches.iter().enumerate() {
            let weight = self.weight_of(labels);
            let keep = if index == 0 { 0.0 } else { 1.0 };
            let [factor, keep] = [weight, keep].map(|number| Tensor::full([], number));
            let inputs = [(ACCUMULATE_FACTOR, &factor), (ACCUMULATE_KEEP, &keep)];
            let committed = self.run_batch(accumulate, features, labels, keys, &inputs);
            let batch_loss = self.loss()?;
            committed.map_err(|error| self.refused(error))?;
            sum += f64::from(weight);
            loss += f64::from(weight) * f64::from(batch_loss);
            correct += self.correct(labels);
        }
        Ok((sum, (loss / sum) as f32, correct))
    }

    /// Updates the weights with the sums of the gradients of batches whose weights are `weight` together.
    fn apply(&mut self, weight: f64, factor: f64) -> Result<StepReport, StepError> {
        let Together { apply, .. } = self.together()?;
        let unscale = self.unscale((1.0 / weight) as f32);
        let rates = self.optimizer.rates(factor);
        let (unscale_input, part) = (Tensor::full([], unscale), self.average_part());
        let mut inputs = vec![(UPDATE_RATES, &rates), (UNSCALE, &unscale_input)];
        inputs.extend(part.as_ref().map(|part| (AVERAGE_PART, part)));
        let committed = self.session.run_graph(apply, &inputs);
        self.finish_update(committed, unscale)
    }

    /// What the mean over these pictures was divided by: their number, or the sum of their classes' weights.
    fn weight_of(&self, labels: &Tensor) -> f32 {
        let weights = self.class_weights.as_ref().and_then(Tensor::as_f32);
        let (Some(weights), Some(labels)) = (weights, labels.as_i64()) else {
            return labels.shape()[0] as f32;
        };
        labels.iter().filter_map(|&label| weights.get(usize::try_from(label).ok()?)).sum()
    }

    /// The input that moves the average.
    fn average_part(&self) -> Option<Tensor> {
        Some(Tensor::full([], self.ema?.part()))
    }

    /// What gradients are multiplied by, `mean` among it.
    fn unscale(&self, mean: f32) -> f32 {
        self.scaler.as_ref().map_or(1.0, GradScaler::inverse) * mean
    }

    /// Runs a graph forwards and backwards on a batch, with other inputs besides.
    fn run_batch(
        &mut self,
        graph: usize,
        features: &Tensor,
        labels: &Tensor,
        keys: &Tensor,
        others: &[(&str, &Tensor)],
    ) -> Result<(), ExecuteError> {
        let mut inputs = vec![(self.input.as_str(), features), (LABELS, labels)];
        inputs.extend(others);
        if self.has_dropout {
            inputs.push((KEYS, keys));
        }
        if let Some(weights) = &self.class_weights {
            inputs.push((CLASS_WEIGHTS, weights));
        }
        let scale = self.scaler.as_ref().map(|scaler| Tensor::full([], scaler.scale()));
        inputs.extend(scale.as_ref().map(|scale| (LOSS_SCALE, scale)));
        self.session.run_graph(graph, &inputs)
    }

    /// The loss of the last run.
    fn loss(&self) -> Result<f32, StepError> {
        let loss = self.session.read(LOSS).and_then(Tensor::into_f32).map_or(f32::NAN, |loss| loss[0]);
        if loss.is_finite() {
            return Ok(loss);
        }
        let problem = match self.first_broken_gradient() {
            Some(name) => {
                format!("the loss is {loss}; the first gradient that is not finite is that of `{name}`")
            }
            None => format!("the loss is {loss}"),
        };
        Err(StepError::NotFinite { problem })
    }

    /// How many pictures of the last run were classified correctly.
    fn correct(&self, labels: &Tensor) -> usize {
        let logits = self.session.read(OUTPUT).and_then(Tensor::into_f32);
        logits.map_or(0, |logits| count_correct(&logits, labels))
    }

    /// The sums of the squares of the last run's gradients, in the order of the parameters' names.
    fn squares(&self) -> Vec<f64> {
        self.session.read(SQUARES).and_then(|sums| Some(sums.as_f64()?.to_vec())).unwrap_or_default()
    }

    /// The first trained parameter of the network whose gradient is not finite.
    fn first_broken_gradient(&self) -> Option<&str> {
        let squares = self.squares();
        let mut names: Vec<&String> = self.training.trained.iter().collect();
        names.sort_unstable();
        let broken = |name: &&String| {
            let row = names.binary_search(name).ok().and_then(|row| squares.get(row));
            row.is_some_and(|sum| !sum.is_finite())
        };
        self.training.trained.iter().find(broken).map(String::as_str)
    }

    /// What an update did, that was made, skipped or refused.
    fn finish_update(
        &mut self,
        committed: Result<(), ExecuteError>,
        unscale: f32,
    ) -> Result<StepReport, StepError> {
        let squares = self.squares();
        let overflowed = match &committed {
            Err(ExecuteError::NotFinite(name)) => {
                !self.training.states.contains(name) && self.optimizer.not_finite(&squares).is_some()
            }
            Err(_) | Ok(()) => false,
        };
        let mut report = StepReport { loss: 0.0, correct: 0, gradient_norm: f64::INFINITY, skipped: true };
        if let Some(scaler) = self.scaler.as_mut().filter(|scaler| overflowed && scaler.scale() >= 1.0) {
            scaler.update(true);
            return Ok(report);
        }
        committed.map_err(|error| self.refused(error))?;
        (report.gradient_norm, report.skipped) = (self.optimizer.updated(&squares, unscale), false);
        self.scaler.iter_mut().for_each(|scaler| scaler.update(false));
        self.ema.iter_mut().for_each(|ema| ema.count += 1);
        Ok(report)
    }

    /// Why a run changed nothing.
    fn refused(&self, error: ExecuteError) -> StepError {
        let ExecuteError::NotFinite(name) = &error else { return NetworkError::from(error).into() };
        let problem = match self.first_broken_gradient() {
            _ if self.training.states.contains(name) => {
                format!("the running statistic `{name}` would not be finite")
            }
            Some(name) => NotFiniteGradient(name.into()).to_string(),
            None => error.to_string(),
        };
        StepError::NotFinite { problem }
    }

    /// [`TrainStep::features`] and [`TrainStep::learn`] in one.
    ///
    /// # Errors
    /// Those of the two.
    pub fn run(
        &mut self,
        images: Tensor,
        labels: &Tensor,
        keys: &Tensor,
        factor: f64,
    ) -> Result<StepReport, StepError> {
        let features = self.features(images)?;
        self.learn(&features, labels, keys, factor)
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

    /// The model with the moving average in place of what trains, where there is one.
    pub fn averaged(&self) -> Option<Model> {
        let ema = self.ema?;
        let mut model = self.model();
        for (name, weight) in model.weights.iter_mut().filter(|_| ema.count > 0) {
            let average = self.session.read(&average_parameter(name));
            if let Some(average) = average.and_then(|average| average.reshape(weight.shape()).ok()) {
                *weight = average;
            }
        }
        Some(model)
    }

    /// What steps change of the model: trained parameters and running statistics. The tensors are shared with the step: let go
    /// of them before the next one, which would have to copy them.
    pub fn moving(&self) -> impl Iterator<Item = (String, Tensor)> {
        let names = self.training.trained.iter().chain(&self.training.states);
        names.filter_map(|name| Some((name.clone(), self.session.read(name)?)))
    }

    /// The table of groups.
    pub fn table(&self) -> &[GroupRow] {
        &self.table
    }

    /// The parameters by group.
    pub fn groups(&self) -> &[Group] {
        self.optimizer.groups()
    }

    /// The 2-norm of each group's gradient in the last update, with the group's name in the table. Groups that differ in
    /// weight decay alone share a name.
    pub fn gradient_norms(&self) -> impl Iterator<Item = (&str, f64)> {
        let names = self.table.iter().map(|row| row.name.as_str());
        names.zip(self.optimizer.norms().iter().copied())
    }

    /// The 2-norm of each group's weights, as [`TrainStep::gradient_norms`].
    pub fn weight_norms(&self) -> impl Iterator<Item = (&str, f64)> {
        self.table.iter().zip(self.optimizer.groups()).map(|(row, group)| {
            let weights = group.names.iter().filter_map(|name| self.session.read(name));
            let squares = weights.map(|weight| sum_of_squares(weight.as_f32().unwrap_or_default()));
            (row.name.as_str(), squares.sum::<f64>().sqrt())
        })
    }

    /// The parameters whose gradient was exactly 0 in the last update.
    pub fn silent(&self) -> &[String] {
        self.optimizer.silent()
    }

    /// The weights that steps change, without the running statistics.
    pub fn trained(&self) -> Weights {
        let trained = self.training.trained.iter();
        trained.filter_map(|name| Some((name.clone(), self.session.read(name)?))).collect()
    }

    /// The 2-norm of the difference of each group's weights from those that [`TrainStep::trained`] gave, with names as in
    /// [`TrainStep::gradient_norms`].
    pub fn change_norms(&self, before: &Weights) -> impl Iterator<Item = (&str, f64)> {
        let change = |name: &String| {
            let (now, before) = (self.session.read(name)?, before.get(name)?.as_f32()?);
            Some(now.as_f32()?.iter().zip(before).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>())
        };
        self.table.iter().zip(self.optimizer.groups()).map(move |(row, group)| {
            (row.name.as_str(), group.names.iter().filter_map(change).sum::<f64>().sqrt())
        })
    }

    /// What the loss is multiplied by, where mixed precision needs that.
    pub fn loss_scale(&self) -> Option<f32> {
        self.scaler.as_ref().map(GradScaler::scale)
    }

    /// Everything that steps change: `model.NAME`, `optimizer.NAME.exp_avg`, ..., `scaler.scale`, `ema.NAME`.
    pub fn state(&self) -> Weights {
        let model = self.moving().map(|(name, tensor)| (format!("model.{name}"), tensor));
        let optimizer = self.optimizer.state(|moment| self.session.read(moment));
        let scaler = self.scaler.iter().flat_map(GradScaler::state);
        let scaler = scaler.map(|(name, t)| (format!("scaler.{name}"), t));
        let optimizer = optimizer.into_iter().map(|(name, t)| (format!("optimizer.{name}"), t));
        model.chain(optimizer).chain(scaler).chain(self.ema_state()).collect()
    }

    /// The moving average: `ema.count`, and each value, flat, after the first update.
    fn ema_state(&self) -> Weights {
        let Some(ema) = self.ema else { return Weights::new() };
        let names = self.training.trained.iter().chain(&self.training.states).filter(|_| ema.count > 0);
        let values = names
            .filter_map(|name| Some((format!("ema.{name}"), self.session.read(&average_parameter(name))?)));
        let count = Tensor::full([], (ema.count as f32).min(MAX_COUNT));
        values.chain([("ema.count".to_owned(), count)]).collect()
    }

    /// What [`TrainStep::ema_state`] gave: the average, and the values by their names in the graph.
    fn read_ema(&self, state: &Weights) -> Result<(Option<MovingAverage>, Weights), StateError> {
        let Some(MovingAverage { decay, .. }) = self.ema else { return Ok((None, Weights::new())) };
        let read = |name: &str| state.get(name).ok_or_else(|| StateError(name.to_owned()));
        let count = read("count")?.as_f32().and_then(|count| count.first().copied()).unwrap_or(-1.0);
        if !(0.0..=MAX_COUNT).contains(&count) || count.fract() != 0.0 {
            return Err(StateError("count".into()));
        }
        let mut values = Weights::new();
        let names = self.training.trained.iter().chain(&self.training.states).filter(|_| count > 0.0);
        for name in names {
            let value = read(name)?.clone();
            let own = self.session.read(name).map_or(0, |weight| weight.len());
            let value = value.reshape([own]).map_err(|_| StateError(name.clone()))?;
            if value.as_f32().is_none() {
                return Err(StateError(name.clone()));
            }
            values.insert(average_parameter(name), value);
        }
        Ok((Some(MovingAverage { decay, count: count as u64 }), values))
    }

    /// Takes over what [`TrainStep::state`] gave.
    ///
    /// # Errors
    /// When it is the state of another model or optimizer; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<(), StepError> {
        let moving = self.training.trained.iter().chain(&self.training.states);
        let fits = |name: &String| {
            let saved = state.get(&format!("model.{name}"));
            let own = self.session.read(name);
            let fits = saved.filter(|t| own.as_ref().is_some_and(|own| own.shape() == t.shape()));
            let found = fits.filter(|t| t.as_f32().is_some()).map(|t| (name.clone(), t.clone()));
            found.ok_or_else(|| StepError::State(format!("it has no `model.{name}` of the right shape")))
        };
        let mut kept: Weights = moving.map(fits).collect::<Result<_, _>>()?;
        let mut scaler = self.scaler.clone();
        if let Some(scaler) = &mut scaler {
            scaler.load_state(&under(state, "scaler."))?;
        }
        let (ema, averages) = self.read_ema(&under(state, "ema."))?;
        kept.extend(averages);
        kept.extend(self.optimizer.load_state(&under(state, "optimizer."))?);
        (self.scaler, self.ema) = (scaler, ema);
        self.session.restore(&kept).map_err(NetworkError::from)?;
        Ok(())
    }
}

/// The averages before the first update, flat, by their names in the graph.
fn averages_of(training: &TrainingGraph, weight: impl Fn(&str) -> Option<Tensor>) -> Weights {
    let names = training.trained.iter().chain(&training.states);
    let flat = |name: &String| {
        let weight = weight(name)?;
        let len = weight.len();
        Some((average_parameter(name), weight.reshape([len]).ok()?))
    };
    names.filter_map(flat).collect()
}

/// What `state` holds under names that start with `prefix`.
pub(crate) fn under(state: &Weights, prefix: &str) -> Weights {
    let found = state.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())));
    found.collect()
}

/// How often the best class is the label, or has the largest part of the target.
fn count_correct(logits: &[f32], labels: &Tensor) -> usize {
    let classes = (logits.len() / labels.shape()[0].max(1)).max(1);
    let best = logits.chunks_exact(classes).map(argmax);
    match (labels.as_i64(), labels.as_f32()) {
        (Some(labels), _) => {
            best.zip(labels).filter(|&(best, &label)| i64::try_from(best) == Ok(label)).count()
        }
        (None, Some(targets)) => {
            best.zip(targets.chunks_exact(classes)).filter(|(b, t)| *b == argmax(t)).count()
        }
        (None, None) => 0,
    }
}
