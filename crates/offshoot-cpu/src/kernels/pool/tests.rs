use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
use super::*;
use proptest::prelude::*;

/// The input elements in the window of output (n, oh, ow) at channel c, in row order, and the divisor with padding.
fn window(s: &PoolShape, n: usize, (oh, ow): (usize, usize), c: usize) -> (Vec<usize>, usize) {
    let (mut elements, mut padded) = (vec![], 0);
    for (r, q) in (0..s.kernel[0]).flat_map(|r| (0..s.kernel[1]).map(move |q| (r, q))) {
        let h = (oh * s.strides[0] + r * s.dilations[0]) as i64 - s.pads[0] as i64;
        let w = (ow * s.strides[1] + q * s.dilations[1]) as i64 - s.pads[1] as i64;
        if h < (s.in_h + s.pads[2]) as i64 && w < (s.in_w + s.pads[3]) as i64 {
            padded += 1;
        }
        if (0..s.in_h as i64).contains(&h) && (0..s.in_w as i64).contains(&w) {
            elements.push(((n * s.in_h + h as usize) * s.in_w + w as usize) * s.channels + c);
        }
    }
    (elements, padded)
}

/// (y, dx) by the definition.
fn reference(kind: Pool, s: &PoolShape, x: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
    for (i, y) in y.iter_mut().enumerate() {
        let (c, ow) = (i % s.channels, i / s.channels % s.out_w);
        let (oh, n) = (i / s.channels / s.out_w % s.out_h, i / s.channels / s.out_w / s.out_h);
        let (elements, padded) = window(s, n, (oh, ow), c);
        let dy = f64::from(dy[i]);
        match kind {
            Pool::Max => {
                let mut best = elements[0];
                for &e in &elements {
                    if x[e] > x[best] || x[e].is_nan() {
                        best = e;
                    }
                }
                *y = f64::from(x[best]);
                dx[best] += dy;
            }
            Pool::Average { count_include_pad } => {
                let count = if count_include_pad { padded } else { elements.len() } as f64;
                *y = elements.iter().map(|&e| f64::from(x[e])).sum::<f64>() / count;
                elements.iter().for_each(|&e| dx[e] += dy / count);
            }
        }
    }
    (y, dx)
}

fn check(kind: Pool, s: &PoolShape, x: &[f32]) {
    let dy = normals(2, s.batch * s.out_h * s.out_w * s.channels);
    let (expected_y, expected_dx) = reference(kind, s, x, &dy);
    for isa in Isa::available() {
        let (mut y, mut dx) = (vec![-7.0; dy.len()], vec![-7.0; x.len()]);
        pool(isa, kind, s, x, &mut y);
        pool_grad(isa, kind, s, x, &dy, &mut dx);
        assert_close(&format!("{isa} {kind:?} y"), &y, &expected_y, 1e-6);
        assert_close(&format!("{isa} {kind:?} dx"), &dx, &expected_dx, 3e-6);
    }
}

const KINDS: [Pool; 3] =
    [Pool::Max, Pool::Average { count_include_pad: false }, Pool::Average { count_include_pad: true }];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pools_agree_with_their_definitions(
        batch in 1usize..3, in_h in 1usize..40, in_w in 1usize..12, channels in 1usize..35,
        kernel in prop::array::uniform2(1usize..5), strides in prop::array::uniform2(1usize..4),
        pads in prop::array::uniform4(0usize..3), dilated: bool, ceil: bool, ties: bool, nans: bool,
    ) {
        let dilations = if dilated { [2, 1] } else { [1, 1] };
        let out = |axis: usize, len: usize| {
            let room = (len + pads[axis] + pads[axis + 2]).checked_sub((kernel[axis] - 1) * dilations[axis] + 1)?;
            let size = if ceil { room.div_ceil(strides[axis]) } else { room / strides[axis] } + 1;
            // PyTorch drops a window that starts in the padding at the end.
            Some(if (size - 1) * strides[axis] >= len + pads[axis] { size - 1 } else { size })
        };
        let (out_h, out_w) = (out(0, in_h), out(1, in_w));
        prop_assume!((0..2).all(|axis| pads[axis].max(pads[axis + 2]) * 2 <= kernel[axis]));
        prop_assume!(out_h.is_some_and(|h| h > 0) && out_w.is_some_and(|w| w > 0));
        let (out_h, out_w) = (out_h.unwrap(), out_w.unwrap());
        let s = PoolShape { batch, in_h, in_w, channels, out_h, out_w, kernel, strides, pads, dilations };
        let all = (0..out_h).flat_map(|h| (0..out_w).map(move |w| (h, w)));
        prop_assume!(all.into_iter().all(|at| !window(&s, 0, at, 0).0.is_empty()));
        let mut x = normals(1, batch * in_h * in_w * channels);
        if ties {
            x.iter_mut().for_each(|x| *x = x.round());
        }
        for kind in KINDS {
            check(kind, &s, &x);
        }
        if nans {
            x.iter_mut().step_by(5).for_each(|x| *x = f32::NAN);
            check(Pool::Max, &s, &x);
        }
    }

    #[test]
    fn global_average_is_the_mean(batch in 1usize..4, pixels in 1usize..90, channels in 1usize..50) {
        let x = normals(1, batch * pixels * channels);
        let dy = normals(2, batch * channels);
        let mut expected = vec![0.0; dy.len()];
        let mut expected_dx = vec![0.0; x.len()];
        for (i, &x) in x.iter().enumerate() {
            let to = i / (pixels * channels) * channels + i % channels;
            expected[to] += f64::from(x) / pixels as f64;
            expected_dx[i] = f64::from(dy[to]) / pixels as f64;
        }
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![-7.0; dy.len()], vec![-7.0; x.len()]);
            global_average(isa, batch, &x, &mut y);
            global_average_grad(isa, batch, &dy, &mut dx);
            assert_close("y", &y, &expected, 1e-6);
            assert_close("dx", &dx, &expected_dx, 1e-6);
        }
    }
}

#[test]
fn a_window_of_minus_infinity_passes_its_gradient_to_the_first() {
    let s = PoolShape {
        batch: 1,
        in_h: 2,
        in_w: 2,
        channels: 1,
        out_h: 1,
        out_w: 1,
        kernel: [2, 2],
        strides: [2, 2],
        pads: [0; 4],
        dilations: [1, 1],
    };
    for isa in Isa::available() {
        let mut dx = [7.0; 4];
        pool_grad(isa, Pool::Max, &s, &[f32::NEG_INFINITY; 4], &[3.0], &mut dx);
        assert_eq!(dx, [3.0, 0.0, 0.0, 0.0], "{isa}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let s = PoolShape {
        batch: 2,
        in_h: 56,
        in_w: 56,
        channels: 24,
        out_h: 28,
        out_w: 28,
        kernel: [3, 3],
        strides: [2, 2],
        pads: [1; 4],
        dilations: [1, 1],
    };
    let x = normals(1, 2 * 56 * 56 * 24);
    let dy = normals(2, 2 * 28 * 28 * 24);
    for kind in KINDS {
        assert_same_on_any_threads("pool", || {
            let mut y = vec![0.0; dy.len()];
            pool(Isa::best(), kind, &s, &x, &mut y);
            y
        });
        assert_same_on_any_threads("pool_grad", || {
            let mut dx = vec![0.0; x.len()];
            pool_grad(Isa::best(), kind, &s, &x, &dy, &mut dx);
            dx
        });
    }
}
