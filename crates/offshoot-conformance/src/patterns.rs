//! What an executor may compute in one pass: each pattern against the same graph with all values as outputs, for its answer and in
//! training.

use offshoot_graph::model::BATCH;
use offshoot_graph::op::{Binary, Clip, Composite, Conv, MatMul, ShapeOp, Unary};
use offshoot_graph::passes::freeze;
use offshoot_graph::{DType, Data, Dim, Graph, Op, Role, Shape, Tensor, Weights};

use crate::random_graph::{Made, Maker};
use crate::random_graphs::{answer, gradients};
use crate::{Executors, Report};

/// A picture of 3 channels and 14 x 8 pixels.
const PICTURE: [u16; 4] = [1, 0, 1, 3];

/// All patterns.
pub(crate) fn patterns(executors: Executors<'_>, report: &mut Report) {
    let windows = (1..=9).flat_map(|kernel| (1..=3).map(move |stride| (kernel, stride)));
    let depthwise = windows.map(|(kernel, stride)| {
        (format!("a depthwise convolution of {kernel} by {stride}"), depthwise(kernel, stride))
    });
    let activations =
        Unary::ALL.iter().map(|&unary| (format!("{unary:?} after a convolution"), activation(unary)));
    let residual = [("a residual".to_string(), residual())];
    for (what, made) in depthwise.chain(activations).chain(residual).chain(attentions()).chain(group_norms())
    {
        for executor in executors.0 {
            if !answer(&made, *executor, &what, report) || !gradients(&made, *executor, &what, report) {
                report.note(format!("{what}: it does not run"));
            }
        }
    }
    bytes(executors, report);
}

/// A norm, a depthwise convolution, and a norm.
fn depthwise(kernel: usize, stride: usize) -> Made {
    let mut maker = Maker::new(&PICTURE);
    let x = maker.values[0];
    maker.norm(x);
    let conv = Conv { strides: [stride; 2], pads: [kernel / 2; 4], group: 3, ..Conv::default() };
    let inputs = [maker.values[1], maker.weight(&[3, 1, kernel, kernel])];
    let y = maker.add(Op::Conv(conv), &inputs).unwrap();
    maker.norm(y);
    maker.finish()
}

/// A convolution with a bias and a function of its output, which is positive for those that are defined there only.
fn activation(unary: Unary) -> Made {
    let mut maker = Maker::new(&PICTURE);
    let inputs = [maker.values[0], maker.weight(&[8, 3, 3, 3]), maker.weight(&[8])];
    let conv = Conv { pads: [1; 4], ..Conv::default() };
    let mut y = maker.add(Op::Conv(conv), &inputs).unwrap();
    if matches!(unary, Unary::Log | Unary::Sqrt | Unary::Reciprocal) {
        y = maker.add(Op::Unary(Unary::Clip(Clip { min: 0.5, max: 8.0 })), &[y]).unwrap();
    }
    maker.add(Op::Unary(unary), &[y]).unwrap();
    maker.finish()
}

/// relu(norm(conv(relu(norm(conv(x))))) + x).
fn residual() -> Made {
    let mut maker = Maker::new(&PICTURE);
    let x = maker.values[0];
    let mut y = x;
    for _ in 0..2 {
        let inputs = [y, maker.weight(&[3, 3, 3, 3])];
        y = maker.add(Op::Conv(Conv { pads: [1; 4], ..Conv::default() }), &inputs).unwrap();
        let at = maker.values.len();
        maker.norm(y);
        y = maker.values[at];
    }
    y = maker.add(Op::Binary(Binary::Add), &[y, x]).unwrap();
    maker.add(Op::Unary(Unary::Relu), &[y]).unwrap();
    maker.finish()
}

/// Attention with and without a scale and a mask. The last mask has one number for all keys.
fn attentions() -> impl Iterator<Item = (String, Made)> {
    let scales = [None, Some(Binary::Mul), Some(Binary::Div)];
    let masks: [&[usize]; 6] = [&[], &[14, 14], &[3, 14, 14], &[1, 3, 1, 14], &[14], &[14, 1]];
    let all = scales.into_iter().flat_map(move |scale| masks.into_iter().map(move |mask| (scale, mask)));
    all.map(|(scale, mask)| {
        (format!("attention with {scale:?} and a mask of {mask:?}"), attention(scale, mask))
    })
}

/// softmax(scale q kᵀ + mask) v, where k is transposed by an operator of its own.
fn attention(scale: Option<Binary>, mask: &[usize]) -> Made {
    let mut maker = Maker::new(&PICTURE);
    let x = maker.values[0];
    let [q, k, v] = [(); 3].map(|()| {
        let inputs = [x, maker.weight(&[14, 8])];
        maker.add(Op::Binary(Binary::Mul), &inputs).unwrap()
    });
    let keys = maker.add(Op::Shape(ShapeOp::Transpose { perm: vec![0, 1, 3, 2] }), &[k]).unwrap();
    let mut scores = maker.add(Op::MatMul(MatMul::default()), &[q, keys]).unwrap();
    if let Some(op) = scale {
        let scale = maker.number(0.6);
        scores = maker.add(Op::Binary(op), &[scores, scale]).unwrap();
    }
    if !mask.is_empty() {
        let mask = maker.weight(mask);
        scores = maker.add(Op::Binary(Binary::Add), &[scores, mask]).unwrap();
    }
    let parts = maker.add(Op::Softmax { axis: 3 }, &[scores]).unwrap();
    maker.add(Op::MatMul(MatMul::default()), &[parts, v]).unwrap();
    maker.finish()
}

