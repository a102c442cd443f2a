//! Filters of convolutions: packed once where they are frozen.

use std::borrow::Cow;
use std::sync::Arc;

use offshoot_graph::{DType, ExecuteError, Tensor, ValueId};

use super::Lowering;
use crate::filters::{Derived, Direction};
use crate::kernels::ConvShape;
use crate::kernels::conv::{Method, PackedFilter};
use crate::kernels::convert::round;
use crate::kernels::depthwise;
use crate::kernels::element::Element;
use crate::kernels::simd::Isa;
use crate::operands::{Buffers, Memory, Operand, Reads};

/// Where a convolution's packed filter comes from.
pub(super) enum Filter {
    /// Packed once: the weights are frozen.
    Frozen(Arc<PackedFilter>),
    /// Packed at each run.
    Live(Operand<f32>),
}

/// A [`Filter`] while a step runs.
pub(super) enum FilterElements<'m> {
    Frozen(&'m PackedFilter),
    Live(&'m [f32]),
}

impl Reads for Filter {
    type Elements<'m> = FilterElements<'m>;

    fn register(&self, buffers: &mut Buffers) {
        match self {
            Filter::Frozen(packed) => buffers.packed += packed.bytes(),
            Filter::Live(weight) => weight.register(buffers),
        }
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> FilterElements<'m> {
        match self {
            Filter::Frozen(packed) => FilterElements::Frozen(packed),
            Filter::Live(weight) => FilterElements::Live(weight.get(memory)),
        }
    }
}

impl<'m> FilterElements<'m> {
    /// The packed filter, which is in `scratch` where it changes.
    pub(super) fn packed<E: Element>(
        self,
        isa: Isa,
        shape: &ConvShape,
        direction: Direction,
        scratch: &'m mut PackedFilter,
    ) -> &'m PackedFilter {
        match self {
            FilterElements::Frozen(packed) => packed,
            FilterElements::Live(weight) => {
                pack::<E>(scratch, isa, shape, direction, weight);
                scratch
            }
        }
    }
}

/// Packs weights that are rounded to what `E` can hold.
fn pack<E: Element>(
    filter: &mut PackedFilter,
    isa: Isa,
    shape: &ConvShape,
    direction: Direction,
    oihw: &[f32],
) {
    filter.set_element::<E>();
    match direction {
        Direction::Forward => filter.pack(isa, shape, oihw),
        Direction::Backward => filter.pack_for_input_grad(isa, shape, oihw),
    }
}

/// Weights rounded to what `E` can hold.
fn rounded<E: Element>(isa: Isa, weights: &[f32]) -> Cow<'_, [f32]> {
    if E::DTYPE == DType::F32 {
        return Cow::Borrowed(weights);
    }
    let mut rounded = vec![0.0; weights.len()];
    round::<E>(isa, weights, &mut rounded);
    Cow::Owned(rounded)
}

impl Lowering<'_> {
    /// The filter of a convolution on `E`, or of its gradient.
    pub(super) fn filter<E: Element>(
        &mut self,
        shape: &ConvShape,
        weight: ValueId,
        direction: Direction,
    ) -> Result<Filter, ExecuteError> {
        match self.packed::<E>(shape, weight, direction) {
            Some(packed) => Ok(Filter::Frozen(packed)),
            None => Ok(Filter::Live(self.rounded::<E>(weight)?)),
        }
    }

    /// The packed form of a filter that is frozen, for a convolution on `E`.
    pub(super) fn packed<E: Element>(
        &mut self,
        shape: &ConvShape,
        weight: ValueId,
        direction: Direction,
    ) -> Option<Arc<PackedFilter>> {
        let key = (weight, direction, Method::of(self.isa, E::DTYPE, shape), E::DTYPE);
        if let Some(packed) = self.filters.floats.get(&key) {
            return Some(Arc::clone(packed));
        }
        let oihw = self.known(weight)?.as_f32()?;
        let mut filter = PackedFilter::default();
        pack::<E>(&mut filter, self.isa, shape, direction, &rounded::<E>(self.isa, oihw));
        let packed = Arc::new(filter);
        self.filters.floats.insert(key, Arc::clone(&packed));
        Some(packed)
    }

    /// The filter of a depthwise convolution as its kernels read it: a constant when it is frozen.
    pub(super) fn depthwise_filter<E: Element>(
        &mut self,
        shape: &ConvShape,
        weight: ValueId,
    ) -> Result<Operand<f32>, ExecuteError> {
        let (shape, len) = (*shape, self.len(weight));
        if let Some(packed) = self.filters.tensors.get(&(weight, Derived::Depthwise(E::DTYPE))).cloned() {
            let packed = self.constant(packed);
            return self.typed(weight, packed);
        }
        if let Some(oihw) = self.known(weight).and_then(Tensor::as_f32) {
            let mut packed = vec![0.0; len];
            depthwise::pack(&shape, &rounded::<E>(self.isa, oihw), &mut packed);
            let packed = Tensor::f32([len], packed);
            self.filters.tensors.insert((weight, Derived::Depthwise(E::DTYPE)), packed.clone());
            let packed = self.constant(packed);
            return self.typed(weight, packed);
        }
        let (oihw, packed) = (self.rounded::<E>(weight)?, self.fresh(len));
        self.moving_step("pack", oihw, packed, move |oihw, packed| depthwise::pack(&shape, oihw, packed));
        Ok(packed.operand())
    }
}
