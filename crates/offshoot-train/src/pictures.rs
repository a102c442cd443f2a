//! Where the steps of an epoch get their inputs from: pictures, or cached features.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::rc::Rc;

use blake3::{Hash, Hasher};
use offshoot_data::augment::mix::Partner;
use offshoot_data::{Batch, Dataset, Draw, Loader, LoaderOptions, PictureError, Sample, Transform};
use offshoot_graph::Tensor;
use offshoot_graph::random::{Purpose, key};

use crate::cache::{Cache, Layout, RowFile, Writer};
use crate::error::TrainError;
use crate::fingerprint;
use crate::recipe::Recipe;
use crate::step::TrainStep;
use offshoot_infer::evaluate::images;

/// Inputs of a step.
pub(crate) struct Inputs {
    /// Pictures, or features where `ready`.
    pub(crate) tensor: Tensor,
    /// Whether the frozen part has been run.
    pub(crate) ready: bool,
    /// i64 [n], or where pictures are mixed f32 [n, classes].
    pub(crate) labels: Tensor,
    /// Places of the pictures in the list of samples.
    pub(crate) indices: Vec<u64>,
}

impl Inputs {
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
    features: Option<Features>,
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
    let pictures =
        |loader, batch_size| Pictures { loader, batch_size, classes: data.classes.len(), features: None };
    Sets {
        train: pictures(loader(&data.train, training, training_options), batch_size),
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
        let order = self.loader.order(epoch);
        let batches = self.loader.batches_of(order.len());
        Box::new((from..batches).map(move |batch| {
            let start = batch * self.batch_size;
            let end = if batch + 1 == batches { order.len() } else { start + self.batch_size };
            let draws = &order[start..end];
            match features.gather(draws, epoch, self.loader.samples()) {
                Some(inputs) => Ok(inputs),
                // The file is damaged.
                None => Ok(self.inputs(self.loader.batch(draws, epoch)?)),
            }
        }))
    }

    fn inputs(&self, batch: Batch) -> Inputs {
        let Batch { images: pixels, labels, indices, partners } = batch;
        let tensor = images(pixels, self.loader.transform().preprocessing().size);
        let labels = match partners.is_empty() {
            true => Tensor::i64([labels.len()], labels),
            false => self.targets(&labels, &partners),
        };
        Inputs { tensor, ready: false, labels, indices }
    }

    /// The classes' parts of the targets of mixed pictures.
    fn targets(&self, labels: &[i64], partners: &[Partner]) -> Tensor {
        let mut targets = vec![0.0; labels.len() * self.classes];
        for ((row, &label), partner) in targets.chunks_exact_mut(self.classes).zip(labels).zip(partners) {
            // Labels are places in the list of classes.
            row[label as usize] += 1.0 - partner.share;
            row[partner.label as usize] += partner.share;
        }
        Tensor::f32([labels.len(), self.classes], targets)
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
    fn gather(&self, draws: &[Draw], epoch: u64, samples: &[Sample]) -> Option<Inputs> {
        let views = NonZeroU64::new(self.views.len() as u64)?;
        let row = &self.views.first()?.layout().shape;
        let mut data = Vec::with_capacity(draws.len() * row.iter().product::<usize>());
        for &draw in draws {
            let file = self.views.get(usize::try_from(Loader::view(draw, epoch, views)).ok()?)?;
            file.read(*self.rows.get(draw.index)?, &mut data)?;
        }
        let shape: Vec<usize> = std::iter::once(draws.len()).chain(row.iter().copied()).collect();
        let labels = draws.iter().map(|draw| samples[draw.index].label as i64).collect();
        Some(Inputs {
            tensor: Tensor::f32(shape, data),
            ready: true,
            labels: Tensor::i64([draws.len()], labels),
            indices: draws.iter().map(|draw| draw.index as u64).collect(),
        })
    }
}

/// Whether features are cached.
pub(crate) enum Kept {
    Yes,
    /// Why not.
    Without(String),
    /// By request.
    Stopped,
}

/// Caches the features of pictures: those of validation, and those of training where each picture has a limited number of
/// versions.
pub(crate) struct Keeper<'a, 'w> {
    pub(crate) step: &'a mut TrainStep,
    pub(crate) cache: &'a Cache,
    pub(crate) recipe: &'a Recipe,
    /// What the executor says about itself.
    pub(crate) processor: String,
    /// Is told how many pictures of how many are done, and says whether to go on.
    pub(crate) watch: &'a mut (dyn FnMut(usize, usize) -> bool + 'w),
}

/// What came of one file.
enum Rows {
    There(RowFile),
    Without(String),
    Stopped,
}

impl Keeper<'_, '_> {
    /// Makes `sets` use features, from files that are there or are made now. Pictures without random changes share one file,
    /// whatever is trained on and validated with.
    pub(crate) fn keep(&mut self, sets: &mut Sets) -> Result<Kept, TrainError> {
        let Sets { train, val, seen, seen_places } = sets;
        let augmented = self.recipe.augmentation().is_some();
        let of_train = if augmented { seen.loader.samples() } else { train.loader.samples() };
        let samples: Vec<Sample> = of_train.iter().chain(val.loader.samples()).cloned().collect();
        if !samples.is_empty() {
            let (file, rows) = match self.plain(samples, val)? {
                (Rows::There(file), rows) => (Rc::new(file), rows),
                (Rows::Without(why), _) => return Ok(Kept::Without(why)),
                (Rows::Stopped, _) => return Ok(Kept::Stopped),
            };
            let (train_rows, val_rows) = rows.split_at(of_train.len());
            let (train_rows, val_rows) = (train_rows.to_vec(), val_rows.to_vec());
            val.take(vec![file.clone()], val_rows);
            if augmented {
                seen.take(vec![file], train_rows);
            } else {
                seen.take(vec![file.clone()], seen_places.iter().map(|&place| train_rows[place]).collect());
                train.take(vec![file], train_rows);
            }
        }
        let views = self.recipe.cache_views.filter(|_| augmented).unwrap_or(0);
        let mut files = Vec::new();
        let hashes = if views > 0 { fingerprint::pictures(train.loader.samples()) } else { Vec::new() };
        for view in 0..views {
            match self.view(train, &hashes, view, views)? {
                Rows::There(file) => files.push(Rc::new(file)),
                Rows::Without(why) => return Ok(Kept::Without(why)),
                Rows::Stopped => return Ok(Kept::Stopped),
            }
        }
        if views > 0 {
            let rows = (0..train.loader.samples().len()).collect();
            train.take(files, rows);
        }
        Ok(Kept::Yes)
    }

