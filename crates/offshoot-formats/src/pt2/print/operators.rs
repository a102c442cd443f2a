//! The calls that a node of the graph becomes.

use offshoot_graph::op::{
    Attribute, AveragePool, BatchNormalization, Binary, Clip, Composite, Conv, Gemm, LayerNormalization,
    MatMul, Norm, PadMode, Pool, Pooling, Reduce, SequenceOp, ShapeOp, Unary,
};
use offshoot_graph::{DType, Dim, Node, Op, Shape};
use serde_json::{Value as Json, json};

use super::{Argument, Printer, WAY_OUT, meta, tensor};
use crate::composite::torch_resize;
use crate::error::Problem;

impl Printer<'_> {
    /// Writes a node.
    pub(super) fn node(&mut self, node: &Node) -> Result<(), Problem> {
        let inputs = node.inputs.iter().map(|&id| self.name(id)).collect::<Result<Vec<_>, _>>()?;
        let x = inputs.first().map_or("", String::as_str);
        let me = ("self", tensor(x));
        match &node.op {
            Op::Conv(conv) => self.convolution(node, conv, &inputs),
            Op::Gemm(gemm) => self.gemm(node, *gemm, &inputs),
            Op::MatMul(product) => self.product(node, *product, &inputs),
            Op::Composite(composite) => self.composite(node, composite, &inputs),
            Op::Unary(Unary::Clip(clip)) => self.clip(node, *clip, x),
            Op::Sequence(SequenceOp::Where) => self.choice(node, &inputs),
            Op::Unary(unary) => {
                let (target, arguments) = function(*unary, x)
                    .ok_or_else(|| refused(node, "PyTorch has no function with these numbers"))?;
                self.one(node, &target, arguments)
            }
            Op::Norm(Norm::Batch(norm)) => {
                self.one(node, "batch_norm.default", batch_norm(*norm, node, &inputs)?)
            }
            Op::Norm(Norm::Layer(LayerNormalization { epsilon })) => {
                let [_, weight, bias] = &inputs[..] else {
                    return Err(refused(node, "it has not three inputs"));
                };
                let width = self.graph.value(node.inputs[1]).shape.as_fixed().unwrap_or_default();
                let arguments = vec![
                    ("input", tensor(x)),
                    ("normalized_shape", ints(&width)),
                    ("weight", tensor(weight)),
                    ("bias", tensor(bias)),
                    ("eps", float(*epsilon)),
                ];
                self.one(node, "layer_norm.default", arguments)
            }
            Op::Reduce { op, axis } => {
                let (target, arguments) = reduction(*op, *axis, me);
                self.one(node, target, arguments)
            }
            Op::Binary(binary) => {
                let (target, second) = match binary {
                    Binary::Add => ("add.Tensor", "other"),
                    Binary::Sub => ("sub.Tensor", "other"),
                    Binary::Mul => ("mul.Tensor", "other"),
                    Binary::Div => ("div.Tensor", "other"),
                    Binary::Max => ("maximum.default", "other"),
                    Binary::Min => ("minimum.default", "other"),
                    Binary::Pow => ("pow.Tensor_Tensor", "exponent"),
                };
                self.one(node, target, vec![me, (second, tensor(&inputs[1]))])
            }
            Op::Shape(op) => self.shape(node, op, &inputs),
            Op::Pool(pooling) => {
                let (target, arguments) = pool(node, pooling, me)?;
                self.one(node, target, arguments)
            }
            Op::Softmax { axis } => self.one(node, "softmax.int", vec![me, ("dim", int(*axis))]),
            Op::Recurrent(_) => Err(refused(node, "its number of steps is not known: export to ONNX")),
            Op::Sequence(SequenceOp::Gather) => {
                let [_, indices] = &inputs[..] else { return Err(refused(node, "it has not two inputs")) };
                let arguments = vec![("weight", tensor(x)), ("indices", tensor(indices))];
                self.one(node, "embedding.default", arguments)
            }
            Op::Sequence(SequenceOp::Positions { .. } | SequenceOp::Equal { .. } | SequenceOp::ToFloat) => {
                Err(refused(node, "it is not written: export to ONNX"))
            }
            Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } | Op::DynamicQuantizeMatMul { .. } => {
                Err(refused(node, "exported programs of quantized models are not written: export to ONNX"))
            }
            Op::Dropout { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => Err(refused(node, "it belongs to training")),
        }
    }

    /// The call that a node is.
    fn one(&mut self, node: &Node, target: &str, arguments: Vec<Argument<'_>>) -> Result<(), Problem> {
        let shape = self.graph.value(node.outputs[0]).shape.clone();
        let name = self.call(self.module(node), target, arguments, &shape, DType::F32)?;
        self.result(node, name);
        Ok(())
    }

    /// The key of the module whose weight a node reads. The names of the graph's own nodes are not those that are read again.
    fn module(&self, node: &Node) -> Option<String> {
        let held = node.inputs.iter().find_map(|&id| self.held.iter().find(|held| held.value == Some(id)))?;
        held.key.rsplit_once('.').map(|(module, _)| module.to_owned())
    }

    fn shape_of(&self, node: &Node, input: usize) -> Shape {
        self.graph.value(node.inputs[input]).shape.clone()
    }

    fn convolution(&mut self, node: &Node, conv: &Conv, inputs: &[String]) -> Result<(), Problem> {
        let [top, left, bottom, right] = conv.pads;
        let (mut x, mut padding) = (inputs[0].clone(), [top, left]);
        if (top, left) != (bottom, right) {
            let mut shape = self.shape_of(node, 0);
            for (axis, more) in [(2, top + bottom), (3, left + right)] {
                shape.0[axis] = shape.0[axis].combine(offshoot_graph::DimOp::Add, &Dim::Fixed(more));
            }
            let arguments = vec![("self", tensor(&x)), ("pad", ints(&[left, right, top, bottom]))];
            (x, padding) =
                (self.call(None, "constant_pad_nd.default", arguments, &shape, DType::F32)?, [0, 0]);
        }
        let arguments = vec![
            ("input", tensor(&x)),
            ("weight", tensor(&inputs[1])),
            ("bias", optional(inputs.get(2))),
            ("stride", ints(&conv.strides)),
            ("padding", ints(&padding)),
            ("dilation", ints(&conv.dilations)),
            ("groups", int(conv.group)),
        ];
        self.one(node, "conv2d.default", arguments)
    }

    /// A value with its last two axes exchanged.
    fn turned(&mut self, node: &Node, input: usize, name: &str) -> Result<String, Problem> {
        let mut shape = self.shape_of(node, input);
        let rank = shape.rank();
        shape.0.swap(rank - 2, rank - 1);
        let axis = |n: i64| json!({"as_int": n});
        let arguments = vec![("self", tensor(name)), ("dim0", axis(-2)), ("dim1", axis(-1))];
        self.call(None, "transpose.int", arguments, &shape, DType::F32)
    }

    fn gemm(&mut self, node: &Node, gemm: Gemm, inputs: &[String]) -> Result<(), Problem> {
        let x = if gemm.trans_a { self.turned(node, 0, &inputs[0])? } else { inputs[0].clone() };
        let weight = tensor(&inputs[1]);
        let (target, arguments) = match (gemm.trans_b, inputs.get(2)) {
            (true, bias) => {
                ("linear.default", vec![("input", tensor(&x)), ("weight", weight), ("bias", optional(bias))])
            }
            (false, Some(bias)) => {
                ("addmm.default", vec![("self", tensor(bias)), ("mat1", tensor(&x)), ("mat2", weight)])
            }
            (false, None) => ("matmul.default", vec![("self", tensor(&x)), ("other", weight)]),
        };
        self.one(node, target, arguments)
    }

    fn product(&mut self, node: &Node, product: MatMul, inputs: &[String]) -> Result<(), Problem> {
        let a = if product.trans_a { self.turned(node, 0, &inputs[0])? } else { inputs[0].clone() };
        let b = if product.trans_b { self.turned(node, 1, &inputs[1])? } else { inputs[1].clone() };
        self.one(node, "matmul.default", vec![("self", tensor(&a)), ("other", tensor(&b))])
    }

    fn clip(&mut self, node: &Node, clip: Clip, x: &str) -> Result<(), Problem> {
        let bound = |x: f32| if x.is_finite() { float(x) } else { none() };
        let (min, max) = (bound(clip.min), bound(clip.max));
        let me = ("self", tensor(x));
        match (clip.min.is_finite(), clip.max.is_finite()) {
            (true, true) => self.one(node, "hardtanh.default", vec![me, ("min_val", min), ("max_val", max)]),
            (false, false) => {
                self.result(node, x.to_owned());
                Ok(())
            }
            _ => self.one(node, "clamp.default", vec![me, ("min", min), ("max", max)]),
        }
    }

    fn choice(&mut self, node: &Node, inputs: &[String]) -> Result<(), Problem> {
        let [x, a, b] = inputs else { return Err(refused(node, "it has not three inputs")) };
        let shape = self.shape_of(node, 0);
        let arguments = vec![("self", tensor(x)), ("other", json!({"as_int": 0}))];
        let truth = self.call(None, "ne.Scalar", arguments, &shape, DType::Bool)?;
        let arguments = vec![("condition", tensor(&truth)), ("self", tensor(a)), ("other", tensor(b))];
        self.one(node, "where.self", arguments)
    }

    fn shape(&mut self, node: &Node, op: &ShapeOp, inputs: &[String]) -> Result<(), Problem> {
        let me = ("self", tensor(&inputs[0]));
        let result = self.graph.value(node.outputs[0]).shape.clone();
        match op {
            ShapeOp::Transpose { perm } => self.one(node, "permute.default", vec![me, ("dims", ints(perm))]),
            ShapeOp::Flatten { axis: 1 } => {
                let (start, end) = (json!({"as_int": 1}), json!({"as_int": -1}));
                self.one(node, "flatten.using_ints", vec![me, ("start_dim", start), ("end_dim", end)])
            }
            ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. } => {
                if result.0.iter().filter(|dim| dim.fixed().is_none()).count() > 1 {
                    return Err(refused(node, "its shape has more than one size that is not known"));
                }
                let mut sizes = Vec::new();
                for dim in &result.0 {
                    sizes.push(match dim {
                        Dim::Fixed(n) => json!({"as_int": n}),
                        // (Not -1: what torch.compile derives from a chain of those takes it minutes.)
                        Dim::Symbol(_) => self.batch_size()?,
                        Dim::Expr(_) => json!({"as_int": -1}),
                    });
                }
                self.one(node, "reshape.default", vec![me, ("shape", json!({"as_sym_ints": sizes}))])
            }
            ShapeOp::Concat { axis } => {
                let tensors: Vec<Json> = inputs.iter().map(|name| json!({"name": name})).collect();
                self.one(
                    node,
                    "cat.default",
                    vec![("tensors", json!({"as_tensors": tensors})), ("dim", int(*axis))],
                )
            }
            ShapeOp::Slice { axis, start, end } => {
                let arguments = vec![
                    me,
                    ("dim", int(*axis)),
                    ("start", int(*start)),
                    ("end", int(*end)),
                    ("step", int(1)),
                ];
                self.one(node, "slice.Tensor", arguments)
            }
            ShapeOp::Expand { .. } => {
                let mut sizes = Vec::new();
                for dim in &result.0 {
                    sizes.push(match dim {
                        Dim::Fixed(n) => json!({"as_int": n}),
                        Dim::Symbol(_) => self.batch_size()?,
                        Dim::Expr(_) => return Err(refused(node, "its shape has sizes that are not known")),
                    });
                }
                self.one(node, "expand.default", vec![me, ("size", json!({"as_sym_ints": sizes}))])
            }
            ShapeOp::Identity => {
                self.result(node, inputs[0].clone());
                Ok(())
            }
        }
    }

    fn composite(&mut self, node: &Node, composite: &Composite, inputs: &[String]) -> Result<(), Problem> {
        let x = &inputs[0];
        let me = ("self", tensor(x));
        let affine = || match inputs {
            [_, weight, bias] => Ok([("weight", tensor(weight)), ("bias", tensor(bias))]),
            _ => Err(refused(node, "it has not three inputs")),
        };
        match composite {
            Composite::LogSoftmax { axis } => {
                self.one(node, "log_softmax.int", vec![me, ("dim", int(*axis))])
            }
            Composite::GroupNormalization { groups, epsilon } => {
                let [weight, bias] = affine()?;
                let groups = ("num_groups", int(*groups));
                let arguments = vec![("input", tensor(x)), groups, weight, bias, ("eps", float(*epsilon))];
                self.one(node, "group_norm.default", arguments)
            }
            Composite::InstanceNormalization { epsilon } => {
                let [weight, bias] = affine()?;
                let arguments = vec![
                    ("input", tensor(x)),
                    weight,
                    bias,
                    ("running_mean", none()),
                    ("running_var", none()),
                    ("use_input_stats", json!({"as_bool": true})),
                    ("momentum", float(0.0)),
                    ("eps", float(*epsilon)),
                    ("cudnn_enabled", json!({"as_bool": true})),
                ];
                self.one(node, "instance_norm.default", arguments)
            }
            Composite::Pad { pads, mode } => {
                let arguments =
                    padding(pads, *mode, me).ok_or_else(|| refused(node, "PyTorch cannot pad so"))?;
                self.one(node, "pad.default", arguments)
            }
            Composite::Split { axis, sizes } => self.split(node, *axis, sizes, me),
            Composite::Resize { size, resampling, coordinates } => {
                let (function, corners) = torch_resize(*resampling, *coordinates)
                    .ok_or_else(|| refused(node, "PyTorch has no such resizing"))?;
                let mut arguments = vec![me, ("output_size", ints(size))];
                arguments.extend(corners.map(|corners| ("align_corners", json!({"as_bool": corners}))));
                self.one(node, &format!("{function}.default"), arguments)
            }
            Composite::Gru { .. } => Err(refused(node, "it is to be expanded")),
        }
    }

    fn split(&mut self, node: &Node, axis: usize, sizes: &[usize], me: Argument<'_>) -> Result<(), Problem> {
        let mut parts = Vec::new();
        for &id in &node.outputs {
            let name = self.taken.word("getitem");
            self.tensors.insert(name.clone(), meta(&self.graph.value(id).shape, DType::F32, false)?);
            parts.push(json!({"name": name}));
            self.names.insert(id, name);
        }
        let arguments = vec![me, ("split_sizes", ints(sizes)), ("dim", int(axis))];
        let name = self.taken.word("split_with_sizes");
        self.push("split_with_sizes.default", arguments, json!({"as_tensors": parts}), &name);
        Ok(())
    }
}

