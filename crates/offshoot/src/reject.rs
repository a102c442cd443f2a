//! Which pictures are said to be of none of the classes.

use std::cmp::Ordering;
use std::str::FromStr;

use offshoot_graph::remedy::THRESHOLD;
use offshoot_graph::{Metadata, Score};
use offshoot_infer::decision::{rounded, score};

use crate::error::{Error, Result};

/// From which score on a picture is accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// What was fitted on validation pictures and came with the model.
    Auto,
    /// A probability, 0 to 1: that of the best class, or of each class where a picture may have any number.
    Of(f64),
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Threshold, String> {
        if text == "auto" {
            return Ok(Threshold::Auto);
        }
        let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
        number.map(Threshold::Of).ok_or_else(|| "give auto, or a number from 0 to 1".into())
    }
}

/// A score and the lowest one that is accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rejecting {
    pub(crate) score: Score,
    threshold: f64,
}

/// A probability.
impl From<f64> for Rejecting {
    fn from(threshold: f64) -> Rejecting {
        Rejecting { score: Score::Probability, threshold }
    }
}

impl Rejecting {
    /// What `threshold` asks for of a model for one class a picture, whose network may give probabilities.
    ///
    /// # Errors
    /// When the model has no threshold of its own, or one that cannot be compared with what it gives.
    pub(crate) fn new(
        metadata: &Metadata,
        gives_probabilities: bool,
        threshold: Threshold,
    ) -> Result<Rejecting> {
        match (threshold, metadata.rejection) {
            (Threshold::Of(probability), _) => Ok(Rejecting::from(probability)),
            (Threshold::Auto, None) => Err(Error::advice(format_args!(
                "this model has no reject threshold: training fits one on 20 validation pictures or more, of which some are right with the \
                 precision asked for; give a probability with {THRESHOLD}"
            ))),
            (Threshold::Auto, Some(own)) if own.score == Score::Energy && gives_probabilities => {
                Err(Error::advice(format_args!(
                    "the reject threshold of this model is one of the energy of logits, and its graph ends in probabilities; give a probability \
                     with {THRESHOLD}"
                )))
            }
            (Threshold::Auto, Some(own)) => Ok(Rejecting { score: own.score, threshold: own.threshold }),
        }
    }

    /// Whether a picture with these logits and calibrated probabilities is of none of the classes.
    pub(crate) fn rejects(self, logits: &[f32], probabilities: &[f64]) -> bool {
        self.is_below(score(self.score, logits, probabilities))
    }

    /// Whether a score is too low. One that is no number is.
    pub(crate) fn is_below(self, score: f64) -> bool {
        let reaches = rounded(score).partial_cmp(&self.threshold).is_some_and(Ordering::is_ge);
        !reaches
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Rejection;

    use super::*;

    #[test]
    fn texts_are_auto_or_probabilities() {
        assert_eq!("auto".parse(), Ok(Threshold::Auto));
        assert_eq!("0.25".parse(), Ok(Threshold::Of(0.25)));
        for text in ["", "Auto", "-0.1", "1.1", "NaN", "inf"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }

    #[test]
    fn pictures_below_the_threshold_are_rejected() {
        let rejection = |score| Some(Rejection { score, threshold: 0.75, precision: 0.9 });
        let model = |score| Metadata { rejection: rejection(score), ..Metadata::default() };
        let probability = Rejecting::new(&model(Score::Probability), true, Threshold::Auto).unwrap();
        assert!(probability.rejects(&[9.0, 9.0], &[0.74, 0.26]));
        assert!(!probability.rejects(&[0.0, 0.0], &[0.25, 0.75]));
        let energy = Rejecting::new(&model(Score::Energy), false, Threshold::Auto).unwrap();
        // log(2) of equal logits of 0.
        assert!(energy.rejects(&[0.0, 0.0], &[0.9, 0.1]) && !energy.rejects(&[0.2, 0.0], &[0.5, 0.5]));
        assert!(energy.is_below(f64::NAN));
        let number = Rejecting::new(&model(Score::Energy), true, Threshold::Of(0.6)).unwrap();
        assert!(number.rejects(&[9.0, 9.0], &[0.5, 0.5]) && !number.rejects(&[0.0, 0.0], &[0.4, 0.6]));
        let refused = |metadata: &Metadata, gives| {
            Rejecting::new(metadata, gives, Threshold::Auto).unwrap_err().to_string()
        };
        assert!(refused(&Metadata::default(), false).contains("no reject threshold"));
        assert!(refused(&model(Score::Energy), true).contains("ends in probabilities"));
    }
}
