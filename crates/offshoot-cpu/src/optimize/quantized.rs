//! Operators between DequantizeLinear and QuantizeLinear, as operators on bytes.

use offshoot_graph::op::{Binary, Clip, Gemm, Norm, Pooling, ShapeOp, Unary};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Data, Dim, Graph, GraphError, Node, Op, Shape, Source, Tensor, ValueId};

use super::function::{Functions, Term};
use super::op::{CpuOp, Quantized, QuantizedBinary, QuantizedOp, QuantizedResidual, Steps};
use super::reshaped;

/// Makes operators on bytes of those that stand between DequantizeLinear and QuantizeLinear (see [`offshoot_graph::op`]), where
/// each activation has one scale and one zero point that are constants, and weights are frozen integers with zero point 0.
/// All bytes become u8: an i8 is stored as 128 more, and so is its zero point. What does not fit stays as it is.
///
/// The result is for executors only. It differs from the graph by a step where a float was rounded otherwise.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_quantized(graph: &Graph) -> Result<Graph<CpuOp>, GraphError> {
    let graph = reshaped::reshape_bytes(&unsigned(graph)?)?;
    let matcher = Matcher { graph: &graph, uses: graph.use_counts(), functions: Functions::of(&graph) };
    let mut rewriter = Rewriter::new(&graph);
    for node in graph.nodes() {
        match matcher.fused(node) {
            Some(Fused::Op(quantized, inputs)) => {
                let inputs: Vec<ValueId> = inputs.into_iter().map(|v| rewriter.get(v)).collect();
                let op = CpuOp::Quantized(quantized);
                let y = rewriter.new.add(&node.name, op, &inputs)?;
                rewriter.set(node.outputs[0], y);
            }
            Some(Fused::Same(q)) => rewriter.set(node.outputs[0], rewriter.get(q)),
            Some(Fused::Move(op, q)) => {
                let q = rewriter.get(q);
                let y = rewriter.new.add(&node.name, op.into(), &[q])?;
                rewriter.set(node.outputs[0], y);
            }
            Some(Fused::Concat { axis, parts, y }) => {
                let parts = parts.into_iter().map(|(q, x)| rescaled(&mut rewriter, node, q, x, y));
                let parts = parts.collect::<Result<Vec<_>, _>>()?;
                let y = rewriter.new.add(&node.name, Op::Shape(ShapeOp::Concat { axis }).into(), &parts)?;
                rewriter.set(node.outputs[0], y);
            }
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// What stands for a node.
enum Fused {
    Op(Quantized, Vec<ValueId>),
    /// The same bytes.
    Same(ValueId),
    /// An operator that moves bytes, and what it reads.
    Move(Op, ValueId),
    /// Bytes and their steps, to be joined in steps of `y`.
    Concat {
        axis: usize,
        parts: Vec<(ValueId, Steps)>,
        y: Steps,
    },
}

/// The new bytes for `q` of the old graph in steps of `y`.
fn rescaled(
    rewriter: &mut Rewriter<'_, Op, CpuOp>,
    node: &Node,
    q: ValueId,
    x: Steps,
    y: Steps,
) -> Result<ValueId, GraphError> {
    let q = rewriter.get(q);
    if x == y {
        return Ok(q);
    }
    let terms = vec![Term::Byte, Term::Dequantize(0, x), Term::Quantize(1, y)];
    let rescale = Quantized { op: QuantizedOp::Function(terms), x, clip: Clip::NONE, y: Some(y) };
    rewriter.new.add(&format!("{}.rescale", node.name), CpuOp::Quantized(rescale), &[q])
}

/// The graph with u8 in place of i8 wherever only DequantizeLinears with one zero point read what a QuantizeLinear with one
/// makes.
fn unsigned(graph: &Graph) -> Result<Graph, GraphError> {
    let mut moves = vec![false; graph.values().len()];
    for node in graph.nodes() {
        if matches!(node.op, Op::QuantizeLinear { .. }) && signed(graph, node).is_some() {
            moves[node.outputs[0].index()] = true;
        }
    }
    for node in graph.nodes() {
        let undone = matches!(node.op, Op::DequantizeLinear { .. }) && signed(graph, node).is_some();
        let kept = node.inputs.iter().skip(usize::from(undone));
        kept.for_each(|v| moves[v.index()] = false);
    }
    graph.outputs().iter().for_each(|(_, v)| moves[v.index()] = false);
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let bytes = matches!(node.op, Op::QuantizeLinear { .. }) && moves[node.outputs[0].index()]
            || matches!(node.op, Op::DequantizeLinear { .. }) && moves[node.inputs[0].index()];
        let Some(zero_point) = signed(graph, node).filter(|_| bytes) else {
            rewriter.copy(node)?;
            continue;
        };
        let zero_point = Tensor::new([], Data::U8(vec![(i16::from(zero_point) + 128) as u8]));
        let zero_point = zero_point.expect("a scalar has one element");
        let zero_point = rewriter.new.add_constant(&format!("{}.zero_point", node.name), zero_point);
        let inputs = [rewriter.get(node.inputs[0]), rewriter.get(node.inputs[1]), zero_point];
        let y = rewriter.new.add(&node.name, node.op.clone(), &inputs)?;
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

/// The i8 zero point of a node that has one for all elements.
fn signed(graph: &Graph, node: &Node) -> Option<i8> {
    match constant(graph, *node.inputs.get(2)?)?.data() {
        Data::I8(zero_point) if zero_point.len() == 1 => Some(zero_point[0]),
        _ => None,
    }
}

/// The tensor of a constant.
pub(super) fn constant(graph: &Graph, value: ValueId) -> Option<&Tensor> {
    match &graph.value(value).source {
        Source::Constant(tensor) => Some(tensor),
        Source::Input | Source::Parameter(_) | Source::Node { .. } => None,
    }
}

/// The one scale and u8 zero point of a QuantizeLinear or a DequantizeLinear.
pub(super) fn steps(graph: &Graph, node: &Node) -> Option<Steps> {
    let &[scale] = constant(graph, node.inputs[1])?.as_f32()? else { return None };
    let Data::U8(zero_point) = constant(graph, node.inputs[2])?.data() else { return None };
    let &[zero_point] = &zero_point[..] else { return None };
    (scale > 0.0 && scale.is_finite()).then_some(Steps { scale, zero_point })
}

struct Matcher<'a> {
    graph: &'a Graph,
    uses: Vec<usize>,
    functions: Functions<'a>,
}

/// A product of bytes and weights: its operands, and the steps of the first.
struct Product {
    op: QuantizedOp,
    inputs: Vec<ValueId>,
    x: Steps,
}

impl Matcher<'_> {
    fn producer(&self, value: ValueId) -> Option<&Node> {
        self.graph.producer(value).map(|node| self.graph.node(node))
    }

    /// The node that makes a value that is read once.
    fn sole_producer(&self, value: ValueId) -> Option<&Node> {
        self.producer(value).filter(|_| self.uses[value.index()] == 1)
    }

    /// The bytes that a float stands for.
    fn bytes(&self, value: ValueId) -> Option<(ValueId, Steps)> {
        let node = self.producer(value)?;
        let q = node.inputs[0];
        let dequantizes =
            matches!(node.op, Op::DequantizeLinear { .. }) && self.graph.value(q).dtype == DType::U8;
        dequantizes.then(|| steps(self.graph, node).map(|steps| (q, steps)))?
    }

    /// What stands for `node`, if it is computed on bytes.
    fn fused(&self, node: &Node) -> Option<Fused> {
        if matches!(node.op, Op::QuantizeLinear { .. }) {
            return self.quantized(node);
        }
        let Product { op, inputs, x } = self.product(node)?;
        Some(Fused::Op(Quantized { op, x, clip: Clip::NONE, y: None }, inputs))
    }

    /// The operator on bytes whose result is that of a QuantizeLinear.
    fn quantized(&self, node: &Node) -> Option<Fused> {
        let y = steps(self.graph, node)?;
        let (value, clip) = self.before_activation(node.inputs[0]);
        let op = |op: QuantizedOp, x: Steps, inputs: Vec<ValueId>| {
            Some(Fused::Op(Quantized { op, x, clip, y: Some(y) }, inputs))
        };
        if let Some((q, terms)) = self.functions.get(node.outputs[0]) {
            if terms[..] == [Term::Byte, Term::Dequantize(0, y), Term::Quantize(1, y)] {
                return Some(Fused::Same(q));
            }
            let function = Quantized { op: QuantizedOp::Function(terms), x: y, clip: Clip::NONE, y: Some(y) };
            return Some(Fused::Op(function, vec![q]));
        }
        let source = self.sole_producer(value)?;
        if let Some(product) = self.product(source) {
            return op(product.op, product.x, product.inputs);
        }
        if let Op::Binary(binary) = source.op {
            let [a, b] = [0, 1].map(|i| source.inputs[i]);
            if binary == Binary::Add
                && let Some((product, residual)) =
                    self.with_residual(a, b).or_else(|| self.with_residual(b, a))
            {
                return op(product.op, product.x, [product.inputs, vec![residual]].concat());
            }
            let of = |a, b, swapped| self.combined(binary, [a, b], swapped);
            let (binary, x, inputs) = of(a, b, false).or_else(|| of(b, a, true))?;
            return op(QuantizedOp::Binary(binary), x, inputs);
        }
        if let Op::Shape(ShapeOp::Concat { axis }) = source.op {
            let parts = source.inputs.iter().map(|&x| self.bytes(x)).collect::<Option<Vec<_>>>()?;
            return (clip == Clip::NONE).then_some(Fused::Concat { axis, parts, y });
        }
        let (q, x) = self.bytes(*source.inputs.first()?)?;
        if let Op::Norm(Norm::Batch(norm)) = source.op
            && self.graph.value(q).shape.rank() == 4
        {
            let inputs = [&[q], &source.inputs[1..]].concat();
            return op(QuantizedOp::BatchNormalization(norm), x, inputs);
        }
        if let Op::Pool(Pooling::Average(pool)) = &source.op {
            return op(QuantizedOp::AveragePool(pool.clone()), x, vec![q]);
        }
        if source.op == Op::Pool(Pooling::GlobalAverage) {
            return op(QuantizedOp::GlobalAveragePool, x, vec![q]);
        }
        let moves = matches!(
            source.op,
            Op::Pool(Pooling::Max(_)) | Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. })
        );
        (moves && x == y && clip == Clip::NONE).then(|| Fused::Move(source.op.clone(), q))
    }

    /// A function of the bytes behind `a` and of `b`: of bytes too, or of floats that are the same for all pixels of a
    /// channel, or for all rows.
    fn combined(
        &self,
        op: Binary,
        [a, b]: [ValueId; 2],
        swapped: bool,
    ) -> Option<(QuantizedBinary, Steps, Vec<ValueId>)> {
        let (q, x) = self.bytes(a)?;
        let [whole, part] = [a, b].map(|value| &self.graph.value(value).shape);
        if whole == part
            && let Some((other, steps)) = self.bytes(b)
        {
            return Some((QuantizedBinary { op, other: Some(steps), swapped }, x, vec![q, other]));
        }
        let floats = self.graph.value(b).dtype == DType::F32 && shares_rows(whole, part);
        floats.then(|| (QuantizedBinary { op, other: None, swapped }, x, vec![q, b]))
    }

    /// What an activation is applied to, and its bounds.
    fn before_activation(&self, value: ValueId) -> (ValueId, Clip) {
        let Some(node) = self.sole_producer(value) else { return (value, Clip::NONE) };
        if node.op == Op::Unary(Unary::Relu) {
            return (node.inputs[0], Clip { min: 0.0, ..Clip::NONE });
        }
        if let Op::Unary(Unary::Clip(clip)) = node.op { (node.inputs[0], clip) } else { (value, Clip::NONE) }
    }

    /// A Conv or a Gemm of bytes and integer weights.
    fn product(&self, node: &Node) -> Option<Product> {
        let (op, axis) = if let Op::Conv(conv) = &node.op {
            (QuantizedOp::Conv { conv: conv.clone(), residual: None }, 0)
        } else if let Op::Gemm(Gemm { trans_a: false, trans_b }) = node.op {
            (QuantizedOp::Gemm { trans_b }, usize::from(!trans_b))
        } else {
            return None;
        };
        let (q, x) = self.bytes(node.inputs[0])?;
        let (weight, scale) = self.integers(node.inputs[1], DType::I8, axis)?;
        let mut inputs = vec![q, weight, scale];
        if let Some(&bias) = node.inputs.get(2) {
            inputs.push(self.bias(bias, scale, x)?);
        }
        Some(Product { op, inputs, x })
    }

    /// Frozen integers, and the constant scale along `axis` with which they stand for `value`.
    fn integers(&self, value: ValueId, dtype: DType, axis: usize) -> Option<(ValueId, ValueId)> {
        let node = self.producer(value)?;
        let &[q, scale, zero_point] = &node.inputs[..] else { return None };
        let Op::DequantizeLinear { axis: along } = node.op else { return None };
        let frozen = self.graph.parameter_info(q).is_some() || constant(self.graph, q).is_some();
        let scales = constant(self.graph, scale)?;
        let zeros = match constant(self.graph, zero_point)?.data() {
            Data::I8(zeros) => zeros.iter().all(|&z| z == 0),
            Data::I32(zeros) => zeros.iter().all(|&z| z == 0),
            _ => false,
        };
        let fits =
            frozen && zeros && self.graph.value(q).dtype == dtype && (scales.len() == 1 || along == axis);
        fits.then_some((q, scale))
    }

    /// A bias of integers in the product's own steps, or of frozen floats.
    fn bias(&self, value: ValueId, weight_scale: ValueId, x: Steps) -> Option<ValueId> {
        if self.graph.parameter_info(value).is_some_and(|p| !p.trainable)
            || constant(self.graph, value).is_some()
        {
            return Some(value);
        }
        let (bias, scale) = self.integers(value, DType::I32, 0)?;
        let [own, weights] = [scale, weight_scale].map(|v| constant(self.graph, v).and_then(Tensor::as_f32));
        let (own, weights) = (own?, weights?);
        if own.is_empty() || weights.is_empty() {
            return None;
        }
        let same = (0..own.len().max(weights.len())).all(|i| {
            let (own, weight) = (own[i.min(own.len() - 1)], weights[i.min(weights.len() - 1)]);
            (own - weight * x.scale).abs() <= 1e-5 * own.abs()
        });
        same.then_some(bias)
    }

    /// A convolution whose rounded result is `sum`, read nowhere else, to which `other` is added.
    fn with_residual(&self, sum: ValueId, other: ValueId) -> Option<(Product, ValueId)> {
        let (residual, other_steps) = self.bytes(other)?;
        let (q, rounded) = self.bytes(sum)?;
        if self.uses[sum.index()] != 1 || self.graph.value(q).shape != self.graph.value(residual).shape {
            return None;
        }
        let quantize = self.sole_producer(q).filter(|n| matches!(n.op, Op::QuantizeLinear { .. }))?;
        if steps(self.graph, quantize)? != rounded {
            return None;
        }
        let (value, clip) = self.before_activation(quantize.inputs[0]);
        let mut product = self.product(self.sole_producer(value)?)?;
        let QuantizedOp::Conv { residual: slot, .. } = &mut product.op else { return None };
        *slot = Some(QuantizedResidual { rounded, clip, other: other_steps });
        Some((product, residual))
    }
}

/// Whether a value of the shape `part`, broadcast to `whole`, is one row of a number for each channel, or one for each
/// picture: rows as they lie in memory.
fn shares_rows(whole: &Shape, part: &Shape) -> bool {
    let (whole, part) = (&whole.0[..], &part.0[..]);
    let Some(missing) = whole.len().checked_sub(part.len()) else { return false };
    let one = Dim::Fixed(1);
    let at = |axis: usize| axis.checked_sub(missing).map_or(&one, |axis| &part[axis]);
    if let [batch, channels, _, _] = whole {
        return *at(1) == *channels && [at(2), at(3)] == [&one; 2] && (at(0) == batch || *at(0) == one);
    }
    let ones = (0..whole.len()).take_while(|&axis| *at(axis) == one).count();
    (1..whole.len()).contains(&ones) && (ones..whole.len()).all(|axis| *at(axis) == whole[axis])
}
