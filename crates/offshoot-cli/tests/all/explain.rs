//! `explain`, and the explanations in a report.

use serde_json::Value;

use crate::support::{SMALL, Said, World, assert_shape};

fn lines(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The size of a PNG.
fn size(png: &[u8]) -> [u32; 2] {
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()))
}

#[test]
fn each_picture_gets_a_map_and_its_class() {
    let world = World::trained();
    let said = world.run("explain run d/red --out maps/of/red --json");
    let found = lines(&said);
    assert_eq!(found.len(), 10);
    let predicted = lines(&world.run("predict run d/red --json --top 1"));
    for (explained, predicted) in found.iter().zip(&predicted) {
        assert_shape(
            explained,
            &[
                ("path", "string"),
                ("class", "string"),
                ("index", "number"),
                ("probability", "number"),
                ("method", "string"),
                ("layer", "string"),
                ("overlay", "string"),
                ("heatmap", "string"),
                ("grid", "array"),
            ],
        );
        assert_eq!(explained["path"], predicted["path"]);
        let best = &predicted["top"][0];
        for key in ["class", "index", "probability"] {
            assert_eq!(explained[key], best[key], "{key}");
        }
        assert_eq!(explained["method"], "layercam");
        let rows = explained["grid"].as_array().unwrap();
        assert!(rows.len() > 1 && rows.iter().all(|row| row.as_array().unwrap().len() == rows.len()));
        let numbers = rows.iter().flat_map(|row| row.as_array().unwrap());
        assert!(numbers.into_iter().all(|x| x.as_f64().is_some_and(|x| x >= 0.0)), "{explained}");
        for key in ["overlay", "heatmap"] {
            let file = explained[key].as_str().unwrap();
            assert!(file.starts_with("maps/of/red/") && file.ends_with(&format!(".{key}.png")), "{file}");
            assert_eq!(size(&world.read(file)), [32, 32]);
        }
    }
    assert_eq!(world.names("maps/of/red").len(), 20);
    // The same again gives the same, in words.
    let again = world.run("explain run d/red --out maps/of/red");
    assert!(
        again.out.starts_with("d/red/00.bmp: ") && again.out.contains("%, layercam of features."),
        "{again:?}"
    );
}

#[test]
fn the_class_the_method_and_the_layer_can_be_chosen() {
    let world = World::trained();
    let of = |flags: &str| {
        lines(&world.run(&format!("explain run d/red/00.bmp --out chosen --json {flags}"))).remove(0)
    };
    let occlusion = of("--method occlusion --class blue");
    assert_eq!((&occlusion["method"], &occlusion["class"]), (&"occlusion".into(), &"blue".into()));
    assert_eq!(occlusion.get("layer"), None);
    // Cells of 3 pixels.
    assert_eq!(occlusion["grid"].as_array().unwrap().len(), 11);
    let layer = of("--method gradcam --layer features.3");
    assert!(layer["layer"].as_str().unwrap().starts_with("features.3."), "{layer}");
    assert_eq!(layer["grid"].as_array().unwrap().len(), 8);
    // A file of the model and its export see the same, whose layers have the same names.
    world.json("export run --format onnx --out chosen.onnx");
    let numbers = |value: &Value| -> Vec<f64> {
        let rows = value["grid"].as_array().unwrap();
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
    };
    let onnx =
        lines(&world.run("explain chosen.onnx d/red/00.bmp --out chosen --json --class red")).remove(0);
    let own = of("--class red");
    let largest = numbers(&own).into_iter().fold(0.0, f64::max);
    let off = numbers(&own).into_iter().zip(numbers(&onnx)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest > 0.0 && off < 1e-3 * largest, "{off} {largest}");
}

#[test]
fn what_cannot_be_explained_is_refused() {
    let world = World::trained();
    for (command, words) in [
        ("explain run --out o", "give pictures"),
        ("explain run d/red --out o --class cat", "--class cat is no class of the model, which has "),
        ("explain run d/red --out o --layer nowhere", "--layer nowhere is no layer of this network"),
        ("explain run d/red --out o --method attention", "--method attention does not fit this network"),
        (
            "explain run d/red --out o --method occlusion --layer features.3",
            "--layer is for gradcam and layercam",
        ),
        ("explain run d/red --out o --method magic", "give auto, gradcam, layercam, attention or occlusion"),
        ("explain run d/red", "--out <DIR>"),
        ("explain run lost.png --out o", "lost.png"),
        ("explain run d/red --out d/red/00.bmp", "d/red/00.bmp"),
    ] {
        let said = world.run(command);
        assert!(said.code == Some(2) && said.err.contains(words), "{command}: {said:?}");
        assert!(!world.path("o").exists(), "{command}");
    }
    // A picture that cannot be read is skipped, or an error.
    world.write("broken/a.bmp", &world.read("d/red/00.bmp")[..100]);
    let said = world.run("explain run broken --out o");
    assert!(said.code == Some(2) && said.err.contains("no picture could be explained"), "{said:?}");
    let said = world.run("explain run broken d/red/00.bmp --out skipping");
    assert!(said.code == Some(0) && said.err.contains("broken/a.bmp"), "{said:?}");
    assert_eq!(world.run("explain run broken d/red/00.bmp --out skipping --strict").code, Some(2));
}

#[test]
fn a_report_shows_explanations_of_its_own_predictions() {
    let world = World::new("report");
    crate::support::data(&world.path("d"), &crate::support::CLASSES, 10);
    world.json(&format!("train d {SMALL} --epochs 1 --out run"));
    let images = |world: &World| world.text("run/report.html").matches("<img").count();
    let before = images(&world);
    assert!(before > 0);
    world.json("report run --explain");
    let page = world.text("run/report.html");
    assert!(images(&world) >= 2 * before, "{} {before}", images(&world));
    assert!(page.contains("rests on, by layercam") && page.len() < 2_000_000, "{}", page.len());
    // They stay in a report that is written again, and not where the predictions are others.
    world.json("report run");
    assert_eq!(world.text("run/report.html"), page);
    let table = world.text("run/predictions.csv");
    world.write("run/predictions.csv", format!("{table}{}\n", table.lines().last().unwrap()));
    world.json("report run");
    assert!(!world.text("run/report.html").contains("rests on"));
    // What is damaged is left out.
    world.write("run/predictions.csv", table);
    world.write("run/explanations.json", "{\"method\":1}");
    let said = world.run("report run");
    assert!(said.code == Some(0) && said.err.contains("explanations.json"), "{said:?}");
    std::fs::remove_file(world.path("run/predictions.csv")).unwrap();
    let said = world.run("report run --explain");
    assert!(said.code == Some(2) && said.err.contains("no predictions of validation pictures"), "{said:?}");
}
