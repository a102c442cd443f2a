//! Kernels at the smallest sizes that have borders, tails of vectors and more than a tile: few enough operations for Miri, which
//! runs these tests with the portable path (`docs/soundness.md`).
#![allow(clippy::unwrap_used)] // helpers of tests, too

use half::{bf16, f16};
use offshoot_cpu::Isa;
use offshoot_cpu::kernels::batch_norm::batch_norm_stats;
use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use offshoot_cpu::kernels::convert::convert;
use offshoot_cpu::kernels::element::Element;
use offshoot_cpu::kernels::gemm::{GemmShape, gemm};
use offshoot_cpu::kernels::int8::conv::{ByteFilter, Numbers, conv as byte_conv};
use offshoot_cpu::kernels::int8::depthwise::{DepthwiseFilter, depthwise as byte_depthwise};
use offshoot_cpu::kernels::int8::{Output, Requantize};
use offshoot_cpu::kernels::pool::{Pool, PoolShape, pool, pool_grad};
use offshoot_cpu::kernels::softmax::{softmax, softmax_grad};
use offshoot_cpu::kernels::source::Source;
use offshoot_cpu::kernels::{Activation, ConvShape, depthwise};

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 199) as f32 / 100.0 - 0.99).collect()
}

fn halves<E: Element>(values: &[f32]) -> Vec<E> {
    values.iter().map(|&x| E::from_f32(x)).collect()
}

