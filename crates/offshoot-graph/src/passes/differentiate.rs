//! Reverse-mode differentiation: the gradient nodes of a loss, as part of its graph.

use std::collections::HashMap;

use super::train::{depends_on, depends_on_trainable};
use crate::graph::{Graph, GraphError, Node, Value, ValueId};
use crate::op::{Binary, Derivative, Gemm, MatMul, Unary};
use crate::op::{GradOp, Norm, Op, Pooling, Recurrent, SequenceOp, ShapeOp, TrainOp};
use crate::tensor::{DType, Tensor};

/// A graph with the gradients of a loss.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The graph, with the backward nodes after the forward ones.
    pub graph: Graph,
    /// Each trainable parameter (of [`differentiate_by`], each value asked for) that the loss depends on, with its gradient.
    pub gradients: Vec<(ValueId, ValueId)>,
}

/// Adds the nodes that compute the gradient of `loss` by each trainable parameter it depends on. Only what those
/// gradients need is added. A loss that is no scalar stands for the sum of its elements.
///
/// # Errors
/// When the loss has a size that is not known, or a node on the way has no gradient rule (an operator that is itself
/// a gradient, or fused).
pub fn differentiate(graph: Graph, loss: ValueId) -> Result<Gradients, GraphError> {
    let needed = depends_on_trainable(&graph);
    let tape = backward(graph, loss, &needed)?;
    let parameters = tape.graph.parameters().iter();
    let gradients = parameters.filter_map(|&p| Some((p, (*tape.gradients.get(p.index())?)?))).collect();
    Ok(Gradients { graph: tape.graph, gradients })
}

/// As [`differentiate`], by any values of the graph, parameters or not. A value that the loss does not depend on is left out.
///
/// # Errors
/// As [`differentiate`].
pub fn differentiate_by(graph: Graph, loss: ValueId, by: &[ValueId]) -> Result<Gradients, GraphError> {
    let needed = depends_on(&graph, |id| by.contains(&id));
    let tape = backward(graph, loss, &needed)?;
    let gradients = by.iter().filter_map(|&id| Some((id, tape.gradients[id.index()]?))).collect();
    Ok(Gradients { graph: tape.graph, gradients })
}

/// The backward nodes of a loss for the values that are `needed`, and for nothing before them.
fn backward(graph: Graph, loss: ValueId, needed: &[bool]) -> Result<Tape, GraphError> {
    let forward: Vec<Node> = graph.nodes().to_vec();
    let values = graph.values().len();
    let value = graph.value(loss);
    let shape = value.shape.as_fixed().ok_or_else(|| GraphError {
        node: value.name.clone(),
        op: "loss",
        reason: format!("the loss must have a known shape, its shape is {}", value.shape),
    })?;
    let mut tape = Tape { gradients: vec![None; values], norm_sums: HashMap::new(), graph };
    let ones = tape.graph.add_constant("grad.seed", Tensor::full(shape, 1.0));
    tape.gradients[loss.index()] = Some(ones);
    for node in forward.iter().rev() {
        let Some(dy) = tape.gradients[node.outputs[0].index()] else { continue };
        // Weights before the input: what only the weight's gradient reads dies before the input's gradient is made.
        for (slot, &input) in node.inputs.iter().enumerate().rev() {
            if needed[input.index()]
                && let Some(gradient) = tape.rule(node, slot, dy)?
            {
                tape.accumulate(input, gradient)?;
            }
        }
    }
    Ok(tape)
}

struct Tape {
    graph: Graph,
    /// The gradient of each forward value, where one has been found.
    gradients: Vec<Option<ValueId>>,
    /// The gradients of a norm's weight and bias, by the norm's output: up to three inputs ask for them.
    norm_sums: HashMap<ValueId, [ValueId; 2]>,
}

impl Tape {
    fn accumulate(&mut self, value: ValueId, gradient: ValueId) -> Result<(), GraphError> {
        let sum = match self.gradients[value.index()] {
            None => gradient,
            Some(other) => {
                let name = format!("grad.{}.sum", self.graph.value(value).name);
                self.graph.add(&name, Op::Binary(Binary::Add), &[other, gradient])?
            }
        };
        self.gradients[value.index()] = Some(sum);
        Ok(())
    }

