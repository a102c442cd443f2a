//! SHA-256 of files.

use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of the file at `path`, in hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let failed = |source| Error::Io { path: path.to_owned(), action: "read", source };
    sha256_of(&mut offshoot_files::open(path).map_err(failed)?).map_err(failed)
}

/// SHA-256 of what is left to read of `source`, in hexadecimal digits.
pub(crate) fn sha256_of(source: &mut impl io::Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(source, &mut HashWriter(&mut hasher))?;
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of what `write` writes, in hexadecimal digits.
pub(crate) fn hash_of(write: impl FnOnce(&mut HashWriter<'_>) -> io::Result<()>) -> String {
    let mut hasher = Sha256::new();
    // A hash takes all that is written.
    let _ = write(&mut HashWriter(&mut hasher));
    hex(&hasher.finalize())
}

/// SHA-256 of a text, in hexadecimal digits.
#[cfg(feature = "train")]
pub(crate) fn sha256_of_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
