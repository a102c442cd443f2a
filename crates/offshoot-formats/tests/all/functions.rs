//! Every function of one element, of two, and every reduction, in every format: what is written is read back and computes
//! the same.

use std::collections::BTreeMap;
use std::path::Path;

use offshoot_formats::{coreml, onnx, pt2, torchscript};
use offshoot_graph::Model;
use offshoot_testing::difference;

use crate::onnx_support::{Golden, check_with, functions, logits};

const SHAPE: [usize; 4] = [2, 3, 8, 8];

/// Compares each function's model with what `again` makes of it, at a shape; all that differ are named at once.
fn compare(shape: &[usize], again: impl Fn(&Model) -> Result<Model, String>) {
    let mut wrong = Vec::new();
    for (name, model) in functions() {
        match again(&model) {
            Ok(read) => {
                let difference = difference(&logits(&read, shape), &logits(&model, shape));
                if difference.is_nan() || difference > 2e-6 {
                    wrong.push(format!("{name}: differs by {difference}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_function_goes_through_onnx() {
    for opset in [13, 14, 17, 18, 20, 21] {
        let options = onnx::Options { opset, ..onnx::Options::default() };
        compare(&SHAPE, |model| {
            let bytes = onnx::write_bytes(model, options).map_err(|e| e.to_string())?;
            Ok(onnx::read_bytes(bytes).map_err(|e| format!("opset {opset}: {e}"))?.model)
        });
    }
}

#[test]
fn every_function_goes_through_torchscript() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    compare(&SHAPE, |model| {
        torchscript::write(&path, model, torchscript::Options::default()).map_err(|e| e.to_string())?;
        Ok(torchscript::read(&path, None).map_err(|e| e.to_string())?.model)
    });
}

#[test]
fn every_function_goes_through_pt2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt2");
    compare(&SHAPE, |model| {
        pt2::write(&path, model).map_err(|e| e.to_string())?;
        Ok(pt2::read(&path, None).map_err(|e| e.to_string())?.model)
    });
}

#[test]
fn every_function_goes_through_core_ml() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.mlpackage");
    let options = coreml::Options { precision: coreml::Precision::F32, ..coreml::Options::default() };
    compare(&[1, 3, 8, 8], |model| {
        coreml::write(&path, model, options).map_err(|e| e.to_string())?;
        coreml::read(&path).map_err(|e| e.to_string())
    });
}

#[test]
fn files_of_pytorch_with_every_function_compute_what_it_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/functions");
    let table = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let table: BTreeMap<String, Golden> = serde_json::from_str(&table).unwrap();
    assert_eq!(table.len(), 3);
    for (name, golden) in table {
        let path = folder.join(&name);
        let model = match name.ends_with(".pt") {
            true => torchscript::read(&path, Some(6)).unwrap().model,
            false => onnx::read(&path).unwrap().model,
        };
        let difference = difference(&logits(&model, &golden.shape), &golden.logits);
        assert!(difference < 2e-6, "{name}: {difference}");
    }
}

/// Writes each function's model with `write`, and what it computes beside it: the arguments of a script.
fn written(folder: &Path, extension: &str, write: impl Fn(&Path, &Model)) -> Vec<String> {
    let file = |(name, model): (String, Model)| {
        let path = folder.join(format!("{name}.{extension}"));
        write(&path, &model);
        let beside = folder.join(format!("{name}.{extension}.json"));
        let golden = serde_json::json!({"shape": SHAPE, "logits": logits(&model, &SHAPE)});
        std::fs::write(&beside, golden.to_string()).unwrap();
        format!("{}={}", path.display(), beside.display())
    };
    functions().into_iter().map(file).collect()
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_computes_every_function_alike() {
    for opset in [13, 17, 18, 20] {
        let folder = tempfile::tempdir().unwrap();
        let options = onnx::Options { opset, ..onnx::Options::default() };
        let files = written(folder.path(), "onnx", |path, model| onnx::write(path, model, options).unwrap());
        check_with("check_onnx.py", &files);
    }
}

#[test]
#[ignore = "needs the Python peers (OFFSHOOT_PEERS)"]
fn pytorch_computes_every_function_alike() {
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path(), "pt", |path, model| {
        torchscript::write(path, model, torchscript::Options::default()).unwrap();
    });
    check_with("check_torchscript.py", &files);
    let files = written(folder.path(), "pt2", |path, model| pt2::write(path, model).unwrap());
    check_with("check_pt2.py", &files);
}
