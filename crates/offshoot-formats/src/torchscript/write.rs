//! A model as an archive.

use std::io::{self, Seek, SeekFrom, Write};

use offshoot_graph::passes::{expand, remove_training_leftovers};
use offshoot_graph::{DType, Graph, InferenceGraph, Model, Role, Shape, Source, Tensor, ValueId};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::pickle::{Pickler, TensorRecord};
use super::print::{MODULE, Printer, classes, written};
use super::tree::{Held, Tree};
use super::{Form, METADATA_FILE, Options, script};
use crate::elements::write_le;
use crate::error::Problem;

/// The folder that everything is in. PyTorch takes the file's own name, which would make equal models differ.
const ROOT: &str = "model";

/// Where PyTorch wants tensors to begin, in bytes.
const ALIGNMENT: u16 = 64;

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
                let methods = script::methods(&metadata.preprocessing, model.gives_probabilities())?;
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
        let mut out = Remembering { out, at: 0, failed: None };
        let written = self.write_archive(&mut out);
        out.failed.map_or(written, Err)
    }

    fn write_archive(&self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        let mut zip = ZipWriter::new(out);
        entry(&mut zip, "data.pkl", &self.data)?;
        entry(&mut zip, &format!("code/{}.py", MODULE.replace('.', "/")), self.code.as_bytes())?;
        entry(&mut zip, "constants.pkl", &self.constants)?;
        for (name, text) in &self.extra {
            entry(&mut zip, &format!("extra/{name}"), text.as_bytes())?;
        }
        for (number, tensor) in self.constant_tensors.iter().enumerate() {
            start(&mut zip, &format!("constants/{number}"), bytes(tensor))?;
            write_le(tensor.data(), &mut zip)?;
        }
        for (number, tensor) in self.tensors.iter().enumerate() {
            let name = format!("data/{number}");
            match tensor {
                Some(tensor) => {
                    start(&mut zip, &name, bytes(tensor))?;
                    write_le(tensor.data(), &mut zip)?;
                }
                None => entry(&mut zip, &name, &0i64.to_le_bytes())?,
            }
        }
        entry(&mut zip, "version", VERSION.as_bytes())?;
        entry(&mut zip, "byteorder", b"little")?;
        zip.finish()?;
        Ok(())
    }
}

/// A writer that remembers its first error and takes everything after it: a [`ZipWriter`] that is dropped tries again to end
/// its archive, and prints what goes wrong then.
struct Remembering<'a, W> {
    out: &'a mut W,
    at: u64,
    failed: Option<io::Error>,
}

impl<W> Remembering<'_, W> {
    /// What the writer said; what `otherwise` says where it has failed.
    fn remember<T>(&mut self, said: io::Result<T>, otherwise: T) -> io::Result<T> {
        said.or_else(|error| {
            self.failed.get_or_insert(error);
            Ok(otherwise)
        })
    }
}

impl<W: Write> Write for Remembering<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let said = if self.failed.is_none() { self.out.write(bytes) } else { Ok(bytes.len()) };
        let written = self.remember(said, bytes.len())?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let said = if self.failed.is_none() { self.out.flush() } else { Ok(()) };
        self.remember(said, ())
    }
}

impl<W: Seek> Seek for Remembering<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => place,
            SeekFrom::Current(by) | SeekFrom::End(by) => self.at.saturating_add_signed(by),
        };
        let said = if self.failed.is_none() { self.out.seek(to) } else { Ok(place) };
        self.at = self.remember(said, place)?;
        Ok(self.at)
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    tensor.len() as u64 * tensor.dtype().size() as u64
}

fn start(zip: &mut ZipWriter<impl Write + Seek>, name: &str, len: u64) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644)
        .with_alignment(ALIGNMENT)
        .large_file(len > u32::MAX.into());
    Ok(zip.start_file(format!("{ROOT}/{name}"), options)?)
}

fn entry(zip: &mut ZipWriter<impl Write + Seek>, name: &str, content: &[u8]) -> io::Result<()> {
    start(zip, name, content.len() as u64)?;
    zip.write_all(content)
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
        if tensor.dtype() != DType::F32 {
            let what = format!("it has a constant of {}", tensor.dtype());
            return Err(Problem::unsupported("graph", what, WAY_OUT));
        }
        let (key, shape) = (number.to_string(), tensor.shape());
        pickler.tensor(&TensorRecord { key, storage: "FloatStorage", shape, requires_grad: false });
    }
    pickler.tuple();
    Ok(pickler.finish())
}
