//! A `World` of `offshoot-world` whose processes exchange messages over MPI: any MPI library of version 3 or later.
//!
//! All is behind the feature `mpi`, which needs an MPI library with its headers, and libclang: without, the crate is empty.
//!
//! A process that fails ends the job (`Mpi::fail`): the others would wait for it. So does one that panics (`Job::guard`): MPI would wait
//! for the others while it unwinds. And no process waits for another one longer than `Mpi::set_limit` says.

#[cfg(feature = "mpi")]
mod job;

#[cfg(feature = "mpi")]
pub use job::{Job, Mpi};

/// How many processes a launcher of MPI programs (mpirun, srun, mpiexec) says that it has started, this one among them. `None` where there is
/// no launcher, or it does not say.
pub fn launched() -> Option<usize> {
    let size = |name: &str| std::env::var(name).ok()?.parse().ok();
    // Open MPI, MPICH and what is made of it, MVAPICH.
    let said = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"];
    let known = said.into_iter().find_map(size);
    // PMIx does not say how many there are; of Slurm it is known.
    let pmix = std::env::var_os("PMIX_RANK").or_else(|| std::env::var_os("PMI_RANK"));
    known.or_else(|| pmix.map(|_| size("SLURM_STEP_NUM_TASKS").unwrap_or(1)))
}
