//! ONNX messages as a classifier.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::passes::{prune, recognize_gelu};
use offshoot_graph::{DType, Dim, Graph, GraphError, Model, Weights};
use prost::bytes::Bytes;

use super::attributes::NodeView;
use super::order::Producers;
use super::preprocess;
use super::proto::{DimensionProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, decode};
use super::quantized;
use super::tensors::TensorReader;
use super::translate::{Context, Translator};
use super::{METADATA_KEY, OnnxModel, ReadOptions};
use crate::ending::{logits, rows};
use crate::error::Problem;
use crate::import::Importer;
use crate::metadata::{self, MAX_CLASSES, MAX_PICTURE};

/// One of a model's inputs as the file describes it.
struct Input<'a> {
    name: &'a str,
    dtype: DType,
    /// The number in the batch's place, if any.
    batch: Option<usize>,
    /// All axes but the batch: of a picture its channels, height and width.
    sides: Vec<Dim>,
    /// Whether the file has the channels of a picture last.
    channels_last: bool,
    element_type: i32,
}

impl Input<'_> {
    fn is_picture(&self) -> bool {
        self.dtype == DType::F32 && self.sides.len() == 3
    }

    /// The height or width of a picture, when the file fixes it.
    fn side(&self) -> Option<usize> {
        self.sides.iter().skip(1).find_map(Dim::fixed)
    }
}

/// What stays the same when the graph is built with another batch dim.
struct Source<'a> {
    graph: &'a GraphProto,
    nodes: Vec<NodeView<'a>>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    uses: HashMap<&'a str, usize>,
    inputs: Vec<Input<'a>>,
    output: &'a str,
    opset: i64,
    own: bool,
    len: u64,
    /// The file, where there is one.
    path: Option<&'a Path>,
}

struct Built {
    graph: Graph,
    weights: Weights,
    classes: usize,
    converted: bool,
    /// What a user should know about the end of the graph.
    ending: Option<String>,
}

pub(super) fn read(bytes: Bytes, path: Option<&Path>, options: ReadOptions) -> Result<OnnxModel, Problem> {
    let len = bytes.len() as u64;
    let mut proto = decode(bytes)?;
    take_preparation_out(&mut proto)?;
    let (mut warnings, made) = expand_quantized(&mut proto, len, path)?;
    // Tensors that were made take as much memory as they have bytes.
    let len = len.saturating_add(made.div_ceil(8));
    let own = proto.metadata_props.iter().find(|p| p.key == METADATA_KEY);
    let graph = proto.graph.as_ref().ok_or_else(|| {
        let what = "it holds no ONNX graph";
        Problem::unsupported("ONNX file", what, "Give a file written by an ONNX exporter")
    })?;
    let producers = Producers::new(graph)?;
    let output = find_output(graph, &producers)?;
    let nodes = producers.needed(output)?;
    let source = Source {
        graph,
        initializers: initializers(graph)?,
        uses: count_uses(&nodes, output),
        nodes,
        inputs: find_inputs(graph, options)?,
        output,
        opset: opset(&proto)?,
        own: own.is_some(),
        len,
        path,
    };
    let built = build_for_any_sizes(&source, &mut warnings)?;
    warnings.extend(built.ending.clone());
    let halved = |input: &Input<'_>| input.dtype == DType::F32 && input.element_type != 1;
    if built.converted || source.inputs.iter().any(halved) {
        warnings.push("the file is not all float32; it is computed in float32 here".into());
    }
    let side = source.inputs.iter().find_map(Input::side);
    let metadata = match own {
        Some(json) => {
            let place = format!("metadata `{METADATA_KEY}`");
            metadata::parse(&json.value, &place, built.classes, side)?
        }
        // What no picture is prepared for needs no word on how it was assumed.
        None if !source.inputs.iter().any(Input::is_picture) => {
            metadata::assume(built.classes, side, &mut Vec::new())
        }
        None => metadata::assume(built.classes, side, &mut warnings),
    };
    let model = Model { graph: built.graph, weights: built.weights, metadata };
    Ok(OnnxModel { model, assumed_preprocessing: own.is_none(), warnings })
}

/// Leaves the network of a file of ours that prepares its pictures itself.
fn take_preparation_out(proto: &mut ModelProto) -> Result<(), Problem> {
    let own = proto.metadata_props.iter().find(|p| p.key == METADATA_KEY);
    let (Some(own), Some(graph)) = (own, &mut proto.graph) else { return Ok(()) };
    let bytes = |v: &ValueInfoProto| {
        let tensor = v.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        v.name == preprocess::IMAGE && tensor.is_some_and(|t| t.elem_type == preprocess::U8)
    };
    if graph.input.iter().any(bytes) { preprocess::remove(graph, &own.value) } else { Ok(()) }
}

