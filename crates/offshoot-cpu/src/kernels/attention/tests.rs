//! Tests of attention, and cases for those of its gradients.

use super::super::strided::{Strided, copy_strided};
use super::*;
use crate::kernels::testing::{assert_close, assert_same_on_any_threads, normals};
use half::{bf16, f16};

/// Two matrices of each size, with operands and a mask.
pub(super) struct Case {
    pub(super) shape: AttentionShape,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) mask: Vec<f32>,
    /// `k` with each matrix as its transpose.
    pub(super) transposed: Vec<f32>,
}

/// Matrices one after another.
pub(super) fn stack(sizes: [usize; 3]) -> Stack {
    Stack::new(&Strided::dense(sizes.to_vec())).expect("matrices")
}

/// A stack of attentions whose operands and result are one matrix after another, without a mask.
pub(super) fn dense([count, queries, keys, depth, width]: [usize; 5]) -> AttentionShape {
    AttentionShape {
        count,
        queries,
        keys,
        depth,
        width,
        q: stack([count, queries, depth]),
        k: stack([count, keys, depth]),
        v: stack([count, keys, width]),
        mask: None,
        y: stack([count, queries, width]),
    }
}

impl AttentionShape {
    /// With a mask for each matrix, one after another.
    pub(super) fn masked(&self) -> AttentionShape {
        AttentionShape { mask: Some(stack([self.count, self.queries, self.keys])), ..self.clone() }
    }

    /// With keys as columns.
    pub(super) fn by_columns(&self) -> AttentionShape {
        AttentionShape { k: stack([self.count, self.depth, self.keys]).transposed(), ..self.clone() }
    }
}

/// Each matrix of `rows` and `columns` of a stack as its transpose.
pub(super) fn transpose(stack: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let matrices = stack.chunks_exact(rows * columns);
    let places = || (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
    matrices.flat_map(|matrix| places().map(|at| matrix[at])).collect()
}

pub(super) fn cases() -> impl Iterator<Item = Case> {
    // (Heads wider than a part of a block, and more keys than that.)
    let sizes = [
        (1, 1, 1, 1),
        (5, 3, 4, 7),
        (49, 49, 32, 32),
        (300, 197, 24, 40),
        (9, 20, 391, 400),
        (60, 800, 17, 5),
    ];
    sizes.into_iter().map(|(queries, keys, depth, width)| {
        let count = 2;
        let len = [queries * depth, keys * depth, keys * width, queries * keys].map(|n| n * count);
        let [q, k, v, mask] = [0, 1, 2, 3].map(|i| normals(i as u64, len[i]));
        let shape = dense([count, queries, keys, depth, width]);
        let transposed = transpose(&k, [keys, depth]);
        Case { shape, q, k, v, mask, transposed }
    })
}

/// softmax(scale q kᵀ + mask) v of one query, in f64.
fn expected(q: &[f32], k: &[f32], v: &[f32], scale: f32, mask: &[f32], width: usize) -> Vec<f64> {
    let scores: Vec<f64> = k
        .chunks_exact(q.len())
        .enumerate()
        .map(|(i, k)| {
            let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            dot * f64::from(scale) + mask.get(i).map_or(0.0, |m| f64::from(*m))
        })
        .collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column =
        |j| weights.iter().zip(v.chunks_exact(width)).map(|(w, v)| w * f64::from(v[j])).sum::<f64>() / sum;
    (0..width).map(column).collect()
}

impl Case {
    /// With operands that `E` can hold.
    pub(super) fn rounded<E: Element>(self) -> Case {
        let [q, k, v, transposed] =
            [self.q, self.k, self.v, self.transposed].map(|x| widened(&narrowed::<E>(&x)));
        Case { q, k, v, transposed, ..self }
    }
}

/// The numbers as what `E` holds.
pub(super) fn narrowed<E: Element>(numbers: &[f32]) -> Vec<E> {
    numbers.iter().map(|&x| E::from_f32(x)).collect()
}

pub(super) fn widened<E: Element>(elements: &[E]) -> Vec<f32> {
    elements.iter().map(|x| x.to_f32()).collect()
}

/// Every path, with that of emulated tiles.
pub(super) fn paths() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().chain([Isa::EMULATED_TILES])
}

#[test]
fn attention_is_what_its_formula_says_on_every_path() {
    formula_on_every_path::<f32>(1e-5);
    // Halves are rounded in the end, and on tiles between the products.
    formula_on_every_path::<f16>(1e-3);
    formula_on_every_path::<bf16>(1e-2);
}

