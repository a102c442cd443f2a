//! How accurate a classifier is on the pictures that it does not reject: selective classification (Geifman and El-Yaniv, 2017).

use serde::Serialize;

use crate::calibration::LEAST_PICTURES;

/// The fewest pictures that a fitted threshold accepts.
const LEAST_ACCEPTED: usize = 10;

/// The parts of the pictures whose accuracy is reported.
const COVERAGES: [f64; 6] = [1.0, 0.95, 0.9, 0.8, 0.7, 0.5];

/// What is accepted at a threshold of the score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accepted {
    /// The fraction of the pictures whose score reaches the threshold.
    pub coverage: f64,
    /// The fraction of these whose best class is the label; `None` where there are none.
    pub accuracy: Option<f64>,
    /// The threshold: pictures with this score or a higher one are accepted.
    pub threshold: f64,
}

/// Pictures of known classes, each with its score and whether its best class is the label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The highest score first.
    pictures: Vec<(f64, bool)>,
}

/// The pictures down to one score: how many, and how many of them are right.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    pictures: usize,
    right: usize,
}

impl Selection {
    /// Of pictures in any order.
    pub fn new(pictures: impl IntoIterator<Item = (f64, bool)>) -> Selection {
        let mut pictures: Vec<(f64, bool)> = pictures.into_iter().collect();
        pictures.sort_by(|a, b| b.0.total_cmp(&a.0));
        Selection { pictures }
    }

    /// A step for each score, the highest first: pictures with equal scores are accepted together.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut right = 0;
        for (place, &(score, is_right)) in self.pictures.iter().enumerate() {
            right += usize::from(is_right);
            let step = Step { score, pictures: place + 1, right };
            match steps.last_mut().filter(|last| last.score == score) {
                Some(last) => *last = step,
                None => steps.push(step),
            }
        }
        steps
    }

    /// The accuracy on parts of the pictures, those with the highest scores: on all, on 95 %, 90 %, 80 %, 70 % and half of them, or the
    /// next larger part where scores are equal. Each part stands there once; none without pictures.
    pub fn coverage(&self) -> Vec<Accepted> {
        let (all, steps) = (self.pictures.len(), self.steps());
        let at = |coverage: f64| {
            let wanted = (coverage * all as f64).ceil() as usize;
            steps.iter().find(|step| step.pictures >= wanted)
        };
        let mut found: Vec<Accepted> = Vec::new();
        for step in COVERAGES.into_iter().filter_map(at) {
            let accepted = Accepted {
                coverage: step.pictures as f64 / all as f64,
                accuracy: Some(step.right as f64 / step.pictures as f64),
                threshold: step.score,
            };
            if found.last() != Some(&accepted) {
                found.push(accepted);
            }
        }
        found
    }

    /// What a threshold accepts.
    pub fn at(&self, threshold: f64) -> Accepted {
        let accepted = self.pictures.iter().take_while(|(score, _)| *score >= threshold);
        let (count, right) =
            accepted.fold((0, 0), |(count, right), (_, is)| (count + 1, right + usize::from(*is)));
        let part = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        Accepted {
            coverage: part(count, self.pictures.len()).unwrap_or(0.0),
            accuracy: part(right, count),
            threshold,
        }
    }

    /// The lowest threshold at which the fraction `precision` of the accepted pictures is classified correctly: half way to the next lower
    /// score, or the lowest score where all pictures are accepted. `None` where no threshold accepts 10 pictures with that precision,
    /// with fewer than [`LEAST_PICTURES`], and where a score is not finite.
    pub fn threshold(&self, precision: f64) -> Option<f64> {
        let usable = self.pictures.len() >= LEAST_PICTURES && self.pictures.iter().all(|p| p.0.is_finite());
        let steps = if usable { self.steps() } else { Vec::new() };
        let precise = |step: &Step| {
            step.pictures >= LEAST_ACCEPTED && step.right as f64 >= precision * step.pictures as f64
        };
        let last = steps.iter().rposition(precise)?;
        let lowest = steps[last].score;
        // Between neighbors there is no number.
        let between = steps.get(last + 1).map(|next| (lowest.midpoint(next.score), next.score));
        Some(between.filter(|(middle, next)| middle > next).map_or(lowest, |(middle, _)| middle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pictures_and_scores_that_are_no_numbers_have_no_threshold() {
        assert_eq!(Selection::default().coverage(), []);
        assert_eq!(Selection::default().at(0.5), Accepted { coverage: 0.0, accuracy: None, threshold: 0.5 });
        let pictures = |count: usize| Selection::new((0..count).map(|i| (i as f64, true)));
        assert_eq!(pictures(19).threshold(0.9), None);
        assert_eq!(pictures(20).threshold(0.9), Some(0.0), "all are accepted: the lowest score");
        let broken = (0..30).map(|i| (if i == 7 { f64::NAN } else { i as f64 }, true));
        assert_eq!(Selection::new(broken).threshold(0.5), None);
        let wrong = Selection::new((0..30).map(|i| (f64::from(i), i < 10)));
        assert_eq!(wrong.threshold(0.9), None);
        // The ten with the highest scores are right, the others are wrong: half way between them.
        let some = Selection::new((0..30).map(|i| (f64::from(i), i >= 20)));
        assert_eq!(some.threshold(1.0), Some(19.5));
        let above = f64::from_bits(1.0f64.to_bits() + 1);
        let neighbors = Selection::new((0..30).map(|i| (if i < 20 { above } else { 1.0 }, i < 20)));
        assert_eq!(neighbors.threshold(1.0), Some(above));
    }
}