#[track_caller]
fn assert_close(found: f64, wanted: f64, what: &str) {
    assert!((found - wanted).abs() <= 1e-4 * (1.0 + wanted.abs()), "{what}: {found}, not {wanted}");
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// A convolution of `in_h` x `in_w` pixels whose windows all start in the padded picture.
fn shape(
    [batch, in_h, in_w]: [usize; 3],
    [in_c, out_c, groups]: [usize; 3],
    kernel: [usize; 2],
    [stride, pad, dilation]: [usize; 3],
) -> ConvShape {
    let out = |len: usize, kernel: usize| (len + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
    ConvShape {
        batch,
        in_h,
        in_w,
        in_c,
        out_h: out(in_h, kernel[0]),
        out_w: out(in_w, kernel[1]),
        out_c,
        kernel,
        strides: [stride; 2],
        pads: [pad; 4],
        dilations: [dilation; 2],
        groups,
    }
}

/// Calls `visit` with the places of output, input and weight of every product of a convolution.
fn products(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let (depth, cols) = (s.in_c / s.groups, s.out_c / s.groups);
    for y in 0..s.batch * s.out_h * s.out_w * s.out_c {
        let (k, pixel) = (y % s.out_c, y / s.out_c);
        let (ow, oh, n) = (pixel % s.out_w, pixel / s.out_w % s.out_h, pixel / s.out_w / s.out_h);
        for tap in 0..s.kernel[0] * s.kernel[1] {
            let (r, t) = (tap / s.kernel[1], tap % s.kernel[1]);
            let h = (oh * s.strides[0] + r * s.dilations[0]).wrapping_sub(s.pads[0]);
            let w = (ow * s.strides[1] + t * s.dilations[1]).wrapping_sub(s.pads[1]);
            if h < s.in_h && w < s.in_w {
                for c in 0..depth {
                    let x = ((n * s.in_h + h) * s.in_w + w) * s.in_c + k / cols * depth + c;
                    visit(y, x, (k * depth + c) * s.kernel[0] * s.kernel[1] + tap);
                }
            }
        }
    }
}

/// Lengths of input, output and weights.
fn lengths(s: &ConvShape) -> [usize; 3] {
    let [input, output] = [s.batch * s.in_h * s.in_w * s.in_c, s.batch * s.out_h * s.out_w * s.out_c];
    [input, output, s.out_c * s.in_c / s.groups * s.kernel[0] * s.kernel[1]]
}

fn sums(s: &ConvShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; lengths(s)[1]];
    products(s, |at, from, weight| sums[at] += f64::from(x[from]) * f64::from(w[weight]));
    sums
}

#[test]
fn dense_convolutions_and_their_gradients() {
    let shapes = [
        shape([2, 4, 3], [3, 5, 1], [3, 3], [1, 1, 1]),
        shape([1, 2, 3], [9, 17, 1], [1, 1], [1, 0, 1]),
        shape([1, 4, 5], [4, 6, 2], [3, 2], [2, 1, 1]),
        shape([1, 4, 4], [2, 3, 1], [2, 2], [1, 1, 2]),
    ];
    for (s, isa) in shapes.iter().flat_map(|s| Isa::available().into_iter().map(move |isa| (s, isa))) {
        let what = format!("{s:?} on {isa}");
        let [x_len, y_len, w_len] = lengths(s);
        let (x, w, dy) = (values(x_len, 1), values(w_len, 2), values(y_len, 3));
        let mut filter = PackedFilter::new();
        filter.pack(isa, s, &w);
        let mut y = vec![f32::NAN; y_len];
        conv(isa, s, &x, &filter, &Epilogue::NONE, &mut y);
        for (&found, wanted) in y.iter().zip(sums(s, &x, &w)) {
            assert_close(f64::from(found), wanted, &what);
        }
        let mut dx = vec![f32::NAN; x_len];
        filter.pack_for_input_grad(isa, s, &w);
        conv_input_grad(isa, s, &dy, &filter, &mut dx);
        assert_close(dot(&dx, &x), dot(&y, &dy), &what);
        let mut dw = vec![f32::NAN; w_len];
        let mut workspace = vec![f32::NAN; conv_weight_grad_workspace(isa, s)];
        conv_weight_grad(isa, s, &x, &dy, &mut dw, &mut workspace);
        assert_close(dot(&dw, &w), dot(&y, &dy), &what);
    }
}

#[test]
fn depthwise_convolutions_and_their_gradients() {
    let shapes = [
        shape([2, 3, 4], [5, 5, 5], [3, 3], [1, 1, 1]),
        shape([1, 5, 9], [9, 9, 9], [5, 5], [2, 2, 1]),
        shape([1, 3, 4], [3, 3, 3], [2, 3], [1, 1, 1]),
    ];
    for (s, isa) in shapes.iter().flat_map(|s| Isa::available().into_iter().map(move |isa| (s, isa))) {
        let what = format!("{s:?} on {isa}");
        let [x_len, y_len, w_len] = lengths(s);
        let (x, w, dy) = (values(x_len, 4), values(w_len, 5), values(y_len, 6));
        let (mut packed, mut y) = (vec![0.0; w_len], vec![f32::NAN; y_len]);
        depthwise::pack(s, &w, &mut packed);
        depthwise::forward(isa, s, &x, &packed, None, Activation::None, &mut y);
        for (&found, wanted) in y.iter().zip(sums(s, &x, &w)) {
            assert_close(f64::from(found), wanted, &what);
        }
        let (mut dx, mut dw) = (vec![f32::NAN; x_len], vec![f32::NAN; w_len]);
        depthwise::input_grad(isa, s, &dy, &packed, &mut dx);
        depthwise::weight_grad(isa, s, &x, &dy, &mut dw);
        assert_close(dot(&dx, &x), dot(&y, &dy), &what);
        assert_close(dot(&dw, &w), dot(&y, &dy), &what);
        if depthwise::takes_strips(s) {
            let mut again = vec![f32::NAN; y_len];
            let mut moments = vec![f32::NAN; 2 * s.out_c * depthwise::moment_rows(s).len()];
            let source = Source::Plain(&x[..]);
            depthwise::forward_in_training(isa, s, &source, &packed, &mut again, Some(&mut moments));
            assert_close(dot(&again, &dy), dot(&y, &dy), &what);
            assert!(moments.iter().all(|m| m.is_finite()), "{what}");
        }
    }
}

#[test]
fn products_of_matrices() {
    for (isa, trans) in Isa::available().into_iter().flat_map(|isa| (0..4).map(move |trans| (isa, trans))) {
        let (trans_a, trans_b, m, n, k) = (trans & 1 > 0, trans & 2 > 0, 5, 19, 9);
        let (a, b, bias) = (values(m * k, 7), values(k * n, 8), values(n, 9));
        let mut c = vec![f32::NAN; m * n];
        gemm(isa, &GemmShape { trans_a, trans_b, m, n, k }, &a, &b, Some(&bias), &mut c);
        for (at, &found) in c.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let term = |l: usize| {
                let left = a[if trans_a { l * m + i } else { i * k + l }];
                f64::from(left) * f64::from(b[if trans_b { j * k + l } else { l * n + j }])
            };
            let wanted = (0..k).map(term).sum::<f64>() + f64::from(bias[j]);
            assert_close(f64::from(found), wanted, &format!("{trans_a} {trans_b} on {isa}"));
        }
    }
}

fn half_convolution<E: Element>() {
    let s = shape([1, 3, 3], [3, 5, 1], [3, 3], [1, 1, 1]);
    let [x_len, y_len, w_len] = lengths(&s);
    // (Few bits, which both types have.)
    let few = |len: usize, seed: usize| -> Vec<f32> {
        (0..len).map(|i| ((i * 31 + seed) % 9) as f32 * 0.25 - 1.0).collect()
    };
    let (x, w) = (few(x_len, 1), few(w_len, 2));
    for isa in Isa::available() {
        let mut filter = PackedFilter::new();
        filter.set_element::<E>();
        filter.pack(isa, &s, &w);
        let mut y = halves::<E>(&vec![9.0; y_len]);
        conv(isa, &s, &halves::<E>(&x), &filter, &Epilogue::NONE, &mut y);
        let mut floats = vec![f32::NAN; y_len];
        convert(isa, &y, &mut floats);
        for (found, wanted) in floats.iter().zip(sums(&s, &x, &w)) {
            assert_eq!(*found, E::from_f32(wanted as f32).to_f32(), "{} on {isa}", E::DTYPE);
        }
    }
}

