//! Files that were damaged, lost or given other names after they were written.

use std::fs;

use crate::support::{CLASSES, SMALL, World, data};

/// Flips a bit in the middle of a file.
fn damage(world: &World, name: &str) {
    let mut bytes = world.read(name);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    world.write(name, bytes);
}

/// A world with pictures in `d` and a run of one epoch in `run`.
fn trained(name: &str) -> World {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, 8);
    let said = world.run(&format!("train d {SMALL} --epochs 1 --freeze backbone --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    world
}

#[test]
fn a_damaged_export_is_used_by_nothing_and_a_renamed_one_is_whole() {
    let world = trained("exports");
    assert_eq!(world.run("export run --format onnx,torchscript --out ex").code, Some(0));
    for ending in ["onnx", "pt"] {
        let renamed = format!("named/birds.{ending}");
        world.write(&renamed, world.read(&format!("ex/mobilenet_v2.{ending}")));
        let manifest = format!("ex/mobilenet_v2.{ending}.manifest.json");
        world.write(&format!("{renamed}.manifest.json"), world.read(&manifest));
        let said = world.run(&format!("verify {renamed} --against run"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        assert_eq!(world.run(&format!("predict {renamed} d/red/00.bmp")).code, Some(0));
        damage(&world, &renamed);
        for command in [
            "predict FILE d/red/00.bmp",
            "eval FILE d",
            "check FILE d",
            "export FILE --format onnx --out new",
        ] {
            let said = world.run(&command.replace("FILE", &renamed));
            assert_eq!(said.code, Some(2), "{command}: {said:?}");
            assert!(said.err.contains(&renamed) && said.err.contains("SHA-256"), "{command}: {said:?}");
        }
        fs::remove_file(world.path(&format!("{renamed}.manifest.json"))).unwrap();
    }
    damage(&world, "ex/mobilenet_v2.onnx");
    let said = world.run("quantize ex/mobilenet_v2.onnx --mode dynamic --out q");
    assert!(said.code == Some(2) && said.err.contains("SHA-256"), "{said:?}");
}

#[test]
fn a_run_goes_on_only_with_its_best_model() {
    let world = trained("best");
    let best = world.read("run/best.safetensors");
    let spoil: [fn(&World); 3] = [
        |world| damage(world, "run/best.safetensors"),
        |world| fs::remove_file(world.path("run/best.safetensors")).unwrap(),
        |world| world.write("run/best.safetensors", "none"),
    ];
    for (case, spoil) in spoil.into_iter().enumerate() {
        spoil(&world);
        let before = world.read("run/last.state.safetensors");
        for command in ["train --resume --out run", "train --resume --epochs 2 --out run"] {
            let said = world.run(command);
            assert_eq!(said.code, Some(2), "{case}: {command}: {said:?}");
            assert!(said.err.contains("run/best.safetensors") && said.err.contains("epoch 1"), "{said:?}");
        }
        assert!(world.read("run/last.state.safetensors") == before, "{case}");
        world.write("run/best.safetensors", &best);
    }
    // Without the list of pictures its classes are known still.
    fs::remove_file(world.path("run/pictures.csv")).unwrap();
    fs::rename(world.path("d/red"), world.path("d/pink")).unwrap();
    let said = world.run("train --resume --epochs 2 --out run");
    assert!(said.code == Some(2) && said.err.contains("pink") | said.err.contains("red"), "{said:?}");
    fs::rename(world.path("d/pink"), world.path("d/red")).unwrap();
    assert_eq!(world.run("train --resume --epochs 2 --out run").code, Some(0));
}

#[test]
fn validation_without_numbers_makes_no_best_model() {
    let world = World::new("nan");
    data(&world.path("d"), &CLASSES, 8);
    let said = world.run(&format!(
        "train d {SMALL} --optimizer sgd --lr 1e20 --on-nonfinite skip --augment off --epochs 1 --out run"
    ));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("no best model"), "{said:?}");
    assert!(!world.path("run/best.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn a_report_does_not_follow_links_or_replace_events_of_others() {
    let world = trained("events");
    fs::remove_dir_all(world.path("run/tensorboard")).unwrap();
    world.write("other/events.out.tfevents.0.offshoot", "mine");
    std::os::unix::fs::symlink(world.path("other"), world.path("run/tensorboard")).unwrap();
    let said = world.run("report run");
    assert!(said.code == Some(2) && said.err.contains("run/tensorboard"), "{said:?}");
    fs::remove_file(world.path("run/tensorboard")).unwrap();
    world.write("run/tensorboard/events.out.tfevents.0.offshoot", "mine");
    assert_eq!(world.run("report run").code, Some(2));
    for file in ["other", "run/tensorboard"] {
        assert_eq!(world.text(&format!("{file}/events.out.tfevents.0.offshoot")), "mine");
    }
    fs::remove_dir_all(world.path("run/tensorboard")).unwrap();
    assert_eq!(world.run("report run").code, Some(0));
    assert_eq!(world.run("report run").code, Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_leaves_nothing() {
    let world = trained("limit");
    let limited = "ulimit -f 200; exec \"$0\" export run --format onnx --out ex";
    let binary = env!("CARGO_BIN_EXE_offshoot");
    let said = std::process::Command::new("bash")
        .current_dir(&world.root)
        .args(["-c", limited, binary])
        .output()
        .unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2), "{err}");
    assert!(err.matches("error: ").count() == 1 && err.contains("ex/mobilenet_v2.onnx"), "{err}");
    assert!(!world.path("ex").exists(), "{:?}", world.names("ex"));
}
