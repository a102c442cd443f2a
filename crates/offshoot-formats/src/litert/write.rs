//! Our graph as a file of LiteRT.

mod builder;
mod elements;
mod integers;
mod layers;
mod moves;
mod operands;
mod windows;

use std::collections::{HashMap, HashSet};

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::{Composite, Norm, Pooling, Resampling, ShapeOp};
use offshoot_graph::passes::{decompose, expand, remove_training_leftovers};
use offshoot_graph::{
    Bindings, DType, Dim, Graph, InferenceGraph, Model, Node, Op, Tensor, ValueId, Weights,
};

use self::builder::{Affine, Builder};
use self::integers::Job;
use self::operands::{CHANNELS_LAST, Constant, Place, Scaled};
use super::{METADATA_KEY, Options, StoredWeights, tasks};
use crate::error::Problem;

const WAY_OUT: &str = "Export the model's own graph";
const TAKES_PICTURES: &str = "LiteRT gets classifiers that take RGB pictures of one size";

/// The bytes of a file, without the labels behind it.
pub(super) fn program(model: &Model, options: Options) -> Result<Vec<u8>, Problem> {
    let unsupported = |what: String| Problem::unsupported("graph", what, WAY_OUT);
    let graph = expand(&model.graph, |composite| !written_whole(composite))
        .and_then(|graph| remove_training_leftovers(&graph))
        .and_then(|graph| decompose(&graph, elements::is_written))
        .map_err(|e| unsupported(e.to_string()))?;
    let graph = InferenceGraph::new(graph).map_err(|e| unsupported(e.to_string()))?;
    let metadata = &model.metadata;
    let json = serde_json::to_string(metadata)
        .map_err(|e| Problem::unsupported("metadata", e.to_string(), "Use finite numbers"))?;
    let mut writer = Writer::new(&graph, &model.weights, options)?;
    writer.input(metadata.preprocessing.size)?;
    for (index, node) in graph.nodes().iter().enumerate() {
        if !writer.done.contains(&index) {
            writer.node(node)?;
        }
    }
    let output = writer.output(metadata.classes.len())?;
    writer.file.metadata(tasks::METADATA_NAME, tasks::metadata(metadata));
    writer.file.metadata(METADATA_KEY, json.into_bytes());
    let name = metadata.architecture.as_deref().unwrap_or_default();
    writer.file.finish(name, (INPUT, 0), (OUTPUT, output))
}

/// Whether LiteRT has an operator for it.
fn written_whole(composite: &Composite) -> bool {
    match composite {
        Composite::Pad { .. } => moves::is_written(composite),
        Composite::Resize { resampling, .. } => *resampling == Resampling::Linear,
        Composite::LogSoftmax { .. }
        | Composite::GroupNormalization { .. }
        | Composite::InstanceNormalization { .. }
        | Composite::Split { .. }
        | Composite::Gru { .. } => false,
    }
}

struct Writer<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    half: bool,
    /// The sizes of one picture.
    one: Bindings,
    file: Builder,
    /// Where values are in the file.
    places: HashMap<ValueId, Place>,
    /// The floats of those that are there as bytes.
    floats: HashMap<ValueId, Place>,
    /// Tensors with their axes moved.
    turned: HashMap<(i32, Vec<usize>), i32>,
    /// Parts of weights.
    moved: HashMap<ValueId, Tensor>,
    /// Weights in integers.
    scaled: HashMap<ValueId, Scaled>,
    /// What is repeated for each picture.
    repeated: HashMap<ValueId, ValueId>,
    /// Stored numbers, which the file holds once in each form.
    constants: HashMap<Constant, i32>,
    /// Lists of integers, each once.
    lists: HashMap<Vec<i32>, i32>,
    /// What the integers of tensors stand for.
    affines: HashMap<i32, Affine>,
    /// Nodes that were written as parts of others.
    done: HashSet<usize>,
    uses: Vec<usize>,
    /// The node that reads a value last.
    readers: HashMap<ValueId, usize>,
}

/// An operator that LiteRT has in part only.
fn refused(node: &Node, what: impl Into<String>) -> Problem {
    Problem::unsupported(place(node), what, "Export ONNX, or change the network here")
}

fn place(node: &Node) -> String {
    format!("node `{}` ({})", node.name, node.op.name())
}

