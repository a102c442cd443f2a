//! The shape rule of each operator.

use crate::graph::{Graph, Value, ValueId};
use crate::op::{
    AveragePool, Binary, Composite, Conv, Direction, Gemm, GradOp, MatMul, Norm, Op, Pool, Pooling, RATES,
    Recurrent, SequenceOp, ShapeOp, TrainOp, UpdateOp,
};
use crate::passes::expanded;
use crate::shape::{Dim, DimOp, Shape};
use crate::tensor::DType;

type Types = Vec<(DType, Shape)>;

/// The types of `op`'s outputs, or why `inputs` do not fit it.
pub(crate) fn infer(op: &Op, inputs: &[&Value]) -> Result<Types, String> {
    if inputs.is_empty() {
        return Err("takes inputs, and has none".into());
    }
    let one = |shape: Shape| Ok(vec![(inputs[0].dtype, shape)]);
    match op {
        Op::Conv(conv) => {
            arity(inputs, 2..=3)?;
            one(conv_shape(conv, inputs)?)
        }
        Op::Gemm(gemm) => {
            arity(inputs, 2..=3)?;
            one(gemm_shape(*gemm, inputs)?)
        }
        Op::Norm(Norm::Batch(_)) => {
            arity(inputs, 5..=5)?;
            per_channel(inputs[0], &inputs[1..])?;
            one(inputs[0].shape.clone())
        }
        Op::Unary(_) | Op::Shape(ShapeOp::Identity) | Op::Dropout { .. } => {
            arity(inputs, 1..=1)?;
            one(inputs[0].shape.clone())
        }
        Op::Binary(_) => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            one(broadcast(&inputs[0].shape, &inputs[1].shape)?)
        }
        Op::Reduce { op: _, axis } => {
            arity(inputs, 1..=1)?;
            one(reduced_shape(inputs[0], *axis)?)
        }
        Op::MatMul(product) => {
            arity(inputs, 2..=2)?;
            one(matmul_shape(inputs, *product)?)
        }
        Op::Norm(Norm::Layer(_)) => {
            arity(inputs, 3..=3)?;
            per_last_axis(inputs[0], &inputs[1..])?;
            one(inputs[0].shape.clone())
        }
        Op::Shape(ShapeOp::Transpose { perm }) => {
            arity(inputs, 1..=1)?;
            one(transposed_shape(&inputs[0].shape, perm)?)
        }
        Op::Shape(ShapeOp::Reshape { shape }) => {
            arity(inputs, 1..=1)?;
            same_count(&inputs[0].shape, shape)?;
            one(shape.clone())
        }
        Op::Shape(ShapeOp::Concat { axis }) => one(concatenated_shape(inputs, *axis)?),
        Op::Shape(ShapeOp::Slice { axis, start, end }) => {
            arity(inputs, 1..=1)?;
            one(sliced_shape(&inputs[0].shape, *axis, *start, *end)?)
        }
        Op::Shape(ShapeOp::Expand { shape }) => {
            arity(inputs, 1..=1)?;
            if broadcast(&inputs[0].shape, shape)? != *shape {
                return Err(format!("{} does not broadcast to {shape}", inputs[0].shape));
            }
            one(shape.clone())
        }
        Op::Pool(Pooling::Max(pool) | Pooling::Average(AveragePool { pool, .. })) => {
            arity(inputs, 1..=1)?;
            one(pool_shape(pool, inputs[0])?)
        }
        Op::Pool(Pooling::GlobalAverage) => {
            arity(inputs, 1..=1)?;
            rank(inputs[0], 4)?;
            let [n, c] = [0, 1].map(|i| inputs[0].shape.0[i].clone());
            one(Shape(vec![n, c, Dim::Fixed(1), Dim::Fixed(1)]))
        }
        Op::Shape(ShapeOp::Flatten { axis }) => {
            arity(inputs, 1..=1)?;
            one(flatten_shape(&inputs[0].shape, *axis)?)
        }
        Op::Softmax { axis } => {
            arity(inputs, 1..=1)?;
            if *axis >= inputs[0].shape.rank() {
                return Err(format!("axis {axis} is outside of the shape {}", inputs[0].shape));
            }
            one(inputs[0].shape.clone())
        }
        Op::SoftmaxCrossEntropyLoss(_) => {
            arity(inputs, 2..=3)?;
            loss_operands(inputs)?;
            one(Shape::default())
        }
        Op::QuantizeLinear { axis } => {
            arity(inputs, 3..=3)?;
            if inputs[0].dtype != DType::F32 {
                return Err(format!(
                    "`{}` is {}, and only f32 is quantized",
                    inputs[0].name, inputs[0].dtype
                ));
            }
            one_of(inputs[2], &[DType::U8, DType::I8])?;
            scale_and_zero_point(inputs[0], &inputs[1..], *axis)?;
            Ok(vec![(inputs[2].dtype, inputs[0].shape.clone())])
        }
        Op::DynamicQuantizeMatMul { trans_b } => {
            arity(inputs, 3..=4)?;
            one(dynamic_product_shape(inputs, *trans_b)?)
        }
        Op::Recurrent(Recurrent::Lstm(direction) | Recurrent::DynamicQuantizeLstm(direction)) => {
            let bytes = matches!(op, Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)));
            arity(inputs, if bytes { 6..=6 } else { 4..=4 })?;
            lstm_shapes(inputs, *direction, bytes)
        }
        Op::DequantizeLinear { axis } => {
            arity(inputs, 3..=3)?;
            one_of(inputs[0], &[DType::U8, DType::I8, DType::I32])?;
            same_dtype(inputs[0], inputs[2])?;
            scale_and_zero_point(inputs[0], &inputs[1..], *axis)?;
            Ok(vec![(DType::F32, inputs[0].shape.clone())])
        }
        Op::Sequence(op) => infer_sequence(*op, inputs),
        Op::Train(op) => infer_train(op, inputs),
        Op::Grad(op) => infer_grad(op, inputs),
        Op::Update(op) => infer_update(op, inputs),
        Op::Composite(op) => infer_composite(op, inputs),
    }
}

