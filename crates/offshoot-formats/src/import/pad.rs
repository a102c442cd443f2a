//! What stands around a value.

use offshoot_graph::ValueId;
use offshoot_graph::op::{Composite, PadMode};

use super::{Importer, Site};
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
    /// `x` with more places before and behind its axes; a picture with a number around it waits for what reads it.
    pub(crate) fn pad(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        pads: &[(usize, i64, i64)],
        mode: PadMode,
    ) -> Result<Result<ValueId, Padded>, Problem> {
        let side = |p: i64| usize::try_from(p).ok().filter(|&p| p <= MAX_SIDE);
        let mut sides = vec![[0; 2]; self.rank(x)];
        for &(axis, before, behind) in pads {
            let (Some(before), Some(behind)) = (side(before), side(behind)) else {
                let what = format!("only padding by 0 to {MAX_SIDE} is read");
                return Err(site.refused(&what));
            };
            sides[axis] = [before, behind];
        }
        if let [[0, 0], [0, 0], rows, columns] = sides[..]
            && let PadMode::Constant(number) = mode
            && (rows, columns) != ([0; 2], [0; 2])
        {
            return Ok(Err(Padded { x, pads: [rows[0], columns[0], rows[1], columns[1]], number }));
        }
        match sides.iter().all(|side| *side == [0; 2]) {
            true => Ok(Ok(x)),
            false => self.compose(site, Composite::Pad { pads: sides, mode }, &[x]).map(Ok),
        }
    }

    /// A padded picture as a value of its own.
    pub(crate) fn settle_padded(&mut self, site: &dyn Site, padded: Padded) -> Result<ValueId, Problem> {
        let [top, left, bottom, right] = padded.pads;
        let pads = vec![[0; 2], [0; 2], [top, bottom], [left, right]];
        self.compose(site, Composite::Pad { pads, mode: PadMode::Constant(padded.number) }, &[padded.x])
    }
}
