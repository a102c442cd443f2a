//! Graphs and passes, without running them.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Binary, Clip, GradOp, HardSigmoid, Norm, Pool, Pooling, ShapeOp, TrainOp, Unary};
use offshoot_graph::passes::{
    KEYS, LOSS_SCALE, LossOptions, any_picture_size, autocast, differentiate, expose, fold_batch_norm,
    freeze, layer_before, prune, recognize_gated, remove_training_leftovers, training_graph, up_to,
};
use offshoot_graph::{
    Bindings, DType, Dim, Graph, InferenceGraph, Op, Role, Shape, Tensor, ValueId, Weights,
};

/// A stem, a residual block with a projection, a head with dropout; batch, height and width are symbols.
fn network() -> Graph {
    let mut graph = Graph::new("network");
    let dims = [Dim::symbol(BATCH), Dim::Fixed(3), Dim::symbol("height"), Dim::symbol("width")];
    let x = graph.add_input(INPUT, DType::F32, Shape(dims.to_vec()));
    let x = unit(&mut graph, "stem", x, &Conv2d::new(4, 3).stride(2));
    let x = graph.add("relu", Op::Unary(Unary::Relu), &[x]).unwrap();
    let main = unit(&mut graph, "main", x, &Conv2d::new(6, 3).stride(2));
    let skip = unit(&mut graph, "skip", x, &Conv2d::new(6, 1).stride(2));
    let x = graph.add("add", Op::Binary(Binary::Add), &[main, skip]).unwrap();
    let x = graph.add("gap", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
    let x = graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let x = graph.add("drop", Op::Dropout { ratio: 0.25 }, &[x]).unwrap();
    let x = graph.linear("fc", x, 5).unwrap();
    graph.add_output(OUTPUT, x);
    graph
}

fn unit(graph: &mut Graph, path: &str, x: ValueId, conv: &Conv2d) -> ValueId {
    let y = graph.conv2d(&format!("{path}.conv"), x, conv).unwrap();
    graph.batch_norm(&format!("{path}.bn"), y, BATCH_NORM).unwrap()
}

fn weights(graph: &Graph) -> Weights {
    let tensor = |&id: &ValueId| {
        let value = graph.value(id);
        (value.name.clone(), Tensor::full(value.shape.as_fixed().unwrap(), 0.5))
    };
    graph.parameters().iter().map(tensor).collect()
}

fn count(graph: &Graph, wanted: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|n| wanted(&n.op)).count()
}

fn is_backward(op: &Op) -> bool {
    matches!(op, Op::Grad(_))
}

#[test]
fn the_printer_shows_shapes_attributes_and_what_is_frozen() {
    let mut graph = network();
    freeze(&mut graph, |name| !name.starts_with("fc"));
    let text = graph.to_string();
    let wanted = "\
graph network(input: f32[batch_size, 3, height, width]) {
  param stem.conv.weight: f32[4, 3, 3, 3] (frozen)
  param stem.bn.weight: f32[4] (frozen)
  param stem.bn.bias: f32[4] (frozen)
  param stem.bn.running_mean: f32[4] (frozen)
  param stem.bn.running_var: f32[4] (frozen)
";
    assert!(text.starts_with(wanted), "{text}");
    for line in [
        "  param fc.weight: f32[5, 6]\n",
        "  stem.conv: f32[batch_size, 4, (((height-1)/2)+1), (((width-1)/2)+1)] = Conv(input, stem.conv.weight) \
         { strides: [2, 2], pads: [1, 1, 1, 1], dilations: [1, 1], group: 1 }\n",
        "  relu: f32[batch_size, 4, (((height-1)/2)+1), (((width-1)/2)+1)] = Relu(stem.bn)\n",
        "  flat: f32[batch_size, 6] = Flatten(gap) { axis: 1 }\n",
        "  fc: f32[batch_size, 5] = Gemm(drop, fc.weight, fc.bias) { trans_a: false, trans_b: true }\n",
        "  return output = fc\n}\n",
    ] {
        assert!(text.contains(line), "no line {line}in\n{text}");
    }
    let training = training_graph(&network(), LossOptions::default()).unwrap().graph.to_string();
    let line = "= BatchNormStats(stem.conv, stem.bn.running_mean, stem.bn.running_var) { epsilon: 1e-5, momentum: 0.1 }\n";
    assert!(training.contains(line), "{training}");
}

