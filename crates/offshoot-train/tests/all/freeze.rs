//! What `--freeze backbone` means for the models of the registry.

use offshoot_models::{BuildOptions, Head, architectures, find};
use offshoot_train::{Freeze, apply_freeze};

#[test]
fn the_counts_of_resnet50_with_an_mlp_head_are_the_known_ones() {
    let head: Head = "mlp:256,dropout=0.4".parse().unwrap();
    let options = BuildOptions { classes: 10, size: 224, head: Some(head) };
    let mut graph = find("resnet50").unwrap().build(&options).unwrap();
    apply_freeze(&mut graph, &Freeze::Backbone).unwrap();
    assert_eq!(graph.count_parameters(), (527_114, 23_508_032));
    apply_freeze(&mut graph, &Freeze::None).unwrap();
    assert_eq!(graph.count_parameters(), (527_114 + 23_508_032, 0));
}

#[test]
fn what_is_not_the_backbone_is_each_models_head() {
    let mut seen = 0;
    for architecture in architectures() {
        for head in [Head::default(), "mlp:8".parse().unwrap()] {
            let options = BuildOptions { classes: 3, size: architecture.size, head: Some(head) };
            let mut graph = architecture.build(&options).unwrap();
            apply_freeze(&mut graph, &Freeze::Backbone).unwrap();
            for &id in graph.parameters() {
                let (name, parameter) = (&graph.value(id).name, graph.parameter_info(id).unwrap());
                assert_eq!(parameter.trainable, architecture.is_head(name), "{}: {name}", architecture.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 1000);
}
