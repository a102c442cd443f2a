//! Whether a run can go on from a checkpoint: its files belong together, to the model and to the pictures.

use std::collections::BTreeMap;
use std::path::Path;

use offshoot_formats::checkpoint::match_weights;
use offshoot_formats::error::Problem;
use offshoot_formats::safetensors;
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::{escaped, quoted};
use offshoot_graph::{Metadata, Model, Weights};

use super::position::Position;
use super::state::{FrozenHash, RunSetting, Saved};
use crate::run::{BEST_FILE, LAST_FILE, RunError, STATE_FILE};
use crate::unfreeze::Stages;

/// Checks that there are as many pictures as when a checkpoint was made.
pub(crate) fn check_counts(run: &Path, saved: &Saved, setting: &RunSetting) -> Result<(), RunError> {
    let ([train, val], [now_train, now_val]) = (saved.header.setting.pictures, setting.pictures);
    if [train, val] == setting.pictures {
        return Ok(());
    }
    let reason = format!(
        "was made with {train} pictures to train and {val} to validate with, and now there are {now_train} and {now_val}"
    );
    Err(RunError::Checkpoint { path: run.join(STATE_FILE), reason })
}

/// Checks that the stage of a checkpoint is one that its epoch can be in: its own, or the one before where that has just ended.
pub(crate) fn check_stage(run: &Path, position: &Position, stages: &Stages) -> Result<(), RunError> {
    let Position { epoch, stage, .. } = *position;
    let now = stages.at(epoch);
    if stage == now || (stage + 1 == now && stages.span(now).0 == epoch) {
        return Ok(());
    }
    let reason = format!("claims stage {} after {epoch} epochs", stage.saturating_add(1));
    Err(RunError::Checkpoint { path: run.join(STATE_FILE), reason })
}

/// The weights in the last checkpoint, checked against the graph of `model` and against `saved`. What the state holds may be
/// newer in them: a process may have died before it wrote the state.
pub(crate) fn read_last(run: &Path, model: &Model, saved: &Saved) -> Result<Weights, RunError> {
    let path = run.join(LAST_FILE);
    let way_out = format!("{BEST_FILE} has the same frozen weights: copy it to this name");
    let file = safetensors::read(&path).map_err(|error| match error.problem {
        Problem::Hash { .. } => {
            let reason = "its content does not have the hash that stands in it".into();
            RunError::Damaged { path: path.clone(), reason, way_out: way_out.clone() }
        }
        _ => RunError::File(error),
    })?;
    check_model(&path, &file.metadata, model)?;
    if FrozenHash::default().of(&file.weights, &saved.weights) != saved.header.frozen {
        let reason = "its frozen weights do not have the hash that the state holds".into();
        return Err(RunError::Damaged { path, reason, way_out });
    }
    let parameters = model.graph.parameters().iter().map(|&id| model.graph.value(id));
    let expected = parameters.map(|v| (v.name.clone(), v.shape.as_fixed().unwrap_or_default()));
    let expected: Vec<(String, Vec<usize>)> = expected.collect();
    match_weights(&expected, file.weights).map_err(|source| RunError::Weights { path, source })
}

/// Checks that a checkpoint is of the classes and the head of `model`, where it says so: a run without its list of pictures would go
/// on with other names for what it has learned.
fn check_model(path: &Path, metadata: &BTreeMap<String, String>, model: &Model) -> Result<(), RunError> {
    let of_file = metadata.get(safetensors::METADATA_KEY).and_then(|text| serde_json::from_str(text).ok());
    let Some(Metadata { classes: was, architecture, head, task, .. }) = of_file else { return Ok(()) };
    let now = &model.metadata.classes;
    if task != model.metadata.task {
        let reason = "it is the model of another run, of another task".to_owned();
        return Err(RunError::Checkpoint { path: path.to_owned(), reason });
    }
    if (&architecture, &head) != (&model.metadata.architecture, &model.metadata.head) {
        let named = |name: Option<&String>| quoted(name.map_or("none", String::as_str)).into_owned();
        let reason = format!(
            "it is the model of another run: of the architecture {} with the head {}",
            named(architecture.as_ref()),
            named(head.as_ref())
        );
        return Err(RunError::Checkpoint { path: path.to_owned(), reason });
    }
    let differs = was.iter().zip(now).find(|(was, now)| was != now);
    let reason = match differs {
        None if was.len() == now.len() => return Ok(()),
        None => format!("the run has {} classes, and the data has {}", was.len(), now.len()),
        Some((was, now)) => format!(
            "the run was made with the class `{}` where the data has `{}` now; put the folders back as they were",
            escaped(&quoted(was)),
            escaped(&quoted(now))
        ),
    };
    Err(RunError::Checkpoint { path: path.to_owned(), reason })
}

/// Checks that the best model of a run that goes on is there, whole and its own: nothing would make it again.
pub(crate) fn check_best(run: &Path, model: &Model, saved: &Saved) -> Result<(), RunError> {
    let Some(best) = &saved.header.position.best else { return Ok(()) };
    let path = run.join(BEST_FILE);
    match safetensors::read(&path) {
        Ok(file) => {
            check_model(&path, &file.metadata, model)?;
            // What is frozen now was so before, too.
            match FrozenHash::default().of(&file.weights, &saved.weights) == saved.header.frozen {
                true => Ok(()),
                false => Err(RunError::Checkpoint {
                    path,
                    reason: "it is the model of another run: its frozen weights are not those of this one"
                        .into(),
                }),
            }
        }
        Err(error) => Err(RunError::Damaged {
            path,
            reason: error.problem.to_string(),
            way_out: format!(
                "It is the model of epoch {}, which nothing makes again: put back a copy, or start again in another folder with {OUT}",
                best.epoch
            ),
        }),
    }
}