/// Norms of groups, with and without a weight and a bias of each channel, as PyTorch's exporter writes them.
fn group_norms() -> impl Iterator<Item = (String, Made)> {
    let affine: [&[Binary]; 4] = [&[], &[Binary::Mul], &[Binary::Add], &[Binary::Mul, Binary::Add]];
    let all = [1, 2, 3, 6].into_iter().flat_map(move |groups| affine.map(|affine| (groups, affine)));
    all.map(|(groups, affine)| (format!("a norm of {groups} groups, {affine:?}"), group_norm(groups, affine)))
}

fn group_norm(groups: usize, affine: &[Binary]) -> Made {
    let mut maker = Maker::new(&PICTURE);
    let inputs = [maker.values[0], maker.weight(&[6, 3, 3, 3]), maker.weight(&[6])];
    let x = maker.add(Op::Conv(Conv { pads: [1; 4], ..Conv::default() }), &inputs).unwrap();
    let shape = |dims: &[usize]| {
        let dims = dims.iter().map(|&size| Dim::Fixed(size));
        Op::Shape(ShapeOp::Reshape { shape: Shape([Dim::symbol(BATCH)].into_iter().chain(dims).collect()) })
    };
    let y = maker.add(shape(&[groups, 6 / groups * 14 * 8]), &[x]).unwrap();
    let [ones, zeros] = [maker.numbers(groups, 1.0), maker.numbers(groups, 0.0)];
    let norm = Op::Composite(Composite::InstanceNormalization { epsilon: 1e-5 });
    let y = maker.add(norm, &[y, ones, zeros]).unwrap();
    let mut y = maker.add(shape(&[6, 14, 8]), &[y]).unwrap();
    for &op in affine {
        let vector = maker.weight(&[6, 1, 1]);
        y = maker.add(Op::Binary(op), &[vector, y]).unwrap();
    }
    maker.finish()
}

/// A step of the scale in [`bytes`].
const STEP: f32 = 0.02;

/// A convolution whose operands and result are bytes: an executor that computes on them may be off by a step.
fn bytes(executors: Executors<'_>, report: &mut Report) {
    let mut graph = Graph::new("bytes");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3, 9, 7]));
    let scale = graph.add_constant("scale", Tensor::f32([], vec![STEP]));
    let zero = graph.add_constant("zero", Tensor::new([], Data::U8(vec![120])).unwrap());
    let none = graph.add_constant("none", Tensor::new([], Data::I8(vec![0])).unwrap());
    let axis = 0;
    let through = |graph: &mut Graph, name: &str, x| {
        let q = graph.add(&format!("{name}.q"), Op::QuantizeLinear { axis }, &[x, scale, zero]).unwrap();
        graph.add(&format!("{name}.d"), Op::DequantizeLinear { axis }, &[q, scale, zero]).unwrap()
    };
    let x = through(&mut graph, "x", x);
    let weight = graph.add_typed_parameter("weight", DType::I8, &[8, 3, 3, 3], Role::Weight);
    let weight = graph.add("weight.d", Op::DequantizeLinear { axis }, &[weight, scale, none]).unwrap();
    let conv = Op::Conv(Conv { pads: [1; 4], ..Conv::default() });
    let y = graph.add("conv", conv, &[x, weight]).unwrap();
    let y = graph.add("relu", Op::Unary(Unary::Relu), &[y]).unwrap();
    let y = through(&mut graph, "y", y);
    graph.add_output("y", y);
    freeze(&mut graph, |_| true);
    let mut shown = graph.clone();
    shown.add_output("x", x);
    let numbers = |len: i32| (0..len).map(|i| (i * 37 % 101 - 50) as i8);
    let weights = Weights::from([(
        "weight".into(),
        Tensor::new([8, 3, 3, 3], Data::I8(numbers(216).collect())).unwrap(),
    )]);
    let picture = Tensor::f32([2, 3, 9, 7], numbers(378).map(|i| f32::from(i) * STEP).collect());
    let [found, wanted] = [&graph, &shown]
        .map(|graph| executors.run(graph, &[("x", &picture)], &weights, "a convolution of bytes", report));
    if let (Some(found), Some(wanted)) = (found.get("y"), wanted.get("y")) {
        let pairs = found.as_f32().unwrap().iter().zip(wanted.as_f32().unwrap());
        let near = pairs.filter(|(found, wanted)| (**found - **wanted).abs() <= 1.01 * STEP).count();
        if near < wanted.len() {
            let far = wanted.len() - near;
            report.note(format!("a convolution of bytes: {far} numbers are off by more than a step"));
        }
    }
}
