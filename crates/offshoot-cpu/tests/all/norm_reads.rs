//! Kernels of a training step that read through batch norms and sum for them, against those that work on what lies in memory.

use half::f16;
use offshoot_cpu::kernels::backward::{Gradients, Operands};
use offshoot_cpu::kernels::batch_norm::{
    BatchNorm, Gate, Reduction, batch_norm_apply, batch_norm_input_grad, batch_norm_join, batch_norm_reduce,
    batch_norm_reduce_join, batch_norm_stats,
};
use offshoot_cpu::kernels::conv::{self, Epilogue, PackedFilter, conv, conv_in_training};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use offshoot_cpu::kernels::element::Element;
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::source::Source;
use offshoot_cpu::kernels::{Activation, ConvShape, Place, depthwise, pointwise_backward};
use offshoot_graph::random::{Purpose, Random};

const RELU6: Activation = Activation::Clip { min: 0.0, max: 6.0 };

fn normals(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    (0..len).map(|_| random.normal()).collect()
}

fn elements<E: Element>(len: usize, seed: u64) -> Vec<E> {
    normals(len, seed).into_iter().map(E::from_f32).collect()
}

fn floats<E: Element>(elements: &[E]) -> Vec<f32> {
    elements.iter().map(|e| e.to_f32()).collect()
}

#[track_caller]
fn near(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance * largest, "{what}: element {i} is {f}, not {w}");
    }
}

/// A norm's vectors, some channels with a negative weight.
struct Vectors([Vec<f32>; 4]);

impl Vectors {
    fn new(channels: usize, seed: u64) -> Vectors {
        let of = |i| normals(channels, seed + i);
        Vectors([of(0), of(1).iter().map(|v| 0.5 + v.abs()).collect(), of(2), of(3)])
    }

    fn norm(&self) -> BatchNorm<'_> {
        let [mean, inv_std, gamma, beta] = &self.0;
        BatchNorm { mean, inv_std, gamma, beta }
    }
}

/// A convolution between two norms: its input is one of x with an activation, and another takes statistics of its output.
struct Case<E> {
    shape: ConvShape,
    x: Vec<E>,
    y: Vec<E>,
    dz: Vec<E>,
    w: Vec<f32>,
    before: Vectors,
    after: Vectors,
    sums: [Vec<f32>; 2],
}

impl<E: Element> Case<E> {
    fn new(shape: ConvShape) -> Case<E> {
        let (in_len, out_len) = (
            shape.batch * shape.in_h * shape.in_w * shape.in_c,
            shape.batch * shape.out_h * shape.out_w * shape.out_c,
        );
        let weights = shape.out_c * shape.in_c / shape.groups * shape.kernel[0] * shape.kernel[1];
        Case {
            shape,
            x: elements(in_len, 1),
            y: elements(out_len, 2),
            dz: elements(out_len, 3),
            w: floats(&elements::<E>(weights, 4)),
            before: Vectors::new(shape.in_c, 10),
            after: Vectors::new(shape.out_c, 20),
            sums: [normals(shape.out_c, 5), normals(shape.out_c, 6)],
        }
    }

