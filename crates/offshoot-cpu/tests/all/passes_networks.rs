//! Whole networks: folding, fusing, batches.

use offshoot_conformance::golden::Golden;
use offshoot_conformance::networks::{Case, network, resnet};
use offshoot_cpu::optimize::optimize;
use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Binary, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::passes::{LABELS, LOSS, LossOptions, fold_batch_norm, freeze, training_graph};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Dim, Executor, Graph, Op, Shape, Tensor, Weights};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::support::{difference, run};

#[test]
fn activations_and_residuals_of_a_network_are_fused() {
    let mut graph = network("resnet");
    freeze(&mut graph, |_| true);
    let (folded, _) = fold_batch_norm(&graph, &Golden::load("networks").under("resnet/in/")).unwrap();
    let simple = |op: &Op| matches!(op, Op::Unary(Unary::Relu | Unary::Clip(_)) | Op::Binary(Binary::Add));
    assert!(folded.nodes().iter().any(|n| simple(&n.op)));
    assert!(!optimize(&folded).unwrap().nodes().iter().any(|n| n.op.plain().is_some_and(simple)));
}

/// Sums over pixels are taken in another order where the kernels of a fused step take them on the way.
#[test]
fn fusing_changes_no_more_than_rounding() {
    let golden = Golden::load("networks");
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let (graph, weights) = case.model();
        let training = case.training(&graph).graph;
        for isa in [Isa::available()[0], Isa::best()] {
            let [fused, plain] = [false, true].map(|unoptimized| {
                let options = CpuOptions { isa: Some(isa), unoptimized, ..CpuOptions::default() };
                CpuExecutor::new(options).unwrap()
            });
            let wanted = run(&plain, &training, &case.inputs(), &weights);
            for (name, found) in run(&fused, &training, &case.inputs(), &weights) {
                let what = format!("{} on {isa:?}: `{name}`", case.name());
                let d = difference(&found, &wanted[&name], &what);
                assert!(d <= 2e-5, "{what}: off by {d:e}");
            }
        }
    }
}

#[test]
fn a_pictures_bits_depend_neither_on_its_batch_nor_on_its_place() {
    let golden = Golden::load("networks");
    for source in ["resnet", "mobilenet"] {
        let mut graph = network(source);
        freeze(&mut graph, |_| true);
        let (graph, weights) = fold_batch_norm(&graph, &golden.under(&format!("{source}/in/"))).unwrap();
        let three = golden.get(&format!("{source}/x"));
        let pictures: Vec<&[f32]> = three.as_f32().unwrap().chunks_exact(three.len() / 3).collect();
        let batch = |order: &[usize]| {
            let data: Vec<f32> = order.iter().flat_map(|&i| pictures[i]).copied().collect();
            Tensor::f32([&[order.len()], &three.shape()[1..]].concat(), data)
        };
        for isa in Isa::available() {
            let executor = CpuExecutor::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() }).unwrap();
            // One session: its plans for several batches must not disturb each other.
            let mut session = executor.prepare(&graph, &weights).unwrap();
            let mut logits = |order: &[usize]| {
                session.run(&[(INPUT, &batch(order))]).unwrap();
                let logits = session.read(OUTPUT).unwrap();
                assert_eq!(logits.shape()[0], order.len());
                let width = logits.shape()[1];
                logits
                    .as_f32()
                    .unwrap()
                    .chunks_exact(width)
                    .map(|row| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
                    .collect::<Vec<_>>()
            };
            let all = logits(&[0, 1, 2]);
            for order in [&[1][..], &[2, 0], &[2, 1, 0, 0, 1, 2, 2], &[0, 1, 2]] {
                let wanted: Vec<_> = order.iter().map(|&i| all[i].clone()).collect();
                assert_eq!(logits(order), wanted, "{source} on {isa:?}, pictures {order:?}");
            }
        }
    }
}

#[test]
fn any_height_and_width() {
    let golden = Golden::load("networks");
    let (graph, weights) = (resnet(), golden.under("resnet/in/"));
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    for [height, width] in [[29, 23], [1, 1], [64, 17]] {
        let x = Tensor::full([2, 3, height, width], 0.5);
        let logits = &run(&executor, &graph, &[(INPUT, &x)], &weights)[OUTPUT];
        assert_eq!(logits.shape(), [2, 5]);
        assert!(logits.as_f32().unwrap().iter().all(|l| l.is_finite()));
    }
}

#[test]
fn labels_outside_of_the_classes_are_an_error() {
    let golden = Golden::load("networks");
    let case = Case::new(&golden, &golden.cases[0]);
    let (graph, weights) = case.model();
    let training = case.training(&graph).graph;
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&training, &weights).unwrap();
    for wrong in [-1, 5, i64::MAX] {
        let labels = Tensor::i64([3], vec![0, wrong, 1]);
        let x = case.inputs()[0];
        let error = session.run(&[x, (LABELS, &labels)]).unwrap_err().to_string();
        assert!(error.contains(&wrong.to_string()) && error.contains("0 to 4"), "{error}");
        assert!(session.read(LOSS).is_none());
    }
    session.run(&case.inputs()).unwrap();
    assert!(session.read(LOSS).is_some());
}

