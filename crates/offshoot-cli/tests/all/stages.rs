//! Unfreezing as the command line has it, on a ResNet: layer by layer, each from its part of the run on.

use offshoot_formats::safetensors;

use crate::support::{CLASSES, World, data};

#[test]
fn layer4_moves_after_half_of_the_run_and_layer3_after_three_quarters() {
    let world = World::new("layers");
    data(&world.path("d"), &CLASSES, 6);
    let pretrained = world.run("train d --model resnet18 --size 32 --batch-size 8 --epochs 1 --out start");
    assert_eq!(pretrained.code, Some(0), "{pretrained:?}");
    let weights = |file: &str| safetensors::read(&world.path(file)).unwrap().weights;
    let start = weights("start/best.safetensors");
    // Whole runs of the same stages, which end where a stage of the run in question does: 2, 3 and 4 epochs of 4.
    let moved = |end: &str, flags: &str| {
        let out = format!("run{end}");
        let said = world.run(&format!(
            "train d --model resnet18 --size 32 --batch-size 8 --weights start/best.safetensors --freeze backbone \
             --schedule constant --warmup 0 --epochs {end} --out {out} {flags}"
        ));
        assert_eq!(said.code, Some(0), "{said:?}");
        let end = weights(&format!("{out}/last.safetensors"));
        let moved =
            |layer: &str| end.iter().any(|(name, tensor)| name.starts_with(layer) && *tensor != start[name]);
        (["layer2", "layer3", "layer4"].map(moved), world.text(&format!("{out}/groups.csv")))
    };
    assert_eq!(moved("2", "").0, [false, false, false]);
    assert_eq!(moved("3", "--unfreeze layer4@66%:x0.1").0, [false, false, true]);
    let (layers, groups) = moved("4", "--unfreeze layer4@50%:x0.1 --unfreeze layer3@75%");
    assert_eq!(layers, [false, true, true]);
    for line in ["\n2,2,layer4,", "\n3,3,layer3,", "\n3,3,layer4,"] {
        assert!(groups.contains(line), "{groups}");
    }
    assert!(!groups.contains("\n2,2,layer3,"), "{groups}");
}
