//! Numbers of pictures, from training to every file.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{SMALL, World, assert_shape, bmp};

/// The targets of the picture `index`: how red and how blue it is, in units of their own.
fn targets(index: u32) -> [f64; 2] {
    [1000.0 + f64::from(index % 8) * 25.0, f64::from(index / 8) * -1e-3]
}

/// A table of 48 pictures with two targets.
#[track_caller]
fn world(name: &str) -> World {
    let world = World::new(name);
    let mut table = "path,price,depth\n".to_owned();
    for index in 0..48 {
        let color = [20 + 22 * (index % 8) as u8, 60, 20 + 30 * (index / 8) as u8];
        world.write(&format!("d/{index:02}.bmp"), bmp(color, index));
        let [price, depth] = targets(index);
        writeln!(table, "d/{index:02}.bmp,{price},{depth}").unwrap();
    }
    world.write("d.csv", table);
    world
}

const TRAIN: &str = "train d.csv --task regression --columns target=price|depth";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// The predictions for the folder of pictures.
fn predictions(world: &World, model: &str) -> Vec<[f64; 2]> {
    let said = world.run(&format!("predict {model} d --json"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let row = |line: &str| {
        let found: Value = serde_json::from_str(line).unwrap();
        assert!(found["top"].is_null() && found["labels"].is_null(), "{found}");
        let values = found["values"].as_array().unwrap();
        assert_eq!(
            values.iter().map(|v| v["target"].as_str().unwrap()).collect::<Vec<_>>(),
            ["price", "depth"]
        );
        [0, 1].map(|place| number(&values[place]["value"]))
    };
    said.out.lines().map(row).collect()
}

/// The mean absolute error and R^2 of one target, computed here.
fn figures(pairs: &[(f64, f64)]) -> [f64; 2] {
    let n = pairs.len() as f64;
    let mean = pairs.iter().map(|(_, t)| t).sum::<f64>() / n;
    let spread: f64 = pairs.iter().map(|(_, t)| (t - mean).powi(2)).sum();
    let squares: f64 = pairs.iter().map(|(y, t)| (y - t).powi(2)).sum();
    [pairs.iter().map(|(y, t)| (y - t).abs()).sum::<f64>() / n, 1.0 - squares / spread]
}

#[test]
fn a_model_of_numbers_goes_all_the_way() {
    let world = world("all");
    let trained = world.json(&format!("{TRAIN} {SMALL} --epochs 25 --lr 0.01 --augment off --out run"));
    assert_shape(&trained["best"], &[("epoch", "number"), ("val_mae", "number")]);
    let results = world.text("run/results.csv");
    assert!(results.starts_with("epoch,train_loss,train_mae,val_loss,val_mae,"), "{results}");
    assert!(results.lines().next().unwrap().contains(",train_eval_mae,"), "{results}");
    // The best epoch has the lowest validation loss, in which both targets count alike.
    let column = |line: &str, place: usize| line.split(',').nth(place).unwrap().parse::<f64>().unwrap();
    let losses: Vec<f64> = results.lines().skip(1).map(|line| column(line, 3)).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let epoch = trained["best"]["epoch"].as_u64().unwrap() as usize;
    assert_eq!(losses[epoch - 1], lowest, "{results}");
    let report = world.text("run/report.html");
    for part in
        ["R^2", "RMSE", "validation MAE of the best epoch", "Mean absolute error", "price", "<div>target 1"]
    {
        assert!(report.contains(part), "{part}");
    }
    assert!(!report.contains("Confusion") && !report.contains("targets:1"), "it is of classes");

    // The figures are those of the predictions, in the units of the targets.
    let all = world.json("eval run d.csv");
    let keys = ["mae", "rmse", "r2", "loss", "images", "skipped"].map(|key| (key, "number"));
    assert_shape(&all, &[&keys[..], &[("per_target", "object")]].concat());
    let found = predictions(&world, "run");
    assert_eq!(found.len(), 48);
    for (place, name) in ["price", "depth"].into_iter().enumerate() {
        let pairs = found.iter().zip(0..).map(|(row, index)| (row[place], targets(index)[place]));
        let [mae, r2] = figures(&pairs.collect::<Vec<_>>());
        let of = &all["per_target"][name];
        assert!((number(&of["mae"]) - mae).abs() < 1e-4 * mae, "{name}: {of}, {mae}");
        assert!((number(&of["r2"]) - r2).abs() < 1e-4, "{name}: {of}, {r2}");
        assert!(r2 > 0.3, "{name} was not learned: {r2}");
    }
    let own = world.json("eval run");
    assert_eq!(own["mae"], trained["best"]["val_mae"]);
    assert!(number(&own["loss"]) < 1.0, "{own}");
    assert!(world.run("eval run").out.contains("R^2"));
    assert!(number(&world.json("eval run --tta flip")["mae"]).is_finite());
    assert!(world.run("predict run d/03.bmp").out.contains("price 1"));

    let inspected = world.json("inspect run");
    assert_eq!(
        (&inspected["task"], inspected["regression"]["scales"].as_array().unwrap().len()),
        (&"regression".into(), 2)
    );
    assert!(world.run("inspect run").out.contains("targets        2: price, depth"));
    every_file(&world, &inspected, &found);

    let quantized = world.json("quantize run --mode static --max-drop 0.9 --out int8.onnx");
    assert!(number(&quantized["r2"]) > number(&quantized["r2_before"]) - 0.9, "{quantized}");
    assert_eq!(quantized["r2_before"], own["r2"]);
    assert!(quantized["accuracy"].is_null(), "{quantized}");
    assert_eq!(world.json("inspect int8.onnx")["task"], "regression");
    assert!(world.json("quantize run --mode dynamic --data d.csv --out dynamic.onnx")["r2"].is_number());
    assert_eq!(world.run("check run d.csv").code, Some(0));
}

/// Every file gives the numbers of the run, and says what they are.
fn every_file(world: &World, inspected: &Value, found: &[[f64; 2]]) {
    let formats = "onnx,torchscript,pt2,coreml,litert,triton,huggingface";
    let exported = world.json(&format!("export run --format {formats} --out files"));
    for file in exported["files"].as_array().unwrap() {
        let (format, path) = (file["format"].as_str().unwrap(), file["path"].as_str().unwrap());
        assert_eq!(file["top1_agreement"], 1.0, "{file}");
        if format == "triton" {
            continue;
        }
        same_model(world, format, path, inspected);
        if ["onnx", "torchscript", "pt2"].contains(&format) {
            assert_eq!(world.run(&format!("verify {path} --against run")).code, Some(0), "{format}");
        }
        if ["onnx", "torchscript", "pt2", "huggingface"].contains(&format) {
            for (other, own) in predictions(world, path).iter().zip(found) {
                assert!((other[0] - own[0]).abs() < 1e-2 && (other[1] - own[1]).abs() < 1e-6, "{format}");
            }
        }
    }
    for more in ["onnx --with-preprocess", "torchscript --script", "coreml --precision f32"] {
        let out = more.replace([' ', '-'], "");
        let file = world.json(&format!("export run --format {more} --out {out}"))["files"][0].clone();
        same_model(world, more, file["path"].as_str().unwrap(), inspected);
    }
    // An ONNX file of another run is told apart, though its numbers are near beside the largest.
    let said = world.run(&format!("{TRAIN} {SMALL} --epochs 1 --seed 5 --out other"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = world.run("verify files/mobilenet_v2.onnx --against other");
    assert_eq!(said.code, Some(1), "{said:?}");
}

fn same_model(world: &World, format: &str, path: &str, inspected: &Value) {
    let of = world.json(&format!("inspect {path}"));
    for key in ["task", "classes", "regression"] {
        assert_eq!(of[key], inspected[key], "{format}: {key}");
    }
}

#[test]
fn a_run_goes_on_with_the_same_bytes() {
    let world = world("resume");
    let flags = format!("{TRAIN} {SMALL} --loss huber:delta=0.5 --mixup 0.2 --ema 0.9");
    assert_eq!(world.run(&format!("{flags} --epochs 3 --out whole")).code, Some(0));
    assert_eq!(world.run(&format!("{flags} --epochs 3 --out again")).code, Some(0));
    let [whole, again] = ["whole", "again"].map(|run| world.read(&format!("{run}/last.safetensors")));
    assert!(whole == again);
    let said = world.run("train --resume --out again --epochs 4");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.text("again/results.csv").lines().count(), 5);
    assert_eq!(world.json("inspect again")["regression"]["loss"], "huber:delta=0.5");
    // The scale behind the head hides it from nobody: 1280 features, two targets.
    let frozen = world.json(&format!("{TRAIN} {SMALL} --freeze backbone --epochs 1 --out frozen"));
    assert_eq!(frozen["trainable_parameters"], 2 * 1280 + 2);
    // Another number is another picture.
    let table = world.text("d.csv").replace("d/03.bmp,1075,", "d/03.bmp,1076,");
    world.write("d.csv", table);
    let said = world.run("train --resume --out whole --epochs 4");
    assert!(said.code == Some(2) && said.err.contains("d/03.bmp"), "{said:?}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let world = world("refused");
    let refused = |arguments: &str, words: &[&str]| {
        let said = world.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments}: {said:?}");
        assert!(words.iter().all(|word| said.err.contains(word)), "{arguments}: {}", said.err);
    };
    for flag in [
        "--balanced-sampling",
        "--class-weights balanced",
        "--label-smoothing 0.1",
        "--reject-precision 0.9",
        "--reject-score energy",
    ] {
        refused(&format!("{TRAIN} {SMALL} {flag} --out run"), &["is for classes"]);
    }
    refused(&format!("train d.csv --loss l1 {SMALL} --out run"), &["is for the task `regression`"]);
    refused(&format!("{TRAIN} {SMALL} --loss huber:delta=0 --out run"), &["give mse, l1 or huber:delta=1"]);
    refused(&format!("train d.csv --task regression {SMALL} --out run"), &["no column `target`"]);
    refused(&format!("train d --task regression {SMALL} --out run"), &["regression needs"]);
    refused(&format!("{TRAIN}|width {SMALL} --out run"), &["no column `width`"]);
    // Its head ends in a ReLU.
    refused(
        &format!("{TRAIN} --model squeezenet1_1 --size 32 --out run"),
        &["classifier.2", "bounds its outputs"],
    );
    let mut table = "path,target\n".to_owned();
    (0..48).for_each(|index| writeln!(table, "d/{index:02}.bmp,7").unwrap());
    world.write("same.csv", &table);
    refused(&format!("train same.csv --task regression {SMALL} --out run"), &["`target` is 7 for all"]);
    assert!(!world.path("run").exists());

    assert_eq!(world.run(&format!("{TRAIN} {SMALL} --epochs 1 --out run")).code, Some(0));
    refused("predict run d --threshold 0.5", &["threshold", "predicts numbers"]);
    refused("explain run d/00.bmp --out maps", &["explanations are of classes"]);
    refused("eval run same.csv", &["no column `price`"]);
    refused("eval run same.csv --columns target=target", &["1 columns of targets", "price|depth"]);
    refused("eval run d", &["regression needs"]);
    // The same number for all pictures has no R^2.
    world.write(
        "flat.csv",
        table.replace("target", "price").replace("price\n", "price,depth\n").replace(",7\n", ",7,1\n"),
    );
    let flat = world.json("eval run flat.csv");
    assert!(flat["r2"].is_null() && number(&flat["mae"]) > 100.0, "{flat}");
    refused("quantize run --mode dynamic --data flat.csv --out int8.onnx", &["R^2 cannot be measured"]);
}