/// One layer of a random network.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Conv {
        bias: bool,
        kernel: usize,
    },
    Depthwise,
    Norm,
    Relu,
    Relu6,
    MaxPool,
    /// Adds the value before the last `0..` layers, if it has the same shape.
    Add(usize),
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![
        3 => (any::<bool>(), prop::sample::select(vec![1usize, 3])).prop_map(|(bias, kernel)| Layer::Conv { bias, kernel }),
        1 => Just(Layer::Depthwise),
        4 => Just(Layer::Norm),
        2 => Just(Layer::Relu),
        1 => Just(Layer::Relu6),
        1 => Just(Layer::MaxPool),
        3 => (1usize..5).prop_map(Layer::Add),
    ]
}

/// A network of random layers of four channels, with random weights.
fn random_network(layers: &[Layer], random: &mut Random) -> (Graph, Weights) {
    let mut graph = Graph::new("random");
    let x = graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol(BATCH), 4.into(), 7.into(), 5.into()]));
    let mut values = vec![x];
    for (i, layer) in layers.iter().enumerate() {
        let (x, path) = (values[i], format!("l{i}"));
        let y = match *layer {
            Layer::Conv { bias, kernel } => {
                graph.conv2d(&path, x, &Conv2d { bias, ..Conv2d::new(4, kernel) })
            }
            Layer::Depthwise => graph.conv2d(&path, x, &Conv2d::new(4, 3).group(4)),
            Layer::Norm => graph.batch_norm(&path, x, BATCH_NORM),
            Layer::Relu => graph.add(&path, Op::Unary(Unary::Relu), &[x]),
            Layer::Relu6 => graph.add(&path, RELU6, &[x]),
            Layer::MaxPool => {
                let pool = Pool { kernel: [3, 2], strides: [1, 1], pads: [1, 0, 1, 1], ceil_mode: false };
                graph.add(&path, Op::Pool(Pooling::Max(pool)), &[x])
            }
            Layer::Add(back) => {
                graph.add(&path, Op::Binary(Binary::Add), &[x, values[i.saturating_sub(back)]])
            }
        };
        values.push(y.unwrap());
    }
    let x = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[values[layers.len()]]).unwrap();
    let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let logits = graph.linear("fc", x, 3).unwrap();
    graph.add_output(OUTPUT, logits);
    let mut weights = Weights::new();
    for &id in graph.parameters() {
        let value = graph.value(id);
        let (name, shape) = (value.name.clone(), value.shape.as_fixed().unwrap());
        let low = if name.ends_with("running_var") { 0.5 } else { -0.8 };
        let values = (0..shape.iter().product()).map(|_| random.range(low, low + 1.6)).collect();
        weights.insert(name, Tensor::f32(shape, values));
    }
    (graph, weights)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, rng_seed: RngSeed::Fixed(20), ..ProptestConfig::default() })]

    /// Folding the frozen part changes neither the loss nor any gradient or running statistic; nor does fusing. The networks are always the same ones: a
    /// batch norm of a channel that is nearly constant may amplify rounding without bound.
    #[test]
    fn folding_and_fusing_keep_what_random_networks_compute(
        seed: u64, layers in prop::collection::vec(layer(), 1..12), frozen in prop::collection::vec(any::<bool>(), 12),
    ) {
        let mut random = Random::new(seed, 0, 0, Purpose::Init);
        let (mut graph, weights) = random_network(&layers, &mut random);
        freeze(&mut graph, |name| {
            let layer = name.strip_prefix('l').and_then(|n| n.split('.').next()).and_then(|n| n.parse::<usize>().ok());
            layer.is_some_and(|layer| frozen[layer])
        });
        let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
        let x = Tensor::f32([2, 4, 7, 5], (0..280).map(|_| random.range(-1.0, 1.0)).collect());
        let labels = Tensor::i64([2], vec![2, 0]);
        let inputs = [(INPUT, &x), (LABELS, &labels)];
        let executors = [true, false]
            .map(|unoptimized| CpuExecutor::new(CpuOptions { unoptimized, ..CpuOptions::default() }).unwrap());
        let step = |graph: &Graph, weights: &Weights| {
            let training = training_graph(graph, LossOptions::default()).unwrap().graph;
            let [plain, fused] = [0, 1].map(|i| run(&executors[i], &training, &inputs, weights));
            (plain, fused)
        };
        let (plain, fused) = step(&graph, &weights);
        let (folded, folded_fused) = step(&folded, &folded_weights);
        prop_assert!(plain.keys().eq(folded.keys()));
        for (name, wanted) in &plain {
            // A residual is added to a convolution before or after its bias: one rounding.
            let d = difference(&fused[name], wanted, name);
            prop_assert!(d < 1e-5, "fusing moves {name} by {d}");
            let d = difference(&folded_fused[name], &folded[name], name);
            prop_assert!(d < 1e-5, "fusing the folded one moves {name} by {d}");
            let d = difference(&folded[name], wanted, name);
            prop_assert!(d < 1e-4, "folding moves {name} by {d}");
        }
    }
}
