//! Numbers around a value.

use offshoot_graph::{Dim, Op, Shape, Tensor, ValueId};

use super::{Importer, Site};
use crate::elements::MAX_ELEMENTS;
use crate::error::Problem;
use crate::metadata::MAX_SIDE;

/// A picture with a number around it (top, left, bottom, right): the windows that read it may take that as their own padding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Padded {
    pub(crate) x: ValueId,
    pub(crate) pads: [usize; 4],
    pub(crate) number: f32,
}

impl Importer {
    /// `x` with `number` before and behind its axes, or `None` where these add nothing; a picture with a number around it waits
    /// for what reads it.
    pub(crate) fn pad(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        pads: &[(usize, i64, i64)],
        number: f32,
    ) -> Result<Result<ValueId, Padded>, Problem> {
        let side = |p: i64| usize::try_from(p).ok().filter(|&p| p <= MAX_SIDE);
        let mut sides = vec![(0, 0); self.rank(x)];
        for &(axis, before, behind) in pads {
            let (Some(before), Some(behind)) = (side(before), side(behind)) else {
                let what = format!("only padding by 0 to {MAX_SIDE} is read");
                return Err(site.refused(&what));
            };
            sides[axis] = (before, behind);
        }
        if let [(0, 0), (0, 0), rows, columns] = sides[..]
            && (rows, columns) != ((0, 0), (0, 0))
        {
            return Ok(Err(Padded { x, pads: [rows.0, columns.0, rows.1, columns.1], number }));
        }
        self.padded(site, x, &sides, number).map(Ok)
    }

    /// A padded picture as a value of its own.
    pub(crate) fn settle_padded(&mut self, site: &dyn Site, padded: Padded) -> Result<ValueId, Problem> {
        let [top, left, bottom, right] = padded.pads;
        self.padded(site, padded.x, &[(0, 0), (0, 0), (top, bottom), (left, right)], padded.number)
    }

    /// `x` with `number` before and behind each axis.
    fn padded(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        sides: &[(usize, usize)],
        number: f32,
    ) -> Result<ValueId, Problem> {
        let mut padded = x;
        let last = sides.iter().rposition(|&side| side != (0, 0));
        for (axis, &(before, behind)) in sides.iter().enumerate().filter(|(_, side)| **side != (0, 0)) {
            let mut parts = vec![padded];
            if before > 0 {
                parts.insert(0, self.filled(site, padded, axis, before, number)?);
            }
            if behind > 0 {
                parts.push(self.filled(site, padded, axis, behind, number)?);
            }
            let name =
                if Some(axis) == last { site.name().to_owned() } else { site.part(&format!("axis{axis}")) };
            padded = self.push_named(site, &name, Op::Concat { axis }, &parts)?;
        }
        Ok(padded)
    }

    /// `count` places of `number` along an axis, under the other sizes of `x`.
    fn filled(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        count: usize,
        number: f32,
    ) -> Result<ValueId, Problem> {
        let mut shape: Shape = self.shape(x).clone();
        shape.0[axis] = Dim::Fixed(count);
        if let Some(sizes) = shape.as_fixed() {
            let elements = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
            if elements.is_none_or(|n| n > MAX_ELEMENTS) {
                return Err(site.refused("its padding is too large"));
            }
        }
        let number = self.constant(site, "number", Tensor::f32([], vec![number]));
        self.push_part(site, "padding", Op::Expand { shape }, &[number])
    }
}
