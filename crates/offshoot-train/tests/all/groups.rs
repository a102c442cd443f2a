//! Which parameter learns at which rate, and the table that says so.

use offshoot_graph::op::{Gemm, ShapeOp};
use offshoot_graph::{DType, Dim, Graph, Op, Role, Shape};
use offshoot_models::{BuildOptions, find};
use offshoot_train::groups::{groups, layers};
use offshoot_train::{GroupOptions, apply_freeze};

use crate::support::graph;

/// The rows of the table, in words.
fn table(graph: &Graph, options: &GroupOptions) -> Vec<String> {
    let (groups, rows) = groups(graph, options);
    assert_eq!(groups.len(), rows.iter().filter(|row| row.trainable).count());
    let row = |r: &offshoot_train::GroupRow| {
        format!("{}/{} {} {} {}", r.name, r.part, r.parameters, r.lr, r.weight_decay)
    };
    rows.iter().map(row).collect()
}

#[test]
fn the_table_says_what_the_parameters_of_a_rate_are() {
    let mut options = GroupOptions::new(0.5);
    assert_eq!(table(&graph(), &options), ["network/ 1467 0.5 0"]);
    options.weight_decay = 0.25;
    let parts = ["network/weights 1416 0.5 0.25", "network/biases and norms 51 0.5 0"];
    assert_eq!(table(&graph(), &options), parts);
    options.decay_norms_and_biases = true;
    assert_eq!(table(&graph(), &options), ["network/ 1467 0.5 0.25"]);
    options.lr_groups = vec![("bn*".parse().unwrap(), 0.125)];
    assert_eq!(table(&graph(), &options), ["others/ 1419 0.5 0.25", "bn*/ 48 0.125 0.25"]);
    options.lr_groups.push(("fc".parse().unwrap(), 2.0));
    let rows = ["backbone/ 1368 0.5 0.25", "bn*/ 48 0.125 0.25", "fc/ 51 2 0.25"];
    assert_eq!(table(&graph(), &options), rows);
    let mut frozen = graph();
    apply_freeze(&mut frozen, &"backbone".parse().unwrap()).unwrap();
    assert_eq!(table(&frozen, &GroupOptions::new(0.5)), ["head/ 51 0.5 0", "frozen/ 1416 0 0"]);
}

fn names(architecture: &str) -> Vec<String> {
    let architecture = find(architecture).unwrap();
    let options = BuildOptions { classes: 2, size: 224, head: None };
    layers(&architecture.build(&options).unwrap()).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn layers_are_numbered_modules_and_what_stands_alone() {
    let blocks = (1..=4).flat_map(|stage| [0, 1].map(|block| format!("layer{stage}.{block}")));
    let wanted: Vec<String> =
        std::iter::once("conv1".into()).chain(blocks).chain(std::iter::once("fc".into())).collect();
    assert_eq!(names("resnet18"), wanted);
    let transformer = names("vit_b_16");
    let blocks = (0..12).map(|block| format!("encoder.layers.encoder_layer_{block}"));
    assert!(transformer.iter().filter(|name| name.contains("encoder_layer")).eq(&blocks.collect::<Vec<_>>()));
    assert_eq!(transformer.last().unwrap(), "heads.head");
}

#[test]
fn a_layer_has_its_norms_and_a_shared_parameter_once() {
    let architecture = find("vit_b_16").unwrap();
    let options = BuildOptions { classes: 2, size: 224, head: None };
    for (layer, names) in layers(&architecture.build(&options).unwrap()) {
        // The norm after the last block is a part of it.
        let own = |name: &&String| name.starts_with(&layer) || name.starts_with("encoder.ln.");
        assert!(names.iter().all(|name| own(&name)), "{layer}: {names:?}");
    }
    let mut graph = Graph::new("shared");
    let x = graph.add_input("x", DType::F32, Shape(vec![Dim::symbol("n"), 3.into(), 2.into(), 2.into()]));
    let x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
    let weight = graph.add_parameter("a.weight", &[12, 12], Role::Weight);
    let once = graph.add("once", Op::Gemm(Gemm::default()), &[x, weight]).unwrap();
    let twice = graph.add("twice", Op::Gemm(Gemm::default()), &[once, weight]).unwrap();
    graph.add_output("y", twice);
    assert_eq!(layers(&graph), [("a".to_string(), vec!["a.weight".to_string()])]);
}