#[test]
fn convolutions_on_half_types() {
    half_convolution::<bf16>();
    half_convolution::<f16>();
}

#[test]
fn pools_rows_and_statistics() {
    let s = PoolShape {
        batch: 2,
        in_h: 4,
        in_w: 5,
        channels: 9,
        out_h: 2,
        out_w: 3,
        kernel: [3, 3],
        strides: [2, 2],
        pads: [1; 4],
        dilations: [1, 1],
    };
    let x = values(2 * 4 * 5 * 9, 1);
    for isa in Isa::available() {
        for kind in [Pool::Max, Pool::Average { count_include_pad: false }] {
            let (mut y, mut dx) = (vec![f32::NAN; 2 * 2 * 3 * 9], vec![f32::NAN; x.len()]);
            pool(isa, kind, &s, &x, &mut y);
            let dy = vec![1.0; y.len()];
            pool_grad(isa, kind, &s, &x, &dy, &mut dx);
            // Each output is the mean of what its gradient goes to.
            assert_close(dot(&dx, &x), y.iter().map(|&y| f64::from(y)).sum(), &format!("{kind:?} on {isa}"));
        }
        let (mut p, mut dp) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        softmax(isa, &x, 18, &mut p);
        for row in p.chunks_exact(18) {
            assert_close(row.iter().map(|&p| f64::from(p)).sum(), 1.0, &format!("softmax on {isa}"));
        }
        softmax_grad(isa, &p, &x, 18, &mut dp);
        assert_close(dp.iter().map(|&d| f64::from(d)).sum(), 0.0, &format!("softmax on {isa}"));
        let (mut mean, mut inv_std) = ([f32::NAN; 9], [f32::NAN; 9]);
        batch_norm_stats(isa, &x, 1e-5, &mut mean, &mut inv_std, None);
        for (c, &mean) in mean.iter().enumerate() {
            let wanted = x.iter().skip(c).step_by(9).map(|&x| f64::from(x)).sum::<f64>() / 40.0;
            assert_close(f64::from(mean), wanted, &format!("mean on {isa}"));
        }
    }
}

#[test]
fn convolutions_of_bytes() {
    let shapes = [
        shape([1, 3, 5], [3, 9, 1], [3, 3], [1, 1, 1]),
        shape([2, 2, 2], [3, 5, 1], [2, 2], [1, 1, 1]),
        shape([1, 2, 3], [4, 9, 1], [1, 1], [1, 0, 1]),
        shape([1, 3, 3], [4, 6, 2], [2, 2], [2, 1, 1]),
        shape([1, 3, 5], [5, 5, 5], [3, 3], [1, 1, 1]),
        shape([1, 3, 3], [3, 3, 3], [2, 3], [1, 1, 1]),
    ];
    let requantize = Requantize { zero_point: 7, bounds: [0, 255] };
    for (s, isa) in shapes.iter().flat_map(|s| Isa::available().into_iter().map(move |isa| (s, isa))) {
        let [x_len, y_len, w_len] = lengths(s);
        let x: Vec<u8> = (0..x_len).map(|i| (i * 37 % 256) as u8).collect();
        let weights: Vec<i8> = (0..w_len).map(|i| (i * 53 % 256) as u8 as i8).collect();
        let (bias, scale) = (vec![100; s.out_c], vec![0.0078125; s.out_c]);
        let numbers = Numbers { weights: &weights, bias: &bias, scale: &scale, zero_point: 120 };
        let mut wanted = vec![100i32; y_len];
        products(s, |at, from, weight| {
            wanted[at] += (i32::from(x[from]) - 120) * i32::from(weights[weight]);
        });
        let wanted = wanted.iter().map(|&sum| requantize.of(sum as f32 * 0.0078125));
        let mut y = vec![1; y_len];
        let output = Output::Bytes { y: &mut y, requantize, residual: None };
        if s.groups == s.in_c {
            byte_depthwise(isa, s, &x, &DepthwiseFilter::pack(s, &numbers), output);
        } else {
            byte_conv(isa, s, &x, &ByteFilter::pack(isa, s, &numbers), output);
        }
        assert!(y.iter().copied().eq(wanted), "{s:?} on {isa}");
    }
}
