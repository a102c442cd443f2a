//! `offshoot export` and `offshoot verify`: files that are proven, replaced, or refused.

use std::fs;

use serde_json::{Value, json};

use crate::support::{CLASSES, World, assert_shape, data, with_metadata};

#[test]
fn export_proves_its_file_and_verify_agrees() {
    let world = World::new("export");
    let trained = World::trained();
    fs::create_dir(world.path("run")).unwrap();
    for file in ["best.safetensors", "recipe.toml"] {
        fs::copy(trained.path("run").join(file), world.path("run").join(file)).unwrap();
    }
    data(&world.path("d"), &CLASSES, 10);
    let result = world.json("export run --format onnx");
    assert_shape(&result, &[("files", "array")]);
    let file = &result["files"][0];
    let number = "number";
    assert_shape(
        file,
        &[
            ("format", "string"),
            ("path", "string"),
            ("bytes", number),
            ("max_abs_diff", number),
            ("top1_agreement", number),
        ],
    );
    let onnx = "run/exports/mobilenet_v2.onnx";
    assert_eq!((&file["format"], &file["path"]), (&json!("onnx"), &json!(onnx)));
    assert_eq!(file["bytes"], json!(world.read(onnx).len()));
    assert_eq!(file["top1_agreement"], json!(1.0));
    assert_eq!(world.names("run/exports"), ["mobilenet_v2.onnx", "mobilenet_v2.onnx.manifest.json"]);

    for flags in ["", "--data d"] {
        let report = world.json(&format!("verify {onnx} --against run {flags}"));
        assert_shape(
            &report,
            &[
                ("ok", "bool"),
                ("max_abs_diff", number),
                ("max_rel_diff", number),
                ("cosine", number),
                ("top1_agreement", number),
                ("batches", "array"),
            ],
        );
        assert_eq!((&report["ok"], &report["batches"]), (&json!(true), &json!([1, 2, 7, 32])));
        assert!(report["max_rel_diff"].as_f64().unwrap() < 1e-4);
    }
    // The ONNX file is a model like any other, and the same bytes each time.
    assert_eq!(world.json(&format!("eval {onnx} d"))["images"], json!(30));
    let first = world.read(onnx);
    let both = world.json("export run --format torchscript,onnx --out both");
    let names =
        ["onnx", "onnx.manifest.json", "pt", "pt.manifest.json"].map(|end| format!("mobilenet_v2.{end}"));
    assert_eq!(world.names("both"), names);
    let file = &both["files"][0];
    assert_eq!((&file["format"], &file["path"]), (&json!("torchscript"), &json!("both/mobilenet_v2.pt")));
    assert_eq!(file["bytes"], json!(world.read("both/mobilenet_v2.pt").len()));
    assert!(file["max_abs_diff"].as_f64().unwrap() < 1e-5 && file["top1_agreement"] == json!(1.0), "{file}");
    world.json("export both/mobilenet_v2.pt --format torchscript --script --out scripted");
    for pt in ["both/mobilenet_v2.pt", "scripted/mobilenet_v2.pt"] {
        assert_eq!(world.json(&format!("verify {pt} --against run"))["ok"], json!(true));
        assert_eq!(world.json(&format!("eval {pt} d")), world.json("eval run d"));
        assert_eq!(world.json(&format!("inspect {pt}"))["kind"], json!("model"));
    }
    let flags = "--model mobilenet_v2 --weights both/mobilenet_v2.pt --size 32 --epochs 1 --batch-size 8";
    world.json(&format!("train d {flags} --out tuned"));

    world.json("export run --format pt2 --out program");
    let pt2 = "program/mobilenet_v2.pt2";
    assert_eq!(world.json(&format!("verify {pt2} --against run"))["ok"], json!(true));
    assert_eq!(world.json(&format!("eval {pt2} d")), world.json("eval run d"));
    assert_eq!(world.json(&format!("inspect {pt2}"))["kind"], json!("model"));
    let program = world.read(pt2);
    world.json(&format!("export {pt2} --format pt2 --out program/again"));
    assert!(world.read("program/again/mobilenet_v2.pt2") == program);
    let flags = "--model mobilenet_v2 --weights program/mobilenet_v2.pt2 --size 32 --epochs 1 --batch-size 8";
    world.json(&format!("train d {flags} --out tuned-program"));

    world.json("export run/best.safetensors --format onnx --out elsewhere");
    assert!(world.read("elsewhere/mobilenet_v2.onnx") == first);
    world.json(&format!("export {onnx} --format onnx --out again"));
    assert_eq!(world.json("verify again/mobilenet_v2.onnx --against run")["ok"], json!(true));
}

