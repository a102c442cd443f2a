//! Recipes: defaults, what wins, and what the errors say.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::path::Path;

use offshoot_graph::{Fit, Preprocessing};
use offshoot_train::recipe::{Augment, PreprocessingSettings};
use offshoot_train::{Freeze, OptimizerKind, Recipe, ScheduleKind, Settings};

fn least() -> Settings {
    Settings { model: Some("resnet18".into()), data: Some("photos".into()), ..Settings::default() }
}

fn resolve(settings: Settings) -> Recipe {
    Recipe::resolve(settings, &Preprocessing::default()).unwrap()
}

/// The message of the error that a recipe file of this text gives, without the folder.
fn error_of(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    let error = Settings::read(&path).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn the_defaults_are_the_contracts() {
    let recipe = resolve(least());
    assert_eq!((recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay), (30, 16, 1e-3, 1e-2));
    assert_eq!((recipe.optimizer, recipe.schedule), (OptimizerKind::AdamW, ScheduleKind::Cosine));
    assert_eq!(
        (recipe.head.as_str(), recipe.freeze, recipe.val_fraction),
        ("linear,dropout=0.2", Freeze::None, 0.2)
    );
    assert_eq!((recipe.augment, recipe.preprocessing), (Augment::On, Preprocessing::default()));
}

#[test]
fn a_frozen_backbone_turns_augmentation_off_unless_asked_for() {
    let frozen = || Settings { freeze: Some(Freeze::Backbone), ..least() };
    assert_eq!(resolve(frozen()).augment, Augment::Off);
    assert_eq!(resolve(Settings { augment: Some(Augment::On), ..frozen() }).augment, Augment::On);
}

#[test]
fn another_size_scales_the_resize_unless_that_is_given() {
    let with = |size, resize| {
        let preprocessing = Some(PreprocessingSettings { size, resize, ..Default::default() });
        let p = resolve(Settings { preprocessing, ..least() }).preprocessing;
        (p.size, p.resize)
    };
    assert_eq!(with(None, None), (224, 256));
    assert_eq!(with(Some(112), None), (112, 128));
    assert_eq!(with(Some(112), Some(120)), (112, 120));
}

#[test]
fn flags_win_over_the_file_and_preprocessing_is_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let text = "model = \"resnet18\"\ndata = \"photos\"\nlr = 0.5\nepochs = 3\nfreeze = \"layer1, bn1\"\n\
                [lr_groups]\nfc = 0.1\n[preprocessing]\nfit = \"pad\"\nsize = 64\n";
    std::fs::write(&path, text).unwrap();
    let preprocessing = Some(PreprocessingSettings { size: Some(32), ..Default::default() });
    let flags = Settings { lr: Some(0.25), preprocessing, ..Settings::default() };
    let recipe = resolve(flags.over(Settings::read(&path).unwrap()).unwrap());
    assert_eq!((recipe.lr, recipe.epochs, recipe.lr_groups["fc"]), (0.25, 3, 0.1));
    assert_eq!(recipe.freeze.to_string(), "layer1,bn1");
    assert_eq!((recipe.preprocessing.fit, recipe.preprocessing.size), (Fit::Pad, 32));
}

#[test]
fn a_recipe_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = least();
    settings.weights = Some("w.pth".into());
    settings.class_weights = Some([("a b".to_string(), 2.5)].into());
    settings.lr_groups = Some([("layer4.*".to_string(), 1e-4)].into());
    settings.threads = Some(3);
    settings.seed = Some(i64::MAX as u64);
    let recipe = resolve(settings);
    recipe.write(folder.path()).unwrap();
    assert_eq!(Recipe::read(folder.path()).unwrap(), recipe);
    let text = recipe.to_toml();
    assert!(text.contains("lr = 0.001\n") && text.contains("mean = [0.485, 0.456, 0.406]\n"), "{text}");
}

