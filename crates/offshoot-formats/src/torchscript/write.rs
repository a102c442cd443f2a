//! A model as an archive.

use std::io::{self, Seek, Write};

use offshoot_graph::passes::{expand, remove_training_leftovers};
use offshoot_graph::{DType, Graph, InferenceGraph, Model, Role, Shape, Source, Tensor, ValueId};

use super::pickle::{Pickler, TensorRecord};
use super::print::{MODULE, Printer, classes, written};
use super::tree::{Held, Tree};
use super::{Form, METADATA_FILE, Options, script};
use crate::error::Problem;
use crate::stored_zip;

/// The folder that everything is in. PyTorch takes the file's own name, which would make equal models differ.
const ROOT: &str = "model";

/// The version of the operators' meaning, PyTorch 1.6's and later's.
const VERSION: &str = "4\n";

const WAY_OUT: &str = "Export the model's own graph";

pub(super) fn write(out: &mut (impl Write + Seek), model: &Model, options: Options) -> Result<(), Problem> {
    let unsupported = |what: String| Problem::unsupported("graph", what, WAY_OUT);
    let written = written(&model.graph);
    let graph = expand(&model.graph, |composite| !written(composite))
        .and_then(|graph| remove_training_leftovers(&graph))
        .map_err(|e| unsupported(e.to_string()))?;
    let graph = InferenceGraph::new(graph).map_err(|e| unsupported(e.to_string()))?;
    if graph.inputs().len() != 1 {
        return Err(unsupported(format!("it has {} inputs, not one", graph.inputs().len())));
    }
    if classes(&graph) != Some(model.metadata.classes.len()) {
        return Err(unsupported(format!("it does not give {} logits", model.metadata.classes.len())));
    }
    let files = Files::new(model, &graph, options)?;
    files.write(out).map_err(|error| Problem::Io { action: "write", error })
}

/// What the archive holds.
struct Files<'a> {
    data: Vec<u8>,
    constants: Vec<u8>,
    code: String,
    extra: Vec<(&'static str, String)>,
    /// In the order of their numbers; `None` is a counter.
    tensors: Vec<Option<&'a Tensor>>,
    constant_tensors: Vec<&'a Tensor>,
}

impl<'a> Files<'a> {
    fn new(model: &'a Model, graph: &'a Graph, options: Options) -> Result<Files<'a>, Problem> {
        let tree = Tree::new(graph);
        let printer = Printer::new(graph, &tree);
        let metadata = &model.metadata;
        let code = match options.form {
            Form::Traced => printer.code("forward", "", "")?,
            Form::Scripted => {
                let methods = script::methods(metadata, model.gives_probabilities())?;
                printer.code("logits", script::ATTRIBUTES, &methods)?
            }
        };
        let json = |text: serde_json::Result<String>| {
            text.map_err(|e| Problem::unsupported("metadata", e.to_string(), "Use finite numbers"))
        };
        let extra = vec![
            ("classes.json", json(serde_json::to_string(&metadata.classes))?),
            (METADATA_FILE, json(serde_json::to_string(metadata))?),
            ("preprocessing.json", json(serde_json::to_string(&metadata.preprocessing))?),
        ];
        let mut tensors = Vec::new();
        let mut pickler = Pickler::new();
        let labels = (options.form == Form::Scripted).then_some(&metadata.classes[..]);
        pickle_module(&tree, 0, labels, &mut pickler, &mut |held, pickler| {
            let record = record(model, graph, held, tensors.len())?;
            pickler.tensor(&record);
            tensors.push(match held {
                Held::Parameter(id, _) => model.weights.get(&graph.value(id).name),
                Held::Counter => None,
            });
            Ok(())
        })?;
        let constant_tensors: Vec<&Tensor> =
            printer.constants.iter().filter_map(|&id| constant(graph, id)).collect();
        Ok(Files {
            data: pickler.finish(),
            constants: pickle_constants(&constant_tensors)?,
            code,
            extra,
            tensors,
            constant_tensors,
        })
    }

    fn write(&self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        stored_zip::write(out, ROOT, |zip| {
            zip.entry("data.pkl", &self.data)?;
            zip.entry(&format!("code/{}.py", MODULE.replace('.', "/")), self.code.as_bytes())?;
            zip.entry("constants.pkl", &self.constants)?;
            for (name, text) in &self.extra {
                zip.entry(&format!("extra/{name}"), text.as_bytes())?;
            }
            for (number, tensor) in self.constant_tensors.iter().enumerate() {
                zip.tensor(&format!("constants/{number}"), tensor)?;
            }
            for (number, tensor) in self.tensors.iter().enumerate() {
                let name = format!("data/{number}");
                match tensor {
                    Some(tensor) => zip.tensor(&name, tensor)?,
                    None => zip.entry(&name, &0i64.to_le_bytes())?,
                }
            }
            zip.entry("version", VERSION.as_bytes())?;
            zip.entry("byteorder", b"little")
        })
    }
}

