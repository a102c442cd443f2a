//! Operators that move elements or change nothing: shapes, orders, parts, types.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Bindings, Dim, DimOp, Op, Shape, ValueId};

use super::call::{Bound, known_size, sizes};
use super::state::Aten;
use super::table::Rows;
use super::value::{Stored, Value};
use crate::error::Problem;
use crate::import::{Number, Site, Target};

pub(super) const ROWS: Rows = &[
    ("size(Tensor self)", size),
    ("size.int(Tensor self, int dim)", size),
    ("sym_size.int(Tensor self, int dim)", size),
    ("dim(Tensor self)", |a, c| Ok(Value::Int(a.shape_of(c, "self")?.rank() as i64))),
    ("t(Tensor self)", |a, c| transposed(a, c, 0, 1)),
    ("contiguous(Tensor self, *, MemoryFormat memory_format=contiguous_format)", same),
    ("detach(Tensor self)", same),
    ("lift_fresh_copy(Tensor self)", same),
    ("as_strided(Tensor self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None)", strided),
    ("alias(Tensor self)", same),
    ("clone(Tensor self, *, MemoryFormat? memory_format=None)", |a, c| {
        let x = a.tensor(c, "self")?;
        Ok(a.define(x))
    }),
    (
        "to.dtype(Tensor self, ScalarType dtype, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None)",
        to,
    ),
    (
        "to.device(Tensor self, Device device, ScalarType dtype, bool non_blocking=False, bool copy=False, \
         MemoryFormat? memory_format=None)",
        to,
    ),
    (
        "to.other(Tensor self, Tensor other, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None)",
        same,
    ),
    (
        "_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, bool non_blocking=False, MemoryFormat? memory_format=None)",
        to,
    ),
    ("type_as(Tensor self, Tensor other)", same),
    ("dropout(Tensor input, float p, bool train)", dropout),
    ("feature_dropout(Tensor input, float p, bool train)", dropout),
    ("alpha_dropout(Tensor input, float p, bool train)", dropout),
    ("flatten.using_ints(Tensor self, int start_dim=0, int end_dim=-1)", flatten),
    ("unflatten.int(Tensor self, int dim, SymInt[] sizes)", unflatten),
    ("permute(Tensor self, int[] dims)", permute),
    ("transpose.int(Tensor self, int dim0, int dim1)", |a, c| {
        transposed(a, c, c.int("dim0")?, c.int("dim1")?)
    }),
    ("swapaxes(Tensor self, int dim0, int dim1)", |a, c| transposed(a, c, c.int("dim0")?, c.int("dim1")?)),
    ("cat(Tensor[] tensors, int dim=0)", concat),
    ("concat(Tensor[] tensors, int dim=0)", concat),
    ("stack(Tensor[] tensors, int dim=0)", stack),
    ("slice.Tensor(Tensor self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1)", slice),
    ("select.int(Tensor self, int dim, SymInt index)", select),
    ("narrow(Tensor self, int dim, SymInt start, SymInt length)", narrow),
    ("split.Tensor(Tensor self, SymInt split_size, int dim=0)", split),
    ("split.sizes(Tensor self, SymInt[] split_size, int dim=0)", split),
    ("split_with_sizes(Tensor self, SymInt[] split_sizes, int dim=0)", split),
    ("chunk(Tensor self, int chunks, int dim=0)", chunk),
    ("unbind.int(Tensor self, int dim=0)", unbind),
    ("squeeze.dim(Tensor self, int dim)", squeeze),
    ("squeeze.dims(Tensor self, int[] dim)", squeeze),
    ("squeeze(Tensor self)", squeeze),
    ("unsqueeze(Tensor self, int dim)", |a, c| {
        let x = a.tensor(c, "self")?;
        let id = a.import.unsqueeze(c, x, &[c.int("dim")?])?;
        Ok(a.view(c, id))
    }),
    ("expand(Tensor self, SymInt[] size, *, bool implicit=False)", expand),
    ("view(Tensor self, SymInt[] size)", |a, c| reshape(a, c, "size")),
    ("reshape(Tensor self, SymInt[] shape)", |a, c| reshape(a, c, "shape")),
    ("_unsafe_view(Tensor self, SymInt[] size)", |a, c| reshape(a, c, "size")),
];

fn size(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let shape = aten.shape_of(call, "self")?;
    match call.get("dim") {
        None => Ok(sizes(&shape)),
        Some(_) => Ok(Value::of_dim(&shape.0[call.axis("dim", shape.rank())?])),
    }
}

/// The same tensor.
fn same(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if let Some(stored @ Value::Stored(_)) = call.get("self") {
        return Ok(stored.clone());
    }
    aten.windows(call, "self")?;
    Ok(call.required("self")?.clone())
}

