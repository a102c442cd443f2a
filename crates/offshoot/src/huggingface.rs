//! A model as a folder for the Hugging Face Hub, in the form of timm, which transformers reads too.

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::Path;

use offshoot_formats::atomic::write_atomically;
use offshoot_formats::safetensors;
use offshoot_graph::passes::{output_scale, rescaled_layer};
use offshoot_graph::text::{quoted, shown};
use offshoot_graph::{Fit, Interpolation, Metadata, Model, Preprocessing, Scale, Score, Task, Weights};
use offshoot_models::{Architecture, Head, find, timm_weights};
use serde_json::{Value, json};

use crate::compare::TOLERANCE;
use crate::error::{Error, Result};
use crate::export::{Exported, Output, Proof, export_within};
use crate::source::Overrides;
use crate::source::huggingface::{
    CONFIG, REGRESSION, REJECTION, TEMPERATURE, THRESHOLDS, WEIGHTS_FILE, is_folder, load,
};

/// The page that the hub shows.
const CARD: &str = "README.md";

/// Writes `model` as the folder `path`: `model.safetensors` under timm's names, `config.json` with classes and preprocessing, and a
/// model card with places for what only its author knows. `AutoModelForImageClassification` of transformers loads it, and
/// `timm.create_model("local-dir:...")`. Before it is moved into place it is read again and compared as by
/// [`crate::export_onnx`].
///
/// # Errors
/// When timm has no model with this graph, or prepares pictures in another way; when the folder cannot be written, or does not
/// match `model`.
pub fn export_huggingface(model: &Model, path: &Path, proof: Proof<'_>) -> Result<Exported> {
    if path.exists() && !is_folder(path) {
        return Err(refused(path, "there is something there that is no Hugging Face folder; move it"));
    }
    let (architecture, timm) = timms(model).map_err(|reason| refused(path, &reason))?;
    let config = config(model, architecture, timm).map_err(|reason| refused(path, &reason))?;
    let plain = plain_weights(model).map_err(|reason| refused(path, &reason))?;
    let write = |staged: &Path| {
        let io = |source| Error::Io { path: path.to_owned(), action: "write", source };
        let weights = timm_weights(architecture, &plain)
            .ok_or_else(|| refused(path, "the weights have other names than timm's. Please report this"))?;
        fs::create_dir(staged).map_err(io)?;
        safetensors::write(&staged.join(WEIGHTS_FILE), &weights, "").map_err(|e| e.problem.at(path))?;
        let text = |name: &str, text: &str| -> Result<()> {
            Ok(write_atomically(&staged.join(name), |file| file.write_all(text.as_bytes()))?)
        };
        text(CONFIG, &format!("{config:#}\n"))?;
        text(CARD, &card(model, timm))
    };
    let read = |staged: &Path| Ok((load(staged, &Overrides::default())?.model, None));
    export_within(Output::new("huggingface", path), model, TOLERANCE, write, read, proof)
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::Input(format!("{}: {reason}", shown(path)))
}

/// The weights of `model` for timm's network, whose last layer gives numbers in their units.
fn plain_weights(model: &Model) -> std::result::Result<Cow<'_, Weights>, String> {
    let Some(regression) = &model.metadata.regression else { return Ok(Cow::Borrowed(&model.weights)) };
    let of = |number: fn(&Scale) -> f64| regression.scales.iter().map(number).collect::<Vec<f64>>();
    let (deviations, means) = (of(|scale| scale.deviation), of(|scale| scale.mean));
    let scaled = output_scale(&model.graph)
        .and_then(|end| rescaled_layer(&model.graph, &model.weights, end.value, (&deviations, &means)));
    let scaled = scaled
        .ok_or("its last layer is not linear and cannot scale the targets; export it to ONNX instead")?;
    Ok(Cow::Owned(scaled))
}

/// The architecture of `model`, and what timm calls it.
fn timms(model: &Model) -> std::result::Result<(&'static Architecture, &'static str), String> {
    let other = "export it to ONNX instead";
    let name = model.metadata.architecture.as_deref();
    let name = name.ok_or(format!("the model is a graph from a file, which timm does not have; {other}"))?;
    let architecture = find(name).map_err(|error| error.to_string())?;
    let timm = architecture.timm.ok_or(format!("timm has no model like {name}; {other}"))?;
    match model.metadata.head.as_deref().map(str::parse::<Head>) {
        None | Some(Ok(Head::Linear { .. })) => Ok((architecture, timm)),
        Some(Ok(Head::Mlp { .. }) | Err(_)) => {
            Err(format!("timm's {timm} has one linear layer as its head, and this model has more; {other}"))
        }
    }
}

