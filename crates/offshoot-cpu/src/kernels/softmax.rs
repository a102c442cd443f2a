//! Softmax, log-softmax and cross entropy over the last axis, as in PyTorch.

use super::math::{exp, ln};
use super::rows::{Shared, for_chunks, rows_per_task};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;

/// The most lanes a vector has.
const MAX_LANES: usize = 16;

/// The largest element (whatever it pleases when there is a NaN: the sum of exponentials is one then).
///
/// # Safety
/// `S` must be available; `row` has `len` elements.
#[inline(always)]
pub(super) unsafe fn largest<S: Simd>(row: *const f32, len: usize) -> f32 {
    let whole = len - len % S::LANES;
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    let mut most = f32::NEG_INFINITY;
    // Safety: the vectors and the rest lie within `row`.
    unsafe {
        let mut vector = S::splat(most);
        for at in (0..whole).step_by(S::LANES) {
            vector = S::at_least(S::load(row.add(at)), vector);
        }
        S::store(lanes.as_mut_ptr(), vector);
        for at in whole..len {
            most = most.max(*row.add(at));
        }
    }
    lanes.iter().fold(most, |most, &x| most.max(x))
}

/// exp(x - most) into `out`, and its sum.
///
/// # Safety
/// `S` must be available; `row` and `out` have `len` elements, and may be the same.
#[inline(always)]
pub(super) unsafe fn exponentials<S: Simd>(row: *const f32, len: usize, most: f32, out: *mut f32) -> f32 {
    let whole = len - len % S::LANES;
    let n = len - whole;
    // Safety: the vectors lie within `row` and `out`.
    unsafe {
        let most = S::splat(most);
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let e = exp::<S>(S::sub(S::load(row.add(at)), most));
            S::store(out.add(at), e);
            sum = S::add(sum, e);
        }
        if n > 0 {
            let e = exp::<S>(S::sub(S::load_first(row.add(whole), n), most));
            S::store_first(out.add(whole), n, e);
            sum = S::add(sum, S::load_first(out.add(whole), n));
        }
        S::sum(sum)
    }
}

/// out = a x + b.
///
/// # Safety
/// `S` must be available; `x` and `out` have `len` elements, and may be the same.
#[inline(always)]
pub(super) unsafe fn line<S: Simd>(a: f32, x: *const f32, b: f32, out: *mut f32, len: usize) {
    let whole = len - len % S::LANES;
    // Safety: the vectors lie within `x` and `out`.
    unsafe {
        let (a, b) = (S::splat(a), S::splat(b));
        for at in (0..whole).step_by(S::LANES) {
            S::store(out.add(at), S::fma(a, S::load(x.add(at)), b));
        }
        if whole < len {
            let y = S::fma(a, S::load_first(x.add(whole), len - whole), b);
            S::store_first(out.add(whole), len - whole, y);
        }
    }
}

/// The sum of a b.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let whole = len - len % S::LANES;
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // Safety: the vectors lie within `a` and `b`.
    unsafe {
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::fma(S::load(a.add(at)), S::load(b.add(at)), sum);
        }
        let n = len - whole;
        sum = S::fma(S::load_first(a.add(whole), n), S::load_first(b.add(whole), n), sum);
        S::sum(sum)
    }
}

/// A function of rows: it reads the same row of each input and writes it in `out`.
trait RowFunction<const N: usize>: Copy + Send + Sync {
    /// # Safety
    /// `S` must be available; all slices have one length.
    unsafe fn row<S: Simd>(self, inputs: [&[f32]; N], out: &mut [f32]);
}

struct Rows<'a, const N: usize, F> {
    inputs: [&'a [f32]; N],
    out: &'a mut [f32],
    width: usize,
    function: F,
}

impl<const N: usize, F: RowFunction<N>> Kernel for Rows<'_, N, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (row, out) in self.out.chunks_exact_mut(self.width).enumerate() {
            let mut inputs = self.inputs;
            for input in &mut inputs {
                *input = &input[row * self.width..(row + 1) * self.width];
            }
            // Safety: passed on.
            unsafe { self.function.row::<S>(inputs, out) };
        }
    }
}

fn for_rows<const N: usize>(
    isa: Isa,
    inputs: [&[f32]; N],
    width: usize,
    out: &mut [f32],
    function: impl RowFunction<N>,
) {
    assert!(inputs.iter().all(|i| i.len() == out.len()) && width > 0 && out.len().is_multiple_of(width));
    let shared = Shared::new(out);
    for_chunks(out.len() / width, rows_per_task(width), |rows| {
        let (start, end) = (rows.start * width, rows.end * width);
        // Safety: the rows of a task are its own.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(start), end - start) };
        dispatch(isa, Rows { inputs: inputs.map(|i| &i[start..end]), out, width, function });
    });
}

#[derive(Clone, Copy)]
struct Softmax;