fn infer_sequence(op: SequenceOp, inputs: &[&Value]) -> Result<Types, String> {
    let axis_of = |axis: usize| {
        let shape = &inputs[0].shape;
        shape.0.get(axis).cloned().ok_or_else(|| format!("axis {axis} is outside of the shape {shape}"))
    };
    let inputs_of = |count: usize| arity(inputs, count..=count);
    match op {
        SequenceOp::Gather => {
            inputs_of(2)?;
            one_of(inputs[0], &[DType::F32])?;
            one_of(inputs[1], &[DType::I64])?;
            axis_of(0)?;
            let shape = [&inputs[1].shape.0[..], &inputs[0].shape.0[1..]].concat();
            Ok(vec![(DType::F32, Shape(shape))])
        }
        SequenceOp::Positions { axis } => {
            inputs_of(1)?;
            Ok(vec![(DType::I64, Shape(vec![axis_of(axis)?]))])
        }
        SequenceOp::Equal { .. } | SequenceOp::ToFloat => {
            inputs_of(1)?;
            one_of(inputs[0], &[DType::I64])?;
            Ok(vec![(DType::F32, inputs[0].shape.clone())])
        }
        SequenceOp::Where => {
            inputs_of(3)?;
            inputs.iter().try_for_each(|x| one_of(x, &[DType::F32]))?;
            let mut shape = inputs[0].shape.clone();
            for other in &inputs[1..] {
                shape = broadcast(&shape, &other.shape)?;
            }
            Ok(vec![(DType::F32, shape)])
        }
    }
}

fn reduced_shape(x: &Value, axis: usize) -> Result<Shape, String> {
    if !x.dtype.is_float() {
        return Err(format!("`{}` is {}, and only floats are reduced", x.name, x.dtype));
    }
    let mut shape = x.shape.clone();
    *shape.0.get_mut(axis).ok_or_else(|| format!("axis {axis} is outside of the shape {}", x.shape))? =
        Dim::Fixed(1);
    Ok(shape)
}

