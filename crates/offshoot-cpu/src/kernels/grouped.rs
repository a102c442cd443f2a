//! Grouped convolution with few channels a group, where channels of several groups are side by side in a vector.
//!
//! A lane is an output channel. For each kernel element and each place in a group, the lanes of a source vector are permuted, so that
//! every lane has the channel at this place of its own group, and multiplied with as many weights. There is nothing to gather, and no lane
//! idles because a group has fewer channels than a vector.

mod weight_grad;

use std::ops::Range;

pub(super) use self::weight_grad::{weight_grad, weight_grad_workspace};
use super::ConvShape;
use super::batch_norm::area_moments;
use super::element::{Element, SharedView, ViewMut};
use super::gather::{Cells, Gather, Operands, WeightOrder, moment_blocks};
use super::parallel::{self, Shared};
use super::rows::{Area, load, store};
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;

/// Most lanes of any path.
const MAX_LANES: usize = 16;

/// Pixels of a tile whose sums stay in registers.
const TILE: usize = 8;

/// Pixels of a task, the source pixels of whose kernel elements are found before the first channel.
const PIXELS: usize = 56;

/// Most kernel elements: a task knows where each of them reads for each pixel.
const MOST_ELEMENTS: usize = 256;

/// Whether the groups of `shape` are computed side by side: as many channels come out of a group as go in, and no more than a vector has.
/// The gradients are, too.
pub(super) fn by_groups(isa: Isa, shape: &ConvShape) -> bool {
    let ConvShape { in_c, out_c, groups, kernel: [rows, columns], .. } = *shape;
    let few = rows.checked_mul(columns).is_some_and(|elements| (1..=MOST_ELEMENTS).contains(&elements));
    groups > 1 && in_c == out_c && in_c > 0 && in_c / groups <= isa.lanes() && few
}

/// How channels are put into vectors.
#[derive(Clone, Copy)]
struct Lanes {
    /// Channels of a group.
    group: usize,
    /// Channels of a vector: those of whole groups.
    width: usize,
    /// Channels in all.
    channels: usize,
    /// Floats of a vector.
    lanes: usize,
}

impl Lanes {
    fn new(isa: Isa, gather: &Gather) -> Lanes {
        let (group, lanes) = (gather.depth, isa.lanes());
        Lanes { group, width: lanes / group * group, channels: group * gather.groups, lanes }
    }

    /// Vectors of a pixel.
    fn vectors(&self) -> usize {
        self.channels.div_ceil(self.width)
    }
}

/// Floats of the packed filter of a gather.
pub(super) fn packed_len(isa: Isa, gather: &Gather) -> usize {
    let lanes = Lanes::new(isa, gather);
    elements([lanes.vectors(), gather.reduction(), lanes.lanes])
}

/// Packs a gather's filter as `[vector][kernel element][place in a group][lane]`; lanes without a channel are zeros.
pub(super) fn pack(
    isa: Isa,
    gather: &Gather,
    kernel_w: usize,
    weights: &[f32],
    order: WeightOrder,
    packed: &mut [f32],
) {
    assert_eq!(packed.len(), packed_len(isa, gather), "the packed filter");
    let (lanes, taps) = (Lanes::new(isa, gather), gather.tap_indices(kernel_w));
    let rows = taps.len() * lanes.group;
    if rows == 0 {
        return;
    }
    for (vector, packed) in packed.chunks_exact_mut(rows * lanes.lanes).enumerate() {
        for (row, packed) in packed.chunks_exact_mut(lanes.lanes).enumerate() {
            let (tap, place) = (taps[row / lanes.group], row % lanes.group);
            for (lane, packed) in packed.iter_mut().enumerate() {
                let channel = vector * lanes.width + lane;
                let (group, col) = (channel / lanes.group, channel % lanes.group);
                let at = group * order.group + col * order.col + place * order.depth + tap;
                *packed = if lane < lanes.width && channel < lanes.channels { weights[at] } else { 0.0 };
            }
        }
    }
}

/// Runs `gathers`, of a shape that [`by_groups`] agrees to, over the same operands into `out`.
///
/// # Safety
/// As [`gather::run`](super::gather::run); source and output are of one type.
pub(super) unsafe fn run(isa: Isa, gathers: &[Gather], operands: Operands<'_>, out: ViewMut<'_>) {
    let mut first = 0;
    let out = out.shared();
    for gather in gathers {
        let filter = &operands.filter[first..first + packed_len(isa, gather)];
        first += filter.len();
        let operands = Operands { filter, ..operands };
        // Safety: the caller's.
        unsafe {
            match out {
                SharedView::F32(out) => run_of(isa, gather, operands, out),
                SharedView::Bf16(out) => run_of(isa, gather, operands, out),
                SharedView::F16(out) => run_of(isa, gather, operands, out),
            }
        }
    }
}

