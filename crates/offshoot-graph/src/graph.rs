//! The graph: values, the nodes that make them, and the parameters among them.

use std::collections::HashSet;

use crate::op::{Op, Operator};
use crate::shape::Shape;
use crate::tensor::{DType, Tensor};

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl ValueId {
    /// Its place among the graph's values.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// Its place among the graph's nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Given at each run.
    Input,
    /// A tensor of the graph's weights, under the value's name.
    Parameter(Parameter),
    /// A tensor that is part of the graph.
    Constant(Tensor),
    /// An output of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Which of its outputs.
        output: usize,
    },
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Whether training changes it by its gradient.
    pub trainable: bool,
    /// Weight or running statistic.
    pub role: Role,
}

impl Parameter {
    /// Whether runs of a training graph may change it: a trainable weight or a running statistic.
    pub fn changes(self) -> bool {
        self.trainable || self.role == Role::Buffer
    }
}

/// Weight or running statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counted as a parameter (PyTorch's `parameters()`).
    Weight,
    /// Kept in the state dict only (PyTorch's `buffers()`): running statistics.
    Buffer,
}

/// A value: one tensor of each run.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in its graph. A parameter's is its PyTorch state-dict key.
    pub name: String,
    /// The type of the elements.
    pub dtype: DType,
    /// The dims.
    pub shape: Shape,
    /// Where it comes from.
    pub source: Source,
}

/// One step of the computation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<O = Op> {
    /// Unique in its graph; the module's path where there is one (`layer1.0.conv1`).
    pub name: String,
    /// What it computes.
    pub op: O,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it makes.
    pub outputs: Vec<ValueId>,
}

/// A graph could not be built: names the node and the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` ({op}): {reason}")]
pub struct GraphError {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
    /// What does not fit, with the numbers.
    pub reason: String,
}

/// A computation. Nodes stand in an order in which each reads only what stands before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph<O = Op> {
    name: String,
    values: Vec<Value>,
    nodes: Vec<Node<O>>,
    inputs: Vec<ValueId>,
    parameters: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
    results: Vec<(ValueId, ValueId)>,
    names: HashSet<String>,
}

impl Graph {
    /// An empty graph of operators.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph::empty(name)
    }
}

impl<O> Default for Graph<O> {
    fn default() -> Graph<O> {
        Graph {
            name: String::new(),
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            parameters: Vec::new(),
            outputs: Vec::new(),
            results: Vec::new(),
            names: HashSet::new(),
        }
    }
}

impl<O: Operator> Graph<O> {
    /// An empty graph of any set of operators.
    pub fn empty(name: impl Into<String>) -> Graph<O> {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// What the graph computes, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// All nodes, each after what it reads.
    pub fn nodes(&self) -> &[Node<O>] {
        &self.nodes
    }

    /// One value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node<O> {
        &self.nodes[id.index()]
    }

    /// The values given at each run, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The parameters, in the order in which they were added (the state dict's).
    pub fn parameters(&self) -> &[ValueId] {
        &self.parameters
    }