fn infer_train(op: &TrainOp, inputs: &[&Value]) -> Result<Types, String> {
    let dtype = inputs[0].dtype;
    match op {
        TrainOp::BatchNormStats(_) => {
            arity(inputs, 3..=3)?;
            per_channel(inputs[0], &inputs[1..])?;
            Ok(vec![(DType::F32, inputs[1].shape.clone()); 4])
        }
        TrainOp::BatchNormApply => {
            arity(inputs, 5..=5)?;
            per_channel(inputs[0], &inputs[1..])?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::InvStd { .. } => {
            arity(inputs, 1..=1)?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::Dropout { .. } => {
            arity(inputs, 2..=2)?;
            dropout_keys(inputs)?;
            Ok(vec![(dtype, inputs[0].shape.clone())])
        }
        TrainOp::Cast { to } => {
            arity(inputs, 1..=1)?;
            if !(dtype.is_float() && to.is_float()) {
                return Err(format!(
                    "`{}` is {dtype} and cannot become {to}: both must be floats",
                    inputs[0].name
                ));
            }
            Ok(vec![(*to, inputs[0].shape.clone())])
        }
    }
}

/// The types that the operators which define it give.
fn infer_composite(op: &Composite, inputs: &[&Value]) -> Result<Types, String> {
    let mut graph = Graph::new("types");
    let inputs: Vec<ValueId> =
        inputs.iter().map(|x| graph.add_input(&x.name, x.dtype, x.shape.clone())).collect();
    let outputs = expanded(op, &mut graph, "node", &inputs).map_err(|error| error.reason)?;
    Ok(outputs.into_iter().map(|y| (graph.value(y).dtype, graph.value(y).shape.clone())).collect())
}

fn infer_update(op: &UpdateOp, inputs: &[&Value]) -> Result<Types, String> {
    let all = |values: &[&Value], dtype: DType| values.iter().try_for_each(|x| one_of(x, &[dtype]));
    let kept = |operands: usize| {
        arity(inputs, operands..=operands)?;
        all(inputs, DType::F32)?;
        let kept = &inputs[..op.kept()];
        // Moments lie flat in a checkpoint.
        let x = inputs[op.kept()];
        match kept.iter().find(|v| count(&v.shape) != count(&x.shape)) {
            None => Ok(kept.iter().map(|v| (v.dtype, v.shape.clone())).collect()),
            Some(v) => Err(format!("`{}` is {} and `{}` is {}", v.name, v.shape, x.name, x.shape)),
        }
    };
    let row = |row: usize, rates: &Value| match rates.shape.as_fixed().as_deref() {
        Some(&[rows, RATES]) if row < rows => Ok(()),
        _ => Err(format!("the rates are {}, without a row {row} of {RATES}", rates.shape)),
    };
    match op {
        UpdateOp::SquareSums => {
            all(inputs, DType::F32)?;
            Ok(vec![(DType::F64, Shape::fixed(&[inputs.len()]))])
        }
        UpdateOp::Clip(_) => {
            arity(inputs, 2..=3)?;
            all(&inputs[..1], DType::F64)?;
            all(&inputs[1..], DType::F32)?;
            Ok(vec![(DType::F32, Shape::fixed(&[2]))])
        }
        UpdateOp::Sgd { row: index, .. } => {
            let types = kept(5)?;
            row(*index, inputs[4])?;
            Ok(types)
        }
        UpdateOp::Adam { row: index } => {
            let types = kept(6)?;
            row(*index, inputs[5])?;
            Ok(types)
        }
        UpdateOp::Accumulate => kept(4),
        UpdateOp::Average => kept(3),
    }
}

/// The number of elements, where it is known.
fn count(shape: &Shape) -> Option<usize> {
    shape.as_fixed().map(|sizes| sizes.iter().product())
}

fn infer_grad(op: &GradOp, inputs: &[&Value]) -> Result<Types, String> {
    let one = |shape: &Shape| Ok(vec![(inputs[0].dtype, shape.clone())]);
    match op {
        GradOp::ConvInput { shape, .. } => {
            arity(inputs, 2..=2)?;
            one(shape)
        }
        GradOp::ConvWeight { shape, .. } => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            Ok(vec![(DType::F32, shape.clone())])
        }
        GradOp::AveragePool { shape, .. }
        | GradOp::GlobalAveragePool { shape }
        | GradOp::Reshape { shape }
        | GradOp::ReduceTo { shape } => {
            arity(inputs, 1..=1)?;
            one(shape)
        }
        GradOp::Slice { shape, .. } => {
            arity(inputs, 1..=1)?;
            one(shape)
        }
        GradOp::LayerNormReduce(_) => {
            arity(inputs, 2..=2)?;
            same_shape(inputs[0], inputs[1])?;
            let width = inputs[1].shape.0.last().ok_or("the input has no axis")?;
            Ok(vec![(DType::F32, Shape(vec![width.clone()])); 2])
        }
        GradOp::LayerNormInput(_) => {
            arity(inputs, 3..=3)?;
            same_shape(inputs[0], inputs[1])?;
            per_last_axis(inputs[1], &inputs[2..])?;
            one(&inputs[1].shape)
        }
        GradOp::SumToChannels => {
            arity(inputs, 1..=1)?;
            let channels = inputs[0].shape.0.get(1).ok_or("the gradient has no channel axis")?;
            Ok(vec![(DType::F32, Shape(vec![channels.clone()]))])
        }
        GradOp::BatchNormReduce => {
            arity(inputs, 4..=4)?;
            same_dtype(inputs[0], inputs[1])?;
            per_channel(inputs[0], &inputs[2..])?;
            Ok(vec![(DType::F32, inputs[2].shape.clone()); 2])
        }
        GradOp::BatchNormInput => {
            arity(inputs, 7..=7)?;
            same_dtype(inputs[0], inputs[1])?;
            per_channel(inputs[0], &inputs[2..])?;
            one(&inputs[0].shape)
        }
        GradOp::BatchNormScale => {
            arity(inputs, 3..=3)?;
            per_channel(inputs[0], &inputs[1..])?;
            one(&inputs[0].shape)
        }
        GradOp::Unary(_) | GradOp::Softmax { .. } => {
            arity(inputs, 2..=2)?;
            same_shape(inputs[0], inputs[1])?;
            one(&inputs[0].shape)
        }
        GradOp::Binary { op: Binary::Max | Binary::Min | Binary::Pow, slot: 0 | 1 } => {
            arity(inputs, 3..=3)?;
            inputs[1..].iter().try_for_each(|operand| same_dtype(inputs[0], operand))?;
            if broadcast(&inputs[1].shape, &inputs[2].shape)? != inputs[0].shape {
                return Err(format!("the gradient is {}, not of the operands' shape", inputs[0].shape));
            }
            one(&inputs[0].shape)
        }
        GradOp::Binary { .. } => Err("only Max, Min and Pow of two operands have such a gradient".into()),
        GradOp::Reduce { op: _, axis } => {
            arity(inputs, 3..=3)?;
            same_shape(inputs[0], inputs[2])?;
            if reduced_shape(inputs[1], *axis)? != inputs[0].shape {
                return Err(format!("the gradient is {}, not of the reduced shape", inputs[0].shape));
            }
            one(&inputs[1].shape)
        }
        GradOp::Gather { shape } => {
            arity(inputs, 2..=2)?;
            one_of(inputs[1], &[DType::I64])?;
            one(shape)
        }
        GradOp::MaxPool(_) => {
            arity(inputs, 2..=2)?;
            same_dtype(inputs[0], inputs[1])?;
            one(&inputs[1].shape)
        }
        GradOp::Dropout { .. } => {
            arity(inputs, 2..=2)?;
            dropout_keys(inputs)?;
            one(&inputs[0].shape)
        }
        GradOp::SoftmaxCrossEntropyLoss(_) => {
            arity(inputs, 3..=4)?;
            loss_operands(&inputs[1..])?;
            one(&inputs[1].shape)
        }
        GradOp::QuantizeLinear { axis } => {
            arity(inputs, 4..=4)?;
            same_shape(inputs[0], inputs[1])?;
            one_of(inputs[3], &[DType::U8, DType::I8])?;
            scale_and_zero_point(inputs[1], &inputs[2..], *axis)?;
            one(&inputs[0].shape)
        }
    }
}

fn dynamic_product_shape(inputs: &[&Value], trans_b: bool) -> Result<Shape, String> {
    let (x, weight) = (inputs[0], inputs[1]);
    if x.dtype != DType::F32 {
        return Err(format!("`{}` is {}, and only f32 is quantized", x.name, x.dtype));
    }
    one_of(weight, &[DType::I8])?;
    rank(x, 2)?;
    rank(weight, 2)?;
    let (depth, width) = (&weight.shape.0[usize::from(trans_b)], &weight.shape.0[usize::from(!trans_b)]);
    if x.shape.0[1] != *depth {
        return Err(format!("`{}` is {} and `{}` is {}", x.name, x.shape, weight.name, weight.shape));
    }
    let one_each = |v: &&&Value| v.dtype == DType::F32 && v.shape.0 == std::slice::from_ref(width);
    match inputs[2..].iter().find(|v| !one_each(v)) {
        None => Ok(Shape(vec![x.shape.0[0].clone(), width.clone()])),
        Some(v) => Err(format!("`{}` is {}{}, the product has {width} columns", v.name, v.dtype, v.shape)),
    }
}

/// The weights are [D, 4 H, k], or bytes [D, k, 4 H].
fn lstm_shapes(inputs: &[&Value], direction: Direction, bytes: bool) -> Result<Types, String> {
    rank(inputs[0], 3)?;
    rank(inputs[2], 3)?;
    let [steps, batch, depth] = [0, 1, 2].map(|axis| inputs[0].shape.0[axis].clone());
    let hidden = inputs[2].shape.0[if bytes { 1 } else { 2 }].clone();
    let (Some(k), Some(h)) = (depth.fixed(), hidden.fixed().filter(|&h| h > 0)) else {
        return Err("its input's last axis and its hidden size must be known".into());
    };
    let (ways, units) = (direction.ways(), h.checked_mul(4).ok_or("its hidden size is out of range")?);
    let weight = |k| if bytes { vec![ways, k, units] } else { vec![ways, units, k] };
    let weights = if bytes { DType::I8 } else { DType::F32 };
    let mut wanted = vec![(weights, weight(k)), (weights, weight(h))];
    if bytes {
        wanted.extend([(DType::F32, vec![ways, units]), (DType::F32, vec![ways, units])]);
    }
    wanted.push((DType::F32, vec![ways, 2 * units]));
    for (value, (dtype, shape)) in inputs[1..].iter().zip(wanted) {
        if value.dtype != dtype || value.shape != Shape::fixed(&shape) {
            return Err(format!(
                "`{}` is {}{}, and must be {dtype}{shape:?}",
                value.name, value.dtype, value.shape
            ));
        }
    }
    one_of(inputs[0], &[DType::F32])?;
    let ways = Dim::Fixed(ways);
    let y = Shape(vec![steps, ways.clone(), batch.clone(), hidden.clone()]);
    Ok(vec![(DType::F32, y), (DType::F32, Shape(vec![ways, batch, hidden]))])
}

fn arity(inputs: &[&Value], wanted: std::ops::RangeInclusive<usize>) -> Result<(), String> {
    if wanted.contains(&inputs.len()) {
        return Ok(());
    }
    let (least, most) = wanted.into_inner();
    let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Err(format!("takes {wanted} inputs, not {}", inputs.len()))
}

fn rank(value: &Value, wanted: usize) -> Result<(), String> {
    if value.shape.rank() == wanted {
        return Ok(());
    }
    Err(format!("`{}` must have {wanted} axes, its shape is {}", value.name, value.shape))
}

fn same_shape(a: &Value, b: &Value) -> Result<(), String> {
    same_dtype(a, b)?;
    if a.shape == b.shape {
        return Ok(());
    }
    Err(format!("`{}` is {} and `{}` is {}", a.name, a.shape, b.name, b.shape))
}

fn same_dtype(a: &Value, b: &Value) -> Result<(), String> {
    if a.dtype == b.dtype {
        return Ok(());
    }
    Err(format!("`{}` is {} and `{}` is {}", a.name, a.dtype, b.name, b.dtype))
}

fn one_of(value: &Value, dtypes: &[DType]) -> Result<(), String> {
    if dtypes.contains(&value.dtype) {
        return Ok(());
    }
    let names: Vec<String> = dtypes.iter().map(DType::to_string).collect();
    Err(format!("`{}` is {}, and must be {}", value.name, value.dtype, names.join(" or ")))
}

/// Both `[scale, zero_point]` are scalars, or have a number for each place of x's `axis`.
fn scale_and_zero_point(x: &Value, vectors: &[&Value], axis: usize) -> Result<(), String> {
    let (scale, zero_point) = (vectors[0], vectors[1]);
    one_of(scale, &[DType::F32])?;
    let fits = match &scale.shape.0[..] {
        [] => axis == 0,
        [places] => x.shape.0.get(axis) == Some(places),
        _ => false,
    };
    if !fits {
        let (name, shape) = (&scale.name, &scale.shape);
        return Err(format!(
            "`{name}` is {shape}: one number, or one for each place of axis {axis} of {}",
            x.shape
        ));
    }
    if scale.shape != zero_point.shape {
        return Err(format!(
            "`{}` is {}, `{}` is {}",
            scale.name, scale.shape, zero_point.name, zero_point.shape
        ));
    }
    Ok(())
}

fn floats(values: &[&Value]) -> Result<(), String> {
    match values.iter().find(|v| !v.dtype.is_float()) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, and must be a float: dequantize it first", v.name, v.dtype)),
    }
}

