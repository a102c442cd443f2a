//! SGD, Adam and AdamW, step for step what `torch.optim` computes.
//!
//! Scalars are f64 and become f32 where they meet a tensor, as in PyTorch.

use std::collections::BTreeMap;

use offshoot_graph::{Tensor, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Elements that one task updates. Fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// More steps than any run makes.
const MAX_STEPS: f32 = 1e12;

/// Which update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// `torch.optim.SGD`, dampening 0; weight decay is added to the gradient.
    Sgd,
    /// `torch.optim.Adam`; weight decay is added to the gradient.
    Adam,
    /// `torch.optim.AdamW`; weight decay shrinks the weights themselves.
    AdamW,
}

/// The numbers of an update rule, PyTorch's defaults by [`OptimizerOptions::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerOptions {
    /// The rule.
    pub kind: OptimizerKind,
    /// For SGD: the fraction of the last update in the next one, 0..1.
    pub momentum: f64,
    /// For SGD: whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// For Adam and AdamW: the decay of the running mean of the gradient and of its square, 0..1.
    pub betas: [f64; 2],
    /// For Adam and AdamW: added to the denominator.
    pub epsilon: f64,
}

impl OptimizerOptions {
    /// No momentum, betas 0.9 and 0.999, epsilon 1e-8.
    pub fn new(kind: OptimizerKind) -> OptimizerOptions {
        OptimizerOptions { kind, momentum: 0.0, nesterov: false, betas: [0.9, 0.999], epsilon: 1e-8 }
    }
}

/// Parameters that share their rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The names of the parameters.
    pub names: Vec<String>,
    /// The learning rate before the schedule.
    pub lr: f64,
    /// The weight decay.
    pub weight_decay: f64,
}

/// What is done to gradients that are too large.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Clip {
    /// Nothing.
    #[default]
    Off,
    /// All are scaled down together where their common 2-norm is above this (`torch.nn.utils.clip_grad_norm_`).
    Norm(f64),
    /// Each element is limited to this size (`torch.nn.utils.clip_grad_value_`).
    Value(f64),
}

/// How an update is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Each group runs at this factor of its own rate.
    pub factor: f64,
    /// The gradients are multiplied by it first.
    pub unscale: f32,
    /// What is done to them then.
    pub clip: Clip,
}

impl Update {
    /// At `factor` times the rates, with gradients as they are.
    pub fn new(factor: f64) -> Update {
        Update { factor, unscale: 1.0, clip: Clip::Off }
    }

    /// What each element of a gradient goes through, where `norm` is the 2-norm of all of them, unscaled.
    fn change(&self, norm: f64) -> Change {
        let (factor, limit) = match self.clip {
            Clip::Off => (1.0, f32::INFINITY),
            Clip::Norm(most) => ((most / (norm + 1e-6)).min(1.0) as f32, f32::INFINITY),
            Clip::Value(most) => (1.0, most as f32),
        };
        Change { factor: self.unscale * factor, limit }
    }
}

/// A step that was refused: it would have left something that is not a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// A gradient that was not given, or has another length than its parameter.
    #[error("the parameter `{0}` has no gradient of its size")]
    Gradient(String),
    /// A gradient that is infinite or not a number.
    #[error("the gradient of `{0}` is not finite")]
    NotFiniteGradient(String),
    /// A new weight or moment that is infinite or not a number.
    #[error("the new value of `{0}` is not finite")]
    NotFiniteValue(String),
}

/// A saved state that belongs to another optimizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved optimizer state has no usable `{0}` of the size that this optimizer needs")]
pub struct StateError(pub String);

/// The state of one parameter.
#[derive(Clone, Debug)]
struct Slot {
    group: usize,
    /// Updates so far.
    step: u64,
    /// SGD's momentum, Adam's mean of the gradient.
    first: Vec<f32>,
    /// Adam's mean of the squared gradient; empty for SGD.
    second: Vec<f32>,
}

