//! SGD, Adam and AdamW, step for step what `torch.optim` computes.
//!
//! Scalars are f64 and become f32 where they meet a tensor, as in PyTorch.

use std::collections::BTreeMap;

pub use offshoot_graph::op::GradientClip as Clip;
use offshoot_graph::op::{AdamRates, RATES, SgdRates};
use offshoot_graph::passes::{UpdateRule, moment_parameter};
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

/// A gradient that is infinite or not a number, of the parameter of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gradient of `{0}` is not finite")]
pub struct NotFiniteGradient(pub String);

/// A saved state that belongs to another optimizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved optimizer state has no usable `{0}` of the size that this optimizer needs")]
pub struct StateError(pub String);

/// What the rates of one parameter depend on.
#[derive(Clone, Copy, Debug)]
struct Slot {
    group: usize,
    /// Updates so far.
    step: u64,
    /// Elements.
    len: usize,
}

/// The rates of an update rule. The rule itself and its moments belong to the session that runs the step's graph
/// ([`offshoot_graph::passes::step_graph`]).
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

impl Optimizer {
    /// An optimizer of the parameters in `groups`, which are f32 tensors of `weights`.
    pub fn new(options: OptimizerOptions, groups: Vec<Group>, weights: &Weights) -> Optimizer {
        let mut slots = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            for name in &group.names {
                let len = weights.get(name).map_or(0, Tensor::len);
                slots.insert(name.clone(), Slot { group: index, step: 0, len });
            }
        }
        let norms = vec![0.0; groups.len()];
        Optimizer { options, groups, slots, norms, silent: Vec::new() }
    }

    /// The operator of the graph that makes the updates.
    pub fn rule(&self) -> UpdateRule {
        match self.options.kind {
            OptimizerKind::Sgd => UpdateRule::Sgd { nesterov: self.options.nesterov },
            OptimizerKind::Adam | OptimizerKind::AdamW => UpdateRule::Adam,
        }
    }

    /// The moments before the first update, as the graph's parameters.
    pub fn moments(&self) -> Weights {
        let keys = self.slots.iter().flat_map(|(name, slot)| self.keys(name, slot.len));
        keys.map(|(_, parameter, len)| (parameter, Tensor::zeros([len]))).collect()
    }

    /// Of each moment of a parameter: its name in a saved state, that in the graph, and its length.
    fn keys(&self, name: &str, len: usize) -> impl Iterator<Item = (String, String, usize)> {
        let moments = self.rule().moments().iter();
        moments.map(move |moment| (format!("{name}.{moment}"), moment_parameter(name, moment), len))
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

    /// Takes over the count of updates of each parameter that `old`, of the same kind, has too. The rates stay these. Gives
    /// the moments that are to be taken over with it, by their names in the graph.
    pub fn carry_on(&mut self, old: &Optimizer) -> Vec<String> {
        let mut moments = Vec::new();
        let kind = self.options.kind;
        for (name, before) in old.slots.iter().filter(|_| old.options.kind == kind) {
            let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.len == before.len) else { continue };
            slot.step = before.step;
            moments.extend(self.keys(name, before.len).map(|(_, parameter, _)| parameter));
        }
        moments
    }

    /// The rates of the next update, at `factor` times those of the groups: f32 [p, 8], the parameters by their names.
    pub fn rates(&self, factor: f64) -> Tensor {
        let rows: Vec<f32> = self.slots.values().flat_map(|slot| self.row(slot, factor)).collect();
        Tensor::f32([self.slots.len(), RATES], rows)
    }

    fn row(&self, slot: &Slot, factor: f64) -> [f32; RATES] {
        let OptimizerOptions { kind, momentum, betas, epsilon, nesterov: _ } = self.options;
        let group = &self.groups[slot.group];
        let lr = group.lr * factor;
        if kind == OptimizerKind::Sgd {
            let (decay, momentum) = (group.weight_decay as f32, momentum as f32);
            return SgdRates { lr: lr as f32, decay, momentum }.to_row();
        }
        let step = i32::try_from(slot.step + 1).unwrap_or(i32::MAX);
        let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powi(step));
        let decoupled = kind == OptimizerKind::AdamW;
        let rates = AdamRates {
            decay: if decoupled { 0.0 } else { group.weight_decay as f32 },
            shrink: if decoupled { (1.0 - lr * group.weight_decay) as f32 } else { 1.0 },
            mix1: (1.0 - betas[0]) as f32,
            beta2: betas[1] as f32,
            mix2: (1.0 - betas[1]) as f32,
            correction: correction2.sqrt() as f32,
            epsilon: epsilon as f32,
            step_size: (lr / correction1) as f32,
        };
        rates.to_row()
    }

    /// The first parameter whose gradient is not finite, given the sums of the squares of all.
    pub fn not_finite<'s>(&'s self, squares: &[f64]) -> Option<&'s str> {
        let mut pairs = self.slots.keys().zip(squares);
        pairs.find(|(_, sum)| !sum.is_finite()).map(|(name, _)| name.as_str())
    }

    /// Takes in that an update was made, with gradients whose sums of squares are `squares`, each element multiplied by
    /// `unscale`. Returns the 2-norm of all of them together.
    pub fn updated(&mut self, squares: &[f64], unscale: f32) -> f64 {
        let (mut all, mut by_group) = (0.0, vec![0.0; self.groups.len()]);
        self.silent.clear();
        for ((name, slot), &sum) in self.slots.iter_mut().zip(squares) {
            all += sum;
            by_group[slot.group] += sum;
            slot.step += 1;
            if sum == 0.0 {
                self.silent.push(name.clone());
            }
        }
        self.norms = by_group.into_iter().map(|sum: f64| sum.sqrt() * f64::from(unscale)).collect();
        all.sqrt() * f64::from(unscale)
    }

    /// The state as f32 tensors, under PyTorch's names: `NAME.momentum_buffer`, or `NAME.exp_avg` and
    /// `NAME.exp_avg_sq`; and `NAME.step`. `moment` gives a parameter of the graph.
    pub fn state(&self, moment: impl Fn(&str) -> Option<Tensor>) -> Weights {
        let mut state = Weights::new();
        for (name, slot) in &self.slots {
            state.insert(format!("{name}.step"), Tensor::full([], slot.step as f32));
            for (key, parameter, _) in self.keys(name, slot.len) {
                state.extend(moment(&parameter).map(|moment| (key, moment)));
            }
        }
        state
    }

    /// Takes over what [`Optimizer::state`] gave, and returns the moments, by their names in the graph.
    ///
    /// # Errors
    /// When `state` lacks a tensor or has one of another size; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<Weights, StateError> {
        let mut slots = self.slots.clone();
        let mut moments = Weights::new();
        for (name, slot) in &mut slots {
            let read = |key: String, len: usize| {
                let fits = |t: &&Tensor| t.as_f32().is_some_and(|data| data.len() == len);
                state.get(&key).filter(fits).cloned().ok_or(StateError(key))
            };
            let step = read(format!("{name}.step"), 1)?.as_f32().map_or(-1.0, |step| step[0]);
            if !(0.0..=MAX_STEPS).contains(&step) {
                return Err(StateError(format!("{name}.step")));
            }
            slot.step = step as u64;
            for (key, parameter, len) in self.keys(name, slot.len) {
                let moment = read(key.clone(), len)?.reshape([len]).map_err(|_| StateError(key))?;
                moments.insert(parameter, moment);
            }
        }
        self.slots = slots;
        Ok(moments)
    }
}