/// Every one of `vectors` has one element for each of x's channels.
fn per_channel(x: &Value, vectors: &[&Value]) -> Result<(), String> {
    let channels = x.shape.0.get(1).ok_or_else(|| format!("`{}` {} has no channel axis", x.name, x.shape))?;
    match vectors.iter().find(|v| v.shape.0 != std::slice::from_ref(channels)) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, the input has {channels} channels", v.name, v.shape)),
    }
}

/// Every one of `vectors` has one element for each place of x's last axis.
fn per_last_axis(x: &Value, vectors: &[&Value]) -> Result<(), String> {
    let width = x.shape.0.last().ok_or_else(|| format!("`{}` is a scalar", x.name))?;
    match vectors.iter().find(|v| v.shape.0 != std::slice::from_ref(width)) {
        None => Ok(()),
        Some(v) => Err(format!("`{}` is {}, the input's rows have {width} elements", v.name, v.shape)),
    }
}

fn dropout_keys(inputs: &[&Value]) -> Result<(), String> {
    let keys = inputs[1];
    if keys.dtype == DType::I64 && keys.shape.rank() == 1 && inputs[0].shape.0.first() == keys.shape.0.first()
    {
        return Ok(());
    }
    Err(format!(
        "the keys must be i64, one for each picture; `{}` is {} {}",
        keys.name, keys.dtype, keys.shape
    ))
}