impl RowFunction<1> for Softmax {
    #[inline(always)]
    unsafe fn row<S: Simd>(self, [x]: [&[f32]; 1], out: &mut [f32]) {
        // Safety: the caller's promise.
        unsafe {
            // (One pointer, as one that is made again ends those from before.)
            let (y, len) = (out.as_mut_ptr(), out.len());
            let sum = exponentials::<S>(x.as_ptr(), len, largest::<S>(x.as_ptr(), len), y);
            line::<S>(1.0 / sum, y, 0.0, y, len);
        }
    }
}

#[derive(Clone, Copy)]
struct LogSoftmax;

impl RowFunction<1> for LogSoftmax {
    #[inline(always)]
    unsafe fn row<S: Simd>(self, [x]: [&[f32]; 1], out: &mut [f32]) {
        // Safety: the caller's promise.
        unsafe {
            let most = largest::<S>(x.as_ptr(), x.len());
            let (y, len) = (out.as_mut_ptr(), out.len());
            let sum = exponentials::<S>(x.as_ptr(), len, most, y);
            line::<S>(1.0, x.as_ptr(), -most, y, len);
            line::<S>(1.0, y, -ln(sum), y, len);
        }
    }
}

#[derive(Clone, Copy)]
struct SoftmaxGrad;

impl RowFunction<2> for SoftmaxGrad {
    #[inline(always)]
    unsafe fn row<S: Simd>(self, [y, dy]: [&[f32]; 2], out: &mut [f32]) {
        // Safety: the caller's promise.
        let mean = unsafe { dot::<S>(y, dy) };
        for ((out, y), dy) in out.iter_mut().zip(y).zip(dy) {
            *out = y * (dy - mean);
        }
    }
}

#[derive(Clone, Copy)]
struct LogSoftmaxGrad;

impl RowFunction<2> for LogSoftmaxGrad {
    #[inline(always)]
    unsafe fn row<S: Simd>(self, [y, dy]: [&[f32]; 2], out: &mut [f32]) {
        let mut sum = 0.0;
        for dy in dy {
            sum += dy;
        }
        // Safety: the caller's promise.
        unsafe { exponentials::<S>(y.as_ptr(), y.len(), 0.0, out.as_mut_ptr()) };
        for (out, dy) in out.iter_mut().zip(dy) {
            *out = dy - *out * sum;
        }
    }
}

/// out = softmax of each row of `width` elements.
pub fn softmax(isa: Isa, x: &[f32], width: usize, out: &mut [f32]) {
    for_rows(isa, [x], width, out, Softmax);
}

/// out = log(softmax) of each row of `width` elements.
pub fn log_softmax(isa: Isa, x: &[f32], width: usize, out: &mut [f32]) {
    for_rows(isa, [x], width, out, LogSoftmax);
}

/// dx = y (dy - sum(y dy)), `y` being the output of [`softmax`].
pub fn softmax_grad(isa: Isa, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    for_rows(isa, [y, dy], width, dx, SoftmaxGrad);
}

/// dx = dy - exp(y) sum(dy), `y` being the output of [`log_softmax`].
pub fn log_softmax_grad(isa: Isa, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    for_rows(isa, [y, dy], width, dx, LogSoftmaxGrad);
}

/// A label that names a row to leave out of the loss and its gradient (PyTorch's `ignore_index`).
pub const IGNORED: i64 = -100;

/// The settings of [`cross_entropy`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy<'a> {
    /// Label smoothing, 0 to 1.
    pub smoothing: f32,
    /// A weight for each class.
    pub weights: Option<&'a [f32]>,
}

/// A label that is no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "label {label} in row {row} is none of the {classes} classes; labels run from 0, and {IGNORED} is left out"
)]
pub struct LabelError {
    /// The row of the batch.
    pub row: usize,
    /// Its label.
    pub label: i64,
    /// How many classes there are.
    pub classes: usize,
}

impl CrossEntropy<'_> {
    fn weight(&self, class: usize) -> f32 {
        self.weights.map_or(1.0, |weights| weights[class])
    }

    fn total_weight(&self, classes: usize) -> f32 {
        self.weights.map_or(classes as f32, |weights| weights.iter().sum())
    }
}

/// The class of each row, `None` where it is ignored, and the sum of the classes' weights.
fn targets(
    labels: &[i64],
    classes: usize,
    settings: &CrossEntropy<'_>,
) -> Result<(Vec<Option<usize>>, f32), LabelError> {
    let mut weight = 0.0f64;
    let mut targets = Vec::with_capacity(labels.len());
    for (row, &label) in labels.iter().enumerate() {
        if label == IGNORED {
            targets.push(None);
            continue;
        }
        let class = usize::try_from(label).ok().filter(|&class| class < classes);
        let class = class.ok_or(LabelError { row, label, classes })?;
        weight += f64::from(settings.weight(class));
        targets.push(Some(class));
    }
    Ok((targets, weight as f32))
}

