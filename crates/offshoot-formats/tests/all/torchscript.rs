//! Archives that PyTorch wrote are read and compute what they did there, and what we write is read again.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use offshoot_formats::checkpoint::load_weights;
use offshoot_formats::torchscript::{self, Form, METADATA_FILE, Options, TorchScriptModel};
use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Binary, Clip, Norm, ShapeOp, Unary};
use offshoot_graph::{Fit, Interpolation, Model, Op, Role};

use crate::onnx_support::{Golden, classifier, everything, logits, mobile, windows};

const FORMS: [Form; 2] = [Form::Traced, Form::Scripted];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torchscript").join(name)
}

fn read(name: &str) -> TorchScriptModel {
    torchscript::read(&golden(name), None).unwrap()
}

fn written(model: &Model, form: Form) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    torchscript::write_to(&mut bytes, model, Options { form }).unwrap();
    bytes.into_inner()
}

fn ops(model: &Model) -> String {
    let names: Vec<&str> = model.graph.nodes().iter().map(|n| n.op.name()).collect();
    names.join(" ")
}

/// One entry of an archive, as text.
fn entry(archive: &[u8], name: &str) -> String {
    let mut zip = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut zip.by_name(&format!("model/{name}")).unwrap(), &mut text).unwrap();
    text
}

/// Operators and attributes that PyTorch can say.
fn many_operators() -> Model {
    classifier("many", 33, |g, x| {
        let x = windows(g, x, [1, 0, 1, 0], false);
        let x = g.conv2d("lambda.0.1x1", x, &Conv2d::new(4, 1)).unwrap();
        let top = Clip { min: f32::NEG_INFINITY, max: 0.75 };
        let x = g.add("top", Op::Unary(Unary::Clip(top)), &[x]).unwrap();
        let low = Clip { min: -0.5, max: f32::INFINITY };
        let x = g.add("low", Op::Unary(Unary::Clip(low)), &[x]).unwrap();
        let both = Clip { min: -0.25, max: 0.5 };
        let x = g.add("both", Op::Unary(Unary::Clip(both)), &[x]).unwrap();
        let x = g.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        let x = g.linear("fc.0", x, 7).unwrap();
        let x = g.add("softmax", Op::Softmax { axis: 1 }, &[x]).unwrap();
        let bias = g.add_parameter("shift", &[7], Role::Weight);
        let x = g.add("shifted", Op::Binary(Binary::Add), &[x, bias]).unwrap();
        let weight = g.add_parameter("fc.1", &[7, 4], Role::Weight);
        g.add("fc", Op::Gemm(Default::default()), &[x, weight]).unwrap()
    })
}

