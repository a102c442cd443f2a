//! Convolutions and matrix products.

use half::{bf16, f16};
use offshoot_graph::op::{Conv, Gemm, GradOp, Unary};
use offshoot_graph::{DType, Dim, ExecuteError, Op, ValueId};

use super::Node;
use super::lazy::{AwaitedElements, NormOperand};
use super::{Lowering, Order, unsupported};
use crate::filters::Direction;
use crate::kernels::backward::{Gradients, Operands};
use crate::kernels::batch_norm::Reduction;
use crate::kernels::conv::{
    Epilogue, applies_functions, conv, conv_columns, conv_in_training, kernel_name, moment_rows, reads_norm,
};
use crate::kernels::conv_input_grad::{conv_input_grad, conv_transpose};
use crate::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use crate::kernels::depthwise;
use crate::kernels::direct::{self, Applied, Axes};
use crate::kernels::element::Element;
use crate::kernels::elementwise::{add_activation_in_place, sum_to_rows, unary_in_place};
use crate::kernels::gemm::{GemmShape, gemm, matmul, tiled};
use crate::kernels::pointwise_backward;
use crate::kernels::shape::Columns;
use crate::kernels::{Activation, ConvShape};
use crate::operands::{Operand, Output};
use crate::optimize::CpuOp;
use crate::plan::Scratch;

