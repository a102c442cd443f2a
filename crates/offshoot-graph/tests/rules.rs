//! Rules of graphs by themselves, without an executor: types and shapes, sizes, results, composite operators, the choice of what is
//! quantized, random numbers.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

use offshoot_graph::op::{
    Binary, Clip, Composite, Conv, Coordinates, Direction, Gemm, GradientClip, MatMul, PadMode, Pool,
    Pooling, RATES, Reduce, Resampling, ShapeOp, TrainOp, Unary, UpdateOp,
};
use offshoot_graph::passes::{
    LossOptions, SQUARES, UpdateRule, apply_graph, dynamic_int8_graph, expand, plain_products, prune,
    step_graph, training_graph, unroll,
};
use offshoot_graph::random::{Random, mix};
use offshoot_graph::{DType, Dim, DimOp, Graph, Op, Role, Shape, Tensor, ValueId};

fn input(graph: &mut Graph, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
    graph.add_input(name, dtype, Shape::fixed(shape))
}

fn refused(graph: &mut Graph, op: Op, inputs: &[ValueId]) -> String {
    let error = graph.add("node", op, inputs).unwrap_err();
    assert_eq!(error.node, "node");
    error.reason
}

#[test]
fn operands_must_have_one_type() {
    let mut graph = Graph::new("types");
    let x = input(&mut graph, "x", DType::F32, &[2, 3]);
    let half = input(&mut graph, "half", DType::F16, &[2, 3]);
    let words = input(&mut graph, "words", DType::I64, &[2, 3]);
    let said = "`x` is f32 and `half` is f16";
    assert_eq!(refused(&mut graph, Op::Binary(Binary::Add), &[x, half]), said);
    assert_eq!(refused(&mut graph, Op::MatMul(MatMul::default()), &[x, half]), said);
    assert_eq!(refused(&mut graph, Op::Binary(Binary::Mul), &[x, words]), "`x` is f32 and `words` is i64");
    let sum = refused(&mut graph, Op::Reduce { op: Reduce::Sum, axis: 0 }, &[words]);
    assert_eq!(sum, "`words` is i64, and only floats are reduced");
    let cast = refused(&mut graph, Op::Train(TrainOp::Cast { to: DType::F32 }), &[words]);
    assert!(cast.contains("both must be floats"), "{cast}");
    assert!(graph.nodes().is_empty());
}

#[test]
fn shapes_follow_from_the_operands() {
    let mut graph = Graph::new("shapes");
    let x = input(&mut graph, "x", DType::F32, &[2, 3, 8, 9]);
    let w = input(&mut graph, "w", DType::F32, &[4, 3, 3, 2]);
    let row = input(&mut graph, "row", DType::F32, &[9]);
    let mut shape = |op: Op, inputs: &[ValueId]| {
        let y = graph.add("y", op, inputs).unwrap();
        graph.value(y).shape.as_fixed().unwrap()
    };
    let conv = Conv { strides: [2, 1], pads: [1, 0, 0, 2], dilations: [1, 2], group: 1 };
    // (8 + 1 - 2 - 1) / 2 + 1, 9 + 2 - 2 - 1 + 1
    assert_eq!(shape(Op::Conv(conv), &[x, w]), [2, 4, 4, 9]);
    let pool = Pool { kernel: [3, 2], strides: [2, 2], pads: [0; 4], ceil_mode: false };
    assert_eq!(shape(Op::Pool(Pooling::Max(pool.clone())), &[x]), [2, 3, 3, 4]);
    assert_eq!(shape(Op::Pool(Pooling::Max(Pool { ceil_mode: true, ..pool })), &[x]), [2, 3, 4, 5]);
    assert_eq!(shape(Op::Binary(Binary::Add), &[x, row]), [2, 3, 8, 9]);
    assert_eq!(shape(Op::Reduce { op: Reduce::Max, axis: 2 }, &[x]), [2, 3, 1, 9]);
    assert_eq!(shape(Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }), &[x]), [2, 8, 9, 3]);
    assert_eq!(shape(Op::Shape(ShapeOp::Slice { axis: 3, start: 4, end: 9 }), &[x]), [2, 3, 8, 5]);
    assert_eq!(shape(Op::Shape(ShapeOp::Concat { axis: 1 }), &[x, x]), [2, 6, 8, 9]);
    assert_eq!(shape(Op::Shape(ShapeOp::Flatten { axis: 2 }), &[x]), [6, 72]);
    let product = |trans_a, trans_b| Op::MatMul(MatMul { trans_a, trans_b });
    assert_eq!(shape(product(false, true), &[x, x]), [2, 3, 8, 8]);
    assert_eq!(shape(product(true, false), &[x, x]), [2, 3, 9, 9]);
    let (a, b) = (input(&mut graph, "a", DType::F32, &[5, 3]), input(&mut graph, "b", DType::F32, &[3, 4]));
    let y = graph.add("y", product(false, false), &[a, b]).unwrap();
    assert_eq!(graph.value(y).shape, Shape::fixed(&[5, 4]));
    assert_eq!(refused(&mut graph, product(false, true), &[a, b]), "`a` has 3 columns, `b` 4 rows");
}

