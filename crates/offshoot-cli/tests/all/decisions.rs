//! The temperature and the reject threshold, from training to every file.

use std::fs;

use serde_json::{Value, json};

use crate::support::{CLASSES, SMALL, World, assert_shape, data};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The predictions of all pictures, by path.
fn predictions(world: &World, flags: &str) -> Vec<Value> {
    let said = world.run(&format!("predict {flags} --json --logits"));
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// exp(z / t) over their sum.
fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let exp: Vec<f64> = logits.iter().map(|z| (z / temperature).exp()).collect();
    exp.iter().map(|x| x / exp.iter().sum::<f64>()).collect()
}

/// Checks that the probabilities of a prediction are calibrated, and gives the highest one and its logits.
#[track_caller]
fn highest(prediction: &Value, temperature: f64) -> (f64, Vec<f64>) {
    let logits = numbers(&prediction["logits"]);
    let p = softmax(&logits, temperature);
    for guess in prediction["top"].as_array().unwrap() {
        let of = p[guess["index"].as_u64().unwrap() as usize];
        assert!((guess["probability"].as_f64().unwrap() - of).abs() < 1e-5, "{prediction}");
    }
    (p.iter().copied().fold(0.0, f64::max), logits)
}

#[test]
fn a_temperature_and_a_threshold_go_all_the_way() {
    let world = World::new("all");
    data(&world.path("d"), &CLASSES, 40);
    let flags = format!("{SMALL} --epochs 8 --lr 0.01 --reject-precision 0.34 --reject-score probability");
    assert_eq!(world.run(&format!("train d {flags} --out run")).code, Some(0));
    let inspected = world.json("inspect run");
    let temperature = inspected["temperature"].as_f64().unwrap();
    assert!(temperature > 0.01 && temperature < 100.0, "{inspected}");
    let (rejection, number) = (&inspected["rejection"], "number");
    assert_shape(rejection, &[("score", "string"), ("threshold", number), ("precision", number)]);
    assert_eq!((&rejection["score"], &rejection["precision"]), (&json!("probability"), &json!(0.34)));
    let text = world.run("inspect run").out;
    assert!(
        text.contains("  temperature    ") && text.contains("  rejection      probability below "),
        "{text}"
    );

    // Probabilities are calibrated, logits are not, and pictures below the threshold are of none of the classes.
    let threshold = rejection["threshold"].as_f64().unwrap();
    for prediction in predictions(&world, "run d --threshold auto") {
        let (p, _) = highest(&prediction, temperature);
        if (p - threshold).abs() > 1e-6 {
            assert_eq!(prediction["rejected"], json!(p < threshold), "{prediction}");
        }
    }
    let own = predictions(&world, "run d/red/00.bmp");
    assert!(own[0]["rejected"].is_null() && own[0].get("rejected").is_none());
    let [all, none] = ["0", "1"].map(|t| predictions(&world, &format!("run d --threshold {t}")));
    assert!(all.len() == 120 && all.iter().all(|found| found["rejected"] == json!(false)));
    assert!(none.iter().all(|found| found["rejected"] == json!(highest(found, temperature).0 < 1.0)));
    assert!(world.run("predict run d/red/00.bmp --threshold 1").out.contains(": none of these; "));
    assert!(!world.run("predict run d/red/00.bmp --threshold 0").out.contains("none of these"));
    // The mean of two views is calibrated after it was taken.
    for prediction in predictions(&world, "run d/red d/blue --tta flip --threshold auto") {
        highest(&prediction, temperature);
        assert!(prediction["rejected"].is_boolean());
    }

    evaluation(&world, temperature, threshold);
    files(&world, &inspected);
    let report = world.text("run/report.html");
    for part in [
        "Reliability diagram",
        "temperature fitted on these pictures",
        "<h3>Coverage</h3>",
        "Pictures whose probability is below",
    ] {
        assert!(report.contains(part), "{part}");
    }
}

/// The figures of `eval` on the validation pictures, which the threshold was fitted on.
fn evaluation(world: &World, temperature: f64, threshold: f64) {
    let own = world.json("eval run");
    assert_eq!(own["temperature"], json!(temperature));
    assert!(own["ece"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)), "{own}");
    assert!(own["brier"].as_f64().is_some_and(|x| x > 0.0 && x < 2.0), "{own}");
    let whole = &own["coverage"][0];
    assert_eq!((&whole["coverage"], &whole["accuracy"]), (&json!(1.0), &own["accuracy"]));
    let accepted = &own["rejection"];
    assert_eq!((&accepted["threshold"], &accepted["score"]), (&json!(threshold), &json!("probability")));
    assert!(accepted["accuracy"].as_f64().unwrap() >= 0.34, "{own}");
    let text = world.run("eval run").out;
    for part in
        ["ECE       ", "Brier     ", "  with temperature ", "coverage  accuracy ", "accepted  accuracy "]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let views = world.json("eval run --tta flip");
    assert!(views["ece"].is_number() && views["rejection"]["coverage"].is_number(), "{views}");
}