#[test]
fn an_export_replaces_an_earlier_one() {
    let world = World::trained();
    for command in [
        "export run --format onnx --out m.onnx",
        "export run --format coreml --out m.mlpackage",
        "export run --format pt2 --out m.pt2",
        "export run --format onnx,torchscript --out ./",
        "export run --format onnx,torchscript --out new/of/these",
        "export run --format triton --out new/repository",
        "quantize run --mode dynamic --format safetensors --out m.safetensors",
        "quantize m.onnx --mode static --calibration d --out ./m-int8.onnx",
    ] {
        for _ in 0..2 {
            let said = world.run(command);
            assert_eq!(said.code, Some(0), "{command}: {said:?}");
        }
    }
}

#[test]
fn a_failed_export_leaves_nothing_behind_and_the_old_file_whole() {
    let world = World::new("failed-export");
    fs::copy(World::trained().path("run/best.safetensors"), world.path("m.safetensors")).unwrap();
    world.write("old/mobilenet_v2.onnx", "precious");
    world.write("broken/red/a.bmp", &crate::support::bmp([9; 3], 0)[..200]);
    let said = world.run("export m.safetensors --format onnx --out new --data broken");
    assert!(said.code == Some(2) && said.err.contains("could be decoded"), "{said:?}");
    assert!(!world.path("new").exists());
    // What is in the way is found before the pictures are read.
    let said = world.run("export m.safetensors --format onnx --out old --data broken");
    assert!(
        said.code == Some(2) && said.err.contains("old/mobilenet_v2.onnx: there is a file or folder already"),
        "{said:?}"
    );
    assert_eq!(world.text("old/mobilenet_v2.onnx"), "precious");
    assert_eq!(world.names("old"), ["mobilenet_v2.onnx"]);

    fs::create_dir_all(world.path("taken/mobilenet_v2.onnx")).unwrap();
    let said = world.run("export m.safetensors --format onnx --out taken");
    assert!(said.code == Some(2) && said.err.contains("taken/mobilenet_v2.onnx: "), "{said:?}");
    assert_eq!(world.names("taken"), ["mobilenet_v2.onnx"]);
    assert!(world.names("taken/mobilenet_v2.onnx").is_empty());
}

#[test]
fn verify_exits_1_when_models_disagree() {
    let world = World::new("verify");
    let best = World::trained().read("run/best.safetensors");
    world.write("m.safetensors", &best);
    let verify = |file: &str| world.run(&format!("verify {file} --against m.safetensors --json"));
    assert_eq!(verify("m.safetensors").code, Some(0));

    // One weight of the head changed: the last four bytes of the file are a float of some tensor.
    let mut changed = with_metadata(&best, |_| ());
    let header = u64::from_le_bytes(changed[..8].try_into().unwrap()) as usize + 8;
    changed[header..header + 4].copy_from_slice(&30.0_f32.to_le_bytes());
    world.write("changed.safetensors", &changed);
    let said = verify("changed.safetensors");
    assert_eq!((said.code, &said.json()["ok"]), (Some(1), &json!(false)), "{said:?}");
    assert!(said.json()["max_rel_diff"].as_f64().unwrap() > 1e-4);
    let text = world.run("verify changed.safetensors --against m.safetensors");
    assert!(text.code == Some(1) && text.out.contains("DOES NOT match"), "{text:?}");

    // The same numbers with another meaning.
    let renamed = with_metadata(&best, |m| m["classes"] = json!(["red", "green", "blue"]));
    world.write("renamed.safetensors", renamed);
    let said = verify("renamed.safetensors");
    assert_eq!((said.code, &said.json()["ok"]), (Some(1), &json!(false)));
    assert!(said.err.contains("different names or another order: `red` and `blue`"), "{said:?}");
    let other = with_metadata(&best, |m| m["preprocessing"]["fit"] = json!("pad"));
    world.write("padded.safetensors", other);
    let said = verify("padded.safetensors");
    assert!(said.code == Some(1) && said.err.contains("their preprocessing differs"), "{said:?}");

    // Nothing that could be compared.
    let other = with_metadata(&best, |m| m["preprocessing"]["size"] = json!(36));
    world.write("larger.safetensors", other);
    let said = verify("larger.safetensors");
    assert_eq!((said.code, &said.json()["max_abs_diff"]), (Some(1), &Value::Null));
    assert!(said.err.contains("different sizes: 36 and 32"), "{said:?}");
}
