//! Zip archives as PyTorch writes them: nothing compressed, tensors at aligned places, everything in one folder.

use std::io::{self, Seek, SeekFrom, Write};

use offshoot_graph::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::elements::write_le;

/// Where PyTorch wants tensors to begin, in bytes.
const ALIGNMENT: u16 = 64;

/// An archive that is being written.
pub(crate) struct StoredZip<'a, W: Write + Seek> {
    zip: ZipWriter<Remembering<'a, W>>,
    root: &'a str,
}

/// Writes an archive whose entries, in the folder `root`, are those that `entries` adds.
pub(crate) fn write<W: Write + Seek>(
    out: &mut W,
    root: &str,
    entries: impl FnOnce(&mut StoredZip<'_, W>) -> io::Result<()>,
) -> io::Result<()> {
    let remembering = Remembering { out, at: 0, failed: None };
    let mut archive = StoredZip { zip: ZipWriter::new(remembering), root };
    let written = entries(&mut archive);
    let ended = archive.zip.finish();
    match ended {
        Ok(out) => out.failed.map_or(written, Err),
        Err(error) => written.and(Err(error.into())),
    }
}

impl<W: Write + Seek> StoredZip<'_, W> {
    /// An entry of these bytes.
    pub(crate) fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.start(name, content.len() as u64)?;
        self.zip.write_all(content)
    }

    /// An entry of a tensor's elements, little-endian.
    pub(crate) fn tensor(&mut self, name: &str, tensor: &Tensor) -> io::Result<()> {
        self.start(name, tensor.len() as u64 * tensor.dtype().size() as u64)?;
        write_le(tensor.data(), &mut self.zip)
    }

    fn start(&mut self, name: &str, len: u64) -> io::Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_alignment(ALIGNMENT)
            .large_file(len > u32::MAX.into());
        Ok(self.zip.start_file(format!("{}/{name}", self.root), options)?)
    }
}

/// A writer that remembers its first error and takes everything after it: a [`ZipWriter`] that is dropped tries again to end
/// its archive, and prints what goes wrong then.
struct Remembering<'a, W> {
    out: &'a mut W,
    at: u64,
    failed: Option<io::Error>,
}

impl<W> Remembering<'_, W> {
    /// What the writer said; what `otherwise` says where it has failed.
    fn remember<T>(&mut self, said: io::Result<T>, otherwise: T) -> io::Result<T> {
        said.or_else(|error| {
            self.failed.get_or_insert(error);
            Ok(otherwise)
        })
    }
}

impl<W: Write> Write for Remembering<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let said = if self.failed.is_none() { self.out.write(bytes) } else { Ok(bytes.len()) };
        let written = self.remember(said, bytes.len())?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let said = if self.failed.is_none() { self.out.flush() } else { Ok(()) };
        self.remember(said, ())
    }
}

impl<W: Seek> Seek for Remembering<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => place,
            SeekFrom::Current(by) | SeekFrom::End(by) => self.at.saturating_add_signed(by),
        };
        let said = if self.failed.is_none() { self.out.seek(to) } else { Ok(place) };
        self.at = self.remember(said, place)?;
        Ok(self.at)
    }
}
