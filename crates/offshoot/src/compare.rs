//! Whether the outputs of two models match.

use std::ops::Range;
use std::path::Path;

use offshoot_data::{Loader, LoaderOptions, Sample, Transform};
use offshoot_files::memory_limit;
use offshoot_graph::model::INPUT;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::text::shown;
use offshoot_graph::{DType, Dim, Graph, Metadata, Model, Preprocessing, Scale, Shape, Task, Tensor};
use offshoot_infer::Inference;
use offshoot_infer::inference::check_answers;
use offshoot_infer::metrics::argmax;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::memory::batch_within;
use crate::npz::{self, Numbers};
use crate::source::Loaded;

/// The largest difference of logits, relative to the largest logit, between two files of the same model in f32.
pub const TOLERANCE: f64 = 1e-4;
/// The largest difference of logits that rounding weights to f16 may make, relative to the largest logit.
pub const F16_TOLERANCE: f64 = 5e-2;
/// The same for int8: past it something else is wrong. What it costs in accuracy is for `eval` to say.
pub const INT8_TOLERANCE: f64 = 0.5;

/// Numbers that lie less than this apart, in standard deviations of their targets, agree.
const AGREES: f64 = 1e-2;
/// The part of a number that a difference of four units of the last place in f32 is [`TOLERANCE`] of.
const ROUNDED: f64 = 4.0 * f32::EPSILON as f64 / TOLERANCE;

/// The batches that a comparison runs.
pub const BATCHES: [usize; 4] = [1, 2, 7, 32];

/// The most pictures of the built-in set.
const BUILT_IN: usize = 32;

/// How far two models' logits lie apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether they match: the largest difference is below the tolerance, relative to the largest logit. A best class
    /// that changes is then one whose logit is closer to the second best than twice that. Of models that predict numbers, both are in
    /// standard deviations of the targets, and the largest number is at least 1, and at least 0.005 of what it is without its mean, beside which f32 rounds.
    pub ok: bool,
    /// The largest difference of two logits.
    pub max_abs_diff: f64,
    /// The same relative to the largest logit.
    pub max_rel_diff: f64,
    /// The smallest cosine between the logits of a picture.
    pub cosine: f64,
    /// The fraction of the pictures whose best class is the same; of numbers, of those whose numbers all lie less than a hundredth of a
    /// standard deviation apart.
    pub top1_agreement: f64,
    /// The sizes of the batches that were run.
    pub batches: Vec<usize>,
    /// Whether all outputs of both are finite numbers.
    #[serde(skip)]
    pub finite: bool,
}

impl Comparison {
    /// That of two models which take different inputs or have different numbers of classes: nothing was run, and no
    /// difference is a number (JSON has `null` there).
    pub fn impossible() -> Comparison {
        let (max_abs_diff, max_rel_diff, cosine) = (f64::INFINITY, f64::INFINITY, f64::NAN);
        let (top1_agreement, batches) = (0.0, Vec::new());
        Comparison { ok: false, max_abs_diff, max_rel_diff, cosine, top1_agreement, batches, finite: true }
    }
}

/// Inputs to compare models on: pictures [n, 3, size, size], or what other models take.
pub struct Inputs {
    /// One for each input of a model, with as many rows.
    parts: Vec<Part>,
    count: usize,
}

/// What one input of a model gets.
struct Part {
    /// The shape of a row.
    shape: Vec<usize>,
    numbers: Numbers,
}

impl Part {
    /// The rows in `rows`; past the end they start again.
    fn batch(&self, rows: Range<usize>, count: usize) -> Tensor {
        let shape = [&[rows.len()], &self.shape[..]].concat();
        let width: usize = self.shape.iter().product();
        let places = rows.map(|row| row % count * width);
        match &self.numbers {
            Numbers::Floats(all) => {
                Tensor::f32(shape, places.flat_map(|at| &all[at..at + width]).copied().collect())
            }
            Numbers::Integers(all) => {
                Tensor::i64(shape, places.flat_map(|at| &all[at..at + width]).copied().collect())
            }
        }
    }
}

/// Above this, not every integer is an f32.
const EXACT: u64 = 1 << 24;

