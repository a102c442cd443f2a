//! Our graph as ONNX messages.

mod composite;
mod operators;
mod sequence;

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::{AveragePool, Norm, Pooling, Recurrent, ShapeOp};
use offshoot_graph::passes::{decompose, expand, plain_products, remove_training_leftovers};
use offshoot_graph::{
    DType, Dim, Graph, InferenceGraph, Model, Node, Op, Preprocessing, Shape, Source, Tensor, ValueId,
    Weights,
};
use prost::Message;

use super::external::SideFile;
use super::preprocess;
use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    attribute_type,
};
use super::{MAX_FILE, METADATA_KEY, Options, complement};
use crate::elements::write_le;
use crate::error::Problem;

const WAY_OUT: &str = "Export the model's own graph";

/// What is written for a model.
pub(super) struct Written<'a> {
    /// The model's own file.
    pub(super) bytes: Vec<u8>,
    /// The file beside it, when its weights are there.
    pub(super) side: Option<SideFile<'a>>,
}

/// The bytes of a model, and what stands at `location` beside it: weights of more than `options.in_one_file` bytes.
/// Without a location they must fit.
pub(super) fn write<'a>(
    model: &'a Model,
    options: Options,
    location: Option<String>,
) -> Result<Written<'a>, Problem> {
    let ir_version = ir_version(options.opset)?;
    let written = composite::in_onnx(&model.graph);
    let graph = expand(&model.graph, |composite| !written(composite))
        .and_then(|graph| remove_training_leftovers(&graph))
        .map_err(|e| Problem::unsupported("graph", e.to_string(), WAY_OUT))?;
    let graph = decompose(&graph, |unary| operators::in_onnx(unary, options.opset))
        .and_then(|graph| plain_products(&graph))
        .map_err(|e| Problem::unsupported("graph", e.to_string(), WAY_OUT))?;
    let graph =
        InferenceGraph::new(graph).map_err(|e| Problem::unsupported("graph", e.to_string(), WAY_OUT))?;
    let metadata = serde_json::to_string(&model.metadata)
        .map_err(|e| Problem::unsupported("metadata", e.to_string(), "Use finite numbers"))?;
    let weights = model.weights.values().map(|t| (t.len() * t.dtype().size()) as u64).sum::<u64>();
    let side = location.filter(|_| weights > options.in_one_file).map(SideFile::new);
    if side.is_none() {
        check_size(weights)?;
    }
    let (mut proto, side) = Writer::new(&graph, &model.weights, options.opset, side)?.graph()?;
    if options.with_preprocess {
        prepare(&mut proto, &graph, &model.metadata.preprocessing, options.opset)?;
    }
    let proto = ModelProto {
        ir_version: Some(ir_version),
        producer_name: Some("offshoot".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(proto),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(options.opset) }],
        metadata_props: vec![StringStringEntryProto { key: METADATA_KEY.into(), value: metadata }],
    };
    check_size(proto.encoded_len() as u64)?;
    Ok(Written { bytes: proto.encode_to_vec(), side })
}

fn check_size(bytes: u64) -> Result<(), Problem> {
    if bytes <= MAX_FILE {
        return Ok(());
    }
    let what = format!("an ONNX file of {bytes} bytes");
    Err(Problem::TooLarge { place: "weights".into(), what, limit: MAX_FILE })
}

