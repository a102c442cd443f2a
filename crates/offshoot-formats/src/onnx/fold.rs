//! Small tensors of sizes, computed while a file is read.
//!
//! Exporters that trace a model write the arithmetic of its shapes into the graph (TensorFlow-style padding, flattening).
//! With a known height and width all of it is numbers, except for the batch and the steps of a sequence, which stay
//! expressions.

use offshoot_graph::{Data, DimOp, Shape, Tensor};

use super::attributes::NodeView;
use crate::import::Number;

/// More numbers than any arithmetic on shapes needs.
pub(super) const MAX_NUMBERS: usize = 256;

/// A small tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<Number>,
    pub(super) float: bool,
}

impl Numbers {
    fn vector(data: Vec<Number>, float: bool) -> Numbers {
        Numbers { shape: vec![data.len()], data, float }
    }

    /// The elements of a tensor, when there are few.
    pub(super) fn from_tensor(tensor: &Tensor) -> Option<Numbers> {
        if tensor.len() > MAX_NUMBERS {
            return None;
        }
        let values: Vec<f64> = match tensor.data() {
            Data::F32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::F64(v) => v.clone(),
            Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::Bool(v) => v.iter().map(|&x| x.into()).collect(),
        };
        let data = values.into_iter().map(Number::Known).collect();
        Some(Numbers { shape: tensor.shape().to_vec(), data, float: tensor.dtype().is_float() })
    }

    /// The dims of a value.
    pub(super) fn from_shape(shape: &Shape) -> Numbers {
        Numbers::vector(shape.0.iter().cloned().map(Number::of).collect(), false)
    }

    /// The shape that the elements are.
    pub(super) fn to_shape(&self) -> Option<Shape> {
        self.data.iter().map(Number::dim).collect::<Option<_>>().map(Shape)
    }

    /// The elements, when all are known.
    pub(super) fn known(&self) -> Option<Vec<f64>> {
        let known = |n: &Number| match n {
            Number::Known(x) => Some(*x),
            Number::Size(_) | Number::Unknown => None,
        };
        self.data.iter().map(known).collect()
    }

    /// The elements as integers, when all are known.
    pub(super) fn ints(&self) -> Option<Vec<i64>> {
        Some(self.known()?.into_iter().map(|x| x as i64).collect())
    }

    /// The same numbers as an f32 tensor, when all are known.
    pub(super) fn to_tensor(&self) -> Option<Tensor> {
        let data = Data::F32(self.known()?.into_iter().map(|x| x as f32).collect());
        Tensor::new(self.shape.clone(), data).ok()
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Numbers {
        let apply = |n: &Number| match n {
            Number::Known(x) => Number::Known(f(*x)),
            Number::Size(_) | Number::Unknown => Number::Unknown,
        };
        Numbers { data: self.data.iter().map(apply).collect(), ..self.clone() }
    }
}

/// Whether [`fold`] knows the operator.
pub(super) fn is_foldable(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Mod"
            | "Sqrt"
            | "Equal"
            | "Where"
            | "Max"
            | "Min"
            | "Ceil"
            | "Floor"
            | "Cast"
            | "Clip"
            | "Gather"
            | "Unsqueeze"
            | "Squeeze"
            | "Concat"
            | "ConstantOfShape"
            | "Slice"
            | "Transpose"
            | "Reshape"
            | "ReduceProd"
    )
}

/// What `node` makes of `inputs` (`None` where an input is not given), where this arithmetic is known. `fill` is
/// ConstantOfShape's value.
pub(super) fn fold(node: NodeView<'_>, inputs: &[Option<Numbers>], fill: Option<Numbers>) -> Option<Numbers> {
    evaluate(node, inputs, fill).filter(|n| n.data.len() <= MAX_NUMBERS)
}

