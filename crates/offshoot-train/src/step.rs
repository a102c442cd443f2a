//! One training step: the very one that `offshoot train` repeats and `offshoot bench train` times.

use std::collections::BTreeMap;

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::passes::{
    CLASS_WEIGHTS, KEYS, LABELS, LOSS, LOSS_SCALE, LossOptions, TrainingGraph, autocast, fold_batch_norm,
    gradient_output, state_output, training_graph,
};
use offshoot_graph::{Executor, Graph, Model, Session, Tensor, Weights};

use crate::amp::{Amp, GradScaler};
use crate::fingerprint;
use crate::freeze::{FreezeError, check_matches};
use crate::groups::{GroupOptions, GroupRow, groups};
use crate::inference::{Inference, NetworkError};
use crate::metrics::argmax;
use crate::optimizer::{
    Clip, Group, Optimizer, OptimizerOptions, StateError, Update, UpdateError, sum_of_squares,
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
        "{problem}. The step was refused and no weight has changed. Lower --lr, and look for broken values in the \
         weights and in the preprocessing's mean and std"
    )]
    NotFinite {
        /// What is not finite, with the parameter's name.
        problem: String,
    },
    /// A gradient of the wrong size.
    #[error(transparent)]
    Update(UpdateError),
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

/// The gradients of several batches.
#[derive(Default)]
struct GradientSum {
    /// Of each trained parameter: the sum over the batches of weight times gradient.
    gradients: BTreeMap<String, Vec<f32>>,
    /// The sum of the weights.
    weight: f64,
}

