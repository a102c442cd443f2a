//! The two layouts of `torch.save`: where the pickle is, and where the bytes of the storages are.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use super::Layout;
pub(crate) use super::archive::Archive;
use super::archive::memory_limit;
use super::input::Input;
use super::pickle::{self, Pickled};
use super::values::{Heap, Node, Storage, Value};
use crate::content::{Content, sniff};
use crate::elements::ByteOrder;
use crate::error::Problem;

/// The number 0x1950a86a20f9469cfc6c that begins a legacy file, little-endian.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// The bytes of the storages of a file.
pub(crate) struct Container<R> {
    files: Files<R>,
    /// The most bytes that may be read into memory, see [`MEMORY_FACTOR`](super::MEMORY_FACTOR).
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
        Content::LiteRt => Err(Problem::Unrecognised { found: "a LiteRT model, not a .pth".into() }),
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

// --- zip ---

fn open_zip<R: Read + Seek>(source: BufReader<R>, len: u64) -> Result<(Container<R>, Pickled), Problem> {
    let archive = Archive::new(source, len)?;
    if archive.has("constants.pkl") {
        let way_out = "Save the weights of the model it was made from: torch.save(model.state_dict(), ..)";
        return Err(Problem::unsupported("the archive", "a TorchScript program, not a state dict", way_out));
    }
    let pickled = archive.pickle("data.pkl")?;
    let order = archive.byte_order()?;
    Ok((Container { files: Files::Zip(archive), limit: memory_limit(len), order }, pickled))
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
