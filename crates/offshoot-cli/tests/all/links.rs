//! The links of the documents lead to files that are there, and to headings that these have.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The documents at or below `folder`.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap_or(".");
        if name.starts_with('.') || ["target", "shared"].contains(&name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// The text of a document without blocks of code, a line each, with code spans emptied.
fn prose(text: &str) -> Vec<String> {
    let mut block = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let fence = line.starts_with("```");
        block ^= fence;
        let spans = line.split('`').enumerate();
        let plain: String = spans.map(|(i, part)| if i % 2 == 0 { part } else { "" }).collect();
        lines.push(if block || fence { String::new() } else { plain });
    }
    lines
}

/// The targets of links and pictures in a line: `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a document, as GitHub makes them of its headings.
fn anchors(text: &str) -> Vec<String> {
    let mut block = false;
    let headings = text.lines().filter(move |line| {
        block ^= line.starts_with("```");
        !block && line.starts_with('#')
    });
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    };
    headings.map(|line| line.trim_start_matches('#').trim().chars().filter_map(kept).collect()).collect()
}

/// What is wrong with a link in `document`; `None` for a good one and for one to another site.
fn broken(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent().unwrap().join(file),
    };
    if !path.exists() {
        return Some("there is no such file".into());
    }
    let anchors = anchors(&fs::read_to_string(&path).unwrap_or_default());
    anchor.filter(|anchor| !anchors.iter().any(|a| a == anchor)).map(|_| "there is no such heading".into())
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut files = Vec::new();
    documents(&root(), &mut files);
    let mut found = Vec::new();
    let mut count = 0;
    for document in files {
        for (number, line) in prose(&fs::read_to_string(&document).unwrap()).iter().enumerate() {
            for target in targets(line) {
                count += 1;
                let name = document.strip_prefix(root()).unwrap().display();
                let place = format!("{name}:{}: {target}", number + 1);
                found.extend(broken(&document, target).map(|what| format!("{place}: {what}")));
            }
        }
    }
    assert!(count > 30, "{count} links");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn broken_links_are_found() {
    let readme = root().join("README.md");
    for good in [
        "LICENSE-MIT",
        "docs/guide/",
        "#what-works-today",
        "docs/features.md#onnx-files-that-are-read",
        "https://a.b",
    ] {
        assert_eq!(broken(&readme, good), None, "{good}");
    }
    for bad in ["nowhere.md", "docs/features.md#nothing", "#nothing", "../README.md"] {
        assert!(broken(&readme, bad).is_some(), "{bad}");
    }
    assert_eq!(targets("[a](b) and ![c](d.svg)").collect::<Vec<_>>(), ["b", "d.svg"]);
    assert_eq!(prose("`[a](b)`\n```text\n[c](d)\n```"), ["", "", "", ""]);
}
