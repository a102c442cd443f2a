//! Names of the parts of data sets: `train`, `Testing`, `val2017`, `validation_set`, `seg_test`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Val,
    Test,
}

/// Words that name a part, in lower case.
const WORDS: [(Part, &[&str]); 3] = [
    (
        Part::Train,
        &[
            "train",
            "training",
            "trains",
            "trn",
            "trainval",
            "entrainement",
            "entraînement",
            "entrenamiento",
            "训练",
        ],
    ),
    (
        Part::Val,
        &[
            "val",
            "vals",
            "valid",
            "validation",
            "validate",
            "validating",
            "vali",
            "vld",
            "dev",
            "devel",
            "development",
            "crossval",
            "validación",
            "validacion",
            "validierung",
            "验证",
            "驗證",
        ],
    ),
    (
        Part::Test,
        &[
            "test",
            "tests",
            "testing",
            "tst",
            "eval",
            "evaluation",
            "evaluate",
            "holdout",
            "heldout",
            "prueba",
            "测试",
            "測試",
        ],
    ),
];

/// Words beside them that say no more than that the folder holds data.
const PLAIN: [&str; 42] = [
    "set",
    "sets",
    "data",
    "dataset",
    "datasets",
    "image",
    "images",
    "img",
    "imgs",
    "jpeg",
    "jpg",
    "png",
    "pic",
    "pics",
    "picture",
    "pictures",
    "photo",
    "photos",
    "sample",
    "samples",
    "split",
    "splits",
    "folder",
    "dir",
    "part",
    "subset",
    "ds",
    "new",
    "final",
    "original",
    "orig",
    "raw",
    "full",
    "all",
    "extra",
    "cropped",
    "resized",
    "aug",
    "augmented",
    "集",
    "数据",
    "数据集",
];

/// The part that one word names: with `set`, `data`, `images` and the like written to it or not.
fn of_word(word: &str) -> Option<Part> {
    let named = WORDS.iter().find(|(_, words)| words.contains(&word)).map(|(part, _)| *part);
    named.or_else(|| {
        let shorter =
            PLAIN.iter().filter_map(|plain| word.strip_suffix(plain).or_else(|| word.strip_prefix(plain)));
        shorter.filter(|rest| !rest.is_empty()).find_map(of_word)
    })
}

/// The words of a name, in lower case: cut at signs and digits, and where lower case goes over into upper case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in name.chars() {
        if !letter.is_alphabetic() || (letter.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if letter.is_alphabetic() {
            words.last_mut().expect("there is a word").extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The part that a name speaks of, and the words of it that say something else.
fn of_name(name: &str) -> Option<(Part, Vec<String>)> {
    let words = words(name);
    if let Some(part) = of_word(&words.concat()) {
        return Some((part, Vec::new()));
    }
    let named: Vec<Part> = words.iter().filter_map(|word| of_word(word)).collect();
    let others =
        words.into_iter().filter(|word| of_word(word).is_none() && !PLAIN.contains(&&word[..])).collect();
    match named[..] {
        [part] => Some((part, others)),
        _ => None,
    }
}

/// The part that a text names and nothing else: in a column of a table, `train` or `Validation`.
pub(super) fn part_of(text: &str) -> Option<Part> {
    of_name(text).filter(|(_, others)| others.is_empty()).map(|(part, _)| part)
}

/// Those of `folders` that are named after a part. A name with words of its own (`seg_train`) counts where another part has
/// the same (`seg_test`).
pub(super) fn parts(folders: &[PathBuf]) -> Vec<(&PathBuf, Part)> {
    let mut groups: BTreeMap<Vec<String>, Vec<(&PathBuf, Part)>> = BTreeMap::new();
    for path in folders {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((part, others)) = of_name(&name) {
            groups.entry(others).or_default().push((path, part));
        }
    }
    groups.retain(|others, group| {
        let kinds: BTreeSet<Part> = group.iter().map(|(_, part)| *part).collect();
        others.is_empty() || kinds.len() > 1
    });
    groups.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_spellings() {
        let cases = [
            (
                Part::Train,
                "train Training TRAIN train_set trainset TrainSet train-images Train2017 train.1 traindata",
            ),
            (
                Part::Train,
                "images_train imgtrain trainval training_data 训练集 01_train TRAINING-SET trainImages",
            ),
            (
                Part::Val,
                "val Val VAL valid validation valset val2017 dev devset Validation_Data 验证集 validset",
            ),
            (
                Part::Test,
                "test Testing TEST test_images testset eval hold_out hold-out holdout Test1 测试 evaluation",
            ),
        ];
        for (part, names) in cases {
            for name in names.split(' ') {
                assert_eq!(of_name(name), Some((part, vec![])), "{name}");
            }
        }
        for name in
            "trainer strain bus invalid device value contest latest testament valley bird trains_and_buses"
                .split(' ')
        {
            assert!(of_name(name).is_none_or(|(_, others)| !others.is_empty()), "{name}");
        }
    }

    #[test]
    fn words_that_parts_share_do_not_hide_them() {
        let found = |names: &str| {
            let folders: Vec<PathBuf> = names.split(' ').map(PathBuf::from).collect();
            parts(&folders)
                .into_iter()
                .map(|(path, part)| (path.display().to_string(), part))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            found("seg_pred seg_test seg_train"),
            [("seg_test".into(), Part::Test), ("seg_train".into(), Part::Train)]
        );
        assert_eq!(
            found("ILSVRC2012_img_train ILSVRC2012_img_val"),
            [("ILSVRC2012_img_train".into(), Part::Train), ("ILSVRC2012_img_val".into(), Part::Val)]
        );
        assert_eq!(found("freight_train passenger_train bus_stop"), []);
    }
}
