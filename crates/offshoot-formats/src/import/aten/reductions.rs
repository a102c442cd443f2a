//! Reductions along axes, and what ends a classifier.

use offshoot_graph::ValueId;
use offshoot_graph::op::Reduce;

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::Value;
use crate::error::Problem;
use crate::import::Site;

pub(super) const ROWS: Rows = &[
    ("mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None)", mean),
    ("mean(Tensor self, *, ScalarType? dtype=None)", mean),
    (
        "linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)",
        norm,
    ),
    ("norm.ScalarOpt_dim(Tensor self, Scalar? p, int[1] dim, bool keepdim=False)", norm),
    ("norm.ScalarOpt_dim_dtype(Tensor self, Scalar? p, int[1] dim, bool keepdim, *, ScalarType dtype)", norm),
    ("frobenius_norm.dim(Tensor self, int[1] dim, bool keepdim=False)", norm),
    ("logsumexp(Tensor self, int[1] dim, bool keepdim=False)", log_sum_exp),
    ("var.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False)", variance),
    (
        "var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False)",
        variance,
    ),
    ("std.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False)", deviation),
    (
        "std.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False)",
        deviation,
    ),
    ("any.dim(Tensor self, int dim, bool keepdim=False)", any),
    ("softmax.int(Tensor self, int dim, ScalarType? dtype=None)", softmax),
    ("_softmax(Tensor self, int dim, bool half_to_float)", softmax),
    ("log_softmax.int(Tensor self, int dim, ScalarType? dtype=None)", log_softmax),
    ("_log_softmax(Tensor self, int dim, bool half_to_float)", log_softmax),
];

/// The value that is reduced, its axes, and whether they stay.
fn reduced(aten: &mut Aten, call: &Bound<'_>) -> Result<(ValueId, Vec<usize>, bool), Problem> {
    call.check_floats("dtype")?;
    let x = aten.tensor(call, "self")?;
    let axes = call.axes("dim", aten.import.rank(x))?;
    let axes = axes.ok_or_else(|| call.refused("only a reduction along given axes is read"))?;
    Ok((x, axes, call.flag("keepdim")?))
}

pub(super) fn reduce(aten: &mut Aten, call: &Bound<'_>, op: Reduce) -> Result<Value, Problem> {
    let (x, axes, kept) = reduced(aten, call)?;
    let id = aten.import.reduction(call, op, x, &axes, kept)?;
    Ok(aten.define(id))
}

fn mean(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let (x, axes, kept) = reduced(aten, call)?;
    let id = aten.import.mean(call, x, &axes, kept)?;
    Ok(aten.define(id))
}

fn norm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let order = match (call.get("ord"), call.get("p")) {
        (Some(order), _) | (None, Some(order)) => order.number(),
        (None, None) => Some(2.0),
    };
    let (x, axes, kept) = reduced(aten, call)?;
    let id = match order {
        Some(2.0) => aten.import.reduction(call, Reduce::L2, x, &axes, kept)?,
        Some(1.0) => aten.import.sum_of_absolutes(call, x, &axes, kept)?,
        Some(order) => return Err(call.refused(&format!("the norm of order {order} is not read"))),
        None => return Err(call.refused("the order of its norm is not known before the run")),
    };
    Ok(aten.define(id))
}

fn log_sum_exp(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let (x, axes, kept) = reduced(aten, call)?;
    let id = aten.import.log_sum_exp(call, x, &axes, kept)?;
    Ok(aten.define(id))
}

/// Whether a boolean holds somewhere along an axis.
fn any(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    if !aten.import.is_truth(x) {
        return Err(call.refused("its argument 0 is no boolean that can be read"));
    }
    let axis = call.axis("dim", aten.import.rank(x))?;
    let id = aten.import.reduction(call, Reduce::Max, x, &[axis], call.flag("keepdim")?)?;
    let id = aten.import.mark_truth(id);
    Ok(aten.define(id))
}

fn variance_of(aten: &mut Aten, call: &Bound<'_>) -> Result<ValueId, Problem> {
    let correction = match (call.get("unbiased"), call.get("correction").and_then(Value::number)) {
        (_, Some(correction)) => correction,
        (Some(_), None) => f64::from(u8::from(call.flag("unbiased")?)),
        (None, None) => 1.0,
    };
    let (x, axes, kept) = reduced(aten, call)?;
    aten.import.variance(call, x, &axes, kept, correction)
}

fn variance(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let id = variance_of(aten, call)?;
    Ok(aten.define(id))
}

fn deviation(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let variance = variance_of(aten, call)?;
    let root = offshoot_graph::Op::Unary(offshoot_graph::op::Unary::Sqrt);
    let id = aten.import.push_part(call, "root", root, &[variance])?;
    Ok(aten.define(id))
}

fn softmax(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    call.check_floats("dtype")?;
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let id = aten.import.push(call, offshoot_graph::Op::Softmax { axis }, &[x])?;
    aten.finish(call, id)
}

fn log_softmax(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    call.check_floats("dtype")?;
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let id = aten.import.log_softmax(call, x, axis)?;
    aten.finish(call, id)
}
