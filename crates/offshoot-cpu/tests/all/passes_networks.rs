//! Whole networks: training steps against PyTorch, folding, fusing, batches, and threads.

use std::collections::BTreeMap;

use offshoot_cpu::optimize::optimize;
use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, GradientClip, Pool, RATES, SgdRates, Unary,
};
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LossOptions, TrainingGraph, UNSCALE, UPDATE_RATES, UpdateRule,
    fold_batch_norm, freeze, gradient_output, moment_parameter, state_output, step_graph, training_graph,
};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Dim, Executor, Graph, GraphError, Op, Shape, Tensor, ValueId, Weights};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

use crate::golden::{self, Golden, Report, executors, run, run_on_all, strings, unoptimized_executors};

type Made = Result<ValueId, GraphError>;

fn input(graph: &mut Graph, height: Dim, width: Dim) -> ValueId {
    graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol(BATCH), Dim::Fixed(3), height, width]))
}

/// Pools to one pixel and flattens.
fn features(graph: &mut Graph, x: ValueId) -> Made {
    let x = graph.add("pool", Op::GlobalAveragePool, &[x])?;
    graph.add("flatten", Op::Flatten { axis: 1 }, &[x])
}

fn basic_block(graph: &mut Graph, path: &str, x: ValueId, channels: usize, stride: usize) -> Made {
    let y = graph.conv2d(&format!("{path}.conv1"), x, &Conv2d::new(channels, 3).stride(stride))?;
    let y = graph.batch_norm(&format!("{path}.bn1"), y, BATCH_NORM)?;
    let y = graph.add(&format!("{path}.relu1"), Op::Unary(Unary::Relu), &[y])?;
    let y = graph.conv2d(&format!("{path}.conv2"), y, &Conv2d::new(channels, 3))?;
    let y = graph.batch_norm(&format!("{path}.bn2"), y, BATCH_NORM)?;
    let skip = if stride == 1 {
        x
    } else {
        let x = graph.conv2d(&format!("{path}.downsample.0"), x, &Conv2d::new(channels, 1).stride(stride))?;
        graph.batch_norm(&format!("{path}.downsample.1"), x, BATCH_NORM)?
    };
    let y = graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[y, skip])?;
    graph.add(&format!("{path}.relu2"), Op::Unary(Unary::Relu), &[y])
}

/// `ResNet` of the script, for any height and width.
fn resnet() -> Graph {
    let build = |graph: &mut Graph| {
        let x = input(graph, Dim::symbol("height"), Dim::symbol("width"));
        let x = graph.conv2d("conv1", x, &Conv2d::new(5, 7).stride(2))?;
        let x = graph.batch_norm("bn1", x, BATCH_NORM)?;
        let x = graph.add("relu", Op::Unary(Unary::Relu), &[x])?;
        let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
        let x = graph.add("maxpool", Op::MaxPool(pool), &[x])?;
        let x = basic_block(graph, "layer1", x, 5, 1)?;
        let x = basic_block(graph, "layer2", x, 9, 2)?;
        let x = features(graph, x)?;
        graph.linear("fc", x, 5)
    };
    finished("resnet", build)
}

const LITE_NORM: BatchNormalization = BatchNormalization { epsilon: 1e-3, momentum: 0.01 };

fn inverted(graph: &mut Graph, path: &str, x: ValueId, sizes: [usize; 3], stride: usize) -> Made {
    let [channels, expand, out] = sizes;
    let hidden = channels * expand;
    let y = graph.conv2d(&format!("{path}.expand"), x, &Conv2d::new(hidden, 1))?;
    let y = graph.batch_norm(&format!("{path}.bn0"), y, LITE_NORM)?;
    let y = graph.add(&format!("{path}.act0"), RELU6, &[y])?;
    let pads = if stride == 1 { [1; 4] } else { [0, 0, 1, 1] };
    let depthwise = Conv2d::new(hidden, 3).stride(stride).pads(pads).group(hidden);
    let y = graph.conv2d(&format!("{path}.depthwise"), y, &depthwise)?;
    let y = graph.batch_norm(&format!("{path}.bn1"), y, LITE_NORM)?;
    let y = graph.add(&format!("{path}.act1"), RELU6, &[y])?;
    let y = graph.conv2d(&format!("{path}.project"), y, &Conv2d::new(out, 1))?;
    let y = graph.batch_norm(&format!("{path}.bn2"), y, LITE_NORM)?;
    if stride == 1 && channels == out {
        graph.add(&format!("{path}.add"), Op::Binary(Binary::Add), &[x, y])
    } else {
        Ok(y)
    }
}