fn evaluate(node: NodeView<'_>, inputs: &[Option<Numbers>], fill: Option<Numbers>) -> Option<Numbers> {
    let input = |i: usize| inputs.get(i).and_then(Option::as_ref);
    let x = input(0)?;
    let axes = |i: usize| match input(i) {
        Some(axes) => axes.ints(),
        None => node.ints("axes").map(<[i64]>::to_vec),
    };
    match node.op() {
        "Add" => arithmetic(x, input(1)?, DimOp::Add, |a, b| a + b),
        "Sub" => arithmetic(x, input(1)?, DimOp::Sub, |a, b| a - b),
        "Mul" => arithmetic(x, input(1)?, DimOp::Mul, |a, b| a * b),
        "Div" => divide(x, input(1)?),
        "Mod" => modulo(x, input(1)?, node.flag("fmod")),
        "Max" if inputs.len() == 2 => known(x, input(1)?, f64::max),
        "Min" if inputs.len() == 2 => known(x, input(1)?, f64::min),
        "Equal" => equal(x, input(1)?),
        "Where" => choice(x, input(1)?, input(2)?),
        "Ceil" => Some(x.map(f64::ceil)),
        "Floor" => Some(x.map(f64::floor)),
        // In f32, as a runtime has it.
        "Sqrt" => Some(x.map(|v| f64::from((v as f32).sqrt()))),
        "Cast" => Some(cast(x, matches!(node.int("to", 0), 1 | 10 | 11 | 16))),
        "Clip" => {
            let bound = |i: usize, name: &str, default: f64| match input(i) {
                Some(bound) => bound.known()?.first().copied(),
                None => Some(node.float(name).map_or(default, f64::from)),
            };
            let (min, max) = (bound(1, "min", f64::NEG_INFINITY)?, bound(2, "max", f64::INFINITY)?);
            Some(x.map(|v| v.max(min).min(max)))
        }
        "Gather" => gather(x, input(1)?, node.int("axis", 0)),
        "Unsqueeze" => unsqueeze(x, &axes(1)?),
        "Squeeze" => squeeze(x, axes(1).as_deref()),
        "Concat" => concat(inputs),
        "ConstantOfShape" => constant_of_shape(x, fill),
        "Slice" => slice(node, inputs),
        "Transpose" => transpose(x, node.ints("perm")),
        "Reshape" => reshape(x, &input(1)?.ints()?),
        "ReduceProd" => product(x, axes(1).as_deref(), node.int("keepdims", 1) != 0),
        _ => None,
    }
}

/// Elements of equal shapes, or one element with each of the other's.
fn binary(a: &Numbers, b: &Numbers, f: impl Fn(&Number, &Number) -> Number) -> Option<Numbers> {
    let (shape, len) = match (a.data.len(), b.data.len()) {
        (n, _) if a.shape == b.shape => (&a.shape, n),
        (n, 1) if b.shape.len() <= a.shape.len() => (&a.shape, n),
        (1, n) if a.shape.len() <= b.shape.len() => (&b.shape, n),
        _ => return None,
    };
    let at = |side: &'_ Numbers, i: usize| if side.data.len() == 1 { 0 } else { i };
    let data = (0..len).map(|i| f(&a.data[at(a, i)], &b.data[at(b, i)]));
    Some(Numbers { shape: shape.clone(), data: data.collect(), float: a.float })
}

/// A function of numbers that are known.
fn known(a: &Numbers, b: &Numbers, f: impl Fn(f64, f64) -> f64) -> Option<Numbers> {
    binary(a, b, |a, b| match (a, b) {
        (Number::Known(x), Number::Known(y)) => Number::Known(f(*x, *y)),
        _ => Number::Unknown,
    })
}

/// A function of numbers or sizes. Floats are rounded to f32, as a runtime has them: what is a whole number then decides a size.
fn arithmetic(a: &Numbers, b: &Numbers, op: DimOp, f: impl Fn(f64, f64) -> f64) -> Option<Numbers> {
    let float = a.float;
    binary(a, b, |a, b| match (a, b) {
        (Number::Known(x), Number::Known(y)) if float => Number::Known(f64::from(f(*x, *y) as f32)),
        (Number::Known(x), Number::Known(y)) => Number::Known(f(*x, *y)),
        _ if float => Number::Unknown,
        (a, b) => a.combine(op, b),
    })
}

fn divide(a: &Numbers, b: &Numbers) -> Option<Numbers> {
    if b.data.contains(&Number::Known(0.0)) {
        return None;
    }
    let float = a.float;
    arithmetic(a, b, DimOp::Div, |x, y| if float { x / y } else { (x / y).trunc() })
}

