//! Data sets whose pictures have numbers to predict: the same targets give the same data set in any form.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use offshoot_data::{Dataset, FolderError, FolderOptions, Sample, labelled};
use offshoot_graph::Task;

fn options(columns: &str) -> FolderOptions {
    let columns = if columns.is_empty() { Default::default() } else { columns.parse().unwrap() };
    FolderOptions { task: Task::Regression, columns, ..FolderOptions::default() }
}

/// The targets of the picture `index`.
fn targets(index: usize) -> [f64; 2] {
    [index as f64 / 8.0 - 1.0, 1e5 + 0.1 * index as f64]
}

/// A folder with twenty pictures.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let picture = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exif_1.jpg")).unwrap();
    (0..20).for_each(|i| fs::write(root.path().join(format!("{i:02}.jpg")), &picture).unwrap());
    root
}

fn write(root: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = root.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A table with a line for each picture, in another order than that of their names.
fn table(head: &str, line: impl Fn(usize) -> String) -> String {
    (0..20).rev().fold(head.to_owned(), |mut text, index| {
        writeln!(text, "{}", line(index)).unwrap();
        text
    })
}

/// Each picture with its targets.
fn found(samples: &[Sample]) -> Vec<(String, Vec<f64>)> {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    samples.iter().map(|sample| (name(&sample.path), sample.targets.clone().unwrap().into_vec())).collect()
}

/// A `.tar` of the pictures and a `.json` beside each.
fn shard(root: &tempfile::TempDir) -> PathBuf {
    let path = root.path().join("s.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    for index in 0..20 {
        let [a, b] = targets(index);
        let json = format!("{{\"a\": {a}, \"b\": {b}}}");
        let picture = fs::read(root.path().join(format!("{index:02}.jpg"))).unwrap();
        for (name, bytes) in
            [(format!("{index:02}.jpg"), picture), (format!("{index:02}.json"), json.into_bytes())]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    tar.finish().unwrap();
    path
}

#[test]
fn any_form_gives_the_same_targets() {
    let root = root();
    let [comma, tab] = [",", "\t"].map(|separator| {
        table(&["path", "a", "b\n"].join(separator), |i| {
            let [a, b] = targets(i);
            [format!("{i:02}.jpg"), a.to_string(), b.to_string()].join(separator)
        })
    });
    let lines = table("", |i| {
        let [a, b] = targets(i);
        format!("{{\"path\": \"{i:02}.jpg\", \"b\": {b}, \"a\": \"{a}\"}}")
    });
    let options = options("target=a|b");
    let first = Dataset::open(&write(&root, "d.csv", &comma), &options).unwrap();
    assert_eq!(first.classes, ["a", "b"]);
    assert_eq!((first.train.len(), first.val.len()), (16, 4));
    for (name, values) in found(&first.train).into_iter().chain(found(&first.val)) {
        assert_eq!(values, targets(name.parse().unwrap()), "{name}");
    }
    for path in [write(&root, "d.tsv", &tab), write(&root, "d.jsonl", &lines), shard(&root)] {
        let other = Dataset::open(&path, &options).unwrap();
        assert_eq!((found(&other.train), found(&other.val)), (found(&first.train), found(&first.val)));
        assert_eq!(other.classes, first.classes, "{path:?}");
    }
    // To evaluate a model: its targets are those of the columns, in their order.
    let names = ["x".to_owned(), "y".to_owned()];
    let all = labelled(&root.path().join("d.csv"), &names, &options).unwrap();
    assert!(all.samples.len() == 20 && all.absent.is_empty());
    let swapped = FolderOptions { columns: "target=b|a".parse().unwrap(), ..options };
    let other = labelled(&root.path().join("d.csv"), &names, &swapped).unwrap();
    for (a, b) in all.samples.iter().zip(&other.samples) {
        let [a, b] = [a, b].map(|sample| sample.targets.clone().unwrap());
        assert_eq!((a[0], a[1]), (b[1], b[0]));
    }
}

#[test]
fn splits_groups_and_weights_are_followed() {
    let root = root();
    let line = |i: usize| {
        let split = if i.is_multiple_of(4) { "val" } else { "train" };
        format!("{i:02}.jpg,{},{split},{}", targets(i)[0], 1 + i % 2)
    };
    let path = write(&root, "s.csv", &table("path,target,split,weight\n", line));
    let data = Dataset::open(&path, &options("")).unwrap();
    assert_eq!((data.train.len(), data.val.len(), &data.classes[..]), (15, 5, &["target".to_owned()][..]));
    assert_eq!(data.weights[..3], [2.0, 1.0, 2.0]);
    let line = |i: usize| format!("{i:02}.jpg,{},g{}", targets(i)[0], i / 5);
    let path = write(&root, "g.csv", &table("path,target,group\n", line));
    let data = Dataset::open(&path, &options("")).unwrap();
    let group = |sample: &Sample| found(std::slice::from_ref(sample))[0].0.parse::<usize>().unwrap() / 5;
    assert_eq!((data.train.len(), data.val.len()), (15, 5));
    assert!(data.val.iter().all(|sample| group(sample) == group(&data.val[0])));
}

#[test]
fn what_has_no_number_is_named() {
    let root = root();
    let line = |i: usize| format!("{i:02}.jpg,{}", if i == 7 { "seven".to_owned() } else { i.to_string() });
    let path = write(&root, "d.csv", &table("path,target\n", line));
    let data = Dataset::open(&path, &options("")).unwrap();
    assert_eq!((data.train.len() + data.val.len(), data.skipped.len()), (19, 1));
    let text = data.skipped[0].to_string();
    assert!(
        text.contains("d.csv") && text.contains("line 14") && text.contains("`target` holds `seven`"),
        "{text}"
    );
    let strict = FolderOptions { strict: true, ..options("") };
    assert!(matches!(Dataset::open(&path, &strict), Err(FolderError::Picture(_))));
    let refused = |columns: &str| Dataset::open(&path, &options(columns)).unwrap_err().to_string();
    let text = refused("target=price");
    assert!(text.contains("no column `price`") && text.contains("target=path"), "{text}");
    let text = Dataset::open(root.path(), &options("")).unwrap_err().to_string();
    assert!(text.contains("regression needs"), "{text}");
    let names = ["x".to_owned(), "y".to_owned()];
    let text = labelled(&path, &names, &options("")).unwrap_err().to_string();
    assert!(text.contains("1 columns of targets") && text.contains("target=x|y"), "{text}");
    for wrong in ["target=a|a", "target=a||b", "target="] {
        assert!(wrong.parse::<offshoot_data::Columns>().is_err(), "{wrong}");
    }
}
