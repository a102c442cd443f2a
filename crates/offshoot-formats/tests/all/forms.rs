//! Operators that become several of ours compute what ONNX Runtime and PyTorch do (`scripts/golden/forms.py`), and so does what is
//! written of them.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use offshoot_formats::{coreml, onnx, pt2, torchscript};
use offshoot_graph::{Model, Op};
use offshoot_testing::difference;

use crate::onnx_support::{Golden, check_with, logits};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/forms")
}

fn table() -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(folder().join("logits.json")).unwrap()).unwrap()
}

fn read(name: &str) -> Result<Model, String> {
    let path = folder().join(name);
    match name.ends_with(".pt") {
        // What was scripted says no size.
        true => torchscript::read(&path, Some(6)).map(|read| read.model).map_err(|e| e.to_string()),
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
            let bytes = as_script(model)?;
            let again = torchscript::read_bytes(&bytes, None).map_err(|e| format!("read again: {e}"))?.model;
            if as_script(&again)? == bytes || was_expanded(model, &again) {
                Ok(again)
            } else {
                Err(format!("written otherwise: {} and {}", operators(model), operators(&again)))
            }
        });
    }
}

#[test]
fn what_is_written_as_pt2_computes_the_same() {
    for ending in [".onnx", ".pt"] {
        compare(ending, |model| {
            let bytes = as_program(model)?;
            let again = pt2::read_bytes(&bytes, None).map_err(|e| format!("read again: {e}"))?.model;
            // LSTMs are written step by step.
            let unrolled = operators(model).contains("LSTM");
            if as_program(&again)? == bytes || was_expanded(model, &again) || unrolled {
                Ok(again)
            } else {
                Err(format!("written otherwise: {} and {}", operators(model), operators(&again)))
            }
        });
    }
}

fn as_program(model: &Model) -> Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    pt2::write_to(&mut bytes, model).map(|()| bytes.into_inner()).map_err(|e| e.to_string())
}

fn as_script(model: &Model) -> Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    let written = torchscript::write_to(&mut bytes, model, torchscript::Options::default());
    written.map(|()| bytes.into_inner()).map_err(|e| e.to_string())
}

/// Whether a file has no name for an operator that others define.
fn was_expanded(model: &Model, again: &Model) -> bool {
    let composite =
        |model: &Model| model.graph.nodes().iter().filter(|n| matches!(n.op, Op::Composite(_))).count();
    composite(again) < composite(model)
}

#[test]
fn recurrent_operators_are_read_as_they_were_written() {
    let mut count = 0;
    for (name, _) in table() {
        let model = read(&name).unwrap();
        let found = operators(&model);
        if !found.split(' ').any(|op| op == "GRU" || op == "LSTM") || name.contains("before") {
            continue;
        }
        count += 1;
        let bytes = as_script(&model).unwrap();
        let again = torchscript::read_bytes(&bytes, None).unwrap().model;
        assert_eq!(operators(&again), found, "{name}");
        assert_eq!(again.weights, model.weights, "{name}");
        assert!(as_script(&again).unwrap() == bytes, "{name}");
    }
    assert!(count > 20, "{count} files with recurrent operators");
}

