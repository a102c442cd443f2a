//! Dense and grouped convolution. (Depthwise convolution has a kernel of its own.)

use offshoot_graph::DType;
use offshoot_graph::op::Unary;

use super::element::Element;
use super::elementwise::unary_in_place;
use super::gather::{self, Cells, Gather, Operands, Tap, Target, WeightOrder};
use super::grouped::{self, by_groups};
use super::parallel::Shared;
use super::shape::Columns;
use super::simd::Isa;
use super::size::elements;
use super::source::{ScaleShift, Source};
use super::winograd::{self, by_winograd};
use super::{Activation, ConvShape};
use crate::buffer::Buffer;

/// What a convolution adds and applies before it stores: `y = then(activation(conv(x) + bias + residual))`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, E = f32> {
    /// One float an output channel.
    pub bias: Option<&'a [f32]>,
    /// As large as the output, NHWC.
    pub residual: Option<&'a [E]>,
    /// Applied then.
    pub activation: Activation,
    /// Applied last.
    pub then: Option<Unary>,
}

impl<E: Element> Epilogue<'_, E> {
    /// Nothing at all.
    pub const NONE: Epilogue<'static, E> =
        Epilogue { bias: None, residual: None, activation: Activation::None, then: None };
}

/// Weights in the order that a kernel reads them. Packing again reuses the memory.
#[derive(Clone, Debug)]
pub struct PackedFilter {
    data: Buffer,
    /// Floats of `data` that are packed.
    len: usize,
    isa: Option<Isa>,
    /// Output channels, input channels, height and width of the kernel, and groups.
    sizes: [usize; 5],
    element: DType,
}

impl Default for PackedFilter {
    fn default() -> PackedFilter {
        PackedFilter { data: Buffer::default(), len: 0, isa: None, sizes: [0; 5], element: DType::F32 }
    }
}

impl PackedFilter {
    /// An empty one, for f32.
    pub fn new() -> PackedFilter {
        PackedFilter::default()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<f32>()
    }

    /// Whether `shape` is convolved by Winograd's algorithm on elements of type `dtype`, and its gradient too.
    pub fn is_for_winograd(isa: Isa, dtype: DType, shape: &ConvShape) -> bool {
        Method::of(isa, dtype, shape) == Method::Winograd
    }

    /// Packs for convolutions on `E` from now on; the weights are to be rounded to what it can hold.
    pub fn set_element<E: Element>(&mut self) {
        self.element = E::DTYPE;
    }

    /// Packs OIHW weights for [`conv`].
    ///
    /// # Panics
    /// When `oihw` has not the size that `shape` says.
    pub fn pack(&mut self, isa: Isa, shape: &ConvShape, oihw: &[f32]) {
        shape.check();
        let area = shape.kernel[0] * shape.kernel[1];
        let (depth, cols) = (shape.in_c / shape.groups, shape.out_c / shape.groups);
        let order = WeightOrder { group: cols * depth * area, col: depth * area, depth: area };
        self.pack_gathers(isa, &[forward(shape)], shape, oihw, order);
    }

    /// Packs `gathers` one after the other.
    pub(super) fn pack_gathers(
        &mut self,
        isa: Isa,
        gathers: &[Gather],
        shape: &ConvShape,
        oihw: &[f32],
        order: WeightOrder,
    ) {
        assert_eq!(oihw.len(), weights_len(shape), "weights of {shape:?}");
        (self.isa, self.sizes) = (Some(isa), filter_sizes(shape));
        let method = Method::of(isa, self.element, shape);
        self.len = gathers.iter().map(|gather| method.packed_len(isa, gather)).sum();
        self.data.reserve(self.bytes());
        let mut rest = self.data.get_mut(self.len);
        for gather in gathers {
            let (packed, after) = rest.split_at_mut(method.packed_len(isa, gather));
            match method {
                Method::Winograd => winograd::pack(isa, gather, shape.kernel[1], oihw, order, packed),
                Method::Grouped => grouped::pack(isa, gather, shape.kernel[1], oihw, order, packed),
                Method::Gather(cells) => {
                    gather::pack(isa, gather, shape.kernel[1], oihw, order, (cells, packed));
                }
            }
            rest = after;
        }
    }

