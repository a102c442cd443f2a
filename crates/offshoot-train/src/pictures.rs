//! Where the steps of an epoch get their inputs from: pictures, or cached features.

mod keeper;
mod rounds;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::rc::Rc;

use offshoot_data::augment::mix::Partner;
use offshoot_data::{Batch, Dataset, Draw, Loader, LoaderOptions, PictureError, Sample, Transform};
use offshoot_graph::random::{Purpose, key};
use offshoot_graph::{Task, Tensor};
use offshoot_world::World;

use crate::cache::RowFile;
use crate::recipe::Recipe;
use crate::targets::label_row;

pub(crate) use keeper::{Keeper, Kept};
use offshoot_infer::evaluate::images;
pub(crate) use rounds::Rounds;

/// Inputs of a step.
pub(crate) struct Inputs {
    /// Pictures, or features where `ready`.
    pub(crate) tensor: Tensor,
    /// Whether the frozen part has been run.
    pub(crate) ready: bool,
    /// i64 [n], or where pictures are mixed or have weights f32 [n, classes]; of several labels and of numbers
    /// f32 [n, classes + 1].
    pub(crate) labels: Tensor,
    /// Places of the pictures in the list of samples.
    pub(crate) indices: Vec<u64>,
}

impl Inputs {
    /// Those of no picture.
    fn none() -> Inputs {
        let (tensor, labels) = (Tensor::zeros([0]), Tensor::i64([0], Vec::new()));
        Inputs { tensor, ready: true, labels, indices: Vec::new() }
    }

    /// The keys of the dropout masks of these pictures: i64, one for each.
    pub(crate) fn dropout_keys(&self, seed: u64, epoch: u64) -> Tensor {
        // The key's bits are what counts, not its sign.
        let keys = self.indices.iter().map(|&picture| key(seed, epoch, picture, Purpose::Dropout) as i64);
        Tensor::i64([self.indices.len()], keys.collect())
    }
}

/// The pictures of training or of validation.
pub(crate) struct Pictures {
    loader: Loader,
    batch_size: usize,
    classes: usize,
    /// What pictures have.
    task: Task,
    /// The fraction of the targets of several labels that is spread over yes and no.
    smoothing: f32,
    weights: Option<Weights>,
    features: Option<Features>,
}

/// What the losses of pictures are multiplied by.
struct Weights {
    /// One for each sample.
    of: Vec<f32>,
    /// The part of the targets that is spread over all classes.
    smoothing: f32,
}

/// What the trainable part of a network reads, for each picture of a set.
struct Features {
    /// A file for each random version of the pictures, or one.
    views: Vec<Rc<RowFile>>,
    /// The row of each sample.
    rows: Vec<usize>,
}

/// Pictures in a batch of evaluation.
const EVALUATION_BATCH: usize = 32;

/// Bytes of resized pictures that each of training and validation keeps.
const PIXEL_CACHE: usize = 256 << 20;

/// The most pictures that [`Sets::seen`] has.
const SEEN: usize = 2048;

/// The pictures of a run.
pub(crate) struct Sets {
    /// Those to train with.
    pub(crate) train: Pictures,
    /// Those to validate with.
    pub(crate) val: Pictures,
    /// Some of those to train with as validation would have them, to tell memorizing from learning: where
    /// nothing happens to them at random, all of them up to 2048, which is cheap where their features are cached; else as many as
    /// there are to validate with.
    pub(crate) seen: Pictures,
    /// The places of those among the ones to train with.
    seen_places: Vec<usize>,
}

