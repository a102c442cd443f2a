//! Networks with an LSTM or a GRU in Core ML packages: what is read back is what was written, for any number of pictures, and
//! coremltools' definitions compute what ours do.

use std::fs;
use std::path::Path;

use offshoot_formats::coreml::{self, Options, Precision, StoredWeights};
use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Composite, Direction, Recurrent, ShapeOp};
use offshoot_graph::passes::freeze;
use offshoot_graph::{Dim, DimOp, Graph, Model, Op, Shape, ValueId};
use offshoot_testing::difference;

use crate::onnx_support::{check_with, classifier, logits};

const F32: Options = Options { precision: Precision::F32, weights: StoredWeights::Float };
const F16: Options = Options { precision: Precision::F16, weights: StoredWeights::Float };
const INT8: Options = Options { precision: Precision::F16, weights: StoredWeights::Int8 };
const SIDE: usize = 6;
const HIDDEN: usize = 5;
const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Reverse, Direction::Bidirectional];

/// Which results of the operator the network reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    Sequence,
    Last,
    Both,
}

fn lstm(direction: Direction) -> (Op, Direction, usize) {
    (Op::Recurrent(Recurrent::Lstm(direction)), direction, 4)
}

fn gru(direction: Direction, linear_before_reset: bool) -> (Op, Direction, usize) {
    (Op::Composite(Composite::Gru { direction, linear_before_reset }), direction, 3)
}

fn transpose(g: &mut Graph, name: &str, x: ValueId, perm: &[usize]) -> ValueId {
    g.add(name, Op::Shape(ShapeOp::Transpose { perm: perm.to_vec() }), &[x]).unwrap()
}

fn reshape(g: &mut Graph, name: &str, x: ValueId, shape: Vec<Dim>) -> ValueId {
    g.add(name, Op::Shape(ShapeOp::Reshape { shape: Shape(shape) }), &[x]).unwrap()
}

fn flatten(g: &mut Graph, name: &str, x: ValueId) -> ValueId {
    g.add(name, Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap()
}

fn recurrent(
    g: &mut Graph,
    x: ValueId,
    (op, direction, gates): (Op, Direction, usize),
    reads: Reads,
) -> Vec<ValueId> {
    let features = g.value(x).shape.0[2].fixed().unwrap();
    let (ways, rows) = (direction.ways(), gates * HIDDEN);
    let role = offshoot_graph::Role::Weight;
    let weights =
        [("w", vec![ways, rows, features]), ("r", vec![ways, rows, HIDDEN]), ("b", vec![ways, 2 * rows])];
    let weights = weights.map(|(name, shape)| g.add_parameter(name, &shape, role));
    let outputs = g.add_node("steps", op, &[&[x], &weights[..]].concat()).unwrap();
    let mut results = Vec::new();
    if reads != Reads::Last {
        results.push(transpose(g, "sequence", outputs[0], &[2, 0, 1, 3]));
    }
    if reads != Reads::Sequence {
        results.push(transpose(g, "last", outputs[1], &[1, 0, 2]));
    }
    results
}

/// Channels are the steps, and pixels the features.
fn of_channels(op: (Op, Direction, usize), reads: Reads) -> Model {
    classifier("recurrent", SIDE, |g, x| {
        let x = g.conv2d("conv", x, &Conv2d::new(4, 1)).unwrap();
        let batch = g.value(x).shape.0[0].clone();
        let x = reshape(g, "rows", x, vec![batch, 4.into(), (SIDE * SIDE).into()]);
        let x = transpose(g, "by_step", x, &[1, 0, 2]);
        let results = recurrent(g, x, op, reads);
        let mut flat: Vec<ValueId> =
            results.into_iter().enumerate().map(|(i, y)| flatten(g, &format!("flat{i}"), y)).collect();
        if flat.len() > 1 {
            flat = vec![g.add("both", Op::Shape(ShapeOp::Concat { axis: 1 }), &flat).unwrap()];
        }
        g.linear("fc", flat[0], 3).unwrap()
    })
}

/// Columns are the steps, and each row of each picture is a sequence.
fn of_rows(op: (Op, Direction, usize)) -> Model {
    let ways = op.1.ways();
    classifier("recurrent", SIDE, |g, x| {
        let batch = g.value(x).shape.0[0].clone();
        let x = transpose(g, "by_step", x, &[3, 0, 2, 1]);
        let rows = batch.combine(DimOp::Mul, &SIDE.into());
        let x = reshape(g, "rows", x, vec![SIDE.into(), rows, 3.into()]);
        let y = recurrent(g, x, op, Reads::Sequence)[0];
        let y = reshape(g, "pictures", y, vec![batch, SIDE.into(), (SIDE * ways * HIDDEN).into()]);
        let y = flatten(g, "flat", y);
        g.linear("fc", y, 3).unwrap()
    })
}

fn written(model: &Model, options: Options) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.mlpackage");
    coreml::write(&path, model, options).unwrap();
    (folder, path)
}

fn again(model: &Model, options: Options) -> Model {
    let (_folder, path) = written(model, options);
    coreml::read(&path).unwrap()
}

/// What a model that is not trained computes.
fn answers(model: &Model, shape: &[usize]) -> Vec<f32> {
    let mut model = model.clone();
    freeze(&mut model.graph, |_| true);
    logits(&model, shape)
}

