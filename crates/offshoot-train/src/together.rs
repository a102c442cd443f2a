//! What the processes of a run tell each other when it starts: where it goes on from, and that they are about to do the same.

use std::sync::atomic::AtomicBool;

use blake3::Hasher;
use offshoot_data::{Dataset, Sample};
use offshoot_formats::safetensors;
use offshoot_graph::text::{escaped, shown};
use offshoot_graph::{Executor, Model, Weights};
use offshoot_world::{World, WorldError};

use crate::checkpoint::{Saved, StateHeader};
use crate::error::TrainError;
use crate::fingerprint;
use crate::picture_files::{self, PictureFile};
use crate::recipe::Recipe;
use crate::run_pictures::{self, Files, class_field};

/// Pictures that are read before a process waits for the others.
const TOGETHER: usize = 1024;

/// Checks that each process has a batch of each whole update to compute.
///
/// # Errors
/// When there are more processes than batches.
pub(crate) fn check_processes(world: &dyn World, recipe: &Recipe) -> Result<(), TrainError> {
    let (processes, batches) = (world.size(), recipe.accumulate.max(1));
    match processes > batches {
        true => Err(TrainError::Processes { processes, batches, batch_size: recipe.batch_size }),
        false => Ok(()),
    }
}

/// The checkpoint that the first process has read, for all.
pub(crate) fn broadcast_saved(world: &dyn World, saved: Option<Saved>) -> Result<Option<Saved>, TrainError> {
    if !world.is_shared() {
        return Ok(saved);
    }
    let header = saved.as_ref().map(|saved| serde_json::to_string(&saved.header));
    let header = header.transpose().map_err(|error| garbled(world, &error))?.unwrap_or_default();
    let header = world.broadcast(header.into_bytes())?;
    if header.is_empty() {
        return Ok(None);
    }
    let header: StateHeader = serde_json::from_slice(&header).map_err(|error| garbled(world, &error))?;
    let weights = broadcast_weights(world, saved.map(|saved| saved.weights))?;
    Ok(Some(Saved { weights, header }))
}

/// The weights that the first process has read, for all.
pub(crate) fn broadcast_weights(world: &dyn World, weights: Option<Weights>) -> Result<Weights, TrainError> {
    let mut bytes = Vec::new();
    if let Some(weights) = weights.filter(|_| world.is_first()) {
        if !world.is_shared() {
            return Ok(weights);
        }
        safetensors::write_to(&mut bytes, &weights, "{}").map_err(|error| garbled(world, &error))?;
        world.broadcast(bytes)?;
        return Ok(weights);
    }
    let bytes = world.broadcast(bytes)?;
    let file = safetensors::read_from(&bytes[..], bytes.len() as u64);
    Ok(file.map_err(|error| garbled(world, &error))?.weights)
}

fn garbled(world: &dyn World, error: &dyn std::fmt::Display) -> WorldError {
    WorldError::Differs(format!("{} has sent a checkpoint that cannot be read: {error}", world.name(0)))
}

/// The files of the pictures, where they are not `known`. All processes read their own at about the same speed: none waits for another one that
/// has a slow disk for longer than a few pictures take.
pub(crate) fn files(
    world: &dyn World,
    data: &Dataset,
    known: Option<Files>,
    stop: &AtomicBool,
) -> Result<Files, TrainError> {
    if !world.is_shared() {
        return Ok(known.unwrap_or_else(|| run_pictures::files_of(data, stop)));
    }
    // What is unknown of a picture because of a signal would be a difference.
    let (mut all, on) = (Files::default(), AtomicBool::new(false));
    for (set, samples) in [&data.train, &data.val].into_iter().enumerate() {
        for (place, some) in samples.chunks(TOGETHER).enumerate() {
            let start = place * TOGETHER;
            let known = known.as_ref().and_then(|known| known[set].get(start..start + some.len()));
            all[set].extend(known.map_or_else(|| picture_files::files(some, &[], &on), <[_]>::to_vec));
            world.any(false)?;
        }
    }
    Ok(all)
}

/// Checks that all processes have the same program, recipe, processor, pictures and weights.
///
/// # Errors
/// What differs first, and where.
pub(crate) fn agree(
    world: &dyn World,
    recipe: &Recipe,
    executor: &dyn Executor,
    (data, files): (&Dataset, &Files),
    model: &Model,
) -> Result<(), TrainError> {
    if !world.is_shared() {
        return Ok(());
    }
    let mut weights = Hasher::new();
    fingerprint::graph(&mut weights, &model.graph);
    fingerprint::weights(&mut weights, &model.weights, |_| true);
    // The number of threads changes no result.
    let recipe = Recipe { threads: None, ..recipe.clone() };
    world.agree(&[
        ("programs", format!("offshoot {} {}", env!("CARGO_PKG_VERSION"), fingerprint::program())),
        ("processors or instruction sets", executor.describe()),
        ("recipes", recipe.to_toml()),
        ("classes", data.classes.join("\n")),
    ])?;
    agree_pictures(world, data, files)?;
    Ok(world.agree(&[("weights", weights.finalize().to_string())])?)
}

/// The same of the pictures: the first that differs is named. Copies of them may be in other folders.
fn agree_pictures(world: &dyn World, data: &Dataset, files: &Files) -> Result<(), WorldError> {
    let counts = format!("{} to train with and {} to validate with", data.train.len(), data.val.len());
    world.agree(&[("numbers of pictures", counts)])?;
    let mut weights = Hasher::new();
    for weight in &data.weights {
        weights.update(&weight.to_le_bytes());
    }
    world.agree(&[("weights of pictures", weights.finalize().to_string())])?;
    let sets: [&[Sample]; 2] = [&data.train, &data.val];
    let pictures: Vec<(&Sample, &PictureFile)> =
        sets.iter().zip(files).flat_map(|(samples, files)| samples.iter().zip(files)).collect();
    let line = |(sample, file): &(&Sample, &PictureFile)| {
        let class = escaped(&class_field(sample, &data.classes));
        let hash = if file.hash.is_empty() { "cannot be read" } else { &file.hash };
        format!("{class}, {hash}")
    };
    let unread = world.any(pictures.iter().any(|(_, file)| file.hash.is_empty()))?;
    let lines: Vec<String> = pictures.iter().map(line).collect();
    let hash = blake3::hash(lines.join("\n").as_bytes()).to_string();
    // That there is a difference is known to all: only then are the lists compared.
    if world.agree(&[("pictures", hash)]).is_ok() && !unread {
        return Ok(());
    }
    let all = world.all_gather(lines.join("\n").as_bytes())?;
    let all: Vec<Vec<&[u8]>> = all.iter().map(|bytes| bytes.split(|&byte| byte == b'\n').collect()).collect();
    let differs = |place: &usize| all.iter().any(|lines| lines.get(*place) != all[0].get(*place));
    // What no process can read is left out by all.
    let Some(place) = (0..lines.len()).find(differs) else { return Ok(()) };
    let own = format!("{} ({})", shown(&pictures[place].0.path), lines[place]);
    world.agree(&[("pictures", own)])
}
