//! TensorFlow Lite's metadata: what Android's task library reads of a classifier. Its schema (version 1) is that of
//! `metadata_schema.fbs`; files that go with a model are an archive behind it.

use std::io::{Cursor, Write as _};

use offshoot_graph::{Metadata, Task};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::flat::{Field, Fields, encode};
use crate::error::Problem;

/// The name of the metadata in a file.
pub(super) const METADATA_NAME: &str = "TFLITE_METADATA";

/// The file with a line for each class.
const LABELS: &str = "labels.txt";

/// `AssociatedFileType.TENSOR_AXIS_LABELS`
const AXIS_LABELS: u8 = 2;
/// `ContentProperties`: features and pictures.
const FEATURES: u8 = 1;
const PICTURES: u8 = 2;
/// `ColorSpaceType.RGB`
const RGB: u8 = 1;
/// `ProcessUnitOptions.NormalizationOptions`
const NORMALIZATION: u8 = 1;

fn text(slot: u16, text: &str) -> (u16, Field) {
    (slot, Field::Text(text.to_owned()))
}

/// What a tensor is: one of the `ContentProperties`.
fn content(kind: u8, properties: Fields) -> (u16, Field) {
    (3, Field::Table(vec![(0, Field::Byte(kind)), (1, Field::Table(properties))]))
}

/// A flatbuffer that describes the input and the output.
pub(super) fn metadata(metadata: &Metadata) -> Vec<u8> {
    let steps = &metadata.preprocessing;
    // Of bytes from 0 to 255.
    let levels = |numbers: [f32; 3]| Field::Floats(numbers.map(|x| (255.0 * f64::from(x)) as f32).to_vec());
    let normalization = vec![(0, levels(steps.mean)), (1, levels(steps.std))];
    let unit = vec![(0, Field::Byte(NORMALIZATION)), (1, Field::Table(normalization))];
    let bounds = |of: f32| {
        let bound = |c: usize| (of - steps.mean[c]) / steps.std[c];
        Field::Floats(vec![bound(0), bound(1), bound(2)])
    };
    let side = steps.size as i32;
    let picture =
        vec![(0, Field::Byte(RGB)), (1, Field::Table(vec![(0, Field::Int(side)), (1, Field::Int(side))]))];
    let input = vec![
        text(0, "input"),
        text(1, "an RGB picture"),
        content(PICTURES, picture),
        (4, Field::Tables(vec![unit])),
        (5, Field::Table(vec![(0, bounds(1.0)), (1, bounds(0.0))])),
    ];
    let [axis, output_text, kind, name] = match metadata.task {
        Task::Single | Task::Multi => {
            ["the classes", "the network's output for each class", "a classifier of pictures", "classifier"]
        }
        Task::Regression => [
            "the targets",
            "the predicted numbers, in their units",
            "predicts numbers of pictures",
            "regression",
        ],
    };
    let labels = vec![text(0, LABELS), text(1, axis), (2, Field::Byte(AXIS_LABELS))];
    let output = vec![
        text(0, "output"),
        text(1, output_text),
        content(FEATURES, vec![]),
        (6, Field::Tables(vec![labels])),
    ];
    let subgraph = vec![(2, Field::Tables(vec![input])), (3, Field::Tables(vec![output]))];
    let model = vec![
        text(0, metadata.architecture.as_deref().unwrap_or(name)),
        text(1, kind),
        (3, Field::Tables(vec![subgraph])),
        text(7, "1.0.0"),
    ];
    encode(&model, b"M001")
}

/// A file and, behind it, the archive of the labels. They are stored as they are: the task library reads no compressed ones.
pub(super) fn with_labels(bytes: Vec<u8>, classes: &[String]) -> Result<Vec<u8>, Problem> {
    let failed = |error: String| Problem::unsupported("labels", error, "Give the classes other names");
    let mut out = Cursor::new(bytes);
    out.set_position(out.get_ref().len() as u64);
    let mut zip = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(LABELS, options).map_err(|e| failed(e.to_string()))?;
    for class in classes {
        // A label is a line. Our own metadata has the name as it is.
        let line = class.replace(['\n', '\r'], " ");
        writeln!(zip, "{line}").map_err(|e| failed(e.to_string()))?;
    }
    zip.finish().map(Cursor::into_inner).map_err(|e| failed(e.to_string()))
}
