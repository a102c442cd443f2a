//! Runs that are killed, run out of room, or find their files damaged.
//!
//! Two runs are the same when every file is, byte for byte, but for the columns of `results.csv` that tell the time (and what is made of these), and
//! the memory.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use offshoot_graph::random::{Purpose, Random};
use serde_json::Value;

use crate::support::{CLASSES, SMALL, World, data};

/// What is trained, which options are for the machine only and may be given again to resume, and how often it is killed.
struct Case {
    name: &'static str,
    settings: &'static str,
    options: &'static str,
    kills: u32,
}

/// With mixed precision and a moving average, sixteen kills; twelve more without.
const CASES: [Case; 7] = [
    Case {
        name: "mixed",
        settings: "--epochs 3 --policy trivial --rotate 9 --colour-jitter 0.2,0.2,0.2,0.1 --erase 0.5 --mixup 0.2 --cutmix 1 \
                   --balanced-sampling --class-weights balanced --label-smoothing 0.1",
        options: "--checkpoint-every 0",
        kills: 4,
    },
    Case {
        name: "cached-bf16",
        settings: "--freeze backbone --epochs 30 --amp bf16 --ema 0.95",
        options: "--checkpoint-every 0",
        kills: 4,
    },
    Case {
        name: "cached-fp16",
        settings: "--freeze features.0,features.1 --epochs 3 --augment off --amp fp16 --ema 0.9",
        options: "--checkpoint-every 0",
        kills: 4,
    },
    Case {
        name: "uncached-bf16",
        settings: "--freeze backbone --epochs 6 --augment on --amp bf16 --ema 0.9",
        options: "--cache-budget 0 --checkpoint-every 0",
        kills: 4,
    },
    Case {
        name: "uncached-fp16",
        settings: "--freeze features.0,features.1 --epochs 3 --amp fp16 --ema 0.9 --on-nonfinite rollback",
        options: "--checkpoint-every 0",
        kills: 4,
    },
    Case {
        name: "cached",
        settings: "--freeze backbone --epochs 30",
        options: "--checkpoint-every 0",
        kills: 4,
    },
    Case { name: "views", settings: "--freeze backbone --epochs 20 --cache-views 3", options: "", kills: 4 },
];

/// The lines of `results.csv` without what no two runs share.
fn results(world: &World, run: &str) -> Vec<Vec<String>> {
    let text = world.text(&format!("{run}/results.csv"));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let timed = ["images_per_second", "seconds", "peak_mib"];
    let kept: Vec<usize> = (0..lines[0].len()).filter(|&column| !timed.contains(&lines[0][column])).collect();
    lines.iter().map(|line| kept.iter().map(|&column| line[column].to_owned()).collect()).collect()
}

#[track_caller]
fn assert_same(world: &World, one: &str, other: &str) {
    assert_eq!(world.names(one), world.names(other));
    let timed = ["report.html", "results.csv", "tensorboard", "log.csv"];
    for name in world.names(one).iter().filter(|name| !timed.contains(&name.as_str())) {
        let [a, b] = [one, other].map(|run| world.read(&format!("{run}/{name}")));
        assert!(a == b, "{name} of {one} and {other} differ");
    }
    assert_eq!(results(world, one), results(world, other));
}

