//! The calls of a pickle that have a meaning here. There is no way to make any other: see [`call`].

use std::rc::Rc;

use super::values::{
    ElementType, Heap, Node, QuantizedView, Quantizer, Storage, StorageView, TensorView, Value,
};
use crate::elements::Stored;

/// Why a call or a persistent id has no value.
pub(super) enum Fault {
    /// Not a call that weights need; its name.
    Forbidden(String),
    /// Its arguments make no sense.
    Damaged(String),
}

/// The most axes of a tensor; PyTorch's own limit.
const MAX_RANK: usize = 64;

/// The longest key of a storage; PyTorch writes a number.
const MAX_KEY: usize = 256;

/// Calls that make plain values beside the weights (hyper-parameters, counters, paths). Their results are
/// placeholders: the arguments are dropped and only the name is kept.
const PLACEHOLDERS: &[&str] = &[
    "__builtin__.bytearray",
    "__builtin__.complex",
    "__builtin__.frozenset",
    "__builtin__.list",
    "__builtin__.object",
    "__builtin__.set",
    "__builtin__.slice",
    "__builtin__.tuple",
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.tuple",
    "collections.Counter",
    "collections.deque",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.PurePosixPath",
    "pathlib._local.WindowsPath",
    "torch.device",
    "torch.serialization._get_layout",
    "types.SimpleNamespace",
    "uuid.UUID",
];

/// The value of the call `name(*args)`, and how many values it copied.
pub(super) fn call(heap: &mut Heap, name: &Rc<str>, args: Value) -> Result<(Value, u64), Fault> {
    // A tensor subclass is saved as a call of the function that makes the plain tensor.
    if &**name == "torch._tensor._rebuild_from_type_v2" {
        let (inner, inner_args) = match tuple(heap, &args, name)? {
            [Value::Global(inner), _, inner_args, ..] => (inner.clone(), inner_args.clone()),
            _ => return Err(odd(name)),
        };
        return plain_call(heap, inner, inner_args);
    }
    plain_call(heap, name.clone(), args)
}

fn plain_call(heap: &mut Heap, name: Rc<str>, args: Value) -> Result<(Value, u64), Fault> {
    match &*name {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
            let tensor = tensor(heap, tuple(heap, &args, &name)?, None).ok_or_else(|| odd(&name))?;
            Ok((heap.add(Node::Tensor(tensor)), 0))
        }
        "torch._utils._rebuild_tensor_v3" => {
            let fields = tuple(heap, &args, &name)?;
            let stored = match fields.get(6) {
                Some(Value::Global(dtype)) => element_type(dtype),
                _ => return Err(odd(&name)),
            };
            let tensor = tensor(heap, fields, Some(stored)).ok_or_else(|| odd(&name))?;
            Ok((heap.add(Node::Tensor(tensor)), 0))
        }
        "torch._utils._rebuild_qtensor" => {
            let tensor = quantized(heap, tuple(heap, &args, &name)?).ok_or_else(|| odd(&name))?;
            Ok((heap.add(Node::Quantized(Box::new(tensor))), 0))
        }
        "torch._utils._rebuild_parameter"
        | "torch._utils._rebuild_parameter_with_state"
        | "torch.Size"
        | "torch.jit._pickle.build_boollist"
        | "torch.jit._pickle.build_doublelist"
        | "torch.jit._pickle.build_intlist"
        | "torch.jit._pickle.build_tensorlist"
        | "torch.jit._pickle.restore_type_tag" => match tuple(heap, &args, &name)? {
            [first, ..] => Ok((first.clone(), 0)),
            [] => Err(odd(&name)),
        },
        "collections.OrderedDict" | "builtins.dict" | "__builtin__.dict" => dict(heap, &args, &name),
        "collections.defaultdict" => Ok((heap.add(Node::Dict(vec![])), 0)),
        _ if PLACEHOLDERS.binary_search(&&*name).is_ok() => {
            Ok((heap.add(Node::Object { class: name, state: None }), 0))
        }
        _ => Err(Fault::Forbidden(name.to_string())),
    }
}

fn odd(name: &str) -> Fault {
    Fault::Damaged(format!("`{name}` with arguments that PyTorch does not write"))
}

