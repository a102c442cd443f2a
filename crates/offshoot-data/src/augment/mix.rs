//! Mixup and cutmix: each picture of a batch takes on a part of the one before it, and its target with it.

use offshoot_graph::random::{Purpose, Random};

/// How pictures of a batch are mixed: the parameters of the symmetric beta distributions that the parts are drawn from;
/// 0 is off. Where both are on, each picture draws which of them it goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mix {
    /// A weighted mean of two pictures (Zhang and others: "mixup", 2018).
    pub mixup: f64,
    /// A rectangle of another picture (Yun and others: "CutMix", 2019).
    pub cutmix: f64,
}

/// What a picture takes from the one before it in its batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partner {
    /// The other picture's class.
    pub label: i64,
    /// Its part of the target, 0..1. A blended picture keeps at least half of itself; a cut one may keep less.
    pub share: f32,
}

/// What is done to one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Blend(f32),
    /// Rows and columns from the other picture: top, left, bottom, right.
    Cut([usize; 4]),
}

impl Mix {
    /// Whether anything is mixed.
    pub fn is_on(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    /// Mixes a batch of inputs `[n, 3, size, size]`. `keys` are the pictures' places in the list of samples.
    pub(crate) fn apply(
        &self,
        images: &mut [f32],
        size: usize,
        (labels, keys): (&[i64], &[u64]),
        (seed, epoch): (u64, u64),
    ) -> Vec<Partner> {
        if !self.is_on() || labels.is_empty() {
            return Vec::new();
        }
        let before = images.to_vec();
        let len = 3 * size * size;
        let mixed = images.chunks_exact_mut(len).zip(keys).enumerate().map(|(i, (image, &key))| {
            let other = (i + labels.len() - 1) % labels.len();
            let change = self.draw(size, &mut Random::new(seed, epoch, key, Purpose::Mix));
            let share = change.apply(image, &before[other * len..][..len], size);
            Partner { label: labels[other], share }
        });
        mixed.collect()
    }

    fn draw(&self, size: usize, random: &mut Random) -> Change {
        let cut = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => random.uniform() < 0.5,
            (_, cutmix) => cutmix,
        };
        if !cut {
            let part = beta(self.mixup, random);
            return Change::Blend(part.min(1.0 - part) as f32);
        }
        // torchvision's rounding: half of each side cut off to whole pixels, then the rectangle to the picture.
        let half = (0.5 * (1.0 - beta(self.cutmix, random)).sqrt() * size as f64) as usize;
        let (x, y) = (random.below(size), random.below(size));
        let edges = |middle: usize| (middle.saturating_sub(half), (middle + half).min(size));
        let ((left, right), (top, bottom)) = (edges(x), edges(y));
        Change::Cut([top, left, bottom, right])
    }
}

impl Change {
    /// Gives the other picture's share.
    fn apply(self, image: &mut [f32], other: &[f32], size: usize) -> f32 {
        match self {
            Change::Blend(share) => {
                image.iter_mut().zip(other).for_each(|(x, y)| *x = (1.0 - share) * *x + share * y);
                share
            }
            Change::Cut([top, left, bottom, right]) => {
                for (row, (x, y)) in image.chunks_exact_mut(size).zip(other.chunks_exact(size)).enumerate() {
                    if (top..bottom).contains(&(row % size)) {
                        x[left..right].copy_from_slice(&y[left..right]);
                    }
                }
                ((bottom - top) * (right - left)) as f32 / (size * size) as f32
            }
        }
    }
}

/// From the beta distribution with both parameters `alpha`.
fn beta(alpha: f64, random: &mut Random) -> f64 {
    let (a, b) = (log_gamma_variate(alpha, random), log_gamma_variate(alpha, random));
    1.0 / (1.0 + libm::exp(b - a))
}

