//! Dynamic int8 of any ONNX file: products with stored matrices and LSTMs compute with bytes, tables of embeddings are stored as
//! bytes, everything else stays.
//!
//! A matrix becomes one signed byte a weight with a scale for each output ([`offshoot_graph::int8`]). What it is multiplied
//! with is quantized at each run, by the smallest and the largest number in it:
//!
//! ```text
//! y = MatMul(a, W)   ->   q, s, z = DynamicQuantizeLinear(a)
//!                         y = Cast(MatMulInteger(q, W as bytes, z)) * (s * scale of W)
//! ```
//!
//! A Gemm is the same with its bias added; an LSTM becomes `com.microsoft.DynamicQuantizeLSTM`, for there is no such
//! operator in ONNX itself. Of a table only the rows that are looked up become floats, after they are looked up.
//!
//! The file is not understood but edited: the messages of the graph and of subgraphs are taken apart into fields, some
//! nodes and tensors are exchanged, and every other field keeps its bytes, whatever operator, attribute or version it is
//! of. Elements that stand in other files move into this one.

mod embedding;
mod lstm;
mod product;
mod scope;
mod survey;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use offshoot_graph::{Data, Tensor};
use prost::Message;
use prost::bytes::Bytes;

use self::embedding::Table;
pub(super) use self::scope::moved;
use self::scope::{Scope, Store};
use super::attributes::NodeView;
use super::proto::{EXTERNAL, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use super::tensors::TensorReader;
use super::wire::{Field, Splitter, join};
use super::write::described;
use super::{MAX_FILE, MICROSOFT};
use crate::elements::write_le;
use crate::error::Problem;

/// The first opset with DynamicQuantizeLinear.
const OPSET: i64 = 11;

/// The first version of the container in which an initializer need not be an input, too.
const INITIALIZERS_ALONE: u64 = 4;

/// How deep graphs may stand in each other.
const MAX_DEPTH: usize = 16;

/// Tags of the messages that are taken apart.
mod tag {
    pub(super) const MODEL_IR_VERSION: u32 = 1;
    pub(super) const MODEL_GRAPH: u32 = 7;
    pub(super) const MODEL_OPSET: u32 = 8;
    pub(super) const GRAPH_NODE: u32 = 1;
    pub(super) const GRAPH_INITIALIZER: u32 = 5;
    pub(super) const GRAPH_INPUT: u32 = 11;
    pub(super) const GRAPH_OUTPUT: u32 = 12;
    pub(super) const GRAPH_VALUE_INFO: u32 = 13;
    pub(super) const NODE_INPUT: u32 = 1;
    pub(super) const NODE_OUTPUT: u32 = 2;
    pub(super) const NODE_NAME: u32 = 3;
    pub(super) const NODE_ATTRIBUTE: u32 = 5;
    pub(super) const ATTRIBUTE_TENSOR: u32 = 5;
    pub(super) const ATTRIBUTE_GRAPH: u32 = 6;
    pub(super) const ATTRIBUTE_TENSORS: u32 = 10;
    pub(super) const ATTRIBUTE_GRAPHS: u32 = 11;
    pub(super) const TENSOR_RAW: u32 = 9;
    pub(super) const TENSOR_EXTERNAL: u32 = 13;
    pub(super) const TENSOR_LOCATION: u32 = 14;
}

/// What dynamic int8 made of a file, or would make.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicReport {
    /// The nodes that compute with bytes or look up rows of them.
    pub quantized: Vec<String>,
    /// Products with stored matrices, and LSTMs, that stay as they are.
    pub kept_float: Vec<KeptFloat>,
    /// Convolutions; dynamic int8 leaves them alone.
    pub convolutions: usize,
    /// Bytes of all tensors in the file.
    pub stored_bytes: u64,
    /// Of these, bytes of the floats that became bytes.
    pub quantized_bytes: u64,
    /// Bytes of the file as it was, with the elements that other files held for it.
    pub file_bytes: u64,
}

/// A node that stays in float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFloat {
    /// Its name, or that of its first output.
    pub node: String,
    /// Why it stays.
    pub reason: String,
}

/// A file in dynamic int8.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicModel {
    /// The file. It refers to no other.
    pub bytes: Vec<u8>,
    /// What was done.
    pub report: DynamicReport,
}

