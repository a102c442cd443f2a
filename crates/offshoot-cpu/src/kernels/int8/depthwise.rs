//! int8 depthwise convolution, vectorized over channels.
//!
//! It sums in f32, where whole numbers below 2^24 are exact: 514 products of bytes and weights stay below. Where there is
//! an instruction for four products of bytes, four rows of a window go into a lane. A tile of neighboring pixels is kept in
//! registers. Pixels outside of the picture are a pixel of zero points.

use super::super::ConvShape;
use super::super::conv::{activations_len, weights_len};
use super::super::parallel;
use super::super::simd::Isa;
use super::conv::Numbers;
use super::requantize::{Output, Target, load_bytes};
use super::simd::{IntegerKernel, Integers, QuadKernel, Quads, dispatch_integers, dispatch_quads, has_quads};

/// Channels are rounded up to this many in the filter, so that whole vectors can be read.
const LANES: usize = 16;

/// Elements of the largest filter whose sums are exact: 2^24 / (255 * 128).
const TAPS: usize = 514;

/// Whether `shape` is a depthwise convolution that this module computes.
pub fn supports(shape: &ConvShape) -> bool {
    let depthwise = shape.groups == shape.in_c && shape.groups == shape.out_c && shape.fits();
    depthwise && shape.kernel[0] * shape.kernel[1] <= TAPS
}

/// The filter of a depthwise convolution as [`depthwise`] reads it.
#[derive(Clone, Debug)]
pub struct DepthwiseFilter {
    shape: [usize; 3],
    /// `[tap][channel]`, as floats.
    weights: Vec<f32>,
    /// `[column of the window][four of its rows][channel]`, four weights in each.
    quads: Vec<i32>,
    /// What each channel's sum starts from.
    init: Vec<i32>,
    /// What it is multiplied with.
    scale: Vec<f32>,
    /// A pixel that stands for zeros.
    zeros: Vec<u8>,
}

impl DepthwiseFilter {
    /// Packs the filter of `shape`.
    ///
    /// # Panics
    /// When a slice has not the size that `shape` says, or it is not [supported](supports).
    pub fn pack(shape: &ConvShape, numbers: &Numbers<'_>) -> DepthwiseFilter {
        assert!(supports(shape), "not depthwise: {shape:?}");
        assert_eq!(numbers.weights.len(), weights_len(shape), "weights of {shape:?}");
        assert_eq!([numbers.bias.len(), numbers.scale.len()], [shape.out_c; 2], "numbers of {shape:?}");
        let (channels, taps) = (shape.out_c, shape.kernel[0] * shape.kernel[1]);
        let padded = channels.next_multiple_of(LANES);
        let (mut weights, mut init) = (vec![0.0; taps * padded], vec![0; padded]);
        let [rows, columns] = shape.kernel;
        let fours = rows.div_ceil(4);
        let mut quads = vec![0; columns * fours * padded];
        for (c, weight) in numbers.weights.chunks_exact(taps).enumerate() {
            let sum: i32 = weight.iter().map(|&w| i32::from(w)).sum();
            init[c] = numbers.bias[c].wrapping_sub(sum * i32::from(numbers.zero_point));
            for (tap, &w) in weight.iter().enumerate() {
                weights[tap * padded + c] = w.into();
                let (row, column) = (tap / columns, tap % columns);
                quads[(column * fours + row / 4) * padded + c] |= i32::from(w as u8) << (8 * (row % 4));
            }
        }
        let mut scale = numbers.scale.to_vec();
        scale.resize(padded, 0.0);
        let zeros = vec![numbers.zero_point; padded];
        DepthwiseFilter { shape: [channels, rows, columns], weights, quads, init, scale, zeros }
    }

    /// Whether it is packed for `shape`.
    pub fn serves(&self, shape: &ConvShape) -> bool {
        supports(shape) && self.shape == [shape.out_c, shape.kernel[0], shape.kernel[1]]
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.quads.len() + self.init.len() + self.scale.len()) + self.zeros.len()
    }
}