#[test]
fn sizes_that_change_nothing_leave_no_trace() {
    let h = Dim::symbol("h");
    let (zero, one) = (Dim::Fixed(0), Dim::Fixed(1));
    for (op, neutral) in [(DimOp::Add, &zero), (DimOp::Sub, &zero), (DimOp::Mul, &one), (DimOp::Div, &one)] {
        assert_eq!(h.combine(op, neutral), h, "{op:?}");
    }
    for (op, neutral) in [(DimOp::Add, &zero), (DimOp::Mul, &one)] {
        assert_eq!(neutral.combine(op, &h), h, "{op:?}");
    }
    // These do change something.
    for (op, other) in [(DimOp::Sub, &zero), (DimOp::Div, &one)] {
        assert_ne!(other.combine(op, &h), h, "{op:?}");
    }
    assert_ne!(h.combine(DimOp::Mul, &zero), h);
    assert_ne!(h.combine(DimOp::Add, &one), h);
    // Factors stand in one order.
    let w = Dim::symbol("w");
    assert_eq!(h.combine(DimOp::Mul, &w), w.combine(DimOp::Mul, &h));
}

#[test]
fn results_take_the_place_of_parameters_alone() {
    let mut graph = Graph::new("results");
    let x = input(&mut graph, "x", DType::F32, &[3]);
    let w = graph.add_parameter("w", &[3], Role::Weight);
    let short = graph.add_parameter("short", &[2], Role::Buffer);
    let sum = graph.add("sum", Op::Binary(Binary::Add), &[w, x]).unwrap();
    assert_eq!(graph.add_result(x, sum).unwrap_err().node, "x");
    assert!(graph.add_result(short, sum).unwrap_err().reason.contains("`sum`, f32[3]"));
    graph.add_result(w, sum).unwrap();
    assert_eq!(graph.use_counts()[sum.index()], 1);
    // A result is reason enough to keep what makes it.
    let pruned = prune(&graph).unwrap();
    assert_eq!((pruned.nodes().len(), pruned.results().len()), (1, 1));
    assert!(pruned.find_parameter("short").is_none() && pruned.find_parameter("w").is_some());
    assert!(graph.to_string().contains("w <- sum"), "{graph}");
}

/// A linear layer and a loss.
fn linear() -> offshoot_graph::passes::TrainingGraph {
    let mut graph = Graph::new("linear");
    let shape = Shape(vec![Dim::symbol("n"), Dim::Fixed(4)]);
    let x = graph.add_input("input", DType::F32, shape);
    let y = graph.linear("fc", x, 3).unwrap();
    graph.add_output("output", y);
    training_graph(&graph, LossOptions::default()).unwrap()
}

