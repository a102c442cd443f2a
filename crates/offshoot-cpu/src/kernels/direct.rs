//! Convolution of pictures with few channels, such as colors: tiles read the picture where it lies, in any order of its axes.
//!
//! What a gather copies for a pixel is too short to be worth copying. A tile takes neighboring pixels of a row, whose windows start at
//! constant distances; the elements of a window are at offsets that all windows share. Pixels whose windows reach over the left or right
//! border are copied; rows above and below the picture are left out of the sums.

use std::ops::Range;

use offshoot_graph::op::Unary;

use super::conv::{PackedFilter, forward};
use super::elementwise::InPlace;
use super::gather::Gather;
use super::grouped::by_groups;
use super::parallel::{self, Shared};
use super::shape::Columns;
use super::simd::{Isa, Kernel, Simd, dispatch};
use super::size::elements;
use super::tile::{self, DEPTH, MAX_ROWS, RowMajor, STRIDE, Tile, Windows, run_tile};
use super::winograd::by_winograd;
use super::{Activation, ConvShape};

/// Most channels of a picture.
const MOST_CHANNELS: usize = 4;

/// Whether [`direct`] convolves `shape`, from f32 to f32.
pub(crate) fn supports(isa: Isa, shape: &ConvShape) -> bool {
    let &ConvShape { in_c, kernel: [rows, columns], groups, .. } = shape;
    let window = rows.checked_mul(columns).and_then(|area| area.checked_mul(in_c));
    groups == 1
        && (1..=MOST_CHANNELS).contains(&in_c)
        && rows * columns > 1
        && window.is_some_and(|window| window <= DEPTH)
        && !by_winograd(shape)
        && !by_groups(isa, shape)
}

/// The elements from one picture, channel, row and pixel to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes {
    pub(crate) image: usize,
    pub(crate) channel: usize,
    pub(crate) row: usize,
    pub(crate) pixel: usize,
}

impl Axes {
    /// Of NCHW pictures, or of NHWC ones.
    pub(crate) fn of(shape: &ConvShape, channels_last: bool) -> Axes {
        let ConvShape { in_h, in_w, in_c, .. } = *shape;
        let image = elements([in_h, in_w, in_c]);
        match channels_last {
            true => Axes { image, channel: 1, row: in_w * in_c, pixel: in_c },
            false => Axes { image, channel: in_h * in_w, row: in_w, pixel: 1 },
        }
    }
}

/// What a convolution adds, and the functions that it applies then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    /// Applied first.
    pub(crate) activation: Activation,
    /// Applied last.
    pub(crate) then: Option<Unary>,
}

/// y = then(activation(conv(x) + bias)), in columns of rows of NHWC pixels that may be longer: a part of a concatenation.
///
/// # Panics
/// When `shape` is not [supported](supports), a slice has not the size that it says, or the filter is packed for another shape.
pub(crate) fn direct(
    isa: Isa,
    shape: &ConvShape,
    (x, axes): (&[f32], Axes),
    filter: &PackedFilter,
    applied: Applied<'_>,
    columns: Columns,
    y: &mut [f32],
) {
    let &ConvShape { batch, in_h, in_w, in_c, out_h, out_w, out_c, .. } = shape;
    assert!(supports(isa, shape), "{shape:?} is convolved by another kernel");
    let Columns { row: pitch, start, width } = columns;
    let sizes = [elements([batch, in_h, in_w, in_c]), elements([batch, out_h, out_w, pitch])];
    assert_eq!([x.len(), y.len()], sizes, "input and output of {shape:?}");
    assert!(width == out_c && start + width <= pitch, "{columns:?} of {shape:?}");
    assert!(applied.bias.is_none_or(|bias| bias.len() == out_c), "bias of {shape:?}");
    let gathers = [forward(shape)];
    let (_, filter) = filter.get::<f32>(isa, shape, &gathers);
    let [gather] = gathers;
    let plan = Plan::new(isa, &gather, axes, columns);
    let (rows, out) = (batch * out_h, Shared::new(y));
    let work = elements([rows, out_w, out_c]).saturating_mul(gather.reduction());
    let tasks = work.div_ceil(ROWS_WORK).clamp(1, rows.max(1));
    parallel::for_each_task(tasks, work, |task| {
        let rows = parallel::part(rows, tasks, task);
        parallel::with_scratch(MAX_ROWS * STRIDE, |scratch| {
            dispatch(isa, Rows { plan: &plan, rows, x, filter, applied, out, scratch });
        });
    });
}

/// Multiply-adds that make a task.
const ROWS_WORK: usize = 1 << 20;

/// How a shape is convolved.
struct Plan<'a> {
    gather: &'a Gather,
    axes: Axes,
    columns: Columns,
    /// Where each element of a window is, from its first one.
    offsets: Vec<isize>,
    /// The pixels of a row whose windows lie between the left and the right border.
    inner: Range<usize>,
    /// Columns of a whole tile.
    panel: usize,
    lanes: usize,
}

