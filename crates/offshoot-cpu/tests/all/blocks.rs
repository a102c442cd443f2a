//! Inverted residual blocks in one pass against their convolutions one after the other: bit-identical, on every SIMD
//! path, for any number of threads and any batch.

use std::num::NonZeroUsize;

use half::bf16;
use offshoot_cpu::kernels::block::{Block, BlockShape, Dense, Depthwise, block};
use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::element::Element;
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::{Activation, ConvShape, depthwise};
use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::builder::{Conv2d, RELU6};
use offshoot_graph::op::Binary;
use offshoot_graph::passes::{autocast, freeze};
use offshoot_graph::{DType, Dim, Executor, Graph, Op, Shape, Tensor, ValueId, Weights};
use proptest::prelude::*;

/// Reproducible values in [-1, 1).
fn values(len: usize, seed: u32) -> Vec<f32> {
    let value = |i: usize| (i as u32 ^ seed).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 * 2.0 - 1.0;
    (0..len).map(value).collect()
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// A square kernel.
#[derive(Clone, Copy, Debug)]
struct Window {
    kernel: usize,
    stride: usize,
    /// Above and to the left, below and to the right.
    pads: [usize; 2],
}

const POINTWISE: Window = Window { kernel: 1, stride: 1, pads: [0, 0] };

/// A convolution of `[batch, in_h, in_w, in_c]`.
fn shape([batch, in_h, in_w, in_c]: [usize; 4], window: Window, out_c: usize, groups: usize) -> ConvShape {
    let Window { kernel, stride, pads: [before, after] } = window;
    let out = |len: usize| (len + before + after - kernel) / stride + 1;
    ConvShape {
        batch,
        in_h,
        in_w,
        in_c,
        out_h: out(in_h),
        out_w: out(in_w),
        out_c,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [before, before, after, after],
        dilations: [1, 1],
        groups,
    }
}

fn output(s: &ConvShape) -> [usize; 4] {
    [s.batch, s.out_h, s.out_w, s.out_c]
}

fn len(of: [usize; 4]) -> usize {
    of.iter().product()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    input: [usize; 4],
    /// Window and channels of the expansion, if there is one.
    expand: Option<(Window, usize)>,
    depthwise: Window,
    out_c: usize,
    residual: bool,
}

impl Case {
    fn shape(&self) -> BlockShape {
        let expand = self.expand.map(|(window, channels)| shape(self.input, window, channels, 1));
        let from = expand.as_ref().map_or(self.input, output);
        let depthwise = shape(from, self.depthwise, from[3], from[3]);
        BlockShape { expand, depthwise, project: shape(output(&depthwise), POINTWISE, self.out_c, 1) }
    }

    /// The output in one pass and convolution by convolution, on elements `E`.
    fn run<E: Element>(&self, isa: Isa) -> [Vec<u32>; 2] {
        let elements =
            |len: usize, seed| -> Vec<E> { values(len, seed).into_iter().map(E::from_f32).collect() };
        let BlockShape { expand: first, depthwise: middle, project: last } = self.shape();
        let filter = |shape: &ConvShape, seed| {
            let mut filter = PackedFilter::new();
            filter.set_element::<E>();
            let [r, s] = shape.kernel;
            filter.pack(isa, shape, &values(shape.out_c * shape.in_c / shape.groups * r * s, seed));
            (filter, values(shape.out_c, seed + 1))
        };
        let (expand, project) = (first.map(|shape| (shape, filter(&shape, 10))), filter(&last, 20));
        let mut weights = vec![0.0; middle.out_c * self.depthwise.kernel.pow(2)];
        depthwise::pack(&middle, &values(weights.len(), 30), &mut weights);
        let bias = values(middle.out_c, 31);
        let clip = Activation::Clip { min: 0.0, max: 0.5 };
        let parts = Block {
            expand: expand.as_ref().map(|(shape, (filter, bias))| Dense {
                shape: *shape,
                filter,
                bias: Some(bias),
                activation: clip,
            }),
            depthwise: Depthwise {
                shape: middle,
                weights: &weights,
                bias: Some(&bias),
                activation: Activation::Relu,
            },
            project: Dense { shape: last, filter: &project.0, bias: Some(&project.1), activation: clip },
        };
        let x = elements(len(self.input), 1);
        let residual = self.residual.then(|| elements(len(output(&last)), 2));
        let nothing = |len: usize| vec![E::from_f32(f32::NAN); len];
        let mut fused = nothing(len(output(&last)));
        block(isa, &parts, &x, residual.as_deref(), &mut fused);

        let dense = |part: &Dense<'_>, x: &[E], residual: Option<&[E]>| {
            let mut y = nothing(len(output(&part.shape)));
            let epilogue = Epilogue { bias: part.bias, residual, activation: part.activation, then: None };
            conv(isa, &part.shape, x, part.filter, &epilogue, &mut y);
            y
        };
        let expanded = parts.expand.as_ref().map_or_else(|| x.clone(), |expand| dense(expand, &x, None));
        let mut between = nothing(len(output(&middle)));
        let Depthwise { shape, weights, bias, activation } = parts.depthwise;
        depthwise::forward(isa, &shape, &expanded, weights, bias, (activation, None), &mut between);
        let apart = dense(&parts.project, &between, residual.as_deref());
        [fused, apart].map(|y| y.into_iter().map(|y| y.to_f32().to_bits()).collect())
    }

    fn check(&self) {
        for isa in Isa::available().into_iter().chain([Isa::EMULATED_TILES]) {
            for threads in 1..=3 {
                let [fused, apart] = pool(threads).install(|| self.run::<f32>(isa));
                assert!(fused == apart, "{self:?} on {isa} with {threads} threads");
                let [fused, apart] = pool(threads).install(|| self.run::<bf16>(isa));
                assert!(fused == apart, "{self:?} on {isa} in bf16 with {threads} threads");
            }
        }
    }
}