/// A module and all under it. `tensor` writes the tensors, `labels` become the attribute `classes` of the outermost one.
fn pickle_module(
    tree: &Tree,
    index: usize,
    labels: Option<&[String]>,
    pickler: &mut Pickler,
    tensor: &mut impl FnMut(Held, &mut Pickler) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let module = &tree.modules[index];
    pickler.begin_object(MODULE, &module.class);
    pickler.text("training");
    pickler.bool(false);
    pickler.text("_is_full_backward_hook");
    pickler.none();
    for (name, held) in &module.tensors {
        pickler.text(name);
        tensor(*held, pickler)?;
    }
    for (name, child) in &module.children {
        pickler.text(name);
        pickle_module(tree, *child, None, pickler, tensor)?;
    }
    if let Some(labels) = labels {
        pickler.text("classes");
        pickler.texts(labels);
    }
    pickler.end_object();
    Ok(())
}

/// Where a tensor is and what it looks like, after a look at the weights.
fn record<'a>(
    model: &'a Model,
    graph: &Graph,
    held: Held,
    number: usize,
) -> Result<TensorRecord<'a>, Problem> {
    let key = number.to_string();
    let Held::Parameter(id, role) = held else {
        return Ok(TensorRecord { key, storage: "LongStorage", shape: &[], requires_grad: false });
    };
    let value = graph.value(id);
    let place = || format!("parameter `{}`", value.name);
    let tensor = model
        .weights
        .get(&value.name)
        .ok_or_else(|| Problem::unsupported(place(), "the weights do not hold it", "Load all weights"))?;
    if Shape::fixed(tensor.shape()) != value.shape
        || tensor.dtype() != value.dtype
        || value.dtype != DType::F32
    {
        let held = format!("{}{}", tensor.dtype(), Shape::fixed(tensor.shape()));
        let what = format!("the weights hold {held}, the graph takes {}{}", value.dtype, value.shape);
        return Err(Problem::unsupported(place(), what, "Load the weights of this model"));
    }
    let requires_grad = role == Role::Weight;
    Ok(TensorRecord { key, storage: "FloatStorage", shape: tensor.shape(), requires_grad })
}

fn constant(graph: &Graph, id: ValueId) -> Option<&Tensor> {
    match &graph.value(id).source {
        Source::Constant(tensor) => Some(tensor),
        Source::Input | Source::Parameter(_) | Source::Node { .. } => None,
    }
}

fn pickle_constants(constants: &[&Tensor]) -> Result<Vec<u8>, Problem> {
    let mut pickler = Pickler::new();
    pickler.mark();
    for (number, tensor) in constants.iter().enumerate() {
        let storage = match tensor.dtype() {
            DType::F32 => "FloatStorage",
            DType::I64 => "LongStorage",
            other => {
                let what = format!("it has a constant of {other}");
                return Err(Problem::unsupported("graph", what, WAY_OUT));
            }
        };
        let (key, shape) = (number.to_string(), tensor.shape());
        pickler.tensor(&TensorRecord { key, storage, shape, requires_grad: false });
    }
    pickler.tuple();
    Ok(pickler.finish())
}
