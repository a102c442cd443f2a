//! The main job on the real weights and pictures, and the result in torchvision's hands.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_data::Dataset;
use offshoot_formats::checkpoint::load_weights;
use offshoot_formats::safetensors;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Fit, Metadata, Model, Tensor, Weights};
use offshoot_models::{TransferOptions, canonical_keys, find, transfer};
use offshoot_train::recipe::PreprocessingSettings;
use offshoot_train::{Control, Event, Freeze, Inference, Recipe, Settings, TrainResult, train};

fn cached(variable: &str, name: &str) -> PathBuf {
    let default = || PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/offshoot").join(name);
    std::env::var_os(variable).map_or_else(default, PathBuf::from)
}

const CHECK: &str = "
import sys, torch, torchvision
from safetensors.torch import load_file
run, case = sys.argv[1:]
case = load_file(case)
model = torchvision.models.mobilenet_v2(num_classes=case['logits'].shape[1])
model.load_state_dict(load_file(run + '/best.safetensors'), strict=True)
with torch.no_grad():
    logits = model.eval()(case['images'])
difference = ((logits - case['logits']).abs().max() / logits.abs().max()).item()
print(difference)
assert difference < 1e-4
";

/// A run of the default recipe in `run`: a new head on a frozen MobileNetV2. Returns the model that it started from.
fn fine_tune(run: &Path, seed: u64, executor: &CpuExecutor) -> (Model, TrainResult) {
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let architecture = find("mobilenet_v2").unwrap();
    let settings = Settings {
        model: Some("mobilenet_v2".into()),
        data: Some(assets.join("photos6")),
        freeze: Some(Freeze::Backbone),
        seed: Some(seed),
        preprocessing: Some(PreprocessingSettings { fit: Some(Fit::Pad), ..Default::default() }),
        ..Settings::default()
    };
    let recipe = Recipe::resolve(settings, &architecture.preprocessing()).unwrap();
    let data = Dataset::open(&recipe.data, &recipe.folder_options()).unwrap();
    let loaded = load_weights(&assets.join("weights/mobilenet_v2.pth")).unwrap().into_f32();
    let options = TransferOptions {
        classes: data.classes.clone(),
        head: recipe.head.parse().unwrap(),
        preprocessing: recipe.preprocessing.clone(),
        seed: recipe.seed,
    };
    let model =
        transfer(architecture, canonical_keys(architecture, loaded.weights).weights, options).unwrap();
    let (stop, mut progress) = (AtomicBool::new(false), |_: Event<'_>| {});
    let control = Control::new(&mut progress, &stop);
    let outcome = train(model.clone(), &recipe, &data, run, executor, control).unwrap();
    (model, outcome.result)
}

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn a_head_on_mobilenet_recognises_photos6_and_loads_in_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut accuracies = Vec::new();
    for seed in 0..5 {
        let run = folder.path().join(seed.to_string());
        let (model, result) = fine_tune(&run, seed, &executor);
        assert_eq!((result.trainable_parameters, result.frozen_parameters), (1280 * 6 + 6, 2_223_872));
        accuracies.push(result.best.and_then(|best| best.figure.value()).unwrap());
        if seed == 0 {
            check_in_torchvision(folder.path(), &run, model, &executor);
        }
    }
    let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
    eprintln!("{accuracies:?}, mean {mean:.3}");
    assert!(mean >= 0.92, "{accuracies:?}");
}

fn check_in_torchvision(folder: &Path, run: &Path, model: Model, executor: &CpuExecutor) {
    let file = safetensors::read(&run.join("best.safetensors")).unwrap();
    let metadata: Metadata = serde_json::from_str(&file.metadata[safetensors::METADATA_KEY]).unwrap();
    assert!(metadata.temperature.is_some() && metadata.rejection.is_some(), "{metadata:?}");
    // What training fits is all that the file's metadata have beyond the model's.
    assert_eq!(Metadata { temperature: None, rejection: None, ..metadata }, model.metadata);
    let mut random = Random::new(1, 0, 0, Purpose::Init);
    let images = Tensor::f32([2, 3, 224, 224], (0..2 * 3 * 224 * 224).map(|_| random.normal()).collect());
    let mut network = Inference::new(&Model { weights: file.weights, ..model }, executor).unwrap();
    let logits = network.run(&images).unwrap();
    let case = folder.join("case.safetensors");
    safetensors::write(&case, &Weights::from([("images".into(), images), ("logits".into(), logits)]), "")
        .unwrap();
    let python = cached("OFFSHOOT_PEERS", "peers").join("bin/python");
    let done = Command::new(python).args(["-c", CHECK]).args([run, case.as_path()]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    eprintln!("torchvision: {}", String::from_utf8_lossy(&done.stdout).trim());
}
