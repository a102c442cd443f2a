//! What is computed in integers: an operator between DequantizeLinear and QuantizeLinear is one on int8. LiteRT's activations
//! are int8 where the graph's are u8: zero points and levels are 128 lower.

use offshoot_graph::op::{Binary, Clip, Pooling, ShapeOp, Unary};
use offshoot_graph::{Data, Node, Op, ValueId};

use super::builder::Affine;
use super::operands::{Scaled, plain, turned};
use super::{Writer, refused};
use crate::error::Problem;
use crate::litert::schema::{Code, Fused};
use crate::parts::transposed;

/// A node, and what of those behind it one operator of LiteRT does too.
pub(super) struct Job<'n> {
    pub(super) node: &'n Node,
    /// The value that it gives in the end.
    pub(super) target: ValueId,
    pub(super) fused: Fused,
    /// What its result's bytes stand for, where it computes in integers.
    pub(super) affine: Option<Affine>,
}

/// The activation that an operator applies itself.
fn fused(op: &Op) -> Option<Fused> {
    let Op::Unary(unary) = op else { return None };
    if *unary == Unary::Relu {
        return Some(Fused::Relu);
    }
    (*unary == Unary::Clip(Clip { min: 0.0, max: 6.0 })).then_some(Fused::Relu6)
}