/// `MobileNet` of the script.
fn mobilenet() -> Graph {
    let build = |graph: &mut Graph| {
        let x = input(graph, Dim::Fixed(29), Dim::Fixed(23));
        let stem = Conv2d { bias: true, ..Conv2d::new(6, 3).stride(2).pads([0, 1, 1, 1]) };
        let x = graph.conv2d("stem", x, &stem)?;
        let x = graph.batch_norm("bn", x, LITE_NORM)?;
        let x = graph.add("act", RELU6, &[x])?;
        let x = inverted(graph, "block0", x, [6, 3, 9], 2)?;
        let x = inverted(graph, "block1", x, [9, 2, 9], 1)?;
        let pool = Pool { kernel: [2, 2], strides: [2, 2], pads: [0; 4], ceil_mode: true };
        let x = graph.add("avgpool", Op::AveragePool(AveragePool { pool, count_include_pad: true }), &[x])?;
        let x = features(graph, x)?;
        let x = graph.linear("classifier.0", x, 13)?;
        let x = graph.add("classifier.1", Op::Unary(Unary::Relu), &[x])?;
        let x = graph.add("classifier.2", Op::Dropout { ratio: 0.0 }, &[x])?;
        graph.linear("classifier.3", x, 4)
    };
    finished("mobilenet", build)
}

fn finished(name: &str, build: impl Fn(&mut Graph) -> Made) -> Graph {
    let mut graph = Graph::new(name);
    let logits = build(&mut graph).unwrap();
    graph.add_output(OUTPUT, logits);
    graph
}

fn network(source: &str) -> Graph {
    if source == "resnet" { resnet() } else { mobilenet() }
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

/// What a golden network is trained with.
struct Case<'a> {
    golden: &'a Golden,
    case: &'a Value,
    x: &'a Tensor,
    labels: &'a Tensor,
    class_weights: Option<&'a Tensor>,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Case<'a> {
        let (name, source) = (text(case, "name"), text(case, "source"));
        let class_weights =
            case["weighted"].as_bool().unwrap().then(|| golden.get(&format!("{name}/weights")));
        let (x, labels) = (golden.get(&format!("{source}/x")), golden.get(&format!("{source}/labels")));
        Case { golden, case, x, labels, class_weights }
    }

    fn name(&self) -> &str {
        text(self.case, "name")
    }

    /// The network with its frozen part frozen, and its weights.
    fn model(&self) -> (Graph, Weights) {
        let source = text(self.case, "source");
        let mut graph = network(source);
        let frozen = strings(&self.case["frozen"]);
        freeze(&mut graph, |name| frozen.contains(&name));
        (graph, self.golden.under(&format!("{source}/in/")))
    }

    fn training(&self, graph: &Graph) -> TrainingGraph {
        let label_smoothing = self.case["smoothing"].as_f64().unwrap() as f32;
        training_graph(
            graph,
            LossOptions {
                label_smoothing,
                class_weights: self.class_weights.is_some(),
                ..LossOptions::default()
            },
        )
        .unwrap()
    }

    fn inputs(&self) -> Vec<(&str, &Tensor)> {
        let class_weights = self.class_weights.map(|w| (CLASS_WEIGHTS, w));
        [(INPUT, self.x), (LABELS, self.labels)].into_iter().chain(class_weights).collect()
    }

    /// One step: outputs against PyTorch's.
    fn compare_step(&self, found: &BTreeMap<String, Tensor>, what: &str, report: &mut Report) {
        let (name, mut compared) = (self.name(), 1);
        report.compare(
            &found[OUTPUT],
            self.golden.get(&format!("{name}/logits")),
            1e-5,
            &format!("{what} logits"),
        );
        for (kind, output) in
            [("grad", gradient_output as fn(&str) -> String), ("state", state_output as fn(&str) -> String)]
        {
            for (key, wanted) in self.golden.under(&format!("{name}/{kind}/")) {
                let tolerance = if kind == "grad" { 2e-5 } else { 1e-6 };
                report.compare(&found[&output(&key)], &wanted, tolerance, &format!("{what} {kind} {key}"));
                compared += 1;
            }
        }
        // The loss is compared over the steps.
        assert_eq!(found.len(), compared + 1, "{what}: outputs that PyTorch has no counterpart of");
    }

    /// Five steps of SGD with momentum: the losses.
    fn losses(&self, executor: &CpuExecutor, training: &TrainingGraph, weights: &Weights) -> Vec<f64> {
        let rule = UpdateRule::Sgd { nesterov: false };
        let graph = step_graph(training, rule, GradientClip::Off, false).unwrap();
        let mut weights = weights.clone();
        for name in &training.trained {
            let moment = moment_parameter(name, rule.moments()[0]);
            weights.insert(moment, Tensor::zeros([weights[name].len()]));
        }
        let lr = self.case["lr"].as_f64().unwrap() as f32;
        let row = SgdRates { lr, decay: 0.0, momentum: 0.9 }.to_row();
        let rates = Tensor::f32([training.trained.len(), RATES], row.repeat(training.trained.len()));
        let unscale = Tensor::full([], 1.0);
        let mut session = executor.prepare(&graph, &weights).unwrap();
        let mut inputs = self.inputs();
        inputs.extend([(UPDATE_RATES, &rates), (UNSCALE, &unscale)]);
        let loss = |_| {
            session.run(&inputs).unwrap();
            f64::from(session.read(LOSS).unwrap().into_f32().unwrap()[0])
        };
        (0..5).map(loss).collect()
    }
}

