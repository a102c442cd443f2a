//! What NVIDIA's Triton Inference Server reads beside an ONNX file of ours.
//! [Model configuration](https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md)

use std::collections::HashMap;

use offshoot_graph::Metadata;
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::text::escaped;

use crate::error::Problem;

/// The name of the file of labels.
pub const LABELS: &str = "labels.txt";

/// How long a request may wait for others to share its batch, in microseconds.
const QUEUE_DELAY: u32 = 100;

/// `config.pbtxt` of the model `name`: normalized f32 pictures in, logits out, requests gathered into batches of up to
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

/// The file of labels: one a line, in the order of the logits. Ends of lines and other control characters in a name are
/// written as escapes.
///
/// # Errors
/// When two classes that have different names would have the same label.
pub fn labels(classes: &[String]) -> Result<String, Problem> {
    let mut text = String::new();
    let mut seen = HashMap::new();
    for class in classes {
        let label = label(class);
        text += &format!("{label}\n");
        if let Some(other) = seen.insert(label, class).filter(|other| *other != class) {
            let what = format!("the classes {other:?} and {class:?} would have the same label");
            return Err(Problem::unsupported("classes", what, "Give one of them another name"));
        }
    }
    Ok(text)
}

/// A class as a line. Joiners and variation selectors, which some scripts and emoji are written with, stay.
fn label(class: &str) -> String {
    let letter = |c: char| match c {
        '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => c.to_string(),
        c => escaped(c.encode_utf8(&mut [0; 4])),
    };
    class.chars().map(letter).collect()
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
        assert_eq!(labels(&["❤\u{fe0f}".into(), "\u{feff}c".into()]).unwrap(), "❤\u{fe0f}\n\\u{feff}c\n");
        assert_eq!(
            labels(&["a\r\nb".into(), "\u{1b}[2J\u{2028}".into()]).unwrap(),
            "a\\r\\nb\n\\x1b[2J\\u{2028}\n"
        );
        assert!(labels(&["a\nb".into(), "a\\nb".into()]).unwrap_err().to_string().contains("same label"));
    }
}