#[test]
fn errors_name_file_line_and_setting() {
    assert_eq!(error_of("lr = 0.1\n\nepochs = 0\n"), "mine.toml:3: `epochs` must be at least 1, not 0");
    assert_eq!(error_of("lr = -1.0"), "mine.toml:1: `lr` must be above 0, not -1");
    assert_eq!(error_of("lr = inf"), "mine.toml:1: `lr` must be above 0, not inf");
    assert_eq!(
        error_of("[lr_groups]\nfc = 0.1\n\"layer4.0\" = 0.0\n"),
        "mine.toml:3: `lr_groups.layer4.0` must be above 0, not 0"
    );
    assert_eq!(error_of("momentum = 1.0"), "mine.toml:1: `momentum` must be at least 0 and below 1, not 1");
    assert_eq!(error_of("epochs = 1000001"), "mine.toml:1: `epochs` must be at most 1000000, not 1000001");
    let unknown = error_of("epochs = 3\nepoch = 4\n");
    assert!(unknown.starts_with("mine.toml: TOML parse error at line 2, column 1"), "{unknown}");
    assert!(unknown.contains("unknown field `epoch`, expected one of `model`"), "{unknown}");
    let kind = error_of("optimizer = \"lion\"");
    assert!(kind.contains("line 1") && kind.contains("expected one of `sgd`, `adam`, `adamw`"), "{kind}");
    let size = error_of("[preprocessing]\nsize = -3\n");
    assert!(size.contains("line 2"), "{size}");
    let freeze = error_of("freeze = \"layer1,,bn1\"");
    assert!(freeze.contains("line 1") && freeze.contains("patterns with commas between them"), "{freeze}");
    let missing = Settings::read(Path::new("no/such.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("no/such.toml: cannot be read"), "{missing}");
}

#[test]
fn errors_of_flags_name_the_setting() {
    let error = |settings| Recipe::resolve(settings, &Preprocessing::default()).unwrap_err().to_string();
    assert_eq!(
        error(Settings { val_fraction: Some(1.5), ..least() }),
        "`val_fraction` must be at least 0 and below 1, not 1.5"
    );
    assert_eq!(
        error(Settings { seed: Some(u64::MAX), ..least() }),
        format!("`seed` must be at most {}, not {}", i64::MAX, u64::MAX)
    );
    assert_eq!(
        error(Settings { model: None, ..least() }),
        "missing field `model`; give it on the command line or in the recipe"
    );
}

#[test]
fn a_resumed_run_keeps_its_recipe_and_lists_every_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    assert_eq!(Recipe::resume(run, &Settings::default()).unwrap(), None);
    let recipe = resolve(Settings { lr: Some(0.1), ..least() });
    recipe.write(run).unwrap();
    let same = Settings { lr: Some(0.1), epochs: Some(30), ..Settings::default() };
    assert_eq!(Recipe::resume(run, &same).unwrap().as_ref(), Some(&recipe));
    let threads = Settings { threads: Some(3), ..Settings::default() };
    assert_eq!(Recipe::resume(run, &threads).unwrap(), Some(Recipe { threads: Some(3), ..recipe }));
    let preprocessing = Some(PreprocessingSettings { size: Some(64), ..Default::default() });
    let other = Settings {
        lr: Some(0.2),
        epochs: Some(30),
        preprocessing,
        weights: Some("w.pth".into()),
        ..Settings::default()
    };
    let error = Recipe::resume(run, &other).unwrap_err().to_string();
    for part in [
        "`lr` is 0.1 there and 0.2 here",
        "`preprocessing.size` is 224 there and 64 here",
        "`weights` is nothing there and \"w.pth\" here",
        "`out`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("`epochs`"), "{error}");
}

#[test]
fn unfreezing_starts_from_a_frozen_backbone() {
    let unfreeze = || Some(vec!["layer4@50%".parse().unwrap()]);
    let recipe = resolve(Settings { unfreeze: unfreeze(), ..least() });
    assert_eq!((recipe.freeze, recipe.augment), (Freeze::Backbone, Augment::Off));
    let patterns: Freeze = "conv1,layer4".parse().unwrap();
    let recipe = resolve(Settings { unfreeze: unfreeze(), freeze: Some(patterns.clone()), ..least() });
    assert_eq!((recipe.freeze, recipe.augment), (patterns, Augment::On));
    assert_eq!(resolve(Settings { schedule: Some("onecycle".parse().unwrap()), ..least() }).warmup, 0.0);
}

#[test]
fn settings_that_exclude_each_other_are_named() {
    let error = |settings| Recipe::resolve(settings, &Preprocessing::default()).unwrap_err().to_string();
    let late = Settings { unfreeze: Some(vec!["fc@60%".parse().unwrap()]), epochs: Some(1), ..least() };
    assert_eq!(error(late), "`unfreeze` has `fc@60%:x0.1`, which 1 epochs do not reach; give more epochs");
    let both = Settings { clip_norm: Some(1.0), clip_value: Some(1.0), ..least() };
    assert_eq!(error(both), "`clip_value` cannot be given together with `clip_norm`");
    let unknown = Settings { average_last: Some(2), patience: Some(3), ..least() };
    assert!(error(unknown).starts_with("`average_last` cannot be given together with `patience`"));
    let few = Settings { average_last: Some(31), ..least() };
    assert_eq!(error(few), "`average_last` must be at most the 30 epochs, not 31");
    let rises = Settings { schedule: Some("onecycle".parse().unwrap()), warmup: Some(0.1), ..least() };
    assert_eq!(resolve(rises).warmup, 0.1);
}
