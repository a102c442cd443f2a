//! The shapes of convolutions and of pooling.

use super::checks::{floats, rank};
use crate::graph::Value;
use crate::op::{Conv, Pool};
use crate::shape::{Dim, DimOp, Shape};

pub(super) fn conv_shape(conv: &Conv, inputs: &[&Value]) -> Result<Shape, String> {
    floats(inputs)?;
    filter_shape(conv, inputs[0], inputs[1], inputs.get(2).copied())
}

fn filter_shape(conv: &Conv, x: &Value, w: &Value, bias: Option<&Value>) -> Result<Shape, String> {
    rank(x, 4)?;
    rank(w, 4)?;
    let weight = w.shape.as_fixed().ok_or("the weight's shape must be known")?;
    let channels = x.shape.0[1].fixed().ok_or("the number of channels must be known")?;
    if conv.group == 0 || weight[0] % conv.group != 0 || weight[1].checked_mul(conv.group) != Some(channels) {
        let (w, g) = (&w.shape, conv.group);
        return Err(format!("a weight of {w} in {g} group(s) does not fit {channels} input channels"));
    }
    if let Some(bias) = bias
        && bias.shape != Shape::fixed(&weight[..1])
    {
        return Err(format!("a bias of {} does not fit {} output channels", bias.shape, weight[0]));
    }
    let side = |axis: usize| {
        let (pads, kernel) = ((conv.pads[axis], conv.pads[axis + 2]), weight[2 + axis]);
        windows(&x.shape.0[2 + axis], pads, kernel, conv.dilations[axis], conv.strides[axis], false)
    };
    Ok(Shape(vec![x.shape.0[0].clone(), Dim::Fixed(weight[0]), side(0)?, side(1)?]))
}

/// The number of windows along one axis: (size + pads - dilation (kernel - 1) - 1) / stride + 1.
fn windows(
    size: &Dim,
    pads: (usize, usize),
    kernel: usize,
    dilation: usize,
    stride: usize,
    ceil: bool,
) -> Result<Dim, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err("kernel, stride and dilation must be at least 1".into());
    }
    let total =
        |a: usize, b: usize| a.checked_add(b).filter(|&n| n <= 1 << 30).ok_or("the padding is too large");
    let reach =
        dilation.checked_mul(kernel - 1).and_then(|n| n.checked_add(1)).ok_or("the kernel is too large")?;
    let padded = size.combine(DimOp::Add, &Dim::Fixed(total(pads.0, pads.1)?));
    if padded.fixed().is_some_and(|n| n < reach) {
        return Err(format!(
            "a window of {reach} does not fit an input of {size} with {} of padding",
            pads.0 + pads.1
        ));
    }
    let span = padded.combine(DimOp::Sub, &Dim::Fixed(reach));
    if !ceil {
        return Ok(span.combine(DimOp::Div, &Dim::Fixed(stride)).combine(DimOp::Add, &Dim::Fixed(1)));
    }
    // A last window must start inside the input or its left padding (PyTorch's rule).
    let (Some(span), Some(size)) = (span.fixed(), size.fixed()) else {
        return Err("ceil_mode needs a known height and width".into());
    };
    let count = span.div_ceil(stride) + 1;
    Ok(Dim::Fixed(if (count - 1) * stride >= size + pads.0 { count - 1 } else { count }))
}

pub(super) fn pool_shape(pool: &Pool, x: &Value) -> Result<Shape, String> {
    rank(x, 4)?;
    let side = |axis: usize| {
        let (pads, kernel) = ((pool.pads[axis], pool.pads[axis + 2]), pool.kernel[axis]);
        if pads.0 >= kernel.max(1) || pads.1 >= kernel.max(1) {
            return Err(format!("a padding of {pads:?} leaves windows of {kernel} that hold padding only"));
        }
        windows(&x.shape.0[2 + axis], pads, kernel, 1, pool.strides[axis], pool.ceil_mode)
    };
    Ok(Shape(vec![x.shape.0[0].clone(), x.shape.0[1].clone(), side(0)?, side(1)?]))
}
