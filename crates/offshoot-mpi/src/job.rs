//! The processes of a job, and how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::Status;
use mpi::request::{LocalScope, Request};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, Destination as _, Equivalence as _, Source as _};
use offshoot_graph::remedy::{MPI_TIMEOUT, RESUME};
use offshoot_world::{World, WorldError};

/// The most bytes of one message: MPI counts in 32 bits.
const PIECE: usize = 1 << 30;
/// The tag of messages of [`World::exchange`].
const DATA: i32 = 1;
/// The tag of what a process says that fails.
const FAILED: i32 = 2;
/// The exit code of a job that failed.
const FAILURE: i32 = 2;
/// That of a program that panicked.
const PANIC: i32 = 101;
/// How long a process that fails waits for the first one to tell of it, and for MPI to end the job.
const GRACE: Duration = Duration::from_secs(3);
/// How long a process polls without a pause after the last message.
const BUSY: Duration = Duration::from_millis(20);
/// The pause after that.
const PAUSE: Duration = Duration::from_micros(200);

/// A process of a job that MPI has started. MPI ends with it.
pub struct Job {
    world: &'static Mpi,
    _universe: Universe,
}

/// The processes of a job.
pub struct Mpi {
    rank: usize,
    hosts: Vec<String>,
    /// Milliseconds.
    limit: AtomicU64,
    /// Tells of an error.
    report: fn(&str),
    /// Messages of two exchanges are not mixed.
    exchanging: Mutex<()>,
    /// Whether MPI lets several threads use it.
    overlaps: bool,
}

impl Job {
    /// Starts MPI. `report` tells the user of an error that ends the job.
    ///
    /// # Errors
    /// When MPI has been started before.
    pub fn start(report: fn(&str)) -> Result<Job, WorldError> {
        let started = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, threading) =
            started.ok_or_else(|| WorldError::Differs("MPI has been started before".into()))?;
        let communicator = universe.world();
        let (rank, size) = (communicator.rank(), communicator.size());
        let host = mpi::environment::processor_name().unwrap_or_else(|_| "unknown".into());
        let number = |n: i32| usize::try_from(n).unwrap_or(0);
        let mut world = Mpi {
            rank: number(rank),
            hosts: vec!["unknown".into(); number(size).max(1)],
            limit: AtomicU64::new(u64::MAX),
            report,
            exchanging: Mutex::new(()),
            overlaps: threading >= Threading::Serialized,
        };
        world.set_limit(Mpi::LIMIT);
        let hosts = (&world as &dyn World).all_gather(host.as_bytes())?;
        world.hosts = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        Ok(Job { world: Box::leak(Box::new(world)), _universe: universe })
    }

    /// The processes. There is one job in a process, as long as that lives.
    pub fn world(&self) -> &'static Mpi {
        self.world
    }

    /// Does `work`. If it panics, the job ends: MPI would wait for the other processes while this one unwinds.
    pub fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            (self.world.report)(&format!("{} has panicked: the job ends", self.world.name(self.world.rank)));
            self.world.abort(PANIC)
        })
    }
}

impl Mpi {
    /// How long a process waits for another one where nothing else is said.
    pub const LIMIT: Duration = Duration::from_secs(300);

    /// How long this process waits for another one from now on, before it ends the job.
    pub fn set_limit(&self, limit: Duration) {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.limit.store(milliseconds, Ordering::Relaxed);
    }

    /// Ends the job because of an error: the first process tells of it, or this one where that does not answer.
    pub fn fail(&self, text: &str) -> ! {
        if self.rank == 0 {
            (self.report)(text);
            self.abort(FAILURE);
        }
        let text = format!("{}: {text}", self.name(self.rank));
        let start = Instant::now();
        let communicator = SimpleCommunicator::world();
        mpi::request::scope(|scope| {
            let first = communicator.process_at_rank(0);
            let mut sent = Some(first.immediate_send_with_tag(scope, text.as_bytes(), FAILED));
            // The first process ends the job.
            while start.elapsed() < GRACE {
                sent = sent.take().and_then(|request| request.test().err());
                thread::sleep(PAUSE);
            }
            (self.report)(&text);
            self.abort(FAILURE)
        })
    }

