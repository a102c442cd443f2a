//! Small classifiers made with the graph builder, for the tests of ONNX and TorchScript files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::builder::{BATCH_NORM, Conv2d, RELU6};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{AveragePool, Binary, Pool, Pooling, Reduce, ShapeOp, Unary};
use offshoot_graph::passes::freeze;
use offshoot_graph::preprocessing::Preprocessing;
use offshoot_graph::{DType, Dim, Executor, Graph, Metadata, Model, Op, Shape, Tensor, ValueId, Weights};

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx").join(name)
}

pub(crate) fn form(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx_forms").join(name)
}

/// What the peer that `scripts/golden/` asked computes from a file, on the pictures of [`logits`].
#[derive(serde::Deserialize)]
pub(crate) struct Golden {
    pub(crate) shape: Vec<usize>,
    pub(crate) logits: Vec<f32>,
}

/// What `model` makes of pictures of a fixed pattern.
pub(crate) fn logits(model: &Model, shape: &[usize]) -> Vec<f32> {
    logits_on(&CpuExecutor::new(CpuOptions::default()).unwrap(), model, shape)
}

/// As [`logits`], computed node by node: what stands between DequantizeLinear and QuantizeLinear in floats.
pub(crate) fn float_logits(model: &Model, shape: &[usize]) -> Vec<f32> {
    let options = CpuOptions { unoptimized: true, ..CpuOptions::default() };
    logits_on(&CpuExecutor::new(options).unwrap(), model, shape)
}

fn logits_on(executor: &CpuExecutor, model: &Model, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let x = (0..count).map(|i| ((7919 * i) % 1000) as f32 / 500.0 - 1.0).collect();
    let mut graph = model.graph.clone();
    freeze(&mut graph, |_| true); // as an LSTM wants
    let mut session = executor.prepare(&graph, &model.weights).unwrap();
    session.run(&[(INPUT, &Tensor::f32(shape, x))]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

/// Numbers between -scale and scale that look random.
pub(crate) fn numbers(count: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * scale
    };
    (0..count).map(next).collect()
}

/// Weights for a graph: running variances are positive.
pub(crate) fn random_weights(graph: &Graph) -> Weights {
    let tensor = |(seed, &id): (usize, &ValueId)| {
        let value = graph.value(id);
        let shape = value.shape.as_fixed().unwrap();
        let count = shape.iter().product();
        let mut data = numbers(count, seed as u64 + 1, 0.3);
        if value.name.ends_with("running_var") {
            data.iter_mut().for_each(|x| *x = x.abs() + 0.5);
        }
        (value.name.clone(), Tensor::f32(shape, data))
    };
    graph.parameters().iter().enumerate().map(tensor).collect()
}

pub(crate) fn classifier(
    name: &str,
    size: usize,
    build: impl FnOnce(&mut Graph, ValueId) -> ValueId,
) -> Model {
    let mut graph = Graph::new(name);
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), size.into(), size.into()]);
    let x = graph.add_input(INPUT, DType::F32, shape);
    let y = build(&mut graph, x);
    graph.add_output(OUTPUT, y);
    let classes = graph.value(y).shape.0[1].fixed().unwrap();
    let metadata = Metadata {
        architecture: Some(name.into()),
        head: Some("linear,dropout=0.2".into()),
        classes: (0..classes).map(|i| format!("class \"{i}\" ü")).collect(),
        preprocessing: Preprocessing { size, resize: size + 32, mean: [0.1, 0.2, 0.3], ..Default::default() },
        ..Metadata::default()
    };
    Model { weights: random_weights(&graph), graph, metadata }
}

/// The parts of MobileNetV2.
pub(crate) fn mobile(dropout: bool) -> Model {
    classifier("mobile", 32, |g, x| {
        let conv = |g: &mut Graph, path: &str, x, conv: &Conv2d, act: bool| {
            let x = g.conv2d(&format!("{path}.0"), x, conv).unwrap();
            let x = g.batch_norm(&format!("{path}.1"), x, BATCH_NORM).unwrap();
            if act { g.add(&format!("{path}.2"), RELU6, &[x]).unwrap() } else { x }
        };
        let x = conv(g, "features.0", x, &Conv2d::new(8, 3).stride(2), true);
        let y = conv(g, "features.1.conv.0", x, &Conv2d::new(16, 1), true);
        let y = conv(g, "features.1.conv.1", y, &Conv2d::new(16, 3).group(16), true);
        let y = conv(g, "features.1.conv.2", y, &Conv2d::new(8, 1), false);
        let x = g.add("features.1.add", Op::Binary(Binary::Add), &[x, y]).unwrap();
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let mut x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        if dropout {
            x = g.add("classifier.0", Op::Dropout { ratio: 0.2 }, &[x]).unwrap();
        }
        g.linear("classifier.1", x, 5).unwrap()
    })
}