#[test]
fn inference_agrees_with_pytorch_folded_and_fused() {
    let (golden, mut report) = (Golden::load("networks"), Report::default());
    for source in ["resnet", "mobilenet"] {
        let mut graph = network(source);
        freeze(&mut graph, |_| true);
        let weights = golden.under(&format!("{source}/in/"));
        let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
        assert!(!folded.nodes().iter().any(|n| matches!(n.op, Op::BatchNormalization(_))), "{source}");
        let fused = optimize(&folded).unwrap();
        let simple =
            |op: &Op| matches!(op, Op::Unary(Unary::Relu | Unary::Clip(_)) | Op::Binary(Binary::Add));
        assert!(source == "mobilenet" || !fused.nodes().iter().any(|n| n.op.plain().is_some_and(simple)));
        let wanted = golden.get(&format!("{source}/inference"));
        let inputs = [(INPUT, golden.get(&format!("{source}/x")))];
        let (optimized, unoptimized) = (executors(), unoptimized_executors());
        for (form, graph, weights, executors) in [
            ("plain", &graph, &weights, &unoptimized),
            ("folded", &folded, &folded_weights, &unoptimized),
            ("fused", &folded, &folded_weights, &optimized),
        ] {
            for (isa, executors) in executors {
                let what = format!("{source} {form} on {isa:?}");
                let found = run_on_all(executors, graph, &inputs, weights, &what);
                report.compare(&found[OUTPUT], wanted, 5e-6, &what);
            }
        }
    }
    report.finish();
}

#[test]
fn training_steps_agree_with_pytorch() {
    let (golden, mut report) = (Golden::load("networks"), Report::default());
    let (optimized, unoptimized) = (executors(), unoptimized_executors());
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let (graph, weights) = case.model();
        let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
        let forms = [
            ("plain", &graph, &weights, &unoptimized),
            ("fused", &graph, &weights, &optimized),
            ("folded", &folded, &folded_weights, &optimized),
        ];
        for (form, graph, weights, executors) in forms {
            let training = case.training(graph);
            let trained: Vec<&str> = training.trained.iter().map(String::as_str).collect();
            assert_eq!(trained, strings(&case.case["trained"]), "{}", case.name());
            for (isa, executors) in executors {
                let what = format!("{} {form} on {isa:?}", case.name());
                let step = run_on_all(executors, &training.graph, &case.inputs(), weights, &what);
                case.compare_step(&step, &what, &mut report);
                let losses = case.losses(&executors[executors.len() / 2], &training, weights);
                for (i, (found, wanted)) in
                    losses.iter().zip(case.case["losses"].as_array().unwrap()).enumerate()
                {
                    let wanted = wanted.as_f64().unwrap();
                    let (found, wanted) = ([*found as f32], [wanted as f32]);
                    let [found, wanted] = [found, wanted].map(|l| Tensor::f32([], l.to_vec()));
                    report.compare(&found, &wanted, 1e-5, &format!("{what}, loss of step {i}"));
                }
            }
        }
    }
    report.finish();
}

/// Sums over pixels are taken in another order where the kernels of a fused step take them on the way.
#[test]
fn fusing_changes_no_more_than_rounding() {
    let golden = Golden::load("networks");
    let mut report = Report::default();
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
                report.compare(
                    &found,
                    &wanted[&name],
                    2e-5,
                    &format!("{} on {isa:?}: `{name}`", case.name()),
                );
            }
        }
    }
    report.finish();
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
        let error = session.run(&[(INPUT, case.x), (LABELS, &labels)]).unwrap_err().to_string();
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
                graph.add(&path, Op::MaxPool(pool), &[x])
            }
            Layer::Add(back) => {
                graph.add(&path, Op::Binary(Binary::Add), &[x, values[i.saturating_sub(back)]])
            }
        };
        values.push(y.unwrap());
    }
    let x = features(&mut graph, values[layers.len()]).unwrap();
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
            let d = golden::difference(&fused[name], wanted, name);
            prop_assert!(d < 1e-5, "fusing moves {name} by {d}");
            let d = golden::difference(&folded_fused[name], &folded[name], name);
            prop_assert!(d < 1e-5, "fusing the folded one moves {name} by {d}");
            let d = golden::difference(&folded[name], wanted, name);
            prop_assert!(d < 1e-4, "folding moves {name} by {d}");
        }
    }
}
