//! Golden files, made by the scripts in `scripts/golden`.

use std::collections::HashMap;
use std::path::Path;

use half::f16;
use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, Composite, Conv, Coordinates, CrossEntropy, Direction, Gemm,
    LayerNormalization, MatMul, Norm, PadMode, Pool, Pooling, Recurrent, Reduce, Resampling, SequenceOp,
    ShapeOp, TrainOp, Unary,
};
use offshoot_graph::{Data, Graph, GraphError, Op, Shape, Tensor, ValueId, Weights};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A golden file: its cases, and its tensors, half floats as f32.
#[derive(Debug)]
pub struct Golden {
    /// The cases.
    pub cases: Vec<Value>,
    /// Their tensors by name.
    pub tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads `stem`.json and `stem`.safetensors.
    ///
    /// # Panics
    /// When they are not there.
    pub fn load(stem: &str) -> Golden {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        let cases = std::fs::read_to_string(folder.join(format!("{stem}.json"))).unwrap();
        let bytes = std::fs::read(folder.join(format!("{stem}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            let (shape, data) = (view.shape().to_vec(), view.data());
            let tensor = match view.dtype() {
                Dtype::F16 => Tensor::f32(shape, chunks(data, |b| f16::from_le_bytes(b).to_f32())),
                Dtype::F32 => Tensor::f32(shape, chunks(data, f32::from_le_bytes)),
                Dtype::U8 => Tensor::new(shape, Data::U8(data.to_vec())).unwrap(),
                Dtype::I8 => Tensor::new(shape, Data::I8(chunks(data, i8::from_le_bytes))).unwrap(),
                Dtype::I32 => Tensor::new(shape, Data::I32(chunks(data, i32::from_le_bytes))).unwrap(),
                Dtype::I64 => Tensor::i64(shape, chunks(data, i64::from_le_bytes)),
                other => panic!("{name} is {other:?}"),
            };
            (name.to_string(), tensor)
        });
        Golden { tensors: tensors.collect(), cases: serde_json::from_str(&cases).unwrap() }
    }

    /// The tensor called `path`.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, path: &str) -> &Tensor {
        self.tensors.get(path).unwrap_or_else(|| panic!("no golden tensor `{path}`"))
    }

    /// The tensors under `prefix`, by the rest of their names.
    pub fn under(&self, prefix: &str) -> Weights {
        let rest = |(name, tensor): (&String, &Tensor)| {
            name.strip_prefix(prefix).map(|rest| (rest.to_string(), tensor.clone()))
        };
        self.tensors.iter().filter_map(rest).collect()
    }
}

fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|b| read(b.try_into().unwrap())).collect()
}

/// The strings of a JSON array.
///
/// # Panics
/// When it is something else.
pub fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

fn all_sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn sizes<const N: usize>(value: &Value) -> [usize; N] {
    all_sizes(value).try_into().unwrap()
}

fn pool(a: &Value) -> Pool {
    Pool {
        kernel: sizes(&a["kernel"]),
        strides: sizes(&a["strides"]),
        pads: sizes(&a["pads"]),
        ceil_mode: a["ceil_mode"].as_bool().unwrap(),
    }
}

