//! Pictures with any number of classes, from training to every file.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{SMALL, World, assert_shape, bmp};

/// The picture `index`: its reds, greens and blues are its labels.
fn labels(index: u32) -> Vec<&'static str> {
    let all = [("red", 0b1), ("green", 0b10), ("blue", 0b100)];
    all.into_iter().filter(|(_, bit)| index & bit != 0).map(|(name, _)| name).collect()
}

/// A table of 48 pictures.
#[track_caller]
pub(crate) fn world(name: &str) -> World {
    let world = World::new(name);
    let mut table = "path,labels\n".to_owned();
    for index in 0..48 {
        let color = [0b1, 0b10, 0b100].map(|bit| if index & bit != 0 { 190 } else { 20 });
        world.write(&format!("d/{index:02}.bmp"), bmp(color, index));
        writeln!(table, "d/{index:02}.bmp,{}", labels(index).join("|")).unwrap();
    }
    world.write("d.csv", table);
    world
}

/// Whether a value is a number from 0 to 1.
fn is_part(value: &Value) -> bool {
    value.as_f64().is_some_and(|x| (0.0..=1.0).contains(&x))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The classes of a prediction, sorted, from its probabilities.
fn reached(prediction: &Value, thresholds: &Value, classes: &Value) -> Vec<String> {
    let places = classes.as_array().unwrap();
    let of = |guess: &Value| {
        let place = places.iter().position(|class| *class == guess["class"]).unwrap();
        (guess["probability"].as_f64() >= thresholds[place].as_f64())
            .then(|| guess["class"].as_str().unwrap().into())
    };
    let mut found: Vec<String> = prediction["top"].as_array().unwrap().iter().filter_map(of).collect();
    found.sort();
    found
}

#[test]
fn a_model_of_several_labels_goes_all_the_way() {
    let world = world("all");
    let trained = world.json(&format!("train d.csv --task multi {SMALL} --epochs 3 --lr 0.003 --out run"));
    assert_shape(&trained["best"], &[("epoch", "number"), ("val_map", "number")]);
    assert!(is_part(&trained["best"]["val_map"]), "{trained}");
    let results = world.text("run/results.csv");
    assert!(results.starts_with("epoch,train_loss,train_accuracy,val_loss,val_map,"), "{results}");
    let report = world.text("run/report.html");
    for part in
        ["mAP: mean average precision", "AUROC", "threshold", "best validation mAP", "Mean average precision"]
    {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("Confusion") && !report.contains("labels:["), "it is of one class a picture");

    // The run's own pictures have kept their labels.
    let own = world.json("eval run");
    let keys =
        ["map", "f1_micro", "f1_macro", "auroc", "exact", "loss", "images", "skipped"].map(|k| (k, "number"));
    assert_shape(&own, &[&keys[..], &[("per_class", "object")]].concat());
    assert_eq!(own["map"], trained["best"]["val_map"]);
    assert!(is_part(&own["per_class"]["red"]["f1"]), "{own}");
    assert!(is_part(&world.json("eval run d.csv")["map"]));
    assert!(world.run("eval run").out.contains("micro F1"));
    assert!(is_part(&world.json("eval run --tta flip")["map"]));

    let inspected = world.json("inspect run");
    assert_eq!(inspected["task"], "multi");
    let thresholds = numbers(&inspected["thresholds"]);
    assert!(thresholds.len() == 3 && thresholds.iter().all(|t| *t > 0.0 && *t < 1.0), "{thresholds:?}");

    // Probabilities are sigmoids, and labels those that reach their thresholds.
    let said = world.run("predict run d --json --logits");
    let predictions: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(predictions.len(), 48);
    for prediction in &predictions {
        let logits = numbers(&prediction["logits"]);
        for guess in prediction["top"].as_array().unwrap() {
            let logit = logits[guess["index"].as_u64().unwrap() as usize];
            let p = guess["probability"].as_f64().unwrap();
            assert!((p - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{prediction}");
        }
        let mut labels: Vec<String> = serde_json::from_value(prediction["labels"].clone()).unwrap();
        labels.sort();
        assert_eq!(
            labels,
            reached(prediction, &inspected["thresholds"], &inspected["classes"]),
            "{prediction}"
        );
    }
    let all = world.run("predict run d/00.bmp --threshold 0 --json").json();
    assert_eq!(all["labels"].as_array().unwrap().len(), 3);
    let none = world.run("predict run d/07.bmp --threshold 1 --json").json();
    assert_eq!(none["labels"].as_array().unwrap().len(), 0);
    assert!(world.run("predict run d/00.bmp --threshold 1").out.contains(": none; "));

    // Every file has the task and the thresholds.
    let formats = "onnx,torchscript,pt2,coreml,litert,triton";
    let exported = world.json(&format!("export run --format {formats} --out files"));
    for file in exported["files"].as_array().unwrap() {
        let (format, path) = (file["format"].as_str().unwrap(), file["path"].as_str().unwrap());
        assert!(file["max_abs_diff"].as_f64().is_some_and(|x| x < 0.05), "{file}");
        if format == "triton" {
            continue;
        }
        let found = world.json(&format!("inspect {path}"));
        assert_eq!(
            (&found["task"], &found["thresholds"]),
            (&inspected["task"], &inspected["thresholds"]),
            "{format}"
        );
        if ["onnx", "torchscript", "pt2"].contains(&format) {
            assert_eq!(world.run(&format!("verify {path} --against run")).code, Some(0), "{format}");
            let own = world.run(&format!("predict {path} d/05.bmp --json")).json();
            assert_eq!(own["labels"], predictions[5]["labels"], "{format}");
        }
    }
    for more in ["onnx --with-preprocess", "torchscript --script", "huggingface"] {
        let out = more.replace([' ', '-'], "");
        let file = world.json(&format!("export run --format {more} --out {out}"))["files"][0].clone();
        let found = world.json(&format!("inspect {}", file["path"].as_str().unwrap()));
        assert_eq!(
            (&found["task"], &found["thresholds"]),
            (&inspected["task"], &inspected["thresholds"]),
            "{more}"
        );
    }
    let quantized = world.json("quantize run --mode static --max-drop 0.9 --out int8.onnx");
    assert!(is_part(&quantized["map"]) && quantized["map_before"] == own["map"], "{quantized}");
    assert!(quantized["accuracy"].is_null(), "{quantized}");
    assert_eq!(world.json("inspect int8.onnx")["task"], "multi");
    let dynamic = world.json("quantize run --mode dynamic --data d.csv --out dynamic.onnx");
    assert!(is_part(&dynamic["map"]), "{dynamic}");
    assert_eq!(world.run("check run d.csv").code, Some(0));
}

#[test]
fn a_run_goes_on_with_the_same_bytes_and_refuses_another_task() {
    let world = world("resume");
    let flags = format!("--task multi {SMALL} --class-weights balanced --label-smoothing 0.1 --mixup 0.2");
    assert_eq!(world.run(&format!("train d.csv {flags} --epochs 3 --out whole")).code, Some(0));
    assert_eq!(world.run(&format!("train d.csv {flags} --epochs 3 --out again")).code, Some(0));
    let [whole, again] = ["whole", "again"].map(|run| world.read(&format!("{run}/last.safetensors")));
    assert!(whole == again);
    let said = world.run("train --resume --out again --epochs 4");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.text("again/results.csv").lines().count(), 5);
    let said = world.run("train --resume --out whole --task single --epochs 4");
    assert!(said.code == Some(2) && said.err.contains("task"), "{said:?}");
    // Other labels are other pictures.
    let table = world.text("d.csv").replace("d/03.bmp,red|green\n", "d/03.bmp,red|blue\n");
    world.write("d.csv", table);
    let said = world.run("train --resume --out whole --epochs 4");
    assert!(said.code == Some(2) && said.err.contains("d/03.bmp"), "{said:?}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let world = world("refused");
    let said = world.run(&format!("train d.csv --task multi {SMALL} --balanced-sampling --out run"));
    assert!(said.code == Some(2) && said.err.contains("balanced"), "{said:?}");
    let said = world.run(&format!("train d.csv --task many {SMALL} --out run"));
    assert!(said.code == Some(2) && said.err.contains("give single, multi or regression"), "{said:?}");
    let said = world.run(&format!("train d.csv {SMALL} --out run"));
    assert!(said.code == Some(2) && said.err.contains("no column `label`"), "{said:?}");
    assert!(!world.path("run").exists());
    let single = World::trained();
    for flag in ["--reject-precision 0.9", "--reject-score energy"] {
        let said = world.run(&format!("train d.csv --task multi {SMALL} {flag} --out run"));
        assert!(said.code == Some(2) && said.err.contains("is for one class a picture"), "{flag}: {said:?}");
    }
    for text in ["2", "-0.1", "often", "NaN"] {
        let said = single.run(&format!("predict run d --threshold {text}"));
        assert_eq!(said.code, Some(2), "{text}: {said:?}");
    }
    let run = single.path("run");
    let said = world.run(&format!("eval {} d.csv", run.display()));
    assert!(said.code == Some(2) && said.err.contains("no column `label`"), "{said:?}");
}