/// y = the depthwise convolution of x with `filter`, as `output` says.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `filter` is packed for another one.
pub fn depthwise(isa: Isa, shape: &ConvShape, x: &[u8], filter: &DepthwiseFilter, mut output: Output<'_>) {
    assert_eq!([x.len(), output.len()], activations_len(shape), "input and output of {shape:?}");
    assert!(filter.serves(shape), "the filter is packed for another shape than {shape:?}");
    let rows = shape.batch * shape.out_h;
    // Loading the bytes and storing the results takes longer than the products.
    let work = (2 * output.len()).saturating_mul(shape.kernel[0] * shape.kernel[1]);
    let target = output.shared();
    let quads = has_quads(isa) && tiled(shape);
    parallel::for_each_task(rows, work, |row| {
        let task = Task { shape, x, filter, target, row };
        if quads {
            dispatch_quads(isa, task);
        } else {
            dispatch_integers(isa, task);
        }
    });
}

/// Pixels of a tile: the widths of most networks' pictures are multiples of it.
const TILE: usize = 7;

/// Whether there are tiles for the kernel and the stride.
fn tiled(shape: &ConvShape) -> bool {
    let ConvShape { kernel, strides, dilations, .. } = *shape;
    kernel[0] == kernel[1]
        && strides[0] == strides[1]
        && dilations == [1, 1]
        && [3, 5].contains(&kernel[0])
        && [1, 2].contains(&strides[0])
}

/// An output row.
struct Task<'a> {
    shape: &'a ConvShape,
    x: &'a [u8],
    filter: &'a DepthwiseFilter,
    target: Target<'a>,
    /// Of all pictures, counted through.
    row: usize,
}

impl IntegerKernel for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers>(self) {
        let (kernel, stride) = (self.shape.kernel[0], self.shape.strides[0]);
        let tiled = tiled(self.shape);
        // Safety: `S` is available.
        unsafe {
            match (kernel, stride) {
                (3, 1) if tiled => self.tiles::<S, Floats, 3, 1, 9>(),
                (3, 2) if tiled => self.tiles::<S, Floats, 3, 2, 15>(),
                (5, 1) if tiled => self.tiles::<S, Floats, 5, 1, 11>(),
                (5, 2) if tiled => self.tiles::<S, Floats, 5, 2, 17>(),
                _ => self.pixels::<S>(),
            }
        }
    }
}

impl QuadKernel for Task<'_> {
    #[inline(always)]
    unsafe fn run_quads<S: Quads>(self) {
        // Safety: `S` is available; only kernels that have tiles come here.
        unsafe {
            match (self.shape.kernel[0], self.shape.strides[0]) {
                (3, 1) => self.tiles::<S, Fours, 3, 1, 9>(),
                (3, 2) => self.tiles::<S, Fours, 3, 2, 15>(),
                (5, 1) => self.tiles::<S, Fours, 5, 1, 11>(),
                _ => self.tiles::<S, Fours, 5, 2, 17>(),
            }
        }
    }
}

/// How a tile is summed.
trait Sums<S: Integers> {
    /// The sums of `n` channels from `first` on of neighboring pixels, under whose windows of `K` x `K` are the `COLUMNS`
    /// columns `x`.
    ///
    /// # Safety
    /// `S` is available, `x` points to pixels of that many channels, and the filter is that of a window of `K`.
    unsafe fn tile<const K: usize, const STRIDE: usize, const COLUMNS: usize>(
        filter: &DepthwiseFilter,
        x: &[[*const u8; COLUMNS]; K],
        first: usize,
        n: usize,
    ) -> [S::V; TILE];
}

/// In f32.
struct Floats;

/// Four rows of the window at a time.
struct Fours;

