//! Explanations against grad-cam, captum and the rules of Chefer et al. in PyTorch (`scripts/golden/explain.py`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot::{
    CpuOptions, Device, ExplainMethod, ExplainOptions, Explainer, Explanation, Heatmap, Inference, Model,
    ModelSource, Overrides, Transform, from_state_dict, heatmap_picture, pictures,
};
use offshoot_data::{FolderOptions, read_picture};
use offshoot_formats::checkpoint::load_weights;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Tensor, Weights};
use offshoot_infer::metrics::softmax;

fn device() -> Device {
    Device::cpu(CpuOptions::default()).unwrap()
}

fn load(source: &ModelSource) -> Model {
    source.load(&Overrides::default()).unwrap().model
}

fn explained(
    model: &Model,
    golden: &Weights,
    method: Option<ExplainMethod>,
    layer: Option<&str>,
) -> Explanation {
    let class = golden["golden.class"].as_i64().unwrap()[0] as usize;
    let options = ExplainOptions { method, class: Some(class), layer: layer.map(str::to_owned) };
    let mut explainer = Explainer::new(model, &options, &device()).unwrap();
    let found = explainer.explain(golden["golden.input"].as_f32().unwrap()).unwrap();
    // The class is the most likely one.
    let mut unasked = Explainer::new(model, &ExplainOptions { class: None, ..options }, &device()).unwrap();
    assert_eq!(unasked.explain(golden["golden.input"].as_f32().unwrap()).unwrap(), found);
    found
}

/// Pearson's; NaN where one of the two is constant.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let product = |x: &[f32], mean_x: f64, y: &[f32], mean_y: f64| {
        x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - mean_x) * (f64::from(y) - mean_y)).sum::<f64>()
    };
    product(a, of_a, b, of_b) / (product(a, of_a, a, of_a) * product(b, of_b, b, of_b)).sqrt()
}

/// A map as grad-cam scales it: less its smallest number, through its largest then.
fn scaled(map: &[f32]) -> Vec<f32> {
    let least = map.iter().copied().fold(f32::INFINITY, f32::min);
    let most = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    map.iter().map(|x| (x - least) / (most - least)).collect()
}

/// Each pixel's number of a map of cells.
fn of_pixels(map: &Heatmap, size: usize) -> Vec<f32> {
    let cell = size.div_ceil(14);
    let pixels = (0..size).flat_map(|y| (0..size).map(move |x| (y, x)));
    pixels.map(|(y, x)| map.values[y / cell * map.columns + x / cell]).collect()
}

/// Compares all maps that `golden` holds.
fn compare(name: &str, model: &Model, golden: &Weights) {
    let methods = [
        ("gradcam", ExplainMethod::GradCam),
        ("captum", ExplainMethod::GradCam),
        ("layercam", ExplainMethod::LayerCam),
        ("attention", ExplainMethod::Attention),
        ("occlusion", ExplainMethod::Occlusion),
    ];
    let mut count = 0;
    for (key, method) in methods {
        let Some(wanted) = golden.get(&format!("golden.{key}")) else { continue };
        let (shape, wanted) = (wanted.shape(), wanted.as_f32().unwrap());
        let found = explained(model, golden, Some(method), None);
        let values = match method {
            ExplainMethod::Occlusion => of_pixels(&found.map, shape[0]),
            ExplainMethod::LayerCam | ExplainMethod::GradCam | ExplainMethod::Attention => {
                assert_eq!([found.map.rows, found.map.columns], shape, "{name} {key}");
                found.map.values.clone()
            }
        };
        let like = correlation(&values, wanted);
        let off = match key {
            "gradcam" | "layercam" => offshoot_testing::difference(&scaled(&values), &scaled(wanted)),
            _ => offshoot_testing::difference(&values, wanted),
        };
        println!("{name} {key} ({:?}): correlation {like:.6}, difference {off:.1e}", found.layer);
        assert!(like > 0.9999, "{name} {key}: correlation {like}");
        assert!(off < 2e-3, "{name} {key}: difference {off}");
        count += 1;
    }
    assert_eq!(count, golden.keys().filter(|key| key.starts_with("golden.")).count() - 2, "{name}");
}

/// Networks that PyTorch exported, whose layers are found by the graph alone.
#[test]
fn maps_of_small_onnx_files_are_those_of_grad_cam_and_captum() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain");
    for name in ["resnet", "mobilenet", "vit"] {
        let model = load(&ModelSource::Path(folder.join(format!("{name}.onnx"))));
        let golden = load_weights(&folder.join(format!("{name}.safetensors"))).unwrap().weights;
        compare(name, &model, &golden);
    }
}

fn small(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain");
    load(&ModelSource::Path(folder.join(format!("{name}.onnx"))))
}

