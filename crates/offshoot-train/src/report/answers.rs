//! The best model's predictions on the validation set: `predictions.csv`, where they are not too many.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use offshoot_data::Dataset;
use offshoot_files::{Kind, read};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;

use crate::csv::{byte_records, path_field, path_of, quoted};
use crate::metrics::Metrics;
use crate::run::PREDICTIONS_FILE;

/// The most logits that are kept: 4,000 pictures of 1,000 classes. The file would be larger than 50 MB with more.
const MOST: usize = 1 << 22;

/// Logits of validation pictures; none where there are too many.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answers {
    /// Places in the list of validation samples.
    indices: Vec<u64>,
    /// A row for each.
    logits: Vec<f32>,
    /// Whether there were too many.
    full: bool,
}

impl Answers {
    pub(crate) fn add(&mut self, indices: &[u64], logits: &[f32]) {
        if self.full || self.logits.len() + logits.len() > MOST {
            *self = Answers { full: true, ..Answers::default() };
            return;
        }
        self.indices.extend(indices);
        self.logits.extend(logits);
    }

    pub(crate) fn write(&self, run: &Path, data: &Dataset) -> Result<(), FormatError> {
        if self.indices.is_empty() {
            return Ok(());
        }
        let rows = self.logits.chunks_exact(data.classes.len().max(1));
        write_atomically(&run.join(PREDICTIONS_FILE), |file| {
            let classes: Vec<_> = data.classes.iter().map(|class| quoted(class)).collect();
            writeln!(file, "path,class,{}", classes.join(","))?;
            for (&index, row) in self.indices.iter().zip(rows) {
                let sample = &data.val[index as usize];
                file.write_all(&path_field(&sample.path))?;
                write!(file, ",{}", quoted(&data.classes[sample.label]))?;
                row.iter().try_for_each(|logit| write!(file, ",{logit}"))?;
                writeln!(file)?;
            }
            Ok(())
        })
    }
}

/// The content of `predictions.csv`.
#[derive(Debug, Default)]
pub(super) struct Predictions {
    pub(super) classes: Vec<String>,
    pub(super) paths: Vec<PathBuf>,
    pub(super) labels: Vec<usize>,
    /// A row of as many as there are classes for each picture.
    pub(super) logits: Vec<f32>,
}

impl Predictions {
    /// Those in the folder `run`. `None` where there is no file.
    ///
    /// # Errors
    /// Why it cannot be read, or is not what was written, in words.
    pub(super) fn read(run: &Path) -> Result<Option<Predictions>, String> {
        match read(&run.join(PREDICTIONS_FILE), Kind::TABLE) {
            Ok(bytes) => Predictions::parse(&bytes).map(Some).ok_or_else(|| {
                "it is not the table of path, class and a logit of each class that was written".to_owned()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Predictions> {
        let mut lines = byte_records(bytes).into_iter();
        let text = |field: &Vec<u8>| String::from_utf8(field.clone()).ok();
        let classes = lines.next()?.get(2..)?.iter().map(text).collect::<Option<Vec<String>>>()?;
        let labels: HashMap<&str, usize> =
            classes.iter().enumerate().rev().map(|(label, class)| (class.as_str(), label)).collect();
        let mut found = Predictions { classes: classes.clone(), ..Predictions::default() };
        for row in lines {
            let [path, class, logits @ ..] = &row[..] else { return None };
            found.paths.push(path_of(path.clone()));
            found.labels.push(*labels.get(str::from_utf8(class).ok()?)?);
            for logit in logits {
                found.logits.push(str::from_utf8(logit).ok()?.parse().ok()?);
            }
        }
        (found.logits.len() == found.labels.len() * found.classes.len()).then_some(found)
    }

    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new(self.classes.len());
        let labels: Vec<i64> = self.labels.iter().map(|&label| label as i64).collect();
        metrics.add(&self.logits, &labels);
        metrics
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&[f32], usize)> {
        self.logits.chunks_exact(self.classes.len().max(1)).zip(self.labels.iter().copied())
    }
}
