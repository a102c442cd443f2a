//! Small tensors of sizes, computed while a file is read.
//!
//! Exporters that trace a model write the arithmetic of its shapes into the graph (TensorFlow-style padding, flattening).
//! With a known height and width all of it is numbers, except for the batch, which is only ever passed on.

use offshoot_graph::{Data, Dim, Shape, Tensor};

use super::attributes::NodeView;
use crate::error::Problem;

/// More numbers than any arithmetic on shapes needs.
pub(super) const MAX_NUMBERS: usize = 256;

/// One element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Known(f64),
    /// The batch size itself.
    Batch,
    /// Something computed from a size that is not known.
    Unknown,
}

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

    /// The dims of a value, of which the one equal to `batch` is the batch.
    pub(super) fn from_shape(shape: &Shape, batch: &Dim) -> Numbers {
        let number = |dim: &Dim| match dim {
            Dim::Fixed(n) => Number::Known(*n as f64),
            other if other == batch => Number::Batch,
            Dim::Symbol(_) | Dim::Expr(_) => Number::Unknown,
        };
        Numbers::vector(shape.0.iter().map(number).collect(), false)
    }

    /// The elements, when all are known.
    pub(super) fn known(&self) -> Option<Vec<f64>> {
        let known = |n: &Number| match n {
            Number::Known(x) => Some(*x),
            Number::Batch | Number::Unknown => None,
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
            Number::Batch | Number::Unknown => Number::Unknown,
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
    )
}

/// What `node` makes of `inputs` (`None` where an input is not given). `fill` is ConstantOfShape's value.
pub(super) fn fold(
    node: NodeView<'_>,
    inputs: &[Option<Numbers>],
    fill: Option<Number>,
) -> Result<Numbers, Problem> {
    let too_much = || {
        node.unsupported(
            "this arithmetic on shapes is not read",
            "Export with a fixed picture size, or simplify the file with onnxsim",
        )
    };
    evaluate(node, inputs, fill).filter(|n| n.data.len() <= MAX_NUMBERS).ok_or_else(too_much)
}

fn evaluate(node: NodeView<'_>, inputs: &[Option<Numbers>], fill: Option<Number>) -> Option<Numbers> {
    let input = |i: usize| inputs.get(i).and_then(Option::as_ref);
    let x = input(0)?;
    let axes = |i: usize| match input(i) {
        Some(axes) => axes.ints(),
        None => node.ints("axes").map(<[i64]>::to_vec),
    };
    match node.op() {
        "Add" => binary(x, input(1)?, |a, b| a + b),
        "Sub" => binary(x, input(1)?, |a, b| a - b),
        "Mul" => binary(x, input(1)?, |a, b| a * b),
        "Div" => divide(x, input(1)?),
        "Max" if inputs.len() == 2 => binary(x, input(1)?, f64::max),
        "Min" if inputs.len() == 2 => binary(x, input(1)?, f64::min),
        "Ceil" => Some(x.map(f64::ceil)),
        "Floor" => Some(x.map(f64::floor)),
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
        _ => None,
    }
}

/// Elements of equal shapes, or one element with each of the other's.
fn binary(a: &Numbers, b: &Numbers, f: impl Fn(f64, f64) -> f64) -> Option<Numbers> {
    let (shape, len) = match (a.data.len(), b.data.len()) {
        (n, _) if a.shape == b.shape => (&a.shape, n),
        (n, 1) if b.shape.len() <= a.shape.len() => (&a.shape, n),
        (1, n) if a.shape.len() <= b.shape.len() => (&b.shape, n),
        _ => return None,
    };
    let at = |side: &Numbers, i: usize| side.data[if side.data.len() == 1 { 0 } else { i }];
    let data = (0..len).map(|i| match (at(a, i), at(b, i)) {
        (Number::Known(x), Number::Known(y)) => Number::Known(f(x, y)),
        _ => Number::Unknown,
    });
    Some(Numbers { shape: shape.clone(), data: data.collect(), float: a.float })
}

fn divide(a: &Numbers, b: &Numbers) -> Option<Numbers> {
    if b.data.contains(&Number::Known(0.0)) {
        return None;
    }
    let float = a.float;
    binary(a, b, |x, y| if float { x / y } else { (x / y).trunc() })
}

fn cast(x: &Numbers, float: bool) -> Numbers {
    let data = x.data.iter().map(|&n| match n {
        Number::Known(v) if !float => Number::Known(v.trunc()),
        other => other,
    });
    Numbers { shape: x.shape.clone(), data: data.collect(), float }
}

fn gather(x: &Numbers, indices: &Numbers, axis: i64) -> Option<Numbers> {
    if x.shape.len() != 1 || !matches!(axis, 0 | -1) {
        return None;
    }
    let pick = |i: i64| {
        let i = if i < 0 { i.checked_add(x.data.len() as i64)? } else { i };
        x.data.get(usize::try_from(i).ok()?).copied()
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
    let data = parts.iter().flat_map(|p| p.data.iter().copied()).collect();
    Some(Numbers::vector(data, parts[0].float))
}

fn constant_of_shape(shape: &Numbers, fill: Option<Number>) -> Option<Numbers> {
    let shape: Vec<usize> =
        shape.ints()?.into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_NUMBERS)?;
    Some(Numbers { shape, data: vec![fill.unwrap_or(Number::Known(0.0)); len], float: fill.is_none() })
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
            let data = (0..columns).flat_map(|c| (0..rows).map(move |r| x.data[r * columns + c])).collect();
            Some(Numbers { shape: vec![columns, rows], data, float: x.float })
        }
        _ => None,
    }
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
