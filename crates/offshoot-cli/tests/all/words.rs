//! The words of the repository: the field's terms, and one name for one thing. Phrases that were replaced must not come back.

use std::fs;
use std::path::{Path, PathBuf};

/// Phrases that are not used, and what is said in their place. They are compared in lower case, and end at ends of words.
/// Single words are looked for in comments and in Markdown, outside of code; several words are looked for everywhere.
const RETIRED: &[(&str, &str)] = &[
    // The field's terms.
    ("way forward", "forward pass"),
    ("way back", "backward pass"),
    ("runs both ways", "is bidirectional"),
    ("tap", "kernel element"),
    ("taps", "kernel elements"),
    ("truth value", "boolean"),
    ("truth values", "booleans"),
    ("operator set", "opset"),
    ("operator sets", "opsets"),
    ("same bits", "bit-identical"),
    ("picture's bits", "the result of a picture"),
    ("the bits of the result", "the result"),
    ("half the bits", "half precision"),
    ("ending of its name", "file extension"),
    ("ending of the name", "file extension"),
    ("model's ending", "file extension"),
    ("the ending of a", "the extension of a"),
    ("without their endings", "without the extension"),
    ("high-water mark", "peak memory"),
    ("a guess", "random guessing"),
    ("by heart", "memorize"),
    ("asked about", "predicts"),
    ("the surest", "the most certain"),
    ("how sure", "the probability"),
    ("taken at their word", "calibrated"),
    ("in parts of the largest", "relative to the largest"),
    ("the part of the pictures", "the fraction of the pictures"),
    ("the part of the validation pictures", "the fraction of the validation pictures"),
    ("the part of the target", "the fraction of the target"),
    ("a part of 1", "a fraction below 1"),
    ("were recognised", "were classified correctly"),
    ("pictures recognised", "pictures classified correctly"),
    ("pictures at once", "batch size"),
    ("through the rounding", "quantization-aware training"),
    ("not got better", "not improved"),
    ("encoded again", "re-encoded"),
    ("worst pictures", "pictures with the highest loss"),
    // Caching.
    ("says about pictures", "features"),
    ("say about pictures", "features"),
    ("says of pictures", "predictions"),
    ("says of a picture", "the prediction for a picture"),
    ("says of the validation pictures", "predictions on the validation set"),
    ("features kept", "cached features"),
    ("kept features", "cached features"),
    ("features are kept", "features are cached"),
    // Comparing and exporting.
    ("answers like", "matches"),
    ("answer like", "match"),
    ("answer alike", "match"),
    ("every answer", "all outputs"),
    ("no answers", "not finite"),
    ("takes its name", "is moved into place"),
    ("awkward sizes", "unusual sizes"),
    // Structure of the code.
    ("rooms", "modules or crates"),
    ("which room", "which crate"),
    ("each room", "each module"),
    ("makes room", "is removed first"),
    ("seam between", "interface between"),
    ("thin shell", "thin layer"),
    ("no say in", "does not change"),
    ("the way out", "what to do"),
    ("a way out", "what to do"),
    ("without a word", "silently"),
    ("worth a word", "reported"),
    ("a word on", "a comment on"),
    ("a word about", "a note about"),
    ("extensions lie", "extensions are not reliable"),
    ("lying file", "damaged or forged file"),
    ("an honest file", "a normal file"),
    ("strangers", "untrusted files"),
    ("anew", "again"),
    ("turn by turn", "alternately"),
    ("timed in turns", "timed alternately"),
    ("taken in turns", "taken alternately"),
    ("goes round them", "runs them alternately"),
    ("is borne", "is tolerated"),
    ("that kernels like", "for kernels"),
    ("meets the file system", "uses the file system"),
    // Guide.
    ("keeps what it says", "caches its features"),
    ("changes its mind", "predicts another class"),
    ("quiet trap", "(nothing)"),
    ("price to pay", "cost"),
    ("sure answers", "confident predictions"),
    ("finds its place", "settles"),
    // Spelling.
    ("quantise", "quantize"),
    ("quantised", "quantized"),
    ("quantisation", "quantization"),
    ("optimisation", "optimization"),
    ("normalised", "normalized"),
    ("normalisation", "normalization"),
    ("colour", "color"),
    ("grey", "gray"),
];