#[test]
fn a_step_holds_its_rule_and_its_results() {
    let training = linear();
    let names = |graph: &Graph| {
        let result = |(parameter, _): &(ValueId, ValueId)| graph.value(*parameter).name.clone();
        graph.results().iter().map(result).collect::<Vec<_>>()
    };
    let step = step_graph(&training, UpdateRule::Adam, GradientClip::Norm(1.0), true).unwrap();
    let moments = |name: &str| {
        [name.into(), format!("optimizer:{name}.exp_avg"), format!("optimizer:{name}.exp_avg_sq")]
    };
    let averages = ["fc.weight", "fc.bias"].map(|name| format!("average:{name}"));
    let wanted: Vec<String> =
        [moments("fc.bias"), moments("fc.weight")].into_iter().flatten().chain(averages).collect();
    assert_eq!(names(&step), wanted);
    let outputs: Vec<&str> = step.outputs().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(outputs, ["loss", "output", SQUARES]);
    let plain = step_graph(&training, UpdateRule::Sgd { nesterov: true }, GradientClip::Off, false).unwrap();
    assert_eq!(names(&plain).len(), 4);
    let apply = apply_graph(&training, UpdateRule::Adam, GradientClip::Off, false).unwrap();
    assert_eq!((names(&apply).len(), apply.inputs().len()), (6, 2));
}

#[test]
fn update_rules_check_their_operands() {
    let mut graph = Graph::new("rules");
    let w = graph.add_parameter("w", &[2, 3], Role::Weight);
    let m = graph.add_parameter("m", &[6], Role::Buffer);
    let short = graph.add_parameter("short", &[5], Role::Buffer);
    let clip = input(&mut graph, "clip", DType::F32, &[2]);
    let rates = input(&mut graph, "rates", DType::F32, &[2, RATES]);
    let sgd = |row| Op::Update(UpdateOp::Sgd { nesterov: false, row });
    assert_eq!(graph.add_node("ok", sgd(1), &[w, m, w, clip, rates]).unwrap().len(), 2);
    assert!(refused(&mut graph, sgd(2), &[w, m, w, clip, rates]).contains("without a row 2"));
    assert!(refused(&mut graph, sgd(0), &[w, short, w, clip, rates]).contains("`short` is [5]"));
    let clipped = Op::Update(UpdateOp::Clip(GradientClip::Off));
    assert!(refused(&mut graph, clipped, &[clip, clip]).contains("must be f64"));
}

#[test]
fn gradients_are_clipped_as_torch_does() {
    // A norm of 5, times 1/2.
    let squares = [9.0, 16.0];
    assert_eq!(GradientClip::Off.change(&squares, 0.5, 1.0), [0.5, f32::INFINITY]);
    assert_eq!(GradientClip::Norm(3.0).change(&squares, 0.5, 1.0), [0.5, f32::INFINITY]);
    let [factor, limit] = GradientClip::Norm(1.0).change(&squares, 0.5, 1.0);
    assert!((factor - 0.2).abs() < 1e-6 && limit == f32::INFINITY, "{factor}");
    assert_eq!(GradientClip::Value(0.25).change(&squares, 0.5, 1.0), [0.5, 0.25]);
    for (squares, loss) in [([1.0, f64::NAN], 1.0), ([f64::INFINITY, 0.0], 1.0), (squares, f32::NAN)] {
        assert!(GradientClip::Value(1.0).change(&squares, 1.0, loss).iter().all(|x| x.is_nan()));
    }
}

#[test]
fn composite_operators_are_refused_by_their_own_name() {
    let mut graph = Graph::new("composites");
    let x = input(&mut graph, "x", DType::F32, &[2, 6, 4, 5]);
    let c = input(&mut graph, "c", DType::F32, &[6]);
    let symbolic =
        graph.add_input("s", DType::F32, Shape(vec![2.into(), 6.into(), Dim::symbol("h"), 5.into()]));
    let mut say = |composite: Composite, inputs: &[ValueId]| {
        let error = graph.add_node("node", Op::Composite(composite), inputs).unwrap_err();
        error.to_string()
    };
    let norm = |groups| Composite::GroupNormalization { groups, epsilon: 1e-5 };
    assert_eq!(
        say(norm(4), &[x, c, c]),
        "node `node` (GroupNormalization): 6 channels are not 4 equal groups"
    );
    assert!(say(norm(0), &[x, c, c]).contains("0 equal groups"));
    assert!(say(norm(2), &[x, c]).contains("takes 3 inputs, not 2"));
    let split = |sizes: &[usize]| Composite::Split { axis: 1, sizes: sizes.to_vec() };
    assert!(say(split(&[2, 3]), &[x]).contains("not an axis of 6"));
    assert!(say(split(&[]), &[x]).contains("not an axis of 6"));
    assert!(say(split(&[usize::MAX, 1, 6]), &[x]).contains("(Split)"));
    let pad = |pads: &[[usize; 2]]| Composite::Pad { pads: pads.to_vec(), mode: PadMode::Reflect };
    assert!(say(pad(&[[0, 0]; 3]), &[x]).contains("3 pairs of pads for 4 axes"));
    assert!(say(pad(&[[0, 0], [0, 0], [4, 0], [0, 0]]), &[x]).contains("axis 2 has 4"));
    assert!(say(pad(&[[0, 0], [0, 0], [1, 0], [0, 0]]), &[symbolic]).contains("axis 2 must be known"));
    let resize = |size| Composite::Resize {
        size,
        resampling: Resampling::Linear,
        coordinates: Coordinates::HalfPixel,
    };
    assert!(say(resize([3, 3]), &[symbolic]).contains("known height and width"));
    assert!(say(resize([1 << 30, 3]), &[x]).contains("4 places cannot become"));
    assert!(say(resize([0, 3]), &[x]).contains("4 places cannot become 0"));
    assert!(say(Composite::LogSoftmax { axis: 4 }, &[x]).contains("(LogSoftmax): axis 4"));
    let gru = Composite::Gru { direction: Direction::Forward, linear_before_reset: false };
    assert!(say(gru, &[x, x, x, x]).contains("(GRU)"));
}

