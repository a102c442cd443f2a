//! Operators that take elements from places that the file says, or move all of them around an axis.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Data, Op, ValueId};

use super::call::{Bound, known_size};
use super::state::Aten;
use super::table::Rows;
use super::value::{Stored, Value};
use crate::error::Problem;
use crate::import::Site;

pub(super) const ROWS: Rows = &[
    (
        "embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False)",
        |a, c| rows(a, c, "weight", "indices"),
    ),
    ("index.Tensor(Tensor self, Tensor?[] indices)", index),
    ("index_select(Tensor self, int dim, Tensor index)", |a, c| {
        let x = a.tensor(c, "self")?;
        let axis = c.axis("dim", a.import.rank(x))?;
        let found = indices(c, c.required("index")?)?;
        picked(a, c, x, axis, found)
    }),
    ("roll(Tensor self, SymInt[1] shifts, int[1] dims=[])", roll),
];

/// Whole numbers, and their shape.
type Indices = (Vec<i64>, Vec<usize>);

fn rows(aten: &mut Aten, call: &Bound<'_>, table: &str, places: &str) -> Result<Value, Problem> {
    let x = aten.tensor(call, table)?;
    let found = indices(call, call.required(places)?)?;
    picked(aten, call, x, 0, found)
}

/// `x[.., indices]` with one tensor of indices.
fn index(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let items = call.list("indices").unwrap_or_default();
    let mut given = items.iter().enumerate().filter(|(_, item)| **item != Value::None);
    let (Some((axis, item)), None) = (given.next(), given.next()) else {
        return Err(call.refused("only indices along one axis are read"));
    };
    let x = aten.tensor(call, "self")?;
    if axis >= aten.import.rank(x) {
        return Err(call.damage("it has more indices than axes"));
    }
    let found = indices(call, item)?;
    picked(aten, call, x, axis, found)
}

fn picked(
    aten: &mut Aten,
    call: &Bound<'_>,
    x: ValueId,
    axis: usize,
    (places, under): Indices,
) -> Result<Value, Problem> {
    let id = aten.import.places(call, x, axis, &places, &under)?;
    Ok(aten.define(id))
}

/// The elements of a tensor of integers that the file holds.
fn indices(call: &Bound<'_>, value: &Value) -> Result<Indices, Problem> {
    let Value::Stored(stored @ Stored { transposed: false, .. }) = value else {
        return Err(call.refused(&format!("its indices are {}, not stored in the file", value.kind())));
    };
    let tensor = call.call.tensors.small(*stored);
    let places = tensor.and_then(|tensor| match tensor.data() {
        Data::I64(all) => Some(all.to_vec()),
        Data::I32(all) => Some(all.iter().map(|&n| n.into()).collect()),
        Data::F32(_)
        | Data::F64(_)
        | Data::F16(_)
        | Data::BF16(_)
        | Data::I8(_)
        | Data::U8(_)
        | Data::Bool(_) => None,
    });
    match (places, tensor) {
        (Some(places), Some(tensor)) => Ok((places, tensor.shape().to_vec())),
        _ => Err(call.refused("its indices are no integers, or too many")),
    }
}

/// The places of some axes moved up, those that leave at one end put to the other.
fn roll(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let mut x = aten.tensor(call, "self")?;
    let rank = aten.import.rank(x);
    let shifts = call.ints("shifts")?.unwrap_or_default();
    let axes = call.ints("dims")?.unwrap_or_default();
    if axes.is_empty() || axes.len() != shifts.len() {
        return Err(call.refused("it has not one number for each of its axes"));
    }
    for (number, (axis, shift)) in axes.into_iter().zip(shifts).enumerate() {
        let axis = call.axis_of(axis, rank)?;
        let size = known_size(call, &aten.import.shape(x).0[axis])?;
        let start = match size {
            0 => 0,
            size => (-i128::from(shift)).rem_euclid(size as i128) as usize,
        };
        if start == 0 {
            continue;
        }
        let mut part = |name: &str, start, end| {
            let slice = Op::Shape(ShapeOp::Slice { axis, start, end });
            aten.import.push_part(call, &format!("{name}{number}"), slice, &[x])
        };
        let parts = [part("end", start, size)?, part("start", 0, start)?];
        let concat = Op::Shape(ShapeOp::Concat { axis });
        x = aten.import.push_part(call, &format!("rolled{number}"), concat, &parts)?;
    }
    Ok(aten.define(x))
}
