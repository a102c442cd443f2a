//! What is done with finished sums: moments are taken of them, and they are stored.

use super::block::{Block, Sums};
use crate::kernels::batch_norm::area_moments;
use crate::kernels::element::Element;
use crate::kernels::elementwise::InPlace;
use crate::kernels::parallel::Shared;
use crate::kernels::rows::{Area, load};
use crate::kernels::simd::Simd;
use crate::kernels::tile::{Layout, UNBOUNDED};

impl<L: Layout> Block<'_, L> {
    /// Leaves the moments of a panel's columns over the pixels of block `block`.
    pub(super) unsafe fn moments<E: Element>(
        &self,
        (block, group, panel): (usize, usize, usize),
        out: Shared<E>,
        targets: &[usize],
    ) {
        let (Some(moments), Some(&first)) = (self.operands.moments, targets.first()) else { return };
        let (plan, gather) = (self.plan, self.plan.gather);
        let pitch = gather.cols * gather.groups;
        let first_col = panel * plan.panel;
        let cols = (gather.cols - first_col).min(plan.panel);
        let area = Area { rows: targets.len(), pitch, cols };
        // Safety: the grid is all of the output, so that its pixels follow one another; this task alone has these columns of the
        // block, and its part of the moments is two rows of the output's channels.
        unsafe {
            let to = moments.at(2 * block * pitch + group * gather.cols + first_col);
            area_moments(plan.isa, out.at(first + first_col).cast_const(), area, (to, pitch));
        }
    }

    /// Adds the residual to finished sums, clips them, applies the function, and stores them rounded.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd, E: Element>(
        &self,
        group: usize,
        panel: usize,
        sums: &Sums<'_>,
        out: Shared<E>,
        targets: &[usize],
    ) {
        let (plan, operands) = (self.plan, &self.operands);
        let first_col = panel * plan.panel;
        let cols = (plan.gather.cols - first_col).min(plan.panel);
        let residual = operands.residual.and_then(E::of).map(|residual| residual.as_ptr());
        // (On tiles, sums start from zeros, which costs nothing.)
        let bias = operands.bias.filter(|_| L::TILES);
        let bias = bias.map(|bias| bias[group * plan.gather.cols + first_col..][..cols].as_ptr());
        let rows = &sums.rows[..targets.len()];
        // Safety: `cols` columns of each target are within the output and the residual, and those of each row in the stage.
        unsafe {
            let Some(op) = operands.then else {
                if L::TILES && cols == 2 * S::LANES {
                    let residual = residual.map(|residual| residual.add(first_col));
                    let out = Shared(out.at(first_col));
                    return store_two::<S, E>(
                        (sums.out, rows),
                        bias,
                        residual,
                        operands.bounds,
                        (out, targets),
                    );
                }
                for (&row, &target) in rows.iter().zip(targets) {
                    let at = target + first_col;
                    let residual = residual.map(|residual| residual.add(at));
                    store_row::<S, E, E, L>(
                        sums.out.add(row),
                        bias,
                        residual,
                        operands.bounds,
                        out.at(at),
                        cols,
                    );
                }
                return;
            };
            for (&row, &target) in rows.iter().zip(targets) {
                let residual = residual.map(|residual| residual.add(target + first_col));
                let row = sums.out.add(row);
                store_row::<S, E, f32, L>(row, bias, residual, operands.bounds, row, cols);
            }
            S::apart(InPlace { op, x: sums.out, rows, cols });
            for (&row, &target) in rows.iter().zip(targets) {
                store_row::<S, E, E, L>(
                    sums.out.add(row),
                    None,
                    None,
                    UNBOUNDED,
                    out.at(target + first_col),
                    cols,
                );
            }
        }
    }
}

/// [`store_row`] for rows of two whole vectors: all that is the same for each of them stays in registers.
#[inline(always)]
unsafe fn store_two<S: Simd, E: Element>(
    (sums, rows): (*const f32, &[usize]),
    bias: Option<*const f32>,
    residual: Option<*const E>,
    (low, high): (f32, f32),
    (out, targets): (Shared<E>, &[usize]),
) {
    // Safety: the caller's.
    unsafe {
        let (low, high) = (S::splat(low), S::splat(high));
        let mut biases = [S::splat(0.0); 2];
        if let Some(bias) = bias {
            biases = [S::load(bias), S::load(bias.add(S::LANES))];
        }
        for (&row, &target) in rows.iter().zip(targets) {
            let (sums, to) = (sums.add(row), out.at(target));
            let mut left = S::add(S::load(sums), biases[0]);
            let mut right = S::add(S::load(sums.add(S::LANES)), biases[1]);
            if let Some(residual) = residual {
                left = S::add(left, E::load::<S>(residual.add(target)));
                right = S::add(right, E::load::<S>(residual.add(target + S::LANES)));
            }
            E::store_sum::<S>(to, S::at_most(S::at_least(left, low), high));
            E::store_sum::<S>(to.add(S::LANES), S::at_most(S::at_least(right, low), high));
        }
    }
}

/// Stores `cols` sums with the bias and the residual, clipped.
#[inline(always)]
unsafe fn store_row<S: Simd, E: Element, To: Element, L: Layout>(
    sums: *const f32,
    bias: Option<*const f32>,
    residual: Option<*const E>,
    bounds: (f32, f32),
    to: *mut To,
    cols: usize,
) {
    let whole = cols - cols % S::LANES;
    // Safety: the caller's.
    unsafe {
        for v in (0..whole).step_by(S::LANES) {
            let residual = residual.map(|residual| residual.add(v));
            let bias = bias.map(|bias| bias.add(v));
            let y = finish::<S, E, true>(sums.add(v), bias, residual, bounds, S::LANES);
            if L::PAIRS {
                To::store_sum::<S>(to.add(v), y);
            } else {
                To::store::<S>(to.add(v), y);
            }
        }
        if whole < cols {
            let residual = residual.map(|residual| residual.add(whole));
            let bias = bias.map(|bias| bias.add(whole));
            let y = finish::<S, E, false>(sums.add(whole), bias, residual, bounds, cols - whole);
            To::store_first::<S>(to.add(whole), cols - whole, y);
        }
    }
}

/// Up to a vector of sums, with the bias and the residual, clipped.
#[inline(always)]
unsafe fn finish<S: Simd, E: Element, const FULL: bool>(
    sums: *const f32,
    bias: Option<*const f32>,
    residual: Option<*const E>,
    (low, high): (f32, f32),
    n: usize,
) -> S::V {
    // Safety: the caller's.
    unsafe {
        let mut y = load::<S, f32, FULL>(sums, n);
        if let Some(bias) = bias {
            y = S::add(y, load::<S, f32, FULL>(bias, n));
        }
        if let Some(residual) = residual {
            y = S::add(y, load::<S, E, FULL>(residual, n));
        }
        S::at_most(S::at_least(y, S::splat(low)), S::splat(high))
    }
}
