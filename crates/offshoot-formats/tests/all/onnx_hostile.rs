//! ONNX files that lie, end early or ask for too much: each is one clear error, and nothing happens.

use std::fs;
use std::path::Path;

use offshoot_formats::onnx::{self, Options, ReadOptions};
use offshoot_formats::{FormatError, Problem};
use proptest::prelude::*;

use crate::onnx_support::{everything, golden};

// --- files made by hand: Protocol Buffers fields ---

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn int(tag: u64, value: i64) -> Vec<u8> {
    [varint(tag << 3), varint(value as u64)].concat()
}

fn field(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(tag << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|&v| int(8, v)).collect();
    field(5, [field(1, name), values.concat(), int(20, 7)].concat())
}

fn attribute(name: &str, value: i64) -> Vec<u8> {
    field(5, [field(1, name), int(3, value), int(20, 2)].concat())
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|i| field(1, i)).collect();
    let name = format!("the_{output}");
    let parts = [inputs.concat(), field(2, output), field(3, name), field(4, op), attributes.concat()];
    field(1, parts.concat())
}

/// Zeros of the given dims, or what `data` says.
fn tensor(name: &str, dims: &[i64], data: Option<&[u8]>) -> Vec<u8> {
    let count: usize = if data.is_some() { 0 } else { dims.iter().map(|&d| d as usize).product() };
    let zeros = vec![0; 4 * count];
    let data = data.unwrap_or(&zeros);
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    field(5, [dims.concat(), int(2, 1), field(8, name), field(9, data)].concat())
}

fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    let entries: Vec<Vec<u8>> =
        entries.iter().map(|(k, v)| field(13, [field(1, k), field(2, v)].concat())).collect();
    field(5, [dims.concat(), int(2, 1), field(8, name), entries.concat(), int(14, 1)].concat())
}

fn info(tag: u64, name: &str, element_type: i64, dims: &[i64]) -> Vec<u8> {
    let dim = |&d: &i64| field(1, if d == 0 { field(2, "N") } else { int(1, d) });
    let dims: Vec<Vec<u8>> = dims.iter().map(dim).collect();
    let tensor_type = [int(1, element_type), field(2, dims.concat())].concat();
    field(tag, [field(1, name), field(2, field(1, tensor_type))].concat())
}

fn model_of(graph: &[Vec<u8>], opset: i64, more: &[u8]) -> Vec<u8> {
    [int(1, 8), field(7, graph.concat()), field(8, int(2, opset)), more.to_vec()].concat()
}

/// A model with the input `x` [N, 3, 8, 8] and the output `y`.
fn model(parts: &[Vec<u8>]) -> Vec<u8> {
    let ends = [info(11, "x", 1, &[0, 3, 8, 8]), info(12, "y", 1, &[])];
    model_of(&[parts, &ends].concat(), 17, &[])
}

/// The end of a classifier whose features are `f` [N, 4, h, w].
fn head() -> Vec<u8> {
    [
        node("GlobalAveragePool", &["f"], "g", &[]),
        node("Flatten", &["g"], "flat", &[]),
        node("Gemm", &["flat", "fc"], "y", &[]),
        tensor("fc", &[4, 2], None),
    ]
    .concat()
}

fn refused(bytes: &[u8]) -> Problem {
    match onnx::read_bytes(bytes) {
        Err(problem) => problem,
        Ok(read) => panic!("it was read:\n{}", read.model.graph),
    }
}

