//! What the threads of all epochs share: the pictures, how they are made inputs, and which were kept or left out.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offshoot_graph::random::{Purpose, Random};

use super::{Batch, Draw, LoaderOptions, Sample, batch_count};
use crate::augment::random_crop;
use crate::decode::{PictureError, with_part, with_picture};
use crate::transform::Transform;

/// What the threads of all epochs share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) samples: Vec<Sample>,
    pub(super) transform: Transform,
    pub(super) options: LoaderOptions,
    cache: Mutex<Cache>,
    /// Pictures that could not be decoded, by index.
    pub(super) skipped: Mutex<BTreeMap<usize, PictureError>>,
}

/// Resized pictures by index, as long as there is room. Nothing is thrown out: an epoch goes through all pictures, so
/// whatever is kept is as good as anything else.
#[derive(Debug, Default)]
struct Cache {
    pictures: HashMap<usize, Arc<[u8]>>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(samples: Vec<Sample>, transform: Transform, options: LoaderOptions) -> Shared {
        Shared { samples, transform, options, cache: Mutex::default(), skipped: Mutex::default() }
    }

    pub(super) fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// The places of a batch in an order of so many pictures.
    pub(super) fn places(&self, batch: usize, pictures: usize) -> Range<usize> {
        let LoaderOptions { batch_size, least, .. } = self.options;
        let start = batch.saturating_mul(batch_size.max(1)).min(pictures);
        let is_last = batch + 1 >= batch_count(pictures, batch_size, least);
        start..if is_last { pictures } else { start + batch_size.max(1) }
    }

    /// The bytes of one picture's input.
    pub(super) fn load(&self, draw: Draw, epoch: u64) -> Result<Arc<[u8]>, PictureError> {
        let Draw { index, .. } = draw;
        let Some(how) = &self.options.augment else { return self.evaluation_pixels(index) };
        let view = self.random_epoch(draw, epoch);
        let mut random = Random::new(self.options.seed, view, index as u64, Purpose::Augment);
        if self.transform.crops_at_random() {
            let (path, random) = (&self.samples[index].path, RefCell::new(random));
            let crop = |width, height| random_crop(width, height, how, &mut random.borrow_mut());
            return with_part(path, &self.options.decode, crop, |part, _| {
                self.transform.augment_part(&part, how, &mut random.borrow_mut()).into()
            });
        }
        let mut pixels = self.evaluation_pixels(index)?.to_vec();
        self.transform.change(&mut pixels, how, &mut random);
        Ok(pixels.into())
    }

    fn evaluation_pixels(&self, index: usize) -> Result<Arc<[u8]>, PictureError> {
        if let Some(pixels) = lock(&self.cache).pictures.get(&index) {
            return Ok(pixels.clone());
        }
        let path = &self.samples[index].path;
        let pixels: Arc<[u8]> = with_picture(path, &self.options.decode, |picture, _| {
            self.transform.look(&picture, self.options.view).into()
        })?;
        lock(&self.cache).keep(index, &pixels, self.options.cache_bytes);
        Ok(pixels)
    }

    pub(super) fn add(&self, batch: &mut Batch, index: usize, pixels: &[u8]) {
        let start = batch.images.len();
        batch.images.resize(start + self.transform.input_len(), 0.0);
        self.transform.normalize(pixels, &mut batch.images[start..]);
        batch.labels.push(self.samples[index].label as i64);
        batch.indices.push(index as u64);
    }

    pub(super) fn mix(&self, batch: &mut Batch, epoch: u64) {
        let Some(how) = &self.options.augment else { return };
        let (size, random) = (self.transform.preprocessing().size, (self.options.seed, epoch));
        let (labels, keys) = (&batch.labels[..], &batch.indices[..]);
        batch.partners = how.mix().apply(&mut batch.images, size, (labels, keys), random);
    }
}

impl Cache {
    fn keep(&mut self, index: usize, pixels: &Arc<[u8]>, budget: usize) {
        if self.bytes + pixels.len() <= budget && self.pictures.insert(index, pixels.clone()).is_none() {
            self.bytes += pixels.len();
        }
    }
}

/// No code that holds one of these locks can leave its data half-changed, so a panic elsewhere is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
