//! When a softmax at the end of a classifier may be left out, and when its output is no logits.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

use offshoot_graph::op::{Binary, Clip, Composite, MatMul, Reduce, ShapeOp, Unary};
use offshoot_graph::passes::{confined_scores, gives_probabilities, without_softmax};
use offshoot_graph::{DType, Dim, Graph, Op, Shape, Tensor, ValueId, Weights};

/// A graph from [batch, 5] to what `end` makes of it.
fn graph(end: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Graph {
    let mut graph = Graph::new("ending");
    let x = graph.add_input("input", DType::F32, shape([None, Some(5)]));
    let y = end(&mut graph, x);
    graph.add_output("output", y);
    graph
}

/// With the batch where there is no number.
fn shape<const N: usize>(dims: [Option<usize>; N]) -> Shape {
    Shape(dims.map(|dim| dim.map_or(Dim::symbol("batch_size"), Dim::Fixed)).to_vec())
}

fn softmax(g: &mut Graph, x: ValueId) -> ValueId {
    g.add("softmax", Op::Softmax { axis: 1 }, &[x]).unwrap()
}

fn times(g: &mut Graph, x: ValueId, number: f32) -> ValueId {
    let number = g.add_constant("number", Tensor::f32([], vec![number]));
    g.add("times", Op::Binary(Binary::Mul), &[x, number]).unwrap()
}

fn reshaped<const N: usize>(g: &mut Graph, x: ValueId, dims: [Option<usize>; N]) -> ValueId {
    g.add("reshape", Op::Shape(ShapeOp::Reshape { shape: shape(dims) }), &[x]).unwrap()
}

/// Operators that are left when the softmax is left out; `None` where it stays.
fn left(graph: &Graph) -> Option<Vec<&'static str>> {
    let (logits, _) = without_softmax(graph, &Weights::new()).unwrap()?;
    Some(logits.nodes().iter().map(|n| n.op.name()).collect())
}

#[test]
fn what_moves_rows_as_a_whole_stays_and_the_softmax_goes() {
    let moved = graph(|g, x| {
        let p = softmax(g, x);
        let p = reshaped(g, p, [None, Some(1), Some(5)]);
        let p = g.add("t", Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1] }), &[p]).unwrap();
        let p = reshaped(g, p, [None, Some(5)]);
        times(g, p, 100.0)
    });
    assert_eq!(left(&moved), Some(vec!["Reshape", "Transpose", "Reshape"]));
    let (_, left_out) = without_softmax(&moved, &Weights::new()).unwrap().unwrap();
    assert_eq!(left_out.scale, 100.0);
}

#[test]
fn a_softmax_whose_rows_are_taken_apart_stays() {
    let scrambled = graph(|g, x| {
        let p = softmax(g, x);
        let p = g.add("t", Op::Shape(ShapeOp::Transpose { perm: vec![1, 0] }), &[p]).unwrap();
        reshaped(g, p, [None, Some(5)])
    });
    let over_the_batch = graph(|g, x| g.add("softmax", Op::Softmax { axis: 0 }, &[x]).unwrap());
    let read_twice = graph(|g, x| {
        let p = softmax(g, x);
        g.add("square", Op::Binary(Binary::Mul), &[p, p]).unwrap()
    });
    let cut = graph(|g, x| {
        let p = softmax(g, x);
        g.add("slice", Op::Shape(ShapeOp::Slice { axis: 1, start: 1, end: 5 }), &[p]).unwrap()
    });
    let of_probabilities = graph(|g, x| {
        let p = g.add("sigmoid", Op::Unary(Unary::Sigmoid), &[x]).unwrap();
        softmax(g, p)
    });
    for graph in [scrambled, over_the_batch, read_twice, cut, of_probabilities] {
        assert_eq!(left(&graph), None, "{graph}");
        assert!(gives_probabilities(&graph, &Weights::new()), "{graph}");
    }
    let turned_over = graph(|g, x| {
        let p = softmax(g, x);
        times(g, p, -1.0)
    });
    assert_eq!(left(&turned_over), None);
    assert!(!gives_probabilities(&turned_over, &Weights::new()));
}

