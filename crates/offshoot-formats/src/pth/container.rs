//! The two layouts of `torch.save`: where the pickle is, and where the bytes of the storages are.

use std::collections::HashMap;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config, ZipReadOptions};
use zip::result::ZipError;

use super::input::Input;
use super::pickle::{self, Pickled};
use super::values::{Heap, Node, Storage, Value};
use super::{Layout, MAX_PICKLE_BYTES, MEMORY_FACTOR, MEMORY_FLOOR};
use crate::content::{Content, sniff};
use crate::elements::ByteOrder;
use crate::error::Problem;

/// The number 0x1950a86a20f9469cfc6c that begins a legacy file, little-endian.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// The bytes of the storages of a file.
pub(crate) struct Container<R> {
    files: Files<R>,
    /// The most bytes that may be read into memory, see [`MEMORY_FACTOR`].
    pub(crate) limit: u64,
    /// The byte order of the elements.
    pub(crate) order: ByteOrder,
}

enum Files<R> {
    Zip(Archive<R>),
    Legacy {
        source: BufReader<R>,
        /// Where the element count of a storage is, by key; its bytes follow.
        places: HashMap<String, u64>,
    },
}

/// Opens a file of either layout and reads its pickle.
pub(crate) fn open<R: Read + Seek>(source: R) -> Result<(Container<R>, Pickled), Problem> {
    let failed = |error| Problem::Io { action: "read", error };
    let mut source = BufReader::new(source);
    let len = source.seek(SeekFrom::End(0)).map_err(failed)?;
    match sniff(&mut source, None)? {
        Content::Zip => open_zip(source, len),
        Content::Pickle => open_legacy(source, len),
        Content::Safetensors => Err(Problem::Unrecognised { found: "a safetensors file, not a .pth".into() }),
        Content::Onnx => Err(Problem::Unrecognised { found: "an ONNX model, not a .pth".into() }),
    }
}

impl<R: Read + Seek> Container<R> {
    pub(crate) fn layout(&self) -> Layout {
        match self.files {
            Files::Zip(_) => Layout::Zip,
            Files::Legacy { .. } => Layout::Legacy,
        }
    }

    /// The bytes of `storage`. The caller has checked its size against [`Container::limit`].
    pub(crate) fn bytes(&mut self, storage: &Storage) -> Result<Vec<u8>, Problem> {
        match &mut self.files {
            Files::Zip(archive) => archive.storage("data", storage),
            Files::Legacy { source, places } => read_legacy_storage(source, places, storage),
        }
    }
}

fn memory_limit(len: u64) -> u64 {
    len.saturating_mul(MEMORY_FACTOR).saturating_add(MEMORY_FLOOR)
}

// --- zip ---

fn open_zip<R: Read + Seek>(source: BufReader<R>, len: u64) -> Result<(Container<R>, Pickled), Problem> {
    let mut archive = Archive::new(source, len)?;
    if archive.has("constants.pkl") {
        let way_out = "Save the weights of the model it was made from: torch.save(model.state_dict(), ..)";
        return Err(Problem::unsupported("the archive", "a TorchScript program, not a state dict", way_out));
    }
    let pickled = archive.pickle("data.pkl")?;
    let order = archive.byte_order()?;
    Ok((Container { files: Files::Zip(archive), limit: memory_limit(len), order }, pickled))
}

/// A zip archive as PyTorch writes them: everything in one folder, with `data.pkl` in it.
pub(crate) struct Archive<R> {
    zip: ZipArchive<BufReader<R>>,
    /// The folder with its slash.
    root: String,
    /// Bytes of the archive.
    len: u64,
}

impl<R: Read + Seek> Archive<R> {
    /// The archive in the `len` bytes of `source`.
    pub(crate) fn new(source: BufReader<R>, len: u64) -> Result<Archive<R>, Problem> {
        // Nothing stands before the archive. The zip64 records that PyTorch writes beside plain ones mislead a reader
        // that looks for a start: it can take the second entry for the first.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip =
            ZipArchive::with_config(config, source).map_err(|e| zip_problem("the archive's directory", e))?;
        let root = root(&zip)?;
        Ok(Archive { zip, root, len })
    }

