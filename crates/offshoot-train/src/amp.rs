//! Mixed precision: its settings, and the scaling of the loss that keeps small f16 gradients from vanishing.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::{DType, Tensor, Weights};
use serde::{Deserialize, Serialize};

use crate::optimizer::StateError;

/// Mixed precision: what activations and their gradients are stored in (see [`offshoot_graph::passes::autocast`]).
/// Weights, statistics and weight gradients are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// f32.
    #[default]
    Off,
    /// bf16: the range of f32 with 8 significant bits.
    Bf16,
    /// f16: 11 significant bits, and a small range, so that the loss is scaled ([`GradScaler`]).
    Fp16,
}

impl Amp {
    /// The half type, if there is one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Amp::Off => None,
            Amp::Bf16 => Some(DType::BF16),
            Amp::Fp16 => Some(DType::F16),
        }
    }

    /// What scales the loss, where gradients could vanish.
    pub fn scaler(self) -> Option<GradScaler> {
        match self {
            Amp::Off | Amp::Bf16 => None,
            Amp::Fp16 => Some(GradScaler::default()),
        }
    }
}

impl FromStr for Amp {
    type Err = String;

    fn from_str(text: &str) -> Result<Amp, String> {
        match text {
            "off" => Ok(Amp::Off),
            "bf16" => Ok(Amp::Bf16),
            "fp16" => Ok(Amp::Fp16),
            _ => Err("give off, bf16 or fp16".into()),
        }
    }
}

impl fmt::Display for Amp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Amp::Off => "off",
            Amp::Bf16 => "bf16",
            Amp::Fp16 => "fp16",
        })
    }
}

/// When a [`GradScaler`] changes its scale. The defaults are those of `torch.amp.GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalerOptions {
    /// The first scale.
    pub init_scale: f32,
    /// The scale is multiplied by it after `growth_interval` good steps in a row.
    pub growth_factor: f64,
    /// The scale is multiplied by it after a step with a gradient that is not finite.
    pub backoff_factor: f64,
    /// See `growth_factor`.
    pub growth_interval: u32,
}

impl Default for ScalerOptions {
    fn default() -> ScalerOptions {
        ScalerOptions { init_scale: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

/// A scale for the loss, as large as the gradients allow: `torch.amp.GradScaler`.
///
/// The loss is multiplied by [`GradScaler::scale`] before it is differentiated, and the gradients of the parameters by
/// [`GradScaler::inverse`] before they are used. A step with a gradient that is not finite is skipped.
#[derive(Clone, Debug, PartialEq)]
pub struct GradScaler {
    options: ScalerOptions,
    scale: f32,
    /// Good steps since the scale has changed.
    good_steps: u32,
}

impl Default for GradScaler {
    fn default() -> GradScaler {
        GradScaler::new(ScalerOptions::default())
    }
}

impl GradScaler {
    /// A scaler before its first step.
    pub fn new(options: ScalerOptions) -> GradScaler {
        GradScaler { options, scale: options.init_scale, good_steps: 0 }
    }

    /// What the loss is to be multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// 1 / scale.
    pub fn inverse(&self) -> f32 {
        (1.0 / f64::from(self.scale)) as f32
    }

    /// Ends a step, which was skipped if it `overflowed`: one of its gradients was not finite.
    pub fn update(&mut self, overflowed: bool) {
        if overflowed {
            self.scale = (f64::from(self.scale) * self.options.backoff_factor) as f32;
            self.good_steps = 0;
            return;
        }
        self.good_steps += 1;
        if self.good_steps == self.options.growth_interval {
            let grown = (f64::from(self.scale) * self.options.growth_factor) as f32;
            if grown.is_finite() {
                self.scale = grown;
            }
            self.good_steps = 0;
        }
    }

    /// What changes from step to step: `scale` and `growth_tracker`, as scalars.
    pub fn state(&self) -> Weights {
        // A number of steps below the growth interval is exact in f32 as far as 2^24.
        let good_steps = self.good_steps as f32;
        [("scale", self.scale), ("growth_tracker", good_steps)]
            .map(|(name, x)| (name.to_owned(), Tensor::full([], x)))
            .into()
    }

    /// Takes over what [`GradScaler::state`] gave.
    ///
    /// # Errors
    /// When one of the two is missing or out of range; nothing is changed then.
    pub fn load_state(&mut self, state: &Weights) -> Result<(), StateError> {
        let read = |name: &str, fits: &dyn Fn(f32) -> bool| match state.get(name).and_then(Tensor::as_f32) {
            Some(&[x]) if fits(x) => Ok(x),
            _ => Err(StateError(name.to_owned())),
        };
        let scale = read("scale", &|x| x.is_finite() && x >= 0.0)?;
        let interval = f64::from(self.options.growth_interval);
        let good_steps =
            read("growth_tracker", &|x| x.fract() == 0.0 && (0.0..interval).contains(&f64::from(x)))?;
        (self.scale, self.good_steps) = (scale, good_steps as u32);
        Ok(())
    }
}
