use super::super::reduce::sum_to_shape;
use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
use super::*;
use offshoot_graph::op::{Alpha, Clip, Derivative, HardSigmoid};
use proptest::prelude::*;

/// a op b.
fn scalar(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max if a.is_nan() || b.is_nan() => f32::NAN,
        Binary::Max => a.max(b),
        Binary::Min if a.is_nan() || b.is_nan() => f32::NAN,
        Binary::Min => a.min(b),
        Binary::Pow => libm::powf(a, b),
    }
}

/// erf by its series, and where that cancels, by the continued fraction of erfc.
fn erf(x: f64) -> f64 {
    if x.abs() > 2.0 {
        let z = x.abs();
        let fraction = (1..200).rev().fold(z, |tail, n| z + 0.5 * f64::from(n) / tail);
        return x.signum() * (1.0 - (-z * z).exp() / fraction / std::f64::consts::PI.sqrt());
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn reference(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Relu => x.max(0.0),
        Unary::Clip(Clip { min, max }) => x.clamp(min.into(), max.into()),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::HardSigmoid(HardSigmoid { alpha, beta }) => {
            (x * f64::from(alpha) + f64::from(beta)).clamp(0.0, 1.0)
        }
        Unary::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Unary::Tanh => x.tanh(),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Unary::Erf => erf(x),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Neg => -x,
        Unary::Reciprocal => 1.0 / x,
        Unary::Abs => x.abs(),
        Unary::Softplus => x.exp().ln_1p(),
        Unary::Mish => x * x.exp().ln_1p().tanh(),
        Unary::LeakyRelu(Alpha { alpha }) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x
            }
        }
        Unary::Elu(Alpha { alpha }) => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
    }
}

/// Whether the function has a corner within a step of `x`, where differences say nothing about the gradient.
fn at_corner(op: Unary, x: f64) -> bool {
    let corners: &[f64] = match op {
        Unary::Clip(Clip { min, max }) => &[min.into(), max.into()],
        Unary::HardSigmoid(_) | Unary::HardSwish => &[-3.0, 3.0],
        Unary::Relu | Unary::Abs | Unary::LeakyRelu(_) | Unary::Elu(_) => &[0.0],
        Unary::Sigmoid
        | Unary::Erf
        | Unary::Gelu
        | Unary::Silu
        | Unary::Tanh
        | Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Neg
        | Unary::Softplus
        | Unary::Mish
        | Unary::Reciprocal => &[],
    };
    corners.iter().any(|corner| (x - corner).abs() < 1e-4)
}

#[test]
fn functions_and_gradients_agree_with_their_definitions() {
    let everywhere: Vec<f32> = (0..1501).map(|i| -4.0 + 0.008 * i as f32).collect();
    let positive: Vec<f32> = (0..1501).map(|i| 0.1 + 0.008 * i as f32).collect();
    let dy = normals(1, everywhere.len());
    for (isa, op) in Isa::available().into_iter().flat_map(|isa| Unary::ALL.iter().map(move |&op| (isa, op)))
    {
        let what = format!("{isa} {op:?}");
        let x =
            if matches!(op, Unary::Log | Unary::Sqrt | Unary::Reciprocal) { &positive } else { &everywhere };
        let expected: Vec<f64> = x.iter().map(|&x| reference(op, x.into())).collect();
        let mut y = vec![f32::NAN; x.len()];
        unary(isa, op, x, &mut y);
        assert_close(&what, &y, &expected, 5e-7);
        let mut in_place = x.clone();
        unary_in_place(isa, op, &mut in_place);
        assert_eq!(in_place, y, "{what} in place");

        let mut dx = vec![f32::NAN; x.len()];
        let known = if op.row().derivative == Derivative::OfInput { x } else { &y };
        unary_grad(isa, op, known, &dy, &mut dx);
        for ((&x, &dy), &dx) in
            x.iter().zip(&dy).zip(&dx).filter(|((x, _), _)| !at_corner(op, f64::from(**x)))
        {
            let (x, h) = (f64::from(x), 1e-5);
            let slope = (reference(op, x + h) - reference(op, x - h)) / (2.0 * h);
            assert_close(&format!("{what} gradient at {x}"), &[dx], &[f64::from(dy) * slope], 2e-6);
        }
        let mut in_place = dy.clone();
        unary_grad_in_place(isa, op, known, &mut in_place);
        assert_eq!(in_place, dx, "{what} gradient in place");
    }
}

#[test]
fn gradients_at_the_bounds_are_those_of_pytorch() {
    for isa in Isa::available() {
        let grad = |op, x: &[f32]| {
            let mut dx = vec![f32::NAN; x.len()];
            unary_grad(isa, op, x, &vec![1.0; x.len()], &mut dx);
            dx
        };
        let infinity = f32::INFINITY;
        assert_eq!(grad(Unary::Relu, &[0.0, -0.0, 1e-30, infinity]), [0.0, 0.0, 1.0, 1.0], "{isa}");
        let relu6 = Unary::Clip(Clip { min: 0.0, max: 6.0 });
        assert_eq!(
            grad(relu6, &[0.0, 1e-30, 5.999, 6.0, 7.0, -1.0]),
            [0.0, 1.0, 1.0, 0.0, 0.0, 0.0],
            "{isa}"
        );
        assert_eq!(grad(Unary::HardSwish, &[-3.0, 3.0, -9.0, 9.0]), [0.0, 1.0, 0.0, 1.0], "{isa}");
        assert!(grad(Unary::Relu, &[f32::NAN])[0] == 1.0 && grad(relu6, &[f32::NAN])[0] == 1.0, "{isa}");
    }
}

