//! Attention.

use offshoot_graph::{ExecuteError, ValueId};

use super::{Lowering, Node, unsupported};
use crate::kernels::attention::grad::attention_grad;
use crate::kernels::attention::{AttentionShape, Operands, attention};
use crate::operands::Operand;
use crate::optimize::Attention;

type AttentionOperands = ([Operand<f32>; 3], Option<Operand<f32>>);

impl Lowering<'_> {
    pub(super) fn attention(&mut self, node: &Node, op: Attention) -> Result<(), ExecuteError> {
        let shape = self.attention_shape(node, op)?;
        let (isa, scale) = (self.isa, op.scale);
        let operands = self.attention_operands(node, op)?;
        let y = self.write_plain(node.outputs[0])?;
        self.step("attention", operands, y, move |([q, k, v], mask), y| {
            attention(isa, &shape, Operands { q, k, v, scale, mask }, y);
        });
        Ok(())
    }

    pub(super) fn attention_grad(&mut self, node: &Node, op: Attention) -> Result<(), ExecuteError> {
        let shape = self.attention_shape(node, op)?;
        let (isa, scale) = (self.isa, op.scale);
        let operands = self.attention_operands(node, op)?;
        let dy = self.plain(node.inputs[node.inputs.len() - 1])?;
        let grads = self.write_all::<f32, 3>(node)?;
        self.step("attention", (operands, dy), grads, move |(([q, k, v], mask), dy), grads| {
            attention_grad(isa, &shape, Operands { q, k, v, scale, mask }, dy, grads);
        });
        Ok(())
    }

    /// q, k and v, and the mask where there is one.
    fn attention_operands(&mut self, node: &Node, op: Attention) -> Result<AttentionOperands, ExecuteError> {
        let [q, k, v] = [0, 1, 2].map(|i| self.plain(node.inputs[i]));
        let mask = if op.mask { Some(self.plain(node.inputs[3])?) } else { None };
        Ok(([q?, k?, v?], mask))
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
