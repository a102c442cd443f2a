//! A model as an archive.

use std::io::{Seek, Write};

use offshoot_graph::op::Recurrent;
use offshoot_graph::passes::{expand, remove_training_leftovers, unroll};
use offshoot_graph::{DType, Graph, GraphError, InferenceGraph, Model, Op, Shape, Source, Tensor, ValueId};
use serde_json::{Map, Value as Json, json};

use super::METADATA_FILE;
use super::print::{Printer, WAY_OUT, constant_key, meta};
use crate::composite::in_torch;
use crate::error::Problem;
use crate::stored_zip;

/// The folder that everything is in. PyTorch takes the file's own name, which would make equal models differ.
const ROOT: &str = "model";

pub(super) fn write(out: &mut (impl Write + Seek), model: &Model) -> Result<(), Problem> {
    let graph = prepared(&model.graph)?;
    let files = Files::new(model, &graph)?;
    files.write(out).map_err(|error| Problem::Io { action: "write", error })
}

/// The graph in operators that PyTorch has.
fn prepared(graph: &Graph) -> Result<InferenceGraph, Problem> {
    let failed = |e: GraphError| Problem::unsupported("graph", e.to_string(), WAY_OUT);
    let lstm = |node: &offshoot_graph::Node| matches!(node.op, Op::Recurrent(Recurrent::Lstm(_)));
    let written = in_torch(graph);
    let graph = expand(graph, |composite| !written(composite)).map_err(failed)?;
    let graph = if graph.nodes().iter().any(lstm) { unroll(&graph, lstm).map_err(failed)? } else { graph };
    let graph = remove_training_leftovers(&graph).map_err(failed)?;
    InferenceGraph::new(graph).map_err(|e| Problem::unsupported("graph", e.to_string(), WAY_OUT))
}

/// What the archive holds.
struct Files<'a> {
    program: String,
    weights: Config<'a>,
    constants: Config<'a>,
    extra: Vec<(&'static str, String)>,
}

/// Tensors, and what says where they are.
struct Config<'a> {
    json: String,
    /// `None` is a counter.
    tensors: Vec<Option<&'a Tensor>>,
}

impl<'a> Files<'a> {
    fn new(model: &'a Model, graph: &'a Graph) -> Result<Files<'a>, Problem> {
        let metadata = &model.metadata;
        let text = |text: serde_json::Result<String>| {
            text.map_err(|e| Problem::unsupported("metadata", e.to_string(), "Use finite numbers"))
        };
        if graph.outputs().first().and_then(|&(_, id)| graph.value(id).shape.0.last()?.fixed())
            != Some(metadata.classes.len())
        {
            let what = format!("it does not give {} logits", metadata.classes.len());
            return Err(Problem::unsupported("graph", what, WAY_OUT));
        }
        let printer = Printer::new(graph);
        let (mut config, mut tensors) = (Map::new(), Vec::new());
        for (index, held) in printer.held.iter().enumerate() {
            let tensor = held.value.map(|id| weight(model, graph, id)).transpose()?;
            let is_weight = held.role == offshoot_graph::Role::Weight;
            let path = format!("weight_{index}");
            config.insert(held.key.clone(), payload(&path, is_weight, printer.held_meta(index)?));
            tensors.push(tensor);
        }
        let weights = Config { json: json!({"config": config}).to_string(), tensors };
        let (mut config, mut tensors) = (Map::new(), Vec::new());
        for (number, (id, _)) in printer.constants.iter().enumerate() {
            let value = graph.value(*id);
            let meta = meta(&value.shape, value.dtype, false)?;
            config.insert(constant_key(number), payload(&format!("tensor_{number}"), false, meta));
            tensors.push(constant(graph, *id));
        }
        let constants = Config { json: json!({"config": config}).to_string(), tensors };
        let extra = vec![
            ("classes.json", text(serde_json::to_string(&metadata.classes))?),
            (METADATA_FILE, text(serde_json::to_string(metadata))?),
            ("preprocessing.json", text(serde_json::to_string(&metadata.preprocessing))?),
        ];
        Ok(Files { program: printer.program()?.to_string(), weights, constants, extra })
    }

    fn write(&self, out: &mut (impl Write + Seek)) -> std::io::Result<()> {
        stored_zip::write(out, ROOT, |zip| {
            zip.entry("archive_format", b"pt2")?;
            zip.entry("archive_version", b"0")?;
            zip.entry("byteorder", b"little")?;
            zip.entry(".data/version", b"6\n")?;
            zip.entry("models/model.json", self.program.as_bytes())?;
            zip.entry("data/weights/model_weights_config.json", self.weights.json.as_bytes())?;
            zip.entry("data/constants/model_constants_config.json", self.constants.json.as_bytes())?;
            // PyTorch wants the entry, and takes an empty one for no examples.
            zip.entry("data/sample_inputs/model.pt", b"")?;
            for (name, text) in &self.extra {
                zip.entry(&format!("extra/{name}"), text.as_bytes())?;
            }
            for (number, tensor) in self.constants.tensors.iter().enumerate() {
                if let Some(tensor) = tensor {
                    zip.tensor(&format!("data/constants/tensor_{number}"), tensor)?;
                }
            }
            for (number, tensor) in self.weights.tensors.iter().enumerate() {
                let name = format!("data/weights/weight_{number}");
                match tensor {
                    Some(tensor) => zip.tensor(&name, tensor)?,
                    None => zip.entry(&name, &0i64.to_le_bytes())?,
                }
            }
            Ok(())
        })
    }
}

fn payload(path: &str, is_weight: bool, meta: Json) -> Json {
    json!({"path_name": path, "is_param": is_weight, "use_pickle": false, "tensor_meta": meta})
}

/// The tensor of a parameter, which must be that of the graph.
fn weight<'a>(model: &'a Model, graph: &Graph, id: ValueId) -> Result<&'a Tensor, Problem> {
    let value = graph.value(id);
    let place = || format!("parameter `{}`", value.name);
    let tensor = model
        .weights
        .get(&value.name)
        .ok_or_else(|| Problem::unsupported(place(), "the weights do not hold it", "Load all weights"))?;
    let fits = Shape::fixed(tensor.shape()) == value.shape && tensor.dtype() == value.dtype;
    if fits && value.dtype == DType::F32 {
        return Ok(tensor);
    }
    let held = format!("{}{}", tensor.dtype(), Shape::fixed(tensor.shape()));
    let what = format!("the weights hold {held}, the graph takes {}{}", value.dtype, value.shape);
    Err(Problem::unsupported(place(), what, "Load the weights of this model"))
}

fn constant(graph: &Graph, id: ValueId) -> Option<&Tensor> {
    match &graph.value(id).source {
        Source::Constant(tensor) => Some(tensor),
        Source::Input | Source::Parameter(_) | Source::Node { .. } => None,
    }
}
