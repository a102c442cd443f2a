//! ONNX files that lie, end early or ask for too much: each is one clear error, and nothing happens.

mod external;
mod files;
mod operators;
mod text;

use std::fs;

use offshoot_formats::Problem;
use offshoot_formats::onnx::{self, Options};
use proptest::prelude::*;

use self::files::{
    attribute, field, head, info, int, ints, model, model_of, node, plain_conv, refused, refused_with,
    tensor, word,
};
use crate::onnx_support::{everything, golden};

#[test]
fn the_files_made_by_hand_are_sound_without_their_fault() {
    let good = model(&[plain_conv(), tensor("w", &[4, 3, 3, 3], None), head()]);
    let read = onnx::read_bytes(good).unwrap();
    assert_eq!(read.model.metadata.classes, ["0", "1"]);
}

#[test]
fn every_part_of_a_file_is_refused() {
    for name in ["mobile_trace.onnx", "legacy.onnx"] {
        let bytes = fs::read(golden(name)).unwrap();
        for len in (0..bytes.len() - 1).step_by(7).chain([bytes.len() - 1]) {
            refused(&bytes[..len]);
        }
    }
}

#[test]
fn other_files_are_no_onnx() {
    for bytes in [&b""[..], b"PK\x03\x04", b"hello, this is no model", &[0xff; 64], &[0x0a; 64]] {
        refused(bytes);
    }
}

#[test]
fn a_graph_that_is_none() {
    let w = || tensor("w", &[4, 3, 3, 3], None);
    let cycle =
        [node("Add", &["x", "b"], "a", &[]), node("Relu", &["a"], "b", &[]), node("Relu", &["b"], "y", &[])];
    refused_with(&model(&cycle), &["`the_a` (Add)", "cycle"]);
    let twice = [plain_conv(), plain_conv(), w(), head()];
    refused_with(&model(&twice), &["`the_f` (Conv)", "`f`", "made elsewhere"]);
    refused_with(
        &model(&[plain_conv(), head()]),
        &["`the_f` (Conv)", "`w`", "no node, input or initializer"],
    );
    refused_with(&model(&[plain_conv(), w(), w(), head()]), &["tensor `w`", "two initializers"]);
    refused_with(&model(&[node("Relu", &[], "y", &[])]), &["`the_y` (Relu)", "input 0 is missing"]);
    refused_with(&model(&[]), &["output `y`"]);
    refused_with(&model(&[node("Relu", &["x"], "y", &[])]), &["output `y`", "[batch_size, 3, 8, 8]"]);
    refused_with(&model_of(&[info(12, "y", 1, &[])], 17, &[]), &["0 inputs"]);
    let two = [info(11, "x", 1, &[0, 3, 8, 8]), info(12, "y", 1, &[]), info(12, "z", 1, &[])];
    refused_with(&model_of(&two, 17, &[]), &["2 outputs"]);
}

#[test]
fn an_input_that_is_no_picture() {
    let with = |element_type, dims: &[i64]| {
        let parts = [plain_conv(), tensor("w", &[4, 3, 3, 3], None), head(), info(12, "y", 1, &[])];
        model_of(&[&parts[..], &[info(11, "x", element_type, dims)]].concat(), 17, &[])
    };
    refused_with(&with(1, &[0, 8, 8, 4]), &["input `x`", "8 channels"]);
    refused_with(&with(1, &[0, 8, 8, 3]), &["node `the_f` (Conv)", "8 input channels"]);
    refused_with(&with(1, &[0, 3, 8]), &["3 axes"]);
    refused_with(&with(7, &[0, 3, 8, 8]), &["tokens, not pictures", "verify `inputs`"]);
    refused_with(&with(9, &[0, 3, 8, 8]), &["ONNX type 9"]);
    refused_with(&with(1, &[0, 3, 8, 9]), &["8 by 9"]);
    refused_with(&with(1, &[0, 3, 1 << 40, 1 << 40]), &["height", "limit"]);
    refused_with(&with(1, &[i64::MAX, 3, 8, 8]), &["batch", "limit"]);
}

