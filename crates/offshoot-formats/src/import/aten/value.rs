//! What the arguments of PyTorch's operators are, and the names in a program that calls them.

use std::rc::Rc;

use offshoot_graph::Dim;

use crate::import::Number;

/// A value of the program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Also a tensor of one float: traces compute sizes with them.
    Float(f64),
    Text(Rc<str>),
    /// A size of the input that is not known, or what is computed from one.
    Size(Dim),
    /// Something that depends on what is not known before the run.
    Unknown,
    /// A list or a tuple.
    List(Rc<[Value]>),
    /// A module, by node of the archive's data.
    Module(usize),
    /// A tensor of the file.
    Stored(Stored),
    /// A tensor computed at each run, by cell.
    Tensor(usize),
    /// Something with a full name: an operator, a function, a class.
    Path(Rc<str>),
}

/// A tensor of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    /// Whether it is one of the constants rather than an attribute of a module.
    pub(crate) constant: bool,
    pub(crate) node: usize,
    pub(crate) transposed: bool,
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::Size(Dim::Symbol(_)) => "the batch size",
            Value::Size(_) => "a size computed from the batch",
            Value::Unknown => "something known at the run only",
            Value::List(_) => "a list",
            Value::Module(_) => "a module",
            Value::Stored(_) => "a stored tensor",
            Value::Tensor(_) => "a computed tensor",
            Value::Path(_) => "a function",
        }
    }

    /// The number, when it is a known one.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    /// The integer, also when it is held as a float.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Some(*x as i64),
            _ => None,
        }
    }

    /// The size or number, for arithmetic on sizes.
    pub(crate) fn size(&self) -> Number {
        match self {
            Value::Size(dim) => Number::Size(dim.clone()),
            other => other.int().map_or(Number::Unknown, |n| Number::Known(n as f64)),
        }
    }

    /// A size of a tensor.
    pub(crate) fn of_dim(dim: &Dim) -> Value {
        match Number::of(dim.clone()) {
            Number::Known(n) => Value::Int(n as i64),
            Number::Size(dim) => Value::Size(dim),
            Number::Unknown => Value::Unknown,
        }
    }

    /// Whether it is a size or a number, known or not.
    pub(crate) fn is_scalar(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Size(_) | Value::Unknown)
    }
}