/// The file in `bytes`, which are at `path`, in dynamic int8.
pub(super) fn quantize(bytes: Bytes, path: Option<&Path>) -> Result<DynamicModel, Problem> {
    let mut pass = Pass::new(TensorReader::new(bytes.len() as u64, path));
    pass.report.file_bytes = bytes.len() as u64;
    let mut model = pass.splitter.fields(&bytes)?;
    let graphs: Vec<usize> =
        (0..model.len()).filter(|&i| model[i].tagged(tag::MODEL_GRAPH).is_some()).collect();
    let (&[at], true) = (&graphs[..], has_operator_set(&model)?) else {
        let what = "it holds no ONNX graph";
        return Err(Problem::unsupported("ONNX file", what, "Give a file written by an ONNX exporter"));
    };
    let graph = model[at].body.clone().unwrap_or_default();
    pass.survey(&graph, 0)?;
    let rewritten = pass.rewrite(&graph, &mut Vec::new())?;
    if pass.report.quantized.is_empty() {
        return Err(nothing_to_do(&pass.report));
    }
    let mut swept: Vec<Field> = pass.first.iter().map(node_field).collect();
    swept.extend(pass.swept(&rewritten)?);
    swept.extend(pass.added.iter().map(|tensor| Field::message(tag::GRAPH_INITIALIZER, tensor)));
    model[at] = Field::new(tag::MODEL_GRAPH, &sized(&swept)?);
    for version in model.iter_mut().filter(|f| f.tag == tag::MODEL_IR_VERSION) {
        if version.to_number().is_some_and(|n| n < INITIALIZERS_ALONE) {
            *version = Field::number(tag::MODEL_IR_VERSION, INITIALIZERS_ALONE);
        }
    }
    let known = |f: &Field| f.tagged(tag::MODEL_OPSET).is_some_and(|body| domain(body) == MICROSOFT);
    if pass.microsoft && !model.iter().any(known) {
        let set = OperatorSetIdProto { domain: Some(MICROSOFT.into()), version: Some(1) };
        model.push(Field::message(tag::MODEL_OPSET, &set));
    }
    Ok(DynamicModel { bytes: sized(&model)?, report: pass.report })
}

fn nothing_to_do(report: &DynamicReport) -> Problem {
    let what = match report.kept_float.first() {
        Some(KeptFloat { node, reason }) => {
            format!("no product or LSTM of it can be quantized (`{node}`: {reason})")
        }
        None => "no MatMul, Gemm, LSTM or embedding in it has stored float weights".into(),
    };
    let way_out = match report.convolutions {
        0 => "Give a float model with linear layers, LSTMs or embeddings",
        _ => "Its weights are in convolutions: quantize it with `{mode} static`",
    };
    Problem::unsupported("ONNX graph", what, way_out)
}

/// The bytes of a message, which a file can hold.
fn sized(fields: &[Field]) -> Result<Vec<u8>, Problem> {
    let bytes = join(fields);
    if bytes.len() as u64 > MAX_FILE {
        let what = format!("an ONNX file of {} bytes", bytes.len());
        return Err(Problem::TooLarge { place: "quantized model".into(), what, limit: MAX_FILE });
    }
    Ok(bytes)
}

fn domain(body: &Bytes) -> String {
    OperatorSetIdProto::decode(body.clone()).ok().and_then(|set| set.domain).unwrap_or_default()
}

/// Whether the file names its opset; an error where that has no dynamic quantization.
fn has_operator_set(model: &[Field]) -> Result<bool, Problem> {
    for body in model.iter().filter_map(|f| f.tagged(tag::MODEL_OPSET)) {
        let set = OperatorSetIdProto::decode(body.clone())
            .map_err(|e| Problem::damaged("ONNX messages", e.to_string()))?;
        let ours = matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"));
        if let Some(version) = set.version.filter(|_| ours) {
            return if version >= OPSET {
                Ok(true)
            } else {
                let what = format!("it uses opset {version}; dynamic int8 needs {OPSET} or a newer one");
                let way_out =
                    "Export it again with `opset_version=17`, or convert it with `onnx.version_converter`";
                Err(Problem::unsupported("ONNX file", what, way_out))
            };
        }
    }
    Ok(false)
}

/// Bytes in the place of a stored matrix, by name.
#[derive(Clone, Debug)]
struct Bytewise {
    weight: String,
    scale: String,
    zero_point: String,
}

/// The weights that one kind of node reads: their scope and name, whether they are transposed, and a factor.
type Key = (usize, String, bool, u32);

/// What goes on while a file is edited.
struct Pass {
    splitter: Splitter,
    tensors: Store,
    report: DynamicReport,
    /// All names of the file, of values and nodes.
    taken: HashSet<String>,
    /// How often each value is read.
    uses: HashMap<String, usize>,
    /// What the nodes read that give or move weights, by their output; `None` where two graphs have the name.
    movers: HashMap<String, Option<Vec<String>>>,
    /// Values that nothing reads any more.
    dead: HashSet<String>,
    /// `None` where the weights are not finite.
    made: HashMap<Key, Option<Bytewise>>,
    /// How often rows of each value are looked up.
    lookups: HashMap<String, usize>,
    /// The matrices that products read, and whether transposed; `None` where they are read times a factor.
    products: Vec<(String, Option<bool>)>,
    /// Tables whose bytes a product reads too.
    tables: Vec<Table>,
    /// What stands for tables of embeddings, by scope and name; `None` where they are not finite.
    embeddings: HashMap<(usize, String), Option<Rc<Table>>>,
    /// New tensors of the main graph, which all subgraphs see.
    added: Vec<TensorProto>,
    /// New nodes before all others of the main graph.
    first: Vec<NodeProto>,
    scopes: usize,
    microsoft: bool,
}

