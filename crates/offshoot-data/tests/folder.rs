//! Data sets on disk: what is found, how it is split, and what is wrong with those that cannot be used.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use offshoot_data::{
    Dataset, DecodeError, FolderError, FolderOptions, Sample, labelled, pictures, training_folder,
};
use proptest::prelude::*;

/// A small picture, of any format but for its name.
fn picture() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exif_1.jpg")).unwrap()
}

/// A folder with these files; those whose name ends in `.jpg` are good pictures, `/` at the end makes a folder.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        add(root.path(), file, if file.ends_with(".jpg") { picture() } else { b"text".to_vec() });
    }
    root
}

fn add(root: &Path, file: &str, content: Vec<u8>) {
    let path = root.join(file);
    if file.ends_with('/') {
        return fs::create_dir_all(path).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn options() -> FolderOptions {
    FolderOptions::default()
}

fn open(root: &tempfile::TempDir) -> Result<Dataset, FolderError> {
    Dataset::open(root.path(), &options())
}

/// Paths relative to `root`, with labels.
fn listed(root: &tempfile::TempDir, samples: &[Sample]) -> Vec<(String, usize)> {
    let relative = |path: &PathBuf| path.strip_prefix(root.path()).unwrap().to_string_lossy().into_owned();
    samples.iter().map(|sample| (relative(&sample.path), sample.label)).collect()
}

/// The message, with the temporary folder's name replaced.
fn message(root: &tempfile::TempDir, error: &FolderError) -> String {
    error.to_string().replace(&root.path().display().to_string(), "DATA")
}

#[test]
fn train_and_val_folders_are_read_in_byte_order() {
    let root = folder(&[
        "train/b/2.jpg",
        "train/b/10.jpg",
        "train/b/deep/er/1.jpg",
        "train/Z/1.jpg",
        "train/a/x.jpg",
        "train/a/X.jpg",
        "val/a/1.jpg",
        "val/b/1.jpg",
        "val/Z/1.jpg",
        "test/a/1.jpg",
        "README.md",
    ]);
    let data = open(&root).unwrap();
    assert_eq!(data.classes, ["Z", "a", "b"]);
    let expected = [
        ("train/Z/1.jpg", 0),
        ("train/a/X.jpg", 1),
        ("train/a/x.jpg", 1),
        ("train/b/10.jpg", 2),
        ("train/b/2.jpg", 2),
        ("train/b/deep/er/1.jpg", 2),
    ];
    assert_eq!(listed(&root, &data.train), expected.map(|(path, label)| (path.to_owned(), label)));
    assert_eq!(data.val.iter().map(|sample| sample.label).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(data.skipped, []);
}

#[test]
fn only_pictures_count_and_unusable_ones_are_named() {
    let root = folder(&["a/1.jpg", "a/Thumbs.db", "a/notes.txt", "a/.hidden.jpg", "a/.git/x.jpg", "b/1.jpg"]);
    add(root.path(), "a/empty.png", Vec::new());
    add(root.path(), "a/text.JPEG", b"text".to_vec());
    add(root.path(), "a/no_extension", picture());
    add(root.path(), "a/wrong_extension.png", picture());
    add(root.path(), ".ipynb_checkpoints/x.jpg", picture());
    let data = Dataset::open(root.path(), &FolderOptions { val_fraction: 0.0, ..options() }).unwrap();
    assert_eq!(data.classes, ["a", "b"]);
    let names: Vec<_> = listed(&root, &data.train).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["a/1.jpg", "a/no_extension", "a/wrong_extension.png", "b/1.jpg"]);
    let skipped: Vec<_> = data.skipped.iter().map(|error| (&error.path, &error.source)).collect();
    let (empty, text) = (root.path().join("a/empty.png"), root.path().join("a/text.JPEG"));
    assert_eq!(skipped, [(&empty, &DecodeError::Empty), (&text, &DecodeError::NotAPicture)]);

    let strict = Dataset::open(root.path(), &FolderOptions { strict: true, ..options() }).unwrap_err();
    assert_eq!(message(&root, &strict), "DATA/a/empty.png: the file is empty");
}

#[test]
fn what_is_no_data_set_is_explained() {
    let root = folder(&["a.jpg"]);
    let cases = [
        (root.path().join("absent"), "DATA/absent: no such file or folder"),
        (
            root.path().join("a.jpg"),
            "DATA/a.jpg: neither a folder nor a table; a data set is a folder with one folder of pictures for each class, a .csv, .tsv or .jsonl with a row for each picture, or a .tar",
        ),
        (
            root.path().to_owned(),
            "DATA: no class in it; put the pictures into one folder for each class: DATA/<class>/*, or \
             DATA/train/<class>/* with DATA/val/<class>/*",
        ),
    ];
    for (path, expected) in cases {
        let error = Dataset::open(&path, &options()).unwrap_err();
        assert_eq!(message(&root, &error), expected);
    }
}

#[test]
fn what_is_wrong_with_the_classes_is_explained() {
    let cases: [(&[&str], &str); 15] = [
        (&["a/1.jpg"], r#"DATA: only one class ("a") in it; a classifier needs at least two"#),
        (
            &["a/1.jpg", "b/"],
            r#"DATA/b: no picture for class "b" (0 unusable); add pictures or remove the folder"#,
        ),
        (
            &["a/1.jpg", "b/1.png", "b/2.jp2"],
            r#"DATA/b: no picture for class "b" (2 unusable; the first: DATA/b/1.png: not a picture: the content is neither JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, TGA, ICO nor QOI); add pictures or remove the folder"#,
        ),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg"],
            r#"DATA/val: no class "c" in DATA/train, for which there are validation pictures; add training pictures, remove the folder, or give DATA/train alone to hold out a fraction of it for validation"#,
        ),
        (&["train/a/1.jpg", "train/b/1.jpg", "val/a/", "val/b/"], "DATA/val: no picture in it"),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"],
            "DATA: has `train` but no `val`; add `val` with a folder for each class, or give DATA/train to hold out a fraction \
             for validation",
        ),
        (
            &["val/a/1.jpg", "val/b/1.jpg"],
            "DATA: has `val` but no `train`; add `train` with a folder for each class, or give DATA/val to train with a \
             part of it",
        ),
        (
            &["Train/1.jpg", "Val/1.jpg"],
            r#"DATA: "Train", "Val" are named like a split of the data, but without a folder for each class; move the pictures to DATA/train/<class>/* and DATA/val/<class>/*, or rename what is a class"#,
        ),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "validation/1.jpg"],
            r#"DATA: "validation" is named like a split of the data, but without a folder for each class; move the pictures to DATA/train/<class>/* and DATA/val/<class>/*, or rename what is a class"#,
        ),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "dev/a/1.jpg", "valid/a/1.jpg"],
            r#"DATA: "dev", "valid" may all be meant for `val`; name one of them `val`, or join them"#,
        ),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "quality/a/1.jpg", "quality/b/1.jpg"],
            "DATA: `train` and `quality` hold the same folders, so they are parts of the data and no classes; name them \
             `train` and `val`",
        ),
        (
            &["photos/train/a/1.jpg", "photos/val/a/1.jpg"],
            "DATA/photos: holds `train` and `val`; give this folder",
        ),
        (
            &["photos/a/1.jpg", "photos/b/1.jpg", "__MACOSX/photos/._1.jpg"],
            r#"DATA: only one class ("photos") in it; if the classes are the folders in it, give DATA/photos or move them up"#,
        ),
        (
            &["outer/photos/a/1.jpg", "outer/photos/b/1.jpg"],
            r#"DATA: only one class ("outer") in it; if the classes are the folders in it, give DATA/outer/photos or move them up"#,
        ),
        (
            &["cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg", "dog/test/1.jpg"],
            r#"DATA: "cat" and others hold `train` and `test`; classes stand in the parts, not parts in the classes: DATA/train/cat and DATA/test/cat"#,
        ),
    ];
    for (files, expected) in cases {
        let root = folder(files);
        assert_eq!(message(&root, &open(&root).unwrap_err()), expected);
    }
}

