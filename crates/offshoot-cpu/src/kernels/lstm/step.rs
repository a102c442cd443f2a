//! A step of an LSTM: the product with the last h, and the next states.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{GATES, Units};
use crate::buffer::Buffer;
use crate::kernels::math;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::{load, load_all, store};
use crate::kernels::simd::{Kernel, Simd};
use crate::kernels::size::elements;

/// Most rows whose gates are in registers together.
const MOST_ROWS: usize = 6;

/// Most lanes of a path.
const MOST_LANES: usize = 16;

/// Gates of `rows` rows that are in registers together, with their weights and an element of h: all, or half of them.
const fn gates_of<S: Simd>(rows: usize) -> usize {
    // (Those that the tile of a product takes.)
    let registers = S::TILE_ROWS * S::TILE_VECTORS + S::TILE_VECTORS + 2;
    if rows * GATES + GATES < registers { GATES } else { GATES / 2 }
}

/// R in the order of units \[4 hidden, hidden\], for each vector of them as a matrix \[hidden, 4, lanes\].
pub(super) fn pack(units: Units, r: &[f32]) -> Buffer {
    let (mut buffer, width) = (Buffer::default(), GATES * units.lanes);
    buffer.reserve(size_of_val(r));
    let to = buffer.get_mut::<f32>(r.len());
    for (i, to) in to.iter_mut().enumerate() {
        let (row, column) = (i / width, i % width);
        *to = r[(row / units.hidden * width + column) * units.hidden + row % units.hidden];
    }
    buffer
}

/// What a step reads and writes beside the last h: tasks have vectors of units of their own.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Step<'a> {
    pub(in crate::kernels) units: Units,
    pub(in crate::kernels) batch: usize,
    /// What is added to the gates: \[batch, columns\]
    pub(in crate::kernels) x_gates: &'a [f32],
    /// \[batch, hidden\]
    pub(in crate::kernels) cell: Shared,
    /// \[batch, hidden\]
    pub(in crate::kernels) out: Shared,
}

impl Step<'_> {
    /// The next state of a vector of units of one row from its gates.
    ///
    /// # Safety
    /// `S` is available and has the lanes of the units; the units are the caller's.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn advance<S: Simd>(&self, row: usize, group: usize, gates: *const f32) {
        let Units { hidden, .. } = self.units;
        let (first, at) = (group * S::LANES, row * hidden + group * S::LANES);
        // Safety: the caller's; the elements lie in rows of `hidden` ones.
        unsafe {
            let (cell, out) = (self.cell.at(at), self.out.at(at));
            if first + S::LANES <= hidden {
                next_state::<S, true>(gates, cell, out, S::LANES);
            } else {
                next_state::<S, false>(gates, cell, out, hidden - first);
            }
        }
    }
}

/// The next state of `n` <= LANES units.
#[inline(always)]
unsafe fn next_state<S: Simd, const FULL: bool>(gates: *const f32, cell: *mut f32, h: *mut f32, n: usize) {
    // Safety: the caller's.
    unsafe {
        let gates = [gates, gates.add(S::LANES), gates.add(2 * S::LANES), gates.add(3 * S::LANES)];
        let [input, output, forget, candidate] = load_all::<S, f32, GATES, true>(gates, 0, S::LANES);
        // sigmoid x = (1 + tanh(x / 2)) / 2, as ratios of numbers: three divisions for five functions.
        let half = S::splat(0.5);
        let [input, input_below] = math::tanh_ratio::<S>(S::mul(half, input));
        let [output, output_below] = math::tanh_ratio::<S>(S::mul(half, output));
        let [forget, forget_below] = math::tanh_ratio::<S>(S::mul(half, forget));
        let [candidate, candidate_below] = math::tanh_ratio::<S>(candidate);
        let new = S::mul(S::add(input_below, input), candidate);
        let new = S::div(new, S::mul(input_below, candidate_below));
        let kept = S::div(S::add(forget_below, forget), forget_below);
        let next = S::mul(half, S::fma(kept, load::<S, f32, FULL>(cell, n), new));
        store::<S, f32, FULL>(cell, n, next);
        let [next, next_below] = math::tanh_ratio::<S>(next);
        let shown = S::mul(S::add(output_below, output), S::mul(half, next));
        store::<S, f32, FULL>(h, n, S::div(shown, S::mul(output_below, next_below)));
    }
}