/// Exchanges operators on quantized tensors in a file that is not ours: warnings, and the bytes of tensors that were made.
fn expand_quantized(
    proto: &mut ModelProto,
    len: u64,
    path: Option<&Path>,
) -> Result<(Vec<String>, u64), Problem> {
    let own = proto.metadata_props.iter().any(|p| p.key == METADATA_KEY);
    let Some(graph) = proto.graph.as_mut().filter(|_| !own) else { return Ok((Vec::new(), 0)) };
    let output = find_output(graph, &Producers::new(graph)?)?.to_owned();
    let expanded = quantized::expand(graph, &output, len, path)?;
    Ok((expanded.warnings, expanded.made))
}

fn opset(proto: &ModelProto) -> Result<i64, Problem> {
    let ours = |domain: &Option<String>| matches!(domain.as_deref(), None | Some("" | "ai.onnx"));
    let version = proto.opset_import.iter().find(|o| ours(&o.domain)).and_then(|o| o.version);
    match version {
        Some(version @ 7..=24) => Ok(version),
        Some(other) => Err(Problem::unsupported(
            "ONNX file",
            format!("it uses opset {other}; 7 to 24 are read"),
            "Export it again with `opset_version=17`",
        )),
        None => Err(Problem::damaged("ONNX file", "it does not say which opset it uses")),
    }
}

fn initializers(graph: &GraphProto) -> Result<HashMap<&str, &TensorProto>, Problem> {
    let mut by_name = HashMap::new();
    for tensor in &graph.initializer {
        if by_name.insert(tensor.name.as_str(), tensor).is_some() {
            let what = "two initializers have this name";
            return Err(Problem::damaged(format!("tensor `{}`", tensor.name), what));
        }
    }
    Ok(by_name)
}

/// The inputs that are no initializers: of a classifier of pictures, one. (Old files list their initializers as inputs
/// too.)
fn find_inputs(graph: &GraphProto, options: ReadOptions) -> Result<Vec<Input<'_>>, Problem> {
    let stored: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs: Vec<&ValueInfoProto> =
        graph.input.iter().filter(|v| !stored.contains(v.name.as_str())).collect();
    if inputs.len() != 1 && !(options.any_input && (1..=MAX_INPUTS).contains(&inputs.len())) {
        let what = format!("it has {} inputs, a classifier of pictures has one", inputs.len());
        return Err(Problem::unsupported("ONNX graph", what, "Export the part that takes pictures"));
    }
    let inputs = inputs.into_iter().map(|input| find_input(input, options)).collect::<Result<Vec<_>, _>>()?;
    let batch = inputs.first().and_then(|input| input.batch);
    if inputs.iter().any(|input| input.batch != batch) {
        let what = "its inputs have different batches as their first axes";
        return Err(Problem::unsupported("ONNX graph", what, "Export with the batch first in each input"));
    }
    Ok(inputs)
}

/// More than any network has.
const MAX_INPUTS: usize = 64;

fn find_input(input: &ValueInfoProto, options: ReadOptions) -> Result<Input<'_>, Problem> {
    let place = format!("input `{}`", input.name);
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| Problem::damaged(&place, "it is no tensor"))?;
    let dtype = match tensor.elem_type {
        1 | 10 | 11 | 16 => DType::F32,
        6 | 7 if options.any_input => DType::I64,
        6 | 7 => {
            let what = "its elements are whole numbers: it takes tokens, not pictures";
            return Err(Problem::unsupported(place, what, TOKENS));
        }
        other => {
            let what = format!("its elements are of ONNX type {other}, not floats");
            return Err(Problem::unsupported(place, what, LAYOUT));
        }
    };
    let dims = tensor.shape.as_ref().map(|s| s.dim.as_slice()).unwrap_or_default();
    let Some((batch, sides)) = dims.split_first().filter(|_| options.any_input || dims.len() == 4) else {
        return Err(Problem::unsupported(place, format!("it has {} axes, not 4", dims.len()), LAYOUT));
    };
    let batch = side(&place, batch, "batch")?.fixed();
    let picture = match sides {
        [a, b, c] if dtype == DType::F32 => picture_sides(&place, [a, b, c], options.size),
        _ => Err(Problem::unsupported(&place, format!("it has {} axes, not 4", dims.len()), LAYOUT)),
    };
    let (sides, channels_last) = match picture {
        Err(_) if options.any_input => {
            let axis = |(i, dim)| side(&place, dim, &format!("axis{}", i + 1));
            (sides.iter().enumerate().map(axis).collect::<Result<_, _>>()?, false)
        }
        picture => picture?,
    };
    Ok(Input { name: &input.name, dtype, batch, sides, channels_last, element_type: tensor.elem_type })
}

