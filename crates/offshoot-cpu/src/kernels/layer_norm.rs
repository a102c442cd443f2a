//! Layer normalization of the rows of a matrix, and its gradients. Mean and variance of a row are cheap to compute, so
//! that they are computed again in the backward pass and not kept.

use super::prefetch;
use super::rows::Shared;
use super::rows::{add_partials, for_chunks, load, partials, rows_per_part, rows_per_task, store};
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Mean and 1 / sqrt(variance + epsilon) of a row.
///
/// # Safety
/// `S` must be available.
#[inline(always)]
unsafe fn statistics<S: Simd>(row: &[f32], epsilon: f32) -> (f32, f32) {
    let whole = row.len() - row.len() % S::LANES;
    let count = row.len() as f32;
    // Safety: the vectors lie within `row`.
    unsafe {
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::add(sum, S::load(row.as_ptr().add(at)));
        }
        let mut total = S::sum(sum);
        for &x in &row[whole..] {
            total += x;
        }
        let mean = total / count;
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let d = S::sub(S::load(row.as_ptr().add(at)), S::splat(mean));
            sum = S::fma(d, d, sum);
        }
        let mut squares = S::sum(sum);
        for &x in &row[whole..] {
            squares += (x - mean) * (x - mean);
        }
        (mean, 1.0 / (squares / count + epsilon).sqrt())
    }
}

/// The rows of a task: what they are normalized with, and where they go.
struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(&mut self, row: usize, c: usize, n: usize, scale: [f32; 2]) {
        // Safety: c + n is within a row, as are the parameters.
        unsafe {
            let x = load::<S, f32, FULL>(self.x.as_ptr().add(row + c), n);
            let weight = load::<S, f32, FULL>(self.weight.as_ptr().add(c), n);
            let bias = load::<S, f32, FULL>(self.bias.as_ptr().add(c), n);
            let normal = S::mul(S::sub(x, S::splat(scale[0])), S::splat(scale[1]));
            store::<S, f32, FULL>(self.out.as_mut_ptr().add(row + c), n, S::fma(normal, weight, bias));
        }
    }
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = self.weight.len();
        let whole = width - width % S::LANES;
        for row in (0..self.x.len()).step_by(width) {
            // Safety: the row is within x and out, which have one length.
            unsafe {
                let (mean, inverse) = statistics::<S>(&self.x[row..row + width], self.epsilon);
                for c in (0..whole).step_by(S::LANES) {
                    self.block::<S, true>(row, c, S::LANES, [mean, inverse]);
                }
                if whole < width {
                    self.block::<S, false>(row, whole, width - whole, [mean, inverse]);
                }
            }
        }
    }
}

/// out = (x - mean) / sqrt(var + epsilon) * weight + bias, row by row; a row is as long as `weight`.
///
/// # Panics
/// When the slices do not fit each other.
pub(crate) fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && bias.len() == width && x.len() == out.len() && x.len().is_multiple_of(width));
    let shared = Shared::new(out);
    for_chunks(x.len() / width, rows_per_task(width), |rows| {
        let (start, end) = (rows.start * width, rows.end * width);
        // Safety: the rows of a task are its own.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(start), end - start) };
        dispatch(isa, Forward { x: &x[start..end], weight, bias, epsilon, out });
    });
}

/// The rows of a task of [`layer_norm_input_grad`].
struct InputGradient<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl InputGradient<'_> {
    /// dy weight, and the normalized x.
    #[inline(always)]
    unsafe fn operands<S: Simd, const FULL: bool>(
        &self,
        row: usize,
        c: usize,
        n: usize,
        scale: [f32; 2],
    ) -> [S::V; 2] {
        // Safety: c + n is within a row, as is the weight.
        unsafe {
            let x = load::<S, f32, FULL>(self.x.as_ptr().add(row + c), n);
            let dy = load::<S, f32, FULL>(self.dy.as_ptr().add(row + c), n);
            let weight = load::<S, f32, FULL>(self.weight.as_ptr().add(c), n);
            [S::mul(dy, weight), S::mul(S::sub(x, S::splat(scale[0])), S::splat(scale[1]))]
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(
        &mut self,
        row: usize,
        c: usize,
        n: usize,
        scale: [f32; 2],
        means: [f32; 2],
    ) {
        // Safety: as in `operands`.
        unsafe {
            let [g, normal] = self.operands::<S, FULL>(row, c, n, scale);
            let rest = S::sub(S::sub(g, S::splat(means[0])), S::mul(normal, S::splat(means[1])));
            let dx = S::mul(rest, S::splat(scale[1]));
            store::<S, f32, FULL>(self.out.as_mut_ptr().add(row + c), n, dx);
        }
    }
}

impl Kernel for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = self.weight.len();
        let whole = width - width % S::LANES;
        for row in (0..self.x.len()).step_by(width) {
            // Safety: the row is within dy, x and out, which have one length. Past a row's end `operands` has zeros for
            // dy, so that they add nothing.
            unsafe {
                let (mean, inverse) = statistics::<S>(&self.x[row..row + width], self.epsilon);
                let scale = [mean, inverse];
                let (mut sum, mut product) = (S::splat(0.0), S::splat(0.0));
                for c in (0..whole).step_by(S::LANES) {
                    let [g, normal] = self.operands::<S, true>(row, c, S::LANES, scale);
                    sum = S::add(sum, g);
                    product = S::fma(g, normal, product);
                }
                if whole < width {
                    let [g, normal] = self.operands::<S, false>(row, whole, width - whole, scale);
                    sum = S::add(sum, g);
                    product = S::fma(g, normal, product);
                }
                let means = [S::sum(sum) / width as f32, S::sum(product) / width as f32];
                for c in (0..whole).step_by(S::LANES) {
                    self.block::<S, true>(row, c, S::LANES, scale, means);
                }
                if whole < width {
                    self.block::<S, false>(row, whole, width - whole, scale, means);
                }
            }
        }
    }
}

