//! Batches of pictures, decoded and augmented ahead of the step that needs them.
//!
//! Threads take pictures in the order of the epoch and a window of them is ready or in the making at any time, so memory
//! does not grow with the data set. What a batch holds depends on the data, the seed and the epoch only: not on the
//! number of threads, and not on which picture is done first.

mod epoch;
mod order;
mod shared;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use crate::augment::Augmentation;
use crate::augment::mix::Partner;
use crate::decode::{DecodeError, DecodeOptions, PictureError};
use crate::transform::{Transform, View};

use self::shared::{Shared, lock};

pub use self::epoch::Epoch;
pub use self::order::Draw;

/// A picture file and its class, its classes or its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Index into the list of classes. Where a picture may have several, the first of [`Sample::labels`], or 0.
    pub label: usize,
    /// Where a picture may have any number of classes: those that it has, in rising order.
    pub labels: Option<Box<[u32]>>,
    /// Where numbers are predicted: the targets, finite, in their own units.
    pub targets: Option<Box<[f64]>>,
}

impl Sample {
    /// A picture of one class.
    pub fn new(path: impl Into<PathBuf>, label: usize) -> Sample {
        Sample { path: path.into(), label, labels: None, targets: None }
    }

    /// A picture of any number of classes.
    pub fn several(path: impl Into<PathBuf>, labels: impl IntoIterator<Item = usize>) -> Sample {
        let labels: BTreeSet<u32> = labels.into_iter().map(|label| label as u32).collect();
        let label = labels.first().map_or(0, |&label| label as usize);
        Sample { path: path.into(), label, labels: Some(labels.into_iter().collect()), targets: None }
    }

    /// A picture with numbers to predict.
    pub fn with_targets(path: impl Into<PathBuf>, targets: impl Into<Box<[f64]>>) -> Sample {
        Sample { path: path.into(), label: 0, labels: None, targets: Some(targets.into()) }
    }

    /// The classes that it has; none where it has targets.
    pub fn classes(&self) -> impl Iterator<Item = usize> + '_ {
        let one = (self.labels.is_none() && self.targets.is_none()).then_some(self.label);
        one.into_iter().chain(self.labels.iter().flatten().map(|&label| label as usize))
    }
}

/// How pictures are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Pictures in a batch, at least 1; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// The fewest pictures in the last batch, at least 1 and at most `batch_size`: fewer join the batch before it.
    pub least: usize,
    /// Whether each epoch has its own order. Else the pictures come in the order given.
    pub shuffle: bool,
    /// Whether each class has the same number of places in a shuffled epoch: pictures of small classes come several times,
    /// each time with other random changes, and of large classes only some come.
    pub balance: bool,
    /// How pictures are looked at that are not changed at random.
    pub view: View,
    /// What happens to pictures at random; see [`Transform::augment`].
    pub augment: Option<Augmentation>,
    /// Decides all that is random.
    pub seed: u64,
    /// How many random versions of each picture take turns: epoch e shows version e modulo this. Without, each epoch has
    /// its own.
    pub views: Option<NonZeroU64>,
    /// Threads that decode; 0 for as many as the machine has.
    pub threads: usize,
    /// Batches that are made ahead.
    pub prefetch: usize,
    /// Bytes to keep resized pictures in, so that later epochs need not decode them; 0 for none. Of no use where
    /// each epoch crops again.
    pub cache_bytes: usize,
    /// Whether a picture that cannot be decoded is an error instead of being skipped.
    pub strict: bool,
    /// How pictures are decoded.
    pub decode: DecodeOptions,
}

impl LoaderOptions {
    /// Pictures in the order given, each once, unchanged: to evaluate with `transform`.
    pub fn evaluation(transform: &Transform, batch_size: usize) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            least: 1,
            shuffle: false,
            balance: false,
            view: View::default(),
            augment: None,
            seed: 0,
            views: None,
            threads: 0,
            prefetch: 2,
            cache_bytes: 0,
            strict: false,
            decode: transform.decode_options(),
        }
    }

    /// Shuffled, augmented pictures: to train with `transform`.
    pub fn training(transform: &Transform, batch_size: usize, seed: u64) -> LoaderOptions {
        LoaderOptions {
            shuffle: true,
            augment: Some(Augmentation::default()),
            seed,
            ..LoaderOptions::evaluation(transform, batch_size)
        }
    }
}

/// The number of batches of `pictures` pictures: of `batch_size` each, where the last has at least `least` and up to
/// `batch_size + least - 1`. See [`LoaderOptions::least`].
pub fn batch_count(pictures: usize, batch_size: usize, least: usize) -> usize {
    let size = batch_size.max(1);
    let joins = pictures > size && (1..least).contains(&(pictures % size));
    pictures.div_ceil(size) - usize::from(joins)
}

/// Some pictures, ready for the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Normalized inputs, `[n, 3, size, size]`.
    pub images: Vec<f32>,
    /// Classes, `[n]`.
    pub labels: Vec<i64>,
    /// Places of the pictures in the loader's list of samples, `[n]`: the keys of their random numbers.
    pub indices: Vec<u64>,
    /// What was mixed into each picture; empty where nothing is mixed.
    pub partners: Vec<Partner>,
}

