//! What the shape rules say of operands and what the passes make of operators, as text beside the committed one. That the graphs
//! compute what they should is shown where they run, beside PyTorch; here any change of one is seen at once.
//!
//! `UPDATE_GOLDEN=1 cargo test -p offshoot-graph --test golden` writes the files again: look at what changed.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::*;
use offshoot_graph::passes::*;
use offshoot_graph::{Bindings, DType, Dim, Graph, Op, Role, Shape, Source, Tensor, ValueId, Weights, costs};

fn check(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    let differing = wanted.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert_eq!(differing, None, "{name}");
    assert_eq!(wanted.lines().count(), found.lines().count(), "{name}");
}

/// The letters of types in the text of an operand.
const TYPES: [(&str, DType); 9] = [
    ("f", DType::F32),
    ("h", DType::F16),
    ("b", DType::BF16),
    ("d", DType::F64),
    ("l", DType::I64),
    ("w", DType::I32),
    ("i", DType::I8),
    ("u", DType::U8),
    ("o", DType::Bool),
];

/// An operand: the letter of its type and its sizes, `s` for a symbol.
fn add(graph: &mut Graph, name: &str, text: &str) -> ValueId {
    let (letter, sizes) = text.split_at(1);
    let (_, dtype) = TYPES.into_iter().find(|(known, _)| *known == letter).unwrap();
    let dim = |size: &str| size.parse().map_or_else(|_| Dim::symbol(size), Dim::Fixed);
    let shape = Shape(sizes.split(',').filter(|size| !size.is_empty()).map(dim).collect());
    match shape.as_fixed().filter(|_| dtype == DType::F32) {
        Some(fixed) => graph.add_parameter(name, &fixed, Role::Weight),
        None => graph.add_input(name, dtype, shape),
    }
}

/// Operands called x0, x1, ..
fn add_all(graph: &mut Graph, operands: &[&str]) -> Vec<ValueId> {
    operands.iter().enumerate().map(|(i, text)| add(graph, &format!("x{i}"), text)).collect()
}

fn text_of(graph: &Graph, id: ValueId) -> String {
    let value = graph.value(id);
    let (letter, _) = TYPES.into_iter().find(|(_, dtype)| *dtype == value.dtype).unwrap();
    let sizes: Vec<String> = value.shape.0.iter().map(ToString::to_string).collect();
    letter.to_owned() + &sizes.join(",")
}

/// A graph of one node, whose operands are parameters where they are f32.
fn single(op: &Op, operands: &[&str]) -> Result<Graph, String> {
    let mut graph = Graph::new("single");
    let ids = add_all(&mut graph, operands);
    let outputs = graph.add_node("y", op.clone(), &ids).map_err(|error| error.reason)?;
    for (i, &output) in outputs.iter().enumerate() {
        graph.add_output(&format!("out{i}"), output);
    }
    Ok(graph)
}

