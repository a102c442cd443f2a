//! The queue of a model, and the threads that take batches from it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use offshoot::{Classification, Classifier, Prepared};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::failure::Failure;
use crate::options::Batching;

/// A picture that waits.
struct Job {
    picture: Prepared,
    arrived: Instant,
    answer: oneshot::Sender<Answer>,
    /// Its place in the queue, which is free when its batch is taken.
    slot: OwnedSemaphorePermit,
}

/// What became of a picture.
pub(crate) struct Answer {
    pub(crate) result: Result<Classification, Failure>,
    /// How long it waited.
    pub(crate) queued: Duration,
    /// How long its batch was computed.
    pub(crate) computed: Duration,
}

/// What is told of each batch that was computed: how many pictures it had.
pub(crate) type Watch = Box<dyn Fn(usize) + Send + Sync>;

/// Pictures that wait for a model, and the threads that compute them.
pub(crate) struct Batcher {
    queue: Arc<Queue>,
    slots: Arc<Semaphore>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    batching: Batching,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Nobody waits for others any more.
    hurry: bool,
    /// Nothing is added any more.
    closed: bool,
}

impl Batcher {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(
        classifier: Arc<Classifier>,
        batching: Batching,
        watch: Watch,
    ) -> std::io::Result<Batcher> {
        let queue = Arc::new(Queue { waiting: Mutex::default(), arrived: Condvar::new(), batching });
        let slots = Arc::new(Semaphore::new(batching.max_queue.min(Semaphore::MAX_PERMITS)));
        // It ends the threads that there are already when another cannot be started.
        let batcher = Batcher { queue: Arc::clone(&queue), slots };
        let watch = Arc::new(watch);
        for worker in 0..batching.workers.max(1) {
            let (queue, classifier, watch) =
                (Arc::clone(&queue), Arc::clone(&classifier), Arc::clone(&watch));
            let work = move || {
                while let Some(batch) = queue.next() {
                    compute(batch, &classifier, &watch);
                }
            };
            thread::Builder::new().name(format!("offshoot-serve-{worker}")).spawn(work)?;
        }
        Ok(batcher)
    }

    /// Places for `count` pictures, before any work is done on them.
    ///
    /// # Errors
    /// When the queue has not as many.
    pub(crate) fn reserve(&self, count: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let most = self.queue.batching.max_queue;
        if count > most {
            return Err(Failure::new(
                axum::http::StatusCode::PAYLOAD_TOO_LARGE,
                format!("{count} pictures in one request; the queue holds {most}: send fewer"),
            ));
        }
        let places = u32::try_from(count).ok();
        let places = places.and_then(|count| Arc::clone(&self.slots).try_acquire_many_owned(count).ok());
        places.ok_or_else(|| Failure::busy(format!("the queue of {most} pictures is full; try again later")))
    }

    /// How many pictures have a place at the moment.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.batching.max_queue.saturating_sub(self.slots.available_permits())
    }

    /// Classifies pictures. Where the caller goes away, those that still wait are dropped.
    ///
    /// # Errors
    /// When the threads are gone, which is an error of ours.
    pub(crate) async fn classify(
        &self,
        pictures: Vec<Prepared>,
        mut places: OwnedSemaphorePermit,
    ) -> Result<Vec<Answer>, Failure> {
        // It is dropped after the receivers, by which the queue knows that nobody waits any more.
        let _waits = Waits(&self.queue);
        let mut answers = Vec::with_capacity(pictures.len());
        let mut jobs = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let slot =
                places.split(1).ok_or_else(|| Failure::broken("a picture has no place in the queue"))?;
            let (answer, receiver) = oneshot::channel();
            jobs.push(Job { picture, arrived: Instant::now(), answer, slot });
            answers.push(receiver);
        }
        self.queue.add(jobs);
        let mut found = Vec::with_capacity(answers.len());
        for answer in answers {
            found.push(answer.await.map_err(|_| Failure::broken("the model was closed"))?);
        }
        Ok(found)
    }

    /// Lets no picture wait for others any more: nobody else will come.
    pub(crate) fn hurry(&self) {
        self.queue.lock().hurry = true;
        self.queue.arrived.notify_all();
    }
}

/// Somebody who waits. When that ends, the queue looks for places that are free.
struct Waits<'a>(&'a Queue);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        // A thread that has just looked waits by then.
        drop(self.0.lock());
        self.0.arrived.notify_all();
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, jobs: Vec<Job>) {
        self.lock().jobs.extend(jobs);
        self.arrived.notify_all();
    }

    /// The next batch, `None` when there will be none.
    fn next(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        loop {
            // A client that went away costs nothing more.
            waiting.jobs.retain(|job| !job.answer.is_closed());
            let Some(first) = waiting.jobs.front() else {
                if waiting.closed {
                    return None;
                }
                waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = self.batching.max_delay.saturating_sub(first.arrived.elapsed());
            let full = waiting.jobs.len() >= self.batching.max_batch;
            if full || waiting.hurry || waiting.closed || left.is_zero() {
                let count = batch_of(waiting.jobs.len(), self.batching.max_batch);
                return Some(waiting.jobs.drain(..count).collect());
            }
            (waiting, _) = self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How many of `waiting` pictures are computed together. A network prepares itself for each batch size and keeps four of these
/// plans, so that there are four: all, a half, a quarter, and one.
fn batch_of(waiting: usize, most: usize) -> usize {
    [most, most / 2, most / 4].into_iter().find(|&size| size > 0 && size <= waiting).unwrap_or(1)
}

fn compute(batch: Vec<Job>, classifier: &Classifier, watch: &Watch) {
    let start = Instant::now();
    let mut pictures = Vec::with_capacity(batch.len());
    let mut clients = Vec::with_capacity(batch.len());
    for Job { picture, arrived, answer, slot } in batch {
        drop(slot);
        pictures.push(picture);
        clients.push((start.duration_since(arrived), answer));
    }
    let together: Vec<&Prepared> = pictures.iter().collect();
    let found = catch_unwind(AssertUnwindSafe(|| classifier.classify_batch(&together)));
    let computed = start.elapsed();
    watch(clients.len());
    let results: Vec<Result<Classification, Failure>> = match found {
        Ok(Ok(results)) => results.into_iter().map(|result| result.map_err(Failure::from)).collect(),
        Ok(Err(error)) => vec![Err(error.into()); clients.len()],
        Err(_) => vec![Err(Failure::broken("the network stopped at an inconsistency")); clients.len()],
    };
    for ((queued, answer), result) in clients.into_iter().zip(results) {
        // The client may be gone.
        let _ = answer.send(Answer { result, queued, computed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_at_most_four_batch_sizes() {
        for most in 1..70 {
            let sizes: std::collections::BTreeSet<usize> = (1..200).map(|n| batch_of(n, most)).collect();
            assert!(sizes.len() <= 4 && sizes.contains(&most) && sizes.contains(&1), "{most}: {sizes:?}");
            (1..200).for_each(|n| assert!(batch_of(n, most) <= n.min(most)));
        }
    }
}
