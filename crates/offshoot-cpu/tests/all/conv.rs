//! Convolutions against a direct sum in f64, on every SIMD path, and across numbers of threads.

use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::{Activation, ConvShape};
use proptest::prelude::*;

/// Calls `visit(x index, weight index, y index)` for every product of the convolution.
fn products(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let (depth, cols) = (s.in_c / s.groups, s.out_c / s.groups);
    for n in 0..s.batch {
        for (oy, ox) in (0..s.out_h).flat_map(|y| (0..s.out_w).map(move |x| (y, x))) {
            for (r, t) in (0..s.kernel[0]).flat_map(|r| (0..s.kernel[1]).map(move |t| (r, t))) {
                let iy = (oy * s.strides[0] + r * s.dilations[0]) as isize - s.pads[0] as isize;
                let ix = (ox * s.strides[1] + t * s.dilations[1]) as isize - s.pads[1] as isize;
                if iy < 0 || ix < 0 || iy >= s.in_h as isize || ix >= s.in_w as isize {
                    continue;
                }
                let x = ((n * s.in_h + iy as usize) * s.in_w + ix as usize) * s.in_c;
                let y = ((n * s.out_h + oy) * s.out_w + ox) * s.out_c;
                for k in 0..s.out_c {
                    for c in 0..depth {
                        let w = ((k * depth + c) * s.kernel[0] + r) * s.kernel[1] + t;
                        visit(x + k / cols * depth + c, w, y + k);
                    }
                }
            }
        }
    }
}

/// Reproducible values in [-1, 1).
fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    y_like: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(shape: ConvShape) -> Case {
        let s = &shape;
        let y_len = s.batch * s.out_h * s.out_w * s.out_c;
        Case {
            x: values(s.batch * s.in_h * s.in_w * s.in_c, 1),
            w: values(s.out_c * (s.in_c / s.groups) * s.kernel[0] * s.kernel[1], 2),
            y_like: values(y_len, 3),
            bias: values(s.out_c, 4),
            shape,
        }
    }

    fn forward(&self, isa: Isa, bias: bool, residual: bool, activation: Activation) -> Vec<f32> {
        let mut filter = PackedFilter::new();
        filter.pack(isa, &self.shape, &self.w);
        let mut y = vec![f32::NAN; self.y_like.len()];
        let bias = bias.then_some(self.bias.as_slice());
        let residual = residual.then_some(self.y_like.as_slice());
        conv(
            isa,
            &self.shape,
            &self.x,
            &filter,
            &Epilogue { bias, residual, activation, then: None },
            &mut y,
        );
        y
    }

    fn input_grad(&self, isa: Isa) -> Vec<f32> {
        let mut filter = PackedFilter::new();
        filter.pack_for_input_grad(isa, &self.shape, &self.w);
        let mut dx = vec![f32::NAN; self.x.len()];
        conv_input_grad(isa, &self.shape, &self.y_like, &filter, &mut dx);
        dx
    }

    fn weight_grad(&self, isa: Isa) -> Vec<f32> {
        let mut workspace = vec![f32::NAN; conv_weight_grad_workspace(isa, &self.shape)];
        let mut dw = vec![f32::NAN; self.w.len()];
        conv_weight_grad(isa, &self.shape, &self.x, &self.y_like, &mut dw, &mut workspace);
        dw
    }

    fn all(&self, isa: Isa) -> [Vec<f32>; 3] {
        let clip = Activation::Clip { min: -0.5, max: 2.0 };
        [self.forward(isa, true, true, clip), self.input_grad(isa), self.weight_grad(isa)]
    }

    /// Compares everything with the direct sums; rounding may differ by the number of terms.
    fn check(&self) {
        let mut y = vec![Sum::default(); self.y_like.len()];
        let mut dx = vec![Sum::default(); self.x.len()];
        let mut dw = vec![Sum::default(); self.w.len()];
        products(&self.shape, |xi, wi, yi| {
            y[yi].add(self.x[xi], self.w[wi]);
            dx[xi].add(self.y_like[yi], self.w[wi]);
            dw[wi].add(self.y_like[yi], self.x[xi]);
        });
        for isa in Isa::available() {
            let shape = &self.shape;
            let what = |name: &str| format!("{name} of {shape:?} on {isa}");
            close(&self.input_grad(isa), &dx, |_, sum| sum, &what("input gradient"));
            close(&self.weight_grad(isa), &dw, |_, sum| sum, &what("weight gradient"));
            close(&self.forward(isa, false, false, Activation::None), &y, |_, sum| sum, &what("plain"));
            let bias = |i: usize| f64::from(self.bias[i % shape.out_c]);
            let relu = self.forward(isa, true, false, Activation::Relu);
            close(&relu, &y, |i, sum| (sum + bias(i)).max(0.0), &what("bias and ReLU"));
            let clip = self.forward(isa, true, true, Activation::Clip { min: -0.5, max: 2.0 });
            let expected = |i: usize, sum: f64| (sum + bias(i) + f64::from(self.y_like[i])).clamp(-0.5, 2.0);
            close(&clip, &y, expected, &what("residual and clip"));
        }
    }
}