#[test]
fn logits_are_those_of_pytorch() {
    let table = std::fs::read(golden("logits.json")).unwrap();
    let table: BTreeMap<String, Golden> = serde_json::from_slice(&table).unwrap();
    assert_eq!(table.len(), 7);
    for (name, golden) in table {
        let file = read(&name);
        assert!(file.assumed_preprocessing);
        let mut ours = logits(&file.model, &golden.shape);
        if name == "controlled.pt" {
            // Its end is a softmax, of which the logarithm was noted.
            for row in ours.chunks_exact_mut(4) {
                let sum: f32 = row.iter().map(|x| x.exp()).sum();
                row.iter_mut().for_each(|x| *x -= sum.ln());
            }
        }
        let difference = offshoot_testing::difference(&ours, &golden.logits);
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

#[test]
fn a_model_is_read_with_its_names_norms_and_dropout() {
    let block = "Conv BatchNormalization Relu Conv BatchNormalization Add Relu";
    let wanted = format!(
        "Conv BatchNormalization Clip MaxPool {block} {block} GlobalAveragePool Flatten Dropout Gemm"
    );
    for name in ["tiny_trace.pt", "tiny_script.pt"] {
        let model = read(name).model;
        assert_eq!(ops(&model), wanted, "{name}");
        let graph = &model.graph;
        let norm = graph.nodes().iter().find(|n| n.name == "blocks.1.bn2").unwrap();
        assert_eq!(
            norm.op,
            Op::Norm(Norm::Batch(offshoot_graph::op::BatchNormalization { epsilon: 0.001, momentum: 0.01 }))
        );
        let keys: Vec<&str> = norm.inputs[1..].iter().map(|&id| graph.value(id).name.as_str()).collect();
        let names = ["weight", "bias", "running_mean", "running_var"];
        assert_eq!(keys, names.map(|n| format!("blocks.1.bn2.{n}")));
        let roles: Vec<Role> =
            norm.inputs[1..].iter().map(|&id| graph.parameter_info(id).unwrap().role).collect();
        assert_eq!(roles, [Role::Weight, Role::Weight, Role::Buffer, Role::Buffer]);
        assert_eq!(graph.nodes().last().unwrap().name, "head.3");
    }
    assert_eq!(read("tiny_trace.pt").model.weights, read("tiny_script.pt").model.weights);
    assert_eq!(ops(&read("same_trace.pt").model), wanted);
}

#[test]
fn the_size_is_the_traced_one_the_given_one_or_224() {
    let size = |name, given| {
        let model = torchscript::read(&golden(name), given).unwrap().model;
        let input = model.graph.value(model.graph.inputs()[0]);
        assert_eq!(input.shape.0[2].fixed(), Some(model.metadata.preprocessing.size));
        model.metadata.preprocessing.size
    };
    assert_eq!(size("same_trace.pt", None), 33);
    assert_eq!(size("same_script.pt", None), 224);
    assert_eq!(size("same_script.pt", Some(65)), 65);
    assert_eq!(size("same_trace.pt", Some(64)), 64);
}

#[test]
fn what_is_not_known_before_the_run_names_its_line() {
    let message = |name: &str, size| torchscript::read(&golden(name), size).unwrap_err().to_string();
    let conditional = message("conditional.pt", None);
    assert!(conditional.contains("conditional.pt: code/__torch__.py, line 10: this `if`"), "{conditional}");
    assert!(conditional.contains("torch.jit.trace"), "{conditional}");
    let training = message("training.pt", None);
    assert!(training.contains("line 23") && training.contains("model.eval()"), "{training}");
    let small = message("controlled.pt", Some(7));
    assert!(small.contains("line 21: the model refuses its input"), "{small}");
    let state = torchscript::read(&golden("../weights/plain-zip.pth"), None).unwrap_err().to_string();
    assert!(state.contains("no TorchScript program"), "{state}");
}

#[test]
fn weights_are_found_in_an_archive() {
    let loaded = load_weights(&golden("tiny_script.pt")).unwrap();
    assert_eq!(loaded.format.to_string(), "TorchScript");
    let model = read("tiny_script.pt").model;
    for (name, tensor) in &model.weights {
        assert_eq!(&loaded.weights[name], tensor, "{name}");
    }
    // The counters of batches are the rest.
    assert_eq!(loaded.weights.len(), model.weights.len() + 5);
}

#[test]
fn what_is_written_is_read_again() {
    for model in [many_operators(), mobile(true), read("same_trace.pt").model] {
        let size = model.metadata.preprocessing.size;
        let before = logits(&model, &[2, 3, size, size]);
        for form in FORMS {
            let bytes = written(&model, form);
            let again = torchscript::read_bytes(&bytes, None).unwrap();
            assert!(!again.assumed_preprocessing && again.warnings.is_empty(), "{:?}", again.warnings);
            assert_eq!(again.model.metadata, model.metadata);
            assert_eq!(logits(&again.model, &[2, 3, size, size]), before);
            assert_eq!(written(&again.model, form), bytes);
        }
    }
}

#[test]
fn keys_survive_and_counters_are_added() {
    let model = mobile(true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mobile.pt");
    torchscript::write(&path, &model, Options::default()).unwrap();
    let mut loaded = load_weights(&path).unwrap().weights;
    let counters = loaded.len() - model.weights.len();
    loaded.retain(|name, _| !name.ends_with("num_batches_tracked"));
    assert_eq!((loaded, counters), (model.weights, 4));
}

#[test]
fn the_layout_is_pytorchs() {
    let bytes = written(&mobile(true), Form::Scripted);
    let mut zip = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    for index in 0..zip.len() {
        let file = zip.by_index(index).unwrap();
        assert_eq!(file.compression(), zip::CompressionMethod::Stored);
        assert_eq!(file.data_start().unwrap() % 64, 0, "{:?}", file.name());
    }
    assert_eq!(entry(&bytes, "byteorder"), "little");
    assert_eq!(entry(&bytes, "extra/classes.json").matches("class").count(), 5);
    assert!(entry(&bytes, &format!("extra/{METADATA_FILE}")).contains("preprocessing"));
    let code = entry(&bytes, "code/__torch__/offshoot.py");
    for part in [
        "class Conv_features_1_conv_1_0(Module):",
        "    x0 = getattr(getattr(self.features, \"0\"), \"0\").forward(input, )\n",
        "  def classify(self: __torch__.offshoot.Model,",
        "torch._upsample_bilinear2d_aa(y0, between, False, None, None)",
        "torch._upsample_bilinear2d_aa(y1, [rh, rw], False, None, None)",
    ] {
        assert!(code.contains(part), "{part}\n{code}");
    }
}

#[test]
fn every_preprocessing_that_pytorch_can_do_is_written() {
    let mut model = mobile(true);
    for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Nearest] {
            model.metadata.preprocessing.fit = fit;
            model.metadata.preprocessing.interpolation = interpolation;
            let again = torchscript::read_bytes(&written(&model, Form::Scripted), None).unwrap();
            assert_eq!(again.model.metadata, model.metadata);
        }
    }
    model.metadata.preprocessing.interpolation = Interpolation::Lanczos;
    let options = Options { form: Form::Scripted };
    let error = torchscript::write_to(&mut Cursor::new(Vec::new()), &model, options).unwrap_err();
    assert!(error.to_string().contains("leave `script` out"), "{error}");
}

#[test]
fn what_pytorch_cannot_say_is_not_written() {
    let error = torchscript::write_to(&mut Cursor::new(Vec::new()), &everything(), Options::default());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("node `maxpool` (MaxPool)") && message.contains("both sides alike"),
        "{message}"
    );
    let mut lacking = mobile(true);
    lacking.weights.remove("classifier.1.bias");
    let error = torchscript::write_to(&mut Cursor::new(Vec::new()), &lacking, Options::default());
    assert!(error.unwrap_err().to_string().contains("parameter `classifier.1.bias`"));
}