/// What is left of a division: of the divisor's sign, or with `fmod` of the dividend's.
fn modulo(a: &Numbers, b: &Numbers, fmod: bool) -> Option<Numbers> {
    if b.data.contains(&Number::Known(0.0)) {
        return None;
    }
    known(a, b, |x, y| if fmod { x % y } else { x - y * (x / y).floor() })
}

fn equal(a: &Numbers, b: &Numbers) -> Option<Numbers> {
    let truths = binary(a, b, |a, b| match (a, b) {
        (Number::Known(x), Number::Known(y)) => Number::Known((x == y).into()),
        // A size is never below zero.
        (Number::Size(_), Number::Known(n)) | (Number::Known(n), Number::Size(_)) if *n < 0.0 => {
            Number::Known(0.0)
        }
        _ => Number::Unknown,
    });
    truths.map(|truths| Numbers { float: false, ..truths })
}

fn choice(condition: &Numbers, a: &Numbers, b: &Numbers) -> Option<Numbers> {
    let truths = condition.known()?;
    let pick = |(i, truth): (usize, &f64)| {
        let side = if *truth != 0.0 { a } else { b };
        side.data.get(if side.data.len() == 1 { 0 } else { i }).cloned()
    };
    let fits = |side: &Numbers| side.shape == condition.shape || side.data.len() == 1;
    let data: Option<Vec<Number>> = truths.iter().enumerate().map(pick).collect();
    let shape = condition.shape.clone();
    Some(Numbers { shape, data: data?, float: a.float }).filter(|_| fits(a) && fits(b))
}

fn cast(x: &Numbers, float: bool) -> Numbers {
    let data = x.data.iter().map(|n| match n {
        Number::Known(v) if !float => Number::Known(v.trunc()),
        other => other.clone(),
    });
    Numbers { shape: x.shape.clone(), data: data.collect(), float }
}

fn gather(x: &Numbers, indices: &Numbers, axis: i64) -> Option<Numbers> {
    if x.shape.len() != 1 || !matches!(axis, 0 | -1) {
        return None;
    }
    let pick = |i: i64| {
        let i = if i < 0 { i.checked_add(x.data.len() as i64)? } else { i };
        x.data.get(usize::try_from(i).ok()?).cloned()
    };
    let data: Option<Vec<Number>> = indices.ints()?.into_iter().map(pick).collect();
    Some(Numbers { shape: indices.shape.clone(), data: data?, float: x.float })
}

fn unsqueeze(x: &Numbers, axes: &[i64]) -> Option<Numbers> {
    let rank = x.shape.len().checked_add(axes.len()).filter(|&r| r <= 8)?;
    let at: Vec<usize> = axes.iter().map(|&a| axis_of(a, rank)).collect::<Option<_>>()?;
    let mut old = x.shape.iter();
    let shape: Option<Vec<usize>> =
        (0..rank).map(|i| if at.contains(&i) { Some(1) } else { old.next().copied() }).collect();
    Some(Numbers { shape: shape?, ..x.clone() }).filter(|_| old.next().is_none())
}

fn squeeze(x: &Numbers, axes: Option<&[i64]>) -> Option<Numbers> {
    let rank = x.shape.len();
    let at: Option<Vec<usize>> = match axes {
        Some(axes) => axes.iter().map(|&a| axis_of(a, rank)).collect(),
        None => Some((0..rank).filter(|&i| x.shape[i] == 1).collect()),
    };
    let at = at?;
    if at.iter().any(|&i| x.shape[i] != 1) {
        return None;
    }
    let shape = (0..rank).filter(|i| !at.contains(i)).map(|i| x.shape[i]).collect();
    Some(Numbers { shape, ..x.clone() })
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

fn concat(inputs: &[Option<Numbers>]) -> Option<Numbers> {
    let parts: Vec<&Numbers> = inputs.iter().map(Option::as_ref).collect::<Option<_>>()?;
    if parts.iter().any(|p| p.shape.len() != 1)
        || parts.iter().map(|p| p.data.len()).sum::<usize>() > MAX_NUMBERS
    {
        return None;
    }
    let data = parts.iter().flat_map(|p| p.data.iter().cloned()).collect();
    Some(Numbers::vector(data, parts[0].float))
}

fn constant_of_shape(shape: &Numbers, fill: Option<Numbers>) -> Option<Numbers> {
    let shape: Vec<usize> =
        shape.ints()?.into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_NUMBERS)?;
    let (number, float) = match fill {
        Some(fill) => (fill.data.first()?.clone(), fill.float),
        None => (Number::Known(0.0), true),
    };
    Some(Numbers { shape, data: vec![number; len], float })
}

