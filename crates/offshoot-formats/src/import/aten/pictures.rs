//! Windows over pictures: convolutions, poolings, padding.

use offshoot_graph::op::{AveragePool, Conv, Coordinates, PadMode, Pool, Reduce, Resampling};
use offshoot_graph::{Dim, Role, Shape};

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::Value;
use crate::composite::{has_ties, is_nearest};
use crate::error::Problem;
use crate::import::{Site, Windows};
use crate::metadata::MAX_SIDE;

pub(super) const ROWS: Rows = &[
    (
        "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, \
         SymInt groups=1)",
        convolution,
    ),
    (
        "conv2d.padding(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, str padding=\"valid\", \
         SymInt[2] dilation=1, SymInt groups=1)",
        convolution,
    ),
    (
        "_convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, \
         bool transposed, SymInt[] output_padding, SymInt groups, bool benchmark, bool deterministic, bool cudnn_enabled, \
         bool allow_tf32)",
        convolution,
    ),
    (
        "_convolution.deprecated(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, \
         bool transposed, SymInt[] output_padding, SymInt groups, bool benchmark, bool deterministic, bool cudnn_enabled)",
        convolution,
    ),
    (
        "convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, \
         bool transposed, SymInt[] output_padding, SymInt groups)",
        convolution,
    ),
    (
        "_convolution_mode(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, str padding, SymInt[] dilation, \
         SymInt groups)",
        convolution,
    ),
    (
        "max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False)",
        max_pool,
    ),
    (
        "max_pool2d_with_indices(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, \
         bool ceil_mode=False)",
        max_pool,
    ),
    (
        "avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, \
         bool count_include_pad=True, int? divisor_override=None)",
        average_pool,
    ),
    ("adaptive_avg_pool2d(Tensor self, SymInt[2] output_size)", |a, c| adaptive(a, c, Reduce::Mean)),
    ("_adaptive_avg_pool2d(Tensor self, SymInt[2] output_size)", |a, c| adaptive(a, c, Reduce::Mean)),
    ("adaptive_max_pool2d(Tensor self, int[2] output_size)", |a, c| adaptive(a, c, Reduce::Max)),
    ("pad(Tensor self, SymInt[] pad, str mode=\"constant\", float? value=None)", pad),
    ("constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0)", pad),
    (
        "upsample_nearest2d(Tensor self, SymInt[2] output_size, float? scales_h=None, float? scales_w=None)",
        |a, c| resize(a, c, Resampling::NearestFloor),
    ),
    ("upsample_nearest2d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors)", |a, c| {
        resize(a, c, Resampling::NearestFloor)
    }),
    (
        "_upsample_nearest_exact2d(Tensor self, SymInt[2] output_size, float? scales_h=None, float? scales_w=None)",
        |a, c| resize(a, c, Resampling::NearestCeil),
    ),
    ("_upsample_nearest_exact2d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors)", |a, c| {
        resize(a, c, Resampling::NearestCeil)
    }),
    (
        "_upsample_bilinear2d_aa(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None)",
        |a, c| resize(a, c, Resampling::Linear),
    ),
    (
        "_upsample_bilinear2d_aa.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors)",
        |a, c| resize(a, c, Resampling::Linear),
    ),
    (
        "upsample_bilinear2d(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None)",
        |a, c| resize(a, c, Resampling::Linear),
    ),
    (
        "upsample_bilinear2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors)",
        |a, c| resize(a, c, Resampling::Linear),
    ),
    (
        "upsample_bicubic2d(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, float? scales_w=None)",
        |a, c| resize(a, c, Resampling::Cubic),
    ),
    (
        "upsample_bicubic2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors)",
        |a, c| resize(a, c, Resampling::Cubic),
    ),
    ("reflection_pad2d(Tensor self, SymInt[4] padding)", |a, c| padded(a, c, "padding", PadMode::Reflect)),
    ("replication_pad2d(Tensor self, SymInt[4] padding)", |a, c| padded(a, c, "padding", PadMode::Edge)),
];

fn convolution(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.windows(call, "input")?;
    if call.get("transposed").is_some() && call.flag("transposed")? {
        return Err(call.refused("transposed convolutions are not read"));
    }
    let weight = aten.weight(call, "weight", Role::Weight)?;
    let [_, _, height, width] = aten.import.shape(weight).as_fixed().unwrap_or_default()[..] else {
        return Err(call.refused("only convolutions over pictures (four axes) are read"));
    };
    let mut operands = vec![weight];
    if call.get("bias").is_some() {
        operands.push(aten.weight(call, "bias", Role::Weight)?);
    }
    let strides = call.pair("stride", 1)?.unwrap_or([1, 1]);
    let dilations = call.pair("dilation", 1)?.unwrap_or([1, 1]);
    let pads = convolution_padding(call, [height, width], strides, dilations)?;
    let group = usize::try_from(call.int("groups")?).ok().filter(|&g| g > 0);
    let group = group.ok_or_else(|| call.damage("its number of groups is not above 0"))?;
    let id = aten.import.conv(call, x, Conv { strides, pads, dilations, group }, &operands)?;
    Ok(aten.define(id))
}