/// Puts the preparation of pictures before a network.
fn prepare(proto: &mut GraphProto, graph: &Graph, steps: &Preprocessing, opset: i64) -> Result<(), Problem> {
    if opset < preprocess::OPSET {
        let what = format!("opset {opset} has no antialiased Resize to prepare pictures with");
        return Err(Problem::unsupported("options", what, "Choose opset 18 or newer"));
    }
    let taken = |name: &str| name == preprocess::IMAGE || name.starts_with(preprocess::PREFIX);
    if let Some((_, value)) = graph.values().find(|(_, v)| taken(&v.name)) {
        let what = "the nodes that prepare pictures have such names";
        return Err(Problem::unsupported(format!("value `{}`", value.name), what, WAY_OUT));
    }
    let [network] = &proto.input[..] else {
        return Err(Problem::unsupported("graph", "it has several inputs, and one is prepared", WAY_OUT));
    };
    let input = graph.inputs().iter().map(|&id| &graph.value(id).shape.0[..]).next();
    let Some([batch, _, height, width]) = input else {
        return Err(Problem::unsupported("graph", "it does not take pictures", WAY_OUT));
    };
    if [height, width].iter().any(|side| side.fixed().is_some_and(|n| n != steps.size)) {
        let what =
            format!("it takes pictures of {height} by {width}, its preprocessing makes {}", steps.size);
        return Err(Problem::unsupported("graph", what, WAY_OUT));
    }
    let image = value_info(preprocess::IMAGE, preprocess::U8, &preprocess::image_shape(batch));
    proto.value_info.push(network.clone());
    proto.input = vec![image];
    let preparation = preprocess::preparation(steps)?;
    proto.node.splice(..0, preparation.nodes);
    proto.initializer.extend(preparation.constants);
    Ok(())
}

fn value_info(name: &str, elem_type: i32, shape: &Shape) -> ValueInfoProto {
    let shape = TensorShapeProto { dim: shape.0.iter().map(dimension).collect() };
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(shape) });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}

/// The values that only nodes which quantize read, as scale or zero point.
fn scales(graph: &Graph) -> HashSet<ValueId> {
    let (mut scales, mut others) = (HashSet::new(), HashSet::new());
    for node in graph.nodes() {
        let quantizes = matches!(node.op, Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. });
        let (plain, scaling) = node.inputs.split_at(if quantizes { 1 } else { node.inputs.len() });
        others.extend(plain);
        scales.extend(scaling);
    }
    scales.difference(&others).copied().collect()
}

/// The version of the container that came with an opset.
fn ir_version(opset: i64) -> Result<i64, Problem> {
    match opset {
        13..=18 => Ok(8),
        19..=20 => Ok(9),
        21 => Ok(10),
        _ => Err(Problem::unsupported(
            "options",
            format!("opset {opset} is not written"),
            "Choose one from 13 to 21; 17 runs nearly everywhere",
        )),
    }
}

/// Writes the graph `'g` of the weights `'w`.
struct Writer<'g, 'w> {
    graph: &'g Graph,
    weights: &'w Weights,
    opset: i64,
    side: Option<SideFile<'w>>,
    /// The name of each value in the file.
    names: Vec<String>,
    taken: HashSet<String>,
    /// The scales and zero points of the nodes that quantize.
    scales: HashSet<ValueId>,
    /// What DynamicQuantizeLinear made of values: their bytes, scale and zero point.
    dynamic: HashMap<ValueId, [String; 3]>,
    proto: GraphProto,
}

impl<'g, 'w> Writer<'g, 'w> {
    fn new(
        graph: &'g InferenceGraph,
        weights: &'w Weights,
        opset: i64,
        side: Option<SideFile<'w>>,
    ) -> Result<Writer<'g, 'w>, Problem> {
        let graph: &Graph = graph;
        let mut names: Vec<String> = graph.values().map(|(_, v)| v.name.clone()).collect();
        // A computed value takes the name of the output it is; the others are copied to it at the end.
        let mut renamed = HashSet::new();
        for (name, id) in graph.outputs() {
            if graph.producer(*id).is_some() && renamed.insert(*id) {
                names[id.index()].clone_from(name);
            }
        }
        let taken: HashSet<String> = names.iter().cloned().collect();
        if taken.len() != names.len() {
            return Err(Problem::unsupported("graph", "an output has the name of another value", WAY_OUT));
        }
        let scales = scales(graph);
        let (dynamic, proto) = (HashMap::new(), GraphProto::default());
        Ok(Writer { graph, weights, opset, side, names, taken, scales, dynamic, proto })
    }

