//! Update rules: what training does to the values that it keeps from step to step.

/// An operator on kept values. Those that give new values read the old ones first and have an output for each; a graph says by
/// [`crate::Graph::add_result`] that these take their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateOp {
    /// (gradient, ..) -> f64 \[n\]: the sum of the squares of each
    SquareSums,
    /// (square sums f64 \[n\], unscale scalar, loss scalar?) -> f32 \[2\]: what gradients are multiplied by, unscale among it, and
    /// the largest size of an element. Both are NaN where a sum or the loss is not finite, so that no rule gives a finite number.
    Clip(Clip),
    /// (weight, momentum, gradient, clip \[2\], rates [p, 8]) -> (weight, momentum): `torch.optim.SGD` with dampening 0
    Sgd {
        /// Whether the momentum is Nesterov's.
        nesterov: bool,
        /// The row of the rates ([`SgdRates`]) that holds this weight's.
        row: usize,
    },
    /// (weight, mean, mean of squares, gradient, clip \[2\], rates [p, 8]) -> the first three: `torch.optim.Adam` and `AdamW`
    Adam {
        /// The row of the rates ([`AdamRates`]) that holds this weight's.
        row: usize,
    },
    /// (average, x, part scalar) -> average + part (x - average), PyTorch's `lerp_`; x where part is 1
    Average,
}

impl UpdateOp {
    /// How many of its inputs it gives new values of.
    pub fn kept(&self) -> usize {
        match self {
            UpdateOp::SquareSums | UpdateOp::Clip(_) => 0,
            UpdateOp::Average => 1,
            UpdateOp::Sgd { .. } => 2,
            UpdateOp::Adam { .. } => 3,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            UpdateOp::SquareSums => "Update.SquareSums",
            UpdateOp::Clip(_) => "Update.Clip",
            UpdateOp::Sgd { .. } => "Update.Sgd",
            UpdateOp::Adam { .. } => "Update.Adam",
            UpdateOp::Average => "Update.Average",
        }
    }
}

/// What is done to gradients that are too large.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Clip {
    /// Nothing.
    #[default]
    Off,
    /// All are scaled down together where their common 2-norm is above this (`torch.nn.utils.clip_grad_norm_`).
    Norm(f64),
    /// Each element is limited to this size (`torch.nn.utils.clip_grad_value_`).
    Value(f64),
}

impl Clip {
    /// The result of [`UpdateOp::Clip`].
    pub fn change(self, square_sums: &[f64], unscale: f32, loss: f32) -> [f32; 2] {
        let squares: f64 = square_sums.iter().sum();
        if !squares.is_finite() || !loss.is_finite() {
            return [f32::NAN; 2];
        }
        let norm = squares.sqrt() * f64::from(unscale);
        match self {
            Clip::Off => [unscale, f32::INFINITY],
            Clip::Norm(most) => [unscale * (most / (norm + 1e-6)).min(1.0) as f32, f32::INFINITY],
            Clip::Value(most) => [unscale, most as f32],
        }
    }
}

/// Numbers in a row of rates.
pub const RATES: usize = 8;

/// A row of rates for [`UpdateOp::Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdRates {
    /// The learning rate.
    pub lr: f32,
    /// The fraction of the weight that is added to its gradient.
    pub decay: f32,
    /// The fraction of the last update in the next one.
    pub momentum: f32,
}

/// A row of rates for [`UpdateOp::Adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamRates {
    /// The fraction of the weight that is added to its gradient (Adam).
    pub decay: f32,
    /// What the weight is multiplied by (AdamW).
    pub shrink: f32,
    /// The part of the gradient in the new mean.
    pub mix1: f32,
    /// The part of the old mean of squares in the new one.
    pub beta2: f32,
    /// The part of the squared gradient in it.
    pub mix2: f32,
    /// The square root of the second moment's bias correction.
    pub correction: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// The learning rate over the first moment's bias correction.
    pub step_size: f32,
}

impl SgdRates {
    /// As a row.
    pub fn to_row(self) -> [f32; RATES] {
        [self.lr, self.decay, self.momentum, 0.0, 0.0, 0.0, 0.0, 0.0]
    }

    /// Of a row.
    pub fn of_row(&[lr, decay, momentum, ..]: &[f32; RATES]) -> SgdRates {
        SgdRates { lr, decay, momentum }
    }
}

impl AdamRates {
    /// As a row.
    pub fn to_row(self) -> [f32; RATES] {
        let AdamRates { decay, shrink, mix1, beta2, mix2, correction, epsilon, step_size } = self;
        [decay, shrink, mix1, beta2, mix2, correction, epsilon, step_size]
    }

    /// Of a row.
    pub fn of_row(
        &[decay, shrink, mix1, beta2, mix2, correction, epsilon, step_size]: &[f32; RATES],
    ) -> AdamRates {
        AdamRates { decay, shrink, mix1, beta2, mix2, correction, epsilon, step_size }
    }
}
