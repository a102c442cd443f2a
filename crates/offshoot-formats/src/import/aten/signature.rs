//! PyTorch's signatures of its operators, as `native_functions.yaml` has them.

use super::value::Value;

/// What an argument may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tensor,
    Tensors,
    Int,
    Ints,
    Number,
    Bool,
    Text,
    /// An element type.
    Type,
    /// A device, a layout: nothing that a graph has.
    Other,
}

#[derive(Debug)]
pub(super) struct Argument {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it may be left out or be None.
    pub(super) optional: bool,
    /// What stands for it where it is left out.
    pub(super) default: Option<Value>,
}

/// An operator with one of its overloads.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) overload: &'static str,
    pub(super) arguments: Vec<Argument>,
    /// How many may be given by their place.
    pub(super) by_place: usize,
}

impl Signature {
    /// Parses `name.overload(Type name=default, ..)`.
    pub(super) fn parse(text: &'static str) -> Option<Signature> {
        let (full, rest) = text.split_once('(')?;
        let (name, overload) = full.split_once('.').unwrap_or((full, ""));
        let (mut arguments, mut by_place) = (Vec::new(), None);
        for argument in parts(rest.strip_suffix(')')?) {
            if argument == "*" {
                by_place = Some(arguments.len());
                continue;
            }
            arguments.push(Argument::parse(argument)?);
        }
        let by_place = by_place.unwrap_or(arguments.len());
        Some(Signature { name, overload, arguments, by_place })
    }

    /// Whether a call with these arguments is one of this operator.
    pub(super) fn takes<'v>(
        &self,
        values: &[Value],
        named: impl Iterator<Item = (&'v str, &'v Value)>,
    ) -> bool {
        let mut given = vec![false; self.arguments.len()];
        if values.len() > self.by_place {
            return false;
        }
        for (index, value) in values.iter().enumerate() {
            given[index] = true;
            if !self.arguments[index].takes(value) {
                return false;
            }
        }
        for (name, value) in named {
            match self.arguments.iter().position(|argument| argument.name == name) {
                Some(index) if self.arguments[index].takes(value) => given[index] = true,
                _ => return false,
            }
        }
        self.arguments.iter().zip(given).all(|(argument, given)| given || argument.optional)
    }
}

/// What stands between commas outside of brackets.
fn parts(text: &'static str) -> Vec<&'static str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

impl Argument {
    fn parse(text: &'static str) -> Option<Argument> {
        let (of, rest) = text.split_once(' ')?;
        let (name, default) = match rest.split_once('=') {
            Some((name, default)) => (name, Some(default)),
            None => (rest, None),
        };
        let (of, nullable) = match of.strip_suffix('?') {
            Some(of) => (of, true),
            None => (of, false),
        };
        let kind = match of {
            "Tensor" => Kind::Tensor,
            "Tensor[]" => Kind::Tensors,
            "int" | "SymInt" => Kind::Int,
            "float" | "Scalar" => Kind::Number,
            "bool" => Kind::Bool,
            "str" => Kind::Text,
            "ScalarType" => Kind::Type,
            list if list.starts_with("int[") || list.starts_with("SymInt[") => Kind::Ints,
            _ => Kind::Other,
        };
        let default = default.and_then(value);
        Some(Argument { name, kind, optional: nullable || rest.contains('='), default })
    }

    fn takes(&self, value: &Value) -> bool {
        let number = value.is_scalar();
        match (self.kind, value) {
            (_, Value::None) => self.optional,
            (Kind::Other, _) => true,
            // A traced program has numbers where a tensor of one element is meant.
            (Kind::Tensor, value) => matches!(value, Value::Tensor(_) | Value::Stored(_)) || number,
            (Kind::Tensors | Kind::Ints, Value::List(_)) | (Kind::Text, Value::Text(_)) => true,
            (Kind::Int | Kind::Ints, value) => {
                value.int().is_some() || matches!(value, Value::Size(_) | Value::Unknown)
            }
            (Kind::Number, _) => number,
            (Kind::Bool, value) => matches!(value, Value::Bool(_) | Value::Int(_)),
            (Kind::Type, value) => matches!(value, Value::Int(_)),
            (Kind::Tensors | Kind::Text, _) => false,
        }
    }
}

/// A default.
fn value(text: &str) -> Option<Value> {
    match text {
        "None" => None,
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        text if text.starts_with('"') => Some(Value::Text(text.trim_matches('"').into())),
        "[]" => Some(Value::List([].into())),
        text => match text.parse() {
            Ok(n) => Some(Value::Int(n)),
            Err(_) => text.parse().ok().map(Value::Float),
        },
    }
}