/// Each operator of a network with operands that it takes, by sizes that differ from one another.
fn forward() -> Vec<(Op, Vec<&'static str>)> {
    let x = "f2,6,4,5";
    let conv = Conv { strides: [2, 1], pads: [1, 0, 0, 2], dilations: [1, 2], group: 1 };
    let grouped = Conv { group: 3, ..Conv::default() };
    let pool = Pool { kernel: [3, 2], strides: [2, 1], pads: [1, 0, 0, 1], ceil_mode: true };
    let average = |count_include_pad, ceil_mode| {
        Op::Pool(Pooling::Average(AveragePool {
            pool: Pool { ceil_mode, ..pool.clone() },
            count_include_pad,
        }))
    };
    let composite = |composite, operands| (Op::Composite(composite), operands);
    let shape = |sizes: &[usize]| Shape::fixed(sizes);
    let mut all = vec![
        (Op::Conv(conv), vec!["f2,3,8,9", "f4,3,3,2", "f4"]),
        (Op::Conv(grouped), vec!["f2,6,5,4", "f9,2,3,1"]),
        (Op::Norm(Norm::Batch(BATCH_NORM)), vec![x, "f6", "f6", "f6", "f6"]),
        (Op::Norm(Norm::Layer(LayerNormalization { epsilon: 1e-6 })), vec!["f2,3,7", "f7", "f7"]),
        (Op::Pool(Pooling::Max(pool.clone())), vec![x]),
        (average(true, true), vec![x]),
        (average(false, false), vec![x]),
        (Op::Pool(Pooling::GlobalAverage), vec![x]),
        (Op::Shape(ShapeOp::Flatten { axis: 2 }), vec![x]),
        (Op::Shape(ShapeOp::Transpose { perm: vec![1, 3, 0, 2] }), vec![x]),
        (Op::Shape(ShapeOp::Reshape { shape: shape(&[3, 80]) }), vec![x]),
        (Op::Shape(ShapeOp::Concat { axis: 1 }), vec![x, "f2,3,4,5"]),
        (Op::Shape(ShapeOp::Slice { axis: 3, start: 1, end: 4 }), vec![x]),
        (Op::Shape(ShapeOp::Expand { shape: shape(&[2, 3, 4]) }), vec!["f3,1"]),
        (Op::Shape(ShapeOp::Identity), vec![x]),
        (Op::Dropout { ratio: 0.25 }, vec!["f4,6"]),
        (Op::Softmax { axis: 1 }, vec![x]),
        (Op::SoftmaxCrossEntropyLoss(CrossEntropy { label_smoothing: 0.1 }), vec!["f4,3", "l4", "f3"]),
        (Op::SoftmaxCrossEntropyLoss(CrossEntropy { label_smoothing: 0.0 }), vec!["f4,3", "f4,3"]),
        (Op::QuantizeLinear { axis: 1 }, vec![x, "f6", "i6"]),
        (Op::QuantizeLinear { axis: 0 }, vec![x, "f", "u"]),
        (Op::DequantizeLinear { axis: 1 }, vec!["w4,6", "f6", "w6"]),
        (Op::DequantizeLinear { axis: 0 }, vec!["u4,6", "f", "u"]),
        (Op::DynamicQuantizeMatMul { trans_b: true }, vec!["f4,6", "i5,6", "f5", "f5"]),
        (Op::DynamicQuantizeMatMul { trans_b: false }, vec!["f4,6", "i6,5", "f5"]),
        (Op::Sequence(SequenceOp::Gather), vec!["f7,3", "l4,2"]),
        (Op::Sequence(SequenceOp::Positions { axis: 2 }), vec![x]),
        (Op::Sequence(SequenceOp::Equal { number: 3 }), vec!["l4,2"]),
        (Op::Sequence(SequenceOp::ToFloat), vec!["l4,2"]),
        (Op::Sequence(SequenceOp::Where), vec!["f4,5", "f3,1,1", "f5"]),
        composite(Composite::LogSoftmax { axis: 2 }, vec![x]),
        composite(Composite::GroupNormalization { groups: 2, epsilon: 1e-5 }, vec![x, "f6", "f6"]),
        composite(Composite::InstanceNormalization { epsilon: 1e-4 }, vec![x, "f6", "f6"]),
        composite(Composite::Split { axis: 1, sizes: vec![1, 3, 2] }, vec![x]),
    ];
    let modes = [PadMode::Constant(-1.5), PadMode::Reflect, PadMode::Edge];
    for mode in modes {
        all.push(composite(Composite::Pad { pads: vec![[0, 0], [1, 2], [3, 0], [0, 4]], mode }, vec![x]));
    }
    use Coordinates::{AlignCorners, Asymmetric, HalfPixel};
    for resampling in [
        Resampling::Nearest,
        Resampling::NearestCeil,
        Resampling::NearestFloor,
        Resampling::Linear,
        Resampling::Cubic,
    ] {
        for coordinates in [HalfPixel, AlignCorners, Asymmetric] {
            let resize = Composite::Resize { size: [3, 7], resampling, coordinates };
            all.push(composite(resize, vec!["f1,2,4,5"]));
        }
    }
    for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
        let two = direction == Direction::Bidirectional;
        let (lstm, gru, dynamic) = match two {
            false => (
                vec!["f3,2,5", "f1,16,5", "f1,16,4", "f1,32"],
                vec!["f3,2,5", "f1,12,5", "f1,12,4", "f1,24"],
                vec!["f3,2,5", "i1,5,16", "i1,4,16", "f1,16", "f1,16", "f1,32"],
            ),
            true => (
                vec!["f3,2,5", "f2,16,5", "f2,16,4", "f2,32"],
                vec!["f3,2,5", "f2,12,5", "f2,12,4", "f2,24"],
                vec!["f3,2,5", "i2,5,16", "i2,4,16", "f2,16", "f2,16", "f2,32"],
            ),
        };
        all.push((Op::Recurrent(Recurrent::Lstm(direction)), lstm));
        all.push((Op::Recurrent(Recurrent::DynamicQuantizeLstm(direction)), dynamic));
        all.push(composite(Composite::Gru { direction, linear_before_reset: two }, gru));
    }
    all.push(composite(
        Composite::Gru { direction: Direction::Forward, linear_before_reset: true },
        vec!["f3,2,5", "f1,12,5", "f1,12,4", "f1,24"],
    ));
    for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let (a, b) = (["f4,6", "f6,4"][usize::from(trans_a)], ["f6,5", "f5,6"][usize::from(trans_b)]);
        all.push((Op::Gemm(Gemm { trans_a, trans_b }), vec![a, b, "f5"]));
        let (a, b) =
            (["f2,3,4,6", "f2,3,6,4"][usize::from(trans_a)], ["f2,3,6,5", "f2,3,5,6"][usize::from(trans_b)]);
        all.push((Op::MatMul(MatMul { trans_a, trans_b }), vec![a, b]));
    }
    all.extend(Unary::ALL.iter().map(|&unary| (Op::Unary(unary), vec!["f4,6"])));
    all.extend(Binary::ALL.iter().map(|&binary| (Op::Binary(binary), vec![x, "f6,1,1"])));
    all.extend(Reduce::ALL.iter().map(|&op| (Op::Reduce { op, axis: 2 }, vec![x])));
    all
}

