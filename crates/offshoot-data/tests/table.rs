//! Data sets in tables and archives: the same pictures give the same data set in any form, and what is wrong is named by its line.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use offshoot_data::{
    Dataset, DecodeOptions, FolderError, FolderOptions, Sample, labelled, open_picture, picture_file,
    read_picture, training,
};

/// A small picture, of any format but for its name.
fn picture() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exif_1.jpg")).unwrap()
}

/// A folder `photos` with pictures at these paths.
fn photos(paths: &[String]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let path = root.path().join("photos").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, picture()).unwrap();
    }
    root
}

/// `classes` of pictures, twelve each.
fn paths(classes: &[&str]) -> Vec<String> {
    classes.iter().flat_map(|class| (0..12).map(move |i| format!("{class}/{i}.jpg"))).collect()
}

fn write(root: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = root.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn open(table: &Path) -> Result<Dataset, FolderError> {
    Dataset::open(table, &FolderOptions::default())
}

/// The message, with the temporary folder's name replaced.
fn message<T: std::fmt::Debug>(root: &tempfile::TempDir, result: Result<T, FolderError>) -> String {
    result.unwrap_err().to_string().replace(&format!("{}/", root.path().display()), "")
}

/// Names of pictures below `photos`, with their labels.
fn names(samples: &[Sample]) -> Vec<(String, usize)> {
    let name = |path: &Path| path.to_str().unwrap().rsplit_once("photos/").unwrap().1.to_owned();
    samples.iter().map(|sample| (name(&sample.path), sample.label)).collect()
}

fn skipped(root: &tempfile::TempDir, data: &Dataset) -> Vec<String> {
    let name = |text: String| text.replace(&format!("{}/", root.path().display()), "");
    data.skipped.iter().map(|error| name(error.to_string())).collect()
}

#[test]
fn every_form_gives_the_data_set_of_the_folder() {
    let all = paths(&["Oak", "ash", "yew"]);
    let root = photos(&all);
    let folder = open(&root.path().join("photos")).unwrap();
    assert_eq!((folder.train.len(), folder.val.len()), (30, 6));
    let class = |path: &str| path.split('/').next().unwrap().to_owned();
    // The order of the rows does not matter.
    let [mut csv, mut tsv, mut json] =
        ["label,path,note\n", "\u{feff}image\tlabel\r\n", ""].map(str::to_owned);
    for path in all.iter().rev() {
        writeln!(csv, "{},photos/{path},\"a, \"\"b\"\"\nc\"", class(path)).unwrap();
        write!(tsv, "photos/{path}\t{}\r\n", class(path)).unwrap();
        writeln!(json, r#"{{"label": "{}", "file_name": "photos/{path}", "other": [1, {{}}]}}"#, class(path))
            .unwrap();
    }
    for (name, text) in [("a.csv", csv), ("a.TSV", tsv), ("a.jsonl", json)] {
        let data = open(&write(&root, name, &text)).unwrap();
        assert_eq!(data, Dataset { others: folder.others.clone(), ..data.clone() }, "{name}");
        assert_eq!(
            (&data.classes, &data.train, &data.val),
            (&folder.classes, &folder.train, &folder.val),
            "{name}"
        );
        assert!(
            data.skipped.is_empty() && data.weights.is_empty() && data.notes.is_empty(),
            "{name}: {data:?}"
        );
    }
}

#[test]
fn columns_can_have_other_names_and_paths_another_folder() {
    let root = photos(&paths(&["a", "b"]));
    let text = paths(&["a", "b"])
        .iter()
        .fold("species\tthe file\n".to_owned(), |text, path| format!("{text}{}\t{path}\n", &path[..1]));
    let table = write(&root, "t.tsv", &text);
    let options = FolderOptions {
        columns: "path=the file,label=species".parse().unwrap(),
        root: Some(root.path().join("photos")),
        ..FolderOptions::default()
    };
    let data = Dataset::open(&table, &options).unwrap();
    let folder = open(&root.path().join("photos")).unwrap();
    assert_eq!((data.train, data.val), (folder.train, folder.val));
    assert_eq!(
        message(&root, open(&table)),
        "t.tsv: no column `path`, `image`, `file_name`; the columns are \"species\", \"the file\": name the one with the path by the \
         setting `columns`, as in path=species"
    );
    for (text, wrong) in [
        ("path", "`path` is not of the form ROLE=COLUMN"),
        ("path=", "`path=` is not of the form"),
        ("colour=x", "there is no `colour`"),
        ("path=a,path=b", "`path` is given twice"),
    ] {
        let error = text.parse::<offshoot_data::Columns>().unwrap_err().to_string();
        assert!(error.starts_with(wrong), "{error}");
    }
}

#[test]
fn splits_are_followed_in_any_spelling_and_weights_kept() {
    let all = paths(&["a", "b"]);
    let root = photos(&all);
    let mut text = "path,label,split,weight\n".to_owned();
    for (place, path) in all.iter().enumerate() {
        let split = ["train", "Training", "TRAIN", "val", "validation", "test"][place % 6];
        writeln!(text, "photos/{path},{},{split},{}", &path[..1], place as f32 / 4.0).unwrap();
    }
    let table = write(&root, "t.csv", &text);
    let data = open(&table).unwrap();
    let train = [
        ("a/0.jpg", 0, 0.0),
        ("a/1.jpg", 0, 0.25),
        ("a/2.jpg", 0, 0.5),
        ("a/6.jpg", 0, 1.5),
        ("a/7.jpg", 0, 1.75),
    ];
    let found: Vec<_> = names(&data.train).into_iter().zip(&data.weights).take(5).collect();
    let wanted = train.map(|(name, label, weight)| ((name.to_owned(), label), weight));
    assert_eq!(found, wanted.iter().map(|(sample, weight)| (sample.clone(), weight)).collect::<Vec<_>>());
    assert_eq!(data.weights.len(), 12);
    assert_eq!(names(&data.val)[..2], [("a/10.jpg".to_owned(), 0), ("a/3.jpg".to_owned(), 0)]);
    assert_eq!(data.val.len(), 8);
    assert_eq!(data.notes.len(), 1, "the rows to test with are not used");
    let classes = data.classes.clone();
    assert_eq!(labelled(&table, &classes, &FolderOptions::default()).unwrap().samples, data.val);
    assert_eq!(training(&table, &classes, &FolderOptions::default()).unwrap().samples, data.train);
    let error = message(&root, labelled(&table, &["a".into(), "c".into()], &FolderOptions::default()));
    assert_eq!(error, "t.csv: the model does not know \"b\"; its classes are \"a\", \"c\"");

    let unknown = open(&write(&root, "u.csv", &text.replace(",validation,", ",holiday,"))).unwrap();
    assert_eq!(unknown.skipped.len(), 4);
    let first = unknown.skipped[0].to_string();
    assert!(first.ends_with("u.csv: line 6: the split `holiday` is none of train, val and test"), "{first}");
    let no_val = text.replace(",validation,", ",test,").replace(",val,", ",test,");
    let data = open(&write(&root, "v.csv", &no_val)).unwrap();
    assert_eq!(data.val.len(), 12);
    assert!(
        data.notes[0].contains("no row to validate with, so the 12 of the split `test`"),
        "{:?}",
        data.notes
    );
    let only = no_val.replace(",test,", ",train,");
    assert!(message(&root, open(&write(&root, "w.csv", &only))).contains("has the split `val`"));
}

#[test]
fn groups_stay_on_one_side() {
    let all = paths(&["a", "b", "c"]);
    let root = photos(&all);
    for seed in 0..20 {
        let mut text = "path,label,group\n".to_owned();
        for (place, path) in all.iter().enumerate() {
            let group = if place % 6 == 5 { String::new() } else { format!("g{}", place * 7 % 11) };
            writeln!(text, "photos/{path},{},{group}", &path[..1]).unwrap();
        }
        let table = write(&root, "t.csv", &text);
        let data = Dataset::open(&table, &FolderOptions { seed, ..FolderOptions::default() }).unwrap();
        let group = |(name, _): &(String, usize)| {
            let place = all.iter().position(|path| path == name).unwrap();
            (place % 6 != 5).then_some(place * 7 % 11)
        };
        let [train, val] = [&data.train, &data.val]
            .map(|samples| names(samples).iter().filter_map(group).collect::<Vec<_>>());
        assert!(train.iter().all(|group| !val.contains(group)), "seed {seed}");
        assert!((4..=11).contains(&data.val.len()), "seed {seed}: {}", data.val.len());
        let classes: std::collections::BTreeSet<usize> =
            data.train.iter().map(|sample| sample.label).collect();
        assert_eq!(classes.len(), 3, "seed {seed}");
    }
    let text = all.iter().fold("path,label,group\n".to_owned(), |text, path| {
        format!("{text}photos/{path},{},{}\n", &path[..1], &path[..1])
    });
    assert!(
        message(&root, open(&write(&root, "u.csv", &text))).starts_with("u.csv: no group can be held out")
    );
}

#[test]
fn rows_that_are_wrong_are_named_by_their_lines() {
    let root = photos(&paths(&["a", "b"]));
    fs::write(root.path().join("photos/note.txt"), "no picture").unwrap();
    let mut text = paths(&["a", "b"]).iter().fold("path,label,weight\n".to_owned(), |text, path| {
        format!("{text}photos/{path},{},1\n", &path[..1])
    });
    text += "photos/gone.jpg,a,1\nphotos/a/1.jpg,b,1\nphotos/x.jpg,,1\n,a,1\n\nphotos/a/x.jpg,a\nphotos/a/x.jpg,a,-1\n\
             photos/a/x.jpg,a,NaN\nphotos/note.txt,a,1\n";
    let table = write(&root, "t.csv", &text);
    let data = open(&table).unwrap();
    assert_eq!(data.train.len() + data.val.len(), 24);
    let wanted = [
        "photos/gone.jpg: the file cannot be read: No such file or directory (os error 2) (t.csv, line 26)",
        "t.csv: line 27: the picture of line 3 again; each picture stands in a table once",
        "t.csv: line 28: no label in this row",
        "t.csv: line 29: no path of a picture in this row",
        "t.csv: line 31: 2 fields in this row, and 3 columns",
        "t.csv: line 32: the weight `-1` is not a number from 0 to 1000000",
        "t.csv: line 33: the weight `NaN` is not a number from 0 to 1000000",
        "photos/note.txt: not a picture: the content is neither JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, TGA, ICO nor QOI (t.csv, line 34)",
    ];
    assert_eq!(skipped(&root, &data), wanted);
    let windows = write(&root, "w.csv", &text.replace('\n', "\r\n"));
    assert_eq!(skipped(&root, &open(&windows).unwrap()), wanted.map(|line| line.replace("t.csv", "w.csv")));
    let strict = FolderOptions { strict: true, ..FolderOptions::default() };
    assert_eq!(message(&root, Dataset::open(&table, &strict)), wanted[1]);

    let json = "{\"path\": \"photos/a/0.jpg\", \"label\": \"a\"}\n{\"path\": \"photos/b/0.jpg\", \"label\": 1}\n\n[]\n{\"path\": 3, \"label\": []}\n{\"path\": \"photos/a/1.jpg\"}\n";
    let data = open(&write(&root, "t.jsonl", json)).unwrap();
    assert_eq!(data.classes, ["1", "a"]);
    let wanted = [
        "t.jsonl: line 4: not a JSON object: invalid type: sequence, expected a map at line 1 column 1",
        "t.jsonl: line 5: `label` is a list, not a text or a number",
        "t.jsonl: line 6: no label in this row",
    ];
    assert_eq!(skipped(&root, &data)[1..], wanted[1..]);
    assert!(skipped(&root, &data)[0].starts_with("t.jsonl: line 4: not a JSON object"), "{:?}", data.skipped);
}

#[test]
fn tables_that_are_none_are_refused() {
    let root = photos(&paths(&["a", "b"]));
    for (name, text, wanted) in [
        ("a.csv", "", "a.csv: the table is empty"),
        ("a.jsonl", "\n\n", "a.jsonl: the table is empty"),
        ("a.csv", "path,label\n", "a.csv: no picture in it"),
        (
            "a.csv",
            "path;label\nx;a\n",
            "a.csv: the columns are separated by semicolons, not by commas; save the table as .csv with commas",
        ),
        (
            "a.tsv",
            "path,label\nx,a\n",
            "a.tsv: the columns are separated by commas, not by tabs; save the table as .csv",
        ),
        ("a.csv", "path,label,label\nx,a,a\n", "a.csv: two columns are called `label`; rename one of them"),
        ("a.csv", "path,label\nphotos/a/1.jpg,a\n", "a.csv: only one class (\"a\") in it"),
        (
            "a.csv",
            "path,label\nphotos/a/1.jpg,a\nphotos/none.jpg,b\n",
            "a.csv: no row of the class \"b\" that can be used to train with",
        ),
        (
            "a.csv",
            "path,label,split\nphotos/a/1.jpg,a,train\nphotos/b/1.jpg,b,val\n",
            "a.csv: no training row of the class \"b\", for which",
        ),
        (
            "a.csv",
            "path,label,weight\nphotos/a/1.jpg,a,0\nphotos/b/1.jpg,b,0\n",
            "a.csv: the weights of all training rows are 0",
        ),
        (
            "a.jsonl",
            "{\"file\": \"x\", \"label\": \"a\"}\n",
            "a.jsonl: no column `path`, `image`, `file_name`; the columns are \"file\", \"label\"",
        ),
    ] {
        let error = message(&root, open(&write(&root, name, text)));
        assert!(error.starts_with(wanted), "{error}\n{wanted}");
    }
    let long = format!("path,label\n\"photos/a/1.jpg,a\n{}", "photos/b/1.jpg,b\n".repeat(100_000));
    assert!(
        message(&root, open(&write(&root, "a.csv", &long)))
            .starts_with("a.csv: line 2: the row has more than 1048576 bytes")
    );
    let long = "x".repeat(2 << 20);
    assert!(
        message(&root, open(&write(&root, "a.jsonl", &long)))
            .starts_with("a.jsonl: line 1: the row has more than")
    );
    assert_eq!(message(&root, open(&root.path().join("none.csv"))), "none.csv: no such file or folder");
}

/// An archive with these members.
fn tar(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.finish().unwrap();
}

/// An archive of pictures with names that are written as they are.
fn raw_tar(path: &Path, names: &[&str]) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(picture().len() as u64);
        header.set_cksum();
        archive.append(&header, &picture()[..]).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn archives_are_read_in_place() {
    let all = paths(&["a", "b"]);
    let root = photos(&all);
    let folder = open(&root.path().join("photos")).unwrap();
    let members = |paths: &[String]| -> Vec<(String, Vec<u8>)> {
        let of = |path: &String| {
            let (key, class) = (path.trim_end_matches(".jpg"), path[..1].to_owned() + "\n");
            [
                (format!("{key}.JPG"), picture()),
                (format!("{key}.cls"), class.into_bytes()),
                (format!("{key}.txt"), vec![1]),
            ]
        };
        paths.iter().flat_map(of).collect()
    };
    let whole = root.path().join("all.tar");
    tar(&whole, &members(&all));
    let data = open(&whole).unwrap();
    let plain = |samples: &[Sample]| -> Vec<(String, usize)> {
        let name = |sample: &Sample| {
            let below =
                sample.path.to_str().unwrap().split_once(".tar/").map(|(_, name)| name.replace("JPG", "jpg"));
            (below.unwrap(), sample.label)
        };
        samples.iter().map(name).collect()
    };
    assert_eq!((plain(&data.train), plain(&data.val)), (names(&folder.train), names(&folder.val)));
    let member = &data.train[0].path;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open_picture(member).unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, picture());
    assert_eq!(picture_file(member).unwrap().1, picture().len() as u64);
    let options = DecodeOptions::default();
    assert_eq!(
        read_picture(member, &options),
        read_picture(&folder.train[0].path, &options).map_err(|_| unreachable!())
    );
    assert!(
        open_picture(&whole.join("none.jpg")).is_err()
            && open_picture(&root.path().join("no.tar/x")).is_err()
    );

    for (shard, paths) in ["000", "001", "002"].iter().zip(all.chunks(8)) {
        tar(&root.path().join(format!("part-{shard}.tar")), &members(paths));
    }
    let data = open(&root.path().join("part-{000..002}.tar")).unwrap();
    assert_eq!((data.train.len(), data.val.len()), (20, 4));
    let error = message(&root, open(&root.path().join("part-{000..003}.tar")));
    assert!(error.contains("part-003.tar: No such file"), "{error}");
    assert!(
        message(&root, open(&root.path().join("part-{a..b}.tar"))).contains("stands for no list of files")
    );
    // The list of members is made again when the file has changed.
    tar(&whole, &members(&all[..20]));
    assert_eq!(open(&whole).unwrap().train.len(), 16);
}

#[test]
fn members_that_are_wrong_are_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.tar");
    let text = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let image = |name: &str| (name.to_owned(), picture());
    let members = [
        image("0.jpg"),
        text("0.json", r#"{"label": "a", "split": "train", "weight": 2}"#),
        image("1.jpg"),
        text("1.json", r#"{"label": 7, "split": "train"}"#),
        image("2.jpg"),
        text("2.json", r#"{"label": "a", "split": "val"}"#),
        image("3.jpg"),
        image("4.jpg"),
        image("4.seg.png"),
        text("4.cls", "a"),
        image("5.jpg"),
        text("5.json", "{"),
        text("6.jpg", "no picture"),
        text("6.json", r#"{"label": "a", "split": "val"}"#),
        image("7.jpg"),
        text("7.cls", "a"),
        text("8.cls", "a"),
    ];
    tar(&path, &members);
    let data = open(&path).unwrap();
    assert_eq!(
        (data.classes, data.train.len(), data.val.len()),
        (vec!["7".to_owned(), "a".to_owned()], 2, 1)
    );
    assert_eq!(data.weights, [1.0, 2.0]);
    let name = |text: String| text.replace(&format!("{}/", root.path().display()), "");
    let found: Vec<String> = data.skipped.iter().map(|error| name(error.to_string())).collect();
    let wanted = [
        "x.tar/3.jpg: no label: there is no 3.cls, and no label in 3.json",
        "x.tar/4.jpg: stands beside \"4.seg.png\": which of them is the picture is not known",
        "x.tar/5.jpg: 5.json is not a JSON object",
        "x.tar/6.jpg: not a picture",
        "x.tar: line 8: no split in this row",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.starts_with(wanted), "{found}");
    }

    let bytes = fs::read(&path).unwrap();
    fs::write(root.path().join("cut.tar"), &bytes[..700]).unwrap();
    fs::write(root.path().join("text.tar"), "no archive".repeat(200)).unwrap();
    tar(&root.path().join("twice.tar"), &[image("a.jpg"), image("a.jpg")]);
    raw_tar(&root.path().join("out.tar"), &["../a.jpg"]);
    raw_tar(&root.path().join("root.tar"), &["/a.jpg", "./b//./c.jpg"]);
    for (name, wanted) in [
        ("cut.tar", "the archive ends within `0.jpg`"),
        ("text.tar", "it is no .tar"),
        ("twice.tar", "holds `a.jpg` twice"),
        ("out.tar", "the name `../a.jpg` leads out of the archive"),
        // Not the file `/a.jpg` of this machine.
        ("root.tar", "root.tar/a.jpg: no label"),
    ] {
        let error = message(&root, open(&root.path().join(name)));
        assert!(error.contains(wanted), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn no_table_causes_a_panic(text in "[\"',;\t\r\n{}:a-c0-9\\[\\]]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.csv", "a.tsv", "a.jsonl", "a.tar"] {
            let path = root.path().join(name);
            for content in [&bytes[..], text.as_bytes(), format!("path,label\n{text}").as_bytes()] {
                fs::write(&path, content).unwrap();
                prop_assert!(open(&path).is_err());
            }
        }
    }

    #[test]
    fn no_damage_to_an_archive_causes_a_panic(place in 0usize..3072, byte in any::<u8>(), length in 0usize..3072) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.tar");
        tar(&path, &[("a.bmp".to_owned(), vec![66, 77]), ("a.cls".to_owned(), vec![98])]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] = byte;
        bytes.truncate(length);
        fs::write(&path, bytes).unwrap();
        prop_assert!(open(&path).is_err());
    }
}
