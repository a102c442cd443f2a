//! Recurrent operators step by step. The definitions are those of ONNX's GRU and LSTM.

use super::Parts;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Direction, Gemm, Op, ShapeOp, Unary};
use crate::shape::{Dim, DimOp, Shape};
use crate::tensor::Tensor;

/// More steps than are unrolled: each is a dozen nodes.
const MAX_STEPS: usize = 4096;

/// The sizes of a recurrent operator.
struct Sizes {
    steps: usize,
    batch: Dim,
    hidden: usize,
}

/// The outputs of [`Recurrent::Lstm`], computed by nodes that are added to `graph` and named after `node`.
///
/// # Errors
/// When its steps are not known.
pub(super) fn lstm(
    graph: &mut Graph,
    node: &str,
    inputs: &[ValueId],
    direction: Direction,
) -> Result<Vec<ValueId>, GraphError> {
    let mut parts = Parts { graph, node, op: "LSTM" };
    let &[x, weight, recurrence, bias] = inputs else { return Err(parts.takes(4, inputs)) };
    parts.recurrent([x, weight, recurrence, bias], direction, &[4], Parts::lstm_step)
}

/// What a step computes of.
struct Step<'a> {
    name: &'a str,
    /// x times the weight plus its bias: [N, gates H].
    x: ValueId,
    /// The parts of the recurrence, [n H, H], that h is multiplied by, each with its bias [n H].
    recurrence: &'a [[ValueId; 2]],
    /// The state before: h, and for an LSTM c.
    state: [ValueId; 2],
    hidden: usize,
}

