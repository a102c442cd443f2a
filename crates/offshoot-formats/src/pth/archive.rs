//! A zip archive as PyTorch writes them: everything in one folder, with `data.pkl` in it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use flate2::Crc;
use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, ReaderAt, ZipArchive,
    ZipArchiveEntryWayfinder, ZipFileHeaderRecord, ZipLocator,
};

use super::input::Input;
use super::pickle::{self, Pickled};
use super::values::Storage;
use super::{MAX_PICKLE_BYTES, MEMORY_FACTOR, MEMORY_FLOOR};
use crate::elements::ByteOrder;
use crate::error::Problem;

const DIRECTORY: &str = "the archive's directory";

/// See above.
pub(crate) struct Archive<R> {
    zip: ZipArchive<Source<R>>,
    /// By the whole name.
    entries: HashMap<String, Entry>,
    /// The folder with its slash.
    root: String,
    /// Bytes of the archive.
    len: u64,
}

/// A file that is read at places.
struct Source<R>(RefCell<R>);

impl<R: Read + Seek> ReaderAt for Source<R> {
    fn read_at(&self, bytes: &mut [u8], place: u64) -> io::Result<usize> {
        let mut source = self.0.borrow_mut();
        source.seek(SeekFrom::Start(place))?;
        loop {
            match source.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// What the directory says of an entry.
#[derive(Clone, Copy)]
struct Entry {
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    encrypted: bool,
    /// Bytes, once unpacked.
    size: u64,
    /// PyTorch can be told to write no checksums; zero stands for that, as in torch.load.
    checksum: u32,
}

impl Entry {
    fn of(record: &ZipFileHeaderRecord<'_>) -> Entry {
        Entry {
            place: record.wayfinder(),
            method: record.compression_method(),
            encrypted: record.flags().is_encrypted(),
            size: record.uncompressed_size_hint(),
            checksum: record.crc32(),
        }
    }
}

impl<R: Read + Seek> Archive<R> {
    /// The archive in the `len` bytes of `source`.
    pub(crate) fn new(source: BufReader<R>, len: u64) -> Result<Archive<R>, Problem> {
        Archive::with_marker(source, len, "data.pkl", "the data.pkl of torch.save")
    }

    /// The archive in all of `source`, in whose folder is an entry `marker`: what `of` says.
    pub(crate) fn marked(mut source: R, marker: &str, of: &str) -> Result<Archive<R>, Problem> {
        let failed = |error| Problem::Io { action: "read", error };
        let len = source.seek(SeekFrom::End(0)).map_err(failed)?;
        source.rewind().map_err(failed)?;
        Archive::with_marker(BufReader::new(source), len, marker, of)
    }

    fn with_marker(source: BufReader<R>, len: u64, marker: &str, of: &str) -> Result<Archive<R>, Problem> {
        let failed = |error| zip_problem(DIRECTORY, error);
        let mut buffer = vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
        let source = Source(RefCell::new(source.into_inner()));
        let located = ZipLocator::new().locate_in_reader(source, &mut buffer, len);
        let zip = located.map_err(|(_, error)| failed(error))?;
        let mut entries = HashMap::new();
        let mut directory = zip.entries(&mut buffer);
        while let Some(record) = directory.next_entry().map_err(failed)? {
            let name = String::from_utf8_lossy(record.file_path().as_bytes()).into_owned();
            entries.insert(name, Entry::of(&record));
        }
        let root = root(&entries, marker, of)?;
        Ok(Archive { zip, entries, root, len })
    }

    /// The most bytes that the tensors of this archive may take in memory, see [`MEMORY_FACTOR`].
    pub(crate) fn memory_limit(&self) -> u64 {
        memory_limit(self.len)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&format!("{}{name}", self.root))
    }

    /// The bytes that the directory claims for the entry `name`, once unpacked.
    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(&format!("{}{name}", self.root)).map(|entry| entry.size)
    }

    /// The whole entry `name` of at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Problem> {
        self.read_entry(name, |size| match size <= limit {
            true => Ok(()),
            false => Err(format!("it claims {size} bytes, above the limit of {limit}")),
        })
    }

    /// What the pickle `name` describes.
    pub(crate) fn pickle(&self, name: &'static str) -> Result<Pickled, Problem> {
        let bytes = self.read(name, MAX_PICKLE_BYTES)?;
        pickle::read(&mut Input::new(Cursor::new(&bytes), bytes.len() as u64, name))
    }

