//! `offshoot check`: what is healthy passes, and each thing that is broken is named.

use std::fs;

use offshoot_formats::safetensors;
use offshoot_graph::Tensor;
use serde_json::json;

use crate::support::{CLASSES, SMALL, World, bmp, data};

/// A model near its first weights in `run`, and pictures in `d`.
fn world(name: &str) -> World {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, 4);
    let said =
        world.run(&format!("train d {SMALL} --freeze backbone --lr 1e-4 --augment off --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    world
}

/// `run`'s weights with `change` made to the tensor `key`, as `broken.safetensors`.
fn broken(world: &World, key: &str, change: impl FnOnce(&mut [f32])) {
    let mut file = safetensors::read(&world.path("run/best.safetensors")).unwrap();
    change(file.weights.get_mut(key).and_then(Tensor::as_f32_mut).unwrap());
    safetensors::write(&world.path("broken.safetensors"), &file.weights, &file.metadata["offshoot"]).unwrap();
}

#[test]
fn a_healthy_model_passes_and_nothing_is_written() {
    let world = world("healthy");
    let names = || [world.names("."), world.names("run"), world.names("d")];
    let before = (names(), world.read("run/best.safetensors"));
    let report = world.json("check run d");
    assert_eq!((&report["healthy"], &report["problems"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(
        (&report["images"], &report["unreadable"], &report["nonfinite"]),
        (&json!(12), &json!(0), &json!(null))
    );
    assert!((report["guess"].as_f64().unwrap() - 3f64.ln()).abs() < 1e-12);
    let blocks = report["blocks"].as_array().unwrap();
    assert_eq!(blocks[0]["name"], "features.0");
    assert_eq!(blocks.last().unwrap()["parameters"], json!(1280 * 3 + 3));
    let squares: f64 = blocks.iter().map(|b| b["gradient_norm"].as_f64().unwrap().powi(2)).sum();
    let norm = report["gradient_norm"].as_f64().unwrap();
    assert!(norm > 0.0 && (squares.sqrt() - norm).abs() < 1e-9 * norm, "{norm}");
    assert_eq!(before, (names(), world.read("run/best.safetensors")));

    let said = world.run("check run d");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.ends_with("healthy\n") && said.out.contains("features.18"), "{}", said.out);
}

#[test]
fn what_is_broken_in_a_model_is_named() {
    let world = world("broken");
    broken(&world, "features.5.conv.1.0.weight", |w| w[3] = f32::INFINITY);
    let said = world.run("check broken.safetensors d --json");
    assert_eq!(said.code, Some(1), "{said:?}");
    let report = said.json();
    let found = &report["nonfinite"]["node"];
    assert_eq!((&found["node"], &found["op"]), (&json!("features.5.conv.1.0"), &json!("Conv")), "{report}");
    let said = world.run("check broken.safetensors d");
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("made by node `features.5.conv.1.0` (Conv)"), "{}", said.out);
    assert!(said.out.contains("parameter `features.5.conv.1.0.weight`"), "{}", said.out);

    // A batch norm that gives -1 everywhere kills the activation behind it and the gradient before it.
    let mut file = safetensors::read(&world.path("run/best.safetensors")).unwrap();
    for (key, value) in [("features.0.1.weight", 0.0), ("features.0.1.bias", -1.0)] {
        file.weights.get_mut(key).and_then(Tensor::as_f32_mut).unwrap().fill(value);
    }
    safetensors::write(&world.path("broken.safetensors"), &file.weights, &file.metadata["offshoot"]).unwrap();
    let said = world.run("check broken.safetensors d");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("the layer is dead"), "{}", said.out);
    assert!(said.out.contains("no gradient reaches the weights of `features.0`"), "{}", said.out);

    broken(&world, "classifier.1.bias", |bias| bias[0] = -50.0);
    let said = world.run("check broken.safetensors d");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("more than random guessing gives (1.099)"), "{}", said.out);
}

#[test]
fn what_is_broken_around_a_model_is_named() {
    let world = world("around");
    let said = world.run("check run d --mean 123.7,116.3,103.5");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("from pixels of 0..1; give --mean on that scale"), "{}", said.out);

    let whole = bmp([1, 2, 3], 1);
    fs::write(world.path("d/red/zz.bmp"), &whole[..200]).unwrap();
    let said = world.run("check run d");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("problem: d/red/zz.bmp") && said.out.contains("1 problem\n"), "{}", said.out);
    fs::remove_dir_all(world.path("d/red")).unwrap();
    let said = world.run("check run d");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("note: no picture of 1 of the model's classes: red"), "{}", said.out);

    data(&world.path("d"), &[("violet", [100, 0, 200])], 2);
    let said = world.run("check run d");
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    assert!(said.err.contains("the model does not know \"violet\""), "{}", said.err);
    let said = world.run("check no.safetensors d");
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
}
