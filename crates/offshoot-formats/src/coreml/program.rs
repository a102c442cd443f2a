//! Our graph as a program.

mod batch;
mod choice;
mod description;
mod moves;
mod operands;
mod recurrent;
mod results;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use offshoot_graph::op::{
    AveragePool, BatchNormalization, Clip, Conv, Gemm, LayerNormalization, Name, Norm, Pool, Pooling,
    Recurrent, SequenceOp, ShapeOp, Unary,
};
use offshoot_graph::passes::{decompose, expand, output_scale, remove_training_leftovers};
use offshoot_graph::{
    Bindings, DType, Dim, Graph, InferenceGraph, Model, Node, Op, Preprocessing, Task, Tensor, ValueId,
    Weights,
};

use self::operands::narrow;
pub(super) use self::recurrent::{ACTIVATIONS, DIRECTIONS, OPERANDS, exchanged};
use super::builder::{Builder, named_type};
use super::proto::{self, Function, OPSET, Program, SPECIFICATION, Value, ValueType, data_type};
use super::{INPUT, LABEL, LOGITS, Options, PROBABILITIES, Precision, StoredWeights, TARGETS};
use crate::error::Problem;

const WAY_OUT: &str = "Export the model's own graph";
const TAKES_PICTURES: &str = "Core ML gets classifiers that take RGB pictures of one size";

/// The specification and the file of weights.
pub(super) fn program(model: &Model, options: Options) -> Result<(proto::Model, Vec<u8>), Problem> {
    let unsupported = |what: String| Problem::unsupported("graph", what, WAY_OUT);
    recurrent::check_steps(&model.graph)?;
    let graph = expand(&model.graph, |_| true)
        .and_then(|graph| remove_training_leftovers(&graph))
        .map_err(|e| unsupported(e.to_string()))?;
    let in_mil = |unary: Unary| unary.row().mil != Name::None;
    let graph = decompose(&graph, in_mil).map_err(|e| unsupported(e.to_string()))?;
    let graph = InferenceGraph::new(graph).map_err(|e| unsupported(e.to_string()))?;
    let metadata = &model.metadata;
    check_classes(&metadata.classes)?;
    let bindings = bindings(&graph, metadata.preprocessing.size)?;
    let mut writer = Writer {
        graph: &graph,
        weights: &model.weights,
        bindings,
        int8: options.weights == StoredWeights::Int8,
        program: Builder::new(options.precision),
        names: HashMap::new(),
        moved: HashMap::new(),
        constants: HashMap::new(),
        batch: BTreeMap::new(),
    };
    writer.picture(&metadata.preprocessing)?;
    let scale = output_scale(&graph).filter(|_| metadata.task == Task::Regression);
    let of_scale: Vec<&Node> = scale.iter().flat_map(|scale| scale.nodes).map(|id| graph.node(id)).collect();
    for node in graph.nodes().iter().filter(|node| !of_scale.iter().any(|own| std::ptr::eq(*own, *node))) {
        writer.node(node)?;
    }
    let (block, weights) = match metadata.task {
        Task::Single | Task::Multi => {
            writer.results(metadata)?;
            writer.program.finish(&[LABEL, PROBABILITIES, LOGITS])
        }
        Task::Regression => {
            writer.targets(metadata, scale)?;
            writer.program.finish(&[TARGETS])
        }
    };
    let size = metadata.preprocessing.size;
    let function = Function {
        inputs: vec![named_type(INPUT, ValueType::tensor(data_type::FLOAT32, &[1, 3, size, size]))],
        opset: OPSET.to_owned(),
        block_specializations: BTreeMap::from([(OPSET.to_owned(), block)]),
    };
    let program = Program { version: 1, functions: BTreeMap::from([("main".to_owned(), function)]) };
    let description = Some(description::description(metadata, &writer.batch)?);
    Ok((
        proto::Model { specification_version: SPECIFICATION, description, ml_program: Some(program) },
        weights,
    ))
}

/// A dictionary has one place for each label.
fn check_classes(classes: &[String]) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    match classes.iter().find(|class| !seen.insert(*class)) {
        None => Ok(()),
        Some(class) => {
            let what = format!("two classes are called `{class}`, and Core ML's probabilities go by name");
            Err(Problem::unsupported("classes", what, "Give the classes different names"))
        }
    }
}

