//! The features of frozen layers, computed once and kept in files.

use std::rc::Rc;

use blake3::{Hash, Hasher};
use offshoot_data::{Loader, LoaderOptions, Sample, Transform};
use offshoot_infer::evaluate;
use offshoot_world::{Rows as WorldRows, World};

use super::{EVALUATION_BATCH, Pictures, Sets, in_order};
use crate::cache::{Cache, CacheError, Layout, RowFile, Writer};
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
    /// The processes that share the work.
    pub(crate) world: &'a dyn World,
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

    /// The file under `key`, one of `files`, made from the pictures of `loader` in the epoch `view` where it is not there. Where a process
    /// lacks it, all compute it together.
    fn rows(&mut self, key: Hash, loader: &Loader, view: u64, files: u64) -> Result<Rows, TrainError> {
        let found = self.cache.open(key);
        if self.world.any(found.is_none())? {
            // Not held open while others wait for the space.
            drop(found);
            return self.compute(key, loader, view, files);
        }
        let Some(file) = found else { return Ok(Rows::Without("it is gone".into())) };
        if self.recipe.strict && !file.unusable().is_empty() {
            loader.leave_out(file.unusable().iter().cloned());
            if let Some(error) = loader.skipped().into_iter().next() {
                return Err(error.into());
            }
        }
        Ok(Rows::There(file))
    }

    fn compute(&mut self, key: Hash, loader: &Loader, view: u64, files: u64) -> Result<Rows, TrainError> {
        let (count, mut done) = (loader.samples().len(), 0);
        let mut file = Making { writer: None, failed: None, writes: self.writes() };
        let mut rounds = evaluate::Rounds::of_epoch(loader, self.world, view);
        let mut goes_on = true;
        loop {
            let ended = file.failed.clone().or_else(|| (!goes_on).then(String::new));
            let found = rounds.next_rows(ended, |images| Ok::<_, TrainError>(self.step.features(images)?))?;
            let Some(all) = found else { break };
            if let Some(why) = all.iter().find_map(|rows| rows.ended.clone()) {
                return Ok(if why.is_empty() { Rows::Stopped } else { Rows::Without(why) });
            }
            for found in all {
                done += found.indices.len();
                let layout =
                    Layout { shape: found.shape.clone(), dtype: self.recipe.cache_dtype, rows: count };
                file.put(&found, || self.cache.create(key, layout, files));
            }
            goes_on = (self.watch)(done, count);
        }
        if !goes_on && !self.world.is_shared() {
            return Ok(Rows::Stopped);
        }
        self.finish(key, loader, file)
    }

    /// Whether this process writes the files of features of its machine: the first one there does.
    fn writes(&self) -> bool {
        let own = self.world.host(self.world.rank());
        (0..self.world.rank()).all(|rank| self.world.host(rank) != own)
    }

    /// Ends a file that all processes have computed, and opens it where another process has written it.
    fn finish(&self, key: Hash, loader: &Loader, file: Making) -> Result<Rows, TrainError> {
        let written = match (file.writer, file.failed) {
            (_, Some(why)) => Err(why),
            (Some(writer), None) => {
                writer.finish(loader.unusable()).map(Some).map_err(|error| error.to_string())
            }
            (None, None) if file.writes => Err("no picture can be used".into()),
            (None, None) => Ok(None),
        };
        let failed = written.as_ref().err().cloned();
        let all = WorldRows { ended: failed, ..WorldRows::default() }.gathered(self.world)?;
        if let Some(why) = all.into_iter().find_map(|rows| rows.ended) {
            return Ok(Rows::Without(why));
        }
        let opened = written.ok().flatten().or_else(|| self.cache.open(key));
        match self.world.any(opened.is_none())? {
            true => Ok(Rows::Without("a process does not find the file that another one has written".into())),
            false => Ok(opened.map_or_else(|| Rows::Without("it is gone".into()), Rows::There)),
        }
    }
}

/// A file that is being made, by this process or another one.
struct Making {
    writer: Option<Writer>,
    /// Why it cannot be made.
    failed: Option<String>,
    /// Whether this process writes it.
    writes: bool,
}

impl Making {
    /// Writes rows, into a file that `create` starts.
    fn put(&mut self, rows: &WorldRows, create: impl FnOnce() -> Result<Writer, CacheError>) {
        if !self.writes || self.failed.is_some() || rows.indices.is_empty() {
            return;
        }
        let writer = match self.writer.take() {
            Some(writer) => Ok(writer),
            None => create(),
        };
        match writer.and_then(|writer| put(writer, rows)) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => self.failed = Some(error.to_string()),
        }
    }
}

fn put(mut writer: Writer, WorldRows { indices, values, .. }: &WorldRows) -> Result<Writer, CacheError> {
    let rows = values.chunks_exact((values.len() / indices.len().max(1)).max(1));
    indices.iter().zip(rows).try_for_each(|(&index, row)| writer.put(index as usize, row))?;
    Ok(writer)
}