/// The message must hold each of `parts`.
fn refused_with(bytes: &[u8], parts: &[&str]) {
    let message = refused(bytes).to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn plain_conv() -> Vec<u8> {
    node("Conv", &["x", "w"], "f", &[])
}

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
    let text = |name: &str, value: &str| field(5, [field(1, name), field(4, value), int(20, 3)].concat());
    let coordinates = |value: &str| text("coordinate_transformation_mode", value);
    for (attribute, scales, words) in [
        (text("mode", "area"), [1.0, 1.0, 2.0, 2.0], "mode `area`"),
        (text("nearest_mode", "ceil"), [1.0, 1.0, 2.0, 2.0], "nearest_mode `ceil`"),
        (coordinates("tf_crop_and_resize"), [1.0, 1.0, 2.0, 2.0], "`tf_crop_and_resize`"),
        (attribute("antialias", 1), [1.0, 1.0, 2.0, 2.0], "`antialias`"),
        (text("mode", "linear"), [2.0, 1.0, 2.0, 2.0], "only the height and width"),
        (text("mode", "linear"), [1.0, 1.0, 1.3, 2.0], "not a whole number"),
        (text("mode", "linear"), [1.0, 1.0, 1e9, 2.0], "pictures of 8000000000 by 16"),
        (text("mode", "linear"), [1.0, 1.0, f32::NAN, 2.0], "pictures of 0 by 16"),
        (text("mode", "linear"), [1.0, 1.0, 8192.0, 8192.0], "bytes"),
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
    refused_with(&model(&parts), &["(Concat)", "arithmetic on shapes"]);
    let huge = [
        node("Shape", &["x"], "s", &[]),
        node("ConstantOfShape", &["s"], "z", &[]),
        node("Reshape", &["x", "z"], "y", &[]),
    ];
    refused_with(&model(&huge), &["(Reshape)", "not known before the run"]);
}

// --- models of text ---

/// Whole numbers as a tensor.
fn whole(name: &str, dims: &[i64], numbers: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    field(5, [dims.concat(), int(2, 7), field(8, name), field(9, data)].concat())
}

/// A model of tokens [batch, steps] with a table of 5 rows of 4 numbers.
fn text(parts: &[Vec<u8>]) -> Vec<u8> {
    let ends = [info(11, "x", 7, &[0, 0]), info(12, "y", 1, &[]), tensor("table", &[5, 4], None)];
    model_of(&[parts, &ends].concat(), 17, &[])
}

fn text_refused(parts: &[Vec<u8>], words: &[&str]) {
    let options = ReadOptions { size: None, any_input: true };
    let message = match onnx::read_bytes_with(text(parts), options) {
        Err(problem) => problem.to_string(),
        Ok(read) => panic!("it was read:\n{}", read.model.graph),
    };
    words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is not in: {message}"));
}

#[test]
fn indices_that_are_none() {
    let embedded = node("Gather", &["table", "x"], "e", &[]);
    text_refused(
        &[embedded.clone(), node("Gather", &["table", "e"], "y", &[])],
        &["node `the_y` (Gather)", "`the_e` is f32", "i64"],
    );
    for index in [5, -6, i64::MAX, i64::MIN] {
        let known = [node("Gather", &["table", "i"], "y", &[]), whole("i", &[1, 1], &[index])];
        text_refused(&known, &["(Gather)", &format!("index {index} is outside of 5 rows")]);
    }
    text_refused(
        &[node("Gather", &["table", "x"], "y", &[attribute("axis", 1)])],
        &["(Gather)", "only rows (axis 0)"],
    );
    let past = node("Gather", &["e", "i"], "y", &[attribute("axis", 3)]);
    text_refused(&[embedded.clone(), past, whole("i", &[], &[0])], &["(Gather)", "axis 3 is outside of 3"]);
    for (op, inputs) in [("Squeeze", &["e", "three"][..]), ("Slice", &["e", "i", "three", "three"])] {
        let parts = [
            embedded.clone(),
            node(op, inputs, "y", &[]),
            whole("three", &[1], &[3]),
            whole("i", &[1], &[0]),
        ];
        text_refused(&parts, &[&format!("({op})"), "axis 3 is outside of 3"]);
    }
}

#[test]
fn comparisons_and_choices_of_other_things_than_tokens() {
    let embedded = node("Gather", &["table", "x"], "e", &[]);
    let one = whole("one", &[], &[1]);
    text_refused(&[embedded.clone(), node("Equal", &["e", "one"], "y", &[]), one.clone()], &["(Equal)"]);
    text_refused(&[node("Equal", &["x", "x"], "y", &[])], &["(Equal)", "one number that is known"]);
    text_refused(&[embedded.clone(), node("Not", &["e"], "y", &[])], &["(Not)", "no boolean"]);
    text_refused(&[embedded.clone(), node("Where", &["e", "e", "e"], "y", &[])], &["(Where)"]);
    text_refused(&[embedded.clone(), node("Add", &["e", "x"], "y", &[])], &["(Add)", "i64"]);
    text_refused(&[embedded, node("Cast", &["e"], "y", &[attribute("to", 7)])], &["(Cast)"]);
    text_refused(&[node("ReduceSum", &["x", "one"], "y", &[]), one], &["(ReduceSum)"]);
}

#[test]
fn sizes_that_a_file_multiplies_stay_small() {
    let with = |steps: &[Vec<u8>], last: &str| {
        let zero = tensor("zero", &[1], None);
        let parts =
            [&[node("Shape", &["x"], "s0", &[])], steps, &[node("Expand", &["zero", last], "y", &[]), zero]];
        parts.concat()
    };
    let huge = [node("Mul", &["s0", "big"], "s1", &[]), whole("big", &[1], &[1 << 39])];
    text_refused(&with(&huge, "s1"), &["(Expand)", "limit"]);
    // Doubles an expression forty times.
    let double = |i: usize| {
        let (from, to) = (format!("s{i}"), format!("s{}", i + 1));
        node("Add", &[&from, &from], &to, &[])
    };
    let doubled: Vec<Vec<u8>> = (0..40).map(double).collect();
    text_refused(&with(&doubled, "s40"), &["(Expand)", "not known"]);
    let count =
        [node("Range", &["i", "many", "one"], "y", &[]), whole("i", &[], &[0]), whole("one", &[], &[1])];
    text_refused(&[&count[..], &[whole("many", &[], &[1 << 60])]].concat(), &["(Range)", "limit"]);
    text_refused(&[&count[..], &[whole("many", &[], &[1 << 27])]].concat(), &["(Range)", "limit"]);
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
    refused_with(&last(&[first, node("Add", &["x", "t"], "y", &[])]), &["`the_y` (Add)", "channels"]);
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

/// Reads a model whose weight `w` is where `entries` say, from a folder with `w.bin`.
fn read_external(entries: &[(&str, &str)]) -> Result<(), FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir(&inside).unwrap();
    let elements = vec![0; 4 * 108];
    fs::write(inside.join("w.bin"), &elements).unwrap();
    fs::create_dir(inside.join("sub")).unwrap();
    fs::write(inside.join("sub/w.bin"), &elements).unwrap();
    fs::write(folder.path().join("outside.bin"), &elements).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("outside.bin"), inside.join("link.bin")).unwrap();
    let path = inside.join("m.onnx");
    let place = folder.path().join("outside.bin").display().to_string();
    let entries: Vec<(&str, &str)> =
        entries.iter().map(|&(k, v)| (k, if v == "ABSOLUTE" { place.as_str() } else { v })).collect();
    fs::write(&path, model(&[plain_conv(), external("w", &[4, 3, 3, 3], &entries), head()])).unwrap();
    onnx::read(&path).map(|_| ())
}

