//! Convolutions and matrix products.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use offshoot_graph::op::{Conv, Gemm, GradOp, Unary};
use offshoot_graph::{DType, Dim, ExecuteError, Op, Tensor, ValueId};

use super::Node;
use super::lazy::{Awaited, Operand};
use super::{Lowering, Order, unsupported};
use crate::kernels::backward::{Gradients, Operands};
use crate::kernels::batch_norm::Reduction;
use crate::kernels::conv::{Epilogue, PackedFilter, conv, conv_in_training, moment_rows, reads_norm};
use crate::kernels::conv_input_grad::conv_input_grad;
use crate::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use crate::kernels::convert::{convert, round};
use crate::kernels::depthwise;
use crate::kernels::element::Element;
use crate::kernels::elementwise::{add_activation_in_place, sum_to_rows, unary_in_place};
use crate::kernels::gemm::{GemmShape, gemm, matmul};
use crate::kernels::pointwise_backward;
use crate::kernels::simd::Isa;
use crate::kernels::{Activation, ConvShape};
use crate::optimize::CpuOp;
use crate::plan::{BufferId, Memory, Out};
use crate::session::Direction;

/// Where a convolution's packed filter comes from.
enum Filter {
    /// Packed once: the weights are frozen.
    Frozen(Arc<PackedFilter>),
    /// Packed at each run.
    Live(BufferId),
}

impl Filter {
    /// The buffer that it is packed from at each run, if it is.
    fn reads(&self) -> Option<BufferId> {
        match self {
            Filter::Frozen(_) => None,
            Filter::Live(weight) => Some(*weight),
        }
    }

