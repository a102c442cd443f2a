//! Pictures that turn out to be unusable while a run goes on: how many may be lost before that is told of, or ends the run.

use std::collections::HashSet;
use std::path::PathBuf;

use offshoot_data::Sample;

use super::Training;
use crate::error::TrainError;
use crate::events::Event;
use crate::health::listed;
use crate::pictures::Pictures;

/// That more than this part of a set is lost is told of.
const MANY: f64 = 0.1;

/// Classes whose losses are named.
const NAMED: usize = 10;

/// What was told of pictures that were left out.
#[derive(Default)]
pub(super) struct Lost {
    /// Those that were named.
    reported: HashSet<PathBuf>,
    /// Whether it was told that many pictures of training and of validation were left out.
    many_train: bool,
    many_val: bool,
}

impl Training<'_, '_> {
    /// Tells of the pictures that were left out since the last time.
    pub(super) fn report_skipped(&mut self, pictures: &Pictures) {
        for error in pictures.skipped() {
            if self.lost.reported.insert(error.path.clone()) {
                (self.control.progress)(Event::Skipped(&error));
            }
        }
    }

    /// Looks at which pictures of `set`, `train` or `val`, could not be used (places with reasons). Losing many is told of once.
    ///
    /// # Errors
    /// When no picture is left to validate with, or none of a class that had some.
    pub(super) fn check_left(
        &mut self,
        set: &'static str,
        unusable: &[(usize, String)],
    ) -> Result<(), TrainError> {
        let data = self.given.data;
        let samples = if set == "val" { &data.val } else { &data.train };
        let mut counts = vec![(0_usize, 0_usize); data.classes.len()];
        samples.iter().flat_map(Sample::classes).for_each(|label| counts[label].1 += 1);
        let lost = || unusable.iter().filter_map(|(place, reason)| Some((samples.get(*place)?, reason)));
        lost().flat_map(|(sample, _)| sample.classes()).for_each(|label| counts[label].0 += 1);
        let gone = |label: usize| counts[label].0 > 0 && counts[label].0 == counts[label].1;
        let first = lost().find(|(sample, _)| sample.classes().any(gone));
        if let Some((sample, reason)) = first {
            let classes: Vec<usize> = (0..counts.len()).filter(|&label| gone(label)).collect();
            let count = lost().filter(|(sample, _)| sample.classes().any(gone)).count();
            let names = classes.iter().map(|&label| data.classes[label].clone());
            let names = if count == samples.len() { Vec::new() } else { names.collect() };
            let first = format!("{}: {reason}", offshoot_graph::text::shown(&sample.path));
            return Err(TrainError::Lost { set, classes: names, count, first });
        }
        let told = if set == "val" { &mut self.lost.many_val } else { &mut self.lost.many_train };
        let count = lost().count();
        if count as f64 > MANY * samples.len() as f64 && !std::mem::replace(told, true) {
            let what = if set == "val" { "validation" } else { "training" };
            let by_class: Vec<String> = (data.classes.iter().zip(&counts))
                .filter(|(_, (lost, _))| *lost > 0)
                .map(|(class, (lost, all))| {
                    format!("{} {lost} of {all}", offshoot_graph::text::escaped(class))
                })
                .collect();
            (self.control.progress)(Event::Warning(&format!(
                "{count} of the {} {what} pictures could not be used and were left out: {}",
                samples.len(),
                listed(&by_class, NAMED, String::clone)
            )));
        }
        Ok(())
    }
}
