//! A world of threads of one process: for tests of what several processes do.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::{World, WorldError};

/// What one of several threads sees of the others. A thread that ends early is [`WorldError::Lost`] to the others.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    /// To each thread.
    to: Vec<Sender<Vec<u8>>>,
    /// From each thread. Only this thread receives.
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl Threads {
    /// The worlds of `size` threads, in the order of their numbers.
    pub fn worlds(size: usize) -> Vec<Threads> {
        let mut to: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
        let mut from: Vec<Vec<Mutex<Receiver<Vec<u8>>>>> = (0..size).map(|_| Vec::new()).collect();
        for senders in &mut to {
            for receivers in &mut from {
                let (sender, receiver) = channel();
                senders.push(sender);
                receivers.push(Mutex::new(receiver));
            }
        }
        let pairs = to.into_iter().zip(from).enumerate();
        pairs.map(|(rank, (to, from))| Threads { rank, to, from }).collect()
    }

    /// Runs `work` on `size` threads at the same time, each with its world, and gives what they return, in the order of their numbers.
    ///
    /// # Panics
    /// When one of them does.
    pub fn run<T: Send>(size: usize, work: impl Fn(&dyn World) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let started: Vec<_> =
                Threads::worlds(size).into_iter().map(|world| scope.spawn(move || work(&world))).collect();
            let joined = started.into_iter().map(|thread| thread.join());
            joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn lost(&self, rank: usize) -> WorldError {
        WorldError::Lost(self.name(rank))
    }
}

impl World for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn host(&self, _: usize) -> &str {
        "thread"
    }

    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), WorldError> {
        for (rank, bytes) in sends {
            self.to[*rank].send(bytes.to_vec()).map_err(|_| self.lost(*rank))?;
        }
        for (rank, into) in receives {
            let receiver = self.from[*rank].lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = receiver.recv().map_err(|_| self.lost(*rank))?;
            if bytes.len() != into.len() {
                let (from, wanted, found) = (self.name(*rank), into.len(), bytes.len());
                return Err(WorldError::Length { from, wanted, found });
            }
            into.copy_from_slice(&bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_is_lost_to_the_others() {
        let ended = Threads::run(2, |world| match world.rank() {
            0 => Ok(()),
            _ => world.exchange(&[], &mut [(0, &mut [0; 4])]),
        });
        assert_eq!(ended[1], Err(WorldError::Lost("rank 0 (host thread)".into())));
        let ended = Threads::run(2, |world| match world.rank() {
            0 => world.exchange(&[(1, &[1, 2, 3])], &mut []),
            _ => world.exchange(&[], &mut [(0, &mut [0; 4])]),
        });
        assert!(ended[1].as_ref().is_err_and(|error| error.to_string().contains("3 bytes where 4")));
    }
}