#[test]
fn a_scaled_or_clipped_logarithm_is_no_logarithm_of_a_probability() {
    let softmax = |g: &mut Graph, x: ValueId| {
        g.add("log", Op::Composite(Composite::LogSoftmax { axis: 1 }), &[x]).unwrap()
    };
    let log = |graph: &Graph| without_softmax(graph, &Weights::new()).unwrap();
    let (_, left_out) = log(&graph(softmax)).unwrap();
    assert!(left_out.logarithm && left_out.nodes == ["log"]);
    let scaled = graph(|g, x| {
        let p = softmax(g, x);
        times(g, p, 2.0)
    });
    let clipped = graph(|g, x| {
        let p = softmax(g, x);
        g.add("clip", Op::Unary(Unary::Clip(Clip { min: 0.0, max: 1.0 })), &[p]).unwrap()
    });
    assert!(log(&scaled).is_none() && log(&clipped).is_none());
}

#[test]
fn a_range_is_not_taken_for_less_than_it_can_be() {
    let unary = |op: Op| graph(|g, x| g.add("end", op, &[x]).unwrap());
    let tanh = unary(Op::Unary(Unary::Tanh));
    let relu6 = unary(Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 })));
    let one = unary(Op::Unary(Unary::Clip(Clip { min: 0.0, max: 1.0 })));
    let twice = graph(|g, x| {
        let p = g.add("sigmoid", Op::Unary(Unary::Sigmoid), &[x]).unwrap();
        g.add("sum", Op::Binary(Binary::Add), &[p, p]).unwrap()
    });
    let gate = graph(|g, x| {
        let p = g.add("sigmoid", Op::Unary(Unary::Sigmoid), &[x]).unwrap();
        g.add("silu", Op::Binary(Binary::Mul), &[p, x]).unwrap()
    });
    let found = [tanh, relu6, one, twice, gate].map(|graph| gives_probabilities(&graph, &Weights::new()));
    assert_eq!(found, [false, false, true, false, false]);
}

/// A chain of sums of a value with itself has as many paths as 2 to the power of its length.
#[test]
fn a_deep_end_is_given_up_on() {
    let deep = graph(|g, x| (0..200).fold(x, |x, _| g.add("sum", Op::Binary(Binary::Add), &[x, x]).unwrap()));
    assert!(!gives_probabilities(&deep, &Weights::new()));
}

#[test]
fn a_linear_map_of_probabilities_is_told_from_logits() {
    let linear = |weights: Vec<f32>, outputs: usize| {
        graph(|g, x| {
            let p = softmax(g, x);
            let w = g.add_constant("w", Tensor::f32([5, outputs], weights));
            g.add("linear", Op::MatMul(MatMul::default()), &[p, w]).unwrap()
        })
    };
    let none = Weights::new();
    // The classes in another order.
    let order: Vec<f32> = (0..25).map(|i| f32::from(u8::from(i % 5 == 4 - i / 5))).collect();
    let swapped = linear(order, 5);
    assert!(gives_probabilities(&swapped, &none) && confined_scores(&swapped, &none).is_none());
    // Sums over classes, of which each row of probabilities has 1 to give.
    let groups = linear(vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], 2);
    assert!(gives_probabilities(&groups, &none));
    let wide = linear((0..25).map(|i| i as f32 - 10.0).collect(), 5);
    assert!(!gives_probabilities(&wide, &none) && confined_scores(&wide, &none).is_none());
    // Of two heads, added.
    let twice = graph(|g, x| {
        let p = softmax(g, x);
        g.add("twice", Op::Binary(Binary::Add), &[p, p]).unwrap()
    });
    assert_eq!(confined_scores(&twice, &none), Some((0.0, 2.0)));
    // Logits have no bounds, and those that only a Clip gives them are no scores.
    assert_eq!(confined_scores(&graph(|_, x| x), &none), None);
    let clipped =
        graph(|g, x| g.add("clip", Op::Unary(Unary::Clip(Clip { min: -9.0, max: 9.0 })), &[x]).unwrap());
    assert_eq!(confined_scores(&clipped, &none), None);
}

