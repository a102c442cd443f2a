//! Products of matrices of bf16 on tiles.

use std::ops::Range;

use half::bf16;

use super::GemmShape;
use crate::kernels::convert::round_area;
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::rows::Area;
use crate::kernels::simd::{Isa, Kernel, Simd, dispatch_tiles};
use crate::kernels::size::elements;
use crate::kernels::tiled::{self, PAIRS, PITCH, Part, STEP_PAIRS};

/// Most rows and columns of the result that a task owns: with [`PAIRS`] their operands and sums fit a second-level cache of 2 MiB, which processors with tiles have.
const ROWS: usize = 192;
const COLS: usize = 384;

/// Floats from one row of the right operand, and of the sums, to the next: an odd number of cache lines.
const RIGHT: usize = COLS + STEP_PAIRS;

/// Floats of a task's scratch: both operands, the sums, and a step's rows that are being transposed.
const SCRATCH: usize = ROWS * PITCH + PAIRS * RIGHT + ROWS * RIGHT + STEP_PAIRS * RIGHT;

/// `c[i] = a[i] * b[i]` for each of `count` matrices of `shape` one after another: sums in f32, rounded once.
///
/// # Panics
/// When a slice has not the size that `count` and `shape` say, or `isa` has no tiles.
pub(crate) fn matmul<E: Element>(
    isa: Isa,
    count: usize,
    shape: &GemmShape,
    a: &[bf16],
    b: &[bf16],
    c: &mut [E],
) {
    let GemmShape { m, n, k, .. } = *shape;
    let sizes = [elements([count, m, k]), elements([count, k, n]), elements([count, m, n])];
    assert_eq!([a.len(), b.len(), c.len()], sizes, "{count} times {shape:?}");
    let (row_blocks, col_blocks) = (m.div_ceil(ROWS), n.div_ceil(COLS));
    let blocks = row_blocks * col_blocks;
    let c = Shared::new(c);
    parallel::for_each_task(count * blocks, (count * m * n).saturating_mul(k) / 4, |index| {
        let (matrix, block) = (index / blocks, index % blocks);
        let rows = parallel::part(m, row_blocks, block / col_blocks);
        let cols = parallel::part(n, col_blocks, block % col_blocks);
        let (a, b) = (&a[matrix * m * k..][..m * k], &b[matrix * k * n..][..k * n]);
        parallel::with_scratch(SCRATCH, |scratch| {
            // Safety: each matrix is a part of `c`, which has `count` of them.
            let c = Shared(unsafe { c.at(matrix * m * n) });
            dispatch_tiles(isa, Block { isa, shape, a, b, c, rows, cols, scratch });
        });
    });
}

/// A task: a block of one matrix.
struct Block<'a, E> {
    isa: Isa,
    shape: &'a GemmShape,
    a: &'a [bf16],
    b: &'a [bf16],
    c: Shared<E>,
    rows: Range<usize>,
    cols: Range<usize>,
    /// [`SCRATCH`] floats.
    scratch: &'a mut [f32],
}

impl<E: Element> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let GemmShape { trans_a, trans_b, m, n, k } = *self.shape;
        let left = self.scratch.as_mut_ptr();
        let right = left.wrapping_add(ROWS * PITCH);
        let sums = right.wrapping_add(PAIRS * RIGHT);
        let rows = sums.wrapping_add(ROWS * RIGHT);
        let block = tiled::Block {
            isa: self.isa,
            left,
            right: (right, RIGHT),
            sums: (sums, RIGHT),
            rows: self.rows.len(),
            cols: self.cols.len(),
        };
        let parts = k.div_ceil(2 * PAIRS).max(1);
        for i in 0..parts {
            // Parts start at whole steps.
            let depth = 2 * i * PAIRS..k.min(2 * (i + 1) * PAIRS);
            let steps = depth.len().div_ceil(2 * STEP_PAIRS);
            // Safety: `S` and tiles are available; the parts lie within the operands, and the scratch has room for a block of both.
            unsafe {
                match trans_a {
                    true => part(self.a, m, &depth, &self.rows).transpose_rows::<S>(
                        self.isa,
                        steps,
                        (rows, RIGHT),
                        left,
                    ),
                    false => part(self.a, k, &self.rows, &depth).copy_rows::<S>(steps, left),
                }
                match trans_b {
                    true => part(self.b, k, &self.cols, &depth).transpose_columns::<S>(
                        self.isa,
                        steps,
                        rows,
                        (right, RIGHT),
                    ),
                    false => part(self.b, n, &depth, &self.cols).join_rows::<S>(steps, (right, RIGHT)),
                }
                block.multiply(steps, i == 0);
            }
        }
        let area = Area { rows: self.rows.len(), pitch: n, cols: self.cols.len() };
        // Safety: this block of `c` is the task's.
        unsafe {
            let to = self.c.at(self.rows.start * n + self.cols.start);
            round_area(self.isa, (sums, RIGHT), to, area);
        }
    }
}

/// Rows and columns of a matrix with rows of `pitch` elements.
fn part(matrix: &[bf16], pitch: usize, rows: &Range<usize>, cols: &Range<usize>) -> Part {
    let from = matrix.as_ptr().wrapping_add(rows.start * pitch + cols.start);
    Part { from, pitch, rows: rows.len(), cols: cols.len() }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::random::{Purpose, Random};

    use super::*;

    /// Sums of rows of one, several parts of the reduction, whole and broken tiles and blocks, each operand transposed or not.
    #[test]
    fn products_are_sums_of_products() {
        let mut random = Random::new(1, 0, 0, Purpose::Init);
        let paths = Isa::available().into_iter().filter(|isa| isa.has_tiles()).chain([Isa::EMULATED_TILES]);
        let paths: Vec<Isa> = paths.collect();
        for [count, m, n, k] in [
            [1, 1, 1, 1],
            [3, 5, 7, 33],
            [2, 40, 33, 31],
            [1, 193, 20, 64],
            [1, 31, 385, 257],
            [2, 17, 16, 515],
        ] {
            let mut numbers =
                |len: usize| -> Vec<bf16> { (0..len).map(|_| bf16::from_f32(random.normal())).collect() };
            let (a, b) = (numbers(count * m * k), numbers(count * k * n));
            for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
                let shape = GemmShape { trans_a, trans_b, m, n, k };
                let wanted = |at: usize| {
                    let (matrix, row, col) = (at / (m * n), at / n % m, at % n);
                    let product = |i: usize| {
                        let a = a[matrix * m * k + if trans_a { i * m + row } else { row * k + i }];
                        let b = b[matrix * k * n + if trans_b { col * k + i } else { i * n + col }];
                        a.to_f64() * b.to_f64()
                    };
                    (0..k).map(product).sum::<f64>()
                };
                for &isa in &paths {
                    let mut c = vec![f32::NAN; count * m * n];
                    matmul(isa, count, &shape, &a, &b, &mut c);
                    let mut rounded = vec![bf16::NAN; c.len()];
                    matmul(isa, count, &shape, &a, &b, &mut rounded);
                    for (at, (&c, &rounded)) in c.iter().zip(&rounded).enumerate() {
                        let difference = (f64::from(c) - wanted(at)).abs();
                        assert!(
                            difference < 1e-5 * k as f64,
                            "{shape:?} on {isa}, {at}: off by {difference}"
                        );
                        assert_eq!(rounded, bf16::from_f32(c), "{shape:?} on {isa}, {at}");
                    }
                }
            }
        }
    }
}