/// Calls `f` with what a norm waits for, if one does.
fn with_reduction<E: Element>(
    awaited: Option<AwaitedElements<'_, E>>,
    f: impl FnOnce(Option<Reduction<'_, E>>),
) {
    match awaited {
        None => f(None),
        Some(awaited) => awaited.with(|reduction| f(Some(reduction))),
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
            return Err(unsupported(node, "its operands must have rank 4".into()));
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
        let bias = node.inputs.get(2).map(|&b| self.plain(b)).transpose()?;
        let residual = if residual { Some(self.read(node.inputs[3])?) } else { None };
        if depthwise::supports(&shape) {
            return self.depthwise::<E>(node, shape, (bias, residual), (activation, then));
        }
        let isa = self.isa;
        if residual.is_none() && E::DTYPE == DType::F32 && direct::supports(isa, &shape) {
            return self.direct(node, shape, bias, (activation, then));
        }
        let x = match reads_norm::<E>(isa, &shape) {
            true => self.lazy_operand::<E>(node.inputs[0])?,
            false => NormOperand::Held(self.read(node.inputs[0])?),
        };
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Forward)?;
        let applies = then.is_none() || applies_functions::<E>(isa, &shape);
        let (y, columns) = match residual.is_none() && applies {
            true => self.write_columns(node.outputs[0])?,
            false => (self.write(node.outputs[0])?, Columns::whole(shape.out_c)),
        };
        self.scratch_step(
            kernel_name::<E>(isa, &shape),
            (x, filter, bias, residual),
            y,
            move |(x, filter, bias, residual), y, scratch| {
                let filter = filter.packed::<E>(isa, &shape, Direction::Forward, &mut scratch.filter);
                let epilogue = Epilogue { bias, residual, activation, then };
                conv_columns(isa, &shape, &x, filter, &epilogue, columns, y);
            },
        );
        Ok(())
    }

    /// A convolution of pictures with few channels, which lie in any order.
    fn direct(
        &mut self,
        node: &Node,
        shape: ConvShape,
        bias: Option<Operand<f32>>,
        (activation, then): (Activation, Option<Unary>),
    ) -> Result<(), ExecuteError> {
        let (isa, order) = (self.isa, self.held_order(&node.inputs[..1]));
        let x = self.in_order::<f32>(node.inputs[0], order)?;
        let axes = Axes::of(&shape, order == Order::ChannelsLast);
        let filter = self.filter::<f32>(&shape, node.inputs[1], Direction::Forward)?;
        let (y, columns) = self.write_columns(node.outputs[0])?;
        self.scratch_step("direct", (x, filter, bias), y, move |(x, filter, bias), y, scratch| {
            let filter = filter.packed::<f32>(isa, &shape, Direction::Forward, &mut scratch.filter);
            direct::direct(isa, &shape, (x, axes), filter, Applied { bias, activation, then }, columns, y);
        });
        Ok(())
    }

    fn depthwise<E: Element>(
        &mut self,
        node: &Node,
        shape: ConvShape,
        (bias, residual): (Option<Operand<f32>>, Option<Operand<E>>),
        (activation, then): (Activation, Option<Unary>),
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let x = self.read::<E>(node.inputs[0])?;
        let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
        let y = self.write(node.outputs[0])?;
        let reads = (x, weight, bias, residual);
        self.step("depthwise", reads, y, move |(x, weight, bias, residual), y| {
            let Some(residual) = residual else {
                return depthwise::forward(isa, &shape, x, weight, bias, (activation, then), y);
            };
            depthwise::forward(isa, &shape, x, weight, bias, (Activation::None, None), y);
            add_activation_in_place(isa, y, residual, activation);
            if let Some(then) = then {
                unary_in_place(isa, then, y);
            }
        });
        Ok(())
    }

    /// A convolution that a batch norm follows, if there is a kernel that leaves what the norm waits for.
    fn conv_for_norm<E: Element>(&mut self, node: &Node, shape: ConvShape) -> Result<bool, ExecuteError> {
        let (isa, y) = (self.isa, node.outputs[0]);
        if depthwise::supports(&shape) {
            if !depthwise::takes_strips(&shape) {
                return Ok(false);
            }
            let x = self.lazy_operand::<E>(node.inputs[0])?;
            let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
            let moments = self.moments(y, depthwise::moment_rows(&shape), shape.out_c);
            let writes = (self.write(y)?, moments);
            self.step("depthwise strips", (x, weight), writes, move |(x, weight), (y, moments)| {
                depthwise::forward_in_training(isa, &shape, &x, weight, y, Some(moments));
            });
            return Ok(true);
        }
        let Some(rows) = moment_rows::<E>(isa, &shape) else { return Ok(false) };
        let x = match reads_norm::<E>(isa, &shape) {
            true => self.lazy_operand::<E>(node.inputs[0])?,
            false => NormOperand::Held(self.read(node.inputs[0])?),
        };
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Forward)?;
        let moments = self.moments(y, rows, shape.out_c);
        let writes = (self.write(y)?, moments);
        self.scratch_step(
            kernel_name::<E>(isa, &shape),
            (x, filter),
            writes,
            move |(x, filter), (y, moments), scratch| {
                let filter = filter.packed::<E>(isa, &shape, Direction::Forward, &mut scratch.filter);
                conv_in_training(isa, &shape, &x, filter, y, Some(moments));
            },
        );
        Ok(true)
    }

    /// A buffer for the moments of a value's channels over parts of its pixels.
    fn moments(&mut self, value: ValueId, rows: Vec<usize>, channels: usize) -> Output<f32> {
        let moments = self.fresh::<f32>(2 * rows.len() * channels);
        self.lazy.moments.insert(value, (moments.operand(), rows));
        moments
    }

    /// The gradients of a convolution's input and weight, in one step if there is a kernel for that.
    pub(super) fn conv_gradients(&mut self, input: &Node, weight: &Node) -> Result<(), ExecuteError> {
        self.current = self.fused("Fused.ConvGradients", &[input, weight]);
        let done = match self.dtype(input.inputs[0]) {
            DType::F32 => self.conv_gradients_at_once::<f32>(input, weight)?,
            DType::BF16 => self.conv_gradients_at_once::<bf16>(input, weight)?,
            DType::F16 => self.conv_gradients_at_once::<f16>(input, weight)?,
            _ => false,
        };
        if !done {
            for node in [input, weight] {
                self.current = self.work_of(node);
                self.typed_node(node)?;
            }
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
        let dy = self.lazy_operand::<E>(input.inputs[0])?;
        let x = self.lazy_operand::<E>(weight.inputs[1])?;
        if !dy.is_computed() && !x.is_computed() {
            return Ok(false);
        }
        let awaited = self.awaited::<E>(dx)?;
        let parts = match by_channel {
            true => depthwise::sum_parts(&shape),
            false => pointwise_backward::sum_parts(isa, &shape),
        };
        let (dx_out, dw) = (self.write(dx)?, self.write_plain(weight.outputs[0])?);
        let sums = awaited.map(|_| self.fresh::<f32>(2 * parts * shape.in_c));
        if let Some(sums) = sums {
            self.lazy.sums.insert(dx, sums.operand());
        }
        let writes = (dx_out, dw, sums);
        if by_channel {
            let weight = self.depthwise_filter::<E>(&shape, filter)?;
            let reads = (dy, x, weight, awaited);
            self.step(
                "depthwise backward",
                reads,
                writes,
                move |(dy, x, weights, awaited), (dx, dw, sums)| {
                    let gradients = Gradients { dx, dw, sums: sums.unwrap_or_default() };
                    with_reduction(awaited, |reduction| {
                        let operands = Operands { dy: &dy, x: &x, weights, reduction };
                        depthwise::backward(isa, &shape, operands, gradients);
                    });
                },
            );
            return Ok(true);
        }
        let filter = self.filter::<E>(&shape, filter, Direction::Backward)?;
        let workspace = pointwise_backward::workspace(isa, &shape);
        let reads = (dy, x, filter, awaited);
        self.scratch_step(
            "pointwise backward",
            reads,
            writes,
            move |(dy, x, filter, awaited), (dx, dw, sums), scratch| {
                let Scratch { filter: packed, floats } = scratch;
                let weights = filter.packed::<E>(isa, &shape, Direction::Backward, packed);
                floats.reserve(workspace * size_of::<f32>());
                let gradients = Gradients { dx, dw, sums: sums.unwrap_or_default() };
                with_reduction(awaited, |reduction| {
                    let operands = Operands { dy: &dy, x: &x, weights, reduction };
                    let workspace = floats.get_mut(workspace);
                    pointwise_backward::pointwise_backward(isa, &shape, operands, gradients, workspace);
                });
            },
        );
        Ok(true)
    }

    pub(super) fn conv_input_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Conv,
    ) -> Result<(), ExecuteError> {
        let shape = self.conv_shape(node, attributes, [node.outputs[0], node.inputs[1], node.inputs[0]])?;
        let isa = self.isa;
        let (dy, dx) = (self.read::<E>(node.inputs[0])?, self.write(node.outputs[0])?);
        if depthwise::supports(&shape) {
            let weight = self.depthwise_filter::<E>(&shape, node.inputs[1])?;
            self.step("depthwise", (dy, weight), dx, move |(dy, weight), dx| {
                depthwise::input_grad(isa, &shape, dy, weight, dx);
            });
            return Ok(());
        }
        let filter = self.filter::<E>(&shape, node.inputs[1], Direction::Backward)?;
        self.scratch_step(
            kernel_name::<E>(isa, &shape),
            (dy, filter),
            dx,
            move |(dy, filter), dx, scratch| {
                let filter = filter.packed::<E>(isa, &shape, Direction::Backward, &mut scratch.filter);
                conv_input_grad(isa, &shape, dy, filter, dx);
            },
        );
        Ok(())
    }

    pub(super) fn conv_weight_grad<E: Element>(
        &mut self,
        node: &Node,
        attributes: &Conv,
    ) -> Result<(), ExecuteError> {
        let shape = self.conv_shape(node, attributes, [node.inputs[1], node.outputs[0], node.inputs[0]])?;
        let isa = self.isa;
        let (dy, x) = (self.read::<E>(node.inputs[0])?, self.read::<E>(node.inputs[1])?);
        let dw = self.write_plain(node.outputs[0])?;
        if depthwise::supports(&shape) {
            self.step("depthwise", (dy, x), dw, move |(dy, x), dw| {
                depthwise::weight_grad(isa, &shape, x, dy, dw);
            });
            return Ok(());
        }
        let workspace = conv_weight_grad_workspace(isa, &shape);
        self.scratch_step("weight gradient", (dy, x), dw, move |(dy, x), dw, scratch| {
            scratch.floats.reserve(workspace * size_of::<f32>());
            conv_weight_grad(isa, &shape, x, dy, dw, scratch.floats.get_mut(workspace));
        });
        Ok(())
    }

    /// `then` is a function of the product's elements.
    pub(super) fn gemm<E: Element>(
        &mut self,
        node: &Node,
        attributes: Gemm,
        then: Option<Unary>,
    ) -> Result<(), ExecuteError> {
        let Gemm { trans_a, trans_b } = attributes;
        let (&[rows, columns], &[m, n]) = (self.shape(node.inputs[0]), self.shape(node.outputs[0])) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let shape = GemmShape { trans_a, trans_b, m, n, k: if trans_a { rows } else { columns } };
        if let Some(operands) = self.widened.operands(node) {
            return self.tiled_matmul(operands, node.outputs[0], (1, shape));
        }
        if !trans_a && self.is_stack(node.inputs[0]) && self.dtype(node.inputs[1]) == DType::F32 {
            return self.linear::<E>(node, [m, n, columns], (trans_b, then));
        }
        let isa = self.isa;
        let (a, b) = (self.wide::<E>(node.inputs[0])?, self.wide::<E>(node.inputs[1])?);
        let bias = node.inputs.get(2).map(|&c| self.plain(c)).transpose()?;
        let sums = self.fresh(m * n);
        self.step("gemm", (a, b, bias), sums, move |(a, b, bias), y| {
            gemm(isa, &shape, a, b, bias, y);
            if let Some(then) = then {
                unary_in_place(isa, then, y);
            }
        });
        let y = self.narrowed::<E>(sums, m * n);
        self.alias(node.outputs[0], Order::Graph, y);
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

    /// x wᵀ + b, or x w + b, for many rows, as the 1x1 convolution of one row of pixels, or its transpose: its filter is packed.
    fn linear<E: Element>(
        &mut self,
        node: &Node,
        [m, n, k]: [usize; 3],
        (trans_b, then): (bool, Option<Unary>),
    ) -> Result<(), ExecuteError> {
        let (shape, direction) = match trans_b {
            true => (ConvShape::of_matrices(m, k, n), Direction::Forward),
            false => (ConvShape::of_matrices(m, n, k), Direction::Backward),
        };
        let isa = self.isa;
        let x = self.plain::<E>(node.inputs[0])?;
        let bias = node.inputs.get(2).map(|&c| self.plain(c)).transpose()?;
        let filter = self.filter::<E>(&shape, node.inputs[1], direction)?;
        let y = self.write_plain(node.outputs[0])?;
        self.scratch_step(
            kernel_name::<E>(isa, &shape),
            (x, filter, bias),
            y,
            move |(x, filter, bias), y, scratch| {
                let filter = filter.packed::<E>(isa, &shape, direction, &mut scratch.filter);
                match direction {
                    Direction::Forward => {
                        let epilogue = Epilogue { bias, residual: None, activation: Activation::None, then };
                        conv(isa, &shape, x, filter, &epilogue, y);
                    }
                    Direction::Backward => conv_transpose(isa, &shape, x, filter, (bias, then), y),
                }
            },
        );
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
        let operands = [node.inputs[0], node.inputs[1]];
        if self.isa.has_tiles() && operands.iter().all(|&value| self.dtype(value) == DType::BF16) {
            return self.tiled_matmul(operands, node.outputs[0], (count, shape));
        }
        let isa = self.isa;
        let (a, b) = (self.wide::<E>(node.inputs[0])?, self.wide::<E>(node.inputs[1])?);
        let sums = self.fresh(count * m * n);
        self.step("matmul", (a, b), sums, move |(a, b), y| matmul(isa, count, &shape, a, b, y));
        let y = self.narrowed::<E>(sums, count * m * n);
        self.alias(node.outputs[0], Order::Graph, y);
        Ok(())
    }

    /// The products of `count` matrices of bf16, on tiles.
    fn tiled_matmul(
        &mut self,
        [a, b]: [ValueId; 2],
        y: ValueId,
        (count, shape): (usize, GemmShape),
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let operands: (Operand<bf16>, Operand<bf16>) = (self.plain(a)?, self.plain(b)?);
        if self.dtype(y) == DType::F32 {
            let y = self.write_plain::<f32>(y)?;
            self.step("matmul tiles", operands, y, move |(a, b), y| {
                tiled::matmul(isa, count, &shape, a, b, y)
            });
        } else {
            let y = self.write_plain::<bf16>(y)?;
            self.step("matmul tiles", operands, y, move |(a, b), y| {
                tiled::matmul(isa, count, &shape, a, b, y)
            });
        }
        Ok(())
    }

    /// An operand of a matrix product on `E` as f32. It may be a weight, which is rounded to what `E` can hold.
    fn wide<E: Element>(&mut self, value: ValueId) -> Result<Operand<f32>, ExecuteError> {
        if self.dtype(value) == DType::F32 {
            return self.rounded::<E>(value);
        }
        let from = self.plain::<E>(value)?;
        Ok(self.cast::<E, f32>(from, self.len(value)).operand())
    }

    pub(super) fn sum_to_channels<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let isa = self.isa;
        let (dy, sums) = (self.read::<E>(node.inputs[0])?, self.write_plain(node.outputs[0])?);
        self.step("sum rows", dy, sums, move |dy, sums| sum_to_rows(isa, dy, 1, sums));
        Ok(())
    }
}
