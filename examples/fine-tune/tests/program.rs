//! The program on small pictures of the repository.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use offshoot::Classifier;

#[test]
fn it_trains_and_exports_a_classifier_with_proof() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fine-tune");
    let _ = fs::remove_dir_all(&root);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/offshoot-data/tests/golden");
    for (i, name) in (0..10).zip(["baseline_420.jpg", "exif_6.jpg"].iter().cycle()) {
        let class = root.join("data").join(["flat", "turned"][i % 2]);
        fs::create_dir_all(&class).unwrap();
        fs::copy(golden.join(name), class.join(format!("{i}.jpg"))).unwrap();
    }
    let [data, run, file] = ["data", "run", "model.onnx"].map(|name| root.join(name));
    let mut program = Command::new(env!("CARGO_BIN_EXE_fine-tune"));
    let output = program.args([&data, &run, &file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("top-1 agrees on 1\n"), "{said}");

    let [trained, exported] = [&run, &file].map(|path| Classifier::open(path).unwrap());
    let picture = golden.join("exif_3.jpg");
    let [ours, theirs] = [&trained, &exported].map(|model| model.classify_file(&picture).unwrap());
    assert_eq!(trained.classes(), ["flat", "turned"]);
    for (a, b) in ours.probabilities().iter().zip(theirs.probabilities()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}
