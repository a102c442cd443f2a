//! Whole networks and their training steps, against PyTorch (`scripts/golden/ops.py`).

use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, GradientClip, Norm, Pool, Pooling, RATES, SgdRates, ShapeOp,
    Unary,
};
use offshoot_graph::passes::{
    CLASS_WEIGHTS, LABELS, LOSS, LossOptions, TrainingGraph, UNSCALE, UPDATE_RATES, UpdateRule,
    fold_batch_norm, freeze, gradient_output, moment_parameter, state_output, step_graph, training_graph,
};
use offshoot_graph::{
    DType, Dim, ExecuteError, Executor, Graph, GraphError, Op, Shape, Tensor, ValueId, Weights,
};
use serde_json::Value;

use crate::golden::{Golden, strings};
use crate::{Executors, Outputs, Report};

type Made = Result<ValueId, GraphError>;

fn input(graph: &mut Graph, height: Dim, width: Dim) -> ValueId {
    graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol(BATCH), Dim::Fixed(3), height, width]))
}

/// Pools to one pixel and flattens.
fn features(graph: &mut Graph, x: ValueId) -> Made {
    let x = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[x])?;
    graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])
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
pub fn resnet() -> Graph {
    let build = |graph: &mut Graph| {
        let x = input(graph, Dim::symbol("height"), Dim::symbol("width"));
        let x = graph.conv2d("conv1", x, &Conv2d::new(5, 7).stride(2))?;
        let x = graph.batch_norm("bn1", x, BATCH_NORM)?;
        let x = graph.add("relu", Op::Unary(Unary::Relu), &[x])?;
        let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
        let x = graph.add("maxpool", Op::Pool(Pooling::Max(pool)), &[x])?;
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
        let x = graph.add(
            "avgpool",
            Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad: true })),
            &[x],
        )?;
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

/// The network that golden cases call `source`: `resnet` or `mobilenet`.
pub fn network(source: &str) -> Graph {
    if source == "resnet" { resnet() } else { mobilenet() }
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

/// What a golden network is trained with.
#[derive(Debug)]
pub struct Case<'a> {
    golden: &'a Golden,
    case: &'a Value,
    x: &'a Tensor,
    labels: &'a Tensor,
    class_weights: Option<&'a Tensor>,
}

impl<'a> Case<'a> {
    /// A case of the golden file `networks`.
    pub fn new(golden: &'a Golden, case: &'a Value) -> Case<'a> {
        let (name, source) = (text(case, "name"), text(case, "source"));
        let class_weights =
            case["weighted"].as_bool().unwrap().then(|| golden.get(&format!("{name}/weights")));
        let (x, labels) = (golden.get(&format!("{source}/x")), golden.get(&format!("{source}/labels")));
        Case { golden, case, x, labels, class_weights }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        text(self.case, "name")
    }

    /// The network with its frozen part frozen, and its weights.
    pub fn model(&self) -> (Graph, Weights) {
        let source = text(self.case, "source");
        let mut graph = network(source);
        let frozen = strings(&self.case["frozen"]);
        freeze(&mut graph, |name| frozen.contains(&name));
        (graph, self.golden.under(&format!("{source}/in/")))
    }

    /// The training step of a graph of its network.
    pub fn training(&self, graph: &Graph) -> TrainingGraph {
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

    /// What a step reads.
    pub fn inputs(&self) -> Vec<(&str, &Tensor)> {
        let class_weights = self.class_weights.map(|w| (CLASS_WEIGHTS, w));
        [(INPUT, self.x), (LABELS, self.labels)].into_iter().chain(class_weights).collect()
    }

    /// One step: outputs against PyTorch's.
    fn compare_step(&self, found: &Outputs, what: &str, report: &mut Report) {
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

    fn compare_losses(&self, found: &[f32], what: &str, report: &mut Report) {
        let wanted = self.case["losses"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (i, (&found, wanted)) in found.iter().zip(wanted).enumerate() {
            let wanted = wanted.as_f64().unwrap() as f32;
            let [found, wanted] = [found, wanted].map(|loss| Tensor::f32([], vec![loss]));
            report.compare(&found, &wanted, 1e-5, &format!("{what}, loss of step {i}"));
        }
    }

    /// Five steps of SGD with momentum: the losses.
    fn losses(
        &self,
        executor: &dyn Executor,
        training: &TrainingGraph,
        weights: &Weights,
    ) -> Result<Vec<f32>, ExecuteError> {
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
        let mut session = executor.prepare(&graph, &weights)?;
        let mut inputs = self.inputs();
        inputs.extend([(UPDATE_RATES, &rates), (UNSCALE, &unscale)]);
        let loss = |_| {
            session.run(&inputs)?;
            Ok(session.read(LOSS).unwrap().as_f32().unwrap()[0])
        };
        (0..5).map(loss).collect()
    }
}

/// Networks as they are trained, and with their batch norms folded.
pub(crate) fn inference(executors: Executors<'_>, report: &mut Report) {
    let golden = Golden::load("networks");
    for source in ["resnet", "mobilenet"] {
        let mut graph = network(source);
        freeze(&mut graph, |_| true);
        let weights = golden.under(&format!("{source}/in/"));
        let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
        assert!(!folded.nodes().iter().any(|n| matches!(n.op, Op::Norm(Norm::Batch(_)))), "{source}");
        let inputs = [(INPUT, golden.get(&format!("{source}/x")))];
        for (form, graph, weights) in [("plain", &graph, &weights), ("folded", &folded, &folded_weights)] {
            let what = format!("{source} {form}");
            let found = executors.run(graph, &inputs, weights, &what, report);
            if let Some(found) = found.get(OUTPUT) {
                report.compare(found, golden.get(&format!("{source}/inference")), 5e-6, &what);
            }
        }
    }
}

/// One training step, and the losses of five.
pub(crate) fn training(executors: Executors<'_>, report: &mut Report) {
    let golden = Golden::load("networks");
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let (graph, weights) = case.model();
        let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
        for (form, graph, weights) in [("plain", &graph, &weights), ("folded", &folded, &folded_weights)] {
            let training = case.training(graph);
            let trained: Vec<&str> = training.trained.iter().map(String::as_str).collect();
            assert_eq!(trained, strings(&case.case["trained"]), "{}", case.name());
            let what = format!("{} {form}", case.name());
            let step = executors.run(&training.graph, &case.inputs(), weights, &what, report);
            if !step.is_empty() {
                case.compare_step(&step, &what, report);
            }
            if let Some(executor) = executors.0.last() {
                match case.losses(*executor, &training, weights) {
                    Ok(losses) => case.compare_losses(&losses, &what, report),
                    Err(error) => report.note(format!("{what}: {error}")),
                }
            }
        }
    }
}
