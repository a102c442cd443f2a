//! Operators on quantized tensors, before a graph is made of a file: each becomes what it is defined by, the float operator between
//! DequantizeLinear and QuantizeLinear. That is how the graph says what is to be computed in integers.
//!
//! ```text
//! y = QLinearConv(x, .., w, .., b)   ->   y = QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), DequantizeLinear(b)))
//! y = MaxPool(x), of bytes           ->   y = QuantizeLinear(MaxPool(DequantizeLinear(x))), in the same steps
//! ```
//!
//! The graph's integers have eight bits. Activations of 4 or 16 bits are rounded in float, and weights of which the graph has no
//! quantized form (of 4 or 16 bits, in blocks, of norms) become floats.

mod dynamic;
mod operators;
mod weights;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::MICROSOFT;
use super::attributes::NodeView;
use super::order::Producers;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_type};
use super::tensors::TensorReader;
use crate::error::Problem;

/// What stands before an error's way out.
const FLOAT: &str = "Export the model in float32, before quantization";

/// What was made of a file's nodes.
pub(super) struct Expanded {
    /// What a user should know.
    pub(super) warnings: Vec<String>,
    /// Bytes of the tensors that were made.
    pub(super) made: u64,
}

/// Exchanges the nodes on quantized tensors that `output` needs.
pub(super) fn expand(
    graph: &mut GraphProto,
    output: &str,
    len: u64,
    path: Option<&Path>,
) -> Result<Expanded, Problem> {
    if !graph.node.iter().any(is_quantized) {
        return Ok(Expanded { warnings: Vec::new(), made: 0 });
    }
    let nodes: Vec<NodeProto> =
        Producers::new(graph)?.needed(output)?.into_iter().map(|node| node.proto.clone()).collect();
    let mut pass = Pass::new(graph, &nodes, TensorReader::new(len, path));
    for node in &nodes {
        pass.visit(NodeView { proto: node })?;
    }
    let Pass { nodes, tensors, mut notes, made, .. } = pass;
    notes.sort();
    graph.node = nodes;
    graph.initializer.extend(tensors);
    let warnings = notes.into_iter().map(|note| note.warning().to_owned()).collect();
    Ok(Expanded { warnings, made })
}

/// Whether a graph with `node` has quantized tensors.
fn is_quantized(node: &NodeProto) -> bool {
    let name = node.op_type.as_str();
    name.contains("uant")
        || name.contains("QLinear")
        || name.contains("Integer")
        || matches!(name, "QGemm" | "MatMulNBits")
}

/// What is computed otherwise than the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Note {
    /// Activations of other than eight bits.
    Activations,
    /// Weights of other than eight bits, or in blocks.
    Weights,
    /// Convolutions of bytes that are quantized at each run.
    Dynamic,
}

impl Note {
    fn warning(self) -> &'static str {
        match self {
            Note::Activations => {
                "activations quantized to other than 8 bits are rounded as the file says and computed in float32 here"
            }
            Note::Weights => {
                "weights quantized to other than 8 bits, or in blocks, are computed in float32 here"
            }
            Note::Dynamic => {
                "operators whose input is quantized at each run are rounded as the file says and computed in float32 here"
            }
        }
    }
}

/// A scale and a zero point, by name.
#[derive(Clone, Debug, PartialEq)]
struct Steps {
    scale: String,
    /// None: 0 of u8.
    zero_point: Option<String>,
}

/// Integers that stand for floats, and the float types of ONNX that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    low: i32,
    high: i32,
    /// Whether the graph has a type for them.
    eight: bool,
}

impl Kind {
    /// The one that ONNX has the number `data_type` for.
    fn of(data_type: i32) -> Option<Kind> {
        let (low, high) = match data_type {
            2 => (0, 255),
            3 => (-128, 127),
            4 => (0, 65535),
            5 => (-32768, 32767),
            21 => (0, 15),
            22 => (-8, 7),
            _ => return None,
        };
        Some(Kind { low, high, eight: matches!(data_type, 2 | 3) })
    }
}

struct Pass<'a> {
    /// The tensors of the file, in initializers and in Constant nodes.
    stored: HashMap<&'a str, &'a TensorProto>,
    /// Those whose rows and columns the file exchanges before they are used.
    transposed: HashSet<&'a str>,
    /// Who reads each value, and as which input.
    readers: HashMap<&'a str, Vec<(&'a NodeProto, usize)>>,
    reader: TensorReader,
    names: HashSet<String>,
    /// The new nodes in order, and tensors for them.
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    /// What quantized tensors stand for.
    steps: HashMap<String, Steps>,
    /// Weights that the file keeps as floats and rounds at each run, by the name of their integers.
    rounded_weights: HashMap<&'a str, &'a str>,
    /// Levels as floats, for what the graph has no integers for: the value behind a name less its zero point.
    levels: HashMap<String, String>,
    notes: Vec<Note>,
    /// Constants by their bits.
    numbers: HashMap<u32, String>,
    /// Zero points that the file does not have, and their types.
    extra: HashMap<String, i32>,
    made: u64,
}

