//! The parts of an archive: the program, and where its tensors are.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};

use offshoot_graph::{Tensor, Weights};
use serde::de::DeserializeOwned;

use super::SCHEMA;
use super::schema::{ExportedProgram, Payload, PayloadConfig, Size, TensorMeta, Versioned};
use crate::elements::Stored as Element;
use crate::error::Problem;
use crate::import::aten::{Stored, Tensors};
use crate::pth::container::Archive;
use crate::pth::storage;
use crate::pth::values::{ElementType, Heap, Storage, StorageView, TensorView};

/// The program, as a path below the archive's folder.
pub(super) const MODEL: &str = "models/model.json";
const FORMAT: &str = "archive_format";
const VERSION: &str = "archive_version";
/// The program in the layout before these archives.
const OLD_MODEL: &str = "serialized_exported_program.json";

/// The largest entry of JSON, in bytes. The program of a ResNet-152 has 1.5 MB.
const MAX_JSON: u64 = 32 << 20;
/// The most elements of a constant that takes part in arithmetic, and of all of them.
const MAX_CONSTANT: usize = 1 << 16;
const MAX_CONSTANTS: usize = 1 << 20;

const AGAIN: &str = "Save the program again with torch.export.save of a current PyTorch";
/// The weights in the first layout of these archives.
const PICKLED: &str = "data/weights/model.pt";

/// Where the tensors of a kind are.
struct Folder {
    config: &'static str,
    entries: &'static str,
    constant: bool,
}

const FOLDERS: [Folder; 2] = [
    Folder { config: "data/weights/model_weights_config.json", entries: "weights", constant: false },
    Folder { config: "data/constants/model_constants_config.json", entries: "constants", constant: true },
];

/// A tensor of the file.
struct Held {
    name: String,
    constant: bool,
    view: TensorView,
}

/// The tensors of an archive.
pub(super) struct File<R> {
    pub(super) archive: Archive<R>,
    heap: Heap,
    held: Vec<Held>,
    /// Places in `held`, of constants or of the state dict.
    places: HashMap<(bool, String), usize>,
    /// Constants of one or a few elements.
    small: BTreeMap<usize, Tensor>,
}

/// Whether `source` is an archive of `torch.export` of any version.
pub(super) fn is_pt2(mut source: impl Read + Seek) -> bool {
    let mut has = |marker: &str| Archive::marked(&mut source, marker, "").is_ok_and(|a| a.has(marker));
    has(FORMAT) || has(OLD_MODEL)
}

/// The program in `source`, and its tensors.
pub(super) fn open<R: Read + Seek>(mut source: R) -> Result<(ExportedProgram, File<R>), Problem> {
    if Archive::marked(&mut source, OLD_MODEL, "").is_ok() {
        return Err(Problem::unsupported(
            "the archive",
            "it has a layout of earlier versions of PyTorch",
            AGAIN,
        ));
    }
    let archive = Archive::marked(source, FORMAT, "the archive_format of torch.export")?;
    let word = |name: &str| archive.read(name, 64).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (format, version) = (word(FORMAT)?, word(VERSION)?);
    if format.trim() != "pt2" || version.trim() != "0" {
        let what =
            format!("it is of the format `{format:.20}`, version `{version:.20}`, not `pt2`, version 0");
        return Err(Problem::unsupported("the archive", what, AGAIN));
    }
    if !archive.has(MODEL) {
        let what = "it holds no exported program, as a package of compiled code has none";
        let way_out = "Give a file that torch.export.save wrote";
        return Err(Problem::unsupported("the archive", what, way_out));
    }
    if archive.has(PICKLED) {
        return Err(Problem::unsupported(PICKLED, "its weights are a pickle, which is not read", AGAIN));
    }
    let program = program(&archive)?;
    let mut file = File {
        archive,
        heap: Heap::default(),
        held: Vec::new(),
        places: HashMap::new(),
        small: BTreeMap::new(),
    };
    for folder in &FOLDERS {
        let config: PayloadConfig = json(&file.archive.read(folder.config, MAX_JSON)?, folder.config)?;
        for (name, payload) in config.config {
            file.add(folder, name, &payload)?;
        }
    }
    file.small = file.small_constants()?;
    Ok((program, file))
}

fn program<R: Read + Seek>(archive: &Archive<R>) -> Result<ExportedProgram, Problem> {
    let bytes = archive.read(MODEL, MAX_JSON)?;
    let version = json::<Versioned>(&bytes, MODEL)?.schema_version;
    if version.major != SCHEMA.0 {
        let (major, minor) = (version.major, version.minor);
        let what = format!("its schema has the version {major}.{minor}, and only {}.x is read", SCHEMA.0);
        let way_out =
            "Save the program again with torch.export.save of PyTorch 2.15, or export the model to ONNX";
        return Err(Problem::unsupported(MODEL, what, way_out));
    }
    json(&bytes, MODEL)
}

fn json<T: DeserializeOwned>(bytes: &[u8], place: &str) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|e| {
        let text = e.to_string();
        // Of a union serde lists all members.
        let what =
            text.split(", expected one of").next().unwrap_or_default().chars().take(200).collect::<String>();
        Problem::damaged(place, format!("{what} (line {}, column {})", e.line(), e.column()))
    })
}

