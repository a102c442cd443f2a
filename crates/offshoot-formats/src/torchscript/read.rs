//! An archive as a classifier.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use offshoot_graph::model::BATCH;
use offshoot_graph::{Dim, Tensor, Weights};

use super::evaluate::{Evaluator, WAY_OUT};
use super::place::Place;
use super::program::Program;
use super::tensors::load;
use super::{METADATA_FILE, TorchScriptModel};
use crate::error::Problem;
use crate::import::Site;
use crate::import::aten::{Aten, Classifier, LAYOUT, Own, Source, Stored};
use crate::pth::container::Archive;
use crate::pth::storage;
use crate::pth::values::{Node, Value as Pickle};

/// The most elements of a constant that takes part in arithmetic, and of all of them.
const MAX_CONSTANT: usize = 1 << 18;
const MAX_CONSTANTS: usize = 1 << 22;

pub(super) fn read(source: impl Read + Seek, size: Option<usize>) -> Result<TorchScriptModel, Problem> {
    let mut program = open(source)?;
    let own = Own::read(&program.archive, &format!("extra/{METADATA_FILE}"))?;
    let traced = traced_input(&mut program)?;
    let stated = own.as_ref().map(|(_, m)| m.preprocessing.size);
    let side = stated.or(size).or(traced.as_ref().map(|t| t.side)).unwrap_or(224);
    program.small_constants = small_constants(&mut program)?;
    let mut aten = Aten::new(&program.class_name(), Dim::symbol(BATCH), traced.map(|t| t.batch));
    let input = aten.picture(side, "the archive")?;
    let root = program.root()?;
    let method = match own.is_some() && program.class(root)?.methods.contains_key("logits") {
        true => "logits",
        false => "forward",
    };
    let mut evaluator = Evaluator::new(&mut program, aten);
    let (result, place) = evaluator.run(method, input)?;
    let aten = evaluator.aten;
    let own = own.map(|(own, _)| own);
    let limit = program.archive.memory_limit();
    let load = &mut |used: &[(String, Stored)]| load(&mut program, used);
    let Classifier { model, assumed_preprocessing, warnings } =
        aten.classifier(&result, &End(&place), Source { load, limit, own, side })?;
    Ok(TorchScriptModel { model, assumed_preprocessing, warnings })
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