#[test]
fn parts_are_found_by_other_names_and_said_where_it_matters() {
    let pairs = [
        ("Training", "Validation"),
        ("TRAIN", "VAL"),
        ("train", "dev"),
        ("training", "validation"),
        ("trainset", "valset"),
        ("train", "Val"),
        ("train_set", "valid_set"),
        ("Train2017", "val2017"),
        ("train-images", "validation-images"),
        ("ILSVRC_train", "ILSVRC_val"),
        ("training_data", "valid"),
    ];
    for (train, val) in pairs {
        let files =
            ["a/1.jpg", "b/1.jpg"].map(|file| [format!("{train}/{file}"), format!("{val}/{file}")]).concat();
        let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let data = open(&root).unwrap_or_else(|error| panic!("{train} and {val}: {error}"));
        assert_eq!(data.classes, ["a", "b"], "{train} and {val}");
        assert!(data.val.iter().all(|sample| sample.path.starts_with(root.path().join(val))));
        assert_eq!((data.train.len(), data.val.len(), data.notes.len()), (2, 2, 0));
        let classes = ["a", "b"].map(str::to_owned);
        assert_eq!(labelled(root.path(), &classes, &options()).unwrap().samples, data.val);
        assert_eq!(training_folder(root.path()).unwrap(), root.path().join(train));
    }
}

