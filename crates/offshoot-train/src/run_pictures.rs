//! Which pictures a run was trained and validated with.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use offshoot_data::{Dataset, Sample};
use offshoot_graph::text::{escaped, shown};

use crate::csv::{byte_records, path_of};
use crate::run::{PICTURES_FILE, RunError};

/// More bytes than the names of a hundred million pictures take.
const MAX_BYTES: u64 = 1 << 34;

/// The pictures of a run, as its `pictures.csv` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunPictures {
    /// Those that it was trained with.
    pub train: Vec<Sample>,
    /// Those that it was validated with.
    pub val: Vec<Sample>,
}

impl RunPictures {
    /// Reads the list of the run directory `run`; labels are indices into `classes`, those of its model.
    ///
    /// # Errors
    /// When there is no list, or it is not one of ours, or it names another class.
    pub fn read(run: &Path, classes: &[String]) -> Result<RunPictures, RunError> {
        let path = run.join(PICTURES_FILE);
        let wrong = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
            .map_err(|e| wrong(format!("the list of pictures cannot be read: {e}")))?;
        let labels: HashMap<&str, usize> =
            classes.iter().enumerate().rev().map(|(label, class)| (class.as_str(), label)).collect();
        let mut pictures = RunPictures::default();
        for (line, fields) in byte_records(&bytes).into_iter().enumerate().skip(1) {
            let Ok([set, class, file]) = <[Vec<u8>; 3]>::try_from(fields) else {
                return Err(wrong(format!("line {} has not three fields", line + 1)));
            };
            let [set, class] = [set, class].map(|field| String::from_utf8_lossy(&field).into_owned());
            let label = labels.get(class.as_str()).copied().ok_or_else(|| {
                wrong(format!("line {} names the class `{class}`, which the model does not have", line + 1))
            })?;
            let sample = Sample { path: path_of(file), label };
            match set.as_str() {
                "train" => pictures.train.push(sample),
                "val" => pictures.val.push(sample),
                other => return Err(wrong(format!("line {} is of the set `{other}`", line + 1))),
            }
        }
        Ok(pictures)
    }
}

/// Checks that `data` has the classes and pictures that the run in the folder `run` has, each in its place: another order, split
/// or class would go on training with other labels. A run without its list is believed.
///
/// # Errors
/// When they differ. The first that does is named.
pub(crate) fn check_same(run: &Path, data: &Dataset) -> Result<(), RunError> {
    let path = run.join(PICTURES_FILE);
    if !path.exists() {
        return Ok(());
    }
    let listed = RunPictures::read(run, &data.classes)?;
    let differs = |what: String| {
        let reason = format!("the run was made with other pictures: {what}; put them back as they were");
        Err(RunError::Checkpoint { path: path.clone(), reason })
    };
    for (set, was, now) in [("train", &listed.train, &data.train), ("val", &listed.val, &data.val)] {
        if was.len() != now.len() {
            return differs(format!("`{set}` had {}, and now it has {}", was.len(), now.len()));
        }
        // Lists of older runs have names that are not UTF-8 with replacements.
        let same = |a: &Sample, b: &Sample| {
            a.label == b.label && a.path.to_string_lossy() == b.path.to_string_lossy()
        };
        if let Some((was, now)) = was.iter().zip(now).find(|(was, now)| !same(was, now)) {
            let class = |sample: &Sample| data.classes.get(sample.label).cloned().unwrap_or_default();
            return differs(format!(
                "where `{set}` had {} ({}), it has {} ({}) now",
                shown(&was.path),
                escaped(&class(was)),
                shown(&now.path),
                escaped(&class(now))
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::write_pictures;

    #[test]
    fn what_a_run_writes_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = |path: &str, label| Sample { path: path.into(), label };
        let data = Dataset {
            classes: vec!["a".into(), "with, comma".into()],
            train: vec![sample("/x/plain.png", 0), sample("/x/say \"cheese\"\n.png", 1)],
            val: vec![sample("/y/,.png", 1)],
            ..Dataset::default()
        };
        write_pictures(folder.path(), &data).expect("it is written");
        let read = RunPictures::read(folder.path(), &data.classes).expect("it is read");
        assert_eq!((read.train, read.val), (data.train, data.val));
        let error = RunPictures::read(folder.path(), &data.classes[..1]).expect_err("a class is missing");
        assert!(error.to_string().contains("`with, comma`"), "{error}");
        let error = RunPictures::read(&folder.path().join("none"), &[]).expect_err("there is no list");
        assert!(error.to_string().contains("pictures.csv"), "{error}");
    }

    #[test]
    fn other_pictures_classes_and_orders_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = |path: &str, label| Sample { path: path.into(), label };
        let data = |classes: [&str; 2], train: Vec<Sample>| Dataset {
            classes: classes.map(str::to_owned).to_vec(),
            train,
            val: vec![sample("v", 1)],
            ..Dataset::default()
        };
        let ours = || data(["a", "b"], vec![sample("x", 0), sample("y", 1)]);
        check_same(folder.path(), &ours()).expect("without a list nothing is compared");
        write_pictures(folder.path(), &ours()).expect("it is written");
        check_same(folder.path(), &ours()).expect("they are the same");
        for (other, named) in [
            (data(["a", "c"], ours().train), "`b`"),
            (data(["b", "a"], ours().train), "x (b)"),
            (data(["a", "b"], vec![sample("x", 0), sample("z", 1)]), "z (b)"),
            (data(["a", "b"], vec![sample("y", 1), sample("x", 0)]), "y (b)"),
            (data(["a", "b"], vec![sample("x", 0)]), "`train` had 2"),
        ] {
            let error = check_same(folder.path(), &other).expect_err("they differ").to_string();
            assert!(error.contains("pictures.csv") && error.contains(named), "{error}");
        }
    }
}