/// Every file has the temperature and the threshold.
fn files(world: &World, inspected: &Value) {
    let same = |path: &str, what: &str| {
        let found = world.json(&format!("inspect {path}"));
        for key in ["temperature", "rejection"] {
            assert_eq!(found[key], inspected[key], "{what}: {key}");
        }
    };
    let wanted = predictions(world, "run d/green --threshold auto");
    let exported = world.json("export run --format onnx,torchscript,pt2,coreml,litert --out files");
    for file in exported["files"].as_array().unwrap() {
        let (format, path) = (file["format"].as_str().unwrap(), file["path"].as_str().unwrap());
        same(path, format);
        if ["onnx", "torchscript", "pt2"].contains(&format) {
            let found = predictions(world, &format!("{path} d/green --threshold auto"));
            for (found, wanted) in found.iter().zip(&wanted) {
                assert_eq!(found["rejected"], wanted["rejected"], "{format}");
                let [p, q] = [found, wanted].map(|of| of["top"][0]["probability"].as_f64().unwrap());
                assert!((p - q).abs() < 1e-4, "{format}: {p} {q}");
            }
        }
    }
    let mut folder = String::new();
    for more in ["onnx --with-preprocess", "torchscript --script", "huggingface"] {
        let out = more.replace([' ', '-'], "");
        let file = world.json(&format!("export run --format {more} --out {out}"))["files"][0].clone();
        folder = file["path"].as_str().unwrap().to_owned();
        same(&folder, more);
    }
    // The card says so, and another value is refused with the file.
    let card = fs::read_to_string(world.path(&format!("{folder}/README.md"))).unwrap();
    assert!(card.contains("`offshoot_temperature`") && card.contains("`offshoot_rejection`"), "{card}");
    fs::remove_file(world.path(&format!("{folder}.manifest.json"))).unwrap();
    let config_file = format!("{folder}/config.json");
    let config = world.text(&config_file);
    let was = format!("\"offshoot_temperature\": {}", inspected["temperature"]);
    for (now, wanted) in [("0", "its temperature is no number"), ("\"hot\"", "`offshoot_temperature`")] {
        let changed = config.replace(&was, &format!("\"offshoot_temperature\": {now}"));
        assert_ne!(changed, config);
        world.write(&config_file, changed);
        let said = world.run(&format!("predict {folder} d/green"));
        assert!(
            said.code == Some(2) && said.err.contains("config.json") && said.err.contains(wanted),
            "{said:?}"
        );
    }
    let said = world.run("quantize run --mode static --max-drop 0.9 --out int8.onnx");
    assert_eq!(said.code, Some(0), "{said:?}");
    same("int8.onnx", "int8");
}

#[test]
fn the_energy_is_the_score_unless_another_is_asked_for() {
    let world = World::new("energy");
    data(&world.path("d"), &CLASSES, 40);
    let flags = format!("{SMALL} --epochs 1 --freeze backbone --reject-precision 0.2");
    assert_eq!(world.run(&format!("train d {flags} --out run")).code, Some(0));
    let rejection = world.json("inspect run")["rejection"].clone();
    assert_eq!(rejection["score"], "energy", "{rejection}");
    let threshold = rejection["threshold"].as_f64().unwrap();
    for prediction in predictions(&world, "run d --threshold auto") {
        let energy = numbers(&prediction["logits"]).iter().map(|z| z.exp()).sum::<f64>().ln();
        if (energy - threshold).abs() > 1e-5 {
            assert_eq!(prediction["rejected"], json!(energy < threshold), "{prediction}");
        }
    }
    // Two equal views have the energy of one.
    let plain = predictions(&world, "run d --threshold auto");
    let views = predictions(&world, "run d --threshold auto --tta flip");
    assert_eq!(plain.len(), views.len());
    assert!(views.iter().all(|found| found["rejected"].is_boolean()));
    let evaluated = world.json("eval run --tta flip");
    assert_eq!(evaluated["rejection"]["score"], "energy");
    assert!(evaluated["rejection"]["accuracy"].as_f64().is_some_and(|x| x >= 0.2), "{evaluated}");
}

#[test]
fn a_model_without_a_temperature_is_as_before() {
    let world = World::trained();
    let inspected = world.json("inspect run");
    assert!(inspected.get("temperature").is_none() && inspected.get("rejection").is_none(), "{inspected}");
    predictions(world, "run d").iter().for_each(|found| drop(highest(found, 1.0)));
    let said = world.run("predict run d --threshold auto");
    assert!(said.code == Some(2) && said.err.contains("no reject threshold"), "{said:?}");
    assert!(said.err.contains("--threshold") && said.out.is_empty(), "{said:?}");
    for found in predictions(world, "run d --threshold 0.5") {
        assert_eq!(found["rejected"], json!(highest(&found, 1.0).0 < 0.5));
    }
    let evaluated = world.json("eval run d");
    assert!(evaluated.get("temperature").is_none() && evaluated.get("rejection").is_none(), "{evaluated}");
    let said = world.run(&format!("train d {SMALL} --reject-precision 1.5 --out other"));
    assert!(said.code == Some(2) && said.err.contains("above 0 and at most 1"), "{said:?}");
    let said = world.run(&format!("train d {SMALL} --reject-score distance --out other"));
    assert!(said.code == Some(2) && said.err.contains("give energy or probability"), "{said:?}");
}