/// [`run`] for one gather.
///
/// # Safety
/// As there.
unsafe fn run_of<E: Element>(isa: Isa, gather: &Gather, operands: Operands<'_>, out: Shared<E>) {
    let Some(source) = E::of(operands.source) else { panic!("source and output are of one type") };
    let lanes = Lanes::new(isa, gather);
    let (pixels, vectors) = (gather.pixels(), lanes.vectors());
    let pixel_parts = match operands.moments {
        Some(_) => moment_blocks(gather, Cells::Floats),
        None => pixels.div_ceil(PIXELS),
    };
    // (Vectors too, where pixels alone leave threads without work.)
    let wanted = (4 * parallel::threads()).div_ceil(pixel_parts.max(1));
    let vector_parts = wanted.min(vectors).max(1);
    let zeros: &[E] = &bytemuck::zeroed_vec(lanes.channels);
    let work = elements([pixels, lanes.channels]).saturating_mul(gather.reduction().max(1));
    parallel::for_each_task(pixel_parts * vector_parts, work, |index| {
        let block = index / vector_parts;
        let task = Task {
            isa,
            gather,
            lanes,
            operands,
            source,
            residual: operands.residual.and_then(E::of),
            zeros,
            block,
            pixels: parallel::part(pixels, pixel_parts, block),
            vectors: parallel::part(vectors, vector_parts, index % vector_parts),
            out,
        };
        dispatch(isa, task);
    });
}

/// Some vectors of channels of some pixels.
struct Task<'a, E> {
    isa: Isa,
    gather: &'a Gather,
    lanes: Lanes,
    operands: Operands<'a>,
    source: &'a [E],
    residual: Option<&'a [E]>,
    /// A pixel outside of the picture.
    zeros: &'a [E],
    /// Which of the parts of the pixels this is.
    block: usize,
    pixels: Range<usize>,
    vectors: Range<usize>,
    out: Shared<E>,
}

/// The channels of a vector: the first, and how many.
#[derive(Clone, Copy)]
struct Channels {
    first: usize,
    n: usize,
}

impl<E: Element> Kernel for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let sources = sources(self.gather, self.pixels.clone(), self.source, self.zeros);
        let targets = self.targets();
        let Lanes { width, channels, .. } = self.lanes;
        let filter = self.gather.reduction() * self.lanes.lanes;
        let permutations = permutations(self.lanes);
        for vector in self.vectors.clone() {
            let first = vector * width;
            let c = Channels { first, n: width.min(channels - first) };
            let weights = &self.operands.filter[vector * filter..][..filter];
            let whole = c.n == S::LANES;
            // Safety: `S` is available. Sources are pixels with all channels, and targets this task's places in the output.
            unsafe {
                if whole && self.lanes.group == S::LANES && size_of::<E>() == size_of::<f32>() {
                    self.tiles::<S, true, true>(&sources, &targets, weights, &permutations, c);
                } else if whole {
                    self.tiles::<S, true, false>(&sources, &targets, weights, &permutations, c);
                } else {
                    self.tiles::<S, false, false>(&sources, &targets, weights, &permutations, c);
                }
                self.moments(&targets, c);
            }
        }
    }
}

/// For each place in a group, the lane that each lane takes: as the bits of floats.
fn permutations(lanes: Lanes) -> [[f32; MAX_LANES]; MAX_LANES] {
    let mut permutations = [[0.0; MAX_LANES]; MAX_LANES];
    for (place, lanes_of) in permutations[..lanes.group].iter_mut().enumerate() {
        for (lane, from) in lanes_of[..lanes.width].iter_mut().enumerate() {
            *from = f32::from_bits((lane / lanes.group * lanes.group + place) as u32);
        }
    }
    permutations
}

/// Where the source pixels of `pixels` are, kernel element by kernel element; `zeros`, a pixel of as many channels, for those outside.
fn sources<E>(gather: &Gather, pixels: Range<usize>, source: &[E], zeros: &[E]) -> Vec<*const E> {
    let Gather { source: [height, width], step, taps: [rows, cols], .. } = gather;
    let (count, channels) = (pixels.len(), zeros.len());
    let mut sources = vec![zeros.as_ptr(); rows.len() * cols.len() * count];
    let mut pixel = gather.pixel(pixels.start);
    for i in 0..count {
        for (r, row) in rows.iter().enumerate() {
            let y = (pixel.y * step[0]) as isize + row.offset;
            for (s, col) in cols.iter().enumerate() {
                let x = (pixel.x * step[1]) as isize + col.offset;
                if (0..*height as isize).contains(&y) && (0..*width as isize).contains(&x) {
                    let at = (pixel.image * height + y as usize) * width + x as usize;
                    sources[(r * cols.len() + s) * count + i] = source[at * channels..].as_ptr();
                }
            }
        }
        pixel = gather.next(pixel);
    }
    sources
}

