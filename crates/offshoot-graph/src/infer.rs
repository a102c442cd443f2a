//! The shape rule of each operator.

mod checks;
mod gradient;
mod product;
mod recurrent;
mod shape;
mod training;
mod window;

use self::checks::{
    arity, loss_operands, one_of, per_channel, per_last_axis, rank, same_dtype, scale_and_zero_point,
};
use self::gradient::infer_grad;
use self::product::{dynamic_product_shape, gemm_shape, matmul_shape};
use self::recurrent::lstm_shapes;
pub(crate) use self::shape::broadcast;
use self::shape::{
    concatenated_shape, flatten_shape, reduced_shape, same_count, sliced_shape, transposed_shape,
};
use self::training::{infer_train, infer_update};
use self::window::{conv_shape, pool_shape};
use crate::graph::{Graph, Value, ValueId};
use crate::op::{AveragePool, Composite, Norm, Op, Pooling, Recurrent, SequenceOp, ShapeOp};
use crate::passes::expanded;
use crate::shape::{Dim, Shape};
use crate::tensor::DType;

type Types = Vec<(DType, Shape)>;

/// The types of `op`'s outputs, or why `inputs` do not fit it.
pub(crate) fn infer(op: &Op, inputs: &[&Value]) -> Result<Types, String> {
    if inputs.is_empty() {
        return Err("takes inputs, and has none".into());
    }
    let one = |shape: Shape| Ok(vec![(inputs[0].dtype, shape)]);
    match op {
        Op::Conv(conv) => {
            arity(inputs, 2..=3)?;
            one(conv_shape(conv, inputs)?)
        }
        Op::Gemm(gemm) => {
            arity(inputs, 2..=3)?;
            one(gemm_shape(*gemm, inputs)?)
        }
        Op::Norm(Norm::Batch(_)) => {
            arity(inputs, 5..=5)?;
            per_channel(inputs[0], &inputs[1..])?;
            one(inputs[0].shape.clone())
        }
        Op::Unary(_) | Op::Shape(ShapeOp::Identity) | Op::Dropout { .. } => {
            arity(inputs, 1..=1)?;
            one(inputs[0].shape.clone())
        }
        Op::Binary(_) => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            one(broadcast(&inputs[0].shape, &inputs[1].shape)?)
        }
        Op::Reduce { op: _, axis } => {
            arity(inputs, 1..=1)?;
            one(reduced_shape(inputs[0], *axis)?)
        }
        Op::MatMul(product) => {
            arity(inputs, 2..=2)?;
            one(matmul_shape(inputs, *product)?)
        }
        Op::Norm(Norm::Layer(_)) => {
            arity(inputs, 3..=3)?;
            per_last_axis(inputs[0], &inputs[1..])?;
            one(inputs[0].shape.clone())
        }
        Op::Shape(ShapeOp::Transpose { perm }) => {
            arity(inputs, 1..=1)?;
            one(transposed_shape(&inputs[0].shape, perm)?)
        }
        Op::Shape(ShapeOp::Reshape { shape }) => {
            arity(inputs, 1..=1)?;
            same_count(&inputs[0].shape, shape)?;
            one(shape.clone())
        }
        Op::Shape(ShapeOp::Concat { axis }) => one(concatenated_shape(inputs, *axis)?),
        Op::Shape(ShapeOp::Slice { axis, start, end }) => {
            arity(inputs, 1..=1)?;
            one(sliced_shape(&inputs[0].shape, *axis, *start, *end)?)
        }
        Op::Shape(ShapeOp::Expand { shape }) => {
            arity(inputs, 1..=1)?;
            if broadcast(&inputs[0].shape, shape)? != *shape {
                return Err(format!("{} does not broadcast to {shape}", inputs[0].shape));
            }
            one(shape.clone())
        }
        Op::Pool(Pooling::Max(pool) | Pooling::Average(AveragePool { pool, .. })) => {
            arity(inputs, 1..=1)?;
            one(pool_shape(pool, inputs[0])?)
        }
        Op::Pool(Pooling::GlobalAverage) => {
            arity(inputs, 1..=1)?;
            rank(inputs[0], 4)?;
            let [n, c] = [0, 1].map(|i| inputs[0].shape.0[i].clone());
            one(Shape(vec![n, c, Dim::Fixed(1), Dim::Fixed(1)]))
        }
        Op::Shape(ShapeOp::Flatten { axis }) => {
            arity(inputs, 1..=1)?;
            one(flatten_shape(&inputs[0].shape, *axis)?)
        }
        Op::Softmax { axis } => {
            arity(inputs, 1..=1)?;
            if *axis >= inputs[0].shape.rank() {
                return Err(format!("axis {axis} is outside of the shape {}", inputs[0].shape));
            }
            one(inputs[0].shape.clone())
        }
        Op::SoftmaxCrossEntropyLoss(_) => {
            arity(inputs, 2..=3)?;
            loss_operands(inputs)?;
            one(Shape::default())
        }
        Op::QuantizeLinear { axis } => {
            arity(inputs, 3..=3)?;
            if inputs[0].dtype != DType::F32 {
                return Err(format!(
                    "`{}` is {}, and only f32 is quantized",
                    inputs[0].name, inputs[0].dtype
                ));
            }
            one_of(inputs[2], &[DType::U8, DType::I8])?;
            scale_and_zero_point(inputs[0], &inputs[1..], *axis)?;
            Ok(vec![(inputs[2].dtype, inputs[0].shape.clone())])
        }
        Op::DynamicQuantizeMatMul { trans_b } => {
            arity(inputs, 3..=4)?;
            one(dynamic_product_shape(inputs, *trans_b)?)
        }
        Op::Recurrent(Recurrent::Lstm(direction) | Recurrent::DynamicQuantizeLstm(direction)) => {
            let bytes = matches!(op, Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)));
            arity(inputs, if bytes { 6..=6 } else { 4..=4 })?;
            lstm_shapes(inputs, *direction, bytes)
        }
        Op::DequantizeLinear { axis } => {
            arity(inputs, 3..=3)?;
            one_of(inputs[0], &[DType::U8, DType::I8, DType::I32])?;
            same_dtype(inputs[0], inputs[2])?;
            scale_and_zero_point(inputs[0], &inputs[1..], *axis)?;
            Ok(vec![(DType::F32, inputs[0].shape.clone())])
        }
        Op::Sequence(op) => infer_sequence(*op, inputs),
        Op::Train(op) => infer_train(op, inputs),
        Op::Grad(op) => infer_grad(op, inputs),
        Op::Update(op) => infer_update(op, inputs),
        Op::Composite(op) => infer_composite(op, inputs),
    }
}

