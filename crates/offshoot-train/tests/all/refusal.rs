//! Runs whose numbers are broken: the refused step names the node, what it read, and the pictures.

#![allow(clippy::unwrap_used)] // the helpers are tests too

use std::sync::atomic::AtomicBool;

use offshoot_graph::{Role, Tensor};
use offshoot_train::health::NonFinite;
use offshoot_train::recipe::Augment;
use offshoot_train::{
    Amp, Control, Freeze, OptimizerKind, Refusal, Settings, TrainError, apply_freeze, train,
};

use crate::support::{Fixture, graph, model};

/// The refusal that a run ends with whose weight `key` has an infinity in it.
fn refusal(fixture: &Fixture, key: &str) -> Refusal {
    let mut model = model();
    *model.weights.get_mut(key).and_then(Tensor::as_f32_mut).unwrap().last_mut().unwrap() = f32::INFINITY;
    apply_freeze(&mut model.graph, &fixture.recipe.freeze).unwrap();
    let (mut progress, stop) = (|_: offshoot_train::Event<'_>| (), AtomicBool::new(false));
    let run = tempfile::tempdir().unwrap();
    let control = Control::new(&mut progress, &stop);
    let error = train(model, &fixture.recipe, &fixture.data, run.path(), &fixture.executor, control);
    let Err(TrainError::Refused(refusal)) = error else { panic!("{key}: {error:?}") };
    *refusal
}

/// An infinity in any weight or bias names the node that reads it.
fn every_weight_is_named(change: impl FnOnce(&mut Settings)) {
    let (fixture, graph) = (Fixture::new(change), graph());
    let weights =
        graph.parameters().iter().filter(|&&id| graph.parameter_info(id).unwrap().role == Role::Weight);
    for &id in weights {
        let key = &graph.value(id).name;
        let refusal = refusal(&fixture, key);
        let reader = graph.nodes().iter().find(|node| node.inputs.contains(&id)).unwrap();
        let Some(NonFinite::Node { node, inputs, .. }) = &refusal.origin else { panic!("{key}: {refusal}") };
        assert_eq!(*node, reader.name, "{key}: {refusal}");
        let broken: Vec<&str> =
            inputs.iter().filter(|i| i.range.nonfinite > 0).map(|i| i.name.as_str()).collect();
        assert_eq!(broken, [key.as_str()], "{refusal}");
        assert_eq!((refusal.epoch, refusal.step, refusal.pictures.len()), (1, 1, 8));
        let trained: Vec<_> = fixture.data.train.iter().map(|sample| &sample.path).collect();
        assert!(refusal.pictures.iter().all(|path| trained.contains(&path)));
    }
}

#[test]
fn an_infinity_in_any_weight_that_trains_is_named() {
    every_weight_is_named(|_| {});
}

#[test]
fn an_infinity_in_any_weight_of_the_frozen_part_is_named() {
    every_weight_is_named(|s| s.freeze = Some(Freeze::Backbone));
    every_weight_is_named(|s| {
        s.freeze = Some("conv0,bn0".parse().unwrap());
        s.augment = Some(Augment::On);
    });
}

#[test]
fn steps_of_several_batches_in_half_precision_name_it_too() {
    every_weight_is_named(|s| {
        s.accumulate = Some(2);
        s.amp = Some(Amp::Bf16);
    });
}

#[test]
fn numbers_that_explode_are_traced_to_their_node_and_pictures() {
    let fixture = Fixture::new(|s| {
        s.lr = Some(1e30);
        s.optimizer = Some(OptimizerKind::Sgd);
    });
    let error = fixture.train("run", u64::MAX, |_| {}).unwrap_err();
    let text = error.to_string();
    let TrainError::Refused(refusal) = error else { panic!("{text}") };
    let Some(NonFinite::Node { node, inputs, .. }) = &refusal.origin else { panic!("{text}") };
    assert!(inputs.iter().all(|input| input.range.nonfinite == 0), "{text}");
    assert!(text.contains(node) && text.contains("refused") && text.contains("`lr`"), "{text}");
    assert!(refusal.pictures.iter().all(|path| text.contains(&*path.to_string_lossy())), "{text}");
}