/// The operators of a model, in order.
fn operators(model: &Model) -> String {
    let names = model.graph.nodes().iter().map(|n| n.op.name());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_spelled_out_is_one_operator_again() {
    assert_eq!(operators(&read("softplus.onnx").unwrap()), "Conv Softplus Flatten Gemm");
    assert_eq!(operators(&read("log_softmax_then_exp.onnx").unwrap()).matches(" Softmax").count(), 1);
    for name in ["end_float.pt", "end_log_sum_exp.pt", "end_exp_of_log.pt", "end_tuple.pt"] {
        assert_eq!(operators(&read(name).unwrap()), "Conv Flatten Gemm", "{name}");
    }
}

#[test]
fn padding_is_that_of_the_windows_where_it_can_be() {
    let alone = |name: &str| !read(name).unwrap().graph.nodes().iter().any(|n| n.op.name() == "Pad");
    assert!(alone("pad_with_a_number_before_max.onnx") && alone("pad_read_twice.onnx"));
    for name in ["pad_before_max", "pad_before_a_wide_max", "pad_before_mean", "pad_with_one_before_conv"] {
        assert!(!alone(&format!("{name}.onnx")), "{name}");
    }
}

#[test]
fn operators_that_others_define_are_written_under_their_names() {
    for (name, operators_of) in [
        ("log_softmax.onnx", ["LogSoftmax"; 2]),
        ("instance_norm.onnx", ["InstanceNormalization"; 2]),
        ("group_norm.pt", ["Sqrt", "GroupNormalization"]),
        ("split.onnx", ["Split"; 2]),
        ("pad_channels.onnx", ["Pad"; 2]),
        ("pad_reflect.onnx", ["Pad"; 2]),
        ("pad_edge.onnx", ["Pad", "Expand"]),
        ("resize_nearest.onnx", ["Resize", "Gemm"]),
        ("resize_by_scales.onnx", ["Resize"; 2]),
        ("resize_linear.onnx", ["Resize"; 2]),
        ("resize_cubic.pt", ["Resize"; 2]),
        ("upsample_opset9.onnx", ["Gemm"; 2]),
        ("gru_forward_before17.onnx", ["GRU", "Tanh"]),
        ("gru_reverse_after13.onnx", ["GRU"; 2]),
        ("gru_bidirectional_before17.onnx", ["GRU", "Tanh"]),
        ("gru_bidirectional_after9.onnx", ["GRU"; 2]),
        ("gru.pt", ["GRU"; 2]),
        ("gru_of_layers.pt", ["GRU"; 2]),
        ("gru_reset.pt", ["GRU"; 2]),
        ("resize_nearest_ceil.onnx", ["Resize"; 2]),
        ("resize_nearest_ceil_fractions.onnx", ["Gemm"; 2]),
        ("resize_nearest_exact.pt", ["Gemm"; 2]),
        ("resize_nearest_exact_by_two.pt", ["Resize"; 2]),
    ] {
        let model = read(name).unwrap();
        let bytes = onnx::write_bytes(&model, onnx::Options::default()).unwrap();
        let mut script = Cursor::new(Vec::new());
        torchscript::write_to(&mut script, &model, torchscript::Options::default()).unwrap();
        let again = [
            onnx::read_bytes(bytes.as_slice()).unwrap().model,
            torchscript::read_bytes(&script.into_inner(), None).unwrap().model,
        ];
        for (again, wanted) in again.iter().zip(operators_of) {
            let found = operators(again);
            assert!(found.split(' ').any(|op| op == wanted), "{name}: {found}");
        }
    }
}

#[test]
fn what_is_written_as_core_ml_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.mlpackage");
    let options = coreml::Options { precision: coreml::Precision::F32, ..coreml::Options::default() };
    let mut wrong = Vec::new();
    // Padding under ceil_mode is not written.
    for (name, golden) in table().into_iter().filter(|(name, _)| !name.starts_with("pools_after")) {
        let model = read(&name).unwrap();
        let written = coreml::write(&path, &model, options).map_err(|e| e.to_string());
        match written.and_then(|()| coreml::read(&path).map_err(|e| e.to_string())) {
            Ok(again) => {
                let off = difference(&logits(&again, &golden.shape), &logits(&model, &golden.shape));
                if off.is_nan() || off > 5e-6 {
                    wrong.push(format!("{name}: differs by {off}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Writes each model with `write`, and what it computes beside it: the arguments of a script.
fn written(
    folder: &Path,
    extension: &str,
    table: BTreeMap<String, Golden>,
    write: impl Fn(&Path, &Model),
) -> Vec<String> {
    let file = |(name, golden): (String, Golden)| {
        let model = read(&name).unwrap();
        let path = folder.join(format!("{name}.{extension}"));
        write(&path, &model);
        let beside = folder.join(format!("{name}.{extension}.json"));
        let numbers = serde_json::json!({"shape": golden.shape, "logits": logits(&model, &golden.shape)});
        std::fs::write(&beside, numbers.to_string()).unwrap();
        format!("{}={}", path.display(), beside.display())
    };
    table.into_iter().map(file).collect()
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS)"]
fn onnx_runtime_computes_what_is_written() {
    for opset in [17, 21] {
        let folder = tempfile::tempdir().unwrap();
        let options = onnx::Options { opset, ..onnx::Options::default() };
        let files = written(folder.path(), "onnx", table(), |path, model| {
            onnx::write(path, model, options).unwrap();
        });
        check_with("check_onnx.py", &files);
    }
}

#[test]
#[ignore = "needs the Python peers (OFFSHOOT_PEERS)"]
fn pytorch_computes_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path(), "pt", table(), |path, model| {
        torchscript::write(path, model, torchscript::Options::default()).unwrap();
    });
    check_with("check_torchscript.py", &files);
    let files = written(folder.path(), "pt2", table(), |path, model| pt2::write(path, model).unwrap());
    check_with("check_pt2.py", &files);
}

#[test]
#[ignore = "needs the Python peers with coremltools (OFFSHOOT_PEERS)"]
fn coremltools_and_pytorch_compute_what_is_written_as_core_ml() {
    let folder = tempfile::tempdir().unwrap();
    let mut chosen = table();
    let starts = ["where", "logic", "gru", "lstm"];
    chosen.retain(|name, _| starts.iter().any(|start| name.starts_with(start)));
    chosen.values_mut().for_each(|golden| golden.shape[0] = 1);
    let options = coreml::Options { precision: coreml::Precision::F32, ..coreml::Options::default() };
    let files = written(folder.path(), "mlpackage", chosen, |path, model| {
        coreml::write(path, model, options).unwrap();
    });
    assert!(files.len() >= 20, "{} files", files.len());
    check_with("check_coreml.py", &files);
}

/// Of any file, also one that others wrote: what the fuzz targets `onnx` and `torchscript` assert, on their seeds.
#[test]
fn what_is_written_is_the_same_bytes_when_it_is_written_again() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (mut wrong, mut count) = (Vec::new(), 0);
    let as_onnx = |model: &Model| onnx::write_bytes(model, onnx::Options::default()).ok();
    for folder in ["onnx", "onnx_forms", "forms", "torchscript"] {
        for entry in std::fs::read_dir(golden.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let options = onnx::ReadOptions { size: Some(32), any_input: false };
            let pair = if let Ok(read) = onnx::read_with(&path, options) {
                as_onnx(&read.model).map(|first| {
                    let again = onnx::read_bytes(first.as_slice()).unwrap().model;
                    (as_onnx(&again), first)
                })
            } else if let Ok(read) =
                torchscript::read(&path, None).or_else(|_| torchscript::read(&path, Some(6)))
            {
                let again = |bytes: &[u8]| torchscript::read_bytes(bytes, None).unwrap().model;
                as_script(&read.model).ok().map(|first| {
                    let model = again(&first);
                    let second = as_script(&model).unwrap();
                    // What PyTorch has no name for is what it consists of in the first: the second is written again then.
                    match was_expanded(&read.model, &model) {
                        true => (as_script(&again(&second)).ok(), second),
                        false => (Some(second), first),
                    }
                })
            } else {
                None
            };
            if let Some((again, first)) = pair {
                count += 1;
                if again.as_ref() != Some(&first) {
                    wrong.push(path);
                }
            }
        }
    }
    assert!(count > 80, "{count} files were written");
    assert_eq!(wrong, Vec::<PathBuf>::new());
}