/// Folders without text of ours, by name: build outputs, inputs of fuzzing, golden files and what other programs leave.
const SKIPPED: [&str; 6] = ["target", "corpus", "artifacts", "seeds", "golden", "shared"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The text files at or below `folder`, but for this one.
fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap_or(".").to_owned();
        if name.starts_with('.') || SKIPPED.contains(&&*name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            texts(&path, found);
        } else if is_text(&path) && name != "words.rs" {
            found.push(path);
        }
    }
}

fn is_text(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    matches!(extension, None | Some("rs" | "md" | "py" | "toml" | "snap"))
        && path.metadata().unwrap().len() < 1 << 20
}

/// The prose of a line: without code in backticks, and of a line of Rust or Python the comment alone.
fn prose(line: &str, markdown: bool) -> String {
    let text = match (markdown, line.find("//")) {
        (true, _) => line,
        (false, Some(start)) => &line[start..],
        (false, None) => "",
    };
    text.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// What a line of a paragraph, a comment or a text of several lines holds, without the marks around it.
fn content(line: &str) -> &str {
    line.trim().trim_start_matches(['/', '!', '#', '>', '*', '-']).trim_end_matches('\\').trim()
}

/// The places of `phrase` in `text` where no letter, digit or underscore stands beside it.
fn places<'a>(text: &'a str, phrase: &'a str) -> impl Iterator<Item = usize> + 'a {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(phrase).map(|(at, _)| at).filter(move |&at| {
        !inside(text[..at].chars().next_back()) && !inside(text[at + phrase.len()..].chars().next())
    })
}

/// The retired phrases in a text, each with its line and what to say.
fn retired(text: &str, markdown: bool) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let whole = text.to_lowercase();
    let first_word = |phrase: &str| phrase.split(' ').next().is_some_and(|word| whole.contains(word));
    let candidates: Vec<_> = RETIRED.iter().filter(|(phrase, _)| first_word(phrase)).collect();
    let mut found = Vec::new();
    let mut block = false;
    for (i, line) in lines.iter().enumerate() {
        let fence = line.trim_start().starts_with("```");
        block ^= markdown && fence;
        let first = content(line).to_lowercase();
        let both = format!("{first} {}", lines.get(i + 1).map_or("", |next| content(next)).to_lowercase());
        let alone = if block || fence { String::new() } else { prose(line, markdown).to_lowercase() };
        for &&(phrase, instead) in &candidates {
            let is = match phrase.contains([' ', '-']) {
                true => places(&both, phrase).any(|at| at < first.len()),
                false => places(&alone, phrase).next().is_some(),
            };
            if is {
                found.push(format!("{}: `{phrase}`; write: {instead}", i + 1));
            }
        }
    }
    found
}

#[test]
fn retired_phrases_do_not_come_back() {
    let root = root();
    let mut files = Vec::new();
    texts(&root, &mut files);
    assert!(files.len() > 300, "{} files", files.len());
    let mut found = Vec::new();
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let markdown = path.extension().is_some_and(|e| e == "md");
        let name = path.strip_prefix(&root).unwrap().display();
        found.extend(retired(&text, markdown).into_iter().map(|what| format!("{name}:{what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn retired_phrases_are_found_across_lines_and_code_is_left_alone() {
    for (text, line) in [
        ("/// It answers\n/// like the model.", 1),
        ("let x = 1;\nprintln!(\"DOES NOT answer like\");", 2),
        ("let taps = 3; // the taps of a kernel", 1),
    ] {
        let found = retired(text, false);
        assert!(found.len() == 1 && found[0].starts_with(&format!("{line}: ")), "{text}: {found:?}");
    }
    assert_eq!(retired("# A\n\nThe rooms of the code.", true).len(), 1);
    assert_eq!(retired("```text\ncolour\n```\n`colour`", true).len(), 0);
    for text in ["let taps = 3;", "fn colour() {}", "/// `--colour-jitter`", "// tapestry"] {
        assert!(retired(text, false).is_empty(), "{text}");
    }
}
