//! What is wrong with a folder of pictures: files that cannot be read, pictures that are there twice, classes of very different
//! sizes, labels that look wrong.

mod duplicates;
mod labels;
mod nearest;

use std::path::PathBuf;

use offshoot_data::Dataset;
use serde::Serialize;

pub use duplicates::{Duplicate, Kinship, duplicates};
pub use labels::{LabelOptions, Suspect, suspects};

/// The split of the pictures to train with.
const TRAIN: &str = "train";

/// From this many times the pictures of the smallest class on, the largest is reported.
const IMBALANCE: f64 = 3.0;

/// A picture of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// `train` or `val`.
    pub split: &'static str,
    /// The class.
    pub class: String,
}

/// Pictures of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassSize {
    /// The class.
    pub class: String,
    /// Pictures to train with.
    pub train: usize,
    /// Pictures to validate with.
    pub val: usize,
}

/// How many pictures the classes have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// In the order of the classes.
    pub classes: Vec<ClassSize>,
    /// The largest over the smallest number of training pictures.
    pub ratio: f64,
    /// Whether that is a lot.
    pub imbalanced: bool,
}

/// How many pictures each class has.
pub fn balance(data: &Dataset) -> Balance {
    let mut counts = vec![[0, 0]; data.classes.len()];
    for (part, samples) in [&data.train, &data.val].into_iter().enumerate() {
        samples.iter().for_each(|sample| counts[sample.label][part] += 1);
    }
    let size = |(class, [train, val]): (&String, [usize; 2])| ClassSize { class: class.clone(), train, val };
    let classes: Vec<ClassSize> = data.classes.iter().zip(counts).map(size).collect();
    let sizes = || classes.iter().map(|class| class.train);
    let ratio = sizes().max().unwrap_or(0) as f64 / sizes().min().unwrap_or(0).max(1) as f64;
    Balance { ratio, imbalanced: ratio >= IMBALANCE, classes }
}

/// All pictures of a data set: those to train with, then those to validate with.
fn members(data: &Dataset) -> Vec<Member> {
    let member = |split| {
        move |sample: &offshoot_data::Sample| Member {
            path: sample.path.clone(),
            split,
            class: data.classes[sample.label].clone(),
        }
    };
    data.train.iter().map(member(TRAIN)).chain(data.val.iter().map(member("val"))).collect()
}

/// A path in JSON; what is not UTF-8 in it is replaced.
fn lossy<S: serde::Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&offshoot_graph::text::path_text(path))
}
