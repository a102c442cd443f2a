//! Random graphs through every format: an operator that a format does not have is an error, never a panic, and what was written and
//! read again gives the same answer.

use std::io::Cursor;
use std::num::NonZeroUsize;

use offshoot_conformance::random_graph::{self, Made, Maker, Outputs};
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_formats::{coreml, litert, onnx, torchscript};
use offshoot_graph::Model;
use offshoot_graph::model::OUTPUT;
use offshoot_graph::passes::{prune, remove_training_leftovers};
use offshoot_graph::random::{Purpose, Random};
use proptest::prelude::*;

fn executor() -> CpuExecutor {
    CpuExecutor::new(CpuOptions { threads: NonZeroUsize::new(2), ..CpuOptions::default() }).unwrap()
}

fn model(made: &Made) -> Option<Model> {
    let (graph, weights) = made.classifier()?;
    let graph = remove_training_leftovers(&prune(&graph).unwrap()).unwrap();
    let picture = made.picture();
    let size = picture.shape()[2];
    if picture.shape()[1..] != [3, size, size] {
        return None; // files hold square pictures of three channels
    }
    Some(Model { graph, weights, metadata: made.metadata() })
}

fn output(found: &Outputs) -> &[f32] {
    &found.iter().find(|(name, _)| name == OUTPUT).unwrap().1
}

/// Whether a graph that was read runs and answers as the one that was written.
fn same(made: &Made, wanted: &[f32], read: &Model, what: &str) -> Result<(), TestCaseError> {
    let found = made.run(&executor(), &read.graph, &read.weights);
    prop_assert!(found.is_ok(), "{}: {:?}", what, found);
    let found = found.unwrap();
    let found = output(&found);
    prop_assert_eq!(found.len(), wanted.len(), "{}", what);
    if !wanted.iter().all(|v| v.abs() < 1e30) {
        return Ok(());
    }
    let largest = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (f, w) in found.iter().zip(wanted) {
        prop_assert!((f - w).abs() <= 2e-4 * largest, "{}: {} instead of {}", what, f, w);
    }
    Ok(())
}

/// The files that were read again and compared.
fn check(choices: &[u16]) -> Result<usize, TestCaseError> {
    let made = Maker::new(choices).finish();
    let Some(model) = model(&made) else { return Ok(0) };
    let Ok(wanted) = made.run(&executor(), &model.graph, &model.weights) else { return Ok(0) };
    // A rounding to bytes that falls the other way is no fault of a format.
    let compare = !made.has_bytes();
    let mut read = 0;
    if let Ok(bytes) = onnx::write_bytes(&model, onnx::Options::default()) {
        let found = onnx::read_bytes(bytes);
        if let (Ok(found), true) = (found, compare) {
            same(&made, output(&wanted), &found.model, "ONNX")?;
            read += 1;
        }
    }
    let mut file = Cursor::new(Vec::new());
    if torchscript::write_to(&mut file, &model, torchscript::Options::default()).is_ok()
        && let (Ok(found), true) = (torchscript::read_bytes(&file.into_inner(), None), compare)
    {
        same(&made, output(&wanted), &found.model, "TorchScript")?;
        read += 1;
    }
    if let Ok(bytes) = litert::write_bytes(&model, litert::Options::default()) {
        let found = litert::read_bytes(&bytes);
        prop_assert!(found.is_ok(), "LiteRT: {:?}", found.map(|_| ()));
        if let (Ok(found), true) = (found, compare) {
            same(&made, output(&wanted), &found, "LiteRT")?;
            read += 1;
        }
    }
    let folder = std::env::temp_dir().join(format!("offshoot-random-{}", std::process::id()));
    drop(coreml::write(&folder.join("model.mlpackage"), &model, coreml::Options::default()));
    drop(std::fs::remove_dir_all(folder));
    Ok(read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_random_graph_panics_or_changes_its_answer(choices in proptest::collection::vec(any::<u16>(), 6..120)) {
        check(&choices)?;
    }
}

#[test]
fn enough_random_graphs_are_written_and_read() {
    let mut random = Random::new(3, 0, 0, Purpose::Init);
    let read: usize = (0..100).map(|_| check(&random_graph::choices(&mut random, 110)).unwrap()).sum();
    assert!(read >= 15, "{read} of 300");
}
