use super::super::Activation;
use super::super::simd::Isa;
use super::super::testing::{assert_close, assert_same_on_any_threads, normals};
use super::*;
use proptest::prelude::*;

/// Calls `visit(y, w, x)` with the offsets of every product of the convolution; `w` is OIHW.
fn for_products(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let [kh, kw] = s.kernel;
    for n in 0..s.batch {
        for (oh, ow) in (0..s.out_h).flat_map(|h| (0..s.out_w).map(move |w| (h, w))) {
            for (r, q) in (0..kh).flat_map(|r| (0..kw).map(move |q| (r, q))) {
                let ih = (oh * s.strides[0] + r * s.dilations[0]).wrapping_sub(s.pads[0]);
                let iw = (ow * s.strides[1] + q * s.dilations[1]).wrapping_sub(s.pads[1]);
                if ih >= s.in_h || iw >= s.in_w {
                    continue;
                }
                for c in 0..s.in_c {
                    let y = ((n * s.out_h + oh) * s.out_w + ow) * s.in_c + c;
                    let x = ((n * s.in_h + ih) * s.in_w + iw) * s.in_c + c;
                    visit(y, (c * kh + r) * kw + q, x);
                }
            }
        }
    }
}

struct Case {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    packed: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

fn case(shape: ConvShape) -> Case {
    let w = normals(2, taps(&shape) * shape.in_c);
    let mut packed = vec![0.0; w.len()];
    pack(&shape, &w, &mut packed);
    Case {
        x: normals(1, shape.batch * shape.in_h * shape.in_w * shape.in_c),
        w,
        packed,
        bias: normals(3, shape.in_c),
        dy: normals(4, shape.batch * shape.out_h * shape.out_w * shape.in_c),
        shape,
    }
}

impl Case {
    fn forward(&self, isa: Isa, bias: Option<&[f32]>, activation: Activation) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.dy.len()];
        forward(isa, &self.shape, &self.x, &self.packed, bias, (activation, None), &mut y);
        y
    }

    fn input_grad(&self, isa: Isa) -> Vec<f32> {
        let mut dx = vec![f32::NAN; self.x.len()];
        input_grad(isa, &self.shape, &self.dy, &self.packed, &mut dx);
        dx
    }

    fn weight_grad(&self, isa: Isa) -> Vec<f32> {
        let mut dw = vec![f32::NAN; self.w.len()];
        weight_grad(isa, &self.shape, &self.x, &self.dy, &mut dw);
        dw
    }
}

fn check_against_reference(shape: ConvShape) {
    let case = case(shape);
    let (mut y, mut dx, mut dw) =
        (vec![0.0; case.dy.len()], vec![0.0; case.x.len()], vec![0.0; case.w.len()]);
    for_products(&shape, |at_y, at_w, at_x| {
        let (x, w, dy) = (f64::from(case.x[at_x]), f64::from(case.w[at_w]), f64::from(case.dy[at_y]));
        y[at_y] += x * w;
        dx[at_x] += dy * w;
        dw[at_w] += x * dy;
    });
    let clipped: Vec<f64> = y
        .iter()
        .enumerate()
        .map(|(i, y)| (y + f64::from(case.bias[i % shape.in_c])).clamp(-0.5, 1.5))
        .collect();
    for isa in Isa::available() {
        let clip = Activation::Clip { min: -0.5, max: 1.5 };
        assert_close(&format!("{isa} y"), &case.forward(isa, None, Activation::None), &y, 1e-5);
        assert_close(&format!("{isa} clipped"), &case.forward(isa, Some(&case.bias), clip), &clipped, 1e-5);
        assert_close(&format!("{isa} dx"), &case.input_grad(isa), &dx, 1e-5);
        assert_close(&format!("{isa} dw"), &case.weight_grad(isa), &dw, 3e-5);
    }
}

fn size(len: usize, stride: usize, pads: usize, dilation: usize, kernel: usize) -> Option<usize> {
    Some((len + pads).checked_sub((kernel - 1) * dilation + 1)? / stride + 1)
}

fn square(batch: usize, side: usize, channels: usize, kernel: usize, stride: usize) -> ConvShape {
    let pad = kernel / 2;
    let out = size(side, stride, 2 * pad, 1, kernel).unwrap();
    ConvShape {
        batch,
        in_h: side,
        in_w: side,
        in_c: channels,
        out_h: out,
        out_w: out,
        out_c: channels,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [pad; 4],
        dilations: [1; 2],
        groups: channels,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn fast_paths_agree_with_the_definition(
        batch in 1usize..3, in_h in 1usize..15, in_w in 1usize..23, channels in 1usize..40,
        large: bool, stride in 1usize..3, pads in prop::array::uniform4(0usize..4),
    ) {
        let kernel = if large { 5 } else { 3 };
        let out_h = size(in_h, stride, pads[0] + pads[2], 1, kernel);
        let out_w = size(in_w, stride, pads[1] + pads[3], 1, kernel);
        prop_assume!(out_h.is_some() && out_w.is_some());
        let shape = ConvShape {
            in_h, in_w, out_h: out_h.unwrap(), out_w: out_w.unwrap(), pads,
            ..square(batch, 8, channels, kernel, stride)
        };
        check_against_reference(shape);
    }

    #[test]
    fn any_window_agrees_with_the_definition(
        batch in 1usize..3, in_h in 1usize..12, in_w in 1usize..12, channels in 1usize..20,
        kernel in prop::array::uniform2(1usize..8), strides in prop::array::uniform2(1usize..4),
        pads in prop::array::uniform4(0usize..4), dilations in prop::array::uniform2(1usize..3),
    ) {
        let out_h = size(in_h, strides[0], pads[0] + pads[2], dilations[0], kernel[0]);
        let out_w = size(in_w, strides[1], pads[1] + pads[3], dilations[1], kernel[1]);
        prop_assume!(out_h.is_some() && out_w.is_some());
        check_against_reference(ConvShape {
            in_h, in_w, out_h: out_h.unwrap(), out_w: out_w.unwrap(), kernel, strides, pads, dilations,
            ..square(batch, 8, channels, 3, 1)
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (kernel, stride) in [(3, 1), (3, 2), (5, 1)] {
        let case = case(square(3, 28, 40, kernel, stride));
        for isa in Isa::available() {
            assert_same_on_any_threads("y", || case.forward(isa, Some(&case.bias), Activation::Relu));
            assert_same_on_any_threads("dx", || case.input_grad(isa));
            assert_same_on_any_threads("dw", || case.weight_grad(isa));
        }
    }
}

#[test]
fn a_picture_is_the_same_anywhere_in_a_batch() {
    let three = case(square(3, 14, 24, 3, 1));
    let mut alone = case(square(1, 14, 24, 3, 1));
    for isa in Isa::available() {
        let all = three.forward(isa, None, Activation::None);
        for n in 0..3 {
            let len = alone.x.len();
            alone.x.copy_from_slice(&three.x[n * len..(n + 1) * len]);
            assert_eq!(alone.forward(isa, None, Activation::None), all[n * len..(n + 1) * len]);
        }
    }
}
