//! Kernels on bf16 and f16 compute what the f32 kernels do on the same numbers, and round it once.

use half::{bf16, f16};
use offshoot_cpu::kernels::batch_norm::{
    BatchNorm, Gate, batch_norm_apply, batch_norm_input_grad, batch_norm_reduce, batch_norm_stats,
};
use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use offshoot_cpu::kernels::convert::convert;
use offshoot_cpu::kernels::element::Element;
use offshoot_cpu::kernels::pool::{Pool, PoolShape, global_average, global_average_grad, pool, pool_grad};
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::{Activation, ConvShape, Place, depthwise};
use offshoot_graph::DType;
use offshoot_graph::random::{Purpose, Random};

fn normals<E: Element>(seed: u64, len: usize) -> Vec<E> {
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    (0..len).map(|_| E::from_f32(random.normal())).collect()
}

fn widened<E: Element>(x: &[E]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

fn rounded<E: Element>(isa: Isa, x: &[f32]) -> Vec<f32> {
    let mut to = vec![E::zeroed(); x.len()];
    convert(isa, x, &mut to);
    widened(&to)
}

#[track_caller]
fn assert_equal<E: Element>(what: &str, isa: Isa, half: &[E], wanted: &[f32]) {
    assert_eq!(widened(half), rounded::<E>(isa, wanted), "{what} in {:?} on {isa}", E::DTYPE);
}

/// Whether the path has instructions that multiply pairs of `E`: the same products, summed in another order.
fn sums_otherwise<E: Element>(isa: Isa) -> bool {
    ["avx512bf16", "amx", "emulated tiles"].contains(&isa.name()) && E::DTYPE == DType::BF16
}

#[track_caller]
fn assert_near(what: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    let difference = offshoot_testing::difference(found, wanted);
    assert!(difference <= f64::from(tolerance), "{what}: off by {difference} of the largest element");
}

#[track_caller]
fn assert_convolved<E: Element>(what: &str, isa: Isa, half: &[E], wanted: &[f32]) {
    if sums_otherwise::<E>(isa) {
        // A unit of the largest number, where a sum falls on the other side of the middle between two numbers.
        assert_near(what, &widened(half), &rounded::<E>(isa, wanted), 1.0 / 128.0);
    } else {
        assert_equal(what, isa, half, wanted);
    }
}

fn shape(in_c: usize, out_c: usize, size: usize, kernel: usize, stride: usize, groups: usize) -> ConvShape {
    let pad = kernel / 2;
    let out = (size + 2 * pad - kernel) / stride + 1;
    ConvShape {
        batch: 2,
        in_h: size,
        in_w: size,
        in_c,
        out_h: out,
        out_w: out,
        out_c,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [pad; 4],
        dilations: [1; 2],
        groups,
    }
}

/// One and several parts of the reduction, whole and broken panels, borders, strides, groups, Winograd's algorithm.
fn shapes() -> Vec<ConvShape> {
    vec![
        shape(64, 96, 6, 1, 1, 1),
        shape(800, 70, 5, 1, 1, 1),
        shape(800, 7, 5, 1, 1, 1),
        shape(3, 17, 11, 7, 2, 1),
        shape(130, 40, 9, 3, 2, 1),
        shape(64, 32, 9, 1, 2, 1),
        shape(33, 19, 5, 1, 1, 1),
        shape(45, 33, 7, 3, 1, 3),
        shape(24, 36, 7, 3, 1, 2),
        shape(48, 48, 7, 3, 1, 6),
        shape(36, 36, 6, 3, 2, 12),
        shape(32, 32, 9, 3, 2, 2),
        // Windows that tiles read in copied lines: rows of the kernel together, pixels apart, and channels in several parts; pictures
        // smaller and larger than a block, and another border on each side.
        shape(64, 80, 12, 3, 1, 1),
        shape(32, 40, 20, 5, 1, 1),
        shape(128, 32, 15, 3, 1, 1),
        shape(448, 16, 6, 3, 1, 1),
        ConvShape { kernel: [2, 4], pads: [0, 3, 2, 1], out_h: 10, out_w: 10, ..shape(32, 64, 9, 3, 1, 1) },
    ]
}

fn each_isa(check: impl Fn(Isa)) {
    Isa::available().into_iter().chain([Isa::EMULATED_TILES]).for_each(check);
}

fn convolutions_agree<E: Element>() {
    each_isa(|isa| {
        for shape in shapes() {
            let x: Vec<E> = normals(1, shape.batch * shape.in_h * shape.in_w * shape.in_c);
            let dy: Vec<E> = normals(2, shape.batch * shape.out_h * shape.out_w * shape.out_c);
            let w: Vec<E> =
                normals(3, shape.out_c * shape.in_c / shape.groups * shape.kernel[0] * shape.kernel[1]);
            let w = widened(&w);
            let bias: Vec<f32> = normals(4, shape.out_c);
            let (wide_x, wide_dy) = (widened(&x), widened(&dy));

            let [mut filter, mut wide_filter] = [(); 2].map(|()| PackedFilter::new());
            filter.set_element::<E>();
            filter.pack(isa, &shape, &w);
            wide_filter.pack(isa, &shape, &w);
            let (mut y, mut wide_y) = (vec![E::zeroed(); dy.len()], vec![0.0; dy.len()]);
            let activation = Activation::Clip { min: -1.0, max: 6.0 };
            let epilogue = Epilogue { bias: Some(&bias), residual: None, activation, then: None };
            conv(isa, &shape, &x, &filter, &epilogue, &mut y);
            let epilogue = Epilogue { bias: Some(&bias), residual: None, activation, then: None };
            conv(isa, &shape, &wide_x, &wide_filter, &epilogue, &mut wide_y);
            assert_convolved("a convolution", isa, &y, &wide_y);

            let epilogue = Epilogue { bias: None, residual: Some(&dy[..]), activation, then: None };
            conv(isa, &shape, &x, &filter, &epilogue, &mut y);
            conv(isa, &shape, &wide_x, &wide_filter, &Epilogue::NONE, &mut wide_y);
            let sums: Vec<f32> = wide_y.iter().zip(&wide_dy).map(|(y, r)| (y + r).clamp(-1.0, 6.0)).collect();
            assert_convolved("a convolution with a residual", isa, &y, &sums);

            filter.pack_for_input_grad(isa, &shape, &w);
            wide_filter.pack_for_input_grad(isa, &shape, &w);
            let (mut dx, mut wide_dx) = (vec![E::zeroed(); x.len()], vec![0.0; x.len()]);
            conv_input_grad(isa, &shape, &dy, &filter, &mut dx);
            conv_input_grad(isa, &shape, &wide_dy, &wide_filter, &mut wide_dx);
            assert_convolved("an input gradient", isa, &dx, &wide_dx);

            let mut workspace = vec![0.0; conv_weight_grad_workspace(isa, &shape)];
            let (mut dw, mut wide_dw) = (vec![0.0; w.len()], vec![0.0; w.len()]);
            conv_weight_grad(isa, &shape, &x, &dy, &mut dw, &mut workspace);
            conv_weight_grad(isa, &shape, &wide_x, &wide_dy, &mut wide_dw, &mut workspace);
            if sums_otherwise::<E>(isa) {
                assert_near("a weight gradient", &dw, &wide_dw, 1e-5);
            } else {
                assert_eq!(dw, wide_dw, "a weight gradient in {:?} on {isa}", E::DTYPE);
            }
        }
    });
}

#[test]
fn convolutions_of_bf16_agree() {
    convolutions_agree::<bf16>();
}

#[test]
fn convolutions_of_f16_agree() {
    convolutions_agree::<f16>();
}

fn depthwise_convolutions_agree<E: Element>() {
    each_isa(|isa| {
        for shape in [shape(24, 24, 9, 3, 1, 24), shape(21, 21, 10, 5, 2, 21), shape(16, 16, 7, 2, 1, 16)] {
            let x: Vec<E> = normals(1, shape.batch * shape.in_h * shape.in_w * shape.in_c);
            let dy: Vec<E> = normals(2, shape.batch * shape.out_h * shape.out_w * shape.out_c);
            let w: Vec<f32> = normals(3, shape.out_c * shape.kernel[0] * shape.kernel[1]);
            let (wide_x, wide_dy) = (widened(&x), widened(&dy));
            let relu = Activation::Relu;

            let (mut y, mut wide_y) = (vec![E::zeroed(); dy.len()], vec![0.0; dy.len()]);
            depthwise::forward(isa, &shape, &x, &w, None, (relu, None), &mut y);
            depthwise::forward(isa, &shape, &wide_x, &w, None, (relu, None), &mut wide_y);
            assert_equal("a depthwise convolution", isa, &y, &wide_y);

            let (mut dx, mut wide_dx) = (vec![E::zeroed(); x.len()], vec![0.0; x.len()]);
            depthwise::input_grad(isa, &shape, &dy, &w, &mut dx);
            depthwise::input_grad(isa, &shape, &wide_dy, &w, &mut wide_dx);
            assert_equal("a depthwise input gradient", isa, &dx, &wide_dx);

            let (mut dw, mut wide_dw) = (vec![0.0; w.len()], vec![0.0; w.len()]);
            depthwise::weight_grad(isa, &shape, &x, &dy, &mut dw);
            depthwise::weight_grad(isa, &shape, &wide_x, &wide_dy, &mut wide_dw);
            assert_eq!(dw, wide_dw, "a depthwise weight gradient in {:?} on {isa}", E::DTYPE);
        }
    });
}

#[test]
fn depthwise_convolutions_of_halves_agree() {
    depthwise_convolutions_agree::<bf16>();
    depthwise_convolutions_agree::<f16>();
}

fn batch_norms_agree<E: Element>() {
    const CHANNELS: usize = 21;
    each_isa(|isa| {
        let (x, dz): (Vec<E>, Vec<E>) = (normals(1, 300 * CHANNELS), normals(2, 300 * CHANNELS));
        let (wide_x, wide_dz) = (widened(&x), widened(&dz));
        let (gamma, beta): (Vec<f32>, Vec<f32>) = (normals(3, CHANNELS), normals(4, CHANNELS));
        let [mut mean, mut inv_std, mut wide_mean, mut wide_inv_std] = [(); 4].map(|()| vec![0.0; CHANNELS]);
        batch_norm_stats(isa, &x, 1e-5, &mut mean, &mut inv_std, None);
        batch_norm_stats(isa, &wide_x, 1e-5, &mut wide_mean, &mut wide_inv_std, None);
        assert_eq!((&mean, &inv_std), (&wide_mean, &wide_inv_std), "statistics in {:?} on {isa}", E::DTYPE);

        let norm = BatchNorm { mean: &mean, inv_std: &inv_std, gamma: &gamma, beta: &beta };
        let (mut y, mut wide_y) = (vec![E::zeroed(); x.len()], vec![0.0; x.len()]);
        batch_norm_apply(isa, &x, &norm, Some(&dz), Activation::Relu, &mut y);
        batch_norm_apply(isa, &wide_x, &norm, Some(&wide_dz), Activation::Relu, &mut wide_y);
        assert_equal("a norm", isa, &y, &wide_y);

        let [mut dgamma, mut dbeta, mut wide_dgamma, mut wide_dbeta] = [(); 4].map(|()| vec![0.0; CHANNELS]);
        let relu = Activation::Relu;
        batch_norm_reduce(isa, &x, &dz, &norm, Gate::Recomputed(relu), &mut dgamma, &mut dbeta);
        let gate = Gate::Recomputed(relu);
        batch_norm_reduce(isa, &wide_x, &wide_dz, &norm, gate, &mut wide_dgamma, &mut wide_dbeta);
        assert_eq!((&dgamma, &dbeta), (&wide_dgamma, &wide_dbeta), "sums in {:?} on {isa}", E::DTYPE);

        let place = Place::Apart(&dz[..], &mut y);
        batch_norm_input_grad(isa, &x, place, &norm, Gate::Recomputed(relu), &dgamma, &dbeta);
        let place = Place::Apart(&wide_dz[..], &mut wide_y);
        batch_norm_input_grad(isa, &wide_x, place, &norm, Gate::Recomputed(relu), &dgamma, &dbeta);
        assert_equal("a norm's input gradient", isa, &y, &wide_y);
    });
}

#[test]
fn batch_norms_of_halves_agree() {
    batch_norms_agree::<bf16>();
    batch_norms_agree::<f16>();
}

fn pools_agree<E: Element>() {
    let shape = PoolShape {
        batch: 2,
        in_h: 9,
        in_w: 8,
        channels: 19,
        out_h: 5,
        out_w: 4,
        kernel: [3; 2],
        strides: [2; 2],
        pads: [1; 4],
        dilations: [1; 2],
    };
    each_isa(|isa| {
        let (x, dy): (Vec<E>, Vec<E>) = (normals(1, 2 * 9 * 8 * 19), normals(2, 2 * 5 * 4 * 19));
        let (wide_x, wide_dy) = (widened(&x), widened(&dy));
        for kind in [Pool::Max, Pool::Average { count_include_pad: false }] {
            let (mut y, mut wide_y) = (vec![E::zeroed(); dy.len()], vec![0.0; dy.len()]);
            pool(isa, kind, &shape, &x, &mut y);
            pool(isa, kind, &shape, &wide_x, &mut wide_y);
            assert_equal("a pool", isa, &y, &wide_y);
            let (mut dx, mut wide_dx) = (vec![E::zeroed(); x.len()], vec![0.0; x.len()]);
            pool_grad(isa, kind, &shape, &x, &dy, &mut dx);
            pool_grad(isa, kind, &shape, &wide_x, &wide_dy, &mut wide_dx);
            assert_equal("a pool's gradient", isa, &dx, &wide_dx);
        }
        let (mut y, mut wide_y) = (vec![E::zeroed(); 2 * 19], vec![0.0; 2 * 19]);
        global_average(isa, 2, &x, &mut y);
        global_average(isa, 2, &wide_x, &mut wide_y);
        assert_equal("a global average", isa, &y, &wide_y);
        let (mut dx, mut wide_dx) = (vec![E::zeroed(); x.len()], vec![0.0; x.len()]);
        global_average_grad(isa, 2, &y, &mut dx);
        global_average_grad(isa, 2, &widened(&y), &mut wide_dx);
        assert_equal("a global average's gradient", isa, &dx, &wide_dx);
    });
}

#[test]
fn pools_of_halves_agree() {
    pools_agree::<bf16>();
    pools_agree::<f16>();
}
