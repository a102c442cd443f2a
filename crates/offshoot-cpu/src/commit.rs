//! What a run changes when its steps are done: parameters get new values, all of them or none.

use offshoot_graph::op::{AdamRates, RATES, SgdRates, UpdateOp};
use offshoot_graph::{ExecuteError, Tensor};

use crate::kernels::update::{Adam, Change, Sgd, accumulate, all_finite, average};
use crate::plan::{BufferId, Place};

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
    /// A buffer of the plan.
    Buffer(BufferId),
    /// A parameter, by its place in the graph, as earlier rules have left it.
    Parameter(usize),
}

impl Read {
    pub(crate) fn buffer(&self) -> Option<BufferId> {
        match self {
            Read::Buffer(id) => Some(*id),
            Read::Parameter(_) => None,
        }
    }
}

/// Where rules find their operands.
pub(crate) struct Operands<'a> {
    pub(crate) places: &'a [Place],
    pub(crate) arena: &'a [u8],
    pub(crate) inputs: &'a [&'a Tensor],
    pub(crate) constants: &'a [Tensor],
}

/// The parameters of a session, and which of them those of a graph are.
pub(crate) struct Parameters<'a> {
    pub(crate) all: &'a mut [Tensor],
    pub(crate) of_graph: &'a [usize],
}

impl Parameters<'_> {
    fn get(&self, index: usize) -> &[f32] {
        self.all[self.of_graph[index]].as_f32().unwrap_or_default()
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
    operands: &Operands<'_>,
    parameters: &mut Parameters<'_>,
) -> Result<(), ExecuteError> {
    for commit in commits {
        if !commit.stays_finite(operands, parameters) {
            return Err(ExecuteError::NotFinite(commit.name.clone()));
        }
    }
    for commit in commits {
        let mut targets: Vec<Tensor> = commit.targets.iter().map(|&index| parameters.take(index)).collect();
        commit.apply(operands, parameters, &mut targets);
        for (&index, target) in commit.targets.iter().zip(targets) {
            parameters.put(index, target);
        }
    }
    Ok(())
}

impl Commit {
    fn read<'r>(
        &self,
        operand: usize,
        operands: &'r Operands<'_>,
        parameters: &'r Parameters<'_>,
    ) -> &'r [f32] {
        let id = match self.reads[operand] {
            Read::Buffer(id) => id,
            Read::Parameter(index) => return parameters.get(index),
        };
        match operands.places[id.0] {
            Place::Arena(region) => region.of(operands.arena),
            Place::Input(index) => operands.inputs[index].as_f32().unwrap_or_default(),
            Place::Parameter(index) => parameters.get(index),
            Place::Constant(index) => operands.constants[index].as_f32().unwrap_or_default(),
        }
    }

    /// The row of rates of an update rule, and what happens to gradients before.
    fn rates(
        &self,
        row: usize,
        operands: &Operands<'_>,
        parameters: &Parameters<'_>,
    ) -> (Change, [f32; RATES]) {
        let clip = self.read(1, operands, parameters).first_chunk().unwrap_or(&[f32::NAN; 2]);
        let rates = self.read(2, operands, parameters).as_chunks().0;
        (Change::new(clip), rates.get(row).copied().unwrap_or([f32::NAN; RATES]))
    }

    fn stays_finite(&self, operands: &Operands<'_>, parameters: &Parameters<'_>) -> bool {
        let x = self.read(0, operands, parameters);
        match self.rule {
            Rule::Assign => all_finite(x),
            Rule::Update(UpdateOp::Sgd { nesterov, row }) => {
                let (change, rates) = self.rates(row, operands, parameters);
                let [weight, momentum] = [0, 1].map(|i| parameters.get(self.targets[i]));
                Sgd { change, rates: SgdRates::of_row(&rates), nesterov }.stays_finite(weight, momentum, x)
            }
            Rule::Update(UpdateOp::Adam { row }) => {
                let (change, rates) = self.rates(row, operands, parameters);
                let [weight, mean, square] = [0, 1, 2].map(|i| parameters.get(self.targets[i]));
                Adam { change, rates: AdamRates::of_row(&rates) }.stays_finite(weight, [mean, square], x)
            }
            // A sum may be infinite, and an average of finite numbers is finite.
            Rule::Update(
                UpdateOp::Accumulate | UpdateOp::Average | UpdateOp::SquareSums | UpdateOp::Clip(_),
            ) => true,
        }
    }

    fn apply(&self, operands: &Operands<'_>, parameters: &Parameters<'_>, targets: &mut [Tensor]) {
        let x = self.read(0, operands, parameters);
        let scalar = |operand| self.read(operand, operands, parameters).first().copied().unwrap_or(f32::NAN);
        let mut kept: Vec<&mut [f32]> = targets.iter_mut().filter_map(Tensor::as_f32_mut).collect();
        match (self.rule, &mut kept[..]) {
            (Rule::Assign, [target]) => target.copy_from_slice(x),
            (Rule::Update(UpdateOp::Sgd { nesterov, row }), [weight, momentum]) => {
                let (change, rates) = self.rates(row, operands, parameters);
                Sgd { change, rates: SgdRates::of_row(&rates), nesterov }.update(weight, momentum, x);
            }
            (Rule::Update(UpdateOp::Adam { row }), [weight, mean, square]) => {
                let (change, rates) = self.rates(row, operands, parameters);
                Adam { change, rates: AdamRates::of_row(&rates) }.update(weight, [mean, square], x);
            }
            (Rule::Update(UpdateOp::Accumulate), [sum]) => accumulate(sum, x, scalar(1), scalar(2)),
            (Rule::Update(UpdateOp::Average), [target]) => average(target, x, scalar(1)),
            // No others are made.
            (Rule::Assign | Rule::Update(_), _) => {}
        }
    }
}