    fn graph(mut self) -> Result<(GraphProto, Option<SideFile<'w>>), Problem> {
        let graph = self.graph;
        self.proto.name = Some(if graph.name().is_empty() { "graph" } else { graph.name() }.to_owned());
        for (id, value) in graph.values() {
            match &value.source {
                Source::Input => self.proto.input.push(self.info(id)),
                Source::Parameter(_) => self.parameter(id)?,
                Source::Constant(tensor) => self.constant(id, tensor)?,
                Source::Node { .. } => {}
            }
        }
        for node in graph.nodes() {
            self.node(node)?;
        }
        for (name, id) in graph.outputs() {
            if self.name(*id) != name {
                let copy = proto_node("Identity", name, vec![self.name(*id).to_owned()], name);
                self.proto.node.push(copy);
            }
            let info = ValueInfoProto { name: name.clone(), ..self.info(*id) };
            self.proto.output.push(info);
        }
        let outputs: HashSet<&String> = graph.outputs().iter().map(|(name, _)| name).collect();
        let computed = graph.nodes().iter().flat_map(|n| &n.outputs);
        let inner = computed.filter(|id| !outputs.contains(&self.names[id.index()]));
        let infos = inner.map(|&id| self.info(id)).collect();
        self.proto.value_info = infos;
        Ok((self.proto, self.side))
    }

    fn name(&self, id: ValueId) -> &str {
        &self.names[id.index()]
    }

    fn info(&self, id: ValueId) -> ValueInfoProto {
        let value = self.graph.value(id);
        value_info(self.name(id), element_type(value.dtype), &value.shape)
    }

    fn parameter(&mut self, id: ValueId) -> Result<(), Problem> {
        let value = self.graph.value(id);
        let place = || format!("parameter `{}`", value.name);
        let tensor = self
            .weights
            .get(&value.name)
            .ok_or_else(|| Problem::unsupported(place(), "the weights do not hold it", "Load all weights"))?;
        if Shape::fixed(tensor.shape()) != value.shape || tensor.dtype() != value.dtype {
            let held = format!("{}{}", tensor.dtype(), Shape::fixed(tensor.shape()));
            let what = format!("the weights hold {held}, the graph takes {}{}", value.dtype, value.shape);
            return Err(Problem::unsupported(place(), what, "Load the weights of this model"));
        }
        let proto = match self.side.as_mut().and_then(|side| side.place(tensor)) {
            Some(placed) => described(self.name(id), tensor, placed),
            None => self.tensor(self.name(id), tensor)?,
        };
        self.proto.initializer.push(proto);
        Ok(())
    }

    /// A Constant node, which tells a constant of the graph from a parameter. What scales integers is an initializer, as
    /// everywhere: some runtimes look for it there.
    fn constant(&mut self, id: ValueId, tensor: &Tensor) -> Result<(), Problem> {
        if self.scales.contains(&id) {
            let proto = self.tensor(self.name(id), tensor)?;
            self.proto.initializer.push(proto);
            return Ok(());
        }
        let name = self.name(id).to_owned();
        self.constant_node(&name, tensor)
    }

    fn constant_node(&mut self, name: &str, tensor: &Tensor) -> Result<(), Problem> {
        let mut node = proto_node("Constant", name, Vec::new(), name);
        let value = self.tensor("", tensor)?;
        let r#type = Some(attribute_type::TENSOR);
        node.attribute = vec![AttributeProto {
            name: "value".into(),
            t: Some(Box::new(value)),
            r#type,
            ..Default::default()
        }];
        self.proto.node.push(node);
        Ok(())
    }

    fn tensor(&self, name: &str, tensor: &Tensor) -> Result<TensorProto, Problem> {
        let mut raw = Vec::with_capacity(tensor.len() * tensor.dtype().size());
        write_le(tensor.data(), &mut raw).map_err(|error| Problem::Io { action: "write", error })?;
        Ok(described(name, tensor, TensorProto { raw_data: Some(raw.into()), ..Default::default() }))
    }

