//! The features of frozen layers, computed once and kept in files.

use std::rc::Rc;

use blake3::{Hash, Hasher};
use offshoot_data::{Batch, Loader, LoaderOptions, Sample, Transform};
use offshoot_graph::Tensor;
use offshoot_infer::evaluate::images;

use super::{EVALUATION_BATCH, Pictures, Sets, in_order};
use crate::cache::{Cache, Layout, RowFile, Writer};
use crate::error::TrainError;
use crate::fingerprint;
use crate::recipe::Recipe;
use crate::step::TrainStep;

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
