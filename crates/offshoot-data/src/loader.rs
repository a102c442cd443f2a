//! Batches of pictures, decoded and augmented ahead of the step that needs them.
//!
//! Threads take pictures in the order of the epoch and a window of them is ready or in the making at any time, so memory
//! does not grow with the data set. What a batch holds depends on the data, the seed and the epoch only: not on the
//! number of threads, and not on which picture is done first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use offshoot_graph::random::{Purpose, Random};

use crate::augment::Augmentation;
use crate::augment::mix::Partner;
use crate::decode::{DecodeError, DecodeOptions, PictureError, with_picture};
use crate::transform::{Transform, View};

/// A picture file and its class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// Index into the list of classes.
    pub label: usize,
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

    /// Whether there is no picture in it; a loader never yields such a batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A place in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The picture's place in the list of samples.
    pub index: usize,
    /// How often the picture has come in this epoch before.
    pub repetition: u32,
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

impl Shared {
    /// The order of this epoch, without pictures known to be unusable.
    fn order(&self, epoch: u64) -> Vec<Draw> {
        let options = &self.options;
        let mut order: Vec<Draw> = match options.shuffle && options.balance {
            true => self.balanced(epoch),
            false => (0..self.samples.len()).map(|index| Draw { index, repetition: 0 }).collect(),
        };
        if options.shuffle {
            Random::new(options.seed, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
        }
        if !options.strict {
            let skipped = lock(&self.skipped);
            order.retain(|draw| !skipped.contains_key(&draw.index));
        }
        order
    }

    /// As many places as there are pictures, given out to the classes in turn. A class fills its own with all its pictures in a
    /// random order, then with all of them again. Unusable pictures count: finding one must not change the rest of the order.
    fn balanced(&self, epoch: u64) -> Vec<Draw> {
        let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, sample) in self.samples.iter().enumerate() {
            classes.entry(sample.label).or_default().push(index);
        }
        let (places, count) = (self.samples.len(), classes.len().max(1));
        // The classes that get one place more differ from epoch to epoch.
        let first = (epoch % count as u64) as usize;
        let mut order = Vec::with_capacity(places);
        for (place, (&label, pictures)) in classes.iter_mut().enumerate() {
            let key = (label as u64).wrapping_add(1);
            Random::new(self.options.seed, epoch, key, Purpose::Shuffle).shuffle(pictures);
            let turn = (place + count - first) % count;
            let share = places / count + usize::from(turn < places % count);
            let own = (0..share).map(|i| Draw {
                index: pictures[i % pictures.len()],
                repetition: (i / pictures.len()) as u32,
            });
            order.extend(own);
        }
        order
    }

    /// The epoch whose random numbers a place of an epoch takes. Repetitions take those of epochs that no run reaches.
    fn random_epoch(&self, draw: Draw, epoch: u64) -> u64 {
        match self.options.views {
            Some(views) => Loader::view(draw, epoch, views),
            None => epoch.wrapping_add(u64::from(draw.repetition) << 32),
        }
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// The bytes of one picture's input.
    fn load(&self, draw: Draw, epoch: u64) -> Result<Arc<[u8]>, PictureError> {
        let Draw { index, .. } = draw;
        let Some(how) = &self.options.augment else { return self.evaluation_pixels(index) };
        let view = self.random_epoch(draw, epoch);
        let mut random = Random::new(self.options.seed, view, index as u64, Purpose::Augment);
        if self.transform.crops_at_random() {
            return with_picture(&self.samples[index].path, &self.options.decode, |picture, _| {
                self.transform.augment(&picture, how, &mut random).into()
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

    fn add(&self, batch: &mut Batch, index: usize, pixels: &[u8]) {
        let start = batch.images.len();
        batch.images.resize(start + self.transform.input_len(), 0.0);
        self.transform.normalize(pixels, &mut batch.images[start..]);
        batch.labels.push(self.samples[index].label as i64);
        batch.indices.push(index as u64);
    }

    fn mix(&self, batch: &mut Batch, epoch: u64) {
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
    order: Vec<Draw>,
    /// How many pictures of `order` were handed to the threads.
    requested: usize,
    /// How many pictures of `order` were put into batches or skipped.
    taken: usize,
    /// Pictures that are done before their turn, by position in `order`. No larger than the window.
    early: BTreeMap<usize, Loaded>,
    /// Usable pictures for the next batches.
    ahead: VecDeque<(usize, Arc<[u8]>)>,
    /// Positions in `order` for the threads; closing it ends them.
    requests: Option<Sender<(usize, Draw)>>,
    results: Receiver<Message>,
    threads: Vec<JoinHandle<()>>,
}

impl Epoch {
    fn start(shared: &Arc<Shared>, epoch: u64, batches: usize) -> Epoch {
        let mut order = shared.order(epoch);
        let passed = match batches < batch_count(order.len(), shared.options.batch_size, shared.options.least)
        {
            true => batches.saturating_mul(shared.options.batch_size.max(1)),
            false => order.len(),
        };
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
            ahead: VecDeque::new(),
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
        let &draw = self.order.get(self.taken)?;
        self.request();
        let loaded = if self.threads.is_empty() {
            // The system allows no more threads.
            self.shared.load(draw, self.epoch)
        } else {
            self.wait()
        };
        self.taken += 1;
        Some((draw.index, loaded))
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
        self.ahead.clear();
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
    queue: &Arc<Mutex<Receiver<(usize, Draw)>>>,
    done: &Sender<Message>,
) -> std::io::Result<JoinHandle<()>> {
    let (shared, queue, done) = (shared.clone(), queue.clone(), done.clone());
    let work = move || {
        loop {
            let request = lock(&queue).recv();
            let Ok((position, draw)) = request else { return };
            let loaded = catch_unwind(AssertUnwindSafe(|| shared.load(draw, epoch)));
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
        let LoaderOptions { batch_size, least, .. } = self.shared.options;
        let batch_size = batch_size.max(1);
        // A batch is whole once it is known that those after it are enough for one more.
        let wanted = batch_size + if least > 1 { least } else { 0 };
        while self.ahead.len() < wanted {
            match self.take() {
                None => break,
                Some((index, Ok(pixels))) => self.ahead.push_back((index, pixels)),
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
        let count = if self.ahead.len() < wanted { self.ahead.len() } else { batch_size };
        let mut batch = Batch {
            images: Vec::with_capacity(count * self.shared.transform.input_len()),
            labels: Vec::with_capacity(count),
            indices: Vec::with_capacity(count),
            partners: Vec::new(),
        };
        for (index, pixels) in self.ahead.drain(..count) {
            self.shared.add(&mut batch, index, &pixels);
        }
        self.shared.mix(&mut batch, self.epoch);
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.stop();
    }
}