#[test]
#[ignore = "slow: kills twenty-eight runs"]
fn killed_runs_end_with_the_same_bytes() {
    let world = World::new("killed");
    data(&world.path("d"), &CLASSES, 12);
    // One that turns out to be broken only when it is decoded.
    let mut broken = world.read("d/red/05.bmp");
    broken.truncate(900);
    world.write("d/red/05.bmp", broken);
    let mut random = Random::new(std::process::id().into(), 0, 0, Purpose::Init);
    for Case { name, settings, options, kills: wanted } in CASES {
        let command = format!("train d {SMALL} {settings} {options}");
        let clock = Instant::now();
        let whole = format!("{name}-whole");
        assert_eq!(world.run(&format!("{command} --out {whole}")).code, Some(0), "{name}");
        let whole_time = clock.elapsed().as_secs_f32();
        let (mut kills, mut runs) = (0, 0);
        while kills < wanted {
            let run = format!("{name}-{runs}");
            // What was kept is computed again: kills hit that too.
            let _ = fs::remove_dir_all(world.path("cache"));
            loop {
                let mut child = world
                    .command(&format!("{command} --resume --out {run}"))
                    .stdout(Stdio::null())
                    .stderr(fs::File::create(world.path("killed.log")).unwrap())
                    .spawn()
                    .unwrap();
                std::thread::sleep(Duration::from_secs_f32(random.range(0.0, whole_time * 0.7)));
                child.kill().unwrap();
                let status = child.wait().unwrap();
                if status.code().is_some() {
                    assert_eq!(status.code(), Some(0), "{name}: {}", world.text("killed.log"));
                    break;
                }
                kills += 1;
                if kills.is_multiple_of(4) {
                    break;
                }
            }
            let said = world.run(&format!("{command} --resume --out {run}"));
            assert_eq!(said.code, Some(0), "{name}: {said:?}");
            assert_same(&world, &whole, &run);
            runs += 1;
        }
    }
}

#[test]
fn what_is_kept_changes_nothing() {
    let world = World::new("kept");
    let features = || {
        let mut names = world.names("cache/offshoot/features");
        // Says that files may be removed from this folder.
        names.retain(|name| name != "CACHEDIR.TAG");
        names
    };
    data(&world.path("d"), &CLASSES, 6);
    let train = |run: &str, flags: &str| {
        let said = world.run(&format!("train d {SMALL} --epochs 4 --out {run} {flags}"));
        assert_eq!(said.code, Some(0), "{said:?}");
        said.err
    };
    for (name, flags) in [
        ("head", "--freeze backbone"),
        ("views", "--freeze backbone --cache-views 2"),
        ("f16", "--freeze backbone --cache-dtype f16"),
    ] {
        let [kept, again, anew] = ["kept", "again", "anew"].map(|run| format!("{name}-{run}"));
        train(&kept, flags);
        let files = features();
        assert!(!files.is_empty() && files.iter().all(|name| name.ends_with(".features")), "{files:?}");
        train(&again, flags);
        assert_eq!(features(), files);
        train(&anew, &format!("{flags} --cache-budget 0"));
        assert_same(&world, &kept, &again);
        assert_same(&world, &kept, &anew);
        // Damaged in the middle: rows are computed again, and the next run writes the file again.
        for file in &files {
            let path = format!("cache/offshoot/features/{file}");
            let mut bytes = world.read(&path);
            bytes[5000] ^= 1;
            world.write(&path, bytes);
        }
        let damaged = format!("{name}-damaged");
        train(&damaged, flags);
        assert_same(&world, &kept, &damaged);
    }
    assert!(world.read("head-kept/last.safetensors") != world.read("f16-kept/last.safetensors"));
    // Another seed splits the same pictures in another way: the file is there.
    let pretrained = "--freeze backbone --weights head-kept/best.safetensors";
    train("one-seed", pretrained);
    let files = features();
    train("seed", &format!("{pretrained} --seed 7"));
    assert_eq!(features().len(), files.len());
    let err = train("small", "--freeze backbone --cache-budget 5KiB --cache-dir elsewhere");
    assert!(err.contains("note: ") && err.contains("--cache-budget"), "{err}");
    assert_same(&world, "head-kept", "small");
}