#[test]
fn symbolic_sizes_are_those_of_numbers() {
    let graph = network();
    for (height, width) in [(224, 192), (29, 23), (1, 2)] {
        let bindings =
            Bindings::from([(BATCH.into(), 3), ("height".into(), height), ("width".into(), width)]);
        let add = graph.nodes().iter().find(|n| n.name == "add").unwrap().outputs[0];
        let side = |n: usize| n.div_ceil(2).div_ceil(2);
        assert_eq!(graph.value(add).shape.eval(&bindings), Ok(vec![3, 6, side(height), side(width)]));
        assert_eq!(graph.value(graph.output(OUTPUT).unwrap()).shape.eval(&bindings), Ok(vec![3, 5]));
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut graph = Graph::new("wrong");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3, 4, 5]));
    let flat = graph.add_input("flat", DType::F32, Shape::fixed(&[2, 3]));
    let w = graph.add_parameter("w", &[4, 2, 3, 3], Role::Weight);
    let pool = |kernel, pads, ceil_mode| {
        Op::Pool(Pooling::Max(Pool { kernel: [kernel; 2], strides: [1; 2], pads, ceil_mode }))
    };
    let attempts: Vec<(Op, Vec<ValueId>, &str)> = vec![
        (Op::Conv(Default::default()), vec![x, w], "does not fit 3 input channels"),
        (Op::Conv(Default::default()), vec![x], "takes 2 to 3 inputs, not 1"),
        (Op::Binary(Binary::Add), vec![x, flat], "do not broadcast"),
        (Op::Gemm(Default::default()), vec![flat, flat], "3 columns"),
        (Op::Pool(Pooling::GlobalAverage), vec![flat], "must have 4 axes"),
        (Op::Softmax { axis: 2 }, vec![flat], "axis 2 is outside"),
        (Op::Shape(ShapeOp::Flatten { axis: 3 }), vec![flat], "axis 3 is outside"),
        (pool(6, [0; 4], false), vec![x], "a window of 6 does not fit"),
        (pool(2, [2; 4], false), vec![x], "padding only"),
        (pool(0, [0; 4], false), vec![x], "at least 1"),
        (Op::Unary(Unary::Relu), vec![], "takes inputs"),
        (Op::Train(TrainOp::BatchNormApply), vec![], "takes inputs"),
        (
            Op::SoftmaxCrossEntropyLoss(offshoot_graph::op::CrossEntropy { label_smoothing: 0.0 }),
            vec![flat, w],
            "the labels must be i64",
        ),
    ];
    for (op, inputs, reason) in attempts {
        let error = graph.add("node", op, &inputs).unwrap_err();
        assert!(error.reason.contains(reason) && error.node == "node", "{error}, not `{reason}`");
    }
    assert!(graph.nodes().is_empty());
}

#[test]
fn names_are_unique_and_passes_keep_those_of_parameters() {
    let graph = network();
    let training = training_graph(&graph, LossOptions { class_weights: true, ..Default::default() }).unwrap();
    let names =
        |graph: &Graph| graph.parameters().iter().map(|&p| graph.value(p).name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&training.graph), names(&graph));
    for graph in [&graph, &training.graph] {
        let all: std::collections::HashSet<&str> = graph.values().map(|(_, v)| v.name.as_str()).collect();
        assert_eq!(all.len(), graph.values().len());
    }
    let inputs: Vec<&str> =
        training.graph.inputs().iter().map(|&i| training.graph.value(i).name.as_str()).collect();
    assert_eq!(inputs, [INPUT, KEYS, "labels", "class_weights"]);
}

