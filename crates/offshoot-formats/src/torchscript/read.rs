//! An archive as a classifier.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::passes::prune;
use offshoot_graph::{DType, Data, Dim, GraphError, Metadata, Model, Shape, Tensor, Weights};

use super::evaluate::{Evaluator, WAY_OUT};
use super::place::Place;
use super::program::Program;
use super::tensors::load;
use super::{METADATA_FILE, TorchScriptModel};
use crate::ending::{logits, rows};
use crate::error::Problem;
use crate::import::Site;
use crate::import::aten::{Aten, Stacked, Stored};
use crate::metadata::{self, MAX_CLASSES, MAX_PICTURE};
use crate::pth::container::Archive;
use crate::pth::storage;
use crate::pth::values::{Node, Value as Pickle};

/// The most bytes of our metadata.
const MAX_METADATA: u64 = 16 << 20;
/// The most elements of a constant that takes part in arithmetic, and of all of them.
const MAX_CONSTANT: usize = 1 << 18;
const MAX_CONSTANTS: usize = 1 << 22;

const LAYOUT: &str = "Give a classifier of pictures, whose input is [batch, 3, height, width]";

pub(super) fn read(source: impl Read + Seek, size: Option<usize>) -> Result<TorchScriptModel, Problem> {
    let mut program = open(source)?;
    let own = own_metadata(&mut program)?;
    let traced = traced_input(&mut program)?;
    let stated = own.as_ref().map(|(_, m)| m.preprocessing.size);
    let side = stated.or(size).or(traced.as_ref().map(|t| t.side)).unwrap_or(224);
    if !(1..=MAX_PICTURE).contains(&side) {
        let what = format!("its pictures have {side} pixels a side");
        return Err(Problem::TooLarge { place: "the archive".into(), what, limit: MAX_PICTURE as u64 });
    }

    program.small_constants = small_constants(&mut program)?;
    let name = program.class_name();
    let mut aten = Aten::new(&name, Dim::symbol(BATCH), traced.map(|t| t.batch));
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), side.into(), side.into()]);
    let input = aten.import.graph.add_input(INPUT, DType::F32, shape);
    let input = aten.define(input);
    let root = program.root()?;
    let method = match own.is_some() && program.class(root)?.methods.contains_key("logits") {
        true => "logits",
        false => "forward",
    };
    let mut evaluator = Evaluator::new(&mut program, aten);
    let (result, place) = evaluator.run(method, input)?;
    let mut aten = evaluator.aten;
    let output = aten.result(&result, &End(&place))?;
    let mut graph = aten.import.graph;

    let mut warnings = Vec::new();
    let failed = |e: GraphError| place.damaged(e.to_string());
    let output = rows(&mut graph, output).map_err(failed)?;
    let classes = match graph.value(output).shape.0[..] {
        [ref batch, Dim::Fixed(classes)] if *batch == Dim::symbol(BATCH) => classes,
        _ => {
            let shape = &graph.value(output).shape;
            let what = format!("the result is {shape}, a classifier's is [{BATCH}, classes]");
            return Err(place.unsupported(what, LAYOUT));
        }
    };
    if classes > MAX_CLASSES {
        return Err(place.too_large(format!("it gives {classes} classes"), MAX_CLASSES as u64));
    }
    graph.add_output(OUTPUT, output);
    let (graph, ending) = logits(graph, &Weights::new())?;
    warnings.extend(ending);
    let mut graph = prune(&graph).map_err(failed)?;
    let kept: HashSet<&str> = graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
    let used: Vec<(String, Stored)> =
        aten.used.into_iter().filter(|(name, _)| kept.contains(name.as_str())).collect();
    let mut weights = floats(load(&mut program, &used)?, &mut warnings)?;
    aten.stacked.retain(|_, stacked| kept.contains(stacked.name.as_str()));
    weights.append(&mut stacked(&mut program, &aten.stacked, &mut warnings)?);
    // Others keep weights among the constants, as `torch.jit.freeze` does; in a file of ours they are constants of the graph.
    for (name, _) in used.iter().filter(|(_, stored)| stored.constant && own.is_some()) {
        if let (Some(id), Some(tensor)) = (graph.find_parameter(name), weights.remove(name)) {
            graph.hold(id, tensor).map_err(failed)?;
        }
    }
    let (metadata, assumed) = match own {
        Some((json, _)) => {
            (metadata::parse(&json, &format!("extra/{METADATA_FILE}"), classes, Some(side))?, false)
        }
        None => (metadata::assume(classes, Some(side), &mut warnings), true),
    };
    Ok(TorchScriptModel {
        model: Model { graph, weights, metadata },
        assumed_preprocessing: assumed,
        warnings,
    })
}