impl Plan<'_> {
    fn new(isa: Isa, gather: &Gather, axes: Axes, columns: Columns) -> Plan<'_> {
        let [rows, cols] = &gather.taps;
        let channels = 0..gather.depth as isize;
        let at = |y: isize, x: isize| y * axes.row as isize + x * axes.pixel as isize;
        let pixels = rows.iter().flat_map(|row| cols.iter().map(move |col| at(row.offset, col.offset)));
        let offsets =
            pixels.flat_map(|pixel| channels.clone().map(move |c| pixel + c * axes.channel as isize));
        Plan {
            gather,
            axes,
            columns,
            offsets: offsets.collect(),
            inner: gather.inner(1).filter(|inner| !inner.is_empty()).unwrap_or_default(),
            panel: tile::tile_cols(isa),
            lanes: isa.lanes(),
        }
    }

    /// The rows of the kernel that lie in the picture, of windows whose steps lead to row `y`.
    fn rows_within(&self, y: usize) -> Range<usize> {
        let taps = &self.gather.taps[0];
        let height = self.gather.source[0] as isize;
        let row = (y * self.gather.step[0]) as isize;
        let first = taps.partition_point(|tap| row + tap.offset < 0);
        first..taps.partition_point(|tap| row + tap.offset < height).max(first)
    }
}

/// Some rows of the output, of all pictures.
struct Rows<'a> {
    plan: &'a Plan<'a>,
    rows: Range<usize>,
    x: &'a [f32],
    filter: &'a [f32],
    applied: Applied<'a>,
    out: Shared,
    /// A row of [`STRIDE`] floats for each pixel of a tile.
    scratch: &'a mut [f32],
}

/// Pixels of a row of the output.
struct Pixels {
    image: usize,
    y: usize,
    x: Range<usize>,
    /// The steps of the reduction that lie in the picture.
    steps: Range<usize>,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let plan = self.plan;
        let [height, width] = plan.gather.grid;
        let step = plan.gather.taps[1].len() * plan.gather.depth;
        for row in self.rows.clone() {
            let (image, y) = (row / height, row % height);
            let within = plan.rows_within(y);
            let steps = within.start * step..within.end * step;
            let inner = &plan.inner;
            for (x, whole) in [(0..inner.start, false), (inner.clone(), true), (inner.end..width, false)] {
                let mut start = x.start;
                while start < x.end {
                    // Tiles of one size, so that the last one is no small rest.
                    let tiles = (x.end - start).div_ceil(S::TILE_ROWS);
                    let end = start + (x.end - start).div_ceil(tiles);
                    let pixels = Pixels { image, y, x: start..end, steps: steps.clone() };
                    // Safety: `S` is available; the pixels are those of the output, and a tile has no more.
                    unsafe { self.tile::<S>(&pixels, whole) };
                    start = end;
                }
            }
        }
    }
}