    /// The features of unchanged pictures, and the row of each. They are ordered by content: names, classes and splits do
    /// not matter.
    fn plain(&mut self, samples: Vec<Sample>, val: &Pictures) -> Result<(Rows, Vec<usize>), TrainError> {
        let hashes = fingerprint::pictures(&samples);
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&i| hashes[i].as_bytes());
        let mut rows = vec![0; samples.len()];
        order.iter().enumerate().for_each(|(row, &sample)| rows[sample] = row);
        let sorted = order.iter().map(|&i| samples[i].clone()).collect();
        let sorted_hashes: Vec<Hash> = order.iter().map(|&i| hashes[i]).collect();
        let key = self.key("plain", &sorted_hashes);
        let transform = val.loader.transform();
        let loader = Loader::new(sorted, transform.clone(), self.in_order(transform));
        Ok((self.rows(key, &loader, 0, 1)?, rows))
    }

    /// The features of one random version of each picture.
    fn view(&mut self, train: &Pictures, hashes: &[Hash], view: u64, views: u64) -> Result<Rows, TrainError> {
        let seed = self.recipe.seed;
        let augment = self.recipe.augmentation();
        let key = self.key(&format!("seed {seed} view {view} {augment:?}"), hashes);
        let transform = train.loader.transform();
        let options = LoaderOptions { augment, seed, ..self.in_order(transform) };
        let loader = Loader::new(train.loader.samples().to_vec(), transform.clone(), options);
        self.rows(key, &loader, view, views)
    }

    /// Each picture is read once, so its pixels are not worth keeping.
    fn in_order(&self, transform: &Transform) -> LoaderOptions {
        LoaderOptions { cache_bytes: 0, ..in_order(self.recipe, transform, EVALUATION_BATCH) }
    }

    /// A hash of all that decides about the numbers in a file.
    fn key(&self, version: &str, pictures: &[Hash]) -> Hash {
        let mut hasher = Hasher::new_derive_key("offshoot features 1");
        hasher.update(fingerprint::program().as_bytes());
        fingerprint::field(&mut hasher, self.processor.as_bytes());
        self.step.fingerprint_prefix(&mut hasher);
        let preprocessing = serde_json::to_vec(&self.recipe.preprocessing);
        fingerprint::field(&mut hasher, &preprocessing.expect("preprocessing can be written as JSON"));
        fingerprint::field(&mut hasher, format!("{:?} {version}", self.recipe.cache_dtype).as_bytes());
        pictures.iter().for_each(|hash| {
            hasher.update(hash.as_bytes());
        });
        hasher.finalize()
    }

    /// The file under `key`, one of `files`, made from the pictures of `loader` in the epoch `view` where it is not there.
    fn rows(&mut self, key: Hash, loader: &Loader, view: u64, files: u64) -> Result<Rows, TrainError> {
        let Some(file) = self.cache.open(key) else { return self.compute(key, loader, view, files) };
        if self.recipe.strict && !file.unusable().is_empty() {
            loader.leave_out(file.unusable().iter().cloned());
            if let Some(error) = loader.skipped().into_iter().next() {
                return Err(error.into());
            }
        }
        Ok(Rows::There(file))
    }

    fn compute(&mut self, key: Hash, loader: &Loader, view: u64, files: u64) -> Result<Rows, TrainError> {
        let (rows, mut done) = (loader.samples().len(), 0);
        let mut writer: Option<Writer> = None;
        for batch in loader.epoch(view) {
            let Batch { images: pixels, indices, .. } = batch?;
            let features = self.step.features(images(pixels, loader.transform().preprocessing().size))?;
            if writer.is_none() {
                let shape = features.shape()[1..].to_vec();
                let layout = Layout { shape, dtype: self.recipe.cache_dtype, rows };
                match self.cache.create(key, layout, files) {
                    Ok(started) => writer = Some(started),
                    Err(error) => return Ok(Rows::Without(error.to_string())),
                }
            }
            if let Some(writer) = &mut writer
                && let Err(error) = put(writer, &indices, &features)
            {
                return Ok(Rows::Without(error.to_string()));
            }
            done += indices.len();
            if !(self.watch)(done, rows) {
                return Ok(Rows::Stopped);
            }
        }
        let Some(writer) = writer else { return Ok(Rows::Without("no picture can be used".into())) };
        Ok(match writer.finish(loader.unusable()) {
            Ok(file) => Rows::There(file),
            Err(error) => Rows::Without(error.to_string()),
        })
    }
}

fn put(writer: &mut Writer, indices: &[u64], features: &Tensor) -> Result<(), crate::cache::CacheError> {
    let data = features.as_f32().unwrap_or_default();
    let rows = data.chunks_exact((data.len() / indices.len().max(1)).max(1));
    indices.iter().zip(rows).try_for_each(|(&index, row)| writer.put(index as usize, row))
}