/// The same elements in the order in which they are: what a decomposed program asks of a mean of pixels.
fn strided(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let shape = aten.shape_of(call, "self")?;
    let sizes = Value::List(call.list("size").unwrap_or_default().into());
    let strides = call.ints("stride")?.unwrap_or_default();
    let mut expected = 1i64;
    let mut in_order = strides.len() == shape.rank() && call.get("storage_offset").is_none();
    for (dim, stride) in shape.0.iter().zip(&strides).rev() {
        in_order &= *dim == Dim::Fixed(1) || *stride == expected;
        expected = expected.saturating_mul(dim.fixed().map_or(1, |n| n as i64));
    }
    match in_order && self::sizes(&shape) == sizes {
        true => same(aten, call),
        false => Err(call.refused("only strides that change nothing are read")),
    }
}

/// Another element type: of floats, as all is computed in f32.
fn to(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.get("device").is_none() || call.get("dtype").is_some() {
        let truths = match call.get("self") {
            Some(Value::Tensor(_)) => {
                let x = aten.tensor(call, "self")?;
                aten.import.is_truth(x)
            }
            _ => false,
        };
        if !truths {
            call.check_floats("dtype")?;
        }
    }
    same(aten, call)
}

/// Dropout outside of training is nothing.
fn dropout(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.flag("train")? {
        return Err(call.call.in_training_mode());
    }
    let ratio = call.number("p")? as f32;
    if !(0.0..1.0).contains(&ratio) || call.call.operator.starts_with(['f', 'a']) {
        aten.windows(call, "input")?;
        return Ok(call.required("input")?.clone());
    }
    let x = aten.tensor(call, "input")?;
    let id = aten.import.push(call, Op::Dropout { ratio }, &[x])?;
    Ok(aten.view(call, id))
}

fn flatten(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let rank = aten.import.rank(x);
    let (start, end) = (call.axis("start_dim", rank)?, call.axis("end_dim", rank)?);
    let id = aten.import.flatten(call, x, start, end)?;
    Ok(aten.view(call, id))
}

fn unflatten(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let dims = aten.import.shape(x).0.clone();
    let axis = call.axis("dim", dims.len())?;
    let of = |dim: &Dim| Target::Size(Number::of(dim.clone()));
    let mut target: Vec<Target> = dims[..axis].iter().map(of).collect();
    target.extend(call.list("sizes").unwrap_or_default().iter().map(target_of));
    target.extend(dims[axis + 1..].iter().map(of));
    let id = aten.import.reshape(call, x, target).map_err(|(problem, _)| problem)?;
    Ok(aten.view(call, id))
}

