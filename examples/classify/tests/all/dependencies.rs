//! How much code a program that only classifies pulls in.

use std::collections::BTreeSet;
use std::process::Command;

/// The most crates, this one among them.
const MOST: usize = 76;

#[test]
fn a_program_that_classifies_needs_few_crates() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--locked", "--package", "classify"]);
    tree.args(["--edges", "normal", "--prefix", "none", "--no-dedupe"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    assert!(crates.len() > 10 && crates.len() <= MOST, "{} crates: {crates:#?}", crates.len());
    let name = |line: &&str| line.split(' ').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = crates.iter().map(name).collect();
    for other in ["clap", "indicatif", "ctrlc", "signal-hook", "ureq", "ort", "dirs", "offshoot-train"] {
        assert!(!names.contains(other), "{other}");
    }
}