fn loss_operands(inputs: &[&Value]) -> Result<(), String> {
    let (logits, labels) = (inputs[0], inputs[1]);
    rank(logits, 2)?;
    let hard = labels.dtype == DType::I64 && labels.shape.0 == logits.shape.0[..1];
    let soft = labels.dtype == DType::F32 && labels.shape == logits.shape;
    if !hard && !soft {
        return Err(format!(
            "the labels must be i64 [{}] or f32 {}; they are {} {}",
            logits.shape.0[0], logits.shape, labels.dtype, labels.shape
        ));
    }
    match inputs.get(2) {
        Some(weights) => per_channel(logits, &[weights]),
        None => Ok(()),
    }
}

fn conv_shape(conv: &Conv, inputs: &[&Value]) -> Result<Shape, String> {
    floats(inputs)?;
    filter_shape(conv, inputs[0], inputs[1], inputs.get(2).copied())
}

fn filter_shape(conv: &Conv, x: &Value, w: &Value, bias: Option<&Value>) -> Result<Shape, String> {
    rank(x, 4)?;
    rank(w, 4)?;
    let weight = w.shape.as_fixed().ok_or("the weight's shape must be known")?;
    let channels = x.shape.0[1].fixed().ok_or("the number of channels must be known")?;
    if conv.group == 0 || weight[0] % conv.group != 0 || weight[1].checked_mul(conv.group) != Some(channels) {
        let (w, g) = (&w.shape, conv.group);
        return Err(format!("a weight of {w} in {g} group(s) does not fit {channels} input channels"));
    }
    if let Some(bias) = bias
        && bias.shape != Shape::fixed(&weight[..1])
    {
        return Err(format!("a bias of {} does not fit {} output channels", bias.shape, weight[0]));
    }
    let side = |axis: usize| {
        let (pads, kernel) = ((conv.pads[axis], conv.pads[axis + 2]), weight[2 + axis]);
        windows(&x.shape.0[2 + axis], pads, kernel, conv.dilations[axis], conv.strides[axis], false)
    };
    Ok(Shape(vec![x.shape.0[0].clone(), Dim::Fixed(weight[0]), side(0)?, side(1)?]))
}

