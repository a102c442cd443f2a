//! The gradient of the weights of a grouped convolution with few channels a group.
//!
//! A lane is an output channel, whose weights for one kernel element are as many sums as its group has places: over all pixels, the
//! gradient of the lane's output times the source channel at a place of its group. A task sums over some of the pixels; which ones
//! depends on the shape alone, and the parts are added in order.

use std::ops::Range;

use super::{Channels, Lanes, MAX_LANES, PIXELS, permutations, sources};
use crate::kernels::ConvShape;
use crate::kernels::conv::forward;
use crate::kernels::conv_weight_grad::chunks;
use crate::kernels::element::Element;
use crate::kernels::gather::Gather;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::load;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch};
use crate::kernels::size::elements;

/// How the work is cut, by shape and path alone.
struct Plan {
    gather: Gather,
    lanes: Lanes,
    parts: usize,
    /// Floats of the sums of a vector of channels.
    vector: usize,
}

impl Plan {
    fn new(isa: Isa, shape: &ConvShape) -> Plan {
        let gather = forward(shape);
        let lanes = Lanes::new(isa, &gather);
        let parts = chunks(lanes.vectors().max(1), gather.pixels());
        let vector = elements([gather.reduction(), lanes.lanes]);
        Plan { gather, lanes, parts, vector }
    }

    /// Floats of a part's sums.
    fn part(&self) -> usize {
        elements([self.lanes.vectors(), self.vector])
    }
}

/// Floats that [`weight_grad`] needs as workspace.
pub(in crate::kernels) fn weight_grad_workspace(isa: Isa, shape: &ConvShape) -> usize {
    let plan = Plan::new(isa, shape);
    elements([plan.parts, plan.part()])
}

/// `dw`, OIHW, of a shape that [`by_groups`](super::by_groups) agrees to, from `x` and `dy`, NHWC. All have the sizes that the shape
/// says, and the workspace at least [`weight_grad_workspace`] floats.
pub(in crate::kernels) fn weight_grad<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &[E],
    dy: &[E],
    dw: &mut [f32],
    workspace: &mut [f32],
) {
    let plan = Plan::new(isa, shape);
    let workspace = &mut workspace[..weight_grad_workspace(isa, shape)];
    let (pixels, vectors) = (plan.gather.pixels(), plan.lanes.vectors());
    assert_eq!(dy.len(), elements([pixels, plan.lanes.channels]), "the gradient of the output");
    let zeros: &[E] = &bytemuck::zeroed_vec(plan.lanes.channels);
    let vector_parts = (4 * parallel::threads()).div_ceil(plan.parts).min(vectors).max(1);
    let sums = Shared::new(workspace);
    let work = elements([pixels, plan.lanes.channels]).saturating_mul(plan.gather.reduction());
    parallel::for_each_task(plan.parts * vector_parts, work, |index| {
        let part = index / vector_parts;
        let task = Task {
            plan: &plan,
            x,
            dy,
            zeros,
            pixels: parallel::part(pixels, plan.parts, part),
            vectors: parallel::part(vectors, vector_parts, index % vector_parts),
            // Safety: the workspace has the sums of each part.
            sums: unsafe { sums.at(part * plan.part()) },
        };
        dispatch(isa, task);
    });
    join(&plan, shape, workspace, dw);
}

/// Adds the parts, in order, and puts the weights where OIHW has them.
fn join(plan: &Plan, shape: &ConvShape, workspace: &[f32], dw: &mut [f32]) {
    let Lanes { group, width, lanes, .. } = plan.lanes;
    let area = shape.kernel[0] * shape.kernel[1];
    for (channel, dw) in dw.chunks_exact_mut(group * area).enumerate() {
        let start = channel / width * plan.vector + channel % width;
        for (i, dw) in dw.iter_mut().enumerate() {
            let (place, tap) = (i / area, i % area);
            let at = start + (tap * group + place) * lanes;
            *dw = workspace[at..].iter().step_by(plan.part()).take(plan.parts).sum();
        }
    }
}

/// Some vectors of channels, summed over some pixels.
struct Task<'a, E> {
    plan: &'a Plan,
    x: &'a [E],
    dy: &'a [E],
    /// A pixel outside of the picture.
    zeros: &'a [E],
    pixels: Range<usize>,
    vectors: Range<usize>,
    /// The sums of the pixels' part.
    sums: *mut f32,
}

