//! Metrics of a classifier on pictures.

use std::collections::{BTreeMap, BTreeSet};

use offshoot_data::{Epoch, Loader, PictureError};
use offshoot_graph::{Metadata, Task, Tensor};
use offshoot_world::{Alone, Rows, World, WorldError};

use crate::decision::negative_energy;
use crate::figures::Figures;
use crate::inference::{Inference, NetworkError};
use crate::metrics::Activation;

/// An evaluation that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The network cannot run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A picture cannot be used, and that is an error by request (strict).
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The processes of the job cannot go on together.
    #[error(transparent)]
    World(#[from] WorldError),
}

/// Runs a classifier that `metadata` describes on all pictures of `loader`, which does not shuffle or augment. `done` is told
/// how many pictures have been seen, after each batch. Pictures that cannot be used are in `loader.skipped()`.
///
/// # Errors
/// When the network cannot run on these pictures or gives NaN or infinities, or a picture cannot be used and the loader is strict.
pub fn evaluate(
    network: &mut Inference,
    metadata: &Metadata,
    loader: &Loader,
    done: impl FnMut(u64),
) -> Result<Figures, EvaluateError> {
    evaluate_shared(network, metadata, loader, &Alone, done)
}

/// [`evaluate`] of pictures that are split over the processes of `world`, each of which gets the figures of all, to the bit those
/// of one process.
///
/// # Errors
/// As [`evaluate`], and when a process cannot be reached.
pub fn evaluate_shared(
    network: &mut Inference,
    metadata: &Metadata,
    loader: &Loader,
    world: &dyn World,
    mut done: impl FnMut(u64),
) -> Result<Figures, EvaluateError> {
    let mut figures = Figures::new(metadata);
    let mut rounds = Rounds::new(loader, world);
    while let Some(all) = rounds.next(|images| logits(network, &images))? {
        for Rows { indices, values, .. } in all {
            figures.add(&values, indices.iter().map(|&index| &loader.samples()[index as usize]));
        }
        done(figures.images());
    }
    Ok(figures)
}

/// [`evaluate_shared`] with several views of each picture, whose probabilities are averaged: all loaders have the same pictures, each
/// from its own side. `done` is told how many views of pictures have been seen.
///
/// # Errors
/// As [`evaluate_shared`].
pub fn evaluate_views(
    network: &mut Inference,
    metadata: &Metadata,
    loaders: &[Loader],
    world: &dyn World,
    mut done: impl FnMut(u64),
) -> Result<Figures, EvaluateError> {
    let mut figures = Figures::new(metadata);
    let classes = metadata.classes.len().max(1);
    // Its logits are the logarithms of probabilities where it gives those.
    let activation = Activation::new(false, metadata.task);
    let mut add = |index: u64, (sum, energies): (&[f64], f64)| {
        let sample = loaders.first().map(|loader| &loader.samples()[index as usize]);
        let mut logits = logits_of_means(sum, loaders.len(), metadata.task);
        if metadata.task.is_single() {
            // The same probabilities, with the mean of the energies as their energy.
            let mean = (energies / loaders.len() as f64) as f32;
            logits.iter_mut().for_each(|logit| *logit += mean);
        }
        figures.add(&logits, sample.into_iter());
    };
    // What of a picture is summed: the views, the probabilities and the negative energies. Views are taken alternately, so that few
    // pictures wait.
    let mut sums: BTreeMap<u64, (usize, Vec<f64>, f64)> = BTreeMap::new();
    let mut rounds: Vec<Rounds<'_>> = loaders.iter().map(|loader| Rounds::new(loader, world)).collect();
    let (mut seen, mut goes_on) = (0, true);
    while goes_on {
        goes_on = false;
        for rounds in &mut rounds {
            let Some(all) = rounds.next(|images| logits(network, &images))? else { continue };
            goes_on = true;
            for Rows { indices, values, .. } in all {
                for (row, index) in values.chunks_exact(classes).zip(indices) {
                    let (views, sum, energies) =
                        sums.entry(index).or_insert_with(|| (0, vec![0.0; classes], 0.0));
                    sum.iter_mut().zip(activation.probabilities(row)).for_each(|(sum, p)| *sum += p);
                    *energies += negative_energy(row);
                    *views += 1;
                    seen += 1;
                }
            }
            done(seen);
        }
        sums.retain(|&index, (views, sum, energies)| {
            let waits = *views < loaders.len();
            if !waits {
                add(index, (sum, *energies));
            }
            waits
        });
    }
    sums.into_iter().for_each(|(index, (_, sum, energies))| add(index, (&sum, energies)));
    Ok(figures)
}

