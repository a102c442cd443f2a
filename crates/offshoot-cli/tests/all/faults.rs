//! Commands whose file system fails: disks that fill up, reads and writes that break, calls that are interrupted, missing permissions.
//!
//! `faults/inject.c` stands between the binary and the C library and makes the n-th call of a kind fail. Whatever n is, a command
//! ends well or with one error that names a file, leaves no temporary file, and the same command (or `--resume`) then ends with the
//! bytes that it would have given without the fault.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;

use crate::support::{CLASSES, SMALL, Said, World, data};

/// The kinds of calls, and what each fails with.
const FAULTS: [(&str, &str); 9] = [
    ("open", "EACCES"),
    ("open", "EIO"),
    ("create", "EACCES"),
    ("create", "ENOSPC"),
    ("read", "EIO"),
    ("write", "ENOSPC"),
    ("write", "EIO"),
    ("sync", "EIO"),
    ("mkdir", "EACCES"),
];

/// What a program must not notice.
const HARMLESS: [(&str, &str); 5] =
    [("read", "SHORT"), ("write", "SHORT"), ("read", "EINTRS"), ("write", "EINTRS"), ("open", "EINTRS")];

/// The library that injects faults, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inject.so");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .expect("the C compiler that Rust links with");
        assert!(status.success());
        library
    })
}

/// A call that fails: which kind, with what, and the first that does (0: none).
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    error: &'static str,
    nth: usize,
}

const NONE: Fault = Fault { call: "read", error: "EIO", nth: 0 };

/// A command, the folders whose files fail, what it makes, and the command that goes on after a fault.
struct Case {
    name: &'static str,
    command: String,
    under: &'static [&'static str],
    made: &'static str,
    again: Vec<String>,
}

impl Case {
    fn with(&self, command: &mut Command, world: &World, fault: Fault) {
        let under: Vec<String> =
            self.under.iter().map(|folder| world.path(folder).display().to_string()).collect();
        command
            .env("LD_PRELOAD", library())
            .env("FAULT_UNDER", under.join(":"))
            .env("FAULT_CALL", fault.call)
            .env("FAULT_ERROR", fault.error)
            .env("FAULT_NTH", fault.nth.to_string())
            .env("FAULT_COUNT", world.path("count"));
    }

    /// Runs a command of offshoot, or `fetch URL`, with a fault.
    fn run(&self, world: &World, arguments: &str, fault: Fault) -> Said {
        let mut command = match arguments.strip_prefix("fetch ") {
            Some(url) => fetching(world, url),
            None => world.command(arguments),
        };
        self.with(&mut command, world, fault);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Said { code: status.code(), out, err }
    }