#[test]
fn expanding_leaves_what_it_is_not_asked_for() {
    let mut graph = Graph::new("expand");
    let x = input(&mut graph, "x", DType::F32, &[2, 6]);
    let parts = graph
        .add_node("split", Op::Composite(Composite::Split { axis: 1, sizes: vec![2, 4] }), &[x])
        .unwrap();
    let y = graph.add("log", Op::Composite(Composite::LogSoftmax { axis: 1 }), &[parts[1]]).unwrap();
    let same = Composite::Pad { pads: vec![[0, 0]; 2], mode: PadMode::Constant(0.0) };
    let y = graph.add("same", Op::Composite(same), &[y]).unwrap();
    graph.add_output("a", parts[0]);
    graph.add_output("y", y);
    let composites = |graph: &Graph| {
        let composite = |node: &&offshoot_graph::Node| matches!(node.op, Op::Composite(_));
        graph.nodes().iter().filter(composite).map(|node| node.name.clone()).collect::<Vec<_>>()
    };
    let some = expand(&graph, |composite| matches!(composite, Composite::Split { .. })).unwrap();
    assert_eq!(composites(&some), ["log", "same"]);
    let all = expand(&graph, |_| true).unwrap();
    assert_eq!(composites(&all), Vec::<String>::new());
    let shapes = |graph: &Graph| {
        graph.outputs().iter().map(|(_, id)| graph.value(*id).shape.clone()).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&all), shapes(&graph));
    assert_eq!(unroll(&all, |_| true).unwrap(), all);
}

#[test]
fn products_without_flags_have_transposes() {
    let mut graph = Graph::new("products");
    let x = input(&mut graph, "x", DType::F32, &[2, 3, 4]);
    let y = graph.add("y", Op::MatMul(MatMul { trans_a: true, trans_b: false }), &[x, x]).unwrap();
    graph.add_output("y", y);
    let plain = plain_products(&graph).unwrap();
    let names: Vec<&str> = plain.nodes().iter().map(|node| node.op.name()).collect();
    assert_eq!(names, ["Transpose", "MatMul"]);
    assert_eq!(plain.nodes()[1].op, Op::MatMul(MatMul::default()));
    assert_eq!(plain.nodes()[0].op, Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1] }));
    let output = plain.output("y").unwrap();
    assert_eq!(plain.value(output).shape, Shape::fixed(&[2, 4, 4]));
}

/// Which weights of a graph become bytes.
fn bytes(build: impl Fn(&mut Graph, ValueId, ValueId) -> ValueId, chosen: impl Fn(&str) -> bool) -> bool {
    let mut graph = Graph::new("bytes");
    let x = input(&mut graph, "x", DType::F32, &[4, 4]);
    let w = graph.add_parameter("w", &[4, 4], Role::Weight);
    let y = build(&mut graph, x, w);
    graph.add_output("y", y);
    let graph = dynamic_int8_graph(&graph, chosen).unwrap();
    let w = graph.find_parameter("w").unwrap();
    let is_bytes = graph.value(w).dtype == DType::I8;
    assert_eq!(graph.find_parameter("w_scale").is_some(), is_bytes);
    is_bytes
}