/// A convolutional network with a batch norm that trains, one that does not, a dropout and a linear layer.
fn network(batch: &str) -> Graph {
    let mut graph = Graph::new("network");
    let x = add(&mut graph, "input", &format!("f{batch},3,8,8"));
    let y = graph.conv2d("stem.conv", x, &Conv2d::new(4, 3).stride(2)).unwrap();
    let y = graph.batch_norm("stem.bn", y, BATCH_NORM).unwrap();
    let y = graph.add("stem.act", Op::Unary(Unary::Silu), &[y]).unwrap();
    let z = graph.conv2d("block.conv", y, &Conv2d::new(4, 1)).unwrap();
    let z = graph.batch_norm("block.bn", z, BATCH_NORM).unwrap();
    let y = graph.add("sum", Op::Binary(Binary::Add), &[y, z]).unwrap();
    let y = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[y]).unwrap();
    let y = graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[y]).unwrap();
    let y = graph.add("drop", Op::Dropout { ratio: 0.5 }, &[y]).unwrap();
    let y = graph.linear("fc", y, 3).unwrap();
    graph.add_output("output", y);
    freeze(&mut graph, |name| name.starts_with("block.bn"));
    graph
}

/// Numbers that are all different and of both signs.
fn weights(graph: &Graph) -> Weights {
    let tensor = |&id: &ValueId| {
        let value = graph.value(id);
        let shape = value.shape.as_fixed().unwrap();
        let len: usize = shape.iter().product();
        let number = |i: usize| ((i * 7 + value.name.len()) % 23) as f32 / 8.0 - 0.75;
        (value.name.clone(), Tensor::f32(shape, (0..len).map(number).collect()))
    };
    graph.parameters().iter().map(tensor).collect()
}