const TOKENS: &str =
    "Run it with `offshoot verify {inputs} FILE.npz`, or quantize it with `offshoot quantize {mode} dynamic`";

const LAYOUT: &str = "Export with a float input [batch, 3, height, width] or [batch, height, width, 3]";

/// Channels, height and width of a picture, and whether the file has the channels last. Where it leaves the height and
/// width open, `size` is both.
fn picture_sides(
    place: &str,
    dims: [&DimensionProto; 3],
    size: Option<usize>,
) -> Result<(Vec<Dim>, bool), Problem> {
    let channels_last = dims[0].dim_value != Some(3) && dims[2].dim_value == Some(3);
    let [channels, height, width] = if channels_last { [dims[2], dims[0], dims[1]] } else { dims };
    let open = |dim: Dim| match (dim, size) {
        (Dim::Symbol(_), Some(size)) => Dim::Fixed(size),
        (dim, _) => dim,
    };
    let channels = side(place, channels, "channels")?;
    let [height, width] = [side(place, height, "height")?, side(place, width, "width")?].map(open);
    if channels != Dim::Fixed(3) {
        let what = format!("it has {channels} channels, pictures have 3");
        return Err(Problem::unsupported(place, what, LAYOUT));
    }
    if let (Dim::Fixed(height), Dim::Fixed(width)) = (&height, &width)
        && height != width
    {
        let what = format!("it takes pictures of {height} by {width}, only square ones are read");
        return Err(Problem::unsupported(place, what, LAYOUT));
    }
    Ok((vec![channels, height, width], channels_last))
}

/// An axis of the input; `axis` names it when it is not fixed.
fn side(place: &str, dim: &DimensionProto, axis: &str) -> Result<Dim, Problem> {
    match (dim.dim_value, dim.dim_param.as_deref()) {
        (Some(1..), _) => {
            let n = dim.dim_value.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MAX_PICTURE);
            let too_large = || Problem::TooLarge {
                place: place.to_owned(),
                what: format!("its {axis} is {}", dim.dim_value.unwrap_or_default()),
                limit: MAX_PICTURE as u64,
            };
            n.map(Dim::Fixed).ok_or_else(too_large)
        }
        (_, Some(name)) if !name.is_empty() && name != BATCH => Ok(Dim::symbol(name)),
        _ => Ok(Dim::symbol(axis)),
    }
}

/// The value that is the output.
fn find_output<'a>(graph: &'a GraphProto, producers: &Producers<'a>) -> Result<&'a str, Problem> {
    let [output] = &graph.output[..] else {
        let what = format!("it has {} outputs, a classifier has one", graph.output.len());
        return Err(Problem::unsupported("ONNX graph", what, "Export with the logits as the only output"));
    };
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
        let what = "it is a sparse tensor";
        return Err(Problem::unsupported(
            format!("tensor `{name}`"),
            what,
            "Save the model with dense weights",
        ));
    }
    let mut name = output.name.as_str();
    for _ in 0..graph.node.len() {
        let Some(node) = producers.producer(name) else { break };
        match (node.op(), node.input(0)) {
            ("Identity", Some(input)) => name = input,
            // Models in half precision end in one.
            ("Cast", Some(input)) if matches!(node.int("to", 0), 1 | 10 | 11 | 16) => name = input,
            _ => break,
        }
    }
    Ok(name)
}

fn count_uses<'a>(nodes: &[NodeView<'a>], output: &'a str) -> HashMap<&'a str, usize> {
    let mut uses = HashMap::from([(output, 1)]);
    for input in nodes.iter().flat_map(|n| &n.proto.input) {
        *uses.entry(input).or_default() += 1;
    }
    uses.remove("");
    uses
}

