//! Hugging Face folders that transformers and timm write, against their logits (`scripts/golden/huggingface.py`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use offshoot::{Inputs, ModelSource, Overrides, Proof};
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::checkpoint::load_weights;
use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::{Executor, Fit, Interpolation, Metadata, Model, Preprocessing, Tensor};

/// The folders that the script writes, or those that `OFFSHOOT_HUGGINGFACE` names.
fn folders(keep: &tempfile::TempDir) -> PathBuf {
    if let Some(folders) = std::env::var_os("OFFSHOOT_HUGGINGFACE") {
        return folders.into();
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let peers =
        std::env::var_os("OFFSHOOT_PEERS").map_or_else(|| home.join(".cache/offshoot/peers"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/golden/huggingface.py");
    let status = Command::new(peers.join("bin/python")).arg(script).arg("write").arg(keep.path()).status();
    assert!(status.expect("the peers are set up").success());
    keep.path().to_owned()
}

fn load(folder: &Path) -> offshoot::Result<offshoot::Loaded> {
    ModelSource::Path(folder.to_owned()).load(&Overrides::default())
}

fn logits(model: &Model, input: &Tensor) -> Vec<f32> {
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&model.graph, &model.weights).unwrap();
    session.run(&[(INPUT, input)]).unwrap();
    session.read(OUTPUT).unwrap().into_f32().unwrap()
}

#[test]
#[ignore = "needs the Python peers with PyTorch and transformers (OFFSHOOT_PEERS)"]
fn logits_of_folders_are_those_of_transformers_in_pytorch() {
    let keep = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(folders(&keep)).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let golden = load_weights(&folder.join("golden.safetensors")).unwrap().weights;
        let loaded = load(&folder).unwrap();
        let Model { metadata, .. } = &loaded.model;
        let found = logits(&loaded.model, &golden["input"]);
        let off = offshoot_testing::difference(&found, golden["logits"].as_f32().unwrap());
        println!("{name}: {off:.1e}, {:?} {:?}", metadata.architecture, loaded.warnings);
        assert!(off < 2e-5, "{name}: {off}");
        assert_eq!(metadata.classes, ["ash", "oak (1)", "yew", "oak (3)"], "{name}");
        assert_eq!(metadata.preprocessing.interpolation, Interpolation::Bicubic);
        let stretched = ["vit", "deit", "dinov2", "efficientnet"].iter().any(|start| name.starts_with(start));
        let fit = if stretched { Fit::Stretch } else { Fit::Crop };
        assert_eq!((metadata.preprocessing.fit, &*loaded.warnings), (fit, &[][..]), "{name}");
        let known = match &*name {
            "resnet18" | "timm_resnet18" => Some("resnet18"),
            "mobilenet_v2_symmetric" | "timm_mobilenetv2_100" => Some("mobilenet_v2"),
            "timm_efficientnet_lite0" => Some("efficientnet_lite0_symmetric"),
            "timm_mobilenetv3_small_100" => Some("mobilenet_v3_small"),
            "timm_tf_mobilenetv3_small_100" => Some("tf_mobilenetv3_small_100"),
            _ => None,
        };
        assert_eq!(metadata.architecture.as_deref(), known, "{name}");
        count += 1;
    }
    assert_eq!(count, 20);
}

/// Models of random weights with four classes, as folders that transformers loads.
#[test]
#[ignore = "needs the Python peers with PyTorch and transformers (OFFSHOOT_PEERS)"]
fn transformers_in_pytorch_computes_exported_folders_alike() {
    let keep = tempfile::tempdir().unwrap();
    let names = [
        "resnet18",
        "mobilenet_v3_small",
        "tf_mobilenetv3_small_100",
        "efficientnet_b0",
        "efficientnet_lite0_symmetric",
        "deit_tiny_patch16_224",
        "convnext_tiny",
        "regnet_y_400mf",
        "mnasnet1_0",
    ];
    for name in names {
        let folder = keep.path().join(name);
        // The second picture is larger and of another mean than the first.
        let pixel = |i: usize| {
            let value = ((7919 * i) % 1000) as f32 / 500.0 - 1.0;
            if i < 3 * 64 * 64 { value } else { 1.0 - 2.0 * value }
        };
        let x = (0..2 * 3 * 64 * 64).map(pixel).collect();
        let input = Tensor::f32([2, 3, 64, 64], x);
        // The larger the variances are, the less is left of the pictures; the smaller, the more are rounding errors multiplied.
        let models = [0.8, 0.4, 0.2, 0.1, 0.05].map(|least| random(name, least));
        let telling = |model: &&Model| {
            let logits = logits(model, &input);
            offshoot_testing::difference(&logits[..4], &logits[4..]) > 1e-3
        };
        let model = models.iter().find(telling).expect(name);
        let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
        let inputs = Inputs::built_in(&model.metadata.preprocessing).unwrap();
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: None, float: None };
        let exported = offshoot::export_huggingface(model, &folder, proof).unwrap();
        assert_eq!(exported.format, "huggingface");
        let again = load(&folder).unwrap().model;
        assert_eq!((&again.metadata, again.graph.to_string()), (&model.metadata, model.graph.to_string()));
        let golden = offshoot_graph::Weights::from([
            ("logits".to_owned(), Tensor::f32([2, 4], logits(model, &input))),
            ("input".to_owned(), input),
        ]);
        offshoot_formats::safetensors::write(&folder.join("golden.safetensors"), &golden, "").unwrap();
    }
    let found = check(keep.path());
    println!("{found}");
    let lines: Vec<serde_json::Value> =
        found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), names.len());
    for line in lines {
        assert!(line["off"].as_f64().unwrap() < 1e-4, "{line}");
        assert_eq!(line["labels"], serde_json::json!(["ash", "oak", "yew", "a \"b\""]), "{line}");
    }
}

