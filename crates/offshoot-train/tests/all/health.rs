//! Broken numbers planted in networks: the node that they come from is named.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::model::INPUT;
use offshoot_graph::passes::{LABELS, LOSS_SCALE, LossOptions, TrainingGraph, autocast, training_graph};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Graph, Node, Op, Role, Tensor, Weights};
use offshoot_models::{BuildOptions, expected_parameters, find};
use offshoot_train::health::{NonFinite, Probe};

const SIZE: usize = 32;
const CLASSES: usize = 5;
const BATCH: usize = 4;

fn network(name: &str) -> (Graph, Weights) {
    let architecture = find(name).unwrap();
    let options = BuildOptions { classes: CLASSES, size: SIZE, head: None };
    let graph = architecture.build(&options).unwrap();
    let names: Vec<String> = expected_parameters(&graph).into_iter().map(|(name, _)| name).collect();
    let weights = architecture.init_parameters(&graph, names.iter().map(String::as_str), 7).unwrap();
    (offshoot_graph::passes::remove_training_leftovers(&graph).unwrap(), weights)
}

fn images() -> Tensor {
    let mut random = Random::new(5, 0, 0, Purpose::Augment);
    Tensor::f32([BATCH, 3, SIZE, SIZE], (0..BATCH * 3 * SIZE * SIZE).map(|_| random.normal()).collect())
}

fn step(graph: &Graph) -> Graph {
    let TrainingGraph { graph, .. } = training_graph(graph, LossOptions::default()).unwrap();
    graph
}

fn trace(graph: &Graph, weights: &Weights, images: &Tensor) -> Option<NonFinite> {
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let labels = Tensor::i64([BATCH], (0..BATCH as i64).collect());
    let inputs = [(INPUT, images), (LABELS, &labels)];
    Probe { graph, weights, inputs: &inputs, executor: &executor }.first_nonfinite().unwrap()
}

/// The node that reads a weight.
fn reader(graph: &Graph, weight: &str) -> String {
    let id = graph.find_parameter(weight).unwrap();
    graph.nodes().iter().find(|node| node.inputs.contains(&id)).unwrap().name.clone()
}

/// Plants `value` in weights taken at random and expects the nodes that read them.
fn plant(name: &str, value: f32, rounds: u64) {
    let (model, weights) = network(name);
    let graph = step(&model);
    assert_eq!(trace(&graph, &weights, &images()), None, "{name} is healthy");
    let is_weight = |id| graph.parameter_info(id).is_some_and(|p| p.role == Role::Weight);
    let parameters: Vec<_> = graph.parameters().iter().copied().filter(|&id| is_weight(id)).collect();
    for round in 0..rounds {
        let mut random = Random::new(11, round, 0, Purpose::Init);
        let pick = |n: usize, x: f32| ((x * n as f32) as usize).min(n - 1);
        let key = &graph.value(parameters[pick(parameters.len(), random.range(0.0, 1.0))]).name;
        let mut broken = weights.clone();
        let data = broken.get_mut(key).and_then(Tensor::as_f32_mut).unwrap();
        let place = pick(data.len(), random.range(0.0, 1.0));
        data[place] = value;
        let Some(NonFinite::Node { node, output, inputs, .. }) = trace(&graph, &broken, &images()) else {
            panic!("{name}: {value} in {key} is not found");
        };
        assert_eq!(node, reader(&graph, key), "{name}: {value} in {key}[{place}]");
        assert!(output.range.nonfinite > 0);
        for operand in &inputs {
            let planted = operand.name == *key;
            assert_eq!(operand.range.nonfinite, usize::from(planted), "{}", operand.name);
            assert!(!planted || operand.parameter);
        }
        assert!(inputs.iter().any(|operand| operand.name == *key), "{inputs:?}");
    }
}

#[test]
fn an_infinity_in_any_layer_of_a_resnet_names_that_layer() {
    plant("resnet18", f32::INFINITY, 12);
}

#[test]
fn a_nan_in_any_layer_of_a_mobilenet_names_that_layer() {
    plant("mobilenet_v2", f32::NAN, 12);
}

#[test]
fn a_broken_pixel_names_the_input() {
    let (model, weights) = network("resnet18");
    let mut images = images();
    images.as_f32_mut().unwrap()[77] = f32::NAN;
    let Some(NonFinite::Input(input)) = trace(&step(&model), &weights, &images) else {
        panic!("the input is not named")
    };
    assert_eq!((input.name.as_str(), input.range.nonfinite), (INPUT, 1));
}

#[test]
fn an_overflow_of_finite_weights_names_the_node_where_it_arises() {
    let (model, mut weights) = network("resnet18");
    let data = weights.get_mut("layer2.0.conv2.weight").and_then(Tensor::as_f32_mut).unwrap();
    data.iter_mut().for_each(|w| *w = w.signum() * 3e38);
    let Some(found) = trace(&step(&model), &weights, &images()) else { panic!("nothing is found") };
    let text = found.to_string();
    let NonFinite::Node { node, op, inputs, .. } = found else { panic!("{text}") };
    assert_eq!((node.as_str(), op), ("layer2.0.conv2", "Conv"));
    assert!(inputs.iter().all(|operand| operand.range.nonfinite == 0), "{text}");
    assert!(text.contains("parameter `layer2.0.conv2.weight`: min -3.000e38, max 3.000e38"), "{text}");
}

#[test]
fn an_overflow_on_the_way_back_names_a_node_of_the_way_back() {
    // A loss scale that leaves the scaled loss finite, and a first layer whose small weights make its gradient large.
    let (model, mut weights) = network("resnet18");
    let data = weights.get_mut("conv1.weight").and_then(Tensor::as_f32_mut).unwrap();
    data.iter_mut().for_each(|w| *w *= 3e-3);
    let options = LossOptions { scaled: true, ..LossOptions::default() };
    let graph = training_graph(&model, options).unwrap().graph;
    let (labels, scale) = (Tensor::i64([BATCH], (0..BATCH as i64).collect()), Tensor::full([], 5e37));
    let images = images();
    let inputs = [(INPUT, &images), (LABELS, &labels), (LOSS_SCALE, &scale)];
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let probe = Probe { graph: &graph, weights: &weights, inputs: &inputs, executor: &executor };
    let Some(NonFinite::Node { node, .. }) = probe.first_nonfinite().unwrap() else {
        panic!("nothing is found")
    };
    let place = |is: &dyn Fn(&Node) -> bool| graph.nodes().iter().position(is).unwrap();
    let loss = place(&|n| matches!(n.op, Op::SoftmaxCrossEntropyLoss(_)));
    assert!(node.starts_with("grad.") && place(&|n| n.name == node) > loss, "{node}");
}

#[test]
fn values_of_half_types_are_looked_at_too() {
    let (model, mut weights) = network("resnet18");
    let half = step(&autocast(&model, DType::F16).unwrap());
    assert!(half.values().any(|(_, v)| v.dtype == DType::F16));
    // 100,000 is finite in f32 and not in f16.
    let data = weights.get_mut("layer3.0.conv1.weight").and_then(Tensor::as_f32_mut).unwrap();
    data.iter_mut().for_each(|w| *w = w.signum() * 1e5);
    assert!(model.nodes().iter().any(|n| matches!(n.op, Op::Conv(_))));
    let Some(NonFinite::Node { node, .. }) = trace(&half, &weights, &images()) else {
        panic!("nothing is found")
    };
    assert!(node.starts_with("layer3.0.conv1"), "{node}");
}