impl Rows<'_> {
    /// All channels of the pixels of a tile. `whole` says that no border cuts the rows of their windows.
    ///
    /// # Safety
    /// `S` is available, the pixels are in the output, and no more than its tiles have rows.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&mut self, pixels: &Pixels, whole: bool) {
        let (plan, steps) = (self.plan, pixels.steps.clone());
        let Gather { cols, step, .. } = *plan.gather;
        if !whole {
            self.copy_windows(pixels);
        }
        let first = self.window(pixels, pixels.x.start);
        let [_, width] = plan.gather.grid;
        let pixel = (pixels.image * plan.gather.grid[0] + pixels.y) * width + pixels.x.start;
        let rows: [usize; MAX_ROWS] = std::array::from_fn(|i| (pixel + i) * plan.columns.row);
        let rows = &rows[..pixels.x.len()];
        for first_col in (0..cols).step_by(plan.panel) {
            let own = (cols - first_col).min(plan.panel);
            let b_step = own.next_multiple_of(plan.lanes);
            let b = self.filter[first_col * plan.offsets.len() + steps.start * b_step..].as_ptr();
            let bias = self.applied.bias.map_or(tile::ZEROS.as_ptr(), |bias| bias[first_col..].as_ptr());
            // Safety: the columns are those of the output, which these pixels' rows belong to; the offsets lead to elements of the picture
            // where no border cuts the windows, and else the windows have been copied.
            unsafe {
                let out = self.out.at(plan.columns.start + first_col);
                let tile = Tile {
                    depth: steps.len(),
                    a: if whole { first } else { self.scratch.as_ptr() },
                    pitch: step[1] * plan.axes.pixel,
                    offsets: plan.offsets[steps.clone()].as_ptr(),
                    b,
                    bias,
                    out,
                    rows,
                    cols: own,
                    bounds: self.applied.activation.bounds(),
                    ..Tile::PRODUCT
                };
                match whole {
                    true => run_tile::<S, Windows>(tile),
                    false => run_tile::<S, RowMajor>(tile),
                }
                if let Some(op) = self.applied.then {
                    S::apart(InPlace { op, x: out, rows, cols: own });
                }
            }
        }
    }

    /// The element that the steps of the output lead to from the first one of a picture.
    #[inline(always)]
    fn window(&self, pixels: &Pixels, x: usize) -> *const f32 {
        let Plan { axes, gather, .. } = *self.plan;
        let [down, across] = gather.step;
        let at = pixels.image * axes.image + pixels.y * down * axes.row + x * across * axes.pixel;
        self.x.as_ptr().wrapping_add(at)
    }

    /// Copies the windows of pixels, with zeros beyond the borders.
    fn copy_windows(&mut self, pixels: &Pixels) {
        let plan = self.plan;
        let gather = plan.gather;
        let (across, width) = (&gather.taps[1], gather.source[1] as isize);
        for (i, x) in pixels.x.clone().enumerate() {
            let first = self.window(pixels, x);
            let place = (x * gather.step[1]) as isize;
            for step in pixels.steps.clone() {
                let tap = across[step / gather.depth % across.len()];
                let inside = (0..width).contains(&(place + tap.offset));
                let at = first.wrapping_offset(plan.offsets[step]);
                // Safety: the step's row is in the picture, and where it is read its column too.
                let element = if inside { unsafe { *at } } else { 0.0 };
                self.scratch[i * STRIDE + step - pixels.steps.start] = element;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv::{Epilogue, conv};
    use super::super::layout::nchw_to_nhwc;
    use super::super::testing::{assert_same_on_any_threads, normals};
    use super::*;

    /// Sizes, channels, kernels, steps, borders and dilations.
    fn shapes() -> Vec<ConvShape> {
        let mut shapes = Vec::new();
        for (size, in_c, out_c, kernel, step, pad, dilation) in [
            ([33, 47], 3, 16, [3, 3], [2, 2], 1, 1),
            ([30, 31], 3, 70, [7, 7], [2, 2], 3, 1),
            ([16, 24], 3, 40, [4, 4], [4, 4], 0, 1),
            ([9, 100], 1, 8, [5, 3], [1, 2], 2, 1),
            ([12, 13], 4, 33, [3, 3], [1, 1], 2, 2),
            ([3, 2], 2, 5, [5, 5], [1, 1], 4, 1),
            ([5, 5], 3, 17, [2, 1], [3, 3], 5, 1),
        ] {
            let out =
                |axis: usize| (size[axis] + 2 * pad - dilation * (kernel[axis] - 1) - 1) / step[axis] + 1;
            shapes.push(ConvShape {
                batch: 2,
                in_h: size[0],
                in_w: size[1],
                in_c,
                out_h: out(0),
                out_w: out(1),
                out_c,
                kernel,
                strides: step,
                pads: [pad; 4],
                dilations: [dilation; 2],
                groups: 1,
            });
        }
        shapes
    }

    #[test]
    fn it_gives_the_bits_of_a_gather_in_both_orders() {
        for shape in shapes() {
            let ConvShape { batch, in_h, in_w, in_c, out_h, out_w, out_c, kernel: [r, s], .. } = shape;
            let pixels = batch * out_h * out_w;
            let nchw = normals(1, batch * in_c * in_h * in_w);
            let mut nhwc = vec![0.0; nchw.len()];
            nchw_to_nhwc(batch, in_c, in_h * in_w, &nchw, &mut nhwc);
            let (weights, bias) = (normals(2, out_c * in_c * r * s), normals(3, out_c));
            let applied =
                Applied { bias: Some(&bias), activation: Activation::Relu, then: Some(Unary::Sigmoid) };
            for isa in Isa::available() {
                assert!(supports(isa, &shape), "{shape:?}");
                let mut filter = PackedFilter::new();
                filter.pack(isa, &shape, &weights);
                let epilogue = Epilogue {
                    bias: applied.bias,
                    residual: None,
                    activation: applied.activation,
                    then: applied.then,
                };
                let mut wanted = vec![f32::NAN; pixels * out_c];
                conv(isa, &shape, &nhwc, &filter, &epilogue, &mut wanted);
                for (x, last) in [(&nchw, false), (&nhwc, true)] {
                    let run = || {
                        let columns = Columns { row: out_c + 3, start: 2, width: out_c };
                        let mut y = vec![9.0; pixels * columns.row];
                        let x = (&x[..], Axes::of(&shape, last));
                        direct(isa, &shape, x, &filter, applied, columns, &mut y);
                        y
                    };
                    let y = run();
                    for (row, wanted) in y.chunks_exact(out_c + 3).zip(wanted.chunks_exact(out_c)) {
                        assert_eq!(&row[2..2 + out_c], wanted, "{isa} {shape:?} {last}");
                        assert_eq!([row[0], row[1], row[2 + out_c]], [9.0; 3], "{isa} {shape:?} {last}");
                    }
                    assert_same_on_any_threads("a direct convolution", run);
                }
            }
        }
    }
}
