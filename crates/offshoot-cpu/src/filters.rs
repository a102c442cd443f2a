//! Filters of convolutions, packed once for all plans of a graph.

use std::collections::HashMap;
use std::sync::Arc;

use offshoot_graph::{DType, Tensor, ValueId};

use crate::kernels::ConvShape;
use crate::kernels::conv::{Method, PackedFilter};
use crate::kernels::int8::conv::ByteFilter;
use crate::kernels::int8::depthwise::DepthwiseFilter;
use crate::kernels::simd::Isa;

/// The packed form of frozen filters.
#[derive(Default)]
pub(crate) struct Filters {
    /// By its parameter, the direction, whether it is for Winograd's algorithm, and the type that its weights were rounded
    /// to.
    pub(crate) floats: HashMap<(ValueId, Direction, Method, DType), Arc<PackedFilter>>,
    /// Filters of integers, by the result.
    pub(crate) integers: HashMap<ValueId, IntegerFilter>,
    /// Tensors that were computed of frozen weights, by the value that they stand for.
    pub(crate) tensors: HashMap<(ValueId, Derived), Tensor>,
}

/// What was computed of a frozen weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Derived {
    /// A depthwise filter, rounded to a type and packed.
    Depthwise(DType),
    /// The floats that integers stand for.
    Floats,
}

/// A packed filter of integers.
#[derive(Clone)]
pub(crate) enum IntegerFilter {
    /// Of a dense or grouped convolution.
    Dense(Arc<ByteFilter>),
    /// Of a depthwise one.
    Depthwise(Arc<DepthwiseFilter>),
}

impl IntegerFilter {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            IntegerFilter::Dense(filter) => filter.bytes(),
            IntegerFilter::Depthwise(filter) => filter.bytes(),
        }
    }

    /// Whether it is packed for `shape` on `isa`.
    pub(crate) fn serves(&self, isa: Isa, shape: &ConvShape) -> bool {
        match self {
            IntegerFilter::Dense(filter) => filter.serves(isa, shape),
            IntegerFilter::Depthwise(filter) => filter.serves(shape),
        }
    }
}

/// What a filter is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// The convolution itself.
    Forward,
    /// The gradient of its input.
    Backward,
}