/// The number of windows along one axis: (size + pads - dilation (kernel - 1) - 1) / stride + 1.
fn windows(
    size: &Dim,
    pads: (usize, usize),
    kernel: usize,
    dilation: usize,
    stride: usize,
    ceil: bool,
) -> Result<Dim, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err("kernel, stride and dilation must be at least 1".into());
    }
    let total =
        |a: usize, b: usize| a.checked_add(b).filter(|&n| n <= 1 << 30).ok_or("the padding is too large");
    let reach =
        dilation.checked_mul(kernel - 1).and_then(|n| n.checked_add(1)).ok_or("the kernel is too large")?;
    let padded = size.combine(DimOp::Add, &Dim::Fixed(total(pads.0, pads.1)?));
    if padded.fixed().is_some_and(|n| n < reach) {
        return Err(format!(
            "a window of {reach} does not fit an input of {size} with {} of padding",
            pads.0 + pads.1
        ));
    }
    let span = padded.combine(DimOp::Sub, &Dim::Fixed(reach));
    if !ceil {
        return Ok(span.combine(DimOp::Div, &Dim::Fixed(stride)).combine(DimOp::Add, &Dim::Fixed(1)));
    }
    // A last window must start inside the input or its left padding (PyTorch's rule).
    let (Some(span), Some(size)) = (span.fixed(), size.fixed()) else {
        return Err("ceil_mode needs a known height and width".into());
    };
    let count = span.div_ceil(stride) + 1;
    Ok(Dim::Fixed(if (count - 1) * stride >= size + pads.0 { count - 1 } else { count }))
}