#[test]
fn test_pictures_are_left_out_or_validated_with_and_that_is_said() {
    let notes = |files: &[&str]| {
        let root = folder(files);
        let data = open(&root).unwrap();
        assert_eq!(data.classes, ["a", "b"]);
        let path = root.path().display().to_string();
        (data.notes.iter().map(|note| note.replace(&path, "DATA")).collect::<Vec<_>>(), data.val.len())
    };
    let split = ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"];
    let with = |more: &[&'static str]| [&split[..], more].concat();
    assert_eq!(notes(&split), (vec![], 2));
    assert_eq!(notes(&with(&["test/a/1.jpg", "masks/1.jpg"])).0, ["DATA: not used: `masks`, `test`"]);
    assert_eq!(notes(&with(&["test/1.jpg"])).0, ["DATA: not used: `test`"]);
    assert_eq!(
        notes(&["Training/a/1.jpg", "Training/b/1.jpg", "Testing/a/1.jpg", "Testing/b/1.jpg"]).0,
        [
            "DATA: no folder of validation pictures, so `Testing` is taken for them; a model whose best epoch was \
          chosen by them is to be measured on other pictures"
        ]
    );
    // A class without validation pictures: no folder, or an empty one.
    for val in ["val/", "val/b/"] {
        let found = notes(&["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", val]);
        assert_eq!(found.0, [r#"DATA/val: no picture of "b"; the validation figures say nothing of that"#]);
        assert_eq!(found.1, 1);
    }
}

#[test]
fn what_may_be_meant_otherwise_is_said() {
    let notes = |files: &[&str]| {
        let root = folder(files);
        let data = open(&root).unwrap();
        let path = root.path().display().to_string();
        data.notes.iter().map(|note| note.replace(&path, "DATA")).collect::<Vec<_>>()
    };
    assert_eq!(
        notes(&["first/a/1.jpg", "first/b/1.jpg", "second/a/1.jpg", "second/b/1.jpg"]),
        [
            "DATA: `first`, `second` are taken for classes, and each holds the folders `a`, `b`; if those are the classes, \
          name the folders `train` and `val`"
        ]
    );
    assert_eq!(
        notes(&["Birds/1.jpg", "birds/1.jpg", "cats/1.jpg"]),
        [
            r#"DATA: "Birds", "birds" are classes of their own and differ by upper and lower case only; if they are one class, put their pictures into one folder"#
        ]
    );
    assert_eq!(
        notes(&[
            "a/1.jpg",
            "b/1.jpg",
            "__MACOSX/a/1.jpg",
            ".ipynb_checkpoints/1.jpg",
            "@eaDir/1.jpg",
            "lost+found/"
        ]),
        [r#"DATA: left out, being no classes: ".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found""#]
    );
    assert_eq!(
        notes(&["a/1.jpg", "b/1.jpg", "1.jpg", "2.jpg"]),
        ["DATA: 2 pictures lie beside the class folders, in none of them, and not used"]
    );
    assert_eq!(
        notes(&["a/1.jpg", "b/1.jpg", "1.jpg", ".2.jpg", "notes.txt"]),
        ["DATA: 1 picture lies beside the class folders, in none of them, and not used"]
    );
    // A run of training among the classes is no class; a folder with a part of its files is.
    let run = ["a/1.jpg", "b/1.jpg", "run/recipe.toml", "run/pictures.csv"];
    assert_eq!(notes(&run), [r#"DATA: left out, being no classes: "run""#]);
    let root = folder(&["a/1.jpg", "b/1.jpg", "run/recipe.toml", "run/1.jpg"]);
    assert_eq!(open(&root).unwrap().classes, ["a", "b", "run"]);
}

#[test]
fn files_of_other_kinds_are_counted() {
    let root = folder(&[
        "a/1.jpg",
        "b/1.jpg",
        "a/x.JP2",
        "a/y.jp2",
        "b/z.pcx",
        "b/notes.txt",
        "b/LICENSE",
        "a/Thumbs.db",
    ]);
    add(root.path(), "a/x0.ppm", b"P6 1 1 255\nabc".to_vec());
    add(root.path(), "b/x0.pgm", b"P5\n# grey\n1 1 255\na".to_vec());
    let data = Dataset::open(root.path(), &FolderOptions { val_fraction: 0.0, ..options() }).unwrap();
    assert_eq!(data.train.len(), 4);
    let kinds: Vec<String> = data.skipped.iter().map(|error| error.source.to_string()).collect();
    let jpeg2000 = "JPEG 2000 pictures are not read; convert it to PNG or JPEG";
    assert_eq!(kinds, [jpeg2000, jpeg2000, "PCX pictures are not read; convert it to PNG or JPEG"]);
    let others: Vec<(&str, usize)> = data.others.iter().map(|(ending, &n)| (&ending[..], n)).collect();
    assert_eq!(others, [("(none)", 1), (".db", 1), (".txt", 1)]);
}

#[test]
fn a_class_may_be_called_train() {
    let root = folder(&["plane/1.jpg", "train/night/1.jpg", "train/day/1.jpg"]);
    assert_eq!(open(&root).unwrap().classes, ["plane", "train"]);
    let root = folder(&["car/1.jpg", "train/1.jpg", "val/1.jpg"]);
    let data = open(&root).unwrap();
    assert_eq!(data.classes, ["car", "train", "val"]);
    assert!(data.notes[0].contains("`train`, `val` are taken for classes"), "{:?}", data.notes);
    let root = folder(&["bus/1.jpg", "car/1.jpg", "train/1.jpg"]);
    assert_eq!(open(&root).unwrap().notes, Vec::<String>::new());
    let root = folder(&["invalid/1.jpg", "valid/1.jpg"]);
    assert_eq!(open(&root).unwrap().classes, ["invalid", "valid"]);
}

#[test]
fn a_fraction_out_of_range_is_an_error() {
    let root = folder(&["a/1.jpg", "b/1.jpg"]);
    for val_fraction in [-0.1, 1.0, f64::NAN] {
        let result = Dataset::open(root.path(), &FolderOptions { val_fraction, ..options() });
        assert!(matches!(result, Err(FolderError::Fraction { .. })));
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_handled() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let root = folder(&["a/1.jpg", "b/1.jpg"]);
    let file = root.path().join("a").join(OsStr::from_bytes(b"caf\xe9.jpg"));
    fs::write(&file, picture()).unwrap();
    let data = Dataset::open(root.path(), &FolderOptions { val_fraction: 0.0, ..options() }).unwrap();
    assert_eq!(data.train[1], Sample::new(file, 0));

    fs::create_dir(root.path().join(OsStr::from_bytes(b"caf\xe9"))).unwrap();
    let error = open(&root).unwrap_err();
    assert!(matches!(error, FolderError::ClassName { .. }));
    assert!(error.to_string().contains("must be UTF-8; rename the folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;

    let root = folder(&["a/1.jpg", "b/1.jpg", "elsewhere.jpg"]);
    symlink(root.path().join("elsewhere.jpg"), root.path().join("a/2.jpg")).unwrap();
    symlink(root.path().join("a"), root.path().join("a/circle")).unwrap();
    symlink(root.path().join("nothing"), root.path().join("b/broken.jpg")).unwrap();
    let data = Dataset::open(root.path(), &FolderOptions { val_fraction: 0.0, ..options() }).unwrap();
    let names: Vec<_> = listed(&root, &data.train).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["a/1.jpg", "a/2.jpg", "b/1.jpg"]);
    let skipped: Vec<_> =
        data.skipped.iter().map(|error| error.path.strip_prefix(root.path()).unwrap()).collect();
    assert_eq!(skipped, [Path::new("a/circle"), Path::new("b/broken.jpg")]);
}

#[test]
fn the_split_depends_on_the_seed_only() {
    let files: Vec<String> = (0..40).map(|i| format!("{}/{i:02}.jpg", ["a", "b"][i % 2])).collect();
    let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let split = |seed| Dataset::open(root.path(), &FolderOptions { seed, ..options() }).unwrap();
    assert_eq!(split(1), split(1));
    assert_ne!(split(1).val, split(2).val);
    let sorted = |samples: &[Sample]| samples.is_sorted_by_key(|sample| (sample.label, sample.path.clone()));
    assert!(sorted(&split(1).train) && sorted(&split(1).val));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn the_split_is_stratified(sizes in prop::collection::vec(1..12usize, 2..5), fraction in 0.0..0.999f64, seed: u64) {
        let root = tempfile::tempdir().unwrap();
        for (class, &size) in sizes.iter().enumerate() {
            (0..size).for_each(|i| add(root.path(), &format!("{class}/{i}.jpg"), picture()));
        }
        let options = FolderOptions { val_fraction: fraction, seed, ..options() };
        let data = Dataset::open(root.path(), &options).unwrap();
        let mut kept = BTreeMap::new();
        data.val.iter().for_each(|sample| *kept.entry(sample.label).or_insert(0) += 1);
        for (label, &size) in sizes.iter().enumerate() {
            let kept = kept.get(&label).copied().unwrap_or(0);
            prop_assert!(kept < size, "nothing left to train with");
            prop_assert!(size < 2 || fraction == 0.0 || kept >= 1, "nothing to validate with");
            let exact = size as f64 * fraction;
            prop_assert!((kept as f64 - exact).abs() <= 1.0, "{kept} of {size} for {fraction}");
        }
        let all: BTreeSet<_> = data.train.iter().chain(&data.val).map(|sample| &sample.path).collect();
        prop_assert_eq!(all.len(), sizes.iter().sum::<usize>());
    }
}

#[test]
fn evaluation_takes_val_and_the_models_classes() {
    let classes = ["b", "a", "c"].map(str::to_owned);
    let root = folder(&["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "val/b/3.jpg", "masks/1.jpg"]);
    let found = labelled(root.path(), &classes, &options()).unwrap();
    assert_eq!(found.notes.len(), 1);
    assert!(found.notes[0].ends_with("not used: `masks`"), "{:?}", found.notes);
    let expected = [("val/b/3.jpg".to_owned(), 0), ("val/a/2.jpg".to_owned(), 1)];
    assert_eq!(listed(&root, &found.samples), expected);
    assert_eq!(found.absent, ["c"]);

    let root = folder(&["a/1.jpg", "c/1.jpg"]);
    assert_eq!(labelled(root.path(), &classes, &options()).unwrap().samples.len(), 2);

    let root = folder(&["a/1.jpg", "dog/1.jpg"]);
    let error = labelled(root.path(), &classes, &options()).unwrap_err();
    assert_eq!(
        message(&root, &error),
        r#"DATA: the model does not know "dog"; its classes are "b", "a", "c""#
    );
}

#[test]
fn long_lists_of_classes_are_cut() {
    let classes: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let root = folder(&["cat/1.jpg", "dog/1.jpg"]);
    let error = labelled(root.path(), &classes, &options()).unwrap_err();
    assert!(message(&root, &error).ends_with(r#""8", "9" and 990 more"#), "{error}");
}

#[test]
fn files_and_folders_become_a_list_of_pictures() {
    let root = folder(&["one.jpg", "in/b.jpg", "in/a.jpg", "in/notes.txt", "none/notes.txt"]);
    add(root.path(), "in/bad.png", b"text".to_vec());
    let paths = |names: &[&str]| names.iter().map(|name| root.path().join(name)).collect::<Vec<_>>();
    let found = pictures(&paths(&["one.jpg", "in"]), &options()).unwrap();
    assert_eq!(found.paths, paths(&["one.jpg", "in/a.jpg", "in/b.jpg"]));
    assert_eq!(found.skipped.len(), 1);
    let error = pictures(&paths(&["none"]), &options()).unwrap_err();
    assert_eq!(message(&root, &error), "DATA/none: no picture in it");
    let error = pictures(&paths(&["absent"]), &options()).unwrap_err();
    assert_eq!(message(&root, &error), "DATA/absent: no such file or folder");
    // A file that was asked for by name is reported whatever its name is.
    let found = pictures(&paths(&["in/notes.txt"]), &options()).unwrap();
    assert_eq!(found.skipped[0].source, DecodeError::NotAPicture);
}