/// An update rule and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    options: OptimizerOptions,
    groups: Vec<Group>,
    slots: BTreeMap<String, Slot>,
    /// Of the last update: the 2-norm of each group's gradient.
    norms: Vec<f64>,
    /// Of the last update: the parameters whose gradient was exactly 0.
    silent: Vec<String>,
}

/// What the gradients of an update are like, before anything is done to them.
struct Measured {
    /// The 2-norm of all together.
    norm: f64,
    /// That of each group.
    by_group: Vec<f64>,
    /// The parameters whose gradient is exactly 0.
    silent: Vec<String>,
}

impl Optimizer {
    /// An optimizer of the parameters in `groups`, which are f32 tensors of `weights`. A name that `weights` lacks is
    /// refused by the first [`Optimizer::step`].
    pub fn new(options: OptimizerOptions, groups: Vec<Group>, weights: &Weights) -> Optimizer {
        let mut slots = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            for name in &group.names {
                let len = weights.get(name).map_or(0, Tensor::len);
                let second = if options.kind == OptimizerKind::Sgd { 0 } else { len };
                let slot = Slot { group: index, step: 0, first: vec![0.0; len], second: vec![0.0; second] };
                slots.insert(name.clone(), slot);
            }
        }
        let norms = vec![0.0; groups.len()];
        Optimizer { options, groups, slots, norms, silent: Vec::new() }
    }

    /// The groups of parameters.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The 2-norm of each group's gradient in the last update that was made, unscaled and before clipping.
    pub fn norms(&self) -> &[f64] {
        &self.norms
    }

    /// The parameters whose gradient was exactly 0 in the last update that was made.
    pub fn silent(&self) -> &[String] {
        &self.silent
    }

    /// Takes over the moments and the count of updates of each parameter that `old`, of the same kind, has too. The rates
    /// stay these.
    pub fn carry_on(&mut self, old: &Optimizer) {
        for (name, slot) in &mut self.slots {
            let before = old.slots.get(name).filter(|_| old.options.kind == self.options.kind);
            if let Some(before) = before.filter(|before| before.first.len() == slot.first.len()) {
                *slot = Slot { group: slot.group, ..before.clone() };
            }
        }
    }

    /// Updates all parameters, each group at `factor` times its own rate, or changes nothing and says why. Returns
    /// the 2-norm of all gradients together.
    ///
    /// # Errors
    /// When a gradient is missing or not finite, or an update would not be.
    pub fn step<'g>(
        &mut self,
        weights: &mut Weights,
        gradient: impl Fn(&str) -> Option<&'g [f32]>,
        factor: f64,
    ) -> Result<f64, UpdateError> {
        self.update(weights, gradient, Update::new(factor))
    }

    /// [`Optimizer::step`] with gradients that are unscaled and clipped. The norm is that before clipping.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn update<'g>(
        &mut self,
        weights: &mut Weights,
        gradient: impl Fn(&str) -> Option<&'g [f32]>,
        update: Update,
    ) -> Result<f64, UpdateError> {
        let Measured { norm, by_group, silent } = self.measure(weights, &gradient)?;
        let norm = norm * f64::from(update.unscale);
        let change = update.change(norm);
        for (name, slot) in &self.slots {
            let given = (weights.get(name).and_then(Tensor::as_f32), gradient(name));
            let (Some(weight), Some(gradient)) = given else { continue };
            if !self.rule(slot, change, update.factor).stays_finite(weight, gradient, slot) {
                return Err(UpdateError::NotFiniteValue(name.clone()));
            }
        }
        for (name, mut slot) in std::mem::take(&mut self.slots) {
            let rule = self.rule(&slot, change, update.factor);
            if let (Some(weight), Some(gradient)) =
                (weights.get_mut(&name).and_then(Tensor::as_f32_mut), gradient(&name))
            {
                rule.update(weight, gradient, &mut slot);
            }
            slot.step += 1;
            self.slots.insert(name, slot);
        }
        self.norms = by_group.into_iter().map(|norm| norm * f64::from(update.unscale)).collect();
        self.silent = silent;
        Ok(norm)
    }

    /// Measures the gradients. Each must be there, of its parameter's size, and finite.
    fn measure<'g>(
        &self,
        weights: &Weights,
        gradient: impl Fn(&str) -> Option<&'g [f32]>,
    ) -> Result<Measured, UpdateError> {
        let (mut squares, mut by_group) = (0.0, vec![0.0; self.groups.len()]);
        let mut silent = Vec::new();
        for (name, slot) in &self.slots {
            let given = (weights.get(name).and_then(Tensor::as_f32), gradient(name));
            let (Some(weight), Some(gradient)) = given else {
                return Err(UpdateError::Gradient(name.clone()));
            };
            if weight.len() != gradient.len() || weight.len() != slot.first.len() {
                return Err(UpdateError::Gradient(name.clone()));
            }
            let norm = sum_of_squares(gradient);
            if !norm.is_finite() {
                return Err(UpdateError::NotFiniteGradient(name.clone()));
            }
            squares += norm;
            by_group[slot.group] += norm;
            if norm == 0.0 {
                silent.push(name.clone());
            }
        }
        let by_group = by_group.into_iter().map(f64::sqrt).collect();
        Ok(Measured { norm: squares.sqrt(), by_group, silent })
    }

    /// The state as f32 tensors, under PyTorch's names: `NAME.momentum_buffer`, or `NAME.exp_avg` and
    /// `NAME.exp_avg_sq`; and `NAME.step`.
    pub fn state(&self) -> Weights {
        let mut state = Weights::new();
        for (name, slot) in &self.slots {
            state.insert(format!("{name}.step"), Tensor::full([], slot.step as f32));
            for (suffix, moment) in moments(self.options.kind, [&slot.first, &slot.second]) {
                state.insert(format!("{name}.{suffix}"), Tensor::f32([moment.len()], moment.clone()));
            }
        }
        state
    }

    /// Takes over what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// When `state` lacks a tensor or has one of another size; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<(), StateError> {
        let kind = self.options.kind;
        let mut slots = self.slots.clone();
        for (name, slot) in &mut slots {
            let read = |suffix: &str, len: usize| {
                let key = format!("{name}.{suffix}");
                let found = state.get(&key).and_then(Tensor::as_f32).filter(|data| data.len() == len);
                found.ok_or(StateError(key))
            };
            let step = read("step", 1)?[0];
            if !(0.0..=MAX_STEPS).contains(&step) {
                return Err(StateError(format!("{name}.step")));
            }
            slot.step = step as u64;
            for (suffix, moment) in moments(kind, [&mut slot.first, &mut slot.second]) {
                let len = moment.len();
                moment.copy_from_slice(read(suffix, len)?);
            }
        }
        self.slots = slots;
        Ok(())
    }

    fn rule(&self, slot: &Slot, change: Change, factor: f64) -> Rule {
        let OptimizerOptions { kind, momentum, nesterov, betas, epsilon } = self.options;
        let group = &self.groups[slot.group];
        let lr = group.lr * factor;
        if kind == OptimizerKind::Sgd {
            return Rule::Sgd(Sgd {
                change,
                lr: lr as f32,
                decay: group.weight_decay as f32,
                momentum: momentum as f32,
                ahead: if nesterov { momentum as f32 } else { 0.0 },
                nesterov,
            });
        }
        let step = i32::try_from(slot.step + 1).unwrap_or(i32::MAX);
        let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powi(step));
        let decoupled = kind == OptimizerKind::AdamW;
        Rule::Adam(Adam {
            change,
            decay: if decoupled { 0.0 } else { group.weight_decay as f32 },
            shrink: if decoupled { (1.0 - lr * group.weight_decay) as f32 } else { 1.0 },
            mix1: (1.0 - betas[0]) as f32,
            beta2: betas[1] as f32,
            mix2: (1.0 - betas[1]) as f32,
            correction: correction2.sqrt() as f32,
            epsilon: epsilon as f32,
            step_size: (lr / correction1) as f32,
        })
    }
}