#[test]
fn freezing_counts_and_thaws() {
    let mut graph = network();
    let all = (4 * 27 + 6 * 36 + 6 * 4 + 2 * (4 + 6 + 6) + 5 * 6 + 5) as u64;
    assert_eq!(graph.count_parameters(), (all, 0));
    freeze(&mut graph, |name| !name.starts_with("fc."));
    assert_eq!(graph.count_parameters(), (35, all - 35));
    freeze(&mut graph, |name| name.starts_with("stem."));
    assert_eq!(graph.count_parameters(), (all - 116, 116));
    // Running statistics are never trained by a gradient.
    freeze(&mut graph, |_| false);
    assert_eq!(graph.count_parameters(), (all, 0));
    let buffers =
        graph.parameters().iter().filter_map(|&p| graph.parameter_info(p)).filter(|p| p.role == Role::Buffer);
    assert_eq!(buffers.inspect(|p| assert!(!p.trainable)).count(), 6);
}

#[test]
fn a_frozen_part_gets_no_backward_nodes() {
    let mut graph = network();
    let full = training_graph(&graph, LossOptions::default()).unwrap();
    // The input needs no gradient, so the stem has a weight gradient only.
    assert_eq!(count(&full.graph, |op| matches!(op, Op::Grad(GradOp::ConvWeight { .. }))), 3);
    assert_eq!(count(&full.graph, |op| matches!(op, Op::Grad(GradOp::ConvInput { .. }))), 2);
    assert_eq!((full.trained.len(), full.states.len()), (3 + 6 + 2, 6));

    freeze(&mut graph, |name| !name.starts_with("fc"));
    let head = training_graph(&graph, LossOptions::default()).unwrap();
    assert_eq!(head.trained, ["fc.weight", "fc.bias"]);
    assert!(head.states.is_empty());
    // The loss's own, the weight's product, the bias's sum: nothing of the backbone.
    assert_eq!(count(&head.graph, is_backward), 2);
    assert_eq!(count(&head.graph, |op| matches!(op, Op::Gemm(_))), 2);
    assert_eq!(count(&head.graph, |op| matches!(op, Op::Norm(Norm::Batch(_)))), 3);

    freeze(&mut graph, |name| name.contains("bn"));
    let norms = training_graph(&graph, LossOptions::default()).unwrap();
    assert!(norms.states.is_empty() && !norms.trained.iter().any(|n| n.contains("bn")));
    assert_eq!(count(&norms.graph, |op| matches!(op, Op::Grad(GradOp::BatchNormScale))), 3);
    assert_eq!(count(&norms.graph, |op| matches!(op, Op::Train(TrainOp::BatchNormStats(_)))), 0);

    freeze(&mut graph, |name| name.starts_with("stem"));
    let tail = training_graph(&graph, LossOptions::default()).unwrap();
    assert_eq!(count(&tail.graph, |op| matches!(op, Op::Grad(GradOp::ConvInput { .. }))), 0);
    assert_eq!(tail.states.len(), 4);
    let upstream = |name: &str| name.starts_with("grad.stem") || name.starts_with("grad.relu");
    assert!(!tail.graph.nodes().iter().any(|n| upstream(&n.name)));

    freeze(&mut graph, |_| true);
    let nothing = training_graph(&graph, LossOptions::default()).unwrap();
    assert!(nothing.trained.is_empty());
    assert_eq!(count(&nothing.graph, is_backward), 0);
}

