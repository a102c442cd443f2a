//! QuantizeLinear and DequantizeLinear: layouts, and what is refused.

use offshoot_cpu::Isa;
use offshoot_graph::op::{ShapeOp, Unary};
use offshoot_graph::passes::training_graph;
use offshoot_graph::{DType, Data, Executor, Graph, Op, Role, Shape, Tensor, ValueId, Weights};

use crate::support::{executor, run};

#[test]
fn a_layout_between_the_two_changes_nothing() {
    // Quantized channels last behind a pool, dequantized channel by channel.
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[1, 2, 2, 2]));
    let relu = graph.add("relu", Op::Unary(Unary::Relu), &[x]).unwrap();
    let wide = graph.add("wide", Op::Shape(ShapeOp::Concat { axis: 1 }), &[relu, relu]).unwrap();
    let scale = graph.add_constant("scale", Tensor::f32([], vec![0.5]));
    let zero = graph.add_constant("zero", Tensor::new([], Data::U8(vec![3])).unwrap());
    let q = graph.add("q", Op::QuantizeLinear { axis: 0 }, &[wide, scale, zero]).unwrap();
    let scales = graph.add_constant("scales", Tensor::f32([4], vec![1.0, 2.0, 4.0, 8.0]));
    let zeros = graph.add_constant("zeros", Tensor::new([4], Data::U8(vec![3; 4])).unwrap());
    let y = graph.add("y", Op::DequantizeLinear { axis: 1 }, &[q, scales, zeros]).unwrap();
    let flat = graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[y]).unwrap();
    graph.add_output("flat", flat);
    let x = Tensor::f32([1, 2, 2, 2], vec![0.5, 1.0, -4.0, 2.0, 0.0, 3.0, 1.5, 0.2]);
    for isa in Isa::available() {
        let found = run(&executor(isa), &graph, &[("x", &x)], &Weights::new());
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
    let mut session = executor(Isa::best()).prepare(&graph, &weights).unwrap();
    let error = session.run(&[("x", &Tensor::zeros([2, 3]))]).unwrap_err();
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
