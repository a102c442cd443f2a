//! Norms of groups that a graph spells out.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Binary, Composite, ShapeOp};
use offshoot_graph::passes::recognize_group_norms;
use offshoot_graph::{DType, Dim, Graph, Op, Role, Shape, Tensor};

fn count(graph: &Graph, wanted: impl Fn(&Op) -> bool) -> usize {
    graph.nodes().iter().filter(|node| wanted(&node.op)).count()
}

/// How many norms of groups, and products, are left where x \[n, 6, 4, 5\] is reshaped to `grouped`, normalized, and reshaped back.
fn group_norms(grouped: [usize; 2], weight: f32, vector: &[usize]) -> (usize, usize) {
    let mut graph = Graph::new("norms");
    let shape = |dims: &[usize]| {
        let dims = dims.iter().map(|&size| Dim::Fixed(size));
        Shape([Dim::symbol(BATCH)].into_iter().chain(dims).collect())
    };
    let reshape = |dims: &[usize]| Op::Shape(ShapeOp::Reshape { shape: shape(dims) });
    let x = graph.add_input(INPUT, DType::F32, shape(&[6, 4, 5]));
    let y = graph.add("grouped", reshape(&grouped), &[x]).unwrap();
    let [weight, bias] = [("weight", weight), ("bias", 0.0)]
        .map(|(name, number)| graph.add_constant(name, Tensor::f32([grouped[0]], vec![number; grouped[0]])));
    let norm = Op::Composite(Composite::InstanceNormalization { epsilon: 1e-5 });
    let y = graph.add("norm", norm, &[y, weight, bias]).unwrap();
    let y = graph.add("back", reshape(&[6, 4, 5]), &[y]).unwrap();
    let vector = graph.add_parameter("vector", vector, Role::Weight);
    let y = graph.add("scaled", Op::Binary(Binary::Mul), &[y, vector]).unwrap();
    graph.add_output(OUTPUT, y);
    let made = recognize_group_norms(&graph).unwrap();
    let is_norm = |op: &Op| matches!(op, Op::Composite(Composite::GroupNormalization { .. }));
    (count(&made, is_norm), count(&made, |op| *op == Op::Binary(Binary::Mul)))
}

#[test]
fn only_norms_of_groups_of_channels_are_found() {
    assert_eq!(group_norms([2, 60], 1.0, &[6, 1, 1]), (1, 0));
    assert_eq!(group_norms([6, 20], 1.0, &[1, 6, 1, 1]), (1, 0));
    // A weight that is not of the channels stays behind the norm.
    assert_eq!(group_norms([2, 60], 1.0, &[4, 1]), (1, 1));
    // Groups that split a channel, and a weight of the groups.
    assert_eq!(group_norms([12, 10], 1.0, &[6, 1, 1]), (0, 1));
    assert_eq!(group_norms([2, 60], 2.0, &[6, 1, 1]), (0, 1));
}
