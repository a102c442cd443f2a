//! What a run changes when its steps are done: parameters get new values, all of them or none.

use bytemuck::cast_slice;
use offshoot_graph::op::{AdamRates, RATES, SgdRates, UpdateOp};
use offshoot_graph::{ExecuteError, Tensor};

use crate::kernels::update::{Adam, Change, Sgd, all_finite, average};
use crate::operands::{AnyOperand, Memory, Operand, Reads, Slot, bytes_of};

/// A rule that gives parameters new values in place.
pub(crate) struct Commit {
    /// The name of the first target.
    pub(crate) name: String,
    pub(crate) rule: Rule,
    /// The parameters, by their places in the graph.
    pub(crate) targets: Vec<usize>,
    /// What else the rule reads.
    pub(crate) reads: Vec<Read>,
}

/// What gives the new values.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// The value that a step has made.
    Assign,
    /// An update rule.
    Update(UpdateOp),
}

/// An operand of a rule.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// What the steps have left, an input or a constant.
    Operand(Operand<f32>),
    /// A parameter of floats, by its place in the graph, as earlier rules have left it.
    Parameter(usize),
}

impl From<Operand<f32>> for Read {
    fn from(operand: Operand<f32>) -> Read {
        match AnyOperand::from(operand).as_parameter() {
            Some(index) => Read::Parameter(index),
            None => Read::Operand(operand),
        }
    }
}

/// The parameters of a session, and which of them those of a graph are.
pub(crate) struct Parameters<'a> {
    pub(crate) all: &'a mut [Tensor],
    pub(crate) of_graph: &'a [usize],
}

impl Parameters<'_> {
    /// The elements of a parameter of floats.
    fn get(&self, index: usize) -> &[f32] {
        cast_slice(bytes_of(&self.all[self.of_graph[index]]))
    }

    /// Takes a tensor out, to change it.
    fn take(&mut self, index: usize) -> Tensor {
        std::mem::replace(&mut self.all[self.of_graph[index]], Tensor::zeros([0]))
    }

    fn put(&mut self, index: usize, tensor: Tensor) {
        self.all[self.of_graph[index]] = tensor;
    }
}

/// Gives the targets of `commits` their new values.
///
/// # Errors
/// When a new number would not be finite: nothing has changed then.
pub(crate) fn commit(
    commits: &[Commit],
    memory: &Memory<'_>,
    parameters: &mut Parameters<'_>,
) -> Result<(), ExecuteError> {
    for commit in commits {
        if !commit.stays_finite(memory, parameters) {
            return Err(ExecuteError::NotFinite(commit.name.clone()));
        }
    }
    for commit in commits {
        let mut targets: Vec<Tensor> = commit.targets.iter().map(|&index| parameters.take(index)).collect();
        commit.apply(memory, parameters, &mut targets);
        for (&index, target) in commit.targets.iter().zip(targets) {
            parameters.put(index, target);
        }
    }
    Ok(())
}

impl Commit {
    /// The buffers that it reads.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = Slot> {
        self.reads.iter().filter_map(|read| match read {
            Read::Operand(operand) => AnyOperand::from(*operand).slot(),
            Read::Parameter(_) => None,
        })
    }

    /// Bytes that it reads and writes, where the graph has these parameters and buffers have so many `bytes`.
    pub(crate) fn bytes(&self, parameters: &[&Tensor], bytes: impl Fn(Slot) -> usize) -> usize {
        let parameter = |index: &usize| bytes_of(parameters[*index]).len();
        let targets: usize = self.targets.iter().map(parameter).sum();
        let left: usize = self.buffers().map(bytes).sum();
        let read = self.reads.iter().filter_map(|read| match read {
            Read::Parameter(index) => Some(parameter(index)),
            Read::Operand(_) => None,
        });
        let passes = match self.rule {
            Rule::Assign => 1,
            Rule::Update(_) => 2,
        };
        passes * targets + left + read.sum::<usize>()
    }

    fn read<'r>(&'r self, operand: usize, memory: &Memory<'r>, parameters: &'r Parameters<'_>) -> &'r [f32] {
        match &self.reads[operand] {
            Read::Operand(operand) => operand.get(memory),
            Read::Parameter(index) => parameters.get(*index),
        }
    }

    /// The row of rates of an update rule, and what happens to gradients before.
    fn rates(&self, row: usize, memory: &Memory<'_>, parameters: &Parameters<'_>) -> (Change, [f32; RATES]) {
        let clip = self.read(1, memory, parameters).first_chunk().unwrap_or(&[f32::NAN; 2]);
        let rates = self.read(2, memory, parameters).as_chunks().0;
        (Change::new(clip), rates.get(row).copied().unwrap_or([f32::NAN; RATES]))
    }

    fn stays_finite(&self, memory: &Memory<'_>, parameters: &Parameters<'_>) -> bool {
        let x = self.read(0, memory, parameters);
        match self.rule {
            Rule::Assign => all_finite(x),
            Rule::Update(UpdateOp::Sgd { nesterov, row }) => {
                let (change, rates) = self.rates(row, memory, parameters);
                let [weight, momentum] = [0, 1].map(|i| parameters.get(self.targets[i]));
                Sgd { change, rates: SgdRates::of_row(&rates), nesterov }.stays_finite(weight, momentum, x)
            }
            Rule::Update(UpdateOp::Adam { row }) => {
                let (change, rates) = self.rates(row, memory, parameters);
                let [weight, mean, square] = [0, 1, 2].map(|i| parameters.get(self.targets[i]));
                Adam { change, rates: AdamRates::of_row(&rates) }.stays_finite(weight, [mean, square], x)
            }
            // An average of finite numbers is finite.
            Rule::Update(UpdateOp::Average | UpdateOp::SquareSums | UpdateOp::Clip(_)) => true,
        }
    }

    fn apply(&self, memory: &Memory<'_>, parameters: &Parameters<'_>, targets: &mut [Tensor]) {
        let x = self.read(0, memory, parameters);
        let scalar = |operand| self.read(operand, memory, parameters).first().copied().unwrap_or(f32::NAN);
        let mut kept: Vec<&mut [f32]> = targets.iter_mut().filter_map(Tensor::as_f32_mut).collect();
        match (self.rule, &mut kept[..]) {
            (Rule::Assign, [target]) => target.copy_from_slice(x),
            (Rule::Update(UpdateOp::Sgd { nesterov, row }), [weight, momentum]) => {
                let (change, rates) = self.rates(row, memory, parameters);
                Sgd { change, rates: SgdRates::of_row(&rates), nesterov }.update(weight, momentum, x);
            }
            (Rule::Update(UpdateOp::Adam { row }), [weight, mean, square]) => {
                let (change, rates) = self.rates(row, memory, parameters);
                Adam { change, rates: AdamRates::of_row(&rates) }.update(weight, [mean, square], x);
            }
            (Rule::Update(UpdateOp::Average), [target]) => average(target, x, scalar(1)),
            // No others are made.
            (Rule::Assign | Rule::Update(_), _) => {}
        }
    }
}