/// timm's `config.json`.
fn config(model: &Model, architecture: &Architecture, timm: &str) -> std::result::Result<Value, String> {
    let metadata = &model.metadata;
    let Preprocessing { size, mean, std, interpolation, .. } = metadata.preprocessing;
    let (mode, part) = crop(&metadata.preprocessing)?;
    let interpolation = match interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
        Interpolation::Lanczos => "lanczos",
        Interpolation::Nearest => "nearest",
    };
    let classes = metadata.classes.len();
    let mut config = json!({
        "architecture": timm,
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
        "num_classes": classes,
        "num_features": architecture.features,
        "label_names": metadata.classes,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": true,
            "interpolation": interpolation,
            "crop_pct": part,
            "crop_mode": mode,
            "mean": mean,
            "std": std,
            "num_classes": classes,
        },
    });
    match metadata.task {
        Task::Single => {
            if let Some(temperature) = metadata.temperature {
                config[TEMPERATURE] = json!(temperature);
            }
            if let Some(rejection) = metadata.rejection {
                config[REJECTION] = json!(rejection);
            }
        }
        Task::Regression => {
            config["problem_type"] = json!("regression");
            if let Some(regression) = &metadata.regression {
                config[REGRESSION] = json!(regression);
            }
        }
        Task::Multi => {
            config["problem_type"] = json!("multi_label_classification");
            config[THRESHOLDS] = json!(metadata.class_thresholds());
        }
    }
    if architecture.is_resampled() {
        config["model_args"] = json!({"img_size": size});
    }
    Ok(config)
}

/// timm's crop of pictures, with a fraction that it makes the same length of the shorter side of.
fn crop(own: &Preprocessing) -> std::result::Result<(&'static str, f64), String> {
    let (size, resize) = (own.size as f64, own.resize as f64);
    match own.fit {
        Fit::Stretch => Ok(("squash", 1.0)),
        // The length is rounded down there.
        Fit::Crop => [size / resize, size / (resize + 0.5)]
            .into_iter()
            .find(|part| (size / part).floor() == resize)
            .map(|part| ("center", part))
            .ok_or(format!("a resize to {resize} before a crop of {size} has no fraction in timm")),
        Fit::Pad => {
            Err("pictures are padded to a square, which timm does not do: export it to ONNX instead".into())
        }
    }
}

/// The model card. What offshoot does not know is left to its author.
fn card(model: &Model, timm: &str) -> String {
    let metadata = &model.metadata;
    let classes: Vec<String> = metadata.classes.iter().map(|class| format!("`{}`", quoted(class))).collect();
    format!(
        "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags:\n- image-classification\n- timm\n- transformers\n\
         license: other # to be filled in\n---\n\n# {timm}, fine-tuned\n\n\
         ## Data\n\n{} classes: {}\n\nTo be filled in: where the pictures come from, how many there are, how they were labeled.\n\n\
         ## Recipe\n\nTo be filled in: `recipe.toml` of the run says it.\n\n\
         ## Preprocessing\n\n{}\n\n\
         ## Accuracy\n\nTo be filled in: `offshoot eval` prints it.\n\n\
         {}\
         ## Calibration\n\nThe logits are those of the network. {}To be filled in: how well the probabilities are calibrated; `offshoot eval` \
         prints it.\n\n\
         ## License\n\nTo be filled in: that of the pretrained weights and of the pictures count too.\n",
        classes.len(),
        classes.join(", "),
        metadata.preprocessing,
        match metadata.task {
            Task::Single => "",
            Task::Regression =>
                "## Targets\n\nThe outputs are numbers, in the units of the targets; `label_names` in `config.json` names them.\n\n",
            Task::Multi =>
                "## Labels\n\nA picture may have any number of classes. The sigmoid of a logit is the probability of its class; \
                 `offshoot_thresholds` in `config.json` has the one from which on a picture is said to have it.\n\n",
        },
        decision(metadata)
    )
}

/// What the card says of calibrated probabilities and of pictures of other classes.
fn decision(metadata: &Metadata) -> String {
    let temperature = metadata.temperature.map(|_| {
        "A temperature was fitted on validation pictures: the softmax of the logits divided by `offshoot_temperature` in `config.json` gives \
         the calibrated probabilities. "
    });
    let rejection = metadata.rejection.map(|rejection| match rejection.score {
        Score::Probability => {
            "A picture whose highest probability is below the threshold in `offshoot_rejection` is said to be of none of the classes. "
        }
        Score::Energy => {
            "A picture whose log(sum(exp(logits))) is below the threshold in `offshoot_rejection` is said to be of none of the classes. "
        }
    });
    [temperature, rejection].into_iter().flatten().collect()
}
