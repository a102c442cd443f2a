//! The shape rules of what only training computes, and of updates of the parameters.

use super::Types;
use super::checks::{arity, dropout_keys, one_of, per_channel};
use crate::graph::Value;
use crate::op::{RATES, TrainOp, UpdateOp};
use crate::shape::Shape;
use crate::tensor::DType;

pub(super) fn infer_train(op: &TrainOp, inputs: &[&Value]) -> Result<Types, String> {
    let dtype = inputs[0].dtype;
    match op {
        TrainOp::BatchNormStats(_) => {
            arity(inputs, 3..=3)?;
            per_channel(inputs[0], &inputs[1..])?;
            Ok(vec![(DType::F32, inputs[1].shape.clone()); 4])
        }
        TrainOp::BatchNormApply => {
            arity(inputs, 5..=5)?;
            per_channel(inputs[0], &inputs[1..])?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::InvStd { .. } => {
            arity(inputs, 1..=1)?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::Dropout { .. } => {
            arity(inputs, 2..=2)?;
            dropout_keys(inputs)?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::Cast { to } => {
            arity(inputs, 1..=1)?;
            if !(dtype.is_float() && to.is_float()) {
                return Err(format!(
                    "`{}` is {dtype} and cannot become {to}: both must be floats",
                    inputs[0].name
                ));
            }
            Ok(vec![(*to, inputs[0].shape.clone())])
        }
    }
}

pub(super) fn infer_update(op: &UpdateOp, inputs: &[&Value]) -> Result<Types, String> {
    let all = |values: &[&Value], dtype: DType| values.iter().try_for_each(|x| one_of(x, &[dtype]));
    let kept = |operands: usize| {
        arity(inputs, operands..=operands)?;
        all(inputs, DType::F32)?;
        let kept = &inputs[..op.kept()];
        // Moments lie flat in a checkpoint.
        let x = inputs[op.kept()];
        match kept.iter().find(|v| count(&v.shape) != count(&x.shape)) {
            None => Ok(kept.iter().map(|v| (v.dtype, v.shape.clone())).collect()),
            Some(v) => Err(format!("`{}` is {} and `{}` is {}", v.name, v.shape, x.name, x.shape)),
        }
    };
    let row = |row: usize, rates: &Value| match rates.shape.as_fixed().as_deref() {
        Some(&[rows, RATES]) if row < rows => Ok(()),
        _ => Err(format!("the rates are {}, without a row {row} of {RATES}", rates.shape)),
    };
    match op {
        UpdateOp::SquareSums => {
            all(inputs, DType::F32)?;
            Ok(vec![(DType::F64, Shape::fixed(&[inputs.len()]))])
        }
        UpdateOp::Clip(_) => {
            arity(inputs, 2..=3)?;
            all(&inputs[..1], DType::F64)?;
            all(&inputs[1..], DType::F32)?;
            Ok(vec![(DType::F32, Shape::fixed(&[2]))])
        }
        UpdateOp::Sgd { row: index, .. } => {
            let types = kept(5)?;
            row(*index, inputs[4])?;
            Ok(types)
        }
        UpdateOp::Adam { row: index } => {
            let types = kept(6)?;
            row(*index, inputs[5])?;
            Ok(types)
        }
        UpdateOp::Average => kept(3),
    }
}

/// The number of elements, where it is known.
fn count(shape: &Shape) -> Option<usize> {
    shape.as_fixed().map(|sizes| sizes.iter().product())
}
