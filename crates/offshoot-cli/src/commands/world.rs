//! The processes of a job that `mpirun` has started, where there are several: without the feature `mpi`, or started alone, there is one.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use offshoot_world::{Alone, World};

use super::{Command, Failure, Outcome};

/// How long a process waits for the others.
#[derive(Args)]
pub(crate) struct WorldArguments {
    /// Under mpirun (with the feature mpi): longest time that a process waits for another one before it ends the job.
    #[arg(long, help_heading = "Execution", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    mpi_timeout: u64,
}

impl WorldArguments {
    /// The processes of the job, which wait so long for each other from now on.
    pub(crate) fn world(&self) -> &'static dyn World {
        set_limit(Duration::from_secs(self.mpi_timeout));
        world()
    }
}

/// The processes of this job.
pub(crate) fn world() -> &'static dyn World {
    started().unwrap_or(&Alone)
}

/// The threads of this process where nothing is said: those that it may use, shared by the processes on its machine. `None` where it is alone.
pub(crate) fn own_threads() -> Option<NonZeroUsize> {
    let world = world();
    let own = world.host(world.rank());
    let beside = (0..world.size()).filter(|&rank| world.host(rank) == own).count();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    NonZeroUsize::new((threads / beside.max(1)).max(1)).filter(|_| world.is_shared())
}

/// Whether this process prints nothing, as the first one of the job does.
pub(crate) fn is_silent() -> bool {
    !world().is_first()
}

/// Checks that the command is one that several processes can share, where there are several, and that they have the same program and
/// arguments.
pub(crate) fn check(command: &Command) -> Outcome {
    let (processes, shares) = (world().size(), command.shares_work());
    if processes > 1 && !shares {
        return Err(Failure::Error(offshoot::Error::Input(format!(
            "this command runs in one process, and {processes} were started: start it without mpirun; train, eval and predict are split over processes"
        ))));
    }
    check_launched(command)?;
    let own = [("programs", program()), ("arguments", arguments().join("\n"))];
    world().agree(&own).map_err(offshoot::Error::from)?;
    Ok(())
}

/// What a program is told apart by.
fn program() -> String {
    match world().is_shared() {
        true => format!("offshoot {} {}", env!("CARGO_PKG_VERSION"), offshoot_train::program_hash()),
        false => String::new(),
    }
}

/// The arguments that decide about results: not the number of threads.
fn arguments() -> Vec<String> {
    let mut all = crate::arguments().iter().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let mut kept = Vec::new();
    while let Some(argument) = all.next() {
        match argument.as_str() {
            "--threads" => drop(all.next()),
            text if text.starts_with("--threads=") => {}
            _ => kept.push(argument),
        }
    }
    kept
}

#[cfg(feature = "mpi")]
mod started {
    use std::sync::OnceLock;
    use std::time::Duration;

    use offshoot_mpi::{Job, Mpi};
    use offshoot_world::World;

    use crate::commands::{Command, Outcome, print};

    static MPI: OnceLock<&'static Mpi> = OnceLock::new();

    pub(super) fn started() -> Option<&'static dyn World> {
        MPI.get().map(|&mpi| mpi as &dyn World)
    }

    pub(super) fn set_limit(limit: Duration) {
        if let Some(mpi) = MPI.get() {
            mpi.set_limit(limit);
        }
    }

    pub(super) fn check_launched(_: &Command) -> Outcome {
        Ok(())
    }

    /// Does `work`, as one of several processes where there are several.
    pub(crate) fn within(work: impl FnOnce() -> u8) -> u8 {
        if offshoot_mpi::launched().is_none() {
            return work();
        }
        match Job::start(print::failure) {
            Ok(job) => {
                let _ = MPI.set(job.world());
                job.guard(work)
            }
            Err(error) => {
                print::failure(&error.to_string());
                2
            }
        }
    }

    /// Ends the job because of an error, where there are other processes.
    pub(crate) fn end_job(message: &str) {
        if let Some(mpi) = MPI.get().filter(|mpi| mpi.is_shared()) {
            mpi.fail(message);
        }
    }

    /// Ends the job without an error, where there are other processes that go on.
    pub(crate) fn end_quietly() {
        if let Some(mpi) = MPI.get().filter(|mpi| mpi.is_shared()) {
            mpi.abort(0);
        }
    }
}

#[cfg(not(feature = "mpi"))]
mod started {
    use std::time::Duration;

    use offshoot_world::World;

    use crate::commands::{Command, Outcome};

    pub(super) fn started() -> Option<&'static dyn World> {
        None
    }

    pub(super) fn set_limit(_: Duration) {}

    /// Refuses to train the same run several times over.
    pub(super) fn check_launched(command: &Command) -> Outcome {
        let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
        let size = names.iter().find_map(|name| std::env::var(name).ok()?.parse::<usize>().ok());
        match size.filter(|&size| size > 1 && matches!(command, Command::Train(_))) {
            None => Ok(()),
            Some(size) => Err(offshoot::Error::Input(format!(
                "started as one of {size} processes, and this program was built without MPI: build it with `cargo build --release --features \
                 mpi`, or start it without mpirun"
            ))
            .into()),
        }
    }

    pub(crate) fn within(work: impl FnOnce() -> u8) -> u8 {
        work()
    }

    pub(crate) fn end_job(_: &str) {}

    pub(crate) fn end_quietly() {}
}

use started::{check_launched, set_limit, started};
pub(crate) use started::{end_job, end_quietly, within};