/// A task: a step of some vectors of units, with weights that are floats.
pub(super) struct Floats<'a> {
    pub(super) step: Step<'a>,
    /// Of [`pack`].
    pub(super) weights: &'a [f32],
    /// The last h \[batch, hidden\]; empty where it is 0.
    pub(super) h: &'a [f32],
    pub(super) groups: Range<usize>,
}

impl Kernel for Floats<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut gates = MaybeUninit::<[f32; MOST_ROWS * GATES * MOST_LANES]>::uninit();
        let gates = gates.as_mut_ptr().cast::<f32>();
        let tiles = self.step.batch.div_ceil(MOST_ROWS);
        for group in self.groups.clone() {
            for tile in 0..tiles {
                let rows = parallel::part(self.step.batch, tiles, tile);
                // Safety: `S` is available, and has as many lanes as units lie side by side; `gates` has room for the most rows.
                unsafe {
                    match rows.len() {
                        1 => self.sums::<S, 1>(group, rows.start, gates),
                        2 => self.sums::<S, 2>(group, rows.start, gates),
                        3 => self.sums::<S, 3>(group, rows.start, gates),
                        4 => self.sums::<S, 4>(group, rows.start, gates),
                        5 => self.sums::<S, 5>(group, rows.start, gates),
                        _ => self.sums::<S, MOST_ROWS>(group, rows.start, gates),
                    }
                    for (i, row) in rows.enumerate() {
                        self.step.advance::<S>(row, group, gates.add(i * GATES * S::LANES));
                    }
                }
            }
        }
    }
}

impl Floats<'_> {
    /// The gates of a vector of units, of `R` rows. Every element is summed in order of k, whatever the rows beside it.
    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize>(&self, group: usize, row: usize, gates: *mut f32) {
        // Safety: the caller's.
        unsafe {
            if const { gates_of::<S>(R) == GATES } {
                self.part::<S, R, GATES>(group, row, 0, gates);
            } else {
                self.part::<S, R, { GATES / 2 }>(group, row, 0, gates);
                self.part::<S, R, { GATES / 2 }>(group, row, GATES / 2, gates);
            }
        }
    }

    /// Those `G` gates from the `first` on.
    #[inline(always)]
    unsafe fn part<S: Simd, const R: usize, const G: usize>(
        &self,
        group: usize,
        row: usize,
        first: usize,
        gates: *mut f32,
    ) {
        let Units { hidden, .. } = self.step.units;
        let (width, columns) = (GATES * S::LANES, self.step.units.columns());
        assert!(self.step.x_gates.len() >= (row + R) * columns && (group + 1) * width <= columns, "gates");
        assert!(self.h.is_empty() || self.h.len() >= elements([row + R, hidden]), "rows of h");
        let depth = if self.h.is_empty() { 0 } else { hidden };
        let weights = &self.weights[group * depth * width..][..depth * width];
        // Safety: `S` is available; the rows and their gates are there, as are the weights. (Loops, not closures: these do not take
        // on target features.)
        unsafe {
            let first = first * S::LANES;
            let mut sums = [[S::splat(0.0); G]; R];
            for (i, sums) in sums.iter_mut().enumerate() {
                let from = self.step.x_gates.as_ptr().add((row + i) * columns + group * width + first);
                for (gate, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(from.add(gate * S::LANES));
                }
            }
            let (mut weights, h) =
                (weights.as_ptr().wrapping_add(first), self.h.as_ptr().wrapping_add(row * hidden));
            for k in 0..depth {
                let mut right = [S::splat(0.0); G];
                for (gate, right) in right.iter_mut().enumerate() {
                    *right = S::load(weights.add(gate * S::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = S::splat(*h.add(i * hidden + k));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = S::fma(left, right, *sum);
                    }
                }
                weights = weights.wrapping_add(width);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (gate, &sum) in sums.iter().enumerate() {
                    S::store(gates.add((i * GATES + gate) * S::LANES + first), sum);
                }
            }
        }
    }
}
