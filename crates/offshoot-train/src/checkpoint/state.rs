//! The state file: the position and the hashes in its header, and all that steps change.

use std::path::Path;

use blake3::Hasher;
use offshoot_formats::atomic::AtomicFile;
use offshoot_formats::error::Problem;
use offshoot_formats::{FormatError, safetensors};
use offshoot_graph::Weights;
use offshoot_graph::remedy::{OUT, RESUME};
use serde::{Deserialize, Serialize};

use super::position::Position;
use crate::fingerprint;
use crate::longer::{is_longer, is_same};
use crate::run::{PREVIOUS_FILE, RunError, STATE_FILE};

/// What the state file carries as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateHeader {
    pub(crate) position: Position,
    /// Where the run goes back to when it must, if that is not this position: then the state has it too, under `good.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<Position>,
    pub(crate) setting: RunSetting,
    /// What the executor said about itself.
    pub(crate) processor: String,
    /// Of the weights that the state does not hold; see [`FrozenHash`].
    pub(super) frozen: String,
    /// Of the other fields and the tensors.
    content: String,
}

impl StateHeader {
    pub(crate) fn new(
        position: &Position,
        good: Option<&Position>,
        setting: &RunSetting,
        processor: String,
        frozen: String,
    ) -> StateHeader {
        let (position, good, setting) = (position.clone(), good.cloned(), setting.clone());
        StateHeader { position, good, setting, processor, frozen, content: String::new() }
    }

    /// A hash of this and `state`, this header's own hash left out.
    fn hash(&self, state: &Weights) -> String {
        let mut hasher = Hasher::new();
        let others = StateHeader { content: String::new(), ..self.clone() };
        fingerprint::field(&mut hasher, others.to_json().as_bytes());
        fingerprint::weights(&mut hasher, state, |_| true);
        hasher.finalize().to_string()
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a position has a JSON form")
    }
}

/// A checkpoint.
#[derive(Debug, PartialEq)]
pub(crate) struct Saved {
    pub(crate) weights: Weights,
    pub(crate) header: StateHeader,
}

/// Hashes the weights of a model that its state does not hold. They stay the same as long as the state holds the same ones,
/// so they are hashed once.
#[derive(Debug, Default)]
pub(crate) struct FrozenHash {
    known: Option<(usize, String)>,
}

impl FrozenHash {
    pub(crate) fn of(&mut self, weights: &Weights, state: &Weights) -> String {
        let moving = |name: &str| state.contains_key(&format!("model.{name}"));
        let count = weights.keys().filter(|name| moving(name)).count();
        match &self.known {
            Some((known, hash)) if *known == count => hash.clone(),
            _ => {
                let mut hasher = Hasher::new();
                fingerprint::weights(&mut hasher, weights, |name| !moving(name));
                let hash = hasher.finalize().to_string();
                self.known = Some((count, hash.clone()));
                hash
            }
        }
    }
}

/// What a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSetting {
    /// The text of `recipe.toml`, without the number of threads.
    pub(crate) recipe: String,
    /// How many pictures there are to train and to validate with.
    pub(crate) pictures: [usize; 2],
}

/// Writes the state of a checkpoint, and keeps the one before.
pub(crate) fn write_state(run: &Path, state: &Weights, mut header: StateHeader) -> Result<(), FormatError> {
    header.content = header.hash(state);
    let path = run.join(STATE_FILE);
    let mut file = AtomicFile::create(&path)?;
    safetensors::write_to(&mut file, state, &header.to_json())
        .map_err(|error| Problem::Io { action: "write", error }.at(&path))?;
    file.commit_keeping(&run.join(PREVIOUS_FILE))
}