/// The text of a graph with the numbers of its constants.
fn printed(graph: &Graph) -> String {
    let mut text = graph.to_string();
    for (_, value) in graph.values() {
        if let Source::Constant(tensor) = &value.source {
            let _ = writeln!(text, "{} = {:?}", value.name, tensor.data());
        }
    }
    text
}

/// The graphs in which training, update rules and autocast are tried.
fn networks() -> Vec<(String, Graph)> {
    let training = |options| training_graph(&network("n"), options).unwrap();
    let plain = training(LossOptions::default());
    let all = LossOptions {
        label_smoothing: 0.1,
        class_weights: true,
        soft_targets: true,
        scaled: true,
        ..LossOptions::default()
    };
    let mut graphs = vec![
        ("inference".to_owned(), network("n")),
        ("training".to_owned(), plain.graph.clone()),
        ("training, all options".to_owned(), training(all).graph),
        ("bf16".to_owned(), autocast(&network("n"), DType::BF16).unwrap()),
        (
            "training in f16".to_owned(),
            training_graph(&autocast(&network("n"), DType::F16).unwrap(), all).unwrap().graph,
        ),
    ];
    let rules = [UpdateRule::Sgd { nesterov: false }, UpdateRule::Sgd { nesterov: true }, UpdateRule::Adam];
    let clips = [GradientClip::Off, GradientClip::Norm(1.0), GradientClip::Value(0.5)];
    for (rule, clip) in rules.into_iter().zip(clips) {
        let average = clip == GradientClip::Off;
        graphs.push((format!("step {rule:?} {clip:?}"), step_graph(&plain, rule, clip, average).unwrap()));
        graphs.push((format!("apply {rule:?} {clip:?}"), apply_graph(&plain, rule, clip, average).unwrap()));
    }
    graphs
}

/// A value through bytes and back: with the constants of each other, and with others.
fn quantized(same: bool) -> Graph {
    let mut graph = Graph::new("quantized");
    let x = add(&mut graph, "x", "f4,6");
    let [scale, other] = ["scale", "other"].map(|name| graph.add_constant(name, Tensor::f32([], vec![0.5])));
    let zero = graph.add_constant("zero", Tensor::new([], offshoot_graph::Data::U8(vec![3])).unwrap());
    let q = graph.add("q", Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]).unwrap();
    let scale = if same { scale } else { other };
    let y = graph.add("dq", Op::DequantizeLinear { axis: 0 }, &[q, scale, zero]).unwrap();
    graph.add_output("y", y);
    graph
}

fn gradients(graph: &Graph) -> String {
    let nodes = graph.nodes().len();
    let (_, loss) = graph.outputs()[0];
    match differentiate(graph.clone(), loss) {
        Ok(found) => {
            let names = |(parameter, gradient): &(ValueId, ValueId)| {
                let name = |id| found.graph.value(id).name.clone();
                format!("  d {} = {}\n", name(*parameter), name(*gradient))
            };
            let text = found.graph.to_string();
            let lines: Vec<&str> =
                text.lines().filter(|line| line.starts_with("  ") && line.contains(" = ")).collect();
            let end = lines.iter().filter(|line| line.starts_with("  return")).count();
            let added = &lines[nodes.min(lines.len())..lines.len() - end];
            added.iter().map(|line| format!("{line}\n")).chain(found.gradients.iter().map(names)).collect()
        }
        Err(error) => format!("  {error}\n"),
    }
}

