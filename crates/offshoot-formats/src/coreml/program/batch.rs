//! Where the batch is in results: a program for one picture does not say which of its sizes of one it is, nor which size it
//! multiplies.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Dim, Node, Op, ValueId};

use super::Writer;

impl Writer<'_> {
    /// Notes the axis of the batch in `result`, where the reader would not take it to be: it looks for a first size of one.
    pub(super) fn note_batch(&mut self, node: &Node, result: &str) {
        let Some((axis, size)) = self.batch_axis(node.outputs[0]) else { return };
        let first = self.batch_axis(node.inputs[0]).is_some_and(|(axis, _)| axis == 0);
        let flattened = matches!(node.op, Op::Shape(ShapeOp::Flatten { .. }));
        let repeated = matches!(node.op, Op::Shape(ShapeOp::Expand { .. }));
        let expected = (first || repeated) && (size == 1 || flattened);
        if axis != 0 || !expected {
            self.batch.insert(result.to_owned(), axis);
        }
    }

    /// The one axis whose size is proportional to the number of pictures, and its size for one.
    fn batch_axis(&self, id: ValueId) -> Option<(usize, usize)> {
        let Some(Dim::Symbol(batch)) = self.graph.value(self.graph.inputs()[0]).shape.0.first() else {
            return None;
        };
        let sizes = |pictures: usize| {
            let mut bindings = self.bindings.clone();
            bindings.insert(batch.to_string(), pictures);
            self.graph.value(id).shape.eval(&bindings).ok()
        };
        let [one, two, three] = [sizes(1)?, sizes(2)?, sizes(3)?];
        let depends: Vec<usize> = (0..one.len()).filter(|&axis| one[axis] != two[axis]).collect();
        let [axis] = depends[..] else { return None };
        let proportional =
            (Some(two[axis]), Some(three[axis])) == (one[axis].checked_mul(2), one[axis].checked_mul(3));
        proportional.then_some((axis, one[axis]))
    }
}
