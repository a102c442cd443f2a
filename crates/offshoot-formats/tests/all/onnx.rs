//! ONNX files: ours are read back as they were, those of PyTorch's exporters mean what PyTorch computes.

use std::collections::BTreeMap;

use offshoot_formats::onnx::{self, OnnxModel, Options};
use offshoot_graph::op::{Pooling, ShapeOp};
use offshoot_graph::preprocessing::Preprocessing;
use offshoot_graph::{Model, Op, Role, Tensor};

use crate::onnx_support::{Golden, everything, golden, logits, mobile};

fn bytes(model: &Model) -> Vec<u8> {
    onnx::write_bytes(model, Options::default()).unwrap()
}

fn read(name: &str) -> OnnxModel {
    onnx::read(&golden(&format!("{name}.onnx"))).unwrap()
}

fn ops(read: &OnnxModel) -> String {
    let names: Vec<&str> = read.model.graph.nodes().iter().map(|n| n.op.name()).collect();
    names.join(" ")
}

fn parameters(read: &OnnxModel) -> Vec<&str> {
    let graph = &read.model.graph;
    graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect()
}

#[test]
fn our_own_file_is_read_back_as_it_was() {
    for model in [mobile(false), everything()] {
        let read = onnx::read_bytes(bytes(&model)).unwrap();
        assert_eq!(read.model.graph, model.graph);
        assert_eq!(read.model.weights, model.weights);
        assert_eq!(read.model.metadata, model.metadata);
        assert!(!read.assumed_preprocessing);
        assert_eq!(read.warnings, [""; 0]);
    }
}

#[test]
fn every_operator_set_that_we_write_is_read_back() {
    let model = everything();
    for opset in 13..=21 {
        let bytes = onnx::write_bytes(&model, Options { opset, ..Options::default() }).unwrap();
        assert_eq!(onnx::read_bytes(bytes).unwrap().model.graph, model.graph);
    }
    let message =
        onnx::write_bytes(&model, Options { opset: 12, ..Options::default() }).unwrap_err().to_string();
    assert!(message.contains("opset 12") && message.contains("13 to 21"), "{message}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    assert_eq!(bytes(&everything()), bytes(&everything()));
    let again = onnx::read_bytes(bytes(&everything())).unwrap().model;
    assert_eq!(bytes(&again), bytes(&everything()));
}

#[test]
fn training_leaves_nothing_behind() {
    let with_dropout = onnx::read_bytes(bytes(&mobile(true))).unwrap();
    assert_eq!(with_dropout.model.graph, mobile(false).graph);
}

#[test]
fn a_file_appears_whole_at_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&path, &mobile(false), Options::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes(&mobile(false)));
    assert_eq!(onnx::read(&path).unwrap().model.graph, mobile(false).graph);
}

#[test]
fn a_missing_or_misshapen_weight_is_named() {
    let mut model = mobile(false);
    model.weights.remove("classifier.1.bias");
    let message = onnx::write_bytes(&model, Options::default()).unwrap_err().to_string();
    assert!(message.contains("`classifier.1.bias`"), "{message}");
    model.weights.insert("classifier.1.bias".into(), Tensor::zeros([6]));
    let message = onnx::write_bytes(&model, Options::default()).unwrap_err().to_string();
    assert!(message.contains("f32[6]") && message.contains("f32[5]"), "{message}");
}

const FOLDED_MOBILE: &str = "Conv Clip Conv Clip Conv Clip Conv Add GlobalAveragePool Flatten Gemm";

#[test]
fn folded_mobilenets_of_both_exporters() {
    for name in [
        "mobile_trace",
        "mobile_trace_half",
        "mobile_trace_any_size",
        "mobile_dynamo",
        "mobile_dynamo_external",
        "same_trace",
        "same_dynamo",
    ] {
        let read = read(name);
        assert_eq!(ops(&read), FOLDED_MOBILE, "{name}");
        let graph = &read.model.graph;
        let batch = graph.value(graph.inputs()[0]).shape.0[0].to_string();
        assert_eq!(batch, "batch_size", "{name}");
        assert!(parameters(&read).ends_with(&["classifier.1.weight", "classifier.1.bias"]), "{name}");
        assert!(read.assumed_preprocessing);
    }
}