impl Inputs {
    fn pictures(size: usize, pictures: Vec<f32>) -> Inputs {
        let shape = vec![3, size, size];
        let count = pictures.len() / shape.iter().product::<usize>().max(1);
        Inputs { parts: vec![Part { shape, numbers: Numbers::Floats(pictures) }], count }
    }

    /// Pictures that come with offshoot: colored waves and noise, the same on every machine. Of very large ones there are as many
    /// as fit into [`memory_limit`].
    pub fn built_in(preprocessing: &Preprocessing) -> Result<Inputs> {
        let transform = Transform::new(preprocessing)?;
        let size = preprocessing.size;
        let fit = memory_limit() / (4 * transform.input_len().max(1) as u64);
        let count = usize::try_from(fit).unwrap_or(BUILT_IN).clamp(1, BUILT_IN);
        let mut pictures = vec![0.0; count * transform.input_len()];
        for (index, input) in pictures.chunks_exact_mut(transform.input_len()).enumerate() {
            transform.normalize(&waves(size, index as u64), input);
        }
        Ok(Inputs::pictures(size, pictures))
    }

    /// The rows of the arrays in a `.npz` file that `graph` takes: those with the names of its inputs, or the only one.
    ///
    /// # Errors
    /// When there is no such array of plain numbers, or `graph` takes other inputs.
    pub fn from_npz(path: &Path, graph: &Graph) -> Result<Inputs> {
        let (mut parts, mut count) = (Vec::new(), None);
        for &id in graph.inputs() {
            let input = graph.value(id);
            let name = if graph.inputs().len() == 1 { INPUT } else { &input.name };
            let array = npz::read(path, name)?;
            let refused = |what: String| Error::Input(format!("{}: `{name}`: {what}", shown(path)));
            let rows = rows_of(&array.shape, &input.shape).map_err(refused)?;
            if *count.get_or_insert(rows) != rows {
                return Err(refused(format!("it holds {rows} rows, other arrays {count:?}")));
            }
            let numbers = fitting(array.data, input.dtype).map_err(refused)?;
            parts.push(Part { shape: array.shape[1..].to_vec(), numbers });
        }
        match count {
            Some(count) => Ok(Inputs { parts, count }),
            None => Err(Error::Input(format!("{}: the model takes no inputs", shown(path)))),
        }
    }

    /// The pictures of `samples`, through `preprocessing`. Those that cannot be decoded are left out.
    ///
    /// # Errors
    /// When none can be used.
    pub fn from_samples(samples: Vec<Sample>, preprocessing: &Preprocessing) -> Result<Inputs> {
        let transform = Transform::new(preprocessing)?;
        let loader = Loader::new(samples, transform.clone(), LoaderOptions::evaluation(&transform, 32));
        let mut pictures = Vec::new();
        for batch in loader.epoch(0) {
            pictures.extend(batch?.images);
        }
        if pictures.is_empty() {
            return Err(Error::Input("no picture to compare the models on could be decoded".into()));
        }
        Ok(Inputs::pictures(preprocessing.size, pictures))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Numbers in one of them.
    pub(crate) fn row_len(&self) -> usize {
        self.parts.iter().map(|part| part.shape.iter().product::<usize>()).sum()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pictures in `rows` as one batch; past the end they start again.
    #[cfg(feature = "peers")]
    pub(crate) fn batch(&self, rows: Range<usize>) -> Tensor {
        self.parts[0].batch(rows, self.count)
    }

    /// What each input of a model gets for `rows`; past the end they start again.
    pub(crate) fn all(&self, rows: Range<usize>) -> Vec<Tensor> {
        self.parts.iter().map(|part| part.batch(rows.clone(), self.count)).collect()
    }
}

/// The rows of an array of the shape `held`, for an input of the shape `wanted`.
fn rows_of(held: &[usize], wanted: &Shape) -> std::result::Result<usize, String> {
    let fits = |(held, dim): (&usize, &Dim)| dim.fixed().is_none_or(|n| n == *held);
    let (Some((&count, row)), Some((_, axes))) = (held.split_first(), wanted.0.split_first()) else {
        return Err("one number is no batch of inputs".into());
    };
    let len = row.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(0);
    if row.len() != axes.len() || !row.iter().zip(axes).all(fits) || count == 0 || len == 0 {
        return Err(format!("it holds an array of {held:?}, the model takes {wanted}"));
    }
    Ok(count)
}

/// Numbers for an input of `dtype`.
fn fitting(numbers: Numbers, dtype: DType) -> std::result::Result<Numbers, String> {
    match (numbers, dtype) {
        (Numbers::Floats(_), DType::I64) => {
            Err("it holds floats, the model takes whole numbers (tokens); give int64".into())
        }
        (Numbers::Integers(all), DType::F32) => match all.iter().find(|n| n.unsigned_abs() > EXACT) {
            Some(n) => Err(format!("it holds {n}, which is no float32 exactly; give float32")),
            None => Ok(Numbers::Floats(all.into_iter().map(|n| n as f32).collect())),
        },
        (numbers, _) => Ok(numbers),
    }
}

/// A picture of `size * size * 3` bytes: waves of several lengths and directions in each channel, and noise.
fn waves(size: usize, index: u64) -> Vec<u8> {
    let mut random = Random::new(0, 0, index, Purpose::Augment);
    let mut channel = || {
        let direction = random.range(0.0, std::f32::consts::TAU);
        let (frequency, phase) = (random.range(1.0, 12.0), random.range(0.0, std::f32::consts::TAU));
        (direction.cos() * frequency, direction.sin() * frequency, phase, random.range(60.0, 200.0))
    };
    let channels = [channel(), channel(), channel()];
    let mut pixels = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            for (fx, fy, phase, level) in channels {
                let (u, v) = (x as f32 / size as f32, y as f32 / size as f32);
                let wave = (u * fx + v * fy + phase).sin() * 50.0;
                pixels.push((level + wave + random.range(-20.0, 20.0)) as u8);
            }
        }
    }
    pixels
}