impl<'a> Writer<'a> {
    fn new(graph: &'a Graph, weights: &'a Weights, options: Options) -> Result<Writer<'a>, Problem> {
        let [input] = graph.inputs() else {
            let what = format!("it has {} inputs, not one", graph.inputs().len());
            return Err(Problem::unsupported("graph", what, TAKES_PICTURES));
        };
        let mut one = Bindings::new();
        if let Some(Dim::Symbol(batch)) = graph.value(*input).shape.0.first() {
            one.insert(batch.to_string(), 1);
        }
        let nodes = graph.nodes().iter().enumerate();
        let readers = nodes.flat_map(|(i, node)| node.inputs.iter().map(move |&id| (id, i))).collect();
        Ok(Writer {
            graph,
            weights,
            half: options.weights == StoredWeights::F16,
            one,
            file: Builder::new(),
            places: HashMap::new(),
            floats: HashMap::new(),
            turned: HashMap::new(),
            moved: HashMap::new(),
            scaled: HashMap::new(),
            repeated: HashMap::new(),
            constants: HashMap::new(),
            lists: HashMap::new(),
            affines: HashMap::new(),
            done: HashSet::new(),
            uses: graph.use_counts(),
            readers,
        })
    }

    /// The pictures, channels last.
    fn input(&mut self, size: usize) -> Result<(), Problem> {
        let id = self.graph.inputs()[0];
        let value = self.graph.value(id);
        let sides = value.shape.0.iter().skip(1).map(Dim::fixed).collect::<Option<Vec<usize>>>();
        let open = matches!(value.shape.0.first(), Some(Dim::Symbol(_)));
        let fits = open && sides == Some(vec![3, size, size]) && value.dtype == DType::F32;
        if !fits {
            let what =
                format!("its input is {}, not any number of pictures of {size} x {size} pixels", value.shape);
            return Err(Problem::unsupported("graph", what, TAKES_PICTURES));
        }
        let order = CHANNELS_LAST.to_vec();
        let dims = value.shape.0.clone();
        let tensor = self.float(INPUT, &operands::turned(&dims, &order))?;
        self.places.insert(id, Place { tensor, order, bytes: false });
        Ok(())
    }

    /// The tensor of the logits.
    fn output(&mut self, classes: usize) -> Result<i32, Problem> {
        let unsupported = |what: String| Problem::unsupported("graph", what, TAKES_PICTURES);
        let [(_, id)] = self.graph.outputs() else {
            return Err(unsupported(format!("it has {} outputs, not one", self.graph.outputs().len())));
        };
        let shape = &self.graph.value(*id).shape;
        let fits = shape.rank() == 2 && shape.0[1].fixed() == Some(classes);
        if !fits || !self.places.contains_key(id) {
            return Err(unsupported(format!("it does not give {classes} logits")));
        }
        self.float_in(*id, &[0, 1])
    }

    fn node(&mut self, node: &Node) -> Result<(), Problem> {
        if self.stored_before(node)? {
            return Ok(());
        }
        let typed = matches!(node.op, Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. });
        let other = |id: &&ValueId| self.graph.value(**id).dtype != DType::F32 && !typed;
        if let Some(&id) = node.inputs.iter().find(other) {
            let value = self.graph.value(id);
            return Err(refused(node, format!("its input `{}` is {}, not f32", value.name, value.dtype)));
        }
        let repeats = node.inputs.iter().any(|id| self.repeated.contains_key(id));
        if repeats && !matches!(node.op, Op::Binary(_) | Op::Shape(ShapeOp::Concat { .. })) {
            return Err(refused(node, "it reads numbers that are repeated for each picture"));
        }
        let job = self.job(node);
        match &node.op {
            Op::Conv(conv) => self.conv(&job, conv),
            Op::Gemm(gemm) => self.gemm(&job, *gemm),
            Op::Norm(Norm::Batch(norm)) => self.batch_norm(&job, norm.epsilon),
            Op::Norm(Norm::Layer(norm)) => self.layer_norm(&job, norm.epsilon),
            Op::Unary(unary) => self.unary(&job, *unary),
            Op::Binary(binary) => self.binary(&job, *binary),
            Op::Reduce { op, axis } => self.reduce(&job, *op, *axis),
            Op::Pool(Pooling::Max(pool)) => self.max_pool(&job, pool),
            Op::Pool(Pooling::Average(average)) => self.average_pool(&job, average),
            Op::Pool(Pooling::GlobalAverage) => self.global_average(&job),
            Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. }) => self.reshape(&job),
            Op::Shape(ShapeOp::Transpose { perm }) => self.transpose(&job, perm),
            Op::Shape(ShapeOp::Concat { axis }) => self.concat(&job, *axis),
            Op::Shape(ShapeOp::Slice { axis, start, end }) => self.slice(&job, *axis, *start, *end),
            Op::Shape(ShapeOp::Expand { .. }) => self.expand(&job),
            Op::Softmax { axis } => self.softmax(&job, *axis),
            Op::MatMul(product) => self.product(&job, [product.trans_a, product.trans_b]),
            Op::QuantizeLinear { .. } => self.quantize(&job),
            Op::DequantizeLinear { axis } => self.dequantize(node, *axis),
            Op::Composite(composite) => self.composite(&job, composite),
            Op::Shape(ShapeOp::Identity)
            | Op::Dropout { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(_)
            | Op::Sequence(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => Err(refused(node, "LiteRT has no such operator")),
        }
    }
}
