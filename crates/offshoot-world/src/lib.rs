//! Processes that work on one job together.
//!
//! A [`World`] is what they have in common: how many there are, which of them this one is, and how they exchange messages. [`Alone`] is that of
//! a job of one process, [`Threads`] that of threads of one process, for tests; `offshoot-mpi` has that of MPI.
//!
//! What is summed over the parts of a job is summed in a binary tree over these parts ([`Sums`], [`reduce`]): neighbors first, and one that is
//! left over goes up as it is. The tree depends on the number of parts alone, and not on who computes them, so that
//! any number of processes gives bit-identical sums. One process follows the same tree.
//!
//! ```
//! use offshoot_world::{Alone, Sums, part, reduce};
//!
//! let gradients = [vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0, 6.0]];
//! let mut sums = Sums::new(gradients.len());
//! for index in part(0, gradients.len(), 1) {
//!     sums.push(index, gradients[index].clone());
//! }
//! assert_eq!(reduce(&Alone, sums, 2).unwrap(), [9.0, 12.0]);
//! ```

mod collective;
mod rows;
mod threads;
mod tree;

pub use rows::Rows;
pub use threads::Threads;
pub use tree::{Sums, part, reduce, reduce_bytes};

/// The processes of a job, as one of them sees them.
///
/// All of them make the same exchanges in the same order. Messages from one process to another arrive in the order in which they
/// were sent.
pub trait World: Send + Sync {
    /// The number of this process, from 0. The process 0 owns what is written.
    fn rank(&self) -> usize;

    /// How many processes there are, at least 1.
    fn size(&self) -> usize;

    /// The name of the machine that a process runs on.
    fn host(&self, rank: usize) -> &str;

    /// Sends messages, each to a process, and receives others, each of a known length from a process. Comes back when all have been
    /// sent and received. No message goes to this process itself.
    ///
    /// # Errors
    /// When a process cannot be reached any more, or sends a message of another length.
    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), WorldError>;

    /// Whether a thread may exchange messages while another one of the process computes.
    fn overlaps(&self) -> bool {
        true
    }

    /// Whether this process owns what is written, and tells what happens.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are other processes.
    fn is_shared(&self) -> bool {
        self.size() > 1
    }

    /// What a message calls a process: its number and its machine.
    fn name(&self, rank: usize) -> String {
        format!("rank {rank} (host {})", self.host(rank))
    }
}

/// A world of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl World for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn host(&self, _: usize) -> &str {
        "localhost"
    }

    fn exchange(&self, _: &[(usize, &[u8])], _: &mut [(usize, &mut [u8])]) -> Result<(), WorldError> {
        Ok(())
    }
}

/// The processes of a job cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// A process has ended or cannot be reached.
    #[error("{0} has ended or cannot be reached any more")]
    Lost(String),
    /// A process is at another place of the job.
    #[error("{from} sent {found} bytes where {wanted} were expected: it does not run the same job")]
    Length {
        /// The process.
        from: String,
        /// The bytes that were expected.
        wanted: usize,
        /// The bytes that came.
        found: usize,
    },
    /// The processes do not agree about the job.
    #[error("{0}")]
    Differs(String),
}
