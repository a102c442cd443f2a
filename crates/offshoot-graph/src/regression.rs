//! What a network that predicts numbers is trained for: the loss, and the scale of each number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The error of predictions of numbers that training minimizes. Each is a function of r, the difference of prediction and target
/// divided by the target's standard deviation over the training pictures, and the mean over pictures and targets is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RegressionLoss {
    /// The squared error, r^2, as `torch.nn.MSELoss`.
    #[default]
    Mse,
    /// The absolute error, |r|, as `torch.nn.L1Loss`.
    L1,
    /// Huber's loss, as `torch.nn.HuberLoss`: r^2 / 2 where |r| is at most `delta`, else `delta` (|r| - `delta` / 2).
    Huber {
        /// Where the loss becomes a line, above 0, in standard deviations.
        delta: f32,
    },
}

/// Where Huber's loss becomes a line unless something else is given, as in PyTorch.
const DELTA: f32 = 1.0;
/// The numbers that may be given.
const DELTAS: std::ops::RangeInclusive<f32> = 1e-3..=1e3;

impl RegressionLoss {
    /// The loss of a difference `r`, in standard deviations.
    pub fn of(self, r: f64) -> f64 {
        match self {
            RegressionLoss::Mse => r * r,
            RegressionLoss::L1 => r.abs(),
            RegressionLoss::Huber { delta } => {
                let (size, delta) = (r.abs(), f64::from(delta));
                if size <= delta { 0.5 * r * r } else { delta * (size - 0.5 * delta) }
            }
        }
    }
}

impl fmt::Display for RegressionLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegressionLoss::Mse => f.write_str("mse"),
            RegressionLoss::L1 => f.write_str("l1"),
            RegressionLoss::Huber { delta } => write!(f, "huber:delta={delta}"),
        }
    }
}

/// A text that names no loss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give mse, l1 or huber:delta=1 (0.001 to 1000)")]
pub struct RegressionLossError;

impl FromStr for RegressionLoss {
    type Err = RegressionLossError;

    fn from_str(text: &str) -> Result<RegressionLoss, RegressionLossError> {
        match text {
            "mse" => Ok(RegressionLoss::Mse),
            "l1" => Ok(RegressionLoss::L1),
            "huber" => Ok(RegressionLoss::Huber { delta: DELTA }),
            _ => {
                let delta = text.strip_prefix("huber:delta=").and_then(|delta| delta.parse().ok());
                let delta = delta.filter(|delta| DELTAS.contains(delta)).ok_or(RegressionLossError)?;
                Ok(RegressionLoss::Huber { delta })
            }
        }
    }
}

impl TryFrom<String> for RegressionLoss {
    type Error = RegressionLossError;

    fn try_from(text: String) -> Result<RegressionLoss, RegressionLossError> {
        text.parse()
    }
}

impl From<RegressionLoss> for String {
    fn from(loss: RegressionLoss) -> String {
        loss.to_string()
    }
}

/// What a target is like over the training pictures, in its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, above 0: the root of the mean squared difference from the mean.
    pub deviation: f64,
}

impl Scale {
    /// That of a target that is left as it is.
    pub const NONE: Scale = Scale { mean: 0.0, deviation: 1.0 };

    /// The largest mean that f32 leaves room for the deviation beside, in deviations.
    const FURTHEST: f64 = 1e5;

    /// That of `values`, of which there is at least one; in two passes, so that large means cost no digits.
    ///
    /// # Errors
    /// When they are all the same, or differ by less than f32 can tell apart beside their mean: what is wrong, in words.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Result<Scale, String> {
        let (count, sum) = values.clone().fold((0u64, 0.0), |(count, sum), x| (count + 1, sum + x));
        let mean = sum / count.max(1) as f64;
        let squares: f64 = values.map(|x| (x - mean) * (x - mean)).sum();
        let deviation = (squares / count.max(1) as f64).sqrt();
        match () {
            () if deviation == 0.0 => {
                Err(format!("is {mean} for all training pictures; there is nothing to learn of it"))
            }
            () if Scale::usable(mean, deviation) => Ok(Scale { mean, deviation }),
            () if mean.abs() > Scale::FURTHEST * deviation => Err(format!(
                "has the mean {mean:e} and the standard deviation {deviation:e}, which f32 cannot tell apart; subtract a constant \
                 from it"
            )),
            () => Err(format!(
                "has the mean {mean:e} and the standard deviation {deviation:e}, which f32 cannot hold"
            )),
        }
    }

    /// Whether a network can compute with it in f32.
    fn usable(mean: f64, deviation: f64) -> bool {
        let fits = |x: f64| (1e-30..=1e30).contains(&x);
        fits(deviation) && (mean == 0.0 || mean.abs() <= 1e30) && mean.abs() <= Scale::FURTHEST * deviation
    }

    /// Whether a network can compute with it in f32.
    pub fn is_usable(self) -> bool {
        Scale::usable(self.mean, self.deviation)
    }
}

/// What a network that predicts numbers was trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// What was minimized.
    pub loss: RegressionLoss,
    /// The scale of each target. The graph gives targets in their own units; its last operators apply the scale, or its last layer does.
    pub scales: Vec<Scale>,
}

impl Regression {
    /// What a difference of prediction and target is multiplied by before the loss is taken, for each target.
    pub fn inverse_deviations(&self) -> Vec<f32> {
        self.scales.iter().map(|scale| (1.0 / scale.deviation) as f32).collect()
    }

    /// The mean loss over the targets of a picture.
    ///
    /// # Panics
    /// When there are not as many predictions and targets as scales.
    pub fn loss_of(&self, predictions: &[f32], targets: &[f64]) -> f64 {
        assert_eq!((predictions.len(), targets.len()), (self.scales.len(), self.scales.len()));
        let all = predictions.iter().zip(targets).zip(&self.scales);
        let sum: f64 = all.map(|((&y, t), scale)| self.loss.of((f64::from(y) - t) / scale.deviation)).sum();
        sum / self.scales.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_read_as_it_is_written() {
        for text in ["mse", "l1", "huber:delta=0.5", "huber:delta=1"] {
            assert_eq!(text.parse::<RegressionLoss>().unwrap().to_string(), text);
        }
        assert_eq!("huber".parse(), Ok(RegressionLoss::Huber { delta: 1.0 }));
        for text in
            ["", "MSE", "huber:", "huber:delta=0", "huber:delta=NaN", "huber:delta=-1", "huber:delta=inf"]
        {
            assert_eq!(text.parse::<RegressionLoss>(), Err(RegressionLossError), "{text}");
        }
        assert!(RegressionLoss::Huber { delta: 1.0 }.of(f64::NAN).is_nan());
    }

    #[test]
    fn a_scale_is_mean_and_deviation() {
        let scale = |values: &[f64]| Scale::of(values.iter().copied());
        assert_eq!(scale(&[1.0, 3.0]), Ok(Scale { mean: 2.0, deviation: 1.0 }));
        assert!(scale(&[4.0, 4.0]).is_err_and(|why| why.contains("is 4 for all")));
        assert!(scale(&[1e9, 1e9 + 1.0]).is_err_and(|why| why.contains("subtract a constant")));
        assert!(scale(&[-1e35, 1e35]).is_err_and(|why| why.contains("cannot hold")));
        assert!(scale(&[f64::NAN, 1.0]).is_err() && scale(&[0.0, 1e-38]).is_err());
        assert!(Scale::NONE.is_usable());
        assert!(!Scale { mean: f64::NAN, deviation: 1.0 }.is_usable());
        assert!(!Scale { mean: 0.0, deviation: 0.0 }.is_usable());
    }
}
