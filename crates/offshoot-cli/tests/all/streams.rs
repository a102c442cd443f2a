//! Standard output and standard error that cannot be written: full disks, readers that left.

#![cfg(target_os = "linux")]

use std::fs::OpenOptions;
use std::io::{Read as _, pipe};
use std::process::Stdio;

use crate::support::World;

/// Where a stream goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sink {
    Nowhere,
    /// A device without room.
    Full,
    /// A pipe that nobody reads.
    Left,
}

fn stdio(sink: Sink) -> Stdio {
    match sink {
        Sink::Nowhere => Stdio::null(),
        Sink::Full => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        Sink::Left => pipe().unwrap().1.into(),
    }
}

/// The exit code of a command whose streams go there.
fn code(world: &World, command: &str, out: Sink, err: Sink) -> i32 {
    world.command(command).stdout(stdio(out)).stderr(stdio(err)).status().unwrap().code().unwrap()
}

/// One of each command, which all print a result, and the files that it leaves.
const COMMANDS: [(&str, &[&str]); 19] = [
    (
        "train d --model mobilenet_v2 --size 32 --batch-size 8 --epochs 1 --out new",
        &["new/best.safetensors", "new/report.html"],
    ),
    ("lr-find d --model mobilenet_v2 --size 32 --steps 20 --out new.csv", &["new.csv"]),
    ("eval run", &[]),
    ("eval run d --json", &[]),
    ("predict run d", &[]),
    ("explain run d/red/00.bmp --out new", &["new/00.overlay.png", "new/00.heatmap.png"]),
    ("export run --format onnx,torchscript --out new", &["new"]),
    ("quantize run --mode dynamic --format safetensors --out new.safetensors", &["new.safetensors"]),
    ("verify run/best.safetensors --against run", &[]),
    ("check run d", &[]),
    ("data check d", &[]),
    ("data show d --size 32 --out new.png", &["new.png"]),
    ("report run", &[]),
    ("inspect run", &[]),
    ("recipe --model resnet18", &[]),
    ("models --json", &[]),
    ("bench infer --model mobilenet_v2 --size 32 --runs 1", &[]),
    ("--version", &[]),
    ("train --help", &[]),
];

fn forget(world: &World, files: &[&str]) {
    for file in files.iter().map(|file| world.path(file.split('/').next().unwrap())) {
        let _ = std::fs::remove_file(&file).or_else(|_| std::fs::remove_dir_all(&file));
    }
}

#[test]
fn no_stream_that_cannot_be_written_ends_a_command() {
    let world = World::trained();
    for (command, files) in COMMANDS {
        for (out, err) in [
            (Sink::Nowhere, Sink::Full),
            (Sink::Nowhere, Sink::Left),
            (Sink::Left, Sink::Nowhere),
            (Sink::Left, Sink::Left),
        ] {
            assert_eq!(code(world, command, out, err), 0, "{command}: {out:?} {err:?}");
            assert!(files.iter().all(|file| world.path(file).exists()), "{command}");
            forget(world, files);
        }
        // The result is lost: that is said once, after all has been done.
        let mut child =
            world.command(command).stdout(stdio(Sink::Full)).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(2), "{command}: {said}");
        assert_eq!(said.matches("error: standard output: cannot write").count(), 1, "{command}: {said}");
        assert!(!said.contains("panicked"), "{command}: {said}");
        assert!(files.iter().all(|file| world.path(file).exists()), "{command}");
        forget(world, files);
        assert_eq!(code(world, command, Sink::Full, Sink::Full), 2, "{command}");
        forget(world, files);
    }
}

#[test]
fn what_went_wrong_is_in_the_exit_code_whoever_listens() {
    let world = World::trained();
    crate::support::data(&world.path("twice"), &[("a", [9, 9, 9])], 8);
    crate::support::pictures(&world.path("twice/b"), [9, 9, 9], 8);
    for (command, failed) in [
        ("predict nowhere d", 2),
        ("train nowhere --model mobilenet_v2 --json", 2),
        ("train d --no-such-flag --json", 2),
        ("pull ../x", 2),
        ("report d", 2),
        ("no-such-command", 2),
        ("data check twice --strict", 1),
        ("data check twice --strict --json", 1),
    ] {
        let all = [Sink::Nowhere, Sink::Full, Sink::Left];
        for (out, err) in all.into_iter().flat_map(|out| all.map(|err| (out, err))) {
            let failed = if out == Sink::Full { 2 } else { failed };
            assert_eq!(code(world, command, out, err), failed, "{command}: {out:?} {err:?}");
        }
    }
}

#[test]
fn formats_are_measured_where_nobody_listens() {
    let world = World::trained();
    for err in [Sink::Full, Sink::Left] {
        assert_eq!(code(world, "bench formats run --runs 1 --batch 1", Sink::Nowhere, err), 0, "{err:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let world = World::trained();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = world.command("inspect run --json").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("error: standard output: cannot write: No space left"), "{err}");
}