impl<'a> Writer<'a> {
    pub(super) fn job<'n>(&mut self, node: &'n Node) -> Job<'n>
    where
        'a: 'n,
    {
        let mut job = Job { node, target: node.outputs[0], fused: Fused::None, affine: None };
        let takes_activation = matches!(node.op, Op::Conv(_) | Op::Binary(Binary::Add))
            || matches!(node.op, Op::Gemm(_) if self.is_linear(node));
        let mut parts = Vec::new();
        if takes_activation
            && let Some((index, reader)) = self.only_reader(job.target)
            && let Some(fused) = fused(&reader.op)
        {
            (job.fused, job.target) = (fused, reader.outputs[0]);
            parts.push(index);
        }
        if let Some((index, reader)) = self.only_reader(job.target)
            && matches!(reader.op, Op::QuantizeLinear { .. })
            && let Some(affine) = self.affine(reader)
            && self.in_integers(node, &affine)
        {
            (job.affine, job.target) = (Some(affine), reader.outputs[0]);
            parts.push(index);
        }
        self.done.extend(parts);
        job
    }

    /// The node that alone reads a value.
    fn only_reader(&self, id: ValueId) -> Option<(usize, &'a Node)> {
        let index = *self.readers.get(&id).filter(|_| self.uses[id.index()] == 1)?;
        Some((index, &self.graph.nodes()[index]))
    }

    /// Whether LiteRT computes `node` on int8, with a result under `affine`.
    fn in_integers(&self, node: &Node, affine: &Affine) -> bool {
        let bytes = |i: usize| self.bytes_under(node, i).is_some();
        let all = || (0..node.inputs.len()).all(bytes);
        match &node.op {
            Op::Conv(_) => bytes(0) && self.has_integer_weight(node, 0),
            Op::Gemm(gemm) => {
                !gemm.trans_a && bytes(0) && self.has_integer_weight(node, usize::from(!gemm.trans_b))
            }
            Op::Binary(Binary::Add)
            | Op::Pool(Pooling::GlobalAverage)
            | Op::Shape(ShapeOp::Concat { .. }) => all(),
            Op::Pool(Pooling::Average(average)) => all() && self.divides_alike(node, average),
            Op::Pool(Pooling::Max(_))
            | Op::Shape(
                ShapeOp::Flatten { .. }
                | ShapeOp::Reshape { .. }
                | ShapeOp::Transpose { .. }
                | ShapeOp::Slice { .. },
            ) => self.bytes_under(node, 0) == Some(affine),
            Op::Shape(ShapeOp::Expand { .. } | ShapeOp::Identity)
            | Op::Binary(_)
            | Op::Unary(_)
            | Op::Reduce { .. }
            | Op::Norm(_)
            | Op::MatMul(_)
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::Sequence(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_)
            | Op::Composite(_)
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_) => false,
        }
    }

    /// What the bytes of an operand stand for, where it is bytes.
    pub(super) fn bytes_under(&self, node: &Node, i: usize) -> Option<&Affine> {
        let place = self.places.get(&node.inputs[i]).filter(|place| place.bytes)?;
        self.affines.get(&place.tensor)
    }

    /// Whether the weight is i8 with scales along `axis`, and the bias, if any, i32 under the scales of the products.
    fn has_integer_weight(&self, node: &Node, axis: usize) -> bool {
        let scaled = |i: usize| node.inputs.get(i).and_then(|id| self.scaled.get(id));
        let is = |scaled: &Scaled, bytes: bool| {
            let data = self.stored(scaled.integers).map(|tensor| tensor.data());
            matches!((data, bytes), (Some(Data::I8(_)), true) | (Some(Data::I32(_)), false))
        };
        let (Some(weight), Some(x)) = (scaled(1), self.bytes_under(node, 0)) else { return false };
        let products = |bias: &Scaled| {
            let scales = bias.scales.iter().zip(weight.scales.iter().cycle());
            scales.into_iter().all(|(b, w)| (b - w * x.scales[0]).abs() <= 1e-5 * b)
        };
        let bias = node.inputs.len() < 3
            || scaled(2).is_some_and(|bias| is(bias, false) && bias.axis == 0 && products(bias));
        is(weight, true) && (weight.axis == axis || weight.scales.len() == 1) && bias
    }

    /// A weight of int8 as `sizes`, turned, whose scales go along `axis` then; and the bias, which may be zeros.
    pub(super) fn integer_weights(
        &mut self,
        job: &Job<'_>,
        [sizes, perm]: [&[usize]; 2],
        axis: usize,
    ) -> Result<[i32; 2], Problem> {
        let node = job.node;
        let missing = || refused(node, "its weights are not in integers");
        let weight = self.scaled.get(&node.inputs[1]).cloned().ok_or_else(missing)?;
        let Some(Data::I8(levels)) = self.stored(weight.integers).map(|t| t.data().clone()) else {
            return Err(missing());
        };
        let sizes_then = turned(sizes, perm);
        let channels = sizes_then[axis];
        let affine = |scales: Vec<f32>, axis: usize| Affine {
            zeros: vec![0; scales.len()],
            scales,
            axis: axis as i32,
        };
        let name = self.graph.value(weight.integers).name.clone();
        let levels = Data::I8(transposed(&levels, sizes, perm));
        let under = affine(weight.scales.clone(), axis);
        let tensor = self.integers(&name, &sizes_then, &levels, &under)?;
        let (name, sums, scales) = match node.inputs.get(2).and_then(|id| self.scaled.get(id)).cloned() {
            Some(bias) => {
                let sums = self.stored(bias.integers).map(|t| t.data().clone()).ok_or_else(missing)?;
                (self.graph.value(bias.integers).name.clone(), sums, bias.scales)
            }
            None => {
                let x = self.bytes_under(node, 0).map_or(1.0, |x| x.scales[0]);
                let scales = weight.scales.iter().map(|scale| scale * x).collect();
                (format!("{}.zeros", node.name), Data::I32(vec![0; channels]), scales)
            }
        };
        let bias = self.integers(&name, &[channels], &sums, &affine(scales, 0))?;
        Ok([tensor, bias])
    }

    /// What the result of a QuantizeLinear, or the operand of a DequantizeLinear, stands for as int8; `None` where it has
    /// more than one scale or is not known before the run.
    fn affine(&self, node: &Node) -> Option<Affine> {
        let scale = self.stored(node.inputs[1])?.as_f32()?;
        let zero = match self.stored(node.inputs[2])?.data() {
            Data::U8(zeros) => i64::from(*zeros.first()?) - 128,
            Data::I8(zeros) => i64::from(*zeros.first()?),
            _ => return None,
        };
        let &[scale] = scale else { return None };
        Some(Affine { scales: vec![scale], zeros: vec![zero], axis: 0 })
    }

    /// Floats, or bytes under another scale, as bytes.
    pub(super) fn quantize(&mut self, job: &Job<'_>) -> Result<(), Problem> {
        let node = job.node;
        let affine = self.affine(node);
        let affine = affine.ok_or_else(|| refused(node, "LiteRT rounds activations under one scale"))?;
        let into = Job { affine: Some(affine), target: job.target, fused: Fused::None, node };
        let Some(order) = self.order(node, 0) else {
            return Err(refused(node, "it rounds stored numbers at each run"));
        };
        let x = match self.bytes_under(node, 0) {
            Some(_) => self.x(&into, 0, &order)?,
            None => self.floats_of(node, 0, &order)?,
        };
        let requantizes = self.affines.contains_key(&x);
        let dims = turned(&self.dims(job.target), &order);
        let name = self.graph.value(job.target).name.clone();
        let tensor = self.tensor(&name, &dims, into.affine.as_ref())?;
        let version = Code::Quantize.row().versions[usize::from(requantizes)];
        self.file.operator(Code::Quantize, version, vec![x], tensor, vec![]);
        self.hold(&into, tensor, &order);
        Ok(())
    }

    /// Bytes stay bytes until an operator wants floats; the scales of stored integers are kept beside them.
    pub(super) fn dequantize(&mut self, node: &Node, axis: usize) -> Result<(), Problem> {
        let (id, output) = (node.inputs[0], node.outputs[0]);
        if let Some(place) = self.places.get(&id).cloned() {
            if self.affine(node).as_ref() != self.affines.get(&place.tensor) {
                return Err(refused(node, "it takes bytes for other numbers than those that were rounded"));
            }
            self.places.insert(output, place);
            return Ok(());
        }
        let scales = self.stored(node.inputs[1]).and_then(|t| t.as_f32()).map(<[f32]>::to_vec);
        let symmetric = match self.stored(node.inputs[2]).map(|t| t.data()) {
            Some(Data::I8(zeros)) => zeros.iter().all(|&z| z == 0),
            Some(Data::I32(zeros)) => zeros.iter().all(|&z| z == 0),
            _ => false,
        };
        match scales.filter(|scales| symmetric && !scales.is_empty()) {
            Some(scales) if self.stored(id).is_some() => {
                self.scaled.insert(output, Scaled { integers: id, scales, axis });
                Ok(())
            }
            _ => Err(refused(node, "LiteRT's weights in integers have a zero point of 0")),
        }
    }

    /// An operand's bytes under the job's own scale.
    pub(super) fn rescaled(&mut self, job: &Job<'_>, i: usize, order: &[usize]) -> Result<i32, Problem> {
        let x = self.x(job, i, order)?;
        if self.affines.get(&x) == job.affine.as_ref() {
            return Ok(x);
        }
        let dims = turned(&self.dims(job.node.inputs[i]), order);
        let name = format!("{}.operand{i}", job.node.name);
        let tensor = self.tensor(&name, &dims, job.affine.as_ref())?;
        self.operator(Code::Quantize, vec![x], tensor, vec![]);
        Ok(tensor)
    }

    /// Whether a matrix is multiplied by a stored one: LiteRT's FULLY_CONNECTED.
    pub(super) fn is_linear(&self, node: &Node) -> bool {
        let bias = |id: ValueId| {
            let columns = self.graph.value(node.outputs[0]).shape.0.last().and_then(|dim| dim.fixed());
            let own = self.graph.value(id).shape.as_fixed();
            self.is_stored(id) && own.is_some_and(|shape| Some(shape.iter().product()) == columns)
        };
        self.is_stored(node.inputs[1])
            && !self.is_stored(node.inputs[0])
            && node.inputs.get(2).is_none_or(|&id| bias(id))
    }

    /// Makes what a node only moves of stored numbers a stored number itself.
    pub(super) fn stored_before(&mut self, node: &Node) -> Result<bool, Problem> {
        let Op::Shape(op) = &node.op else { return Ok(false) };
        let Some(shape) = self.graph.value(node.outputs[0]).shape.as_fixed() else { return Ok(false) };
        if node.inputs.iter().any(|&id| !self.is_stored(id)) {
            return Ok(false);
        }
        let inputs = (0..node.inputs.len()).map(|i| self.numbers(node, i));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<_> = inputs.iter().map(|(numbers, shape)| (&numbers[..], shape.clone())).collect();
        let Some(numbers) = crate::parts::moved(op, &inputs) else { return Ok(false) };
        self.moved.insert(node.outputs[0], offshoot_graph::Tensor::f32(shape, numbers));
        Ok(true)
    }

    /// The axes of a value as they stand in the graph.
    pub(super) fn plain_order(&self, id: ValueId) -> Vec<usize> {
        plain(self.graph.value(id).shape.rank())
    }
}
