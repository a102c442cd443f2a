//! Update rules, and the results that take the place of parameters.

use std::collections::HashMap;

use offshoot_graph::op::{GradientClip, UpdateOp};
use offshoot_graph::{DType, ExecuteError, Op, ValueId};

use super::{Lowering, Node, unsupported};
use crate::commit::{Commit, Read, Rule};
use crate::kernels::update::square_sum;
use crate::optimize::CpuOp;

impl Lowering<'_> {
    /// What only gradients are measured by; the rules themselves run when all steps have ([`Lowering::commits`]).
    pub(super) fn update(&mut self, node: &Node, op: UpdateOp) -> Result<(), ExecuteError> {
        match op {
            UpdateOp::SquareSums => self.square_sums(node),
            UpdateOp::Clip(clip) => self.clip_gradients(node, clip),
            UpdateOp::Sgd { .. } | UpdateOp::Adam { .. } | UpdateOp::Average => Ok(()),
        }
    }

    fn square_sums(&mut self, node: &Node) -> Result<(), ExecuteError> {
        let gradients = node.inputs.iter().map(|&x| self.plain::<f32>(x)).collect::<Result<Vec<_>, _>>()?;
        let sums = self.write_plain::<f64>(node.outputs[0])?;
        self.step("square sum", gradients, sums, move |gradients, sums| {
            sums.iter_mut().zip(gradients).for_each(|(sum, gradient)| *sum = square_sum(gradient));
        });
        Ok(())
    }

    fn clip_gradients(&mut self, node: &Node, clip: GradientClip) -> Result<(), ExecuteError> {
        let (sums, unscale) = (self.plain(node.inputs[0])?, self.plain::<f32>(node.inputs[1])?);
        let loss = node.inputs.get(2).map(|&loss| self.plain::<f32>(loss)).transpose()?;
        let change = self.write_plain::<f32>(node.outputs[0])?;
        self.step("clip", (sums, unscale, loss), change, move |(sums, unscale, loss), change| {
            let loss = loss.map_or(0.0, |loss| loss[0]);
            change.copy_from_slice(&clip.change(sums, unscale[0], loss));
        });
        Ok(())
    }

    /// What is assigned as it is; then the rules of the graph's other results, in the order of their nodes.
    pub(super) fn commits(&mut self) -> Result<Vec<Commit>, ExecuteError> {
        let places: HashMap<ValueId, usize> =
            self.graph.parameters().iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let results: HashMap<ValueId, usize> =
            self.graph.results().iter().map(|(parameter, value)| (*value, places[parameter])).collect();
        for &(parameter, _) in self.graph.results() {
            if self.dtype(parameter) != DType::F32 {
                let (node, dtype) = (self.graph.value(parameter).name.clone(), self.dtype(parameter));
                let reason = format!("it is {dtype}, and what a run changes is f32");
                return Err(ExecuteError::Unsupported { node, op: "result", reason });
            }
        }
        let mut commits = Vec::new();
        for &(parameter, value) in self.graph.results() {
            if !self.is_update(value) {
                let name = self.graph.value(parameter).name.clone();
                self.plain::<f32>(parameter)?;
                let reads = vec![self.plain::<f32>(value)?.into()];
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
            for &kept in &node.inputs[..op.kept()] {
                self.plain::<f32>(kept)?;
            }
            let mut reads = Vec::new();
            for input in &node.inputs[op.kept()..] {
                reads.push(match results.get(input).filter(|_| self.is_update(*input)) {
                    Some(&place) => Read::Parameter(place),
                    None => self.plain::<f32>(*input)?.into(),
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
