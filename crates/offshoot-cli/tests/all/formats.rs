//! `bench formats`: one model on every target, from the command line.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{World, cached};

const OURS: [&str; 5] = [
    "offshoot-f32",
    "offshoot-bf16",
    "offshoot-int8-static",
    "offshoot-int8-dynamic",
    "offshoot-torchscript",
];
const OTHERS: [&str; 6] = [
    "onnxruntime-f32",
    "onnxruntime-int8-static",
    "onnxruntime-int8-dynamic",
    "pytorch-f32-optimized",
    "coreml-f16",
    "tensorrt-f16",
];

/// A folder of its own with a copy of the trained run of all tests, and its pictures.
fn world(name: &str) -> World {
    let world = World::new(name);
    let trained = World::trained();
    fs::create_dir_all(world.path("run")).unwrap();
    for file in trained.names("run").into_iter().filter(|file| trained.path("run").join(file).is_file()) {
        world.write(&format!("run/{file}"), trained.read(&format!("run/{file}")));
    }
    world
}

/// What `bench formats` prints with these variables set, and no other runtime to be found.
fn alone(world: &World, arguments: &str, variables: &[(&str, &Path)]) -> Value {
    let mut command = world.command(&format!("bench formats {arguments} --json"));
    command.env("PATH", world.path("nowhere"));
    for name in ["OFFSHOOT_PEERS", "VIRTUAL_ENV", "ORT_DYLIB_PATH"] {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a target.
fn rows<'a>(report: &'a Value, target: &str) -> Vec<&'a Value> {
    report["rows"].as_array().unwrap().iter().filter(|row| row["target"] == target).collect()
}

/// Why a target was not run.
#[track_caller]
fn reason<'a>(report: &'a Value, target: &str) -> &'a str {
    let [row] = rows(report, target)[..] else { panic!("{target}: {report}") };
    assert_eq!(
        (&row["status"], &row["batch"], &row["p50_ms"]),
        (&json!("not run"), &json!(null), &json!(null))
    );
    row["reason"].as_str().unwrap()
}