    /// The gradient by input `slot` of `node`, from the gradient `dy` of its first output. `None` where the loss
    /// does not depend on the input, or another input's rule covers it.
    fn rule(&mut self, node: &Node, slot: usize, dy: ValueId) -> Result<Option<ValueId>, GraphError> {
        let input = |i: usize| node.inputs[i];
        let y = node.outputs[0];
        let shape = |this: &Tape| this.graph.value(node.inputs[slot]).shape.clone();
        let (op, inputs): (Op, Vec<ValueId>) = match (&node.op, slot) {
            (Op::Conv(conv), 0) => {
                (Op::Grad(GradOp::ConvInput { conv: conv.clone(), shape: shape(self) }), vec![dy, input(1)])
            }
            (Op::Conv(conv), 1) => {
                (Op::Grad(GradOp::ConvWeight { conv: conv.clone(), shape: shape(self) }), vec![dy, input(0)])
            }
            (Op::Conv(_), _) | (Op::Gemm(_), 2) => (Op::Grad(GradOp::SumToChannels), vec![dy]),
            (Op::Gemm(gemm), 0) => gemm_input(*gemm, dy, input(1)),
            (Op::Gemm(gemm), _) => {
                // The gradient has the operand's own type: a parameter's is summed and kept in f32.
                let dtype = self.graph.value(input(1)).dtype;
                let (dy, x) = (self.cast(dy, dtype)?, self.cast(input(0), dtype)?);
                gemm_weight(*gemm, dy, x)
            }
            (Op::Unary(unary), _) => {
                let known = match unary.row().derivative {
                    Derivative::OfInput => input(0),
                    Derivative::OfOutput => y,
                };
                (Op::Grad(GradOp::Unary(*unary)), vec![dy, known])
            }
            (Op::Reduce { op, axis }, _) => {
                (Op::Grad(GradOp::Reduce { op: *op, axis: *axis }), vec![dy, input(0), y])
            }
            (Op::Sequence(SequenceOp::Gather), 0) => {
                (Op::Grad(GradOp::Gather { shape: shape(self) }), vec![dy, input(1)])
            }
            (Op::Sequence(SequenceOp::Where), 1 | 2) => return self.chosen(node, slot, dy).map(Some),
            // Tokens and the conditions made of them do not depend on parameters.
            (
                Op::Sequence(
                    SequenceOp::Gather
                    | SequenceOp::Where
                    | SequenceOp::Positions { .. }
                    | SequenceOp::Equal { .. }
                    | SequenceOp::ToFloat,
                ),
                _,
            ) => return Ok(None),
            (&Op::MatMul(product), slot) => {
                let (product, dy_first) = product_gradient(product, slot);
                let other = input(1 - slot);
                (Op::MatMul(product), if dy_first { vec![dy, other] } else { vec![other, dy] })
            }
            (Op::Norm(Norm::Layer(norm)), 0) => {
                (Op::Grad(GradOp::LayerNormInput(*norm)), vec![dy, input(0), input(1)])
            }
            (Op::Norm(Norm::Layer(norm)), slot) => {
                let op = Op::Grad(GradOp::LayerNormReduce(*norm));
                return Ok(Some(self.norm_sums(node, op, &[dy, input(0)])?[slot - 1]));
            }
            (Op::Shape(ShapeOp::Transpose { perm }), _) => {
                let mut inverse = vec![0; perm.len()];
                perm.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
                (Op::Shape(ShapeOp::Transpose { perm: inverse }), vec![dy])
            }
            (Op::Shape(ShapeOp::Concat { axis }), _) => {
                let size = |id: ValueId| self.graph.value(id).shape.0[*axis].fixed();
                let start = node.inputs[..slot].iter().map(|&id| size(id)).sum::<Option<usize>>();
                let end = start.zip(size(node.inputs[slot])).map(|(start, size)| start + size);
                let (Some(start), Some(end)) = (start, end) else {
                    return Err(GraphError {
                        node: node.name.clone(),
                        op: node.op.name(),
                        reason: "has no gradient along an axis whose sizes are not known".into(),
                    });
                };
                (Op::Shape(ShapeOp::Slice { axis: *axis, start, end }), vec![dy])
            }
            (Op::Shape(ShapeOp::Slice { axis, start, .. }), _) => {
                (Op::Grad(GradOp::Slice { axis: *axis, start: *start, shape: shape(self) }), vec![dy])
            }
            (Op::Shape(ShapeOp::Expand { .. }), _) => return self.reduce_to(node, slot, dy).map(Some),
            (Op::Binary(binary), _) => {
                let gradient = self.binary(node, *binary, slot, dy)?;
                return self.reduce_to(node, slot, gradient).map(Some);
            }
            (Op::Pool(Pooling::Max(pool)), _) => {
                (Op::Grad(GradOp::MaxPool(pool.clone())), vec![dy, input(0)])
            }
            (Op::Pool(Pooling::Average(pool)), _) => {
                (Op::Grad(GradOp::AveragePool { pool: pool.clone(), shape: shape(self) }), vec![dy])
            }
            (Op::Pool(Pooling::GlobalAverage), _) => {
                (Op::Grad(GradOp::GlobalAveragePool { shape: shape(self) }), vec![dy])
            }
            (Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. }), _) => {
                (Op::Grad(GradOp::Reshape { shape: shape(self) }), vec![dy])
            }
            (Op::Shape(ShapeOp::Identity) | Op::Dropout { .. }, _) => return Ok(Some(dy)),
            (Op::Softmax { axis }, _) => (Op::Grad(GradOp::Softmax { axis: *axis }), vec![dy, y]),
            (Op::SoftmaxCrossEntropyLoss(loss), 0) => {
                let inputs = std::iter::once(dy).chain(node.inputs.iter().copied()).collect();
                (Op::Grad(GradOp::SoftmaxCrossEntropyLoss(*loss)), inputs)
            }
            (Op::SoftmaxCrossEntropyLoss(_), _) => return Ok(None),
            (Op::DequantizeLinear { .. }, 0) if self.follows_its_quantize(node) => return Ok(Some(dy)),
            // The gradient that comes here is the DQ's own: see above.
            (Op::QuantizeLinear { axis }, 0) => {
                (Op::Grad(GradOp::QuantizeLinear { axis: *axis }), vec![dy, input(0), input(1), input(2)])
            }
            (Op::Train(TrainOp::Dropout { ratio, layer }), 0) => {
                (Op::Grad(GradOp::Dropout { ratio: *ratio, layer: *layer }), vec![dy, input(1)])
            }
            (Op::Train(TrainOp::Cast { .. }), _) => {
                return self.cast(dy, self.graph.value(input(0)).dtype).map(Some);
            }
            (Op::Train(TrainOp::BatchNormApply), 0) => return self.batch_norm_input(node, dy).map(Some),
            (Op::Train(TrainOp::BatchNormApply), 3) => return Ok(Some(self.batch_norm_sums(node, dy)?[0])),
            (Op::Train(TrainOp::BatchNormApply), 4) => return Ok(Some(self.batch_norm_sums(node, dy)?[1])),
            // Through the batch's own statistics: part of BatchNormInput.
            (Op::Train(TrainOp::BatchNormApply), _) if self.uses_own_statistics(node) => return Ok(None),
            (Op::Train(TrainOp::Dropout { .. } | TrainOp::BatchNormStats(_)), _) => return Ok(None),
            (Op::Recurrent(Recurrent::Lstm(_)) | Op::Composite(_), _) => {
                return Err(GraphError {
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason: "has no gradient as a whole: expand or unroll it first".into(),
                });
            }
            (Op::DynamicQuantizeMatMul { .. } | Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)), _) => {
                return Err(GraphError {
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason: "has no gradient: dynamic int8 is for a model that is trained already".into(),
                });
            }
            (Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. }, _) => {
                return Err(GraphError {
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason: "has a gradient where a DequantizeLinear undoes a QuantizeLinear with the same scale and \
                             zero point, both frozen: only such pairs can be trained through"
                        .into(),
                });
            }
            (
                Op::Norm(Norm::Batch(_))
                | Op::Train(TrainOp::InvStd { .. } | TrainOp::BatchNormApply)
                | Op::Grad(_)
                | Op::Update(_),
                _,
            ) => {
                return Err(GraphError {
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason:
                        "has no gradient in this form: derive the training graph from the model's own graph"
                            .into(),
                });
            }
        };
        self.graph.add(&grad_name(node, slot), op, &inputs).map(Some)
    }

    /// The gradient of a function of two elements by operand `slot`, before it is summed to the operand's shape.
    fn binary(&mut self, node: &Node, op: Binary, slot: usize, dy: ValueId) -> Result<ValueId, GraphError> {
        let (a, b, y) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let name = grad_name(node, slot);
        let negative = |this: &mut Tape, x: ValueId| {
            this.graph.add(&format!("{name}.negative"), Op::Unary(Unary::Neg), &[x])
        };
        let two = |this: &mut Tape, part: &str, op: Binary, inputs: &[ValueId]| {
            this.graph.add(&format!("{name}{part}"), Op::Binary(op), inputs)
        };
        match (op, slot) {
            (Binary::Add, _) | (Binary::Sub, 0) => Ok(dy),
            (Binary::Sub, _) => negative(self, dy),
            (Binary::Mul, _) => two(self, "", op, &[dy, node.inputs[1 - slot]]),
            (Binary::Div, 0) => two(self, "", op, &[dy, b]),
            // d(a / b) / db = -(a / b) / b
            (Binary::Div, _) => {
                let product = two(self, ".product", Binary::Mul, &[dy, y])?;
                let quotient = two(self, ".quotient", Binary::Div, &[product, b])?;
                negative(self, quotient)
            }
            (Binary::Max | Binary::Min | Binary::Pow, _) => {
                self.graph.add(&name, Op::Grad(GradOp::Binary { op, slot }), &[dy, a, b])
            }
        }
    }

    /// The gradient of one of the two values that a Where chooses from: dy where it was chosen, else 0.
    fn chosen(&mut self, node: &Node, slot: usize, dy: ValueId) -> Result<ValueId, GraphError> {
        let name = grad_name(node, slot);
        let zero = self.graph.add_constant(&format!("{name}.zero"), Tensor::f32([], vec![0.0]));
        let [yes, no] = if slot == 1 { [dy, zero] } else { [zero, dy] };
        let op = Op::Sequence(SequenceOp::Where);
        let gradient = self.graph.add(&format!("{name}.chosen"), op, &[node.inputs[0], yes, no])?;
        self.reduce_to(node, slot, gradient)
    }

    /// `value` as `dtype`.
    fn cast(&mut self, value: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
        let Value { name, dtype: own, .. } = self.graph.value(value);
        if *own == dtype {
            return Ok(value);
        }
        let name = format!("{name}.{dtype}");
        self.graph.add(&name, Op::Train(TrainOp::Cast { to: dtype }), &[value])
    }

    /// Sums `dy` over the axes along which the operand was broadcast.
    fn reduce_to(&mut self, node: &Node, slot: usize, dy: ValueId) -> Result<ValueId, GraphError> {
        let shape = self.graph.value(node.inputs[slot]).shape.clone();
        if self.graph.value(dy).shape == shape {
            return Ok(dy);
        }
        self.graph.add(
            &format!("{}.reduced", grad_name(node, slot)),
            Op::Grad(GradOp::ReduceTo { shape }),
            &[dy],
        )
    }

    /// The gradients of a batch norm's weight and bias.
    fn batch_norm_sums(&mut self, node: &Node, dy: ValueId) -> Result<[ValueId; 2], GraphError> {
        let inputs = [dy, node.inputs[0], node.inputs[1], node.inputs[2]];
        self.norm_sums(node, Op::Grad(GradOp::BatchNormReduce), &inputs)
    }

    /// The gradients of a norm's weight and bias, which `op` computes of `inputs`.
    fn norm_sums(&mut self, node: &Node, op: Op, inputs: &[ValueId]) -> Result<[ValueId; 2], GraphError> {
        if let Some(&sums) = self.norm_sums.get(&node.outputs[0]) {
            return Ok(sums);
        }
        let sums = self.graph.add_node(&format!("grad.{}.sums", node.name), op, inputs)?;
        let sums = [sums[0], sums[1]];
        self.norm_sums.insert(node.outputs[0], sums);
        Ok(sums)
    }

    /// Whether a DequantizeLinear undoes a QuantizeLinear, of which only it and its like know.
    fn follows_its_quantize(&self, node: &Node) -> bool {
        let quantize = self.graph.producer(node.inputs[0]).map(|n| self.graph.node(n));
        quantize.is_some_and(|q| {
            let (Op::QuantizeLinear { axis }, Op::DequantizeLinear { axis: undone }) = (&q.op, &node.op)
            else {
                return false;
            };
            axis == undone && q.inputs[1..] == node.inputs[1..]
        })
    }

    /// Whether a BatchNormApply normalizes x with the statistics of that very x.
    fn uses_own_statistics(&self, node: &Node) -> bool {
        let stats = self.graph.producer(node.inputs[1]).map(|n| self.graph.node(n));
        stats.is_some_and(|n| {
            matches!(n.op, Op::Train(TrainOp::BatchNormStats(_))) && n.inputs[0] == node.inputs[0]
        })
    }

    fn batch_norm_input(&mut self, node: &Node, dy: ValueId) -> Result<ValueId, GraphError> {
        let [x, mean, inv_std, weight] = [0, 1, 2, 3].map(|i| node.inputs[i]);
        let name = grad_name(node, 0);
        if !self.uses_own_statistics(node) {
            return self.graph.add(&name, Op::Grad(GradOp::BatchNormScale), &[dy, inv_std, weight]);
        }
        let [dweight, dbias] = self.batch_norm_sums(node, dy)?;
        let inputs = [dy, x, mean, inv_std, weight, dweight, dbias];
        self.graph.add(&name, Op::Grad(GradOp::BatchNormInput), &inputs)
    }
}

