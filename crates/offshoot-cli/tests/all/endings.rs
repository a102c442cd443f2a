//! Files that end in a softmax, a sigmoid, or what looks like one, against ONNX Runtime and PyTorch: the probabilities are the
//! file's, whichever way they go through.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use offshoot::{CoreMlOptions, CpuOptions, Device, Form, Inputs, Model, ModelSource, Proof, TensorRtOptions};
use offshoot_graph::Task;
use offshoot_graph::Tensor;
use offshoot_train::Inference;
use offshoot_train::metrics::Activation;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    size: usize,
    pictures: Vec<f32>,
    probabilities: BTreeMap<String, Vec<Vec<f64>>>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/endings").join(name)
}

fn expected() -> Golden {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn executor() -> Device {
    Device::cpu(CpuOptions::default()).unwrap()
}

fn load(path: &Path) -> (Model, Vec<String>) {
    let loaded = ModelSource::Path(path.to_owned()).load(&Default::default()).unwrap();
    (loaded.model, loaded.warnings)
}

/// The probabilities that `predict` shows of each golden picture.
fn answers(model: &Model, golden: &Golden) -> Vec<Vec<f64>> {
    let pictures = Tensor::f32([3, 3, golden.size, golden.size], golden.pictures.clone());
    let mut network = Inference::new(model, &executor()).unwrap();
    let rows = network.run(&pictures).unwrap().into_f32().unwrap();
    let as_they_are = network.gives_probabilities();
    rows.chunks_exact(rows.len() / 3)
        .map(|row| Activation::new(as_they_are, Task::Single).probabilities(row))
        .collect()
}

/// The largest difference; NaN counts as one.
fn difference(found: &[Vec<f64>], wanted: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let mut most = 0.0f64;
    for (a, b) in found.iter().zip(wanted) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            most = if (a - b).abs() <= most { most } else { (a - b).abs() };
        }
    }
    if most.is_nan() { f64::INFINITY } else { most }
}

#[test]
fn the_probabilities_are_those_of_the_file() {
    let golden = expected();
    for (name, wanted) in &golden.probabilities {
        let (model, warnings) = load(&self::golden(name));
        let found = difference(&answers(&model, &golden), wanted);
        assert!(found < 2e-6, "{name}: {found:e} from the right probabilities");
        let said = warnings.iter().any(|w| w.contains("softmax") || w.contains("Softmax"));
        assert_eq!(said, !name.starts_with("logits"), "{name}: {warnings:?}");
    }
}

#[test]
fn every_export_keeps_them() {
    let golden = expected();
    let executor = executor();
    let folder = tempfile::tempdir().unwrap();
    for (name, wanted) in &golden.probabilities {
        let (model, _) = load(&self::golden(name));
        let inputs = Inputs::built_in(&model.metadata.preprocessing).unwrap();
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: None, float: None };
        let at = |ending: &str| folder.path().join(format!("{name}{ending}"));
        let f32_package = CoreMlOptions { precision: offshoot::Precision::F32, ..Default::default() };
        let mut files = vec![
            offshoot::export_onnx(&model, &at(".onnx"), Default::default(), proof).unwrap().path,
            offshoot::export_triton(&model, &at("-triton"), "m", 4, proof).unwrap().path,
            offshoot::export_tensorrt(&model, &at("-trt"), &TensorRtOptions::default(), proof)
                .unwrap()
                .file
                .path,
        ];
        // What these two formats lack is an error that names the operator, and no other answer.
        for made in [
            offshoot::export_torchscript(&model, &at(".pt"), Form::Traced, proof),
            offshoot::export_torchscript(&model, &at("-s.pt"), Form::Scripted, proof),
            offshoot::export_coreml(&model, &at(".mlpackage"), f32_package, proof),
        ] {
            match made {
                Ok(made) => files.push(made.path),
                Err(error) => {
                    assert!(name.starts_with("tanh") && error.to_string().contains("Tanh"), "{name}: {error}")
                }
            }
        }
        for file in files {
            let found = difference(&answers(&load(&file).0, &golden), wanted);
            assert!(found < 1e-5, "{}: {found:e} from the right probabilities", file.display());
        }
    }
}

/// In the package and in the scripted file probabilities have a place of their own, which must not get a second softmax.
#[test]
fn what_gives_labels_gives_the_same_probabilities() {
    let executor = executor();
    let folder = tempfile::tempdir().unwrap();
    for (name, softmaxes) in
        [("logits.onnx", 1), ("softmax_reshape.onnx", 1), ("sigmoid.onnx", 0), ("softmax_twice.onnx", 2)]
    {
        let (model, _) = load(&golden(name));
        let inputs = Inputs::built_in(&model.metadata.preprocessing).unwrap();
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: None, float: None };
        let package = folder.path().join(format!("{name}.mlpackage"));
        offshoot::export_coreml(&model, &package, CoreMlOptions::default(), proof).unwrap();
        let program = std::fs::read(package.join("Data/com.apple.CoreML/model.mlmodel")).unwrap();
        let operators = program.windows(9).filter(|bytes| bytes == b"\x0a\x07softmax").count();
        assert_eq!(operators, softmaxes, "{name}");
        let script = folder.path().join(format!("{name}.pt"));
        offshoot::export_torchscript(&model, &script, Form::Scripted, proof).unwrap();
        let code = std::fs::read(&script).unwrap();
        let calls = code.windows(14).filter(|bytes| bytes == b"torch.softmax(").count();
        assert_eq!(calls, softmaxes, "{name}");
    }
}
