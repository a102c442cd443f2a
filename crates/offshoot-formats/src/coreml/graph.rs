//! A program of ours as a graph again: what proves that the bytes of a package say what the model is.

mod moves;
mod recurrent;
mod values;

use std::collections::{BTreeMap, HashMap};

use offshoot_graph::model::{BATCH, INPUT as GRAPH_INPUT, OUTPUT};
use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, Clip, Conv, Gemm, LayerNormalization, MatMul, Norm, Pool,
    Pooling, Reduce, SequenceOp, ShapeOp, Unary,
};
use offshoot_graph::passes::prune;
use offshoot_graph::{DType, Dim, Graph, Metadata, Model, Op, Role, Shape, Task, Tensor, ValueId, Weights};

use super::program::scale_and_bias;
use super::proto::{self, Operation, TensorType, Value};
use super::{BATCH_KEY, INPUT, LOGITS, METADATA_KEY, TARGETS};
use crate::error::Problem;
use crate::metadata;

const WAY_OUT: &str = "offshoot reads the Core ML packages that it wrote";

pub(super) fn model(specification: &proto::Model, file: &[u8]) -> Result<Model, Problem> {
    let damaged = |what: &str| Problem::damaged("model.mlmodel", what);
    let foreign = |what: &str| Problem::unsupported("model.mlmodel", what, WAY_OUT);
    let function = specification.ml_program.as_ref().and_then(|p| p.functions.get("main"));
    let function = function.ok_or_else(|| foreign("it is no ML Program with a function `main`"))?;
    let block = function.block_specializations.get(&function.opset);
    let block = block.ok_or_else(|| damaged("`main` has no block of its opset"))?;
    let description = specification.description.as_ref().and_then(|d| d.metadata.as_ref());
    let json = description.and_then(|m| m.user_defined.get(METADATA_KEY));
    let json = json.ok_or_else(|| foreign("its metadata has no entry `offshoot`"))?;

    let classes = block.operations.iter().find(|o| o.r#type == "classify").and_then(class_names);
    let own = || serde_json::from_str::<Metadata>(json).ok().filter(|own| own.task == Task::Regression);
    let classes = classes.or_else(|| Some(own()?.classes));
    let classes = classes.ok_or_else(|| damaged("it names no classes"))?;
    let metadata = metadata::parse(json, "model.mlmodel, metadata", classes.len(), None)?;
    if metadata.classes != classes {
        return Err(damaged("the program and the metadata name different classes"));
    }
    let batch = description.and_then(|m| m.user_defined.get(BATCH_KEY));
    let batch = batch.map(|json| serde_json::from_str(json)).transpose();
    let batch = batch.map_err(|e| damaged(&format!("metadata, {BATCH_KEY}: {e}")))?;
    let mut reader = Reader::new(file, metadata, batch.unwrap_or_default());
    for operation in &block.operations {
        reader.operation(operation)?;
    }
    reader.finish()
}

fn class_names(operation: &Operation) -> Option<Vec<String>> {
    let list = &operation.inputs.get("classes")?.arguments.first()?.value.as_ref()?.immediate.as_ref()?.list;
    list.as_ref()?.values.iter().map(|value| text(value).map(str::to_owned)).collect()
}

fn text(value: &Value) -> Option<&str> {
    value.immediate.as_ref()?.tensor.as_ref()?.strings.as_ref()?.values.first().map(String::as_str)
}

/// What a name of the program stands for.
#[derive(Clone)]
enum Known {
    /// The picture's bytes, or these times a number for each channel. Shifted too, it is the graph's input.
    Picture {
        scale: Option<[f32; 3]>,
    },
    Value(ValueId),
    /// Whether a value is not 0.
    Truth(ValueId),
    /// A result of an LSTM with its directions side by side.
    Joined(ValueId),
    /// The same with an axis of the directions, behind that of the batch.
    Apart(ValueId),
    Numbers {
        shape: Vec<usize>,
        values: Vec<f32>,
    },
    Ints(Vec<i32>),
    Bool(bool),
    Text(String),
}

struct Reader<'a> {
    file: &'a [u8],
    metadata: Metadata,
    graph: Graph,
    input: ValueId,
    weights: Weights,
    known: HashMap<String, Known>,
    /// The axis of the batch in the results that are named.
    batch: BTreeMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8], metadata: Metadata, batch: BTreeMap<String, usize>) -> Reader<'a> {
        let mut graph = Graph::new(metadata.architecture.clone().unwrap_or_default());
        let size = metadata.preprocessing.size;
        let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), size.into(), size.into()]);
        let input = graph.add_input(GRAPH_INPUT, DType::F32, shape);
        let picture = Known::Picture { scale: None };
        let known = HashMap::from([(INPUT.to_owned(), picture)]);
        Reader { file, metadata, graph, input, weights: Weights::new(), known, batch }
    }

    fn finish(mut self) -> Result<Model, Problem> {
        let name = if self.metadata.task == Task::Regression { TARGETS } else { LOGITS };
        let logits = match self.known.get(name) {
            Some(Known::Value(id)) => *id,
            _ => return Err(Problem::damaged("model.mlmodel", format!("the program computes no `{name}`"))),
        };
        let shape = &self.graph.value(logits).shape;
        if shape.rank() != 2 || shape.0[1].fixed() != Some(self.metadata.classes.len()) {
            let (classes, what) = (self.metadata.classes.len(), "classes are named, and the logits are");
            return Err(Problem::damaged("model.mlmodel", format!("{classes} {what} {shape}")));
        }
        self.graph.add_output(OUTPUT, logits);
        let graph = prune(&self.graph).map_err(|e| Problem::damaged("model.mlmodel", e.to_string()))?;
        Ok(Model { graph, weights: self.weights, metadata: self.metadata })
    }

    fn operation(&mut self, operation: &Operation) -> Result<(), Problem> {
        let name = operation.outputs.first().map(|o| o.name.clone()).unwrap_or_default();
        let call = Call { operation, place: format!("model.mlmodel, `{name}` ({})", operation.r#type) };
        let result = match operation.r#type.as_str() {
            "const" => self.constant(&call, call.attribute("val")?)?,
            "constexpr_affine_dequantize" => self.dequantized(&call)?,
            "cast" | "identity" => self.get(&call, "x")?.clone(),
            "classify" => return Ok(()),
            "lstm" => return self.lstm(&call),
            "reshape" | "transpose" if self.is_apart(&call)? => self.apart(&call)?,
            "not_equal" => self.truth(&call)?,
            "select" => self.choice(&call, &name)?,
            kind => match Binary::from_mil(kind) {
                Some(binary) if !self.is_bound(&call)? => self.binary(&call, &name, binary)?,
                Some(_) | None => self.node(&call, &name)?,
            },
        };
        self.know(&call, name, result)
    }

    fn know(&mut self, call: &Call<'_>, name: String, what: Known) -> Result<(), Problem> {
        match self.known.insert(name, what) {
            None => Ok(()),
            Some(_) => Err(call.damaged("two values have this name")),
        }
    }

    /// A step of the preprocessing, or a function of two elements of the graph.
    fn binary(&mut self, call: &Call<'_>, name: &str, binary: Binary) -> Result<Known, Problem> {
        let multiplies = binary == Binary::Mul;
        if let (&Known::Picture { scale }, Known::Numbers { values, .. }) =
            (self.get(call, "x")?, self.get(call, "y")?)
        {
            let by: [f32; 3] = values
                .as_slice()
                .try_into()
                .map_err(|_| call.damaged("it has no number for each channel"))?;
            return match scale {
                None if multiplies => Ok(Known::Picture { scale: Some(by) }),
                Some(scale)
                    if binary == Binary::Add
                        && (scale, by) == scale_and_bias(&self.metadata.preprocessing) =>
                {
                    Ok(Known::Value(self.input))
                }
                _ => Err(call.damaged("the picture is not prepared as the metadata says")),
            };
        }
        let inputs = [self.value(call, "x")?, self.value(call, "y")?];
        self.add(call, name, Op::Binary(binary), &inputs)
    }

    /// A boolean, which is an f32 of the graph.
    fn truth(&mut self, call: &Call<'_>) -> Result<Known, Problem> {
        match self.number(call, "y")? {
            0.0 => Ok(Known::Truth(self.value(call, "x")?)),
            _ => Err(call.foreign("it compares with another number than 0")),
        }
    }

    fn choice(&mut self, call: &Call<'_>, name: &str) -> Result<Known, Problem> {
        let &Known::Truth(condition) = self.get(call, "cond")? else {
            return Err(call.foreign("its condition is no comparison with 0"));
        };
        let inputs = [condition, self.value(call, "a")?, self.value(call, "b")?];
        self.add(call, name, Op::Sequence(SequenceOp::Where), &inputs)
    }

    /// A function of one element but a Clip, which has several forms.
    fn function(&self, call: &Call<'_>) -> Result<Option<Unary>, Problem> {
        let found = Unary::from_mil(&call.operation.r#type).filter(|unary| !matches!(unary, Unary::Clip(_)));
        let Some(unary) = found else { return Ok(None) };
        if unary == Unary::Gelu && !matches!(self.get(call, "mode")?, Known::Text(mode) if mode == "EXACT") {
            return Err(call.foreign("it is no exact gelu"));
        }
        let numbers = unary.row().attributes.iter().map(|attribute| self.number(call, attribute.onnx));
        Ok(Some(unary.with_numbers(&numbers.collect::<Result<Vec<f32>, _>>()?)))
    }

    /// A reduction along one axis, or the mean of each picture's channels.
    fn reduce(&self, call: &Call<'_>, kind: &str) -> Result<Op, Problem> {
        let foreign = || call.foreign("it is no reduction that offshoot writes");
        let op = Reduce::from_mil(kind).filter(|_| self.bool(call, "keep_dims").unwrap_or(false));
        let op = op.ok_or_else(foreign)?;
        match self.list(call, "axes")?[..] {
            [2, 3] if op == Reduce::Mean => Ok(Op::Pool(Pooling::GlobalAverage)),
            [axis] => Ok(Op::Reduce { op, axis }),
            _ => Err(foreign()),
        }
    }

    /// One row for each operator that the writer writes.
    fn node(&mut self, call: &Call<'_>, name: &str) -> Result<Known, Problem> {
        if call.operation.r#type == "concat" {
            return self.concat(call, name);
        }
        let x = self.value(call, "x")?;
        if let Some(unary) = self.function(call)? {
            return self.add(call, name, Op::Unary(unary), &[x]);
        }
        let op = match call.operation.r#type.as_str() {
            "relu6" => Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 })),
            "clip" => Op::Unary(Unary::Clip(Clip {
                min: self.number(call, "alpha")?,
                max: self.number(call, "beta")?,
            })),
            "maximum" => Op::Unary(Unary::Clip(Clip { min: self.number(call, "y")?, max: f32::INFINITY })),
            "minimum" => {
                Op::Unary(Unary::Clip(Clip { min: f32::NEG_INFINITY, max: self.number(call, "y")? }))
            }
            "transpose" => Op::Shape(ShapeOp::Transpose { perm: self.list(call, "perm")? }),
            "slice_by_index" => self.slice(call, x)?,
            "tile" => self.expand(call, name, x)?,
            "softmax" => Op::Softmax { axis: self.sizes::<1>(call, "axis")?[0] },
            "max_pool" => Op::Pool(Pooling::Max(self.pool(call)?)),
            "avg_pool" => {
                let exclude = self.bool(call, "exclude_padding_from_average")?;
                Op::Pool(Pooling::Average(AveragePool {
                    pool: self.pool(call)?,
                    count_include_pad: !exclude,
                }))
            }
            kind if Reduce::from_mil(kind).is_some() => self.reduce(call, kind)?,
            "reshape" => self.reshape(call, name, x)?,
            "conv" => return self.layer(call, name, x, Op::Conv(self.conv(call)?)),
            "linear" => return self.layer(call, name, x, Op::Gemm(Gemm { trans_a: false, trans_b: true })),
            "matmul" => {
                let flag = |parameter| self.bool(call, parameter);
                let (trans_a, trans_b) = (flag("transpose_x")?, flag("transpose_y")?);
                let op = match self.graph.value(x).shape.rank() {
                    2 => Op::Gemm(Gemm { trans_a, trans_b }),
                    _ => Op::MatMul(MatMul { trans_a, trans_b }),
                };
                let inputs = [x, self.value(call, "y")?];
                return self.add(call, name, op, &inputs);
            }
            "layer_norm" => return self.layer_norm(call, name, x),
            "batch_norm" => return self.batch_norm(call, name, x),
            _ => return Err(call.foreign("the operator is not known")),
        };
        self.add(call, name, op, &[x])
    }

    /// An operator with a weight and perhaps a bias.
    fn layer(&mut self, call: &Call<'_>, name: &str, x: ValueId, op: Op) -> Result<Known, Problem> {
        let mut inputs = vec![x, self.value(call, "weight")?];
        if call.operation.inputs.contains_key("bias") {
            inputs.push(self.value(call, "bias")?);
        }
        self.add(call, name, op, &inputs)
    }

    fn batch_norm(&mut self, call: &Call<'_>, name: &str, x: ValueId) -> Result<Known, Problem> {
        let mut inputs = vec![x];
        for parameter in ["gamma", "beta", "mean", "variance"] {
            inputs.push(self.value(call, parameter)?);
        }
        // The program holds no momentum: training from here would take PyTorch's.
        let norm = BatchNormalization { epsilon: self.number(call, "epsilon")?, momentum: 0.1 };
        self.add(call, name, Op::Norm(Norm::Batch(norm)), &inputs)
    }

    fn conv(&self, call: &Call<'_>) -> Result<Conv, Problem> {
        let (strides, dilations) = (self.sizes(call, "strides")?, self.sizes(call, "dilations")?);
        Ok(Conv { strides, dilations, pads: self.pads(call)?, group: self.sizes::<1>(call, "groups")?[0] })
    }

    fn pool(&self, call: &Call<'_>) -> Result<Pool, Problem> {
        if self.bool(call, "ceil_mode")? {
            return Err(call.foreign("its number of windows is rounded up"));
        }
        let (kernel, strides) = (self.sizes(call, "kernel_sizes")?, self.sizes(call, "strides")?);
        Ok(Pool { kernel, strides, pads: self.pads(call)?, ceil_mode: false })
    }

    fn pads(&self, call: &Call<'_>) -> Result<[usize; 4], Problem> {
        if !matches!(self.get(call, "pad_type")?, Known::Text(text) if text == "custom") {
            return Err(call.foreign("its padding is not given in numbers"));
        }
        let [top, bottom, left, right] = self.sizes(call, "pad")?;
        Ok([top, left, bottom, right])
    }

    fn layer_norm(&mut self, call: &Call<'_>, name: &str, x: ValueId) -> Result<Known, Problem> {
        if !matches!(self.get(call, "axes")?, Known::Ints(axes) if axes == &[-1]) {
            return Err(call.foreign("it is no norm of the last axis"));
        }
        let norm = LayerNormalization { epsilon: self.number(call, "epsilon")? };
        let inputs = [x, self.value(call, "gamma")?, self.value(call, "beta")?];
        self.add(call, name, Op::Norm(Norm::Layer(norm)), &inputs)
    }

    /// The only operator that takes a list of values.
    fn concat(&mut self, call: &Call<'_>, name: &str) -> Result<Known, Problem> {
        if self.bool(call, "interleave")? {
            return Err(call.foreign("it interleaves its inputs"));
        }
        let axis = self.sizes::<1>(call, "axis")?[0];
        let arguments = call.operation.inputs.get("values").map(|a| a.arguments.as_slice());
        let mut inputs = Vec::new();
        for argument in arguments.unwrap_or_default() {
            inputs.push(self.value_of(call, "values", argument)?);
        }
        self.add(call, name, Op::Shape(ShapeOp::Concat { axis }), &inputs)
    }

    fn add(&mut self, call: &Call<'_>, name: &str, op: Op, inputs: &[ValueId]) -> Result<Known, Problem> {
        self.graph.add(name, op, inputs).map(Known::Value).map_err(|e| call.damaged(e.to_string()))
    }

    fn get(&self, call: &Call<'_>, parameter: &str) -> Result<&Known, Problem> {
        let argument = call.operation.inputs.get(parameter).map(|a| a.arguments.as_slice());
        match argument {
            Some([argument]) => self.named(call, parameter, argument),
            _ => Err(call.damaged(format!("it has no `{parameter}`"))),
        }
    }

    fn named(&self, call: &Call<'_>, parameter: &str, argument: &proto::Binding) -> Result<&Known, Problem> {
        let name = argument.name.as_ref();
        let name = name.ok_or_else(|| call.damaged(format!("its `{parameter}` has no name")))?;
        self.known
            .get(name)
            .ok_or_else(|| call.damaged(format!("it reads `{name}`, which comes later or never")))
    }

    /// A value of the graph; numbers become a parameter of it under their name.
    fn value(&mut self, call: &Call<'_>, parameter: &str) -> Result<ValueId, Problem> {
        match call.operation.inputs.get(parameter).map(|a| a.arguments.as_slice()) {
            Some([argument]) => self.value_of(call, parameter, argument),
            _ => Err(call.damaged(format!("it has no `{parameter}`"))),
        }
    }

    fn value_of(
        &mut self,
        call: &Call<'_>,
        parameter: &str,
        argument: &proto::Binding,
    ) -> Result<ValueId, Problem> {
        match self.named(call, parameter, argument)? {
            Known::Value(id) => Ok(*id),
            Known::Picture { .. } => Err(call.damaged("the picture is not prepared as the metadata says")),
            Known::Numbers { shape, values } => {
                let (shape, values) = (shape.clone(), values.clone());
                let name = argument.name.clone().unwrap_or_default();
                let id = self.parameter(&name, shape, values);
                self.known.insert(name, Known::Value(id));
                Ok(id)
            }
            Known::Joined(_) | Known::Apart(_) => {
                Err(call.foreign("it reads an LSTM's directions as they are"))
            }
            Known::Truth(_) | Known::Ints(_) | Known::Bool(_) | Known::Text(_) => {
                Err(call.damaged(format!("its `{parameter}` is no tensor of floats")))
            }
        }
    }

    fn parameter(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> ValueId {
        let id = self.graph.add_parameter(name, &shape, Role::Weight);
        let key = self.graph.value(id).name.clone();
        self.weights.insert(key, Tensor::f32(shape, values));
        id
    }

    fn bool(&self, call: &Call<'_>, parameter: &str) -> Result<bool, Problem> {
        match self.get(call, parameter)? {
            Known::Bool(value) => Ok(*value),
            _ => Err(call.damaged(format!("its `{parameter}` is neither true nor false"))),
        }
    }
}