#[test]
fn an_unfolded_mobilenet_keeps_pytorchs_keys_and_roles() {
    let read = read("mobile_trace_unfolded_opset11");
    assert_eq!(
        ops(&read),
        "Conv BatchNormalization Clip Conv BatchNormalization Clip Conv BatchNormalization Clip Conv \
         BatchNormalization Add GlobalAveragePool Flatten Gemm"
    );
    let names = parameters(&read);
    let stem = ["weight", "bias", "running_mean", "running_var"].map(|n| format!("stem.1.{n}"));
    assert_eq!(names[..5], ["stem.0.weight", &stem[0], &stem[1], &stem[2], &stem[3]]);
    let graph = &read.model.graph;
    for (name, role) in stem.iter().zip([Role::Weight, Role::Weight, Role::Buffer, Role::Buffer]) {
        let id = graph.find_parameter(name).unwrap();
        assert_eq!(graph.parameter_info(id).unwrap().role, role);
    }
    assert!(read.warnings[0].contains("batch at 2"), "{:?}", read.warnings);
}

#[test]
fn padding_computed_in_the_graph_becomes_that_of_the_convolution() {
    use offshoot_graph::Op;
    for name in ["same_trace", "same_dynamo"] {
        let read = read(name);
        let Op::Conv(stem) = &read.model.graph.nodes()[0].op else { panic!("{name}: no Conv first") };
        assert_eq!((stem.strides, stem.pads), ([2, 2], [0, 0, 1, 1]), "{name}");
    }
}

#[test]
fn a_written_out_mean_product_and_softmax_are_recognised() {
    for name in ["res_trace_opset9", "res_dynamo"] {
        let read = read(name);
        assert_eq!(
            ops(&read),
            "Conv Relu MaxPool Conv Add Relu AveragePool GlobalAveragePool Flatten Gemm",
            "{name}"
        );
        assert!(read.warnings[0].contains("Softmax"), "{:?}", read.warnings);
    }
}

#[test]
fn flattening_by_shape_needs_no_fixed_batch() {
    for name in ["view_trace", "view_trace_batch1", "view_dynamo"] {
        assert_eq!(ops(&read(name)), "Conv Sigmoid Flatten Gemm", "{name}");
    }
}

#[test]
fn forms_of_other_exporters() {
    let auto_pad = read("auto_pad");
    assert_eq!(
        ops(&auto_pad),
        "Add Mul Conv Clip Conv BatchNormalization AveragePool GlobalAveragePool Flatten Gemm"
    );
    // Normalization inside the graph is no parameter.
    assert_eq!(parameters(&auto_pad)[0], "w1");
    assert_eq!(ops(&read("padded")), "Conv Clip MaxPool GlobalAveragePool Flatten Gemm");
    let legacy = read("legacy");
    assert_eq!(ops(&legacy), "Conv BatchNormalization Clip Dropout GlobalAveragePool Flatten Gemm");
    // One initializer is the Conv's bias, the norm's bias and its mean: the mean is a buffer of its own.
    assert_eq!(parameters(&legacy), ["w", "b", "b_2", "var", "fc_w", "fc_b"]);
    assert_eq!(legacy.model.weights["b"], legacy.model.weights["b_2"]);
}

#[test]
fn a_file_without_metadata_gets_imagenets_in_proportion() {
    let fixed = read("mobile_trace").model.metadata;
    assert_eq!(fixed.classes, ["0", "1", "2", "3", "4"]);
    assert_eq!(fixed.preprocessing, Preprocessing { size: 32, resize: 37, ..Preprocessing::default() });
    let any = read("mobile_trace_any_size").model;
    assert_eq!(any.metadata.preprocessing, Preprocessing::default());
    let input = &any.graph.value(any.graph.inputs()[0]).shape;
    assert_eq!(input.to_string(), "[batch_size, 3, height, width]");
}

#[test]
fn what_was_read_is_written_and_read_again() {
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        let first = onnx::read(&path).unwrap().model;
        let second = onnx::read_bytes(bytes(&first)).unwrap();
        assert!(!second.assumed_preprocessing);
        assert_eq!(bytes(&second.model), bytes(&first), "{}", path.display());
    }
}

#[test]
fn logits_are_those_of_onnx_runtime() {
    let table = std::fs::read_to_string(golden("logits.json")).unwrap();
    let table: BTreeMap<String, Golden> = serde_json::from_str(&table).unwrap();
    assert!(table.len() > 10);
    for (name, golden) in table {
        let ours = logits(&read(&name).model, &golden.shape);
        let difference = offshoot_testing::difference(&ours, &golden.logits);
        // ONNX Runtime computes the half model in half precision.
        let tolerance = if name.ends_with("half") { 1e-2 } else { 1e-4 };
        assert!(difference <= tolerance, "{name}: {difference}");
    }
}

/// Options under which weights go to a file beside the model.
const BESIDE: Options = Options { opset: 17, in_one_file: 0, with_preprocess: false };

