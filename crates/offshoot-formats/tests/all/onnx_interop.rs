//! ONNX's own checker and ONNX Runtime on what we write. Needs the Python peers.

use offshoot_formats::onnx::{self, Options};
use offshoot_graph::op::{Pooling, ShapeOp};
use offshoot_graph::passes::{fold_batch_norm, freeze};
use offshoot_graph::{Model, Op};

use crate::onnx_support::{check_with, classifier, everything, golden, logits, mobile};

/// Runs scripts/check_onnx.py over `files`.
fn check(files: &[String]) {
    check_with("check_onnx.py", files);
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn what_we_write_passes_the_checker_and_runs_in_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let mut write = |name: &str, model: &Model, opset| {
        let path = folder.path().join(name);
        onnx::write(&path, model, Options { opset, ..Options::default() }).unwrap();
        files.push(path.display().to_string());
    };
    for opset in 13..=21 {
        write(&format!("everything{opset}.onnx"), &everything(), opset);
    }
    write("mobile.onnx", &mobile(true), 17);
    let mut folded = mobile(false);
    freeze(&mut folded.graph, |_| true);
    (folded.graph, folded.weights) = fold_batch_norm(&folded.graph, &folded.weights).unwrap();
    write("folded.onnx", &folded, 17);
    let reference = format!("{}={}", files[10], files[9]);
    files.push(reference);
    check(&files);
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn a_foreign_file_written_again_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let folders = [golden(""), golden("../onnx_qdq")];
    for entry in folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            let ours = folder.path().join(path.file_name().unwrap());
            onnx::write(&ours, &onnx::read(&path).unwrap().model, Options::default()).unwrap();
            files.push(format!("{}={}", ours.display(), path.display()));
        }
    }
    assert!(files.len() > 10);
    check(&files);
}

/// Writes `model` with its weights beside it, reads it again, and lets ONNX Runtime compute what we do.
fn check_beside(model: &Model, options: Options) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&path, model, options).unwrap();
    assert!(folder.path().join("model.onnx.data").exists());
    let read = onnx::read(&path).unwrap().model;
    assert!(read.graph == model.graph && read.weights == model.weights);
    drop(read);
    let size = model.metadata.preprocessing.size;
    let shape = [2, 3, size, size];
    let golden = serde_json::json!({"shape": shape, "logits": logits(model, &shape)});
    let logits = folder.path().join("logits.json");
    std::fs::write(&logits, golden.to_string()).unwrap();
    check(&[format!("{}={}", path.display(), logits.display())]);
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn weights_beside_a_file_are_found_by_onnx_runtime() {
    for model in [everything(), mobile(false)] {
        check_beside(&model, Options { in_one_file: 0, ..Options::default() });
    }
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS), 12 GB of memory and 3 GB of disk"]
fn a_model_of_more_than_two_gigabytes() {
    let wide = 17_000;
    let model = classifier("wide", 8, |g, x| {
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        let x = g.linear("fc.0", x, wide).unwrap();
        let x = g.linear("fc.1", x, wide).unwrap();
        let x = g.linear("fc.2", x, wide).unwrap();
        g.linear("fc.3", x, 4).unwrap()
    });
    assert!(model.weights.values().map(|t| 4 * t.len() as u64).sum::<u64>() > 1 << 31);
    let message = onnx::write_bytes(&model, Options::default()).unwrap_err().to_string();
    assert!(message.contains("limit of 2147483647"), "{message}");
    check_beside(&model, Options::default());
}