/// dx of [`layer_norm`]: with g = dy weight and n the normalized x, dx = (g - mean(g) - n mean(g n)) / sqrt(var + epsilon).
///
/// # Panics
/// As [`layer_norm`].
pub(crate) fn layer_norm_input_grad(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dx: &mut [f32],
) {
    let width = weight.len();
    assert!(width > 0 && [dy.len(), x.len()] == [dx.len(); 2] && x.len().is_multiple_of(width));
    let shared = Shared::new(dx);
    for_chunks(x.len() / width, rows_per_task(width), |rows| {
        let (start, end) = (rows.start * width, rows.end * width);
        // Safety: the rows of a task are its own.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(start), end - start) };
        let (dy, x) = (&dy[start..end], &x[start..end]);
        dispatch(isa, InputGradient { dy, x, weight, epsilon, out });
    });
}

/// The rows of a part of [`layer_norm_reduce`]; `sums` holds those of dweight, then those of dbias.
struct Reduce<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    epsilon: f32,
    width: usize,
    sums: &'a mut [f32],
}

impl Reduce<'_> {
    #[inline(always)]
    unsafe fn block<S: Simd, const FULL: bool>(&mut self, row: usize, c: usize, n: usize, scale: [f32; 2]) {
        // Safety: c + n is within a row, and `sums` has two rows.
        unsafe {
            let x = load::<S, f32, FULL>(self.x.as_ptr().add(row + c), n);
            let dy = load::<S, f32, FULL>(self.dy.as_ptr().add(row + c), n);
            let normal = S::mul(S::sub(x, S::splat(scale[0])), S::splat(scale[1]));
            let weight = self.sums.as_mut_ptr().add(c);
            store::<S, f32, FULL>(weight, n, S::fma(dy, normal, load::<S, f32, FULL>(weight, n)));
            let bias = weight.add(self.width);
            store::<S, f32, FULL>(bias, n, S::add(dy, load::<S, f32, FULL>(bias, n)));
        }
    }
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let whole = self.width - self.width % S::LANES;
        for row in (0..self.x.len()).step_by(self.width) {
            prefetch::elements(self.dy, row..row + self.width);
            // Safety: the row is within dy and x, which have one length.
            unsafe {
                let (mean, inverse) = statistics::<S>(&self.x[row..row + self.width], self.epsilon);
                for c in (0..whole).step_by(S::LANES) {
                    self.block::<S, true>(row, c, S::LANES, [mean, inverse]);
                }
                if whole < self.width {
                    self.block::<S, false>(row, whole, self.width - whole, [mean, inverse]);
                }
            }
        }
    }
}

/// dweight = the sum over rows of dy times the normalized x, and dbias = that of dy.
///
/// # Panics
/// When the slices do not fit each other.
pub(crate) fn layer_norm_reduce(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    epsilon: f32,
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let width = dweight.len();
    assert!(width > 0 && dbias.len() == width && dy.len() == x.len() && x.len().is_multiple_of(width));
    let parts = partials(x.len() / width, rows_per_part(width), 2 * width, |rows, sums| {
        let elements = rows.start * width..rows.end * width;
        let (dy, x) = (&dy[elements.clone()], &x[elements]);
        dispatch(isa, Reduce { dy, x, epsilon, width, sums });
    });
    let mut sums = vec![0.0; 2 * width];
    add_partials(&parts, &mut sums);
    dweight.copy_from_slice(&sums[..width]);
    dbias.copy_from_slice(&sums[width..]);
}
