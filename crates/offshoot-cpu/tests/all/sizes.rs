//! Graphs run at several sizes, and with sizes that no kernel takes.

use offshoot_cpu::optimize::{CpuOp, optimize};
use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::op::{Binary, Conv, GradOp, Pool, Pooling};
use offshoot_graph::passes::freeze;
use offshoot_graph::{
    DType, Data, Dim, ExecuteError, Executor, Graph, Op, Role, Session, Shape, Tensor, ValueId, Weights,
};

fn executor(isa: Isa) -> CpuExecutor {
    CpuExecutor::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() }).unwrap()
}

fn plain_conv(pad: usize) -> Conv {
    Conv { strides: [1, 1], pads: [pad; 4], dilations: [1, 1], group: 1 }
}

/// x -> DequantizeLinear(QuantizeLinear(x)), with a scale of a hundredth.
fn through_bytes(graph: &mut Graph, name: &str, x: ValueId) -> ValueId {
    let scale = graph.add_constant(&format!("{name}.scale"), Tensor::f32([], vec![0.01]));
    let zero = graph.add_constant(&format!("{name}.zero"), Tensor::new([], Data::U8(vec![120])).unwrap());
    let q = graph.add(&format!("{name}.q"), Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]).unwrap();
    graph.add(&format!("{name}.d"), Op::DequantizeLinear { axis: 0 }, &[q, scale, zero]).unwrap()
}

/// A 3x3 convolution of bytes on pictures of any size.
fn byte_network() -> (Graph, Weights) {
    let mut graph = Graph::new("bytes");
    let [n, h, w] = ["n", "h", "w"].map(Dim::symbol);
    let x = graph.add_input("x", DType::F32, Shape(vec![n, Dim::Fixed(3), h, w]));
    let x = through_bytes(&mut graph, "x", x);
    let weight = graph.add_typed_parameter("weight", DType::I8, &[8, 3, 3, 3], Role::Weight);
    let scale = graph.add_constant("weight.scale", Tensor::f32([], vec![0.01]));
    let zero = graph.add_constant("weight.zero", Tensor::new([], Data::I8(vec![0])).unwrap());
    let weight = graph.add("weight.d", Op::DequantizeLinear { axis: 0 }, &[weight, scale, zero]).unwrap();
    let y = graph.add("conv", Op::Conv(plain_conv(1)), &[x, weight]).unwrap();
    let y = through_bytes(&mut graph, "y", y);
    graph.add_output("y", y);
    freeze(&mut graph, |_| true);
    let values: Vec<i8> = (0..216).map(|i| ((i * 37 + 11) % 251 - 125) as i8).collect();
    let weights =
        Weights::from([("weight".to_string(), Tensor::new([8, 3, 3, 3], Data::I8(values)).unwrap())]);
    (graph, weights)
}

fn picture(h: usize, w: usize) -> Tensor {
    Tensor::f32([1, 3, h, w], (0..3 * h * w).map(|i| ((i * 7919) % 257) as f32 / 100.0 - 1.2).collect())
}

/// How a filter of bytes is packed depends on the width of the pictures: a session runs wide ones after narrow ones.
#[test]
fn a_byte_convolution_runs_at_one_size_after_the_other() {
    let (graph, weights) = byte_network();
    let optimized = optimize(&graph).unwrap();
    let fused = optimized.nodes().iter().any(|node| matches!(node.op, CpuOp::Quantized(_)));
    assert!(fused, "{:?}", optimized.nodes().iter().map(|n| &n.op).collect::<Vec<_>>());
    for isa in Isa::available() {
        let executor = executor(isa);
        let mut session = executor.prepare(&graph, &weights).unwrap();
        for (h, w) in [(5, 2), (6, 28), (7, 14), (5, 2), (9, 56), (6, 28)] {
            let x = picture(h, w);
            session.run(&[("x", &x)]).unwrap();
            let found = session.read("y").unwrap().into_f32().unwrap();
            let mut alone = executor.prepare(&graph, &weights).unwrap();
            alone.run(&[("x", &x)]).unwrap();
            assert_eq!(found, alone.read("y").unwrap().into_f32().unwrap(), "{h} x {w} on {isa}");
            assert!(found.iter().any(|&y| y != found[0]), "all the same at {h} x {w}");
        }
    }
}

/// Steps that a file may name, and with which places in memory are no numbers any more, are an error that names the node.
#[test]
fn sizes_that_do_not_fit_are_an_error() {
    let far = 1usize << 40;
    for op in [
        Op::Conv(Conv { strides: [far, far], ..plain_conv(0) }),
        Op::Pool(Pooling::Max(Pool { kernel: [2, 2], strides: [far, far], pads: [0; 4], ceil_mode: false })),
    ] {
        let mut graph = Graph::new("far");
        let x = graph.add_input("x", DType::F32, Shape::fixed(&[1, 4, 8, 8]));
        let mut inputs = vec![x];
        let mut weights = Weights::new();
        if matches!(op, Op::Conv(_)) {
            inputs.push(graph.add_typed_parameter("weight", DType::F32, &[4, 4, 1, 1], Role::Weight));
            weights.insert("weight".into(), Tensor::f32([4, 4, 1, 1], vec![1.0; 16]));
        }
        let y = graph.add("far.node", op, &inputs).unwrap();
        graph.add_output("y", y);
        let x = Tensor::f32([1, 4, 8, 8], vec![1.0; 256]);
        for isa in Isa::available() {
            let result = executor(isa).prepare(&graph, &weights).unwrap().run(&[("x", &x)]);
            let Err(ExecuteError::Unsupported { node, reason, .. }) = result else { panic!("{result:?}") };
            assert!(node == "far.node" && reason.contains("too large"), "{node}: {reason}");
        }
    }
}

