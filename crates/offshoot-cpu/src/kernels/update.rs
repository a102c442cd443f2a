//! The update rules of training, as `torch.optim` computes them, and what they need to know of the gradients.

use std::sync::atomic::{AtomicU64, Ordering};

use offshoot_graph::op::{AdamRates, SgdRates};
use rayon::prelude::*;

use super::parallel::for_each_task;

/// Elements that one task takes. Fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// The sum of the squares, in f64: chunk by chunk and then over the chunks, bit-identical for any number of threads.
pub(crate) fn square_sum(values: &[f32]) -> f64 {
    let sums: Vec<AtomicU64> = (0..values.len().div_ceil(CHUNK)).map(|_| AtomicU64::new(0)).collect();
    for_each_task(sums.len(), values.len(), |i| {
        let chunk = &values[i * CHUNK..values.len().min((i + 1) * CHUNK)];
        let sum = chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        sums[i].store(sum.to_bits(), Ordering::Relaxed);
    });
    sums.into_iter().map(|sum| f64::from_bits(sum.into_inner())).sum()
}

/// What a gradient goes through before it is used: the result of [`offshoot_graph::op::UpdateOp::Clip`].
#[derive(Clone, Copy)]
pub(crate) struct Change {
    factor: f32,
    limit: f32,
}

impl Change {
    pub(crate) fn new(&[factor, limit]: &[f32; 2]) -> Change {
        Change { factor, limit }
    }

    #[inline]
    fn of(self, gradient: f32) -> f32 {
        let gradient = gradient * self.factor;
        // Not `clamp`, which panics at a limit that is not a number.
        if gradient > self.limit {
            self.limit
        } else if gradient < -self.limit {
            -self.limit
        } else {
            gradient
        }
    }
}

/// SGD with momentum.
#[derive(Clone, Copy)]
pub(crate) struct Sgd {
    pub(crate) change: Change,
    pub(crate) rates: SgdRates,
    pub(crate) nesterov: bool,
}

impl Sgd {
    /// The new (weight, momentum).
    #[inline]
    fn next(self, weight: f32, gradient: f32, buffer: f32) -> (f32, f32) {
        let SgdRates { lr, decay, momentum } = self.rates;
        let gradient = self.change.of(gradient) + decay * weight;
        let buffer = buffer * momentum + gradient;
        let direction = if self.nesterov { gradient + momentum * buffer } else { buffer };
        (weight - lr * direction, buffer)
    }

    /// Whether [`Sgd::update`] would leave finite numbers only.
    pub(crate) fn stays_finite(self, weight: &[f32], momentum: &[f32], gradient: &[f32]) -> bool {
        let chunks = weight.par_chunks(CHUNK).zip(momentum.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
        chunks.all(|((w, m), g)| {
            let finite = w.iter().zip(m).zip(g).map(|((&w, &m), &g)| {
                let (w, m) = self.next(w, g, m);
                w.is_finite() & m.is_finite()
            });
            finite.fold(true, |all, one| all & one)
        })
    }

    /// Gives the weights and their momentum the values that follow.
    pub(crate) fn update(self, weight: &mut [f32], momentum: &mut [f32], gradient: &[f32]) {
        let chunks = weight.par_chunks_mut(CHUNK).zip(momentum.par_chunks_mut(CHUNK));
        chunks.zip(gradient.par_chunks(CHUNK)).for_each(|((w, m), g)| {
            for ((w, m), &g) in w.iter_mut().zip(m).zip(g) {
                (*w, *m) = self.next(*w, g, *m);
            }
        });
    }
}

/// Adam and AdamW.
#[derive(Clone, Copy)]
pub(crate) struct Adam {
    pub(crate) change: Change,
    pub(crate) rates: AdamRates,
}

impl Adam {
    /// The new (weight, mean, mean of squares).
    #[inline]
    fn next(self, weight: f32, gradient: f32, mean: f32, square: f32) -> (f32, f32, f32) {
        let rates = self.rates;
        let gradient = self.change.of(gradient) + rates.decay * weight;
        let weight = weight * rates.shrink;
        let mean = mean + rates.mix1 * (gradient - mean);
        let square = square * rates.beta2 + rates.mix2 * gradient * gradient;
        let denominator = square.sqrt() / rates.correction + rates.epsilon;
        (weight - rates.step_size * (mean / denominator), mean, square)
    }

    /// Whether [`Adam::update`] would leave finite numbers only.
    pub(crate) fn stays_finite(self, weight: &[f32], moments: [&[f32]; 2], gradient: &[f32]) -> bool {
        let [mean, square] = moments.map(|moment| moment.par_chunks(CHUNK));
        let chunks = weight.par_chunks(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(mean).zip(square);
        chunks.all(|(((w, g), m), v)| {
            let finite = w.iter().zip(g).zip(m).zip(v).map(|(((&w, &g), &m), &v)| {
                let (w, m, v) = self.next(w, g, m, v);
                w.is_finite() & m.is_finite() & v.is_finite()
            });
            finite.fold(true, |all, one| all & one)
        })
    }

    /// Gives the weights and their moments the values that follow.
    pub(crate) fn update(self, weight: &mut [f32], moments: [&mut [f32]; 2], gradient: &[f32]) {
        let [mean, square] = moments.map(|moment| moment.par_chunks_mut(CHUNK));
        let chunks = weight.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(mean).zip(square);
        chunks.for_each(|(((w, g), m), v)| {
            for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                (*w, *m, *v) = self.next(*w, g, *m, *v);
            }
        });
    }
}

/// `average += part (x - average)`, PyTorch's `lerp_`; x where part is 1.
pub(crate) fn average(average: &mut [f32], x: &[f32], part: f32) {
    average.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(average, x)| {
        for (a, &x) in average.iter_mut().zip(x) {
            *a = match part {
                part if part >= 1.0 => x,
                part if part < 0.5 => *a + part * (x - *a),
                part => x - (x - *a) * (1.0 - part),
            };
        }
    });
}

/// Whether all are finite.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    values.par_chunks(CHUNK).all(|chunk| chunk.iter().fold(true, |all, x| all & x.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_squares_does_not_depend_on_the_number_of_threads() {
        let values: Vec<f32> = (0..100_000).map(|i| (i as f32).sin()).collect();
        let sum = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| square_sum(&values)).to_bits()
        };
        assert_eq!(sum(1), sum(3));
    }

    #[test]
    fn what_is_not_finite_is_found_anywhere() {
        for at in [0, CHUNK - 1, CHUNK, 2 * CHUNK] {
            let mut gradient = vec![0.5f32; 2 * CHUNK + 1];
            let (weight, moment) = (vec![1.0f32; gradient.len()], vec![0.0f32; gradient.len()]);
            let change = Change::new(&[1.0, 2.0]);
            let sgd = Sgd { change, rates: SgdRates { lr: 0.1, decay: 0.0, momentum: 0.9 }, nesterov: false };
            assert!(sgd.stays_finite(&weight, &moment, &gradient) && all_finite(&gradient));
            gradient[at] = f32::NAN;
            assert!(!sgd.stays_finite(&weight, &moment, &gradient) && !all_finite(&gradient));
            // Clipped by value an infinity is finite: the sum of squares finds it.
            gradient[at] = f32::INFINITY;
            assert!(sgd.stays_finite(&weight, &moment, &gradient));
            let refused = Sgd { change: Change::new(&[f32::NAN; 2]), ..sgd };
            assert!(!refused.stays_finite(&weight, &moment, &gradient));
        }
    }
}