/// The batches that `models` can be compared at: those of [`BATCHES`] for which there is memory, or the one that a model takes only.
pub fn batches(models: &[&Model]) -> Vec<usize> {
    let fixed = |model: &&Model| {
        let input = model.graph.inputs().first()?;
        model.graph.value(*input).shape.0.first()?.fixed()
    };
    let within = |batch: &usize| models.iter().all(|model| batch_within(model, *batch) == *batch);
    match models.iter().find_map(fixed) {
        Some(batch) => vec![batch],
        None => BATCHES.into_iter().filter(within).collect(),
    }
}

/// Runs both models on every input (the largest of `batches` at a time, and once at each other size) and compares
/// their outputs, of which `metadata` says what they are. Where there is one batch size, that is all that is run.
///
/// # Errors
/// When a model cannot run, or the two have another number of classes.
pub fn compare(
    first: &mut Inference,
    second: &mut Inference,
    inputs: &Inputs,
    batches: &[usize],
    (tolerance, metadata): (f64, &Metadata),
) -> Result<Comparison> {
    let mut seen = Differences::new(metadata);
    for rows in runs(inputs.len(), batches) {
        let batch = inputs.all(rows);
        let answers = Answers::of(first, &batch)?;
        seen.add(&answers, second, &batch)?;
    }
    Ok(seen.judge(batches.to_vec(), tolerance))
}

/// The inputs of each run of a comparison.
fn runs(count: usize, batches: &[usize]) -> Vec<Range<usize>> {
    let largest = batches.iter().copied().max().unwrap_or(1);
    // Of a single size, the last batch is filled from the first inputs.
    let end = |start| if batches.len() == 1 { start + largest } else { count.min(start + largest) };
    let all = (0..count).step_by(largest).map(|start| start..end(start));
    all.chain(batches.iter().filter(|_| batches.len() > 1).map(|&n| 0..n)).collect()
}

/// The outputs for a batch.
struct Answers {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Answers {
    fn of(network: &mut Inference, batch: &[Tensor]) -> Result<Answers> {
        let answers = network.run_all(batch)?;
        Ok(Answers { shape: answers.shape().to_vec(), data: answers.into_f32().unwrap_or_default() })
    }
}

/// The outputs for the inputs of a proof, before a file is made of it.
pub(crate) struct Reference<'a> {
    inputs: &'a Inputs,
    batches: Vec<usize>,
    answers: Vec<Answers>,
    scales: Vec<Scale>,
}

