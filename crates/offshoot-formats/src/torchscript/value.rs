//! What the names in the code stand for while it is followed.

use std::rc::Rc;

/// A value of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Also a tensor of one float: traces compute sizes with them.
    Float(f64),
    Text(Rc<str>),
    /// The batch size itself, which is not known.
    Batch,
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
pub(super) struct Stored {
    /// Whether it is one of the constants rather than an attribute of a module.
    pub(super) constant: bool,
    pub(super) node: usize,
    pub(super) transposed: bool,
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::Batch => "the batch size",
            Value::Unknown => "something known at the run only",
            Value::List(_) => "a list",
            Value::Module(_) => "a module",
            Value::Stored(_) => "a stored tensor",
            Value::Tensor(_) => "a computed tensor",
            Value::Path(_) => "a function",
        }
    }

    /// The number, when it is a known one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    /// The integer, also when it is held as a float.
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Some(*x as i64),
            _ => None,
        }
    }

    /// Whether it is a size or a number, known or not.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Batch | Value::Unknown)
    }
}
