//! Training pictures that grow while a run goes on.

use crate::support::{CLASSES, World, data};
use offshoot_formats::safetensors;

const COMMON: &str = "train d --model resnet18 --fit stretch --batch-size 4 --schedule constant --warmup 0";

fn trained(world: &World, flags: &str, run: &str) -> offshoot_graph::Weights {
    let said = world.run(&format!("{COMMON} {flags} --out {run}"));
    assert_eq!(said.code, Some(0), "{said:?}");
    safetensors::read(&world.path(&format!("{run}/last.safetensors"))).unwrap().weights
}

#[test]
fn small_pictures_train_as_in_a_run_of_that_size() {
    let world = World::new("progressive");
    data(&world.path("d"), &CLASSES, 6);
    let small = trained(&world, "--size 32 --epochs 2", "small");
    let always = trained(&world, "--size 64 --epochs 2 --progressive 32@0%", "always");
    assert!(small == always, "pictures of 32 pixels train alike whatever size validation has");
    let large = trained(&world, "--size 64 --epochs 2", "large");
    let own = trained(&world, "--size 64 --epochs 2 --progressive 64@0%", "own");
    assert!(large == own && large != small);
    let grown = trained(&world, "--size 64 --epochs 2 --progressive 32@0% --progressive 64@50%", "grown");
    assert!(grown != large && grown != small);
    let evaluated = world.run("eval grown d --json");
    assert_eq!(evaluated.code, Some(0), "{evaluated:?}");
    let recipe = world.text("grown/recipe.toml");
    assert!(recipe.contains(r#"progressive = ["32@0%", "64@50%"]"#), "{recipe}");
}

#[test]
fn a_frozen_part_takes_pictures_of_any_size() {
    let world = World::new("progressive-frozen");
    data(&world.path("d"), &CLASSES, 6);
    // The part that trains starts in the middle of the network, behind strides and paddings.
    for (name, freeze) in [("stem", "--freeze conv1,bn1,layer1"), ("stages", "--unfreeze layer4@50%:x0.1")] {
        let plain = format!("{freeze} --augment on --epochs 2");
        let small = trained(&world, &format!("{plain} --size 32"), &format!("{name}-small"));
        let progressive = format!("{plain} --size 64 --progressive 32@0%");
        assert!(small == trained(&world, &progressive, &format!("{name}-always")), "{name}");
        trained(&world, &format!("{progressive} --progressive 64@50%"), &format!("{name}-grown"));
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let world = World::new("progressive-refused");
    data(&world.path("d"), &CLASSES, 4);
    for (flags, words) in [
        ("--model resnet18 --size 64 --progressive 40@0%", "multiple of 32"),
        ("--model resnet18 --size 64 --progressive 32", "SIZE@PERCENT%"),
        ("--model resnet18 --size 64 --epochs 1 --progressive 32@50%", "1 epochs do not reach"),
        ("--model vgg16 --size 224 --progressive 128@0%", "its own size only"),
    ] {
        let said = world.run(&format!("train d {flags} --batch-size 4 --out run"));
        assert!(said.code == Some(2) && said.err.contains(words), "{flags}: {said:?}");
        assert!(!world.path("run").exists());
    }
}
