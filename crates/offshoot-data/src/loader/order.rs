//! Which pictures come in an epoch, and in which order.

use std::collections::BTreeMap;

use offshoot_graph::random::{Purpose, Random};

use super::Loader;
use super::shared::{Shared, lock};

/// A place in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The picture's place in the list of samples.
    pub index: usize,
    /// How often the picture has come in this epoch before.
    pub repetition: u32,
}

impl Shared {
    /// The order of this epoch, without pictures known to be unusable.
    pub(super) fn order(&self, epoch: u64) -> Vec<Draw> {
        let options = &self.options;
        let mut order: Vec<Draw> = match options.shuffle && options.balance {
            true => self.balanced(epoch),
            false => (0..self.samples.len()).map(|index| Draw { index, repetition: 0 }).collect(),
        };
        if options.shuffle {
            Random::new(options.seed, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
        }
        if !options.strict {
            let skipped = lock(&self.skipped);
            order.retain(|draw| !skipped.contains_key(&draw.index));
        }
        order
    }

    /// As many places as there are pictures, given out to the classes in turn. A class fills its own with all its pictures in a
    /// random order, then with all of them again. Unusable pictures count: finding one must not change the rest of the order.
    fn balanced(&self, epoch: u64) -> Vec<Draw> {
        let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, sample) in self.samples.iter().enumerate() {
            classes.entry(sample.label).or_default().push(index);
        }
        let (places, count) = (self.samples.len(), classes.len().max(1));
        // The classes that get one place more differ from epoch to epoch.
        let first = (epoch % count as u64) as usize;
        let mut order = Vec::with_capacity(places);
        for (place, (&label, pictures)) in classes.iter_mut().enumerate() {
            let key = (label as u64).wrapping_add(1);
            Random::new(self.options.seed, epoch, key, Purpose::Shuffle).shuffle(pictures);
            let turn = (place + count - first) % count;
            let share = places / count + usize::from(turn < places % count);
            let own = (0..share).map(|i| Draw {
                index: pictures[i % pictures.len()],
                repetition: (i / pictures.len()) as u32,
            });
            order.extend(own);
        }
        order
    }

    /// The epoch whose random numbers a place of an epoch takes. Repetitions take those of epochs that no run reaches.
    pub(super) fn random_epoch(&self, draw: Draw, epoch: u64) -> u64 {
        match self.options.views {
            Some(views) => Loader::view(draw, epoch, views),
            None => epoch.wrapping_add(u64::from(draw.repetition) << 32),
        }
    }
}