/// A model in training.
///
/// Where everything before one value of the graph is frozen and the same in every epoch, that part runs as a
/// network of its own ([`TrainStep::features`]) and only the rest is differentiated. The features of a picture do not depend on
/// the pictures beside it, so keeping them instead of computing them again changes no bit.
pub struct TrainStep {
    /// The model as it is saved, without what steps change: that is in `weights` alone, as a second owner would make every
    /// step copy it.
    model: Model,
    prefix: Option<Inference>,
    /// From the border to the logits: what evaluation runs after the prefix.
    suffix: Graph,
    session: Box<dyn Session>,
    /// What the session reads: frozen batch norms folded away.
    weights: Weights,
    input: String,
    trained: Vec<String>,
    states: Vec<String>,
    optimizer: Optimizer,
    table: Vec<GroupRow>,
    clip: Clip,
    class_weights: Option<Tensor>,
    has_dropout: bool,
    scaler: Option<GradScaler>,
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
        let TrainingGraph { graph, trained, states } =
            training_graph(&network, options.loss()).map_err(NetworkError::from)?;
        if trained.is_empty() {
            return Err(StepError::NothingToTrain);
        }
        let session = executor.prepare(&graph, &weights).map_err(NetworkError::from)?;
        let (mut groups, table) = groups(&model.graph, &options.rates);
        for group in &mut groups {
            group.names.retain(|name| trained.contains(name));
        }
        let optimizer = Optimizer::new(options.optimizer, groups, &weights);
        let has_dropout = graph.inputs().iter().any(|&id| graph.value(id).name == KEYS);
        for name in trained.iter().chain(&states) {
            model.weights.remove(name);
        }
        Ok(TrainStep {
            model,
            prefix,
            suffix,
            session,
            weights,
            input,
            trained,
            states,
            optimizer,
            table,
            clip: options.clip,
            class_weights: options.class_weights_input(),
            has_dropout,
            scaler: options.amp.scaler(),
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
        let TrainStep { optimizer, scaler, session, prefix, weights, model: old, .. } = self;
        // Before the next ones ask for their memory, and so that the model alone owns its weights.
        drop((session, prefix, weights, old));
        mark(&mut model.graph)?;
        let mut step = TrainStep::new(model, options, executor)?;
        match rebuild {
            Rebuild::New => step.optimizer.carry_on(&optimizer),
            Rebuild::All => {}
        }
        step.scaler = scaler;
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
        let features = prefix.run(&images)?;
        Ok(Tensor::f32(features.shape, features.data.to_vec()))
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
        let (loss, correct) = self.differentiate(features, labels, keys)?;
        let report = self.update(None, factor)?;
        if !report.skipped {
            self.keep_statistics();
        }
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
        let statistics: Vec<Option<Tensor>> =
            self.states.iter().map(|n| self.weights.get(n).cloned()).collect();
        let report = self.accumulate(batches).and_then(|(sum, loss, correct)| {
            let report = self.update(Some(&sum), factor)?;
            Ok(StepReport { loss, correct, ..report })
        });
        if !matches!(report, Ok(StepReport { skipped: false, .. })) {
            for (name, before) in self.states.iter().zip(statistics) {
                self.weights.extend(before.map(|before| (name.clone(), before)));
            }
        }
        report
    }

    /// The sum of the gradients, the loss over all pictures, and how many were classified correctly.
    fn accumulate(&mut self, batches: &[Batch]) -> Result<(GradientSum, f32, usize), StepError> {
        let mut sum = GradientSum::default();
        let (mut loss, mut correct) = (0.0, 0);
        for Batch { features, labels, keys } in batches {
            let (batch_loss, batch_correct) = self.differentiate(features, labels, keys)?;
            let weight = self.weight_of(labels);
            sum.weight += f64::from(weight);
            loss += f64::from(weight) * f64::from(batch_loss);
            correct += batch_correct;
            for name in &self.trained {
                let gradient = output(&*self.session, &gradient_output(name));
                let total = sum.gradients.entry(name.clone()).or_insert_with(|| vec![0.0; gradient.len()]);
                total.iter_mut().zip(gradient).for_each(|(total, &g)| *total += weight * g);
            }
            self.keep_statistics();
        }
        let loss = (loss / sum.weight) as f32;
        Ok((sum, loss, correct))
    }

    /// What the mean over these pictures was divided by: their number, or the sum of their classes' weights.
    fn weight_of(&self, labels: &Tensor) -> f32 {
        let weights = self.class_weights.as_ref().and_then(Tensor::as_f32);
        let (Some(weights), Some(labels)) = (weights, labels.as_i64()) else {
            return labels.shape()[0] as f32;
        };
        labels.iter().filter_map(|&label| weights.get(usize::try_from(label).ok()?)).sum()
    }

    /// Runs the network forwards and backwards. Gives the loss and the number of pictures classified correctly.
    fn differentiate(
        &mut self,
        features: &Tensor,
        labels: &Tensor,
        keys: &Tensor,
    ) -> Result<(f32, usize), StepError> {
        let mut inputs = vec![(self.input.as_str(), features), (LABELS, labels)];
        if self.has_dropout {
            inputs.push((KEYS, keys));
        }
        if let Some(weights) = &self.class_weights {
            inputs.push((CLASS_WEIGHTS, weights));
        }
        let scale = self.scaler.as_ref().map(|scaler| Tensor::full([], scaler.scale()));
        inputs.extend(scale.as_ref().map(|scale| (LOSS_SCALE, scale)));
        self.session.run(&inputs, &self.weights).map_err(NetworkError::from)?;
        let loss = output(&*self.session, LOSS)[0];
        self.check_finite(loss)?;
        let correct = count_correct(output(&*self.session, OUTPUT), labels);
        Ok((loss, correct))
    }

    /// Updates the weights with `sum`, or with the gradients of the last run.
    fn update(&mut self, sum: Option<&GradientSum>, factor: f64) -> Result<StepReport, StepError> {
        let session = &*self.session;
        let gradient = |name: &str| match sum {
            Some(sum) => sum.gradients.get(name).map(Vec::as_slice),
            None => session.output(&gradient_output(name)).map(|view| view.data),
        };
        let mean = sum.map_or(1.0, |sum| (1.0 / sum.weight) as f32);
        let unscale = self.scaler.as_ref().map_or(1.0, GradScaler::inverse) * mean;
        let update = Update { factor, unscale, clip: self.clip };
        let updated = self.optimizer.update(&mut self.weights, gradient, update);
        let mut report = StepReport { loss: 0.0, correct: 0, gradient_norm: f64::INFINITY, skipped: true };
        if let (Some(scaler), Err(UpdateError::NotFiniteGradient(_))) = (&mut self.scaler, &updated)
            && scaler.scale() >= 1.0
        {
            scaler.update(true);
            return Ok(report);
        }
        (report.gradient_norm, report.skipped) = (updated.map_err(|error| self.refused(error))?, false);
        self.scaler.iter_mut().for_each(|scaler| scaler.update(false));
        Ok(report)
    }

    /// Takes over the running statistics of the last run.
    fn keep_statistics(&mut self) {
        for name in &self.states {
            if let Some(state) = self.weights.get_mut(name).and_then(Tensor::as_f32_mut) {
                state.copy_from_slice(output(&*self.session, &state_output(name)));
            }
        }
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
        model.weights.extend(self.moving_tensors().map(|(name, tensor)| (name.clone(), tensor.clone())));
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

    fn moving_tensors(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        let names = self.trained.iter().chain(&self.states);
        names.filter_map(|name| Some((name, self.weights.get(name)?)))
    }

    /// What steps change of the model: trained parameters and running statistics.
    pub fn moving(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.moving_tensors().filter_map(|(name, tensor)| Some((name.as_str(), tensor.as_f32()?)))
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
            let weights = group.names.iter().filter_map(|name| self.weights.get(name)?.as_f32());
            (row.name.as_str(), weights.map(sum_of_squares).sum::<f64>().sqrt())
        })
    }