impl Pass {
    fn new(tensors: TensorReader) -> Pass {
        Pass {
            splitter: Splitter::new(),
            tensors: Store::new(tensors),
            report: DynamicReport::default(),
            taken: HashSet::new(),
            uses: HashMap::new(),
            movers: HashMap::new(),
            dead: HashSet::new(),
            made: HashMap::new(),
            lookups: HashMap::new(),
            products: Vec::new(),
            tables: Vec::new(),
            embeddings: HashMap::new(),
            added: Vec::new(),
            first: Vec::new(),
            scopes: 0,
            microsoft: false,
        }
    }

    /// The graph with products and LSTMs exchanged. What only they read is still there. `scopes` are the graphs around it.
    fn rewrite(&mut self, graph: &Bytes, scopes: &mut Vec<Scope>) -> Result<Bytes, Problem> {
        let fields = self.splitter.fields(graph)?;
        self.scopes += 1;
        scopes.push(Scope::new(self.scopes, &fields, &mut self.splitter)?);
        let mut made = Vec::with_capacity(fields.len());
        for field in fields {
            match field.tagged(tag::GRAPH_NODE) {
                Some(body) => match self.exchanged(body, scopes)? {
                    Some(nodes) => made.extend(nodes),
                    None => {
                        let node = self.with_subgraphs(body, |pass, graph| pass.rewrite(graph, scopes))?;
                        made.push(node.map_or(field.clone(), |node| Field::new(tag::GRAPH_NODE, &node)));
                    }
                },
                None => made.push(field),
            }
        }
        scopes.pop();
        Ok(join(&made).into())
    }

