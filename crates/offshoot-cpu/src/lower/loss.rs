//! Softmax and the loss.

use offshoot_graph::op::CrossEntropy;
use offshoot_graph::passes::LABELS;
use offshoot_graph::{DType, ExecuteError, Node};

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

    pub(super) fn cross_entropy(&mut self, node: &Node, loss: CrossEntropy) -> Result<(), ExecuteError> {
        let ((classes, _), isa) = (self.last_axis(node, 1)?, self.isa);
        let logits = self.plain(node.inputs[0])?;
        if self.dtype(node.inputs[1]) == DType::F32 {
            return self.soft_cross_entropy(node, loss, (logits, classes));
        }
        let labels = self.i64_input(node, node.inputs[1])?;
        let weights = node.inputs.get(2).map(|&w| self.plain(w)).transpose()?;
        let y = self.write_plain(node.outputs[0]);
        let reads = [logits].into_iter().chain(weights).collect();
        self.push(&node.name, reads, vec![y], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let labels = memory.get_i64(labels);
            out[0].get::<f32>()[0] =
                cross_entropy(isa, memory.get(logits), labels, classes, &settings).map_err(label_error)?;
            Ok(())
        });
        Ok(())
    }

    fn soft_cross_entropy(
        &mut self,
        node: &Node,
        loss: CrossEntropy,
        (logits, classes): (BufferId, usize),
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let targets = self.plain(node.inputs[1])?;
        let weights = node.inputs.get(2).map(|&w| self.plain(w)).transpose()?;
        let y = self.write_plain(node.outputs[0]);
        let reads = [logits, targets].into_iter().chain(weights).collect();
        self.push(&node.name, reads, vec![y], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let (logits, targets) = (memory.get(logits), memory.get(targets));
            out[0].get::<f32>()[0] = soft_cross_entropy(isa, logits, targets, classes, &settings);
            Ok(())
        });
        Ok(())
    }

    fn soft_cross_entropy_grad(
        &mut self,
        node: &Node,
        loss: CrossEntropy,
        (dloss, logits, classes): (BufferId, BufferId, usize),
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let targets = self.plain(node.inputs[2])?;
        let weights = node.inputs.get(3).map(|&w| self.plain(w)).transpose()?;
        let dlogits = self.write_plain(node.outputs[0]);
        let reads = [dloss, logits, targets].into_iter().chain(weights).collect();
        self.push(&node.name, reads, vec![dlogits], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let (dloss, targets) = (memory.get::<f32>(dloss)[0], memory.get(targets));
            soft_cross_entropy_grad(
                isa,
                memory.get(logits),
                targets,
                classes,
                &settings,
                dloss,
                out[0].get(),
            );
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
        if self.dtype(node.inputs[2]) == DType::F32 {
            return self.soft_cross_entropy_grad(node, loss, (dloss, logits, classes));
        }
        let labels = self.i64_input(node, node.inputs[2])?;
        let weights = node.inputs.get(3).map(|&w| self.plain(w)).transpose()?;
        let dlogits = self.write_plain(node.outputs[0]);
        let reads = [dloss, logits].into_iter().chain(weights).collect();
        self.push(&node.name, reads, vec![dlogits], move |memory, _, out| {
            let weights = weights.map(|w| memory.get(w));
            let settings = softmax::CrossEntropy { smoothing: loss.label_smoothing, weights };
            let (dloss, labels) = (memory.get::<f32>(dloss)[0], memory.get_i64(labels));
            cross_entropy_grad(isa, memory.get(logits), labels, classes, &settings, dloss, out[0].get())
                .map_err(label_error)
        });
        Ok(())
    }
}

fn label_error(error: LabelError) -> ExecuteError {
    ExecuteError::Input {
        name: LABELS.into(),
        wanted: format!("a class, 0 to {}", error.classes.saturating_sub(1)),
        found: format!("{} in row {}", error.label, error.row),
    }
}
