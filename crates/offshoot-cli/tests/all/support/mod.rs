//! Pictures, small runs and the binary, for tests of the command line.

use std::collections::BTreeMap;
use std::fs;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

/// The classes of [`World::data`] and the color of their pictures.
pub(crate) const CLASSES: [(&str, [u8; 3]); 3] =
    [("blue", [40, 40, 200]), ("green", [40, 200, 40]), ("red", [200, 40, 40])];

/// A picture of 24 by 20 pixels near `colour`, as a BMP file; `index` makes it one of its own.
pub(crate) fn bmp([red, green, blue]: [u8; 3], index: u32) -> Vec<u8> {
    let (width, height) = (24u32, 20u32);
    let mut file = Vec::new();
    file.extend(b"BM");
    for field in [54 + width * height * 3, 0, 54, 40, width, height, 24 << 16 | 1] {
        file.extend(field.to_le_bytes());
    }
    file.extend([0; 24]);
    for pixel in 0..width * height {
        let noise = (pixel.wrapping_mul(2_654_435_761) ^ (index + 1).wrapping_mul(40_503)) >> 7;
        file.extend([blue, green, red].map(|c| c.wrapping_add((noise % 50) as u8)));
    }
    file
}

/// Writes `count` pictures of `colour` into `folder`.
pub(crate) fn pictures(folder: &Path, colour: [u8; 3], count: u32) {
    fs::create_dir_all(folder).unwrap();
    for index in 0..count {
        fs::write(folder.join(format!("{index:02}.bmp")), bmp(colour, index)).unwrap();
    }
}

/// Writes a data set of `count` pictures for each of `classes`.
pub(crate) fn data(folder: &Path, classes: &[(&str, [u8; 3])], count: u32) {
    for &(class, colour) in classes {
        pictures(&folder.join(class), colour, count);
    }
}

/// A folder in which commands run.
pub(crate) struct World {
    pub(crate) root: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// An empty folder of its own for the test `name`, a name that is used once in the caller's file.
    #[track_caller]
    pub(crate) fn new(name: &str) -> World {
        let file = Path::new(Location::caller().file()).file_stem().unwrap().to_str().unwrap();
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{file}-{name}"));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        World { root: root.canonicalize().unwrap() }
    }

    /// A folder with pictures in `d` and a run of one epoch in `run`, made once for the tests of the caller's file, which leave
    /// these as they are.
    #[track_caller]
    pub(crate) fn trained() -> &'static World {
        static WORLDS: Mutex<BTreeMap<&str, &'static OnceLock<World>>> = Mutex::new(BTreeMap::new());
        let file = Location::caller().file();
        let world = *WORLDS.lock().unwrap().entry(file).or_insert_with(|| Box::leak(Box::default()));
        world.get_or_init(|| {
            let file = Path::new(file).file_stem().unwrap().to_str().unwrap();
            let world = World::new(&format!("trained-{file}"));
            data(&world.path("d"), &CLASSES, 10);
            let said = world.run(&format!("train d {SMALL} --epochs 1 --out run"));
            assert_eq!(said.code, Some(0), "{said:?}");
            world
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// A message with the paths in this folder made relative.
    pub(crate) fn relative(&self, message: &str) -> String {
        message.replace(&format!("{}/", self.root.display()), "")
    }

    /// The names in a folder, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The binary, in this folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offshoot"));
        command.current_dir(&self.root).args(arguments.split_whitespace());
        // Where Linux looks for the user's folder for caches.
        command.env("XDG_CACHE_HOME", self.root.join("cache"));
        command
    }

    /// Runs `offshoot` with `arguments`, which have spaces between them and none within.
    pub(crate) fn run(&self, arguments: &str) -> Said {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let said = Said { code: status.code(), out, err };
        assert!(!said.err.contains("panicked"), "{arguments}: {said:?}");
        said
    }

    /// Runs a command that must succeed and print one JSON object on one line.
    pub(crate) fn json(&self, arguments: &str) -> Value {
        let said = self.run(&format!("{arguments} --json"));
        assert_eq!(said.code, Some(0), "{arguments}: {said:?}");
        said.json()
    }
}

impl Drop for World {
    /// What a failed test leaves stays there to be looked at.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

impl Said {
    /// The one line on standard output.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.matches('\n').count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A small network, for speed.
pub(crate) const SMALL: &str = "--model mobilenet_v2 --size 32 --batch-size 8";

/// The directory that `variable` names, else `name` in the user's cache of offshoot.
pub(crate) fn cached(variable: &str, name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os(variable).map_or_else(|| home().join(".cache/offshoot").join(name), PathBuf::from)
}

/// Asserts that `value` is an object with exactly these keys, each of the type named: `number`, `string`, `bool`, `array`,
/// `object`.
#[track_caller]
pub(crate) fn assert_shape(value: &Value, keys: &[(&str, &str)]) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    let mut found: Vec<(&str, &str)> = object.iter().map(|(key, v)| (key.as_str(), type_of(v))).collect();
    let mut wanted = keys.to_vec();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A `.safetensors` of ours with `change` made to its header, the JSON of tensors and metadata.
pub(crate) fn with_header(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    if let Some(strings) = header["__metadata__"].as_object_mut() {
        // As a file from before it had a hash: another would be damaged.
        strings.remove("offshoot_sha256");
    }
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, tensors].concat()
}

/// The same with `change` made to our metadata.
pub(crate) fn with_metadata(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    with_header(file, |header| {
        let text = header["__metadata__"]["offshoot"].as_str().unwrap();
        let mut metadata = serde_json::from_str(text).unwrap();
        change(&mut metadata);
        header["__metadata__"]["offshoot"] = metadata.to_string().into();
    })
}
