//! Only the command line words flags: what libraries tell to change is a `Remedy`.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that hold dashes of others: a style sheet, and the arguments of `trtexec`.
const OTHERS: [&str; 2] = ["report/page.rs", "formats/src/tensorrt.rs"];

/// The string literals in Rust source, without comments, each with its line.
fn literals(source: &str) -> Vec<(usize, String)> {
    let characters: Vec<char> = source.chars().collect();
    let (mut found, mut i, mut line) = (Vec::new(), 0, 1);
    while i < characters.len() {
        let next = characters.get(i + 1);
        match characters[i] {
            '/' if next == Some(&'/') => i += characters[i..].iter().take_while(|c| **c != '\n').count(),
            // A character may be a quote; a lifetime has no quote at its end.
            '\'' if next == Some(&'\\') => {
                i += 3 + characters[i + 3..].iter().take_while(|c| **c != '\'').count() + 1;
            }
            '\'' if characters.get(i + 2) == Some(&'\'') => i += 3,
            '"' => {
                // A raw literal ends at a quote and as many signs as stand before it.
                let signs = characters[..i].iter().rev().take_while(|c| **c == '#').count();
                let raw = i > signs && characters[i - signs - 1] == 'r';
                let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', signs)).collect();
                let end: Vec<char> = if raw { end.chars().collect() } else { vec!['"'] };
                let start = i + 1;
                i = start;
                while !characters[i..].starts_with(&end) {
                    i += if !raw && characters[i] == '\\' { 2 } else { 1 };
                }
                let text: String = characters[start..i].iter().collect();
                let lines = text.matches('\n').count();
                found.push((line, text));
                line += lines;
                i += end.len();
            }
            character => {
                line += usize::from(character == '\n');
                i += 1;
            }
        }
    }
    found
}

/// Whether a text has `--` and a letter behind it.
fn names_a_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

#[test]
fn no_library_names_a_flag() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for folder in fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.ends_with("offshoot-cli") {
            continue;
        }
        for path in sources(&folder.join("src")) {
            if OTHERS.iter().any(|other| path.ends_with(other) || path.to_string_lossy().ends_with(other)) {
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for (line, text) in literals(code) {
                seen += 1;
                if names_a_flag(&text) {
                    wrong.push(format!("{}:{line}: {text}", path.display()));
                }
            }
        }
    }
    assert!(seen > 1000, "{seen} literals");
    assert!(wrong.is_empty(), "give a `Remedy` of offshoot-graph in their place:\n{}", wrong.join("\n"));
}

#[test]
fn flags_in_literals_are_found() {
    let source = "// \"--no\"\nlet a = '\"'; let b = \"a \\\" --lr\";\nlet c = r#\"x\" --out\"#; let d: &'static str = \"-- \";";
    let found: Vec<(usize, bool)> =
        literals(source).into_iter().map(|(line, text)| (line, names_a_flag(&text))).collect();
    assert_eq!(found, [(2, true), (3, true), (3, false)]);
}
