//! What is fused around convolutions and written in place, against the same graph node by node: parts of concatenations, functions
//! behind convolutions, norms in front of them, shuffled channels.

use offshoot_cpu::Isa;
use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{Binary, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::passes::{Gradients, differentiate};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Dim, Graph, Op, Role, Shape, Tensor, ValueId, Weights};

use crate::support::{difference, executor, run, unoptimized};

/// Pictures of 12 channels, 20 x 20.
fn start(graph: &mut Graph) -> ValueId {
    let dims = [Dim::symbol("n"), Dim::Fixed(12), Dim::Fixed(20), Dim::Fixed(20)];
    graph.add_input("x", DType::F32, Shape(dims.to_vec()))
}

/// Runs the graph in both ways on every path, and compares.
fn check(graph: &Graph) {
    let mut random = Random::new(3, 0, 0, Purpose::Augment);
    let mut tensor = |shape: &[usize], above: f32| {
        let elements = (0..shape.iter().product()).map(|_| random.normal() * 0.3 + above).collect();
        Tensor::f32(shape.to_vec(), elements)
    };
    let parameters = graph.parameters().iter().map(|&id| graph.value(id));
    let weights: Weights = parameters
        .map(|value| {
            let above = if value.name.ends_with("running_var") { 2.0 } else { 0.0 };
            (value.name.clone(), tensor(&value.shape.as_fixed().unwrap(), above))
        })
        .collect();
    for batch in [1, 3] {
        let x = tensor(&[batch, 12, 20, 20], 0.0);
        for isa in Isa::available() {
            let wanted = run(&unoptimized(isa), graph, &[("x", &x)], &weights);
            for (name, found) in run(&executor(isa), graph, &[("x", &x)], &weights) {
                let what = format!("{isa} batch {batch} {name}");
                assert!(difference(&found, &wanted[&name], &what) <= 1e-5, "{what}");
            }
        }
    }
}

fn biased(conv: Conv2d) -> Conv2d {
    Conv2d { bias: true, ..conv }
}

#[test]
fn parts_of_concatenations_are_written_in_place_or_copied() {
    let mut graph = Graph::new("parts");
    let x = start(&mut graph);
    // (A dense 3x3 one by Winograd's algorithm, 1x1, one with a function, a grouped one.)
    let mut parts = Vec::new();
    for (name, conv, function) in [
        ("winograd", biased(Conv2d::new(48, 3)), Some(Unary::Silu)),
        ("pointwise", biased(Conv2d::new(7, 1)), Some(Unary::HardSwish)),
        ("plain", biased(Conv2d::new(33, 1)), None),
        ("relu", biased(Conv2d::new(16, 5)), Some(Unary::Relu)),
        ("grouped", biased(Conv2d::new(12, 3).group(3)), Some(Unary::Mish)),
        ("depthwise", biased(Conv2d::new(12, 3).group(12)), Some(Unary::Silu)),
    ] {
        let mut y = graph.conv2d(name, x, &conv).unwrap();
        if let Some(function) = function {
            y = graph.add(&format!("{name}.function"), Op::Unary(function), &[y]).unwrap();
        }
        parts.push(y);
    }
    let pool = Pool { kernel: [3, 3], strides: [1, 1], pads: [1; 4], ceil_mode: false };
    parts.push(graph.add("pool", Op::Pool(Pooling::Max(pool)), &[x]).unwrap());
    // One that is read twice is not written in place.
    let twice = graph.conv2d("twice", x, &biased(Conv2d::new(5, 1))).unwrap();
    parts.extend([twice, twice]);
    let y = graph.add("concat", Op::Shape(ShapeOp::Concat { axis: 1 }), &parts).unwrap();
    let y = graph.conv2d("after", y, &biased(Conv2d::new(10, 1))).unwrap();
    graph.add_output("y", y);
    check(&graph);
}

