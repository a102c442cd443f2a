//! How the learning rate changes from step to step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The factor that the warm-up starts from.
pub const WARMUP_START: f64 = 0.01;

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The rate stays.
    Constant,
    /// The rate falls to zero along half a cosine.
    Cosine,
}

/// A learning rate for each step.
///
/// With `w` warm-up steps out of `n`, step `t` (from 0) runs at this factor of the rate:
///
/// - `t < w`: `0.01 + 0.99 t / w`
/// - then, for [`ScheduleKind::Cosine`]: `(1 + cos(pi (t - w) / (n - w))) / 2`; for [`ScheduleKind::Constant`]: 1
///
/// That is PyTorch's `SequentialLR` of `LinearLR(start_factor=0.01, total_iters=w)` and
/// `CosineAnnealingLR(T_max=n - w)` with one scheduler step after each optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// A schedule of `steps` steps, of which the part `warmup` (0..1, rounded down to whole steps) warms up.
    pub fn new(kind: ScheduleKind, warmup: f64, steps: u64) -> Schedule {
        Schedule { kind, warmup: (warmup * steps as f64) as u64, steps }
    }

    /// The factor of the learning rate at step `t`, from 0.
    pub fn factor(&self, t: u64) -> f64 {
        if t < self.warmup {
            return WARMUP_START + (1.0 - WARMUP_START) * t as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => {
                let rest = (self.steps - self.warmup).max(1) as f64;
                // libm in Rust: the same bits on every machine.
                (1.0 + libm::cos(PI * ((t - self.warmup) as f64 / rest).min(1.0))) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_stays_and_falls() {
        let cosine = Schedule::new(ScheduleKind::Cosine, 0.1, 100);
        assert_eq!(cosine.factor(0), WARMUP_START);
        assert_eq!(cosine.factor(10), 1.0);
        assert!((cosine.factor(55) - 0.5).abs() < 1e-12);
        assert!(cosine.factor(99) > 0.0 && cosine.factor(99) < 0.001);
        assert_eq!(cosine.factor(1000), 0.0);
        assert_eq!(Schedule::new(ScheduleKind::Constant, 0.0, 0).factor(5), 1.0);
        assert_eq!(Schedule::new(ScheduleKind::Cosine, 0.5, 1).factor(0), 1.0);
    }
}
