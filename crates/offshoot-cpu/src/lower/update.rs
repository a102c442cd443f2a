//! Update rules, and the results that take the place of parameters.

use std::collections::HashMap;

use offshoot_graph::op::{GradientClip, UpdateOp};
use offshoot_graph::{ExecuteError, Op, ValueId};

use super::{Lowering, Node, unsupported};
use crate::commit::{Commit, Read, Rule};
use crate::kernels::update::square_sum;
use crate::optimize::CpuOp;
use crate::plan::BufferId;

impl Lowering<'_> {
    /// What only gradients are measured by; the rules themselves run when all steps have ([`Lowering::commits`]).
    pub(super) fn update(&mut self, node: &Node, op: UpdateOp) -> Result<(), ExecuteError> {
        match op {
            UpdateOp::SquareSums => self.square_sums(node),
            UpdateOp::Clip(clip) => self.clip_gradients(node, clip),
            UpdateOp::Sgd { .. } | UpdateOp::Adam { .. } | UpdateOp::Accumulate | UpdateOp::Average => Ok(()),
        }
    }

    fn square_sums(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let gradients = node.inputs.iter().map(|&x| self.plain(x)).collect::<Result<Vec<BufferId>, _>>()?;
        let sums = self.write_plain(node.outputs[0]);
        self.push(&node.name, gradients.clone(), vec![sums], move |memory, _, out| {
            for (sum, &gradient) in out[0].get::<f64>().iter_mut().zip(&gradients) {
                *sum = square_sum(memory.get(gradient));
            }
            Ok(())
        });
        Ok(())
    }

    fn clip_gradients(&mut self, node: &Node, clip: GradientClip) -> Result<(), ExecuteError> {
        let (sums, unscale) = (self.plain(node.inputs[0])?, self.plain(node.inputs[1])?);
        let loss = node.inputs.get(2).map(|&loss| self.plain(loss)).transpose()?;
        let change = self.write_plain(node.outputs[0]);
        let reads = [sums, unscale].into_iter().chain(loss).collect();
        self.push(&node.name, reads, vec![change], move |memory, _, out| {
            let loss = loss.map_or(0.0, |loss| memory.get::<f32>(loss)[0]);
            let unscale = memory.get::<f32>(unscale)[0];
            out[0].get().copy_from_slice(&clip.change(memory.get(sums), unscale, loss));
            Ok(())
        });
        Ok(())
    }

    /// What is assigned as it is; then the rules of the graph's other results, in the order of their nodes.
    pub(super) fn commits(&mut self) -> Result<Vec<Commit>, ExecuteError> {
        let places: HashMap<ValueId, usize> =
            self.graph.parameters().iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let results: HashMap<ValueId, usize> =
            self.graph.results().iter().map(|(parameter, value)| (*value, places[parameter])).collect();
        let mut commits = Vec::new();
        for &(parameter, value) in self.graph.results() {
            if !self.is_update(value) {
                let name = self.graph.value(parameter).name.clone();
                let reads = vec![Read::Buffer(self.plain(value)?)];
                commits.push(Commit { name, rule: Rule::Assign, targets: vec![places[&parameter]], reads });
            }
        }
        for node in self.graph.nodes() {
            let CpuOp::Plain(Op::Update(op)) = node.op else { continue };
            if op.kept() == 0 {
                continue;
            }
            let targets = node.outputs.iter().zip(&node.inputs).map(|(output, input)| {
                results.get(output).copied().filter(|place| places.get(input) == Some(place))
            });
            let Some(targets) = targets.collect::<Option<Vec<usize>>>() else {
                return Err(unsupported(node, "its results must take the place of what it reads".into()));
            };
            let mut reads = Vec::new();
            for input in &node.inputs[op.kept()..] {
                reads.push(match results.get(input).filter(|_| self.is_update(*input)) {
                    Some(&place) => Read::Parameter(place),
                    None => Read::Buffer(self.plain(*input)?),
                });
            }
            let name = self.graph.value(node.inputs[0]).name.clone();
            commits.push(Commit { name, rule: Rule::Update(op), targets, reads });
        }
        Ok(commits)
    }

    /// Whether a rule gives `value`.
    fn is_update(&self, value: ValueId) -> bool {
        let node = self.graph.producer(value).map(|node| self.graph.node(node));
        node.is_some_and(|node| matches!(node.op, CpuOp::Plain(Op::Update(op)) if op.kept() > 0))
    }
}