fn refused(node: &Node, what: &str) -> Problem {
    Problem::unsupported(format!("node `{}` ({})", node.name, node.op.name()), what, WAY_OUT)
}

fn batch_norm<'a>(
    BatchNormalization { epsilon, momentum }: BatchNormalization,
    node: &Node,
    inputs: &[String],
) -> Result<Vec<Argument<'a>>, Problem> {
    let [x, weight, bias, mean, var] = inputs else { return Err(refused(node, "it has not five inputs")) };
    Ok(vec![
        ("input", tensor(x)),
        ("weight", tensor(weight)),
        ("bias", tensor(bias)),
        ("running_mean", tensor(mean)),
        ("running_var", tensor(var)),
        ("training", json!({"as_bool": false})),
        ("momentum", float(momentum)),
        ("eps", float(epsilon)),
        ("cudnn_enabled", json!({"as_bool": true})),
    ])
}

/// A function of one element with its numbers; `None` where PyTorch has none with these.
fn function(unary: Unary, x: &str) -> Option<(String, Vec<Argument<'static>>)> {
    let row = unary.row();
    let numbers = unary.numbers();
    let fits = |(a, number): (&Attribute, &f32)| a.aten.is_some() || (number - a.aten_default).abs() < 1e-6;
    if !row.attributes.iter().zip(&numbers).all(fits) {
        return None;
    }
    let given = row.attributes.iter().zip(numbers).filter_map(|(a, number)| {
        let (place, name) = a.aten?;
        Some((place, name, float(number)))
    });
    let fixed = row.fixed.iter().map(|fixed| (fixed.place, fixed.name, json!({"as_float": fixed.value})));
    let mut arguments: Vec<(usize, &'static str, Json)> = given.chain(fixed).collect();
    arguments.sort_by_key(|(place, _, _)| *place);
    let me: Argument<'static> = ("self", tensor(x));
    let rest = arguments.into_iter().map(|(_, name, argument)| (name, argument));
    Some((format!("{}.default", row.aten), std::iter::once(me).chain(rest).collect()))
}

fn reduction(op: Reduce, axis: usize, me: Argument<'_>) -> (&'static str, Vec<Argument<'_>>) {
    let rest = [("dim", ints(&[axis])), ("keepdim", json!({"as_bool": true}))];
    let target = match op {
        Reduce::Sum => "sum.dim_IntList",
        Reduce::Mean => "mean.dim",
        Reduce::Max => "amax.default",
        Reduce::Min => "amin.default",
        Reduce::L2 => "linalg_vector_norm.default",
    };
    let order = (op == Reduce::L2).then(|| ("ord", json!({"as_int": 2})));
    (target, std::iter::once(me).chain(order).chain(rest).collect())
}

fn pool<'a>(
    node: &Node,
    pooling: &Pooling,
    me: Argument<'a>,
) -> Result<(&'static str, Vec<Argument<'a>>), Problem> {
    let windows = |pool: &Pool| {
        let [top, left, bottom, right] = pool.pads;
        let fits = (top, left) == (bottom, right) && top <= pool.kernel[0] / 2 && left <= pool.kernel[1] / 2;
        let sizes = [
            ("kernel_size", ints(&pool.kernel)),
            ("stride", ints(&pool.strides)),
            ("padding", ints(&[top, left])),
        ];
        match fits {
            true => Ok(sizes),
            false => Err(refused(node, "PyTorch pads both sides alike, by at most half of the kernel")),
        }
    };
    let ceil = |pool: &Pool| ("ceil_mode", json!({"as_bool": pool.ceil_mode}));
    let mut arguments = vec![me];
    let target = match pooling {
        Pooling::Max(pool) => {
            arguments.extend(windows(pool)?);
            arguments.extend([("dilation", ints(&[1, 1])), ceil(pool)]);
            "max_pool2d.default"
        }
        Pooling::Average(AveragePool { pool, count_include_pad }) => {
            arguments.extend(windows(pool)?);
            arguments.extend([ceil(pool), ("count_include_pad", json!({"as_bool": count_include_pad}))]);
            "avg_pool2d.default"
        }
        Pooling::GlobalAverage => {
            arguments.push(("output_size", ints(&[1, 1])));
            "adaptive_avg_pool2d.default"
        }
    };
    Ok((target, arguments))
}