fn tuple<'a>(heap: &'a Heap, args: &Value, name: &str) -> Result<&'a [Value], Fault> {
    heap.tuple(args).ok_or_else(|| odd(name))
}

/// `OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it.
fn dict(heap: &mut Heap, args: &Value, name: &str) -> Result<(Value, u64), Fault> {
    let pairs = match tuple(heap, args, name)? {
        [] => &[],
        [list] => match heap.node(list) {
            Some(Node::List(items) | Node::Tuple(items)) => items.as_slice(),
            _ => return Err(odd(name)),
        },
        _ => return Err(odd(name)),
    };
    let entry = |pair| match heap.node(pair) {
        Some(Node::List(items) | Node::Tuple(items)) => match items.as_slice() {
            [key, value] => Some((key.clone(), value.clone())),
            _ => None,
        },
        _ => None,
    };
    let entries = pairs.iter().map(entry).collect::<Option<Vec<_>>>().ok_or_else(|| odd(name))?;
    let copied = entries.len() as u64;
    Ok((heap.add(Node::Dict(entries)), copied))
}

/// `(storage, offset, shape, strides, ...)`.
fn tensor(heap: &Heap, fields: &[Value], stored: Option<ElementType>) -> Option<TensorView> {
    let [storage, offset, shape, strides, ..] = fields else { return None };
    let Some(Node::Storage(storage)) = heap.node(storage) else { return None };
    Some(TensorView {
        stored: stored.or_else(|| storage.stored.clone())?,
        storage: storage.clone(),
        offset: natural(offset)?,
        shape: naturals(heap, shape)?,
        strides: naturals(heap, strides)?,
    })
}

/// `(storage, offset, shape, strides, quantizer, ...)`, where the quantizer is `(per_tensor_affine, scale, zero_point)` or
/// `(per_channel_affine, scales, zero_points, axis)`.
fn quantized(heap: &Heap, fields: &[Value]) -> Option<QuantizedView> {
    let integers = tensor(heap, fields, None)?;
    let view = |value: &Value| match heap.node(value)? {
        Node::Tensor(view) => Some(view.clone()),
        _ => None,
    };
    let quantizer = match heap.tuple(fields.get(4)?)? {
        [Value::Global(scheme), Value::Float(scale), Value::Int(zero_point)]
            if &**scheme == "torch.per_tensor_affine" =>
        {
            Quantizer::Tensor { scale: *scale, zero_point: *zero_point }
        }
        [Value::Global(scheme), scales, zero_points, axis]
            if matches!(&**scheme, "torch.per_channel_affine" | "torch.per_channel_affine_float_qparams") =>
        {
            Quantizer::Axis {
                scales: Box::new(view(scales)?),
                zero_points: Box::new(view(zero_points)?),
                axis: natural(axis)?,
            }
        }
        _ => return None,
    };
    Some(QuantizedView { integers, quantizer })
}

fn natural(value: &Value) -> Option<u64> {
    match value {
        Value::Int(i) => u64::try_from(*i).ok(),
        _ => None,
    }
}

/// Shape or strides. A pickle can refer to one long tuple again and again: the limit keeps the copies small.
fn naturals(heap: &Heap, value: &Value) -> Option<Vec<u64>> {
    heap.tuple(value).filter(|items| items.len() <= MAX_RANK)?.iter().map(natural).collect()
}

/// What a persistent id stands for: `('storage', class, key, device, elements[, view])`, or in the legacy layout
/// `('module', class, source file, source)`, which is the class.
pub(super) fn persistent(heap: &mut Heap, id: &Value) -> Result<Value, Fault> {
    let fault = || Fault::Damaged("a persistent id that PyTorch does not write".into());
    let fields = heap.tuple(id).ok_or_else(fault)?;
    match fields {
        [Value::Text(tag), Value::Global(class), ..] if &**tag == "module" => {
            Ok(Value::Global(class.clone()))
        }
        [Value::Text(tag), Value::Global(class), key, _, len, view @ ..] if &**tag == "storage" => {
            let len = natural(len).ok_or_else(fault)?;
            let (offset, reach) = match view.first() {
                None | Some(Value::None) => (0, len),
                Some(view) => part(heap, view, len).ok_or_else(fault)?,
            };
            let key = match key {
                Value::Text(key) if key.len() <= MAX_KEY => key.to_string(),
                Value::Int(key) => key.to_string(),
                _ => return Err(fault()),
            };
            let stored = storage_type(class);
            let storage = declare(heap, key, len, stored.as_ref())?;
            Ok(heap.add(Node::Storage(StorageView { storage, stored, offset, len: reach })))
        }
        _ => Err(fault()),
    }
}

