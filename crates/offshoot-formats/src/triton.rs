//! What NVIDIA's Triton Inference Server reads beside an ONNX file of ours.
//! [Model configuration](https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md)

use offshoot_graph::Metadata;
use offshoot_graph::model::{INPUT, OUTPUT};

use crate::error::Problem;

/// The name of the file of labels.
pub const LABELS: &str = "labels.txt";

/// How long a request may wait for others to share its batch, in microseconds.
const QUEUE_DELAY: u32 = 100;

/// `config.pbtxt` of the model `name`: normalised f32 pictures in, logits out, requests gathered into batches of up to
/// `max_batch` pictures.
pub fn config(name: &str, metadata: &Metadata, max_batch: usize) -> String {
    let (size, classes, name) = (metadata.preprocessing.size, metadata.classes.len(), text(name));
    format!(
        r#"name: {name}
backend: "onnxruntime"
max_batch_size: {max_batch}
input [
  {{
    name: "{INPUT}"
    data_type: TYPE_FP32
    dims: [ 3, {size}, {size} ]
  }}
]
output [
  {{
    name: "{OUTPUT}"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "{LABELS}"
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY}
}}
"#
    )
}

/// The file of labels: one a line, in the order of the logits.
///
/// # Errors
/// When a label has a line break in it.
pub fn labels(classes: &[String]) -> Result<String, Problem> {
    match classes.iter().find(|class| class.contains(['\n', '\r'])) {
        None => Ok(classes.iter().map(|class| format!("{class}\n")).collect()),
        Some(class) => {
            let what = format!("the class {class:?} has a line break in it, and Triton's labels are lines");
            Err(Problem::unsupported("classes", what, "Give the class another name"))
        }
    }
}

/// A string of protobuf's text format.
fn text(value: &str) -> String {
    let escaped = value.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => c.to_string().bytes().map(|byte| format!("\\{byte:03o}")).collect(),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_labels_are_lines() {
        assert_eq!(text("a\"b\\c\nü"), r#""a\"b\\c\012ü""#);
        assert_eq!(labels(&["a b".into(), "c".into()]).unwrap(), "a b\nc\n");
        assert!(labels(&["a\nb".into()]).unwrap_err().to_string().contains("line break"));
    }
}