/// Builds with the sizes that the file leaves open, but for those which its graph counts on: what PyTorch's older exporter writes
/// of attention takes the number of steps that it was exported with.
fn build_for_any_sizes(source: &Source<'_>, warnings: &mut Vec<String>) -> Result<Built, Problem> {
    let (mut fixed, counted_on) = (Sizes::new(), Cell::new(None));
    loop {
        let problem =
            match build_for_any_batch(source, &Given { fixed: &fixed, counted_on: &counted_on }, warnings) {
                Ok(built) => return Ok(built),
                Err(problem) => problem,
            };
        match counted_on.take() {
            Some((dim, n)) if fixed.len() < MAX_INPUTS && !fixed.contains_key(&dim) => {
                warnings
                    .push(format!("the file leaves the size `{dim}` open, and takes {n} only ({problem})"));
                fixed.insert(dim, n);
            }
            _ => return Err(problem),
        }
    }
}

/// Numbers for sizes that a file leaves open.
type Sizes = HashMap<Dim, usize>;

/// What a graph is built with.
struct Given<'a> {
    fixed: &'a Sizes,
    counted_on: &'a Cell<Option<(Dim, usize)>>,
}

/// Builds with a symbolic batch. Where the file fixes the batch and its graph depends on the number, the number stays.
fn build_for_any_batch(
    source: &Source<'_>,
    given: &Given<'_>,
    warnings: &mut Vec<String>,
) -> Result<Built, Problem> {
    let Some(batch) = source.inputs.first().and_then(|input| input.batch) else {
        return build(source, given, Dim::symbol(BATCH));
    };
    match build(source, given, Dim::symbol(BATCH)) {
        Ok(built) => {
            warnings.push(format!(
                "the file fixes the batch at {batch}; nothing depends on it, any batch is taken"
            ));
            Ok(built)
        }
        Err(problem) => {
            let built = build(source, given, Dim::Fixed(batch))?;
            warnings.push(format!("the file takes batches of {batch} only ({problem})"));
            Ok(built)
        }
    }
}

fn build(source: &Source<'_>, given: &Given<'_>, batch: Dim) -> Result<Built, Problem> {
    let context = Context {
        initializers: &source.initializers,
        uses: source.uses.clone(),
        tensors: TensorReader::new(source.len, source.path),
        opset: source.opset,
        own: source.own,
        counted_on: given.counted_on,
    };
    let name = source.graph.name.as_deref().unwrap_or_default();
    let fixed_batch = source.inputs.first().and_then(|input| input.batch);
    let mut translator = Translator::new(context, Importer::new(name, batch.clone(), fixed_batch));
    for input in &source.inputs {
        let side = |dim: &Dim| given.fixed.get(dim).map_or_else(|| dim.clone(), |&n| Dim::Fixed(n));
        let shape = std::iter::once(batch.clone()).chain(input.sides.iter().map(side)).collect();
        // The one input of a network has the name that it has everywhere here.
        let name = if source.inputs.len() == 1 { INPUT } else { input.name };
        let value = translator.import.graph.add_input(name, input.dtype, shape);
        if input.channels_last {
            translator.define_channels_last(input.name, value);
        } else {
            translator.define(input.name, value);
        }
    }
    for &node in &source.nodes {
        translator.translate(node)?;
    }
    let output = translator.result(source.output)?;
    let place =
        |e: GraphError| Problem::unsupported("graph", e.to_string(), "Check the file with onnx.checker");
    let output = rows(&mut translator.import.graph, output).map_err(place)?;
    let shape = &translator.import.graph.value(output).shape;
    let classes = match shape.0[..] {
        [ref first, Dim::Fixed(classes)] if *first == batch => classes,
        _ => {
            let what = format!("its shape is {shape}, a classifier's is [{batch}, classes]");
            let way_out = "Export a classifier with its head";
            return Err(Problem::unsupported(format!("output `{}`", source.output), what, way_out));
        }
    };
    if classes == 0 || classes > MAX_CLASSES {
        let (place, what) = (format!("output `{}`", source.output), format!("it has {classes} classes"));
        return Err(Problem::TooLarge { place, what, limit: MAX_CLASSES as u64 });
    }
    translator.import.graph.add_output(OUTPUT, output);
    let converted = translator.converted;
    let recomputed = translator.recomputed;
    let (graph, mut weights) = translator.finish();
    let mut graph = recognize_gelu(&graph).map_err(place)?;
    if recomputed {
        graph = prune(&graph).map_err(place)?;
        let read: HashSet<&String> = graph.parameters().iter().map(|&id| &graph.value(id).name).collect();
        weights.retain(|name, _| read.contains(name));
    }
    let (graph, ending) = logits(graph, &weights)?;
    Ok(Built { graph, weights, classes, converted, ending })
}