#[test]
fn our_targets_run_and_the_others_say_why_not() {
    let world = world("alone");
    let report = alone(&world, "run --batch 1,3,1 --runs 6 --threads 1", &[]);
    let targets: Vec<&str> = [&OURS[..], &OTHERS[..]].concat();
    let mut found: Vec<&str> =
        report["rows"].as_array().unwrap().iter().map(|row| row["target"].as_str().unwrap()).collect();
    found.dedup();
    assert_eq!(found, targets);
    for target in OURS {
        let rows = rows(&report, target);
        assert_eq!(rows.iter().map(|row| &row["batch"]).collect::<Vec<_>>(), [1, 3], "{target}");
        for row in rows {
            let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
            assert!(number("p50_ms") > 0.0 && number("p95_ms") >= number("p50_ms"), "{row}");
            let rate = number("batch") * 1e3 / number("p50_ms");
            assert!((number("images_per_second") - rate).abs() < 1e-6 * rate, "{row}");
            assert!(number("bytes") > 1e5 && row["reason"].is_null(), "{row}");
            // Rounding changes little; f32 is what it is compared with.
            let bound = match target {
                "offshoot-f32" => 0.0,
                "offshoot-torchscript" => 1e-4,
                "offshoot-bf16" => 0.1,
                _ => 0.5,
            };
            let difference = number("max_rel_diff");
            assert!(difference <= bound && (bound < 1e-3 || difference > 1e-5), "{row}");
            assert!(number("speedup") > 0.0 && (target != "offshoot-f32" || number("speedup") == 1.0));
        }
    }
    let bytes = |target: &str| rows(&report, target)[0]["bytes"].as_u64().unwrap();
    assert!(2 * bytes("offshoot-int8-static") < bytes("offshoot-f32"), "{report}");
    assert_eq!(bytes("offshoot-bf16"), bytes("offshoot-f32"));
    // The same pictures, the same answers as those that the run was validated with.
    let accuracy = rows(&report, "offshoot-f32")[0]["accuracy"].as_f64().unwrap();
    let results = world.text("run/results.csv");
    let column = results.lines().next().unwrap().split(',').position(|name| name == "val_accuracy").unwrap();
    let validated: f64 = results.lines().nth(1).unwrap().split(',').nth(column).unwrap().parse().unwrap();
    assert!((accuracy - validated).abs() < 1e-6, "{accuracy} {validated}");
    assert_eq!((&report["pictures"], &report["threads"]), (&json!(6), &json!(1)));
    assert_eq!((&report["runs"], &report["warm_up"]), (&json!(6), &json!(3)));
    assert_eq!(report["versions"], json!({"offshoot": env!("CARGO_PKG_VERSION")}));
    for (target, word) in [
        ("onnxruntime-f32", "ORT_DYLIB_PATH"),
        ("onnxruntime-int8-static", "OFFSHOOT_PEERS"),
        ("pytorch-f32-optimized", "no Python with PyTorch"),
        ("coreml-f16", "macOS"),
        ("tensorrt-f16", "NVIDIA"),
    ] {
        assert!(reason(&report, target).contains(word), "{report}");
        assert!(rows(&report, target)[0]["bytes"].as_u64().unwrap() > 1_000_000 || target.contains("int8"));
    }

    // What was measured is in the run and in its report, also when that is written again.
    assert_eq!(serde_json::from_slice::<Value>(&world.read("run/formats.json")).unwrap(), report);
    assert!(!world.path("run/exports").exists());
    for _ in 0..2 {
        let page = world.text("run/report.html");
        for text in
            ["<h2>Formats</h2>", "offshoot-int8-static</td>", "batch 3</span>", "Core ML runs on macOS"]
        {
            assert!(page.contains(text), "{text}");
        }
        fs::remove_file(world.path("run/report.html")).unwrap();
        assert_eq!(world.run("report run").code, Some(0));
    }
    // A damaged file leaves its part out.
    world.write("run/formats.json", "{\"rows\": 3}");
    assert_eq!(world.run("report run").code, Some(0));
    assert!(!world.text("run/report.html").contains("<h2>Formats</h2>"));
}

#[test]
fn a_file_is_measured_too_and_the_files_stay_where_they_are_wanted() {
    let world = world("file");
    world.write("m.safetensors", world.read("run/best.safetensors"));
    let report = alone(&world, "m.safetensors --batch 2 --runs 1 --out out", &[]);
    assert!(reason(&report, "offshoot-int8-static").contains("--data DIR"), "{report}");
    let f32 = rows(&report, "offshoot-f32")[0];
    assert_eq!(
        (&f32["accuracy"], &f32["max_abs_diff"], &report["pictures"]),
        (&json!(null), &json!(0.0), &json!(0))
    );
    let names = [
        "formats.json",
        "mobilenet_v2-dynamic-int8.onnx",
        "mobilenet_v2-dynamic-int8.onnx.manifest.json",
        "mobilenet_v2-tensorrt",
        "mobilenet_v2.mlpackage",
        "mobilenet_v2.mlpackage.manifest.json",
        "mobilenet_v2.onnx",
        "mobilenet_v2.onnx.manifest.json",
        "mobilenet_v2.pt",
        "mobilenet_v2.pt.manifest.json",
    ];
    assert_eq!(world.names("out"), names);
    assert_eq!(serde_json::from_slice::<Value>(&world.read("out/formats.json")).unwrap(), report);
    assert_eq!(f32["bytes"], world.read("out/mobilenet_v2.onnx").len());
    assert_eq!(world.names("."), ["m.safetensors", "out", "run"]);

    // With pictures, in a folder that is split: four fifths calibrate, a fifth is measured on.
    let data = World::trained().path("d");
    let report = alone(&world, &format!("m.safetensors --batch 4 --runs 1 --data {}", data.display()), &[]);
    assert_eq!(report["pictures"], json!(6));
    assert!(rows(&report, "offshoot-int8-static")[0]["accuracy"].is_number(), "{report}");

    let said = world.run("bench formats out/mobilenet_v2-dynamic-int8.onnx");
    assert!(said.code == Some(2) && said.err.contains("quantized already"), "{said:?}");
}

