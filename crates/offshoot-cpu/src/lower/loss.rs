//! Softmax and the loss.

use offshoot_graph::op::CrossEntropy;
use offshoot_graph::passes::LABELS;
use offshoot_graph::{DType, ExecuteError, ValueId};

use super::Node;
use super::{Lowering, Order, unsupported};
use crate::kernels::softmax::{
    self, LabelError, cross_entropy, cross_entropy_grad, soft_cross_entropy, soft_cross_entropy_grad,
    softmax, softmax_grad,
};
use crate::plan::BufferId;

impl Lowering<'_> {
    /// The length of an axis, and the order of a value's axes in memory that puts it last.
    fn last_axis(&self, node: &Node, axis: usize) -> Result<(usize, Order), ExecuteError> {
        match *self.shape(node.inputs[0]) {
            [_, channels, _, _] if axis == 1 => Ok((channels, Order::ChannelsLast)),
            ref shape if axis + 1 == shape.len() => Ok((shape[axis], Order::Graph)),
            ref shape => Err(unsupported(
                node,
                format!(
                    "axis {axis} of {shape:?}: only the last axis and the channels of [N, C, H, W] are supported"
                ),
            )),
        }
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let ((width, order), isa) = (self.last_axis(node, axis)?, self.isa);
        let x = self.in_order(node.inputs[0], order)?;
        let y = self.hold(node.outputs[0], order, Err(self.size(node.outputs[0])));
        self.push(&node.name, vec![x], vec![y], move |memory, _, out| {
            softmax(isa, memory.get(x), width, out[0].get());
            Ok(())
        });
        Ok(())
    }

    pub(super) fn softmax_grad(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let ((width, order), isa) = (self.last_axis(node, axis)?, self.isa);
        let (dy, y) = (self.in_order(node.inputs[0], order)?, self.in_order(node.inputs[1], order)?);
        let dx = self.hold(node.outputs[0], order, Err(self.size(node.outputs[0])));
        self.push(&node.name, vec![dy, y], vec![dx], move |memory, _, out| {
            softmax_grad(isa, memory.get(y), memory.get(dy), width, out[0].get());
            Ok(())
        });
        Ok(())
    }

    /// (logits, labels or targets, class weights?) -> loss
    pub(super) fn cross_entropy(&mut self, node: &Node, loss: CrossEntropy) -> Result<(), ExecuteError> {
        let ((classes, _), isa) = (self.last_axis(node, 1)?, self.isa);
        let logits = self.plain(node.inputs[0])?;
        let target = self.target(node, node.inputs[1])?;
        let weights = node.inputs.get(2).map(|&w| self.plain(w)).transpose()?;
        let y = self.write_plain(node.outputs[0]);
        let reads = [logits].into_iter().chain(target.buffer()).chain(weights).collect();
        self.push(&node.name, reads, vec![y], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let logits = memory.get(logits);
            out[0].get::<f32>()[0] = match target {
                Target::Classes(labels) => {
                    let labels = memory.get_i64(labels);
                    cross_entropy(isa, logits, labels, classes, &settings).map_err(label_error)?
                }
                Target::Parts(parts) => {
                    soft_cross_entropy(isa, logits, memory.get(parts), classes, &settings)
                }
            };
            Ok(())
        });
        Ok(())
    }

    /// (dloss, logits, labels or targets, class weights?) -> dlogits
    pub(super) fn cross_entropy_grad(&mut self, node: &Node, loss: CrossEntropy) -> Result<(), ExecuteError> {
        let &[_, classes] = self.shape(node.inputs[1]) else {
            return Err(unsupported(node, "the logits must be [N, C]".into()));
        };
        let isa = self.isa;
        let (dloss, logits) = (self.plain(node.inputs[0])?, self.plain(node.inputs[1])?);
        let target = self.target(node, node.inputs[2])?;
        let weights = node.inputs.get(3).map(|&w| self.plain(w)).transpose()?;
        let dlogits = self.write_plain(node.outputs[0]);
        let reads = [dloss, logits].into_iter().chain(target.buffer()).chain(weights).collect();
        self.push(&node.name, reads, vec![dlogits], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let (dloss, logits, dlogits) = (memory.get::<f32>(dloss)[0], memory.get(logits), out[0].get());
            match target {
                Target::Classes(labels) => {
                    let labels = memory.get_i64(labels);
                    cross_entropy_grad(isa, logits, labels, classes, &settings, dloss, dlogits)
                        .map_err(label_error)?;
                }
                Target::Parts(parts) => {
                    let parts = memory.get(parts);
                    soft_cross_entropy_grad(isa, logits, parts, classes, &settings, dloss, dlogits);
                }
            }
            Ok(())
        });
        Ok(())
    }

    /// What the loss compares logits with.
    fn target(&mut self, node: &Node, value: ValueId) -> Result<Target, ExecuteError> {
        match self.dtype(value) {
            DType::F32 => self.plain(value).map(Target::Parts),
            _ => self.i64_input(node, value).map(Target::Classes),
        }
    }
}

/// What the loss compares logits with.
#[derive(Clone, Copy)]
enum Target {
    /// A class for each row: this input of the session.
    Classes(usize),
    /// The part of each class for each row.
    Parts(BufferId),
}

impl Target {
    fn buffer(self) -> Option<BufferId> {
        match self {
            Target::Classes(_) => None,
            Target::Parts(buffer) => Some(buffer),
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
