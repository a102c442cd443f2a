//! Small networks with the parts of ResNet and MobileNetV2, quantized.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

use std::collections::BTreeSet;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Binary, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::passes::{LossOptions, gradient_output, training_graph};
use offshoot_graph::preprocessing::Preprocessing;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{
    DType, Data, Dim, Executor, Graph, Metadata, Model, Node, Op, Shape, Source, Tensor, ValueId,
};
use offshoot_quant::{
    Calibration, Method, Network, QuantError, Scheme, WeightBits, calibrate, fake_quantize, quantize, rank,
};

const METHODS: [Method; 4] = [Method::MinMax, Method::Percentile, Method::Entropy, Method::Mse];

fn executor() -> CpuExecutor {
    CpuExecutor::new(CpuOptions::default()).unwrap()
}

fn numbers(count: usize, seed: u64, low: f32, high: f32) -> Vec<f32> {
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    (0..count).map(|_| random.range(low, high)).collect()
}

/// A stem with batch norm, a max pool, a residual block with a projection, one without, a depthwise one, a linear head.
fn model() -> Model {
    let mut g = Graph::new("small");
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), 32.into(), 32.into()]);
    let x = g.add_input(INPUT, DType::F32, shape);
    let conv = |g: &mut Graph, path: &str, x, conv: &Conv2d, act: Option<Op>| {
        let x = g.conv2d(path, x, conv).unwrap();
        let x = g.batch_norm(&format!("{path}_bn"), x, BATCH_NORM).unwrap();
        act.map_or(x, |act| g.add(&format!("{path}_act"), act, &[x]).unwrap())
    };
    let x = conv(&mut g, "stem", x, &Conv2d::new(16, 3).stride(2), Some(Op::Unary(Unary::Relu)));
    let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [1; 4], ceil_mode: false };
    let x = g.add("pool", Op::Pool(Pooling::Max(pool)), &[x]).unwrap();
    let y = conv(&mut g, "a1", x, &Conv2d::new(24, 3), Some(Op::Unary(Unary::Relu)));
    let y = conv(&mut g, "a2", y, &Conv2d::new(24, 1), None);
    let skip = conv(&mut g, "a_skip", x, &Conv2d::new(24, 1), None);
    let x = g.add("a_add", Op::Binary(Binary::Add), &[y, skip]).unwrap();
    let x = g.add("a_relu", Op::Unary(Unary::Relu), &[x]).unwrap();
    let y = conv(&mut g, "b1", x, &Conv2d::new(48, 1), Some(RELU6));
    let y = conv(&mut g, "b2", y, &Conv2d::new(48, 3).group(48), Some(RELU6));
    let y = conv(&mut g, "b3", y, &Conv2d::new(24, 1), None);
    let x = g.add("b_add", Op::Binary(Binary::Add), &[x, y]).unwrap();
    let x = g.add("mean", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
    let x = g.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let y = g.linear("fc", x, 7).unwrap();
    g.add_output(OUTPUT, y);
    let weights = g.parameters().iter().enumerate().map(|(seed, &id)| {
        let value = g.value(id);
        let shape = value.shape.as_fixed().unwrap();
        let spread = 1.7 / (shape[1..].iter().product::<usize>() as f32).sqrt();
        let (low, high) = match value.name.rsplit('.').next().unwrap() {
            "running_var" => (0.5, 1.5),
            "weight" if shape.len() == 1 => (0.5, 1.5),
            _ if shape.len() == 1 => (-0.3, 0.3),
            _ => (-spread, spread),
        };
        (
            value.name.clone(),
            Tensor::f32(shape.clone(), numbers(shape.iter().product(), seed as u64, low, high)),
        )
    });
    let weights = weights.collect();
    let classes = (0..7).map(|i| i.to_string()).collect();
    let preprocessing = Preprocessing { size: 32, ..Default::default() };
    Model { graph: g, weights, metadata: Metadata { classes, preprocessing, ..Metadata::default() } }
}

fn batches(seed: u64) -> Vec<Tensor> {
    (0..4).map(|i| Tensor::f32([8, 3, 32, 32], numbers(8 * 3 * 32 * 32, seed + i, -2.0, 2.0))).collect()
}

fn logits(model: &Model, batches: &[Tensor]) -> Vec<f32> {
    let mut session = executor().prepare(&model.graph, &model.weights).unwrap();
    let mut found = Vec::new();
    for batch in batches {
        session.run(&[(INPUT, batch)]).unwrap();
        found.extend(session.read(OUTPUT).unwrap().into_f32().unwrap());
    }
    found
}

