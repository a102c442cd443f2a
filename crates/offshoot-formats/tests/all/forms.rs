//! Operators that become several of ours compute what ONNX Runtime and PyTorch do (`scripts/golden/forms.py`), and so does what is
//! written of them.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use offshoot_formats::{onnx, torchscript};
use offshoot_graph::{Model, Op};
use offshoot_testing::difference;

use crate::onnx_support::{Golden, logits};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forms")
}

fn table() -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(folder().join("logits.json")).unwrap()).unwrap()
}

fn read(name: &str) -> Result<Model, String> {
    let path = folder().join(name);
    match name.ends_with(".pt") {
        true => torchscript::read(&path, None).map(|read| read.model).map_err(|e| e.to_string()),
        false => onnx::read(&path).map(|read| read.model).map_err(|e| e.to_string()),
    }
}

/// What PyTorch's files end in is left out: the probabilities or their logarithms of logits.
fn ended(name: &str, logits: &mut [f32], classes: usize) {
    let logarithm = match name {
        "end_float.pt" | "end_exp_of_log.pt" => false,
        "end_log_sum_exp.pt" | "end_log_softmax_squeezed.pt" => true,
        _ => return,
    };
    for row in logits.chunks_exact_mut(classes) {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut().for_each(|x| *x = if logarithm { *x - sum.ln() } else { x.exp() / sum });
    }
}

/// Compares each file with its golden numbers, after `again` made another model of it; all that differ are named at once.
fn compare(ending: &str, again: impl Fn(&Model) -> Result<Model, String>) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, golden) in table().into_iter().filter(|(name, _)| name.ends_with(ending)) {
        count += 1;
        match read(&name).and_then(|model| again(&model)) {
            Ok(model) => {
                let mut found = logits(&model, &golden.shape);
                ended(&name, &mut found, 3);
                let difference = difference(&found, &golden.logits);
                if difference.is_nan() || difference > 5e-6 {
                    wrong.push(format!("{name}: differs by {difference}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(count > 20, "{count} files that end in {ending}");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn onnx_files_compute_what_onnx_runtime_does() {
    compare(".onnx", |model| Ok(model.clone()));
}

#[test]
fn torchscript_files_compute_what_pytorch_does() {
    compare(".pt", |model| Ok(model.clone()));
}

#[test]
fn what_is_written_as_onnx_computes_the_same() {
    for ending in [".onnx", ".pt"] {
        compare(ending, |model| {
            let bytes = onnx::write_bytes(model, onnx::Options::default()).map_err(|e| e.to_string())?;
            let again = onnx::read_bytes(bytes.as_slice()).map_err(|e| format!("read again: {e}"))?.model;
            let twice = onnx::write_bytes(&again, onnx::Options::default()).map_err(|e| e.to_string())?;
            // Constants that TorchScript's code computes with are computed when ONNX is read.
            if twice == bytes || ending == ".pt" {
                Ok(again)
            } else {
                Err(format!("written otherwise: {} and {}", operators(model), operators(&again)))
            }
        });
    }
}

#[test]
fn what_is_written_as_torchscript_computes_the_same() {
    for ending in [".onnx", ".pt"] {
        compare(ending, |model| {
            let written = |model: &Model| {
                let mut bytes = Cursor::new(Vec::new());
                let written = torchscript::write_to(&mut bytes, model, torchscript::Options::default());
                written.map(|()| bytes.into_inner()).map_err(|e| e.to_string())
            };
            let bytes = written(model)?;
            let again = torchscript::read_bytes(&bytes, None).map_err(|e| format!("read again: {e}"))?.model;
            if written(&again)? == bytes {
                Ok(again)
            } else {
                Err(format!("written otherwise: {} and {}", operators(model), operators(&again)))
            }
        });
    }
}

/// The operators of a model, in order.
fn operators(model: &Model) -> String {
    let names = model.graph.nodes().iter().map(|n| n.op.name());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_spelled_out_is_one_operator_again() {
    assert_eq!(operators(&read("softplus.onnx").unwrap()), "Conv Softplus Flatten Gemm");
    assert_eq!(operators(&read("log_softmax_then_exp.onnx").unwrap()).matches("Softmax").count(), 1);
    for name in ["end_float.pt", "end_log_sum_exp.pt", "end_exp_of_log.pt", "end_tuple.pt"] {
        assert_eq!(operators(&read(name).unwrap()), "Conv Flatten Gemm", "{name}");
    }
}

#[test]
fn padding_is_that_of_the_windows_where_it_can_be() {
    let alone =
        |name: &str| !read(name).unwrap().graph.nodes().iter().any(|n| matches!(n.op, Op::Concat { .. }));
    assert!(alone("pad_with_a_number_before_max.onnx") && alone("pad_read_twice.onnx"));
    for name in ["pad_before_max", "pad_before_a_wide_max", "pad_before_mean", "pad_with_one_before_conv"] {
        assert!(!alone(&format!("{name}.onnx")), "{name}");
    }
}
