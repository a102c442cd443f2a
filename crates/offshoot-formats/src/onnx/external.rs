//! Elements in a file beside the model.

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use offshoot_graph::Tensor;

use super::proto::{EXTERNAL, StringStringEntryProto, TensorProto};
use crate::elements::write_le;
use crate::error::Problem;

/// Tensors of fewer bytes stay in the model's own file.
const SMALLEST: usize = 1024;

/// Where a tensor may begin: the size of a page, so that a runtime can map it.
const ALIGNMENT: u64 = 4096;

const ESCAPES: &str = "which does not stay in the model's folder";

/// The file of elements called `location` beside the model in the file `model`, as ONNX Runtime finds it: a path from the
/// folder where `model` is, whose links may lead to files in that folder, and where `model` is a link itself, in the folder of
/// the file that it leads to. In the cache of Hugging Face all files of a model are links to files of one folder.
pub(super) fn resolve(place: &str, model: &Path, location: &str) -> Result<PathBuf, Problem> {
    let refused = |what: &str| refusal(place, location, what);
    let relative = Path::new(location);
    if !relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir | Component::ParentDir))
    {
        return Err(refused(ESCAPES));
    }
    let failed = |error: io::Error| refused(&format!("which cannot be opened: {error}"));
    let folder = folder(model).canonicalize().map_err(failed)?;
    let found = match folder.join(relative).canonicalize() {
        Err(_) if climbs_out(relative) => return Err(refused(ESCAPES)),
        found => found.map_err(failed)?,
    };
    let target = model.canonicalize().ok();
    let beside_target =
        |found: &Path| target.as_deref().and_then(Path::parent).is_some_and(|f| found.starts_with(f));
    match found.starts_with(&folder) || beside_target(&found) {
        true => Ok(found),
        false if climbs_out(relative) => Err(refused(ESCAPES)),
        false => Err(refused("which leads out of the model's folder through a symbolic link")),
    }
}

/// The folder where the file `path` is.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a path leaves the folder that it starts from, as far as its text says.
fn climbs_out(path: &Path) -> bool {
    let mut depth = 0i64;
    path.components().any(|component| {
        depth += match component {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => 0,
        };
        depth < 0
    })
}

/// Where the file called `name` beside `model` is written. A link there is not written through.
pub(super) fn beside(model: &Path, name: &str) -> Result<PathBuf, Problem> {
    let path = folder(model).join(name);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.file_type().is_symlink() => {
            Err(refusal("weights", name, "which is a symbolic link"))
        }
        _ => Ok(path),
    }
}

/// Why elements at `location` are not touched.
pub(super) fn refusal(place: &str, location: &str, what: &str) -> Problem {
    let what = format!("its elements are in `{location}`, {what}");
    Problem::unsupported(place, what, "Load the model in Python and save it as one file with `onnx.save`")
}

/// The file beside a model that is being written.
pub(super) struct SideFile<'a> {
    location: String,
    end: u64,
    tensors: Vec<(u64, &'a Tensor)>,
}

impl<'a> SideFile<'a> {
    /// A file called `location`, in the model's folder.
    pub(super) fn new(location: String) -> SideFile<'a> {
        SideFile { location, end: 0, tensors: Vec::new() }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Gives `tensor` a place, and `proto` the words that say where; `None` when it is small.
    pub(super) fn place(&mut self, tensor: &'a Tensor) -> Option<TensorProto> {
        let length = tensor.len() * tensor.dtype().size();
        if length < SMALLEST {
            return None;
        }
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.end = offset + length as u64;
        self.tensors.push((offset, tensor));
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        Some(TensorProto {
            external_data: vec![
                entry("location", self.location.clone()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: Some(EXTERNAL),
            ..TensorProto::default()
        })
    }

    /// The bytes of the file; zeros between tensors.
    pub(super) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, tensor) in &self.tensors {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), out)?;
            write_le(tensor.data(), out)?;
            at = offset + (tensor.len() * tensor.dtype().size()) as u64;
        }
        Ok(())
    }
}
