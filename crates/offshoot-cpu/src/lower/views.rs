//! Values that are elements of another value's buffer, at constant distances: what Transpose, Slice and Reshape make moves nothing
//! before a kernel asks for it in an order of its own.

use std::collections::HashMap;

use half::{bf16, f16};
use offshoot_graph::op::ShapeOp;
use offshoot_graph::{DType, ExecuteError, Op, ValueId};

use super::{Graph, Lowering, Order};
use crate::kernels::element::Stored;
use crate::kernels::strided::{Strided, copy_strided};
use crate::operands::{AnyOperand, Operand, Output};
use crate::optimize::CpuOp;

/// Where the elements of a value are.
#[derive(Clone)]
pub(super) struct View {
    pub(super) base: AnyOperand,
    /// Elements of the base.
    len: usize,
    pub(super) places: Strided,
}

/// The values that are [`View`]s, until they are copied.
pub(super) struct Views {
    all: HashMap<ValueId, View>,
    /// How the one reader of a value permutes its axes, where that leaves the last one last.
    permuted: HashMap<ValueId, Vec<usize>>,
}

impl Views {
    pub(super) fn new(graph: &Graph) -> Views {
        let uses = graph.use_counts();
        let mut permuted = HashMap::new();
        for node in graph.nodes() {
            if let CpuOp::Plain(Op::Shape(ShapeOp::Transpose { perm })) = &node.op
                && uses[node.inputs[0].index()] == 1
                && perm.last().is_some_and(|&last| last + 1 == perm.len())
            {
                permuted.insert(node.inputs[0], perm.clone());
            }
        }
        Views { all: HashMap::new(), permuted }
    }
}

impl Lowering<'_> {
    /// Where the elements of a value are, without moving them.
    pub(super) fn view(&mut self, value: ValueId) -> Result<View, ExecuteError> {
        if let Some(view) = self.views.all.get(&value) {
            return Ok(view.clone());
        }
        let order = self.held_order(&[value]);
        let base = self.any_in_order(value, order)?;
        let shape = self.shape(value).to_vec();
        let len = self.len(value);
        let places = match (order, shape.len()) {
            (Order::ChannelsLast, 4) => Strided::dense(order.of(shape)).permuted(&[0, 3, 1, 2]),
            _ => Strided::dense(shape),
        };
        Ok(View { base, len, places })
    }

    /// Lets `value` be the elements of a view at other places.
    pub(super) fn set_view(&mut self, value: ValueId, of: &View, places: Strided) {
        let whole = places.start == 0 && places.len() == of.len;
        if whole && places.is_dense() {
            self.alias(value, Order::Graph, of.base);
        } else if whole && is_channels_last(&places) {
            self.alias(value, Order::ChannelsLast, of.base);
        } else {
            self.views.all.insert(value, View { places, ..of.clone() });
        }
    }

    /// Whether a value is a view whose channels are next to each other.
    pub(super) fn is_view_of_channels_last(&self, value: ValueId) -> bool {
        let channels_last = |view: &View| match view.places.shape[..] {
            [_, c, ..] => c > 1 && view.places.shape.len() == 4 && view.places.strides[1] == 1,
            _ => false,
        };
        self.views.all.get(&value).is_some_and(channels_last)
    }

    /// The elements of a value that is a view, copied to a buffer of their own in `order`.
    pub(super) fn copied(
        &mut self,
        value: ValueId,
        order: Order,
    ) -> Option<Result<AnyOperand, ExecuteError>> {
        let view = self.views.all.get(&value)?.clone();
        Some(match view.base.dtype() {
            DType::F32 => self.copy_view::<f32>(value, view, order),
            DType::BF16 => self.copy_view::<bf16>(value, view, order),
            DType::F16 => self.copy_view::<f16>(value, view, order),
            DType::I8 => self.copy_view::<i8>(value, view, order),
            DType::U8 => self.copy_view::<u8>(value, view, order),
            DType::I32 => self.copy_view::<i32>(value, view, order),
            DType::I64 => self.copy_view::<i64>(value, view, order),
            DType::F64 => self.copy_view::<f64>(value, view, order),
            DType::Bool => Err(self.refused("there are no kernels for bool".into())),
        })
    }

    fn copy_view<E: Stored>(
        &mut self,
        value: ValueId,
        View { base, places, .. }: View,
        order: Order,
    ) -> Result<AnyOperand, ExecuteError> {
        let places = match (order, places.shape.len()) {
            (Order::ChannelsLast, 4) => places.permuted(&[0, 2, 3, 1]),
            _ => places,
        };
        let (from, to) = (self.typed::<E>(value, base)?, self.write_in_order::<E>(value, order)?);
        self.copy_step(from, places, to);
        Ok(to.operand().into())
    }

    /// Copies the elements at `places`, one after another.
    pub(super) fn copy_step<E: Stored>(&mut self, from: Operand<E>, places: Strided, to: Output<E>) {
        let kernel = if places.strides.last() == Some(&1) { "copy columns" } else { "permute" };
        self.moving_step(kernel, from, to, move |from, to| copy_strided(from, &places, to));
    }

    /// The elements of an f32 value, where those of its last axis follow one another. Copied if they do not.
    pub(super) fn rows<E: Stored>(&mut self, value: ValueId) -> Result<(Operand<E>, Strided), ExecuteError> {
        let view = self.view(value)?;
        if view.places.strides.last() == Some(&1) {
            return Ok((self.typed(value, view.base)?, view.places));
        }
        Ok((self.plain(value)?, Strided::dense(self.shape(value).to_vec())))
    }

    /// A new buffer for a value, and where its elements go: in the order in which the reader wants them, where there is only one, and
    /// those of the last axis follow one another.
    pub(super) fn write_rows<E: Stored>(
        &mut self,
        value: ValueId,
    ) -> Result<(Output<E>, Strided), ExecuteError> {
        let shape = self.shape(value).to_vec();
        let Some(perm) = self.views.permuted.get(&value).cloned() else {
            return Ok((self.write_plain(value)?, Strided::dense(shape)));
        };
        let y = self.fresh::<E>(self.len(value));
        let in_memory = Strided::dense(perm.iter().map(|&axis| shape[axis]).collect());
        let back: Vec<usize> =
            (0..perm.len()).filter_map(|axis| perm.iter().position(|&from| from == axis)).collect();
        let places = in_memory.permuted(&back);
        let view = View { base: y.operand().into(), len: self.len(value), places: places.clone() };
        self.set_view(value, &view, places.clone());
        Ok((y, places))
    }
}

fn is_channels_last(places: &Strided) -> bool {
    places.shape.len() == 4 && places.permuted(&[0, 2, 3, 1]).is_dense()
}