    /// The bytes of a storage, which is a file in `folder`.
    pub(crate) fn storage(&self, folder: &str, storage: &Storage) -> Result<Vec<u8>, Problem> {
        self.read_entry(&format!("{folder}/{}", storage.key), |size| match size == storage.bytes {
            true => Ok(()),
            false => Err(format!("the pickle claims {} bytes and the entry {size}", storage.bytes)),
        })
    }

    /// The byte order of the storages.
    pub(crate) fn byte_order(&self) -> Result<ByteOrder, Problem> {
        const NAME: &str = "byteorder";
        if !self.has(NAME) {
            return Ok(ByteOrder::Little);
        }
        let text = self.read_entry(NAME, |size| match size <= 64 {
            true => Ok(()),
            false => Err(format!("it claims {size} bytes for one word")),
        })?;
        match text.trim_ascii() {
            b"little" => Ok(ByteOrder::Little),
            b"big" => Ok(ByteOrder::Big),
            _ => Err(Problem::damaged(place(&format!("{}{NAME}", self.root)), "neither `little` nor `big`")),
        }
    }

    /// The whole entry `name` below the root, after `check` has agreed to the size that it claims.
    fn read_entry(&self, name: &str, check: impl Fn(u64) -> Result<(), String>) -> Result<Vec<u8>, Problem> {
        let name = format!("{}{name}", self.root);
        let entry = *self
            .entries
            .get(&name)
            .ok_or_else(|| Problem::damaged("the archive", format!("there is no entry `{name}`")))?;
        let place = place(&name);
        check(entry.size).map_err(|what| Problem::damaged(&place, what))?;
        let mut unpacked = self.unpacked(entry, &place)?;

        // A compressed entry may claim any size: what is reserved ahead is limited, and grows as bytes arrive.
        let mut bytes = Vec::with_capacity(entry.size.min(self.len) as usize);
        let read = |error| Problem::read(&place, error);
        unpacked.by_ref().take(entry.size).read_to_end(&mut bytes).map_err(read)?;
        let more = unpacked.read(&mut [0]).map_err(read)?;
        if bytes.len() as u64 != entry.size || more != 0 {
            let held = if more == 0 { "fewer" } else { "more" };
            return Err(Problem::damaged(place, format!("it claims {} bytes and holds {held}", entry.size)));
        }
        let mut checksum = Crc::new();
        checksum.update(&bytes);
        match entry.checksum == 0 || entry.checksum == checksum.sum() {
            true => Ok(bytes),
            false => Err(Problem::damaged(place, "its content does not have its checksum")),
        }
    }

    /// What an entry holds, as it is read.
    fn unpacked(&self, entry: Entry, place: &str) -> Result<Box<dyn Read + '_>, Problem> {
        let refused = |what: &str| {
            let way_out = "Save the weights again with torch.save, which writes plain entries";
            Err(Problem::unsupported(place, what, way_out))
        };
        if entry.encrypted {
            return refused("it is encrypted");
        }
        let packed = self.zip.get_entry(entry.place).map_err(|error| zip_problem(place, error))?.reader();
        match entry.method {
            CompressionMethod::STORE => Ok(Box::new(packed)),
            CompressionMethod::DEFLATE => Ok(Box::new(DeflateDecoder::new(packed))),
            _ => refused("it is compressed by another method than deflate"),
        }
    }
}

/// What the tensors of an archive of `len` bytes may take in memory.
pub(super) fn memory_limit(len: u64) -> u64 {
    len.saturating_mul(MEMORY_FACTOR).saturating_add(MEMORY_FLOOR)
}

/// The folder of `marker`, the outermost one when there are several.
fn root(entries: &HashMap<String, Entry>, marker: &str, of: &str) -> Result<String, Problem> {
    let folders = entries.keys().filter_map(|name| name.strip_suffix(marker));
    let roots = folders.filter(|root| root.is_empty() || root.ends_with('/'));
    roots
        .min_by_key(|root| (root.len(), *root))
        .map(str::to_owned)
        .ok_or_else(|| Problem::Unrecognised { found: format!("a zip archive without {of}") })
}

fn place(name: &str) -> String {
    format!("entry `{name}`")
}

fn zip_problem(place: &str, error: rawzip::Error) -> Problem {
    match error.into_kind() {
        ErrorKind::IO(error) => Problem::read(place, error),
        ErrorKind::Eof => Problem::damaged(place, "the file ends here"),
        other => Problem::damaged(place, rawzip::Error::from(other).to_string()),
    }
}