#[test]
fn only_what_products_alone_read_in_one_way_becomes_bytes() {
    let gemm = |trans_a, trans_b| Op::Gemm(Gemm { trans_a, trans_b });
    let one = |op: Op| move |graph: &mut Graph, x, w| graph.add("y", op.clone(), &[x, w]).unwrap();
    assert!(bytes(one(gemm(false, true)), |_| true));
    assert!(bytes(one(gemm(false, false)), |name| name == "w"));
    assert!(!bytes(one(gemm(false, true)), |name| name == "other"), "it was not chosen");
    assert!(!bytes(one(gemm(true, true)), |_| true), "the rows are transposed");
    assert!(!bytes(one(Op::Binary(Binary::Add)), |_| true), "no product");
    let two = |first: Op, second: Op| {
        move |graph: &mut Graph, x, w| {
            let y = graph.add("y", first.clone(), &[x, w]).unwrap();
            graph.add("z", second.clone(), &[y, w]).unwrap()
        }
    };
    assert!(bytes(two(gemm(false, true), gemm(false, true)), |_| true));
    assert!(!bytes(two(gemm(false, true), gemm(false, false)), |_| true), "two ways");
    assert!(!bytes(two(gemm(false, true), Op::Binary(Binary::Mul)), |_| true), "read by another");
    let first =
        |graph: &mut Graph, x: ValueId, w: ValueId| graph.add("y", gemm(false, true), &[w, x]).unwrap();
    assert!(!bytes(first, |_| true), "the first operand");
    let shown = |graph: &mut Graph, x: ValueId, w: ValueId| {
        graph.add_output("w", w);
        graph.add("y", gemm(false, true), &[x, w]).unwrap()
    };
    assert!(!bytes(shown, |_| true), "an output");
    let with_bias = |graph: &mut Graph, x: ValueId, w: ValueId| {
        let bias = graph.add_constant("bias", Tensor::zeros([4]));
        graph.add("y", gemm(false, true), &[x, w, bias]).unwrap()
    };
    assert!(bytes(with_bias, |_| true));
}

#[test]
fn activations_say_their_range() {
    let clip = Unary::Clip(Clip { min: -1.0, max: 2.0 });
    let range = |unary: Unary, x: (f64, f64)| (unary.row().range)(&unary.numbers(), x);
    assert_eq!(range(Unary::Relu, (-3.0, 5.0)), (0.0, 5.0));
    assert_eq!(range(clip, (-3.0, 5.0)), (-1.0, 2.0));
    assert_eq!(range(Unary::Sigmoid, (f64::NEG_INFINITY, f64::INFINITY)), (0.0, 1.0));
}

/// The first numbers of SplitMix64 from the seed 0, as `java.util.SplittableRandom` and others have them.
#[test]
fn random_numbers_are_splitmix64() {
    let golden = 0x9E37_79B9_7F4A_7C15u64;
    let found: Vec<u64> = (0..4u64).map(|i| mix(golden.wrapping_mul(i))).collect();
    let wanted = [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F, 0xF88B_B8A8_724C_81EC];
    assert_eq!(found, wanted);
    let mut random = Random::new(1, 2, 3, offshoot_graph::random::Purpose::Split);
    let draws: Vec<usize> = (0..2000).map(|_| random.below(10)).collect();
    for digit in 0..10 {
        let count = draws.iter().filter(|&&d| d == digit).count();
        assert!((140..260).contains(&count), "{digit}: {count}");
    }
    let mut items: Vec<usize> = (0..50).collect();
    random.shuffle(&mut items);
    assert_ne!(items, (0..50).collect::<Vec<_>>());
    items.sort_unstable();
    assert_eq!(items, (0..50).collect::<Vec<_>>());
    let numbers: Vec<f32> = (0..1000).map(|_| random.range(-2.0, 3.0)).collect();
    assert!(numbers.iter().all(|x| (-2.0..3.0).contains(x)));
    assert!(numbers.iter().any(|&x| x < -1.5) && numbers.iter().any(|&x| x > 2.5));
}