    /// The packed weights, and what they are packed as: as many as `gathers` read.
    ///
    /// # Panics
    /// When they were packed for another path, another shape or other elements.
    pub(super) fn get<E: Element>(&self, isa: Isa, shape: &ConvShape, gathers: &[Gather]) -> (Cells, &[f32]) {
        assert_eq!(self.isa, Some(isa), "the filter is packed for another instruction set");
        let method = Method::of(isa, E::DTYPE, shape);
        assert!(method == Method::of(isa, self.element, shape), "the filter is packed for other elements");
        let len: usize = gathers.iter().map(|gather| method.packed_len(isa, gather)).sum();
        let fits = self.sizes == filter_sizes(shape) && self.len == len;
        assert!(fits, "the filter is packed for another shape");
        let cells = if let Method::Gather(cells) = method { cells } else { Cells::Floats };
        (cells, self.data.get(self.len))
    }
}

/// How a convolution and the gradient of its input are computed; their filter is packed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// By Winograd's algorithm.
    Winograd,
    /// With channels of several groups side by side.
    Grouped,
    /// As a matrix product.
    Gather(Cells),
}

impl Method {
    /// The fastest one for `shape` on elements of type `dtype`. Only the shape of a picture decides, not how many there are.
    pub(crate) fn of(isa: Isa, dtype: DType, shape: &ConvShape) -> Method {
        let halves = dtype == DType::BF16;
        match shape {
            _ if by_groups(isa, shape) && !by_winograd(shape) => Method::Grouped,
            _ if halves && isa.has_tiles() => Method::Gather(Cells::Tiles),
            _ if by_winograd(shape) => Method::Winograd,
            _ if halves && isa.multiplies_bf16() => Method::Gather(Cells::Pairs),
            _ => Method::Gather(Cells::Floats),
        }
    }

    /// Floats of the packed filter of one gather.
    fn packed_len(self, isa: Isa, gather: &Gather) -> usize {
        match self {
            Method::Winograd => winograd::packed_len(gather),
            Method::Grouped => grouped::packed_len(isa, gather),
            Method::Gather(cells) => gather.packed_len(isa, cells),
        }
    }
}

/// What the kernel is called that computes `shape` on `E`, or the gradient of its input.
pub(crate) fn kernel_name<E: Element>(isa: Isa, shape: &ConvShape) -> &'static str {
    match Method::of(isa, E::DTYPE, shape) {
        Method::Winograd => "winograd",
        Method::Grouped => "grouped",
        Method::Gather(Cells::Tiles) if shape.kernel == [1, 1] => "pointwise tiles",
        Method::Gather(Cells::Tiles) => "gather tiles",
        Method::Gather(_) if shape.kernel == [1, 1] => "pointwise",
        Method::Gather(_) => "gather",
    }
}

/// Runs `gathers` over the same operands into `out`; see [`gather::run`].
///
/// # Safety
/// As there; the gathers are those of `shape`.
pub(super) unsafe fn run_gathers<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    gathers: &[Gather],
    operands: Operands<'_>,
    out: &mut [E],
) {
    let out = E::view_mut(out);
    // Safety: the caller's.
    unsafe {
        match (Method::of(isa, E::DTYPE, shape), gathers) {
            (Method::Winograd, [gather]) => winograd::run(isa, gather, operands, out),
            (Method::Grouped, _) => grouped::run(isa, gathers, operands, out),
            (Method::Gather(_), _) => gather::run(isa, gathers, operands, out),
            (Method::Winograd, _) => unreachable!("{shape:?} has a stride of 1, and so one gather"),
        }
    }
}

/// What a filter that is packed for `shape` must have in common with another that it serves.
fn filter_sizes(shape: &ConvShape) -> [usize; 5] {
    let ConvShape { in_c, out_c, kernel, groups, .. } = *shape;
    [out_c, in_c, kernel[0], kernel[1], groups]
}

