//! Names, shapes, order and counts of the parameters, against what torchvision and timm hold
//! (`scripts/golden/models.py`).

use offshoot_graph::passes::freeze;
use offshoot_models::{Architecture, BuildOptions, Head, architectures, expected_parameters, find};

/// One model of the golden file.
struct StateDict {
    architecture: &'static Architecture,
    head: Option<Head>,
    /// Elements of the weights, running statistics not counted.
    parameters: u64,
    tensors: Vec<(String, Vec<usize>)>,
}

fn golden() -> Vec<StateDict> {
    let text = include_str!("golden/state_dicts.txt");
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
        for (found, wanted) in found.iter().zip(&tensors) {
            assert_eq!(found, wanted, "{what}");
        }
        assert_eq!(found.len(), tensors.len(), "{what}");
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