    /// The parameters whose gradient was exactly 0 in the last update.
    pub fn silent(&self) -> &[String] {
        self.optimizer.silent()
    }

    /// The weights that steps change, without the running statistics.
    pub fn trained(&self) -> Weights {
        let trained = self.trained.iter();
        trained.filter_map(|name| Some((name.clone(), self.weights.get(name)?.clone()))).collect()
    }

    /// The 2-norm of the difference of each group's weights from those that [`TrainStep::trained`] gave, with names as in
    /// [`TrainStep::gradient_norms`].
    pub fn change_norms(&self, before: &Weights) -> impl Iterator<Item = (&str, f64)> {
        let change = |name: &String| {
            let (now, before) = (self.weights.get(name)?.as_f32()?, before.get(name)?.as_f32()?);
            Some(now.iter().zip(before).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>())
        };
        self.table.iter().zip(self.optimizer.groups()).map(move |(row, group)| {
            (row.name.as_str(), group.names.iter().filter_map(change).sum::<f64>().sqrt())
        })
    }

    /// What the loss is multiplied by, where mixed precision needs that.
    pub fn loss_scale(&self) -> Option<f32> {
        self.scaler.as_ref().map(GradScaler::scale)
    }

    /// Everything that steps change: `model.NAME`, `optimizer.NAME.exp_avg`, ..., `scaler.scale`.
    pub fn state(&self) -> Weights {
        let model = self.moving_tensors().map(|(name, tensor)| (format!("model.{name}"), tensor.clone()));
        let optimizer = self.optimizer.state();
        let scaler = self.scaler.iter().flat_map(GradScaler::state);
        let scaler = scaler.map(|(name, t)| (format!("scaler.{name}"), t));
        let optimizer = optimizer.into_iter().map(|(name, t)| (format!("optimizer.{name}"), t));
        model.chain(optimizer).chain(scaler).collect()
    }

    /// Takes over what [`TrainStep::state`] gave.
    ///
    /// # Errors
    /// When it is the state of another model or optimizer; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<(), StepError> {
        let moving = self.trained.iter().chain(&self.states);
        let fits = |name: &String| {
            let saved = state.get(&format!("model.{name}"));
            let fits = saved.filter(|t| self.weights.get(name).is_some_and(|w| w.shape() == t.shape()));
            let found = fits.filter(|t| t.as_f32().is_some()).map(|t| (name.clone(), t.clone()));
            found.ok_or_else(|| StepError::State(format!("it has no `model.{name}` of the right shape")))
        };
        let model: Vec<(String, Tensor)> = moving.map(fits).collect::<Result<_, _>>()?;
        let mut scaler = self.scaler.clone();
        if let Some(scaler) = &mut scaler {
            scaler.load_state(&under(state, "scaler."))?;
        }
        self.optimizer.load_state(&under(state, "optimizer."))?;
        self.scaler = scaler;
        self.weights.extend(model);
        Ok(())
    }

    /// Checks the loss and the running statistics of the last run. The optimizer checks the gradients.
    fn check_finite(&self, loss: f32) -> Result<(), StepError> {
        let session = &*self.session;
        let problem = if !loss.is_finite() {
            match first_broken(session, &self.trained, gradient_output) {
                Some(name) => {
                    format!("the loss is {loss}; the first gradient that is not finite is that of `{name}`")
                }
                None => format!("the loss is {loss}"),
            }
        } else if let Some(name) = first_broken(session, &self.states, state_output) {
            format!("the running statistic `{name}` would not be finite")
        } else {
            return Ok(());
        };
        Err(StepError::NotFinite { problem })
    }

    fn refused(&self, error: UpdateError) -> StepError {
        let problem = match error {
            UpdateError::Gradient(_) => return StepError::Update(error),
            UpdateError::NotFiniteValue(_) => error.to_string(),
            // The optimizer goes by the alphabet; the network's order says more.
            UpdateError::NotFiniteGradient(_) => {
                match first_broken(&*self.session, &self.trained, gradient_output) {
                    Some(name) => UpdateError::NotFiniteGradient(name.clone()).to_string(),
                    None => error.to_string(),
                }
            }
        };
        StepError::NotFinite { problem }
    }
}

/// What `state` holds under names that start with `prefix`.
pub(crate) fn under(state: &Weights, prefix: &str) -> Weights {
    let found = state.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())));
    found.collect()
}

/// The first of `names` whose output is not finite.
fn first_broken<'n>(
    session: &dyn Session,
    names: &'n [String],
    of: impl Fn(&str) -> String,
) -> Option<&'n String> {
    names.iter().find(|name| output(session, &of(name)).iter().any(|x| !x.is_finite()))
}

/// An output of a session's last run.
fn output<'s>(session: &'s dyn Session, name: &str) -> &'s [f32] {
    session.output(name).expect("a session that ran has the graph's outputs").data
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
