//! The folder of a package: a manifest, the specification, the weights.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use offshoot_graph::Model;
use prost::Message;
use serde_json::json;

use super::graph::model;
use super::program::program;
use super::{Options, proto};
use crate::atomic::write_atomically;
use crate::error::{FormatError, Problem};
use crate::open::open_plain;

pub(super) const MANIFEST: &str = "Manifest.json";
const SPECIFICATION: &str = "com.apple.CoreML/model.mlmodel";
const WEIGHTS: &str = "com.apple.CoreML/weights";
pub(super) const WEIGHT_FILE: &str = "com.apple.CoreML/weights/weight.bin";

/// More than the program of any classifier takes, in bytes; the weights are not in it.
const MAX_SPECIFICATION: u64 = 4 << 20;
/// More than any classifier's weights take, in bytes.
const MAX_WEIGHTS: u64 = 1 << 33;

/// Writes `model` to the new or empty folder `path`: the same model gives the same bytes. Dropout and Identity are left out;
/// fold batch norms beforehand.
///
/// # Errors
/// When the graph holds an operator that Core ML lacks (the message names the node), a weight is missing or does not fit
/// the precision, or a file cannot be written.
pub fn write(path: &Path, model: &Model, options: Options) -> Result<(), FormatError> {
    let (specification, weights) = program(model, options).map_err(|problem| problem.at(path))?;
    let specification = specification.encode_to_vec();
    if specification.len() as u64 > MAX_SPECIFICATION {
        let what = format!("a program of {} bytes", specification.len());
        let place = "graph".into();
        return Err(Problem::TooLarge { place, what, limit: MAX_SPECIFICATION }.at(path));
    }
    let manifest = manifest(&specification, &weights);
    let data = path.join("Data");
    let folder = data.join(WEIGHTS);
    fs::create_dir_all(&folder).map_err(|error| Problem::Io { action: "create", error }.at(&folder))?;
    for (file, bytes) in [
        (data.join(WEIGHT_FILE), weights.as_slice()),
        (data.join(SPECIFICATION), &specification),
        (path.join(MANIFEST), manifest.as_bytes()),
    ] {
        write_atomically(&file, |out| out.write_all(bytes))?;
    }
    Ok(())
}

/// What names the two items of a package. Apple's tools take random identifiers; these come from the content.
fn manifest(specification: &[u8], weights: &[u8]) -> String {
    let (model, blobs) = (identifier(specification), identifier(weights));
    let item = |name: &str, path: &str, description: &str| json!({"author": "com.apple.CoreML", "description": description, "name": name, "path": path});
    let manifest = json!({
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            model.clone(): item("model.mlmodel", SPECIFICATION, "CoreML Model Specification"),
            blobs: item("weights", WEIGHTS, "CoreML Model Weights"),
        },
        "rootModelIdentifier": model,
    });
    format!("{manifest:#}\n")
}

/// A UUID of version 8, made of the content's hash.
fn identifier(content: &[u8]) -> String {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(content).as_bytes()[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex).join("-")
}

/// Reads a package, through its manifest.
pub(super) fn read(path: &Path) -> Result<Model, Problem> {
    let manifest = file(&path.join(MANIFEST), MANIFEST, 1 << 16)?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&manifest).map_err(|e| Problem::damaged(MANIFEST, e.to_string()))?;
    let root = manifest["rootModelIdentifier"].as_str().unwrap_or_default();
    if manifest["itemInfoEntries"][root]["path"] != SPECIFICATION {
        let what = format!("its model is not at {SPECIFICATION}");
        return Err(Problem::unsupported(
            MANIFEST,
            what,
            "offshoot reads the Core ML packages that it wrote",
        ));
    }
    let data = path.join("Data");
    let specification = file(&data.join(SPECIFICATION), "model.mlmodel", MAX_SPECIFICATION)?;
    let specification = proto::Model::decode(specification.as_slice())
        .map_err(|e| Problem::damaged("model.mlmodel", e.to_string()))?;
    let weights = file(&super::weight_file(path), "weight.bin", MAX_WEIGHTS)?;
    model(&specification, &weights)
}

fn file(path: &Path, place: &str, limit: u64) -> Result<Vec<u8>, Problem> {
    let read = |error: io::Error| Problem::Io { action: "read", error };
    let mut source = open_plain(path).map_err(|error| error.problem)?;
    let len = source.metadata().map_err(read)?.len();
    if len > limit {
        let what = format!("a file of {len} bytes");
        return Err(Problem::TooLarge { place: place.into(), what, limit });
    }
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}
