//! A recipe as a file to start from, with a comment on each setting.

use crate::ranges;
use crate::recipe::Recipe;
use crate::settings::{SETTINGS, Setting};

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
        let table = key.strip_prefix('[').and_then(|key| key.strip_suffix(']'));
        if let Some(setting) = Setting::named(table.unwrap_or(key)) {
            text += &explained(setting, table.is_none());
        }
        text += &format!("{line}\n");
        if key == "strict" {
            let off = SETTINGS.iter().filter(|setting| setting.off);
            text.extend(off.map(|s| format!("{}# {} = {}\n", explained(s, true), s.name, s.default)));
        }
    }
    text
}

/// What a setting is, with the range of a number.
fn explained(setting: &Setting, is_number: bool) -> String {
    match ranges::in_words(setting.name).filter(|_| is_number) {
        Some(range) => format!("# {} ({range})\n", setting.help),
        None => format!("# {}\n", setting.help),
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
