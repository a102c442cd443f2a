//! The batches of validation, spread over processes.

use std::collections::BTreeSet;

use offshoot_data::PictureError;
use offshoot_world::{Rows, World};

use super::{Inputs, Pictures};
use crate::error::TrainError;

/// In each round, each process runs one batch, and gets what all have found.
pub(crate) struct Rounds<'p> {
    pictures: &'p Pictures,
    world: &'p dyn World,
    own: Box<dyn Iterator<Item = Result<Inputs, PictureError>> + 'p>,
    /// Rounds that are left.
    left: usize,
    /// The pictures that all processes know to be unusable.
    known: BTreeSet<usize>,
}

impl<'p> Rounds<'p> {
    pub(super) fn new(pictures: &'p Pictures, world: &'p dyn World) -> Rounds<'p> {
        let (count, size) = (pictures.batches(0), world.size().max(1));
        let own = pictures.some(0, (world.rank()..count).step_by(size).collect());
        let known = pictures.unusable().into_iter().map(|(place, _)| place).collect();
        Rounds { pictures, world, own, left: count.div_ceil(size), known }
    }

    /// The rows that `run` gives for the batch of each process in this round, in the order of the pictures; `None` at the end. Where there is
    /// no batch left for a process, `run` gets one without pictures.
    pub(crate) fn next(
        &mut self,
        run: impl FnOnce(Inputs) -> Result<Rows, TrainError>,
    ) -> Result<Option<Vec<Rows>>, TrainError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let inputs = self.own.next().transpose()?.unwrap_or_else(Inputs::none);
        let unusable = self.pictures.found(&self.known, self.world.is_shared())?;
        let all = Rows { unusable, ..run(inputs)? }.gathered(self.world)?;
        for (place, reason) in all.iter().flat_map(|rows| &rows.unusable) {
            if self.known.insert(*place) {
                self.pictures.learn_unusable(*place, reason);
            }
        }
        Ok(Some(all))
    }
}
