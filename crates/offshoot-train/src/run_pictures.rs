//! Which pictures a run was trained and validated with.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use offshoot_data::{Dataset, Sample};
use offshoot_files::{Kind, read};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::text::{escaped, quoted as quoted_text, shown};

use crate::csv::{byte_records, path_field, path_of, quoted};
use crate::health::listed;
use crate::picture_files::{COLUMNS, PictureFile, files};
use crate::run::{PICTURES_FILE, RunError};

/// Differences that are named in a message.
const NAMED: usize = 5;

/// The pictures of a run, as its `pictures.csv` has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPictures {
    /// Those that it was trained with.
    pub train: Vec<Sample>,
    /// Those that it was validated with.
    pub val: Vec<Sample>,
    /// What the files of those to train with and to validate with were; unknown of runs from before this was kept.
    files: [Vec<PictureFile>; 2],
}

/// A line of `pictures.csv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    set: String,
    class: String,
    path: PathBuf,
    file: PictureFile,
    /// What its loss is multiplied by, as a text; empty where the data set has no weights.
    weight: String,
}

/// The files of the pictures of a run, those to train with and those to validate with.
pub(crate) type Files = [Vec<PictureFile>; 2];

impl RunPictures {
    /// Reads the list of the run directory `run`; labels are indices into `classes`, those of its model.
    ///
    /// # Errors
    /// When there is no list, or it is not one of ours, or it names another class.
    pub fn read(run: &Path, classes: &[String]) -> Result<RunPictures, RunError> {
        let wrong = |reason: String| RunError::Checkpoint { path: run.join(PICTURES_FILE), reason };
        let labels: HashMap<&str, usize> =
            classes.iter().enumerate().rev().map(|(label, class)| (class.as_str(), label)).collect();
        let mut pictures = RunPictures::default();
        for (place, Line { set, class, path, file, .. }) in read_lines(run)?.into_iter().enumerate() {
            let line = place + 2;
            let sample = sample_of(path, &class, &labels).map_err(|class| {
                let class = quoted_text(&class);
                wrong(format!("line {line} names the class `{class}`, which the model does not have"))
            })?;
            let (samples, files) = match set.as_str() {
                "train" => (&mut pictures.train, &mut pictures.files[0]),
                "val" => (&mut pictures.val, &mut pictures.files[1]),
                other => return Err(wrong(format!("line {line} is of the set `{}`", quoted_text(other)))),
            };
            samples.push(sample);
            files.push(file);
        }
        Ok(pictures)
    }

    /// How many of `samples` the run was trained with; see [`crate::familiar`]. The bytes that the pictures had then count, where
    /// the list has their hashes.
    pub fn familiar(&self, samples: &[Sample]) -> usize {
        crate::familiar::familiar_to(&self.train, &self.files[0], samples)
    }

    /// What is no longer as it was among the pictures that the run was validated with: a sentence with the first of them and their
    /// number. Contents are only read where a file's size or times have changed.
    pub fn changed_validation(&self) -> Option<String> {
        let now = files(&self.val, &self.files[1], &AtomicBool::new(false));
        let pairs = self.val.iter().zip(self.files[1].iter().zip(&now));
        let changed: Vec<String> = pairs
            .filter_map(|(sample, (was, now))| {
                Some(format!("{} {}", shown(&sample.path), was.difference(now)?))
            })
            .collect();
        (!changed.is_empty()).then(|| {
            format!(
                "{} of the {} validation pictures are not what they were when the run was started: {}",
                changed.len(),
                self.val.len(),
                listed(&changed, NAMED, String::clone)
            )
        })
    }
}

/// Begins the field of a picture that has any number of classes: a list of their names in JSON follows.
const SEVERAL: &str = "labels:";

/// Begins the field of a picture that has numbers to predict: those follow.
const TARGETS: &str = "targets:";
/// What stands between them.
const BETWEEN: &str = "|";

/// The targets that a field has; `None` where one is no number.
fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(BETWEEN).map(|number| number.parse::<f64>().ok().filter(|x| x.is_finite())).collect()
}

