//! QuantizeLinear and DequantizeLinear against ONNX Runtime, and the gradient of the pair against PyTorch
//! (`scripts/golden/quantize.py`), on every SIMD path and any number of threads.

use offshoot_graph::op::{Binary, Unary};
use offshoot_graph::passes::{differentiate, training_graph};
use offshoot_graph::{DType, Data, Executor, Graph, Op, Role, Shape, Tensor, ValueId, Weights};
use serde_json::Value;

use crate::golden::{Golden, executors, run_on_all};

/// A case's tensors and axis.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    axis: usize,
    op: &'a str,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Case<'a> {
        let axis = case["axis"].as_u64().unwrap_or(0) as usize;
        Case { golden, name: case["name"].as_str().unwrap(), axis, op: case["op"].as_str().unwrap() }
    }

    fn tensor(&self, key: &str) -> &'a Tensor {
        self.golden.get(&format!("{}/{key}", self.name))
    }

    /// The scale and the zero point as constants.
    fn scales(&self, graph: &mut Graph) -> [ValueId; 2] {
        ["scale", "zero"].map(|key| graph.add_constant(key, self.tensor(key).clone()))
    }
}

/// The integers of `q` as floats: what DequantizeLinear gives with scale 1 and zero point 0.
fn as_floats(graph: &mut Graph, q: ValueId) -> ValueId {
    let zero = match graph.value(q).dtype {
        DType::U8 => Data::U8(vec![0]),
        DType::I8 => Data::I8(vec![0]),
        other => panic!("{other}"),
    };
    let one = graph.add_constant("one", Tensor::f32([], vec![1.0]));
    let zero = graph.add_constant("none", Tensor::new([], zero).unwrap());
    graph.add("shown", Op::DequantizeLinear { axis: 0 }, &[q, one, zero]).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.data() {
        Data::F32(v) => v.clone(),
        Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
        other => panic!("{:?}", other.dtype()),
    }
}