/// The end of the code.
struct End<'a>(&'a Place);

impl Site for End<'_> {
    fn name(&self) -> &str {
        "result"
    }

    fn place(&self) -> String {
        self.0.text()
    }

    fn way_out(&self) -> &str {
        WAY_OUT
    }
}

pub(super) fn state_dict(source: impl Read + Seek) -> Result<Weights, Problem> {
    let mut program = open(source)?;
    let tensors = program.names.iter().filter(|(node, _)| program.tensor(false, **node).is_some());
    let tensors: Vec<(String, Stored)> = tensors
        .map(|(&node, name)| (name.to_string(), Stored { constant: false, node, transposed: false }))
        .collect();
    load(&mut program, &tensors)
}

pub(super) fn is_torchscript(source: impl Read + Seek) -> bool {
    archive(source).is_ok_and(|(source, len)| Archive::new(source, len).is_ok_and(|a| a.has("constants.pkl")))
}

fn archive<R: Read + Seek>(mut source: R) -> Result<(BufReader<R>, u64), Problem> {
    let failed = |error| Problem::Io { action: "read", error };
    let len = source.seek(SeekFrom::End(0)).map_err(failed)?;
    source.rewind().map_err(failed)?;
    Ok((BufReader::new(source), len))
}

fn open<R: Read + Seek>(source: R) -> Result<Program<R>, Problem> {
    let (source, len) = archive(source)?;
    Program::open(source, len)
}

/// Our metadata as it is written, and read.
fn own_metadata<R: Read + Seek>(program: &mut Program<R>) -> Result<Option<(String, Metadata)>, Problem> {
    let name = format!("extra/{METADATA_FILE}");
    if !program.archive.has(&name) {
        return Ok(None);
    }
    let bytes = program.archive.read(&name, MAX_METADATA)?;
    let json = String::from_utf8(bytes).map_err(|_| Problem::damaged(&name, "it is not UTF-8"))?;
    let metadata = serde_json::from_str(&json).map_err(|e| Problem::damaged(&name, e.to_string()))?;
    Ok(Some((json, metadata)))
}

/// The picture that a model was traced with.
struct TracedInput {
    batch: i64,
    side: usize,
}

fn traced_input<R: Read + Seek>(program: &mut Program<R>) -> Result<Option<TracedInput>, Problem> {
    if !program.archive.has("traced_inputs.pkl") {
        return Ok(None);
    }
    let pickled = program.archive.pickle("traced_inputs.pkl")?;
    let heap = &pickled.heap;
    let inputs = heap.dict(&pickled.root).and_then(|entries| {
        entries.iter().find(|(key, _)| matches!(key, Pickle::Text(key) if &**key == "forward"))
    });
    let first = inputs.and_then(|(_, list)| heap.list(list)?.first()).and_then(|value| heap.node(value));
    let Some(Node::Tensor(view)) = first else { return Ok(None) };
    let [batch, channels, height, width] = view.shape[..] else {
        let what = format!("it was traced with an input of {} axes", view.shape.len());
        return Err(Problem::unsupported("traced_inputs.pkl", what, LAYOUT));
    };
    if channels != 3 || height != width {
        let what = format!(
            "it was traced with {channels} channels of {height} by {width}; only square pictures with 3 channels are read"
        );
        return Err(Problem::unsupported("traced_inputs.pkl", what, LAYOUT));
    }
    let side = usize::try_from(height).unwrap_or(usize::MAX);
    Ok(Some(TracedInput { batch: i64::try_from(batch).unwrap_or(i64::MAX), side }))
}