    /// Calls `f` with the packed filter.
    fn with<E: Element>(
        &self,
        isa: Isa,
        shape: &ConvShape,
        direction: Direction,
        memory: &Memory<'_>,
        scratch: &mut PackedFilter,
        f: impl FnOnce(&PackedFilter),
    ) {
        match self {
            Filter::Frozen(packed) => f(packed),
            Filter::Live(weight) => {
                pack::<E>(scratch, isa, shape, direction, memory.get(*weight));
                f(scratch);
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

/// Calls `f` with what a norm waits for, if one does.
fn with_reduction<E: Element>(
    awaited: Option<Awaited>,
    memory: &Memory<'_>,
    f: impl FnOnce(Option<Reduction<'_, E>>),
) {
    match awaited {
        None => f(None),
        Some(awaited) => awaited.with(memory, |reduction| f(Some(reduction))),
    }
}

impl Lowering<'_> {
    /// The shape of the convolution from `x` to `y` that `node` is or belongs to.
    pub(super) fn conv_shape(
        &self,
        node: &Node,
        attributes: &Conv,
        [x, weight, y]: [ValueId; 3],
    ) -> Result<ConvShape, ExecuteError> {
        let ([batch, in_c, in_h, in_w], [.., r, s], [_, out_c, out_h, out_w]) =
            (self.shape(x), self.shape(weight), self.shape(y))
        else {
            unreachable!("the shape rule of Conv asks for rank 4")
        };
        let shape = ConvShape {
            batch: *batch,
            in_h: *in_h,
            in_w: *in_w,
            in_c: *in_c,
            out_h: *out_h,
            out_w: *out_w,
            out_c: *out_c,
            kernel: [*r, *s],
            strides: attributes.strides,
            pads: attributes.pads,
            dilations: attributes.dilations,
            groups: attributes.group,
        };
        match shape.fits() {
            true => Ok(shape),
            false => Err(unsupported(node, format!("its sizes are too large: {shape:?}"))),
        }
    }

    fn filter<E: Element>(
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
        let key = (weight, direction, PackedFilter::is_for_winograd(shape), E::DTYPE);
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
    ) -> Result<BufferId, ExecuteError> {
        let (shape, len) = (*shape, self.len(weight));
        if let Some(packed) = self.filters.tensors.get(&(weight, E::DTYPE)) {
            return Ok(self.constant(packed.clone()));
        }
        if let Some(oihw) = self.known(weight).and_then(Tensor::as_f32) {
            let mut packed = vec![0.0; len];
            depthwise::pack(&shape, &rounded::<E>(self.isa, oihw), &mut packed);
            let packed = Tensor::f32([len], packed);
            self.filters.tensors.insert((weight, E::DTYPE), packed.clone());
            return Ok(self.constant(packed));
        }
        let oihw = self.rounded::<E>(weight)?;
        let packed = self.fresh(len, DType::F32);
        self.push("pack", vec![oihw], vec![packed], move |memory, _, out| {
            depthwise::pack(&shape, memory.get(oihw), out[0].get());
            Ok(())
        });
        Ok(packed)
    }

    pub(super) fn conv<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Conv,
        (activation, then): (Activation, Option<Unary>),
        residual: bool,
    ) -> Result<(), ExecuteError> {
        let shape = self.conv_shape(node, attributes, [node.inputs[0], node.inputs[1], node.outputs[0]])?;
        if self.is_normalized(node.outputs[0])
            && node.inputs.len() == 2
            && self.conv_for_norm::<E>(node, shape)?
        {
            return Ok(());
        }
        let isa = self.isa;
        let x = self.read(node.inputs[0])?;
        let bias = node.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        let residual = if residual { Some(self.read(node.inputs[3])?) } else { None };
        let y = self.write(node.outputs[0]);
        let mut reads: Vec<BufferId> = [x].into_iter().chain(bias).chain(residual).collect();
        if depthwise::supports(&shape) {
            let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
            reads.push(weight);
            let own = if residual.is_some() { Activation::None } else { activation };
            self.push(&node.name, reads, vec![y], move |memory, _, out| {
                depthwise::forward(
                    isa,
                    &shape,
                    memory.get::<E>(x),
                    memory.get(weight),
                    bias.map(|b| memory.get(b)),
                    own,
                    out[0].get(),
                );
                if let Some(residual) = residual {
                    add_activation_in_place(isa, out[0].get(), memory.get::<E>(residual), activation);
                }
                if let Some(then) = then {
                    unary_in_place(isa, then, out[0].get::<E>());
                }
                Ok(())
            });
            return Ok(());
        }
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Forward)?;
        reads.extend(filter.reads());
        self.push(&node.name, reads, vec![y], move |memory, scratch, out| {
            let bias = bias.map(|b| memory.get(b));
            let epilogue = Epilogue { bias, residual: residual.map(|r| memory.get::<E>(r)), activation };
            filter.with::<E>(isa, &shape, Direction::Forward, memory, &mut scratch.filter, |filter| {
                conv(isa, &shape, memory.get::<E>(x), filter, &epilogue, out[0].get());
            });
            if let Some(then) = then {
                unary_in_place(isa, then, out[0].get::<E>());
            }
            Ok(())
        });
        Ok(())
    }

    /// A convolution that a batch norm follows, if there is a kernel that leaves what the norm waits for.
    fn conv_for_norm<E: Element>(&mut self, node: &Node, shape: ConvShape) -> Result<bool, ExecuteError> {
        let isa = self.isa;
        let y = node.outputs[0];
        if depthwise::supports(&shape) {
            if !depthwise::takes_strips(&shape) {
                return Ok(false);
            }
            let x = self.lazy_operand(node.inputs[0])?;
            let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
            let moments = self.moments(y, depthwise::moment_rows(&shape), shape.out_c);
            let writes = vec![self.write(y), moments];
            let reads = x.buffers().into_iter().chain([weight]).collect();
            self.push(&node.name, reads, writes, move |memory, _, out| {
                let [y, moments] = out else { unreachable!("two outputs") };
                let (x, weight) = (x.get::<E>(memory), memory.get(weight));
                depthwise::forward_in_training(isa, &shape, &x, weight, y.get(), Some(moments.get()));
                Ok(())
            });
            return Ok(true);
        }
        let Some(rows) = moment_rows(&shape) else { return Ok(false) };
        let x = match reads_norm::<E>(isa, &shape) {
            true => self.lazy_operand(node.inputs[0])?,
            false => Operand::Held(self.read(node.inputs[0])?),
        };
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Forward)?;
        let moments = self.moments(y, rows, shape.out_c);
        let writes = vec![self.write(y), moments];
        let reads = x.buffers().into_iter().chain(filter.reads()).collect();
        self.push(&node.name, reads, writes, move |memory, scratch, out| {
            let [y, moments] = out else { unreachable!("two outputs") };
            let x = x.get::<E>(memory);
            filter.with::<E>(isa, &shape, Direction::Forward, memory, &mut scratch.filter, |filter| {
                conv_in_training(isa, &shape, &x, filter, y.get(), Some(moments.get()));
            });
            Ok(())
        });
        Ok(true)
    }

    /// A buffer for the moments of a value's channels over parts of its pixels.
    fn moments(&mut self, value: ValueId, rows: Vec<usize>, channels: usize) -> BufferId {
        let buffer = self.fresh(2 * rows.len() * channels, DType::F32);
        self.lazy.moments.insert(value, (buffer, rows));
        buffer
    }

    /// The gradients of a convolution's input and weight, in one step if there is a kernel for that.
    pub(super) fn conv_gradients(&mut self, input: &Node, weight: &Node) -> Result<(), ExecuteError> {
        let done = match self.dtype(input.inputs[0]) {
            DType::F32 => self.conv_gradients_at_once::<f32>(input, weight)?,
            DType::BF16 => self.conv_gradients_at_once::<bf16>(input, weight)?,
            DType::F16 => self.conv_gradients_at_once::<f16>(input, weight)?,
            _ => false,
        };
        if !done {
            self.typed_node(input)?;
            self.typed_node(weight)?;
        }
        Ok(())
    }

    fn conv_gradients_at_once<E: Element>(
        &mut self,
        input: &Node,
        weight: &Node,
    ) -> Result<bool, ExecuteError> {
        let CpuOp::Plain(Op::Grad(GradOp::ConvInput { conv, .. })) = &input.op else { return Ok(false) };
        let (filter, dx) = (input.inputs[1], input.outputs[0]);
        let shape = self.conv_shape(input, conv, [dx, filter, input.inputs[0]])?;
        let isa = self.isa;
        let by_channel = depthwise::takes_strips(&shape);
        if !by_channel && !pointwise_backward::supports::<E>(isa, &shape) {
            return Ok(false);
        }
        let (dy, x) = (self.lazy_operand(input.inputs[0])?, self.lazy_operand(weight.inputs[1])?);
        if !dy.is_computed() && !x.is_computed() {
            return Ok(false);
        }
        let awaited = self.awaited(dx)?;
        let parts = match by_channel {
            true => depthwise::sum_parts(&shape),
            false => pointwise_backward::sum_parts(isa, &shape),
        };
        let awaited_buffers = awaited.map(|awaited| awaited.buffers()).unwrap_or_default();
        let mut reads: Vec<BufferId> =
            dy.buffers().into_iter().chain(x.buffers()).chain(awaited_buffers).collect();
        let mut writes = vec![self.write(dx), self.write_plain(weight.outputs[0])];
        if awaited.is_some() {
            let sums = self.fresh(2 * parts * shape.in_c, DType::F32);
            self.lazy.sums.insert(dx, sums);
            writes.push(sums);
        }
        if by_channel {
            let weight = self.depthwise_filter::<E>(&shape, filter)?;
            reads.push(weight);
            self.push(&input.name, reads, writes, move |memory, _, out| {
                let [dx, dw, sums @ ..] = out else { unreachable!("two outputs or three") };
                let sums = sums.first_mut().map_or(&mut [][..], Out::get);
                let (dy, x) = (dy.get::<E>(memory), x.get::<E>(memory));
                let weights = memory.get(weight);
                let gradients = Gradients { dx: dx.get(), dw: dw.get(), sums };
                with_reduction::<E>(awaited, memory, |reduction| {
                    let operands = Operands { dy: &dy, x: &x, weights, reduction };
                    depthwise::backward(isa, &shape, operands, gradients);
                });
                Ok(())
            });
            return Ok(true);
        }
        let filter = self.filter::<E>(&shape, filter, Direction::Backward)?;
        reads.extend(filter.reads());
        let workspace = pointwise_backward::workspace(isa, &shape);
        self.push(&input.name, reads, writes, move |memory, scratch, out| {
            let [dx, dw, sums @ ..] = out else { unreachable!("two outputs or three") };
            let sums = sums.first_mut().map_or(&mut [][..], Out::get);
            let (dy, x) = (dy.get::<E>(memory), x.get::<E>(memory));
            scratch.floats.reserve(workspace * size_of::<f32>());
            let workspace = scratch.floats.get_mut(workspace);
            let gradients = Gradients { dx: dx.get(), dw: dw.get(), sums };
            filter.with::<E>(isa, &shape, Direction::Backward, memory, &mut scratch.filter, |weights| {
                with_reduction::<E>(awaited, memory, |reduction| {
                    let operands = Operands { dy: &dy, x: &x, weights, reduction };
                    pointwise_backward::pointwise_backward(isa, &shape, operands, gradients, workspace);
                });
            });
            Ok(())
        });
        Ok(true)
    }

    pub(super) fn conv_input_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Conv,
    ) -> Result<(), ExecuteError> {
        let shape = self.conv_shape(node, attributes, [node.outputs[0], node.inputs[1], node.inputs[0]])?;
        let isa = self.isa;
        let dy = self.read(node.inputs[0])?;
        let dx = self.write(node.outputs[0]);
        if depthwise::supports(&shape) {
            let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
            self.push(&node.name, vec![dy, weight], vec![dx], move |memory, _, out| {
                depthwise::input_grad(isa, &shape, memory.get::<E>(dy), memory.get(weight), out[0].get());
                Ok(())
            });
            return Ok(());
        }
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Backward)?;
        let reads = [dy].into_iter().chain(filter.reads()).collect();
        self.push(&node.name, reads, vec![dx], move |memory, scratch, out| {
            filter.with::<E>(isa, &shape, Direction::Backward, memory, &mut scratch.filter, |filter| {
                conv_input_grad(isa, &shape, memory.get::<E>(dy), filter, out[0].get());
            });
            Ok(())
        });
        Ok(())
    }

    pub(super) fn conv_weight_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Conv,
    ) -> Result<(), ExecuteError> {
        let shape = self.conv_shape(node, attributes, [node.inputs[1], node.outputs[0], node.inputs[0]])?;
        let isa = self.isa;
        let (dy, x) = (self.read(node.inputs[0])?, self.read(node.inputs[1])?);
        let dw = self.write_plain(node.outputs[0]);
        if depthwise::supports(&shape) {
            self.push(&node.name, vec![dy, x], vec![dw], move |memory, _, out| {
                depthwise::weight_grad(isa, &shape, memory.get::<E>(x), memory.get::<E>(dy), out[0].get());
                Ok(())
            });
            return Ok(());
        }
        let workspace = conv_weight_grad_workspace(isa, &shape);
        self.push(&node.name, vec![dy, x], vec![dw], move |memory, scratch, out| {
            scratch.floats.reserve(workspace * size_of::<f32>());
            let workspace = scratch.floats.get_mut(workspace);
            conv_weight_grad(isa, &shape, memory.get::<E>(x), memory.get::<E>(dy), out[0].get(), workspace);
            Ok(())
        });
        Ok(())
    }

    pub(super) fn gemm<E: Element>(&mut self, node: &Node, attributes: Gemm) -> Result<(), ExecuteError> {
        let Gemm { trans_a, trans_b } = attributes;
        let (&[rows, columns], &[m, n]) = (self.shape(node.inputs[0]), self.shape(node.outputs[0])) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        if !trans_a && trans_b && self.is_stack(node.inputs[0]) {
            return self.linear::<E>(node, [m, n, columns]);
        }
        let shape = GemmShape { trans_a, trans_b, m, n, k: if trans_a { rows } else { columns } };
        let isa = self.isa;
        let (a, b) = (self.wide::<E>(node.inputs[0])?, self.wide::<E>(node.inputs[1])?);
        let bias = node.inputs.get(2).map(|&c| self.plain(c)).transpose()?;
        let y = self.write_plain(node.outputs[0]);
        let full = E::DTYPE == DType::F32;
        let sums = if full { y } else { self.fresh(m * n, DType::F32) };
        let reads = [a, b].into_iter().chain(bias).collect();
        self.push(&node.name, reads, vec![sums], move |memory, _, out| {
            let bias = bias.map(|c| memory.get(c));
            gemm(isa, &shape, memory.get(a), memory.get(b), bias, out[0].get());
            Ok(())
        });
        if !full {
            self.push("cast", vec![sums], vec![y], move |memory, _, out| {
                convert(isa, memory.get::<f32>(sums), out[0].get::<E>());
                Ok(())
            });
        }
        Ok(())
    }

    /// Whether a matrix has many rows for each picture, such as those of all tokens.
    fn is_stack(&self, value: ValueId) -> bool {
        match self.graph.value(value).shape.0.first() {
            Some(Dim::Expr(_)) => true,
            Some(Dim::Fixed(rows)) => *rows >= 64,
            Some(Dim::Symbol(_)) | None => false,
        }
    }

    /// x wᵀ + b for many rows, as the 1x1 convolution of one row of pixels: its filter is packed.
    fn linear<E: Element>(&mut self, node: &Node, [m, n, k]: [usize; 3]) -> Result<(), ExecuteError> {
        let shape = ConvShape::of_matrices(m, k, n);
        let isa = self.isa;
        let x = self.plain(node.inputs[0])?;
        let bias = node.inputs.get(2).map(|&c| self.plain(c)).transpose()?;
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Forward)?;
        let y = self.write_plain(node.outputs[0]);
        let reads = [x].into_iter().chain(bias).chain(filter.reads()).collect();
        self.push(&node.name, reads, vec![y], move |memory, scratch, out| {
            let bias = bias.map(|b| memory.get(b));
            let epilogue = Epilogue { bias, residual: None, activation: Activation::None };
            filter.with::<E>(isa, &shape, Direction::Forward, memory, &mut scratch.filter, |filter| {
                conv(isa, &shape, memory.get::<E>(x), filter, &epilogue, out[0].get());
            });
            Ok(())
        });
        Ok(())
    }

    /// A product of two stacks of matrices, the operands' last two axes exchanged where `trans` says so.
    pub(super) fn matmul<E: Element>(
        &mut self,
        node: &Node,
        [trans_a, trans_b]: [bool; 2],
    ) -> Result<(), ExecuteError> {
        let (a_shape, y_shape) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        let (&[.., rows, columns], &[ref stack @ .., m, n]) = (a_shape, y_shape) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let count = stack.iter().product();
        let shape = GemmShape { trans_a, trans_b, m, n, k: if trans_a { rows } else { columns } };
        let isa = self.isa;
        let (a, b) = (self.wide::<E>(node.inputs[0])?, self.wide::<E>(node.inputs[1])?);
        let product = self.fresh(count * m * n, DType::F32);
        self.push(&node.name, vec![a, b], vec![product], move |memory, _, out| {
            matmul(isa, count, &shape, memory.get(a), memory.get(b), out[0].get());
            Ok(())
        });
        let y = node.outputs[0];
        let product = if E::DTYPE == DType::F32 { product } else { self.cast::<f32, E>(product, y) };
        self.alias(y, Order::Graph, product);
        Ok(())
    }

    /// An operand of a matrix product on `E` as f32. It may be a weight, which is rounded to what `E` can hold.
    fn wide<E: Element>(&mut self, value: ValueId) -> Result<BufferId, ExecuteError> {
        if self.dtype(value) == DType::F32 {
            return self.rounded::<E>(value);
        }
        let from = self.plain(value)?;
        Ok(self.cast::<E, f32>(from, value))
    }

    pub(super) fn sum_to_channels<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let dy = self.read(node.inputs[0])?;
        let sums = self.write_plain(node.outputs[0]);
        self.push(&node.name, vec![dy], vec![sums], move |memory, _, out| {
            sum_to_rows(isa, memory.get::<E>(dy), 1, out[0].get());
            Ok(())
        });
        Ok(())
    }
}