    /// Ends all processes of the job.
    pub fn abort(&self, code: i32) -> ! {
        // MPI may wait for a network that is gone.
        let _ = thread::Builder::new().name("offshoot-end".into()).spawn(move || {
            thread::sleep(GRACE);
            process::exit(code)
        });
        SimpleCommunicator::world().abort(code)
    }

    /// What another process has failed with, where this is the first one.
    fn check_failed(&self, communicator: &SimpleCommunicator) {
        let found = communicator.any_process().immediate_probe_with_tag(FAILED);
        let Some(status) = found.filter(|_| self.rank == 0) else { return };
        let mut text = vec![0; length(&status)];
        communicator.process_at_rank(status.source_rank()).receive_into_with_tag(&mut text[..], FAILED);
        (self.report)(&String::from_utf8_lossy(&text));
        self.abort(FAILURE);
    }

    /// Ends the job where these processes have not answered.
    fn check_time(&self, start: Instant, missing: impl Iterator<Item = usize>) {
        let limit = Duration::from_millis(self.limit.load(Ordering::Relaxed));
        // The first process knows best whom all wait for, where it is not the one.
        let patience = if self.rank == 0 { Duration::ZERO } else { GRACE / 2 };
        if start.elapsed() < limit.saturating_add(patience) {
            return;
        }
        let mut ranks: Vec<usize> = missing.collect();
        ranks.sort_unstable();
        ranks.dedup();
        let names: Vec<String> = ranks.into_iter().map(|rank| self.name(rank)).collect();
        self.fail(&format!(
            "no answer from {} for {} seconds: it has stopped, or the network has. {RESUME} goes on from the last checkpoint; where a step or \
             a checkpoint takes longer, give a larger {MPI_TIMEOUT}",
            names.join(", "),
            limit.as_secs()
        ));
    }

    /// Waits until all requests are done.
    fn wait(
        &self,
        communicator: &SimpleCommunicator,
        requests: Vec<Pending<'_, '_>>,
    ) -> Result<(), WorldError> {
        let (start, mut last, mut result) = (Instant::now(), Instant::now(), Ok(()));
        let mut waiting = requests;
        loop {
            let before = waiting.len();
            let mut left = Vec::with_capacity(before);
            for pending in waiting {
                match pending.request.test() {
                    Err(request) => left.push(Pending { request, ..pending }),
                    Ok(status) => match pending.wanted {
                        Some(wanted) if length(&status) != wanted => {
                            let (from, found) = (self.name(pending.rank), length(&status));
                            result = Err(WorldError::Length { from, wanted, found });
                        }
                        _ => {}
                    },
                }
            }
            waiting = left;
            if waiting.is_empty() {
                return result;
            }
            if waiting.len() < before {
                last = Instant::now();
            }
            if last.elapsed() < BUSY {
                thread::yield_now();
                continue;
            }
            self.check_failed(communicator);
            self.check_time(start, waiting.iter().map(|pending| pending.rank));
            thread::sleep(PAUSE);
        }
    }
}

/// A message on its way.
struct Pending<'m, 's> {
    rank: usize,
    /// The bytes of one that is received.
    wanted: Option<usize>,
    request: Request<'m, [u8], &'s LocalScope<'m>>,
}

/// The bytes of a message.
fn length(status: &Status) -> usize {
    usize::try_from(status.count(u8::equivalent_datatype())).unwrap_or(0)
}

impl World for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hosts.len()
    }

    fn host(&self, rank: usize) -> &str {
        self.hosts.get(rank).map_or("unknown", String::as_str)
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), WorldError> {
        let _alone = self.exchanging.lock().unwrap_or_else(PoisonError::into_inner);
        let communicator = SimpleCommunicator::world();
        mpi::request::scope(|scope| {
            let mut requests = Vec::with_capacity(sends.len() + receives.len());
            for (rank, into) in receives {
                let from = communicator.process_at_rank(*rank as i32);
                for piece in into.chunks_mut(PIECE) {
                    let wanted = Some(piece.len());
                    let request = from.immediate_receive_into_with_tag(scope, piece, DATA);
                    requests.push(Pending { rank: *rank, wanted, request });
                }
            }
            for (rank, bytes) in sends {
                let to = communicator.process_at_rank(*rank as i32);
                for piece in bytes.chunks(PIECE) {
                    let request = to.immediate_send_with_tag(scope, piece, DATA);
                    requests.push(Pending { rank: *rank, wanted: None, request });
                }
            }
            self.wait(&communicator, requests)
        })
    }
}
