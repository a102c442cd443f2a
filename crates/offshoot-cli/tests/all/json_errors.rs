//! An error under `--json` is one JSON object on standard output, of every command.

use serde_json::Value;

use crate::support::{Said, World};

/// Each command with a file or folder that is not there, or that cannot be used.
const BAD_INPUT: [(&str, &str); 19] = [
    ("train nowhere --model resnet18 --out r", "nowhere"),
    ("train . --model resnet18 --weights lost.pth --out r", "lost.pth"),
    ("recipe --model resnet18 --recipe lost.toml", "lost.toml"),
    ("lr-find nowhere --model resnet18", "nowhere"),
    ("eval lost.safetensors nowhere", "lost.safetensors"),
    ("predict lost.onnx x.png", "lost.onnx"),
    ("predict empty x.png", "empty"),
    ("explain lost.onnx x.png --out o", "lost.onnx"),
    ("export lost.onnx --format onnx", "lost.onnx"),
    ("quantize lost.onnx --mode dynamic", "lost.onnx"),
    ("verify lost.onnx --against also-lost.onnx", "lost.onnx"),
    ("check junk.onnx nowhere", "junk.onnx"),
    ("data check nowhere", "nowhere"),
    ("data show empty", "empty"),
    ("report empty", "empty"),
    ("bench infer --model junk.onnx", "junk.onnx"),
    ("bench formats junk.safetensors", "junk.safetensors"),
    ("inspect lost.pth", "lost.pth"),
    ("inspect junk.onnx", "junk.onnx"),
];

/// Commands that no file is wrong with.
const BAD_VALUES: [&str; 5] = [
    "pull no-such-model",
    "recipe --model no-such-model",
    "train --model resnet18",
    "lr-find empty --model resnet18 --from 2 --to 1",
    "bench train --model no-such-model",
];

/// What clap refuses, `serve` with its feature or without.
const BAD_USAGE: [&str; 9] = [
    "serve",
    "train --no-such-flag",
    "train d --epochs many",
    "models extra",
    "quantize m.onnx",
    "bench",
    "no-such-command",
    "",
    "predict",
];

fn world(name: &str) -> World {
    let world = World::new(name);
    std::fs::create_dir(world.path("empty")).unwrap();
    world.write("junk.onnx", "junk");
    world.write("junk.safetensors", "junk");
    world
}

/// The error of a command: its exit code is 2, standard output one object on one line, standard error the same in words.
fn error(said: &Said) -> Value {
    assert_eq!(said.code, Some(2), "{said:?}");
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    let object: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let error = &object["error"];
    let message = error["message"].as_str().unwrap_or_else(|| panic!("no message: {said:?}"));
    assert!(!message.is_empty() && !message.contains("error:"), "{said:?}");
    let keys = error.as_object().unwrap().keys();
    assert!(keys.into_iter().all(|key| ["message", "file", "help"].contains(&key.as_str())), "{said:?}");
    error.clone()
}

#[test]
fn an_error_about_a_file_names_it() {
    let world = world("file");
    for (command, file) in BAD_INPUT {
        let said = world.run(&format!("{command} --json"));
        let error = error(&said);
        let named = error["file"].as_str().map(|path| world.relative(path));
        let here = world.root.to_str().unwrap();
        let named = named.map(|path| if path.starts_with(here) { ".".to_owned() } else { path });
        assert_eq!(named.as_deref(), Some(file), "{command}: {said:?}");
        let message = error["message"].as_str().unwrap();
        assert!(said.err.contains(&format!("error: {message}")), "{command}: {said:?}");
    }
}

#[test]
fn an_error_about_a_value_is_an_object_too() {
    let world = world("value");
    for command in BAD_VALUES {
        let said = world.run(&format!("{command} --json"));
        assert!(error(&said).get("file").is_none(), "{command}: {said:?}");
    }
}

#[test]
fn bad_usage_is_an_object_with_help() {
    let world = world("usage");
    for command in BAD_USAGE {
        let said = world.run(&format!("{command} --json"));
        let error = error(&said);
        assert!(error["help"].as_str().is_some_and(|help| help.contains("--help")), "{command}: {said:?}");
    }
}

#[test]
fn without_the_flag_nothing_is_printed() {
    let world = world("plain");
    for command in ["inspect lost.pth", "train --no-such-flag", "predict -- --json"] {
        let said = world.run(command);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{command}: {said:?}");
    }
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names =
        listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_is_in_these_lists() {
    let world = world("all");
    let tested = |name: &str| {
        let named = BAD_INPUT.iter().map(|(command, _)| *command).chain(BAD_VALUES).chain(BAD_USAGE);
        named.into_iter().any(|command| command.starts_with(name))
    };
    let all = commands(&world.run("--help").out);
    assert!(all.len() >= 15, "{all:?}");
    for name in &all {
        assert!(tested(name), "{name}");
        for nested in commands(&world.run(&format!("{name} --help")).out) {
            assert!(tested(&format!("{name} {nested}")), "{name} {nested}");
        }
    }
}

#[test]
fn help_is_grouped_by_headings() {
    let world = world("help");
    let help = world.run("train --help").out;
    for heading in
        ["Data", "Model", "Optimization", "Augmentation", "Caching", "Preprocessing", "Execution", "Output"]
    {
        assert!(help.lines().any(|line| line == format!("{heading}:")), "{heading}: {help}");
    }
    for name in commands(&world.run("--help").out) {
        let mut texts = vec![format!("{name} --help")];
        texts.extend(
            commands(&world.run(&texts[0]).out).iter().map(|nested| format!("{name} {nested} --help")),
        );
        for command in texts {
            let help = world.run(&command).out;
            let other = help.lines().skip_while(|line| *line != "Options:").skip(1);
            let mut other = other.take_while(|line| line.is_empty() || line.starts_with(' '));
            assert!(
                !other.any(|line| line.trim_start().starts_with("--")),
                "without a heading: {command}: {help}"
            );
        }
    }
}
