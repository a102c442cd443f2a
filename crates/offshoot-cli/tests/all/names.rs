//! Names of files that are not UTF-8: no picture is lost on the way through a run, and what cannot be kept is refused before the work.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::support::{CLASSES, SMALL, Said, World, bmp};

/// A data set of which every picture has a name that is not UTF-8, some of them with characters that tables treat as their own.
fn odd(world: &World) {
    for (class, colour) in CLASSES {
        let folder = world.path("d").join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..10 {
            let name = [b"\xff", format!("{index},\"\n").as_bytes(), b"\xfe.bmp"].concat();
            fs::write(folder.join(OsStr::from_bytes(&name)), bmp(colour, index)).unwrap();
        }
    }
}

/// Runs a command, with more arguments that are bytes.
fn run(world: &World, command: &str, more: &[&[u8]]) -> Said {
    let output =
        world.command(command).args(more.iter().map(|bytes| OsStr::from_bytes(bytes))).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!err.contains("panicked"), "{command}: {err}");
    Said { code: output.status.code(), out, err }
}

#[test]
fn no_picture_of_a_run_is_lost_by_its_name() {
    let world = World::new("lost");
    odd(&world);
    let train = format!("train d {SMALL} --epochs 1 --out run");
    let said = world.run(&train);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("24 to train with, 6 to validate with"), "{said:?}");
    let of = |command: &str, key: &str| world.json(command)[key].as_u64().unwrap();
    assert_eq!((of("eval run", "images"), of("eval run", "skipped")), (6, 0));
    assert_eq!((of("eval run d", "images"), of("check run d", "images")), (30, 30));
    assert_eq!(of("data check d", "images"), 30);
    let said = world.run("predict run d --json");
    assert_eq!((said.code, said.out.lines().count()), (Some(0), 30), "{said:?}");
    assert!(said.out.contains(r#"\\xff0,\"\n\\xfe.bmp"#), "{}", said.out);
    // Calibrated on the run's own pictures, and measured on them.
    let quantized = world.json("quantize run --mode static --calibration-pictures 24 --out q.onnx");
    assert!(quantized["accuracy"].is_number(), "{quantized}");
    let said = world.run("quantize run --mode static --out q.onnx");
    assert!(!said.err.contains("skipped"), "{said:?}");
    let formats = world.json("bench formats run --runs 1 --batch 1");
    assert_eq!(formats["pictures"], 6, "{formats}");
    assert_eq!(world.run("report run").code, Some(0));
    let page = world.text("run/report.html");
    for part in ["Pictures with the highest loss", "Confusion", "data:image/jpeg"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("data:image/jpeg").count(), 6);
    // The same pictures, and then one more.
    let longer = world.run(&format!("{train} --resume"));
    assert_eq!(longer.code, Some(0), "{longer:?}");
    assert_eq!(world.run("data show d --size 32 --out s.png").code, Some(0));
    assert_eq!(world.run("lr-find d --model mobilenet_v2 --size 32 --steps 20").code, Some(0));
}

#[test]
fn a_class_that_is_not_utf_8_is_refused_by_every_command() {
    let world = World::new("classes");
    fs::write(world.path("m.safetensors"), World::trained().read("run/best.safetensors")).unwrap();
    crate::support::data(&world.path("d"), &CLASSES, 3);
    let odd: PathBuf = world.path("d").join(OsStr::from_bytes(b"re\xffd"));
    crate::support::pictures(&odd, [9, 9, 9], 3);
    for command in [
        "train d --model mobilenet_v2",
        "lr-find d --model mobilenet_v2",
        "data check d",
        "data show d",
        "eval m.safetensors d",
        "check m.safetensors d",
        "bench formats m.safetensors --data d",
        "quantize m.safetensors --mode static --calibration d --data d",
    ] {
        let said = world.run(command);
        assert_eq!(said.code, Some(2), "{command}: {said:?}");
        assert!(said.err.contains("re\\xffd: the name of a class must be UTF-8"), "{command}: {said:?}");
    }
    assert_eq!(fs::read_dir(world.path("d")).unwrap().count(), 4);
    assert!(!world.path("runs").exists());
}

#[test]
fn other_names_work_or_are_refused_before_the_work() {
    let world = World::new("others");
    crate::support::data(&world.path("d"), &CLASSES, 10);
    fs::write(world.path("m.safetensors"), World::trained().read("run/best.safetensors")).unwrap();
    fs::write(world.root.join(OsStr::from_bytes(b"w\xff.safetensors")), world.read("m.safetensors")).unwrap();
    let train = format!("train d {SMALL} --epochs 1");
    for (command, flag, value) in [
        (&*train, "--out", &b"r\xff"[..]),
        (&format!("{train} --out r"), "--weights", b"w\xff.safetensors"),
        ("pull resnet18", "--out", b"w\xff"),
    ] {
        let said = run(&world, command, &[flag.as_bytes(), value]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("the name is not UTF-8") && said.err.contains("\\xff"), "{said:?}");
    }
    for (command, value) in [
        ("data show d --size 32", &b"s\xff.png"[..]),
        ("lr-find d --model mobilenet_v2 --steps 20", b"l\xff.csv"),
    ] {
        let said = run(&world, command, &[b"--out", value]);
        assert!(said.code == Some(2) && said.err.contains("invalid UTF-8"), "{said:?}");
    }
    assert_eq!(fs::read_dir(&world.root).unwrap().count(), 3, "something was made");
    let recipe = "model = \"mobilenet_v2\"\ndata = \"d\"\nepochs = 1\n";
    fs::write(world.root.join(OsStr::from_bytes(b"r\xff.toml")), recipe).unwrap();
    for (command, flag, value) in [
        (format!("{train} --freeze backbone --out r1 --json"), "--cache-dir", &b"c\xff"[..]),
        (format!("{train} --freeze backbone --out r2 --json"), "--cache-dir", b"c\xff"),
        ("train --size 32 --out r3 --json".into(), "--recipe", b"r\xff.toml"),
        ("export m.safetensors --format onnx,torchscript,coreml --json".into(), "--out", b"o\xff"),
        ("quantize m.safetensors --mode dynamic --json".into(), "--out", b"o\xff.onnx"),
        ("inspect --json".into(), "--", b"w\xff.safetensors"),
        ("verify --against m.safetensors --json".into(), "--", b"w\xff.safetensors"),
    ] {
        let said = run(&world, &command, &[flag.as_bytes(), value]);
        assert_eq!(said.code, Some(0), "{command}: {said:?}");
        said.json();
        if flag != "--" {
            assert!(world.root.join(OsStr::from_bytes(value)).exists(), "{command}");
        }
    }
}
