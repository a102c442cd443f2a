//! Recurrent layers.

use offshoot_graph::op::{Composite, Direction, ShapeOp};
use offshoot_graph::{Dim, DimOp, Op, Role, Shape, Tensor, ValueId};

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::Value;
use crate::error::Problem;
use crate::import::{Number, Part, Site};

pub(super) const ROWS: Rows = &[
    (
        "gru.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, \
         bool bidirectional, bool batch_first)",
        gru,
    ),
    (
        "zeros(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None)",
        zeros,
    ),
];

/// The states that a recurrent layer starts from.
fn zeros(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    call.check_floats("dtype")?;
    let sizes: Vec<Number> = call.list("size").unwrap_or_default().iter().map(Value::size).collect();
    let zero = aten.import.constant(call, "zero", Tensor::zeros(vec![1; sizes.len()]));
    let id = aten.import.expand(call, zero, &sizes)?;
    Ok(aten.define(id))
}

fn gru(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.flag("train")? {
        return Err(call.call.in_training_mode());
    }
    let start = aten.tensor(call, "hx")?;
    if !aten.import.is_zero(start) {
        return Err(call.refused("it starts from another state than zeros"));
    }
    let (both, biased) = (call.flag("bidirectional")?, call.flag("has_biases")?);
    let direction = if both { Direction::Bidirectional } else { Direction::Forward };
    let mut parameters = Vec::new();
    for value in call.list("params").unwrap_or_default() {
        let Value::Stored(stored) = value else {
            return Err(call.refused(&format!("one of its weights is {}", value.kind())));
        };
        parameters.push(aten.parameter(call, *stored, Role::Weight)?);
    }
    let of_way = if biased { 4 } else { 2 };
    let of_layer = of_way * direction.ways();
    let layers = usize::try_from(call.int("num_layers")?).ok().filter(|&layers| layers > 0);
    if layers.and_then(|layers| layers.checked_mul(of_layer)) != Some(parameters.len()) {
        return Err(call.damage(&format!("it has {} weights", parameters.len())));
    }
    let batch_first = call.flag("batch_first")?;
    let mut x = aten.tensor(call, "input")?;
    if aten.import.rank(x) != 3 {
        return Err(call.refused("only a batch of sequences (three axes) is read"));
    }
    x = steps_first(aten, call, x, batch_first)?;
    let mut last = Vec::new();
    for layer in parameters.chunks_exact(of_layer) {
        let ways: Vec<&[ValueId]> = layer.chunks_exact(of_way).collect();
        let operands = operands(aten, call, &ways)?;
        let composite = Composite::Gru { direction, linear_before_reset: true };
        let results = aten.import.compose_all(call, composite, &[&[x], &operands[..]].concat())?;
        x = joined_ways(aten, call, results[0])?;
        last.push(results[1]);
    }
    let x = steps_first(aten, call, x, batch_first)?;
    let last = match last[..] {
        [only] => only,
        _ => aten.import.push_part(call, "last", Op::Shape(ShapeOp::Concat { axis: 0 }), &last)?,
    };
    Ok(Value::List([aten.define(x), aten.define(last)].into()))
}

/// The first two axes exchanged, where `batch_first`.
fn steps_first(aten: &mut Aten, call: &Bound<'_>, x: ValueId, batch_first: bool) -> Result<ValueId, Problem> {
    match batch_first {
        true => {
            aten.import.push_part(call, "turned", Op::Shape(ShapeOp::Transpose { perm: vec![1, 0, 2] }), &[x])
        }
        false => Ok(x),
    }
}

/// [T, D, N, H] as [T, N, D H].
fn joined_ways(aten: &mut Aten, call: &Bound<'_>, y: ValueId) -> Result<ValueId, Problem> {
    let turned = Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1, 3] });
    let y = aten.import.push_part(call, "steps", turned, &[y])?;
    let dims = &aten.import.shape(y).0;
    let shape = Shape(vec![dims[0].clone(), dims[1].clone(), dims[2].combine(DimOp::Mul, &dims[3])]);
    aten.import.push_part(call, "features", Op::Shape(ShapeOp::Reshape { shape }), &[y])
}

/// Weight, recurrence and bias as ONNX has them, of what PyTorch has for each direction: weight, recurrence and the bias of each,
/// if any.
fn operands(aten: &mut Aten, call: &Bound<'_>, ways: &[&[ValueId]]) -> Result<[ValueId; 3], Problem> {
    let all = |aten: &mut Aten, index: usize, name: &str| {
        let mut rows = Vec::new();
        for way in ways {
            rows.push(gates(aten, call, way[index], name)?);
        }
        joined(aten, call, name, 0, rows)
    };
    let (weight, recurrence) = (all(aten, 0, "weight")?, all(aten, 1, "recurrence")?);
    if ways.iter().any(|way| way.len() < 4) {
        let hidden = aten.import.shape(recurrence).0.get(2).and_then(Dim::fixed).unwrap_or(0);
        let zeros = Tensor::zeros([ways.len(), 6 * hidden]);
        return Ok([weight, recurrence, aten.import.constant(call, "bias", zeros)]);
    }
    let biases = vec![all(aten, 2, "weight_bias")?, all(aten, 3, "recurrence_bias")?];
    Ok([weight, recurrence, joined(aten, call, "bias", 1, biases)?])
}

fn joined(
    aten: &mut Aten,
    call: &Bound<'_>,
    name: &str,
    axis: usize,
    parts: Vec<ValueId>,
) -> Result<ValueId, Problem> {
    match parts[..] {
        [only] => Ok(only),
        _ => aten.import.push_part(call, name, Op::Shape(ShapeOp::Concat { axis }), &parts),
    }
}

/// The rows of PyTorch's gates r, z, n in ONNX's order z, r, h, under an axis of the direction.
fn gates(aten: &mut Aten, call: &Bound<'_>, rows: ValueId, name: &str) -> Result<ValueId, Problem> {
    let shape = aten.import.shape(rows).clone();
    let all = shape.0.first().and_then(Dim::fixed).unwrap_or(0);
    let site = Part { site: call, name: call.part(&format!("{name}.gates")) };
    let parts = aten.import.split(&site, rows, 0, vec![all / 3; 3])?;
    let order = [parts[1], parts[0], parts[2]];
    let rows = aten.import.push_part(
        call,
        &format!("{name}.rows"),
        Op::Shape(ShapeOp::Concat { axis: 0 }),
        &order,
    )?;
    let shape = Shape([&[Dim::Fixed(1)], &shape.0[..]].concat());
    aten.import.push_part(call, &format!("{name}.of_way"), Op::Shape(ShapeOp::Reshape { shape }), &[rows])
}
