//! Memory for kernels, aligned to a cache line. (A vector of AVX-512 that is not is read from two lines, at half the speed.)

use bytemuck::{Pod, Zeroable};

/// A cache line, and a vector of AVX-512.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Bytes of a line.
const LINE: usize = 64;

/// A growable run of elements that starts at a cache line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// Makes the buffer large enough for so many bytes. What was there is lost when it grows.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(LINE);
        if self.0.len() < lines {
            // A fresh zeroed allocation costs nothing until it is touched, unlike copying the old content.
            self.0 = Vec::new();
            self.0 = bytemuck::zeroed_vec(lines);
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * LINE
    }

    /// The first `len` elements.
    pub(crate) fn get<E: Pod>(&self, len: usize) -> &[E] {
        &bytemuck::cast_slice(&self.0)[..len]
    }

    /// The first `len` elements, to change.
    pub(crate) fn get_mut<E: Pod>(&mut self, len: usize) -> &mut [E] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}
