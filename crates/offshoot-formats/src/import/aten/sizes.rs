//! Arithmetic on sizes: integers, floats and lists of them. A size that depends on the batch stays an expression of it; what else does is
//! unknown.

use std::cmp::Ordering;
use std::rc::Rc;

use offshoot_graph::DimOp;

use super::value::Value;

/// The most items of a list that arithmetic makes.
pub(crate) const MAX_LIST: usize = 256;

/// What `name` gives for `arguments`, if it is arithmetic that is known here and they fit it.
pub(crate) fn compute(name: &str, arguments: &[Value]) -> Option<Value> {
    match (name, arguments) {
        ("ops.prim.NumToTensor" | "ops.prim.unchecked_unwrap_optional", [x]) if x.is_scalar() => {
            Some(x.clone())
        }
        ("torch.Int" | "int", [x]) => match x {
            Value::Float(x) => to_int(x.trunc()),
            Value::Bool(b) => Some(Value::Int((*b).into())),
            x => x.is_scalar().then(|| x.clone()),
        },
        ("torch.Float" | "float", [x]) => match x {
            Value::Text(text) => text.parse().ok().map(Value::Float),
            x => unary(x, Value::Float),
        },
        ("torch.Bool" | "bool", [x]) => unary(x, |x| Value::Bool(x != 0.0)),
        ("torch.__is__", [a, b]) => identical(a, b).map(Value::Bool),
        ("torch.__isnot__", [a, b]) => identical(a, b).map(|same| Value::Bool(!same)),
        ("torch.__not__", [x]) => unary(x, |x| Value::Bool(x == 0.0)),
        ("torch.__and__", [a, b]) => logic(a, b, |a, b| a & b),
        ("torch.__or__", [a, b]) => logic(a, b, |a, b| a | b),
        ("torch.eq", [a, b]) => equal(a, b).map(Value::Bool).or(unknown(a, b)),
        ("torch.ne", [a, b]) => equal(a, b).map(|same| Value::Bool(!same)).or(unknown(a, b)),
        ("torch.lt", [a, b]) => compare(a, b, Ordering::is_lt),
        ("torch.le", [a, b]) => compare(a, b, Ordering::is_le),
        ("torch.gt", [a, b]) => compare(a, b, Ordering::is_gt),
        ("torch.ge", [a, b]) => compare(a, b, Ordering::is_ge),
        ("torch.device", [device @ Value::Text(_)]) => Some(device.clone()),
        ("torch.__contains__", [Value::List(items), x]) => contains(items, x),
        ("torch.list", [list @ Value::List(_)]) => Some(list.clone()),
        ("torch.len", [Value::List(items)]) => Some(Value::Int(items.len() as i64)),
        ("torch.add", [Value::List(a), Value::List(b)]) => {
            let all: Rc<[Value]> = a.iter().chain(b.iter()).cloned().collect();
            (all.len() <= MAX_LIST).then_some(Value::List(all))
        }
        ("torch.add", [a, b] | [a, b, Value::Int(1)]) => {
            arithmetic(a, b, DimOp::Add, i64::checked_add, |a, b| a + b)
        }
        ("torch.sub", [a, b] | [a, b, Value::Int(1)]) => {
            arithmetic(a, b, DimOp::Sub, i64::checked_sub, |a, b| a - b)
        }
        ("torch.mul", [a, b]) => arithmetic(a, b, DimOp::Mul, i64::checked_mul, |a, b| a * b),
        ("torch.div", [_, Value::Int(0)] | [_, Value::Float(0.0)]) => None,
        ("torch.div", [a, b]) => binary(a, b, |a, b| Value::Float(a / b)),
        ("torch.floordiv" | "torch.floor_divide", [a, b]) => floor_divide(a, b),
        ("torch.remainder", [Value::Int(a), Value::Int(b)]) => {
            let rest = a.checked_rem_euclid(*b)?;
            Some(Value::Int(if *b < 0 && rest != 0 { rest + b } else { rest }))
        }
        ("torch.neg", [Value::Int(a)]) => a.checked_neg().map(Value::Int),
        ("torch.neg", [Value::Float(a)]) => Some(Value::Float(-a)),
        ("torch.ceil" | "torch.floor", [x @ Value::Int(_)]) => Some(x.clone()),
        ("torch.ceil", [x]) => unary(x, |x| Value::Float(x.ceil())),
        ("torch.floor", [x]) => unary(x, |x| Value::Float(x.floor())),
        ("ops.prim.max" | "torch.max", [a, b]) => pick(a, b, Ordering::is_ge),
        ("ops.prim.min" | "torch.min", [a, b]) => pick(a, b, Ordering::is_le),
        ("torch.clamp", [x, rest @ ..]) if rest.len() <= 2 => {
            let least = rest.first().filter(|b| **b != Value::None);
            let x = least.map_or(Some(x.clone()), |bound| pick(x, bound, Ordering::is_ge))?;
            let most = rest.get(1).filter(|b| **b != Value::None);
            most.map_or(Some(x.clone()), |bound| pick(&x, bound, Ordering::is_le))
        }
        ("torch.slice", [Value::List(items), rest @ ..]) => slice(items, rest),
        ("torch.__getitem__", [Value::List(items), Value::Int(at)]) => item(items, *at),
        ("torch.format" | "torch.str", _) => Some(Value::Text("".into())),
        _ => None,
    }
}