/// The mean cross entropy of `logits` (rows x classes) and `labels` (one a row), as `torch.nn.CrossEntropyLoss`
/// computes it: with weights w and smoothing e over C classes,
///
/// loss = sum over rows of ((1 - e) w\[label\] (-log p\[label\]) + e / C sum over c of w\[c\] (-log p\[c\])) / sum of w\[label\].
///
/// It is a NaN when every row is ignored.
///
/// # Errors
/// When a label is neither a class nor [`IGNORED`].
pub fn cross_entropy(
    isa: Isa,
    logits: &[f32],
    labels: &[i64],
    classes: usize,
    settings: &CrossEntropy<'_>,
) -> Result<f32, LabelError> {
    assert_eq!(logits.len(), elements([labels.len(), classes]), "{} labels, {classes} classes", labels.len());
    let (targets, weight) = targets(labels, classes, settings)?;
    let mut log_p = vec![0.0; logits.len()];
    log_softmax(isa, logits, classes, &mut log_p);
    let smoothing = f64::from(settings.smoothing);
    let mut loss = 0.0f64;
    for (log_p, class) in log_p.chunks_exact(classes).zip(targets) {
        let Some(class) = class else { continue };
        let own = f64::from(settings.weight(class)) * f64::from(log_p[class]);
        loss -= (1.0 - smoothing) * own;
        if smoothing > 0.0 {
            let all: f64 = (0..classes).map(|c| f64::from(settings.weight(c)) * f64::from(log_p[c])).sum();
            loss -= smoothing / classes as f64 * all;
        }
    }
    Ok((loss / f64::from(weight)) as f32)
}

/// The gradient of [`cross_entropy`] with respect to the logits, times `dloss`. Ignored rows get zeros.
///
/// # Errors
/// When a label is neither a class nor [`IGNORED`].
pub fn cross_entropy_grad(
    isa: Isa,
    logits: &[f32],
    labels: &[i64],
    classes: usize,
    settings: &CrossEntropy<'_>,
    dloss: f32,
    dlogits: &mut [f32],
) -> Result<(), LabelError> {
    assert_eq!(logits.len(), elements([labels.len(), classes]), "{} labels, {classes} classes", labels.len());
    let (targets, weight) = targets(labels, classes, settings)?;
    let total = settings.total_weight(classes);
    let smooth = settings.smoothing / classes as f32;
    softmax(isa, logits, classes, dlogits);
    for (row, class) in dlogits.chunks_exact_mut(classes).zip(targets) {
        let Some(class) = class else {
            row.fill(0.0);
            continue;
        };
        let scale = dloss / weight;
        let own = (1.0 - settings.smoothing) * settings.weight(class);
        for (c, p) in row.iter_mut().enumerate() {
            let target = smooth * settings.weight(c) + if c == class { own } else { 0.0 };
            *p = scale * (*p * (own + smooth * total) - target);
        }
    }
    Ok(())
}

/// The parts of the target with smoothing and class weights: w\[c\] ((1 - e) t\[c\] + e / C).
fn weighted<'a>(targets: &'a [f32], settings: &'a CrossEntropy<'_>) -> impl Iterator<Item = f32> + 'a {
    let smooth = settings.smoothing / targets.len() as f32;
    let part = move |(c, t): (usize, &f32)| settings.weight(c) * ((1.0 - settings.smoothing) * t + smooth);
    targets.iter().enumerate().map(part)
}

/// The cross entropy of `logits` and `targets` (rows x classes both), as `torch.nn.CrossEntropyLoss` computes it: with weights w and
/// smoothing e over C classes,
///
/// loss = sum over rows and c of w\[c\] ((1 - e) t\[c\] + e / C) (-log p\[c\]) / rows.
pub fn soft_cross_entropy(
    isa: Isa,
    logits: &[f32],
    targets: &[f32],
    classes: usize,
    settings: &CrossEntropy<'_>,
) -> f32 {
    assert_eq!(logits.len(), targets.len(), "a target for each logit");
    let mut log_p = vec![0.0; logits.len()];
    log_softmax(isa, logits, classes, &mut log_p);
    let mut loss = 0.0f64;
    for (log_p, targets) in log_p.chunks_exact(classes).zip(targets.chunks_exact(classes)) {
        for (log_p, target) in log_p.iter().zip(weighted(targets, settings)) {
            // A class that has no part in the target has none in the loss, be its logit infinitely low.
            if target != 0.0 {
                loss -= f64::from(target) * f64::from(*log_p);
            }
        }
    }
    (loss / (logits.len() / classes) as f64) as f32
}

/// The gradient of [`soft_cross_entropy`] with respect to the logits, times `dloss`.
pub fn soft_cross_entropy_grad(
    isa: Isa,
    logits: &[f32],
    targets: &[f32],
    classes: usize,
    settings: &CrossEntropy<'_>,
    dloss: f32,
    dlogits: &mut [f32],
) {
    assert_eq!(logits.len(), targets.len(), "a target for each logit");
    softmax(isa, logits, classes, dlogits);
    let scale = dloss / (logits.len() / classes) as f32;
    for (row, targets) in dlogits.chunks_exact_mut(classes).zip(targets.chunks_exact(classes)) {
        let total: f32 = weighted(targets, settings).sum();
        for (p, target) in row.iter_mut().zip(weighted(targets, settings)) {
            *p = scale * (*p * total - target);
        }
    }
}

#[cfg(test)]
mod tests;