#[test]
fn gradients_are_these_operators() {
    let mut text = String::new();
    for (op, operands) in forward() {
        let graph = single(&op, &operands).unwrap();
        let expanded = expand(&graph, |_| true).unwrap();
        let _ = write!(text, "{op:?}({})\n{}", operands.join(" "), gradients(&expanded));
    }
    for same in [true, false] {
        let _ = write!(text, "quantized {same}\n{}", gradients(&quantized(same)));
    }
    check("gradients.txt", &text);
}

#[test]
fn operators_become_these_others() {
    let mut text = String::new();
    for (op, operands) in forward() {
        let graph = single(&op, &operands).unwrap();
        let made = unroll(&expand(&graph, |_| true).unwrap(), |_| true).unwrap();
        let made = plain_products(&decompose(&made, |_| false).unwrap()).unwrap();
        if made != graph {
            let _ = write!(text, "{op:?}({})\n{}", operands.join(" "), printed(&made));
        }
    }
    check("expanded.txt", &text);
}

#[test]
fn networks_become_these_graphs() {
    let mut text = String::new();
    for (name, graph) in networks() {
        let _ = write!(text, "== {name}\n{}", printed(&graph));
    }
    let plain = network("2");
    let numbers = weights(&plain);
    assert_eq!(*InferenceGraph::new(plain.clone()).unwrap(), plain);
    let (folded, made) = fold_batch_norm(&plain, &numbers).unwrap();
    let _ = write!(text, "== folded\n{}", printed(&folded));
    let show = |text: &mut String, weights: &Weights, of: &Weights| {
        for (name, tensor) in weights.iter().filter(|&(name, tensor)| of.get(name) != Some(tensor)) {
            let _ = writeln!(text, "{name} = {:?}", tensor.data());
        }
    };
    show(&mut text, &made, &numbers);
    for trans_b in [true, false] {
        let mut graph = Graph::new("dynamic");
        let x = add(&mut graph, "x", "fs,4");
        let w = graph.add_parameter("w", if trans_b { &[3, 4] } else { &[4, 3] }, Role::Weight);
        let y = graph.add("y", Op::Gemm(Gemm { trans_a: false, trans_b }), &[x, w]).unwrap();
        graph.add_output("y", y);
        let (made, bytes) = dynamic_int8(&graph, &weights(&graph)).unwrap();
        let _ = write!(text, "== dynamic {trans_b}\n{}", printed(&made));
        show(&mut text, &bytes, &weights(&graph));
    }
    check("networks.txt", &text);
}

/// All operators that the graphs of this file have, with operands that each takes.
fn operators() -> BTreeMap<String, (Op, Vec<String>)> {
    let mut graphs: Vec<Graph> = networks().into_iter().map(|(_, graph)| graph).collect();
    for (op, operands) in forward() {
        let graph = single(&op, &operands).unwrap();
        let loss = graph.outputs()[0].1;
        graphs.extend(differentiate(expand(&graph, |_| true).unwrap(), loss).map(|found| found.graph));
        graphs.push(graph);
    }
    let quantized = quantized(true);
    let loss = quantized.outputs()[0].1;
    graphs.push(differentiate(quantized, loss).unwrap().graph);
    let mut all = BTreeMap::new();
    for graph in &graphs {
        for node in graph.nodes() {
            let operands: Vec<String> = node.inputs.iter().map(|&id| text_of(graph, id)).collect();
            let name = format!("{:?}", node.op).split(['{', '(']).take(3).collect::<Vec<_>>().join("(");
            // The members of a family have one rule.
            let mut families = ["Unary(", "Binary(", "Grad(Unary("].into_iter();
            let name = families.find(|family| name.starts_with(family)).unwrap_or(&name).to_owned();
            all.entry(format!("{name} {}", operands.len())).or_insert((node.op.clone(), operands));
        }
    }
    all
}

