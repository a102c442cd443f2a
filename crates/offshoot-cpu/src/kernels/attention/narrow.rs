//! Attention of halves, and its gradients, where no unit multiplies them: a matrix at a time as f32.

use super::grad::grad_f32;
use super::{AttentionShape, Operands, Stack, attention_f32};
use crate::kernels::convert::convert_task;
use crate::kernels::element::Element;
use crate::kernels::parallel::{self, Shared};
use crate::kernels::simd::Isa;
use crate::kernels::size::elements;
use crate::kernels::strided::Strided;

/// [`attention`](super::attention) of sizes that were checked.
pub(super) fn attention<E: Element>(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_, E>,
    y: &mut [E],
) {
    let out = Shared::new(y);
    for_each_matrix(shape, shape.queries * shape.width, |matrix, scratch| {
        let (y, rest) = scratch.split_at_mut(shape.queries * shape.width);
        let one = One::new(shape, matrix);
        let [q, k, v] = one.operands(isa, shape, operands, rest);
        attention_f32(isa, &one.shape, Operands { q, k, v, scale: operands.scale, mask: operands.mask }, y);
        // Safety: no two matrices of the result share elements.
        unsafe { narrow(isa, y, (out, &shape.y, matrix), [shape.queries, shape.width]) };
    });
}

/// [`attention_grad`](super::grad::attention_grad) of sizes that were checked.
pub(super) fn grad<E: Element>(
    isa: Isa,
    shape: &AttentionShape,
    operands: Operands<'_, E>,
    dy: &[E],
    grads: [&mut [E]; 3],
    stacks: &[Stack; 3],
) {
    let AttentionShape { queries, keys, depth, width, .. } = *shape;
    let out = grads.map(Shared::new);
    let sizes = [[queries, depth], by_rows(&stacks[1], [keys, depth]), [keys, width]];
    let dense = sizes.map(|[rows, columns]| one_matrix([rows, columns]));
    let to = [dense[0].clone(), as_in(&stacks[1], dense[1].clone()), dense[2].clone()];
    let floats = queries * depth + keys * depth + keys * width + queries * width;
    for_each_matrix(shape, floats, |matrix, scratch| {
        let (own_dy, rest) = scratch.split_at_mut(queries * width);
        widen(isa, dy, (&shape.y, matrix), [queries, width], own_dy);
        let (dq, rest) = rest.split_at_mut(queries * depth);
        let (dk, rest) = rest.split_at_mut(keys * depth);
        let (dv, rest) = rest.split_at_mut(keys * width);
        let one = One::new(shape, matrix);
        let [q, k, v] = one.operands(isa, shape, operands, rest);
        let operands = Operands { q, k, v, scale: operands.scale, mask: operands.mask };
        grad_f32(isa, &one.shape, operands, own_dy, [&mut *dq, &mut *dk, &mut *dv], &to);
        let rows = [stacks[0].clone(), as_in(&stacks[1], stacks[1].clone()), stacks[2].clone()];
        for (((from, out), stack), size) in [dq, dk, dv].into_iter().zip(out).zip(&rows).zip(sizes) {
            // Safety: no two matrices of a gradient share elements.
            unsafe { narrow(isa, from, (out, stack, matrix), size) };
        }
    });
}

/// Runs `task` for each matrix, with scratch for its operands and `more` floats.
fn for_each_matrix(shape: &AttentionShape, more: usize, task: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let AttentionShape { queries, keys, depth, width, .. } = *shape;
    let operands = [[queries, depth], [keys, depth], [keys, width]];
    let floats = operands.into_iter().map(elements).fold(more, usize::saturating_add);
    parallel::for_each_task(shape.count, shape.work(), |matrix| {
        parallel::serially(floats, |scratch| task(matrix, scratch));
    });
}

/// A matrix of the stack by itself.
struct One {
    matrix: usize,
    /// Its operands and result are dense; its mask is where it was.
    shape: AttentionShape,
}

impl One {
    fn new(shape: &AttentionShape, matrix: usize) -> One {
        let AttentionShape { queries, keys, depth, width, .. } = *shape;
        let mask = shape.mask.as_ref();
        let shape = AttentionShape {
            count: 1,
            q: one_matrix([queries, depth]),
            k: as_in(&shape.k, one_matrix(by_rows(&shape.k, [keys, depth]))),
            v: one_matrix([keys, width]),
            mask: mask.map(|stack| Stack { starts: vec![stack.starts[matrix]], ..stack.clone() }),
            y: one_matrix([queries, width]),
            ..*shape
        };
        One { matrix, shape }
    }

    /// q, k and v as f32, in scratch.
    fn operands<'s, E: Element>(
        &self,
        isa: Isa,
        shape: &AttentionShape,
        operands: Operands<'_, E>,
        scratch: &'s mut [f32],
    ) -> [&'s [f32]; 3] {
        let AttentionShape { queries, keys, depth, width, .. } = *shape;
        let (q, rest) = scratch.split_at_mut(queries * depth);
        let (k, rest) = rest.split_at_mut(keys * depth);
        let v = &mut rest[..keys * width];
        let k_rows = as_in(&shape.k, shape.k.clone());
        widen(isa, operands.q, (&shape.q, self.matrix), [queries, depth], q);
        widen(isa, operands.k, (&k_rows, self.matrix), by_rows(&shape.k, [keys, depth]), k);
        widen(isa, operands.v, (&shape.v, self.matrix), [keys, width], v);
        [q, k, v]
    }
}

/// One dense matrix.
fn one_matrix([rows, columns]: [usize; 2]) -> Stack {
    Stack { starts: vec![0], row: Strided::dense(vec![rows, columns]).strides[0], column: 1 }
}

/// The rows and columns of matrices of `size`, with those as rows whose elements follow one another.
fn by_rows(stack: &Stack, [rows, columns]: [usize; 2]) -> [usize; 2] {
    if stack.column == 1 { [rows, columns] } else { [columns, rows] }
}

/// `other`, as transposed as `stack` is.
fn as_in(stack: &Stack, other: Stack) -> Stack {
    if stack.column == 1 { other } else { other.transposed() }
}

/// Copies the rows of a matrix, whose elements follow one another, as f32.
fn widen<E: Element>(
    isa: Isa,
    from: &[E],
    (stack, matrix): (&Stack, usize),
    [rows, columns]: [usize; 2],
    to: &mut [f32],
) {
    for (i, to) in to.chunks_exact_mut(columns.max(1)).take(rows).enumerate() {
        convert_task(isa, &from[stack.starts[matrix] + i * stack.row..][..columns], to);
    }
}

/// Rounds the rows of a dense matrix to those of a matrix of a stack.
///
/// # Safety
/// The matrix lies within `out`, and nothing else reads or writes it.
unsafe fn narrow<E: Element>(
    isa: Isa,
    from: &[f32],
    (out, stack, matrix): (Shared<E>, &Stack, usize),
    [rows, columns]: [usize; 2],
) {
    for (i, from) in from.chunks_exact(columns.max(1)).take(rows).enumerate() {
        // Safety: the caller's.
        let to =
            unsafe { std::slice::from_raw_parts_mut(out.at(stack.starts[matrix] + i * stack.row), columns) };
        convert_task(isa, from, to);
    }
}