impl Parts<'_> {
    pub(super) fn gru(
        &mut self,
        operands: [ValueId; 4],
        direction: Direction,
        linear_before_reset: bool,
    ) -> Result<Vec<ValueId>, GraphError> {
        let step = match linear_before_reset {
            true => Parts::gru_step_linear_before_reset,
            false => Parts::gru_step,
        };
        // z and r are one product. The candidate's is another: of what r lets through.
        self.recurrent(operands, direction, &[2, 1], step)
    }

    fn sizes(&self, x: ValueId, recurrence: ValueId) -> Result<Sizes, GraphError> {
        self.floats(x)?;
        let (steps, batch) = (self.dim(x, 0)?, self.dim(x, 1)?);
        let steps = steps.fixed().filter(|steps| (1..=MAX_STEPS).contains(steps));
        let steps = steps.ok_or_else(|| {
            self.error(format!("its number of steps must be known and at most {MAX_STEPS} to be unrolled"))
        })?;
        let hidden = self.dim(recurrence, 2)?.fixed();
        let hidden = hidden.ok_or_else(|| self.error("its hidden size must be known"))?;
        Ok(Sizes { steps, batch, hidden })
    }

    fn recurrent(
        &mut self,
        [x, weight, recurrence, bias]: [ValueId; 4],
        direction: Direction,
        products: &[usize],
        step: fn(&mut Self, &Step<'_>) -> Result<[ValueId; 2], GraphError>,
    ) -> Result<Vec<ValueId>, GraphError> {
        let sizes = self.sizes(x, recurrence)?;
        let Sizes { steps, ref batch, hidden } = sizes;
        let gates: usize = products.iter().sum();
        let width = gates * hidden;
        let (mut by_direction, mut last) = (Vec::new(), Vec::new());
        for index in 0..direction.ways() {
            let name = format!("d{index}");
            let features = self.dim(x, 2)?;
            let of = |parts: &mut Self, what: &str, value: ValueId, shape: Vec<Dim>| {
                let part = parts.slice(&format!("{name}.{what}_slice"), value, 0, index, index + 1)?;
                parts.reshape(&format!("{name}.{what}"), part, shape)
            };
            let weight = of(self, "weight", weight, vec![width.into(), features.clone()])?;
            let recurrence = of(self, "recurrence", recurrence, vec![width.into(), hidden.into()])?;
            let bias = of(self, "bias", bias, vec![(2 * width).into()])?;
            let biases = [0, 1].map(|half| {
                self.slice(&format!("{name}.bias{half}"), bias, 0, half * width, (half + 1) * width)
            });
            let [weight_bias, recurrence_bias] = biases;
            let recurrence = self.recurrences(&name, [recurrence, recurrence_bias?], products, hidden)?;
            let rows = Dim::Fixed(steps).combine(DimOp::Mul, batch);
            let flat = self.reshape(&format!("{name}.flat"), x, vec![rows, features])?;
            let gemm = Op::Gemm(Gemm { trans_a: false, trans_b: true });
            let products = self.add(&format!("{name}.products"), gemm, &[flat, weight, weight_bias?])?;
            let products = self.reshape(
                &format!("{name}.by_step"),
                products,
                vec![steps.into(), batch.clone(), width.into()],
            )?;
            let zeros = self.constant(&format!("{name}.zeros"), Tensor::zeros([1, 1]));
            let shape = Shape(vec![batch.clone(), hidden.into()]);
            let zeros = self.add(&format!("{name}.start"), Op::Shape(ShapeOp::Expand { shape }), &[zeros])?;
            let (mut state, mut outputs) = ([zeros; 2], vec![zeros; steps]);
            for t in 0..steps {
                let at = if direction.is_reverse(index) { steps - 1 - t } else { t };
                let name = format!("{name}.t{at}");
                let x = self.slice(&format!("{name}.x_slice"), products, 0, at, at + 1)?;
                let x = self.reshape(&format!("{name}.x"), x, vec![batch.clone(), width.into()])?;
                state = step(self, &Step { name: &name, x, recurrence: &recurrence, state, hidden })?;
                outputs[at] = state[0];
            }
            let one = |parts: &mut Self, name: String, h: ValueId| {
                parts.reshape(&name, h, vec![1.into(), 1.into(), batch.clone(), hidden.into()])
            };
            let mut rows = Vec::with_capacity(steps);
            for (t, h) in outputs.into_iter().enumerate() {
                rows.push(one(self, format!("{name}.t{t}.row"), h)?);
            }
            by_direction.push(self.add(
                &format!("{name}.y"),
                Op::Shape(ShapeOp::Concat { axis: 0 }),
                &rows,
            )?);
            let h =
                self.reshape(&format!("{name}.h"), state[0], vec![1.into(), batch.clone(), hidden.into()])?;
            last.push(h);
        }
        let y = self.add("y", Op::Shape(ShapeOp::Concat { axis: 1 }), &by_direction)?;
        let h = self.add("h", Op::Shape(ShapeOp::Concat { axis: 0 }), &last)?;
        Ok(vec![y, h])
    }

    /// The recurrence and its bias in parts of so many gates, the same at each step.
    fn recurrences(
        &mut self,
        name: &str,
        [weight, bias]: [ValueId; 2],
        products: &[usize],
        hidden: usize,
    ) -> Result<Vec<[ValueId; 2]>, GraphError> {
        if products.len() == 1 {
            return Ok(vec![[weight, bias]]);
        }
        let (mut all, mut start) = (Vec::new(), 0);
        for (index, gates) in products.iter().enumerate() {
            let end = start + gates * hidden;
            let weight = self.slice(&format!("{name}.recurrence{index}"), weight, 0, start, end)?;
            let bias = self.slice(&format!("{name}.recurrence_bias{index}"), bias, 0, start, end)?;
            all.push([weight, bias]);
            start = end;
        }
        Ok(all)
    }

    /// h times part `index` of the recurrence, plus its bias.
    fn recurrence(
        &mut self,
        step: &Step<'_>,
        suffix: &str,
        h: ValueId,
        index: usize,
    ) -> Result<ValueId, GraphError> {
        let [weight, bias] = step.recurrence[index];
        let gemm = Op::Gemm(Gemm { trans_a: false, trans_b: true });
        self.add(&format!("{}.{suffix}", step.name), gemm, &[h, weight, bias])
    }

    /// Gate `index` of [N, gates H].
    fn gate(
        &mut self,
        step: &Step<'_>,
        suffix: &str,
        all: ValueId,
        index: usize,
    ) -> Result<ValueId, GraphError> {
        let (start, end) = (index * step.hidden, (index + 1) * step.hidden);
        self.slice(&format!("{}.{suffix}", step.name), all, 1, start, end)
    }

    /// z and r, of the first two gates.
    fn update_and_reset(&mut self, step: &Step<'_>) -> Result<[ValueId; 2], GraphError> {
        let recurrent = self.recurrence(step, "zr_h", step.state[0], 0)?;
        let x = self.slice(&format!("{}.zr_x", step.name), step.x, 1, 0, 2 * step.hidden)?;
        let sum = self.binary(&format!("{}.zr_sum", step.name), Binary::Add, x, recurrent)?;
        let both = self.unary(&format!("{}.zr", step.name), Unary::Sigmoid, sum)?;
        Ok([self.gate(step, "z", both, 0)?, self.gate(step, "r", both, 1)?])
    }

    /// (1 - z) candidate + z h
    fn mix(&mut self, step: &Step<'_>, z: ValueId, candidate: ValueId) -> Result<[ValueId; 2], GraphError> {
        let name = |suffix: &str| format!("{}.{suffix}", step.name);
        let change = self.binary(&name("change"), Binary::Sub, step.state[0], candidate)?;
        let part = self.binary(&name("part"), Binary::Mul, z, change)?;
        let h = self.binary(&name("h"), Binary::Add, candidate, part)?;
        Ok([h, h])
    }

    fn gru_step(&mut self, step: &Step<'_>) -> Result<[ValueId; 2], GraphError> {
        let name = |suffix: &str| format!("{}.{suffix}", step.name);
        let [z, r] = self.update_and_reset(step)?;
        let reset = self.binary(&name("reset"), Binary::Mul, r, step.state[0])?;
        let recurrent = self.recurrence(step, "n_h", reset, 1)?;
        let x = self.gate(step, "n_x", step.x, 2)?;
        let sum = self.binary(&name("n_sum"), Binary::Add, x, recurrent)?;
        let candidate = self.unary(&name("n"), Unary::Tanh, sum)?;
        self.mix(step, z, candidate)
    }

    fn gru_step_linear_before_reset(&mut self, step: &Step<'_>) -> Result<[ValueId; 2], GraphError> {
        let name = |suffix: &str| format!("{}.{suffix}", step.name);
        let [z, r] = self.update_and_reset(step)?;
        let recurrent = self.recurrence(step, "n_h", step.state[0], 1)?;
        let reset = self.binary(&name("reset"), Binary::Mul, r, recurrent)?;
        let x = self.gate(step, "n_x", step.x, 2)?;
        let sum = self.binary(&name("n_sum"), Binary::Add, x, reset)?;
        let candidate = self.unary(&name("n"), Unary::Tanh, sum)?;
        self.mix(step, z, candidate)
    }

    fn lstm_step(&mut self, step: &Step<'_>) -> Result<[ValueId; 2], GraphError> {
        let name = |suffix: &str| format!("{}.{suffix}", step.name);
        let recurrent = self.recurrence(step, "recurrent", step.state[0], 0)?;
        let sum = self.binary(&name("sum"), Binary::Add, step.x, recurrent)?;
        let gate = |parts: &mut Self, suffix: &str, index: usize, function: Unary| {
            let gate = parts.gate(step, &format!("{suffix}_in"), sum, index)?;
            parts.unary(&format!("{}.{suffix}", step.name), function, gate)
        };
        let input = gate(self, "i", 0, Unary::Sigmoid)?;
        let output = gate(self, "o", 1, Unary::Sigmoid)?;
        let forget = gate(self, "f", 2, Unary::Sigmoid)?;
        let cell = gate(self, "g", 3, Unary::Tanh)?;
        let kept = self.binary(&name("kept"), Binary::Mul, forget, step.state[1])?;
        let new = self.binary(&name("new"), Binary::Mul, input, cell)?;
        let c = self.binary(&name("c"), Binary::Add, kept, new)?;
        let squashed = self.unary(&name("tanh_c"), Unary::Tanh, c)?;
        Ok([self.binary(&name("h"), Binary::Mul, output, squashed)?, c])
    }
}