/// A process that may write no file of more than `kib` KiB, and is told so instead of being killed.
fn limited(world: &World, kib: u32, arguments: &str) -> (Option<i32>, String) {
    let binary = env!("CARGO_BIN_EXE_offshoot");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {binary} {arguments}", kib * 2);
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(&world.root)
        .env("XDG_CACHE_HOME", world.path("cache"))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_checkpoint_without_room_is_an_error_and_the_last_one_stays() {
    let world = World::new("full");
    data(&world.path("d"), &CLASSES, 6);
    let settings = format!("train d {SMALL} --freeze backbone --epochs 3");
    assert_eq!(world.run(&format!("{settings} --out whole")).code, Some(0));
    // There is room for the small files, and none for a model.
    let (code, err) = limited(&world, 200, &format!("{settings} --out run"));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("error: run/") && err.contains("cannot write"), "{err}");
    assert!(world.names("run").iter().all(|name| !name.ends_with(".tmp")));
    let said = world.run(&format!("{settings} --resume --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_same(&world, "whole", "run");
}

/// Runs a script with a small file system of its own at `small`; `$offshoot` is the program. `None` where the system does not
/// allow that.
fn on_small_disk(world: &World, size: &str, script: &str) -> Option<(Option<i32>, String)> {
    fs::create_dir_all(world.path("small")).unwrap();
    let binary = env!("CARGO_BIN_EXE_offshoot");
    let mount = format!("mount -t tmpfs -o size={size} none small || exit 99;");
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &format!("{mount} {script}")])
        .env("offshoot", binary)
        .current_dir(&world.root)
        .env("XDG_CACHE_HOME", world.path("cache"))
        .output()
        .ok()?;
    let err = String::from_utf8(output.stderr).unwrap();
    let possible = output.status.code() != Some(99) && !err.starts_with("unshare:");
    possible.then_some((output.status.code(), err))
}

#[test]
fn a_disk_that_fills_up_is_an_error_and_the_last_checkpoint_stays() {
    let world = World::new("disk");
    data(&world.path("d"), &CLASSES, 6);
    let settings = format!("train d {SMALL} --freeze backbone --epochs 20");
    let said = world.run(&format!("{settings} --out whole"));
    assert_eq!(said.code, Some(0), "{said:?}");
    // Stopped by a disk that is filled up after the first of its checkpoints; then there is room again.
    let script = format!(
        "$offshoot {settings} --checkpoint-every 0 --out small/run & run=$!
         while ! [ -e small/run/last.state.safetensors ]; do sleep 0.01; kill -0 $run || exit 98; done
         kill -STOP $run; cat /dev/zero > small/filler 2> /dev/null; kill -CONT $run
         wait $run; code=$?
         cp small/run/last.state.safetensors state; ls -A small/run > names
         rm small/filler
         $offshoot train --resume --out small/run || exit 97
         cp -r small/run run; exit $code"
    );
    let Some((code, err)) = on_small_disk(&world, "40m", &script) else {
        eprintln!("no small disk can be made here");
        return;
    };
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("error: small/run/") && err.contains("No space left"), "{err}");
    assert!(!world.text("names").contains(".tmp"), "{}", world.text("names"));
    assert!(!world.read("state").is_empty());
    for name in ["best.safetensors", "last.safetensors", "last.state.safetensors", "health.csv"] {
        assert!(world.read(&format!("whole/{name}")) == world.read(&format!("run/{name}")), "{name}");
    }
}

#[test]
fn a_run_on_a_disk_that_is_made_read_only_ends_and_its_model_still_loads() {
    let world = World::new("frozen-disk");
    data(&world.path("d"), &CLASSES, 4);
    let script = format!(
        "$offshoot train d {SMALL} --freeze backbone --epochs 2 --out small/run || exit 98
         mv small/run/previous.state.safetensors small/run/last.state.safetensors
         mount -o remount,ro small
         $offshoot eval small/run d > /dev/null || exit 97
         $offshoot train --resume --out small/run"
    );
    let Some((code, err)) = on_small_disk(&world, "40m", &script) else {
        eprintln!("no small disk can be made here");
        return;
    };
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("error: small/run") && err.contains("Read-only"), "{err}");
}