/// A model of random weights, the smallest of whose running variances is `least`.
fn random(name: &str, least: f32) -> Model {
    let architecture = offshoot_models::find(name).unwrap();
    let graph =
        architecture.build(&offshoot_models::BuildOptions { classes: 4, size: 64, head: None }).unwrap();
    let names: Vec<String> =
        offshoot_models::expected_parameters(&graph).into_iter().map(|(n, _)| n).collect();
    let mut weights = architecture.init_parameters(&graph, names.iter().map(String::as_str), 5).unwrap();
    for (name, tensor) in &mut weights {
        let least = if name.ends_with("running_var") { least } else { 0.1 };
        if name.ends_with("running_var") || name.ends_with("gamma") || name.ends_with("layer_scale") {
            let values = (0..tensor.len()).map(|i| least + 0.1 * (i % 7) as f32).collect();
            *tensor = Tensor::f32(tensor.shape().to_vec(), values);
        }
    }
    let metadata = Metadata {
        architecture: Some(name.to_owned()),
        head: None,
        classes: ["ash", "oak", "yew", "a \"b\""].map(str::to_owned).to_vec(),
        preprocessing: Preprocessing { size: 64, resize: 73, ..Preprocessing::default() },
        ..Metadata::default()
    };
    Model { graph, weights, metadata }
}

/// What the script says of the folders in one, a line each.
fn check(folder: &Path) -> String {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let peers =
        std::env::var_os("OFFSHOOT_PEERS").map_or_else(|| home.join(".cache/offshoot/peers"), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/golden/huggingface.py");
    let output =
        Command::new(peers.join("bin/python")).arg(script).arg("check").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is said of a folder with these settings.
fn refusal(config: &str, preprocessor: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    if let Some(text) = preprocessor {
        std::fs::write(folder.path().join("preprocessor_config.json"), text).unwrap();
    }
    let one = offshoot_graph::Weights::from([("a".to_owned(), Tensor::zeros([1]))]);
    offshoot_formats::safetensors::write(&folder.path().join("model.safetensors"), &one, "").unwrap();
    load(folder.path()).unwrap_err().to_string()
}

#[test]
fn what_is_not_built_is_refused_by_its_key() {
    for (config, wanted) in [
        ("[]", "no JSON object"),
        ("{}", "`model_type` is ``"),
        (r#"{"model_type":"beit"}"#, "`model_type` is `beit`"),
        (r#"{"model_type":"resnet","hidden_act":"gelu"}"#, "`hidden_act` is \"gelu\", and must be relu"),
        (r#"{"model_type":"resnet","depths":[1,2]}"#, "`depths` is [1,2], and must be 4 numbers"),
        (r#"{"model_type":"resnet","depths":[9999,1,1,1]}"#, "at most 1024 blocks"),
        (r#"{"model_type":"vit","hidden_size":-3}"#, "`hidden_size` is -3"),
        (r#"{"model_type":"vit","num_attention_heads":5}"#, "a multiple of `num_attention_heads`"),
        (r#"{"model_type":"vit","patch_size":[16,8]}"#, "a square"),
        (r#"{"model_type":"dinov2","use_swiglu_ffn":true}"#, "`use_swiglu_ffn` is true, and must be false"),
        (r#"{"model_type":"mobilenet_v2","output_stride":8}"#, "`output_stride` is 8, and must be 32"),
        (r#"{"model_type":"efficientnet","hidden_dim":7}"#, "`hidden_dim` is 7"),
        (r#"{"model_type":"resnet"}"#, "there is no `classifier.1.weight`"),
        (r#"{"architecture":"swim"}"#, "no architecture is called `swim`"),
        (r#"{"architecture":"resnet18","model_args":{"act_layer":"silu"}}"#, "`model_args` has `act_layer`"),
        (r#"{"architecture":"resnet18"}"#, "there is no `pretrained_cfg`"),
    ] {
        let found = refusal(config, None);
        assert!(
            found.contains(wanted) && found.contains("config.json") || config.contains("swim"),
            "{found}"
        );
        assert!(found.contains(wanted), "{config}: {found}");
    }
    for (settings, wanted) in [
        ("{}", "there is no `size`"),
        (r#"{"size":224,"do_resize":false}"#, "`do_resize` is false"),
        (r#"{"size":224,"resample":5}"#, "`resample` is 5"),
        (r#"{"size":{"height":3,"width":4}}"#, "is no square"),
        (r#"{"size":224,"image_std":[0,0,0]}"#, "`image_std` must be above 0"),
        (r#"{"size":{"shortest_edge":256}}"#, "nothing is cropped"),
        (r#"{"size":99999999}"#, "no number of pixels"),
    ] {
        let found = refusal(r#"{"model_type":"resnet"}"#, Some(settings));
        assert!(found.contains(wanted) && found.contains("preprocessor_config.json"), "{settings}: {found}");
    }
}