/// The constants that can take part in arithmetic, by node.
fn small_constants<R: Read + Seek>(program: &mut Program<R>) -> Result<BTreeMap<usize, Tensor>, Problem> {
    let order = program.archive.byte_order()?;
    let limit = program.archive.memory_limit();
    let heap = &program.constants.heap;
    let (mut small, mut total) = (Vec::new(), 0usize);
    for item in heap.tuple(&program.constants.root).unwrap_or_default() {
        let (&Pickle::Node(node), Some(Node::Tensor(view))) = (item, heap.node(item)) else { continue };
        let name = node.to_string();
        let elements = storage::shape(heap, &name, view)?.iter().product::<usize>();
        if elements <= MAX_CONSTANT && total + elements <= MAX_CONSTANTS {
            total += elements;
            small.push((name, view));
        }
    }
    let archive = &mut program.archive;
    let bytes = &mut |storage: &_| archive.storage("constants", storage);
    let loaded = storage::load(heap, &small, storage::Source { bytes, limit, order })?;
    Ok(loaded.into_iter().filter_map(|(node, tensor)| Some((node.parse().ok()?, tensor))).collect())
}

/// The parameters that are made of rows of several tensors.
fn stacked<R: Read + Seek>(
    program: &mut Program<R>,
    wanted: &HashMap<Vec<(Stored, Range<usize>)>, Stacked>,
    warnings: &mut Vec<String>,
) -> Result<Weights, Problem> {
    let bytes =
        wanted.values().map(|stacked| stacked.shape.iter().fold(4usize, |n, &side| n.saturating_mul(side)));
    let (bytes, limit) = (bytes.fold(0, usize::saturating_add), program.archive.memory_limit());
    if bytes as u64 > limit {
        let what = format!("the weights of its LSTMs take {bytes} bytes");
        return Err(Problem::TooLarge { place: "the archive".into(), what, limit });
    }
    let sources: HashSet<Stored> = wanted.keys().flatten().map(|(stored, _)| *stored).collect();
    let sources: Vec<(String, Stored)> = sources.into_iter().map(|stored| (source(stored), stored)).collect();
    let loaded = floats(load(program, &sources)?, warnings)?;
    let mut weights = Weights::new();
    for (rows, Stacked { name, shape, .. }) in wanted {
        let mut all = Vec::with_capacity(shape.iter().product());
        for (stored, range) in rows {
            all.extend_from_slice(row_range(&loaded, *stored, range.clone()).unwrap_or_default());
        }
        let tensor = Tensor::new(shape.clone(), Data::F32(all));
        weights
            .insert(name.clone(), tensor.map_err(|e| Problem::damaged(format!("`{name}`"), e.to_string()))?);
    }
    Ok(weights)
}

fn source(stored: Stored) -> String {
    format!("{} {}", stored.node, stored.constant)
}

fn row_range(loaded: &Weights, stored: Stored, rows: Range<usize>) -> Option<&[f32]> {
    let tensor = loaded.get(&source(stored))?;
    let width: usize = tensor.shape().get(1..)?.iter().product();
    tensor.as_f32()?.get(rows.start * width..rows.end * width)
}

/// The weights as float32.
fn floats(weights: Weights, warnings: &mut Vec<String>) -> Result<Weights, Problem> {
    let mut converted = false;
    let mut float = |(name, tensor): (String, Tensor)| {
        if tensor.as_f32().is_some() {
            return Ok((name, tensor));
        }
        converted = true;
        let tensor = tensor.to_f32().ok_or_else(|| {
            let what = format!("its elements are {}, a weight's are floats", tensor.dtype());
            Problem::unsupported(format!("tensor `{name}`"), what, "Save the model before it is quantized")
        })?;
        Ok((name, tensor))
    };
    let weights = weights.into_iter().map(&mut float).collect::<Result<Weights, Problem>>()?;
    if converted {
        warnings.push("the file is not all float32; it is computed in float32 here".into());
    }
    Ok(weights)
}
