//! Batches of pictures, decoded and augmented ahead of the step that needs them.
//!
//! Threads take pictures in the order of the epoch and a window of them is ready or in the making at any time, so memory
//! does not grow with the data set. What a batch holds depends on the data, the seed and the epoch only: not on the
//! number of threads, and not on which picture is done first.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use offshoot_graph::random::{Purpose, Random};

use crate::decode::{DecodeError, DecodeOptions, PictureError, read_picture};
use crate::folder::Sample;
use crate::transform::Transform;

/// How pictures are loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Pictures in a batch, at least 1; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Whether each epoch has its own order. Else the pictures come in the order given.
    pub shuffle: bool,
    /// Whether pictures are cropped and flipped at random; see [`Transform::augment`].
    pub augment: bool,
    /// Decides order, crops and flips.
    pub seed: u64,
    /// How many random versions of each picture take turns: epoch e shows version e modulo this. Without, each epoch has
    /// its own.
    pub views: Option<NonZeroU64>,
    /// Threads that decode; 0 for as many as the machine has.
    pub threads: usize,
    /// Batches that are made ahead.
    pub prefetch: usize,
    /// Bytes to keep resized pictures in, so that later epochs need not decode them; 0 for none. Of no use where
    /// each epoch crops anew.
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
            shuffle: false,
            augment: false,
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
            augment: true,
            seed,
            ..LoaderOptions::evaluation(transform, batch_size)
        }
    }
}

/// Some pictures, ready for the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Normalised inputs, `[n, 3, size, size]`.
    pub images: Vec<f32>,
    /// Classes, `[n]`.
    pub labels: Vec<i64>,
    /// Places of the pictures in the loader's list of samples, `[n]`: the keys of their random numbers.
    pub indices: Vec<u64>,
}

impl Batch {
    /// The number of pictures, `n`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture in it; a loader never yields such a batch.
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

/// What the threads of all epochs share.
#[derive(Debug)]
struct Shared {
    samples: Vec<Sample>,
    transform: Transform,
    options: LoaderOptions,
    cache: Mutex<Cache>,
    /// Pictures that could not be decoded, by index.
    skipped: Mutex<BTreeMap<usize, PictureError>>,
}

/// Resized pictures by index, as long as there is room. Nothing is thrown out: an epoch goes through all pictures, so
/// whatever is kept is as good as anything else.
#[derive(Debug, Default)]
struct Cache {
    pictures: HashMap<usize, Arc<[u8]>>,
    bytes: usize,
}

impl Loader {
    /// A loader of `samples`. Nothing is read before [`Loader::epoch`].
    pub fn new(samples: Vec<Sample>, transform: Transform, options: LoaderOptions) -> Loader {
        let (cache, skipped) = (Mutex::default(), Mutex::default());
        Loader { shared: Arc::new(Shared { samples, transform, options, cache, skipped }) }
    }

    /// A loader of files without classes: all labels are 0.
    pub fn unlabelled(paths: Vec<PathBuf>, transform: Transform, options: LoaderOptions) -> Loader {
        let samples = paths.into_iter().map(|path| Sample { path, label: 0 }).collect();
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
        usable.div_ceil(self.shared.options.batch_size.max(1))
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

    /// Places of the pictures in the list of samples, in the order of an epoch, without those known to be unusable.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
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

    /// The pictures at `indices` of the list of samples as they are in `epoch`.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn batch(&self, indices: &[usize], epoch: u64) -> Result<Batch, PictureError> {
        let mut batch = Batch::default();
        for &index in indices {
            let pixels = self.shared.load(index, epoch)?;
            self.shared.add(&mut batch, index, &pixels);
        }
        Ok(batch)
    }

    /// The pictures that could not be used so far: places in the list of samples, with the reason.
    pub fn unusable(&self) -> Vec<(usize, String)> {
        lock(&self.shared.skipped).iter().map(|(&index, error)| (index, error.source.to_string())).collect()
    }
}

impl Shared {
    /// Indices of the samples in the order of this epoch, without those known to be unusable.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        if self.options.shuffle {
            Random::new(self.options.seed, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
        }
        if !self.options.strict {
            let skipped = lock(&self.skipped);
            order.retain(|index| !skipped.contains_key(index));
        }
        order
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// The bytes of one picture's input.
    fn load(&self, index: usize, epoch: u64) -> Result<Arc<[u8]>, PictureError> {
        let view = self.options.views.map_or(epoch, |views| epoch % views);
        let mut random = Random::new(self.options.seed, view, index as u64, Purpose::Augment);
        if self.options.augment && !self.transform.only_flips() {
            let picture = read_picture(&self.samples[index].path, &self.options.decode)?;
            return Ok(self.transform.augment(&picture, &mut random).into());
        }
        let pixels = self.evaluation_pixels(index)?;
        if !self.options.augment {
            return Ok(pixels);
        }
        let mut pixels = pixels.to_vec();
        self.transform.flip_at_random(&mut pixels, &mut random);
        Ok(pixels.into())
    }

    fn evaluation_pixels(&self, index: usize) -> Result<Arc<[u8]>, PictureError> {
        if let Some(pixels) = lock(&self.cache).pictures.get(&index) {
            return Ok(pixels.clone());
        }
        let picture = read_picture(&self.samples[index].path, &self.options.decode)?;
        let pixels: Arc<[u8]> = self.transform.evaluate(&picture).into();
        lock(&self.cache).keep(index, &pixels, self.options.cache_bytes);
        Ok(pixels)
    }