#[test]
fn a_damaged_checkpoint_is_an_error_and_the_one_before_goes_on() {
    let world = World::new("damaged");
    data(&world.path("d"), &CLASSES, 6);
    let command = format!("train d {SMALL} --freeze backbone --epochs 5 --checkpoint-every 0");
    assert_eq!(world.run(&format!("{command} --out whole")).code, Some(0));
    assert_eq!(world.run(&format!("{command} --out run")).code, Some(0));
    let state = world.read("run/last.state.safetensors");
    world.write("run/last.state.safetensors", &state[..state.len() - 100]);
    let said = world.run("train --resume --out run");
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("last.state.safetensors") && said.err.contains("delete it"), "{}", said.err);
    fs::remove_file(world.path("run/last.state.safetensors")).unwrap();
    let said = world.run("train --resume --out run");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_same(&world, "whole", "run");

    // The model beside it.
    fs::rename(world.path("run/previous.state.safetensors"), world.path("run/last.state.safetensors"))
        .unwrap();
    let mut last = world.read("run/last.safetensors");
    let middle = last.len() / 2;
    last[middle] ^= 1;
    world.write("run/last.safetensors", last);
    let said = world.run("train --resume --out run");
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("run/last.safetensors") && said.err.contains("best.safetensors"),
        "{}",
        said.err
    );
    fs::copy(world.path("run/best.safetensors"), world.path("run/last.safetensors")).unwrap();
    assert_eq!(world.run("train --resume --out run").code, Some(0));
    for name in ["best.safetensors", "last.safetensors", "last.state.safetensors"] {
        assert!(world.read(&format!("whole/{name}")) == world.read(&format!("run/{name}")), "{name}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new("read-only");
    data(&world.path("d"), &CLASSES, 4);
    fs::create_dir(world.path("locked")).unwrap();
    fs::set_permissions(world.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere; but nobody may make a folder there.
    let out = if fs::write(world.path("locked/x"), "").is_ok() { "/proc/run" } else { "locked/run" };
    let said = world.run(&format!("train d {SMALL} --freeze backbone --epochs 1 --out {out}"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains(out) && said.err.contains("cannot write"), "{}", said.err);
}

#[test]
fn another_instruction_set_is_told_of() {
    let world = World::new("isa");
    data(&world.path("d"), &CLASSES, 4);
    let command = format!("train d {SMALL} --freeze backbone --epochs 3");
    let said = world.run(&format!("{command} --out run --isa portable"));
    assert_eq!(said.code, Some(0), "{said:?}");
    // As if it had been stopped.
    fs::rename(world.path("run/previous.state.safetensors"), world.path("run/last.state.safetensors"))
        .unwrap();
    let said = world.run("train --resume --out run");
    assert_eq!(said.code, Some(0), "{said:?}");
    if offshoot::Isa::best() != offshoot::Isa::PORTABLE {
        assert!(said.err.contains("`cpu portable`") && said.err.contains("may differ"), "{}", said.err);
    }
}

/// Whatever stops the command, `stop` is told of each line on standard error until it says true.
fn interrupt(mut child: Child, mut stop: impl FnMut(&str) -> bool) -> (Option<i32>, String, String) {
    let mut err = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut sent = false;
    loop {
        let start = err.len();
        if lines.read_line(&mut err).unwrap() == 0 {
            break;
        }
        if !sent && stop(&err[start..]) {
            let kill =
                std::process::Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status();
            assert!(kill.unwrap().success());
            sent = true;
        }
    }
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    (child.wait().unwrap().code(), out, err)
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let world = World::new("interrupted");
    data(&world.path("d"), &CLASSES, 8);
    let command = format!("train d {SMALL} --epochs 12 --threads 1 --json");
    let whole = world.json(&format!("train d {SMALL} --epochs 12 --threads 2 --out whole"));

    let child =
        world.command(&format!("{command} --out run")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let (code, out, err) = interrupt(child.unwrap(), |line| line.starts_with("epoch   2"));
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("stopping after this step"), "{err}");
    assert!(err.contains("interrupted; go on with: offshoot train --resume --out run"), "{err}");
    let part: Value = serde_json::from_str(&out).unwrap();
    let epochs = part["epochs"].as_u64().unwrap();
    assert!((2..12).contains(&epochs), "{out}");

    let resumed = world.run("train --resume --out run --json");
    assert!(resumed.err.contains(&format!("resumed     after {epochs} epochs")), "{}", resumed.err);
    for key in ["epochs", "best", "trainable_parameters", "frozen_parameters"] {
        assert_eq!(resumed.json()[key], whole[key], "{key}");
    }
    for file in ["best.safetensors", "last.safetensors"] {
        assert!(world.read(&format!("run/{file}")) == world.read(&format!("whole/{file}")), "{file}");
    }
    let losses = |run: &str| -> Vec<String> {
        let text = world.text(&format!("{run}/results.csv"));
        text.lines().map(|line| line.split(',').take(7).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(losses("run"), losses("whole"));
    assert_eq!(losses("run").len(), 13);
}
