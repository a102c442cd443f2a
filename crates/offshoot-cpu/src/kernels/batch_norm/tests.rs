use super::super::rows::Place;
use super::super::simd::Isa;
use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
use super::*;
use proptest::prelude::*;

const EPS: f32 = 1e-5;

/// The mean and the biased variance of each channel.
fn moments_of(x: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / channels) as f64;
    let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
    for (i, &x) in x.iter().enumerate() {
        mean[i % channels] += f64::from(x) / rows;
    }
    for (i, &x) in x.iter().enumerate() {
        var[i % channels] += (f64::from(x) - mean[i % channels]).powi(2) / rows;
    }
    (mean, var)
}

struct Statistics {
    mean: Vec<f32>,
    inv_std: Vec<f32>,
    new_mean: Vec<f32>,
    new_var: Vec<f32>,
}

fn statistics(isa: Isa, x: &[f32], channels: usize, old: (&[f32], &[f32])) -> Statistics {
    let zeros = || vec![f32::NAN; channels];
    let mut s = Statistics { mean: zeros(), inv_std: zeros(), new_mean: zeros(), new_var: zeros() };
    let running = Running {
        momentum: 0.1,
        mean: old.0,
        var: old.1,
        new_mean: &mut s.new_mean,
        new_var: &mut s.new_var,
    };
    batch_norm_stats(isa, x, EPS, &mut s.mean, &mut s.inv_std, Some(running));
    s
}

