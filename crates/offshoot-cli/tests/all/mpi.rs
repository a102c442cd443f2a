//! Jobs of several processes under `mpirun`. They need an MPI library that the program was built with, and its launcher: `mpirun`, or what
//! `$OFFSHOOT_MPIRUN` names.

#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use offshoot_graph::random::{Purpose, Random};

use crate::support::{CLASSES, SMALL, Said, World, data};

/// The launcher with what it needs to start several processes on a small machine as any user; `None` where there is none.
fn launcher() -> Option<Vec<String>> {
    let name = std::env::var("OFFSHOOT_MPIRUN").unwrap_or_else(|_| "mpirun".into());
    let Ok(version) = Command::new(&name).arg("--version").output() else {
        println!("skipped: there is no {name}");
        return None;
    };
    let open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
    let flags = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"];
    let flags = flags.iter().filter(|_| open_mpi).map(|flag| flag.to_string());
    Some(std::iter::once(name).chain(flags).collect())
}

/// Starts so many processes of what is added, killed after ten minutes.
fn launch(world: &World, launcher: &[String], processes: usize) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "600"]).args(launcher).args(["-n", &processes.to_string()]);
    command.current_dir(&world.root).env("XDG_CACHE_HOME", world.path("cache"));
    command
}

/// The program on so many processes.
fn command(world: &World, launcher: &[String], processes: usize, arguments: &str) -> Command {
    let mut command = launch(world, launcher, processes);
    command.arg(env!("CARGO_BIN_EXE_offshoot")).args(arguments.split_whitespace());
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Said { code: output.status.code(), out, err }
}

fn run(world: &World, launcher: &[String], processes: usize, arguments: &str) -> Said {
    said(command(world, launcher, processes, arguments))
}

/// What decides about a run: the same bytes for any number of processes.
const FILES: [&str; 5] =
    ["best.safetensors", "last.safetensors", "last.state.safetensors", "predictions.csv", "health.csv"];

#[track_caller]
fn assert_same(world: &World, one: &str, other: &str) {
    for file in FILES {
        let same = world.read(&format!("{one}/{file}")) == world.read(&format!("{other}/{file}"));
        assert!(same, "{file} of {one} and {other} differ");
    }
}

/// 24 pictures to train with, 6 to validate with: updates from 3 batches of 4, and from 2.
const SHARED: &str = "--batch-size 4 --accumulate 4 --epochs 2 --threads 1 --checkpoint-every 0";

fn small() -> String {
    SMALL.replace("--batch-size 8", SHARED)
}

#[test]
#[ignore = "needs mpirun"]
fn any_number_of_processes_trains_the_same_model() {
    let Some(launcher) = launcher() else { return };
    let world = World::new("matrix");
    data(&world.path("d"), &CLASSES, 10);
    let cases = [
        ("cached", "--freeze backbone"),
        ("full", "--mixup 0.2"),
        ("bf16", "--amp bf16"),
        ("fp16", "--amp fp16"),
        ("averaged", "--ema 0.9 --clip-norm 0.1"),
        ("unfreezing", "--unfreeze features.18@50%:x0.1"),
    ];
    for (name, settings) in cases {
        let train = |run: &str| format!("train d {} {settings} --out {run}", small());
        let one = format!("{name}1");
        let said = world.run(&train(&one));
        assert_eq!(said.code, Some(0), "{said:?}");
        for processes in [2, 3, 4] {
            let other = format!("{name}{processes}");
            // So that each computes its part of the features.
            let _ = fs::remove_dir_all(world.path("cache"));
            let said = run(&world, &launcher, processes, &train(&other));
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_eq!(said.out.lines().count(), 2, "the first process prints, and no other: {said:?}");
            assert_same(&world, &one, &other);
        }
    }
}

#[test]
#[ignore = "needs mpirun"]
fn any_number_of_processes_evaluates_and_predicts_the_same() {
    let Some(launcher) = launcher() else { return };
    let world = World::new("eval");
    data(&world.path("d"), &CLASSES, 30);
    let said = world.run(&format!("train d {SMALL} --epochs 1 --out r"));
    assert_eq!(said.code, Some(0), "{said:?}");
    fs::write(world.path("d/red/00.bmp"), "broken").unwrap();
    for arguments in [
        "eval r d --json --threads 1",
        "eval r d --json --tta flip --threads 1",
        "predict r d --json --logits --threads 1",
        "predict r d --json --tta flip --threads 1",
    ] {
        let one = world.run(arguments);
        assert_eq!(one.code, Some(0), "{one:?}");
        for processes in [2, 3] {
            let several = run(&world, &launcher, processes, arguments);
            assert_eq!((several.code, &several.out), (Some(0), &one.out), "{several:?}");
        }
    }
}

