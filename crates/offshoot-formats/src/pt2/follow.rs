//! Follows the nodes of a program from the picture to its result: each call of an operator becomes nodes of the graph.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::rc::Rc;

use super::archive::{File, MODEL};
use super::schema::{Argument, Float, InputSpec, Name, NamedArgument, Node, OptionalTensor, Symbolic};
use crate::error::Problem;
use crate::import::aten::sizes;
use crate::import::aten::{Aten, Call, Value};

pub(super) const WAY_OUT: &str = "Give a PyTorch checkpoint with `{model} NAME {weights} FILE` where there is one, or export the model to ONNX";

/// More arguments than any operator has.
const MAX_ARGUMENTS: usize = 64;
/// More items than a list of any classifier has.
const MAX_LIST: usize = 4096;

/// Operators that check something when PyTorch runs, and compute nothing.
const CHECKS: &[&str] = &[
    "_assert_async",
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
];

/// Arithmetic on sizes under Python's names, and under those that TorchScript has for it.
const ARITHMETIC: &[(&str, &str)] = &[
    ("_operator.add", "torch.add"),
    ("_operator.sub", "torch.sub"),
    ("_operator.mul", "torch.mul"),
    ("_operator.floordiv", "torch.floordiv"),
    ("_operator.truediv", "torch.div"),
    ("_operator.mod", "torch.remainder"),
    ("_operator.neg", "torch.neg"),
    ("_operator.eq", "torch.eq"),
    ("_operator.ne", "torch.ne"),
    ("_operator.lt", "torch.lt"),
    ("_operator.le", "torch.le"),
    ("_operator.gt", "torch.gt"),
    ("_operator.ge", "torch.ge"),
    ("_operator.and_", "torch.__and__"),
    ("_operator.or_", "torch.__or__"),
    ("math.ceil", "torch.ceil"),
    ("math.floor", "torch.floor"),
    ("math.trunc", "torch.Int"),
    ("torch.sym_float", "torch.Float"),
    ("torch.sym_int", "torch.Int"),
    ("torch.sym_max", "ops.prim.max"),
    ("torch.sym_min", "ops.prim.min"),
    ("torch.sym_not", "torch.__not__"),
];

/// The values of a program by name, while it is followed.
pub(super) struct Follower<'f, R> {
    file: &'f File<R>,
    pub(super) aten: Aten,
    values: HashMap<String, Value>,
}

