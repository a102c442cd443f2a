//! LSTMs are Core ML's `lstm`, always in f32: before iOS 17 it takes nothing else.
//!
//! GRUs are written step by step, as coremltools writes PyTorch's. Core ML's `gru` has one bias for both products, so it cannot
//! compute PyTorch's; its documentation lets the reset gate multiply the product, coremltools' tests the state; and those
//! tests leave out batches, in which it gives zeros.

use offshoot_graph::op::{Composite, Direction};
use offshoot_graph::{Dim, Graph, Node, Op};

use super::{Writer, named_type, place, refused};
use crate::coreml::Precision;
use crate::coreml::proto::{Value, ValueType, data_type};
use crate::error::Problem;

/// More steps of GRUs than a program is written for: each is some thirty operators, which a device compiles.
const MOST_STEPS: usize = 512;

/// More numbers than the states hold that an LSTM starts from.
const MOST_STATE: usize = 1 << 24;

/// An `lstm`'s parameters for each direction: weight, recurrence and bias.
pub(in crate::coreml) const OPERANDS: [[&str; 3]; 2] =
    [["weight_ih", "weight_hh", "bias"], ["weight_ih_back", "weight_hh_back", "bias_back"]];

/// What an `lstm` computes with.
pub(in crate::coreml) const ACTIVATIONS: [(&str, &str); 3] =
    [("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh")];

/// Each direction with its name.
pub(in crate::coreml) const DIRECTIONS: [(Direction, &str); 3] = [
    (Direction::Forward, "forward"),
    (Direction::Reverse, "reverse"),
    (Direction::Bidirectional, "bidirectional"),
];

/// The parts of gates in the order i, o, f, c in the order i, f, o, c, and the other way round.
pub(in crate::coreml) fn exchanged(gates: &[f32]) -> Vec<f32> {
    let part = gates.len() / 4;
    [0, 2, 1, 3].into_iter().flat_map(|gate| &gates[gate * part..(gate + 1) * part]).copied().collect()
}

/// That the steps of all GRUs together are known and not too many.
pub(super) fn check_steps(graph: &Graph) -> Result<(), Problem> {
    let mut all = 0usize;
    for node in graph.nodes() {
        let Op::Composite(Composite::Gru { direction, .. }) = &node.op else { continue };
        let steps = graph.value(node.inputs[0]).shape.0.first().and_then(Dim::fixed);
        let steps = steps.ok_or_else(|| refused(node, "the number of its steps is not fixed"))?;
        all = all.saturating_add(steps.saturating_mul(direction.ways()));
        if all > MOST_STEPS {
            let what = format!(
                "its steps are written one by one, and with those before they are {all}, more than {MOST_STEPS}"
            );
            return Err(refused(node, what));
        }
    }
    Ok(())
}

