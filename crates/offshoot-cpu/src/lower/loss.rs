//! Softmax and the loss.

use offshoot_graph::model::BATCH;
use offshoot_graph::op::CrossEntropy;
use offshoot_graph::passes::LABELS;
use offshoot_graph::{DType, Dim, ExecuteError, ValueId};

use super::Node;
use super::views::View;
use super::{Lowering, Order, unsupported};
use crate::kernels::softmax::{
    self, LabelError, cross_entropy, cross_entropy_grad, soft_cross_entropy, soft_cross_entropy_grad,
    softmax, softmax_grad,
};
use crate::kernels::strided::Strided;
use crate::operands::{Buffers, Memory, Operand, Output, Reads};

impl Lowering<'_> {
    /// The length of an axis, and the order of a value's axes in memory that puts it last, if one does.
    fn last_axis(&self, value: ValueId, axis: usize) -> Option<(usize, Order)> {
        match *self.shape(value) {
            [_, channels, _, _] if axis == 1 => Some((channels, Order::ChannelsLast)),
            ref shape if axis + 1 == shape.len() => Some((shape[axis], Order::Graph)),
            _ => None,
        }
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let (isa, input) = (self.isa, node.inputs[0]);
        let Some((width, order)) = self.last_axis(input, axis) else {
            self.check_axis(node, axis)?;
            let (x, width) = self.with_axis_last(input, axis)?;
            let y = self.fresh(self.len(input));
            self.step("softmax", x, y, move |x, y| softmax(isa, x, width, y));
            return self.with_axis_back(y, node.outputs[0], axis);
        };
        let x = self.in_order(input, order)?;
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("softmax", x, y, move |x, y| softmax(isa, x, width, y));
        Ok(())
    }

    pub(super) fn softmax_grad(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let (isa, [dy, y]) = (self.isa, [node.inputs[0], node.inputs[1]]);
        let Some((width, order)) = self.last_axis(dy, axis) else {
            let ((dy, width), (y, _)) = (self.with_axis_last(dy, axis)?, self.with_axis_last(y, axis)?);
            let dx = self.fresh(self.len(node.outputs[0]));
            self.step("softmax", (dy, y), dx, move |(dy, y), dx| softmax_grad(isa, y, dy, width, dx));
            return self.with_axis_back(dx, node.outputs[0], axis);
        };
        let (dy, y) = (self.in_order(dy, order)?, self.in_order(y, order)?);
        let dx = self.write_in_order(node.outputs[0], order)?;
        self.step("softmax", (dy, y), dx, move |(dy, y), dx| softmax_grad(isa, y, dy, width, dx));
        Ok(())
    }

    /// An error for an axis on which the pictures of a batch are: what one of them gives would depend on the others.
    fn check_axis(&self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        match &self.graph.value(node.inputs[0]).shape.0[axis] {
            Dim::Fixed(_) => Ok(()),
            Dim::Symbol(name) if name.as_ref() != BATCH => Ok(()),
            Dim::Symbol(_) | Dim::Expr(_) => Err(unsupported(
                node,
                format!(
                    "axis {axis} is that of the batch: the answer for a picture would depend on the others"
                ),
            )),
        }
    }

    /// The elements of a value with an axis behind the others, and its length.
    fn with_axis_last(&mut self, value: ValueId, axis: usize) -> Result<(Operand<f32>, usize), ExecuteError> {
        let View { base, places, .. } = self.view(value)?;
        let (x, turned, width) =
            (self.typed(value, base)?, self.fresh(self.len(value)), self.shape(value)[axis]);
        let perm: Vec<usize> = (0..places.shape.len()).filter(|&i| i != axis).chain([axis]).collect();
        self.copy_step(x, places.permuted(&perm), turned);
        Ok((turned.operand(), width))
    }

    /// Lets `value` be elements whose axis `axis` is behind the others.
    fn with_axis_back(
        &mut self,
        turned: Output<f32>,
        value: ValueId,
        axis: usize,
    ) -> Result<(), ExecuteError> {
        let mut shape = self.shape(value).to_vec();
        let (rank, width) = (shape.len(), shape.remove(axis));
        shape.push(width);
        let perm: Vec<usize> = (0..axis).chain([rank - 1]).chain(axis..rank - 1).collect();
        let y = self.write_plain(value)?;
        self.copy_step(turned.operand(), Strided::dense(shape).permuted(&perm), y);
        Ok(())
    }

    /// (logits, labels or targets, class weights?) -> loss
    pub(super) fn cross_entropy(&mut self, node: &Node, loss: CrossEntropy) -> Result<(), ExecuteError> {
        let &[_, classes] = self.shape(node.inputs[0]) else {
            return Err(unsupported(node, "the logits must be [N, C]".into()));
        };
        let isa = self.isa;
        let logits = self.plain(node.inputs[0])?;
        let target = self.target(node.inputs[1])?;
        let weights = node.inputs.get(2).map(|&w| self.plain(w)).transpose()?;
        let y = self.write_plain::<f32>(node.outputs[0])?;
        self.fallible_step(
            "cross entropy",
            (logits, target, weights),
            y,
            move |(logits, target, weights), y| {
                let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
                y[0] = match target {
                    Target::Classes(labels) => {
                        cross_entropy(isa, logits, labels, classes, &settings).map_err(label_error)?
                    }
                    Target::Parts(parts) => soft_cross_entropy(isa, logits, parts, classes, &settings),
                };
                Ok(())
            },
        );
        Ok(())
    }

    /// (dloss, logits, labels or targets, class weights?) -> dlogits
    pub(super) fn cross_entropy_grad(&mut self, node: &Node, loss: CrossEntropy) -> Result<(), ExecuteError> {
        let &[_, classes] = self.shape(node.inputs[1]) else {
            return Err(unsupported(node, "the logits must be [N, C]".into()));
        };
        let isa = self.isa;
        let (dloss, logits) = (self.plain::<f32>(node.inputs[0])?, self.plain(node.inputs[1])?);
        let target = self.target(node.inputs[2])?;
        let weights = node.inputs.get(3).map(|&w| self.plain(w)).transpose()?;
        let dlogits = self.write_plain(node.outputs[0])?;
        let reads = (dloss, logits, target, weights);
        self.fallible_step(
            "cross entropy",
            reads,
            dlogits,
            move |(dloss, logits, target, weights), dlogits| {
                let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
                match target {
                    Target::Classes(labels) => {
                        cross_entropy_grad(isa, logits, labels, classes, &settings, dloss[0], dlogits)
                            .map_err(label_error)?;
                    }
                    Target::Parts(parts) => {
                        soft_cross_entropy_grad(isa, logits, parts, classes, &settings, dloss[0], dlogits);
                    }
                }
                Ok(())
            },
        );
        Ok(())
    }

    /// What the loss compares logits with.
    fn target(&mut self, value: ValueId) -> Result<Target<Operand<i64>, Operand<f32>>, ExecuteError> {
        match self.dtype(value) {
            DType::F32 => self.plain(value).map(Target::Parts),
            _ => self.plain(value).map(Target::Classes),
        }
    }
}

/// What the loss compares logits with.
enum Target<L, P> {
    /// A class for each row.
    Classes(L),
    /// The part of each class for each row.
    Parts(P),
}

impl Reads for Target<Operand<i64>, Operand<f32>> {
    type Elements<'m> = Target<&'m [i64], &'m [f32]>;

    fn register(&self, buffers: &mut Buffers) {
        match self {
            Target::Classes(labels) => labels.register(buffers),
            Target::Parts(parts) => parts.register(buffers),
        }
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> Self::Elements<'m> {
        match self {
            Target::Classes(labels) => Target::Classes(labels.get(memory)),
            Target::Parts(parts) => Target::Parts(parts.get(memory)),
        }
    }
}

fn label_error(error: LabelError) -> ExecuteError {
    ExecuteError::Input {
        name: LABELS.into(),
        wanted: format!("a class, 0 to {}", error.classes.saturating_sub(1)),
        found: format!("{} in row {}", error.label, error.row),
    }
}