#[test]
#[ignore = "needs mpirun"]
fn a_job_that_cannot_start_says_why_once() {
    let Some(launcher) = launcher() else { return };
    let world = World::new("refused");
    data(&world.path("d"), &CLASSES, 10);
    let errors = |said: &Said| -> Vec<String> {
        said.err.lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect()
    };
    let refused = |processes, arguments: &str, wanted: &str| {
        let said = run(&world, &launcher, processes, arguments);
        let errors = errors(&said);
        assert!(said.code == Some(2) && errors.len() == 1 && errors[0].contains(wanted), "{said:?}");
    };
    refused(
        3,
        &format!("train d {SMALL} --accumulate 2 --out r"),
        "3 processes need 3 batches in an update, one each, and it learns from 2 (--accumulate 2)",
    );
    refused(2, &format!("train nowhere {SMALL} --accumulate 2 --out r"), "nowhere");
    refused(2, "train d --epochs many", "invalid value 'many'");
    refused(2, "models", "runs in one process");
    assert!(!world.path("r").exists());
    // Two programs with different arguments.
    let mut both = command(&world, &launcher, 1, &format!("train d {SMALL} --accumulate 2 --lr 0.1 --out r"));
    both.args([":", "-n", "1", env!("CARGO_BIN_EXE_offshoot")]);
    both.args(format!("train d {SMALL} --accumulate 2 --lr 0.2 --out r").split_whitespace());
    let said = said(both);
    let found = errors(&said);
    assert!(said.code == Some(2) && found.len() == 1, "{said:?}");
    assert!(
        found[0].contains("rank 0 (host ") && found[0].contains("different arguments: `0.1` and `0.2`"),
        "{said:?}"
    );
}

#[test]
#[ignore = "needs mpirun"]
fn what_goes_wrong_in_one_process_is_the_error_of_the_job() {
    let Some(launcher) = launcher() else { return };
    let world = World::new("broken");
    data(&world.path("d"), &CLASSES, 10);
    let train = format!("train d {} --strict --out", small());
    fs::write(world.path("d/red/03.bmp"), "broken").unwrap();
    let strict = run(&world, &launcher, 2, &format!("{train} strict"));
    assert!(strict.code == Some(2) && strict.err.contains("03.bmp"), "{strict:?}");
    fs::remove_file(world.path("d/red/03.bmp")).unwrap();
    // A disk without room: the limit of a file's size is below that of the model.
    let mut full = launch(&world, &launcher, 2);
    let line = format!("ulimit -f 16000; exec {} {train} full", env!("CARGO_BIN_EXE_offshoot"));
    full.args(["sh", "-c", &line]);
    let start = Instant::now();
    let said = said(full);
    assert!(said.code == Some(2) && said.err.contains("last.safetensors"), "{said:?}");
    assert!(start.elapsed() < Duration::from_secs(300));
}

/// The processes that a launcher has started and that run the program.
fn workers(launcher: i32) -> Vec<i32> {
    let listed = Command::new("ps").args(["-e", "-o", "pid=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let of_program = |line: &str| {
        let mut fields = line.split_whitespace();
        let process = fields.next()?.parse::<i32>().ok()?;
        (fields.next() == Some(env!("CARGO_BIN_EXE_offshoot"))).then_some(process)
    };
    text.lines().filter_map(of_program).filter(|&process| descends(process, launcher)).collect()
}

/// Whether a process was started by another one, directly or not.
fn descends(process: i32, from: i32) -> bool {
    let mut process = process;
    while process > 1 {
        if process == from {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        process = parent.unwrap_or(0);
    }
    false
}

fn start(world: &World, launcher: &[String], processes: usize, arguments: &str) -> Child {
    let mut command = command(world, launcher, processes, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().unwrap()
}

#[test]
#[ignore = "needs mpirun"]
fn a_killed_process_ends_the_job_and_another_number_goes_on_to_the_same_bytes() {
    let Some(launcher) = launcher() else { return };
    let world = World::new("killed");
    data(&world.path("d"), &CLASSES, 10);
    let settings = "--ema 0.9 --mixup 0.2 --unfreeze features.18@50%:x0.1 --epochs 4";
    let train = format!("train d {} {settings}", small().replace("--epochs 2 ", ""));
    let begin = Instant::now();
    assert_eq!(world.run(&format!("{train} --out whole")).code, Some(0));
    let whole = begin.elapsed();
    let mut random = Random::new(26, 0, 0, Purpose::Init);
    let mut killed = 0;
    for round in 0..10 {
        let mut job = start(&world, &launcher, 2 + round % 3, &format!("{train} --out run --resume"));
        std::thread::sleep(whole.mul_f32(random.range(0.1, 0.6)));
        let workers = workers(job.id() as i32);
        if let Some(victim) = workers.get(random.range(0.0, workers.len() as f32) as usize) {
            assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
            killed += 1;
        }
        let end = Instant::now();
        while job.try_wait().unwrap().is_none() {
            assert!(end.elapsed() < Duration::from_secs(60), "the job does not end after a kill");
            std::thread::sleep(Duration::from_millis(50));
        }
        if world.path("run/last.state.safetensors").exists() && round % 3 == 2 {
            let said = run(&world, &launcher, 4 - round % 4, &format!("{train} --out run --resume"));
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_same(&world, "whole", "run");
            fs::remove_dir_all(world.path("run")).unwrap();
        }
    }
    assert!(killed >= 7, "{killed} of ten were killed in time");
    let said = run(&world, &launcher, 3, &format!("{train} --out run --resume"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_same(&world, "whole", "run");
}