impl<S: Quads> Sums<S> for Fours {
    #[inline(always)]
    unsafe fn tile<const K: usize, const STRIDE: usize, const COLUMNS: usize>(
        filter: &DepthwiseFilter,
        x: &[[*const u8; COLUMNS]; K],
        first: usize,
        n: usize,
    ) -> [S::V; TILE] {
        let padded = filter.init.len();
        // Safety: the caller's; the filter has whole vectors.
        unsafe {
            let mut sums = [S::load_i32(filter.init.as_ptr().add(first)); TILE];
            let mut row = 0;
            while row < K {
                let mut weights = [S::splat_i32(0); K];
                for (s, weight) in weights.iter_mut().enumerate() {
                    let at = (s * K.div_ceil(4) + row / 4) * padded + first;
                    *weight = S::load_i32(filter.quads.as_ptr().add(at));
                }
                let mut quads = [S::splat_i32(0); COLUMNS];
                for (j, quad) in quads.iter_mut().enumerate() {
                    *quad = match K - row {
                        1 => S::load_rows([x[row][j].add(first)], n),
                        3 => S::load_rows(
                            [x[row][j].add(first), x[row + 1][j].add(first), x[row + 2][j].add(first)],
                            n,
                        ),
                        _ => {
                            let [a, b, c, d] = [x[row][j], x[row + 1][j], x[row + 2][j], x[row + 3][j]];
                            S::load_rows([a.add(first), b.add(first), c.add(first), d.add(first)], n)
                        }
                    };
                }
                // (Not by column and, in it, by the pixels that it is for: those loops are not unrolled.)
                for (t, sum) in sums.iter_mut().enumerate() {
                    for (s, &weight) in weights.iter().enumerate() {
                        *sum = S::dot_quads(*sum, quads[t * STRIDE + s], weight);
                    }
                }
                row += 4;
            }
            let mut floats = [S::splat(0.0); TILE];
            for (float, &sum) in floats.iter_mut().zip(&sums) {
                *float = S::to_floats(sum);
            }
            floats
        }
    }
}

impl<S: Integers> Sums<S> for Floats {
    #[inline(always)]
    unsafe fn tile<const K: usize, const STRIDE: usize, const COLUMNS: usize>(
        filter: &DepthwiseFilter,
        x: &[[*const u8; COLUMNS]; K],
        first: usize,
        n: usize,
    ) -> [S::V; TILE] {
        let padded = filter.init.len();
        // Safety: the caller's; the filter has whole vectors.
        unsafe {
            let mut sums = [S::to_floats(S::load_i32(filter.init.as_ptr().add(first))); TILE];
            for (r, line) in x.iter().enumerate() {
                let mut weights = [S::splat(0.0); K];
                for (s, weight) in weights.iter_mut().enumerate() {
                    *weight = S::load(filter.weights.as_ptr().add((r * K + s) * padded + first));
                }
                let mut floats = [S::splat(0.0); COLUMNS];
                for (float, &pixel) in floats.iter_mut().zip(line) {
                    *float = S::to_floats(load_bytes::<S>(pixel, first, n));
                }
                for (t, sum) in sums.iter_mut().enumerate() {
                    for (s, &weight) in weights.iter().enumerate() {
                        *sum = S::fma(floats[t * STRIDE + s], weight, *sum);
                    }
                }
            }
            sums
        }
    }
}