#[test]
fn a_runtime_that_does_not_work_is_a_reason_in_its_row() {
    let world = world("broken");
    world.write("library.so", "no library");
    for (library, word) in [("absent.so", "ORT_DYLIB_PATH="), ("library.so", "failed to load")] {
        let report = alone(&world, "run --batch 1 --runs 1", &[("ORT_DYLIB_PATH", &world.path(library))]);
        for target in &OTHERS[..3] {
            let reason = reason(&report, target);
            assert!(reason.contains(word) && reason.contains(library), "{reason}");
        }
        assert_eq!(rows(&report, "offshoot-f32")[0]["status"], "ran");
    }
}

/// A Python that says it has PyTorch, and then does not do what it should.
#[cfg(unix)]
#[test]
fn a_python_that_ends_early_is_a_reason_in_its_row() {
    use std::os::unix::fs::PermissionsExt;
    let world = world("python");
    for (then, word) in [
        ("exit 3", "ended early (exit status: 3)"),
        ("echo '{\"error\": \"no such operator\"}'", "no such operator"),
        ("echo hello", "unexpected output"),
        (
            "echo '{\"torch\": \"9\"}'; read line; echo '{\"milliseconds\": [1], \"shape\": [99999999999, 3]}'",
            "99999999999",
        ),
    ] {
        let look = "case \"$2\" in *find_spec*) echo '{\"onnxruntime\": null, \"torch\": true}'; exit;; esac";
        world.write("venv/bin/python", format!("#!/bin/sh\n{look}\n{then}\n"));
        fs::set_permissions(world.path("venv/bin/python"), fs::Permissions::from_mode(0o755)).unwrap();
        let report = alone(&world, "run --batch 1 --runs 1", &[("VIRTUAL_ENV", &world.path("venv"))]);
        let reason = reason(&report, "pytorch-f32-optimized");
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let world = world("refused");
    for (flags, word) in [
        ("run --batch 0", "1 to 65536"),
        ("run --batch 1,x", "1 to 65536"),
        ("run --runs 0", "1 to 100000"),
        ("run more", "unexpected argument more"),
        ("absent", "absent"),
        ("run --data absent", "absent"),
        ("", "give MODEL"),
    ] {
        let said = world.run(&format!("bench formats {flags}"));
        assert!(said.code == Some(2) && said.err.contains(word), "{flags}: {said:?}");
    }
    assert!(!world.path("run/formats.json").exists());
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn onnx_runtime_and_pytorch_answer_like_us() {
    let world = world("peers");
    let peers: PathBuf = cached("OFFSHOOT_PEERS", "peers");
    let report = alone(&world, "run --batch 1,5 --runs 3", &[("OFFSHOOT_PEERS", &peers)]);
    for name in ["onnxruntime", "pytorch"] {
        assert!(
            report["versions"][name].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()),
            "{report}"
        );
    }
    for (target, bound, same) in [
        ("onnxruntime-f32", 1e-5, 1.0),
        ("pytorch-f32-optimized", 1e-5, 1.0),
        ("onnxruntime-int8-static", 0.5, 0.0),
        ("onnxruntime-int8-dynamic", 0.5, 0.0),
    ] {
        let rows = rows(&report, target);
        assert_eq!(rows.iter().map(|row| &row["batch"]).collect::<Vec<_>>(), [1, 5], "{report}");
        for row in rows {
            assert!(row["max_rel_diff"].as_f64().unwrap() < bound, "{row}");
            assert!(row["top1_agreement"].as_f64().unwrap() >= same, "{row}");
            assert!(row["p50_ms"].as_f64().unwrap() > 0.0 && row["accuracy"].is_number(), "{row}");
        }
    }
    let accuracy = |target: &str| rows(&report, target)[0]["accuracy"].clone();
    assert_eq!(accuracy("onnxruntime-f32"), accuracy("offshoot-f32"));
}
