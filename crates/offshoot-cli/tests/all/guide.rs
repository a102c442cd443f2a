//! The commands of README and guide, in both languages: each of them is found, and each runs.
//!
//! Commands stand in blocks marked `sh` (a command a line) or `console` (those after `$ `), and in code spans that start with
//! `offshoot`. A page's commands run in order in a folder of their own, which holds the names that the pages use: some of
//! the pictures of `photos6`, weights, and for pages that do not train one a run in `run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{World, cached};

/// Pages without a command.
const NO_COMMANDS: [&str; 2] = ["docs/guide/README.md", "docs/guide/README.zh.md"];

/// Commands that are not run, by how they start, and why.
const NOT_RUN: [(&str, &str); 5] = [
    ("./demo", "builds a release and trains for minutes"),
    ("./test", "runs this test"),
    ("cargo build --release && scripts/fetch && scripts/peers", "builds and downloads"),
    ("offshoot pull", "downloads; tests/pull.rs has a server of its own"),
    ("docs/guide/experiments/", "builds a release; the script is compiled in its place"),
];

/// Experiments are compiled and not run: they take minutes to hours.
const EXPERIMENT: &str = "docs/guide/experiments/";

/// Words of the pages that stand for the user's own, and what they are here.
const WORDS: [(&str, &str); 6] = [
    ("DATA", "photos6"),
    ("PICTURES", "photos6/birds"),
    ("MODEL", "run"),
    ("NAME", "mobilenet_v2"),
    // There are no weights of a ResNet-18 among the assets.
    ("resnet18", "mobilenet_v2"),
    ("python", "\"$OFFSHOOT_PEERS/bin/python\""),
];

/// What makes commands faster, by how they start.
const FASTER: [(&str, &str); 7] = [
    ("offshoot train", "--size 64 --epochs 2 --cache-dir cache"),
    ("offshoot lr-find", "--size 64 --steps 20"),
    ("offshoot data check", "--size 64"),
    ("offshoot data show", "--size 64 --pictures 2 --views 2"),
    ("offshoot bench formats", "--batch 1 --runs 1"),
    ("offshoot bench infer", "--runs 1"),
    ("offshoot quantize run --mode static", "--calibration-pictures 8"),
];

/// Pictures of each class.
const PICTURES: usize = 8;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README and guide in both languages, with their text.
fn pages() -> Vec<(String, String)> {
    let guide = fs::read_dir(root().join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = guide
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .map(|path| format!("docs/guide/{}", path.file_name().unwrap().to_str().unwrap()))
        .chain(["README.md".into(), "README.zh.md".into()])
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read_to_string(root().join(&name)).unwrap())).collect()
}

/// The commands of a page, in order. An error for a block that cannot be told to be commands or not.
fn commands(text: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut block: Option<&str> = None;
    let mut prose = String::new();
    for (number, line) in text.lines().enumerate() {
        let at = |what: &str| format!("line {}: {what}", number + 1);
        match (line.strip_prefix("```"), block) {
            (Some(kind), None) => {
                found.extend(spans(&std::mem::take(&mut prose)));
                block = Some(match kind {
                    "sh" | "console" | "python" | "rust,no_run" | "text" => kind,
                    other => return Err(at(&format!("a block of `{other}`; mark commands with sh"))),
                });
            }
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) if line.ends_with('\\') => return Err(at("a command on several lines")),
            (None, Some("sh")) if !line.trim().is_empty() => found.push(line.to_owned()),
            (None, Some("console")) => found.extend(line.strip_prefix("$ ").map(str::to_owned)),
            (None, Some(_)) => {}
            (None, None)
                if line.starts_with("    ") && text.lines().nth(number.wrapping_sub(1)) == Some("") =>
            {
                return Err(at("an indented block; mark commands with sh"));
            }
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    found.extend(spans(&prose));
    Ok(found)
}

/// The commands in code spans. One that names no argument is a name: its help is a command.
fn spans(prose: &str) -> Vec<String> {
    let code = prose.split('`').skip(1).step_by(2).map(|code| code.split_whitespace().collect::<Vec<_>>());
    let commands = code.filter(|words| words.first() == Some(&"offshoot") && words.len() > 1);
    commands
        .map(|words| match words[..] {
            [_, name] if name != "models" => format!("offshoot {name} --help"),
            _ => words.join(" "),
        })
        .collect()
}

/// `text` with a word, which no letter, digit or underscore stands beside, replaced.
fn with_word(text: &str, word: &str, by: &str) -> String {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut out = String::new();
    let mut rest = text;
    while let Some(place) = rest.find(word) {
        let (before, after) = (&rest[..place], &rest[place + word.len()..]);
        let part = inside(before.chars().last()) || inside(after.chars().next());
        out += before;
        out += if part { word } else { by };
        rest = after;
    }
    out + rest
}

/// The command as it is run here; `None` where it is not.
fn here(command: &str) -> Option<String> {
    let command = command.split(" #").next().unwrap_or(command).trim();
    if NOT_RUN.iter().any(|(start, _)| command.starts_with(start)) || command.contains(EXPERIMENT) {
        return None;
    }
    let mut command = WORDS.iter().fold(command.to_owned(), |text, (word, by)| with_word(&text, word, by));
    if let Some((_, flags)) = FASTER.iter().find(|(start, _)| command.starts_with(start)) {
        let (called, redirected) = command
            .split_once(" > ")
            .map_or((&*command, String::new()), |(called, to)| (called, format!(" > {to}")));
        command = format!("{called} {flags}{redirected}");
    }
    Some(command)
}

#[test]
fn every_page_has_commands_and_every_block_is_of_a_known_kind() {
    for (name, text) in pages() {
        let found = commands(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.is_empty(), NO_COMMANDS.contains(&name.as_str()), "{name}: {found:?}");
    }
}

#[test]
fn both_languages_have_the_same_blocks_of_commands() {
    let pages = pages();
    let blocks = |name: &str| {
        let text =
            &pages.iter().find(|page| page.0 == name).unwrap_or_else(|| panic!("there is no {name}")).1;
        let all = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        // What follows a `#` is translated.
        all.flat_map(str::lines)
            .map(|line| line.split('#').next().unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    };
    for (name, _) in pages.iter().filter(|page| !page.0.ends_with(".zh.md")) {
        assert_eq!(blocks(name), blocks(&name.replace(".md", ".zh.md")), "{name}");
    }
}

#[test]
fn commands_are_found_wherever_they_stand() {
    let text = "Say `offshoot eval`, or\n`offshoot predict\nrun a.png`.\n\n```sh\noffshoot models\n```\n\n```console\n$ offshoot recipe\nout\n```\n";
    assert_eq!(
        commands(text).unwrap(),
        ["offshoot eval --help", "offshoot predict run a.png", "offshoot models", "offshoot recipe"]
    );
    for bad in ["```\noffshoot models\n```\n", "Run:\n\n    offshoot models\n", "```bash\nls\n```\n"] {
        assert!(commands(bad).is_err(), "{bad}");
    }
    assert_eq!(
        here("offshoot eval NAME.onnx DATA > x").unwrap(),
        "offshoot eval mobilenet_v2.onnx photos6 > x"
    );
    let quicker = here("offshoot train DATA --out NAMES > log").unwrap();
    assert!(quicker.starts_with("offshoot train photos6 --out NAMES --size") && quicker.ends_with(" > log"));
}

#[test]
fn experiments_that_pages_name_are_there() {
    for (name, text) in pages() {
        for rest in text.split(EXPERIMENT).skip(1) {
            let end =
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c))).unwrap_or(rest.len());
            let script = root().join(EXPERIMENT).join(&rest[..end]);
            assert!(script.is_file(), "{name} names {}", script.display());
        }
    }
}

