//! Attention.

use offshoot_graph::{ExecuteError, ValueId};

use super::{Lowering, Node, unsupported};
use crate::kernels::attention::grad::attention_grad;
use crate::kernels::attention::{AttentionShape, Operands, Stack, attention};
use crate::kernels::element::Element;
use crate::kernels::strided::Strided;
use crate::operands::Operand;
use crate::optimize::Attention;

type AttentionOperands<E> = ([Operand<E>; 3], Option<Operand<f32>>);

impl Lowering<'_> {
    pub(super) fn attention<E: Element>(&mut self, node: &Node, op: Attention) -> Result<(), ExecuteError> {
        let (operands, stacks) = self.attention_operands::<E>(node, op)?;
        let (y, places) = self.write_rows::<E>(node.outputs[0])?;
        let shape = self.attention_shape(node, stacks, &places)?;
        let (isa, scale) = (self.isa, op.scale);
        self.step("attention", operands, y, move |([q, k, v], mask), y| {
            attention(isa, &shape, Operands { q, k, v, scale, mask }, y);
        });
        Ok(())
    }

    pub(super) fn attention_grad<E: Element>(
        &mut self,
        node: &Node,
        op: Attention,
    ) -> Result<(), ExecuteError> {
        let (operands, stacks) = self.attention_operands::<E>(node, op)?;
        let (dy, places) = self.rows::<E>(node.inputs[node.inputs.len() - 1])?;
        let shape = self.attention_shape(node, stacks, &places)?;
        let &[dq, dk, dv] = &node.outputs[..] else {
            return Err(unsupported(node, "it must have 3 outputs".into()));
        };
        let [(dq, to_q), (dk, to_k), (dv, to_v)] =
            [self.write_rows::<E>(dq)?, self.write_rows(dk)?, self.write_rows(dv)?];
        let (isa, scale) = (self.isa, op.scale);
        let to_k = if op.keys_first { stack(node, &to_k)? } else { stack(node, &to_k)?.transposed() };
        let stacks = [stack(node, &to_q)?, to_k, stack(node, &to_v)?];
        self.step("attention", (operands, dy), [dq, dk, dv], move |(([q, k, v], mask), dy), grads| {
            attention_grad(isa, &shape, Operands { q, k, v, scale, mask }, dy, grads, &stacks);
        });
        Ok(())
    }

    /// q, k and v, the mask where there is one, and where their matrices are.
    fn attention_operands<E: Element>(
        &mut self,
        node: &Node,
        op: Attention,
    ) -> Result<(AttentionOperands<E>, Stacks), ExecuteError> {
        let (q, of_q) = self.rows(node.inputs[0])?;
        let (k, of_k) = self.rows_or_columns(node.inputs[1])?;
        let (v, of_v) = self.rows(node.inputs[2])?;
        let mask = if op.mask { Some(self.plain(node.inputs[3])?) } else { None };
        let k_stack = stack(node, &of_k)?;
        let stacks = Stacks {
            k: if op.keys_first { k_stack } else { k_stack.transposed() },
            q: of_q,
            v: of_v,
            mask: op.mask.then(|| self.shape(node.inputs[3]).to_vec()),
        };
        Ok((([q, k, v], mask), stacks))
    }

    /// As [`Lowering::rows`], or those of the axis before the last follow one another.
    fn rows_or_columns<E: Element>(&mut self, value: ValueId) -> Result<(Operand<E>, Strided), ExecuteError> {
        let view = self.view(value)?;
        match view.places.strides[..] {
            [.., 1, _] => Ok((self.typed(value, view.base)?, view.places)),
            _ => self.rows(value),
        }
    }

    /// `y` is where the result, or its gradient, is.
    fn attention_shape(
        &self,
        node: &Node,
        Stacks { q, k, v, mask }: Stacks,
        y: &Strided,
    ) -> Result<AttentionShape, ExecuteError> {
        let (&[ref outer @ .., queries, depth], &[.., keys, width]) = (&q.shape[..], &v.shape[..]) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let scores: Vec<usize> = outer.iter().copied().chain([queries, keys]).collect();
        let mask = mask.map(|mask| stack(node, &broadcast(mask, scores))).transpose()?;
        let (count, y) = (outer.iter().product(), stack(node, y)?);
        let [q, v] = [stack(node, &q)?, stack(node, &v)?];
        Ok(AttentionShape { count, queries, keys, depth, width, q, k, v, mask, y })
    }
}

/// Where the operands are, and the mask's shape.
struct Stacks {
    q: Strided,
    k: Stack,
    v: Strided,
    mask: Option<Vec<usize>>,
}

fn stack(node: &Node, places: &Strided) -> Result<Stack, ExecuteError> {
    Stack::new(places).ok_or_else(|| unsupported(node, "its operands must be matrices".into()))
}

/// Where the elements of a dense tensor are that is broadcast to `shape`: an axis of one element is the same again.
fn broadcast(own: Vec<usize>, shape: Vec<usize>) -> Strided {
    let ahead = shape.len().saturating_sub(own.len());
    let dense = Strided::dense(own);
    let stride = |axis: usize| match axis.checked_sub(ahead) {
        Some(axis) if dense.shape[axis] != 1 => dense.strides[axis],
        _ => 0,
    };
    let mut strides: Vec<usize> = (0..shape.len()).map(stride).collect();
    // (A mask has all keys.)
    if let Some(last) = strides.last_mut() {
        *last = 1;
    }
    Strided { start: 0, shape, strides }
}