fn pool_shape(pool: &Pool, x: &Value) -> Result<Shape, String> {
    rank(x, 4)?;
    let side = |axis: usize| {
        let (pads, kernel) = ((pool.pads[axis], pool.pads[axis + 2]), pool.kernel[axis]);
        if pads.0 >= kernel.max(1) || pads.1 >= kernel.max(1) {
            return Err(format!("a padding of {pads:?} leaves windows of {kernel} that hold padding only"));
        }
        windows(&x.shape.0[2 + axis], pads, kernel, 1, pool.strides[axis], pool.ceil_mode)
    };
    Ok(Shape(vec![x.shape.0[0].clone(), x.shape.0[1].clone(), side(0)?, side(1)?]))
}

fn gemm_shape(gemm: Gemm, inputs: &[&Value]) -> Result<Shape, String> {
    floats(inputs)?;
    matrices_shape(gemm, inputs[0], inputs[1], inputs.get(2).copied())
}

fn matrices_shape(gemm: Gemm, a: &Value, b: &Value, c: Option<&Value>) -> Result<Shape, String> {
    let matrix = |value: &Value, transposed: bool| {
        rank(value, 2)?;
        let [rows, columns] = [0, 1].map(|i| value.shape.0[i].clone());
        Ok::<_, String>(if transposed { (columns, rows) } else { (rows, columns) })
    };
    let ((m, k), (k2, n)) = (matrix(a, gemm.trans_a)?, matrix(b, gemm.trans_b)?);
    if k != k2 {
        return Err(format!("`{}` has {k} columns, `{}` {k2} rows", a.name, b.name));
    }
    let shape = Shape(vec![m, n]);
    match c {
        Some(c) if c.shape.0 != shape.0[1..] => Err(format!("the bias is {}, the output {shape}", c.shape)),
        Some(_) | None => Ok(shape),
    }
}