    fn input(&self, activation: Activation) -> Source<'_, E> {
        Source::norm(&self.x, &self.before.norm(), activation)
    }

    fn input_in_memory(&self, isa: Isa, activation: Activation) -> Vec<E> {
        let mut input = vec![E::from_f32(0.0); self.x.len()];
        batch_norm_apply(isa, &self.x, &self.before.norm(), None, activation, &mut input);
        input
    }

    fn output_grad(&self, gate: Option<Activation>) -> Source<'_, E> {
        let sums = [&self.sums[0][..], &self.sums[1][..]];
        Source::norm_grad([&self.dz, &self.y], &self.after.norm(), gate, sums)
    }

    fn output_grad_in_memory(&self, isa: Isa, gate: Option<Activation>) -> Vec<E> {
        let mut dy = vec![E::from_f32(0.0); self.y.len()];
        let gate = gate.map_or(Gate::Open, Gate::Recomputed);
        let place = Place::Apart(&self.dz, &mut dy);
        batch_norm_input_grad(isa, &self.y, place, &self.after.norm(), gate, &self.sums[0], &self.sums[1]);
        dy
    }

    /// Compares the statistics of `y` with those joined of `moments`.
    fn check_moments(&self, isa: Isa, y: &[E], moments: &[f32], rows: &[usize], what: &str) {
        let channels = self.shape.out_c;
        let (mut mean, mut inv_std) = (vec![0.0; channels], vec![0.0; channels]);
        batch_norm_join(moments, rows, 1e-5, &mut mean, &mut inv_std, None);
        let (mut wanted_mean, mut wanted_inv_std) = (mean.clone(), mean.clone());
        batch_norm_stats(isa, y, 1e-5, &mut wanted_mean, &mut wanted_inv_std, None);
        near(&mean, &wanted_mean, 2e-6, &format!("{what}: mean"));
        near(&inv_std, &wanted_inv_std, 2e-6, &format!("{what}: inv_std"));
    }

    /// Compares the sums that `dx` is reduced to with those joined of `parts`.
    fn check_sums(&self, isa: Isa, dx: &[E], parts: &[f32], gate: Option<Activation>, what: &str) {
        let norm = self.before.norm();
        let of_gate = gate.map_or(Gate::Open, Gate::Recomputed);
        let [mut dgamma, mut dbeta, mut wanted_dgamma, mut wanted_dbeta] =
            [0; 4].map(|_| vec![0.0; self.shape.in_c]);
        batch_norm_reduce_join(parts, norm.inv_std, &mut dgamma, &mut dbeta);
        batch_norm_reduce(isa, &self.x, dx, &norm, of_gate, &mut wanted_dgamma, &mut wanted_dbeta);
        near(&dgamma, &wanted_dgamma, 1e-5, &format!("{what}: dgamma"));
        near(&dbeta, &wanted_dbeta, 1e-5, &format!("{what}: dbeta"));
    }

    fn check_depthwise(&self, isa: Isa, activation: Activation, tolerance: f32) {
        let what = &format!("{:?} on {isa:?} with {activation:?}", self.shape);
        let (shape, zero) = (&self.shape, E::from_f32(0.0));
        let mut packed = vec![0.0; self.w.len()];
        depthwise::pack(shape, &self.w, &mut packed);
        let input = self.input_in_memory(isa, activation);
        let (mut y, mut wanted) = (vec![zero; self.y.len()], vec![zero; self.y.len()]);
        let rows = depthwise::moment_rows(shape);
        let mut moments = vec![f32::NAN; 2 * rows.len() * shape.out_c];
        let x = self.input(activation);
        depthwise::forward_in_training(isa, shape, &x, &packed, &mut y, Some(&mut moments));
        depthwise::forward(isa, shape, &input, &packed, None, (Activation::None, None), &mut wanted);
        near(&floats(&y), &floats(&wanted), tolerance, &format!("{what}: y"));
        self.check_moments(isa, &y, &moments, &rows, what);

        let gate = Some(activation);
        let norm = self.before.norm();
        let (scale, shift) = norm.affine();
        let reduction = Reduction { x: &self.x, mean: norm.mean, gate: Some((&scale, &shift, activation)) };
        let dy = self.output_grad(gate);
        let operands = Operands { dy: &dy, x: &x, weights: &packed[..], reduction: Some(reduction) };
        let (mut dx, mut dw) = (vec![zero; self.x.len()], vec![f32::NAN; self.w.len()]);
        let mut sums = vec![f32::NAN; 2 * depthwise::sum_parts(shape) * shape.in_c];
        let gradients = Gradients { dx: &mut dx, dw: &mut dw, sums: &mut sums };
        depthwise::backward(isa, shape, operands, gradients);
        let dy = self.output_grad_in_memory(isa, gate);
        let (mut wanted_dx, mut wanted_dw) = (vec![zero; self.x.len()], vec![0.0; self.w.len()]);
        depthwise::input_grad(isa, shape, &dy, &packed, &mut wanted_dx);
        depthwise::weight_grad(isa, shape, &input, &dy, &mut wanted_dw);
        near(&floats(&dx), &floats(&wanted_dx), tolerance, &format!("{what}: dx"));
        near(&dw, &wanted_dw, tolerance, &format!("{what}: dw"));
        self.check_sums(isa, &dx, &sums, gate, what);
    }

    fn check_pointwise(&self, isa: Isa, gate: Option<Activation>, tolerance: f32) {
        let what = &format!("{:?} on {isa:?} with {gate:?}", self.shape);
        let (shape, zero) = (&self.shape, E::from_f32(0.0));
        let activation = gate.unwrap_or(Activation::None);
        let input = self.input_in_memory(isa, activation);
        let x = self.input(activation);
        let mut filter = PackedFilter::default();
        filter.set_element::<E>();
        filter.pack(isa, shape, &self.w);
        let (mut y, mut wanted) = (vec![zero; self.y.len()], vec![zero; self.y.len()]);
        let rows = conv::moment_rows::<f32>(Isa::PORTABLE, shape).expect("no Winograd here");
        let mut moments = vec![f32::NAN; 2 * rows.len() * shape.out_c];
        conv_in_training(isa, shape, &x, &filter, &mut y, Some(&mut moments));
        conv(isa, shape, &input, &filter, &Epilogue::NONE, &mut wanted);
        near(&floats(&y), &floats(&wanted), tolerance, &format!("{what}: y"));
        self.check_moments(isa, &y, &moments, &rows, what);

        let mut filter = PackedFilter::default();
        filter.set_element::<E>();
        filter.pack_for_input_grad(isa, shape, &self.w);
        let norm = self.before.norm();
        let (scale, shift) = norm.affine();
        let of_gate = gate.map(|activation| (&scale[..], &shift[..], activation));
        let reduction = Some(Reduction { x: &self.x, mean: norm.mean, gate: of_gate });
        let dy = self.output_grad(gate);
        let operands = Operands { dy: &dy, x: &x, weights: &filter, reduction };
        let (mut dx, mut dw) = (vec![zero; self.x.len()], vec![f32::NAN; self.w.len()]);
        let mut sums = vec![f32::NAN; 2 * pointwise_backward::sum_parts(isa, shape) * shape.in_c];
        let mut workspace = vec![f32::NAN; pointwise_backward::workspace(isa, shape)];
        let gradients = Gradients { dx: &mut dx, dw: &mut dw, sums: &mut sums };
        pointwise_backward::pointwise_backward(isa, shape, operands, gradients, &mut workspace);
        let dy = self.output_grad_in_memory(isa, gate);
        let (mut wanted_dx, mut wanted_dw) = (vec![zero; self.x.len()], vec![0.0; self.w.len()]);
        conv_input_grad(isa, shape, &dy, &filter, &mut wanted_dx);
        let mut workspace = vec![0.0; conv_weight_grad_workspace(isa, shape)];
        conv_weight_grad(isa, shape, &input, &dy, &mut wanted_dw, &mut workspace);
        near(&floats(&dx), &floats(&wanted_dx), tolerance, &format!("{what}: dx"));
        near(&dw, &wanted_dw, tolerance, &format!("{what}: dw"));
        self.check_sums(isa, &dx, &sums, gate, what);
    }
}

