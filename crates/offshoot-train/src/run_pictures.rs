//! Which pictures a run was trained and validated with.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use offshoot_data::Sample;

use crate::csv::records;
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
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|e| wrong(format!("the list of pictures cannot be read: {e}")))?;
        let mut pictures = RunPictures::default();
        for (line, fields) in records(&text).into_iter().enumerate().skip(1) {
            let [set, class, file] = &fields[..] else {
                return Err(wrong(format!("line {} has not three fields", line + 1)));
            };
            let label = classes.iter().position(|c| c == class).ok_or_else(|| {
                wrong(format!("line {} names the class `{class}`, which the model does not have", line + 1))
            })?;
            let sample = Sample { path: file.into(), label };
            match set.as_str() {
                "train" => pictures.train.push(sample),
                "val" => pictures.val.push(sample),
                other => return Err(wrong(format!("line {} is of the set `{other}`", line + 1))),
            }
        }
        Ok(pictures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::write_pictures;
    use offshoot_data::Dataset;

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
}
