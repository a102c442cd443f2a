//! Gradient of a convolution with respect to its input.
//!
//! Input pixel i receives from output pixel o through kernel element r where `i + pad = o * stride + r * dilation`. The kernel elements
//! that can fulfil it depend on `i mod stride` only, so each such phase is a stride-1 convolution of `dy` with some of
//! the kernel elements, and no structural zero is multiplied. A phase without kernel elements stores zeros.

use super::conv::{PackedFilter, activations_len, applies_functions, run_gathers};
use super::element::Element;
use super::elementwise::unary_in_place;
use super::gather::{Gather, Operands, Tap, Target, WeightOrder};
use super::simd::Isa;
use super::{Activation, ConvShape};
use offshoot_graph::op::Unary;

impl PackedFilter {
    /// Packs OIHW weights for [`conv_input_grad`].
    ///
    /// # Panics
    /// When `oihw` has not the size that `shape` says.
    pub fn pack_for_input_grad(&mut self, isa: Isa, shape: &ConvShape, oihw: &[f32]) {
        shape.check();
        let area = shape.kernel[0] * shape.kernel[1];
        let (cols, depth) = (shape.in_c / shape.groups, shape.out_c / shape.groups);
        let order = WeightOrder { group: cols * depth * area, col: area, depth: cols * area };
        self.pack_gathers(isa, &phases(shape), shape, oihw, order);
    }
}

/// One gather for each phase of the input that has pixels.
pub(super) fn phases(shape: &ConvShape) -> Vec<Gather> {
    let [rows, cols] = shape.strides;
    let all = (0..rows).flat_map(|y| (0..cols).map(move |x| [y, x]));
    all.filter(|phase| phase[0] < shape.in_h && phase[1] < shape.in_w).map(|at| phase(shape, at)).collect()
}

/// The gather of input pixels `phase + stride * q`.
fn phase(shape: &ConvShape, phase: [usize; 2]) -> Gather {
    let [vertical, horizontal] = shape.strides;
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        source: [shape.out_h, shape.out_w],
        depth: shape.out_c / shape.groups,
        grid: [(shape.in_h - phase[0]).div_ceil(vertical), (shape.in_w - phase[1]).div_ceil(horizontal)],
        step: [1, 1],
        taps: [taps(shape, 0, phase[0]), taps(shape, 1, phase[1])],
        cols: shape.in_c / shape.groups,
        target: Target {
            base: (phase[0] * shape.in_w + phase[1]) * shape.in_c,
            image: shape.in_h * shape.in_w * shape.in_c,
            row: vertical * shape.in_w * shape.in_c,
            col: horizontal * shape.in_c,
        },
    }
}

/// The kernel elements that reach a phase along an axis, last element first, so that offsets ascend.
fn taps(shape: &ConvShape, axis: usize, phase: usize) -> Vec<Tap> {
    let stride = shape.strides[axis] as isize;
    let tap = |index: usize| {
        let distance = (phase + shape.pads[axis]) as isize - (index * shape.dilations[axis]) as isize;
        (distance.rem_euclid(stride) == 0).then_some(Tap { index, offset: distance.div_euclid(stride) })
    };
    (0..shape.kernel[axis]).rev().filter_map(tap).collect()
}

/// `dx`, all of it, from `dy`; both NHWC.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `filter` was not packed by
/// [`PackedFilter::pack_for_input_grad`] for this shape and path.
pub fn conv_input_grad<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    dy: &[E],
    filter: &PackedFilter,
    dx: &mut [E],
) {
    conv_transpose(isa, shape, dy, filter, (None, None), dx);
}

/// [`conv_input_grad`] with a bias for each channel of `dx` and a function behind it: a transposed convolution, and of
/// [`ConvShape::of_matrices`] the product with a matrix whose rows are stored one after the other.
///
/// # Panics
/// As [`conv_input_grad`], and when the bias has another size.
pub(crate) fn conv_transpose<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    dy: &[E],
    filter: &PackedFilter,
    (bias, then): (Option<&[f32]>, Option<Unary>),
    dx: &mut [E],
) {
    assert_eq!([dx.len(), dy.len()], activations_len(shape), "input and output of {shape:?}");
    assert!(bias.is_none_or(|bias| bias.len() == shape.in_c), "bias of {shape:?}");
    let gathers = phases(shape);
    let (cells, filter) = filter.get::<E>(isa, shape, &gathers);
    let operands = Operands {
        source: E::view(dy),
        filter,
        cells,
        bias,
        residual: None,
        bounds: Activation::None.bounds(),
        norm: None,
        moments: None,
        then: then.filter(|_| applies_functions::<E>(isa, shape)),
    };
    // Safety: the operands have the sizes of the shape, whose phases are disjoint pixels of the input, and the filter is packed for them.
    unsafe { run_gathers(isa, shape, &gathers, operands, dx) };
    if let Some(then) = then.filter(|_| !applies_functions::<E>(isa, shape)) {
        unary_in_place(isa, then, dx);
    }
}