fn depthwise_shape(
    batch: usize,
    [h, w]: [usize; 2],
    channels: usize,
    [kernel, stride]: [usize; 2],
    pads: [usize; 4],
) -> ConvShape {
    let out = |len: usize, pad: usize| (len + pad - kernel) / stride + 1;
    ConvShape {
        batch,
        in_h: h,
        in_w: w,
        in_c: channels,
        out_h: out(h, pads[0] + pads[2]),
        out_w: out(w, pads[1] + pads[3]),
        out_c: channels,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads,
        dilations: [1, 1],
        groups: channels,
    }
}

/// One strip and several, both parities of the padding, TensorFlow's uneven padding, odd widths, narrow channels, several groups of
/// them, windows beside the picture.
fn depthwise_shapes() -> Vec<ConvShape> {
    let mut shapes = vec![
        depthwise_shape(2, [56, 57], 48, [3, 1], [1; 4]),
        depthwise_shape(1, [64, 64], 40, [3, 2], [1; 4]),
        depthwise_shape(17, [5, 9], 21, [3, 2], [0, 0, 1, 1]),
        depthwise_shape(3, [14, 14], 12, [5, 2], [1, 1, 2, 2]),
        depthwise_shape(1, [1, 1], 8, [3, 1], [1; 4]),
        depthwise_shape(2, [3, 2], 16, [5, 1], [2; 4]),
        depthwise_shape(1, [9, 9], 3, [3, 1], [0; 4]),
        depthwise_shape(1, [28, 28], 200, [3, 1], [1; 4]),
        depthwise_shape(1, [29, 28], 200, [5, 2], [2; 4]),
        depthwise_shape(2, [6, 7], 20, [3, 1], [4, 3, 3, 4]),
        depthwise_shape(2, [6, 7], 20, [3, 2], [3, 4, 4, 3]),
    ];
    for stride in [1, 2] {
        for pad in 0..3 {
            shapes.push(depthwise_shape(2, [30, 23], 24, [5, stride], [pad; 4]));
        }
    }
    shapes
}

