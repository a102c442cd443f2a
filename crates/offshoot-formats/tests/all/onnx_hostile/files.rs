//! Files made by hand, of the fields of Protocol Buffers, and checks that they are refused.

use offshoot_formats::Problem;
use offshoot_formats::onnx;

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

pub(super) fn int(tag: u64, value: i64) -> Vec<u8> {
    [varint(tag << 3), varint(value as u64)].concat()
}

pub(super) fn field(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(tag << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

pub(super) fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = values.iter().map(|&v| int(8, v)).collect();
    field(5, [field(1, name), values.concat(), int(20, 7)].concat())
}

pub(super) fn attribute(name: &str, value: i64) -> Vec<u8> {
    field(5, [field(1, name), int(3, value), int(20, 2)].concat())
}

pub(super) fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|i| field(1, i)).collect();
    let name = format!("the_{output}");
    let parts = [inputs.concat(), field(2, output), field(3, name), field(4, op), attributes.concat()];
    field(1, parts.concat())
}

/// Zeros of the given dims, or what `data` says.
pub(super) fn tensor(name: &str, dims: &[i64], data: Option<&[u8]>) -> Vec<u8> {
    let count: usize = if data.is_some() { 0 } else { dims.iter().map(|&d| d as usize).product() };
    let zeros = vec![0; 4 * count];
    let data = data.unwrap_or(&zeros);
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    field(5, [dims.concat(), int(2, 1), field(8, name), field(9, data)].concat())
}

/// Whole numbers as a tensor.
pub(super) fn whole(name: &str, dims: &[i64], numbers: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    field(5, [dims.concat(), int(2, 7), field(8, name), field(9, data)].concat())
}

/// An attribute that is a number or a word.
pub(super) fn float(name: &str, value: f32) -> Vec<u8> {
    let number = [&[2 << 3 | 5][..], &value.to_le_bytes()].concat();
    field(5, [field(1, name), number, int(20, 1)].concat())
}

pub(super) fn word(name: &str, value: &str) -> Vec<u8> {
    field(5, [field(1, name), field(4, value), int(20, 3)].concat())
}

pub(super) fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
    let dims: Vec<Vec<u8>> = dims.iter().map(|&d| int(1, d)).collect();
    let entries: Vec<Vec<u8>> =
        entries.iter().map(|(k, v)| field(13, [field(1, k), field(2, v)].concat())).collect();
    field(5, [dims.concat(), int(2, 1), field(8, name), entries.concat(), int(14, 1)].concat())
}

pub(super) fn info(tag: u64, name: &str, element_type: i64, dims: &[i64]) -> Vec<u8> {
    let dim = |&d: &i64| field(1, if d == 0 { field(2, "N") } else { int(1, d) });
    let dims: Vec<Vec<u8>> = dims.iter().map(dim).collect();
    let tensor_type = [int(1, element_type), field(2, dims.concat())].concat();
    field(tag, [field(1, name), field(2, field(1, tensor_type))].concat())
}

pub(super) fn model_of(graph: &[Vec<u8>], opset: i64, more: &[u8]) -> Vec<u8> {
    [int(1, 8), field(7, graph.concat()), field(8, int(2, opset)), more.to_vec()].concat()
}

/// A model with the input `x` [N, 3, 8, 8] and the output `y`.
pub(super) fn model(parts: &[Vec<u8>]) -> Vec<u8> {
    let ends = [info(11, "x", 1, &[0, 3, 8, 8]), info(12, "y", 1, &[])];
    model_of(&[parts, &ends].concat(), 17, &[])
}

/// The end of a classifier whose features are `f` [N, 4, h, w].
pub(super) fn head() -> Vec<u8> {
    [
        node("GlobalAveragePool", &["f"], "g", &[]),
        node("Flatten", &["g"], "flat", &[]),
        node("Gemm", &["flat", "fc"], "y", &[]),
        tensor("fc", &[4, 2], None),
    ]
    .concat()
}

pub(super) fn refused(bytes: &[u8]) -> Problem {
    match onnx::read_bytes(bytes) {
        Err(problem) => problem,
        Ok(read) => panic!("it was read:\n{}", read.model.graph),
    }
}

/// The message must hold each of `parts`.
pub(super) fn refused_with(bytes: &[u8], parts: &[&str]) {
    let message = refused(bytes).to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

pub(super) fn plain_conv() -> Vec<u8> {
    node("Conv", &["x", "w"], "f", &[])
}