/// The logarithm of a draw from the gamma distribution (Marsaglia and Tsang, 2000); for small `alpha` the draw itself would be 0.
fn log_gamma_variate(alpha: f64, random: &mut Random) -> f64 {
    let uniform = |random: &mut Random| 1.0 - f64::from(random.uniform());
    let boost = if alpha < 1.0 { libm::log(uniform(random)) / alpha } else { 0.0 };
    let d = if alpha < 1.0 { alpha + 1.0 } else { alpha } - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let angle = std::f64::consts::TAU * f64::from(random.uniform());
        let x = (-2.0 * libm::log(uniform(random))).sqrt() * libm::cos(angle);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && libm::log(uniform(random)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return libm::log(d * v) + boost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(picture: u64) -> Random {
        Random::new(3, 0, picture, Purpose::Mix)
    }

    #[test]
    fn draws_have_the_moments_of_the_beta_distribution() {
        for alpha in [0.1, 0.2, 1.0, 4.0] {
            let draws: Vec<f64> = (0..40_000).map(|picture| beta(alpha, &mut stream(picture))).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / draws.len() as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.03, "{alpha}: variance {variance}, not {expected}");
        }
    }

    /// Three pictures whose values are their number.
    fn batch(size: usize) -> Vec<f32> {
        (0..3 * 3 * size * size).map(|i| (i / (3 * size * size)) as f32).collect()
    }

    #[test]
    fn a_blend_is_the_weighted_mean_and_the_target_has_the_same_weights() {
        let (size, mix) = (4, Mix { mixup: 1.0, cutmix: 0.0 });
        let mut images = batch(size);
        let partners = mix.apply(&mut images, size, (&[10, 11, 12], &[5, 6, 7]), (1, 2));
        assert_eq!(partners.iter().map(|p| p.label).collect::<Vec<_>>(), [12, 10, 11]);
        for (i, (image, partner)) in images.chunks(3 * size * size).zip(&partners).enumerate() {
            let other = (i + 2) % 3;
            let expected = (1.0 - partner.share) * i as f32 + partner.share * other as f32;
            assert!(partner.share > 0.0 && partner.share <= 0.5);
            assert!(image.iter().all(|x| (x - expected).abs() < 1e-6));
        }
        // The draw belongs to the picture, not to its place.
        let mut again = batch(size);
        let other = mix.apply(&mut again, size, (&[10, 11, 12], &[7, 5, 6]), (1, 2));
        assert_eq!(other[0].share, partners[2].share);
    }

    #[test]
    fn a_cut_is_a_rectangle_of_the_other_picture_and_the_target_has_its_area() {
        let (size, mix) = (16, Mix { mixup: 0.0, cutmix: 1.0 });
        for seed in 0..50 {
            let mut images = batch(size);
            let partners = mix.apply(&mut images, size, (&[0, 1, 2], &[0, 1, 2]), (seed, 0));
            for (i, (image, partner)) in images.chunks(3 * size * size).zip(&partners).enumerate() {
                let cut = image.iter().filter(|&&x| x != i as f32).count();
                assert!((partner.share - cut as f32 / image.len() as f32).abs() < 1e-6);
            }
        }
    }

    /// The mean and the variance of the logarithm are the digamma and the trigamma function of the parameter.
    #[test]
    fn draws_have_the_moments_of_the_gamma_distribution() {
        for (alpha, mean, variance) in
            [(0.5, -1.963_510, 4.934_802), (1.0, -0.577_216, 1.644_934), (4.0, 1.256_118, 0.283_823)]
        {
            let draws: Vec<f64> =
                (0..40_000).map(|picture| log_gamma_variate(alpha, &mut stream(picture))).collect();
            let found = draws.iter().sum::<f64>() / draws.len() as f64;
            let spread = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!(
                (found - mean).abs() < 4.0 * (variance / draws.len() as f64).sqrt(),
                "{alpha}: mean {found}"
            );
            assert!((spread / variance - 1.0).abs() < 0.04, "{alpha}: variance {spread}, not {variance}");
        }
    }

    /// The same method in Python, on the same uniform numbers: a seed stands for the same mixes everywhere.
    #[test]
    fn a_stream_gives_the_draws_of_the_method() {
        for (alpha, wanted) in [
            (0.5, [-5.088_315_421, -1.824_200_212, 0.721_368_448]),
            (4.0, [1.864_705_905, 1.745_597_867, 1.487_633_587]),
        ] {
            let found = [0, 1, 2].map(|picture| log_gamma_variate(alpha, &mut stream(picture)));
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-8), "{alpha}: {found:?}");
        }
    }
}