/// The root of the mean squared difference, relative to the root of the mean square.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (off / a.iter().map(|&a| square(a)).sum::<f64>()).sqrt()
}

fn network(scheme: Scheme) -> Network {
    Network::new(&model(), scheme).unwrap()
}

fn calibrated(network: &Network, method: Method) -> Calibration {
    calibrate(network, &batches(100), method, &executor()).unwrap()
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

fn node<'g>(graph: &'g Graph, name: &str) -> &'g Node {
    graph.nodes().iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node `{name}`:\n{graph}"))
}

/// The node that makes an input of another.
fn before<'g>(graph: &'g Graph, node: &Node, slot: usize) -> Option<&'g Node> {
    Some(graph.node(graph.producer(node.inputs[slot])?))
}

fn constant(graph: &Graph, id: ValueId) -> &Tensor {
    match &graph.value(id).source {
        Source::Constant(tensor) => tensor,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_method_stays_close_to_float() {
    let held = batches(900);
    let exact = logits(&model(), &held);
    for scheme in [Scheme::cpu(WeightBits::Eight), Scheme::cpu(WeightBits::Seven), Scheme::tensorrt()] {
        let network = network(scheme);
        assert!(distance(&exact, &logits(&network.model(), &held)) < 1e-5);
        for method in METHODS {
            let model = quantize(&network, &calibrated(&network, method), &none()).unwrap();
            let off = distance(&exact, &logits(&model, &held));
            assert!(off < 0.04, "{method} {scheme:?}: {off}");
            assert!(off > 1e-5, "{method}: nothing was rounded");
        }
    }
}

#[test]
fn all_of_the_network_is_in_integers_for_processors() {
    let network = network(Scheme::cpu(WeightBits::Seven));
    let model = quantize(&network, &calibrated(&network, Method::MinMax), &none()).unwrap();
    let graph = &model.graph;
    let mut products = 0;
    for n in graph.nodes() {
        match &n.op {
            Op::Conv(_) | Op::Gemm(_) => {
                products += 1;
                for (slot, dtype) in [(0, DType::U8), (1, DType::I8), (2, DType::I32)] {
                    let dq = before(graph, n, slot).unwrap();
                    assert!(matches!(dq.op, Op::DequantizeLinear { axis: 0 }), "{}", n.name);
                    assert_eq!(graph.value(dq.inputs[0]).dtype, dtype, "{}", n.name);
                }
                let [x, w, b] = [0, 1, 2].map(|i| constant(graph, before(graph, n, i).unwrap().inputs[1]));
                let (x, w, b) = (x.as_f32().unwrap()[0], w.as_f32().unwrap(), b.as_f32().unwrap());
                assert!(w.iter().zip(b).all(|(w, b)| x * w == *b), "a bias has the scale of the sums");
                let weight = &graph.value(before(graph, n, 1).unwrap().inputs[0]).name;
                let Data::I8(q) = model.weights[weight].data() else { panic!("{weight}") };
                assert!(q.iter().all(|q| (-63..=63).contains(q)));
            }
            Op::Binary(Binary::Add)
            | Op::Pool(Pooling::GlobalAverage | Pooling::Max(_))
            | Op::Shape(ShapeOp::Flatten { .. }) => {
                for slot in 0..n.inputs.len() {
                    let dq = before(graph, n, slot).unwrap();
                    assert!(matches!(dq.op, Op::DequantizeLinear { .. }), "{}", n.name);
                }
            }
            Op::QuantizeLinear { .. } => {
                let before = graph.producer(n.inputs[0]).map(|id| &graph.node(id).op);
                assert!(!matches!(before, Some(Op::DequantizeLinear { .. })), "{}", n.name);
            }
            Op::Unary(Unary::Relu | Unary::Clip(_)) => {
                // Between a product or sum and its Q.
                let before = &before(graph, n, 0).unwrap().op;
                assert!(matches!(before, Op::Conv(_) | Op::Binary(Binary::Add)), "{}", n.name);
            }
            Op::DequantizeLinear { .. } => {}
            other => panic!("{}", other.name()),
        }
    }
    assert_eq!(products, 8);
    // A pool moves integers: one scale on both sides.
    let pool = node(graph, "pool");
    let (dq, q) =
        (before(graph, pool, 0).unwrap(), graph.nodes().iter().find(|n| n.inputs[0] == pool.outputs[0]));
    assert_eq!(dq.inputs[1..], q.unwrap().inputs[1..]);
    // The logits are float.
    let last = graph.node(graph.producer(graph.output(OUTPUT).unwrap()).unwrap());
    assert!(matches!(last.op, Op::Gemm(_)));
}

#[test]
fn tensorrt_has_its_form() {
    let network = network(Scheme::tensorrt());
    let model = quantize(&network, &calibrated(&network, Method::Entropy), &none()).unwrap();
    let graph = &model.graph;
    for n in graph.nodes() {
        match &n.op {
            Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
                let Data::I8(zero) = constant(graph, n.inputs[2]).data() else { panic!("{}", n.name) };
                assert!(zero.iter().all(|&z| z == 0), "{}", n.name);
            }
            Op::Conv(_) | Op::Gemm(_) => {
                let w = before(graph, n, 1).unwrap();
                assert_eq!(w.op, Op::DequantizeLinear { axis: 0 });
                assert_eq!(
                    constant(graph, w.inputs[1]).shape(),
                    &[graph.value(w.outputs[0]).shape.0[0].fixed().unwrap()]
                );
                assert!(matches!(before(graph, n, 0).unwrap().op, Op::DequantizeLinear { axis: 0 }));
                // The bias is a float parameter.
                assert_eq!(graph.value(n.inputs[2]).dtype, DType::F32);
                assert!(graph.parameter_info(n.inputs[2]).is_some());
            }
            _ => {}
        }
    }
    // A sum: the branch that skips is rounded, the convolution's own is not.
    let add = node(graph, "b_add");
    assert!(matches!(before(graph, add, 0).unwrap().op, Op::DequantizeLinear { .. }));
    assert!(matches!(before(graph, add, 1).unwrap().op, Op::Conv(_)));
    let add = node(graph, "a_add");
    assert!(matches!(before(graph, add, 0).unwrap().op, Op::Conv(_)));
    assert!(matches!(before(graph, add, 1).unwrap().op, Op::DequantizeLinear { .. }));
    // A max pool commutes with the Q behind it.
    assert_eq!(before(graph, node(graph, "pool"), 0).unwrap().op, Op::Unary(Unary::Relu));
}

#[test]
fn what_is_kept_in_float_is_float() {
    let network = network(Scheme::cpu(WeightBits::Seven));
    let calibration = calibrated(&network, Method::Mse);
    let kept = BTreeSet::from(["b2".to_string()]);
    let model = quantize(&network, &calibration, &kept).unwrap();
    let conv = node(&model.graph, "b2");
    assert_eq!(model.graph.value(conv.inputs[1]).dtype, DType::F32);
    assert_eq!(model.weights["b2.weight"], network.model().weights["b2.weight"]);
    // Everything in float gives the float network's own numbers.
    let all: BTreeSet<String> = network.operators().into_iter().collect();
    let held = batches(7);
    let float = quantize(&network, &calibration, &all).unwrap();
    assert!(distance(&logits(&network.model(), &held), &logits(&float, &held)) < 0.02);
    let unknown = BTreeSet::from(["nothing".to_string()]);
    let error = quantize(&network, &calibration, &unknown).unwrap_err();
    assert_eq!(error, QuantError::Unknown { name: "nothing".into() });
}

#[test]
fn for_litert_the_logits_are_rounded_too_unless_their_layer_stays_in_float() {
    let network = network(Scheme::litert());
    let calibration = calibrated(&network, Method::Mse);
    let ends_in = |kept: &BTreeSet<String>| {
        let graph = quantize(&network, &calibration, kept).unwrap().graph;
        let (_, output) = &graph.outputs()[0];
        graph.node(graph.producer(*output).unwrap()).op.name()
    };
    assert_eq!(ends_in(&none()), "DequantizeLinear");
    assert_eq!(ends_in(&BTreeSet::from(["fc".to_owned()])), "Gemm");
    // Over all that was seen: the largest logit is not cut.
    let held = batches(900);
    let model = quantize(&network, &calibration, &none()).unwrap();
    assert!(distance(&logits(&network.model(), &held), &logits(&model, &held)) < 0.1);
}

#[test]
fn correcting_biases_centres_the_error() {
    let held = batches(900);
    let with = |bias_correction: bool| {
        let scheme = Scheme { bias_correction, ..Scheme::cpu(WeightBits::Seven) };
        let network = network(scheme);
        let model = quantize(&network, &calibrated(&network, Method::MinMax), &none()).unwrap();
        let (exact, found) = (logits(&network.model(), &held), logits(&model, &held));
        // How far the mean of each logit lies off.
        let mean = |k: usize| {
            let of_class = exact.iter().zip(&found).skip(k).step_by(7);
            of_class.map(|(a, b)| f64::from(b - a)).sum::<f64>() / (exact.len() / 7) as f64
        };
        (0..7).map(|k| mean(k).powi(2)).sum::<f64>()
    };
    let (corrected, plain) = (with(true), with(false));
    assert!(corrected < 0.7 * plain, "{corrected} with, {plain} without");
}

#[test]
fn the_costliest_operator_is_found() {
    let network = network(Scheme::cpu(WeightBits::Eight));
    let mut model = network.model();
    // One huge weight in each output channel makes the others of one layer coarse.
    let weight = model.weights.get_mut("b3.weight").unwrap();
    weight.as_f32_mut().unwrap().chunks_exact_mut(48).for_each(|row| row[5] = 40.0);
    // The channel that it reads is nearly silent.
    for (name, value) in [("b2.bias", 0.0), ("b2.weight", 0.0)] {
        let taps = if name == "b2.weight" { 9 } else { 1 };
        let tensor = model.weights.get_mut(name).unwrap();
        tensor.as_f32_mut().unwrap()[5 * taps..][..taps].fill(value);
    }
    let network = Network::new(&model, network.scheme()).unwrap();
    let calibration = calibrated(&network, Method::MinMax);
    let mut seen = 0;
    let costs = rank(&network, &calibration, &batches(3), &executor(), |done, of| {
        seen += 1;
        assert!(done == seen && of == network.operators().len());
    })
    .unwrap();
    assert_eq!(costs[0].operator, "b3", "{costs:?}");
    assert!(costs[0].share > 0.5, "{costs:?}");
    assert_eq!(costs.len(), network.operators().len());
}

#[test]
fn fake_quantisation_computes_the_same_and_has_gradients() {
    let scheme = Scheme { bias_correction: false, ..Scheme::cpu(WeightBits::Seven) };
    let network = network(scheme);
    let calibration = calibrated(&network, Method::Mse);
    let integers = quantize(&network, &calibration, &none()).unwrap();
    let fake = fake_quantize(&network, &calibration, &none()).unwrap();
    let held = batches(900);
    let off = distance(&logits(&integers, &held), &logits(&fake, &held));
    assert!(off < 0.01, "{off}");
    assert!(fake.weights.values().all(|t| t.dtype() == DType::F32));
    let step = training_graph(&fake.graph, LossOptions::default()).unwrap();
    assert!(
        step.trained.contains(&"stem.weight".to_string()) && step.trained.contains(&"fc.bias".to_string())
    );
    let mut session = executor().prepare(&step.graph, &fake.weights).unwrap();
    let labels = Tensor::i64([8], vec![0, 1, 2, 3, 4, 5, 6, 0]);
    session.run(&[(INPUT, &held[0]), ("labels", &labels)]).unwrap();
    for name in &step.trained {
        let gradient = session.read(&gradient_output(name)).unwrap().into_f32().unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|&g| g != 0.0), "{name}");
    }
}