/// The picture whose field of classes is `class`.
///
/// # Errors
/// The name that is none of `labels`.
pub(crate) fn sample_of(path: PathBuf, class: &str, labels: &HashMap<&str, usize>) -> Result<Sample, String> {
    let place = |class: &str| labels.get(class).copied().ok_or_else(|| class.to_owned());
    let list = class.strip_prefix(SEVERAL).filter(|_| !labels.contains_key(class));
    if let Some(targets) =
        class.strip_prefix(TARGETS).filter(|_| !labels.contains_key(class)).and_then(numbers)
    {
        return Ok(Sample::with_targets(path, targets));
    }
    match list.and_then(|list| serde_json::from_str::<Vec<String>>(list).ok()) {
        Some(names) => {
            let labels: Vec<usize> = names.iter().map(|name| place(name)).collect::<Result<_, _>>()?;
            Ok(Sample::several(path, labels))
        }
        None => Ok(Sample::new(path, place(class)?)),
    }
}

/// The names of the classes that a field of a picture has; none where it has targets.
pub(crate) fn names_of(field: &str) -> Vec<String> {
    if field.strip_prefix(TARGETS).and_then(numbers).is_some() {
        return Vec::new();
    }
    let list = field.strip_prefix(SEVERAL).and_then(|list| serde_json::from_str::<Vec<String>>(list).ok());
    list.unwrap_or_else(|| vec![field.to_owned()])
}

/// The field of classes of a picture, or of its targets.
pub(crate) fn class_field(sample: &Sample, classes: &[String]) -> String {
    let name = |label: usize| classes.get(label).cloned().unwrap_or_default();
    match (&sample.targets, &sample.labels) {
        (Some(targets), _) => {
            let targets: Vec<String> = targets.iter().map(f64::to_string).collect();
            format!("{TARGETS}{}", targets.join(BETWEEN))
        }
        (None, None) => name(sample.label),
        (None, Some(_)) => {
            let names: Vec<String> = sample.classes().map(name).collect();
            format!("{SEVERAL}{}", serde_json::Value::from(names))
        }
    }
}

/// The lines of the list in the folder `run`, without the names of the columns.
fn read_lines(run: &Path) -> Result<Vec<Line>, RunError> {
    let path = run.join(PICTURES_FILE);
    let wrong = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
    let bytes =
        read(&path, Kind::TABLE).map_err(|e| wrong(format!("the list of pictures cannot be read: {e}")))?;
    let line = |(place, mut fields): (usize, Vec<Vec<u8>>)| {
        if ![3, 8, 9].contains(&fields.len()) {
            return Err(wrong(format!("line {} has not three fields, eight or nine", place + 1)));
        }
        let path = path_of(std::mem::take(&mut fields[2]));
        let text: Vec<String> = fields.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect();
        let file = match &text[3..] {
            [bytes, modified, changed, inode, hash, ..] => {
                PictureFile::from_fields([bytes, modified, changed, inode, hash])
            }
            _ => PictureFile::default(),
        };
        let weight = text.get(8).cloned().unwrap_or_default();
        Ok(Line { set: text[0].clone(), class: text[1].clone(), path, file, weight })
    };
    byte_records(&bytes).into_iter().enumerate().skip(1).map(line).collect()
}

/// Writes which picture is for what, and what its file is.
pub(crate) fn write(run: &Path, data: &Dataset, files: &Files) -> Result<(), FormatError> {
    write_atomically(&run.join(PICTURES_FILE), |out| {
        let weighted = !data.weights.is_empty();
        writeln!(out, "set,class,path,{}{}", COLUMNS.join(","), if weighted { ",weight" } else { "" })?;
        for Line { set, class, path, file, weight } in lines_of(data, files) {
            write!(out, "{set},{},", quoted(&class))?;
            out.write_all(&path_field(&path))?;
            let weight = if weighted { format!(",{weight}") } else { String::new() };
            writeln!(out, ",{}{weight}", file.fields().join(","))?;
        }
        Ok(())
    })
}