/// What a convolution adds around its input, as numbers or as a word.
fn convolution_padding(
    call: &Bound<'_>,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
) -> Result<[usize; 4], Problem> {
    let Some(Value::Text(word)) = call.get("padding") else {
        let [height, width] = call.pair("padding", 0)?.unwrap_or([0, 0]);
        return Ok([height, width, height, width]);
    };
    match &**word {
        "valid" => Ok([0; 4]),
        "same" if strides == [1, 1] => {
            let mut pads = [0; 4];
            for side in 0..2 {
                let total = dilations[side].saturating_mul(kernel[side].saturating_sub(1));
                if total > MAX_SIDE {
                    return Err(call.refused("its padding is too large"));
                }
                (pads[side], pads[side + 2]) = (total / 2, total - total / 2);
            }
            Ok(pads)
        }
        _ => Err(call.refused(&format!("padding `{word:.20}` with these strides is not read"))),
    }
}

fn pool(call: &Bound<'_>) -> Result<Pool, Problem> {
    let kernel = call.pair("kernel_size", 1)?.ok_or_else(|| call.damage("it has no kernel size"))?;
    let strides = call.pair("stride", 1)?.unwrap_or(kernel);
    let [height, width] = call.pair("padding", 0)?.unwrap_or([0, 0]);
    if height > kernel[0] / 2 || width > kernel[1] / 2 {
        return Err(call.damage("its padding is more than half of its kernel"));
    }
    Ok(Pool { kernel, strides, pads: [height, width, height, width], ceil_mode: call.flag("ceil_mode")? })
}

fn max_pool(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.pair("dilation", 1)?.is_some_and(|d| d != [1, 1]) {
        return Err(call.refused("pooling with dilation is not read"));
    }
    let x = aten.windows(call, "self")?;
    let id = aten.import.max_pool(call, x, pool(call)?)?;
    Ok(aten.define(id))
}

fn average_pool(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.get("divisor_override").is_some() {
        return Err(call.refused("a divisor of its own is not read"));
    }
    let x = aten.windows(call, "self")?;
    let average = AveragePool { pool: pool(call)?, count_include_pad: call.flag("count_include_pad")? };
    let id = aten.import.average_pool(call, x, average)?;
    Ok(aten.define(id))
}

fn adaptive(aten: &mut Aten, call: &Bound<'_>, op: Reduce) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let wanted = call.pair("output_size", 1)?;
    let id = if wanted == Some([1, 1]) {
        aten.import.global_pool(call, op, x)?
    } else {
        let Some(pool) = windows_of_adaptive(aten.import.shape(x), wanted) else {
            let what = "only pools to one pixel, or to a part of those that are there (7 by 7 of 14 by 14), are read";
            return Err(call.refused(what));
        };
        let x = aten.windows(call, "self")?;
        if op == Reduce::Max {
            aten.import.max_pool(call, x, pool)?
        } else {
            aten.import.average_pool(call, x, AveragePool { pool, count_include_pad: true })?
        }
    };
    let result = aten.define(id);
    // The largest comes with its places.
    Ok(if op == Reduce::Max { Value::List([result, Value::Unknown].into()) } else { result })
}

/// The windows of an adaptive pool of pictures to `wanted` pixels, where these are all as large.
fn windows_of_adaptive(shape: &Shape, wanted: Option<[usize; 2]>) -> Option<Pool> {
    let &[_, _, Dim::Fixed(height), Dim::Fixed(width)] = &shape.0[..] else { return None };
    let [rows, columns] = wanted?;
    let divides = |size: usize, parts: usize| parts > 0 && size >= parts && size.is_multiple_of(parts);
    (divides(height, rows) && divides(width, columns)).then(|| {
        let kernel = [height / rows, width / columns];
        Pool { kernel, strides: kernel, pads: [0; 4], ceil_mode: false }
    })
}

/// A number around a value, or what it is at its sides: before and behind the last axis, then the one before it, and so on.
fn pad(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let number = if call.get("value").is_some() { call.number("value")? as f32 } else { 0.0 };
    let mode = match call.get("mode") {
        None => PadMode::Constant(number),
        Some(Value::Text(mode)) if &**mode == "constant" => PadMode::Constant(number),
        Some(Value::Text(mode)) if &**mode == "reflect" => PadMode::Reflect,
        Some(Value::Text(mode)) if &**mode == "replicate" => PadMode::Edge,
        Some(_) => return Err(call.refused("only padding with a number, reflect and replicate are read")),
    };
    padded(aten, call, "pad", mode)
}