#[test]
fn norms_in_front_of_convolutions_are_read_through_or_not() {
    let mut graph = Graph::new("norms");
    let x = start(&mut graph);
    let y = graph.batch_norm("first", x, BATCH_NORM).unwrap();
    let y = graph.add("first.relu", Op::Unary(Unary::Relu), &[y]).unwrap();
    let a = graph.conv2d("pointwise", y, &biased(Conv2d::new(20, 1))).unwrap();
    let y = graph.batch_norm("second", a, BATCH_NORM).unwrap();
    // Read by one that reads through it, by one that does not, and as it is.
    let b = graph.conv2d("through", y, &Conv2d::new(20, 1)).unwrap();
    let c = graph.conv2d("spatial", y, &Conv2d::new(20, 3)).unwrap();
    let sum = graph.add("sum", Op::Binary(Binary::Add), &[b, c]).unwrap();
    let z = graph.batch_norm("last", sum, BATCH_NORM).unwrap();
    let z = graph.add("residual", Op::Binary(Binary::Add), &[z, a]).unwrap();
    let z = graph.add("last.relu", Op::Unary(Unary::Relu), &[z]).unwrap();
    for (name, value) in [("y", y), ("z", z)] {
        graph.add_output(name, value);
    }
    check(&graph);
}

#[test]
fn shuffled_channels_stay_channels_last() {
    let mut graph = Graph::new("shuffle");
    let x = start(&mut graph);
    let mut y = graph.conv2d("conv", x, &biased(Conv2d::new(12, 1))).unwrap();
    for groups in [2, 3, 6] {
        let shape = |dims: &[usize]| {
            let dims = dims.iter().map(|&dim| Dim::Fixed(dim));
            Op::Shape(ShapeOp::Reshape { shape: Shape([Dim::symbol("n")].into_iter().chain(dims).collect()) })
        };
        let name = |what: &str| format!("{what}{groups}");
        y = graph.add(&name("grouped"), shape(&[groups, 12 / groups, 20, 20]), &[y]).unwrap();
        let turn = Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1, 3, 4] });
        y = graph.add(&name("turned"), turn, &[y]).unwrap();
        y = graph.add(&name("back"), shape(&[12, 20, 20]), &[y]).unwrap();
        y = graph.conv2d(&name("conv"), y, &biased(Conv2d::new(12, 1))).unwrap();
    }
    graph.add_output("y", y);
    check(&graph);
}

/// A Softmax over any axis is the one over the last axis of the Transpose; so is its gradient.
#[test]
fn any_axis_has_a_softmax() {
    for shape in [&[3, 5, 4][..], &[2, 3, 5, 4], &[2, 3, 2, 5, 4]] {
        for axis in 0..shape.len() {
            let count = shape.len();
            let outputs = [false, true].map(|turned| {
                let mut graph = Graph::new("softmax");
                let x = graph.add_parameter("x", shape, Role::Weight);
                let weight = graph.add_parameter("weight", shape, Role::Weight);
                let turn = |graph: &mut Graph, name: &str, x, perm: Vec<usize>| {
                    graph.add(name, Op::Shape(ShapeOp::Transpose { perm }), &[x]).unwrap()
                };
                let y = if turned {
                    let last: Vec<usize> = (0..count).filter(|&i| i != axis).chain([axis]).collect();
                    let back = (0..axis).chain([count - 1]).chain(axis..count - 1).collect();
                    let y = turn(&mut graph, "last", x, last);
                    let y = graph.add("softmax", Op::Softmax { axis: count - 1 }, &[y]).unwrap();
                    turn(&mut graph, "back", y, back)
                } else {
                    graph.add("softmax", Op::Softmax { axis }, &[x]).unwrap()
                };
                let loss = graph.add("loss", Op::Binary(Binary::Mul), &[y, weight]).unwrap();
                let Gradients { mut graph, gradients } = differentiate(graph, loss).unwrap();
                graph.add_output("y", y);
                graph.add_output("dx", gradients.iter().find(|(of, _)| *of == x).unwrap().1);
                let numbers = |seed: u64| {
                    let mut random = Random::new(seed, 0, 0, Purpose::Init);
                    let elements = (0..shape.iter().product()).map(|_| random.normal()).collect();
                    Tensor::f32(shape.to_vec(), elements)
                };
                let weights = Weights::from([("x".into(), numbers(1)), ("weight".into(), numbers(2))]);
                Isa::available()
                    .into_iter()
                    .map(|isa| run(&executor(isa), &graph, &[], &weights))
                    .collect::<Vec<_>>()
            });
            let [found, wanted] = outputs;
            for (found, wanted) in found.iter().zip(&wanted) {
                for name in ["y", "dx"] {
                    let what = format!("{name} of axis {axis} of {shape:?}");
                    assert!(difference(&found[name], &wanted[name], &what) <= 1e-6, "{what}");
                }
            }
        }
    }
}