impl Writer<'_> {
    pub(super) fn lstm(&mut self, node: &Node, direction: Direction) -> Result<(), Problem> {
        let shape = self.shape(node, node.outputs[0])?;
        let [steps, ways, batch, hidden] = shape[..] else {
            return Err(refused(node, "its result has no four axes"));
        };
        let mut inputs = vec![("x", self.in_f32(node)?)];
        let count = batch.checked_mul(ways * hidden).filter(|&count| count <= MOST_STATE);
        let count = count.ok_or_else(|| refused(node, "its states are too large"))?;
        let state = self.f32_constant(node, "state", &vec![0.0; count], &[batch, ways * hidden])?;
        inputs.extend([("initial_h", state.clone()), ("initial_c", state)]);
        for (way, names) in OPERANDS.into_iter().enumerate().take(ways) {
            inputs.extend(self.gates(node, way, names)?);
        }
        let name = DIRECTIONS.into_iter().find(|(of, _)| *of == direction).map_or("", |(_, name)| name);
        for (parameter, text) in ACTIVATIONS.into_iter().chain([("direction", name)]) {
            let value = Value::string(text);
            inputs.push((parameter, self.program.constant(&format!("{}_{parameter}", node.name), value)));
        }
        let all = self.program.constant(&format!("{}_output_sequence", node.name), Value::bool(true));
        inputs.push(("output_sequence", all));
        let (sequence, last) = ([steps, batch, ways * hidden], [batch, ways * hidden]);
        let names = ["y", "h", "c"].map(|suffix| self.program.unused(&format!("{}_{suffix}", node.name)));
        let shapes: [&[usize]; 3] = [&sequence, &last, &last];
        let typed = |(name, shape): (&String, &[usize])| {
            named_type(name, ValueType::tensor(data_type::FLOAT32, shape))
        };
        self.program.named("lstm", &inputs, names.iter().zip(shapes).map(typed).collect());
        let [y, h, _] = names;
        self.apart(node, 0, (y, &sequence), &[0, 2, 1, 3])?;
        self.apart(node, 1, (h, &last), &[1, 0, 2])
    }

    /// The sequence in f32.
    fn in_f32(&mut self, node: &Node) -> Result<String, Problem> {
        let (x, shape) = (self.operand(node, 0)?, self.shape(node, node.inputs[0])?);
        Ok(match self.program.precision {
            Precision::F32 => x,
            Precision::F16 => self.program.cast(Precision::F32, &format!("{}_f32", node.name), x, &shape),
        })
    }

    /// Weight, recurrence and the sum of both biases of one direction.
    fn gates(
        &mut self,
        node: &Node,
        way: usize,
        names: [&'static str; 3],
    ) -> Result<Vec<(&'static str, String)>, Problem> {
        let mut operands = Vec::new();
        for (i, name) in names.into_iter().enumerate() {
            let (numbers, shape) = self.stored(node, 1 + i)?;
            let len: usize = shape[1..].iter().product();
            let part = &numbers[way * len..(way + 1) * len];
            let (numbers, shape) = match i {
                2 => (sum_of_halves(part), vec![len / 2]),
                _ => (part.to_vec(), shape[1..].to_vec()),
            };
            operands.push((name, self.f32_constant(node, name, &exchanged(&numbers), &shape)?));
        }
        Ok(operands)
    }

    fn f32_constant(
        &mut self,
        node: &Node,
        suffix: &str,
        numbers: &[f32],
        shape: &[usize],
    ) -> Result<String, Problem> {
        let name = format!("{}_{suffix}", node.name);
        self.program.numbers_of(Precision::F32, &place(node), &name, numbers, shape)
    }

    /// Output `index`: Core ML has the directions side by side, and ours an axis of them before that of the batch.
    fn apart(
        &mut self,
        node: &Node,
        index: usize,
        (mut x, joined): (String, &[usize]),
        perm: &[usize],
    ) -> Result<(), Problem> {
        let id = node.outputs[index];
        if self.graph.use_counts()[id.index()] == 0 {
            return Ok(());
        }
        let (shape, name) = (self.shape(node, id)?, self.graph.value(id).name.clone());
        if self.program.precision == Precision::F16 {
            x = self.program.cast(Precision::F16, &format!("{name}_f16"), x, joined);
        }
        let turned: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
        let inputs = [("x", x), ("shape", self.ints(node, &format!("shape{index}"), &turned)?)];
        let x = self.program.operator("reshape", &format!("{name}_ways"), &inputs, &turned);
        let inputs = [("x", x), ("perm", self.ints(node, &format!("perm{index}"), perm)?)];
        let result = self.program.operator("transpose", &name, &inputs, &shape);
        self.names.insert(id, result);
        Ok(())
    }
}

fn sum_of_halves(numbers: &[f32]) -> Vec<f32> {
    let (weight, recurrence) = numbers.split_at(numbers.len() / 2);
    weight.iter().zip(recurrence).map(|(a, b)| a + b).collect()
}