#[test]
fn weights_beside_the_file_are_those_within_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let side = folder.path().join("model.onnx.data");
    let model = everything();
    onnx::write(&path, &model, BESIDE).unwrap();
    let large: usize = model.weights.values().map(|t| 4 * t.len()).filter(|&n| n >= 1024).sum();
    let held = std::fs::metadata(&side).unwrap().len();
    assert!(large > 0 && held >= large as u64, "{held} bytes for {large}");
    assert!(std::fs::metadata(&path).unwrap().len() < bytes(&model).len() as u64 - large as u64 + 1024);
    let read = onnx::read(&path).unwrap().model;
    assert_eq!((&read.graph, &read.weights), (&model.graph, &model.weights));
    assert_eq!(bytes(&read), bytes(&model));
    let both = [std::fs::read(&path).unwrap(), std::fs::read(&side).unwrap()];
    onnx::write(&path, &model, BESIDE).unwrap();
    assert_eq!(both, [std::fs::read(&path).unwrap(), std::fs::read(&side).unwrap()]);
}

#[test]
fn small_weights_stay_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&path, &mobile(false), Options { in_one_file: u64::MAX, ..BESIDE }).unwrap();
    assert!(!folder.path().join("model.onnx.data").exists());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_the_weights_is_not_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let precious = folder.path().join("precious");
    std::fs::write(&precious, b"keep").unwrap();
    std::os::unix::fs::symlink(&precious, folder.path().join("model.onnx.data")).unwrap();
    let message = onnx::write(&path, &everything(), BESIDE).unwrap_err().to_string();
    assert!(message.contains("model.onnx.data") && message.contains("symbolic link"), "{message}");
    assert_eq!(std::fs::read(&precious).unwrap(), b"keep");
    assert!(!path.exists());
}

/// Options under which a file prepares its pictures itself.
const PREPARING: Options = Options { opset: 18, in_one_file: u64::MAX, with_preprocess: true };

#[test]
fn a_file_that_prepares_its_pictures_is_read_as_its_network() {
    use offshoot_graph::{Fit, Interpolation};
    for (fit, interpolation, background) in [
        (Fit::Crop, Interpolation::Bilinear, [255; 3]),
        (Fit::Pad, Interpolation::Bicubic, [1, 2, 3]),
        (Fit::Pad, Interpolation::Bilinear, [7; 3]),
        (Fit::Stretch, Interpolation::Nearest, [0; 3]),
    ] {
        let mut model = mobile(false);
        let own = model.metadata.preprocessing;
        model.metadata.preprocessing = Preprocessing { fit, interpolation, background, ..own };
        let bytes = onnx::write_bytes(&model, PREPARING).unwrap();
        assert_eq!(bytes, onnx::write_bytes(&model, PREPARING).unwrap());
        let read = onnx::read_bytes(bytes).unwrap();
        assert_eq!((&read.model.graph, &read.model.weights), (&model.graph, &model.weights));
        assert_eq!((&read.model.metadata, read.warnings), (&model.metadata, Vec::new()));
    }
}

#[test]
fn a_preparation_that_is_not_the_metadatas_is_refused() {
    let model = mobile(false);
    let mut bytes = onnx::write_bytes(&model, PREPARING).unwrap();
    let mean = 0.3f32.to_le_bytes();
    let at = bytes.windows(4).position(|w| w == mean).unwrap();
    bytes[at..at + 4].copy_from_slice(&0.4f32.to_le_bytes());
    let message = onnx::read_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("input `image`") && message.contains("another way"), "{message}");
}

#[test]
fn a_preparation_that_onnx_cannot_say_is_an_error() {
    let mut model = mobile(false);
    let message = onnx::write_bytes(&model, Options { opset: 17, ..PREPARING }).unwrap_err().to_string();
    assert!(message.contains("opset 17") && message.contains("18 or newer"), "{message}");
    model.metadata.preprocessing.interpolation = offshoot_graph::Interpolation::Lanczos;
    let message = onnx::write_bytes(&model, PREPARING).unwrap_err().to_string();
    assert!(message.contains("Lanczos"), "{message}");
}

#[test]
fn rows_of_a_picture_of_one_pixel_with_its_channels_last_are_read_again() {
    let model = crate::onnx_support::classifier("rows", 8, |g, x| {
        let x = g.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let x = g.add("last", Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }), &[x]).unwrap();
        let x = g.add("rows", Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x]).unwrap();
        g.linear("fc", x, 4).unwrap()
    });
    let read = onnx::read_bytes(bytes(&model)).unwrap().model;
    assert_eq!(bytes(&onnx::read_bytes(bytes(&read)).unwrap().model), bytes(&read));
    let shape = [2, 3, 8, 8];
    assert_eq!(crate::onnx_support::logits(&read, &shape), crate::onnx_support::logits(&model, &shape));
}
