//! The shape rule of the LSTM.

use super::Types;
use super::checks::{one_of, rank};
use crate::graph::Value;
use crate::op::Direction;
use crate::shape::{Dim, Shape};
use crate::tensor::DType;

/// The weights are [D, 4 H, k], or bytes [D, k, 4 H].
pub(super) fn lstm_shapes(inputs: &[&Value], direction: Direction, bytes: bool) -> Result<Types, String> {
    rank(inputs[0], 3)?;
    rank(inputs[2], 3)?;
    let [steps, batch, depth] = [0, 1, 2].map(|axis| inputs[0].shape.0[axis].clone());
    let hidden = inputs[2].shape.0[if bytes { 1 } else { 2 }].clone();
    let (Some(k), Some(h)) = (depth.fixed(), hidden.fixed().filter(|&h| h > 0)) else {
        return Err("its input's last axis and its hidden size must be known".into());
    };
    let (ways, units) = (direction.ways(), h.checked_mul(4).ok_or("its hidden size is out of range")?);
    let weight = |k| if bytes { vec![ways, k, units] } else { vec![ways, units, k] };
    let weights = if bytes { DType::I8 } else { DType::F32 };
    let mut wanted = vec![(weights, weight(k)), (weights, weight(h))];
    if bytes {
        wanted.extend([(DType::F32, vec![ways, units]), (DType::F32, vec![ways, units])]);
    }
    wanted.push((DType::F32, vec![ways, 2 * units]));
    for (value, (dtype, shape)) in inputs[1..].iter().zip(wanted) {
        if value.dtype != dtype || value.shape != Shape::fixed(&shape) {
            return Err(format!(
                "`{}` is {}{}, and must be {dtype}{shape:?}",
                value.name, value.dtype, value.shape
            ));
        }
    }
    one_of(inputs[0], &[DType::F32])?;
    let ways = Dim::Fixed(ways);
    let y = Shape(vec![steps, ways.clone(), batch.clone(), hidden.clone()]);
    Ok(vec![(DType::F32, y), (DType::F32, Shape(vec![ways, batch, hidden]))])
}