#[test]
fn what_changes_no_probability_goes_with_the_softmax() {
    let behind = |end: &dyn Fn(&mut Graph, ValueId) -> ValueId| {
        left(&graph(|g, x| {
            let p = softmax(g, x);
            end(g, p)
        }))
    };
    let one = |op: Op| move |g: &mut Graph, p: ValueId| g.add("end", op.clone(), &[p]).unwrap();
    let shape_op = |op: ShapeOp| one(Op::Shape(op));
    let slice = |end| ShapeOp::Slice { axis: 1, start: 0, end };
    assert_eq!(behind(&shape_op(slice(5))), Some(vec!["Slice"]));
    assert_eq!(behind(&shape_op(slice(4))), None);
    let same = || shape([None, Some(5)]);
    assert_eq!(behind(&shape_op(ShapeOp::Expand { shape: same() })), Some(vec!["Expand"]));
    assert_eq!(behind(&shape_op(ShapeOp::Concat { axis: 0 })), Some(vec!["Concat"]));
    let clip = |min, max| one(Op::Unary(Unary::Clip(Clip { min, max })));
    assert_eq!(behind(&clip(1e-7, 1.0 - 1e-7)), Some(vec![]));
    for (min, max) in [(0.0, 0.5), (0.1, 1.0)] {
        assert_eq!(behind(&clip(min, max)), None, "{min} {max}");
    }
    let with = |op: Binary, number: f32, first: bool| {
        behind(&move |g: &mut Graph, p: ValueId| {
            let number = g.add_constant("number", Tensor::f32([], vec![number]));
            let operands = if first { [number, p] } else { [p, number] };
            g.add("end", Op::Binary(op), &operands).unwrap()
        })
    };
    for first in [false, true] {
        assert_eq!(with(Binary::Add, 0.0, first), Some(vec![]));
        assert_eq!(with(Binary::Mul, 2.0, first), Some(vec![]));
        assert_eq!(with(Binary::Add, 0.5, first), None);
        assert_eq!(with(Binary::Mul, 0.0, first), None);
        assert_eq!(with(Binary::Mul, f32::INFINITY, first), None);
    }
}

#[test]
fn parts_of_a_whole_are_probabilities_where_none_is_below_zero() {
    let parts = |before: Unary, of_itself: bool| {
        let graph = graph(|g, x| {
            let y = g.add("before", Op::Unary(before), &[x]).unwrap();
            let summed = if of_itself { y } else { x };
            let sum = g.add("sum", Op::Reduce { op: Reduce::Sum, axis: 1 }, &[summed]).unwrap();
            g.add("parts", Op::Binary(Binary::Div), &[y, sum]).unwrap()
        });
        gives_probabilities(&graph, &Weights::new())
    };
    assert!(parts(Unary::Sigmoid, true) && parts(Unary::Exp, true));
    assert!(!parts(Unary::Tanh, true) && !parts(Unary::Sigmoid, false));
}

#[test]
fn a_value_through_bytes_keeps_its_range() {
    let through = |before: bool| {
        let graph = graph(|g, x| {
            let scale = g.add_constant("scale", Tensor::f32([], vec![0.1]));
            let zero = Tensor::new([], offshoot_graph::Data::U8(vec![0])).unwrap();
            let zero = g.add_constant("zero", zero);
            let p = if before { softmax(g, x) } else { x };
            let q = g.add("q", Op::QuantizeLinear { axis: 0 }, &[p, scale, zero]).unwrap();
            g.add("dq", Op::DequantizeLinear { axis: 0 }, &[q, scale, zero]).unwrap()
        });
        gives_probabilities(&graph, &Weights::new())
    };
    assert_eq!([true, false].map(through), [true, false]);
}