fn windows() -> impl Strategy<Value = Window> {
    let window = |kernel: usize, stride: usize, pads| Window { kernel, stride, pads };
    (prop_oneof![Just(3usize), Just(5)], 1..3usize, [0..3usize, 0..3usize])
        .prop_map(move |(kernel, stride, pads)| window(kernel, stride, pads))
}

fn expansions() -> impl Strategy<Value = Option<(Window, usize)>> {
    let stem = Window { kernel: 3, stride: 2, pads: [1, 1] };
    proptest::option::of((prop_oneof![3 => Just(POINTWISE), 1 => Just(stem)], 1..70usize))
}

prop_compose! {
    fn cases()(
        batch in 1..4usize, height in 9..70usize, width in 9..40usize, channels in 1..20usize,
        expand in expansions(), depthwise in windows(), out_c in 1..20usize, residual: bool,
    ) -> Case {
        Case { input: [batch, height, width, channels], expand, depthwise, out_c, residual }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn one_pass_gives_the_bits_of_three(case in cases()) {
        case.check();
    }
}

#[test]
fn strips_and_bands_meet_without_a_seam() {
    // Several bands of several strips: the expanded picture is 2 MB.
    let wide = |depthwise, residual| Case {
        input: [1, 61, 57, 9],
        expand: Some((POINTWISE, 150)),
        depthwise,
        out_c: 9,
        residual,
    };
    wide(Window { kernel: 3, stride: 1, pads: [1, 1] }, true).check();
    wide(Window { kernel: 3, stride: 2, pads: [0, 1] }, false).check();
    wide(Window { kernel: 5, stride: 2, pads: [2, 2] }, true).check();
    wide(Window { kernel: 5, stride: 1, pads: [2, 2] }, false).check();
}

/// Reproducible values for each parameter.
fn weights_of(graph: &Graph) -> Weights {
    let tensor = |(i, &id): (usize, &ValueId)| {
        let shape = graph.value(id).shape.as_fixed().unwrap();
        let values = values(shape.iter().product(), 100 + i as u32);
        (graph.value(id).name.clone(), Tensor::f32(shape, values))
    };
    graph.parameters().iter().enumerate().map(tensor).collect()
}

/// A stem, a depthwise block and two inverted residual blocks, folded as for inference. `seen` makes outputs of what
/// is inside of the blocks, so that they cannot be one step.
fn network(seen: bool) -> (Graph, Weights) {
    let mut graph = Graph::new("network");
    let shape = Shape(vec![Dim::symbol("batch"), Dim::Fixed(3), Dim::Fixed(67), Dim::Fixed(49)]);
    let x = graph.add_input("x", DType::F32, shape);
    let mut inner = Vec::new();
    let mut layer = |graph: &mut Graph, name: &str, x: ValueId, conv: Conv2d, last: bool| {
        let y = graph.conv2d(name, x, &Conv2d { bias: true, ..conv }).unwrap();
        if last {
            return y;
        }
        let y = graph.add(&format!("{name}.act"), RELU6, &[y]).unwrap();
        inner.push(y);
        y
    };
    let x = layer(&mut graph, "stem", x, Conv2d::new(16, 3).stride(2), false);
    let x = layer(&mut graph, "depthwise0", x, Conv2d::new(16, 3).group(16), false);
    let x = layer(&mut graph, "project0", x, Conv2d::new(8, 1), true);
    let y = layer(&mut graph, "expand1", x, Conv2d::new(40, 1), false);
    let y = layer(&mut graph, "depthwise1", y, Conv2d::new(40, 5).group(40), false);
    let y = layer(&mut graph, "project1", y, Conv2d::new(8, 1), true);
    let x = graph.add("add1", Op::Binary(Binary::Add), &[x, y]).unwrap();
    let y = layer(&mut graph, "expand2", x, Conv2d::new(40, 1), false);
    let y = layer(&mut graph, "depthwise2", y, Conv2d::new(40, 3).stride(2).group(40), false);
    let y = layer(&mut graph, "project2", y, Conv2d::new(10, 1), true);
    graph.add_output("y", y);
    for (i, &value) in inner.iter().enumerate().filter(|_| seen) {
        graph.add_output(&format!("inner{i}"), value);
    }
    freeze(&mut graph, |_| true);
    let weights = weights_of(&graph);
    (graph, weights)
}

#[test]
fn plans_run_blocks_as_one_step_with_the_same_bits() {
    let pictures = Tensor::f32([3, 3, 67, 49], values(3 * 3 * 67 * 49, 5));
    let first = Tensor::f32([1, 3, 67, 49], pictures.as_f32().unwrap()[..3 * 67 * 49].to_vec());
    for half in [false, true] {
        one_step_with_the_same_bits(half, &pictures, &first);
    }
}

/// In bf16 if `half`.
fn one_step_with_the_same_bits(half: bool, pictures: &Tensor, first: &Tensor) {
    let run = |seen: bool, threads: usize, x: &Tensor| {
        let (mut graph, weights) = network(seen);
        if half {
            graph = autocast(&graph, DType::BF16).unwrap();
        }
        let options =
            CpuOptions { threads: NonZeroUsize::new(threads), profile: true, ..CpuOptions::default() };
        let executor = CpuExecutor::new(options).unwrap();
        let mut session = executor.prepare(&graph, &weights).unwrap();
        session.run(&[("x", x)]).unwrap();
        let steps = session.profile().iter().filter(|step| step.kernel == "block");
        let steps: Vec<String> = steps.map(|step| step.node.clone()).collect();
        let y = session.read("y").unwrap().to_f32().and_then(Tensor::into_f32).unwrap();
        let bits: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
        (steps, bits)
    };
    let (apart, wanted) = run(true, 2, pictures);
    assert!(apart.is_empty(), "{apart:?}");
    let blocks = ["stem .. project0", "expand1 .. project1", "expand2 .. project2"];
    for threads in 1..=3 {
        let (found, bits) = run(false, threads, pictures);
        assert_eq!(found, blocks);
        assert!(bits == wanted, "other bits on {threads} threads");
    }
    let (_, alone) = run(false, 1, first);
    assert!(alone == wanted[..alone.len()], "other bits alone");
}

/// Depthwise and pointwise convolutions in turn: the same pointwise one could end a block and begin the next.
fn in_turn(seen: bool) -> (Graph, Weights) {
    let mut graph = Graph::new("in turn");
    let mut x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 16, 67, 49]));
    let mut channels = 16;
    for (i, out) in [None, Some(40), None, Some(16), None, Some(40), None, Some(9)].into_iter().enumerate() {
        let conv = match out {
            None => Conv2d::new(channels, 3).group(channels),
            Some(out) => Conv2d::new(out, 1),
        };
        channels = out.unwrap_or(channels);
        x = graph.conv2d(&format!("layer{i}"), x, &conv).unwrap();
        if seen {
            graph.add_output(&format!("seen{i}"), x);
        }
    }
    graph.add_output("y", x);
    freeze(&mut graph, |_| true);
    let weights = weights_of(&graph);
    (graph, weights)
}

#[test]
fn no_convolution_is_in_two_blocks() {
    let x = Tensor::f32([2, 16, 67, 49], values(2 * 16 * 67 * 49, 5));
    let run = |seen: bool| {
        let (graph, weights) = in_turn(seen);
        let options = CpuOptions { threads: NonZeroUsize::new(2), profile: true, ..CpuOptions::default() };
        let mut session = CpuExecutor::new(options).unwrap().prepare(&graph, &weights).unwrap();
        session.run(&[("x", &x)]).unwrap();
        let blocks = session.profile().iter().filter(|step| step.kernel == "block").count();
        (blocks, session.read("y").unwrap().into_f32().unwrap())
    };
    let ((apart, wanted), (blocks, found)) = (run(true), run(false));
    assert!(apart == 0 && blocks > 1, "{apart}, {blocks}");
    assert!(found == wanted);
}
