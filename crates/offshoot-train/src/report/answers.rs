//! The best model's predictions on the validation set: `predictions.csv`, where they are not too many.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;

use offshoot_data::{Dataset, Sample};
use offshoot_files::{Kind, read};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::{Metadata, Regression, Scale, Score, Task};
use offshoot_infer::{Figures, Fitted};

use crate::csv::{byte_records, path_field, path_of, quoted};
use crate::run::PREDICTIONS_FILE;
use crate::run_pictures::{class_field, sample_of};

/// The most logits that are kept: 4,000 pictures of 1,000 classes. The file would be larger than 50 MB with more.
const MOST: usize = 1 << 22;

/// The column of the class of a picture, of its classes, or of its targets.
const CLASS: &str = "class";
const LABELS: &str = "labels";
const TARGETS: &str = "targets";

/// Logits of validation pictures; where there are too many, those of every second picture, or third, and so on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answers {
    /// Places in the list of validation samples.
    indices: Vec<u64>,
    /// A row for each.
    logits: Vec<f32>,
    /// Which pictures are kept: one of so many.
    every: u64,
    /// How many pictures there were.
    seen: u64,
}

impl Answers {
    /// No picture yet, of that many with that many classes.
    pub(crate) fn new(pictures: u64, classes: usize) -> Answers {
        let every = pictures.saturating_mul(classes as u64).div_ceil(MOST as u64).max(1);
        Answers { indices: Vec::new(), logits: Vec::new(), every, seen: 0 }
    }

    pub(crate) fn add(&mut self, indices: &[u64], logits: &[f32]) {
        let classes = (logits.len() / indices.len().max(1)).max(1);
        for (&index, row) in indices.iter().zip(logits.chunks_exact(classes)) {
            if self.seen.is_multiple_of(self.every) {
                self.indices.push(index);
                self.logits.extend(row);
            }
            self.seen += 1;
        }
    }

    /// The temperature and the reject threshold that fit pictures with one class best.
    pub(crate) fn fit(&self, data: &Dataset, rejection: (Score, f64)) -> Fitted {
        let labels: Vec<usize> = self.indices.iter().map(|&index| data.val[index as usize].label).collect();
        Fitted::new(&self.logits, &labels, data.classes.len(), rejection)
    }

    /// Writes the table, where all pictures were kept.
    pub(crate) fn write(&self, run: &Path, data: &Dataset) -> Result<(), FormatError> {
        if self.indices.is_empty() || self.every > 1 {
            return Ok(());
        }
        let rows = self.logits.chunks_exact(data.classes.len().max(1));
        write_atomically(&run.join(PREDICTIONS_FILE), |file| {
            let classes: Vec<_> = data.classes.iter().map(|class| quoted(class)).collect();
            let column = match data.val.first() {
                Some(Sample { labels: Some(_), .. }) => LABELS,
                Some(Sample { targets: Some(_), .. }) => TARGETS,
                Some(_) | None => CLASS,
            };
            writeln!(file, "path,{column},{}", classes.join(","))?;
            for (&index, row) in self.indices.iter().zip(rows) {
                let sample = &data.val[index as usize];
                file.write_all(&path_field(&sample.path))?;
                write!(file, ",{}", quoted(&class_field(sample, &data.classes)))?;
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
    /// What pictures have.
    pub(super) task: Task,
    /// Where that is numbers, the scale of each over these pictures.
    pub(super) regression: Option<Regression>,
    pub(super) samples: Vec<Sample>,
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
        let header = lines.next()?.iter().map(text).collect::<Option<Vec<String>>>()?;
        let classes = header.get(2..)?.to_vec();
        let task = match header[1].as_str() {
            LABELS => Task::Multi,
            TARGETS => Task::Regression,
            _ => Task::Single,
        };
        let labels: HashMap<&str, usize> =
            classes.iter().enumerate().rev().map(|(label, class)| (class.as_str(), label)).collect();
        let mut found = Predictions { classes: classes.clone(), task, ..Predictions::default() };
        for row in lines {
            let [path, class, logits @ ..] = &row[..] else { return None };
            let sample = sample_of(path_of(path.clone()), str::from_utf8(class).ok()?, &labels).ok()?;
            let fits = match (&sample.labels, &sample.targets) {
                (None, None) => task.is_single(),
                (Some(_), _) => task == Task::Multi,
                (None, Some(targets)) => task == Task::Regression && targets.len() == classes.len(),
            };
            if !fits {
                return None;
            }
            found.samples.push(sample);
            for logit in logits {
                found.logits.push(str::from_utf8(logit).ok()?.parse().ok()?);
            }
        }
        if task == Task::Regression {
            let targets =
                |place: usize| found.samples.iter().filter_map(move |s| s.targets.as_ref()?.get(place));
            let scale = |place| Scale::of(targets(place).copied()).unwrap_or(Scale::NONE);
            let scales = (0..classes.len()).map(scale).collect();
            found.regression = Some(Regression { scales, ..Regression::default() });
        }
        (found.logits.len() == found.samples.len() * found.classes.len()).then_some(found)
    }

    /// How good they are, with the thresholds that fit them best.
    pub(super) fn figures(&self) -> Figures {
        let figures = |thresholds| {
            let mut figures = Figures::new(&Metadata { thresholds, ..self.metadata() });
            figures.add(&self.logits, self.samples.iter());
            figures
        };
        figures(figures(Vec::new()).best_thresholds())
    }

    /// What a model says of itself whose predictions they are.
    pub(super) fn metadata(&self) -> Metadata {
        let (classes, regression) = (self.classes.clone(), self.regression.clone());
        Metadata { classes, task: self.task, regression, ..Metadata::default() }
    }

    /// The classes of pictures that have one.
    pub(super) fn labels(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.label).collect()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&[f32], &Sample)> {
        self.logits.chunks_exact(self.classes.len().max(1)).zip(&self.samples)
    }
}
