//! What follows from weights alone is computed before a network is shipped.

#![allow(clippy::unwrap_used, reason = "tests")]

use offshoot::{CpuOptions, Device, Model, shipped};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::{Binary, Op, ShapeOp};
use offshoot_graph::{DType, Dim, Executor, Graph, Metadata, Role, Shape, Source, Tensor, Weights};
use offshoot_infer::fold_constants;
use offshoot_models::{BuildOptions, find};

fn built(name: &str, size: usize) -> Model {
    let architecture = find(name).unwrap();
    let graph = architecture.build(&BuildOptions { classes: 10, size, head: None }).unwrap();
    let names: Vec<String> = graph.parameters().iter().map(|&id| graph.value(id).name.clone()).collect();
    let weights = architecture.init_parameters(&graph, names.iter().map(String::as_str), 3).unwrap();
    Model { graph, weights, metadata: Metadata::default() }
}

fn logits(graph: &Graph, weights: &Weights, shape: &[usize]) -> Vec<f32> {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let x = (0..shape.iter().product()).map(|i| ((7919 * i) % 1000) as f32 / 500.0 - 1.0).collect();
    let mut session = device.prepare(graph, weights).unwrap();
    session.run(&[(INPUT, &Tensor::f32(shape, x))]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

#[test]
fn biases_of_windows_are_tensors() {
    for (name, size) in [("swin_t", 64), ("swin_v2_t", 64)] {
        let model = built(name, size);
        let before = logits(&model.graph, &model.weights, &[1, 3, size, size]);
        let Model { graph, weights, .. } = shipped(&model).unwrap();
        let integers = graph.values().filter(|(_, value)| value.dtype == DType::I64).count();
        assert_eq!(integers, 0, "{name}");
        let after = logits(&graph, &weights, &[1, 3, size, size]);
        assert!(offshoot_testing::difference(&after, &before) < 1e-5, "{name}");
        assert!(graph.parameters().iter().all(|&id| !graph.parameter_info(id).unwrap().trainable));
    }
}

#[test]
fn what_only_moves_weights_stays() {
    for name in ["mobilenet_v3_small", "shufflenet_v2_x1_0", "deit_tiny_patch16_224"] {
        let model = built(name, 64);
        let (plain, _) = offshoot_graph::passes::shipped(&model.graph, &model.weights).unwrap();
        assert_eq!(shipped(&model).unwrap().graph, plain, "{name}");
    }
}

/// x + w, and more of `w` by `more`, which gives what is added.
fn sum(more: impl Fn(&mut Graph, offshoot_graph::ValueId) -> offshoot_graph::ValueId) -> (Graph, Weights) {
    let mut graph = Graph::empty("sum");
    let x = graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol("N"), Dim::Fixed(2)]));
    let w = graph.add_parameter("w", &[2], Role::Weight);
    let added = more(&mut graph, w);
    let y = graph.add("y", Op::Binary(Binary::Add), &[x, added]).unwrap();
    graph.add_output(OUTPUT, y);
    (graph, [("w".to_owned(), Tensor::f32([2], vec![1.0, -2.0]))].into_iter().collect())
}

fn folded((graph, weights): &(Graph, Weights)) -> (Graph, Weights) {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let (new, kept) = fold_constants(graph.clone(), weights.clone(), &device).unwrap();
    assert_eq!(logits(&new, &kept, &[3, 2]), logits(graph, weights, &[3, 2]));
    (new, kept)
}

#[test]
fn arithmetic_on_weights_is_done_once() {
    let square = sum(|graph, w| {
        let squared = graph.add("squared", Op::Binary(Binary::Mul), &[w, w]).unwrap();
        graph.add("moved", Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&[1, 2]) }), &[squared]).unwrap()
    });
    let (graph, weights) = folded(&square);
    assert_eq!(graph.nodes().len(), 1);
    assert_eq!(weights.len(), 1);
    assert_eq!(weights["moved"], Tensor::f32([1, 2], vec![1.0, 4.0]));
}

#[test]
fn names_of_weights_are_not_taken() {
    let mut taken = sum(|graph, w| {
        let other = graph.add_parameter("squared", &[2], Role::Weight);
        let squared = graph.add("squared", Op::Binary(Binary::Mul), &[w, w]).unwrap();
        graph.add("both", Op::Binary(Binary::Add), &[squared, other]).unwrap()
    });
    taken.1.insert("squared".to_owned(), Tensor::f32([2], vec![10.0, 20.0]));
    taken.1.insert("both".to_owned(), Tensor::f32([1], vec![0.0]));
    let (graph, weights) = folded(&taken);
    assert_eq!(weights["both.folded"], Tensor::f32([2], vec![11.0, 24.0]));
    assert!(graph.values().all(|(_, value)| !matches!(value.source, Source::Input) || value.name == INPUT));
}