#[test]
fn resizing_that_is_not_read_names_what_is_not() {
    let coordinates = |value: &str| word("coordinate_transformation_mode", value);
    for (attribute, scales, words) in [
        (word("mode", "area"), [1.0, 1.0, 2.0, 2.0], "mode `area`"),
        (word("nearest_mode", "ceil"), [1.0, 1.0, 2.0, 2.0], "nearest_mode `ceil`"),
        (coordinates("tf_crop_and_resize"), [1.0, 1.0, 2.0, 2.0], "`tf_crop_and_resize`"),
        (attribute("antialias", 1), [1.0, 1.0, 2.0, 2.0], "`antialias`"),
        (word("mode", "linear"), [2.0, 1.0, 2.0, 2.0], "only the height and width"),
        (word("mode", "linear"), [1.0, 1.0, 1.3, 2.0], "not a whole number"),
        (word("mode", "linear"), [1.0, 1.0, 1e9, 2.0], "pictures of 8000000000 by 16"),
        (word("mode", "linear"), [1.0, 1.0, f32::NAN, 2.0], "pictures of 0 by 16"),
        (word("mode", "linear"), [1.0, 1.0, 8192.0, 8192.0], "bytes"),
    ] {
        let bytes: Vec<u8> = scales.iter().flat_map(|scale: &f32| scale.to_le_bytes()).collect();
        let resize = node("Resize", &["x", "", "s"], "f", &[attribute]);
        let file = model(&[tensor("s", &[4], Some(&bytes)), resize, head()]);
        refused_with(&file, &["node `the_f` (Resize)", words]);
    }
    refused_with(&model(&[node("Resize", &["x"], "f", &[]), head()]), &["neither sizes nor scales"]);
}

#[test]
fn an_operator_that_is_not_read_is_named_with_a_way_out() {
    refused_with(&model(&[node("Det", &["x"], "f", &[]), head()]), &["node `the_f` (Det)", "`weights`"]);
    let foreign = field(
        1,
        [field(1, "x"), field(2, "f"), field(4, "Conv"), field(7, "com.example"), field(3, "odd")].concat(),
    );
    refused_with(&model(&[foreign, head()]), &["node `odd` (Conv)", "`com.example`"]);
    for perm in [&[0, 0, 0, 0][..], &[0, 3, 1], &[i64::MIN], &[]] {
        let odd = node("Transpose", &["x"], "f", &[ints("perm", perm)]);
        refused_with(&model(&[odd, head()]), &["node `the_f` (Transpose)"]);
    }
    for opset in [6, 25, i64::MIN] {
        let ends = [info(11, "x", 1, &[0, 3, 8, 8]), info(12, "y", 1, &[])];
        refused_with(&model_of(&ends, opset, &[]), &[&format!("opset {opset}"), "opset_version=17"]);
    }
}

#[test]
fn a_batch_norm_in_training_is_refused() {
    let norm = node("BatchNormalization", &["x", "c", "c", "c", "c"], "f", &[attribute("training_mode", 1)]);
    refused_with(&model(&[norm, tensor("c", &[3], None), head()]), &["`the_f`", "model.eval()"]);
    // Before opset 14 five outputs say the same; empty names are no outputs.
    let outputs = |names: &[&str]| {
        let names = names.iter().map(|name| field(2, name)).collect::<Vec<_>>().concat();
        let inputs = ["x", "c", "c", "c", "c"].map(|name| field(1, name)).concat();
        field(1, [inputs, names, field(3, "the_f"), field(4, "BatchNormalization")].concat())
    };
    refused_with(
        &model(&[outputs(&["f", "m", "v", "sm", "sv"]), tensor("c", &[3], None), head()]),
        &["`the_f`", "model.eval()"],
    );
}

#[test]
fn a_tensor_that_lies_about_its_size() {
    let with = |w: Vec<u8>| model(&[plain_conv(), w, head()]);
    refused_with(&with(tensor("w", &[4, 3, 3, 3], Some(&[0; 8]))), &["tensor `w`", "432 bytes", "has 8"]);
    refused_with(&with(tensor("w", &[1 << 40, 1 << 40], Some(&[]))), &["tensor `w`", "too large"]);
    refused_with(&with(tensor("w", &[1 << 30, 1, 1, 1], Some(&[]))), &["tensor `w`", "the file has 0"]);
    refused_with(&with(tensor("w", &[-1, 3, 3, 3], Some(&[]))), &["tensor `w`", "the dim -1"]);
    refused_with(&with(tensor("w", &[0, 3, 3, 3], Some(&[]))), &["tensor `w`", "no elements"]);
    let string = field(5, [int(1, 1), int(2, 8), field(8, "w"), field(6, "text")].concat());
    refused_with(&with(string), &["tensor `w`", "ONNX element type 8"]);
}

