//! Attention.

use offshoot_graph::{ExecuteError, ValueId};

use super::{Lowering, Node, unsupported};
use crate::kernels::attention::grad::attention_grad;
use crate::kernels::attention::{AttentionShape, Operands, attention};
use crate::optimize::Attention;

impl Lowering<'_> {
    pub(super) fn attention(&mut self, node: &Node, op: Attention) -> Result<(), ExecuteError> {
        let shape = self.attention_shape(node, op)?;
        let (isa, scale) = (self.isa, op.scale);
        let [q, k, v] =
            [self.plain(node.inputs[0])?, self.plain(node.inputs[1])?, self.plain(node.inputs[2])?];
        let mask = if op.mask { Some(self.plain(node.inputs[3])?) } else { None };
        let y = self.write_plain(node.outputs[0])?;
        self.step("attention", ([q, k, v], mask), y, move |([q, k, v], mask), y| {
            attention(isa, &shape, Operands { q, k, v, scale, mask }, y);
        });
        Ok(())
    }

    pub(super) fn attention_grad(&mut self, node: &Node, op: Attention) -> Result<(), ExecuteError> {
        let shape = self.attention_shape(node, op)?;
        let (isa, scale) = (self.isa, op.scale);
        let [q, k, v] =
            [self.plain(node.inputs[0])?, self.plain(node.inputs[1])?, self.plain(node.inputs[2])?];
        let mask = if op.mask { Some(self.plain(node.inputs[3])?) } else { None };
        let dy = self.plain(node.inputs[node.inputs.len() - 1])?;
        let grads = [0, 1, 2].map(|i| self.write_plain(node.outputs[i]));
        let [dq, dk, dv] = grads;
        self.step(
            "attention",
            ([q, k, v, dy], mask),
            [dq?, dk?, dv?],
            move |([q, k, v, dy], mask), grads| {
                attention_grad(isa, &shape, Operands { q, k, v, scale, mask }, dy, grads);
            },
        );
        Ok(())
    }

    fn attention_shape(&self, node: &Node, op: Attention) -> Result<AttentionShape, ExecuteError> {
        let [q, v] = [0, 2].map(|i| self.shape(node.inputs[i]));
        let (&[ref stack @ .., queries, depth], &[.., keys, width]) = (q, v) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let mask = match op.mask {
            true => self.mask(node.inputs[3], stack, [queries, keys]),
            false => (Vec::new(), 0),
        };
        let (count, keys_first) = (stack.iter().product(), op.keys_first);
        Ok(AttentionShape { count, queries, keys, depth, width, keys_first, mask })
    }

    /// Where the mask of each matrix of a stack starts, and the elements from one of its rows to the next.
    fn mask(&self, mask: ValueId, stack: &[usize], [queries, keys]: [usize; 2]) -> (Vec<usize>, usize) {
        let shape = self.shape(mask);
        let rows = shape.len().checked_sub(2).map_or(1, |axis| shape[axis]);
        let ahead = &shape[..shape.len().saturating_sub(2)];
        let mut starts = vec![0];
        // Axis by axis from the first: an axis of one element is the same again for all of the stack's.
        for (axis, &n) in stack.iter().enumerate() {
            let own = (axis + ahead.len()).checked_sub(stack.len()).map_or(1, |axis| ahead[axis]);
            let step = |start: usize, i: usize| start * own + if own == 1 { 0 } else { i };
            starts = starts.into_iter().flat_map(|start| (0..n).map(move |i| step(start, i))).collect();
        }
        starts.iter_mut().for_each(|start| *start *= rows * keys);
        (starts, if rows == queries && queries > 1 { keys } else { 0 })
    }
}