/// The largest difference for two pictures, relative to the largest logit.
fn off(model: &Model, other: &Model) -> f64 {
    let [a, b] = [model, other].map(|m| answers(m, &[2, 3, SIDE, SIDE]));
    difference(&b, &a)
}

fn operators(model: &Model) -> Vec<Op> {
    model.graph.nodes().iter().map(|node| node.op.clone()).collect()
}

fn lstms() -> Vec<Model> {
    let all = [Reads::Sequence, Reads::Last, Reads::Both];
    let channels = DIRECTIONS.into_iter().flat_map(|d| all.map(|reads| of_channels(lstm(d), reads)));
    channels.chain(DIRECTIONS.map(|d| of_rows(lstm(d)))).collect()
}

fn grus() -> Vec<Model> {
    let kinds = DIRECTIONS.into_iter().flat_map(|d| [gru(d, false), gru(d, true)]);
    kinds.flat_map(|op| [of_channels(op.clone(), Reads::Both), of_rows(op)]).collect()
}

#[test]
fn an_lstm_is_one_operator() {
    for model in lstms() {
        for (options, bound) in [(F32, 1e-5), (F16, 5e-3), (INT8, 5e-2)] {
            let read = again(&model, options);
            assert_eq!(operators(&read), operators(&model), "{options:?}");
            let off = off(&model, &read);
            assert!(off < bound, "{options:?}: {off}");
        }
        let bytes = |model: &Model| {
            let (_folder, path) = written(model, F32);
            fs::read(coreml::weight_file(&path)).unwrap()
        };
        assert_eq!(bytes(&again(&model, F32)), bytes(&model));
    }
}

#[test]
fn a_gru_is_its_steps() {
    for model in grus() {
        for (options, bound) in [(F32, 1e-5), (F16, 5e-3), (INT8, 5e-2)] {
            let off = off(&model, &again(&model, options));
            assert!(off < bound, "{options:?}: {off}");
        }
    }
}

/// Each step reads the same weights.
#[test]
fn the_weights_of_a_gru_are_stored_once() {
    let model = of_rows(gru(Direction::Bidirectional, true));
    let (_folder, path) = written(&model, F32);
    let numbers: usize = model.weights.values().map(|tensor| tensor.len()).sum();
    let stored = fs::metadata(coreml::weight_file(&path)).unwrap().len() as usize;
    // Each is aligned, with a header of its own.
    assert!(stored < 4 * numbers + 16 * 192, "{stored} bytes for {numbers} numbers");
}

#[test]
fn steps_that_are_too_many_are_an_error_that_says_so() {
    let long = |steps: usize| {
        classifier("long", 32, |g, x| {
            let batch = g.value(x).shape.0[0].clone();
            let x = reshape(g, "rows", x, vec![batch, steps.into(), (3 * 32 * 32 / steps).into()]);
            let x = transpose(g, "by_step", x, &[1, 0, 2]);
            let y = recurrent(g, x, gru(Direction::Bidirectional, true), Reads::Last)[0];
            let y = flatten(g, "flat", y);
            g.linear("fc", y, 3).unwrap()
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let message = coreml::write(&folder.path().join("m"), &long(512), F32).unwrap_err().to_string();
    for words in ["`steps` (GRU)", "1024, more than 512", "Export ONNX"] {
        assert!(message.contains(words), "{message}");
    }
    // The longest is read again.
    again(&long(256), F16);
}

#[test]
fn damage_is_an_error() {
    let (_folder, path) = written(&of_rows(lstm(Direction::Bidirectional)), F32);
    let file = path.join("Data/com.apple.CoreML/model.mlmodel");
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&file, &bytes).unwrap();
        let _ = coreml::read(&path);
    }
    for (old, new) in [("bidirectional", "bidirectionaX"), ("sigmoid", "sigmoiX"), ("direction", "directioX")]
    {
        fs::write(&file, replaced(&whole, old, new)).unwrap();
        let message = coreml::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("`steps_y` (lstm)"), "{message}");
    }
}

fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..=bytes.len() - old.len() {
        if bytes[at..].starts_with(old.as_bytes()) {
            bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    bytes
}

/// Writes each model, and beside it what it computes of one picture: the arguments of the script.
fn files(folder: &Path, models: &[Model]) -> Vec<String> {
    let mut files = Vec::new();
    for (i, model) in models.iter().enumerate() {
        for (precision, options) in [("f32", F32), ("f16", F16)] {
            let (path, beside) =
                (folder.join(format!("{i}.{precision}.mlpackage")), folder.join(format!("{i}.json")));
            coreml::write(&path, model, options).unwrap();
            let shape = [1, 3, SIDE, SIDE];
            let numbers = serde_json::json!({"shape": shape, "logits": answers(model, &shape)});
            fs::write(&beside, numbers.to_string()).unwrap();
            files.push(format!("{}={}", path.display(), beside.display()));
        }
    }
    files
}

#[test]
#[ignore = "needs the Python peers with coremltools (OFFSHOOT_PEERS)"]
fn coremltools_and_pytorch_compute_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    check_with("check_coreml.py", &files(folder.path(), &[lstms(), grus()].concat()));
}

/// What the test above goes by.
#[test]
#[ignore = "needs the Python peers with coremltools (OFFSHOOT_PEERS)"]
fn the_script_computes_an_lstm_of_coremltools_as_pytorch() {
    check_with("check_coreml_lstm.py", &[""; 0]);
}