/// A slice along the first axis.
fn slice(node: NodeView<'_>, inputs: &[Option<Numbers>]) -> Option<Numbers> {
    let x = inputs.first()?.as_ref()?;
    let one = |i: usize, name: &str| match inputs.get(i).and_then(Option::as_ref) {
        Some(values) => values.ints(),
        None => node.ints(name).map(<[i64]>::to_vec),
    };
    let (starts, ends) = (one(1, "starts")?, one(2, "ends")?);
    let axes = one(3, "axes").unwrap_or(vec![0]);
    let steps = one(4, "steps").unwrap_or(vec![1]);
    let ([start], [end], [axis], [step]) = (&starts[..], &ends[..], &axes[..], &steps[..]) else {
        return None;
    };
    if axis_of(*axis, x.shape.len()) != Some(0) || *step == 0 {
        return None;
    }
    let (rows, step) = (i64::try_from(x.shape[0]).ok()?, i64::from(i32::try_from(*step).ok()?));
    let place = |i: i64| if i < 0 { i.saturating_add(rows) } else { i };
    let (low, high) = if step > 0 { (0, rows) } else { (-1, rows - 1) };
    let (mut at, end) = (place(*start).clamp(low, high), place(*end).clamp(low, high));
    let width = x.data.len().checked_div(x.shape[0])?;
    let mut data = Vec::new();
    let mut count = 0;
    while if step > 0 { at < end } else { at > end } {
        let row = usize::try_from(at).ok()? * width;
        data.extend_from_slice(x.data.get(row..row + width)?);
        count += 1;
        at += step;
    }
    let mut shape = x.shape.clone();
    shape[0] = count;
    Some(Numbers { shape, data, float: x.float })
}

fn transpose(x: &Numbers, perm: Option<&[i64]>) -> Option<Numbers> {
    match (&x.shape[..], perm) {
        ([_], _) | ([], _) | ([_, _], Some([0, 1])) => Some(x.clone()),
        (&[rows, columns], None | Some([1, 0])) => {
            let data =
                (0..columns).flat_map(|c| (0..rows).map(move |r| x.data[r * columns + c].clone())).collect();
            Some(Numbers { shape: vec![columns, rows], data, float: x.float })
        }
        _ => None,
    }
}

/// The product of a vector.
fn product(x: &Numbers, axes: Option<&[i64]>, kept: bool) -> Option<Numbers> {
    if x.shape.len() != 1 || !matches!(axes, None | Some([] | [0 | -1])) {
        return None;
    }
    let one = Numbers { shape: Vec::new(), data: vec![Number::Known(1.0)], float: x.float };
    let all = x.data.iter().try_fold(one, |product, number| {
        let factor = Numbers { shape: Vec::new(), data: vec![number.clone()], float: x.float };
        arithmetic(&product, &factor, DimOp::Mul, |a, b| a * b)
    })?;
    Some(Numbers { shape: if kept { vec![1] } else { Vec::new() }, ..all })
}

fn reshape(x: &Numbers, target: &[i64]) -> Option<Numbers> {
    if target.len() > 8 {
        return None;
    }
    reshaped(&x.shape, target, false).map(|shape| Numbers { shape, ..x.clone() })
}

/// The shape that `target` gives a tensor of `shape`, with ONNX's 0 (the same) and -1 (the rest).
pub(super) fn reshaped(shape: &[usize], target: &[i64], copies: bool) -> Option<Vec<usize>> {
    let total = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let dim = |(i, &d): (usize, &i64)| match d {
        -1 => Some(None),
        0 if copies => shape.get(i).map(|&d| Some(d)),
        _ => usize::try_from(d).ok().map(Some),
    };
    let dims: Vec<Option<usize>> = target.iter().enumerate().map(dim).collect::<Option<_>>()?;
    let known = dims.iter().flatten().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let rest = total.checked_div(known);
    let made: Vec<usize> = dims.iter().map(|d| d.or(rest)).collect::<Option<_>>()?;
    let count = made.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    (count == Some(total)).then_some(made)
}

#[cfg(test)]
mod tests;