/// The item at `at`, counted from the end when negative.
pub(crate) fn item(items: &[Value], at: i64) -> Option<Value> {
    let at = if at < 0 { at.checked_add(items.len() as i64)? } else { at };
    items.get(usize::try_from(at).ok()?).cloned()
}

fn to_int(x: f64) -> Option<Value> {
    Value::Float(x).int().map(Value::Int)
}

fn unary(x: &Value, f: impl Fn(f64) -> Value) -> Option<Value> {
    match x.number() {
        Some(x) => Some(f(x)),
        None => x.is_scalar().then_some(Value::Unknown),
    }
}

fn unknown(a: &Value, b: &Value) -> Option<Value> {
    (a.is_scalar() && b.is_scalar()).then_some(Value::Unknown)
}

fn binary(a: &Value, b: &Value, f: impl Fn(f64, f64) -> Value) -> Option<Value> {
    match (a.number(), b.number()) {
        (Some(a), Some(b)) => Some(f(a, b)),
        _ => unknown(a, b),
    }
}

fn arithmetic(
    a: &Value,
    b: &Value,
    op: DimOp,
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
) -> Option<Value> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => ints(*a, *b).map(Value::Int),
        (Value::Size(_), _) | (_, Value::Size(_)) => combined(a, b, op),
        _ => binary(a, b, |a, b| Value::Float(floats(a, b))),
    }
}

/// Two sizes as one, where they are such.
fn combined(a: &Value, b: &Value, op: DimOp) -> Option<Value> {
    match a.size().combine(op, &b.size()).dim() {
        Some(dim) => Some(Value::of_dim(&dim)),
        None => unknown(a, b),
    }
}

fn floor_divide(a: &Value, b: &Value) -> Option<Value> {
    match (a, b) {
        (_, Value::Int(0)) => None,
        (Value::Int(a), Value::Int(b)) => {
            let quotient = a.checked_div(*b)?;
            let down = a % b != 0 && (*a < 0) != (*b < 0);
            Some(Value::Int(quotient - i64::from(down)))
        }
        (Value::Size(_), _) | (_, Value::Size(_)) => combined(a, b, DimOp::Div),
        _ => binary(a, b, |a, b| Value::Float((a / b).floor())),
    }
}

fn compare(a: &Value, b: &Value, holds: fn(Ordering) -> bool) -> Option<Value> {
    match (a.number(), b.number()) {
        (Some(a), Some(b)) => Some(Value::Bool(a.partial_cmp(&b).is_some_and(holds))),
        _ => unknown(a, b),
    }
}

/// `a` when it stands to `b` as `holds` says, else `b`.
fn pick(a: &Value, b: &Value, holds: fn(Ordering) -> bool) -> Option<Value> {
    match compare(a, b, holds)? {
        Value::Bool(true) => Some(a.clone()),
        Value::Bool(false) => Some(b.clone()),
        other => Some(other),
    }
}

fn logic(a: &Value, b: &Value, f: fn(bool, bool) -> bool) -> Option<Value> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(Value::Bool(f(*a, *b))),
        _ => unknown(a, b),
    }
}

/// Whether two values are the same, when that is known.
fn equal(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::List(a), Value::List(b)) if a.len() != b.len() => Some(false),
        (Value::List(a), Value::List(b)) => {
            let mut all = true;
            for (a, b) in a.iter().zip(b.iter()) {
                all &= same(a, b)?;
            }
            Some(all)
        }
        _ => same(a, b),
    }
}

/// The same of what is no list.
fn same(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a == b),
        (Value::Size(a), Value::Size(b)) if a == b => Some(true),
        _ => Some(a.number()? == b.number()?),
    }
}

/// Whether one of `items` is `x`.
fn contains(items: &[Value], x: &Value) -> Option<Value> {
    let found: Vec<Option<bool>> = items.iter().map(|item| same(item, x)).collect();
    match found.contains(&Some(true)) {
        true => Some(Value::Bool(true)),
        false => found.into_iter().collect::<Option<Vec<bool>>>().map(|_| Value::Bool(false)),
    }
}

/// Whether both are None, or one is and the other surely is not.
fn identical(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::None, Value::None) => Some(true),
        (Value::None, other) | (other, Value::None) if *other != Value::Unknown => Some(false),
        (Value::Bool(a), Value::Bool(b)) => Some(a == b),
        _ => None,
    }
}

/// `list[start:end:step]` with a step of one.
fn slice(items: &[Value], bounds: &[Value]) -> Option<Value> {
    let len = items.len() as i64;
    let place = |index: usize, default: i64| match bounds.get(index) {
        None | Some(Value::None) => Some(default),
        Some(value) => {
            let at = value.int()?;
            Some(if at < 0 { at.saturating_add(len) } else { at }.clamp(0, len))
        }
    };
    let (start, end) = (place(0, 0)?, place(1, len)?);
    if !matches!(bounds.get(2), None | Some(Value::None | Value::Int(1))) {
        return None;
    }
    Some(Value::List(items.get(start as usize..end.max(start) as usize)?.into()))
}

#[cfg(test)]
mod tests;