#[test]
fn folding_leaves_what_trains_and_what_is_shared() {
    let mut graph = network();
    let mut weights = weights(&graph);
    let gammas = [0.5, 1.0, 2.0, -4.0];
    weights.insert("stem.bn.weight".into(), Tensor::f32([4], gammas.to_vec()));
    let norms = |graph: &Graph| count(graph, |op| matches!(op, Op::Norm(Norm::Batch(_))));
    assert_eq!(norms(&fold_batch_norm(&graph, &weights).unwrap().0), 3);
    freeze(&mut graph, |name| name.starts_with("stem"));
    let (folded, folded_weights) = fold_batch_norm(&graph, &weights).unwrap();
    assert_eq!(norms(&folded), 2);
    assert!(
        folded.find_parameter("stem.bn.weight").is_none() && !folded_weights.contains_key("stem.bn.weight")
    );
    let bias = folded.find_parameter("stem.conv.bias").unwrap();
    assert!(!folded.parameter_info(bias).unwrap().trainable);
    // beta = mean = var = 1/2: scale = gamma / sqrt(0.5 + 1e-5), bias = 0.5 - 0.5 scale.
    let filters = folded_weights["stem.conv.weight"].as_f32().unwrap().chunks(27);
    let biases = folded_weights["stem.conv.bias"].as_f32().unwrap();
    assert_eq!((filters.len(), biases.len()), (4, 4));
    for ((filter, &bias), gamma) in filters.zip(biases).zip(gammas) {
        let scale = f64::from(gamma) / (0.5f64 + 1e-5).sqrt();
        assert!(filter.iter().all(|&w| w == (0.5 * scale) as f32), "{gamma}: {filter:?}");
        assert_eq!(bias, (0.5 - 0.5 * scale) as f32);
    }

    freeze(&mut graph, |_| true);
    let conv = graph.nodes().iter().find(|n| n.name == "stem.conv").unwrap().outputs[0];
    graph.add_output("features", conv);
    assert_eq!(
        norms(&fold_batch_norm(&graph, &weights).unwrap().0),
        1,
        "the stem's convolution is an output"
    );

    let mut missing = weights.clone();
    missing.remove("main.bn.bias");
    let error = fold_batch_norm(&graph, &missing).unwrap_err().to_string();
    assert!(error.contains("main.bn.bias"), "{error}");
}

#[test]
fn pruning_keeps_what_outputs_need() {
    let mut graph = network();
    let relu = graph.nodes().iter().find(|n| n.name == "relu").unwrap().outputs[0];
    graph.add_constant("unused", Tensor::full([2], 1.0));
    assert_eq!(prune(&graph).unwrap().to_string(), network().to_string());
    let mut features = Graph::new("features");
    std::mem::swap(&mut features, &mut graph);
    features.add_output("features", relu);
    let kept = prune(&features).unwrap();
    assert_eq!(kept.outputs().len(), 2);
    assert_eq!(kept.values().filter(|(_, v)| v.name == "unused").count(), 0);
    assert_eq!(kept.parameters().len(), features.parameters().len());
}

#[test]
fn only_inference_graphs_are_shipped() {
    let graph = network();
    let shipped = remove_training_leftovers(&graph).unwrap();
    assert_eq!(count(&shipped, |op| matches!(op, Op::Dropout { .. })), 0);
    assert!(InferenceGraph::new(shipped).is_ok());
    let training = training_graph(&graph, LossOptions::default()).unwrap().graph;
    let error = InferenceGraph::new(training.clone()).unwrap_err();
    assert_eq!((error.node.as_str(), error.op), ("stem.bn.stats", "BatchNormStats"));
}

#[test]
fn a_loss_has_a_known_shape_and_a_way_back() {
    let mut graph = network();
    let logits = graph.output(OUTPUT).unwrap();
    let error = differentiate(graph.clone(), logits).unwrap_err();
    assert!(error.reason.contains("[batch_size, 5]"), "{error}");
    graph = Graph::new("norm");
    let x = graph.add_parameter("x", &[2, 3, 4, 4], Role::Weight);
    let y = graph.batch_norm("bn", x, BATCH_NORM).unwrap();
    let error = differentiate(graph, y).unwrap_err();
    assert_eq!((error.node.as_str(), error.op), ("bn", "BatchNormalization"));
    // Statistics that learn and are no batch's have no gradient.
    graph = Graph::new("statistics");
    let x = graph.add_parameter("x", &[2, 3, 4, 4], Role::Weight);
    let rows =
        ["mean", "inv_std", "weight", "bias"].map(|name| graph.add_parameter(name, &[3], Role::Weight));
    let inputs = [&[x][..], &rows].concat();
    let y = graph.add("apply", Op::Train(TrainOp::BatchNormApply), &inputs).unwrap();
    let error = differentiate(graph, y).unwrap_err();
    assert!(error.node == "apply" && error.reason.contains("no gradient in this form"), "{error}");
}

