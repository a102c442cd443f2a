//! Operands that a kernel computes while it reads them: a batch norm with its activation, and the gradient that comes back
//! through one. What is computed is never in memory, which is what a training step waits for.

use std::ops::Range;

use bytemuck::cast_slice;

use super::Activation;
use super::batch_norm::{Affine, BatchNorm, GradVectors, InputGrad};
use super::element::Element;
use super::rows::{Area, Map, read_rows};
use super::simd::{Isa, Simd};
use super::size::elements;

/// A tensor of pixels x channels, or how it is computed from others of its size.
#[derive(Clone, Debug)]
pub enum Source<'a, E = f32> {
    /// As it lies in memory.
    Plain(&'a [E]),
    /// activation((x - mean) inv_std gamma + beta), see [`Source::norm`].
    Norm(Norm<'a, E>),
    /// The gradient of a norm's input, see [`Source::norm_grad`].
    NormGrad(NormGrad<'a, E>),
}

/// The scale and shift of each channel, and the activation after them.
pub type ScaleShift<'a> = (&'a [f32], &'a [f32], Activation);

/// What [`Source::norm`] makes.
#[derive(Clone, Debug)]
pub struct Norm<'a, E> {
    x: &'a [E],
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: Activation,
}

impl<E: Element> Norm<'_, E> {
    /// x, and the scale and shift of each channel and the activation that it is read through.
    pub(super) fn parts(&self) -> (&[E], ScaleShift<'_>) {
        (self.x, (&self.scale, &self.shift, self.activation))
    }
}

/// What [`Source::norm_grad`] makes.
#[derive(Clone, Debug)]
pub struct NormGrad<'a, E> {
    dz: &'a [E],
    x: &'a [E],
    mean: &'a [f32],
    vectors: GradVectors,
    gate: Option<Activation>,
}

/// x as it is.
#[derive(Clone, Copy)]
struct Same;

impl Map<1, 0> for Same {
    #[inline(always)]
    unsafe fn call<S: Simd>(self, [x]: [S::V; 1], []: [S::V; 0]) -> S::V {
        x
    }
}