fn padded(aten: &mut Aten, call: &Bound<'_>, sides: &str, mode: PadMode) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let (rank, sides) = (aten.import.rank(x), call.ints(sides)?.unwrap_or_default());
    if sides.len() % 2 != 0 || sides.len() / 2 > rank {
        return Err(call.damage(&format!("{} sides are padded of {rank} axes", sides.len())));
    }
    let pads: Vec<(usize, i64, i64)> =
        sides.chunks_exact(2).enumerate().map(|(i, side)| (rank - 1 - i, side[0], side[1])).collect();
    match aten.import.pad(call, x, &pads, mode)? {
        Ok(id) => Ok(aten.define(id)),
        Err(padded) => Ok(aten.cell(Windows::Around(padded), None)),
    }
}

/// Pictures of another size, given as that or as factors.
fn resize(aten: &mut Aten, call: &Bound<'_>, resampling: Resampling) -> Result<Value, Problem> {
    let x = aten.tensor(call, if call.signature.overload == "vec" { "input" } else { "self" })?;
    let corners = call.get("align_corners").is_some() && call.flag("align_corners")?;
    let coordinates = match (resampling, corners) {
        (Resampling::NearestFloor, _) => Coordinates::Asymmetric,
        (Resampling::Nearest | Resampling::NearestCeil, _) => Coordinates::HalfPixel,
        (Resampling::Linear | Resampling::Cubic, true) => Coordinates::AlignCorners,
        (Resampling::Linear | Resampling::Cubic, false) => Coordinates::HalfPixel,
    };
    let own = aten.import.sides(call, x)?;
    let factors = scales(call)?;
    let scaled = match factors {
        None => None,
        Some([height, width]) => Some([
            aten.import.side_of(call, own[0] as f64 * height, coordinates)?,
            aten.import.side_of(call, own[1] as f64 * width, coordinates)?,
        ]),
    };
    let size = match (call.pair("output_size", 1)?, scaled) {
        (Some(size), Some(scaled)) if size != scaled => {
            return Err(call.refused(&format!("its factors give {scaled:?} pixels, its size is {size:?}")));
        }
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => return Err(call.damage("it has neither a size nor factors")),
    };
    if call.signature.name.ends_with("_aa") && (corners || size[0] < own[0] || size[1] < own[1]) {
        return Err(
            call.refused("antialiasing is read where it changes nothing: where pictures become larger")
        );
    }
    for side in 0..2 {
        let factor = factors.map(|factors| factors[side]);
        if is_nearest(resampling) && !is_exact(resampling, own[side], size[side], factor) {
            let what = format!(
                "PyTorch rounds to another pixel than the nearest from {} to {}",
                own[side], size[side]
            );
            return Err(call.refused(&what));
        }
    }
    let ties = (0..2).any(|side| has_ties(own[side], size[side]));
    // ONNX's own rounding, where it is the same.
    let nearest = resampling == Resampling::NearestCeil && !ties;
    let resampling = if nearest { Resampling::Nearest } else { resampling };
    let id = aten.import.resize(call, x, size, resampling, coordinates)?;
    Ok(aten.define(id))
}

/// Whether PyTorch, which computes in f32, finds the same pixels as whole numbers do.
fn is_exact(resampling: Resampling, from: usize, to: usize, factor: Option<f64>) -> bool {
    if from == to || !(1..=MAX_SIDE).contains(&to) || !(1..=MAX_SIDE).contains(&from) {
        return true; // nothing is rounded, or it is refused for its size
    }
    let scale = factor.map_or(from as f32 / to as f32, |factor| (1.0 / factor) as f32);
    let (middle, half) = if resampling == Resampling::NearestFloor { (0.0, 0) } else { (0.5, 1) };
    (0..to).all(|i| {
        let found = ((i as f32 + middle) * scale) as usize;
        found.min(from - 1) == (2 * i + half) * from / (2 * to)
    })
}

/// The factors of the height and the width, where they are given.
fn scales(call: &Bound<'_>) -> Result<Option<[f64; 2]>, Problem> {
    if call.get("scales_h").is_some() && call.get("scales_w").is_some() {
        return Ok(Some([call.number("scales_h")?, call.number("scales_w")?]));
    }
    match call.list("scale_factors").map(|list| list.iter().map(Value::number).collect::<Vec<_>>()) {
        None => Ok(None),
        Some(list) => match list[..] {
            [Some(height), Some(width)] => Ok(Some([height, width])),
            _ => Err(call.refused("its factors are not two numbers that are known before the run")),
        },
    }
}
