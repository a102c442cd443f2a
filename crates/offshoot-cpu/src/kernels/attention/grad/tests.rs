//! Tests of the gradients of attention.

use half::{bf16, f16};

use super::super::tests::{Case, cases, dense, narrowed, paths, transpose, widened};
use super::*;
use crate::kernels::testing::{assert_close, assert_same_on_any_threads, normals};

/// The gradients of one matrix by their formulas, in f64: dq, dk, dv.
fn expected(case: &Case, matrix: usize, scale: f64, masked: bool, dy: &[f32]) -> [Vec<f64>; 3] {
    let AttentionShape { queries, keys, depth, width, .. } = case.shape;
    let of = |all: &[f32], rows: usize, columns: usize| -> Vec<f64> {
        all[matrix * rows * columns..][..rows * columns].iter().map(|&x| f64::from(x)).collect()
    };
    let (q, k) = (of(&case.q, queries, depth), of(&case.k, keys, depth));
    let (v, dy) = (of(&case.v, keys, width), of(dy, queries, width));
    let mask = of(&case.mask, queries, keys);
    let mut grads = [queries * depth, keys * depth, keys * width].map(|n| vec![0.0; n]);
    for i in 0..queries {
        let row = |m: &[f64], i: usize, n: usize| m[i * n..][..n].to_vec();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (qi, dyi) = (row(&q, i, depth), row(&dy, i, width));
        let mut p: Vec<f64> = (0..keys)
            .map(|j| scale * dot(&qi, &row(&k, j, depth)) + if masked { mask[i * keys + j] } else { 0.0 })
            .collect();
        let most = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        p.iter_mut().for_each(|p| *p = (*p - most).exp());
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        let dp: Vec<f64> = (0..keys).map(|j| dot(&dyi, &row(&v, j, width))).collect();
        let mean = dot(&p, &dp);
        for j in 0..keys {
            let ds = scale * p[j] * (dp[j] - mean);
            for d in 0..depth {
                grads[0][i * depth + d] += ds * k[j * depth + d];
                grads[1][j * depth + d] += ds * qi[d];
            }
            for (d, dy) in dyi.iter().enumerate() {
                grads[2][j * width + d] += p[j] * dy;
            }
        }
    }
    grads
}

#[test]
fn gradients_are_what_their_formulas_say_on_every_path() {
    formulas_on_every_path::<f32>(2e-5);
    formulas_on_every_path::<f16>(2e-3);
    formulas_on_every_path::<bf16>(2e-2);
}

fn formulas_on_every_path<E: Element>(tolerance: f64) {
    for case in cases().map(Case::rounded::<E>) {
        let AttentionShape { count, queries, keys, depth, width, .. } = case.shape;
        let (dy, scale) = (narrowed::<E>(&normals(9, count * queries * width)), 1.0 / (depth as f32).sqrt());
        let [of_q, of_k, of_v, of_transposed] =
            [&case.q, &case.k, &case.v, &case.transposed].map(|x| narrowed::<E>(x));
        for masked in [false, true] {
            let wanted =
                (0..count).map(|matrix| expected(&case, matrix, f64::from(scale), masked, &widened(&dy)));
            let wanted = wanted.fold([const { Vec::new() }; 3], |mut all, grads| {
                all.iter_mut().zip(grads).for_each(|(all, grad)| all.extend(grad));
                all
            });
            for (isa, keys_first) in paths().flat_map(|isa| [(isa, true), (isa, false)]) {
                let shape = if masked { case.shape.masked() } else { case.shape.clone() };
                let shape = if keys_first { shape } else { shape.by_columns() };
                let stacks = [&shape.q, &shape.k, &shape.v].map(Clone::clone);
                let k = if keys_first { &of_k } else { &of_transposed };
                let grads = || {
                    let sizes = [queries * depth, keys * depth, keys * width];
                    let mut grads = sizes.map(|n| narrowed::<E>(&vec![f32::NAN; count * n]));
                    let mask = masked.then_some(&case.mask[..]);
                    let operands = Operands { q: &of_q, k, v: &of_v, scale, mask };
                    let to = grads.each_mut().map(|grad| &mut grad[..]);
                    attention_grad(isa, &shape, operands, &dy, to, &stacks);
                    grads.map(|grad| widened(&grad))
                };
                let what =
                    format!("{} {isa} {queries} {keys} {depth} {width} {masked} {keys_first}", E::DTYPE);
                let mut found = grads();
                if !keys_first {
                    found[1] = transpose(&found[1], [depth, keys]);
                }
                for (grad, wanted) in found.iter().zip(&wanted) {
                    assert_close(&what, grad, wanted, tolerance);
                }
                assert_same_on_any_threads(&what, || grads().concat());
            }
        }
    }
}

#[test]
fn without_queries_the_gradients_are_zeros() {
    let shape = dense([1, 0, 3, 2, 2]);
    let stacks = [&shape.q, &shape.k, &shape.v].map(Clone::clone);
    let (k, v) = (normals(0, 6), normals(1, 6));
    let (mut dk, mut dv) = (vec![f32::NAN; 6], vec![f32::NAN; 6]);
    let operands = Operands { q: &[], k: &k, v: &v, scale: 1.0, mask: None };
    attention_grad(Isa::PORTABLE, &shape, operands, &[], [&mut [], &mut dk, &mut dv], &stacks);
    assert_eq!([dk, dv].concat(), [0.0; 12]);
}
