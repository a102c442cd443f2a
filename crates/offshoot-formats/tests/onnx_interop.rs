//! ONNX's own checker and ONNX Runtime on what we write. Needs the Python peers.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod onnx_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot_formats::onnx::{self, Options};
use offshoot_graph::Model;
use offshoot_graph::passes::{fold_batch_norm, freeze};

use onnx_support::{everything, golden, mobile};

/// Runs scripts/check_onnx.py over `files`.
fn check(files: &[String]) {
    let home = std::env::var("HOME").unwrap_or_default();
    let peers = std::env::var("OFFSHOOT_PEERS")
        .map_or(PathBuf::from(home).join(".cache/offshoot/peers"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check_onnx.py");
    let output = Command::new(peers.join("bin/python")).arg(script).args(files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
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
    for opset in [13, 17, 20, 21] {
        write(&format!("everything{opset}.onnx"), &everything(), opset);
    }
    write("mobile.onnx", &mobile(true), 17);
    let mut folded = mobile(false);
    freeze(&mut folded.graph, |_| true);
    (folded.graph, folded.weights) = fold_batch_norm(&folded.graph, &folded.weights).unwrap();
    write("folded.onnx", &folded, 17);
    let reference = format!("{}={}", files[5], files[4]);
    files.push(reference);
    check(&files);
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn a_foreign_file_written_again_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(golden("")).unwrap() {
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