impl Batch {
    /// The number of pictures, `n`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture in it; only [`Loader::some_batches`] yields such a batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A list of pictures that can be gone through epoch by epoch.
///
/// ```no_run
/// use offshoot_data::{Dataset, FolderOptions, Loader, LoaderOptions, Transform};
/// use offshoot_graph::Preprocessing;
///
/// let data = Dataset::open("photos".as_ref(), &FolderOptions::default())?;
/// let transform = Transform::new(&Preprocessing::default())?;
/// let options = LoaderOptions::training(&transform, 16, 7);
/// let loader = Loader::new(data.train, transform, options);
/// for epoch in 0..30 {
///     for batch in loader.epoch(epoch) {
///         let batch = batch?;
///         println!("{} pictures, {} values", batch.len(), batch.images.len());
///     }
/// }
/// for skipped in loader.skipped() {
///     eprintln!("skipped {skipped}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

impl Loader {
    /// A loader of `samples`. Nothing is read before [`Loader::epoch`].
    pub fn new(samples: Vec<Sample>, transform: Transform, options: LoaderOptions) -> Loader {
        Loader { shared: Arc::new(Shared::new(samples, transform, options)) }
    }

    /// A loader of files without classes: all labels are 0.
    pub fn unlabelled(paths: Vec<PathBuf>, transform: Transform, options: LoaderOptions) -> Loader {
        let samples = paths.into_iter().map(|path| Sample::new(path, 0)).collect();
        Loader::new(samples, transform, options)
    }

    /// All samples, also those that turned out to be unusable.
    pub fn samples(&self) -> &[Sample] {
        &self.shared.samples
    }

    /// How the pictures are transformed.
    pub fn transform(&self) -> &Transform {
        &self.shared.transform
    }

    /// The number of batches in an epoch, as far as known: unusable pictures that were not met yet are counted.
    pub fn batches(&self) -> usize {
        let usable = self.shared.samples.len() - lock(&self.shared.skipped).len();
        self.batches_of(usable)
    }

    /// The number of batches of so many pictures.
    pub fn batches_of(&self, pictures: usize) -> usize {
        batch_count(pictures, self.shared.options.batch_size, self.shared.options.least)
    }

    /// The pictures that could not be decoded so far, in the order of the samples.
    pub fn skipped(&self) -> Vec<PictureError> {
        lock(&self.shared.skipped).values().cloned().collect()
    }

    /// Starts to load. An unusable picture is left out and the next one takes its place in the batch; with
    /// [`LoaderOptions::strict`] it ends the epoch with an error. Dropping the iterator stops the threads.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// [`Loader::epoch`] without its first batches, none of whose pictures is read. They must hold no picture that is
    /// unusable and not known to be ([`Loader::leave_out`]).
    pub fn epoch_from(&self, epoch: u64, batches: usize) -> Epoch {
        Epoch::start(&self.shared, epoch, batches)
    }

    /// Some batches of [`Loader::epoch`], by their places among all of them, in rising order: for a process that has a part of the work.
    /// A picture that turns out to be unusable leaves its batch smaller, or even empty, as the batches after it may be others'
    /// and are not filled up: so does a new call, once all know of the picture.
    pub fn some_batches(&self, epoch: u64, batches: impl IntoIterator<Item = usize>) -> Epoch {
        Epoch::start_some(&self.shared, epoch, batches)
    }

    /// The pictures in the order of an epoch, without those known to be unusable.
    pub fn order(&self, epoch: u64) -> Vec<Draw> {
        self.shared.order(epoch)
    }

    /// Takes over which pictures were found to be unusable before, as places in the list of samples with the reason. They
    /// are not tried again.
    pub fn leave_out(&self, unusable: impl IntoIterator<Item = (usize, String)>) {
        let samples = &self.shared.samples;
        let errors = unusable.into_iter().filter_map(|(index, reason)| {
            let path = samples.get(index)?.path.clone();
            Some((index, PictureError { path, source: DecodeError::Before(reason) }))
        });
        lock(&self.shared.skipped).extend(errors);
    }

    /// The pictures that were found to be unusable and are not among `known`, with the reasons, for the other processes that work on these
    /// pictures.
    ///
    /// # Errors
    /// The first that cannot be read from disk, where the pictures are `shared` with other processes: what is wrong is not the
    /// picture then, and others may be able to read it.
    pub fn found(&self, known: &BTreeSet<usize>, shared: bool) -> Result<Vec<(usize, String)>, PictureError> {
        let skipped = lock(&self.shared.skipped);
        let new = || skipped.iter().filter(|(place, _)| !known.contains(place));
        match new().find(|(_, error)| shared && matches!(error.source.cause(), DecodeError::Read(_))) {
            Some((_, error)) => Err(error.clone()),
            None => Ok(new().map(|(&place, error)| (place, error.source.to_string())).collect()),
        }
    }

    /// Takes over that another process has found a picture to be unusable. What this one has found stays.
    pub fn learn_unusable(&self, place: usize, reason: &str) {
        let Some(sample) = self.shared.samples.get(place) else { return };
        let source = DecodeError::Before(reason.to_owned());
        let error = || PictureError { path: sample.path.clone(), source };
        lock(&self.shared.skipped).entry(place).or_insert_with(error);
    }

    /// The pictures `draws` as they are in `epoch`.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn batch(&self, draws: &[Draw], epoch: u64) -> Result<Batch, PictureError> {
        let mut batch = Batch::default();
        for &draw in draws {
            let pixels = self.shared.load(draw, epoch)?;
            self.shared.add(&mut batch, draw.index, &pixels);
        }
        self.shared.mix(&mut batch, epoch);
        Ok(batch)
    }

    /// Which of `views` random versions of a picture a place of an epoch shows.
    pub fn view(draw: Draw, epoch: u64, views: NonZeroU64) -> u64 {
        epoch.wrapping_add(u64::from(draw.repetition)) % views
    }

    /// The pictures that could not be used so far: places in the list of samples, with the reason.
    pub fn unusable(&self) -> Vec<(usize, String)> {
        lock(&self.shared.skipped).iter().map(|(&index, error)| (index, error.source.to_string())).collect()
    }
}