impl Task<'_> {
    /// The pixel in column `w` of row `h`, both counted from -1 = `usize::MAX` downwards outside of the picture.
    #[inline(always)]
    fn pixel(&self, h: usize, w: usize) -> *const u8 {
        let ConvShape { in_h, in_w, in_c, out_h, .. } = *self.shape;
        if h >= in_h || w >= in_w {
            return self.filter.zeros.as_ptr();
        }
        let image = self.row / out_h;
        self.x.as_ptr().wrapping_add(((image * in_h + h) * in_w + w) * in_c)
    }

    /// Neighboring pixels of row `h`, which is in the picture, from column `w` on.
    #[inline(always)]
    fn line<const N: usize>(&self, h: usize, w: usize, pixels: &mut [*const u8; N]) {
        let ConvShape { in_h, in_w, in_c, out_h, .. } = *self.shape;
        let row = (self.row / out_h * in_h + h) * in_w;
        let first = self.x.as_ptr().wrapping_add(row.wrapping_add(w).wrapping_mul(in_c));
        for (j, pixel) in pixels.iter_mut().enumerate() {
            *pixel = first.wrapping_add(j * in_c);
        }
        if w >= in_w || w + N > in_w {
            for (j, pixel) in pixels.iter_mut().enumerate() {
                if w.wrapping_add(j) >= in_w {
                    *pixel = self.filter.zeros.as_ptr();
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tiles<S: Integers, T: Sums<S>, const K: usize, const STRIDE: usize, const COLUMNS: usize>(
        &self,
    ) {
        const { assert!(COLUMNS == (TILE - 1) * STRIDE + K, "columns under a tile") };
        let ConvShape { in_h, out_w, out_h, out_c, pads: [top, left, ..], .. } = *self.shape;
        let oh = self.row % out_h;
        for ow in (0..out_w).step_by(TILE) {
            let mut x = [[self.filter.zeros.as_ptr(); COLUMNS]; K];
            for (r, line) in x.iter_mut().enumerate() {
                let h = (oh * STRIDE + r).wrapping_sub(top);
                if h < in_h {
                    self.line(h, (ow * STRIDE).wrapping_sub(left), line);
                }
            }
            let pixels = TILE.min(out_w - ow);
            let to = (self.row * out_w + ow) * out_c;
            for first in (0..out_c).step_by(S::LANES) {
                let n = (out_c - first).min(S::LANES);
                // Safety: all of `x` points to pixels of `out_c` channels; the outputs are this task's.
                unsafe {
                    let sums = T::tile::<K, STRIDE, COLUMNS>(self.filter, &x, first, n);
                    self.store::<S>(&sums[..pixels], to + first, n, self.filter.scale.as_ptr().add(first));
                }
            }
        }
    }

    /// Stores `n` channels of neighboring pixels from element `to` on.
    #[inline(always)]
    unsafe fn store<S: Integers>(&self, sums: &[S::V], to: usize, n: usize, scale: *const f32) {
        let channels = self.shape.out_c;
        let mut t = 0;
        // Safety: the caller's.
        unsafe {
            while n == S::LANES && t + 2 <= sums.len() {
                let at = [to + t * channels, to + (t + 1) * channels];
                self.target.store_two::<S>(at, [sums[t], sums[t + 1]], scale);
                t += 2;
            }
            for (t, &sum) in sums.iter().enumerate().skip(t) {
                self.target.store::<S>(to + t * channels, n, sum, scale);
            }
        }
    }

    /// Pixels one by one, for kernels that have no tiles.
    #[inline(always)]
    unsafe fn pixels<S: Integers>(&self) {
        let ConvShape { out_w, out_h, out_c, kernel, strides, dilations, pads: [top, left, ..], .. } =
            *self.shape;
        let (oh, padded) = (self.row % out_h, self.filter.init.len());
        for ow in 0..out_w {
            let to = (self.row * out_w + ow) * out_c;
            for first in (0..out_c).step_by(S::LANES) {
                let n = (out_c - first).min(S::LANES);
                // Safety: `pixel` gives pixels of `out_c` channels; the outputs are this task's.
                unsafe {
                    let mut sum = S::to_floats(S::load_i32(self.filter.init.as_ptr().add(first)));
                    for r in 0..kernel[0] {
                        for s in 0..kernel[1] {
                            let h = (oh * strides[0] + r * dilations[0]).wrapping_sub(top);
                            let w = (ow * strides[1] + s * dilations[1]).wrapping_sub(left);
                            let x = S::to_floats(load_bytes::<S>(self.pixel(h, w), first, n));
                            let weight = self.filter.weights.as_ptr();
                            let weight = weight.add((r * kernel[1] + s) * padded + first);
                            sum = S::fma(x, S::load(weight), sum);
                        }
                    }
                    self.target.store::<S>(to + first, n, sum, self.filter.scale.as_ptr().add(first));
                }
            }
        }
    }
}