impl<'f, R: Read + Seek> Follower<'f, R> {
    pub(super) fn new(file: &'f File<R>, aten: Aten) -> Follower<'f, R> {
        Follower { file, aten, values: HashMap::new() }
    }

    /// Binds an input of the program that is no picture.
    pub(super) fn stored(&mut self, spec: &InputSpec) -> Result<(), Problem> {
        let (arg, name, places): (_, _, &[bool]) = match spec {
            InputSpec::Parameter { arg, parameter_name } => (arg, parameter_name, &[false]),
            // One that is not persistent stands among the constants.
            InputSpec::Buffer { arg, buffer_name } => (arg, buffer_name, &[false, true]),
            InputSpec::TensorConstant { arg, tensor_constant_name } => (arg, tensor_constant_name, &[true]),
            InputSpec::UserInput { .. } => return Ok(()),
            InputSpec::CustomObj(_) | InputSpec::Token(_) | InputSpec::ConstantInput(_) => {
                let what = "it takes something else than tensors: an object, a token or a number";
                return Err(Problem::unsupported(MODEL, what, WAY_OUT));
            }
        };
        let stored = places.iter().find_map(|&constant| self.file.find(name, constant));
        let stored = stored.ok_or_else(|| {
            Problem::damaged(MODEL, format!("its input `{name:.80}` is none of the tensors of the archive"))
        })?;
        self.bind(&arg.name, Value::Stored(stored));
        Ok(())
    }

    pub(super) fn bind(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// Follows a node.
    pub(super) fn node(&mut self, index: usize, node: &Node) -> Result<(), Problem> {
        let first = node.outputs.iter().flat_map(names).next().unwrap_or("none");
        let at = format!("{MODEL}, node {index} `{first:.80}`");
        if node.inputs.len() > MAX_ARGUMENTS {
            let what = format!("it has {} arguments", node.inputs.len());
            return Err(Problem::TooLarge { place: at, what, limit: MAX_ARGUMENTS as u64 });
        }
        let mut named: Vec<(Rc<str>, Value)> = Vec::with_capacity(node.inputs.len());
        for NamedArgument { name, arg } in &node.inputs {
            if !name.is_empty() && named.iter().any(|(other, _)| **other == **name) {
                return Err(Problem::damaged(at, format!("its argument `{name:.40}` is given twice")));
            }
            let value = self.value(arg).map_err(|what| argument_problem(&at, name, what))?;
            named.push((name.as_str().into(), value));
        }
        let result = self.call(node, first, at, named)?;
        self.bind_outputs(&node.outputs, result);
        Ok(())
    }

    fn call(
        &mut self,
        node: &Node,
        first: &str,
        at: String,
        named: Vec<(Rc<str>, Value)>,
    ) -> Result<Value, Problem> {
        let target = node.target.as_str();
        if let Some((_, arithmetic)) = ARITHMETIC.iter().find(|(name, _)| *name == target) {
            let values: Vec<Value> = named.into_iter().map(|(_, value)| value).collect();
            return sizes::compute(arithmetic, &values).ok_or_else(|| {
                let kinds: Vec<&str> = values.iter().map(Value::kind).collect();
                Problem::unsupported(
                    at,
                    format!("`{target:.60}` of {} is not read", kinds.join(" and ")),
                    WAY_OUT,
                )
            });
        }
        let Some((operator, overload)) =
            target.strip_prefix("torch.ops.aten.").and_then(|target| target.split_once('.'))
        else {
            return Err(Problem::unsupported(at, format!("`{target:.80}` is not read"), WAY_OUT));
        };
        if CHECKS.contains(&operator) {
            return Ok(Value::None);
        }
        let overload = if overload == "default" { "" } else { overload };
        self.aten.call(&Call {
            operator,
            overload: Some(overload),
            name: module_of(node).or(node.name.as_deref()).unwrap_or(first).chars().take(200).collect(),
            values: Vec::new(),
            named,
            place: at,
            way_out: WAY_OUT,
            tensors: self.file,
        })
    }

    /// Gives the results of a call their names; those that are not followed are unknown.
    fn bind_outputs(&mut self, outputs: &[Argument], result: Value) {
        let names: Vec<&str> = outputs.iter().flat_map(names).collect();
        let results: Vec<Value> = match result {
            Value::List(items) => items.to_vec(),
            one => vec![one],
        };
        let rest = std::iter::repeat(Value::Unknown);
        for (name, value) in names.into_iter().zip(results.into_iter().chain(rest)) {
            self.bind(name, value);
        }
    }

    /// The value of an argument, or what is wrong with it.
    pub(super) fn value(&self, argument: &Argument) -> Result<Value, Wrong> {
        Ok(match argument {
            Argument::AsNone(_) => Value::None,
            Argument::AsTensor(name) => self.named(&name.name)?,
            Argument::AsTensors(names) => list(names, |name| self.named(&name.name))?,
            Argument::AsInt(n) => Value::Int(*n),
            Argument::AsInts(ints) => list(ints, |&n| Ok(Value::Int(n)))?,
            Argument::AsFloat(x) => number(x)?,
            Argument::AsFloats(all) => list(all, number)?,
            Argument::AsString(text) => Value::Text(text.as_str().into()),
            Argument::AsSymInt(symbolic) => self.symbolic(symbolic, |&n| Ok(Value::Int(n)))?,
            Argument::AsSymInts(all) => list(all, |one| self.symbolic(one, |&n| Ok(Value::Int(n))))?,
            Argument::AsSymBool(symbolic) => self.symbolic(symbolic, |&truth| Ok(Value::Bool(truth)))?,
            Argument::AsSymFloat(symbolic) => self.symbolic(symbolic, number)?,
            Argument::AsScalarType(number) => Value::Int(element_type(*number)),
            // What a graph has not.
            Argument::AsMemoryFormat(_) | Argument::AsLayout(_) | Argument::AsDevice(_) => {
                Value::Text("".into())
            }
            Argument::AsBool(truth) => Value::Bool(*truth),
            Argument::AsBools(all) => list(all, |&truth| Ok(Value::Bool(truth)))?,
            Argument::AsOptionalTensor(one) => self.optional(one)?,
            Argument::AsOptionalTensors(all) => list(all, |one| self.optional(one))?,
            Argument::AsStrings(_)
            | Argument::AsSymBools(_)
            | Argument::AsGraph(_)
            | Argument::AsCustomObj(_)
            | Argument::AsOperator(_)
            | Argument::AsSymFloats(_)
            | Argument::AsComplex(_)
            | Argument::AsNestedTensors(_)
            | Argument::AsIntLists(_)
            | Argument::AsStringToArgument(_)
            | Argument::AsFloatLists(_) => return Err(Wrong::Kind),
        })
    }

    fn named(&self, name: &str) -> Result<Value, Wrong> {
        self.values.get(name).cloned().ok_or_else(|| Wrong::Name(name.chars().take(80).collect()))
    }

    fn symbolic<T>(
        &self,
        symbolic: &Symbolic<T>,
        known: impl Fn(&T) -> Result<Value, Wrong>,
    ) -> Result<Value, Wrong> {
        match symbolic {
            Symbolic::Name(name) => self.named(name),
            Symbolic::Known(value) => known(value),
        }
    }

    fn optional(&self, tensor: &OptionalTensor) -> Result<Value, Wrong> {
        match tensor {
            OptionalTensor::AsTensor(Name { name }) => self.named(name),
            OptionalTensor::AsNone(_) => Ok(Value::None),
        }
    }
}

/// What is wrong with an argument.
pub(super) enum Wrong {
    /// It is of a kind that is not read.
    Kind,
    /// Nothing before has this name.
    Name(String),
    /// It is a list of so many items.
    Long(usize),
    /// It is no number.
    Number,
}

pub(super) fn argument_problem(at: &str, name: &str, wrong: Wrong) -> Problem {
    let of = format!("its argument `{name:.40}`");
    match wrong {
        Wrong::Kind => {
            Problem::unsupported(at, format!("{of} is a graph or an object, which is not read"), WAY_OUT)
        }
        Wrong::Name(name) => Problem::damaged(at, format!("{of} is `{name}`, which nothing before it makes")),
        Wrong::Long(len) => {
            let what = format!("{of} has {len} items");
            Problem::TooLarge { place: at.to_owned(), what, limit: MAX_LIST as u64 }
        }
        Wrong::Number => Problem::damaged(at, format!("{of} is no number")),
    }
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Result<Value, Wrong>) -> Result<Value, Wrong> {
    match items.len() <= MAX_LIST {
        true => Ok(Value::List(items.iter().map(value).collect::<Result<_, _>>()?)),
        false => Err(Wrong::Long(items.len())),
    }
}

fn number(float: &Float) -> Result<Value, Wrong> {
    match float {
        Float::Number(x) => Ok(Value::Float(*x)),
        Float::Text(text) => match text.as_str() {
            "Infinity" => Ok(Value::Float(f64::INFINITY)),
            "-Infinity" => Ok(Value::Float(f64::NEG_INFINITY)),
            _ => Err(Wrong::Number),
        },
    }
}

/// The number that PyTorch's operators have for an element type of the schema; of an unknown one none that is a type.
fn element_type(number: u64) -> i64 {
    match number {
        1..=5 => number as i64 - 1,
        6 => 5,
        7 => 6,
        8 => 7,
        12 => 11,
        13 => 15,
        _ => -1,
    }
}

/// The names that an output of a node gets.
fn names(output: &Argument) -> Box<dyn Iterator<Item = &str> + '_> {
    match output {
        Argument::AsTensor(name) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(name)) => {
            Box::new(std::iter::once(name.name.as_str()))
        }
        Argument::AsTensors(names) => Box::new(names.iter().map(|name| name.name.as_str())),
        Argument::AsSymInt(Symbolic::Name(name))
        | Argument::AsSymFloat(Symbolic::Name(name))
        | Argument::AsSymBool(Symbolic::Name(name)) => Box::new(std::iter::once(name.as_str())),
        Argument::AsNone(_)
        | Argument::AsInt(_)
        | Argument::AsInts(_)
        | Argument::AsFloat(_)
        | Argument::AsFloats(_)
        | Argument::AsString(_)
        | Argument::AsStrings(_)
        | Argument::AsSymInt(_)
        | Argument::AsSymInts(_)
        | Argument::AsScalarType(_)
        | Argument::AsMemoryFormat(_)
        | Argument::AsLayout(_)
        | Argument::AsDevice(_)
        | Argument::AsBool(_)
        | Argument::AsBools(_)
        | Argument::AsSymBool(_)
        | Argument::AsSymBools(_)
        | Argument::AsGraph(_)
        | Argument::AsOptionalTensors(_)
        | Argument::AsCustomObj(_)
        | Argument::AsOperator(_)
        | Argument::AsSymFloat(_)
        | Argument::AsSymFloats(_)
        | Argument::AsOptionalTensor(_)
        | Argument::AsComplex(_)
        | Argument::AsNestedTensors(_)
        | Argument::AsIntLists(_)
        | Argument::AsStringToArgument(_)
        | Argument::AsFloatLists(_) => Box::new(std::iter::empty()),
    }
}

/// The key of the innermost module that a node is of, which names what it becomes.
fn module_of(node: &Node) -> Option<&str> {
    let stack = node.metadata.nn_module_stack.as_deref()?;
    let key = stack.rsplit(';').next()?.split(',').nth(1)?;
    (!key.is_empty()).then_some(key)
}