impl<'a> Reference<'a> {
    /// Runs `network`, which takes batches of the sizes `batches`.
    ///
    /// # Errors
    /// When it cannot run, or gives NaN or infinities: no file can be compared with it.
    pub(crate) fn new(
        (network, metadata): (&mut Inference, &Metadata),
        inputs: &'a Inputs,
        batches: Vec<usize>,
    ) -> Result<Reference<'a>> {
        let mut answers = Vec::new();
        for rows in runs(inputs.len(), &batches) {
            let found = Answers::of(network, &inputs.all(rows))?;
            check_answers(&found.data)?;
            answers.push(found);
        }
        Ok(Reference { inputs, batches, answers, scales: scales(metadata) })
    }

    /// As [`compare`], of another model.
    ///
    /// # Errors
    /// When it cannot run, or has another number of classes.
    pub(crate) fn compare(&self, other: &mut Inference, tolerance: f64) -> Result<Comparison> {
        let mut seen = Differences { scales: self.scales.clone(), ..Differences::default() };
        for (rows, answers) in runs(self.inputs.len(), &self.batches).into_iter().zip(&self.answers) {
            seen.add(answers, other, &self.inputs.all(rows))?;
        }
        Ok(seen.judge(self.batches.clone(), tolerance))
    }
}

/// What has been seen so far.
#[derive(Default)]
pub(crate) struct Differences {
    /// Those of the targets, where numbers are compared.
    scales: Vec<Scale>,
    max_abs_diff: f64,
    /// The largest difference, and the largest number, of what is compared.
    largest_diff: f64,
    largest_logit: f64,
    least_cosine: Option<f64>,
    pictures: usize,
    /// Pictures whose best class is the same.
    agreeing: usize,
    not_finite: bool,
}

/// The scales of the targets of a model that predicts numbers; none of another.
fn scales(metadata: &Metadata) -> Vec<Scale> {
    if metadata.task == Task::Regression { metadata.regression().scales } else { Vec::new() }
}

impl Differences {
    /// None yet, of outputs of which `metadata` says what they are.
    pub(crate) fn new(metadata: &Metadata) -> Differences {
        Differences { scales: scales(metadata), ..Differences::default() }
    }

    fn add(&mut self, first: &Answers, second: &mut Inference, batch: &[Tensor]) -> Result<()> {
        let second = Answers::of(second, batch)?;
        if first.shape != second.shape {
            let (a, b) = (&first.shape, second.shape);
            return Err(Error::Input(format!("the models differ in their outputs: {a:?} and {b:?}")));
        }
        let classes = first.shape.last().copied().unwrap_or(1).max(1);
        for (a, b) in first.data.chunks_exact(classes).zip(second.data.chunks_exact(classes)) {
            self.add_picture(a, b);
        }
        Ok(())
    }

    /// Adds two models' logits of one picture.
    pub(crate) fn add_picture(&mut self, a: &[f32], b: &[f32]) {
        let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
        let mut apart = 0.0_f64;
        for (place, (&x, &y)) in a.iter().zip(b).enumerate() {
            self.not_finite |= !x.is_finite() || !y.is_finite();
            let (x, y) = (f64::from(x), f64::from(y));
            // `max` would pass over a NaN.
            let difference = if (x - y).is_nan() { f64::INFINITY } else { (x - y).abs() };
            self.max_abs_diff = self.max_abs_diff.max(difference);
            let (scaled, number) = match self.scales.get(place) {
                None => (difference, x.abs()),
                Some(scale) => {
                    let scaled = |number: f64| number.abs() / scale.deviation;
                    (scaled(difference), scaled(x - scale.mean).max(1.0).max(ROUNDED * scaled(x)))
                }
            };
            apart = apart.max(scaled);
            self.largest_diff = self.largest_diff.max(scaled);
            self.largest_logit = self.largest_logit.max(number);
            (dot, aa, bb) = (dot + x * y, aa + x * x, bb + y * y);
        }
        let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { dot / (aa * bb).sqrt() };
        self.least_cosine = Some(self.least_cosine.map_or(cosine, |least| least.min(cosine)));
        self.pictures += 1;
        // Where a number is no logit, no class is the best.
        let finite = a.iter().chain(b).all(|x| x.is_finite());
        let agrees = match self.scales.is_empty() {
            true => argmax(a) == argmax(b),
            false => apart < AGREES,
        };
        self.agreeing += usize::from(finite && agrees);
    }