    /// The most bytes that the tensors of this archive may take in memory, see [`MEMORY_FACTOR`].
    pub(crate) fn memory_limit(&self) -> u64 {
        memory_limit(self.len)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{}{name}", self.root)).is_some()
    }

    /// The whole entry `name` of at most `limit` bytes.
    pub(crate) fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, Problem> {
        let name = format!("{}{name}", self.root);
        read_entry(&mut self.zip, &name, self.len, |size| match size <= limit {
            true => Ok(()),
            false => Err(format!("it claims {size} bytes, above the limit of {limit}")),
        })
    }

    /// What the pickle `name` describes.
    pub(crate) fn pickle(&mut self, name: &'static str) -> Result<Pickled, Problem> {
        let bytes = self.read(name, MAX_PICKLE_BYTES)?;
        pickle::read(&mut Input::new(Cursor::new(&bytes), bytes.len() as u64, name))
    }

    /// The bytes of a storage, which is a file in `folder`.
    pub(crate) fn storage(&mut self, folder: &str, storage: &Storage) -> Result<Vec<u8>, Problem> {
        let name = format!("{}{folder}/{}", self.root, storage.key);
        read_entry(&mut self.zip, &name, self.len, |size| match size == storage.bytes {
            true => Ok(()),
            false => Err(format!("the pickle claims {} bytes and the entry {size}", storage.bytes)),
        })
    }

    /// The byte order of the storages.
    pub(crate) fn byte_order(&mut self) -> Result<ByteOrder, Problem> {
        match self.has("byteorder") {
            true => byte_order(&mut self.zip, &format!("{}byteorder", self.root), self.len),
            false => Ok(ByteOrder::Little),
        }
    }
}

/// The folder of `data.pkl`, the outermost one when there are several.
fn root<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String, Problem> {
    let mut roots: Vec<String> = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(|e| zip_problem("the archive's directory", e))?;
        if let Some(root) = name.strip_suffix("data.pkl")
            && (root.is_empty() || root.ends_with('/'))
        {
            roots.push(root.to_owned());
        }
    }
    roots.into_iter().min_by_key(String::len).ok_or_else(|| Problem::Unrecognised {
        found: "a zip archive without the data.pkl of torch.save".into(),
    })
}

fn byte_order<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    len: u64,
) -> Result<ByteOrder, Problem> {
    let text = read_entry(archive, name, len, |size| match size <= 64 {
        true => Ok(()),
        false => Err(format!("it claims {size} bytes for one word")),
    })?;
    match text.trim_ascii() {
        b"little" => Ok(ByteOrder::Little),
        b"big" => Ok(ByteOrder::Big),
        _ => Err(Problem::damaged(entry(name), "neither `little` nor `big`")),
    }
}

fn entry(name: &str) -> String {
    format!("entry `{name}`")
}

/// The whole entry `name`, after `check` has agreed to the size that it claims.
fn read_entry<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    file_len: u64,
    check: impl Fn(u64) -> Result<(), String>,
) -> Result<Vec<u8>, Problem> {
    let index = archive
        .index_for_name(name)
        .ok_or_else(|| Problem::damaged("the archive", format!("there is no entry `{name}`")))?;
    // PyTorch can be told to write no checksums; zero stands for that, as in torch.load.
    let unchecked = archive.by_index_raw(index).map_err(|e| zip_problem(&entry(name), e))?.crc32() == 0;
    let options = ZipReadOptions::new().ignore_crc32(unchecked);
    let mut file = archive.by_index_with_options(index, options).map_err(|e| zip_problem(&entry(name), e))?;
    let size = file.size();
    check(size).map_err(|what| Problem::damaged(entry(name), what))?;

    // A compressed entry may claim any size: what is reserved ahead is limited, and grows as bytes arrive.
    let mut bytes = Vec::with_capacity(size.min(file_len) as usize);
    file.by_ref().take(size).read_to_end(&mut bytes).map_err(|e| Problem::read(entry(name), e))?;
    // The reader checks the checksum when it meets the end.
    let more = file.read(&mut [0]).map_err(|e| Problem::read(entry(name), e))?;
    if bytes.len() as u64 != size || more != 0 {
        let what = format!("it claims {size} bytes and holds {}", if more == 0 { "fewer" } else { "more" });
        return Err(Problem::damaged(entry(name), what));
    }
    Ok(bytes)
}

