//! Checks of an operator's inputs: their number, types and shapes.

use crate::graph::Value;
use crate::tensor::DType;

pub(super) fn arity(inputs: &[&Value], wanted: std::ops::RangeInclusive<usize>) -> Result<(), String> {
    if wanted.contains(&inputs.len()) {
        return Ok(());
    }
    let (least, most) = wanted.into_inner();
    let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Err(format!("takes {wanted} inputs, not {}", inputs.len()))
}

pub(super) fn rank(value: &Value, wanted: usize) -> Result<(), String> {
    if value.shape.rank() == wanted {
        return Ok(());
    }
    Err(format!("`{}` must have {wanted} axes, its shape is {}", value.name, value.shape))
}

pub(super) fn same_shape(a: &Value, b: &Value) -> Result<(), String> {
    same_dtype(a, b)?;
    if a.shape == b.shape {
        return Ok(());
    }
    Err(format!("`{}` is {} and `{}` is {}", a.name, a.shape, b.name, b.shape))
}

pub(super) fn same_dtype(a: &Value, b: &Value) -> Result<(), String> {
    if a.dtype == b.dtype {
        return Ok(());
    }
    Err(format!("`{}` is {} and `{}` is {}", a.name, a.dtype, b.name, b.dtype))
}

pub(super) fn one_of(value: &Value, dtypes: &[DType]) -> Result<(), String> {
    if dtypes.contains(&value.dtype) {
        return Ok(());
    }
    let names: Vec<String> = dtypes.iter().map(DType::to_string).collect();
    Err(format!("`{}` is {}, and must be {}", value.name, value.dtype, names.join(" or ")))
}

/// Both `[scale, zero_point]` are scalars, or have a number for each place of x's `axis`.
pub(super) fn scale_and_zero_point(x: &Value, vectors: &[&Value], axis: usize) -> Result<(), String> {
    let (scale, zero_point) = (vectors[0], vectors[1]);
    one_of(scale, &[DType::F32])?;
    let fits = match &scale.shape.0[..] {
        [] => axis == 0,
        [places] => x.shape.0.get(axis) == Some(places),
        _ => false,
    };
    if !fits {
        let (name, shape) = (&scale.name, &scale.shape);
        return Err(format!(
            "`{name}` is {shape}: one number, or one for each place of axis {axis} of {}",
            x.shape
        ));
    }
    if scale.shape != zero_point.shape {
        return Err(format!(
            "`{}` is {}, `{}` is {}",
            scale.name, scale.shape, zero_point.name, zero_point.shape
        ));
    }
    Ok(())
}

pub(super) fn floats(values: &[&Value]) -> Result<(), String> {
    match values.iter().find(|v| !v.dtype.is_float()) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, and must be a float: dequantize it first", v.name, v.dtype)),
    }
}

/// Every one of `vectors` has one element for each of x's channels.
pub(super) fn per_channel(x: &Value, vectors: &[&Value]) -> Result<(), String> {
    let channels = x.shape.0.get(1).ok_or_else(|| format!("`{}` {} has no channel axis", x.name, x.shape))?;
    match vectors.iter().find(|v| v.shape.0 != std::slice::from_ref(channels)) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, the input has {channels} channels", v.name, v.shape)),
    }
}

/// Every one of `vectors` has one element for each place of x's last axis.
pub(super) fn per_last_axis(x: &Value, vectors: &[&Value]) -> Result<(), String> {
    let width = x.shape.0.last().ok_or_else(|| format!("`{}` is a scalar", x.name))?;
    match vectors.iter().find(|v| v.shape.0 != std::slice::from_ref(width)) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, the input's rows have {width} elements", v.name, v.shape)),
    }
}

pub(super) fn dropout_keys(inputs: &[&Value]) -> Result<(), String> {
    let keys = inputs[1];
    if keys.dtype == DType::I64 && keys.shape.rank() == 1 && inputs[0].shape.0.first() == keys.shape.0.first()
    {
        return Ok(());
    }
    Err(format!(
        "the keys must be i64, one for each picture; `{}` is {} {}",
        keys.name, keys.dtype, keys.shape
    ))
}

pub(super) fn loss_operands(inputs: &[&Value]) -> Result<(), String> {
    let (logits, labels) = (inputs[0], inputs[1]);
    rank(logits, 2)?;
    let hard = labels.dtype == DType::I64 && labels.shape.0 == logits.shape.0[..1];
    let soft = labels.dtype == DType::F32 && labels.shape == logits.shape;
    if !hard && !soft {
        return Err(format!(
            "the labels must be i64 [{}] or f32 {}; they are {} {}",
            logits.shape.0[0], logits.shape, labels.dtype, labels.shape
        ));
    }
    match inputs.get(2) {
        Some(weights) => per_channel(logits, &[weights]),
        None => Ok(()),
    }
}