/// A sum of products, and of their sizes, from which the rounding error of any order is bounded.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let product = f64::from(a) * f64::from(b);
        self.value += product;
        self.size += product.abs();
    }
}

fn close(actual: &[f32], sums: &[Sum], expected: impl Fn(usize, f64) -> f64, what: &str) {
    for (i, (&actual, sum)) in actual.iter().zip(sums).enumerate() {
        let expected = expected(i, sum.value);
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= 2e-6 * (sum.size + 3.0), "{what}: element {i} is {actual}, expected {expected}");
    }
}

/// A shape with the output size that follows from the rest, if the kernel fits.
fn shape(
    input: [usize; 4],
    out_c: usize,
    kernel: [usize; 2],
    rest: ([usize; 2], [usize; 4], [usize; 2], usize),
) -> Option<ConvShape> {
    let ([batch, in_h, in_w, in_c], (strides, pads, dilations, groups)) = (input, rest);
    let out = |size: usize, axis: usize| {
        let span = dilations[axis] * (kernel[axis] - 1) + 1;
        Some((size + pads[axis] + pads[axis + 2]).checked_sub(span)? / strides[axis] + 1)
    };
    let (out_h, out_w) = (out(in_h, 0)?, out(in_w, 1)?);
    Some(ConvShape { batch, in_h, in_w, in_c, out_h, out_w, out_c, kernel, strides, pads, dilations, groups })
}