fn matmul_shape(inputs: &[&Value], MatMul { trans_a, trans_b }: MatMul) -> Result<Shape, String> {
    let (a, b) = (inputs[0], inputs[1]);
    same_dtype(a, b)?;
    let rank = a.shape.rank();
    if rank < 2 || b.shape.rank() != rank || a.shape.0[..rank - 2] != b.shape.0[..rank - 2] {
        return Err(format!("{} and {} are no stacks of as many matrices", a.shape, b.shape));
    }
    let matrix = |shape: &Shape, transposed: bool| {
        let [rows, columns] = [rank - 2, rank - 1].map(|i| shape.0[i].clone());
        if transposed { (columns, rows) } else { (rows, columns) }
    };
    let ((m, k), (k2, n)) = (matrix(&a.shape, trans_a), matrix(&b.shape, trans_b));
    if k != k2 {
        return Err(format!("`{}` has {k} columns, `{}` {k2} rows", a.name, b.name));
    }
    let mut shape = a.shape.0[..rank - 2].to_vec();
    shape.extend([m, n]);
    Ok(Shape(shape))
}

fn transposed_shape(shape: &Shape, perm: &[usize]) -> Result<Shape, String> {
    let rank = shape.rank();
    let mut seen = vec![false; rank];
    for &axis in perm {
        if axis >= rank || std::mem::replace(&mut seen[axis], true) {
            return Err(format!("{perm:?} is no permutation of the axes of {shape}"));
        }
    }
    if perm.len() != rank {
        return Err(format!("{perm:?} is no permutation of the axes of {shape}"));
    }
    Ok(Shape(perm.iter().map(|&axis| shape.0[axis].clone()).collect()))
}

fn concatenated_shape(inputs: &[&Value], axis: usize) -> Result<Shape, String> {
    let first = inputs[0];
    let mut shape = first.shape.0.clone();
    if axis >= shape.len() {
        return Err(format!("axis {axis} is outside of the shape {}", first.shape));
    }
    for other in &inputs[1..] {
        same_dtype(first, other)?;
        let same = other.shape.rank() == shape.len()
            && (0..shape.len()).all(|i| i == axis || other.shape.0[i] == first.shape.0[i]);
        if !same {
            return Err(format!("{} and {} differ in more than axis {axis}", first.shape, other.shape));
        }
        shape[axis] = shape[axis].combine(DimOp::Add, &other.shape.0[axis]);
    }
    Ok(Shape(shape))
}

fn sliced_shape(shape: &Shape, axis: usize, start: usize, end: usize) -> Result<Shape, String> {
    let size = shape.0.get(axis).ok_or_else(|| format!("axis {axis} is outside of the shape {shape}"))?;
    let size = size.fixed().ok_or("the size of the axis must be known")?;
    if start >= end || end > size {
        return Err(format!("{start}..{end} is no part of the {size} places of axis {axis}"));
    }
    let mut sliced = shape.clone();
    sliced.0[axis] = Dim::Fixed(end - start);
    Ok(sliced)
}

/// Both shapes have as many elements, whatever their symbols stand for.
fn same_count(a: &Shape, b: &Shape) -> Result<(), String> {
    if a.has_as_many_as(b) {
        return Ok(());
    }
    Err(format!("{a} and {b} have not the same number of elements"))
}

fn flatten_shape(shape: &Shape, axis: usize) -> Result<Shape, String> {
    if axis > shape.rank() {
        return Err(format!("axis {axis} is outside of the shape {shape}"));
    }
    let product = |dims: &[Dim]| dims.iter().fold(Dim::Fixed(1), |n, d| n.combine(DimOp::Mul, d));
    Ok(Shape(vec![product(&shape.0[..axis]), product(&shape.0[axis..])]))
}

/// The shape of `a op b` under NumPy's broadcasting.
pub(crate) fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.rank().max(b.rank());
    let axis = |shape: &Shape, i: usize| (i + shape.rank()).checked_sub(rank).map(|j| shape.0[j].clone());
    (0..rank)
        .map(|i| match (axis(a, i), axis(b, i)) {
            (Some(Dim::Fixed(1)) | None, Some(d)) | (Some(d), Some(Dim::Fixed(1)) | None) => Ok(d),
            (Some(x), Some(y)) if x == y => Ok(x),
            _ => Err(format!("{a} and {b} do not broadcast")),
        })
        .collect::<Result<Vec<Dim>, String>>()
        .map(Shape)
}
