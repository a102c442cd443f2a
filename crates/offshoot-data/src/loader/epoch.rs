//! An epoch in progress: its threads, and the batches that they fill.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::shared::{Shared, lock};
use super::{Batch, Draw, LoaderOptions, batch_count};
use crate::decode::PictureError;

type Loaded = Result<Arc<[u8]>, PictureError>;

/// A position in the order of the epoch, and its picture or the panic that came instead.
type Message = (usize, std::thread::Result<Loaded>);

/// The batches of one epoch; see [`super::Loader::epoch`].
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
    /// The places in `order` of each batch that is left, where batches do not fill up.
    sizes: Option<VecDeque<usize>>,
}

impl Epoch {
    /// All batches of the epoch but the first ones.
    pub(super) fn start(shared: &Arc<Shared>, epoch: u64, batches: usize) -> Epoch {
        let mut order = shared.order(epoch);
        let passed = match batches < batch_count(order.len(), shared.options.batch_size, shared.options.least)
        {
            true => batches.saturating_mul(shared.options.batch_size.max(1)),
            false => order.len(),
        };
        order.drain(..passed);
        Epoch::of(shared, epoch, order, None)
    }

    /// Some batches of the epoch.
    pub(super) fn start_some(
        shared: &Arc<Shared>,
        epoch: u64,
        batches: impl IntoIterator<Item = usize>,
    ) -> Epoch {
        let all = shared.order(epoch);
        let (mut order, mut sizes) = (Vec::new(), VecDeque::new());
        for batch in batches {
            let places = shared.places(batch, all.len());
            sizes.push_back(places.len());
            order.extend_from_slice(&all[places]);
        }
        Epoch::of(shared, epoch, order, Some(sizes))
    }

    fn of(shared: &Arc<Shared>, epoch: u64, order: Vec<Draw>, sizes: Option<VecDeque<usize>>) -> Epoch {
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
            sizes,
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

    /// Puts the next picture of the order into those for the next batches, or to the unusable ones. `None` at the end.
    fn advance(&mut self) -> Option<Result<(), PictureError>> {
        match self.take()? {
            (index, Ok(pixels)) => self.ahead.push_back((index, pixels)),
            (_, Err(error)) if self.shared.options.strict => {
                self.stop();
                return Some(Err(error));
            }
            (index, Err(error)) => {
                lock(&self.shared.skipped).insert(index, error);
            }
        }
        Some(Ok(()))
    }

    /// The batch of the next `count` usable pictures.
    fn batch(&mut self, count: usize) -> Batch {
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
        batch
    }

    /// The batch of the next `size` places, without the unusable ones among them.
    fn next_exact(&mut self, size: usize) -> Result<Batch, PictureError> {
        (0..size).map_while(|_| self.advance()).collect::<Result<(), _>>()?;
        self.request();
        Ok(self.batch(self.ahead.len()))
    }

    fn stop(&mut self) {
        self.sizes = self.sizes.take().map(|_| VecDeque::new());
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
        if let Some(sizes) = &mut self.sizes {
            let size = sizes.pop_front()?;
            return Some(self.next_exact(size));
        }
        let LoaderOptions { batch_size, least, .. } = self.shared.options;
        let batch_size = batch_size.max(1);
        // A batch is whole once it is known that those after it are enough for one more.
        let wanted = batch_size + if least > 1 { least } else { 0 };
        while self.ahead.len() < wanted {
            match self.advance() {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => return Some(Err(error)),
            }
        }
        self.request();
        let count = if self.ahead.len() < wanted { self.ahead.len() } else { batch_size };
        let batch = self.batch(count);
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.stop();
    }
}