#[test]
fn threads_change_nothing() {
    let network = network(Scheme::cpu(WeightBits::Seven));
    let with = |threads| {
        let threads = std::num::NonZeroUsize::new(threads);
        let executor = CpuExecutor::new(CpuOptions { threads, ..CpuOptions::default() }).unwrap();
        let calibration = calibrate(&network, &batches(100), Method::Mse, &executor).unwrap();
        quantize(&network, &calibration, &none()).unwrap()
    };
    let (one, three) = (with(1), with(3));
    assert!(one.graph == three.graph && one.weights == three.weights);
}

#[test]
fn what_cannot_be_quantised_says_why() {
    let network = network(Scheme::cpu(WeightBits::Seven));
    let error = calibrate(&network, &[], Method::Mse, &executor()).unwrap_err();
    assert_eq!(error, QuantError::NoPictures);
    let twice = quantize(&network, &calibrated(&network, Method::MinMax), &none()).unwrap();
    assert_eq!(Network::new(&twice, network.scheme()).unwrap_err(), QuantError::Nothing);
    let mut broken = model();
    broken.weights.get_mut("a1_bn.bias").unwrap().as_f32_mut().unwrap()[0] = f32::NAN;
    let broken = Network::new(&broken, network.scheme()).unwrap();
    let error = calibrate(&broken, &batches(1), Method::MinMax, &executor()).unwrap_err();
    assert!(matches!(error, QuantError::NotFinite { .. }), "{error}");
}