impl<'a> Pass<'a> {
    fn new(graph: &'a GraphProto, nodes: &'a [NodeProto], reader: TensorReader) -> Pass<'a> {
        let mut stored: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut readers: HashMap<&str, Vec<(&NodeProto, usize)>> = HashMap::new();
        let mut names: HashSet<String> = stored.keys().map(|&name| name.to_owned()).collect();
        let mut transposed = HashSet::new();
        names.extend(graph.input.iter().map(|input| input.name.clone()));
        for node in nodes {
            if let ("Constant", Some(value), [output, ..]) =
                (node.op_type.as_str(), (NodeView { proto: node }).tensor("value"), &node.output[..])
            {
                stored.insert(output, value);
            }
            if let ("Transpose", [input, ..], [output, ..]) =
                (node.op_type.as_str(), &node.input[..], &node.output[..])
                && is_matrix(&stored, input)
            {
                transposed.insert(output.as_str());
            }
            for (index, input) in node.input.iter().enumerate() {
                readers.entry(input).or_default().push((node, index));
            }
            names.extend(node.output.iter().chain([&node.name]).cloned());
        }
        Pass {
            stored,
            transposed,
            readers,
            reader,
            names,
            nodes: Vec::new(),
            tensors: Vec::new(),
            steps: HashMap::new(),
            rounded_weights: HashMap::new(),
            levels: HashMap::new(),
            notes: Vec::new(),
            numbers: HashMap::new(),
            extra: HashMap::new(),
            made: 0,
        }
    }

    /// Adds what stands for `node`.
    fn visit(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        match (node.proto.domain.as_str(), node.op()) {
            (MICROSOFT | "" | "ai.onnx", "QuantizeLinear") => self.quantize_linear(node),
            (MICROSOFT | "" | "ai.onnx", "DequantizeLinear") => self.dequantize_linear(node),
            ("" | "ai.onnx", "QLinearConv") => self.conv(node),
            (_, "QLinearMatMul") => self.matmul(node),
            (MICROSOFT, "QGemm") => self.gemm(node),
            (MICROSOFT, "QLinearAdd") => self.pair(node, "Add"),
            (MICROSOFT, "QLinearMul") => self.pair(node, "Mul"),
            (MICROSOFT, "QLinearSigmoid") => self.function(node, "Sigmoid"),
            (MICROSOFT, "QLinearLeakyRelu") => self.function(node, "LeakyRelu"),
            (MICROSOFT, "QLinearSoftmax") => self.function(node, "Softmax"),
            (MICROSOFT, "QLinearAveragePool") => self.function(node, "AveragePool"),
            (MICROSOFT, "QLinearGlobalAveragePool") => self.function(node, "GlobalAveragePool"),
            (MICROSOFT, "QLinearConcat") => self.concat(node),
            (MICROSOFT, "MatMulNBits") => self.blocks(node),
            ("" | "ai.onnx", "DynamicQuantizeLinear") => self.dynamic_quantize(node),
            ("" | "ai.onnx", "ConvInteger" | "MatMulInteger") => self.integer_sums(node),
            ("" | "ai.onnx", _) if node.input(0).is_some_and(|x| self.stands_for_floats(x)) => {
                self.moved(node)
            }
            _ => {
                self.nodes.push(node.proto.clone());
                Ok(())
            }
        }
    }

    /// Whether `name` are quantized floats.
    fn stands_for_floats(&self, name: &str) -> bool {
        self.steps.contains_key(name)
    }

    /// A name that nothing else has.
    fn unused(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}.{number}");
        }
        name
    }

    /// Adds a node with one output, whose name is `output` or a new one.
    fn push(
        &mut self,
        op: &str,
        part: String,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
        output: Option<&str>,
    ) -> String {
        let name = self.unused(part);
        let output = output.map_or_else(|| name.clone(), str::to_owned);
        self.nodes.push(NodeProto {
            input: inputs,
            output: vec![output.clone()],
            name,
            op_type: op.to_owned(),
            attribute: attributes,
            domain: String::new(),
        });
        output
    }

    /// The integers that a zero point belongs to, where the file stores it.
    fn kind(&self, node: NodeView<'_>, zero_point: Option<&str>) -> Result<Kind, Problem> {
        let Some(zero_point) = zero_point else { return Ok(Kind { low: 0, high: 255, eight: true }) };
        let stored = self.stored.get(zero_point).and_then(|tensor| tensor.data_type);
        let found = stored.or_else(|| self.extra.get(zero_point).copied()).and_then(Kind::of);
        found.ok_or_else(|| {
            let what = format!(
                "its zero point `{zero_point}` is no integer of at most 16 bits that the file stores"
            );
            node.unsupported(what, FLOAT)
        })
    }

    /// The scale and the zero point that are inputs of `node`.
    fn steps_at(&self, node: NodeView<'_>, [scale, zero_point]: [usize; 2]) -> Result<Steps, Problem> {
        let scale = node.required(scale)?.to_owned();
        Ok(Steps { scale, zero_point: node.input(zero_point).map(str::to_owned) })
    }
}

/// Whether the file stores the matrix `name`.
fn is_matrix(stored: &HashMap<&str, &TensorProto>, name: &str) -> bool {
    stored.get(name).is_some_and(|tensor| tensor.dims.len() == 2)
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        i: Some(value),
        r#type: Some(attribute_type::INT),
        ..Default::default()
    }
}

/// The attributes of `node` but for `left_out`.
fn attributes(node: NodeView<'_>, left_out: &[&str]) -> Vec<AttributeProto> {
    node.proto.attribute.iter().filter(|a| !left_out.contains(&a.name.as_str())).cloned().collect()
}