/// The type of the value called `name`.
fn dtype(graph: &Graph, name: &str) -> DType {
    graph.values().find(|(_, v)| v.name == name).unwrap_or_else(|| panic!("no {name} in\n{graph}")).1.dtype
}

#[test]
fn autocast_computes_matrix_operators_in_half_and_losses_in_full() {
    for half in [DType::BF16, DType::F16] {
        let network = autocast(&network(), half).unwrap();
        let line = format!(
            "  stem.conv: {half}[batch_size, 4, (((height-1)/2)+1), (((width-1)/2)+1)] = \
             Conv(input.{half}, stem.conv.weight) {{"
        );
        let text = network.to_string();
        assert!(text.contains(&line), "no line {line} in\n{text}");
        for name in ["stem.conv", "stem.bn", "relu", "add", "gap", "flat", "drop", "fc"] {
            assert_eq!(dtype(&network, name), half, "{name}");
        }
        assert_eq!(network.value(network.output(OUTPUT).unwrap()).dtype, DType::F32);
        assert!(network.parameters().iter().all(|&p| network.value(p).dtype == DType::F32));
        // One for the pictures, one for the logits.
        assert_eq!(count(&network, |op| matches!(op, Op::Train(TrainOp::Cast { .. }))), 2);

        let step = training_graph(&network, LossOptions::default()).unwrap().graph;
        for name in ["stem.bn.stats", "stem.bn.stats:2", "loss", "grad.stem.bn.sums", "grad.stem.conv.1"] {
            assert_eq!(dtype(&step, name), DType::F32, "{name}");
        }
        for name in ["grad.main.conv.0", "grad.stem.bn.0", "grad.relu.0", "grad.fc.0", "grad.relu.sum"] {
            assert_eq!(dtype(&step, name), half, "{name}");
        }
        for (name, value) in step.outputs() {
            assert_eq!(step.value(*value).dtype, DType::F32, "{name}");
        }
    }
    assert!(autocast(&network(), DType::F32).unwrap_err().to_string().contains("bf16 or f16"));
}

#[test]
fn autocast_adds_in_the_widest_type() {
    let mut graph = Graph::new("widest");
    let x = graph.add_input(INPUT, DType::F32, Shape::fixed(&[2, 3]));
    let y = graph.linear("fc", x, 3).unwrap();
    let sum = graph.add("sum", Op::Binary(Binary::Add), &[x, y]).unwrap();
    let both = graph.add("both", Op::Binary(Binary::Mul), &[y, y]).unwrap();
    let softmax = graph.add("softmax", Op::Softmax { axis: 1 }, &[both]).unwrap();
    graph.add_output(OUTPUT, sum);
    graph.add_output("softmax", softmax);
    let cast = autocast(&graph, DType::BF16).unwrap();
    assert_eq!(dtype(&cast, "fc"), DType::BF16);
    assert_eq!(dtype(&cast, "sum"), DType::F32);
    assert_eq!(dtype(&cast, "both"), DType::BF16);
    assert_eq!(dtype(&cast, "softmax"), DType::F32);
}

#[test]
fn a_scaled_loss_is_differentiated_times_its_scale() {
    let options = LossOptions { scaled: true, ..Default::default() };
    let step = training_graph(&network(), options).unwrap().graph;
    let scale = step.inputs().iter().find(|&&id| step.value(id).name == LOSS_SCALE).unwrap();
    let readers: Vec<&str> =
        step.nodes().iter().filter(|n| n.inputs.contains(scale)).map(|n| n.name.as_str()).collect();
    // The scaled loss itself is no output, so only its gradient is left.
    assert_eq!(readers, ["grad.loss.scaled.0"]);
}

