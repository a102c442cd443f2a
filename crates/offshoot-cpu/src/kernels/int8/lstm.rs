//! A step of an LSTM whose weights are bytes.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::ConvShape;
use super::super::lstm::{GATES, step::Step};
use super::super::parallel;
use super::super::simd::Isa;
use super::conv::{ByteFilter, Numbers};
use super::simd::{Cells, Integers, MOST_SUMS, Packing, Product, dispatch_product};

/// Most columns of a panel.
const MOST_COLUMNS: usize = 32;

/// R \[4 hidden, hidden\] in the order of units, packed.
#[derive(Clone, Debug)]
pub(in crate::kernels) struct ByteRecurrence {
    filter: ByteFilter,
    /// Of each row.
    scale: Vec<f32>,
}

impl ByteRecurrence {
    /// Units that lie side by side.
    pub(in crate::kernels) fn lanes(isa: Isa) -> usize {
        Packing::of(isa).tile()[0]
    }

    /// Packs `r`.
    ///
    /// # Panics
    /// When it has not as many rows as scales, of `hidden` elements.
    pub(in crate::kernels) fn pack(isa: Isa, hidden: usize, r: &[i8], scale: Vec<f32>) -> ByteRecurrence {
        let columns = scale.len();
        let numbers = Numbers { weights: r, bias: &vec![0; columns], scale: &scale, zero_point: 0 };
        let shape = ConvShape::of_matrices(1, hidden, columns);
        ByteRecurrence { filter: ByteFilter::pack(isa, &shape, &numbers), scale }
    }

    /// Bytes from one row of h to the next.
    pub(in crate::kernels) fn row(&self) -> usize {
        4 * self.filter.depth()
    }

    /// The next states of some vectors of units, from the bytes of h \[batch, [row](Self::row)\], their scale and zero point; or from
    /// none, where h is 0.
    ///
    /// # Panics
    /// When the bytes are too few.
    pub(in crate::kernels) fn advance(
        &self,
        isa: Isa,
        step: Step<'_>,
        (h, (scale, zero_point)): (&[u8], (f32, u8)),
        groups: Range<usize>,
    ) {
        assert!(h.is_empty() || h.len() >= step.batch * self.row(), "{} bytes of h", h.len());
        assert_eq!(self.scale.len(), step.units.columns(), "columns");
        assert_eq!(step.x_gates.len(), step.batch * self.scale.len(), "gates of x");
        dispatch_product(
            isa,
            self.filter.packing(),
            Task { weight: self, step, h, scale, zero_point, groups },
        );
    }
}

struct Task<'a> {
    weight: &'a ByteRecurrence,
    step: Step<'a>,
    h: &'a [u8],
    scale: f32,
    zero_point: u8,
    groups: Range<usize>,
}

impl Product for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Integers, C: Cells<S>>(self) {
        let mut gates = MaybeUninit::<[f32; 2 * MOST_SUMS]>::uninit();
        let gates = gates.as_mut_ptr().cast::<f32>();
        let tiles = self.step.batch.div_ceil(C::ROWS);
        for group in self.groups.clone() {
            for tile in 0..tiles {
                let rows = parallel::part(self.step.batch, tiles, tile);
                // Safety: `S` and what `C` needs are available; the units are this task's, and `gates` holds two tiles of the most sums.
                unsafe {
                    for panel in 0..const { GATES / C::VECTORS } {
                        self.gates::<S, C>(group, panel, rows.clone(), gates);
                    }
                    for (i, row) in rows.enumerate() {
                        self.step.advance::<S>(row, group, gates.add(i * GATES * S::LANES));
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    /// The gates in one of the panels of a vector of units, of some rows, into rows of all gates of the vector.
    #[inline(always)]
    unsafe fn gates<S: Integers, C: Cells<S>>(
        &self,
        group: usize,
        panel: usize,
        rows: Range<usize>,
        gates: *mut f32,
    ) {
        const { assert!(GATES.is_multiple_of(C::VECTORS) && GATES / C::VECTORS <= 2) };
        let width = const { C::VECTORS * S::LANES };
        let panel = GATES / C::VECTORS * group + panel;
        let (first, columns) = (panel * width, self.weight.scale.len());
        let mut sums = MaybeUninit::<[i32; MOST_SUMS]>::uninit();
        let sums = sums.as_mut_ptr().cast::<i32>();
        let mut init = [0; MOST_COLUMNS];
        for (init, sum) in init.iter_mut().zip(&self.weight.filter.sums()[first..first + width]) {
            *init = sum.wrapping_mul(-i32::from(self.zero_point));
        }
        // Safety: the caller's; the panel's columns are as many as `width`, whose scales and gates are there, and so are the rows.
        unsafe {
            let row = self.weight.row();
            if self.h.is_empty() {
                sums.write_bytes(0, rows.len() * width);
            } else {
                let h = self.h.as_ptr().add(rows.start * row);
                self.weight.filter.sums_of::<S, C>((panel, 0), (h, row), rows.len(), init.as_ptr(), sums);
            }
            let scale = self.weight.scale.as_ptr().add(first);
            for (i, row) in rows.enumerate() {
                let x_gates = self.step.x_gates.as_ptr().add(row * columns + first);
                let to = gates.add(i * GATES * S::LANES + first % (GATES * S::LANES));
                for at in (0..width).step_by(S::LANES) {
                    let sum = S::to_floats(S::load_i32(sums.add(i * width + at)));
                    let product = S::mul(sum, S::mul(S::splat(self.scale), S::load(scale.add(at))));
                    S::store(to.add(at), S::add(product, S::load(x_gates.add(at))));
                }
            }
        }
    }
}