/// The sizes of one picture.
fn bindings(graph: &Graph, size: usize) -> Result<Bindings, Problem> {
    let unsupported = |what: String| Problem::unsupported("graph", what, TAKES_PICTURES);
    let [input] = graph.inputs() else {
        return Err(unsupported(format!("it has {} inputs, not one", graph.inputs().len())));
    };
    let value = graph.value(*input);
    let mut bindings = Bindings::new();
    for (dim, n) in value.shape.0.iter().zip([1, 3, size, size]) {
        if let Dim::Symbol(name) = dim {
            bindings.insert(name.to_string(), n);
        }
    }
    match value.shape.eval(&bindings) {
        Ok(shape) if shape == [1, 3, size, size] => Ok(bindings),
        _ => {
            Err(unsupported(format!("its input is {}, not pictures of {size} x {size} pixels", value.shape)))
        }
    }
}

/// What a picture's bytes are multiplied by, and what is added then.
pub(super) fn scale_and_bias(steps: &Preprocessing) -> ([f32; 3], [f32; 3]) {
    let scale = steps.std.map(|std| (1.0 / (255.0 * f64::from(std))) as f32);
    let bias = [0, 1, 2].map(|c| (-f64::from(steps.mean[c]) / f64::from(steps.std[c])) as f32);
    (scale, bias)
}

struct Writer<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    bindings: Bindings,
    int8: bool,
    program: Builder,
    /// What each value of the graph is called in the program.
    names: HashMap<ValueId, String>,
    /// Parts of weights.
    moved: HashMap<ValueId, Tensor>,
    /// What stored numbers are called in the program, which holds each once.
    constants: HashMap<(ValueId, Stored), String>,
    /// The axis of the batch in results whose sizes for one picture do not show it.
    batch: BTreeMap<String, usize>,
}

/// How numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Stored {
    Plain,
    Weight { transpose: bool },
}

/// An operator that Core ML has in part only.
fn refused(node: &Node, what: impl Into<String>) -> Problem {
    Problem::unsupported(place(node), what, "Export ONNX, or change the network here")
}

fn place(node: &Node) -> String {
    format!("node `{}` ({})", node.name, node.op.name())
}

