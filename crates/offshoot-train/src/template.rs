//! A recipe as a file to start from, with a comment on each setting.

use crate::ranges;
use crate::recipe::Recipe;

/// What a setting is, in the words of a recipe file.
const COMMENTS: [(&str, &str); 35] = [
    ("head", "New classification head: linear or mlp:256, with an optional dropout."),
    ("epochs", "Number of epochs."),
    ("batch_size", "Batch size."),
    ("lr", "Peak learning rate."),
    ("optimizer", "Optimizer: sgd, adam or adamw."),
    ("weight_decay", "Weight decay."),
    ("momentum", "Momentum of sgd."),
    ("nesterov", "Whether sgd uses Nesterov momentum."),
    (
        "schedule",
        "Learning rate schedule: cosine, constant, onecycle:rise=0.3, step:10,gamma=0.1 or plateau:patience=10.",
    ),
    ("warmup", "Learning rate warm-up, as a fraction of the steps of each stage."),
    ("restart", "Whether the schedule restarts at each unfreezing, and ends before the next."),
    ("freeze", "Parameters to freeze: backbone, none, or patterns on parameter names."),
    (
        "freeze_norms",
        "Whether the parameters and running statistics of batch norms are frozen in the layers that are trained.",
    ),
    (
        "unfreeze",
        "Parameters to unfreeze during training: from which part of the epochs on, and at which factor of lr.",
    ),
    (
        "rebuild",
        "Optimizer state that is reset at an unfreezing: new (of the newly unfrozen parameters) or all.",
    ),
    (
        "layer_decay",
        "Layer-wise learning rate decay: each layer's rate is this factor times that of the layer after it.",
    ),
    ("decay_norms_and_biases", "Whether weight decay applies to biases and norms too."),
    ("accumulate", "Gradient accumulation steps: batches per optimizer update."),
    ("average_last", "Validate the average of the weights of this many last epochs at the end; 0 for none."),
    ("min_delta", "Early-stopping minimum improvement of the validation accuracy."),
    ("label_smoothing", "Label smoothing: the fraction of the target that is spread over all classes."),
    ("balance_classes", "Whether class weights in the loss are inverse to the number of pictures."),
    ("balanced_sampling", "Whether every class is sampled equally often in an epoch."),
    ("augment", "Random augmentation of training pictures, as set in [augmentation]: on or off."),
    ("cache_dtype", "Data type of cached backbone features: f32 or f16."),
    ("amp", "Mixed precision: off, bf16 or fp16."),
    (
        "on_nonfinite",
        "What to do with a step whose loss or gradient is NaN or infinite: stop, skip or rollback.",
    ),
    ("val_fraction", "Fraction of the pictures held out for validation, where there is no `val` folder."),
    ("seed", "Random seed."),
    ("threads", "Number of threads; results do not depend on it."),
    ("strict", "Whether a picture that cannot be read is an error instead of being skipped."),
    ("[lr_groups]", "Learning rates by pattern on parameter names, as in: layer4 = 1e-4"),
    ("[class_weights]", "Class weights in the loss, as in: rare = 3.0"),
    ("[augmentation]", "Random augmentation of training pictures, where augment is on."),
    ("[preprocessing]", "Preprocessing: how pictures become network inputs."),
];

/// Settings that are off: what they are, their names, and an example.
const OFF: [(&str, &str, &str); 5] = [
    ("Clip the gradient to this 2-norm.", "clip_norm", "1.0"),
    ("Clip each element of the gradient to this absolute value.", "clip_value", "0.5"),
    (
        "Decay per step of the exponential moving average (EMA) of the weights, which is validated and kept.",
        "ema",
        "0.99",
    ),
    ("Early stopping: end after this many epochs without a better validation accuracy.", "patience", "5"),
    (
        "Number of fixed augmented views of each picture, so that their features can be cached.",
        "cache_views",
        "4",
    ),
];

/// `recipe` as a TOML file with comments, which reads back as the same settings. `model`, `weights` and `data`, which belong to one
/// run, are left to the command line.
pub fn template(recipe: &Recipe) -> String {
    // What is left out stands on a line each, whatever is in the names.
    let [model, data] = ["model", "data"].map(str::to_owned);
    let weights = recipe.weights.as_ref().map(|_| "weights".into());
    let recipe = Recipe { model, weights, data: data.into(), ..recipe.clone() };
    let mut text = String::new();
    for line in recipe.to_toml().lines() {
        let key = line.split(" = ").next().unwrap_or(line);
        if ["model", "weights", "data"].contains(&key) {
            continue;
        }
        if let Some((_, comment)) = COMMENTS.iter().find(|(name, _)| *name == key) {
            text += &explained(comment, key);
        }
        text += &format!("{line}\n");
        if key == "strict" {
            let off = OFF
                .iter()
                .map(|(comment, key, example)| format!("{}# {key} = {example}\n", explained(comment, key)));
            text.extend(off);
        }
    }
    text
}

/// What a setting is, with its range.
fn explained(comment: &str, key: &str) -> String {
    match ranges::in_words(key) {
        Some(range) => format!("# {comment} ({range})\n"),
        None => format!("# {comment}\n"),
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;

    #[test]
    fn a_name_of_several_lines_is_no_setting() {
        let settings = |model: &str| Settings {
            model: Some(model.into()),
            data: Some(format!("{model}/d").into()),
            weights: Some(model.into()),
            ..Settings::default()
        };
        let of =
            |model: &str| template(&Recipe::resolve(settings(model), &Preprocessing::default()).unwrap());
        assert_eq!(of("a\nepochs = 3\"\"\"\nlr = 7"), of("m"));
    }

    #[test]
    fn a_template_says_something_of_each_setting_and_reads_back() {
        let settings = Settings {
            model: Some("m".into()),
            data: Some("d".into()),
            unfreeze: Some(vec!["layer4@50%".parse().unwrap()]),
            ..Settings::default()
        };
        let recipe = Recipe::resolve(settings.clone(), &Preprocessing::default()).unwrap();
        let text = template(&recipe);
        let (top, _) = text.split_once("[augmentation]").unwrap();
        for (number, line) in top.lines().enumerate() {
            let commented = number > 0 && top.lines().nth(number - 1).is_some_and(|l| l.starts_with("# "));
            assert!(line.is_empty() || line.starts_with('#') || commented, "{line}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, &text).unwrap();
        let read = Settings { unfreeze: None, ..settings }.over(Settings::read(&path).unwrap()).unwrap();
        assert_eq!(Recipe::resolve(read, &Preprocessing::default()).unwrap(), recipe);
        let all = text
            .lines()
            .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ") && !l.contains(':')).unwrap_or(l));
        let all: Vec<&str> = all.filter(|l| !l.starts_with("clip_value")).collect();
        std::fs::write(&path, all.join("\n")).unwrap();
        assert_eq!(Settings::read(&path).unwrap().patience, Some(5));
    }
}
