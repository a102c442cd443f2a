//! Data sets whose pictures have any number of classes: the same labels give the same data set in any form.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use offshoot_data::{Dataset, FolderError, FolderOptions, Sample, labelled};
use offshoot_graph::Task;

const CLASSES: [&str; 3] = ["cat", "dog", "polar bear"];

/// The classes of the picture `index`.
fn labels(index: usize) -> Vec<usize> {
    (0..3).filter(|class| index.is_multiple_of([2, 3, 5][*class])).collect()
}

fn options() -> FolderOptions {
    FolderOptions { task: Task::Multi, ..FolderOptions::default() }
}

/// A folder with thirty pictures.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let picture = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exif_1.jpg")).unwrap();
    (0..30).for_each(|i| fs::write(root.path().join(format!("{i:02}.jpg")), &picture).unwrap());
    root
}

fn write(root: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = root.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A table with a line for each picture, in another order than that of their names.
fn table(head: &str, line: impl Fn(usize) -> String) -> String {
    (0..30).rev().fold(head.to_owned(), |mut text, index| {
        writeln!(text, "{}", line(index)).unwrap();
        text
    })
}

fn names(index: usize) -> Vec<&'static str> {
    labels(index).into_iter().map(|label| CLASSES[label]).collect()
}

/// Each picture with its classes.
fn found(samples: &[Sample]) -> Vec<(String, Vec<usize>)> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    samples.iter().map(|sample| (name(&sample.path), sample.classes().collect())).collect()
}

#[test]
fn any_form_gives_the_same_pictures() {
    let root = root();
    let truth = |index: usize, class: usize| if labels(index).contains(&class) { 1 } else { 0 };
    let object = |index: usize| {
        let flags: Vec<String> =
            (0..3).map(|class| format!("{:?}: {}", CLASSES[class], truth(index, class))).collect();
        format!("{{\"path\": \"{index:02}.jpg\", {}}}", flags.join(", "))
    };
    let tables = [
        ("bars.csv", table("path,labels\n", |i| format!("{i:02}.jpg,{}", names(i).join("|")))),
        ("commas.csv", table("path,label\n", |i| format!("{i:02}.jpg,\"{}\"", names(i).join(", ")))),
        ("list.jsonl", table("", |i| format!("{{\"image\": \"{i:02}.jpg\", \"labels\": {:?}}}", names(i)))),
        ("flags.jsonl", table("", object)),
        (
            "columns.tsv",
            table("path\tcat\tdog\tpolar bear\n", |i| {
                format!("{i:02}.jpg\t{}\t{}.0\t{}", truth(i, 0), truth(i, 1), truth(i, 2) == 1)
            }),
        ),
    ];
    let mut all = tables.iter().map(|(name, text)| {
        let data = Dataset::open(&write(&root, name, text), &options()).unwrap();
        assert_eq!(data.classes, CLASSES, "{name}");
        assert!(data.skipped.is_empty() && data.notes.is_empty(), "{name}: {data:?}");
        (found(&data.train), found(&data.val))
    });
    let first = all.next().unwrap();
    for (place, other) in all.enumerate() {
        assert_eq!(other, first, "{}", tables[place + 1].0);
    }
    // Each picture once with its labels, sorted, and about a fifth of each class held out.
    let mut both = [first.0.clone(), first.1.clone()].concat();
    both.sort();
    let wanted: Vec<_> = (0..30).map(|i| (format!("{i:02}.jpg"), labels(i))).collect();
    assert_eq!(both, wanted);
    assert!(first.0.is_sorted() && first.1.is_sorted());
    for class in 0..3 {
        let count =
            |samples: &[(String, Vec<usize>)]| samples.iter().filter(|s| s.1.contains(&class)).count();
        let (train, val) = (count(&first.0), count(&first.1));
        let part = val as f64 / (train + val) as f64;
        assert!((0.1..0.35).contains(&part), "{class}: {val} of {}", train + val);
    }
    let bare = first.1.iter().filter(|sample| sample.1.is_empty()).count();
    assert!(bare > 0, "pictures without a label are validated with too");
}

