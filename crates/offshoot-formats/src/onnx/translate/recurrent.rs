//! LSTM, ONNX Runtime's DynamicQuantizeLSTM, and GRU.

use offshoot_graph::op::{Composite, Direction, Pooling, Recurrent, ShapeOp};
use offshoot_graph::{Data, Dim, Op, Role, Tensor, ValueId};

use super::{Operand, SIMPLIFY, Stored, Translator};
use crate::elements::check_activation;
use crate::error::Problem;
use crate::onnx::array::Array;
use crate::onnx::attributes::NodeView;

/// Inputs of LSTM that come before those of bytes: X, W, R, B, sequence_lens, initial_h, initial_c, P.
const INPUTS: usize = 8;

impl<'a> Translator<'a> {
    pub(super) fn lstm(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let bytes = node.op() != "LSTM";
        let x = self.value(node, 0)?;
        let direction = self.checked_direction(node, &["Sigmoid", "Tanh", "Tanh"])?;
        let ways = direction.ways();
        let units = self.stored(node, 2)?.tensor.shape().get(if bytes { 2 } else { 1 }).copied();
        let units = units
            .filter(|&units| units <= 1 << 24)
            .ok_or_else(|| node.damaged("its weights have no three axes"))?;
        check_hidden_size(node, units / 4)?;
        let steps = self.import.shape(x).0.first().and_then(Dim::fixed).unwrap_or(1);
        check_activation(&node.place(), [steps, ways, units].into_iter())?;
        let mut operands = vec![x];
        for index in [1, 2] {
            let stored = self.stored(node, index)?;
            operands.push(match bytes {
                true => self.integers(node, &stored)?,
                false => self.plain_parameter(node, index, Role::Weight)?,
            });
        }
        if bytes {
            for index in [INPUTS, INPUTS + 2] {
                self.no_zero_point(node, index + 1)?;
                operands.push(self.gate_scales(node, index, ways, units)?);
            }
        }
        operands.push(match node.input(3) {
            Some(_) => self.plain_parameter(node, 3, Role::Weight)?,
            None => {
                let name = self.import.names.unused(&format!("{}.bias", node.name()));
                self.import.graph.add_constant(&name, Tensor::zeros([ways, 2 * units]))
            }
        });
        let op = if bytes {
            Op::Recurrent(Recurrent::DynamicQuantizeLstm(direction))
        } else {
            Op::Recurrent(Recurrent::Lstm(direction))
        };
        let results = self.import.push_all(&node, node.name(), op, &operands)?;
        for (name, id) in node.proto.output.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
            self.define(name, id);
        }
        Ok(())
    }

    pub(super) fn gru(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = self.value(node, 0)?;
        let direction = self.checked_direction(node, &["Sigmoid", "Tanh"])?;
        let (weight, recurrence) = (self.gates(node, 1)?, self.gates(node, 2)?);
        let units = self.import.shape(recurrence).0.get(2).and_then(Dim::fixed).unwrap_or(0);
        check_hidden_size(node, units)?;
        let steps = self.import.shape(x).0.first().and_then(Dim::fixed).unwrap_or(1);
        check_activation(&node.place(), [steps, direction.ways(), units].into_iter())?;
        let ways = direction.ways();
        let features = self.import.shape(x).0.get(2).and_then(Dim::fixed).unwrap_or(0);
        self.check_shape(node, "W", weight, &[ways, 3 * units, features])?;
        self.check_shape(node, "R", recurrence, &[ways, 3 * units, units])?;
        let bias = match node.input(3) {
            Some(_) => self.gates(node, 3)?,
            None => {
                self.context.tensors.charge(&node.place(), units.saturating_mul(6 * direction.ways()), 4)?;
                self.import.constant(&node, "bias", Tensor::zeros([direction.ways(), 6 * units]))
            }
        };
        self.check_shape(node, "B", bias, &[ways, 6 * units])?;
        let composite = Composite::Gru { direction, linear_before_reset: node.flag("linear_before_reset") };
        let results = self.import.compose_all(&node, composite, &[x, weight, recurrence, bias])?;
        for (name, id) in node.proto.output.iter().zip(results).filter(|(name, _)| !name.is_empty()) {
            self.define(name, id);
        }
        Ok(())
    }

    /// An error where an operand has another shape than the operator's sizes ask for.
    fn check_shape(
        &self,
        node: NodeView<'a>,
        name: &str,
        operand: ValueId,
        wanted: &[usize],
    ) -> Result<(), Problem> {
        let shape = self.import.shape(operand);
        if shape.as_fixed().as_deref() == Some(wanted) {
            return Ok(());
        }
        Err(node.damaged(format!("its {name} is {shape}, and must be {wanted:?}")))
    }

    /// A weight of a recurrent operator, stored or computed.
    fn gates(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        match self.operand(node, index)? {
            Operand::Stored(stored) if !stored.constant => self.plain_parameter(node, index, Role::Weight),
            _ => self.value(node, index),
        }
    }

    /// The direction, of an operator that has nothing which [`Recurrent::Lstm`] and [`Composite::Gru`] have not.
    fn checked_direction(&mut self, node: NodeView<'a>, activations: &[&str]) -> Result<Direction, Problem> {
        let refused = |what: &str| Err(node.unsupported(what, SIMPLIFY));
        if !node.repeats("activations", activations) {
            return refused(&format!("other activations than {} are not read", activations.join(", ")));
        }
        if node.has("clip") || node.flag("input_forget") || node.flag("layout") {
            return refused("clip, input_forget and the batch first (layout = 1) are not read");
        }
        if node.input(4).is_some() || node.input(7).is_some() {
            return refused("sequence_lens and peepholes are not read");
        }
        for index in [5, 6] {
            if node.input(index).is_some() && !self.is_zero(node, index)? {
                return refused("it starts from other states than zeros");
            }
        }
        if node.proto.output.get(2).is_some_and(|name| self.context.uses.contains_key(name.as_str())) {
            return refused("its last cell state (the third output) is not read");
        }
        match node.text("direction").unwrap_or("forward") {
            "forward" => Ok(Direction::Forward),
            "reverse" => Ok(Direction::Reverse),
            "bidirectional" => Ok(Direction::Bidirectional),
            other => Err(node.damaged(format!("its direction is `{other}`"))),
        }
    }

    fn is_zero(&mut self, node: NodeView<'a>, index: usize) -> Result<bool, Problem> {
        Ok(match self.operand(node, index)? {
            Operand::Filled(filled) => filled.number == 0.0,
            Operand::Stored(Stored { tensor, .. }) => all_zero(&tensor),
            Operand::Numbers(numbers) => numbers.to_tensor().is_some_and(|t| all_zero(&t)),
            Operand::Value(id) => self.import.is_zero(id),
            Operand::Probed(probed) => probed.iter().all(Array::is_zero),
            _ => false,
        })
    }

    fn no_zero_point(&mut self, node: NodeView<'a>, index: usize) -> Result<(), Problem> {
        let tensor = self.stored(node, index)?.tensor;
        let zeros = matches!(tensor.data(), Data::I8(points) if points.iter().all(|&z| z == 0));
        if zeros {
            Ok(())
        } else {
            Err(node
                .unsupported("its weights are not symmetric around 0, as signed bytes need", super::FLOAT))
        }
    }

    /// The scale of each gate unit, of which the file may have one for each direction.
    fn gate_scales(
        &mut self,
        node: NodeView<'a>,
        index: usize,
        ways: usize,
        units: usize,
    ) -> Result<ValueId, Problem> {
        let stored = self.stored(node, index)?;
        let scales = self.floats(&stored)?;
        let mut tensor = (*scales).clone();
        if tensor.shape() == [ways] {
            self.context.tensors.charge(&node.place(), ways.saturating_mul(units), 4)?;
            let scales = scales.as_f32().unwrap_or_default().iter();
            let repeated = scales.flat_map(|&scale| std::iter::repeat_n(scale, units)).collect();
            tensor = Tensor::f32([ways, units], repeated);
        }
        self.shared_constant(stored.name, tensor, &[ways, units], node)
    }

    /// The mean over the steps of [N, T, H], as that of a picture of one column.
    pub(super) fn mean_of_steps(&mut self, node: NodeView<'a>, x: ValueId) -> Result<ValueId, Problem> {
        let name = |part: &str| format!("{}.{part}", node.name());
        let last = self.import.push_named(
            &node,
            &name("steps_last"),
            Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1] }),
            &[x],
        )?;
        let mut shape = self.import.shape(last).clone();
        shape.0.push(Dim::Fixed(1));
        let picture = self.import.push_named(
            &node,
            &name("picture"),
            Op::Shape(ShapeOp::Reshape { shape }),
            &[last],
        )?;
        let mean =
            self.import.push_named(&node, node.name(), Op::Pool(Pooling::GlobalAverage), &[picture])?;
        self.import.push_named(&node, &name("flatten"), Op::Shape(ShapeOp::Flatten { axis: 1 }), &[mean])
    }
}

/// An error where the attribute does not say what the weights do.
fn check_hidden_size(node: NodeView<'_>, units: usize) -> Result<(), Problem> {
    if !node.has("hidden_size") || usize::try_from(node.int("hidden_size", -1)) == Ok(units) {
        return Ok(());
    }
    let said = node.int("hidden_size", -1);
    Err(node.damaged(format!("its hidden_size is {said}, and its weights are of {units}")))
}

/// Whether a tensor is floats of 0.
fn all_zero(tensor: &Tensor) -> bool {
    tensor.to_f32().is_some_and(|t| t.as_f32().is_some_and(|t| t.iter().all(|&x| x == 0.0)))
}
