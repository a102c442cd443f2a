//! The inert values that a pickle describes.
//!
//! Compound values live in one vector and refer to each other by index, so a value that contains itself, a million
//! nested tuples or a million references to one list cost no more than the bytes that describe them, and nothing
//! walks or drops them recursively.

use std::collections::HashMap;
use std::rc::Rc;

use crate::elements::Stored;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// An integer beyond 64 bits: its little-endian two's complement.
    BigInt(Rc<[u8]>),
    Text(Rc<str>),
    /// A value with no use for its content here: the name of its type.
    Plain(&'static str),
    /// A class or function by name, `module.name`.
    Global(Rc<str>),
    Node(usize),
}

#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(StorageView),
    Tensor(TensorView),
    /// A tensor of integers that stand for floats.
    Quantized(Box<QuantizedView>),
    /// An object that is not built.
    Object {
        /// The name of its class.
        class: Rc<str>,
        /// What BUILD gave it: its attributes.
        state: Option<Value>,
    },
}

/// A part of the bytes saved under one key.
#[derive(Clone, Debug)]
pub(crate) struct StorageView {
    /// Index into [`Heap::storages`].
    pub(crate) storage: usize,
    /// `None` for `torch.UntypedStorage`, whose elements are bytes.
    pub(crate) stored: Option<ElementType>,
    /// The first element of the view, in the storage.
    pub(crate) offset: u64,
    /// The elements of the view.
    pub(crate) len: u64,
}

/// An element type, or the name of one that we do not read.
pub(crate) type ElementType = Result<Stored, Rc<str>>;

/// A tensor whose numbers come from the file and are not checked yet.
#[derive(Clone, Debug)]
pub(crate) struct TensorView {
    pub(crate) storage: StorageView,
    pub(crate) stored: ElementType,
    /// In elements, from the start of the view.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    /// In elements.
    pub(crate) strides: Vec<u64>,
}

/// A quantized tensor, not checked yet: its integers, and what they stand for.
#[derive(Clone, Debug)]
pub(crate) struct QuantizedView {
    pub(crate) integers: TensorView,
    pub(crate) quantizer: Quantizer,
}

/// A float is (integer - zero point) * scale.
#[derive(Clone, Debug)]
pub(crate) enum Quantizer {
    /// One pair for the tensor.
    Tensor { scale: f64, zero_point: i64 },
    /// One for each place of an axis.
    Axis { scales: Box<TensorView>, zero_points: Box<TensorView>, axis: u64 },
}

/// The bytes saved under one key, as the pickle declares them.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    /// Bytes an element takes.
    pub(crate) width: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Heap {
    pub(crate) nodes: Vec<Node>,
    pub(crate) storages: Vec<Storage>,
    /// Positions in `storages` by key.
    pub(crate) storage_index: HashMap<String, usize>,
}

impl Heap {
    pub(crate) fn add(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value::Node(self.nodes.len() - 1)
    }

    pub(crate) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(*index),
            _ => None,
        }
    }

    pub(crate) fn tuple(&self, value: &Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub(crate) fn dict(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.node(value) {
            Some(Node::Dict(entries)) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self, value: &Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::List(items)) => Some(items),
            _ => None,
        }
    }

    /// What Python would call the type of `value`.
    pub(crate) fn type_name(&self, value: &Value) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(_) => "bool".into(),
            Value::Float(_) => "float".into(),
            Value::Int(_) | Value::BigInt(_) => "int".into(),
            Value::Text(_) => "str".into(),
            Value::Plain(name) => (*name).into(),
            Value::Global(name) => name.to_string(),
            Value::Node(index) => match &self.nodes[*index] {
                Node::Tuple(_) => "tuple".into(),
                Node::List(_) => "list".into(),
                Node::Dict(_) => "dict".into(),
                Node::Storage(_) => "storage".into(),
                Node::Tensor(_) | Node::Quantized(_) => "tensor".into(),
                Node::Object { class, .. } => class.to_string(),
            },
        }
    }
}