fn permute(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let axes = call.ints("dims")?.unwrap_or_default();
    if let ([1 | -1, 0 | -2], Some(Value::Stored(Stored { constant: false, .. }))) =
        (&axes[..], call.get("self"))
    {
        return transposed(aten, call, 0, 1);
    }
    let x = aten.tensor(call, "self")?;
    let rank = aten.import.rank(x);
    let perm = axes.iter().map(|&axis| call.axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let id = aten.import.transpose(call, x, perm)?;
    Ok(aten.view(call, id))
}

/// Two axes exchanged: of a stored matrix, or of a value.
fn transposed(aten: &mut Aten, call: &Bound<'_>, a: i64, b: i64) -> Result<Value, Problem> {
    let rank = aten.shape_of(call, "self")?.rank();
    if call.signature.name == "t" && rank != 2 {
        return Err(call.refused("only matrices are transposed"));
    }
    let (a, b) = (call.axis_of(a, rank)?, call.axis_of(b, rank)?);
    if let Some(&Value::Stored(stored)) = call.get("self") {
        if rank != 2 {
            return Err(call.refused("of what is stored only matrices are transposed"));
        }
        return Ok(Value::Stored(Stored { transposed: stored.transposed != (a != b), ..stored }));
    }
    let x = aten.tensor(call, "self")?;
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(a, b);
    let id = aten.import.transpose(call, x, perm)?;
    Ok(aten.view(call, id))
}

fn concat(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let mut inputs = Vec::new();
    for item in call.list("tensors").unwrap_or_default() {
        inputs.push(aten.element(call, item, "list", |x| x)?);
    }
    let first = *inputs.first().ok_or_else(|| call.damage("its list is empty"))?;
    let axis = call.axis("dim", aten.import.rank(first))?;
    if axis > 0 {
        one_for_each_picture(aten, call, &mut inputs)?;
    }
    let id = aten.import.push(call, Op::Shape(ShapeOp::Concat { axis }), &inputs)?;
    Ok(aten.define(id))
}

/// In a program for one picture, what is beside values of that picture has one place where they have the batch.
fn one_for_each_picture(aten: &mut Aten, call: &Bound<'_>, inputs: &mut [ValueId]) -> Result<(), Problem> {
    let first = |aten: &Aten, id: ValueId| aten.import.shape(id).0.first().cloned();
    let batch = Some(aten.import.batch.clone());
    if aten.import.fixed_batch != Some(1) || inputs.iter().all(|&id| first(aten, id) != batch) {
        return Ok(());
    }
    for id in inputs {
        if first(aten, *id) != Some(Dim::Fixed(1)) {
            continue;
        }
        let mut sizes: Vec<Number> = aten.import.shape(*id).0.iter().cloned().map(Number::of).collect();
        sizes[0] = Number::of(aten.import.batch.clone());
        *id = aten.import.expand(call, *id, &sizes)?;
    }
    Ok(())
}

fn stack(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let mut inputs = Vec::new();
    for item in call.list("tensors").unwrap_or_default() {
        let x = aten.element(call, item, "list", |x| x)?;
        inputs.push(aten.import.unsqueeze(call, x, &[call.int("dim")?])?);
    }
    let first = *inputs.first().ok_or_else(|| call.damage("its list is empty"))?;
    let axis = call.axis("dim", aten.import.rank(first))?;
    let id = aten.import.push(call, Op::Shape(ShapeOp::Concat { axis }), &inputs)?;
    Ok(aten.define(id))
}

/// Neighbours along an axis.
fn slice(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    if call.int("step")? != 1 {
        return Err(call.refused("only steps of one are read"));
    }
    let start = if call.get("start").is_some() { call.int("start")? } else { 0 };
    let dim = Value::of_dim(&aten.import.shape(x).0[axis]);
    if start == 0 && call.get("end").is_none_or(|end| *end == dim || *end == Value::Int(i64::MAX)) {
        return Ok(call.required("self")?.clone());
    }
    let end = if call.get("end").is_some() { call.int("end")? } else { i64::MAX };
    let id = aten.import.slice(call, x, axis, [start, end])?;
    Ok(aten.view(call, id))
}

/// One place of an axis, without the axis.
fn select(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let id = aten.import.pick(call, x, axis, call.int("index")?, false)?;
    Ok(aten.view(call, id))
}

fn narrow(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let start = call.int("start")?;
    let id = aten.import.slice(call, x, axis, [start, start.saturating_add(call.int("length")?)])?;
    Ok(aten.view(call, id))
}

/// Parts of the given sizes, as a list.
fn parts(aten: &mut Aten, call: &Bound<'_>, axis: usize, sizes: Vec<usize>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let parts = aten.import.split(call, x, axis, sizes)?;
    let parts: Vec<Value> = parts.into_iter().map(|id| aten.view(call, id)).collect();
    Ok(Value::List(parts.into()))
}

fn split(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let name = if call.get("split_sizes").is_some() { "split_sizes" } else { "split_size" };
    if let Some(Value::List(_)) = call.get(name) {
        let sizes = call.ints(name)?.unwrap_or_default();
        let sizes: Option<Vec<usize>> = sizes.iter().map(|&n| usize::try_from(n).ok()).collect();
        let sizes = sizes.ok_or_else(|| call.damage("one of its sizes is below 0"))?;
        return parts(aten, call, axis, sizes);
    }
    let whole = known_size(call, &aten.import.shape(x).0[axis])?;
    let size = usize::try_from(call.int(name)?).ok().filter(|&size| size > 0);
    let size = size.ok_or_else(|| call.damage("its size is not above 0"))?;
    equal_parts(aten, call, axis, whole, size)
}

/// As many parts as there are, of which the last may be smaller.
fn chunk(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let whole = known_size(call, &aten.import.shape(x).0[axis])?;
    let count = usize::try_from(call.int("chunks")?).ok().filter(|&count| count > 0);
    let count = count.ok_or_else(|| call.damage("its number of parts is not above 0"))?;
    equal_parts(aten, call, axis, whole, whole.div_ceil(count))
}

/// The most parts that an axis is split into.
const MAX_PARTS: usize = 256;

fn equal_parts(
    aten: &mut Aten,
    call: &Bound<'_>,
    axis: usize,
    whole: usize,
    size: usize,
) -> Result<Value, Problem> {
    if whole.div_ceil(size.max(1)) > MAX_PARTS {
        return Err(call.refused(&format!("an axis is split into at most {MAX_PARTS} parts")));
    }
    let sizes: Vec<usize> = (0..whole).step_by(size.max(1)).map(|start| size.min(whole - start)).collect();
    parts(aten, call, axis, sizes)
}

fn unbind(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let axis = call.axis("dim", aten.import.rank(x))?;
    let whole = known_size(call, &aten.import.shape(x).0[axis])?;
    if whole > MAX_PARTS {
        return Err(call.refused(&format!("an axis is split into at most {MAX_PARTS} parts")));
    }
    let mut parts = Vec::new();
    for index in 0..whole {
        let id = aten.import.pick(call, x, axis, index as i64, false)?;
        parts.push(aten.view(call, id));
    }
    Ok(Value::List(parts.into()))
}

/// Removes the named axes of one place; of an axis with more, as in PyTorch, nothing.
fn squeeze(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let mut dims = aten.import.shape(x).0.clone();
    let mut axes = call.axes("dim", dims.len())?.unwrap_or_default();
    axes.sort_unstable();
    if axes.is_empty() || axes.iter().any(|&axis| dims[axis].fixed().is_none()) {
        return Err(call.refused("it would remove the batch where that is one picture"));
    }
    for axis in axes.into_iter().rev() {
        if dims[axis] == Dim::Fixed(1) {
            dims.remove(axis);
        }
    }
    let id = aten.import.reshape_to(call, x, Shape(dims))?;
    Ok(aten.view(call, id))
}

fn expand(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.any(call, "self")?;
    let sizes: Vec<Number> = call.list("size").unwrap_or_default().iter().map(Value::size).collect();
    let id = aten.import.expand(call, x, &sizes)?;
    Ok(aten.view(call, id))
}

fn target_of(size: &Value) -> Target {
    match size.size() {
        Number::Known(-1.0) => Target::Rest,
        number => Target::Size(number),
    }
}

/// A reshape to sizes that are known but for the batch and one that follows from the others.
fn reshape(aten: &mut Aten, call: &Bound<'_>, name: &str) -> Result<Value, Problem> {
    let x = aten.any(call, "self")?;
    let sizes = call.list(name).unwrap_or_default();
    let problem = match aten.import.reshape(call, x, sizes.iter().map(target_of).collect()) {
        Ok(id) => return Ok(aten.view(call, id)),
        Err((problem, _)) => problem,
    };
    let Some(shape) = for_each_picture(aten, x, sizes) else { return Err(problem) };
    aten.of_one_picture = true;
    let id = aten.import.reshape_to(call, x, shape)?;
    Ok(aten.view(call, id))
}

/// The shape that a program for one picture means by `sizes`, for a batch of them: where `x` has the batch, which is before
/// what is inside of it. It goes to an axis of one place there, else to the axis that begins there, as that of heads or windows; or
/// to the one before where that is the last, as rows have it.
fn for_each_picture(aten: &Aten, x: ValueId, sizes: &[Value]) -> Option<Shape> {
    if aten.import.fixed_batch != Some(1) {
        return None;
    }
    let mut sizes = sizes
        .iter()
        .map(|size| size.int().and_then(|n| usize::try_from(n).ok()))
        .collect::<Option<Vec<_>>>()?;
    let dims = &aten.import.shape(x).0;
    let factors = dims.iter().map(|dim| of_one(aten, dim)).collect::<Option<Vec<usize>>>()?;
    let place = dims.iter().position(|dim| dim.fixed().is_none())?;
    if dims.iter().filter(|dim| dim.fixed().is_none()).count() > 1 || product(&factors)? != product(&sizes)? {
        return None;
    }
    // Before its axis, or at the end of it: an axis that is the batch times a number does not say which.
    let (before, behind) = (product(&factors[..place])?, product(&factors[..=place])?);
    let begins = |at: usize, prefix: usize| product(&sizes[..at]) == Some(prefix);
    let alone = |at: &usize| sizes[*at] == 1 && (begins(*at, before) || begins(*at, behind));
    let mut at = match (0..sizes.len()).find(alone) {
        Some(at) => at,
        None => (0..sizes.len()).find(|&at| begins(at, before))?,
    };
    if at > 0 && at + 1 == sizes.len() && sizes[at] != 1 {
        at -= 1;
    }
    let number = std::mem::replace(&mut sizes[at], 1);
    let mut shape: Vec<Dim> = sizes.into_iter().map(Dim::Fixed).collect();
    shape[at] = aten.import.batch.combine(DimOp::Mul, &Dim::Fixed(number));
    Some(Shape(shape))
}

/// The size of an axis for one picture, which for others is so many times that.
fn of_one(aten: &Aten, dim: &Dim) -> Option<usize> {
    let Dim::Symbol(batch) = &aten.import.batch else { return None };
    let size = |pictures: usize| dim.eval(&Bindings::from([(batch.to_string(), pictures)])).ok();
    let (one, two) = (size(1)?, size(2)?);
    (dim.fixed().is_some() || Some(two) == one.checked_mul(2)).then_some(one)
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}
