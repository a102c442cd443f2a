//! A recipe as a file to start from, with a word on each setting.

use crate::recipe::Recipe;

/// What a setting is, in the words of a recipe file.
const COMMENTS: [(&str, &str); 35] = [
    ("head", "What replaces the pretrained head: linear or mlp:256, and a dropout."),
    ("epochs", "How often each picture is seen."),
    ("batch_size", "Pictures in a batch."),
    ("lr", "The learning rate at its highest."),
    ("optimizer", "sgd, adam or adamw."),
    ("weight_decay", "How strongly weights are pulled to zero."),
    ("momentum", "For sgd."),
    ("nesterov", "For sgd."),
    ("schedule", "cosine, constant, onecycle:rise=0.3, step:10,gamma=0.1 or plateau:patience=10."),
    ("warmup", "The part of a stage's steps in which the rate rises."),
    ("restart", "Whether the schedule starts anew at each unfreezing, and ends before the next."),
    ("freeze", "What stays as it is: backbone, none, or patterns on parameter names."),
    ("freeze_norms", "Whether batch norms stay as they are in all that trains, and keep their statistics."),
    ("unfreeze", "What of it trains after all, from when on, at which factor of lr."),
    ("rebuild", "Whose optimizer state an unfreezing starts anew: new (of the newly unfrozen) or all."),
    ("layer_decay", "Each layer learns at this factor of the rate of the layer after it."),
    ("decay_norms_and_biases", "Whether weight decay reaches biases and norms too."),
    ("accumulate", "Batches that an update learns from together."),
    ("average_last", "The mean of the weights after this many last epochs is tried at the end; 0 for none."),
    ("min_delta", "By more than this a validation accuracy must be higher to be better for patience."),
    ("label_smoothing", "The part of the target that is spread over all classes."),
    ("balance_classes", "Whether each class counts as much as any other, however many pictures it has."),
    ("balanced_sampling", "Whether each class has the same number of places in an epoch."),
    ("augment", "Whether training pictures are changed at random, as [augmentation] says: on or off."),
    ("cache_dtype", "How what a frozen part says about pictures is rounded: f32 or f16."),
    ("amp", "Mixed precision: off, bf16 or fp16."),
    ("on_nonfinite", "What becomes of a step with a number that is not finite: stop, skip or rollback."),
    ("val_fraction", "The part of the pictures kept for validation, where there is no folder `val`."),
    ("seed", "Decides everything random."),
    ("threads", "Threads; the result does not depend on it."),
    ("strict", "Whether a picture that cannot be used is an error."),
    ("[lr_groups]", "Learning rates by pattern on parameter names, as in: layer4 = 1e-4"),
    ("[class_weights]", "Weights of classes in the loss, as in: rare = 3.0"),
    ("[augmentation]", "What happens to training pictures at random, where augment is on."),
    ("[preprocessing]", "How pictures become inputs."),
];

/// Settings that are off.
const OFF: &str = "\
# Scale the gradient down where its 2-norm is larger.
# clip_norm = 1.0
# Cut off what is larger of each element of the gradient.
# clip_value = 0.5
# Validate and keep a moving average of the weights that decays by this a step.
# ema = 0.99
# End after this many epochs without a better validation accuracy.
# patience = 5
# Keep this many augmented views of each picture, so that what a frozen part says about them is computed once.
# cache_views = 4
";

/// `recipe` as a TOML file with comments, which reads back as the same settings. `model`, `weights` and `data`, which belong to one
/// run, are left to the command line.
pub fn template(recipe: &Recipe) -> String {
    let mut text = String::new();
    for line in recipe.to_toml().lines() {
        let key = line.split(" = ").next().unwrap_or(line);
        if ["model", "weights", "data"].contains(&key) {
            continue;
        }
        if let Some((_, comment)) = COMMENTS.iter().find(|(name, _)| *name == key) {
            text += &format!("# {comment}\n");
        }
        text += &format!("{line}\n");
        if key == "strict" {
            text += OFF;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;

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
        let read = Settings { unfreeze: None, ..settings }.over(Settings::read(&path).unwrap());
        assert_eq!(Recipe::resolve(read, &Preprocessing::default()).unwrap(), recipe);
        let all = text
            .lines()
            .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ") && !l.contains(':')).unwrap_or(l));
        let all: Vec<&str> = all.filter(|l| !l.starts_with("clip_value")).collect();
        std::fs::write(&path, all.join("\n")).unwrap();
        assert_eq!(Settings::read(&path).unwrap().patience, Some(5));
    }
}