#[test]
fn elements_beside_the_file_are_read() {
    read_external(&[("location", "w.bin")]).unwrap();
    read_external(&[("location", "./w.bin"), ("offset", "0"), ("length", "432")]).unwrap();
    read_external(&[("location", "sub//./w.bin")]).unwrap();
    read_external(&[("location", "sub/../w.bin")]).unwrap();
    read_external(&[("location", "w.bin"), ("offset", "0"), ("length", "432"), ("checksum", "x")]).unwrap();
}

#[test]
fn elements_elsewhere_are_refused() {
    for (entries, part) in [
        (vec![("location", "../outside.bin")], "does not stay in the model's folder"),
        (vec![("location", "../missing.bin")], "does not stay in the model's folder"),
        (vec![("location", "sub/../../outside.bin")], "does not stay in the model's folder"),
        (vec![("location", "sub")], "it is a folder"),
        (vec![("location", "ABSOLUTE")], "does not stay in the model's folder"),
        (vec![("location", "missing.bin")], "cannot be opened"),
        (vec![("location", "")], "`w`"),
        (vec![("location", ".")], "`w`"),
        (vec![], "not named"),
        (vec![("location", "w.bin"), ("offset", "4")], "of a file of 432"),
        (vec![("location", "w.bin"), ("offset", "18446744073709551615")], "of a file of 432"),
        (vec![("location", "w.bin"), ("length", "8")], "432"),
        (vec![("location", "w.bin"), ("offset", "-4")], "no number"),
        #[cfg(unix)]
        (vec![("location", "link.bin")], "symbolic link"),
    ] {
        let message = read_external(&entries).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("m.onnx"), "{entries:?}: {message}");
    }
    let bytes = model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "w.bin")]), head()]);
    refused_with(&bytes, &["tensor `w`", "`w.bin`", "onnx.save"]);
}