fn check_statistics(x: &[f32], channels: usize, tolerance: f64) {
    let (mean, var) = moments_of(x, channels);
    let rows = (x.len() / channels) as f64;
    let (old_mean, old_var) = (normals(8, channels), normals(9, channels));
    let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    let blend = |old: &[f32], new: &[f64], scale: f64| -> Vec<f64> {
        let momentum = f64::from(0.1f32);
        old.iter().zip(new).map(|(&o, n)| (1.0 - momentum) * f64::from(o) + momentum * n * scale).collect()
    };
    for isa in Isa::available() {
        let s = statistics(isa, x, channels, (&old_mean, &old_var));
        assert_close("mean", &s.mean, &mean, tolerance);
        assert_close("inv_std", &s.inv_std, &inv_std, tolerance);
        assert_close("running mean", &s.new_mean, &blend(&old_mean, &mean, 1.0), tolerance);
        assert_close("running var", &s.new_var, &blend(&old_var, &var, rows / (rows - 1.0)), tolerance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn statistics_agree_with_their_definition(rows in 2usize..700, channels in 1usize..40) {
        check_statistics(&normals(1, rows * channels), channels, 1e-6);
    }

    #[test]
    fn statistics_survive_a_large_mean(rows in 2usize..700, channels in 1usize..20) {
        let x: Vec<f32> = normals(1, rows * channels).iter().map(|x| x + 1000.0).collect();
        // The sums run about the mean of an eighth of the rows: up to three bits are lost (see `moments`).
        check_statistics(&x, channels, 1e-5);
    }

    #[test]
    fn statistics_survive_outliers_at_the_start(rows in 2usize..700, channels in 1usize..20) {
        let mut x = normals(1, rows * channels);
        let few = (rows / 20).max(1) * channels;
        x[..few].iter_mut().for_each(|x| *x += 300.0);
        // The sums run far from 0: that costs a digit.
        check_statistics(&x, channels, 2e-5);
    }

    #[test]
    fn apply_and_gradients_agree_with_their_definitions(
        rows in 2usize..300, channels in 1usize..40, kind in 0usize..3, residual: bool, recomputed: bool,
    ) {
        let activation =
            [Activation::None, Activation::Relu, Activation::Clip { min: -0.5, max: 0.75 }][kind];
        check_apply_and_gradients(rows, channels, activation, residual, recomputed && !residual);
    }
}

fn check_apply_and_gradients(
    rows: usize,
    channels: usize,
    activation: Activation,
    with_residual: bool,
    recomputed: bool,
) {
    let x = normals(1, rows * channels);
    let residual = normals(2, x.len());
    let dz = normals(3, x.len());
    let (gamma, beta) = (normals(4, channels), normals(5, channels));
    let zeros = vec![0.0; channels];
    for isa in Isa::available() {
        let s = statistics(isa, &x, channels, (&zeros, &zeros));
        let norm = BatchNorm { mean: &s.mean, inv_std: &s.inv_std, gamma: &gamma, beta: &beta };
        let mut z = vec![f32::NAN; x.len()];
        batch_norm_apply(isa, &x, &norm, with_residual.then_some(&residual[..]), activation, &mut z);
        let (low, high) = activation.bounds();
        let scale = |c: usize| f64::from(gamma[c]) * f64::from(s.inv_std[c]);
        // Where two or three rows lie close together, 1/deviation is in the hundreds, and so is what it does to a
        // rounding error: those channels are compared in units of it.
        let gain = |i: usize| scale(i % channels).abs().max(1.0);
        let assert_conditioned = |what: &str, actual: &[f32], expected: &[f64], tolerance: f64| {
            let actual: Vec<f32> = (0..).zip(actual).map(|(i, &a)| (f64::from(a) / gain(i)) as f32).collect();
            let expected: Vec<f64> = (0..).zip(expected).map(|(i, &e)| e / gain(i)).collect();
            assert_close(what, &actual, &expected, tolerance);
        };
        let x_hat = |i: usize| {
            (f64::from(x[i]) - f64::from(s.mean[i % channels])) * f64::from(s.inv_std[i % channels])
        };
        let expected: Vec<f64> = (0..x.len())
            .map(|i| {
                let y = x_hat(i) * f64::from(gamma[i % channels]) + f64::from(beta[i % channels]);
                let y = y + if with_residual { f64::from(residual[i]) } else { 0.0 };
                y.clamp(low.into(), high.into())
            })
            .collect();
        assert_conditioned("z", &z, &expected, 3e-6);

        let gate = match (activation, recomputed) {
            (Activation::None, _) => Gate::Open,
            (_, true) => Gate::Recomputed(activation),
            (_, false) => Gate::Output(activation, &z),
        };
        // The mask is that of the output, bit for bit, however it is come by.
        let dy: Vec<f64> =
            (0..x.len()).map(|i| if z[i] > low && z[i] < high { f64::from(dz[i]) } else { 0.0 }).collect();
        let (mut sum, mut products) = (vec![0.0; channels], vec![0.0; channels]);
        for (i, dy) in dy.iter().enumerate() {
            sum[i % channels] += dy;
            products[i % channels] += dy * x_hat(i);
        }
        let (mut dgamma, mut dbeta) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
        batch_norm_reduce(isa, &x, &dz, &norm, gate, &mut dgamma, &mut dbeta);
        // The terms are about 1, so that rounding errors grow with the root of their number.
        let tolerance = 1e-6 * (rows as f64).sqrt();
        assert_close("dbeta", &dbeta, &sum, tolerance);
        assert_close("dgamma", &dgamma, &products, tolerance);

        let n = rows as f64;
        let training: Vec<f64> = (0..x.len())
            .map(|i| {
                let c = i % channels;
                scale(c) * (dy[i] - sum[c] / n - x_hat(i) * products[c] / n)
            })
            .collect();
        let mut dx = vec![f32::NAN; x.len()];
        batch_norm_input_grad(isa, &x, Place::Apart(&dz, &mut dx), &norm, gate, &dgamma, &dbeta);
        assert_conditioned("dx", &dx, &training, 2e-5);
        let mut over = dz.clone();
        batch_norm_input_grad(isa, &x, Place::Over(&mut over), &norm, gate, &dgamma, &dbeta);
        assert_eq!(over, dx);

        let frozen: Vec<f64> = (0..x.len()).map(|i| scale(i % channels) * dy[i]).collect();
        scale_input_grad(isa, &x, Place::Apart(&dz, &mut dx), &norm, gate);
        assert_conditioned("frozen dx", &dx, &frozen, 1e-6);
        over.copy_from_slice(&dz);
        scale_input_grad(isa, &x, Place::Over(&mut over), &norm, gate);
        assert_eq!(over, dx);
    }
}

#[test]
fn the_inverse_of_the_deviation() {
    let mut out = [0.0; 2];
    inv_std(&[4.0, 0.0], 1e-5, &mut out);
    assert_close("inv_std", &out, &[1.0 / 4.00001f64.sqrt(), 1e5f64.sqrt()], 1e-6);
}

#[test]
fn rows_that_lie_close_together() {
    for channels in 1..40 {
        for rows in 2..6 {
            let clip = Activation::Clip { min: -0.5, max: 0.75 };
            check_apply_and_gradients(rows, channels, clip, false, true);
            check_apply_and_gradients(rows, channels, Activation::None, true, false);
        }
    }
}

#[test]
fn one_row_has_no_variance() {
    let s = statistics(Isa::best(), &[3.0, 4.0], 2, (&[0.0; 2], &[1.0; 2]));
    assert_eq!(s.mean, [3.0, 4.0]);
    assert_close("new var", &s.new_var, &[0.9, 0.9], 1e-6);
}

#[test]
fn threads_do_not_change_a_bit() {
    let (rows, channels) = (3000, 24);
    let (x, dz) = (normals(1, rows * channels), normals(2, rows * channels));
    let ones = vec![1.0; channels];
    for isa in Isa::available() {
        assert_same_on_any_threads("statistics", || {
            let s = statistics(isa, &x, channels, (&ones, &ones));
            [s.mean, s.inv_std, s.new_mean, s.new_var].concat()
        });
        let norm = BatchNorm { mean: &ones, inv_std: &ones, gamma: &ones, beta: &ones };
        let gate = Gate::Recomputed(Activation::Relu);
        assert_same_on_any_threads("reduce", || {
            let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
            batch_norm_reduce(isa, &x, &dz, &norm, gate, &mut dgamma, &mut dbeta);
            [dgamma, dbeta].concat()
        });
    }
}