    /// What a run gives, by name.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|&(_, v)| v)
    }

    /// The parameter called `name`.
    pub fn find_parameter(&self, name: &str) -> Option<ValueId> {
        self.parameters.iter().copied().find(|&v| self.value(v).name == name)
    }

    /// What kind of parameter a value is, if it is one.
    pub fn parameter_info(&self, id: ValueId) -> Option<Parameter> {
        match self.value(id).source {
            Source::Parameter(p) => Some(p),
            Source::Input | Source::Constant(_) | Source::Node { .. } => None,
        }
    }

    /// The node that makes a value, if one does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).source {
            Source::Node { node, .. } => Some(node),
            Source::Input | Source::Parameter(_) | Source::Constant(_) => None,
        }
    }

    /// What takes the place of parameters when the graph has run: each parameter and its new value. All do together, or none when
    /// one of the new numbers is not finite.
    pub fn results(&self) -> &[(ValueId, ValueId)] {
        &self.results
    }

    /// How often each value is read: by nodes, and once for each output and each result of the graph it is.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        let reads = self.nodes.iter().flat_map(|n| &n.inputs).chain(self.outputs.iter().map(|(_, v)| v));
        let reads = reads.chain(self.results.iter().map(|(_, v)| v));
        for value in reads {
            counts[value.index()] += 1;
        }
        counts
    }

    /// Elements of the trainable and of the frozen weights (running statistics are not counted, as in PyTorch).
    pub fn count_parameters(&self) -> (u64, u64) {
        let mut counts = (0, 0);
        for &id in &self.parameters {
            let Some(Parameter { trainable, role: Role::Weight }) = self.parameter_info(id) else { continue };
            let elements: u64 =
                self.value(id).shape.as_fixed().map_or(0, |s| s.iter().map(|&d| d as u64).product());
            *(if trainable { &mut counts.0 } else { &mut counts.1 }) += elements;
        }
        counts
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        let id = self.add_value(name, dtype, shape, Source::Input);
        self.inputs.push(id);
        id
    }

    /// Adds an f32 parameter, trainable if it is a weight. `name` is its PyTorch key.
    pub fn add_parameter(&mut self, name: &str, shape: &[usize], role: Role) -> ValueId {
        self.add_typed_parameter(name, DType::F32, shape, role)
    }

    /// Adds a parameter of any type. Integers are never trained.
    pub fn add_typed_parameter(&mut self, name: &str, dtype: DType, shape: &[usize], role: Role) -> ValueId {
        let trainable = role == Role::Weight && dtype.is_float();
        let source = Source::Parameter(Parameter { trainable, role });
        let id = self.add_value(name, dtype, Shape::fixed(shape), source);
        self.parameters.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let (dtype, shape) = (tensor.dtype(), Shape::fixed(tensor.shape()));
        self.add_value(name, dtype, shape, Source::Constant(tensor))
    }

    /// Makes a constant of a parameter, whose elements `tensor` holds.
    ///
    /// # Errors
    /// When `id` is no parameter of `tensor`'s type and shape.
    pub fn hold(&mut self, id: ValueId, tensor: Tensor) -> Result<(), GraphError> {
        let value = &mut self.values[id.index()];
        let fits = matches!(value.source, Source::Parameter(_))
            && value.dtype == tensor.dtype()
            && value.shape == Shape::fixed(tensor.shape());
        if !fits {
            let reason = format!("it is no parameter of {}{:?}", tensor.dtype(), tensor.shape());
            return Err(GraphError { node: value.name.clone(), op: "Constant", reason });
        }
        value.source = Source::Constant(tensor);
        self.parameters.retain(|&parameter| parameter != id);
        Ok(())
    }

    /// Names a value as one of the graph's results.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.to_string(), value));
    }

    /// Lets `value` take the place of `parameter` when the graph has run.
    ///
    /// # Errors
    /// When `parameter` is none, or `value` has another type or shape.
    pub fn add_result(&mut self, parameter: ValueId, value: ValueId) -> Result<(), GraphError> {
        let (old, new) = (self.value(parameter), self.value(value));
        let fits =
            matches!(old.source, Source::Parameter(_)) && (old.dtype, &old.shape) == (new.dtype, &new.shape);
        if !fits {
            let reason = format!("`{}`, {}{}, cannot take its place", new.name, new.dtype, new.shape);
            return Err(GraphError { node: old.name.clone(), op: "result", reason });
        }
        self.results.push((parameter, value));
        Ok(())
    }

    /// Keeps the outputs whose names `keep` holds for.
    pub(crate) fn retain_outputs(&mut self, keep: impl Fn(&str) -> bool) {
        self.outputs.retain(|(name, _)| keep(name));
    }

    /// Adds a node with one output and returns the output.
    ///
    /// # Errors
    /// When the inputs do not fit the operator.
    pub fn add(&mut self, name: &str, op: O, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.add_node(name, op, inputs)?[0])
    }

    /// Adds a node and returns its outputs.
    ///
    /// # Errors
    /// When the inputs do not fit the operator.
    pub fn add_node(&mut self, name: &str, op: O, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let operands: Vec<&Value> = inputs.iter().map(|&v| self.value(v)).collect();
        let types = op.infer(&operands).map_err(|reason| GraphError {
            node: name.to_string(),
            op: op.name(),
            reason,
        })?;
        let name = self.unique(name);
        let node = NodeId(self.nodes.len() as u32);
        let outputs: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(output, (dtype, shape))| {
                let value = if output == 0 { name.clone() } else { format!("{name}:{output}") };
                self.push_value(value, dtype, shape, Source::Node { node, output })
            })
            .collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Changes whether training changes a parameter. Running statistics and integers stay as they are.
    pub(crate) fn set_trainable(&mut self, id: ValueId, to: bool) {
        let value = &mut self.values[id.index()];
        if let Source::Parameter(Parameter { trainable, role: Role::Weight }) = &mut value.source
            && value.dtype.is_float()
        {
            *trainable = to;
        }
    }

    fn add_value(&mut self, name: &str, dtype: DType, shape: Shape, source: Source) -> ValueId {
        let name = self.unique(name);
        self.push_value(name, dtype, shape, source)
    }

    fn push_value(&mut self, name: String, dtype: DType, shape: Shape, source: Source) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name, dtype, shape, source });
        id
    }

    /// `name`, or `name_2`, `name_3`, ... if it is taken. Nodes and values share one set of names.
    fn unique(&mut self, name: &str) -> String {
        let mut candidate = name.to_string();
        let mut n = 2;
        while !self.names.insert(candidate.clone()) {
            candidate = format!("{name}_{n}");
            n += 1;
        }
        candidate
    }
}
