//! Core ML packages: what is written is read back as it was, in every precision; what does not fit is one clear error.

use std::fs;
use std::path::Path;

use offshoot_formats::coreml::{self, Options, Precision, StoredWeights};
use offshoot_graph::op::{AveragePool, Pool, Pooling, ShapeOp};
use offshoot_graph::{Model, Op, Tensor, passes};

use crate::onnx_support::{classifier, everything, logits, mobile};

const F32: Options = Options { precision: Precision::F32, weights: StoredWeights::Float };
const F16: Options = Options { precision: Precision::F16, weights: StoredWeights::Float };
const INT8: Options = Options { precision: Precision::F16, weights: StoredWeights::Int8 };

fn written(model: &Model, options: Options) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.mlpackage");
    coreml::write(&path, model, options).unwrap();
    (folder, path)
}

fn files(path: &Path) -> [Vec<u8>; 3] {
    let names =
        ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"];
    names.map(|name| fs::read(path.join(name)).unwrap())
}

/// The largest difference relative to the largest logit.
fn difference(model: &Model, other: &Model) -> f64 {
    let size = model.metadata.preprocessing.size;
    let [a, b] = [model, other].map(|m| logits(m, &[2, 3, size, size]));
    offshoot_testing::difference(&b, &a)
}

#[test]
fn a_package_computes_what_the_model_does() {
    for model in [mobile(true), everything()] {
        for (options, bound) in [(F32, 1e-5), (F16, 2e-3), (INT8, 3e-2)] {
            let (_folder, path) = written(&model, options);
            let read = coreml::read(&path).unwrap();
            assert_eq!(read.metadata, model.metadata);
            let difference = difference(&model, &read);
            assert!(difference < bound, "{options:?}: {difference}");
            assert!(coreml::is_package(&path));
        }
    }
}

#[test]
fn every_operator_of_ours_has_a_place_in_the_program() {
    let (_folder, path) = written(&everything(), F32);
    let program = String::from_utf8_lossy(&files(&path)[1]).into_owned();
    for operator in [
        "conv",
        "batch_norm",
        "sigmoid",
        "mul",
        "add",
        "max_pool",
        "avg_pool",
        "relu",
        "minimum",
        "maximum",
        "reshape",
        "linear",
        "softmax",
        "classify",
    ] {
        assert!(program.contains(operator), "{operator}");
    }
}

#[test]
fn half_and_eight_bits_take_a_half_and_a_quarter() {
    let model = classifier("wide", 8, |g, x| {
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        let x = g.linear("hidden", x, 4096).unwrap();
        g.linear("fc", x, 64).unwrap()
    });
    let size = |options| {
        let (_folder, path) = written(&model, options);
        files(&path).iter().map(Vec::len).sum::<usize>() as f64
    };
    let [f32, f16, int8] = [F32, F16, INT8].map(size);
    assert!((0.49..0.52).contains(&(f16 / f32)), "{f16} of {f32}");
    assert!((0.25..0.32).contains(&(int8 / f32)), "{int8} of {f32}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    for options in [F32, F16, INT8] {
        let ((_a, a), (_b, b)) = (written(&everything(), options), written(&everything(), options));
        assert_eq!(files(&a), files(&b));
    }
}

#[test]
fn windows_that_rounding_up_adds_are_padding() {
    let pool = |count_include_pad| {
        let pool = Pool { kernel: [3, 3], strides: [2, 2], pads: [0; 4], ceil_mode: true };
        let op = Op::Pool(Pooling::Average(AveragePool { pool: pool.clone(), count_include_pad }));
        classifier("ceil", 8, |g, x| {
            let x = g.add("max", Op::Pool(Pooling::Max(pool)), &[x]).unwrap();
            let x = g.add("mean", op, &[x]).unwrap();
            let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
            g.linear("fc", x, 3).unwrap()
        })
    };
    let model = pool(false);
    let (_folder, path) = written(&model, F32);
    assert!(difference(&model, &coreml::read(&path).unwrap()) < 1e-6);
    let folder = tempfile::tempdir().unwrap();
    let message = coreml::write(&folder.path().join("m"), &pool(true), F32).unwrap_err().to_string();
    assert!(message.contains("node `mean` (AveragePool)") && message.contains("ceil_mode"), "{message}");
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let mut large = mobile(false);
    large.weights.insert("classifier.1.bias".into(), Tensor::f32([5], vec![0.0, 1e5, 0.0, 0.0, 0.0]));
    let mut twins = mobile(false);
    twins.metadata.classes = vec!["crane".into(); 5];
    let mut missing = mobile(false);
    missing.weights.remove("classifier.1.weight");
    for (model, words) in [
        (large, ["`classifier.1.bias`", "100000", "`precision` f32"]),
        (twins, ["`crane`", "two classes", "names"]),
        (missing, ["`classifier.1.weight`", "do not hold it", "Load"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let message = coreml::write(&folder.path().join("m"), &model, F16).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

/// Whatever happens to a package's bytes: an error or a model, no panic.
#[test]
fn damage_is_an_error() {
    let (_folder, path) = written(&mobile(false), INT8);
    let names =
        ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"];
    for name in names {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 2] {
            fs::write(&file, &whole[..cut]).unwrap();
            let message = coreml::read(&path).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("m.mlpackage"), "{message}");
        }
        for at in (0..whole.len()).step_by(whole.len() / 500 + 1) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&file, &bytes).unwrap();
            let _ = coreml::read(&path);
        }
        fs::remove_file(&file).unwrap();
        assert!(coreml::read(&path).is_err());
        fs::write(&file, &whole).unwrap();
    }
    passes::prune(&coreml::read(&path).unwrap().graph).unwrap();
}
