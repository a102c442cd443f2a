//! int8 pooling.

use std::ops::Range;

use super::super::parallel::{self, Shared};
use super::super::pool::{Pool, PoolShape};
use super::super::size::elements;
use super::super::window::inside;
use super::requantize::Requantize;

/// How a mean leaves: (sum - count * zero_point) * scale / count as a byte.
#[derive(Clone, Copy, Debug)]
pub struct Mean {
    /// The byte of x that stands for 0.
    pub zero_point: u8,
    /// x's scale over that of y.
    pub scale: f32,
    /// How y is stored.
    pub requantize: Requantize,
}

/// The largest byte or the mean of each window.
///
/// # Panics
/// When a slice has not the size that `shape` says.
pub fn pool(kind: Pool, mean: &Mean, shape: &PoolShape, x: &[u8], y: &mut [u8]) {
    let PoolShape { batch, in_h, in_w, channels, out_h, out_w, .. } = *shape;
    shape.check(x.len(), y.len());
    let work = y.len().saturating_mul(shape.kernel[0] * shape.kernel[1]) / 16;
    let shared = Shared::new(y);
    parallel::for_each_task(batch * out_h, work, |row| {
        // Safety: tasks have rows of their own, of which `y` has one for each.
        let y =
            unsafe { std::slice::from_raw_parts_mut(shared.at(row * out_w * channels), out_w * channels) };
        let x = &x[row / out_h * in_h * in_w * channels..][..in_h * in_w * channels];
        match kind {
            Pool::Max => max_row(shape, x, row % out_h, y),
            Pool::Average { count_include_pad } => {
                mean_row(shape, mean, count_include_pad, x, row % out_h, y);
            }
        }
    });
}

/// The window's elements along `axis` for output `out` that are in the picture, as input positions.
fn positions(shape: &PoolShape, axis: usize, out: usize) -> impl Iterator<Item = usize> + Clone {
    let len = [shape.in_h, shape.in_w][axis];
    let (stride, pad, dilation) = (shape.strides[axis], shape.pads[axis], shape.dilations[axis]);
    inside(out, stride, pad, dilation, shape.kernel[axis], len)
        .map(move |k| out * stride + k * dilation - pad)
}

fn max_row(shape: &PoolShape, x: &[u8], oh: usize, y: &mut [u8]) {
    let channels = shape.channels;
    let rows = positions(shape, 0, oh);
    for (ow, y) in y.chunks_exact_mut(channels).enumerate() {
        y.fill(0);
        for h in rows.clone() {
            for w in positions(shape, 1, ow) {
                let x = &x[(h * shape.in_w + w) * channels..][..channels];
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x.max(*y);
                }
            }
        }
    }
}

/// Elements of the window along `axis` that count where padding does: those that are not beyond it.
fn padded(shape: &PoolShape, axis: usize, out: usize) -> usize {
    let len = [shape.in_h, shape.in_w][axis] + shape.pads[axis] + shape.pads[axis + 2];
    inside(out, shape.strides[axis], 0, shape.dilations[axis], shape.kernel[axis], len).len()
}

fn mean_row(shape: &PoolShape, mean: &Mean, count_include_pad: bool, x: &[u8], oh: usize, y: &mut [u8]) {
    let channels = shape.channels;
    let rows = positions(shape, 0, oh);
    let mut sums = vec![0; channels];
    for (ow, y) in y.chunks_exact_mut(channels).enumerate() {
        sums.fill(0);
        let columns = positions(shape, 1, ow);
        for h in rows.clone() {
            for w in columns.clone() {
                add(&mut sums, &x[(h * shape.in_w + w) * channels..]);
            }
        }
        let found = rows.clone().count() * columns.count();
        let count = if count_include_pad { padded(shape, 0, oh) * padded(shape, 1, ow) } else { found };
        mean.finish(&sums, found, count, y);
    }
}

fn add(sums: &mut [i32], x: &[u8]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += i32::from(x);
    }
}

impl Mean {
    /// The means of `count` elements each, of which `found` are in the sums and the others are zeros.
    fn finish(&self, sums: &[i32], found: usize, count: usize, y: &mut [u8]) {
        let scale = self.scale / count.max(1) as f32;
        let zeros = found as i32 * i32::from(self.zero_point);
        for (y, &sum) in y.iter_mut().zip(sums) {
            *y = self.requantize.of((sum - zeros) as f32 * scale);
        }
    }
}

/// Channels of a task.
const CHANNELS: usize = 256;

/// Pixels of a picture whose sum of bytes fits into 31 bits.
pub const PIXELS: usize = 1 << 23;

/// The mean of each channel over all pixels of each of `batch` pictures.
///
/// # Panics
/// When y does not hold one byte for each channel, or a picture has more than [`PIXELS`] pixels.
pub fn global_average(mean: &Mean, batch: usize, x: &[u8], y: &mut [u8]) {
    let channels = y.len() / batch.max(1);
    let pixels = x.len() / y.len().max(1);
    assert!(y.len() == elements([batch, channels]), "{} means of {batch} pictures", y.len());
    assert!(x.len() == elements([batch, pixels, channels]) && pixels <= PIXELS, "{} bytes", x.len());
    let blocks = channels.div_ceil(CHANNELS);
    let shared = Shared::new(y);
    parallel::for_each_task(batch * blocks, x.len() / 16, |task| {
        let (image, first) = (task / blocks, task % blocks * CHANNELS);
        let range: Range<usize> = first..channels.min(first + CHANNELS);
        let mut sums = [0; CHANNELS];
        let sums = &mut sums[..range.len()];
        for pixel in 0..pixels {
            add(sums, &x[(image * pixels + pixel) * channels + first..]);
        }
        // Safety: tasks have channels of their own.
        let y = unsafe { std::slice::from_raw_parts_mut(shared.at(image * channels + first), range.len()) };
        mean.finish(sums, pixels, pixels, y);
    });
}
