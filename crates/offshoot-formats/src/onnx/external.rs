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

/// The file called `location` below `folder`, a plain path without links in it.
pub(super) fn resolve(place: &str, folder: &Path, location: &str) -> Result<PathBuf, Problem> {
    let refused = |what| Err(refusal(place, location, what));
    let mut path = folder.to_owned();
    for component in Path::new(location).components() {
        let Component::Normal(part) = component else {
            return refused("which does not stay in the model's folder");
        };
        path.push(part);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink()) {
            return refused("which is a symbolic link");
        }
    }
    Ok(path)
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
