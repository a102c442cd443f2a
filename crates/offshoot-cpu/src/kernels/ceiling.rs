//! What this machine can do at most: the figures that every kernel's speed is read against.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::simd::{Isa, Kernel, Simd, dispatch};

/// Independent sums: enough to hide the latency of two multiply-add units, few enough for sixteen registers.
const SUMS: usize = 12;

/// Multiply-adds of each sum in a timed run: some milliseconds.
const ROUNDS: usize = 1 << 22;

/// Floats that are copied: 256 MiB, far more than any cache holds.
const FLOATS: usize = 1 << 26;

/// Runs of which the fastest counts: a ceiling is what was reached when nothing disturbed.
const RUNS: usize = 5;

/// Multiply-adds on registers only.
struct MultiplyAdds {
    a: f32,
    b: f32,
}

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // Safety: no memory is touched; the caller vouches for the instruction set.
        unsafe {
            let (a, b) = (S::splat(self.a), S::splat(self.b));
            let mut sums = [b; SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = S::fma(*sum, a, b);
                }
            }
            let mut total = sums[0];
            for sum in &sums[1..] {
                total = S::add(total, *sum);
            }
            S::sum(total)
        }
    }
}

/// The f32 multiply-add peak of `isa` on all threads of the current rayon pool together, in FLOP/s (a multiply-add
/// counts as two). It runs for some tens of milliseconds.
pub fn peak_flops(isa: Isa) -> f64 {
    let threads = rayon::current_num_threads();
    let operations = (2 * SUMS * isa.lanes() * ROUNDS * threads) as f64;
    let run = || {
        let task = |_| dispatch(isa, MultiplyAdds { a: black_box(0.5), b: black_box(1.0) });
        black_box((0..threads).into_par_iter().map(task).sum::<f32>());
    };
    operations / fastest(run)
}

/// The rate at which all threads of the current rayon pool together copy memory, in bytes read plus bytes written a
/// second. It takes 512 MiB.
pub fn copy_bandwidth() -> f64 {
    let (from, mut to) = (vec![1.0f32; FLOATS], vec![0.0f32; FLOATS]);
    let part = FLOATS.div_ceil(rayon::current_num_threads());
    let run = || {
        let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
        parts.for_each(|(to, from)| to.copy_from_slice(black_box(from)));
        black_box(&to);
    };
    (2 * FLOATS * size_of::<f32>()) as f64 / fastest(run)
}

/// Seconds of the fastest of some runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
