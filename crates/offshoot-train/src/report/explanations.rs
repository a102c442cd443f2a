//! What the predictions of the pictures rest on that the page shows: `explanations.json`, which `offshoot report --explain` writes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offshoot_data::Transform;
use offshoot_files::{Kind, read, read_text};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::Preprocessing;
use offshoot_graph::text::{path_text, quoted};
use offshoot_infer::Figures;
use serde::{Deserialize, Serialize};

use super::answers::Predictions;
use super::page::{escaped, isolated};
use super::{MOST_PAIRS, THUMBNAIL, WORST, answer, pairs, ranked, thumbnail};
use crate::metrics::{Metrics, argmax};
use crate::run::PREDICTIONS_FILE;

/// The name of the explanations in a run directory.
pub const EXPLANATIONS_FILE: &str = "explanations.json";

/// Explanations of the best model's predictions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanations {
    /// The method, as `offshoot explain` calls it.
    pub method: String,
    /// The BLAKE3 of the `predictions.csv` that they explain: that of another model has another.
    predictions: String,
    /// A picture each.
    pictures: Vec<ExplainedPicture>,
}

/// The explanation of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedPicture {
    /// The picture, as text.
    path: String,
    /// A JPEG: the picture with the map over it.
    overlay: String,
}

impl ExplainedPicture {
    /// The explanation of the picture at `path`: a JPEG of it with the map over it, as [`thumbnail_transform`] makes it.
    pub fn new(path: &Path, jpeg: &[u8]) -> ExplainedPicture {
        ExplainedPicture { path: path_text(path), overlay: STANDARD.encode(jpeg) }
    }
}

/// How pictures are shown on the page: as a network with this preprocessing sees them, small. `None` where that cannot be carried out.
pub fn thumbnail_transform(own: &Preprocessing) -> Option<Transform> {
    let resize = (own.resize * THUMBNAIL / own.size.max(1)).max(THUMBNAIL);
    Transform::new(&Preprocessing { size: THUMBNAIL, resize, ..own.clone() }).ok()
}

/// The validation pictures that the page shows for themselves, each with the class that the best model predicts: those with the highest loss, and one
/// for each of the most confused pairs of classes. Empty where the run has no predictions.
///
/// # Errors
/// Why the predictions cannot be read, in words.
pub fn pictures_to_explain(run: &Path) -> Result<Vec<(PathBuf, usize)>, String> {
    let Some(predictions) = Predictions::read(run)? else { return Ok(Vec::new()) };
    let figures = predictions.figures();
    let mut places: Vec<usize> =
        ranked(&predictions, &figures).into_iter().take(WORST).map(|(_, i)| i).collect();
    if let Figures::Classes(metrics) = &figures {
        places.extend(confused(&predictions, metrics));
    }
    places.sort_unstable();
    places.dedup();
    let rows: Vec<_> = predictions.rows().collect();
    Ok(places.into_iter().map(|i| (rows[i].1.path.clone(), argmax(rows[i].0))).collect())
}

/// For each of the most confused pairs of classes the picture that is predicted with the highest logit.
fn confused(predictions: &Predictions, metrics: &Metrics) -> Vec<usize> {
    let mut best: HashMap<(usize, usize), (f32, usize)> = HashMap::new();
    for (i, (row, sample)) in predictions.rows().enumerate() {
        let predicted = argmax(row);
        let entry = best.entry((sample.label, predicted)).or_insert((row[predicted], i));
        if row[predicted] > entry.0 {
            *entry = (row[predicted], i);
        }
    }
    let pairs = pairs(metrics).into_iter().take(MOST_PAIRS);
    pairs.filter_map(|(pair, _)| best.get(&pair)).map(|&(_, i)| i).collect()
}

impl Explanations {
    /// Those of the predictions that are in the folder `run` now.
    ///
    /// # Errors
    /// When `predictions.csv` cannot be read.
    pub fn new(run: &Path, method: String, pictures: Vec<ExplainedPicture>) -> io::Result<Explanations> {
        Ok(Explanations { method, predictions: hash_of_predictions(run)?, pictures })
    }

    /// Writes them into the folder `run`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<(), FormatError> {
        let text = serde_json::to_string(self).unwrap_or_default();
        write_atomically(&run.join(EXPLANATIONS_FILE), |file| writeln!(file, "{text}"))
    }

    /// Those in the folder `run`; `None` where there are none, or they are of other predictions.
    pub(super) fn read(run: &Path) -> Result<Option<Explanations>, String> {
        let text = match read_text(&run.join(EXPLANATIONS_FILE), Kind::MEASUREMENTS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let found: Explanations =
            serde_json::from_str(&text).map_err(|error| quoted(&error.to_string()).into_owned())?;
        let damaged = |picture: &ExplainedPicture| STANDARD.decode(&picture.overlay).is_err();
        if found.pictures.iter().any(damaged) {
            return Err("a picture in it is no base64".to_owned());
        }
        Ok(Some(found).filter(|found| hash_of_predictions(run).is_ok_and(|hash| hash == found.predictions)))
    }

    /// The picture with its map; empty where there is none.
    pub(super) fn image(&self, path: &Path) -> String {
        let path = path_text(path);
        self.pictures.iter().find(|picture| picture.path == path).map_or(String::new(), |picture| {
            format!(
                "<img alt=\"\" width=\"{THUMBNAIL}\" height=\"{THUMBNAIL}\" src=\"data:image/jpeg;base64,{}\">",
                picture.overlay
            )
        })
    }

    /// What the second picture of each shows; empty where there are none.
    pub(super) fn legend(&self) -> String {
        match self.pictures.is_empty() {
            true => String::new(),
            false => format!(
                "<p>Under each picture: which places the predicted class rests on, by {}; the brighter, the more.</p>",
                escaped(&self.method)
            ),
        }
    }

    /// A picture of each of the most confused pairs, with its map.
    pub(super) fn confused(
        &self,
        predictions: &Predictions,
        metrics: &Metrics,
        transform: Option<&Transform>,
    ) -> String {
        if self.pictures.is_empty() {
            return String::new();
        }
        let rows: Vec<_> = predictions.rows().collect();
        let mut html = self.legend() + "<div class=\"worst\">";
        for i in confused(predictions, metrics) {
            let (row, sample) = rows[i];
            let image =
                transform.and_then(|transform| thumbnail(&sample.path, transform)).unwrap_or_default();
            let name = path_text(sample.path.file_name().unwrap_or_default());
            let (map, said) = (self.image(&sample.path), answer(predictions, row, sample.label));
            let _ = write!(html, "<figure>{image}{map}{said}<small>{}</small></figure>", isolated(&name));
        }
        html + "</div>"
    }
}

fn hash_of_predictions(run: &Path) -> io::Result<String> {
    Ok(blake3::hash(&read(&run.join(PREDICTIONS_FILE), Kind::TABLE)?).to_hex().to_string())
}
