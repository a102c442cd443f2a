//! How the output channels of a group lie in panels, and how their reduction is read.

use crate::kernels::ConvShape;
use crate::kernels::int8::simd::{Kind, Packing};

/// How the output channels of a group lie in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panels {
    pub(super) cols: usize,
    pub(super) lanes: usize,
    pub(super) vectors: usize,
    /// Elements of the reduction.
    pub(super) reduction: usize,
    /// Runs of them that lie together, each from a multiple of [`Packing::step`] on: the rows of a window, or one of all.
    pub(super) runs: usize,
    /// Elements of a run.
    pub(super) run: usize,
    /// The reduction in units of 32 bits.
    pub(super) depth: usize,
    /// Bytes of a line of the strips that windows are read from, if they are.
    pub(super) strip_line: Option<usize>,
}

impl Panels {
    pub(super) fn new(packing: Packing, shape: &ConvShape) -> Panels {
        let [lanes, vectors, _] = packing.tile();
        let reduction = shape.kernel[0] * shape.kernel[1] * (shape.in_c / shape.groups);
        let strip_line = fits_strips(shape, packing).then(|| strip_line(shape));
        let runs = if strip_line.is_some() { shape.kernel[0] } else { 1 };
        let run = reduction / runs;
        let depth = runs * run.div_ceil(4).next_multiple_of(packing.step());
        Panels { cols: shape.out_c / shape.groups, lanes, vectors, reduction, runs, run, depth, strip_line }
    }

    /// A run in units of 32 bits.
    pub(super) fn run_depth(&self) -> usize {
        self.depth / self.runs
    }

    /// Bytes from the start of a row of the left operand to cell `step` of the reduction.
    pub(super) fn place(&self, step: usize) -> usize {
        let [cells, bytes] = self.part();
        step / cells * bytes + step % cells * 4
    }

    /// Cells of a part of a row of the left operand, and bytes from one part to the next.
    pub(super) fn part(&self) -> [usize; 2] {
        [self.run_depth().max(1), self.strip_line.unwrap_or_default()]
    }

    /// Bytes from one gathered row to the next: an odd number of cache lines, so that rows spread over all cache sets, and
    /// room for copies that end with a whole vector.
    pub(super) fn row(&self) -> usize {
        64 * (((4 * self.depth).div_ceil(64) + 1) | 1)
    }

    pub(super) fn width(&self) -> usize {
        self.lanes * self.vectors
    }

    pub(super) fn count(&self) -> usize {
        self.cols.div_ceil(self.width())
    }

    /// Columns with those that fill the last vector.
    pub(super) fn padded(&self) -> usize {
        self.cols.next_multiple_of(self.lanes)
    }

    /// Cells of a group.
    pub(super) fn group(&self) -> usize {
        self.padded() * self.depth
    }

    /// Columns of panel `index`, with those that fill the last vector.
    pub(super) fn width_of(&self, index: usize) -> usize {
        (self.padded() - index * self.width()).min(self.width())
    }

    /// Where column `col` starts in its group, and the width of its panel.
    pub(super) fn column(&self, col: usize) -> (usize, usize) {
        let (panel, within) = (col / self.width(), col % self.width());
        (panel * self.width() * self.depth + within, self.width_of(panel))
    }
}

/// Whether windows are rows of neighboring elements of some lines of the padded picture, and worth reading there: tiles
/// of pixels fill the output's lines, all but a ninth, as gathering windows costs about as much as that.
fn fits_strips(shape: &ConvShape, packing: Packing) -> bool {
    let ConvShape { kernel, strides, dilations, pads, groups, in_w, out_h, out_w, .. } = *shape;
    let some = kernel.iter().all(|&n| n > 0) && out_h > 0 && out_w > 0;
    let worth = match packing.kind() {
        // (Here tiles of fewer rows take less time.)
        Kind::Grouped => out_w >= 4,
        #[cfg(target_arch = "x86_64")]
        Kind::Bytes => 9 * out_w >= 8 * out_w.next_multiple_of(packing.tile()[2]),
        // (Tiles of fewer rows take less time, but read as much of the filter.)
        Kind::Tiles | Kind::EmulatedTiles => out_w >= 14,
    };
    // (Places within a window are of 32 bits.)
    let small = u32::try_from(kernel[0].saturating_mul(strip_line(shape))).is_ok();
    some && small && kernel != [1, 1] && worth && dilations == [1, 1] && groups == 1
        // (No picture has windows beyond its padding, but a shape may say so.)
        && (out_w - 1) * strides[1] + kernel[1] <= in_w + pads[1] + pads[3]
}

/// Bytes of a line of a strip: the padded picture's, and room for what is written or read in whole vectors and cells behind it.
fn strip_line(shape: &ConvShape) -> usize {
    ((shape.in_w + shape.pads[1] + shape.pads[3]) * shape.in_c).next_multiple_of(64) + 64
}