#[test]
fn a_nan_stays_a_nan() {
    for (isa, op) in Isa::available().into_iter().flat_map(|isa| Unary::ALL.iter().map(move |&op| (isa, op)))
    {
        let mut y = [f32::NAN; 17];
        unary_in_place(isa, op, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{isa} {op:?}");
    }
}

proptest! {
    #[test]
    fn two_operands(len in 0usize..100) {
        let (a, b) = (normals(1, len), normals(2, len));
        for (isa, op) in Isa::available().into_iter().flat_map(|isa| {
            Binary::ALL.iter().map(move |&op| (isa, op))
        }) {
            // A power of what is below 0 is a NaN.
            let a: Vec<f32> = a.iter().map(|x| if op == Binary::Pow { x.abs() } else { *x }).collect();
            let expected: Vec<f32> = a.iter().zip(&b).map(|(&a, &b)| scalar(op, a, b)).collect();
            let mut y = vec![f32::NAN; len];
            binary(isa, op, &a, &b, &mut y);
            prop_assert_eq!(&y, &expected);
            y.copy_from_slice(&a);
            binary_in_place(isa, op, &mut y, &b);
            prop_assert_eq!(&y, &expected);
        }
    }

    #[test]
    fn activations_after_an_addition(len in 1usize..100) {
        let (a, b) = (normals(1, len), normals(2, len));
        let clip = Activation::Clip { min: -0.5, max: 0.75 };
        for (isa, act) in Isa::available().into_iter().flat_map(|isa| {
            [Activation::None, Activation::Relu, clip].map(|act| (isa, act))
        }) {
            let (low, high) = act.bounds();
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b).clamp(low, high)).collect();
            let mut z = vec![f32::NAN; len];
            add_activation(isa, &a, &b, act, &mut z);
            prop_assert_eq!(&z, &expected);
            let mut in_place = a.clone();
            add_activation_in_place(isa, &mut in_place, &b, act);
            prop_assert_eq!(&in_place, &expected);
        }
    }

    #[test]
    fn rows_and_their_sums(groups in 1usize..4, rows in 1usize..200, channels in 1usize..40) {
        let x = normals(1, groups * rows * channels);
        let p = normals(2, groups * channels);
        let at = |i: usize| i / (rows * channels) * channels + i % channels;
        let (mut sums, mut products) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for (i, &x) in x.iter().enumerate() {
            sums[at(i)] += f64::from(x);
            products[at(i)] += f64::from(x) * f64::from(x);
        }
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; x.len()];
            binary_rows(isa, Binary::Mul, &x, &p, groups, &mut y);
            let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * p[at(i)]).collect();
            prop_assert_eq!(&y, &expected);
            // The terms are about 1, so that rounding errors grow with the root of their number.
            let tolerance = 1e-6 * (rows as f64).sqrt();
            let mut out = vec![f32::NAN; p.len()];
            sum_to_rows(isa, &x, groups, &mut out);
            assert_close("sums", &out, &sums, tolerance);
            sum_products_to_rows(isa, &x, &x, groups, &mut out);
            assert_close("products", &out, &products, tolerance);
        }
    }

    #[test]
    fn broadcasting_is_that_of_numpy(
        shape in prop::collection::vec(1usize..4, 1..5), ones in prop::array::uniform8(any::<bool>()), drop in 0usize..4,
    ) {
        let narrow = |ones: &[bool], drop: usize| -> Vec<usize> {
            let kept = shape.iter().zip(ones).map(|(&size, &one)| if one { 1 } else { size });
            kept.skip(drop.min(shape.len())).collect()
        };
        let (a_shape, b_shape) = (narrow(&ones[..4], 0), narrow(&ones[4..], drop));
        let len = |shape: &[usize]| shape.iter().product::<usize>();
        let (a, b) = (normals(1, len(&a_shape)), normals(2, len(&b_shape)));
        let mut y = vec![f32::NAN; len(&shape)];
        for isa in Isa::available() {
            y.fill(f32::NAN);
            broadcast_binary(isa, Binary::Sub, (&a, &a_shape), (&b, &b_shape), &shape, &mut y);
        }

        // The offset of the element of `of` that element `i` of the result comes from.
        let source = |of: &[usize], mut i: usize| {
            let (mut offset, mut stride) = (0, 1);
            for axis in 1..=shape.len() {
                let index = i % shape[shape.len() - axis];
                i /= shape[shape.len() - axis];
                if axis <= of.len() {
                    let size = of[of.len() - axis];
                    offset += index % size * stride;
                    stride *= size;
                }
            }
            offset
        };
        let mut sums = vec![0.0; b.len()];
        for (i, &y) in y.iter().enumerate() {
            prop_assert_eq!(y, a[source(&a_shape, i)] - b[source(&b_shape, i)]);
            sums[source(&b_shape, i)] += f64::from(y);
        }
        let mut db = vec![f32::NAN; b.len()];
        sum_to_shape(Isa::PORTABLE, &y, &shape, &b_shape, &mut db);
        assert_close("sum_to_shape", &db, &sums, 1e-6);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = normals(1, 3000 * 24);
    for isa in Isa::available() {
        assert_same_on_any_threads("sum_to_rows", || {
            let mut out = vec![0.0; 24];
            sum_to_rows(isa, &x, 1, &mut out);
            out
        });
        assert_same_on_any_threads("silu", || {
            let mut out = vec![0.0; x.len()];
            unary(isa, Unary::Silu, &x, &mut out);
            out
        });
    }
}