impl<'a, E: Element> Source<'a, E> {
    /// activation((x - mean) inv_std gamma + beta), with the numbers of
    /// [`batch_norm_apply`](super::batch_norm::batch_norm_apply).
    ///
    /// # Panics
    /// When `x` is no whole number of rows of the norm's channels.
    pub fn norm(x: &'a [E], norm: &BatchNorm<'_>, activation: Activation) -> Source<'a, E> {
        assert!(x.len().is_multiple_of(norm.mean.len().max(1)), "rows of {} channels", norm.mean.len());
        let (scale, shift) = norm.affine();
        Source::Norm(Norm { x, scale, shift, activation })
    }

    /// The gradient of the norm's input x, with the numbers of
    /// [`batch_norm_input_grad`](super::batch_norm::batch_norm_input_grad): dz is the gradient of the output of the activation that
    /// follows the norm, or without one of the norm's own.
    ///
    /// # Panics
    /// When `x` and `dz` differ in size, or are no whole number of rows of the norm's channels.
    pub fn norm_grad(
        [dz, x]: [&'a [E]; 2],
        norm: &BatchNorm<'a>,
        activation: Option<Activation>,
        [dgamma, dbeta]: [&[f32]; 2],
    ) -> Source<'a, E> {
        let channels = norm.mean.len().max(1);
        assert!(x.len() == dz.len() && x.len().is_multiple_of(channels), "rows of {channels} channels");
        let vectors = GradVectors::new(norm, dgamma, dbeta, x.len() / channels);
        Source::NormGrad(NormGrad { dz, x, mean: norm.mean, vectors, gate: activation })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Source::Plain(x) | Source::Norm(Norm { x, .. }) | Source::NormGrad(NormGrad { x, .. }) => x.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that [`Source::read`] will read of some rows, as streams of bytes.
    pub(super) fn streams(&self, pitch: usize, rows: &Range<usize>) -> [&'a [u8]; 2] {
        let elements = rows.start * pitch..rows.end * pitch;
        match self {
            Source::Plain(x) | Source::Norm(Norm { x, .. }) => [cast_slice(&x[elements]), &[]],
            Source::NormGrad(NormGrad { dz, x, .. }) => {
                [cast_slice(&dz[elements.clone()]), cast_slice(&x[elements])]
            }
        }
    }

    /// Computes columns `cols` of the rows `rows`, of `pitch` channels each, into rows of `to` that are `stride` floats apart.
    ///
    /// # Panics
    /// When there are no such rows or columns, or no room.
    pub(super) fn read(
        &self,
        isa: Isa,
        pitch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        (to, stride): (&mut [f32], usize),
    ) {
        let area = Area { rows: rows.len(), pitch, cols: cols.len() };
        let empty = rows.is_empty() || cols.is_empty();
        let room = || elements([area.rows - 1, stride]).checked_add(area.cols).is_some_and(|n| n <= to.len());
        assert!(empty || room(), "room for the rows");
        // Safety: there is room, and the reader reads the area that `visit` checks.
        unsafe { self.visit(pitch, rows, cols, ReadRows { isa, area, to: (to.as_mut_ptr(), stride) }) };
    }

    /// Gives `reader` the operands of columns `cols` of the rows `rows`, of `pitch` channels each, if there are any.
    ///
    /// # Panics
    /// When there are no such rows or columns.
    ///
    /// # Safety
    /// The reader reads nothing but those rows and columns, and writes where it may.
    pub(super) unsafe fn visit(
        &self,
        pitch: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        reader: impl Reader<E>,
    ) {
        assert!(cols.end <= pitch && elements([rows.end, pitch]) <= self.len(), "rows of the operand");
        if rows.is_empty() || cols.is_empty() {
            return;
        }
        let first = rows.start * pitch + cols.start;
        // Safety: the area is within the operands, whose lengths are equal; the vectors have `pitch` elements. The rest is the
        // caller's promise.
        unsafe {
            match self {
                Source::Plain(x) => reader.read([x.as_ptr().add(first)], [], Same),
                Source::Norm(Norm { x, scale, shift, activation }) => {
                    let params = [scale, shift].map(|vector| vector[cols.clone()].as_ptr());
                    reader.read([x.as_ptr().add(first)], params, Affine(*activation));
                }
                Source::NormGrad(NormGrad { dz, x, mean, vectors, gate }) => {
                    let GradVectors { scale, shift, offset, slope } = vectors;
                    let inputs = [dz.as_ptr().add(first), x.as_ptr().add(first)];
                    let mean = mean[cols.clone()].as_ptr();
                    let [scale, shift, offset, slope] =
                        [scale, shift, offset, slope].map(|vector| vector[cols.clone()].as_ptr());
                    match gate {
                        None => {
                            let params = [scale, mean, offset, slope];
                            reader.read(inputs, params, InputGrad(Activation::None));
                        }
                        Some(activation) => {
                            let params = [scale, mean, offset, slope, shift];
                            reader.read(inputs, params, InputGrad(*activation));
                        }
                    }
                }
            }
        }
    }
}

/// What computes an operand from what it is made of.
pub(super) trait Reader<E> {
    /// Computes `map` of the inputs, which point to the first element, and of the parameters of each channel.
    ///
    /// # Safety
    /// What the reader reads of them is there.
    unsafe fn read<const N: usize, const P: usize>(
        self,
        inputs: [*const E; N],
        params: [*const f32; P],
        map: impl Map<N, P>,
    );
}

/// Into rows of scratch, `to.1` floats apart.
struct ReadRows {
    isa: Isa,
    area: Area,
    to: (*mut f32, usize),
}

impl<E: Element> Reader<E> for ReadRows {
    unsafe fn read<const N: usize, const P: usize>(
        self,
        inputs: [*const E; N],
        params: [*const f32; P],
        map: impl Map<N, P>,
    ) {
        // Safety: the caller's.
        unsafe { read_rows(self.isa, inputs, params, self.area, self.to, map) };
    }
}
