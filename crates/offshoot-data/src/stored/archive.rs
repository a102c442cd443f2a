//! The members of a `.tar` file, and where they are in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Longer names are those of no picture.
const LONGEST_NAME: usize = 4096;

/// The regular files in an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    /// Of the file when the list was made.
    bytes: u64,
    modified: Option<SystemTime>,
    /// The first byte of each member and how many it has, by name.
    members: BTreeMap<Box<str>, (u64, u64)>,
}

/// Those that were asked for.
static KNOWN: Mutex<BTreeMap<PathBuf, Arc<Archive>>> = Mutex::new(BTreeMap::new());

impl Archive {
    /// The archive in a file, whose members are listed once as long as it does not change.
    ///
    /// # Errors
    /// When it cannot be read, or is no archive.
    pub(crate) fn known(path: &Path) -> io::Result<Arc<Archive>> {
        let data = path.metadata()?;
        let is_as_it_was =
            |archive: &Archive| (archive.bytes, archive.modified) == (data.len(), data.modified().ok());
        // The list of members is put in as a whole.
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(archive) = known.get(path).filter(|archive| is_as_it_was(archive)) {
            return Ok(archive.clone());
        }
        let archive = Arc::new(Archive::list(path)?);
        known.insert(path.to_owned(), archive.clone());
        Ok(archive)
    }

    /// Where a member is: its first byte, and how many it has.
    pub(crate) fn place(&self, name: &str) -> Option<(u64, u64)> {
        self.members.get(name).copied()
    }

    /// The names of the members, in byte order, with their places.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, (u64, u64))> {
        self.members.iter().map(|(name, place)| (&**name, *place))
    }

    fn list(path: &Path) -> io::Result<Archive> {
        let file = offshoot_files::open(path)?;
        let data = file.metadata()?;
        let mut archive = tar::Archive::new(file);
        let mut members = BTreeMap::new();
        for entry in archive.entries_with_seek().map_err(|error| damaged(&error))? {
            let entry = entry.map_err(|error| damaged(&error))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path_bytes();
            // Other names are those of no picture that a table could hold.
            let Some(name) = std::str::from_utf8(&name).ok().filter(|name| name.len() <= LONGEST_NAME) else {
                continue;
            };
            let name = &within(name)?;
            let place = (entry.raw_file_position(), entry.size());
            if place.0.checked_add(place.1).is_none_or(|end| end > data.len()) {
                let text = format!("the archive ends within `{}`", offshoot_graph::text::quoted(name));
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            if members.insert(name.as_str().into(), place).is_some() {
                let text = format!("the archive holds `{}` twice", offshoot_graph::text::quoted(name));
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(Archive { bytes: data.len(), modified: data.modified().ok(), members })
    }
}

/// A member's name as a path below the archive, without empty parts and `.`.
fn within(name: &str) -> io::Result<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        let text = format!(
            "the name `{}` leads out of the archive; pack it again",
            offshoot_graph::text::quoted(name)
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(parts.join("/"))
}

fn damaged(error: &io::Error) -> io::Error {
    let text = format!("it is no .tar that can be read (a compressed one must be unpacked first): {error}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