impl<R: Read + Seek> File<R> {
    /// Notes a tensor, whose numbers are not checked yet.
    fn add(&mut self, folder: &Folder, name: String, payload: &Payload) -> Result<(), Problem> {
        let place = || format!("{}, `{name:.80}`", folder.config);
        let refused = |what: &str, way_out: &str| Err(Problem::unsupported(place(), what, way_out));
        if payload.use_pickle {
            let way_out = "Save a model whose tensors are plain ones, or export it to ONNX";
            return refused("it is stored as a pickle, which is not read", way_out);
        }
        let Some(meta) = &payload.tensor_meta else {
            return Err(Problem::damaged(place(), "it has no `tensor_meta`"));
        };
        // torch.strided
        if meta.layout != 7 {
            return refused(
                "it is no plain tensor: its layout is not strided",
                "Save the model with plain tensors",
            );
        }
        let key = format!("{}/{}", folder.entries, payload.path_name);
        let Some(bytes) = self.archive.size(&format!("data/{key}")) else {
            return Err(Problem::damaged(place(), format!("there is no entry `data/{key:.80}`")));
        };
        let storage = match self.heap.storage_index.get(&key) {
            Some(&storage) => storage,
            None => {
                self.heap.storages.push(Storage { key: key.clone(), bytes, width: 1 });
                self.heap.storage_index.insert(key, self.heap.storages.len() - 1);
                self.heap.storages.len() - 1
            }
        };
        let view = view(meta, StorageView { storage, stored: None, offset: 0, len: bytes });
        let view = view.ok_or_else(|| Problem::damaged(place(), "its sizes are no numbers from 0 up"))?;
        let constant = folder.constant;
        self.places.insert((constant, name.clone()), self.held.len());
        self.held.push(Held { name, constant, view });
        Ok(())
    }

    /// The tensor called `name`, of constants or of the state dict.
    pub(super) fn find(&self, name: &str, constant: bool) -> Option<Stored> {
        let node = *self.places.get(&(constant, name.to_owned()))?;
        Some(Stored { constant, node, transposed: false })
    }

    /// All tensors of the state dict.
    pub(super) fn state_dict(&self) -> Vec<(String, Stored)> {
        let all = self.held.iter().enumerate().filter(|(_, held)| !held.constant);
        let stored = |node| Stored { constant: false, node, transposed: false };
        all.map(|(node, held)| (held.name.clone(), stored(node))).collect()
    }

    /// The elements of tensors, under the names beside them.
    pub(super) fn load(&self, wanted: &[(String, Stored)]) -> Result<Weights, Problem> {
        let found = wanted
            .iter()
            .filter_map(|(name, stored)| Some((name.clone(), &self.held.get(stored.node)?.view)));
        let found: Vec<_> = found.collect();
        let (limit, order) = (self.archive.memory_limit(), self.archive.byte_order()?);
        let bytes = &mut |storage: &Storage| self.archive.storage("data", storage);
        storage::load(&self.heap, &found, storage::Source { bytes, limit, order })
    }

    /// The constants that can take part in arithmetic, and integers that can be places of elements.
    fn small_constants(&self) -> Result<BTreeMap<usize, Tensor>, Problem> {
        let (mut small, mut total) = (Vec::new(), 0usize);
        let known =
            |held: &Held| held.constant || matches!(held.view.stored, Ok(Element::I32 | Element::I64));
        for (node, held) in self.held.iter().enumerate().filter(|(_, held)| known(held)) {
            let elements = self.checked_shape(held)?.iter().product::<usize>();
            if elements <= MAX_CONSTANT && total + elements <= MAX_CONSTANTS {
                total += elements;
                small.push((node.to_string(), Stored { constant: held.constant, node, transposed: false }));
            }
        }
        let loaded = self.load(&small)?;
        Ok(loaded.into_iter().filter_map(|(node, tensor)| Some((node.parse().ok()?, tensor))).collect())
    }

    fn checked_shape(&self, held: &Held) -> Result<Vec<usize>, Problem> {
        storage::shape(&self.heap, &held.name, &held.view)
    }
}

impl<R: Read + Seek> Tensors for File<R> {
    fn shape(&self, stored: Stored) -> Result<Vec<usize>, Problem> {
        match self.held.get(stored.node) {
            Some(held) => self.checked_shape(held),
            None => Err(Problem::damaged("the archive", "there is no such tensor")),
        }
    }

    fn key(&self, stored: Stored) -> String {
        self.held.get(stored.node).map(|held| held.name.clone()).unwrap_or_default()
    }

    fn small(&self, stored: Stored) -> Option<&Tensor> {
        self.small.get(&stored.node)
    }
}

fn view(meta: &TensorMeta, storage: StorageView) -> Option<TensorView> {
    let known = |sizes: &[Size]| sizes.iter().map(Size::known).collect::<Option<Vec<u64>>>();
    Some(TensorView {
        storage,
        stored: element(meta.dtype),
        offset: meta.storage_offset.known()?,
        shape: known(&meta.sizes)?,
        strides: known(&meta.strides)?,
    })
}

/// The elements that a number of the schema's `ScalarType` stands for.
fn element(number: u64) -> ElementType {
    Ok(match number {
        1 => Element::U8,
        2 => Element::I8,
        3 => Element::I16,
        4 => Element::I32,
        5 => Element::I64,
        6 => Element::F16,
        7 => Element::F32,
        8 => Element::F64,
        12 => Element::Bool,
        13 => Element::BF16,
        28 => Element::U16,
        34 => Element::U32,
        other => return Err(format!("type {other} of the schema").into()),
    })
}