/// A folder with what the pages' commands take; `run` where `trained`.
fn world(name: &str, trained: Option<&World>) -> World {
    let world = World::new(name);
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    // README predicts this one.
    let shown = "animals_birds_crow.png";
    for class in fs::read_dir(assets.join("photos6")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut files: Vec<PathBuf> =
            fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|path| (path.file_name().unwrap() != shown, path.clone()));
        let folder = world.path("photos6").join(class.file_name().unwrap());
        fs::create_dir_all(&folder).unwrap();
        for file in files.iter().take(PICTURES) {
            fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
    fs::copy(assets.join("weights/mobilenet_v2.pth"), world.path("mobilenet_v2.pth")).unwrap();
    let text =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../offshoot-formats/tests/golden/text/encoder.onnx");
    fs::copy(text, world.path("classifier.onnx")).unwrap();
    if let Some(trained) = trained {
        copy(&trained.path("run"), &world.path("run"));
        copy(&trained.path("run/exports"), &world.root);
    }
    world
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => assert!(fs::copy(&path, &to).is_ok(), "{}", to.display()),
        }
    }
}

/// Whether a command makes the run directory `run`, which is the default.
fn trains(command: &str) -> bool {
    command.starts_with("offshoot train ")
        && !command.contains("--help")
        && (!command.contains("--out ") || command.contains("--out run"))
}

/// Runs a command in the folder with `offshoot` on the search path.
fn run(world: &World, command: &str) {
    let binary = Path::new(env!("CARGO_BIN_EXE_offshoot")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(&world.root).env("PATH", path);
    shell.env("OFFSHOOT_PEERS", cached("OFFSHOOT_PEERS", "peers")).env("XDG_CACHE_HOME", world.path("cache"));
    let output = shell.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(output.status.code(), Some(0), "{command}\n{}\n{}", said[0], said[1]);
}

#[test]
#[ignore = "needs the assets (scripts/fetch) and the peers (scripts/peers)"]
fn every_command_of_every_page_runs() {
    let first = world("first", None);
    let train =
        "offshoot train DATA --model mobilenet_v2 --weights mobilenet_v2.pth --freeze backbone --out run";
    for command in [train, "offshoot export run --format onnx"] {
        run(&first, &here(command).unwrap());
    }
    let pages = pages();
    for (number, (name, text)) in pages.iter().enumerate() {
        let all = commands(text).unwrap();
        if let Some(english) = name.strip_suffix(".zh.md") {
            let (_, english) = pages.iter().find(|page| page.0 == format!("{english}.md")).unwrap();
            let run: Vec<_> = commands(english).unwrap().iter().map(|command| here(command)).collect();
            if all.iter().all(|command| run.contains(&here(command))) {
                continue;
            }
        }
        let makes_one = all.iter().any(|command| trains(command));
        let world = world(&number.to_string(), (!makes_one).then_some(&first));
        for command in &all {
            eprintln!("{name}: {command}");
            if let Some(command) = here(command) {
                run(&world, &command);
            }
        }
    }
}