fn grad_name(node: &Node, slot: usize) -> String {
    format!("grad.{}.{slot}", node.name)
}

/// d/da of op(a) op(b): dy op(b)^T, transposed once more where a was.
fn gemm_input(gemm: Gemm, dy: ValueId, b: ValueId) -> (Op, Vec<ValueId>) {
    match gemm {
        Gemm { trans_a: false, trans_b } => {
            (Op::Gemm(Gemm { trans_a: false, trans_b: !trans_b }), vec![dy, b])
        }
        Gemm { trans_a: true, trans_b } => (Op::Gemm(Gemm { trans_a: trans_b, trans_b: true }), vec![b, dy]),
    }
}

/// d/db of op(a) op(b): op(a)^T dy, transposed once more where b was.
fn gemm_weight(gemm: Gemm, dy: ValueId, a: ValueId) -> (Op, Vec<ValueId>) {
    match gemm {
        Gemm { trans_a, trans_b: false } => {
            (Op::Gemm(Gemm { trans_a: !trans_a, trans_b: false }), vec![a, dy])
        }
        Gemm { trans_a, trans_b: true } => (Op::Gemm(Gemm { trans_a: true, trans_b: trans_a }), vec![dy, a]),
    }
}

/// The product that is the gradient of operand `slot` of another one, and whether dy is its first operand: the other operand
/// is its second. With A = op(a) and B = op(b), dA = dy B^T and dB = A^T dy.
fn product_gradient(MatMul { trans_a, trans_b }: MatMul, slot: usize) -> (MatMul, bool) {
    match (slot, trans_a, trans_b) {
        (0, false, _) => (MatMul { trans_a: false, trans_b: !trans_b }, true),
        (0, true, _) => (MatMul { trans_a: trans_b, trans_b: true }, false),
        (_, _, false) => (MatMul { trans_a: !trans_a, trans_b: false }, false),
        (_, _, true) => (MatMul { trans_a: true, trans_b: trans_a }, true),
    }
}