impl Writer<'_> {
    /// The picture, scaled and shifted, in the program's type.
    fn picture(&mut self, steps: &Preprocessing) -> Result<(), Problem> {
        let (scale, bias) = scale_and_bias(steps);
        if !scale.iter().chain(&bias).all(|x| x.is_finite()) {
            let what = format!("a mean of {:?} and a std of {:?} cannot be applied", steps.mean, steps.std);
            return Err(Problem::unsupported("preprocessing", what, "Give another {mean} or {std}"));
        }
        let shape = [1, 3, steps.size, steps.size];
        let f32_type = ValueType::tensor(data_type::FLOAT32, &shape);
        let mut name = INPUT.to_owned();
        for (kind, step, values) in [("mul", "scaled", scale), ("add", "shifted", bias)] {
            let constant = self.program.constant_f32(&format!("{INPUT}_{step}_y"), &values, &[1, 3, 1, 1]);
            let result = self.program.unused(&format!("{INPUT}_{step}"));
            let inputs = [("x", name), ("y", constant)];
            self.program.named(kind, &inputs, vec![named_type(&result, f32_type.clone())]);
            name = result;
        }
        if self.program.precision == Precision::F16 {
            name = self.program.cast(Precision::F16, "input_cast", name, &shape);
        }
        self.names.insert(self.graph.inputs()[0], name);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), Problem> {
        if let Some(value) =
            node.inputs.iter().map(|&id| self.graph.value(id)).find(|v| v.dtype != DType::F32)
        {
            return Err(refused(node, format!("its input `{}` is {}, not f32", value.name, value.dtype)));
        }
        if let Some(tensor) = self.moved(node)? {
            self.moved.insert(node.outputs[0], tensor);
            return Ok(());
        }
        let result = match &node.op {
            Op::Conv(conv) => self.conv(node, conv)?,
            Op::Gemm(gemm) => self.gemm(node, *gemm)?,
            Op::Norm(Norm::Batch(norm)) => self.batch_norm(node, *norm)?,
            Op::Unary(Unary::Clip(clip)) => self.clip(node, *clip)?,
            Op::Unary(unary) => self.function(node, *unary)?,
            Op::Binary(binary) => self.binary(node, binary.row().mil)?,
            Op::Reduce { op, axis } => self.reduction(node, op.row().mil, &[*axis])?,
            Op::Pool(Pooling::Max(pool)) => self.pool(node, pool, None)?,
            Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad })) => {
                self.pool(node, pool, Some(*count_include_pad))?
            }
            Op::Pool(Pooling::GlobalAverage) => self.reduction(node, "reduce_mean", &[2, 3])?,
            Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. }) => self.reshape(node)?,
            Op::Softmax { axis } => self.softmax(node, *axis)?,
            Op::MatMul(product) => self.product(node, [product.trans_a, product.trans_b])?,
            Op::Norm(Norm::Layer(norm)) => self.layer_norm(node, *norm)?,
            Op::Shape(ShapeOp::Transpose { perm }) => {
                let inputs = [("x", self.operand(node, 0)?), ("perm", self.ints(node, "perm", perm)?)];
                self.add("transpose", node, &inputs)?
            }
            Op::Shape(ShapeOp::Concat { axis }) => self.concat(node, *axis)?,
            Op::Shape(ShapeOp::Slice { axis, start, end }) => self.slice(node, *axis, *start..*end)?,
            Op::Shape(ShapeOp::Expand { .. }) => self.tile(node)?,
            Op::Sequence(SequenceOp::Where) => self.choice(node)?,
            Op::Recurrent(Recurrent::Lstm(direction)) => return self.lstm(node, *direction),
            Op::Composite(_) | Op::Sequence(_) => {
                return Err(refused(node, "it is not written: export to ONNX"));
            }
            Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)) => {
                let what = "quantized models are not written; give the float model, whose weights the exporter rounds";
                return Err(refused(node, what));
            }
            Op::Shape(ShapeOp::Identity)
            | Op::Dropout { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => {
                return Err(Problem::unsupported(place(node), "it belongs to training", WAY_OUT));
            }
        };
        self.names.insert(node.outputs[0], result);
        Ok(())
    }

    fn conv(&mut self, node: &Node, conv: &Conv) -> Result<String, Problem> {
        let weight = self.weight(node, 1, false)?;
        let mut inputs = vec![("x", self.operand(node, 0)?), ("weight", weight)];
        if node.inputs.len() > 2 {
            inputs.push(("bias", self.vector(node, 2)?));
        }
        inputs.push(("strides", self.ints(node, "strides", &conv.strides)?));
        inputs.extend(self.padding(node, conv.pads)?);
        inputs.push(("dilations", self.ints(node, "dilations", &conv.dilations)?));
        let groups = Value::ints(vec![narrow(node, conv.group)?], &[]);
        inputs.push(("groups", self.program.constant(&format!("{}_groups", node.name), groups)));
        self.add("conv", node, &inputs)
    }

    /// A linear layer where the second matrix is stored, else a product.
    fn gemm(&mut self, node: &Node, gemm: Gemm) -> Result<String, Problem> {
        let stored = |i: usize| node.inputs.get(i).is_none_or(|&id| self.tensor(id).is_some());
        if !gemm.trans_a && stored(1) && stored(2) {
            let weight = self.weight(node, 1, !gemm.trans_b)?;
            let mut inputs = vec![("x", self.operand(node, 0)?), ("weight", weight)];
            if node.inputs.len() > 2 {
                inputs.push(("bias", self.vector(node, 2)?));
            }
            return self.add("linear", node, &inputs);
        }
        let product = self.product(node, [gemm.trans_a, gemm.trans_b])?;
        match node.inputs.len() {
            2 => Ok(product),
            _ => {
                let inputs = [("x", product), ("y", self.operand(node, 2)?)];
                self.add("add", node, &inputs)
            }
        }
    }

    /// The product of the first two inputs, each transposed or not.
    fn product(&mut self, node: &Node, [trans_a, trans_b]: [bool; 2]) -> Result<String, Problem> {
        let mut inputs = vec![("x", self.operand(node, 0)?), ("y", self.operand(node, 1)?)];
        for (parameter, transposed) in [("transpose_x", trans_a), ("transpose_y", trans_b)] {
            let name = format!("{}_{parameter}", node.name);
            inputs.push((parameter, self.program.constant(&name, Value::bool(transposed))));
        }
        self.add("matmul", node, &inputs)
    }

    /// A function of one element that MIL has.
    fn function(&mut self, node: &Node, unary: Unary) -> Result<String, Problem> {
        let row = unary.row();
        let Name::Operator(kind, _) = row.mil else {
            return Err(refused(node, "Core ML has no such operator"));
        };
        let mut inputs = vec![("x", self.operand(node, 0)?)];
        for (attribute, number) in row.attributes.iter().zip(unary.numbers()) {
            let name = format!("{}_{}", node.name, attribute.onnx);
            inputs.push((attribute.onnx, self.program.numbers(&place(node), &name, &[number], &[])?));
        }
        if unary == Unary::Gelu {
            let mode = self.program.constant(&format!("{}_mode", node.name), Value::string("EXACT"));
            inputs.push(("mode", mode));
        }
        self.add(kind, node, &inputs)
    }

    fn layer_norm(&mut self, node: &Node, norm: LayerNormalization) -> Result<String, Problem> {
        let axes = self.program.constant(&format!("{}_axes", node.name), Value::ints(vec![-1], &[1]));
        let name = format!("{}_epsilon", node.name);
        let inputs = [
            ("x", self.operand(node, 0)?),
            ("axes", axes),
            ("gamma", self.vector(node, 1)?),
            ("beta", self.vector(node, 2)?),
            ("epsilon", self.program.numbers(&place(node), &name, &[norm.epsilon], &[])?),
        ];
        self.add("layer_norm", node, &inputs)
    }

    fn concat(&mut self, node: &Node, axis: usize) -> Result<String, Problem> {
        let axis = Value::ints(vec![narrow(node, axis)?], &[]);
        let inputs = [
            ("axis", self.program.constant(&format!("{}_axis", node.name), axis)),
            ("interleave", self.program.constant(&format!("{}_interleave", node.name), Value::bool(false))),
        ];
        let mut values = Vec::with_capacity(node.inputs.len());
        for i in 0..node.inputs.len() {
            values.push(self.operand(node, i)?);
        }
        let result = self.add("concat", node, &inputs)?;
        self.program.give_list("values", &values);
        Ok(result)
    }

    /// From the first index of every axis to behind the last one.
    fn slice(&mut self, node: &Node, axis: usize, part: Range<usize>) -> Result<String, Problem> {
        let mut end = self.shape(node, node.inputs[0])?;
        let mut begin = vec![0; end.len()];
        (begin[axis], end[axis]) = (part.start, part.end);
        let inputs = [
            ("x", self.operand(node, 0)?),
            ("begin", self.ints(node, "begin", &begin)?),
            ("end", self.ints(node, "end", &end)?),
        ];
        self.add("slice_by_index", node, &inputs)
    }

    /// A broadcast: how often each axis is repeated.
    fn tile(&mut self, node: &Node) -> Result<String, Problem> {
        let (x, y) = (self.shape(node, node.inputs[0])?, self.shape(node, node.outputs[0])?);
        if x.len() != y.len() {
            return Err(refused(node, "Core ML repeats along axes that are there"));
        }
        let times: Vec<usize> = x.iter().zip(&y).map(|(x, y)| y / (*x).max(1)).collect();
        let inputs = [("x", self.operand(node, 0)?), ("reps", self.ints(node, "reps", &times)?)];
        let result = self.add("tile", node, &inputs)?;
        self.note_batch(node, &result);
        Ok(result)
    }

    fn batch_norm(&mut self, node: &Node, norm: BatchNormalization) -> Result<String, Problem> {
        if self.graph.value(node.inputs[0]).shape.rank() < 3 {
            return Err(refused(node, "Core ML has no batch norm of a matrix"));
        }
        let mut inputs = vec![("x", self.operand(node, 0)?)];
        for (i, parameter) in [(3, "mean"), (4, "variance"), (1, "gamma"), (2, "beta")] {
            inputs.push((parameter, self.vector(node, i)?));
        }
        let name = format!("{}_epsilon", node.name);
        inputs.push(("epsilon", self.program.numbers(&place(node), &name, &[norm.epsilon], &[])?));
        self.add("batch_norm", node, &inputs)
    }

    fn unary(&mut self, node: &Node, kind: &str) -> Result<String, Problem> {
        let inputs = [("x", self.operand(node, 0)?)];
        self.add(kind, node, &inputs)
    }

    fn binary(&mut self, node: &Node, kind: &str) -> Result<String, Problem> {
        let inputs = [("x", self.operand(node, 0)?), ("y", self.operand(node, 1)?)];
        self.add(kind, node, &inputs)
    }

    /// Core ML's clip takes two finite bounds in order; one alone is a maximum or a minimum.
    fn clip(&mut self, node: &Node, clip: Clip) -> Result<String, Problem> {
        if (clip.min, clip.max) == (0.0, 6.0) {
            return self.unary(node, "relu6");
        }
        let mut x = self.operand(node, 0)?;
        let mut bound = |name: &str, value: f32| {
            self.program.numbers(&place(node), &format!("{}_{name}", node.name), &[value], &[])
        };
        if clip.min.is_finite() && clip.max.is_finite() && clip.min <= clip.max {
            let inputs = [("x", x), ("alpha", bound("alpha", clip.min)?), ("beta", bound("beta", clip.max)?)];
            return self.add("clip", node, &inputs);
        }
        for (kind, value, free) in
            [("maximum", clip.min, f32::NEG_INFINITY), ("minimum", clip.max, f32::INFINITY)]
        {
            if value != free {
                let bound =
                    self.program.numbers(&place(node), &format!("{}_{kind}", node.name), &[value], &[])?;
                x = self.add(kind, node, &[("x", x), ("y", bound)])?;
            }
        }
        Ok(x)
    }

    /// `average` says of a mean whether padding counts.
    fn pool(&mut self, node: &Node, pool: &Pool, average: Option<bool>) -> Result<String, Problem> {
        let pads = self.pads_without_rounding(node, pool)?;
        if average == Some(true) && pads != pool.pads {
            return Err(refused(node, "Core ML cannot count padding in a window that ceil_mode adds"));
        }
        let mut inputs = vec![("x", self.operand(node, 0)?)];
        inputs.push(("kernel_sizes", self.ints(node, "kernel_sizes", &pool.kernel)?));
        inputs.push(("strides", self.ints(node, "strides", &pool.strides)?));
        inputs.extend(self.padding(node, pads)?);
        let mut flag = |parameter: &'static str, value: bool| {
            (parameter, self.program.constant(&format!("{}_{parameter}", node.name), Value::bool(value)))
        };
        inputs.push(flag("ceil_mode", false));
        let Some(count_include_pad) = average else { return self.add("max_pool", node, &inputs) };
        inputs.push(flag("exclude_padding_from_average", !count_include_pad));
        self.add("avg_pool", node, &inputs)
    }

    fn reduction(&mut self, node: &Node, kind: &str, axes: &[usize]) -> Result<String, Problem> {
        let keep = self.program.constant(&format!("{}_keep_dims", node.name), Value::bool(true));
        let inputs =
            [("x", self.operand(node, 0)?), ("axes", self.ints(node, "axes", axes)?), ("keep_dims", keep)];
        self.add(kind, node, &inputs)
    }

    fn reshape(&mut self, node: &Node) -> Result<String, Problem> {
        let shape = self.shape(node, node.outputs[0])?;
        let inputs = [("x", self.operand(node, 0)?), ("shape", self.ints(node, "shape", &shape)?)];
        let result = self.add("reshape", node, &inputs)?;
        self.note_batch(node, &result);
        Ok(result)
    }

    fn softmax(&mut self, node: &Node, axis: usize) -> Result<String, Problem> {
        let axis = Value::ints(vec![narrow(node, axis)?], &[]);
        let axis = self.program.constant(&format!("{}_axis", node.name), axis);
        let inputs = [("x", self.operand(node, 0)?), ("axis", axis)];
        self.add("softmax", node, &inputs)
    }

    fn add(&mut self, kind: &str, node: &Node, inputs: &[(&str, String)]) -> Result<String, Problem> {
        let shape = self.shape(node, node.outputs[0])?;
        Ok(self.program.operator(kind, &node.name, inputs, &shape))
    }
}
