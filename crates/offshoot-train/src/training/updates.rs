//! The batches of the updates of an epoch, as one of several processes gets them.

use std::collections::BTreeSet;

use offshoot_data::PictureError;
use offshoot_world::{Rows, World, part};

use super::Training;
use crate::error::TrainError;
use crate::pictures::{Inputs, Pictures};

/// What comes next in an epoch.
pub(super) enum Next {
    /// An update from so many batches of all processes, with those of this one.
    Update {
        inputs: Vec<Inputs>,
        batches: usize,
    },
    End,
    Stop,
}

/// The updates of an epoch that are left.
pub(super) struct Updates<'p> {
    pictures: &'p Pictures,
    batches: Box<dyn Iterator<Item = Result<Inputs, PictureError>> + 'p>,
    /// The batches of the epoch, as far as known.
    count: usize,
    /// The pictures that all processes know to be unusable.
    known: BTreeSet<usize>,
    /// Whether the first process wants a checkpoint after this update.
    checkpoint: bool,
}

impl<'p> Updates<'p> {
    /// Those of an epoch from `step` on, from `together` batches each.
    pub(super) fn new(
        pictures: &'p Pictures,
        world: &dyn World,
        (epoch, step, together): (u64, u64, usize),
    ) -> Updates<'p> {
        let from = step.saturating_mul(together as u64);
        let (count, batches) = match world.is_shared() {
            false => (0, pictures.epoch(epoch, from)),
            true => {
                let count = pictures.batches(epoch);
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(count);
                let (rank, size) = (world.rank(), world.size());
                let own = (from..count).step_by(together).flat_map(move |first| {
                    part(rank, together.min(count - first), size).map(move |batch| first + batch)
                });
                (count, pictures.some(epoch, own.collect()))
            }
        };
        let known = pictures.unusable().into_iter().map(|(place, _)| place).collect();
        Updates { pictures, batches, count, known, checkpoint: false }
    }
}

impl Training<'_, '_> {
    /// The updates of the epoch that are left.
    pub(super) fn updates<'p>(&self, pictures: &'p Pictures) -> Updates<'p> {
        let at = (self.position.epoch, self.position.step, self.together());
        Updates::new(pictures, self.control.world, at)
    }

    /// The batches that an update learns from.
    pub(super) fn together(&self) -> usize {
        self.given.recipe.accumulate.max(1)
    }

    /// What comes next. All processes get the same: what one of them finds of pictures, and that one is to stop, holds for all.
    pub(super) fn next_update<'p>(&self, updates: &mut Updates<'p>) -> Result<Next, TrainError> {
        let world = self.control.world;
        if !world.is_shared() {
            let inputs: Vec<Inputs> =
                updates.batches.by_ref().take(self.together()).collect::<Result<_, _>>()?;
            return Ok(match inputs.len() {
                0 => Next::End,
                _ if self.stopped() => Next::Stop,
                batches => Next::Update { inputs, batches },
            });
        }
        loop {
            let first =
                usize::try_from(self.position.step).unwrap_or(usize::MAX).saturating_mul(self.together());
            let batches = updates.count.saturating_sub(first).min(self.together());
            let own = part(world.rank(), batches, world.size()).len();
            let inputs: Vec<Inputs> = updates.batches.by_ref().take(own).collect::<Result<_, _>>()?;
            let rows = Rows {
                indices: vec![u64::from(self.checkpoint_is_due())],
                unusable: updates.pictures.found(&updates.known, true)?,
                ended: self.stopped().then(String::new),
                ..Rows::default()
            };
            let all = rows.gathered(world)?;
            if all.iter().all(|rows| rows.unusable.is_empty()) {
                updates.checkpoint = all.first().is_some_and(|first| first.indices == [1]);
                return Ok(match batches {
                    0 => Next::End,
                    _ if all.iter().any(|rows| rows.ended.is_some()) => Next::Stop,
                    batches => Next::Update { inputs, batches },
                });
            }
            // The pictures after one that cannot be used move up: all batches from here on are other ones.
            for (place, reason) in all.iter().flat_map(|rows| &rows.unusable) {
                updates.pictures.learn_unusable(*place, reason);
            }
            *updates = self.updates(updates.pictures);
        }
    }

    /// Whether a checkpoint is to be written after the update that was just made.
    pub(super) fn wants_checkpoint(&self, updates: &Updates<'_>) -> bool {
        if self.control.world.is_shared() { updates.checkpoint } else { self.checkpoint_is_due() }
    }

    fn checkpoint_is_due(&self) -> bool {
        self.clock.last_checkpoint.elapsed() >= self.control.checkpoint_every
    }

    /// Whether this process writes into the run directory.
    pub(super) fn writes(&self) -> bool {
        self.control.world.is_first()
    }
}
