//! Dropout whose mask is a function of a key, so that nothing is stored and nothing depends on the batch.

use super::element::Element;
use super::rows::{Shared, TASK, for_tasks};
use super::simd::{Isa, Kernel, Simd, dispatch};
use offshoot_graph::random::mix;

/// Which elements a dropout keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout<'a> {
    /// A key for each row of the batch (see `offshoot_graph::random::key`): it gives a picture its mask, wherever in
    /// the batch it is.
    pub keys: &'a [i64],
    /// The layer's number: layers of one step have different masks.
    pub layer: u64,
    /// The probability that an element is dropped, 0 to 1.
    pub p: f32,
}

/// SplitMix64's increment.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

struct Part<'a, E> {
    key: u64,
    /// The first element's place in the row, even.
    start: usize,
    x: &'a [E],
    out: &'a mut [E],
    /// An element is dropped when its 32 random bits are below this.
    threshold: u64,
    scale: f32,
}

impl<E: Element> Part<'_, E> {
    #[inline(always)]
    fn kept(&self, bits: u64, x: E) -> E {
        E::from_f32(if bits < self.threshold { 0.0 } else { x.to_f32() * self.scale })
    }
}

impl<E: Element> Kernel for Part<'_, E> {
    type Output = ();

    /// Plain loops, which the compiler turns into vectors of each path: 64 random bits serve two elements.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let pairs = self.out.len() / 2;
        let mut counter = self.key.wrapping_add((self.start as u64 / 2).wrapping_mul(STEP));
        for pair in 0..pairs {
            let bits = mix(counter);
            counter = counter.wrapping_add(STEP);
            self.out[2 * pair] = self.kept(bits & 0xFFFF_FFFF, self.x[2 * pair]);
            self.out[2 * pair + 1] = self.kept(bits >> 32, self.x[2 * pair + 1]);
        }
        if let (Some(&x), 1) = (self.x.last(), self.out.len() % 2) {
            self.out[2 * pairs] = self.kept(mix(counter) & 0xFFFF_FFFF, x);
        }
    }
}

/// out = x / (1 - p) where an element is kept, else 0. `x` has as many rows as there are keys. The gradient is the same
/// function of dy.
///
/// # Panics
/// When the slices differ in length or do not divide into rows.
pub fn dropout<E: Element>(isa: Isa, dropout: &Dropout<'_>, x: &[E], out: &mut [E]) {
    let rows = dropout.keys.len();
    assert!(
        x.len() == out.len() && (rows > 0 && x.len().is_multiple_of(rows) || x.is_empty()),
        "rows of unequal length"
    );
    if x.is_empty() {
        return;
    }
    let width = x.len() / rows;
    let chunks = width.div_ceil(TASK);
    let threshold = (f64::from(dropout.p.clamp(0.0, 1.0)) * 4_294_967_296.0) as u64;
    let scale = if dropout.p < 1.0 { 1.0 / (1.0 - dropout.p) } else { 0.0 };
    let shared = Shared::new(out);
    for_tasks(rows * chunks, |task| {
        let (row, start) = (task / chunks, task % chunks * TASK);
        let end = width.min(start + TASK);
        let key = mix(dropout.keys[row] as u64 ^ mix(dropout.layer));
        let x = &x[row * width + start..row * width + end];
        // Safety: the parts of all rows are disjoint.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.at(row * width + start), end - start) };
        dispatch(isa, Part { key, start, x, out, threshold, scale });
    });
}

#[cfg(test)]
mod tests;