impl<E: Element> Task<'_, E> {
    /// Where the pixels go.
    fn targets(&self) -> Vec<usize> {
        let mut pixel = self.gather.pixel(self.pixels.start);
        let mut targets = Vec::with_capacity(self.pixels.len());
        for _ in self.pixels.clone() {
            targets.push(self.gather.target_of(pixel));
            pixel = self.gather.next(pixel);
        }
        targets
    }

    /// All pixels of a vector of channels. `WHOLE` vectors have a channel in each lane; `SPLAT` ones have one group.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const WHOLE: bool, const SPLAT: bool>(
        &self,
        sources: &[*const E],
        targets: &[usize],
        weights: &[f32],
        permutations: &[[f32; MAX_LANES]; MAX_LANES],
        c: Channels,
    ) {
        let mut start = 0;
        while start < targets.len() {
            let tile = Tile { sources, start, targets: &targets[start..], weights, permutations, c };
            // Safety: the caller's.
            start += unsafe {
                match targets.len() - start {
                    TILE.. => self.tile::<S, WHOLE, SPLAT, TILE>(&tile),
                    4.. => self.tile::<S, WHOLE, SPLAT, 4>(&tile),
                    2.. => self.tile::<S, WHOLE, SPLAT, 2>(&tile),
                    _ => self.tile::<S, WHOLE, SPLAT, 1>(&tile),
                }
            };
        }
    }

    /// `N` pixels, whose number it returns. Each sum adds its products in the order of the kernel's elements.
    #[inline(always)]
    unsafe fn tile<S: Simd, const WHOLE: bool, const SPLAT: bool, const N: usize>(
        &self,
        tile: &Tile<'_, E>,
    ) -> usize {
        let Tile { sources, start, targets, weights, permutations, c } = *tile;
        let (group, count) = (self.lanes.group, self.pixels.len());
        // Safety: the caller's; loads of fewer lanes than a vector has read no more than these.
        unsafe {
            let bias = match self.operands.bias {
                Some(bias) => load::<S, f32, WHOLE>(bias.as_ptr().add(c.first), c.n),
                None => S::splat(0.0),
            };
            let mut sums = [bias; N];
            let mut weights = weights.as_ptr();
            for tap in sources.chunks_exact(count) {
                let pixels = tap.as_ptr().add(start);
                for lanes in &permutations[..group] {
                    let (w, from) = (S::load(weights), lanes.as_ptr());
                    weights = weights.add(S::LANES);
                    let place = (*from).to_bits() as usize;
                    let from = S::load(from);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let x = (*pixels.add(j)).add(c.first);
                        let x = match SPLAT {
                            true => S::splat((*x.add(place)).to_f32()),
                            false => S::permute(load::<S, E, WHOLE>(x, c.n), from),
                        };
                        *sum = S::fma(x, w, *sum);
                    }
                }
            }
            let (low, high) = self.operands.bounds;
            for (j, sum) in sums.into_iter().enumerate() {
                let at = *targets.get_unchecked(j) + c.first;
                let mut y = sum;
                if let Some(residual) = self.residual {
                    y = S::add(y, load::<S, E, WHOLE>(residual.as_ptr().add(at), c.n));
                }
                let y = S::at_most(S::at_least(y, S::splat(low)), S::splat(high));
                store::<S, E, WHOLE>(self.out.at(at), c.n, y);
            }
        }
        N
    }

    /// Leaves the moments of a vector's channels over the pixels.
    unsafe fn moments(&self, targets: &[usize], c: Channels) {
        let (Some(moments), Some(&first)) = (self.operands.moments, targets.first()) else { return };
        let pitch = self.lanes.channels;
        let area = Area { rows: targets.len(), pitch, cols: c.n };
        // Safety: the grid is all of the output, so that its pixels follow one another; this task alone has these channels of the
        // block, and its part of the moments is two rows of the output's channels.
        unsafe {
            let to = moments.at(2 * self.block * pitch + c.first);
            area_moments(self.isa, self.out.at(first + c.first).cast_const(), area, (to, pitch));
        }
    }
}

/// Pixels from `start` on, and what they are multiplied with.
#[derive(Clone, Copy)]
struct Tile<'a, E> {
    /// Source pixels, for each kernel element those of all pixels of the task.
    sources: &'a [*const E],
    start: usize,
    /// Where these pixels go.
    targets: &'a [usize],
    weights: &'a [f32],
    permutations: &'a [[f32; MAX_LANES]; MAX_LANES],
    c: Channels,
}