/// The moments that a rule has, by PyTorch's names.
fn moments<T>(kind: OptimizerKind, [first, second]: [T; 2]) -> Vec<(&'static str, T)> {
    match kind {
        OptimizerKind::Sgd => vec![("momentum_buffer", first)],
        OptimizerKind::Adam | OptimizerKind::AdamW => vec![("exp_avg", first), ("exp_avg_sq", second)],
    }
}

/// In f64, chunk by chunk and then over the chunks: bit-identical for any number of threads.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let chunk = |chunk: &[f32]| chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    values.par_chunks(CHUNK).map(chunk).collect::<Vec<f64>>().into_iter().sum()
}

/// What a gradient goes through before it is used.
#[derive(Clone, Copy)]
struct Change {
    factor: f32,
    limit: f32,
}

impl Change {
    #[inline]
    fn of(self, gradient: f32) -> f32 {
        (gradient * self.factor).clamp(-self.limit, self.limit)
    }
}

/// The update of one parameter in one step.
enum Rule {
    Sgd(Sgd),
    Adam(Adam),
}

#[derive(Clone, Copy)]
struct Sgd {
    change: Change,
    lr: f32,
    decay: f32,
    momentum: f32,
    ahead: f32,
    nesterov: bool,
}

impl Sgd {
    /// The new (weight, momentum).
    #[inline]
    fn next(self, weight: f32, gradient: f32, buffer: f32) -> (f32, f32) {
        let gradient = self.change.of(gradient) + self.decay * weight;
        let buffer = buffer * self.momentum + gradient;
        let direction = if self.nesterov { gradient + self.ahead * buffer } else { buffer };
        (weight - self.lr * direction, buffer)
    }
}