    fn node(&mut self, node: &Node) -> Result<(), Problem> {
        let mut inputs: Vec<String> = node.inputs.iter().map(|&id| self.name(id).to_owned()).collect();
        let attribute = match &node.op {
            Op::Conv(conv) => self.conv(conv, node),
            Op::Gemm(gemm) => {
                vec![int("transA", gemm.trans_a.into()), int("transB", gemm.trans_b.into())]
            }
            Op::Norm(Norm::Batch(norm)) => {
                vec![float("epsilon", norm.epsilon), float("momentum", complement(norm.momentum))]
            }
            Op::Unary(unary) => self.unary(node, *unary, &mut inputs)?,
            Op::Binary(_) => Vec::new(),
            Op::Reduce { op, axis } => self.reduction(node, *op, *axis, &mut inputs)?,
            Op::Pool(Pooling::Max(pool)) => self.pool(pool, node)?,
            Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad })) => {
                let mut attributes = self.pool(pool, node)?;
                attributes.push(int("count_include_pad", (*count_include_pad).into()));
                attributes
            }
            Op::Shape(ShapeOp::Flatten { axis }) | Op::Softmax { axis } => vec![int("axis", *axis as i64)],
            Op::Pool(Pooling::GlobalAverage) | Op::MatMul(_) => Vec::new(),
            Op::Norm(Norm::Layer(norm)) => {
                self.since(17, node)?;
                vec![int("axis", -1), float("epsilon", norm.epsilon)]
            }
            Op::Shape(ShapeOp::Transpose { perm }) => vec![ints("perm", perm)],
            Op::Shape(ShapeOp::Reshape { shape }) => {
                let sizes = shape.0.iter().map(|d| d.fixed().map_or(-1, |n| n as i64)).collect::<Vec<_>>();
                inputs.push(match sizes.iter().filter(|&&n| n == -1).count() {
                    0 | 1 => self.numbers(node, "shape", sizes)?,
                    _ => self.computed_shape(node, shape)?,
                });
                Vec::new()
            }
            Op::Shape(ShapeOp::Concat { axis }) => vec![int("axis", *axis as i64)],
            Op::Shape(ShapeOp::Slice { axis, start, end }) => {
                for (suffix, number) in [("starts", start), ("ends", end), ("axes", axis)] {
                    inputs.push(self.numbers(node, suffix, vec![*number as i64])?);
                }
                Vec::new()
            }
            Op::Shape(ShapeOp::Expand { shape }) => {
                inputs.push(self.expanded(node, shape)?);
                Vec::new()
            }
            Op::Sequence(op) => return self.sequence(node, *op),
            Op::Composite(composite) => return self.composite(node, composite),
            Op::DynamicQuantizeMatMul { trans_b } => return self.dynamic_product(node, *trans_b),
            Op::QuantizeLinear { axis } | Op::DequantizeLinear { axis } => {
                let per_axis = self.graph.value(node.inputs[1]).shape.rank() == 1;
                per_axis.then(|| int("axis", *axis as i64)).into_iter().collect()
            }
            Op::Recurrent(Recurrent::Lstm(direction)) => {
                self.recurrent(node, *direction, Vec::new());
                return Ok(());
            }
            Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)) => {
                let place = format!("node `{}` ({})", node.name, node.op.name());
                let what = "an LSTM of integers can be run, but not written";
                return Err(Problem::unsupported(place, what, WAY_OUT));
            }
            Op::Shape(ShapeOp::Identity)
            | Op::Dropout { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => {
                let place = format!("node `{}` ({})", node.name, node.op.name());
                return Err(Problem::unsupported(place, "it belongs to training", WAY_OUT));
            }
        };
        let mut proto = proto_node(node.op.name(), &node.name, inputs, self.name(node.outputs[0]));
        proto.attribute = attribute;
        self.proto.node.push(proto);
        Ok(())
    }

    /// An error where the file's opset is older than the operator.
    fn since(&self, opset: i64, node: &Node) -> Result<(), Problem> {
        if self.opset >= opset {
            return Ok(());
        }
        let place = format!("node `{}` ({})", node.name, node.op.name());
        let what = format!("opset {} does not have it", self.opset);
        Err(Problem::unsupported(place, what, format!("Export with opset {opset} or a newer one")))
    }

    /// A name of the file that nothing has yet.
    fn unused(&mut self, name: String) -> String {
        let mut name = name;
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// The name of a vector of whole numbers that `node` reads.
    fn numbers(&mut self, node: &Node, suffix: &str, values: Vec<i64>) -> Result<String, Problem> {
        let name = self.unused(format!("{}.{suffix}", node.name));
        let proto = self.tensor(&name, &Tensor::i64([values.len()], values))?;
        self.proto.initializer.push(proto);
        Ok(name)
    }

    /// Adds a node between those of the graph and returns the name of what it makes.
    fn helper(&mut self, op: &str, node: &Node, suffix: &str, inputs: Vec<String>) -> String {
        let name = self.unused(format!("{}.{suffix}", node.name));
        self.proto.node.push(proto_node(op, &name, inputs, &name));
        name
    }

    /// Gives the last helper an attribute.
    fn attribute(&mut self, attribute: AttributeProto) {
        if let Some(helper) = self.proto.node.last_mut() {
            helper.attribute.push(attribute);
        }
    }

    /// ONNX's nodes for a product that quantizes what it reads (see [`super::dynamic`]). Its weight stands in
    /// the file as it is in the graph: what has to be transposed is, by a runtime that folds constants, once. Products of
    /// one value share its bytes.
    fn dynamic_product(&mut self, node: &Node, trans_b: bool) -> Result<(), Problem> {
        let [bytes, scale, zero_point] = self.quantized(node.inputs[0]);
        let mut weight = self.name(node.inputs[1]).to_owned();
        if trans_b {
            weight = self.helper("Transpose", node, "weight", vec![weight]);
            self.attribute(ints("perm", &[1, 0]));
        }
        let sums = self.helper("MatMulInteger", node, "sums", vec![bytes, weight, zero_point]);
        let floats = self.helper("Cast", node, "floats", vec![sums]);
        self.attribute(int("to", element_type(DType::F32).into()));
        let weight_scale = self.name(node.inputs[2]).to_owned();
        let scales = self.helper("Mul", node, "scales", vec![scale, weight_scale]);
        let output = self.name(node.outputs[0]).to_owned();
        let operands = match node.inputs.get(3) {
            None => ("Mul", vec![floats, scales]),
            Some(&bias) => {
                let product = self.helper("Mul", node, "product", vec![floats, scales]);
                ("Add", vec![product, self.name(bias).to_owned()])
            }
        };
        self.proto.node.push(proto_node(operands.0, &node.name, operands.1, &output));
        Ok(())
    }

    /// The names of the bytes of a value, their scale and their zero point.
    fn quantized(&mut self, value: ValueId) -> [String; 3] {
        if let Some(names) = self.dynamic.get(&value) {
            return names.clone();
        }
        let x = self.name(value).to_owned();
        let names = ["bytes", "scale", "zero_point"].map(|part| self.unused(format!("{x}.{part}")));
        let name = self.unused(format!("{x}.quantize"));
        let mut proto = proto_node("DynamicQuantizeLinear", &name, vec![x], "");
        proto.output = names.to_vec();
        self.proto.node.push(proto);
        self.dynamic.insert(value, names.clone());
        names
    }
}