    /// The calls of a kind that the command makes where none fails.
    fn calls(&self, world: &World, call: &'static str, start: &dyn Fn(&World)) -> usize {
        start(world);
        let _ = fs::remove_file(world.path("count"));
        let said = self.run(world, &self.command, Fault { call, ..NONE });
        assert_eq!(said.code, Some(0), "{said:?}");
        fs::read_to_string(world.path("count")).map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Fails some calls of every kind, `positions` of each.
    fn check(&self, world: &World, positions: usize, start: &dyn Fn(&World)) {
        start(world);
        let said = self.run(world, &self.command, NONE);
        assert_eq!(said.code, Some(0), "{said:?}");
        let wanted = content(&world.path(self.made));
        for (call, error) in FAULTS {
            let calls = self.calls(world, call, start);
            for nth in places(calls, positions) {
                start(world);
                let fault = Fault { call, error, nth };
                let said = self.run(world, &self.command, fault);
                let what = format!("{}: {fault:?} of {calls}: {said:?}", self.name);
                self.ended(world, &said, &what);
                self.goes_on(world, &said, &wanted, &what);
            }
        }
        for (call, error) in HARMLESS {
            start(world);
            let said = self.run(world, &self.command, Fault { call, error, nth: 1 });
            assert_eq!(said.code, Some(0), "{}: {call} {error}: {said:?}", self.name);
            assert_equal(&content(&world.path(self.made)), &wanted, &format!("{call} {error}: {said:?}"));
        }
    }

    fn ended(&self, world: &World, said: &Said, what: &str) {
        let errors = said.err.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(!said.err.contains("panicked"), "{what}");
        match said.code {
            Some(0) => assert_eq!(errors, 0, "{what}"),
            Some(2) => {
                assert_eq!(errors, 1, "{what}");
                let named = self.under.iter().any(|folder| said.err.contains(folder));
                assert!(named, "no file is named: {what}");
            }
            _ => panic!("{what}"),
        }
        for folder in self.under {
            let left = temporary(&world.path(folder));
            assert!(left.is_empty(), "{left:?} is left: {what}");
        }
    }

    fn goes_on(&self, world: &World, said: &Said, wanted: &Content, what: &str) {
        if said.code != Some(0) {
            let ends: Vec<Said> = self.again.iter().map(|command| self.run(world, command, NONE)).collect();
            assert!(ends.iter().any(|said| said.code == Some(0)), "{what}, then {ends:?}");
        }
        assert_equal(&content(&world.path(self.made)), wanted, what);
    }
}

/// How many calls of a kind are made to fail in turn: `usual`, or what OFFSHOOT_FAULTS says (minutes with 5).
fn positions(usual: usize) -> usize {
    std::env::var("OFFSHOOT_FAULTS").map_or(usual, |count| count.parse().unwrap())
}

/// Calls to fail out of `calls`: the first, the last, and some between; the one in the middle where it is one.
fn places(calls: usize, positions: usize) -> Vec<usize> {
    if positions < 2 {
        return (calls > 0).then_some(calls.div_ceil(2)).into_iter().collect();
    }
    let mut places: Vec<usize> =
        (0..positions).map(|i| 1 + calls.saturating_sub(1) * i / (positions - 1)).collect();
    places.dedup();
    places.retain(|&place| place <= calls);
    places
}

type Content = Vec<(PathBuf, Vec<u8>)>;

/// The files in a folder that two equal commands make equal: not those that tell times, nor the checkpoint before the last, which lies
/// where a resumed run began.
fn content(folder: &Path) -> Content {
    let timed = ["report.html", "results.csv", "log.csv", "previous.state.safetensors"];
    let mut found: Content = files(folder)
        .into_iter()
        .filter(|path| {
            !timed.iter().any(|name| path.ends_with(name)) && !path.iter().any(|p| p == "tensorboard")
        })
        .map(|path| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

#[track_caller]
fn assert_equal(found: &Content, wanted: &Content, what: &str) {
    let names = |content: &Content| content.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(wanted), "{what}");
    for ((path, found), (_, wanted)) in found.iter().zip(wanted) {
        assert!(found == wanted, "{} differs: {what}", path.display());
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What lies in a folder under temporary names.
fn temporary(folder: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &PathBuf| path.to_string_lossy().contains(".tmp");
    files(folder).into_iter().filter(is_temporary).collect()
}

fn remove(world: &World, names: &[&str]) {
    for name in names {
        let _ = fs::remove_dir_all(world.path(name));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

/// A world with pictures in `d`.
fn world(name: &str) -> World {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, 5);
    world
}

const TRAIN: &str = "--freeze backbone --augment off --checkpoint-every 0";

fn train(positions: usize) {
    let world = world(&format!("train{positions}"));
    let command = format!("train d {SMALL} {TRAIN} --epochs 2 --out run");
    let case = Case {
        name: "train",
        again: vec!["train d --resume --out run".into(), command.clone()],
        command,
        under: &["run", "cache"],
        made: "run",
    };
    case.check(&world, positions, &|world| remove(world, &["run", "cache"]));
}

fn resume(positions: usize) {
    let world = world(&format!("resume{positions}"));
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out first"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let command = "train d --resume --out run --epochs 2".to_owned();
    let case = Case { name: "resume", again: vec![command.clone()], command, under: &["run"], made: "run" };
    case.check(&world, positions, &|world| {
        remove(world, &["run"]);
        copy(&world.path("first"), &world.path("run"));
    });
}

fn ship(name: &'static str, command: &str, positions: usize) {
    let world = world(&format!("{name}{positions}"));
    // To calibrate on: other pictures than those that accuracy is measured on.
    data(&world.path("c"), &CLASSES.map(|(class, [r, g, b])| (class, [r ^ 16, g, b])), 3);
    let said = world.run(&format!("train d {SMALL} {TRAIN} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let case = Case {
        name,
        command: command.to_owned(),
        under: &["shipped", "run"],
        made: "shipped",
        again: vec![command.to_owned()],
    };
    case.check(&world, positions, &|world| remove(world, &["shipped"]));
}

/// A process that does nothing but [`fetch`](offshoot::fetch) `url` to the file `got/file`.
fn fetching(world: &World, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_of_its_own_fetches", "--ignored", "--nocapture"]);
    command.current_dir(&world.root).env("FETCH_URL", url);
    command
}

#[test]
#[ignore = "what the test of downloads runs in a process of its own"]
fn a_process_of_its_own_fetches() {
    let Ok(url) = std::env::var("FETCH_URL") else { return };
    // SHA-256 of the million letters `a` (FIPS 180-2, appendix B.3).
    let hash = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    if let Err(error) = offshoot::fetch(&url, hash, "got/file".into(), &mut |_, _| {}) {
        eprintln!("error: {error}");
        std::process::exit(2);
    }
}

/// Serves the million letters `a` to everyone, from the byte that is asked for.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let respond = |mut stream: TcpStream| {
        let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|l| l.to_lowercase()).collect();
        let range = head
            .iter()
            .find_map(|line| line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse().ok());
        let (from, status) = range.map_or((0, "200 OK"), |from: usize| (from, "206 Partial Content"));
        let length = 1_000_000 - from;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-999999/1000000\r\n\
             Connection: close\r\n\r\n"
        )?;
        stream.write_all(&vec![b'a'; length])
    };
    thread::spawn(move || {
        // A client that fails closes its connection early.
        listener.incoming().for_each(|stream| drop(respond(stream.unwrap())));
    });
    url
}

fn download(positions: usize) {
    let world = World::new(&format!("download{positions}"));
    let command = format!("fetch {}", serve());
    let case = Case { name: "download", again: vec![command.clone()], command, under: &["got"], made: "got" };
    case.check(&world, positions, &|world| {
        remove(world, &["got"]);
        fs::create_dir(world.path("got")).unwrap();
    });
}

const EXPORT: &str = "export run --format onnx,torchscript,coreml --out shipped";
const QUANTIZE: &str = "quantize run --mode static --calibration c --data d --out shipped";

#[test]
fn a_run_survives_faults() {
    train(positions(1));
}

#[test]
fn a_resumed_run_survives_faults() {
    resume(positions(1));
}

#[test]
fn an_export_survives_faults() {
    ship("export", EXPORT, positions(1));
}

#[test]
#[ignore = "slow: a hundred runs"]
fn a_quantization_survives_faults() {
    ship("quantize", QUANTIZE, positions(1));
}

#[test]
fn a_download_survives_faults() {
    download(positions(5));
}