#[test]
fn sizes_that_no_picture_has() {
    let w = || tensor("w", &[4, 3, 3, 3], None);
    let conv = |attributes: &[Vec<u8>]| model(&[node("Conv", &["x", "w"], "f", attributes), w(), head()]);
    refused_with(&conv(&[ints("pads", &[i64::MAX; 4])]), &["`the_f` (Conv)", "pads"]);
    refused_with(
        &conv(&[ints("pads", &[60_000; 4])]),
        &["`the_f` (Conv)", "bytes for one picture (`memory_limit`", "limit of 1073741824"],
    );
    refused_with(&conv(&[ints("strides", &[0, 1])]), &["`the_f` (Conv)", "strides"]);
    refused_with(&conv(&[ints("dilations", &[1 << 16; 2])]), &["`the_f` (Conv)", "does not fit"]);
    refused_with(&conv(&[attribute("group", i64::MIN)]), &["`the_f` (Conv)", "group"]);
    refused_with(&conv(&[attribute("group", 0)]), &["`the_f` (Conv)", "group"]);
    let classes =
        [info(11, "x", 1, &[0, 3, 8192, 8192]), info(12, "y", 1, &[]), node("Flatten", &["x"], "y", &[])];
    refused_with(&model_of(&classes, 17, &[]), &["201326592 classes"]);
}

#[test]
fn arithmetic_on_shapes_stays_small() {
    // Doubles a vector forty times.
    let mut parts = vec![node("Shape", &["x"], "s0", &[])];
    for i in 0..40 {
        let (from, to) = (format!("s{i}"), format!("s{}", i + 1));
        parts.push(node("Concat", &[&from, &from], &to, &[attribute("axis", 0)]));
    }
    parts.push(node("Reshape", &["x", "s40"], "y", &[]));
    refused_with(&model(&parts), &["(Concat)", "bytes in memory"]);
    let huge = [
        node("Shape", &["x"], "s", &[]),
        node("ConstantOfShape", &["s"], "z", &[]),
        node("Reshape", &["x", "z"], "y", &[]),
    ];
    refused_with(&model(&huge), &["(Reshape)", "not known before the run"]);
}

#[test]
fn one_tensor_under_many_names_does_not_fill_the_memory() {
    // A tensor of a mebibyte, which a thousand Identity nodes would each make a parameter.
    let mut parts = vec![tensor("w", &[512, 512], Some(&vec![0; 1 << 20]))];
    parts.push(node("Flatten", &["x"], "v0", &[]));
    parts.push(node("Gemm", &["v0", "first"], "v1", &[]));
    parts.push(tensor("first", &[192, 512], Some(&vec![0; 192 * 512 * 4])));
    for i in 1..1000 {
        let copy = format!("w{i}");
        parts.push(node("Identity", &["w"], &copy, &[]));
        let to = if i == 999 { "y".to_owned() } else { format!("v{}", i + 1) };
        parts.push(node("Gemm", &[&format!("v{i}"), &copy], &to, &[]));
    }
    let problem = refused(&model(&parts));
    assert!(matches!(problem, Problem::TooLarge { .. }), "{problem}");
}

/// A classifier whose features are ten thousand nodes in a row, each named `n`.
fn chain(op: &str, attributes: &[Vec<u8>], dims: &[i64]) -> Vec<u8> {
    let mut parts = vec![info(11, "x", 1, dims), info(12, "y", 1, &[])];
    for i in 0..10_000 {
        let (from, to) = (format!("v{i}"), format!("v{}", i + 1));
        let from = if i == 0 { "x" } else { &from };
        let link = [field(1, from), field(2, to), field(3, "n"), field(4, op), attributes.concat()];
        parts.push(field(1, link.concat()));
    }
    parts.push(node("GlobalAveragePool", &["v10000"], "g", &[]));
    parts.push(node("Flatten", &["g"], "flat", &[]));
    parts.push(node("Gemm", &["flat", "fc"], "y", &[]));
    parts.push(tensor("fc", &[3, 2], None));
    model_of(&parts, 17, &[])
}

#[test]
fn ten_thousand_nodes_of_one_name_are_read() {
    let read = onnx::read_bytes(chain("Relu", &[], &[0, 3, 8, 8])).unwrap();
    let names: Vec<&str> = read.model.graph.nodes().iter().map(|n| n.name.as_str()).collect();
    assert_eq!((names[0], names[9_999], names.len()), ("n", "n_10000", 10_003));
}

#[test]
fn a_size_that_takes_ten_thousand_steps_is_refused() {
    let shrink = chain("MaxPool", &[ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])], &[0, 3, 0, 0]);
    let problem = refused(&shrink);
    assert!(matches!(problem, Problem::TooLarge { .. }), "{problem}");
}