#[test]
fn both_give_the_bits_of_onnx_runtime() {
    let (golden, executors) = (Golden::load("quantize"), executors());
    assert!(golden.cases.len() > 30);
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let x = case.tensor("x");
        // The operand comes from outside, or is a weight that is known beforehand.
        for frozen in [false, true] {
            let mut graph = Graph::new(case.name);
            let mut weights = Weights::new();
            let id = if frozen {
                weights.insert("x".into(), x.clone());
                graph.add_typed_parameter("x", x.dtype(), x.shape(), Role::Buffer)
            } else {
                graph.add_input("x", x.dtype(), Shape::fixed(x.shape()))
            };
            let [scale, zero] = case.scales(&mut graph);
            let y = if case.op == "QuantizeLinear" {
                let q = graph.add("q", Op::QuantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap();
                assert_eq!(graph.value(q).dtype, case.tensor("zero").dtype());
                as_floats(&mut graph, q)
            } else {
                graph.add("y", Op::DequantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap()
            };
            graph.add_output("y", y);
            let inputs = if frozen { vec![] } else { vec![("x", x)] };
            for (isa, executors) in &executors {
                let what = format!("{} on {isa:?}", case.name);
                let found = run_on_all(executors, &graph, &inputs, &weights, &what);
                assert_eq!(found["y"].as_f32().unwrap(), floats(case.tensor("y")), "{what}");
            }
        }
    }
}

#[test]
fn the_pair_has_the_gradient_of_fake_quantize() {
    let (golden, executors) = (Golden::load("quantize"), executors());
    let mut blocked = 0;
    for case in golden.cases.iter().filter(|c| c["op"] == "QuantizeLinear") {
        let case = Case::new(&golden, case);
        let x = case.tensor("x");
        let mut graph = Graph::new(case.name);
        let id = graph.add_parameter("x", x.shape(), Role::Weight);
        let [scale, zero] = case.scales(&mut graph);
        let q = graph.add("q", Op::QuantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap();
        let y = graph.add("y", Op::DequantizeLinear { axis: case.axis }, &[q, scale, zero]).unwrap();
        let dy = graph.add_input("dy", DType::F32, Shape::fixed(x.shape()));
        let loss = graph.add("loss", Op::Binary(Binary::Mul), &[y, dy]).unwrap();
        let gradients = differentiate(graph, loss).unwrap();
        let mut graph = gradients.graph;
        graph.add_output("dx", gradients.gradients[0].1);
        let weights = Weights::from([("x".to_string(), x.clone())]);
        let wanted = case.tensor("dx").as_f32().unwrap();
        blocked += wanted.iter().filter(|&&d| d == 0.0).count();
        for (isa, executors) in &executors {
            let what = format!("{} on {isa:?}", case.name);
            let found = run_on_all(executors, &graph, &[("dy", case.tensor("dy"))], &weights, &what);
            assert_eq!(found["dx"].as_f32().unwrap(), wanted, "{what}");
        }
    }
    assert!(blocked > 100, "the cases saturate");
}

#[test]
fn a_layout_between_the_two_changes_nothing() {
    // Quantized channels last behind a pool, dequantized channel by channel.
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[1, 2, 2, 2]));
    let relu = graph.add("relu", Op::Unary(Unary::Relu), &[x]).unwrap();
    let wide = graph.add("wide", Op::Concat { axis: 1 }, &[relu, relu]).unwrap();
    let scale = graph.add_constant("scale", Tensor::f32([], vec![0.5]));
    let zero = graph.add_constant("zero", Tensor::new([], Data::U8(vec![3])).unwrap());
    let q = graph.add("q", Op::QuantizeLinear { axis: 0 }, &[wide, scale, zero]).unwrap();
    let scales = graph.add_constant("scales", Tensor::f32([4], vec![1.0, 2.0, 4.0, 8.0]));
    let zeros = graph.add_constant("zeros", Tensor::new([4], Data::U8(vec![3; 4])).unwrap());
    let y = graph.add("y", Op::DequantizeLinear { axis: 1 }, &[q, scales, zeros]).unwrap();
    let flat = graph.add("flat", Op::Flatten { axis: 1 }, &[y]).unwrap();
    graph.add_output("flat", flat);
    let x = Tensor::f32([1, 2, 2, 2], vec![0.5, 1.0, -4.0, 2.0, 0.0, 3.0, 1.5, 0.2]);
    for (isa, executors) in executors() {
        let found = run_on_all(&executors, &graph, &[("x", &x)], &Weights::new(), "layout");
        let levels = [1.0, 2.0, 0.0, 4.0, 0.0, 6.0, 3.0, 0.0];
        let wanted: Vec<f32> = (0..16).map(|i| levels[i % 8] * [1.0, 2.0, 4.0, 8.0][i / 4]).collect();
        assert_eq!(found["flat"].as_f32().unwrap(), wanted, "{isa:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
    let scale = graph.add_constant("scale", Tensor::f32([2], vec![1.0; 2]));
    let zero = graph.add_constant("zero", Tensor::new([2], Data::I8(vec![0; 2])).unwrap());
    let error =
        |graph: &mut Graph, op: Op, inputs: &[ValueId]| graph.add("n", op, inputs).unwrap_err().reason;
    let reason = error(&mut graph, Op::QuantizeLinear { axis: 1 }, &[x, scale, zero]);
    assert_eq!(reason, "`scale` is [2]: one number, or one for each place of axis 1 of [2, 3]");
    let q = graph.add("q", Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]).unwrap();
    let reason = error(&mut graph, Op::QuantizeLinear { axis: 0 }, &[q, scale, zero]);
    assert_eq!(reason, "`q` is i8, and only f32 is quantized");
    let bytes = graph.add_constant("bytes", Tensor::new([2], Data::U8(vec![0; 2])).unwrap());
    let reason = error(&mut graph, Op::DequantizeLinear { axis: 0 }, &[q, scale, bytes]);
    assert_eq!(reason, "`q` is i8 and `bytes` is u8");
    let weight = graph.add_typed_parameter("w", DType::I8, &[3, 4], Role::Weight);
    let reason = error(&mut graph, Op::Gemm(Default::default()), &[x, weight]);
    assert_eq!(reason, "`w` is i8, and must be a float: dequantize it first");

    // An integer result is no output, and integers that no DequantizeLinear undoes have no gradient.
    graph.add_output("q", q);
    let weights = Weights::from([("w".to_string(), Tensor::new([3, 4], Data::I8(vec![0; 12])).unwrap())]);
    let mut session = executors()[0].1[0].prepare(&graph, &weights);
    let error = session.as_mut().unwrap().run(&[("x", &Tensor::zeros([2, 3]))]).unwrap_err();
    assert!(error.to_string().contains("it is i8, and outputs are floats"), "{error}");

    let mut graph = Graph::new("g");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
    let float = graph.add_parameter("float", &[3, 4], Role::Weight);
    let x = graph.add("x2", Op::Gemm(Default::default()), &[x, float]).unwrap();
    let scale = graph.add_constant("scale", Tensor::f32([], vec![1.0]));
    let other = graph.add_constant("other", Tensor::f32([], vec![2.0]));
    let zero = graph.add_constant("zero", Tensor::new([], Data::I8(vec![0])).unwrap());
    let q = graph.add("q", Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]).unwrap();
    let y = graph.add("y", Op::DequantizeLinear { axis: 0 }, &[q, other, zero]).unwrap();
    graph.add_output(offshoot_graph::model::OUTPUT, y);
    let error = training_graph(&graph, Default::default()).unwrap_err();
    assert!(error.reason.contains("undoes a QuantizeLinear"), "{error}");
}
