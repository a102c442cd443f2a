//! Operators on bytes.

use std::sync::Arc;

use offshoot_graph::op::{Clip, Pooling, ShapeOp};
use offshoot_graph::{Data, ExecuteError, Op, Tensor, ValueId};

use super::Node;
use super::dynamic::transposed;
use super::{Lowering, unsupported};
use crate::filters::IntegerFilter;
use crate::kernels::ConvShape;
use crate::kernels::int8::binary::Stored;
use crate::kernels::int8::conv::{ByteFilter, Numbers, conv};
use crate::kernels::int8::depthwise::{self, DepthwiseFilter, depthwise};
use crate::kernels::int8::pool::{self, Mean, global_average};
use crate::kernels::int8::{Output, Requantize, Residual};
use crate::kernels::pool::Pool;
use crate::operands::{Over, Packed};
use crate::optimize::{Quantized, QuantizedOp, QuantizedResidual, Steps};

/// The numbers of a product: OIHW weights, and for each output channel what is added to the sum and what multiplies it.
struct ProductNumbers {
    weights: Vec<i8>,
    bias: Vec<i32>,
    scale: Vec<f32>,
}

impl Lowering<'_> {
    /// A node whose first input are bytes.
    pub(super) fn integers(&mut self, node: &Node, op: &Op) -> Result<(), ExecuteError> {
        match op {
            Op::Pool(Pooling::Max(pool)) => {
                let none = Steps { scale: 1.0, zero_point: 0 };
                self.byte_pool(node, Pool::Max, pool, mean(none, none, Clip::NONE))
            }
            Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. }) => self.reshape(node),
            Op::Shape(ShapeOp::Concat { axis }) => self.concat::<u8>(node, *axis),
            Op::Conv(_)
            | Op::Gemm(_)
            | Op::Norm(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reduce { .. }
            | Op::Pool(Pooling::Average(_) | Pooling::GlobalAverage)
            | Op::MatMul(_)
            | Op::Shape(
                ShapeOp::Transpose { .. }
                | ShapeOp::Slice { .. }
                | ShapeOp::Expand { .. }
                | ShapeOp::Identity,
            )
            | Op::Dropout { .. }
            | Op::Softmax { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_)
            | Op::Composite(_)
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_)
            | Op::Sequence(_) => Err(unsupported(node, "there are no kernels for u8".into())),
        }
    }

    pub(super) fn quantized(&mut self, node: &Node, quantized: &Quantized) -> Result<(), ExecuteError> {
        let Quantized { op, x, clip, y } = quantized;
        match op {
            QuantizedOp::Conv { conv, residual } => {
                let shape = self.conv_shape(node, conv, [node.inputs[0], node.inputs[1], node.outputs[0]])?;
                self.byte_conv(node, quantized, &shape, *residual, false)
            }
            QuantizedOp::Gemm { trans_b } => {
                let (m, k, n) = match (self.shape(node.inputs[0]), self.shape(node.outputs[0])) {
                    (&[m, k], &[_, n]) => (m, k, n),
                    _ => return Err(unsupported(node, "its operands must be matrices".into())),
                };
                self.byte_conv(node, quantized, &ConvShape::of_matrices(m, k, n), None, !trans_b)
            }
            QuantizedOp::Binary(binary) => {
                self.byte_binary(node, *binary, *x, stored(result(node, *y)?, *clip))
            }
            QuantizedOp::BatchNormalization(norm) => {
                self.byte_batch_norm(node, norm.epsilon, *x, stored(result(node, *y)?, *clip))
            }
            QuantizedOp::AveragePool(pool) => {
                let kind = Pool::Average { count_include_pad: pool.count_include_pad };
                self.byte_pool(node, kind, &pool.pool, mean(*x, result(node, *y)?, *clip))
            }
            QuantizedOp::GlobalAveragePool => self.byte_mean(node, mean(*x, result(node, *y)?, *clip)),
            QuantizedOp::Function(terms) => self.byte_function(node, terms),
        }
    }

    /// A convolution, or a product of matrices as one of a row of pixels, whose weight may lie transposed.
    fn byte_conv(
        &mut self,
        node: &Node,
        quantized: &Quantized,
        shape: &ConvShape,
        residual: Option<QuantizedResidual>,
        transposed: bool,
    ) -> Result<(), ExecuteError> {
        let rounded = residual.map_or(quantized.y, |r| Some(r.rounded));
        let filter =
            self.integer_filter(node, quantized.x, rounded, shape, transposed, residual.is_some())?;
        let (isa, shape, clip) = (self.isa, *shape, quantized.clip);
        let name = match &filter {
            IntegerFilter::Dense(_) if shape.groups > 1 => "int8 grouped",
            IntegerFilter::Dense(_) => "int8 conv",
            IntegerFilter::Depthwise(_) => "int8 depthwise",
        };
        let filter = Packed { bytes: filter.bytes(), data: filter };
        let kernel = move |x: &[u8], filter: &IntegerFilter, output: Output<'_>| match filter {
            IntegerFilter::Dense(filter) => conv(isa, &shape, x, filter, output),
            IntegerFilter::Depthwise(filter) => depthwise(isa, &shape, x, filter, output),
        };
        let (x, y) = (self.read::<u8>(node.inputs[0])?, node.outputs[0]);
        match (quantized.y, residual.zip(node.inputs.last())) {
            (Some(steps), Some((added, &other))) => {
                let (other, y) = (self.read(other)?, self.write(y)?);
                self.step(name, (Over(other), x, filter), y, move |(other, x, filter), y| {
                    // (In the output, where the sum takes its place.)
                    let other = other.unwrap_or_default();
                    let residual = Some(sum(other, added.rounded, added.other, steps, clip));
                    let requantize = requantize(added.rounded, added.clip);
                    kernel(x, filter, Output::Bytes { y, requantize, residual });
                });
            }
            (Some(steps), None) => {
                let y = self.write(y)?;
                self.step(name, (x, filter), y, move |(x, filter), y| {
                    let requantize = requantize(steps, clip);
                    kernel(x, filter, Output::Bytes { y, requantize, residual: None });
                });
            }
            (None, _) => {
                let y = self.write(y)?;
                self.step(name, (x, filter), y, move |(x, filter), y| {
                    kernel(x, filter, Output::Floats { y, bounds: (clip.min, clip.max) });
                });
            }
        }
        Ok(())
    }

    /// The packed filter of a node, whose sums become numbers in steps of `y`, or floats.
    fn integer_filter(
        &mut self,
        node: &Node,
        x: Steps,
        y: Option<Steps>,
        shape: &ConvShape,
        transposed: bool,
        residual: bool,
    ) -> Result<IntegerFilter, ExecuteError> {
        let key = node.outputs[0];
        // (A plan for pictures of another size may need it packed otherwise.)
        if let Some(filter) = self.filters.integers.get(&key).filter(|f| f.serves(self.isa, shape)) {
            return Ok(filter.clone());
        }
        let last = node.inputs.len() - usize::from(residual);
        let numbers = self.product_numbers(&node.inputs[..last], x, y, shape, transposed);
        let numbers = numbers.ok_or_else(|| {
            unsupported(node, "its weights, their scale and the bias must be frozen".into())
        })?;
        let ProductNumbers { weights, bias, scale } = &numbers;
        let numbers = Numbers { weights, bias, scale, zero_point: x.zero_point };
        let filter = if depthwise::supports(shape) {
            IntegerFilter::Depthwise(Arc::new(DepthwiseFilter::pack(shape, &numbers)))
        } else {
            IntegerFilter::Dense(Arc::new(ByteFilter::pack(self.isa, shape, &numbers)))
        };
        self.filters.integers.insert(key, filter.clone());
        Ok(filter)
    }

    /// (x, weight, weight scale, bias?) as numbers, if they are known.
    fn product_numbers(
        &self,
        inputs: &[ValueId],
        x: Steps,
        y: Option<Steps>,
        shape: &ConvShape,
        transpose: bool,
    ) -> Option<ProductNumbers> {
        let Data::I8(weights) = self.known(inputs[1])?.data() else { return None };
        let weights = match transpose {
            true => transposed(weights, [shape.in_c, shape.out_c]),
            false => weights.clone(),
        };
        let scale = self.known(inputs[2])?.as_f32()?;
        let steps: Vec<f32> = (0..shape.out_c).map(|k| x.scale * scale[k.min(scale.len() - 1)]).collect();
        let bias = match inputs.get(3).map(|&bias| self.known(bias)) {
            None => vec![0; shape.out_c],
            Some(bias) => in_steps(bias?, &steps)?,
        };
        let scale = steps.iter().map(|&step| y.map_or(step, |y| step / y.scale)).collect();
        Some(ProductNumbers { weights, bias, scale })
    }

    fn byte_pool(
        &mut self,
        node: &Node,
        kind: Pool,
        attributes: &offshoot_graph::op::Pool,
        mean: Mean,
    ) -> Result<(), ExecuteError> {
        let shape = self.pool_shape(node, attributes, [node.inputs[0], node.outputs[0]])?;
        let (x, y) = (self.read(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("int8 pool", x, y, move |x, y| pool::pool(kind, &mean, &shape, x, y));
        Ok(())
    }

    fn byte_mean(&mut self, node: &Node, mean: Mean) -> Result<(), ExecuteError> {
        let [batch, _, h, w] = self.picture(node, node.inputs[0])?;
        if h.saturating_mul(w) > pool::PIXELS {
            return Err(unsupported(node, format!("a mean of bytes takes at most {} pixels", pool::PIXELS)));
        }
        let (x, y) = (self.read(node.inputs[0])?, self.write(node.outputs[0])?);
        self.step("int8 pool", x, y, move |x, y| global_average(&mean, batch, x, y));
        Ok(())
    }
}

/// The steps of a result that is bytes.
fn result(node: &Node, y: Option<Steps>) -> Result<Steps, ExecuteError> {
    y.ok_or_else(|| unsupported(node, "its result must be quantized".into()))
}

/// A bias in the steps of each output channel.
fn in_steps(bias: &Tensor, steps: &[f32]) -> Option<Vec<i32>> {
    match bias.data() {
        Data::I32(bias) => Some(bias.clone()),
        Data::F32(bias) => {
            Some(bias.iter().zip(steps).map(|(b, step)| (b / step).round_ties_even() as i32).collect())
        }
        _ => None,
    }
}

/// How numbers that are clipped become bytes.
fn requantize(steps: Steps, clip: Clip) -> Requantize {
    let all = Requantize { zero_point: steps.zero_point, bounds: [0, 255] };
    Requantize { bounds: [clip.min, clip.max].map(|bound| all.of(bound / steps.scale)), ..all }
}

/// How clipped floats become bytes.
fn stored(y: Steps, clip: Clip) -> Stored {
    Stored { clip: (clip.min, clip.max), scale: y.scale, zero_point: y.zero_point }
}

/// x, which is added to numbers in steps of `rounded`.
fn sum(x: &[u8], rounded: Steps, other: Steps, y: Steps, clip: Clip) -> Residual<'_> {
    Residual {
        x,
        x_zero_point: other.zero_point,
        x_scale: other.scale / y.scale,
        scale: rounded.scale / y.scale,
        sum: requantize(y, clip),
    }
}

fn mean(x: Steps, y: Steps, clip: Clip) -> Mean {
    Mean { zero_point: x.zero_point, scale: x.scale / y.scale, requantize: requantize(y, clip) }
}