#[test]
fn splits_groups_and_weights_hold() {
    let root = root();
    let text = table("path,labels,split,weight\n", |i| {
        format!("{i:02}.jpg,{},{},{}", names(i).join(";"), if i < 24 { "train" } else { "val" }, i % 3)
    });
    let data = Dataset::open(&write(&root, "split.csv", &text), &options()).unwrap();
    assert_eq!((data.train.len(), data.val.len()), (24, 6));
    assert_eq!(data.weights, (0..24).map(|i| (i % 3) as f32).collect::<Vec<_>>());
    let known = labelled(&root.path().join("split.csv"), &data.classes, &options()).unwrap();
    assert_eq!(found(&known.samples), found(&data.val));
    let text = table("path,labels,group\n", |i| format!("{i:02}.jpg,{},g{}", names(i).join("|"), i / 3));
    let data = Dataset::open(&write(&root, "groups.csv", &text), &options()).unwrap();
    let groups = |samples: &[Sample]| -> Vec<usize> {
        let mut all: Vec<usize> =
            found(samples).iter().map(|(name, _)| name[..2].parse::<usize>().unwrap() / 3).collect();
        all.dedup();
        all
    };
    let (train, val) = (groups(&data.train), groups(&data.val));
    assert!(!val.is_empty() && val.iter().all(|group| !train.contains(group)), "{train:?} {val:?}");
}

#[test]
fn folders_give_one_label_a_picture() {
    let root = root();
    for (index, class) in [(0, "a"), (1, "a"), (2, "b"), (3, "b")] {
        let folder = root.path().join("d").join(class);
        fs::create_dir_all(&folder).unwrap();
        let name = format!("{index:02}.jpg");
        fs::copy(root.path().join(&name), folder.join(&name)).unwrap();
    }
    let data = Dataset::open(&root.path().join("d"), &options()).unwrap();
    assert!(data.train.iter().chain(&data.val).all(|s| s.labels.as_deref() == Some(&[s.label as u32][..])));
    let known = labelled(&root.path().join("d"), &["b".into(), "a".into()], &options()).unwrap();
    let labels: Vec<usize> = known.samples.iter().flat_map(Sample::classes).collect();
    assert_eq!(labels, [0, 0, 1, 1]);
}

#[test]
fn named_columns_are_the_classes_and_others_are_left_alone() {
    let root = root();
    let text = table("path,id,cat,dog\n", |i| format!("{i:02}.jpg,x{i},{},{}", i % 2, i % 3 / 2));
    let path = write(&root, "t.csv", &text);
    let error = Dataset::open(&path, &options()).unwrap_err().to_string();
    assert!(error.contains("`id` holds `x29`") && error.contains("label=cat|dog"), "{error}");
    let columns = |text: &str| FolderOptions { columns: text.parse().unwrap(), ..options() };
    let data = Dataset::open(&path, &columns("label=cat|dog")).unwrap();
    assert_eq!(data.classes, ["cat", "dog"]);
    let error = Dataset::open(&path, &columns("label=cat|cow")).unwrap_err().to_string();
    assert!(error.contains("no column `cat|cow`"), "{error}");
    let text = table("path,cat,yeti\n", |i| format!("{i:02}.jpg,{},0", i % 2));
    let data = Dataset::open(&write(&root, "yeti.csv", &text), &options()).unwrap();
    assert_eq!(data.classes, ["cat"], "what no picture has cannot be learned");
    assert!(data.notes.iter().any(|note| note.contains("yeti")), "{:?}", data.notes);
}

#[test]
fn tables_that_say_nothing_are_refused() {
    let root = root();
    let open = |name: &str, text: &str| Dataset::open(&write(&root, name, text), &options());
    let refused = |name: &str, text: &str| open(name, text).unwrap_err().to_string();
    let none = table("path,labels\n", |i| format!("{i:02}.jpg,"));
    assert!(refused("none.csv", &none).contains("no row that can be used to train with has a label"));
    assert!(refused("path.csv", "path\n00.jpg\n").contains("no column `labels`, `label`"));
    let text = "path,labels,split\n00.jpg,a,train\n01.jpg,a|b,val\n";
    let error = refused("extra.csv", text);
    assert!(error.contains("for which there are validation rows"), "{error}");
    let text = "path,cat\n00.jpg,1\n01.jpg,maybe\n02.jpg,1\n03.jpg,0\n";
    let data = open("maybe.csv", text).unwrap();
    assert!(data.skipped[0].to_string().contains("line 3") && data.skipped.len() == 1, "{:?}", data.skipped);
    let strict = FolderOptions { strict: true, ..options() };
    let error = Dataset::open(&root.path().join("maybe.csv"), &strict).unwrap_err();
    assert!(matches!(error, FolderError::Picture(_)), "{error}");
    let error = labelled(&root.path().join("maybe.csv"), &["dog".into()], &options()).unwrap_err();
    assert!(matches!(error, FolderError::UnknownClass { .. }), "{error}");
    // A single task reads the labels as one class.
    let text = "path,label\n00.jpg,a|b\n01.jpg,a|b\n02.jpg,b\n03.jpg,b\n";
    let data = Dataset::open(&write(&root, "single.csv", text), &FolderOptions::default()).unwrap();
    assert_eq!(data.classes, ["a|b", "b"]);
    assert!(data.train.iter().all(|sample| sample.labels.is_none()));
}