fn infer_sequence(op: SequenceOp, inputs: &[&Value]) -> Result<Types, String> {
    let axis_of = |axis: usize| {
        let shape = &inputs[0].shape;
        shape.0.get(axis).cloned().ok_or_else(|| format!("axis {axis} is outside of the shape {shape}"))
    };
    let inputs_of = |count: usize| arity(inputs, count..=count);
    match op {
        SequenceOp::Gather => {
            inputs_of(2)?;
            one_of(inputs[0], &[DType::F32])?;
            one_of(inputs[1], &[DType::I64])?;
            axis_of(0)?;
            let shape = [&inputs[1].shape.0[..], &inputs[0].shape.0[1..]].concat();
            Ok(vec![(DType::F32, Shape(shape))])
        }
        SequenceOp::Positions { axis } => {
            inputs_of(1)?;
            Ok(vec![(DType::I64, Shape(vec![axis_of(axis)?]))])
        }
        SequenceOp::Equal { .. } | SequenceOp::ToFloat => {
            inputs_of(1)?;
            one_of(inputs[0], &[DType::I64])?;
            Ok(vec![(DType::F32, inputs[0].shape.clone())])
        }
        SequenceOp::Where => {
            inputs_of(3)?;
            inputs.iter().try_for_each(|x| one_of(x, &[DType::F32]))?;
            let mut shape = inputs[0].shape.clone();
            for other in &inputs[1..] {
                shape = broadcast(&shape, &other.shape)?;
            }
            Ok(vec![(DType::F32, shape)])
        }
    }
}

/// The types that the operators which define it give.
fn infer_composite(op: &Composite, inputs: &[&Value]) -> Result<Types, String> {
    let mut graph = Graph::new("types");
    let inputs: Vec<ValueId> =
        inputs.iter().map(|x| graph.add_input(&x.name, x.dtype, x.shape.clone())).collect();
    let outputs = expanded(op, &mut graph, "node", &inputs).map_err(|error| error.reason)?;
    Ok(outputs.into_iter().map(|y| (graph.value(y).dtype, graph.value(y).shape.clone())).collect())
}
