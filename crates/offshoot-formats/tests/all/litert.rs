//! LiteRT files: what is written is read back as it was; what does not fit is one clear error.

use std::io::{Cursor, Read};
use std::path::Path;

use offshoot_formats::litert::{self, Options, StoredWeights};
use offshoot_formats::onnx;
use offshoot_graph::op::{
    AveragePool, Binary, Composite, Coordinates, PadMode, Pool, Pooling, Reduce, Resampling, ShapeOp, Unary,
};
use offshoot_graph::{Graph, Model, Op, Shape, Tensor, ValueId};

use crate::onnx_support::{check_with, classifier, everything, functions, logits, mobile};

const F32: Options = Options { weights: StoredWeights::F32 };
const F16: Options = Options { weights: StoredWeights::F16 };

fn again(model: &Model, options: Options) -> Model {
    litert::read_bytes(&litert::write_bytes(model, options).unwrap()).unwrap()
}

/// The largest difference relative to the largest logit.
fn difference(model: &Model, other: &Model) -> f64 {
    let size = model.metadata.preprocessing.size;
    let [a, b] = [model, other].map(|m| logits(m, &[2, 3, size, size]));
    offshoot_testing::difference(&b, &a)
}

#[test]
fn a_file_computes_what_the_model_does() {
    for model in [mobile(true), everything()] {
        for (options, bound) in [(F32, 1e-5), (F16, 2e-3)] {
            let read = again(&model, options);
            assert_eq!(read.metadata, model.metadata);
            let difference = difference(&model, &read);
            assert!(difference < bound, "{options:?}: {difference}");
        }
    }
}

/// Pools with padding of every kind, pads, resizes, and axes that are turned.
fn pictures() -> Vec<Model> {
    let mut models = Vec::new();
    let mut add = |name: &str, op: Op| {
        models.push(classifier(name, 9, |g, x| {
            let x = g.conv2d("conv", x, &offshoot_graph::builder::Conv2d::new(4, 3)).unwrap();
            let x = g.add("y", op, &[x]).unwrap();
            let x = g.add("turned", Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }), &[x]).unwrap();
            let x = g.add("mean", Op::Reduce { op: Reduce::Mean, axis: 1 }, &[x]).unwrap();
            let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
            g.linear("fc", x, 3).unwrap()
        }));
    };
    for ceil_mode in [false, true] {
        for pads in [[0; 4], [1, 1, 1, 1], [0, 1, 1, 0]] {
            let pool = Pool { kernel: [3, 2], strides: [2, 2], pads, ceil_mode };
            let name = format!("{pads:?}_{ceil_mode}").replace([' ', ',', '[', ']'], "");
            add(&format!("max_{name}"), Op::Pool(Pooling::Max(pool.clone())));
            for count_include_pad in [false, true] {
                let average = AveragePool { pool: pool.clone(), count_include_pad };
                let name = format!("average_{name}_{count_include_pad}");
                add(&name, Op::Pool(Pooling::Average(average)));
            }
        }
    }
    for (name, mode) in [
        ("zeros", PadMode::Constant(0.0)),
        ("twos", PadMode::Constant(2.0)),
        ("reflect", PadMode::Reflect),
        ("edge", PadMode::Edge),
    ] {
        let pads = vec![[0, 0], [0, 1], [1, 2], [2, 0]];
        add(name, Op::Composite(Composite::Pad { pads, mode }));
    }
    for coordinates in [Coordinates::HalfPixel, Coordinates::AlignCorners, Coordinates::Asymmetric] {
        for resampling in [Resampling::Linear, Resampling::Nearest] {
            let op = Op::Composite(Composite::Resize { size: [10, 5], resampling, coordinates });
            add(&format!("resize_{resampling:?}_{coordinates:?}").to_lowercase(), op);
        }
    }
    models
}

/// A picture times the mean of all pictures and channels, a value of two axes.
fn multiplied_by_a_matrix(g: &mut Graph, x: ValueId) -> ValueId {
    let x = g.conv2d("conv", x, &offshoot_graph::builder::Conv2d::new(4, 3)).unwrap();
    let mut mean = x;
    for axis in [0, 1] {
        mean = g.add(&format!("mean{axis}"), Op::Reduce { op: Reduce::Mean, axis }, &[mean]).unwrap();
    }
    let sizes: Vec<usize> = g.value(mean).shape.0[2..].iter().map(|dim| dim.fixed().unwrap()).collect();
    let matrix = Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&sizes) });
    let matrix = g.add("matrix", matrix, &[mean]).unwrap();
    let x = g.add("scaled", Op::Binary(Binary::Mul), &[x, matrix]).unwrap();
    let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    g.linear("fc", x, 3).unwrap()
}

#[test]
fn windows_pads_and_resizes_survive() {
    let fewer_axes = classifier("fewer_axes", 9, multiplied_by_a_matrix);
    for model in pictures().into_iter().chain([fewer_axes]) {
        let difference = difference(&model, &again(&model, F32));
        assert!(difference < 2e-6, "{}: {difference}", model.graph.name());
    }
}

#[test]
fn every_function_goes_through_litert() {
    for (name, model) in functions() {
        if name == "Erf" {
            let message = litert::write_bytes(&model, F32).unwrap_err().to_string();
            assert!(message.contains("node `y` (Erf)") && message.contains("LiteRT"), "{message}");
            continue;
        }
        let difference = difference(&model, &again(&model, F32));
        assert!(difference < 2e-6, "{name}: {difference}");
    }
}