/// The value called `name`.
fn value(graph: &Graph, name: &str) -> ValueId {
    graph.values().find(|(_, v)| v.name == name).unwrap_or_else(|| panic!("no {name} in\n{graph}")).0
}

#[test]
fn a_graph_is_cut_before_its_last_layer() {
    let graph = network();
    let layer = |name: &str| layer_before(&graph, value(&graph, name)).map(|node| node.name.as_str());
    assert_eq!(layer("fc"), Some("fc"));
    assert_eq!(layer("relu"), None, "a batch norm computes features");
    assert_eq!(layer("flat"), None, "a sum does");
    assert_eq!(layer("input"), None);
    let mut scores = Graph::new("scores");
    let x = scores.add_input(INPUT, DType::F32, Shape::fixed(&[1, 3, 8, 8]));
    let y = scores.conv2d("classes", x, &Conv2d::new(5, 1)).unwrap();
    let y = scores.add("act", Op::Unary(Unary::Relu), &[y]).unwrap();
    let y = scores.add("mean", Op::Pool(Pooling::GlobalAverage), &[y]).unwrap();
    assert_eq!(layer_before(&scores, y).unwrap().name, "classes");

    let (features, end) = up_to(&graph, value(&graph, "drop")).unwrap();
    assert_eq!((features.value(end).name.as_str(), features.outputs().len()), ("drop", 0));
    assert!(
        features.find_parameter("fc.weight").is_none() && features.find_parameter("main.bn.bias").is_some()
    );
    assert_eq!(features.nodes().len(), graph.nodes().len() - 1);
}

#[test]
fn pictures_of_any_size_have_symbols_where_nothing_is_of_one_size() {
    let mut graph = Graph::new("sized");
    let x = graph.add_input(INPUT, DType::F32, Shape::fixed(&[2, 3, 8, 8]));
    let other = graph.add_input("other", DType::F32, Shape::fixed(&[2, 3, 1, 1]));
    let y = graph.add("sum", Op::Binary(Binary::Add), &[x, other]).unwrap();
    graph.add_output(OUTPUT, y);
    let any = any_picture_size(&graph).unwrap();
    let shape = |name: &str| any.value(value(&any, name)).shape.to_string();
    assert_eq!(
        [INPUT, "other", "sum"].map(shape),
        ["[2, 3, height, width]", "[2, 3, 1, 1]", "[2, 3, height, width]"]
    );
    let flat = Op::Shape(ShapeOp::Reshape { shape: Shape::fixed(&[2, 192]) });
    graph.add("flat", flat, &[y]).unwrap();
    assert_eq!(any_picture_size(&graph).unwrap_err().node, "flat");
}

#[test]
fn inner_values_are_shown_as_f32() {
    let graph = autocast(&network(), DType::BF16).unwrap();
    let shown = expose(&graph, &["relu", "input"].map(|name| value(&graph, name))).unwrap();
    let outputs: Vec<(&str, DType)> =
        shown.outputs().iter().map(|(name, id)| (name.as_str(), shown.value(*id).dtype)).collect();
    assert_eq!(outputs, [("relu", DType::F32), ("input", DType::F32)]);
    assert_eq!(dtype(&shown, "relu"), DType::BF16);
    assert!(shown.find_parameter("fc.weight").is_none());
    assert_eq!(count(&shown, |op| matches!(op, Op::Train(TrainOp::Cast { to: DType::F32 }))), 1);
}

