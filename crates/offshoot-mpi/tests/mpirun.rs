//! Processes that `mpirun` starts: this very program, one of whose tests is what they do.

#![cfg(all(unix, feature = "mpi"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "tests")]

use std::process::Command;
use std::time::{Duration, Instant};

use offshoot_mpi::Job;
use offshoot_world::{Sums, World, part, reduce};

/// What the processes are to do.
const DO: &str = "OFFSHOOT_MPI_TEST";

/// The launcher with what it needs to start several processes on a small machine as any user; `None` where there is none.
fn launcher() -> Option<Command> {
    let name = std::env::var("OFFSHOOT_MPIRUN").unwrap_or_else(|_| "mpirun".into());
    let Ok(version) = Command::new(&name).arg("--version").output() else {
        println!("skipped: there is no {name}");
        return None;
    };
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "600", &name]);
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    }
    Some(command)
}

/// The exit code, all that was printed, and how long it took.
fn run(processes: usize, what: &str) -> Option<(i32, String, Duration)> {
    let mut command = launcher()?;
    command.args(["-n", &processes.to_string()]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]).env(DO, what);
    let start = Instant::now();
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    println!("{what}: {:?} after {:?}\n{text}", output.status, start.elapsed());
    Some((output.status.code().unwrap_or(-1), text, start.elapsed()))
}

fn numbers(item: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((item * 7919 + i * 104_729) % 1000) as f32 * 0.1 - 31.4).collect()
}

fn sum(world: &dyn World, count: usize, len: usize) -> Vec<f32> {
    let mut sums = Sums::new(count);
    part(world.rank(), count, world.size()).for_each(|item| sums.push(item, numbers(item, len)));
    reduce(world, sums, len).unwrap()
}

/// What each of the processes does. The other tests start them.
#[test]
#[ignore = "is started by mpirun"]
fn child() {
    let Ok(what) = std::env::var(DO) else { return };
    let job = Job::start(|text| eprintln!("error: {text}")).unwrap();
    let world = job.world();
    job.guard(|| match what.as_str() {
        "sum" => {
            for (count, len) in [(1, 10), (4, 1), (5, 100_000), (16, 3_000_001)] {
                assert_eq!(sum(world, count, len), sum(&offshoot_world::Alone, count, len), "{count} {len}");
            }
            let all =
                (world as &dyn World).all_gather(&vec![world.rank() as u8; 1000 * world.rank()]).unwrap();
            assert!(all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![rank as u8; 1000 * rank]));
            println!("summed");
        }
        "panic" if world.rank() == 1 => panic!("of a test"),
        "fail" if world.rank() == 1 => world.fail("the disk is full"),
        "fail all" => world.fail("no such folder"),
        "kill" if world.rank() == 1 => {
            drop(Command::new("kill").args(["-9", &std::process::id().to_string()]).status())
        }
        "silent" if world.rank() == 1 => std::thread::sleep(Duration::from_secs(60)),
        _ => {
            world.set_limit(Duration::from_secs(3));
            // The others never come.
            let _ = world.exchange(&[], &mut [((world.rank() + 1) % world.size(), &mut [0; 8])]);
        }
    });
}

#[test]
#[ignore = "needs mpirun"]
fn sums_are_those_of_one_process() {
    for processes in [1, 2, 3, 4] {
        let Some((code, text, _)) = run(processes, "sum") else { return };
        assert_eq!((code, text.matches("summed").count()), (0, processes));
    }
}

#[test]
#[ignore = "needs mpirun"]
fn whatever_happens_to_a_process_ends_the_job_soon_and_is_told() {
    let wanted = [
        ("panic", 101, "rank 1 (host "),
        ("fail", 2, "the disk is full"),
        ("fail all", 2, "error: no such folder"),
        ("silent", 2, "no answer from rank 1 (host "),
    ];
    for (what, code, text) in wanted {
        let Some((found, said, time)) = run(3, what) else { return };
        assert!(said.contains(text), "{what}: {said}");
        assert_eq!(found, code, "{what}: {said}");
        assert!(time < Duration::from_secs(30), "{what}: {time:?}");
        // (It may stand behind what the test itself prints.)
        let told = said.matches("error: ").count();
        assert!(told == 1 || what == "silent", "{what} is told {told} times: {said}");
    }
    let Some((code, _, time)) = run(3, "kill") else { return };
    assert!(code != 0 && time < Duration::from_secs(30), "{code} {time:?}");
}