#[derive(Clone, Copy)]
struct Adam {
    change: Change,
    decay: f32,
    shrink: f32,
    mix1: f32,
    beta2: f32,
    mix2: f32,
    correction: f32,
    epsilon: f32,
    step_size: f32,
}

impl Adam {
    /// The new (weight, mean, mean of squares).
    #[inline]
    fn next(self, weight: f32, gradient: f32, mean: f32, square: f32) -> (f32, f32, f32) {
        let gradient = self.change.of(gradient) + self.decay * weight;
        let weight = weight * self.shrink;
        let mean = mean + self.mix1 * (gradient - mean);
        let square = square * self.beta2 + self.mix2 * gradient * gradient;
        let denominator = square.sqrt() / self.correction + self.epsilon;
        (weight - self.step_size * (mean / denominator), mean, square)
    }
}

impl Rule {
    /// Whether [`Rule::update`] would leave finite numbers only.
    fn stays_finite(&self, weight: &[f32], gradient: &[f32], slot: &Slot) -> bool {
        let pairs = weight.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK));
        let pairs = pairs.zip(slot.first.par_chunks(CHUNK));
        match *self {
            Rule::Sgd(rule) => pairs.all(|((w, g), m)| {
                let finite = w.iter().zip(g).zip(m).map(|((&w, &g), &m)| {
                    let (w, m) = rule.next(w, g, m);
                    w.is_finite() & m.is_finite()
                });
                finite.fold(true, |all, one| all & one)
            }),
            Rule::Adam(rule) => pairs.zip(slot.second.par_chunks(CHUNK)).all(|(((w, g), m), v)| {
                let finite = w.iter().zip(g).zip(m).zip(v).map(|(((&w, &g), &m), &v)| {
                    let (w, m, v) = rule.next(w, g, m, v);
                    w.is_finite() & m.is_finite() & v.is_finite()
                });
                finite.fold(true, |all, one| all & one)
            }),
        }
    }

    fn update(&self, weight: &mut [f32], gradient: &[f32], slot: &mut Slot) {
        let pairs = weight.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        let pairs = pairs.zip(slot.first.par_chunks_mut(CHUNK));
        match *self {
            Rule::Sgd(rule) => pairs.for_each(|((w, g), m)| {
                for ((w, &g), m) in w.iter_mut().zip(g).zip(m) {
                    (*w, *m) = rule.next(*w, g, *m);
                }
            }),
            Rule::Adam(rule) => pairs.zip(slot.second.par_chunks_mut(CHUNK)).for_each(|(((w, g), m), v)| {
                for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                    (*w, *m, *v) = rule.next(*w, g, *m, *v);
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_parameter(kind: OptimizerKind, lr: f64, weights: &Weights) -> Optimizer {
        let group = Group { names: vec!["w".into()], lr, weight_decay: 0.0 };
        Optimizer::new(OptimizerOptions::new(kind), vec![group], weights)
    }

    #[test]
    fn a_refused_step_changes_nothing() {
        let before = Weights::from([("w".to_string(), Tensor::f32([2], vec![1.0, 3e38]))]);
        let mut weights = before.clone();
        let mut optimizer = one_parameter(OptimizerKind::Sgd, 1.0, &weights);
        let state = optimizer.state();
        let mut step = |gradient: &[f32]| optimizer.step(&mut weights, |_| Some(gradient), 1.0).unwrap_err();
        assert_eq!(step(&[1.0, f32::NAN]), UpdateError::NotFiniteGradient("w".into()));
        assert_eq!(step(&[1.0, -3e38]), UpdateError::NotFiniteValue("w".into()));
        assert_eq!(step(&[1.0]), UpdateError::Gradient("w".into()));
        assert_eq!((weights, optimizer.state()), (before, state));
    }

    #[test]
    fn a_restored_state_goes_on_with_the_same_bits() {
        let start = Weights::from([("w".to_string(), Tensor::f32([3], vec![0.5, -0.25, 2.0]))]);
        let gradient = [0.1, -0.7, 0.3];
        for kind in [OptimizerKind::Sgd, OptimizerKind::Adam, OptimizerKind::AdamW] {
            let (mut whole, mut weights) = (one_parameter(kind, 0.1, &start), start.clone());
            for _ in 0..3 {
                whole.step(&mut weights, |_| Some(&gradient), 1.0).unwrap();
            }
            let mut resumed = one_parameter(kind, 0.1, &start);
            resumed.load_state(&whole.state()).unwrap();
            let mut other = weights.clone();
            whole.step(&mut weights, |_| Some(&gradient), 0.5).unwrap();
            resumed.step(&mut other, |_| Some(&gradient), 0.5).unwrap();
            assert_eq!(weights, other);
        }
    }

    #[test]
    fn a_state_of_another_optimizer_is_refused() {
        let weights = Weights::from([("w".to_string(), Tensor::zeros([2]))]);
        let sgd = one_parameter(OptimizerKind::Sgd, 0.1, &weights);
        let mut adam = one_parameter(OptimizerKind::AdamW, 0.1, &weights);
        assert_eq!(adam.load_state(&sgd.state()), Err(StateError("w.exp_avg".into())));
        for step in [f32::NAN, f32::INFINITY, -1.0] {
            let mut state = adam.state();
            state.insert("w.step".into(), Tensor::full([], step));
            assert_eq!(adam.load_state(&state), Err(StateError("w.step".into())));
        }
    }

    #[test]
    fn the_norm_does_not_depend_on_the_number_of_threads() {
        let values: Vec<f32> = (0..100_000).map(|i| (i as f32).sin()).collect();
        let norm = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sum_of_squares(&values)).to_bits()
        };
        assert_eq!(norm(1), norm(3));
    }
}
