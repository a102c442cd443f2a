//! Files that prepare their pictures: what their nodes make of pictures of unusual sizes is what we make of them.

use std::fs;

use offshoot::{
    CpuOptions, Device, Fit, Inputs, Manifest, Model, ModelSource, OnnxOptions, Overrides, Preprocessing,
    Proof, export_onnx,
};
use offshoot_data::{Picture, Transform};
use offshoot_formats::onnx::{self, Preparer};
use offshoot_graph::{Data, Interpolation, Tensor};

use crate::support::World;

const PREPARING: OnnxOptions = OnnxOptions { opset: 18, in_one_file: u64::MAX, with_preprocess: true };

fn trained() -> Model {
    let source = ModelSource::Path(World::trained().path("run/best.safetensors"));
    source.load(&Overrides::default()).unwrap().model
}

#[test]
fn every_fit_and_filter_is_proven_on_pictures_of_awkward_sizes() {
    let world = World::new("preparation");
    let executor = Device::cpu(CpuOptions::default()).unwrap();
    let mut model = trained();
    let own = model.metadata.preprocessing.clone();
    for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Nearest] {
            // Only what is padded shows the background: of one color, and of another in each channel.
            let colours = if fit == Fit::Pad { &[[255; 3], [3, 200, 90]][..] } else { &[[255; 3]] };
            for &background in colours {
                model.metadata.preprocessing =
                    Preprocessing { fit, interpolation, background, ..own.clone() };
                let inputs = Inputs::built_in(&model.metadata.preprocessing).unwrap();
                let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: None, float: None };
                let path = world.path("model.onnx");
                export_onnx(&model, &path, PREPARING, proof).unwrap();
                let manifest = Manifest::read_beside(&path).unwrap().unwrap();
                let preparation = manifest.proof.preparation.unwrap();
                assert_eq!((preparation.kind.as_str(), preparation.pictures), ("computed", 11));
                assert!(preparation.max_levels < 1.01, "{fit:?} {interpolation:?}: {preparation:?}");
                assert!(preparation.mean_levels < 0.05, "{fit:?} {interpolation:?}: {preparation:?}");
                assert!(preparation.max_rel_diff.unwrap() < 1e-3, "{preparation:?}");
                if interpolation == Interpolation::Nearest {
                    assert!(preparation.max_levels < 1e-3, "{fit:?}: {preparation:?}");
                }
            }
        }
    }
}

/// The largest difference of a pixel in levels, where `preparer` prepares a picture of noise.
fn furthest(preparer: &Preparer, steps: &Preprocessing, height: usize, width: usize) -> f32 {
    let bytes: Vec<u8> =
        (0..height * width * 3).map(|i| (offshoot_graph::random::mix(i as u64) >> 56) as u8).collect();
    let transform = Transform::new(steps).unwrap();
    let mut ours = vec![0.0; transform.input_len()];
    transform.normalize(&transform.evaluate(&Picture::new(width, height, bytes.clone()).unwrap()), &mut ours);
    let image = Tensor::new([1, height, width, 3], Data::U8(bytes)).unwrap();
    let made = preparer.run(image).unwrap();
    let made = made.as_f32().unwrap();
    assert_eq!(made.len(), ours.len());
    let plane = ours.len() / 3;
    let level = |i: usize| (ours[i] - made[i]).abs() * steps.std[i / plane] * 255.0;
    (0..ours.len()).map(level).fold(0.0, f32::max)
}

#[test]
fn the_proof_sees_a_resize_that_counts_what_is_outside() {
    let mut model = trained();
    model.metadata.preprocessing.fit = Fit::Pad;
    let bytes = onnx::write_bytes(&model, PREPARING).unwrap();
    let steps = &model.metadata.preprocessing;
    let preparer = |bytes: &[u8]| onnx::preparer_of_bytes(bytes).unwrap().unwrap();
    assert!(furthest(&preparer(&bytes), steps, 99, 101) < 1.01);
    // The attribute's value is the varint behind its name.
    let attribute = b"exclude_outside\x18\x01";
    let mut changed = bytes.clone();
    let places: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(attribute))
        .map(|at| at + attribute.len() - 1)
        .collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|&at| changed[at] = 0);
    assert!(furthest(&preparer(&changed), steps, 99, 101) > 5.0);
    let mut other = bytes;
    let at = other.windows(10).position(|w| w == b"half_pixel").unwrap();
    other[at..at + 10].copy_from_slice(b"asymmetric");
    let image = Tensor::new([1, 9, 9, 3], Data::U8(vec![0; 243])).unwrap();
    let message = preparer(&other).run(image).unwrap_err().to_string();
    assert!(message.contains("half pixels"), "{message}");
}

#[test]
fn the_manifest_of_a_file_that_leaves_it_to_others_says_nothing_of_preparation() {
    let world = World::new("unprepared");
    fs::write(world.path("m.safetensors"), World::trained().read("run/best.safetensors")).unwrap();
    world.json("export m.safetensors --format onnx,torchscript --out out");
    for name in ["mobilenet_v2.onnx", "mobilenet_v2.pt"] {
        let manifest = Manifest::read_beside(&world.path(&format!("out/{name}"))).unwrap().unwrap();
        assert_eq!(manifest.proof.preparation, None);
    }
    world.json("export m.safetensors --format torchscript --script --out out");
    let manifest = Manifest::read_beside(&world.path("out/mobilenet_v2.pt")).unwrap().unwrap();
    let preparation = manifest.proof.preparation.unwrap();
    assert_eq!((preparation.kind.as_str(), preparation.max_levels), ("stated", 2.0));
}
