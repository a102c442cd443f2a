//! Windows that overlap, as the sums of what they hold of each pixel.

use offshoot_graph::op::{Binary, Composite, PadMode, ShapeOp};
use offshoot_graph::{Dim, Op, Shape, ValueId};

use super::{Importer, Part, Site};
use crate::error::Problem;
use crate::metadata::MAX_SIDE;

/// Windows over pictures, by height and width.
pub(crate) struct Overlap {
    /// The size of the pictures.
    pub(crate) size: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    /// What the windows reach over the pictures: top, left, bottom, right.
    pub(crate) pads: [usize; 4],
}

impl Overlap {
    /// A side of the pictures with what is around it.
    fn padded(&self, side: usize) -> usize {
        self.size[side] + self.pads[side] + self.pads[side + 2]
    }

    /// How many windows stand along a side.
    fn windows(&self, side: usize) -> Option<usize> {
        let reach = self.dilations[side].checked_mul(self.kernel[side].checked_sub(1)?)?.checked_add(1)?;
        Some(self.padded(side).checked_sub(reach)? / self.strides[side] + 1)
    }
}

impl Importer {
    /// [n, channels * kernel, windows] as pictures whose pixels are the sums of the windows' places on them: PyTorch's `fold`.
    pub(crate) fn overlapped(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        of: &Overlap,
    ) -> Result<ValueId, Problem> {
        let misfit = || site.damage("its windows are not those of pictures of this size");
        let sizes = [of.size, of.kernel, of.strides, of.dilations];
        if sizes.concat().iter().any(|&n| n == 0 || n > MAX_SIDE) || of.kernel[0] * of.kernel[1] > MAX_PLACES
        {
            return Err(site.refused("windows of such sizes are not read"));
        }
        let (Some(rows), Some(columns)) = (of.windows(0), of.windows(1)) else { return Err(misfit()) };
        let places = of.kernel[0] * of.kernel[1];
        let dims = self.shape(x).0.clone();
        let channels = match &dims[..] {
            [_, Dim::Fixed(all), Dim::Fixed(windows)]
                if all.is_multiple_of(places) && *windows == rows * columns =>
            {
                all / places
            }
            _ => return Err(misfit()),
        };
        let shape = |sides: &[usize]| Shape([&dims[..1], &Shape::fixed(sides).0].concat());
        let apart = shape(&[channels, places, rows, 1, columns, 1]);
        let apart = self.push_part(site, "apart", Op::Shape(ShapeOp::Reshape { shape: apart }), &[x])?;
        let mut sum = None;
        for place in 0..places {
            let at = [place / of.kernel[1] * of.dilations[0], place % of.kernel[1] * of.dilations[1]];
            let part = Part { site, name: site.part(&format!("place{place}")) };
            let slice = Op::Shape(ShapeOp::Slice { axis: 2, start: place, end: place + 1 });
            let one = self.push(&part, slice, &[apart])?;
            let plane = self.spread_windows(&part, one, of, at, &shape(&[channels, 1]))?;
            sum = Some(match sum {
                None => plane,
                Some(sum) => self.push_part(&part, "sum", Op::Binary(Binary::Add), &[sum, plane])?,
            });
        }
        let sum = sum.ok_or_else(misfit)?;
        let inside = |side: usize| [of.pads[side] as i64, (of.pads[side] + of.size[side]) as i64];
        let cut = self.slice(&Part { site, name: site.part("rows") }, sum, 3, inside(0))?;
        let cut = self.slice(&Part { site, name: site.part("columns") }, cut, 4, inside(1))?;
        self.reshape_to(site, cut, shape(&[channels, of.size[0], of.size[1]]))
    }

    /// One place of all windows, on the padded pictures: [n, channels, 1, rows, 1, columns, 1] with zeros between and around.
    fn spread_windows(
        &mut self,
        part: &Part<'_>,
        x: ValueId,
        of: &Overlap,
        at: [usize; 2],
        lead: &Shape,
    ) -> Result<ValueId, Problem> {
        let windows = [of.windows(0).unwrap_or(0), of.windows(1).unwrap_or(0)];
        let mut pads = vec![[0, 0]; 7];
        (pads[4], pads[6]) = ([0, of.strides[0] - 1], [0, of.strides[1] - 1]);
        let zeros = PadMode::Constant(0.0);
        let sub = |name: &str| Part { site: part, name: part.part(name) };
        let mut y = x;
        if of.strides != [1, 1] {
            y = self.compose(&sub("between"), Composite::Pad { pads, mode: zeros }, &[y])?;
        }
        let wide = [0, 1].map(|side| windows[side] * of.strides[side]);
        let shape = Shape([&lead.0[..], &Shape::fixed(&wide).0].concat());
        y = self.reshape_to(&sub("plane"), y, shape)?;
        let mut around = vec![[0, 0]; 5];
        for side in 0..2 {
            // What reaches over the edge is zeros between windows.
            let kept = wide[side].min(of.padded(side) - at[side]);
            let name = if side == 0 { "kept_rows" } else { "kept_columns" };
            y = self.slice(&sub(name), y, 3 + side, [0, kept as i64])?;
            around[3 + side] = [at[side], of.padded(side) - at[side] - kept];
        }
        match around.iter().all(|side| *side == [0, 0]) {
            true => Ok(y),
            false => self.compose(&sub("around"), Composite::Pad { pads: around, mode: zeros }, &[y]),
        }
    }
}

/// More places of a window than any network has.
const MAX_PLACES: usize = 1024;