/// The words for `tensor`, whose elements are where `elements` has them.
pub(super) fn described(name: &str, tensor: &Tensor, elements: TensorProto) -> TensorProto {
    TensorProto {
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(element_type(tensor.dtype())),
        name: name.to_owned(),
        ..elements
    }
}

pub(super) fn proto_node(op: &str, name: &str, input: Vec<String>, output: &str) -> NodeProto {
    NodeProto {
        input,
        output: vec![output.to_owned()],
        name: name.to_owned(),
        op_type: op.to_owned(),
        ..Default::default()
    }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    let r#type = Some(attribute_type::INT);
    AttributeProto { name: name.to_owned(), i: Some(value), r#type, ..Default::default() }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&v| v as i64).collect();
    AttributeProto { name: name.to_owned(), ints, r#type: Some(attribute_type::INTS), ..Default::default() }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    let r#type = Some(attribute_type::FLOAT);
    AttributeProto { name: name.to_owned(), f: Some(value), r#type, ..Default::default() }
}

fn dimension(dim: &Dim) -> DimensionProto {
    match dim {
        Dim::Fixed(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
        Dim::Symbol(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_string()) },
        Dim::Expr(_) => DimensionProto::default(), // a name of its own would be a promise to shape inference
    }
}

fn element_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    }
}
