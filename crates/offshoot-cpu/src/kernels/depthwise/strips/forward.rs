//! The forward pass, strip by strip.

use std::ops::Range;

use super::scratch::{Ahead, Held, Lines, Results, Ring, stage_len};
use super::{BLOCK, Strip, by_blocks, firsts, forward_tasks, groups, packed, store_some, takes_strips};
use crate::kernels::ConvShape;
use crate::kernels::batch_norm::area_moments;
use crate::kernels::depthwise::{Channels, TILE, check, fast_path, row_range};
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::Area;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;
use crate::kernels::source::Source;

/// y = conv(x) for a batch norm to follow: the input is computed while it is read, and `moments`, if any, gets those of the output
/// for [`batch_norm_join`](crate::kernels::batch_norm::batch_norm_join): two rows of channels for each of [`moment_rows`](super::moment_rows).
/// `weights` are packed by [`pack`](crate::kernels::depthwise::pack).
///
/// # Panics
/// When `shape` is not one that [`takes_strips`], or a slice has not the size that it gives it.
pub fn forward_in_training<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &Source<'_, E>,
    weights: &[f32],
    y: &mut [E],
    moments: Option<&mut [f32]>,
) {
    assert!(takes_strips(shape), "not for {shape:?}");
    check(shape, x.len(), weights.len(), y.len());
    let tasks = forward_tasks(shape);
    let firsts = firsts(&tasks);
    if let Some(moments) = &moments {
        let parts: usize = tasks.iter().map(Vec::len).sum();
        assert_eq!(moments.len(), elements([2, parts, shape.out_c]), "moments of {shape:?}");
    }
    let (y, moments) = (Shared::new(y), moments.map(Shared::new));
    let most = tasks.iter().flatten().map(|strip| strip.rows.len()).max().unwrap_or(0);
    let lines = Lines::of_input(shape, most * shape.strides[0] + shape.kernel[0]);
    let x_len = shape.in_c.div_ceil(BLOCK) * lines.block();
    let stage_len = stage_len::<E>(most * shape.out_w * shape.out_c);
    let weights = &by_blocks(shape, weights)[..];
    parallel::for_each_task(tasks.len(), usize::MAX, |task| {
        parallel::with_scratch(x_len + stage_len, |scratch| {
            let (scratch, stage) = scratch.split_at_mut(x_len);
            let x = Ring::new(x, [shape.in_h, shape.in_w], shape.in_c, lines, scratch);
            let (strips, first) = (&tasks[task], firsts[task]);
            ForwardTask { isa, shape, weights, y, moments, strips, first }.run(x, stage);
        });
    });
}

/// A task of [`forward_in_training`].
struct ForwardTask<'a, E> {
    isa: Isa,
    shape: &'a ConvShape,
    /// By blocks.
    weights: &'a [f32],
    y: Shared<E>,
    moments: Option<Shared>,
    strips: &'a [Strip],
    /// The number of the first strip.
    first: usize,
}

impl<E: Element> ForwardTask<'_, E> {
    fn run(self, mut x: Ring<'_, E>, stage: &mut [f32]) {
        let ForwardTask { isa, shape, weights, y, moments, strips, first } = self;
        let ConvShape { in_h, in_w, out_h, out_w, out_c, .. } = *shape;
        let (stride, pad, kernel) = (shape.strides[0], shape.pads[0], shape.kernel[0]);
        for (number, Strip { image, rows }) in strips.iter().enumerate() {
            let top = (rows.start * stride).saturating_sub(pad).min(in_h);
            let end = ((rows.end - 1) * stride + kernel).saturating_sub(pad).clamp(top, in_h);
            let missing = x.missing(&(top..end));
            let pixels = rows.len() * out_w;
            // Safety: the rows of a strip are its own, in the output and among the moments.
            unsafe {
                let out = y.at((image * out_h + rows.start) * out_w * out_c);
                let mut results = Results { out, pitch: out_c, stage: &mut *stage };
                for group in groups(out_c, rows.len() * stride * in_w) {
                    x.bring(isa, *image, missing.clone(), group);
                    let next = x.next(*image, end, rows.len() * stride, group);
                    let (rows, to) = (rows.clone(), results.floats());
                    dispatch(isa, ForwardGroup { shape, x: x.held(), weights, rows, to, group, next });
                    results.done(isa, pixels, group);
                    if let Some(moments) = moments {
                        let area = Area { rows: pixels, pitch: out_c, cols: group.n };
                        let to = moments.at(2 * (first + number) * out_c + group.first);
                        area_moments(isa, out.add(group.first).cast_const(), area, (to, out_c));
                    }
                }
            }
            x.held = top..end;
        }
    }
}

/// The output rows `rows` of a group of channels, to pixels of `to.1` floats.
struct ForwardGroup<'a> {
    shape: &'a ConvShape,
    x: Held<'a>,
    /// By blocks.
    weights: &'a [f32],
    rows: Range<usize>,
    to: (*mut f32, usize),
    group: Channels,
    /// What is asked for meanwhile.
    next: [&'a [u8]; 2],
}

impl Kernel for ForwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const { assert!(BLOCK.is_multiple_of(S::LANES), "whole vectors") };
        // Safety: the caller's.
        unsafe {
            match fast_path(self.shape) {
                (3, 1) => self.rows::<S, 3, 1>(),
                (5, 1) => self.rows::<S, 5, 1>(),
                (3, 2) => self.rows::<S, 3, 2>(),
                (5, 2) => self.rows::<S, 5, 2>(),
                _ => unreachable!("takes_strips"),
            }
        }
    }
}

impl ForwardGroup<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const K: usize, const STRIDE: usize>(&self) {
        let (out_w, Channels { first, n }) = (self.shape.out_w, self.group);
        let whole = out_w - out_w % TILE;
        let mut ahead = Ahead::new(self.next, self.rows.len() * out_w * n.div_ceil(S::LANES));
        for c in (first..first + n).step_by(S::LANES) {
            for row in self.rows.clone() {
                // Safety: the rows of the strip, and channels of the group.
                unsafe {
                    for column in (0..whole).step_by(TILE) {
                        self.tile::<S, K, STRIDE, TILE>((row, column), c);
                        ahead.advance(TILE);
                    }
                    for column in whole..out_w {
                        self.tile::<S, K, STRIDE, 1>((row, column), c);
                    }
                    ahead.advance(out_w - whole);
                }
            }
        }
    }

    /// `T` pixels of a row from `column` on, of the channels from `c` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const K: usize, const STRIDE: usize, const T: usize>(
        &self,
        (row, column): (usize, usize),
        c: usize,
    ) {
        let (ConvShape { out_w, out_c, pads, .. }, (to, pitch)) = (self.shape, self.to);
        let to = to.wrapping_add(((row - self.rows.start) * out_w + column) * pitch + c);
        // Safety: the rows under the window are in scratch, with zeros beside them.
        unsafe {
            let mut sums = [S::splat(0.0); T];
            for r in row_range(self.shape, row) {
                let x = self.x.at(row * STRIDE + r - pads[0], column * STRIDE, c);
                let mut weights = [S::splat(0.0); K];
                for (s, weight) in weights.iter_mut().enumerate() {
                    *weight = S::load(self.weights.as_ptr().add(packed::<K>(r * K + s, c)));
                }
                for j in 0..(T - 1) * STRIDE + K {
                    let x = S::load(x.add(j * BLOCK));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        if j >= t * STRIDE && j < t * STRIDE + K {
                            *sum = S::fma(x, weights[j - t * STRIDE], *sum);
                        }
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                store_some::<S>(to.add(t * pitch), out_c - c, sum);
            }
        }
    }
}