fn formula_on_every_path<E: Element>(tolerance: f64) {
    for case in cases() {
        let Case { shape: first, q, k, v, mask, transposed } = case.rounded::<E>();
        let AttentionShape { count, queries, keys, depth, width, .. } = first;
        let [of_q, of_k, of_v, of_transposed] = [&q, &k, &v, &transposed].map(|x| narrowed::<E>(x));
        for mask in [None, Some(&mask[..])] {
            let first = if mask.is_some() { first.masked() } else { first.clone() };
            let last = first.by_columns();
            let row = |row: usize| {
                let matrix = row / queries;
                let [k, v] = [(&k, depth), (&v, width)].map(|(x, n)| &x[matrix * keys * n..][..keys * n]);
                let mask = mask.map_or(&[][..], |mask| &mask[row * keys..][..keys]);
                expected(&q[row * depth..][..depth], k, v, 0.7, mask, width)
            };
            let wanted: Vec<f64> = (0..count * queries).flat_map(row).collect();
            for isa in paths() {
                for (shape, k) in [(&first, &of_k), (&last, &of_transposed)] {
                    let run = || {
                        let mut y = narrowed::<E>(&vec![f32::NAN; count * queries * width]);
                        let operands = Operands { q: &of_q, k, v: &of_v, scale: 0.7, mask };
                        attention(isa, shape, operands, &mut y);
                        widened(&y)
                    };
                    let what =
                        format!("{} {isa} {queries} {keys} {depth} {width} {:?}", E::DTYPE, mask.is_some());
                    assert_close(&what, &run(), &wanted, tolerance);
                    assert_same_on_any_threads(&what, run);
                }
            }
        }
    }
}

#[test]
fn operands_may_lie_between_each_other() {
    views::<f32>();
    views::<f16>();
    views::<bf16>();
}

fn views<E: Element>() {
    // q, k and v as parts of each token's row, head by head, and the result token by token.
    let [pictures, heads, tokens, depth, width] = [2, 3, 9, 4, 5];
    let row = heads * (2 * depth + width);
    let x = narrowed::<E>(&normals(3, pictures * tokens * row));
    let part = |start: usize, size: usize| Strided {
        start: start * heads,
        shape: vec![pictures, heads, tokens, size],
        strides: vec![tokens * row, size, row, 1],
    };
    let places = [part(0, depth), part(depth, depth), part(2 * depth, width)];
    let out = Strided {
        start: 0,
        shape: vec![pictures, heads, tokens, width],
        strides: vec![tokens * heads * width, width, heads * width, 1],
    };
    let dense = dense([pictures * heads, tokens, tokens, depth, width]);
    let [q, k, v] = places.each_ref().map(|places| {
        let mut part = vec![E::zeroed(); places.len()];
        copy_strided(&x, places, &mut part);
        part
    });
    for isa in paths() {
        let mut wanted = vec![E::zeroed(); dense.count * tokens * width];
        attention(isa, &dense, Operands { q: &q, k: &k, v: &v, scale: 0.5, mask: None }, &mut wanted);
        let [of_q, of_k, of_v, of_y] =
            [&places[0], &places[1], &places[2], &out].map(|p| Stack::new(p).expect("matrices"));
        let shape = AttentionShape { q: of_q, k: of_k, v: of_v, y: of_y, ..dense.clone() };
        let mut y = vec![E::zeroed(); wanted.len()];
        attention(isa, &shape, Operands { q: &x, k: &x, v: &x, scale: 0.5, mask: None }, &mut y);
        let mut found = vec![E::zeroed(); y.len()];
        copy_strided(&y, &out, &mut found);
        assert_eq!(widened(&found), widened(&wanted), "{} {isa}", E::DTYPE);
    }
}

#[test]
fn a_nan_stays_in_its_row() {
    nan_in_one_row::<f32>();
    nan_in_one_row::<f16>();
    nan_in_one_row::<bf16>();
}

fn nan_in_one_row<E: Element>() {
    let shape = dense([1, 2, 20, 3, 5]);
    let (mut q, k, v) = (normals(0, 6), normals(1, 60), normals(2, 100));
    q[0] = f32::NAN;
    let [q, k, v] = [q, k, v].map(|x| narrowed::<E>(&x));
    for isa in paths() {
        let mut y = vec![E::zeroed(); 10];
        attention(isa, &shape, Operands { q: &q, k: &k, v: &v, scale: 1.0, mask: None }, &mut y);
        let y = widened(&y);
        assert!(y[..5].iter().all(|y| y.is_nan()) && y[5..].iter().all(|y| y.is_finite()), "{isa} {y:?}");
    }
}
