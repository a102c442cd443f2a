use super::*;
use crate::kernels::testing::{assert_close, assert_same_on_any_threads, normals};

const SIZES: [Sizes; 4] = [
    Sizes { steps: 3, batch: 1, input: 5, hidden: 7 },
    Sizes { steps: 4, batch: 9, input: 20, hidden: 40 },
    Sizes { steps: 2, batch: 17, input: 3, hidden: 16 },
    // (Enough work for several threads.)
    Sizes { steps: 5, batch: 2, input: 8, hidden: 150 },
];

/// W, R and the biases of one way.
type Weights = [Vec<f32>; 3];

fn weights(seed: u64, sizes: Sizes) -> Weights {
    let (units, width) = (GATES * sizes.hidden, 1.0 / (sizes.hidden as f32).sqrt());
    let numbers = |i: u64, len: usize| normals(seed + i, len).iter().map(|x| width * x).collect();
    [numbers(0, units * sizes.input), numbers(1, units * sizes.hidden), numbers(2, units)]
}

/// The bytes of each row, and what they are multiplied with.
fn bytes(matrix: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let largest = |row: &[f32]| row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scales: Vec<f32> = matrix.chunks_exact(k).map(|row| largest(row) / 127.0).collect();
    let rows = matrix.chunks_exact(k).zip(&scales);
    (rows.flat_map(|(row, scale)| row.iter().map(move |x| (x / scale).round() as i8)).collect(), scales)
}

/// What the operator's definition says, in f64, of one way; what `quantize` does to operands of products is the caller's choice.
fn expected(
    sizes: Sizes,
    x: &[f32],
    [w, r, bias]: &Weights,
    reverse: bool,
    quantize: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<f64> {
    let Sizes { steps, batch, input, hidden } = sizes;
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (x, w, r, state) = (quantize(&wide(x)), wide(w), wide(r), batch * hidden);
    let (mut y, mut h, mut cell) = (vec![0.0; steps * state], vec![0.0; state], vec![0.0; state]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for i in 0..steps {
        let step = if reverse { steps - 1 - i } else { i };
        let last = quantize(&h);
        for at in 0..state {
            let (row, unit) = (at / hidden, at % hidden);
            let [input_gate, output, forget, candidate] = [0, 1, 2, 3].map(|gate| {
                let column = gate * hidden + unit;
                let x = &x[(step * batch + row) * input..][..input];
                dot(x, &w[column * input..][..input])
                    + dot(&last[row * hidden..][..hidden], &r[column * hidden..][..hidden])
                    + f64::from(bias[column])
            });
            cell[at] = sigmoid(forget) * cell[at] + sigmoid(input_gate) * candidate.tanh();
            h[at] = sigmoid(output) * cell[at].tanh();
        }
        y[step * state..][..state].copy_from_slice(&h);
    }
    y
}

/// Numbers as bytes stand for them, by their own range.
fn rounded(x: &[f64]) -> Vec<f64> {
    let [low, high] = x.iter().fold([0.0f64; 2], |[low, high], &x| [low.min(x), high.max(x)]);
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    let zero_point = (-low / scale).round_ties_even();
    x.iter()
        .map(|x| ((x / scale).round_ties_even() + zero_point).clamp(0.0, 255.0) - zero_point)
        .map(|x| x * scale)
        .collect()
}

/// y of both ways, one after the other, and whether the last h is that of the last step.
fn run(isa: Isa, sizes: Sizes, x: &[f32], ways: &[Way]) -> Vec<f32> {
    let state = sizes.batch * sizes.hidden;
    let (mut y, mut last) = (vec![f32::NAN; sizes.steps * 2 * state], vec![f32::NAN; 2 * state]);
    let mut work = Work::default();
    for _ in 0..2 {
        lstm(isa, sizes, x, ways, &mut work, [&mut y, &mut last]);
    }
    let way = |way: usize| y.chunks_exact(state).skip(way).step_by(2).flatten().copied();
    let ends = [&y[(sizes.steps - 1) * 2 * state..][..state], &y[state..2 * state]];
    assert_eq!(last, ends.concat(), "{isa} {sizes:?}");
    way(0).chain(way(1)).collect()
}

#[test]
fn an_lstm_is_what_its_formula_says_on_every_path() {
    for sizes in SIZES {
        let x = normals(9, sizes.steps * sizes.batch * sizes.input);
        let both = [weights(0, sizes), weights(3, sizes)];
        let wanted: Vec<f64> = both
            .iter()
            .zip([false, true])
            .flat_map(|(weights, reverse)| expected(sizes, &x, weights, reverse, <[f64]>::to_vec))
            .collect();
        for isa in Isa::available() {
            let ways: Vec<Way> = both
                .iter()
                .zip([false, true])
                .map(|([w, r, bias], reverse)| {
                    let numbers = Numbers { weights: super::Weights::Floats([w, r]), bias };
                    Way::pack(isa, sizes, &numbers, reverse)
                })
                .collect();
            let what = format!("{isa} {sizes:?}");
            assert_close(&what, &run(isa, sizes, &x, &ways), &wanted, 1e-5);
            assert_same_on_any_threads(&what, || run(isa, sizes, &x, &ways));
        }
    }
}

#[test]
fn an_lstm_of_bytes_quantizes_what_it_multiplies() {
    for sizes in SIZES {
        let x = normals(9, sizes.steps * sizes.batch * sizes.input);
        let [w, r, bias] = weights(5, sizes);
        let ((w, w_scale), (r, r_scale)) = (bytes(&w, sizes.input), bytes(&r, sizes.hidden));
        let floats = |bytes: &[i8], scale: &[f32]| {
            let k = bytes.len() / scale.len();
            bytes.iter().enumerate().map(|(i, &byte)| f32::from(byte) * scale[i / k]).collect()
        };
        let same = [floats(&w, &w_scale), floats(&r, &r_scale), bias.clone()];
        let wanted: Vec<f64> = [false, true]
            .into_iter()
            .flat_map(|reverse| expected(sizes, &x, &same, reverse, rounded))
            .collect();
        for isa in Isa::available() {
            let ways = [false, true].map(|reverse| {
                let weights = super::Weights::Bytes([&w, &r], [&w_scale, &r_scale]);
                Way::pack(isa, sizes, &Numbers { weights, bias: &bias }, reverse)
            });
            let what = format!("{isa} {sizes:?} in bytes");
            // (A byte that is rounded otherwise, as a float in the last place differs, changes a gate by less than this.)
            assert_close(&what, &run(isa, sizes, &x, &ways), &wanted, 2e-3);
            assert_same_on_any_threads(&what, || run(isa, sizes, &x, &ways));
        }
    }
}