/// The pictures to train with (by `training`) and to validate with (by `transform`), to be decoded.
/// A batch to train with has at least `least` pictures.
pub(crate) fn open(
    recipe: &Recipe,
    data: &Dataset,
    [training, transform]: [&Transform; 2],
    least: usize,
) -> Sets {
    let batch_size = recipe.batch_size.max(1);
    let training_options = LoaderOptions {
        least,
        shuffle: true,
        balance: recipe.balanced_sampling,
        augment: recipe.augmentation(),
        seed: recipe.seed,
        views: recipe.cache_views.and_then(NonZeroU64::new),
        ..in_order(recipe, training, batch_size)
    };
    let validation = in_order(recipe, transform, EVALUATION_BATCH);
    let loader = |samples: &[Sample], transform: &Transform, options| {
        Loader::new(samples.to_vec(), transform.clone(), options)
    };
    let seen_places = seen(recipe, data);
    let seen: Vec<Sample> = seen_places.iter().map(|&place| data.train[place].clone()).collect();
    // They are read once an epoch, after all others.
    let seldom = LoaderOptions { cache_bytes: PIXEL_CACHE / 4, ..validation.clone() };
    let pictures = |loader, batch_size| Pictures {
        loader,
        batch_size,
        classes: data.classes.len(),
        task: recipe.task,
        smoothing: recipe.label_smoothing as f32,
        weights: None,
        features: None,
    };
    let weights = Weights { of: data.weights.clone(), smoothing: recipe.label_smoothing as f32 };
    let weights = (!data.weights.is_empty()).then_some(weights);
    Sets {
        train: Pictures { weights, ..pictures(loader(&data.train, training, training_options), batch_size) },
        val: pictures(loader(&data.val, transform, validation), EVALUATION_BATCH),
        seen: pictures(loader(&seen, transform, seldom), EVALUATION_BATCH),
        seen_places,
    }
}

/// Places spread evenly over the pictures to train with, whose classes stand one after the other.
fn seen(recipe: &Recipe, data: &Dataset) -> Vec<usize> {
    let (train, val) = (data.train.len(), data.val.len());
    let most = match recipe.augmentation() {
        _ if val == 0 => 0,
        None => SEEN,
        Some(_) => SEEN.min(val),
    };
    let count = train.min(most);
    (0..count).map(|i| i * train / count).collect()
}

/// Pictures one after the other, without changes.
fn in_order(recipe: &Recipe, transform: &Transform, batch_size: usize) -> LoaderOptions {
    LoaderOptions {
        threads: recipe.threads.unwrap_or(0),
        strict: recipe.strict,
        cache_bytes: PIXEL_CACHE,
        ..LoaderOptions::evaluation(transform, batch_size)
    }
}

impl Pictures {
    /// How many there are, usable or not.
    pub(crate) fn len(&self) -> u64 {
        self.loader.samples().len() as u64
    }

    /// The pictures that could not be used so far.
    pub(crate) fn skipped(&self) -> Vec<PictureError> {
        self.loader.skipped()
    }

    /// Takes over which pictures were found to be unusable before.
    pub(crate) fn leave_out(&self, unusable: &[(usize, String)]) {
        self.loader.leave_out(unusable.iter().cloned());
    }

    /// The same as places in the list of samples, with the reason.
    pub(crate) fn unusable(&self) -> Vec<(usize, String)> {
        self.loader.unusable()
    }