/// Constants, a convolution with a norm and a gate, pools with padding on some sides, and a relu.
pub(crate) fn windows(g: &mut Graph, x: ValueId, max_pads: [usize; 4], count_include_pad: bool) -> ValueId {
    let half = g.add_constant("half", Tensor::f32([1, 3, 1, 1], vec![0.5, 0.25, 2.0]));
    let x = g.add("scale", Op::Binary(Binary::Mul), &[x, half]).unwrap();
    let stem = Conv2d { bias: true, ..Conv2d::new(6, 3).stride(2).pads([0, 1, 2, 1]).group(3) };
    let x = g.conv2d("stem", x, &stem).unwrap();
    let x = g.batch_norm("bn", x, BATCH_NORM).unwrap();
    let gate = g.add("sigmoid", Op::Unary(Unary::Sigmoid), &[x]).unwrap();
    let x = g.add("gate", Op::Binary(Binary::Mul), &[x, gate]).unwrap();
    let pool = Pool { kernel: [3, 2], strides: [2, 2], pads: max_pads, ceil_mode: true };
    let x = g.add("maxpool", Op::Pool(Pooling::Max(pool)), &[x]).unwrap();
    let pool = Pool { kernel: [2, 3], strides: [1, 2], pads: [0, 1, 0, 1], ceil_mode: false };
    let average = AveragePool { pool, count_include_pad };
    let x = g.add("avgpool", Op::Pool(Pooling::Average(average)), &[x]).unwrap();
    g.add("relu", Op::Unary(Unary::Relu), &[x]).unwrap()
}

/// Every operator and attribute that the writer knows, in one graph.
pub(crate) fn everything() -> Model {
    classifier("everything", 33, |g, x| {
        let x = windows(g, x, [1, 0, 1, 1], true);
        let dilated = Conv2d::new(4, 3).pads([2, 2, 2, 2]);
        let mut attributes = dilated.attributes.clone();
        attributes.dilations = [2, 2];
        let x = g.conv2d("dilated", x, &Conv2d { attributes, ..dilated }).unwrap();
        let top = offshoot_graph::op::Clip { min: f32::NEG_INFINITY, max: 0.75 };
        let x = g.add("top", Op::Unary(Unary::Clip(top)), &[x]).unwrap();
        let low = offshoot_graph::op::Clip { min: -0.5, max: f32::INFINITY };
        let x = g.add("low", Op::Unary(Unary::Clip(low)), &[x]).unwrap();
        let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        let x = g.linear("fc.0", x, 7).unwrap();
        let x = g.add("softmax", Op::Softmax { axis: 1 }, &[x]).unwrap();
        let bias = g.add_parameter("shift", &[7], offshoot_graph::Role::Weight);
        let x = g.add("shifted", Op::Binary(Binary::Add), &[x, bias]).unwrap();
        let weight = g.add_parameter("fc.1", &[7, 4], offshoot_graph::Role::Weight);
        g.add("fc", Op::Gemm(Default::default()), &[x, weight]).unwrap()
    })
}

/// A small classifier for each function of one element, of two, and each reduction, under its name.
pub(crate) fn functions() -> Vec<(String, Model)> {
    let mut models = Vec::new();
    let mut add = |name: &str, build: &dyn Fn(&mut Graph, ValueId, ValueId) -> ValueId| {
        let model = classifier(name, 8, |g, x| {
            let a = g.conv2d("a", x, &Conv2d::new(4, 1)).unwrap();
            let b = g.conv2d("b", x, &Conv2d::new(4, 1)).unwrap();
            // From 0.27 to 0.73: every function is defined there.
            let b = g.add("positive", Op::Unary(Unary::Sigmoid), &[b]).unwrap();
            let y = build(g, a, b);
            let y = g.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[y]).unwrap();
            g.linear("fc", y, 3).unwrap()
        });
        models.push((name.to_owned(), model));
    };
    for &unary in Unary::ALL {
        add(unary.row().name, &|g, a, b| {
            let x = if matches!(unary, Unary::Log | Unary::Sqrt | Unary::Reciprocal) { b } else { a };
            g.add("y", Op::Unary(unary), &[x]).unwrap()
        });
    }
    for &binary in Binary::ALL {
        let exchanged = matches!(binary, Binary::Pow);
        add(binary.row().onnx, &|g, a, b| {
            g.add("y", Op::Binary(binary), &if exchanged { [b, a] } else { [a, b] }).unwrap()
        });
    }
    for &op in Reduce::ALL {
        for axis in [1, 3] {
            add(&format!("{}{axis}", op.row().onnx), &|g, a, _| {
                g.add("y", Op::Reduce { op, axis }, &[a]).unwrap()
            });
        }
    }
    models
}

/// Runs a script of `scripts/` with the Python peers; what it says is the failure where it fails.
pub(crate) fn check_with(script: &str, arguments: &[impl AsRef<OsStr>]) {
    let home = std::env::var("HOME").unwrap_or_default();
    let peers = std::env::var("OFFSHOOT_PEERS")
        .map_or(PathBuf::from(home).join(".cache/offshoot/peers"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(script);
    let output = Command::new(peers.join("bin/python")).arg(script).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// Runs scripts/check_dynamic.py.
pub(crate) fn check_dynamic(arguments: &[&Path], tolerance: &str) {
    let mut all: Vec<&OsStr> = arguments.iter().map(|path| path.as_os_str()).collect();
    all.insert(1, tolerance.as_ref());
    check_with("check_dynamic.py", &all);
}