/// A model whose weight is in `w.bin` beside it.
fn beside() -> Vec<u8> {
    model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "w.bin")]), head()])
}

/// Each case as ONNX Runtime 1.32 has it.
#[cfg(unix)]
#[test]
fn links_are_followed_to_where_the_model_is() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let read = |name: &str, make: fn(&Path)| {
        let folder = root.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        make(&folder);
        onnx::read(&folder.join("m.onnx")).map(|_| ()).map_err(|e| e.to_string())
    };
    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    const W: [u8; 432] = [0; 432];
    let plain = read("a_link_to_a_file_in_a_folder_below", |at| {
        put(&at.join("m.onnx"), &beside());
        put(&at.join("s/real.bin"), &W);
        symlink("s/real.bin", at.join("w.bin")).unwrap();
    });
    assert_eq!(plain, Ok(()));
    let absolute = read("an_absolute_link_that_stays", |at| {
        put(&at.join("m.onnx"), &beside());
        put(&at.join("real.bin"), &W);
        symlink(at.join("real.bin"), at.join("w.bin")).unwrap();
    });
    assert_eq!(absolute, Ok(()));
    let cache = read("models--x/snapshots/abc/onnx", |at| {
        let blobs = at.join("../../../blobs");
        put(&blobs.join("aaaa"), &beside());
        put(&blobs.join("bbbb"), &W);
        symlink("../../../blobs/aaaa", at.join("m.onnx")).unwrap();
        symlink("../../../blobs/bbbb", at.join("w.bin")).unwrap();
    });
    assert_eq!(cache, Ok(()));
    let moved = read("a_model_that_is_a_link_and_elements_beside_the_link", |at| {
        put(&at.join("s/m.onnx"), &beside());
        put(&at.join("w.bin"), &W);
        symlink("s/m.onnx", at.join("m.onnx")).unwrap();
    });
    assert_eq!(moved, Ok(()));
    let another = read("models--y/snapshots/abc", |at| {
        put(&at.join("../../blobs/aaaa"), &beside());
        symlink("../../blobs/aaaa", at.join("m.onnx")).unwrap();
        symlink("../../../models--x/blobs/bbbb", at.join("w.bin")).unwrap();
    });
    assert!(another.as_ref().unwrap_err().contains("symbolic link"), "{another:?}");
    let folder = read("a_folder_that_is_a_link_out", |at| {
        let model = model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "d/bbbb")]), head()]);
        put(&at.join("m.onnx"), &model);
        symlink("../models--x/blobs", at.join("d")).unwrap();
    });
    assert!(folder.as_ref().unwrap_err().contains("symbolic link"), "{folder:?}");
}

#[cfg(unix)]
#[test]
fn a_pipe_beside_the_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, beside()).unwrap();
    let pipe = folder.path().join("w.bin");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let message = onnx::read(&path).unwrap_err().to_string();
    assert!(message.contains("it is a pipe"), "{message}");
    for read in [onnx::read(&pipe).err(), offshoot_formats::safetensors::read(&pipe).err()] {
        assert!(read.unwrap().to_string().contains("pipe"));
    }
    assert!(offshoot_formats::content::of(&pipe).unwrap_err().to_string().contains("pipe"));
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