    /// The batches of an epoch, from the batch `from` on. A picture before them that is unusable must be known to be.
    pub(crate) fn epoch(
        &self,
        epoch: u64,
        from: u64,
    ) -> Box<dyn Iterator<Item = Result<Inputs, PictureError>> + '_> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let Some(features) = &self.features else {
            let batches = self.loader.epoch_from(epoch, from);
            return Box::new(batches.map(|batch| Ok(self.inputs(batch?))));
        };
        self.kept(features, epoch, (from..self.batches(epoch)).collect())
    }

    /// How many batches an epoch has, as far as known.
    pub(crate) fn batches(&self, epoch: u64) -> usize {
        self.loader.batches_of(self.loader.order(epoch).len())
    }

    /// Some batches of an epoch by their places in it: see [`Loader::some_batches`].
    pub(crate) fn some(
        &self,
        epoch: u64,
        batches: Vec<usize>,
    ) -> Box<dyn Iterator<Item = Result<Inputs, PictureError>> + '_> {
        match &self.features {
            Some(features) => self.kept(features, epoch, batches),
            None => {
                let batches = self.loader.some_batches(epoch, batches);
                Box::new(batches.map(|batch| Ok(self.inputs(batch?))))
            }
        }
    }

    /// The same from features that were kept.
    fn kept<'s>(
        &'s self,
        features: &'s Features,
        epoch: u64,
        places: Vec<usize>,
    ) -> Box<dyn Iterator<Item = Result<Inputs, PictureError>> + 's> {
        let order = self.loader.order(epoch);
        let batches = self.loader.batches_of(order.len());
        Box::new(places.into_iter().map(move |batch| {
            let start = (batch * self.batch_size).min(order.len());
            let end = if batch + 1 >= batches { order.len() } else { start + self.batch_size };
            let draws = &order[start..end];
            match features.gather(draws, epoch) {
                Some(tensor) => {
                    let indices: Vec<u64> = draws.iter().map(|draw| draw.index as u64).collect();
                    let labels = draws.iter().map(|draw| self.loader.samples()[draw.index].label as i64);
                    let labels = self.targets(labels.collect(), &indices, &[]);
                    Ok(Inputs { tensor, ready: true, labels, indices })
                }
                // The file is damaged.
                None => Ok(self.inputs(self.loader.batch(draws, epoch)?)),
            }
        }))
    }

    fn inputs(&self, batch: Batch) -> Inputs {
        let Batch { images: pixels, labels, indices, partners } = batch;
        let tensor = images(pixels, self.loader.transform().preprocessing().size);
        let labels = self.targets(labels, &indices, &partners);
        Inputs { tensor, ready: false, labels, indices }
    }

    /// The classes of pictures, or their parts of the targets where pictures are mixed or have weights: of the samples `indices`.
    fn targets(&self, labels: Vec<i64>, indices: &[u64], partners: &[Partner]) -> Tensor {
        match self.task {
            Task::Single => {}
            Task::Multi | Task::Regression => return self.label_targets(indices, partners),
        }
        if partners.is_empty() && self.weights.is_none() {
            return Tensor::i64([labels.len()], labels);
        }
        let weight = |place: usize| match &self.weights {
            Some(weights) => weights.of[indices[place] as usize],
            None => 1.0,
        };
        let mut targets = vec![0.0; labels.len() * self.classes];
        for (place, row) in targets.chunks_exact_mut(self.classes).enumerate() {
            let partner = partners.get(place);
            // Labels are places in the list of classes.
            row[labels[place] as usize] +=
                weight(place) * (1.0 - partner.map_or(0.0, |partner| partner.share));
            if let Some(partner) = partner {
                // Each takes from the one before it.
                let before = weight((place + labels.len() - 1) % labels.len());
                row[partner.label as usize] += before * partner.share;
            }
            if let Some(Weights { smoothing, .. }) = self.weights {
                smooth(row, smoothing);
            }
        }
        Tensor::f32([labels.len(), self.classes], targets)
    }

    /// The targets of pictures with several labels or numbers, and the weights of their losses, as [`offshoot_graph::passes::LABELS`].
    fn label_targets(&self, indices: &[u64], partners: &[Partner]) -> Tensor {
        let (count, columns) = (indices.len(), self.classes + 1);
        let mut own = Vec::with_capacity(count * columns);
        for &index in indices {
            let weight = self.weights.as_ref().map_or(1.0, |weights| weights.of[index as usize]);
            own.extend(label_row(&self.samples()[index as usize], self.classes, self.smoothing, weight));
        }
        let mut mixed = own.clone();
        for (place, (row, partner)) in mixed.chunks_exact_mut(columns).zip(partners).enumerate() {
            // Each takes from the one before it.
            let before = (place + count - 1) % count;
            let other = &own[before * columns..][..columns];
            row.iter_mut().zip(other).for_each(|(x, y)| *x = (1.0 - partner.share) * *x + partner.share * y);
        }
        Tensor::f32([count, columns], mixed)
    }

    /// See [`Loader::found`].
    pub(crate) fn found(
        &self,
        known: &BTreeSet<usize>,
        shared: bool,
    ) -> Result<Vec<(usize, String)>, PictureError> {
        self.loader.found(known, shared)
    }

    /// See [`Loader::learn_unusable`].
    pub(crate) fn learn_unusable(&self, place: usize, reason: &str) {
        self.loader.learn_unusable(place, reason);
    }

    /// The batches of evaluation, spread over processes.
    pub(crate) fn rounds<'s>(&'s self, world: &'s dyn World) -> Rounds<'s> {
        Rounds::new(self, world)
    }

    /// The pictures, usable or not.
    pub(crate) fn samples(&self) -> &[Sample] {
        self.loader.samples()
    }

    /// Takes features instead of pictures from now on.
    fn take(&mut self, views: Vec<Rc<RowFile>>, rows: Vec<usize>) {
        if let Some(file) = views.first() {
            let unusable: HashMap<usize, String> = file.unusable().iter().cloned().collect();
            let known = rows
                .iter()
                .enumerate()
                .filter_map(|(sample, row)| Some((sample, unusable.get(row)?.clone())));
            self.loader.leave_out(known);
        }
        self.features = Some(Features { views, rows });
    }
}

