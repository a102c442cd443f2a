//! Winograd's convolutions against a direct sum in f64, alone and in batches, on any number of threads.

use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::{Activation, ConvShape};
use offshoot_graph::DType;
use offshoot_graph::random::{Purpose, Random};

/// Largest error, of the largest output. A plain sum in f32 has up to 2e-6 with as many channels.
const TOLERANCE: f64 = 1e-5;

fn normals(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    (0..len).map(|_| random.normal()).collect()
}

/// A 3x3 convolution that keeps the size.
fn shape(batch: usize, [h, w]: [usize; 2], [in_c, out_c]: [usize; 2]) -> ConvShape {
    ConvShape {
        batch,
        in_h: h,
        in_w: w,
        in_c,
        out_h: h,
        out_w: w,
        out_c,
        kernel: [3, 3],
        strides: [1, 1],
        pads: [1; 4],
        dilations: [1, 1],
        groups: 1,
    }
}

/// Whole and cut tiles, narrow last panels, blocks of more tiles than one, and depths of two parts.
fn shapes() -> Vec<ConvShape> {
    let uneven = ConvShape { pads: [2, 0, 0, 2], ..shape(1, [9, 12], [64, 64]) };
    vec![
        shape(2, [7, 7], [64, 80]),
        shape(1, [14, 14], [80, 96]),
        shape(2, [3, 16], [112, 64]),
        shape(3, [28, 20], [64, 64]),
        shape(1, [4, 4], [512, 64]),
        shape(1, [6, 8], [64, 400]),
        uneven,
        shape(2, [8, 9], [16, 16]),
        shape(1, [12, 8], [16, 48]),
        ConvShape { groups: 3, ..shape(2, [14, 9], [96, 48]) },
        ConvShape { groups: 2, ..shape(1, [8, 8], [800, 64]) },
    ]
}

struct Case {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    /// A gradient, or a residual.
    dy: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(shape: ConvShape) -> Case {
        assert!(
            PackedFilter::is_for_winograd(Isa::PORTABLE, DType::F32, &shape),
            "{shape:?} is for another test"
        );
        let pixels = shape.batch * shape.in_h * shape.in_w;
        Case {
            x: normals(pixels * shape.in_c, 1),
            w: normals(shape.out_c * (shape.in_c / shape.groups) * 9, 2),
            dy: normals(pixels * shape.out_c, 3),
            bias: normals(shape.out_c, 4),
            shape,
        }
    }

    fn forward(&self, isa: Isa, epilogue: &Epilogue<'_>) -> Vec<f32> {
        let mut filter = PackedFilter::new();
        filter.pack(isa, &self.shape, &self.w);
        let mut y = vec![f32::NAN; self.dy.len()];
        conv(isa, &self.shape, &self.x, &filter, epilogue, &mut y);
        y
    }

    fn everything(&self) -> Epilogue<'_> {
        let activation = Activation::Clip { min: -20.0, max: 30.0 };
        Epilogue { bias: Some(&self.bias), residual: Some(&self.dy), activation, then: None }
    }

    fn input_grad(&self, isa: Isa) -> Vec<f32> {
        let mut filter = PackedFilter::new();
        filter.pack_for_input_grad(isa, &self.shape, &self.w);
        let mut dx = vec![f32::NAN; self.x.len()];
        conv_input_grad(isa, &self.shape, &self.dy, &filter, &mut dx);
        dx
    }

    /// The output and the gradient of the input as direct sums.
    fn direct(&self) -> [Vec<f64>; 2] {
        let s = &self.shape;
        let (mut y, mut dx) = (vec![0.0; self.dy.len()], vec![0.0; self.x.len()]);
        let pixels = (0..s.batch * s.out_h).flat_map(|row| (0..s.out_w).map(move |x| (row, x)));
        for (row, ox) in pixels {
            let (image, oy) = (row / s.out_h, row % s.out_h);
            for tap in 0..9 {
                let (iy, ix) =
                    ((oy + tap / 3).wrapping_sub(s.pads[0]), (ox + tap % 3).wrapping_sub(s.pads[1]));
                if iy >= s.in_h || ix >= s.in_w {
                    continue;
                }
                let (from, to) =
                    (((image * s.in_h + iy) * s.in_w + ix) * s.in_c, (row * s.out_w + ox) * s.out_c);
                let (depth, cols) = (s.in_c / s.groups, s.out_c / s.groups);
                for (k, c) in (0..s.out_c).flat_map(|k| (0..depth).map(move |c| (k, c))) {
                    let w = f64::from(self.w[(k * depth + c) * 9 + tap]);
                    let from = from + k / cols * depth + c;
                    y[to + k] += f64::from(self.x[from]) * w;
                    dx[from] += f64::from(self.dy[to + k]) * w;
                }
            }
        }
        [y, dx]
    }
}