impl<E: Element> Kernel for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Lanes { width, channels, .. } = self.plan.lanes;
        let permutations = permutations(self.plan.lanes);
        let sums = self.vectors.start * self.plan.vector..self.vectors.end * self.plan.vector;
        // Safety: the sums of these vectors are this task's.
        unsafe { self.sums.add(sums.start).write_bytes(0, sums.len()) };
        for start in self.pixels.clone().step_by(PIXELS) {
            let pixels = start..self.pixels.end.min(start + PIXELS);
            let sources = sources(&self.plan.gather, pixels.clone(), self.x, self.zeros);
            for vector in self.vectors.clone() {
                let first = vector * width;
                let c = Channels { first, n: width.min(channels - first) };
                // Safety: `S` is available; sources are pixels with all channels.
                unsafe {
                    if c.n == S::LANES {
                        self.add::<S, true>(&sources, pixels.clone(), &permutations, vector, c);
                    } else {
                        self.add::<S, false>(&sources, pixels.clone(), &permutations, vector, c);
                    }
                }
            }
        }
    }
}

impl<E: Element> Task<'_, E> {
    /// Adds the products of some pixels to the sums of a vector.
    #[inline(always)]
    unsafe fn add<S: Simd, const WHOLE: bool>(
        &self,
        sources: &[*const E],
        pixels: Range<usize>,
        permutations: &[[f32; MAX_LANES]; MAX_LANES],
        vector: usize,
        c: Channels,
    ) {
        let Lanes { group, channels, .. } = self.plan.lanes;
        let dy = self.dy[pixels.start * channels + c.first..].as_ptr();
        // Safety: the caller's; a vector has `group` sums for each kernel element.
        unsafe {
            let mut sums = self.sums.add(vector * self.plan.vector);
            for tap in sources.chunks_exact(pixels.len()) {
                let mut place = 0;
                while place < group {
                    let permutations = permutations[place..].as_ptr();
                    let sum = sums.add(place * S::LANES);
                    place += match group - place {
                        8.. => add_places::<S, E, WHOLE, 8>(tap, (dy, channels), permutations, c, sum),
                        4.. => add_places::<S, E, WHOLE, 4>(tap, (dy, channels), permutations, c, sum),
                        2.. => add_places::<S, E, WHOLE, 2>(tap, (dy, channels), permutations, c, sum),
                        _ => add_places::<S, E, WHOLE, 1>(tap, (dy, channels), permutations, c, sum),
                    };
                }
                sums = sums.add(group * S::LANES);
            }
        }
    }
}

/// Adds the products of the pixels that a kernel element looks at to the sums of `N` places, and returns how many these are.
///
/// # Safety
/// `S` must be available. There are `N` permutations and sums, `dy` has a row of channels for each source, and all have `c.n`
/// channels from `c.first` on; `dy` begins there.
#[inline(always)]
unsafe fn add_places<S: Simd, E: Element, const WHOLE: bool, const N: usize>(
    sources: &[*const E],
    (dy, pitch): (*const E, usize),
    permutations: *const [f32; MAX_LANES],
    c: Channels,
    to: *mut f32,
) -> usize {
    // Safety: the caller's.
    unsafe {
        let mut from = [S::splat(0.0); N];
        let mut sums = [S::splat(0.0); N];
        for (i, (from, sum)) in from.iter_mut().zip(&mut sums).enumerate() {
            *from = S::load((*permutations.add(i)).as_ptr());
            *sum = S::load(to.add(i * S::LANES));
        }
        let mut dy = dy;
        for source in sources {
            let gradient = load::<S, E, WHOLE>(dy, c.n);
            let x = load::<S, E, WHOLE>(source.add(c.first), c.n);
            for (sum, &from) in sums.iter_mut().zip(&from) {
                *sum = S::fma(S::permute(x, from), gradient, *sum);
            }
            dy = dy.wrapping_add(pitch);
        }
        for (i, &sum) in sums.iter().enumerate() {
            S::store(to.add(i * S::LANES), sum);
        }
    }
    N
}