impl Features {
    /// The features of some samples. `None` where the file does not hold what was written.
    fn gather(&self, draws: &[Draw], epoch: u64) -> Option<Tensor> {
        let views = NonZeroU64::new(self.views.len() as u64)?;
        let row = &self.views.first()?.layout().shape;
        let mut data = Vec::with_capacity(draws.len() * row.iter().product::<usize>());
        for &draw in draws {
            let file = self.views.get(usize::try_from(Loader::view(draw, epoch, views)).ok()?)?;
            file.read(*self.rows.get(draw.index)?, &mut data)?;
        }
        let shape: Vec<usize> = std::iter::once(draws.len()).chain(row.iter().copied()).collect();
        Some(Tensor::f32(shape, data))
    }
}

/// Spreads a part of a picture's targets evenly over all classes; their sum stays.
fn smooth(row: &mut [f32], smoothing: f32) {
    let share = row.iter().sum::<f32>() * smoothing / row.len() as f32;
    row.iter_mut().for_each(|part| *part = (1.0 - smoothing) * *part + share);
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;
    use serde_json::Value;

    use super::*;

    #[test]
    fn labels_of_several_classes_are_smoothed_weighted_and_mixed() {
        let samples = vec![Sample::several("a", [0, 2]), Sample::several("b", [1]), Sample::several("c", [])];
        let transform = Transform::new(&Preprocessing::default()).unwrap();
        let pictures = Pictures {
            loader: Loader::new(samples, transform.clone(), LoaderOptions::evaluation(&transform, 2)),
            batch_size: 2,
            classes: 3,
            task: Task::Multi,
            smoothing: 0.5,
            weights: Some(Weights { of: vec![1.0, 3.0, 5.0], smoothing: 0.5 }),
            features: None,
        };
        let targets = |partners: &[Partner]| pictures.targets(vec![0, 1], &[2, 0], partners);
        let plain = [0.25, 0.25, 0.25, 5.0, 0.75, 0.25, 0.75, 1.0];
        assert_eq!(targets(&[]), Tensor::f32([2, 4], plain.to_vec()));
        // Each takes from the one before it: the first from the last.
        let partner = |share| Partner { label: 0, share };
        let mixed = [0.5, 0.25, 0.5, 3.0, 0.75, 0.25, 0.75, 1.0];
        assert_eq!(targets(&[partner(0.5), partner(0.0)]), Tensor::f32([2, 4], mixed.to_vec()));
    }

    /// `golden/row_weights.json` was written by `scripts/golden/row_weights.py`: PyTorch's losses.
    #[test]
    fn weights_multiply_the_losses_as_in_pytorch() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../tests/golden/row_weights.json")).unwrap();
        assert_eq!(cases.len(), 4);
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        for case in &cases {
            let classes = case["classes"].as_u64().unwrap() as usize;
            let labels: Vec<i64> = numbers(&case["labels"]).iter().map(|&x| x as i64).collect();
            let of: Vec<f32> = numbers(&case["weights"]).iter().map(|&x| x as f32).collect();
            let smoothing = case["label_smoothing"].as_f64().unwrap() as f32;
            let count = labels.len();
            let shares = numbers(&case["shares"]);
            let partner = |(place, &share): (usize, &f64)| Partner {
                label: labels[(place + count - 1) % count],
                share: share as f32,
            };
            let partners: Vec<Partner> = shares.iter().enumerate().map(partner).collect();
            let transform = Transform::new(&Preprocessing::default()).unwrap();
            let samples = vec![Sample::new("", 0); count];
            let pictures = Pictures {
                loader: Loader::new(samples, transform.clone(), LoaderOptions::evaluation(&transform, count)),
                batch_size: count,
                classes,
                task: Task::Single,
                smoothing: 0.0,
                weights: Some(Weights { of, smoothing }),
                features: None,
            };
            let indices: Vec<u64> = (0..count as u64).collect();
            let targets = pictures.targets(labels.clone(), &indices, &partners);
            let logits = numbers(&case["logits"]);
            let rows = logits.chunks_exact(classes).zip(targets.as_f32().unwrap().chunks_exact(classes));
            let loss = rows.map(|(logits, targets)| {
                let total = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
                logits.iter().zip(targets).map(|(x, &t)| f64::from(t) * (total - x)).sum::<f64>()
            });
            let (loss, wanted) = (loss.sum::<f64>() / count as f64, case["loss"].as_f64().unwrap());
            assert!((loss - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{loss} and {wanted}");
        }
    }
}