fn logits(network: &mut Inference, images: &Tensor) -> Result<Vec<f32>, EvaluateError> {
    Ok(network.logits(images)?)
}

/// The batches of a loader that does not shuffle, spread over processes: in each round, each process runs one.
pub struct Rounds<'a> {
    loader: &'a Loader,
    world: &'a dyn World,
    own: Epoch,
    /// How many are left.
    left: usize,
    /// The pictures that all processes know to be unusable.
    known: BTreeSet<usize>,
}

impl<'a> Rounds<'a> {
    /// Starts to load the batches of this process.
    pub fn new(loader: &'a Loader, world: &'a dyn World) -> Rounds<'a> {
        Rounds::of_epoch(loader, world, 0)
    }

    /// [`Rounds::new`] with the pictures as they are in an epoch.
    pub fn of_epoch(loader: &'a Loader, world: &'a dyn World, epoch: u64) -> Rounds<'a> {
        let (count, size) = (loader.batches_of(loader.order(epoch).len()), world.size().max(1));
        let own = loader.some_batches(epoch, (world.rank()..count).step_by(size));
        let known = loader.unusable().into_iter().map(|(place, _)| place).collect();
        Rounds { loader, world, own, left: count.div_ceil(size), known }
    }

    /// The rows that `run` gives for the pictures of a round, in the order of the pictures, of each process. `None` at the end. The pictures
    /// that turn out to be unusable are known to the loader of each process then.
    ///
    /// # Errors
    /// Those of `run` and of the processes, and a picture that cannot be read where the loader is strict or there are several
    /// processes: others may be able to read it.
    pub fn next<E: From<PictureError> + From<WorldError>>(
        &mut self,
        run: impl FnOnce(Tensor) -> Result<Vec<f32>, E>,
    ) -> Result<Option<Vec<Rows>>, E> {
        let flat = |values: Vec<f32>| Tensor::f32([values.len()], values);
        self.next_rows(None, |images| run(images).map(flat))
    }

    /// [`Rounds::next`] where `run` gives a tensor whose first axis is that of the pictures. A process that has `ended` runs nothing, and tells
    /// the others why.
    ///
    /// # Errors
    /// As [`Rounds::next`].
    pub fn next_rows<E: From<PictureError> + From<WorldError>>(
        &mut self,
        ended: Option<String>,
        run: impl FnOnce(Tensor) -> Result<Tensor, E>,
    ) -> Result<Option<Vec<Rows>>, E> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let batch = self.own.next().transpose()?.unwrap_or_default();
        let unusable = self.loader.found(&self.known, self.world.is_shared())?;
        let mut own = Rows { indices: batch.indices, unusable, ended, ..Rows::default() };
        if own.ended.is_none() && !own.indices.is_empty() {
            let rows = run(images(batch.images, self.loader.transform().preprocessing().size))?;
            own.shape = rows.shape()[1..].to_vec();
            own.values = rows.into_f32().unwrap_or_default();
        }
        let all = own.gathered(self.world)?;
        for (place, reason) in all.iter().flat_map(|rows| &rows.unusable) {
            if self.known.insert(*place) {
                self.loader.learn_unusable(*place, reason);
            }
        }
        Ok(Some(all))
    }
}

/// Logits whose softmax, or for several labels whose sigmoid, are the means of probabilities of `views` views; of numbers, their means.
pub fn logits_of_means(sums: &[f64], views: usize, task: Task) -> Vec<f32> {
    // A probability that is 0 in f64 in each view is kept finite.
    let log = |p: f64| libm::log(p.max(f64::MIN_POSITIVE));
    let logit = |&sum: &f64| {
        let p = sum / views as f64;
        match task {
            Task::Single => log(p) as f32,
            Task::Multi => (log(p) - log(1.0 - p)) as f32,
            Task::Regression => p as f32,
        }
    };
    sums.iter().map(logit).collect()
}

/// The pictures of a batch as a tensor [n, 3, size, size]; `size` is at least 1.
pub fn images(pixels: Vec<f32>, size: usize) -> Tensor {
    Tensor::f32([pixels.len() / (3 * size * size), 3, size, size], pixels)
}
