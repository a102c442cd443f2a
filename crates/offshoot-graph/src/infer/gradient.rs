//! The shape rules of gradients.

use super::Types;
use super::checks::{
    arity, dropout_keys, loss_operands, one_of, per_channel, per_last_axis, same_dtype, same_shape,
    scale_and_zero_point,
};
use super::shape::{broadcast, reduced_shape};
use crate::graph::Value;
use crate::op::{Binary, GradOp};
use crate::shape::Shape;
use crate::tensor::DType;

pub(super) fn infer_grad(op: &GradOp, inputs: &[&Value]) -> Result<Types, String> {
    let one = |shape: &Shape| Ok(vec![(inputs[0].dtype, shape.clone())]);
    match op {
        GradOp::ConvInput { shape, .. } => {
            arity(inputs, 2..=2)?;
            one(shape)
        }
        GradOp::ConvWeight { shape, .. } => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            Ok(vec![(DType::F32, shape.clone())])
        }
        GradOp::AveragePool { shape, .. }
        | GradOp::GlobalAveragePool { shape }
        | GradOp::Reshape { shape }
        | GradOp::ReduceTo { shape } => {
            arity(inputs, 1..=1)?;
            one(shape)
        }
        GradOp::Slice { shape, .. } => {
            arity(inputs, 1..=1)?;
            one(shape)
        }
        GradOp::LayerNormReduce(_) => {
            arity(inputs, 2..=2)?;
            same_shape(inputs[0], inputs[1])?;
            let width = inputs[1].shape.0.last().ok_or("the input has no axis")?;
            Ok(vec![(DType::F32, Shape(vec![width.clone()])); 2])
        }
        GradOp::LayerNormInput(_) => {
            arity(inputs, 3..=3)?;
            same_shape(inputs[0], inputs[1])?;
            per_last_axis(inputs[1], &inputs[2..])?;
            one(&inputs[1].shape)
        }
        GradOp::SumToChannels => {
            arity(inputs, 1..=1)?;
            let channels = inputs[0].shape.0.get(1).ok_or("the gradient has no channel axis")?;
            Ok(vec![(DType::F32, Shape(vec![channels.clone()]))])
        }
        GradOp::BatchNormReduce => {
            arity(inputs, 4..=4)?;
            same_dtype(inputs[0], inputs[1])?;
            per_channel(inputs[0], &inputs[2..])?;
            Ok(vec![(DType::F32, inputs[2].shape.clone()); 2])
        }
        GradOp::BatchNormInput => {
            arity(inputs, 7..=7)?;
            same_dtype(inputs[0], inputs[1])?;
            per_channel(inputs[0], &inputs[2..])?;
            one(&inputs[0].shape)
        }
        GradOp::BatchNormScale => {
            arity(inputs, 3..=3)?;
            per_channel(inputs[0], &inputs[1..])?;
            one(&inputs[0].shape)
        }
        GradOp::Unary(_) | GradOp::Softmax { .. } => {
            arity(inputs, 2..=2)?;
            same_shape(inputs[0], inputs[1])?;
            one(&inputs[0].shape)
        }
        GradOp::Binary { op: Binary::Max | Binary::Min | Binary::Pow, slot: 0 | 1 } => {
            arity(inputs, 3..=3)?;
            inputs[1..].iter().try_for_each(|operand| same_dtype(inputs[0], operand))?;
            if broadcast(&inputs[1].shape, &inputs[2].shape)? != inputs[0].shape {
                return Err(format!("the gradient is {}, not of the operands' shape", inputs[0].shape));
            }
            one(&inputs[0].shape)
        }
        GradOp::Binary { .. } => Err("only Max, Min and Pow of two operands have such a gradient".into()),
        GradOp::Reduce { op: _, axis } => {
            arity(inputs, 3..=3)?;
            same_shape(inputs[0], inputs[2])?;
            if reduced_shape(inputs[1], *axis)? != inputs[0].shape {
                return Err(format!("the gradient is {}, not of the reduced shape", inputs[0].shape));
            }
            one(&inputs[1].shape)
        }
        GradOp::Gather { shape } => {
            arity(inputs, 2..=2)?;
            one_of(inputs[1], &[DType::I64])?;
            one(shape)
        }
        GradOp::MaxPool(_) => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            one(&inputs[1].shape)
        }
        GradOp::Dropout { .. } => {
            arity(inputs, 2..=2)?;
            dropout_keys(inputs)?;
            one(&inputs[0].shape)
        }
        GradOp::SoftmaxCrossEntropyLoss(_) => {
            arity(inputs, 3..=4)?;
            loss_operands(&inputs[1..])?;
            one(&inputs[1].shape)
        }
        GradOp::QuantizeLinear { axis } => {
            arity(inputs, 4..=4)?;
            same_shape(inputs[0], inputs[1])?;
            one_of(inputs[3], &[DType::U8, DType::I8])?;
            scale_and_zero_point(inputs[1], &inputs[2..], *axis)?;
            one(&inputs[0].shape)
        }
    }
}