/// In f64, chunk by chunk and then over the chunks: bit-identical for any number of threads.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let chunk = |chunk: &[f32]| chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    values.par_chunks(CHUNK).map(chunk).collect::<Vec<f64>>().into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_parameter(kind: OptimizerKind, weights: &Weights) -> Optimizer {
        let group = Group { names: vec!["w".into()], lr: 0.1, weight_decay: 0.0 };
        Optimizer::new(OptimizerOptions::new(kind), vec![group], weights)
    }

    #[test]
    fn a_state_of_another_optimizer_is_refused() {
        let weights = Weights::from([("w".to_string(), Tensor::zeros([2]))]);
        let state = |optimizer: &Optimizer| {
            let moments = optimizer.moments();
            optimizer.state(|name| moments.get(name).cloned())
        };
        let mut adam = one_parameter(OptimizerKind::AdamW, &weights);
        let sgd = state(&one_parameter(OptimizerKind::Sgd, &weights));
        assert_eq!(adam.load_state(&sgd), Err(StateError("w.exp_avg".into())));
        for step in [f32::NAN, f32::INFINITY, -1.0] {
            let mut state = state(&adam);
            state.insert("w.step".into(), Tensor::full([], step));
            assert_eq!(adam.load_state(&state), Err(StateError("w.step".into())));
        }
        let mut longer = state(&adam);
        longer.insert("w.exp_avg".into(), Tensor::zeros([3]));
        assert_eq!(adam.load_state(&longer), Err(StateError("w.exp_avg".into())));
        assert_eq!(adam.load_state(&state(&adam)).unwrap(), adam.moments());
    }

    #[test]
    fn norms_are_those_of_the_groups_and_parameters_without_a_gradient_are_named() {
        let group = |names: &[&str]| Group {
            names: names.iter().map(|name| name.to_string()).collect(),
            lr: 0.1,
            weight_decay: 0.0,
        };
        let groups = vec![group(&["a", "d"]), group(&["b", "c"])];
        let options = OptimizerOptions::new(OptimizerKind::Sgd);
        let mut optimizer = Optimizer::new(options, groups, &Weights::new());
        assert_eq!(optimizer.updated(&[9.0, 0.0, 144.0, 16.0], 0.5), 6.5);
        assert_eq!((optimizer.norms(), optimizer.silent()), (&[2.5, 6.0][..], &["b".to_string()][..]));
        assert_eq!(optimizer.updated(&[0.0, 4.0, 0.0, 0.0], 2.0), 4.0);
        assert_eq!(
            (optimizer.norms(), optimizer.silent()),
            (&[0.0, 4.0][..], &["a", "c", "d"].map(String::from)[..])
        );
        assert_eq!(optimizer.not_finite(&[0.0, f64::INFINITY, f64::NAN, 0.0]), Some("b"));
        assert_eq!(optimizer.not_finite(&[0.0; 4]), None);
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