    fn add(&self, batch: &mut Batch, index: usize, pixels: &[u8]) {
        let start = batch.images.len();
        batch.images.resize(start + self.transform.input_len(), 0.0);
        self.transform.normalize(pixels, &mut batch.images[start..]);
        batch.labels.push(self.samples[index].label as i64);
        batch.indices.push(index as u64);
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Loaded = Result<Arc<[u8]>, PictureError>;

/// A position in the order of the epoch, and its picture or the panic that came instead.
type Message = (usize, std::thread::Result<Loaded>);

/// The batches of one epoch; see [`Loader::epoch`].
#[derive(Debug)]
pub struct Epoch {
    shared: Arc<Shared>,
    epoch: u64,
    order: Vec<usize>,
    /// How many pictures of `order` were handed to the threads.
    requested: usize,
    /// How many pictures of `order` were put into batches or skipped.
    taken: usize,
    /// Pictures that are done before their turn, by position in `order`. No larger than the window.
    early: BTreeMap<usize, Loaded>,
    /// Positions in `order` for the threads; closing it ends them.
    requests: Option<Sender<(usize, usize)>>,
    results: Receiver<Message>,
    threads: Vec<JoinHandle<()>>,
}

impl Epoch {
    fn start(shared: &Arc<Shared>, epoch: u64, batches: usize) -> Epoch {
        let mut order = shared.order(epoch);
        let passed = batches.saturating_mul(shared.options.batch_size.max(1)).min(order.len());
        order.drain(..passed);
        let (requests, queue) = channel();
        let (done, results) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let count = shared.threads().min(order.len());
        let threads = (0..count).map_while(|_| start_thread(shared, epoch, &queue, &done).ok()).collect();
        let mut this = Epoch {
            shared: shared.clone(),
            epoch,
            order,
            requested: 0,
            taken: 0,
            early: BTreeMap::new(),
            requests: Some(requests),
            results,
            threads,
        };
        this.request();
        this
    }

    /// Keeps the threads busy up to the end of the window.
    fn request(&mut self) {
        let options = &self.shared.options;
        let window = options.batch_size.max(1).saturating_mul(options.prefetch + 1).max(self.threads.len());
        let end = self.taken.saturating_add(window).min(self.order.len());
        for position in self.requested..end {
            if let Some(requests) = &self.requests {
                // Fails only if there is no thread, and then nobody waits for it.
                let _ = requests.send((position, self.order[position]));
            }
        }
        self.requested = self.requested.max(end);
    }

    /// The next picture in the order of the epoch, with its index; `None` at the end.
    fn take(&mut self) -> Option<(usize, Loaded)> {
        let &index = self.order.get(self.taken)?;
        self.request();
        let loaded = if self.threads.is_empty() {
            // The system allows no more threads.
            self.shared.load(index, self.epoch)
        } else {
            self.wait()
        };
        self.taken += 1;
        Some((index, loaded))
    }

    fn wait(&mut self) -> Loaded {
        loop {
            if let Some(loaded) = self.early.remove(&self.taken) {
                return loaded;
            }
            match self.results.recv() {
                Ok((position, Ok(loaded))) => self.early.insert(position, loaded),
                Ok((_, Err(panic))) => resume_unwind(panic),
                Err(_) => unreachable!("the threads end only when the requests do"),
            };
        }
    }

    fn stop(&mut self) {
        self.requests = None;
        self.taken = self.order.len();
        // Without a receiver a thread ends after the picture that it is at.
        self.results = channel().1;
        for thread in self.threads.drain(..) {
            // Panics were caught, so there is nothing in a thread's result.
            let _ = thread.join();
        }
    }
}

fn start_thread(
    shared: &Arc<Shared>,
    epoch: u64,
    queue: &Arc<Mutex<Receiver<(usize, usize)>>>,
    done: &Sender<Message>,
) -> std::io::Result<JoinHandle<()>> {
    let (shared, queue, done) = (shared.clone(), queue.clone(), done.clone());
    let work = move || {
        loop {
            let request = lock(&queue).recv();
            let Ok((position, index)) = request else { return };
            let loaded = catch_unwind(AssertUnwindSafe(|| shared.load(index, epoch)));
            if done.send((position, loaded)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("offshoot-loader".to_owned()).spawn(work)
}

impl Iterator for Epoch {
    type Item = Result<Batch, PictureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let input_len = self.shared.transform.input_len();
        let batch_size = self.shared.options.batch_size.max(1);
        let expected = batch_size.min(self.order.len() - self.taken);
        let mut batch = Batch {
            images: Vec::with_capacity(expected * input_len),
            labels: Vec::with_capacity(expected),
            indices: Vec::with_capacity(expected),
        };
        while batch.len() < batch_size {
            match self.take() {
                None => break,
                Some((index, Ok(pixels))) => self.shared.add(&mut batch, index, &pixels),
                Some((_, Err(error))) if self.shared.options.strict => {
                    self.stop();
                    return Some(Err(error));
                }
                Some((index, Err(error))) => {
                    lock(&self.shared.skipped).insert(index, error);
                }
            }
        }
        self.request();
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.stop();
    }
}
