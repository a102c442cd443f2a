//! Whether a file that prepares its pictures itself makes our pixels of them.

use offshoot_data::{Picture, Transform};
use offshoot_formats::onnx::Preparer;
use offshoot_graph::random::mix;
use offshoot_graph::{Data, Executor, Model, Tensor};
use offshoot_infer::Inference;

use crate::compare::{Differences, TOLERANCE, batches};
use crate::error::{Error, Result};
use crate::manifest::ManifestPreparation;

/// The most levels of 255 by which a pixel that a file prepares may differ from ours. Both round to whole numbers after each
/// direction of a resize, and what lies between two of them may go either way twice.
pub const PREPARED_LEVELS: f64 = 2.0;
/// The same for the mean over a picture's pixels.
pub const PREPARED_MEAN_LEVELS: f64 = 0.1;

/// Computes the preparation of pictures of unusual sizes in a file, and runs its network on what comes out.
///
/// # Errors
/// When its pixels are not ours.
pub(crate) fn prove(
    preparer: &Preparer,
    model: &Model,
    written: &Model,
    executor: &dyn Executor,
) -> Result<ManifestPreparation> {
    let transform = Transform::new(&model.metadata.preprocessing)?;
    let std = model.metadata.preprocessing.std;
    let sizes = awkward(transform.preprocessing().size);
    let (mut max_levels, mut mean_levels) = (0f64, 0f64);
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for &(height, width) in &sizes {
        let bytes = noise(height, width);
        let mut own = vec![0.0; transform.input_len()];
        let picture = Picture::new(width, height, bytes.clone())
            .ok_or_else(|| Error::Input("a picture of the proof has no pixels".into()))?;
        transform.normalize(&transform.evaluate(&picture), &mut own);
        let image = Tensor::new([1, height, width, 3], Data::U8(bytes));
        let image = image.map_err(|e| Error::Input(e.to_string()))?;
        let made = preparer.run(image).map_err(|problem| Error::Input(problem.to_string()))?;
        let made = made.as_f32().filter(|made| made.len() == own.len()).ok_or_else(|| {
            Error::Input(format!("of {height} by {width} pixels the file prepares {:?}", made.shape()))
        })?;
        let (largest, mean) = levels(&own, made, std);
        // `max` would pass over a NaN.
        let number = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
        max_levels = max_levels.max(number(largest));
        mean_levels = mean_levels.max(number(mean));
        theirs.extend_from_slice(made);
        ours.extend(own);
    }
    // Levels are floats that have been scaled and scaled back.
    if max_levels > PREPARED_LEVELS + 0.01 || mean_levels > PREPARED_MEAN_LEVELS {
        return Err(Error::Input(format!(
            "not written, because the file would not prepare pictures as they are prepared here: a pixel differs by {max_levels:.1} levels of 255, a picture's by {mean_levels:.3} in the mean. Please report this"
        )));
    }
    let max_rel_diff = Some(answers(model, written, executor, (&ours, &theirs))?);
    let (kind, pictures) = ("computed".into(), sizes.len());
    Ok(ManifestPreparation { kind, pictures, max_levels, mean_levels, max_rel_diff })
}

/// The largest difference of a logit, relative to the largest, of two models on two sets of inputs.
fn answers(
    first: &Model,
    second: &Model,
    executor: &dyn Executor,
    (ours, theirs): (&[f32], &[f32]),
) -> Result<f64> {
    let size = first.metadata.preprocessing.size;
    let input = 3 * size * size;
    let count = ours.len() / input;
    let rows = match batches(&[first, second])[..] {
        [only] => only,
        _ => count,
    };
    let mut seen = Differences::new(&first.metadata);
    let (mut a, mut b) = (Inference::new(first, executor)?, Inference::new(second, executor)?);
    for start in (0..count).step_by(rows.max(1)) {
        // A batch of a fixed size is filled from the first.
        let places = (start..start + rows).map(|row| row % count * input);
        let batch = |all: &[f32]| {
            let pixels = places.clone().flat_map(|at| &all[at..at + input]).copied().collect();
            Tensor::f32([rows, 3, size, size], pixels)
        };
        let (a, b) = (a.run_all(&[batch(ours)])?, b.run_all(&[batch(theirs)])?);
        let classes = a.shape().last().copied().unwrap_or(1).max(1);
        let [a, b] = [&a, &b].map(|answers| answers.as_f32().unwrap_or_default().chunks_exact(classes));
        a.zip(b).for_each(|(a, b)| seen.add_picture(a, b));
    }
    Ok(seen.judge(Vec::new(), TOLERANCE).max_rel_diff)
}

/// What the tests found in the runtime of a format whose preparation cannot be computed here.
pub(crate) fn stated() -> ManifestPreparation {
    let (max_levels, mean_levels) = (PREPARED_LEVELS, PREPARED_MEAN_LEVELS);
    ManifestPreparation { kind: "stated".into(), pictures: 0, max_levels, mean_levels, max_rel_diff: None }
}

/// Heights and widths: odd, upright, long, small, a line, a pixel, and what needs no resizing.
fn awkward(size: usize) -> [(usize, usize); 11] {
    let s = size;
    [
        (4 * s + 1, 4 * s + 3),
        (3 * s + 2, 2 * s + 1),
        (s, 5 * s),
        (5 * s + 1, s + 1),
        (5 * s, s.div_ceil(3)),
        (s / 5 + 1, s / 7 + 2),
        (s, s),
        (s + 1, s),
        (1, 37),
        (53, 1),
        (1, 1),
    ]
}

/// Where borders and filters show most.
fn noise(height: usize, width: usize) -> Vec<u8> {
    (0..height * width * 3)
        .map(|i| (mix((height * 31 + width) as u64 ^ (i as u64) << 20) >> 56) as u8)
        .collect()
}

/// The largest and the mean difference of two network inputs, in levels of 255.
fn levels(ours: &[f32], theirs: &[f32], std: [f32; 3]) -> (f64, f64) {
    let plane = (ours.len() / 3).max(1);
    let difference =
        |(i, (a, b)): (usize, (&f32, &f32))| f64::from((a - b).abs()) * f64::from(std[i / plane]) * 255.0;
    let all = || ours.iter().zip(theirs).enumerate().map(difference);
    let largest = all().fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most });
    (largest, all().sum::<f64>() / ours.len().max(1) as f64)
}