/// Floats in the weights of `shape`.
///
/// # Panics
/// When it does not [fit](ConvShape::fits).
#[track_caller]
pub(super) fn weights_len(shape: &ConvShape) -> usize {
    shape.check();
    elements([shape.out_c, shape.in_c / shape.groups, shape.kernel[0], shape.kernel[1]])
}

/// Floats in the input and in the output of `shape`.
///
/// # Panics
/// When it does not [fit](ConvShape::fits).
#[track_caller]
pub(super) fn activations_len(shape: &ConvShape) -> [usize; 2] {
    shape.check();
    [
        elements([shape.batch, shape.in_h, shape.in_w, shape.in_c]),
        elements([shape.batch, shape.out_h, shape.out_w, shape.out_c]),
    ]
}

/// The forward convolution as a gather: output pixel o reads source pixel `o * stride + tap * dilation - pad`.
pub(super) fn forward(shape: &ConvShape) -> Gather {
    let taps = |axis: usize| {
        let tap =
            |i| Tap { index: i, offset: (i * shape.dilations[axis]) as isize - shape.pads[axis] as isize };
        (0..shape.kernel[axis]).map(tap).collect()
    };
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        source: [shape.in_h, shape.in_w],
        depth: shape.in_c / shape.groups,
        grid: [shape.out_h, shape.out_w],
        step: shape.strides,
        taps: [taps(0), taps(1)],
        cols: shape.out_c / shape.groups,
        target: Target {
            base: 0,
            image: shape.out_h * shape.out_w * shape.out_c,
            row: shape.out_w * shape.out_c,
            col: shape.out_c,
        },
    }
}

/// `y = then(activation(conv(x) + bias + residual))`, NHWC.
///
/// Where `x` and `y` are no f32, `y` is the sum of the same products in f32, rounded once; a filter of rounded weights is
/// the caller's business. Every output element is summed in the same order wherever its pixel lies in the batch and however many threads
/// there are.
///
/// # Panics
/// When a slice has not the size that `shape` says, or `filter` is packed for another shape or path.
pub fn conv<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &[E],
    filter: &PackedFilter,
    epilogue: &Epilogue<'_, E>,
    y: &mut [E],
) {
    conv_columns(isa, shape, &Source::Plain(x), filter, epilogue, Columns::whole(shape.out_c), y);
}

/// [`conv`] that may read through a norm, and that writes some columns of rows which may be longer than its pixels: a part of a
/// concatenation. Where these are not all, it adds no residual, and has an [`Epilogue::then`] only where [`applies_functions`].
///
/// # Panics
/// As [`conv`]; when the columns are not its channels or no columns of `y`, or do not allow what the epilogue asks for; when `x` is neither plain nor a norm that [`reads_norm`].
pub(crate) fn conv_columns<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &Source<'_, E>,
    filter: &PackedFilter,
    epilogue: &Epilogue<'_, E>,
    columns: Columns,
    y: &mut [E],
) {
    let Columns { row: pitch, start, width } = columns;
    let pixels = elements([shape.batch, shape.out_h, shape.out_w]);
    assert_eq!(
        [x.len(), y.len()],
        [activations_len(shape)[0], elements([pixels, pitch])],
        "input and output of {shape:?}"
    );
    assert!(width == shape.out_c && start + width <= pitch, "{columns:?} of {shape:?}");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == shape.out_c), "bias of {shape:?}");
    assert!(
        epilogue.residual.is_none_or(|residual| pitch == width && residual.len() == y.len()),
        "residual of {shape:?}"
    );
    let (on_the_way, afterwards) = match applies_functions::<E>(isa, shape) {
        true => (epilogue.then, None),
        false => (None, epilogue.then),
    };
    assert!(afterwards.is_none() || pitch == width, "a function of {columns:?} of {shape:?}");
    let mut gather = forward(shape);
    gather.target = Target {
        base: start,
        image: shape.out_h * shape.out_w * pitch,
        row: shape.out_w * pitch,
        col: pitch,
    };
    let gathers = [gather];
    let (cells, filter) = filter.get::<E>(isa, shape, &gathers);
    let (source, norm) = parts_of_source(isa, shape, x);
    let operands = Operands {
        source: E::view(source),
        filter,
        cells,
        bias: epilogue.bias,
        residual: epilogue.residual.map(E::view),
        bounds: epilogue.activation.bounds(),
        norm,
        moments: None,
        then: on_the_way,
    };
    // Safety: the operands have the sizes of the shape, which is the gather's, the filter is packed for it, and the columns lie in `y`.
    unsafe { run_gathers(isa, shape, &gathers, operands, y) };
    if let Some(then) = afterwards {
        unary_in_place(isa, then, y);
    }
}