#[test]
fn operands_are_taken_or_refused_so() {
    let mut text = String::new();
    for (op, operands) in operators().into_values() {
        let _ = writeln!(text, "{op:?}");
        let mut tried: Vec<Vec<String>> = vec![operands.clone(), operands[1..].to_vec()];
        tried.push(operands.iter().chain(operands.last()).cloned().collect());
        for slot in 0..operands.len() {
            let (letter, sizes) = operands[slot].split_at(1);
            let other = if letter == "h" { "f" } else { "h" };
            let longer = format!("{letter}2{}{sizes}", if sizes.is_empty() { "" } else { "," });
            let shorter = sizes.rsplit_once(',').map_or(String::new(), |(sizes, _)| sizes.to_owned());
            for with in [
                format!("{other}{sizes}"),
                format!("l{sizes}"),
                letter.to_owned(),
                longer,
                format!("{letter}{shorter}"),
                format!("{letter}{shorter},7"),
                format!("{letter}7,{}", sizes.split_once(',').map_or("", |(_, rest)| rest)),
                format!("{letter}{}", sizes.replace(|c: char| c.is_ascii_digit(), "s").replace("ss", "s")),
            ] {
                let mut changed = operands.clone();
                changed[slot] = with;
                tried.push(changed);
            }
        }
        for operands in tried {
            let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
            let said = single(&op, &operands).map(|graph| {
                let outputs = graph.outputs().iter().map(|&(_, id)| text_of(&graph, id));
                outputs.collect::<Vec<_>>().join(" ")
            });
            let said = said.map_or_else(|reason| format!("! {reason}"), |types| format!("-> {types}"));
            let _ = writeln!(text, "  {} {said}", operands.join(" "));
        }
    }
    check("operands.txt", &text);
}

#[test]
fn operators_cost_this() {
    let mut text = String::new();
    for (op, operands) in operators().into_values() {
        let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
        let graph = single(&op, &operands).unwrap();
        let found = costs(&graph, &Bindings::from_iter([("n".to_owned(), 2)]));
        let _ = writeln!(text, "{op:?}({}): {found:?}", operands.join(" "));
    }
    check("costs.txt", &text);
}

/// What is known of the sizes of numbers behind each operator on probabilities and on something else, and in what type autocast
/// computes it.
#[test]
fn operators_keep_these_bounds_and_types() {
    let mut text = String::new();
    for (op, operands) in forward() {
        let mut graph = Graph::new("bounds");
        let ids = add_all(&mut graph, &operands);
        if graph.value(ids[0]).dtype != DType::F32 {
            continue;
        }
        let _ = writeln!(text, "{op:?}");
        let other = weights(&graph);
        for before in [None, Some(Unary::Sigmoid), Some(Unary::Tanh)] {
            let mut graph = graph.clone();
            let mut inputs = ids.clone();
            let x = graph.add_input("x", DType::F32, graph.value(ids[0]).shape.clone());
            inputs[0] = before.map_or(x, |before| graph.add("before", Op::Unary(before), &[x]).unwrap());
            let outputs = graph.add_node("y", op.clone(), &inputs).unwrap();
            graph.add_output("output", outputs[0]);
            let probabilities = gives_probabilities(&graph, &other);
            let _ = writeln!(text, "  {before:?} {probabilities} {:?}", confined_scores(&graph, &other));
            let cast = autocast(&graph, DType::BF16).unwrap();
            let kind = |node: &offshoot_graph::Node| {
                format!("{} {}", node.op.name(), text_of(&cast, node.outputs[0]))
            };
            let kinds: Vec<String> = cast.nodes().iter().map(kind).collect();
            let _ = writeln!(text, "    {}", kinds.join(", "));
        }
    }
    check("bounds.txt", &text);
}

#[test]
fn rates_are_rows_and_back() {
    let sgd = SgdRates { lr: 1.0, decay: 2.0, momentum: 3.0 };
    assert_eq!(sgd.to_row(), [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(SgdRates::of_row(&sgd.to_row()), sgd);
    let row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    assert_eq!(AdamRates::of_row(&row).to_row(), row);
}
