//! Programs that `torch.export` wrote are read and compute what they did in PyTorch, and what we write is read again.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use offshoot_formats::checkpoint::load_weights;
use offshoot_formats::pt2::{self, METADATA_FILE};
use offshoot_graph::{Model, Role};
use offshoot_testing::difference;

use crate::onnx_support::{Golden, check_with, logits, mobile};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pt2").join(name)
}

fn table(folder: &Path) -> BTreeMap<String, Golden> {
    serde_json::from_str(&std::fs::read_to_string(folder.join("logits.json")).unwrap()).unwrap()
}

fn read(name: &str) -> Model {
    pt2::read(&golden(name), None).unwrap().model
}

pub(crate) fn written(model: &Model) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    pt2::write_to(&mut bytes, model).unwrap();
    bytes.into_inner()
}

fn operators(model: &Model) -> String {
    let names: Vec<&str> = model.graph.nodes().iter().map(|n| n.op.name()).collect();
    names.join(" ")
}

/// Compares what each file of `folder` computes with its `logits.json`; all that differ are named at once.
fn compare(folder: &Path, most: f64) -> usize {
    let mut wrong = Vec::new();
    let table = table(folder);
    for (name, golden) in &table {
        match pt2::read(&folder.join(name), None) {
            Ok(file) => {
                let mut found = logits(&file.model, &golden.shape);
                if name.starts_with("attention") {
                    softmax(&mut found, 4);
                }
                let largest = golden.logits.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let difference = difference(&found, &golden.logits) / f64::from(largest);
                if difference.is_nan() || difference > most {
                    wrong.push(format!("{name}: differs by {difference} of the largest logit"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    table.len()
}

/// What those files end in, which is left out.
fn softmax(logits: &mut [f32], classes: usize) {
    for row in logits.chunks_exact_mut(classes) {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        row.iter_mut().for_each(|x| *x = x.exp() / sum);
    }
}

#[test]
fn logits_are_those_of_pytorch() {
    assert_eq!(compare(&golden(""), 1e-5), 9);
}

#[test]
fn a_model_is_read_with_its_names_norms_and_dropout() {
    let block = "Conv BatchNormalization Relu Conv BatchNormalization Add Relu";
    let head = "GlobalAveragePool Flatten Dropout Gemm";
    let wanted = format!("Conv BatchNormalization Clip MaxPool {block} {block} {head}");
    for name in ["tiny_dynamic.pt2", "tiny_static.pt2"] {
        let model = read(name);
        assert_eq!(operators(&model), wanted, "{name}");
        let graph = &model.graph;
        let norm = graph.nodes().iter().find(|node| node.name == "blocks.1.bn2").unwrap();
        let names = ["weight", "bias", "running_mean", "running_var"].map(|n| format!("blocks.1.bn2.{n}"));
        let keys: Vec<&str> = norm.inputs[1..].iter().map(|&id| graph.value(id).name.as_str()).collect();
        assert_eq!(keys, names);
        let roles: Vec<Role> =
            norm.inputs[1..].iter().map(|&id| graph.parameter_info(id).unwrap().role).collect();
        assert_eq!(roles, [Role::Weight, Role::Weight, Role::Buffer, Role::Buffer]);
    }
    assert_eq!(read("tiny_decomposed.pt2").weights, read("tiny_dynamic.pt2").weights);
    // A program for one picture takes any number of them.
    assert_eq!(
        logits(&read("attention_static.pt2"), &[2, 3, 16, 16]).len(),
        logits(&read("attention_dynamic.pt2"), &[2, 3, 16, 16]).len()
    );
}

#[test]
fn half_floats_become_floats() {
    let file = pt2::read(&golden("half.pt2"), None).unwrap();
    assert!(file.warnings.iter().any(|w| w.contains("float32")), "{:?}", file.warnings);
    assert!(file.model.weights.values().all(|tensor| tensor.as_f32().is_some()));
}

#[test]
fn a_model_in_training_mode_is_refused() {
    let message = pt2::read(&golden("training.pt2"), None).unwrap_err().to_string();
    assert!(message.contains("training mode") && message.contains("model.eval()"), "{message}");
}

#[test]
fn weights_are_found_in_an_archive() {
    let loaded = load_weights(&golden("tiny_dynamic.pt2")).unwrap();
    assert_eq!(loaded.format.to_string(), "PyTorch .pt2");
    let model = read("tiny_dynamic.pt2");
    for (name, tensor) in &model.weights {
        assert_eq!(&loaded.weights[name], tensor, "{name}");
    }
    // The counters of batches are the rest.
    assert_eq!(loaded.weights.len(), model.weights.len() + 5);
    assert!(pt2::is_pt2(std::fs::File::open(golden("tiny_dynamic.pt2")).unwrap()));
    assert!(!pt2::is_pt2(std::fs::File::open(golden("../torchscript/tiny_trace.pt")).unwrap()));
}

#[test]
fn what_is_written_is_read_again() {
    let files = table(&golden(""));
    let models = files.keys().map(|name| (name.as_str(), read(name))).chain([("mobile", mobile(true))]);
    for (name, model) in models {
        let size = model.metadata.preprocessing.size;
        let before = logits(&model, &[2, 3, size, size]);
        let bytes = written(&model);
        let again = pt2::read_bytes(&bytes, None).unwrap();
        assert!(!again.assumed_preprocessing && again.warnings.is_empty(), "{:?}", again.warnings);
        assert_eq!(again.model.metadata, model.metadata);
        let difference = difference(&logits(&again.model, &[2, 3, size, size]), &before);
        assert!(difference <= 1e-6, "{difference}");
        assert_eq!(again.model.weights.keys().collect::<Vec<_>>(), model.weights.keys().collect::<Vec<_>>());
        // A comparison that is spelled out is written in fewer operators the second time.
        let second = written(&again.model);
        assert!(second == bytes || name == "mixed_decomposed.pt2", "{name}: {}", operators(&again.model));
        assert!(written(&pt2::read_bytes(&second, None).unwrap().model) == second, "{name}");
    }
}

#[test]
fn what_is_written_holds_no_pickle_no_traces_and_no_paths() {
    let bytes = written(&mobile(true));
    let mut zip = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut names = Vec::new();
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).unwrap();
        assert_eq!(file.compression(), zip::CompressionMethod::Stored);
        assert_eq!(file.data_start().unwrap() % 64, 0, "{:?}", file.name());
        let name = file.name().unwrap().into_owned();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        if name.ends_with(".pt") {
            assert!(content.is_empty(), "{name}");
        }
        if name.ends_with(".json") {
            let text = String::from_utf8(content).unwrap();
            assert!(
                !text.contains("stack_trace") && !text.contains("/home") && !text.contains("\"/"),
                "{name}"
            );
        }
        names.push(name.strip_prefix("model/").unwrap().to_owned());
    }
    assert!(names.iter().any(|name| *name == format!("extra/{METADATA_FILE}")), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".pkl") || name.ends_with(".pt")).count(), 1);
}

#[test]
fn keys_survive_and_counters_are_added() {
    let model = mobile(true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mobile.pt2");
    pt2::write(&path, &model).unwrap();
    let mut loaded = load_weights(&path).unwrap().weights;
    let counters = loaded.len() - model.weights.len();
    loaded.retain(|name, _| !name.ends_with("num_batches_tracked"));
    assert_eq!((loaded, counters), (model.weights, 4));
}

#[test]
fn what_pytorch_cannot_say_is_not_written() {
    let refusal = |model: &Model| pt2::write_to(&mut Cursor::new(Vec::new()), model).unwrap_err().to_string();
    let message = refusal(&crate::onnx_support::everything());
    assert!(
        message.contains("node `maxpool` (MaxPool)") && message.contains("both sides alike"),
        "{message}"
    );
    let mut lacking = mobile(true);
    lacking.weights.remove("classifier.1.bias");
    assert!(refusal(&lacking).contains("parameter `classifier.1.bias`"));
}

#[test]
#[ignore = "needs the Python peers (OFFSHOOT_PEERS)"]
fn programs_of_torchvision_are_read_as_pytorch_computes_them() {
    let held = tempfile::tempdir().unwrap();
    let folder = match std::env::var("OFFSHOOT_PT2") {
        Ok(made) => PathBuf::from(made),
        Err(_) => {
            check_with("export_pt2.py", &[held.path()]);
            held.path().to_owned()
        }
    };
    assert!(compare(&folder, 1e-4) > 20);
}

#[test]
#[ignore = "needs the Python peers (OFFSHOOT_PEERS)"]
fn pytorch_computes_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let names = table(&golden(""));
    let models =
        names.keys().map(|name| (name.clone(), read(name))).chain([("mobile.pt2".into(), mobile(true))]);
    let files = models.map(|(name, model)| {
        let path = folder.path().join(&name);
        pt2::write(&path, &model).unwrap();
        let size = model.metadata.preprocessing.size;
        let shape = [2, 3, size, size];
        let beside = folder.path().join(format!("{name}.json"));
        let numbers = serde_json::json!({"shape": shape, "logits": logits(&model, &shape)});
        std::fs::write(&beside, numbers.to_string()).unwrap();
        format!("{}={}", path.display(), beside.display())
    });
    let arguments: Vec<String> = std::iter::once("--compile".to_owned()).chain(files).collect();
    check_with("check_pt2.py", &arguments);
}