/// The operator of a golden case that is one node.
fn operator(name: &str, a: &Value) -> Op {
    let number = |key: &str| a[key].as_f64().map(|x| x as f32);
    let flag = |key: &str| a[key].as_bool().unwrap_or(false);
    let axis = || a["axis"].as_u64().unwrap() as usize;
    if let Some(&unary) = Unary::ALL.iter().find(|unary| unary.row().name == name) {
        let numbers = unary.row().attributes.iter().map(|a| number(a.onnx).unwrap_or(a.onnx_default));
        return Op::Unary(unary.with_numbers(&numbers.collect::<Vec<_>>()));
    }
    if let Some(binary) = Binary::from_onnx(name) {
        return Op::Binary(binary);
    }
    if let Some(op) = Reduce::from_onnx(name) {
        return Op::Reduce { op, axis: axis() };
    }
    match name {
        "Gather" => Op::Sequence(SequenceOp::Gather),
        "Where" => Op::Sequence(SequenceOp::Where),
        "Conv" => Op::Conv(Conv {
            strides: sizes(&a["strides"]),
            pads: sizes(&a["pads"]),
            dilations: sizes(&a["dilations"]),
            group: a["group"].as_u64().unwrap() as usize,
        }),
        "Gemm" => Op::Gemm(Gemm { trans_a: flag("trans_a"), trans_b: flag("trans_b") }),
        "BatchNormalization" => Op::Norm(Norm::Batch(norm(a))),
        "MatMul" => Op::MatMul(MatMul { trans_a: flag("trans_a"), trans_b: flag("trans_b") }),
        "LayerNormalization" => {
            Op::Norm(Norm::Layer(LayerNormalization { epsilon: number("epsilon").unwrap() }))
        }
        "Transpose" => Op::Shape(ShapeOp::Transpose { perm: all_sizes(&a["perm"]) }),
        "Reshape" => Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&all_sizes(&a["shape"])) }),
        "Expand" => Op::Shape(ShapeOp::Expand { shape: Shape::fixed(&all_sizes(&a["shape"])) }),
        "Concat" => Op::Shape(ShapeOp::Concat { axis: axis() }),
        "Slice" => {
            let index = |key: &str| a[key].as_u64().unwrap() as usize;
            Op::Shape(ShapeOp::Slice { axis: axis(), start: index("start"), end: index("end") })
        }
        "MaxPool" => Op::Pool(Pooling::Max(pool(a))),
        "AveragePool" => Op::Pool(Pooling::Average(AveragePool {
            pool: pool(a),
            count_include_pad: flag("count_include_pad"),
        })),
        "GlobalAveragePool" => Op::Pool(Pooling::GlobalAverage),
        "Flatten" => Op::Shape(ShapeOp::Flatten { axis: axis() }),
        "Softmax" => Op::Softmax { axis: axis() },
        "SoftmaxCrossEntropyLoss" => {
            Op::SoftmaxCrossEntropyLoss(CrossEntropy { label_smoothing: number("label_smoothing").unwrap() })
        }
        "LogSoftmax" => Op::Composite(Composite::LogSoftmax { axis: axis() }),
        "GroupNormalization" => {
            let groups = a["groups"].as_u64().unwrap() as usize;
            Op::Composite(Composite::GroupNormalization { groups, epsilon: number("epsilon").unwrap() })
        }
        "InstanceNormalization" => {
            Op::Composite(Composite::InstanceNormalization { epsilon: number("epsilon").unwrap() })
        }
        "Pad" => {
            let pads = a["pads"].as_array().unwrap().iter().map(sizes).collect();
            let mode = match a["mode"].as_str().unwrap() {
                "constant" => PadMode::Constant(number("number").unwrap()),
                "reflect" => PadMode::Reflect,
                _ => PadMode::Edge,
            };
            Op::Composite(Composite::Pad { pads, mode })
        }
        "Split" => Op::Composite(Composite::Split { axis: axis(), sizes: all_sizes(&a["sizes"]) }),
        "Resize" => {
            let resampling = match a["resampling"].as_str().unwrap() {
                "nearest" => Resampling::Nearest,
                "nearest_ceil" => Resampling::NearestCeil,
                "nearest_floor" => Resampling::NearestFloor,
                "linear" => Resampling::Linear,
                _ => Resampling::Cubic,
            };
            let coordinates = match a["coordinates"].as_str().unwrap() {
                "half_pixel" => Coordinates::HalfPixel,
                "align_corners" => Coordinates::AlignCorners,
                _ => Coordinates::Asymmetric,
            };
            Op::Composite(Composite::Resize { size: sizes(&a["size"]), resampling, coordinates })
        }
        "GRU" | "LSTM" => {
            let direction = match a["direction"].as_str().unwrap() {
                "forward" => Direction::Forward,
                "reverse" => Direction::Reverse,
                _ => Direction::Bidirectional,
            };
            match name {
                "LSTM" => Op::Recurrent(Recurrent::Lstm(direction)),
                _ => {
                    let linear_before_reset = a["linear_before_reset"].as_bool().unwrap_or(true);
                    Op::Composite(Composite::Gru { direction, linear_before_reset })
                }
            }
        }
        other => panic!("no operator for `{other}`"),
    }
}

fn norm(a: &Value) -> BatchNormalization {
    let number = |key: &str| a[key].as_f64().unwrap() as f32;
    BatchNormalization { epsilon: number("epsilon"), momentum: number("momentum") }
}

/// Adds the node or nodes of a case's operator, and returns its outputs.
///
/// # Errors
/// When the operator does not take the inputs.
///
/// # Panics
/// When there is no such operator.
pub fn add_operator(
    graph: &mut Graph,
    name: &str,
    attributes: &Value,
    inputs: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    match name {
        "FrozenBatchNorm" => {
            let &[x, weight, bias, mean, var] = inputs else { panic!("five inputs") };
            let epsilon = norm(attributes).epsilon;
            let inv_std = graph.add("inv_std", Op::Train(TrainOp::InvStd { epsilon }), &[var])?;
            graph.add_node("y", Op::Train(TrainOp::BatchNormApply), &[x, mean, inv_std, weight, bias])
        }
        "TrainingBatchNorm" => {
            let &[x, weight, bias, mean, var] = inputs else { panic!("five inputs") };
            let op = Op::Train(TrainOp::BatchNormStats(norm(attributes)));
            let stats = graph.add_node("stats", op, &[x, mean, var])?;
            let inputs = [x, stats[0], stats[1], weight, bias];
            let y = graph.add("y", Op::Train(TrainOp::BatchNormApply), &inputs)?;
            Ok(vec![y, stats[2], stats[3]])
        }
        "Scores" => {
            let &[q, k] = inputs else { panic!("two inputs") };
            let perm = vec![0, 1, 3, 2];
            let k = graph.add("transposed", Op::Shape(ShapeOp::Transpose { perm }), &[k])?;
            graph.add_node("y", Op::MatMul(MatMul::default()), &[q, k])
        }
        one => graph.add_node("y", operator(one, attributes), inputs),
    }
}