    /// What stands in a node's place, if something does.
    fn exchanged(&mut self, body: &Bytes, scopes: &mut [Scope]) -> Result<Option<Vec<Field>>, Problem> {
        let proto = self.splitter.node(body)?;
        let node = NodeView { proto: &proto };
        if !matches!(proto.domain.as_str(), "" | "ai.onnx") {
            return Ok(None);
        }
        match node.op() {
            "MatMul" | "Gemm" => self.product(node, scopes),
            "LSTM" => self.lstm(node, body, scopes),
            "Gather" => self.embedding(node, scopes),
            "Conv" | "ConvTranspose" => {
                self.report.convolutions += 1;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// A node with `edit` applied to each graph among its attributes; `None` where it has none.
    fn with_subgraphs(
        &mut self,
        body: &Bytes,
        mut edit: impl FnMut(&mut Pass, &Bytes) -> Result<Bytes, Problem>,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let mut fields = self.splitter.fields(body)?;
        let mut edited = false;
        for field in &mut fields {
            let Some(attribute) = field.tagged(tag::NODE_ATTRIBUTE) else { continue };
            let mut parts = self.splitter.fields(attribute)?;
            let graphs = |p: &&mut Field| matches!(p.tag, tag::ATTRIBUTE_GRAPH | tag::ATTRIBUTE_GRAPHS);
            let mut here = false;
            for part in parts.iter_mut().filter(graphs) {
                if let Some(graph) = &part.body {
                    *part = Field::new(part.tag, &edit(self, graph)?);
                    here = true;
                }
            }
            if here {
                *field = Field::new(tag::NODE_ATTRIBUTE, &join(&parts));
                edited = true;
            }
        }
        Ok(edited.then(|| join(&fields)))
    }

    /// The fields of a graph without what nothing reads any more, and without references to other files.
    fn swept(&mut self, graph: &Bytes) -> Result<Vec<Field>, Problem> {
        let mut kept = Vec::new();
        for field in self.splitter.fields(graph)? {
            let Some(body) = field.body.clone() else {
                kept.push(field);
                continue;
            };
            match field.tag {
                tag::GRAPH_NODE => {
                    if let Some(node) = self.swept_node(field, &body)? {
                        kept.push(node);
                    }
                }
                tag::GRAPH_INITIALIZER => {
                    let tensor = self.splitter.tensor(&body)?;
                    if self.dead.contains(&tensor.name) {
                        continue;
                    }
                    let inside = tensor.data_location != Some(EXTERNAL);
                    kept.push(if inside { field } else { self.moved_in(&body, &tensor)? });
                }
                tag::GRAPH_INPUT | tag::GRAPH_VALUE_INFO if self.dead.contains(&value_name(&body)?) => {}
                _ => kept.push(field),
            }
        }
        Ok(kept)
    }

    fn swept_node(&mut self, field: Field, body: &Bytes) -> Result<Option<Field>, Problem> {
        let node = self.splitter.node(body)?;
        if scope::moves_weights(&node) && node.output.iter().all(|o| self.dead.contains(o)) {
            return Ok(None);
        }
        if self.reads_outside(body)? {
            let way_out = "Load the model in Python and save it as one file with `onnx.save`";
            let what = "elements of one of its attributes are in another file";
            return Err(NodeView { proto: &node }.unsupported(what, way_out));
        }
        let edited = self.with_subgraphs(body, |pass, graph| Ok(join(&pass.swept(graph)?).into()))?;
        Ok(Some(edited.map_or(field, |node| Field::new(tag::GRAPH_NODE, &node))))
    }

    /// Whether a tensor among the attributes of a node has its elements in another file.
    fn reads_outside(&mut self, body: &Bytes) -> Result<bool, Problem> {
        for field in self.splitter.fields(body)? {
            let Some(attribute) = field.tagged(tag::NODE_ATTRIBUTE) else { continue };
            for part in self.splitter.fields(attribute)? {
                if let (tag::ATTRIBUTE_TENSOR | tag::ATTRIBUTE_TENSORS, Some(tensor)) = (part.tag, &part.body)
                    && self.splitter.tensor(tensor)?.data_location == Some(EXTERNAL)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// A tensor with the elements that another file holds for it.
    fn moved_in(&mut self, body: &Bytes, tensor: &TensorProto) -> Result<Field, Problem> {
        let elements = self.tensors.reader.external_bytes(tensor)?;
        let elsewhere = [tag::TENSOR_RAW, tag::TENSOR_EXTERNAL, tag::TENSOR_LOCATION];
        let mut fields = self.splitter.fields(body)?;
        fields.retain(|f| !elsewhere.contains(&f.tag));
        fields.push(Field::new(tag::TENSOR_RAW, &elements));
        Ok(Field::new(tag::GRAPH_INITIALIZER, &join(&fields)))
    }

    /// A node that would be quantized stays as it is.
    fn keep(&mut self, node: NodeView<'_>, reason: impl Into<String>) {
        self.report.kept_float.push(KeptFloat { node: node.name().to_owned(), reason: reason.into() });
    }

    /// Says that a node reads `name` no more, which with the nodes that only lead to it is dead when no other does.
    fn release(&mut self, name: &str) {
        let mut names = vec![name.to_owned()];
        while let Some(name) = names.pop() {
            let Some(uses) = self.uses.get_mut(&name) else { continue };
            *uses = uses.saturating_sub(1);
            // What another graph of this name reads is not known.
            if *uses == 0
                && self.movers.get(&name).is_none_or(Option::is_some)
                && self.dead.insert(name.clone())
            {
                names.extend(self.movers.get(&name).cloned().flatten().into_iter().flatten());
            }
        }
    }

    /// A name that nothing in the file has.
    fn unused(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        let mut n = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        name
    }

    /// Adds a tensor of the main graph, and returns its name.
    fn add(&mut self, name: String, shape: &[usize], data: Data) -> Result<String, Problem> {
        let place = format!("tensor `{name}`");
        let name = self.unused(name);
        let tensor = Tensor::new(shape, data).map_err(|e| Problem::damaged(place, e.to_string()))?;
        let mut raw = Vec::new();
        write_le(tensor.data(), &mut raw).map_err(|error| Problem::Io { action: "write", error })?;
        let elements = TensorProto { raw_data: Some(raw.into()), ..TensorProto::default() };
        self.added.push(described(&name, &tensor, elements));
        Ok(name)
    }
}

fn check_depth(depth: usize) -> Result<(), Problem> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    let what = "graphs stand in each other deeper than any exporter writes".into();
    Err(Problem::TooLarge { place: "ONNX graph".into(), what, limit: MAX_DEPTH as u64 })
}

fn text(body: &Bytes) -> Result<String, Problem> {
    let text = std::str::from_utf8(body);
    text.map(str::to_owned).map_err(|e| Problem::damaged("a name in the ONNX graph", e.to_string()))
}

fn value_name(body: &Bytes) -> Result<String, Problem> {
    let info = ValueInfoProto::decode(body.clone());
    info.map(|info| info.name).map_err(|e| Problem::damaged("ONNX messages", e.to_string()))
}

fn node_field(node: &NodeProto) -> Field {
    Field::message(tag::GRAPH_NODE, node)
}

/// The error of weights with which a network gives no numbers.
fn not_finite(node: NodeView<'_>) -> Problem {
    node.unsupported(
        "its weights are not all finite numbers (NaN or infinities)",
        "`offshoot check MODEL DATA` finds the first layer that gives such numbers; take weights from before they appeared",
    )
}