fn shapes() -> impl Strategy<Value = ConvShape> {
    let two = |most| [1..=most, 1..=most];
    let sizes = (1..=3usize, 1..=13usize, 1..=13usize, 1..=4usize);
    let channels = (1..=70usize, 1..=70usize);
    let rest = (two(4usize), two(3usize), [0..=3usize, 0..=3, 0..=3, 0..=3], two(2usize));
    (sizes, channels, rest).prop_filter_map(
        "the kernel fits",
        |((batch, h, w, groups), (in_c, out_c), (kernel, strides, pads, dilations))| {
            let groups = [1, 1, 2, 3, 6][groups];
            let whole = |channels: usize| channels.next_multiple_of(groups);
            // (Groups that give as many channels as they take have a kernel of their own.)
            let out_c = if groups > 1 && out_c % 2 == 0 { in_c } else { out_c };
            shape([batch, h, w, whole(in_c)], whole(out_c), kernel, (strides, pads, dilations, groups))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn agrees_with_direct_sums(shape in shapes()) {
        Case::new(shape).check();
    }
}

/// Shapes with more than one block of pixels, part of the reduction or chunk, and a stem.
fn larger() -> Vec<ConvShape> {
    let square = |c, size, k, kernel, stride, pad, groups| {
        shape([2, size, size, c], k, [kernel; 2], ([stride; 2], [pad; 4], [1, 1], groups))
            .expect("the kernel fits")
    };
    vec![
        square(3, 45, 40, 7, 2, 3, 1),
        square(3, 33, 32, 3, 2, 1, 1),
        square(130, 14, 130, 3, 1, 1, 1),
        square(96, 15, 80, 3, 2, 1, 1),
        square(400, 9, 64, 1, 2, 0, 1),
        square(24, 30, 144, 1, 1, 0, 1),
        square(128, 12, 256, 3, 1, 1, 32),
        // As many channels out of a group as into it: 2, 3, 4, 5, 8, 12 and 16.
        square(32, 9, 32, 1, 1, 0, 16),
        square(36, 11, 36, 3, 1, 1, 12),
        square(64, 13, 64, 3, 2, 1, 16),
        square(40, 10, 40, 3, 1, 1, 8),
        square(48, 15, 48, 3, 1, 1, 6),
        square(60, 9, 60, 5, 1, 2, 5),
        square(32, 12, 32, 3, 2, 1, 2),
    ]
}

#[test]
fn larger_shapes_agree_with_direct_sums() {
    for shape in larger() {
        Case::new(shape).check();
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for shape in larger() {
        let case = Case::new(shape);
        for isa in Isa::available() {
            let one = pool(1).install(|| case.all(isa));
            for threads in [2, 3] {
                let more = pool(threads).install(|| case.all(isa));
                let bits =
                    |all: &[Vec<f32>; 3]| all.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&one), bits(&more), "{shape:?} on {isa} with {threads} threads");
            }
        }
    }
}

#[test]
fn a_picture_gives_the_same_bits_alone() {
    for shape in larger() {
        let case = Case::new(shape);
        let alone = Case::new(ConvShape { batch: 1, ..shape });
        for isa in Isa::available() {
            let both = case.forward(isa, true, false, Activation::Relu);
            let one = Case { x: case.x[case.x.len() / 2..].to_vec(), ..Case::new(alone.shape) };
            let one = one.forward(isa, true, false, Activation::Relu);
            assert_eq!(both[both.len() / 2..], one, "{shape:?} on {isa}");
        }
    }
}

#[test]
fn nan_passes_through_the_activation() {
    let shape = shape([1, 4, 4, 8], 8, [1, 1], ([1, 1], [0; 4], [1, 1], 1)).unwrap();
    let mut case = Case::new(shape);
    case.x.fill(f32::NAN);
    for isa in Isa::available() {
        assert!(case.forward(isa, true, true, Activation::Relu).iter().all(|y| y.is_nan()), "{isa}");
    }
}

#[test]
fn nan_stays_in_its_group() {
    for per_group in [2, 3, 4, 8, 16] {
        let groups = 4;
        let channels = groups * per_group;
        let shape = shape([1, 5, 5, channels], channels, [3, 3], ([1, 1], [1; 4], [1, 1], groups)).unwrap();
        let mut case = Case::new(shape);
        case.x[12 * channels + per_group] = f32::NAN;
        for isa in Isa::available() {
            let y = case.forward(isa, false, false, Activation::None);
            for (i, y) in y.iter().enumerate() {
                let (row, column) = (i / channels / 5, i / channels % 5);
                let near = (1..4).contains(&row) && (1..4).contains(&column);
                let hit = near && i % channels / per_group == 1;
                assert_eq!(y.is_nan(), hit, "{isa}, {per_group} channels a group: element {i}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "packed for another")]
fn a_filter_for_another_shape_is_refused() {
    let one = shape([1, 4, 4, 8], 8, [1, 1], ([1, 1], [0; 4], [1, 1], 1)).unwrap();
    let case = Case::new(shape([1, 4, 4, 8], 8, [3, 3], ([1, 1], [1; 4], [1, 1], 1)).unwrap());
    let mut filter = PackedFilter::new();
    filter.pack(Isa::PORTABLE, &one, &values(64, 5));
    let mut y = vec![0.0; case.y_like.len()];
    conv(Isa::PORTABLE, &case.shape, &case.x, &filter, &Epilogue::NONE, &mut y);
}