/// The state of the last checkpoint, if there is one, or of the one before where the last is missing. It must belong to
/// `setting`.
pub(crate) fn read_state(run: &Path, setting: &RunSetting) -> Result<Option<Saved>, RunError> {
    let files = [STATE_FILE, PREVIOUS_FILE].map(|name| run.join(name));
    let Some(path) = files.iter().find(|path| path.exists()) else { return Ok(None) };
    let refuse = |reason: String| RunError::Checkpoint { path: path.clone(), reason };
    let damaged = |reason: String| {
        let way_out = match *path == files[0] && files[1].exists() {
            true => format!("delete it, and {RESUME} goes on from the checkpoint before it"),
            false => format!("start again in another folder with {OUT}"),
        };
        RunError::Damaged { path: path.clone(), reason, way_out }
    };
    let file = safetensors::read(path).map_err(|error| match error.problem {
        Problem::Io { .. } => RunError::File(error),
        problem => damaged(problem.to_string()),
    })?;
    let header =
        file.metadata.get(safetensors::METADATA_KEY).ok_or_else(|| damaged("is no checkpoint".into()))?;
    let header: StateHeader = serde_json::from_str(header)
        .map_err(|e| damaged(format!("is no checkpoint of this version: {e}")))?;
    if header.content != header.hash(&file.weights) {
        return Err(damaged("its content does not have the hash that stands in it".into()));
    }
    let [was, now] = [&header.setting.recipe, &setting.recipe];
    if !is_same(was, now) && !is_longer(was, now) {
        return Err(refuse("belongs to another recipe than the recipe.toml beside it".into()));
    }
    for position in std::iter::once(&header.position).chain(&header.good) {
        if let Some(problem) = position.problem(&header.setting) {
            return Err(refuse(problem));
        }
    }
    Ok(Some(Saved { weights: file.weights, header }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::{Sums, check_counts};
    use crate::results::Best;
    use crate::run::has_checkpoint;

    fn setting(recipe: &str, train: usize) -> RunSetting {
        RunSetting { recipe: recipe.into(), pictures: [train, 2] }
    }

    fn header(position: Position, setting: &RunSetting) -> StateHeader {
        StateHeader::new(&position, None, setting, "cpu".into(), "frozen".into())
    }

    #[test]
    fn a_state_comes_back_and_one_of_another_recipe_does_not() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        assert!(read_state(run.path(), &ours).unwrap().is_none() && !has_checkpoint(run.path()));
        let sums = Sums { loss: 0.1 + 0.2, correct: 3, error: 0.1, images: 4, gradient_norm: 1.0 / 3.0 };
        let best = Some(Best { epoch: 1, val_accuracy: Some(2.0 / 3.0), val_loss: Some(0.7) });
        let unusable = vec![(3, "it is \"broken\"".to_string())];
        let position = Position { epoch: 2, step: 5, sums, best, stage: 1, unusable, ..Position::default() };
        let state = Weights::from([("model.w".to_string(), offshoot_graph::Tensor::full([2], 0.5))]);
        write_state(run.path(), &state, header(position.clone(), &ours)).unwrap();
        let saved = read_state(run.path(), &ours).unwrap().unwrap();
        assert_eq!((saved.weights, saved.header.position), (state, position));
        let error = read_state(run.path(), &setting("a = 2", 7)).unwrap_err().to_string();
        assert!(error.contains("last.state.safetensors") && error.contains("another recipe"), "{error}");
        let saved = read_state(run.path(), &setting("a = 1", 8)).unwrap().unwrap();
        let error = check_counts(run.path(), &saved, &setting("a = 1", 8)).unwrap_err().to_string();
        assert!(error.contains("last.state.safetensors") && error.contains("7 pictures"), "{error}");
    }

    /// Puts `number` in place of the `place`-th number of a JSON value; says how many numbers come before what is left.
    fn put(value: &mut serde_json::Value, place: &mut usize, number: &serde_json::Value) {
        match value {
            serde_json::Value::Number(_) => {
                if *place == 0 {
                    *value = number.clone();
                }
                *place = place.wrapping_sub(1);
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(|value| put(value, place, number)),
            serde_json::Value::Object(all) => all.values_mut().for_each(|value| put(value, place, number)),
            _ => {}
        }
    }

    #[test]
    fn no_number_of_a_state_is_larger_than_a_run_reaches() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        let best = Some(Best { epoch: 1, val_accuracy: Some(0.5), val_loss: Some(0.7) });
        let full = Position { epoch: 2, best, unusable: vec![(3, "x".into())], ..Position::default() };
        let json = serde_json::to_value(&full).unwrap();
        let mut tried = 0;
        for number in [1_u64 << 31, 1 << 32, (1 << 53) + 2, 1 << 63, u64::MAX] {
            for place in 0.. {
                let (mut changed, mut left) = (json.clone(), place);
                put(&mut changed, &mut left, &number.into());
                if changed == json {
                    break;
                }
                // Of a smaller type, it is no state.
                let Ok(position) = serde_json::from_value::<Position>(changed) else { continue };
                write_state(run.path(), &Weights::new(), header(position.clone(), &ours)).unwrap();
                let read = read_state(run.path(), &ours);
                tried += 1;
                // A loss may be so large; it is written with a point or an exponent.
                let text = serde_json::to_string(&position).unwrap();
                let counts = [',', '}', ']'].iter().any(|end| text.contains(&format!("{number}{end}")));
                match number > 1 << 53 && counts {
                    true => {
                        let error = read.unwrap_err().to_string();
                        assert!(error.contains("last.state.safetensors"), "{error}");
                    }
                    false => drop(read),
                }
            }
        }
        assert!(tried > 60, "{tried}");
        for position in [
            Position { step: 8, ..Position::default() },
            Position { epoch: 1_000_001, ..Position::default() },
            Position { rollbacks: 6, ..Position::default() },
        ] {
            write_state(run.path(), &Weights::new(), header(position, &ours)).unwrap();
            let error = read_state(run.path(), &ours).unwrap_err().to_string();
            assert!(error.contains("claims"), "{error}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_state_is_found_and_the_one_before_still_loads() {
        let run = tempfile::tempdir().unwrap();
        let ours = setting("a = 1", 7);
        let state = Weights::from([("model.w".to_string(), offshoot_graph::Tensor::full([5], 0.5))]);
        for step in [1, 2] {
            let position = Position { step, ..Position::default() };
            write_state(run.path(), &state, header(position, &ours)).unwrap();
        }
        let path = run.path().join(STATE_FILE);
        let whole = fs::read(&path).unwrap();
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        let changed = (0..whole.len()).map(|at| {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            changed
        });
        for bytes in cut.chain(changed) {
            fs::write(&path, &bytes).unwrap();
            let error = read_state(run.path(), &ours).unwrap_err().to_string();
            assert!(error.contains("last.state.safetensors") && error.contains("delete it"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read_state(run.path(), &ours).unwrap().unwrap().header.position.step, 1);
    }
}