fn immediate(value: &Value) -> Option<&proto::TensorValue> {
    value.immediate.as_ref()?.tensor.as_ref()
}

/// An operation, and where it is for messages.
struct Call<'a> {
    operation: &'a Operation,
    place: String,
}

impl<'a> Call<'a> {
    fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(&self.place, what)
    }

    fn foreign(&self, what: impl Into<String>) -> Problem {
        Problem::unsupported(&self.place, what, WAY_OUT)
    }

    fn attribute(&self, name: &str) -> Result<&'a Value, Problem> {
        self.operation.attributes.get(name).ok_or_else(|| self.damaged(format!("it has no `{name}`")))
    }

    fn tensor_type<'v>(&self, value: &'v Value) -> Result<&'v TensorType, Problem> {
        let tensor = value.r#type.as_ref().and_then(|t| t.tensor.as_ref());
        tensor.ok_or_else(|| self.damaged("it holds no tensor"))
    }

    fn shape(&self, tensor: &TensorType) -> Result<Vec<usize>, Problem> {
        let size = |d: &proto::Dimension| d.constant.as_ref().and_then(|c| usize::try_from(c.size).ok());
        let shape: Option<Vec<usize>> = tensor.dimensions.iter().map(size).collect();
        let fits = |shape: &Vec<usize>| {
            shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some()
                && tensor.rank == shape.len() as i64
        };
        shape.filter(fits).ok_or_else(|| self.damaged("its shape is not known"))
    }
}
