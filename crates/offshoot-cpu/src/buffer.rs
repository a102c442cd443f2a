//! Memory that kernels like: f32, aligned to a cache line.

use bytemuck::{Pod, Zeroable};

/// A cache line, and a vector of AVX-512.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A growable run of f32 that starts at a cache line.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// Makes room for `len` elements. What was there is lost when it grows.
    pub(crate) fn reserve(&mut self, len: usize) {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            // A fresh zeroed allocation costs nothing until it is touched, unlike copying the old content.
            self.0 = Vec::new();
            self.0 = vec![Line::zeroed(); lines];
        }
    }

    /// The first `len` elements.
    pub(crate) fn get(&self, len: usize) -> &[f32] {
        &bytemuck::cast_slice(&self.0)[..len]
    }

    /// The first `len` elements, to change.
    pub(crate) fn get_mut(&mut self, len: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}
