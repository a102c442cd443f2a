//! Products of matrices.

use offshoot_graph::op::{Gemm, ShapeOp};
use offshoot_graph::{Op, Role, ValueId};

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::Value;
use crate::error::Problem;
use crate::import::Site;

pub(super) const ROWS: Rows = &[
    ("linear(Tensor input, Tensor weight, Tensor? bias=None)", linear),
    ("addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1)", addmm),
    ("matmul(Tensor self, Tensor other)", |a, c| matmul(a, c, "other")),
    ("mm(Tensor self, Tensor mat2)", |a, c| matmul(a, c, "mat2")),
    ("bmm(Tensor self, Tensor mat2)", |a, c| matmul(a, c, "mat2")),
    (
        "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0, \
         bool is_causal=False, *, float? scale=None, bool enable_gqa=False)",
        attention,
    ),
    (
        "_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0.0, \
         bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None)",
        attention,
    ),
];

/// x times a stored matrix, plus a bias perhaps.
fn product(
    aten: &mut Aten,
    call: &Bound<'_>,
    x: ValueId,
    trans_b: bool,
    operands: &[ValueId],
) -> Result<Value, Problem> {
    let gemm = Op::Gemm(Gemm { trans_a: false, trans_b });
    let id = aten.import.by_rows(call, call.name(), gemm, x, operands)?;
    Ok(aten.define(id))
}

fn linear(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "input")?;
    let (weight, transposed) = match call.get("weight") {
        Some(Value::Tensor(_)) => (aten.tensor(call, "weight")?, false),
        _ => {
            let stored = aten.stored(call, "weight")?;
            (aten.parameter(call, stored, Role::Weight)?, stored.transposed)
        }
    };
    let bias = aten.given(call, "bias")?;
    let operands: Vec<ValueId> = [Some(weight), bias].into_iter().flatten().collect();
    product(aten, call, x, !transposed, &operands)
}

/// bias + x matrix
fn addmm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    for name in ["beta", "alpha"] {
        if call.number(name)? != 1.0 {
            return Err(call.refused(&format!("{name} other than 1 is not read")));
        }
    }
    let x = aten.tensor(call, "mat1")?;
    let matrix = aten.stored(call, "mat2")?;
    let operands = [aten.parameter(call, matrix, Role::Weight)?, aten.weight(call, "self", Role::Weight)?];
    product(aten, call, x, matrix.transposed, &operands)
}

fn matmul(aten: &mut Aten, call: &Bound<'_>, second: &str) -> Result<Value, Problem> {
    if let Some(Value::Tensor(_)) = call.get(second) {
        let (a, b) = (aten.any(call, "self")?, aten.tensor(call, second)?);
        let (rows, stack) = (aten.import.shape(a), aten.import.shape(b));
        let alike =
            rows.rank() == stack.rank() && rows.0.iter().rev().skip(2).eq(stack.0.iter().rev().skip(2));
        if let (true, Some((matrix, transposed))) = (alike, repeated(aten, b)) {
            return product(aten, call, a, transposed, &[matrix]);
        }
        let id = aten.import.matmul(call, a, b)?;
        return Ok(aten.define(id));
    }
    let x = aten.tensor(call, "self")?;
    let matrix = aten.stored(call, second)?;
    let weight = aten.parameter(call, matrix, Role::Weight)?;
    product(aten, call, x, matrix.transposed, &[weight])
}

/// The matrix that is all matrices of the stack `b`, as a decomposed Linear multiplies with, and whether it is used transposed.
fn repeated(aten: &Aten, b: ValueId) -> Option<(ValueId, bool)> {
    let (Op::Shape(ShapeOp::Expand { .. }), &[x]) = aten.import.made_by(b)? else { return None };
    if aten.import.rank(x) != 2 {
        return None;
    }
    if let Some((Op::Shape(ShapeOp::Transpose { .. }), &[matrix])) = aten.import.made_by(x) {
        return Some((matrix, true));
    }
    Some((x, false))
}

fn attention(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let shared = call.get("enable_gqa").is_some() && call.flag("enable_gqa")?;
    if call.flag("is_causal")? || shared {
        return Err(call.refused("a causal mask and shared heads are not read"));
    }
    if call.number("dropout_p")? != 0.0 {
        return Err(call.call.in_training_mode());
    }
    let operands = [aten.tensor(call, "query")?, aten.tensor(call, "key")?, aten.tensor(call, "value")?];
    let mask = match call.get("attn_mask") {
        Some(_) => Some(aten.any(call, "attn_mask")?),
        None => None,
    };
    if mask.is_some_and(|mask| aten.import.is_truth(mask)) {
        return Err(call.refused("a mask of booleans is not read"));
    }
    let width = aten.import.shape(operands[0]).0.last().and_then(offshoot_graph::Dim::fixed);
    let scale = match (call.get("scale"), width) {
        (Some(_), _) => call.number("scale")? as f32,
        (None, Some(width @ 1..)) => 1.0 / (width as f32).sqrt(),
        (None, _) => return Err(call.refused("the width of its heads is not known")),
    };
    let id = aten.import.attention(call, operands, mask, scale)?;
    Ok(aten.define(id))
}
