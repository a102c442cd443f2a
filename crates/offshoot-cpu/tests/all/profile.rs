//! What sessions say of their steps.

use std::collections::BTreeSet;

use offshoot_cpu::optimize::optimize;
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::{Pooling, ShapeOp};
use offshoot_graph::passes::{LABELS, LossOptions, freeze, training_graph};
use offshoot_graph::{
    Bindings, DType, Dim, Executor, Graph, Op, Shape, StepTime, Tensor, ValueId, Weights, costs,
};

const BATCH: usize = 2;

fn input(channels: usize, size: usize) -> (Graph, ValueId, Tensor) {
    let mut graph = Graph::new("profile");
    let shape = Shape(vec![Dim::symbol("batch"), channels.into(), size.into(), size.into()]);
    let x = graph.add_input(INPUT, DType::F32, shape);
    let numbers = (0..BATCH * channels * size * size).map(|i| (i * 31 % 17) as f32 - 8.0).collect();
    (graph, x, Tensor::f32([BATCH, channels, size, size], numbers))
}

fn weights(graph: &Graph) -> Weights {
    let tensor = |&id: &ValueId| {
        let shape = graph.value(id).shape.as_fixed().unwrap();
        let numbers = (0..shape.iter().product()).map(|i: usize| (i * 37 % 11) as f32 / 11.0 + 0.1).collect();
        (graph.value(id).name.clone(), Tensor::f32(shape, numbers))
    };
    graph.parameters().iter().map(tensor).collect()
}

fn profile(graph: &Graph, inputs: &[(&str, &Tensor)]) -> Vec<StepTime> {
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.profiling().unwrap().prepare(graph, &weights(graph)).unwrap();
    session.run(inputs).unwrap();
    let steps = session.profile().to_vec();
    assert!(steps.iter().all(|step| ![&*step.node, step.operator, step.kernel].contains(&"")), "{steps:?}");
    // However they are fused, moved and put off: the steps have the operations of all nodes.
    let bindings = Bindings::from([("batch".to_owned(), BATCH)]);
    let costs = costs(&optimize(graph).unwrap(), &bindings).unwrap();
    let sum: u64 = costs.iter().map(|cost| cost.operations).sum();
    assert_eq!(steps.iter().map(|step| step.operations).sum::<u64>(), sum, "{steps:?}");
    steps
}

/// The one step of `node` by `kernel`.
#[track_caller]
fn find<'s>(steps: &'s [StepTime], node: &str, kernel: &str) -> &'s StepTime {
    let found: Vec<_> = steps.iter().filter(|step| step.node == node && step.kernel == kernel).collect();
    let [step] = found[..] else { panic!("{} steps of `{node}` by {kernel}: {steps:?}", found.len()) };
    step
}

#[test]
fn steps_have_the_kernels_operations_and_bytes_of_their_nodes() {
    let (mut graph, x, pictures) = input(3, 9);
    let stem = graph.conv2d("stem", x, &Conv2d::new(16, 3).stride(2)).unwrap();
    let point = graph.conv2d("point", stem, &Conv2d::new(16, 1)).unwrap();
    let groups = graph.conv2d("groups", point, &Conv2d::new(16, 3).group(2)).unwrap();
    let each = graph.conv2d("each", groups, &Conv2d::new(16, 3).group(16)).unwrap();
    let flat = graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[each]).unwrap();
    let y = graph.linear("fc", flat, 10).unwrap();
    graph.add_output(OUTPUT, y);
    let steps = profile(&graph, &[(INPUT, &pictures)]);

    let (batch, x, y) = (BATCH as u64, 3 * 9 * 9, 16 * 5 * 5);
    let found = |node, kernel| {
        let step = find(&steps, node, kernel);
        (step.operator, step.operations, step.bytes)
    };
    let conv = |taps: u64| 2 * batch * y * taps;
    assert_eq!(found("stem", "direct"), ("Conv", conv(3 * 9), 4 * (batch * (x + y) + 16 * 3 * 9)));
    assert_eq!(found("point", "pointwise"), ("Conv", conv(16), 4 * (batch * 2 * y + 16 * 16)));
    assert_eq!(found("groups", "grouped"), ("Conv", conv(8 * 9), 4 * (batch * 2 * y + 16 * 8 * 9)));
    assert_eq!(found("each", "pack"), ("Conv", 0, 4 * 2 * 16 * 9));
    assert_eq!(found("each", "depthwise"), ("Conv", conv(9), 4 * (batch * 2 * y + 16 * 9)));
    assert_eq!(found("fc", "gemm"), ("Gemm", 2 * batch * y * 10, 4 * (batch * (y + 10) + y * 10 + 10)));

    freeze(&mut graph, |_| true);
    let steps = profile(&graph, &[(INPUT, &pictures)]);
    let frozen = find(&steps, "point", "pointwise");
    assert!(frozen.bytes >= 4 * (batch * 2 * y + 16 * 16), "a packed filter is read: {frozen:?}");
}

#[test]
fn fused_gradients_are_counted_together_and_norms_that_wait_by_themselves() {
    let (mut graph, x, pictures) = input(16, 16);
    let mut y = x;
    for (name, conv) in [
        ("expand", Conv2d::new(32, 1)),
        ("each", Conv2d::new(32, 3).group(32)),
        ("project", Conv2d::new(16, 1)),
        ("dense", Conv2d::new(16, 3)),
    ] {
        y = graph.conv2d(name, y, &conv).unwrap();
        y = graph.batch_norm(&format!("{name}.norm"), y, BATCH_NORM).unwrap();
        y = graph.add(&format!("{name}.act"), RELU6, &[y]).unwrap();
    }
    let y = graph.add("mean", Op::Pool(Pooling::GlobalAverage), &[y]).unwrap();
    let y = graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[y]).unwrap();
    let y = graph.linear("fc", y, 10).unwrap();
    graph.add_output(OUTPUT, y);
    let graph = training_graph(&graph, LossOptions::default()).unwrap().graph;
    let labels = Tensor::i64([BATCH], (0..BATCH as i64).collect());
    let steps = profile(&graph, &[(INPUT, &pictures), (LABELS, &labels)]);

    let kernels: BTreeSet<&str> = steps.iter().map(|step| step.kernel).collect();
    let pixels = (BATCH * 16 * 16) as u64;
    let by = |kernel: &str| steps.iter().filter(|step| step.kernel == kernel).collect::<Vec<_>>();
    let [both] = by("depthwise backward")[..] else { panic!("{kernels:?}") };
    assert_eq!(
        (both.operator, both.operations),
        ("Fused.ConvGradients", 2 * 2 * pixels * 32 * 9),
        "{both:?}"
    );
    for both in by("pointwise backward") {
        assert_eq!(both.operations, 2 * 2 * pixels * 32 * 16, "{both:?}");
    }
    // The dense convolution is the one that asks for the norm before it.
    let norms = by("batch norm");
    assert!(!norms.is_empty() && norms.iter().all(|norm| norm.operations == 0), "{kernels:?}");
    assert!(norms.iter().all(|norm| norm.operator == "Fused.BatchNormApply"), "{norms:?}");
    let dense = find(&steps, "dense", "winograd");
    assert_eq!((dense.operator, dense.operations), ("Conv", 2 * pixels * 16 * 16 * 9));
}
