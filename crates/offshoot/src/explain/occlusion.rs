//! Occlusion: a square slides over the picture, and what is under it becomes the mean color.

use offshoot_graph::Tensor;
use offshoot_infer::Inference;
use offshoot_infer::inference::check_answers;

use super::Heatmap;
use crate::error::Result;

/// The sides of the map's cells: about as many cells as this fit beside each other.
const CELLS: usize = 14;

/// A square of two by two cells that moves by one cell.
pub(super) struct Occlusion {
    /// Side of the picture, in pixels.
    size: usize,
    /// Side of a cell, in pixels. The last cell of a row may be narrower.
    cell: usize,
    /// Pictures that go through the network at once.
    batch: usize,
}

impl Occlusion {
    pub(super) fn new(size: usize, batch: usize) -> Occlusion {
        Occlusion { size, cell: size.div_ceil(CELLS).max(1), batch: batch.max(1) }
    }

    /// Cells beside each other.
    fn cells(&self) -> usize {
        self.size.div_ceil(self.cell)
    }

    /// By how much the output of `class`, which is `whole` for the picture, is lower under the squares that cover a cell: the mean over
    /// them, as `captum.attr.Occlusion` has it with a window of two cells, strides of one and a baseline of 0.
    pub(super) fn map(
        &self,
        network: &mut Inference,
        picture: &Tensor,
        class: usize,
        whole: f32,
    ) -> Result<Heatmap> {
        let cells = self.cells();
        // One more would lie outside of what the others cover.
        let squares = cells.saturating_sub(1).max(1);
        let pixels = picture.as_f32().unwrap_or_default();
        let (mut sums, mut counts) = (vec![0.0f64; cells * cells], vec![0u32; cells * cells]);
        let all: Vec<(usize, usize)> = (0..squares).flat_map(|y| (0..squares).map(move |x| (y, x))).collect();
        for batch in all.chunks(self.batch) {
            let mut input = Vec::with_capacity(batch.len() * pixels.len());
            batch.iter().for_each(|&square| input.extend(self.covered(pixels, square)));
            let input = Tensor::f32([batch.len(), 3, self.size, self.size], input);
            let rows = network.run(&input)?.into_f32().unwrap_or_default();
            check_answers(&rows)?;
            let classes = rows.len() / batch.len();
            for (row, &(y, x)) in rows.chunks_exact(classes.max(1)).zip(batch) {
                for cell in [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)] {
                    if cell.0 < cells && cell.1 < cells {
                        sums[cell.0 * cells + cell.1] += f64::from(whole) - f64::from(row[class]);
                        counts[cell.0 * cells + cell.1] += 1;
                    }
                }
            }
        }
        let mean = |(sum, count): (f64, u32)| (sum / f64::from(count.max(1))) as f32;
        Ok(Heatmap { rows: cells, columns: cells, values: sums.into_iter().zip(counts).map(mean).collect() })
    }

    /// The picture with 0 in a square, which is the mean color.
    fn covered(&self, pixels: &[f32], (y, x): (usize, usize)) -> Vec<f32> {
        let mut covered = pixels.to_vec();
        let range = |cell: usize| cell * self.cell..((cell + 2) * self.cell).min(self.size);
        for row in (0..3).flat_map(|channel| range(y).map(move |row| channel * self.size + row)) {
            covered[row * self.size..][range(x)].fill(0.0);
        }
        covered
    }
}