/// The offset and length of `(key, offset, length)`, which lies within `len` elements.
fn part(heap: &Heap, view: &Value, len: u64) -> Option<(u64, u64)> {
    let [_, offset, part] = heap.tuple(view)? else { return None };
    let (offset, part) = (natural(offset)?, natural(part)?);
    (offset.checked_add(part)? <= len).then_some((offset, part))
}

/// Enters the storage `key` of `len` elements, or finds it: two tensors that share one must agree on its size.
fn declare(heap: &mut Heap, key: String, len: u64, stored: Option<&ElementType>) -> Result<usize, Fault> {
    let width = match stored {
        Some(Ok(stored)) => stored.size() as u64,
        Some(Err(name)) => unread_width(name),
        None => 1,
    };
    let bytes = len
        .checked_mul(width)
        .ok_or_else(|| Fault::Damaged(format!("storage `{key}` claims {len} elements of {width} bytes")))?;
    match heap.storage_index.get(&key) {
        Some(&at) if heap.storages[at].bytes == bytes => Ok(at),
        Some(_) => Err(Fault::Damaged(format!("storage `{key}` is declared with two sizes"))),
        None => {
            let at = heap.storages.len();
            heap.storage_index.insert(key.clone(), at);
            heap.storages.push(Storage { key, bytes, width });
            Ok(at)
        }
    }
}

/// The element type of a storage class; `None` for the untyped one.
fn storage_type(class: &str) -> Option<ElementType> {
    let name = class.rsplit('.').next().unwrap_or(class);
    Some(Ok(match name {
        "UntypedStorage" => return None,
        "FloatStorage" => Stored::F32,
        "DoubleStorage" => Stored::F64,
        "HalfStorage" => Stored::F16,
        "BFloat16Storage" => Stored::BF16,
        "LongStorage" => Stored::I64,
        "IntStorage" => Stored::I32,
        "ShortStorage" => Stored::I16,
        "CharStorage" => Stored::I8,
        "ByteStorage" => Stored::U8,
        "BoolStorage" => Stored::Bool,
        "QInt8Storage" => Stored::I8,
        "QUInt8Storage" => Stored::U8,
        "QInt32Storage" => Stored::I32,
        _ => return Some(Err(class.into())),
    }))
}

/// Bytes an element takes in the storage classes that are not read, so that those after them are still found.
fn unread_width(class: &str) -> u64 {
    match class.rsplit('.').next().unwrap_or(class) {
        "ComplexDoubleStorage" => 16,
        "ComplexFloatStorage" => 8,
        _ => 1,
    }
}

/// The element type `torch.float32` and its like.
fn element_type(dtype: &Rc<str>) -> ElementType {
    match dtype.strip_prefix("torch.").unwrap_or(dtype) {
        "float32" | "float" => Ok(Stored::F32),
        "float64" | "double" => Ok(Stored::F64),
        "float16" | "half" => Ok(Stored::F16),
        "bfloat16" => Ok(Stored::BF16),
        "int64" | "long" => Ok(Stored::I64),
        "int32" | "int" => Ok(Stored::I32),
        "int16" | "short" => Ok(Stored::I16),
        "int8" => Ok(Stored::I8),
        "uint8" => Ok(Stored::U8),
        "uint16" => Ok(Stored::U16),
        "uint32" => Ok(Stored::U32),
        "bool" => Ok(Stored::Bool),
        _ => Err(dtype.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::PLACEHOLDERS;

    #[test]
    fn placeholders_are_sorted_for_the_search() {
        assert!(PLACEHOLDERS.is_sorted());
    }
}