fn pointwise_shape(batch: usize, size: [usize; 2], [in_c, out_c]: [usize; 2]) -> ConvShape {
    ConvShape { in_c, groups: 1, ..depthwise_shape(batch, size, out_c, [1, 1], [0; 4]) }
}

fn pointwise_shapes() -> [ConvShape; 5] {
    [
        pointwise_shape(2, [13, 11], [24, 37]),
        pointwise_shape(1, [1, 3], [5, 7]),
        pointwise_shape(3, [28, 28], [16, 96]),
        pointwise_shape(2, [14, 14], [384, 64]),
        pointwise_shape(1, [40, 33], [96, 384]),
    ]
}

#[test]
fn depthwise_convolutions_agree() {
    for isa in Isa::available() {
        for shape in depthwise_shapes() {
            for activation in [Activation::None, RELU6] {
                Case::<f32>::new(shape).check_depthwise(isa, activation, 1e-5);
            }
            Case::<f16>::new(shape).check_depthwise(isa, RELU6, 4e-3);
        }
    }
}

#[test]
fn pointwise_convolutions_agree() {
    for isa in Isa::available() {
        for shape in pointwise_shapes() {
            for gate in [None, Some(RELU6)] {
                Case::<f32>::new(shape).check_pointwise(isa, gate, 1e-5);
            }
            Case::<f16>::new(shape).check_pointwise(isa, Some(RELU6), 4e-3);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = Case::<f32>::new(depthwise_shape(2, [56, 56], 48, [3, 1], [1; 4]));
            let shape = &case.shape;
            let mut packed = vec![0.0; case.w.len()];
            depthwise::pack(shape, &case.w, &mut packed);
            let (x, dy) = (case.input(RELU6), case.output_grad(Some(RELU6)));
            let mut y = vec![0.0; case.y.len()];
            let mut moments = vec![0.0; 2 * depthwise::moment_rows(shape).len() * shape.out_c];
            let isa = Isa::best();
            depthwise::forward_in_training(isa, shape, &x, &packed, &mut y, Some(&mut moments));
            let (mut dx, mut dw) = (vec![0.0; case.x.len()], vec![0.0; case.w.len()]);
            let operands = Operands { dy: &dy, x: &x, weights: &packed[..], reduction: None };
            let gradients = Gradients { dx: &mut dx, dw: &mut dw, sums: &mut [] };
            depthwise::backward(isa, shape, operands, gradients);
            [y, moments, dx, dw].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        })
    };
    assert!(run(1) == run(3));
}
