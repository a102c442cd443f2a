//! Random numbers that are a pure function of a key and a counter, so that dropout and augmentation need no
//! saved state and do not depend on the number of threads.
//!
//! The mixing function is SplitMix64's finalizer (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014).

/// What a stream of random numbers is for. Streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the pictures in an epoch.
    Shuffle,
    /// The split into training and validation pictures.
    Split,
    /// Random crops, flips and colors.
    Augment,
    /// Dropout masks.
    Dropout,
    /// Initial weights of new layers.
    Init,
    /// Which pictures of a batch are mixed, and how much.
    Mix,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    key: u64,
    counter: u64,
}

/// SplitMix64's finalizer: a bijection of 64 bits whose output bits each depend on every input bit.
#[inline]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The key of the stream for (`seed`, `epoch`, `item`, `purpose`); `item` is a picture's index or a layer's.
pub fn key(seed: u64, epoch: u64, item: u64, purpose: Purpose) -> u64 {
    [epoch, item, purpose as u64].into_iter().fold(mix(seed), |k, part| mix(k ^ mix(part)))
}

impl Random {
    /// The stream for (`seed`, `epoch`, `item`, `purpose`).
    pub fn new(seed: u64, epoch: u64, item: u64, purpose: Purpose) -> Random {
        Random { key: key(seed, epoch, item, purpose), counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key ^ mix(self.counter))
    }

    /// Uniform in [0, 1), with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n; `n` must not be 0. The bias (n / 2^64) is below anything measurable.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_distinct() {
        let draw = |seed, epoch, item, purpose| Random::new(seed, epoch, item, purpose).next_u64();
        assert_eq!(draw(1, 2, 3, Purpose::Augment), draw(1, 2, 3, Purpose::Augment));
        let all = [
            draw(1, 2, 3, Purpose::Augment),
            draw(2, 2, 3, Purpose::Augment),
            draw(1, 3, 3, Purpose::Augment),
            draw(1, 2, 4, Purpose::Augment),
            draw(1, 2, 3, Purpose::Dropout),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a));
        }
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut random = Random::new(7, 0, 0, Purpose::Init);
        let n = 100_000;
        let uniform: f64 = (0..n).map(|_| f64::from(random.uniform())).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.005, "{uniform}");
        let normals: Vec<f64> = (0..n).map(|_| f64::from(random.normal())).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