#[test]
fn metadata_that_does_not_fit() {
    let with = |json: &str| {
        let graph = [
            plain_conv(),
            tensor("w", &[4, 3, 3, 3], None),
            head(),
            info(11, "x", 1, &[0, 3, 8, 8]),
            info(12, "y", 1, &[]),
        ];
        model_of(&graph, 17, &field(14, [field(1, "offshoot"), field(2, json)].concat()))
    };
    let good = r#"{"classes":["a","b"],"preprocessing":{"size":8,"resize":9,"fit":"crop","interpolation":"bilinear",
        "mean":[0,0,0],"std":[1,1,1],"background":[0,0,0],"exif_rotation":true}}"#;
    assert_eq!(onnx::read_bytes(with(good)).unwrap().model.metadata.classes, ["a", "b"]);
    refused_with(&with("{"), &["metadata `offshoot`"]);
    refused_with(&with(&good.replace(r#""a","b""#, r#""a""#)), &["1 classes", "2 logits"]);
    refused_with(&with(&good.replace(r#""size":8"#, r#""size":9"#)), &["9 pixels", "takes 8"]);
    refused_with(&with(&good.replace("[1,1,1]", "[1,0,1]")), &["std"]);
}

#[test]
fn sparse_tensors_are_refused_by_name() {
    let sparse = field(15, field(1, [int(1, 108), int(2, 1), field(8, "w")].concat()));
    refused_with(&model(&[plain_conv(), sparse, head()]), &["tensor `w`", "sparse"]);
    let value = field(5, [field(1, "sparse_value"), field(22, field(1, int(1, 1 << 40)))].concat());
    let constant = node("Constant", &[], "w", &[value]);
    refused_with(&model(&[constant, plain_conv(), head()]), &["node `the_w` (Constant)", "sparse"]);
}

#[test]
fn layouts_and_weights_that_do_not_fit() {
    let last = |parts: &[Vec<u8>]| {
        let ends = [info(11, "x", 1, &[0, 8, 8, 3]), info(12, "y", 1, &[])];
        model_of(&[parts, &ends].concat(), 17, &[])
    };
    let w = || tensor("w", &[4, 3, 3, 3], None);
    // A Transpose that is none of a weight, a Reshape that does not fit one.
    let perm = node("Transpose", &["w"], "t", &[ints("perm", &[0, 1, 2, 2])]);
    let conv = |from: &str| node("Conv", &["x", from], "f", &[]);
    refused_with(&model(&[perm, conv("t"), w(), head()]), &["`the_t` (Transpose)", "perm"]);
    let reshape = node("Reshape", &["w"], "t", &[ints("shape", &[-1, -1, 1 << 62])]);
    refused_with(&model(&[reshape, conv("t"), w(), head()]), &["`the_t` (Reshape)", "does not take"]);
    // A mean over the axes of the other layout, a sum of two layouts.
    let first = node("Transpose", &["x"], "t", &[ints("perm", &[0, 3, 1, 2])]);
    refused_with(&last(&[first, node("Add", &["x", "t"], "y", &[])]), &["`the_y` (Add)", "broadcast"]);
    let wide = [tensor("s", &[8, 8, 3], None), node("Add", &["x", "s"], "y", &[])].concat();
    refused_with(&last(&[wide]), &["`the_y` (Add)", "[8, 8, 3]"]);
    let far = node("Shape", &["x"], "s", &[attribute("start", i64::MIN), attribute("end", i64::MAX)]);
    refused_with(
        &last(&[far, node("Reshape", &["x", "s"], "y", &[])]),
        &["output `y`", "[batch_size, classes]"],
    );
}

#[test]
fn an_operator_whose_mode_is_not_known_is_refused() {
    let zero = || [node("Shape", &["x"], "s", &[]), node("Gather", &["s", "first"], "mode", &[])].concat();
    let dropout = node("Dropout", &["x", "", "mode"], "f", &[]);
    refused_with(
        &model(&[tensor("first", &[1], None), zero(), dropout, head()]),
        &["`the_f`", "training mode"],
    );
}

fn seeds() -> Vec<Vec<u8>> {
    let names = ["legacy.onnx", "padded.onnx", "same_trace.onnx", "view_trace_batch1.onnx"];
    let mut seeds: Vec<Vec<u8>> = names.iter().map(|n| fs::read(golden(n)).unwrap()).collect();
    seeds.push(onnx::write_bytes(&everything(), Options::default()).unwrap());
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever bytes change: an error, or a model that is written and read again.
    #[test]
    fn a_changed_file_never_panics(
        seed in 0usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(read) = onnx::read_bytes(bytes)
            && let Ok(written) = onnx::write_bytes(&read.model, Options::default())
        {
            prop_assert!(onnx::read_bytes(written).is_ok());
        }
    }
}
