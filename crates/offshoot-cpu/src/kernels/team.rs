//! Threads that wait for tasks without going to sleep between two kernels.
//!
//! A network on one picture is a chain of kernels of some ten microseconds each. Waking a sleeping thread takes about as
//! long as such a kernel, so a team's threads watch a counter between two of them, and give their core away when they
//! have watched for a while.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::parallel::part;

/// How often a thread looks for work before it offers its core to others each time it looks: some ten microseconds.
const SPINS: usize = 1 << 9;

/// The lowest bit of [`Shared::state`]: whether there is a job to join.
const OPEN: usize = 1;

/// What each thread in a job adds to [`Shared::state`].
const MEMBER: usize = 2;

/// Some threads, and work for them. There is one of each, so that no two jobs come at a time.
pub(super) struct Team(Arc<Shared>);

/// A member of a [`Team`]. Clones are of the same one.
#[derive(Clone)]
pub(super) struct Member(Arc<Shared>);

struct Shared {
    /// [`OPEN`], and the number of helpers in the job.
    state: AtomicUsize,
    /// The job, as long as `state` is open or somebody is in it.
    job: Mutex<Option<Job>>,
    /// Each thread's share of the tasks, that of the one with the work first. Who is done with his own helps the others;
    /// where nobody has to, neighboring tasks of all kernels run on the same core, and find in its cache what they read.
    shares: Vec<Share>,
    /// Helpers that have come so far.
    helpers: AtomicUsize,
    /// Not 0 when no job will come any more.
    over: AtomicUsize,
    /// What a helper's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Tasks that nobody has taken, in a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Share {
    fn has_tasks(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.end.load(Ordering::Relaxed)
    }
}

/// What runs a task.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// Safety: what it points to may be shared, and [`Team::run`] keeps it alive until the last helper has left the job.
unsafe impl Send for Job {}

impl Team {
    /// A team of so many helpers and one who has the work.
    pub(super) fn new(helpers: usize) -> Team {
        Team(Arc::new(Shared {
            state: AtomicUsize::new(0),
            job: Mutex::new(None),
            shares: (0..helpers + 1).map(|_| Share::default()).collect(),
            helpers: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }))
    }

    /// One of its members.
    pub(super) fn member(&self) -> Member {
        Member(Arc::clone(&self.0))
    }

    /// Runs `run(0)`, ..., `run(count - 1)` on this thread and on those in [`Member::help`].
    ///
    /// # Panics
    /// When a task does, once no other is running.
    pub(super) fn run(&mut self, count: usize, run: &(dyn Fn(usize) + Sync)) {
        /// Closes the job and waits for the helpers that are in it.
        struct Close<'a>(&'a Shared);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
                wait(|| self.0.state.load(Ordering::Acquire) == 0);
            }
        }
        let shared = &*self.0;
        // Safety: only the lifetime changes. `Close` ends the job and waits for those in it, also when a task panics, before `run` can
        // go. There is no other job meanwhile: this is the only `Team` of its members, and nobody else has it.
        let alive = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(run)
        };
        *lock(&shared.job) = Some(Job(alive));
        for (i, share) in shared.shares.iter().enumerate() {
            let tasks = part(count, shared.shares.len(), i);
            share.next.store(tasks.start, Ordering::Relaxed);
            share.end.store(tasks.end, Ordering::Relaxed);
        }
        let close = Close(shared);
        shared.state.fetch_or(OPEN, Ordering::Release);
        shared.take_tasks(run, 0);
        drop(close);
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Member {
    /// Works on every job that comes, until [`Member::disband`].
    pub(super) fn help(&self) {
        let shared = &*self.0;
        let own = 1 + shared.helpers.fetch_add(1, Ordering::Relaxed);
        loop {
            wait(|| shared.over.load(Ordering::Relaxed) != 0 || shared.join());
            if shared.over.load(Ordering::Relaxed) != 0 {
                return;
            }
            let Some(Job(run)) = *lock(&shared.job) else { unreachable!("an open team has a job") };
            // Safety: this thread has joined the job, so that `Team::run` waits for it before it goes, or sets another one.
            let run = unsafe { &*run };
            let done = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(run, own)));
            if let Err(panic) = done {
                *lock(&shared.panic) = Some(panic);
            }
            shared.state.fetch_sub(MEMBER, Ordering::AcqRel);
        }
    }

    /// Lets all who help go.
    pub(super) fn disband(&self) {
        self.0.over.store(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Joins the job if there is one with tasks left.
    fn join(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state & OPEN != 0
            && self.shares.iter().any(Share::has_tasks)
            && self
                .state
                .compare_exchange(state, state + MEMBER, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Runs the tasks of share `own`, then what is left of the others.
    fn take_tasks(&self, run: &(dyn Fn(usize) + Sync), own: usize) {
        let (before, after) = self.shares.split_at(own.min(self.shares.len()));
        for share in after.iter().chain(before) {
            let end = share.end.load(Ordering::Relaxed);
            loop {
                let task = share.next.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                run(task);
            }
        }
    }
}

/// Waits for `done` to be true.
fn wait(mut done: impl FnMut() -> bool) {
    let mut spins = 0;
    while !done() {
        if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::parallel::{for_each_task, together};
    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            pool(threads).install(|| {
                together(|| {
                    for count in 0..200 {
                        let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                        for_each_task(count, usize::MAX, |i| {
                            runs[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{count} tasks");
                    }
                });
            });
        }
    }

    #[test]
    fn a_panic_comes_back_and_the_team_goes_on() {
        pool(3).install(|| {
            together(|| {
                for bad in 0..20 {
                    let failing = || for_each_task(20, usize::MAX, |i| assert_ne!(i, bad));
                    assert!(catch_unwind(failing).is_err(), "task {bad}");
                    for_each_task(20, usize::MAX, |_| {});
                }
            });
        });
    }
}