fn refusal(model: &Model, options: &ExplainOptions) -> String {
    match Explainer::new(model, options, &device()) {
        Ok(_) => panic!("it is refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_method_follows_from_the_network() {
    let method = |name| Explainer::new(&small(name), &ExplainOptions::default(), &device()).unwrap().method();
    assert_eq!(
        ["resnet", "mobilenet", "vit"].map(method),
        [ExplainMethod::LayerCam, ExplainMethod::LayerCam, ExplainMethod::Attention]
    );
    let attention = ExplainOptions { method: Some(ExplainMethod::Attention), ..ExplainOptions::default() };
    assert!(refusal(&small("resnet"), &attention).contains("use layercam or occlusion"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = small("resnet");
    let class = ExplainOptions { class: Some(5), ..ExplainOptions::default() };
    assert_eq!(refusal(&model, &class), "`class` 5 is too large: the model has 5 classes");
    let layer = ExplainOptions { layer: Some("layer9".into()), ..ExplainOptions::default() };
    let text = refusal(&model, &layer);
    assert!(text.contains("layer9 is no layer of this network; the last that can be used are"), "{text}");
    let occlusion = ExplainOptions { method: Some(ExplainMethod::Occlusion), ..layer };
    assert!(refusal(&model, &occlusion).contains("is for gradcam and layercam"));
    let mut explainer = Explainer::new(&model, &ExplainOptions::default(), &device()).unwrap();
    assert!(explainer.explain(&[0.0; 7]).unwrap_err().to_string().contains("7 numbers"));
    assert!(explainer.explain(&vec![f32::NAN; 3 * 40 * 40]).unwrap_err().to_string().contains("NaN"));
}

fn directory(variable: &str, name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os(variable).map_or_else(|| home().join(".cache/offshoot").join(name), PathBuf::from)
}

#[test]
#[ignore = "needs the Python peers with PyTorch, grad-cam and captum (OFFSHOOT_PEERS)"]
fn maps_of_whole_networks_are_those_of_grad_cam_in_pytorch() {
    let keep = tempfile::tempdir().unwrap();
    let peers = directory("OFFSHOOT_PEERS", "peers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/golden/explain.py");
    let status = Command::new(peers.join("bin/python")).arg(script).arg("full").arg(keep.path()).status();
    assert!(status.expect("the peers are set up").success());
    let names = ["resnet18", "mobilenet_v2", "vit_b_16", "deit_tiny_patch16_224", "vit_small_patch14_dinov2"];
    for architecture in names {
        let mut weights =
            load_weights(&keep.path().join(format!("{architecture}.safetensors"))).unwrap().weights;
        let golden: Weights =
            weights.clone().into_iter().filter(|(name, _)| name.starts_with("golden.")).collect();
        weights.retain(|name, _| !name.starts_with("golden."));
        let size = golden["golden.input"].shape()[2];
        let overrides = Overrides { size: Some(size), ..Overrides::default() };
        let model = from_state_dict(architecture, weights, &[], &overrides).unwrap();
        compare(architecture, &model, &golden);
    }
}

/// The places of the largest tenth of the levels of a picture.
fn tenth(levels: &[u8]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..levels.len()).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(levels[place]));
    places.truncate(levels.len() / 10);
    places
}

/// The probability of the class where the pixels at `places` have the mean color.
fn without(network: &mut Inference, input: &[f32], size: usize, places: &[usize], class: usize) -> f64 {
    let mut input = input.to_vec();
    for channel in 0..3 {
        places.iter().for_each(|place| input[channel * size * size + place] = 0.0);
    }
    let row = network.run(&Tensor::f32([1, 3, size, size], input)).unwrap().into_f32().unwrap();
    softmax(&row)[class]
}

/// The deletion test: without the tenth of the pixels that a map marks, the class is less likely than without as many in a region of the
/// same form in a random place, on average over pictures.
#[test]
#[ignore = "needs the assets (OFFSHOOT_ASSETS)"]
fn what_a_map_marks_matters_more_than_other_places() {
    let assets = directory("OFFSHOOT_ASSETS", "assets");
    let model = load(&ModelSource::Pretrained {
        architecture: "mobilenet_v2".into(),
        weights: assets.join("weights/mobilenet_v2.pth"),
    });
    let transform = Transform::new(&model.metadata.preprocessing).unwrap();
    let size = model.metadata.preprocessing.size;
    let found = pictures(&[assets.join("photos6")], &FolderOptions::default()).unwrap().paths;
    let mut network = Inference::new(&model, &device()).unwrap();
    for method in [ExplainMethod::LayerCam, ExplainMethod::GradCam] {
        let options = ExplainOptions { method: Some(method), ..ExplainOptions::default() };
        let mut explainer = Explainer::new(&model, &options, &device()).unwrap();
        let (mut falls, mut count) = ([0.0; 2], 0);
        for (number, path) in found.iter().enumerate().step_by(4) {
            let picture = read_picture(path, &transform.decode_options()).unwrap();
            let mut input = vec![0.0; transform.input_len()];
            transform.normalize(&transform.evaluate(&picture), &mut input);
            let explanation = explainer.explain(&input).unwrap();
            let map = heatmap_picture(&explanation.map, size);
            let marked = tenth(&map.pixels().iter().copied().step_by(3).collect::<Vec<u8>>());
            let mut random = Random::new(1, 0, number as u64, Purpose::Augment);
            let (down, across) = (random.below(size), random.below(size));
            let moved = |&place: &usize| (place / size + down) % size * size + (place % size + across) % size;
            let moved: Vec<usize> = marked.iter().map(moved).collect();
            for (fall, places) in falls.iter_mut().zip([&marked, &moved]) {
                let left = without(&mut network, &input, size, places, explanation.class);
                *fall += explanation.probability - left;
            }
            count += 1;
        }
        let [marked, random] = falls.map(|fall| fall / f64::from(count));
        println!(
            "{method}: without the marked tenth {marked:.3} lower, without a random one {random:.3}, {count} pictures"
        );
        assert!(count > 10 && marked > 1.2 * random && marked > random + 0.05, "{method}: {marked} {random}");
    }
}