/// What pictures are combined with may have no batch dimension; its gradient sums over the batch.
#[test]
fn a_value_without_a_batch_is_broadcast_and_summed_to() {
    let shape = [3, 2, 5];
    let mut graph = Graph::new("broadcast");
    let sizes = Shape(vec![Dim::symbol("n"), 3.into(), 2.into(), 5.into()]);
    let x = graph.add_input("x", DType::F32, sizes);
    let m = graph.add_parameter("m", &shape, Role::Weight);
    let add = |graph: &mut Graph, name: &str, op, inputs: &[ValueId]| {
        let value = graph.add(name, op, inputs).unwrap();
        graph.add_output(name, value);
    };
    add(&mut graph, "first", Op::Binary(Binary::Sub), &[x, m]);
    add(&mut graph, "second", Op::Binary(Binary::Sub), &[m, x]);
    add(&mut graph, "sums", Op::Grad(GradOp::ReduceTo { shape: Shape::fixed(&shape) }), &[x]);
    let m: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let weights = Weights::from([("m".to_string(), Tensor::f32(shape, m.clone()))]);
    for isa in Isa::available() {
        let mut session = executor(isa).prepare(&graph, &weights).unwrap();
        for n in [1, 2] {
            let x: Vec<f32> = (0..30 * n).map(|i| (i * i % 37) as f32).collect();
            session.run(&[("x", &Tensor::f32([n, 3, 2, 5], x.clone()))]).unwrap();
            let pairs = || x.iter().zip(m.iter().cycle());
            assert_eq!(floats(&*session, "first"), pairs().map(|(x, m)| x - m).collect::<Vec<_>>());
            assert_eq!(floats(&*session, "second"), pairs().map(|(x, m)| m - x).collect::<Vec<_>>());
            let sums: Vec<f32> = (0..30).map(|i| x.iter().skip(i).step_by(30).sum()).collect();
            assert_eq!(floats(&*session, "sums"), sums, "{n} pictures");
        }
    }
}

/// A value of four axes beside one of five: neither is turned.
#[test]
fn a_value_of_four_axes_is_broadcast_to_five() {
    let mut graph = Graph::new("broadcast");
    let sizes = Shape(vec![Dim::symbol("n"), 2.into(), 3.into(), 2.into(), 2.into()]);
    let x = graph.add_input("x", DType::F32, sizes);
    for (name, shape) in [("whole", [2, 3, 2, 2]), ("part", [1, 3, 2, 2]), ("row", [1, 1, 1, 2])] {
        let m = graph.add_parameter(&format!("{name}.m"), &shape, Role::Weight);
        let y = graph.add(name, Op::Binary(Binary::Sub), &[m, x]).unwrap();
        graph.add_output(name, y);
        let sums = Op::Grad(GradOp::ReduceTo { shape: Shape::fixed(&shape) });
        let sums = graph.add(&format!("{name}.sums"), sums, &[x]).unwrap();
        graph.add_output(&format!("{name}.sums"), sums);
    }
    let m = |len: usize| (0..len).map(|i| (i * 7 % 24) as f32).collect::<Vec<f32>>();
    let weights = [("whole", [2, 3, 2, 2]), ("part", [1, 3, 2, 2]), ("row", [1, 1, 1, 2])]
        .map(|(name, shape)| (format!("{name}.m"), Tensor::f32(shape, m(shape.iter().product()))));
    let weights = Weights::from(weights);
    for isa in Isa::available() {
        let mut session = executor(isa).prepare(&graph, &weights).unwrap();
        for n in [1, 3] {
            let x: Vec<f32> = (0..24 * n).map(|i| (i * i % 37) as f32).collect();
            session.run(&[("x", &Tensor::f32([n, 2, 3, 2, 2], x.clone()))]).unwrap();
            for (name, len) in [("whole", 24), ("part", 12), ("row", 2)] {
                // Trailing axes repeat.
                let wanted: Vec<f32> = x.iter().zip(m(len).iter().cycle()).map(|(x, m)| m - x).collect();
                assert_eq!(floats(&*session, name), wanted, "{name} {n}");
                let sums: Vec<f32> = (0..len).map(|i| x.iter().skip(i).step_by(len).sum()).collect();
                assert_eq!(floats(&*session, &format!("{name}.sums")), sums, "{name} {n}");
            }
        }
    }
}

fn floats(session: &dyn Session, name: &str) -> Vec<f32> {
    session.read(name).unwrap().into_f32().unwrap()
}