/// Whether the kernel of `shape` applies a function to what it stores, while that is in a cache.
pub(crate) fn applies_functions<E: Element>(isa: Isa, shape: &ConvShape) -> bool {
    match Method::of(isa, E::DTYPE, shape) {
        Method::Gather(Cells::Tiles) => true,
        Method::Gather(Cells::Floats | Cells::Pairs) => E::DTYPE == DType::F32,
        Method::Winograd | Method::Grouped => false,
    }
}

/// Whether convolutions read the input of `shape`, on `E`, through a norm: where each pixel is read once, as floats.
pub fn reads_norm<E: Element>(isa: Isa, shape: &ConvShape) -> bool {
    let floats = Method::of(isa, E::DTYPE, shape) == Method::Gather(Cells::Floats);
    shape.groups == 1 && forward(shape).is_pointwise() && floats
}

/// What is in memory, and the norm that it is read through.
///
/// # Panics
/// When `x` is neither plain nor a norm that [`reads_norm`].
fn parts_of_source<'x, E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &'x Source<'_, E>,
) -> (&'x [E], Option<ScaleShift<'x>>) {
    match x {
        Source::Plain(x) => (x, None),
        Source::Norm(norm) if reads_norm::<E>(isa, shape) => {
            let (x, affine) = norm.parts();
            (x, Some(affine))
        }
        Source::Norm(_) | Source::NormGrad(_) => panic!("{shape:?} reads what is in memory"),
    }
}

/// The rows of the parts of which [`conv_in_training`] leaves moments, if it does for `shape`.
///
/// # Panics
/// When the shape does not [fit](ConvShape::fits).
pub fn moment_rows<E: Element>(isa: Isa, shape: &ConvShape) -> Option<Vec<usize>> {
    shape.check();
    let cells = match Method::of(isa, E::DTYPE, shape) {
        Method::Winograd => return None,
        Method::Grouped => Cells::Floats,
        Method::Gather(cells) => cells,
    };
    Some(gather::moment_rows(&forward(shape), cells))
}

/// y = conv(x) for a batch norm to follow: as [`conv`], with an input that is computed while it is read, and with the moments of
/// the output in `moments`, for [`batch_norm_join`](super::batch_norm::batch_norm_join): two rows of the output's channels for
/// each of [`moment_rows`].
///
/// # Panics
/// As [`conv`]; when `x` is neither plain nor a norm that [`reads_norm`]; when `moments` has another size.
pub fn conv_in_training<E: Element>(
    isa: Isa,
    shape: &ConvShape,
    x: &Source<'_, E>,
    filter: &PackedFilter,
    y: &mut [E],
    moments: Option<&mut [f32]>,
) {
    assert_eq!([x.len(), y.len()], activations_len(shape), "input and output of {shape:?}");
    let gathers = [forward(shape)];
    let (cells, filter) = filter.get::<E>(isa, shape, &gathers);
    let (source, norm) = parts_of_source(isa, shape, x);
    if let Some(moments) = &moments {
        let parts = moment_rows::<E>(isa, shape).map(|rows| rows.len());
        assert_eq!(Some(moments.len()), parts.map(|parts| 2 * parts * shape.out_c), "moments of {shape:?}");
    }
    let operands = Operands {
        source: E::view(source),
        filter,
        cells,
        bias: None,
        residual: None,
        bounds: Activation::None.bounds(),
        norm,
        moments: moments.map(Shared::new),
        then: None,
    };
    // Safety: as in `conv`; only a pointwise gather of floats has a norm, and the moments have a place for each of its blocks.
    unsafe { run_gathers(isa, shape, &gathers, operands, y) };
}