/// The lines that `data` gives.
fn lines_of(data: &Dataset, files: &Files) -> Vec<Line> {
    let set = |set: &str, samples: &[Sample], files: &[PictureFile], weights: &[f32]| -> Vec<Line> {
        let line = |(place, sample): (usize, &Sample)| Line {
            set: set.to_owned(),
            class: class_field(sample, &data.classes),
            path: sample.path.clone(),
            file: files.get(place).cloned().unwrap_or_default(),
            weight: weights.get(place).map_or(String::new(), f32::to_string),
        };
        samples.iter().enumerate().map(line).collect()
    };
    [set("train", &data.train, &files[0], &data.weights), set("val", &data.val, &files[1], &[])].concat()
}

/// The files of a run that starts.
pub(crate) fn files_of(data: &Dataset, stop: &AtomicBool) -> Files {
    [&data.train, &data.val].map(|samples| files(samples, &[], stop))
}

/// Checks that `data` has the pictures that the run in the folder `run` has, each in its place, of its class and with its content:
/// others would go on training with other labels or pictures. Gives the files as they are now, and whether the list told what they
/// were. A run without its list is believed, unless its folder of pictures has been `moved`.
///
/// # Errors
/// When they differ. The first that do are named, and how many.
pub(crate) fn check_same(
    run: &Path,
    data: &Dataset,
    moved: &Moved,
    stop: &AtomicBool,
) -> Result<(Files, bool), RunError> {
    let path = run.join(PICTURES_FILE);
    if !path.exists() {
        let reason = "without this list of the run's pictures nobody knows whether those in another folder are the same";
        return match moved.is_moved() {
            true => Err(RunError::Checkpoint { path, reason: reason.into() }),
            false => Ok((files_of(data, stop), false)),
        };
    }
    let mut was = read_lines(run)?;
    was.iter_mut().for_each(|line| line.path = moved.place(&line.path));
    let known: HashMap<&Path, &PictureFile> = was.iter().map(|line| (&*line.path, &line.file)).collect();
    let now = [&data.train, &data.val].map(|samples| {
        let before = samples.iter().map(|s| known.get(&*s.path).copied().cloned());
        files(samples, &before.map(Option::unwrap_or_default).collect::<Vec<_>>(), stop)
    });
    let differences = differences(&was, &lines_of(data, &now));
    if differences.is_empty() {
        let told = was.iter().all(|line| !line.file.hash.is_empty());
        return Ok((now, told));
    }
    let reason = format!(
        "the run was made with other pictures, {} differ: {}; put them back as they were",
        differences.len(),
        listed(&differences, NAMED, String::clone)
    );
    Err(RunError::Checkpoint { path, reason })
}

/// Where the folder of a run's pictures was when it was started, and where it is.
pub(crate) struct Moved {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
}

impl Moved {
    fn is_moved(&self) -> bool {
        self.from != self.to
    }

    /// Where a picture is now. It may have been found there before.
    fn place(&self, picture: &Path) -> PathBuf {
        match picture.strip_prefix(&self.from) {
            Ok(below) if self.is_moved() && !picture.starts_with(&self.to) => self.to.join(below),
            _ => picture.to_owned(),
        }
    }
}

/// What differs between the pictures of a run and those that there are now, a picture each.
fn differences(was: &[Line], now: &[Line]) -> Vec<String> {
    let by_path = |lines: &'_ [Line]| -> HashMap<PathBuf, Line> {
        lines.iter().map(|line| (line.path.clone(), line.clone())).collect()
    };
    let class = |line: &Line| escaped(&quoted_text(&line.class));
    let named = |line: &Line| format!("{} ({}, {})", shown(&line.path), quoted_text(&line.set), class(line));
    let (old, new) = (by_path(was), by_path(now));
    // A picture more or less changes how others are split: what it is itself comes first.
    let (mut found, mut moved) = (Vec::new(), Vec::new());
    for line in was {
        let Some(other) = new.get(&line.path) else {
            found.push(format!("{} is not there any more", named(line)));
            continue;
        };
        if (&other.set, &other.class) != (&line.set, &line.class) {
            moved.push(format!("{} is ({}, {}) now", named(line), other.set, class(other)));
        } else if let Some(how) = line.file.difference(&other.file) {
            found.push(format!("{} {how}", named(line)));
        } else if line.weight != other.weight {
            let [was, now] = [&line.weight, &other.weight].map(|w| if w.is_empty() { "none" } else { w });
            found.push(format!("{} had the weight {} and has {now} now", named(line), quoted_text(was)));
        }
    }
    let added = now.iter().filter(|line| !old.contains_key(&line.path));
    found.extend(added.map(|line| format!("{} is new", named(line))));
    found.extend(moved);
    let places = |lines: &[Line]| lines.iter().map(|line| line.path.clone()).collect::<Vec<_>>();
    if found.is_empty() && places(was) != places(now) {
        found.push("their order is another".into());
    }
    found
}