fn padding<'a>(pads: &[[usize; 2]], mode: PadMode, me: Argument<'a>) -> Option<Vec<Argument<'a>>> {
    let first = match mode {
        PadMode::Constant(_) => pads.iter().position(|pad| *pad != [0; 2]).unwrap_or(pads.len()),
        PadMode::Reflect | PadMode::Edge => 2,
    };
    // The last axis comes first.
    let sides: Vec<usize> = pads.get(first..)?.iter().rev().flatten().copied().collect();
    let (word, value) = match mode {
        PadMode::Constant(number) => ("constant", float(number)),
        PadMode::Reflect => ("reflect", none()),
        PadMode::Edge => ("replicate", none()),
    };
    Some(vec![me, ("pad", ints(&sides)), ("mode", json!({"as_string": word})), ("value", value)])
}

fn optional(name: Option<&String>) -> Json {
    name.map_or_else(none, |name| tensor(name))
}

fn none() -> Json {
    json!({"as_none": true})
}

fn int(n: usize) -> Json {
    json!({"as_int": n})
}

fn ints(all: &[usize]) -> Json {
    json!({"as_ints": all})
}

/// The shortest decimals of a number: what people wrote, `1e-5` and not its nearest float32. JSON has no infinities.
fn float(x: f32) -> Json {
    let shortest = || format!("{x:?}").parse().unwrap_or(f64::from(x));
    match x {
        f32::INFINITY => json!({"as_float": "Infinity"}),
        f32::NEG_INFINITY => json!({"as_float": "-Infinity"}),
        // Those of the largest lie above it, which PyTorch refuses.
        x if x.abs() == f32::MAX => json!({"as_float": f64::from(x)}),
        _ => json!({"as_float": shortest()}),
    }
}
