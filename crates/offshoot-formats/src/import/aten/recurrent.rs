//! Recurrent layers.

use std::ops::Range;

use offshoot_graph::op::{Composite, Direction, Recurrent, ShapeOp};
use offshoot_graph::{Dim, DimOp, Op, Role, Shape, Tensor, ValueId};

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::{Stored, Value};
use crate::elements::check_activation;
use crate::error::Problem;
use crate::import::{Number, Part, Site};

/// The overload that takes the weights of all directions as the graph has them. PyTorch has none: it stands for a function in our
/// own files.
pub(crate) const STACKED: &str = "stacked";

pub(super) const ROWS: Rows = &[
    (
        "gru.stacked(Tensor x, Tensor weight, Tensor recurrence, Tensor bias, int ways, bool reverse)",
        |a, c| {
            stacked(a, c, |direction| Op::Composite(Composite::Gru { direction, linear_before_reset: true }))
        },
    ),
    (
        "lstm.stacked(Tensor x, Tensor weight, Tensor recurrence, Tensor bias, int ways, bool reverse)",
        |a, c| stacked(a, c, |direction| Op::Recurrent(Recurrent::Lstm(direction))),
    ),
    (
        "gru.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, \
         bool bidirectional, bool batch_first)",
        gru,
    ),
    (
        "lstm.input(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, \
         bool bidirectional, bool batch_first)",
        lstm,
    ),
    (
        "zeros(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None)",
        zeros,
    ),
    (
        "full_like(Tensor self, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, \
         bool? pin_memory=None, MemoryFormat? memory_format=None)",
        full_like,
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

/// A number in the shape of a tensor.
fn full_like(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    call.check_floats("dtype")?;
    let shape = aten.shape_of(call, "self")?;
    let sizes: Vec<Number> = shape.0.into_iter().map(Number::of).collect();
    let number = Tensor::f32(vec![1; sizes.len()], vec![call.number("fill_value")? as f32]);
    let number = aten.import.constant(call, "number", number);
    let id = aten.import.expand(call, number, &sizes)?;
    Ok(aten.define(id))
}

/// One operator of the graph, on the operands that it has there.
fn stacked(aten: &mut Aten, call: &Bound<'_>, op: fn(Direction) -> Op) -> Result<Value, Problem> {
    let direction = match (call.int("ways")?, call.flag("reverse")?) {
        (1, false) => Direction::Forward,
        (1, true) => Direction::Reverse,
        (2, false) => Direction::Bidirectional,
        _ => return Err(call.damage("its directions are not one, or one each way")),
    };
    let mut operands = vec![aten.tensor(call, "x")?];
    for name in ["weight", "recurrence", "bias"] {
        operands.push(match call.get(name) {
            Some(Value::Stored(_)) => aten.weight(call, name, Role::Weight)?,
            _ => aten.tensor(call, name)?,
        });
    }
    let results = cell(aten, call, op(direction), direction, &operands)?;
    Ok(Value::List(results.into_iter().map(|id| aten.define(id)).collect()))
}

/// The results of one operator: all steps, and the last state.
fn cell(
    aten: &mut Aten,
    call: &Bound<'_>,
    op: Op,
    direction: Direction,
    operands: &[ValueId],
) -> Result<Vec<ValueId>, Problem> {
    let size = |id: ValueId, axis: usize| aten.import.shape(id).0.get(axis).and_then(Dim::fixed).unwrap_or(1);
    let sizes = [size(operands[0], 0), direction.ways(), size(operands[2], 2)];
    check_activation(&call.place(), sizes.into_iter())?;
    if let Op::Composite(composite) = op {
        return aten.import.compose_all(call, composite, operands);
    }
    aten.import.push_all(call, call.name(), op, operands)
}

/// Layers of one kind on each other, as PyTorch's operators describe them.
struct Layers {
    direction: Direction,
    batch_first: bool,
    /// The weights of each layer, and in it of each direction: weight, recurrence and the bias of each, if any.
    layers: Vec<Vec<Vec<Stored>>>,
}

impl Layers {
    /// `starts` are the first states, which must be zeros.
    fn of(aten: &Aten, call: &Bound<'_>, starts: &[ValueId]) -> Result<Layers, Problem> {
        if call.flag("train")? {
            return Err(call.call.in_training_mode());
        }
        if !starts.iter().all(|&start| aten.import.is_zero(start)) {
            return Err(call.refused("it starts from another state than zeros"));
        }
        let both = call.flag("bidirectional")?;
        let direction = if both { Direction::Bidirectional } else { Direction::Forward };
        let mut parameters = Vec::new();
        for value in call.list("params").unwrap_or_default() {
            let Value::Stored(stored) = value else {
                return Err(call.refused(&format!("one of its weights is {}", value.kind())));
            };
            parameters.push(Stored { transposed: false, ..*stored });
        }
        let of_way = if call.flag("has_biases")? { 4 } else { 2 };
        let count = usize::try_from(call.int("num_layers")?).ok().filter(|&layers| layers > 0);
        let ways = count.and_then(|layers| layers.checked_mul(direction.ways()));
        if ways.and_then(|ways| ways.checked_mul(of_way + 1)) == Some(parameters.len()) {
            return Err(call.refused("a projection of its state (proj_size) is not read"));
        }
        if ways.and_then(|ways| ways.checked_mul(of_way)) != Some(parameters.len()) {
            return Err(call.damage(&format!("it has {} weights", parameters.len())));
        }
        let ways: Vec<Vec<Stored>> = parameters.chunks_exact(of_way).map(<[Stored]>::to_vec).collect();
        let layers = ways.chunks_exact(direction.ways()).map(<[Vec<Stored>]>::to_vec).collect();
        Ok(Layers { direction, batch_first: call.flag("batch_first")?, layers })
    }

    /// What all steps give, and the last states, where `layer` computes one of the layers.
    fn run(
        self,
        aten: &mut Aten,
        call: &Bound<'_>,
        mut layer: impl FnMut(&mut Aten, ValueId, &[Vec<Stored>]) -> Result<Vec<ValueId>, Problem>,
    ) -> Result<[Value; 2], Problem> {
        let mut x = aten.tensor(call, "input")?;
        if aten.import.rank(x) != 3 {
            return Err(call.refused("only a batch of sequences (three axes) is read"));
        }
        x = steps_first(aten, call, x, self.batch_first)?;
        let mut last = Vec::new();
        for ways in &self.layers {
            let results = layer(aten, x, ways)?;
            x = joined_ways(aten, call, results[0])?;
            last.push(results[1]);
        }
        let x = steps_first(aten, call, x, self.batch_first)?;
        let last = match last[..] {
            [only] => only,
            _ => aten.import.push_part(call, "last", Op::Shape(ShapeOp::Concat { axis: 0 }), &last)?,
        };
        Ok([aten.define(x), aten.define(last)])
    }
}

fn gru(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let start = aten.tensor(call, "hx")?;
    let layers = Layers::of(aten, call, &[start])?;
    let direction = layers.direction;
    let results = layers.run(aten, call, |aten, x, ways| {
        let ways = parameters(aten, call, ways)?;
        let ways: Vec<&[ValueId]> = ways.iter().map(Vec::as_slice).collect();
        let [weight, recurrence, bias] = operands(aten, call, &ways)?;
        let op = Op::Composite(Composite::Gru { direction, linear_before_reset: true });
        cell(aten, call, op, direction, &[x, weight, recurrence, bias])
    })?;
    Ok(Value::List(results.into()))
}

/// In the order in which nodes read them, so that they are in this order again when what is written is read.
fn parameters(aten: &mut Aten, call: &Bound<'_>, ways: &[Vec<Stored>]) -> Result<Vec<Vec<ValueId>>, Problem> {
    let mut made = vec![Vec::new(); ways.len()];
    for index in 0..ways.first().map_or(0, Vec::len) {
        for (way, made) in ways.iter().zip(&mut made) {
            made.push(aten.parameter(call, way[index], Role::Weight)?);
        }
    }
    Ok(made)
}

/// An executor of LSTMs wants weights that it knows: they become parameters of their own, of the rows of the file's tensors.
fn lstm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let mut starts = Vec::new();
    for value in call.list("hx").unwrap_or_default() {
        starts.push(aten.element(call, value, "hx", |x| x)?);
    }
    if starts.len() != 2 {
        return Err(call.damage(&format!("it starts from {} states, not two", starts.len())));
    }
    let layers = Layers::of(aten, call, &starts)?;
    let direction = layers.direction;
    let mut number = 0;
    let results = layers.run(aten, call, |aten, x, ways| {
        let [weight, recurrence, bias] = stacked_operands(aten, call, ways, number)?;
        number += 1;
        let op = Op::Recurrent(Recurrent::Lstm(direction));
        cell(aten, call, op, direction, &[x, weight, recurrence, bias])
    })?;
    // The graph's LSTM does not give the last cell.
    Ok(Value::List(results.into_iter().chain([Value::Unknown]).collect()))
}

/// Weight, recurrence and bias of layer `number` of an LSTM.
fn stacked_operands(
    aten: &mut Aten,
    call: &Bound<'_>,
    ways: &[Vec<Stored>],
    number: usize,
) -> Result<[ValueId; 3], Problem> {
    let [weight, recurrence] = [0, 1].map(|index| call.call.shape_of(ways[0][index]));
    let (&[units, features], &[_, hidden]) = (&weight?[..], &recurrence?[..]) else {
        return Err(call.damage("its weights have not two axes"));
    };
    if hidden == 0 || hidden.checked_mul(4) != Some(units) {
        return Err(call.damage(&format!("{units} rows are not four gates of {hidden}")));
    }
    let shapes = [vec![units, features], vec![units, hidden], vec![units], vec![units]];
    // PyTorch's gates i, f, g, o in ONNX's order i, o, f, c.
    let gates = [0, 3, 1, 2].map(|gate| gate * hidden..(gate + 1) * hidden);
    let (mut weight, mut recurrence, mut bias) = (Vec::new(), Vec::new(), Vec::new());
    for way in ways {
        for (&stored, shape) in way.iter().zip(&shapes) {
            if call.call.shape_of(stored)? != *shape {
                return Err(call.damage(&format!("one of its weights is not {shape:?}")));
            }
        }
        let rows = |stored: &Stored| gates.clone().map(|gate| (*stored, gate));
        weight.extend(rows(&way[0]));
        recurrence.extend(rows(&way[1]));
        bias.extend(way[2..].iter().flat_map(rows));
    }
    let first = call.call.tensors.key(ways[0][0]);
    let module = first.rsplit_once('.').map_or(String::new(), |(module, _)| format!("{module}."));
    let count = ways.len();
    let mut stack = |name: &str, rows: Vec<(Stored, Range<usize>)>, shape: &[usize]| {
        aten.stack(call, &format!("{module}{name}_l{number}"), rows, shape)
    };
    let weight = stack("weight", weight, &[count, units, features])?;
    let recurrence = stack("recurrence", recurrence, &[count, units, hidden])?;
    let bias = match bias.is_empty() {
        true => aten.import.constant(call, "bias", Tensor::zeros([count, 2 * units])),
        false => stack("bias", bias, &[count, 2 * units])?,
    };
    Ok([weight, recurrence, bias])
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