/// Pictures that are both trained and validated with, by their bytes: how many of the validation pictures, with an example.
pub(crate) fn in_both(data: &Dataset, files: &Files) -> Option<String> {
    let known = |file: &&PictureFile| !file.hash.is_empty();
    let trained = data.train.iter().zip(&files[0]).filter(|(_, file)| known(file));
    let trained: HashMap<&str, &Sample> = trained.map(|(sample, file)| (&*file.hash, sample)).collect();
    let pairs = data.val.iter().zip(&files[1]).filter(|(_, file)| known(file));
    let both: Vec<(&Sample, &Sample)> =
        pairs.filter_map(|(sample, file)| Some((sample, *trained.get(&*file.hash)?))).collect();
    let (val, train) = both.first()?;
    Some(format!(
        "{} of the {} validation pictures are also among those to train with, byte for byte, so that the validation accuracy says \
         less of new pictures: {} and {}; `offshoot data check` lists them",
        both.len(),
        data.val.len(),
        shown(&val.path),
        shown(&train.path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_a_run_writes_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = |path: &str, label| Sample::new(path, label);
        let data = Dataset {
            classes: vec!["a".into(), "with, comma".into()],
            train: vec![sample("/x/plain.png", 0), sample("/x/say \"cheese\"\n.png", 1)],
            val: vec![sample("/y/,.png", 1)],
            ..Dataset::default()
        };
        let files = files_of(&data, &AtomicBool::new(false));
        write(folder.path(), &data, &files).expect("it is written");
        let read = RunPictures::read(folder.path(), &data.classes).expect("it is read");
        assert_eq!((read.train, read.val), (data.train, data.val));
        let error = RunPictures::read(folder.path(), &data.classes[..1]).expect_err("a class is missing");
        assert!(error.to_string().contains("`with, comma`"), "{error}");
        let error = RunPictures::read(&folder.path().join("none"), &[]).expect_err("there is no list");
        assert!(error.to_string().contains("pictures.csv"), "{error}");
    }

    fn same(folder: &Path, data: &Dataset) -> Result<bool, String> {
        let [from, to] = [(); 2].map(|()| PathBuf::from("/data"));
        check_same(folder, data, &Moved { from, to }, &AtomicBool::new(false))
            .map(|(_, told)| told)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn other_pictures_classes_and_orders_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = |path: &str, label| Sample::new(path, label);
        let data = |classes: [&str; 2], train: Vec<Sample>| Dataset {
            classes: classes.map(str::to_owned).to_vec(),
            train,
            val: vec![sample("v", 1)],
            ..Dataset::default()
        };
        let ours = || data(["a", "b"], vec![sample("x", 0), sample("y", 1)]);
        assert_eq!(same(folder.path(), &ours()), Ok(false), "without a list nothing is compared");
        let files = files_of(&ours(), &AtomicBool::new(false));
        write(folder.path(), &ours(), &files).expect("it is written");
        same(folder.path(), &ours()).expect("they are the same");
        for (other, count, named) in [
            (data(["a", "c"], ours().train), 2, "y (train, b) is (train, c) now"),
            (data(["b", "a"], ours().train), 3, "x (train, a) is (train, b) now"),
            (data(["a", "b"], vec![sample("x", 0), sample("z", 1)]), 2, "z (train, b) is new"),
            (data(["a", "b"], vec![sample("y", 1), sample("x", 0)]), 1, "order"),
            (data(["a", "b"], vec![sample("x", 0)]), 1, "y (train, b) is not there"),
            (
                Dataset { val: Vec::new(), ..data(["a", "b"], [ours().train, ours().val].concat()) },
                1,
                "v (val, b) is (train",
            ),
        ] {
            let error = same(folder.path(), &other).expect_err("they differ");
            let counted = format!("{count} differ");
            assert!(
                error.contains("pictures.csv") && error.contains(named) && error.contains(&counted),
                "{error}"
            );
        }
    }

    #[test]
    fn contents_are_compared_by_size_and_times_and_then_by_bytes() {
        let root = tempfile::tempdir().expect("a folder");
        let path = |name: &str| root.path().join(name);
        let names = ["a", "b", "c"];
        names.iter().for_each(|name| fs::write(path(name), name.repeat(4)).expect("it is written"));
        let sample = |name: &str| Sample::new(path(name), 0);
        let data = Dataset {
            classes: vec!["x".into()],
            train: vec![sample("a"), sample("b")],
            val: vec![sample("c")],
            ..Dataset::default()
        };
        let files = files_of(&data, &AtomicBool::new(false));
        write(root.path(), &data, &files).expect("it is written");
        assert_eq!(same(root.path(), &data), Ok(true));
        // Touched, with the same bytes.
        fs::remove_file(path("a")).expect("it was there");
        fs::write(path("a"), "aaaa").expect("it is written");
        assert_eq!(same(root.path(), &data), Ok(true));
        assert_eq!(RunPictures::read(root.path(), &data.classes).expect("a list").changed_validation(), None);
        // Edited, with the same size and the time that it had.
        let time = fs::metadata(path("b")).and_then(|data| data.modified()).expect("a time");
        fs::write(path("b"), "abbb").expect("it is written");
        std::fs::File::options()
            .write(true)
            .open(path("b"))
            .and_then(|f| f.set_modified(time))
            .expect("a time is set");
        fs::write(path("c"), "ccccc").expect("it is written");
        let error = same(root.path(), &data).expect_err("they differ");
        let first = format!("{} (train, x) has other content of the same size, 4 bytes", path("b").display());
        let second = format!("{} (val, x) had 4 bytes and has 5 now", path("c").display());
        assert!(error.contains("2 differ") && error.contains(&second), "{error}");
        // Elsewhere the time decides whether bytes are read.
        assert!(cfg!(not(unix)) || error.contains(&first), "{error}");
        let changed = RunPictures::read(root.path(), &data.classes).expect("a list").changed_validation();
        assert!(changed.is_some_and(|text| text.contains("1 of the 1") && text.contains("/c ")));
        // A list from before there were contents.
        let text = fs::read_to_string(root.path().join(PICTURES_FILE)).expect("a list");
        let short: Vec<String> =
            text.lines().map(|l| l.split(',').take(3).collect::<Vec<_>>().join(",")).collect();
        fs::write(root.path().join(PICTURES_FILE), short.join("\n")).expect("it is written");
        assert_eq!(same(root.path(), &data), Ok(false));
    }

    #[test]
    fn pictures_in_both_sets_are_counted() {
        let root = tempfile::tempdir().expect("a folder");
        let sample = |name: &str, bytes: &str| {
            fs::write(root.path().join(name), bytes).expect("it is written");
            Sample::new(root.path().join(name), 0)
        };
        let train = vec![sample("a", "one"), sample("b", "two")];
        let apart = vec![sample("c", "six")];
        let data = Dataset { train, val: apart.clone(), ..Dataset::default() };
        let both = |data: &Dataset| in_both(data, &files_of(data, &AtomicBool::new(false)));
        assert_eq!(both(&data), None);
        let val = [apart, vec![sample("d", "two"), sample("e", "one")]].concat();
        let text = both(&Dataset { val, ..data }).expect("two are in both");
        assert!(text.starts_with("2 of the 3") && text.contains("/d and ") && text.contains("/b;"), "{text}");
    }
}