fn zip_problem(place: &str, error: ZipError) -> Problem {
    match error {
        ZipError::Io(error) => Problem::read(place, error),
        ZipError::UnsupportedArchive(what) => Problem::unsupported(
            place,
            what,
            "Save the weights again with torch.save, which writes plain entries",
        ),
        other => Problem::damaged(place, other.to_string()),
    }
}

// --- legacy ---

fn open_legacy<R: Read + Seek>(source: BufReader<R>, len: u64) -> Result<(Container<R>, Pickled), Problem> {
    let mut input = Input::new(source, len, "the pickle");
    let magic = pickle::read(&mut input)?.root;
    if !matches!(&magic, Value::BigInt(bytes) if **bytes == LEGACY_MAGIC) {
        return Err(Problem::Unrecognised { found: "a pickle that torch.save did not write".into() });
    }
    let protocol = pickle::read(&mut input)?.root;
    if !matches!(protocol, Value::Int(LEGACY_PROTOCOL)) {
        return Err(Problem::unsupported(
            "the file",
            "a version of the legacy layout other than 1001",
            "Load it in PyTorch and save it again",
        ));
    }
    pickle::read(&mut input)?; // facts about the machine that wrote it; the storages are little-endian on all
    let pickled = pickle::read(&mut input)?;
    let keys = pickle::read(&mut input)?;
    let places = legacy_places(&pickled.heap, &keys, input.position(), len)?;
    let files = Files::Legacy { source: input.into_source(), places };
    Ok((Container { files, limit: memory_limit(len), order: ByteOrder::Little }, pickled))
}

/// Where each storage begins: they follow each other in the order of `keys`, each after its element count.
fn legacy_places(heap: &Heap, keys: &Pickled, start: u64, len: u64) -> Result<HashMap<String, u64>, Problem> {
    let wrong = |what: String| Problem::damaged("the list of storages", what);
    let Some(Node::List(names)) = keys.heap.node(&keys.root) else {
        return Err(wrong("it is no list".into()));
    };
    let mut places = HashMap::with_capacity(names.len());
    let mut place = start;
    for name in names {
        let Value::Text(name) = name else { return Err(wrong("a key is no text".into())) };
        let storage = heap
            .storage_index
            .get(&**name)
            .map(|&at| &heap.storages[at])
            .ok_or_else(|| wrong(format!("no tensor refers to storage `{name}`")))?;
        let end = place.checked_add(8).and_then(|p| p.checked_add(storage.bytes)).filter(|&end| end <= len);
        let end = end.ok_or_else(|| {
            let (bytes, left) = (storage.bytes, len.saturating_sub(place));
            wrong(format!("storage `{name}` claims {bytes} bytes where {left} are left"))
        })?;
        if places.insert(name.to_string(), place).is_some() {
            return Err(wrong(format!("storage `{name}` is listed twice")));
        }
        place = end;
    }
    match place == len {
        true => Ok(places),
        false => Err(wrong(format!("{} bytes follow the last storage", len - place))),
    }
}

fn read_legacy_storage<R: Read + Seek>(
    source: &mut BufReader<R>,
    places: &HashMap<String, u64>,
    storage: &Storage,
) -> Result<Vec<u8>, Problem> {
    let name = format!("storage `{}`", storage.key);
    let &place =
        places.get(&storage.key).ok_or_else(|| Problem::damaged(&name, "the file does not list it"))?;
    let mut read = || -> std::io::Result<(u64, Vec<u8>)> {
        source.seek(SeekFrom::Start(place))?;
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        let mut bytes = vec![0; storage.bytes as usize]; // within the file: see `legacy_places`
        source.read_exact(&mut bytes)?;
        Ok((u64::from_le_bytes(count), bytes))
    };
    let (count, bytes) = read().map_err(|e| Problem::read(&name, e))?;
    if count.checked_mul(storage.width) != Some(storage.bytes) {
        let what =
            format!("it holds {count} elements and the pickle claims {}", storage.bytes / storage.width);
        return Err(Problem::damaged(name, what));
    }
    Ok(bytes)
}