/// Compares with `expected`; errors are those of `sums`, before anything was added or clipped.
#[track_caller]
fn close(actual: &[f32], expected: &[f64], sums: &[f64], what: &str) {
    let largest = sums.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs();
        assert!(error <= TOLERANCE * largest, "{what}: element {i} is {a}, expected {e}, largest {largest}");
    }
}

#[test]
fn agrees_with_direct_sums() {
    for shape in shapes() {
        let case = Case::new(shape);
        let [y, dx] = case.direct();
        let channels = case.bias.iter().cycle();
        let all: Vec<f64> = (y.iter().zip(channels).zip(&case.dy))
            .map(|((y, &bias), &residual)| (y + f64::from(bias) + f64::from(residual)).clamp(-20.0, 30.0))
            .collect();
        for isa in Isa::available() {
            close(&case.forward(isa, &Epilogue::NONE), &y, &y, &format!("{shape:?} on {isa}"));
            close(
                &case.forward(isa, &case.everything()),
                &all,
                &y,
                &format!("epilogue of {shape:?} on {isa}"),
            );
            close(&case.input_grad(isa), &dx, &dx, &format!("input gradient of {shape:?} on {isa}"));
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for shape in shapes() {
        let case = Case::new(shape);
        for isa in Isa::available() {
            let all = |threads| {
                let run = || [case.forward(isa, &case.everything()), case.input_grad(isa)].concat();
                pool(threads).install(run).into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let one = all(1);
            assert!(one == all(2) && one == all(3), "{shape:?} on {isa}");
        }
    }
}

#[test]
fn a_picture_gives_the_same_bits_alone() {
    for shape in shapes() {
        let case = Case::new(ConvShape { batch: 5, ..shape });
        let last = |all: &[f32]| all[all.len() / 5 * 4..].to_vec();
        let alone = Case {
            x: last(&case.x),
            dy: last(&case.dy),
            w: case.w.clone(),
            bias: case.bias.clone(),
            shape: ConvShape { batch: 1, ..shape },
        };
        for isa in Isa::available() {
            let (all, one) = (case.forward(isa, &case.everything()), alone.forward(isa, &alone.everything()));
            assert_eq!(last(&all), one, "{shape:?} on {isa}");
            assert_eq!(last(&case.input_grad(isa)), alone.input_grad(isa), "gradient, {shape:?} on {isa}");
        }
    }
}

#[test]
fn an_empty_batch_gives_nothing() {
    let case = Case::new(shape(0, [8, 8], [64, 64]));
    for isa in Isa::available() {
        assert!(case.forward(isa, &case.everything()).is_empty());
        assert!(case.input_grad(isa).is_empty());
    }
}

#[test]
fn the_rest_is_left_to_plain_products() {
    let usual = shape(1, [14, 14], [64, 64]);
    let others = [
        ConvShape { in_h: 28, in_w: 28, strides: [2, 2], ..usual },
        ConvShape { pads: [2; 4], dilations: [2, 2], ..usual },
        ConvShape { groups: 8, ..usual },
        ConvShape { kernel: [5, 5], pads: [2; 4], ..usual },
        shape(1, [14, 14], [72, 64]),
        shape(1, [14, 14], [64, 24]),
        shape(1, [14, 14], [3, 64]),
        shape(1, [5, 5], [64, 64]),
        shape(1, [2, 2], [64, 64]),
    ];
    assert!(PackedFilter::is_for_winograd(Isa::PORTABLE, DType::F32, &usual));
    for other in others {
        assert!(!PackedFilter::is_for_winograd(Isa::PORTABLE, DType::F32, &other), "{other:?}");
    }
}