#[test]
fn only_a_value_times_its_own_sigmoid_is_silu() {
    for (first, second, found) in [("x", "gate", 1), ("gate", "x", 1), ("y", "gate", 0), ("x", "tanh", 0)] {
        let mut graph = Graph::new("gates");
        let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
        graph.add_input("y", DType::F32, Shape::fixed(&[2, 3]));
        graph.add("gate", Op::Unary(Unary::Sigmoid), &[x]).unwrap();
        graph.add("tanh", Op::Unary(Unary::Tanh), &[x]).unwrap();
        let operands = [first, second].map(|name| value(&graph, name));
        let product = graph.add("product", Op::Binary(Binary::Mul), &operands).unwrap();
        graph.add_output(OUTPUT, product);
        let made = recognize_gated(&graph).unwrap();
        assert_eq!(count(&made, |op| *op == Op::Unary(Unary::Silu)), found, "{first} {second}");
        assert_eq!(count(&made, |op| *op == Op::Binary(Binary::Mul)), 1 - found);
    }
}

#[test]
fn gates_that_a_file_spells_out_are_one_function() {
    let clip = Unary::Clip(Clip { min: 0.0, max: 6.0 });
    let line = HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
    type Build = fn(&mut Graph, ValueId, Unary, HardSigmoid) -> ValueId;
    let cases: [(&str, Unary, bool, Build); 6] = [
        ("mish", Unary::Mish, true, |graph, x, _, _| {
            let y = graph.add("softplus", Op::Unary(Unary::Softplus), &[x]).unwrap();
            let y = graph.add("tanh", Op::Unary(Unary::Tanh), &[y]).unwrap();
            graph.add("y", Op::Binary(Binary::Mul), &[y, x]).unwrap()
        }),
        ("hard sigmoid", Unary::HardSwish, true, |graph, x, _, line| {
            let y = graph.add("gate", Op::Unary(Unary::HardSigmoid(line)), &[x]).unwrap();
            graph.add("y", Op::Binary(Binary::Mul), &[x, y]).unwrap()
        }),
        ("divided last", Unary::HardSwish, true, |graph, x, clip, _| {
            let y = clipped(graph, x, 3.0, clip);
            let y = graph.add("product", Op::Binary(Binary::Mul), &[x, y]).unwrap();
            with_number(graph, "y", Binary::Div, y, 6.0)
        }),
        ("a sixth", Unary::HardSwish, true, |graph, x, clip, _| {
            let y = clipped(graph, x, 3.0, clip);
            let y = with_number(graph, "sixth", Binary::Mul, y, 1.0 / 6.0);
            graph.add("y", Op::Binary(Binary::Mul), &[y, x]).unwrap()
        }),
        ("another number", Unary::HardSwish, false, |graph, x, clip, _| {
            let y = clipped(graph, x, 2.0, clip);
            let y = graph.add("product", Op::Binary(Binary::Mul), &[x, y]).unwrap();
            with_number(graph, "y", Binary::Div, y, 6.0)
        }),
        ("another line", Unary::HardSwish, false, |graph, x, _, line| {
            let line = HardSigmoid { beta: 0.4, ..line };
            let y = graph.add("gate", Op::Unary(Unary::HardSigmoid(line)), &[x]).unwrap();
            graph.add("y", Op::Binary(Binary::Mul), &[x, y]).unwrap()
        }),
    ];
    for (what, function, is_found, build) in cases {
        let mut graph = Graph::new("gates");
        let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
        let y = build(&mut graph, x, clip, line);
        graph.add_output(OUTPUT, y);
        let made = recognize_gated(&graph).unwrap();
        let ops: Vec<&Op> = made.nodes().iter().map(|node| &node.op).collect();
        assert_eq!(ops == [&Op::Unary(function)], is_found, "{what}: {ops:?}");
    }
}

fn with_number(graph: &mut Graph, name: &str, op: Binary, x: ValueId, number: f32) -> ValueId {
    let number = graph.add_constant(&format!("{name}.number"), Tensor::f32([], vec![number]));
    graph.add(name, Op::Binary(op), &[x, number]).unwrap()
}

fn clipped(graph: &mut Graph, x: ValueId, number: f32, clip: Unary) -> ValueId {
    let sum = with_number(graph, "sum", Binary::Add, x, number);
    graph.add("clip", Op::Unary(clip), &[sum]).unwrap()
}