#[test]
fn the_same_model_gives_the_same_bytes_and_f16_half_of_them() {
    let model = classifier("wide", 8, |g, x| {
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        let x = g.linear("hidden", x, 4096).unwrap();
        g.linear("fc", x, 64).unwrap()
    });
    let bytes = [F32, F16].map(|options| litert::write_bytes(&model, options).unwrap());
    let again = [F32, F16].map(|options| litert::write_bytes(&model, options).unwrap());
    assert_eq!(bytes, again);
    let ratio = bytes[1].len() as f64 / bytes[0].len() as f64;
    assert!((0.49..0.52).contains(&ratio), "{ratio}");
}

#[test]
fn the_labels_stand_in_an_archive_behind_the_file() {
    let mut model = mobile(false);
    model.metadata.classes[1] = "two\nlines".into();
    let bytes = litert::write_bytes(&model, F32).unwrap();
    assert_eq!(litert::read_bytes(&bytes).unwrap().metadata, model.metadata);
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut labels = String::new();
    let mut entry = archive.by_name("labels.txt").unwrap();
    assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
    entry.read_to_string(&mut labels).unwrap();
    let lines: Vec<&str> = labels.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (5, "class \"0\" ü", "two lines"));
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let mut large = mobile(false);
    large.weights.insert("classifier.1.weight".into(), Tensor::f32([5, 8], vec![1e5; 40]));
    let mut missing = mobile(false);
    missing.weights.remove("classifier.1.weight");
    let erf = classifier("erf", 8, |g, x| {
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let x = g.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        g.add("y", Op::Unary(Unary::Erf), &[x]).unwrap()
    });
    for (model, words) in [
        (large, ["`classifier.1.weight`", "100000", "`precision` f32"]),
        (missing, ["`classifier.1.weight`", "do not hold it", "Load"]),
        (erf, ["node `y` (Erf)", "no such operator", "Export ONNX"]),
    ] {
        let message = litert::write_bytes(&model, F16).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

fn quantized(name: &str) -> Model {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/onnx_qdq");
    onnx::read(&Path::new(folder).join(format!("{name}.onnx"))).unwrap().model
}

const QUANTIZED: [&str; 3] = ["u8_per_channel", "i8_symmetric", "seven_bits"];

#[test]
fn a_quantized_model_computes_on_the_same_bytes() {
    for name in QUANTIZED {
        let model = quantized(name);
        let read = again(&model, F32);
        let of_bytes = |model: &Model| {
            let convs =
                model.graph.nodes().iter().filter(|node| matches!(node.op, Op::Conv(_) | Op::Gemm(_)));
            convs
                .map(|node| model.graph.producer(node.inputs[1]).map(|id| model.graph.node(id).op.name()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of_bytes(&read), of_bytes(&model), "{name}");
        assert!(of_bytes(&read).iter().all(|op| *op == Some("DequantizeLinear")), "{name}");
        let difference = difference(&model, &read);
        assert!(difference < 0.02, "{name}: {difference}");
    }
    let message = litert::write_bytes(&quantized("per_tensor_opset11"), F32).unwrap_err().to_string();
    assert!(message.contains("zero point of 0"), "{message}");
}

/// Whatever happens to a file's bytes: an error or a model, no panic.
#[test]
fn damage_is_an_error() {
    for options in [F32, F16] {
        let whole = litert::write_bytes(&mobile(false), options).unwrap();
        for cut in [0, 1, 7, 8, 100, whole.len() / 4, whole.len() / 2] {
            let message = litert::read_bytes(&whole[..cut]).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("byte") || message.contains("operator"), "{message}");
        }
        for at in (0..whole.len()).step_by(whole.len() / 600 + 1) {
            for flip in [0x01, 0x55, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                drop(litert::read_bytes(&bytes));
            }
        }
    }
}

#[test]
#[ignore = "needs the light Python peers with ai-edge-litert (OFFSHOOT_PEERS)"]
fn the_interpreter_computes_what_the_models_do() {
    let folder = tempfile::tempdir().unwrap();
    let own = functions().into_iter().filter(|(name, _)| name != "Erf").map(|(_, model)| model);
    let mut files = Vec::new();
    for model in own.chain(pictures()).chain([mobile(true), everything()]) {
        let size = model.metadata.preprocessing.size;
        let path = folder.path().join(format!("{}.tflite", model.graph.name()));
        litert::write(&path, &model, F32).unwrap();
        let beside = path.with_extension("json");
        let shape = [2, 3, size, size];
        let golden = serde_json::json!({"shape": shape, "logits": logits(&model, &shape)});
        std::fs::write(&beside, golden.to_string()).unwrap();
        files.push(format!("{}={}", path.display(), beside.display()));
    }
    check_with("check_litert.py", &files);
}

#[test]
#[ignore = "needs the light Python peers with ai-edge-litert (OFFSHOOT_PEERS)"]
fn the_interpreter_computes_on_bytes_as_we_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["--tolerance".to_owned(), "0.02".to_owned()];
    for name in QUANTIZED {
        let model = quantized(name);
        let size = model.metadata.preprocessing.size;
        let path = folder.path().join(format!("{name}.tflite"));
        litert::write(&path, &model, F32).unwrap();
        let shape = [2, 3, size, size];
        let golden = serde_json::json!({"shape": shape, "logits": logits(&model, &shape)});
        std::fs::write(path.with_extension("json"), golden.to_string()).unwrap();
        arguments.push(format!("{}={}", path.display(), path.with_extension("json").display()));
    }
    check_with("check_litert.py", &arguments);
}
