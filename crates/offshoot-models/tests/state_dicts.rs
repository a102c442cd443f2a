//! Names, shapes, order and counts of the parameters, against what torchvision and timm hold
//! (`scripts/golden/models.py`).

use std::collections::BTreeMap;

use offshoot_formats::checkpoint::state_dict;
use offshoot_graph::passes::freeze;
use offshoot_graph::{Metadata, Model, Tensor, Weights};
use offshoot_models::{
    Architecture, BuildOptions, Head, architectures, canonical_keys, expected_parameters, find,
};

/// One model of the golden file.
struct StateDict {
    architecture: &'static Architecture,
    head: Option<Head>,
    /// Elements of the weights, running statistics not counted.
    parameters: u64,
    tensors: Vec<(String, Vec<usize>)>,
}

fn golden() -> Vec<StateDict> {
    parse_all(include_str!("golden/state_dicts.txt"))
}

fn parse_all(text: &str) -> Vec<StateDict> {
    let blocks = text.split("model ").skip(1);
    blocks.map(|block| parse(block).expect("the golden file is well formed")).collect()
}

fn parse(block: &str) -> Option<StateDict> {
    let mut lines = block.lines();
    let (name, parameters) = lines.next()?.split_once(' ')?;
    let (name, head) = match name.split_once('+') {
        Some((name, head)) => (name, Some(head.parse().ok()?)),
        None => (name, None),
    };
    let mut tensors = Vec::new();
    for line in lines {
        let [path, names, shape] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let shape: Vec<usize> = shape.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
        tensors.extend(names.split(',').map(|name| {
            // The model's own tensors have no path.
            let key = if path == "." { name.to_string() } else { format!("{path}.{name}") };
            (key, shape.clone())
        }));
    }
    Some(StateDict { architecture: find(name).ok()?, head, parameters: parameters.parse().ok()?, tensors })
}

#[test]
fn state_dicts_are_those_of_torchvision_and_timm() {
    let golden = golden();
    for architecture in architectures() {
        assert!(golden.iter().any(|g| g.architecture.name == architecture.name && g.head.is_none()));
    }
    for StateDict { architecture, head, parameters, tensors } in golden {
        let classes = if head.is_some() { 10 } else { 1000 };
        let options = BuildOptions { classes, size: architecture.size, head };
        let graph = architecture.build(&options).unwrap();
        let what = format!("{} with {head:?}", architecture.name);
        assert_eq!(graph.count_parameters(), (parameters, 0), "{what}");
        let found = expected_parameters(&graph);
        let is_parameter = |(name, _): &(String, Vec<usize>)| found.iter().any(|(known, _)| known == name);
        let (tensors, buffers): (Vec<_>, Vec<_>) = tensors.into_iter().partition(is_parameter);
        for (found, wanted) in found.iter().zip(&tensors) {
            assert_eq!(found, wanted, "{what}");
        }
        assert_eq!(found.len(), tensors.len(), "{what}");
        // What follows from the size of windows.
        let model = Model { graph, weights: Weights::new(), metadata: Metadata::default() };
        let found: BTreeMap<_, _> =
            state_dict(&model).into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect();
        assert_eq!(found, buffers.into_iter().collect(), "{what}");
    }
}

#[test]
fn timms_keys_become_the_graphs() {
    for StateDict { architecture, tensors, .. } in parse_all(include_str!("golden/timm_keys.txt")) {
        let name = architecture.name;
        let options = BuildOptions { classes: 1000, size: architecture.size, head: None };
        let wanted = expected_parameters(&architecture.build(&options).unwrap());
        for prefix in ["", "model.", "backbone._orig_mod."] {
            let key = |key: &str| format!("{prefix}{key}");
            let weights: Weights =
                tensors.iter().map(|(k, shape)| (key(k), Tensor::zeros(shape.clone()))).collect();
            let found = canonical_keys(architecture, weights).weights;
            for (key, shape) in &wanted {
                assert_eq!(found.get(key).map(|t| t.shape()), Some(&shape[..]), "{name}: {key}");
            }
            assert_eq!(found.len(), wanted.len(), "{name}");
        }
    }
}

#[test]
fn older_names_become_the_graphs() {
    const MLP: &[(&str, &str)] = &[(".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2.")];
    const LAYERS: &[(&str, &str)] =
        &[(".norm1.", ".norm.1."), (".norm2.", ".norm.2."), (".conv1.", ".conv.1."), (".conv2.", ".conv.2.")];
    for (name, changes) in [("vit_b_16", MLP), ("densenet121", LAYERS)] {
        let architecture = find(name).unwrap();
        let options = BuildOptions { classes: 3, size: architecture.size, head: None };
        let wanted = expected_parameters(&architecture.build(&options).unwrap());
        let old = |key: &str| match key.contains("layer") {
            true => changes.iter().fold(key.to_owned(), |key, (now, old)| key.replace(now, old)),
            false => key.to_owned(),
        };
        let weights = wanted.iter().map(|(key, shape)| (old(key), Tensor::zeros(shape.clone()))).collect();
        let found = canonical_keys(architecture, weights).weights;
        assert!(
            wanted.iter().all(|(key, _)| found.contains_key(key)) && found.len() == wanted.len(),
            "{name}"
        );
    }
}

#[test]
fn a_frozen_backbone_leaves_the_head_trainable() {
    let architecture = find("resnet50").unwrap();
    let head = Some("mlp:256,dropout=0.4".parse().unwrap());
    let mut graph = architecture.build(&BuildOptions { classes: 10, size: 224, head }).unwrap();
    freeze(&mut graph, |name| !architecture.is_head(name));
    assert_eq!(graph.count_parameters(), (527_114, 23_508_032));
}
