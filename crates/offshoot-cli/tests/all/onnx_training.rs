//! Training from an ONNX file or a `.pt2`: the same as from the architecture that the file came from, and a run like any other.

use std::fs;

use crate::support::{CLASSES, World, data};
use offshoot::{Recipe, Settings, own_preprocessing, starting_model};
use offshoot_formats::{onnx, pt2, safetensors};
use offshoot_train::recipe::PreprocessingSettings;

/// A network of random weights with 1000 classes as `NAME.safetensors`, and the same as `NAME.onnx` and `NAME.pt2`.
fn files(world: &World, name: &str) {
    let classes: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let mut settings = Settings { model: Some(name.into()), data: Some("d".into()), ..Settings::default() };
    settings.head = Some("linear,dropout=0".into());
    settings.preprocessing = Some(PreprocessingSettings { size: Some(32), ..Default::default() });
    let recipe = Recipe::resolve(settings, &own_preprocessing(name, None).unwrap()).unwrap();
    let model = starting_model(&recipe, &classes, &mut |_| {}).unwrap();
    let path = world.path(&format!("{name}.safetensors"));
    safetensors::write(&path, &model.weights, "{}").unwrap();
    // Batch norms are as they are, not folded.
    onnx::write(&world.path(&format!("{name}.onnx")), &model, onnx::Options::default()).unwrap();
    pt2::write(&world.path(&format!("{name}.pt2")), &model).unwrap();
}

fn column(world: &World, run: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(world.path(run).join("results.csv")).unwrap();
    let mut lines = text.lines();
    let at = lines.next().unwrap().split(',').position(|column| column == name).unwrap();
    lines.map(|line| line.split(',').nth(at).unwrap().to_owned()).collect()
}

#[test]
fn training_from_a_file_is_training_the_architecture() {
    for name in ["resnet18", "mobilenet_v2"] {
        let world = World::new(&format!("same-{name}"));
        data(&world.path("d"), &CLASSES, 6);
        files(&world, name);
        let common = "--size 32 --batch-size 4 --epochs 2 --freeze none --optimizer sgd --lr 0.01";
        for (model, run) in [
            (format!("{name} --weights {name}.safetensors"), "native"),
            (format!("{name}.onnx"), "grafted"),
            (format!("{name}.pt2"), "program"),
        ] {
            let said = world.run(&format!("train d --model {model} {common} --out {run}"));
            assert_eq!(said.code, Some(0), "{said:?}");
        }
        for name in ["train_loss", "val_loss", "val_accuracy"] {
            assert_eq!(column(&world, "native", name), column(&world, "grafted", name), "{name}");
            assert_eq!(column(&world, "native", name), column(&world, "program", name), "{name}");
        }
    }
}

#[test]
fn a_run_from_a_file_is_a_run_like_any_other() {
    let world = World::new("like-any-other");
    data(&world.path("d"), &CLASSES, 6);
    files(&world, "mobilenet_v2");
    let train = "train d --model mobilenet_v2.onnx --size 32 --batch-size 4 --epochs 2 --freeze backbone \
                 --head mlp:8 --out run --json";
    let said = world.run(train);
    assert_eq!(said.code, Some(0), "{said:?}");
    let result: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(result["trainable_parameters"], 1280 * 8 + 8 + 8 * 3 + 3);
    // The file that it came from is not needed any more.
    fs::remove_file(world.path("mobilenet_v2.onnx")).unwrap();
    for command in [
        "train d --resume --out run --json",
        "eval run d --json",
        "predict run d --json",
        "export run --format onnx,torchscript --out out --json",
        "eval run/best.safetensors d --json",
    ] {
        let said = world.run(command);
        assert_eq!(said.code, Some(0), "{command}: {said:?}");
    }
    let said = world.run("verify out/run.onnx --against run --data d --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    fs::copy(world.path("run/best.safetensors"), world.path("alone.safetensors")).unwrap();
    let said = world.run("eval alone.safetensors d");
    assert!(said.code == Some(2) && said.err.contains("base.onnx"), "{said:?}");
}

#[test]
fn a_file_without_a_head_and_needless_weights_are_refused() {
    let world = World::new("refused");
    data(&world.path("d"), &CLASSES, 6);
    files(&world, "mobilenet_v2");
    let said =
        world.run("train d --model mobilenet_v2.onnx --weights mobilenet_v2.safetensors --size 32 --out r");
    assert!(said.code == Some(2) && said.err.contains("leave --weights out"), "{said:?}");
    let said = world.run("train d --model absent.onnx --out r");
    assert!(said.code == Some(2) && said.err.contains("absent.onnx"), "{said:?}");
}

/// As [`files`], with the batch norms folded as exporters do it.
fn folded_file(world: &World, name: &str) {
    files(world, name);
    let loaded = offshoot::ModelSource::Path(world.path(&format!("{name}.onnx"))).load(&Default::default());
    let model = loaded.unwrap().model;
    let (graph, weights) = offshoot_graph::passes::shipped(&model.graph, &model.weights).unwrap();
    let model = offshoot::Model { graph, weights, ..model };
    onnx::write(&world.path("folded.onnx"), &model, onnx::Options::default()).unwrap();
}

#[test]
fn what_was_folded_into_convolutions_is_told_of() {
    // Of 20 batch norms none is left; of 121 those in front of a convolution.
    for (name, left, biased) in [("resnet18", 0, 20), ("densenet121", 62, 59)] {
        let world = World::new(&format!("folded-{name}"));
        data(&world.path("d"), &CLASSES, 4);
        folded_file(&world, name);
        let words = format!("{left} batch norms are in the graph, and {biased} convolutions have a bias");
        let said = world.run("inspect folded.onnx");
        assert!(said.code == Some(0) && said.out.contains(&words), "{said:?}");
        assert!(!world.run(&format!("inspect {name}.onnx")).out.contains("have a bias"));
        let statistics = |run: &str| -> Vec<_> {
            let all = safetensors::read(&world.path(&format!("{run}/last.safetensors"))).unwrap().weights;
            all.into_iter().filter(|(name, _)| name.contains("running_") || name.contains("mean")).collect()
        };
        let train = "train d --model folded.onnx --batch-size 4 --epochs 1";
        for (run, flags) in
            [("all", "--freeze none"), ("kept", "--freeze-norms on"), ("still", "--freeze backbone")]
        {
            let said = world.run(&format!("{train} {flags} --out {run}"));
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_eq!(said.err.matches(&words).count(), 1, "{}", said.err);
        }
        let [all, kept, still] = ["all", "kept", "still"].map(statistics);
        assert_eq!(all.len(), 2 * left);
        assert!(kept == still && (left == 0 || all != kept), "frozen statistics stay");
    }
}