    pub(crate) fn judge(self, batches: Vec<usize>, tolerance: f64) -> Comparison {
        let max_rel_diff =
            if self.largest_logit > 0.0 { self.largest_diff / self.largest_logit } else { self.largest_diff };
        Comparison {
            ok: !self.not_finite && max_rel_diff < tolerance,
            max_abs_diff: self.max_abs_diff,
            max_rel_diff,
            cosine: self.least_cosine.unwrap_or(1.0),
            top1_agreement: self.agreeing as f64 / self.pictures.max(1) as f64,
            batches,
            finite: !self.not_finite,
        }
    }
}

/// The differences between the metadata of two models, in words: the size of their inputs, their classes, their
/// preprocessing. Where a file has none of that and it was assumed, only the input's size and the number of classes count.
pub fn disagreements(first: &Loaded, second: &Loaded) -> Vec<String> {
    let (a, b) = (&first.model.metadata, &second.model.metadata);
    let assumed = first.assumed_metadata || second.assumed_metadata;
    let mut found = Vec::new();
    if a.preprocessing.size != b.preprocessing.size {
        let (a, b) = (a.preprocessing.size, b.preprocessing.size);
        found.push(format!("they take pictures of different sizes: {a} and {b}"));
    } else if a.preprocessing != b.preprocessing && !assumed {
        let steps = a.preprocessing.differences(&b.preprocessing).join("; ");
        found.push(format!("their preprocessing differs: {steps}"));
    }
    if a.task != b.task && !assumed {
        found.push(format!("they are for different tasks: {} and {}", a.task.name(), b.task.name()));
    }
    if a.classes.len() != b.classes.len() {
        let (a, b) = (a.classes.len(), b.classes.len());
        found.push(format!("they have different numbers of classes: {a} and {b}"));
    } else if let Some((a, b)) = a.classes.iter().zip(&b.classes).find(|(a, b)| a != b).filter(|_| !assumed) {
        found.push(format!("their classes have different names or another order: `{a}` and `{b}`"));
    }
    found
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Regression;

    use super::*;

    #[test]
    fn numbers_are_compared_in_deviations_of_their_targets() {
        let scales = vec![Scale { mean: 1000.0, deviation: 10.0 }, Scale { mean: 0.0, deviation: 0.001 }];
        let regression = Some(Regression { scales, ..Regression::default() });
        let metadata = Metadata { task: Task::Regression, regression, ..Metadata::default() };
        let judged = |a: [f32; 2], b: [f32; 2]| {
            let mut seen = Differences::new(&metadata);
            seen.add_picture(&a, &b);
            seen.judge(Vec::new(), TOLERANCE)
        };
        // Small beside the other target, and large beside its own deviation.
        let found = judged([1000.0, 0.001], [1000.0, 0.002]);
        assert!(
            !found.ok && (found.max_rel_diff - 1.0).abs() < 1e-3 && found.top1_agreement == 0.0,
            "{found:?}"
        );
        // One rounding of f32 beside a mean of 100,000 deviations.
        let far = Scale { mean: 1e6, deviation: 10.0 };
        let regression = Some(Regression { scales: vec![far], ..Regression::default() });
        let mut seen = Differences::new(&Metadata { regression, ..metadata.clone() });
        seen.add_picture(&[1e6], &[1e6 + 0.0625]);
        let found = seen.judge(Vec::new(), TOLERANCE);
        assert!(found.ok && found.max_rel_diff > 0.0 && found.top1_agreement == 1.0, "{found:?}");
        let found = judged([1020.0, 0.0], [1020.05, 0.0]);
        assert!(!found.ok && found.max_rel_diff > 2e-3 && found.top1_agreement == 1.0, "{found:?}");
        let found = judged([f32::NAN, 0.0], [1000.0, 0.0]);
        assert!(!found.ok && !found.finite && found.top1_agreement == 0.0, "{found:?}");
    }
}
