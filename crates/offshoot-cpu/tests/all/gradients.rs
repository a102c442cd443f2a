//! Gradients against central differences, for every operator that has one, on random shapes and attributes.
//!
//! Inputs are small multiples of a power of two, and piecewise linear operators get distinct ones, so that the step
//! crosses no kink and what is exact in f32 stays exact. The loss is summed in f64.

use offshoot_conformance::golden::add_operator;
use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
use offshoot_graph::op::{
    AveragePool, Binary, Clip, Conv, CrossEntropy, Gemm, Pool, Pooling, ShapeOp, TrainOp, Unary,
};
use offshoot_graph::passes::differentiate;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{
    DType, Executor, Graph, GraphError, Op, Role, Session, Shape, Tensor, ValueId, Weights,
};
use proptest::prelude::*;
use serde_json::json;

use crate::support::run;

/// How the function behaves along one coordinate.
#[derive(Clone, Copy)]
enum Kind {
    /// A straight line within the step, which is this.
    Linear(f32),
    /// A curve: differences of fourth order with this step, and what they may be off by.
    Smooth(f32, f64),
}

/// Coordinates of each parameter that are tried.
const COORDINATES: usize = 24;

struct Trial {
    graph: Graph,
    weights: Weights,
    inputs: Vec<(String, Tensor)>,
    random: Random,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let random = Random::new(seed, 0, 0, Purpose::Init);
        Trial { graph: Graph::new("trial"), weights: Weights::new(), inputs: Vec::new(), random }
    }

    /// A trainable parameter of multiples of 1/16 in -2..2.
    fn operand(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let values =
            (0..shape.iter().product()).map(|_| (self.random.below(65) as f32 - 32.0) / 16.0).collect();
        self.parameter(name, Tensor::f32(shape, values), Role::Weight)
    }

    /// A trainable parameter of distinct odd multiples of 1/16: no two are closer than 1/8, none than 1/16 to
    /// a multiple of 1/8.
    fn distinct(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let n: usize = shape.iter().product();
        let mut values: Vec<f32> =
            (0..n).map(|i| (2.0 * i as f32 + 1.0 - n as f32 - (n % 2) as f32) / 16.0).collect();
        self.random.shuffle(&mut values);
        self.parameter(name, Tensor::f32(shape, values), Role::Weight)
    }

    fn parameter(&mut self, name: &str, tensor: Tensor, role: Role) -> ValueId {
        let id = self.graph.add_parameter(name, tensor.shape(), role);
        self.weights.insert(name.into(), tensor);
        id
    }

    fn input(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.graph.add_input(name, tensor.dtype(), Shape::fixed(tensor.shape()));
        self.inputs.push((name.into(), tensor));
        id
    }

    /// Checks every gradient of a random linear functional of `y` on the portable and the best SIMD path.
    fn check(mut self, y: Result<ValueId, GraphError>, kind: Kind) -> Result<(), TestCaseError> {
        let y = y.unwrap();
        let shape = self.graph.value(y).shape.as_fixed().unwrap();
        let n = shape.iter().product();
        let coefficients: Vec<f32> = (0..n).map(|_| (self.random.below(33) as f32 - 16.0) / 8.0).collect();
        let mut forward = self.graph.clone();
        forward.add_output("y", y);
        let factors = self.input("coefficients", Tensor::f32(shape, coefficients.clone()));
        let loss = self.graph.add("loss", Op::Binary(Binary::Mul), &[y, factors]).unwrap();
        let derived = differentiate(self.graph, loss).unwrap();
        let mut backward = derived.graph;
        let names: Vec<String> =
            derived.gradients.iter().map(|&(p, _)| backward.value(p).name.clone()).collect();
        for (name, (_, gradient)) in names.iter().zip(derived.gradients) {
            backward.add_output(name, gradient);
        }
        let inputs: Vec<(&str, &Tensor)> = self.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        for isa in [Isa::available()[0], Isa::best()] {
            let executor = executor(isa);
            let mut session = executor.prepare(&backward, &self.weights).unwrap();
            session.run(&inputs).unwrap();
            let mut function = Function {
                session: executor.prepare(&forward, &self.weights).unwrap(),
                inputs: &inputs,
                weights: self.weights.clone(),
                coefficients: &coefficients,
                scale: 0.0,
            };
            for name in &names {
                let gradient = session.read(name).unwrap();
                prop_assert_eq!(gradient.shape(), self.weights[name].shape());
                for _ in 0..COORDINATES.min(gradient.len()) {
                    let i = self.random.below(gradient.len());
                    let (found, wanted) =
                        (f64::from(gradient.as_f32().unwrap()[i]), function.slope(name, i, kind));
                    let allowed = function.allowed(kind) + 1e-6 * wanted.abs();
                    prop_assert!(
                        (found - wanted).abs() <= allowed,
                        "{isa:?}: d/d{name}[{i}] is {found}, the difference says {wanted} within {allowed}"
                    );
                }
            }
        }
        Ok(())
    }
}

fn executor(isa: Isa) -> CpuExecutor {
    CpuExecutor::new(CpuOptions {
        threads: std::num::NonZeroUsize::new(1),
        isa: Some(isa),
        ..CpuOptions::default()
    })
    .unwrap()
}

struct Function<'a> {
    session: Box<dyn Session>,
    inputs: &'a [(&'a str, &'a Tensor)],
    weights: Weights,
    coefficients: &'a [f32],
    /// The largest sum of absolute terms so far: what rounding is relative to.
    scale: f64,
}

impl Function<'_> {
    /// The functional with `step` added to one coordinate.
    fn at(&mut self, name: &str, i: usize, step: f32) -> f64 {
        let mut moved = self.weights[name].clone();
        moved.as_f32_mut().unwrap()[i] += step;
        self.session.upload(name, &moved).unwrap();
        self.session.run(self.inputs).unwrap();
        self.session.upload(name, &self.weights[name]).unwrap();
        let y = self.session.read("y").unwrap().into_f32().unwrap();
        let terms = || y.iter().zip(self.coefficients).map(|(&y, &r)| f64::from(y) * f64::from(r));
        let (sum, scale) = (terms().sum(), terms().map(f64::abs).sum::<f64>());
        self.scale = self.scale.max(scale);
        sum
    }

    fn slope(&mut self, name: &str, i: usize, kind: Kind) -> f64 {
        let mut central = |h: f32| (self.at(name, i, h) - self.at(name, i, -h)) / (2.0 * f64::from(h));
        match kind {
            Kind::Linear(h) => central(h),
            Kind::Smooth(h, _) => (4.0 * central(h) - central(2.0 * h)) / 3.0,
        }
    }

    /// What rounding to f32, and the curve's higher derivatives, may do to [`Function::slope`].
    fn allowed(&self, kind: Kind) -> f64 {
        let rounding = |h: f32| 2e-7 * self.scale / f64::from(h);
        match kind {
            Kind::Linear(h) => rounding(h) + 1e-6,
            Kind::Smooth(h, curve) => rounding(h) + curve,
        }
    }
}

/// A window operator along one axis: (size, kernel, stride, dilation, pads).
fn side(max_pad: usize) -> impl Strategy<Value = (usize, usize, usize, usize, [usize; 2])> {
    (1usize..5, 1usize..4, 1usize..4, 1usize..3, [0..=max_pad, 0..=max_pad]).prop_map(
        |(extra, kernel, stride, dilation, pads)| {
            let reach = dilation * (kernel - 1) + 1;
            (reach.saturating_sub(pads[0] + pads[1]).max(1) + extra - 1, kernel, stride, dilation, pads)
        },
    )
}

fn pool(axes: [(usize, usize, usize, usize, [usize; 2]); 2], ceil_mode: bool) -> ([usize; 2], Pool) {
    let [(h, r, sr, _, [top, bottom]), (w, s, ss, _, [left, right])] = axes;
    let pads = [top.min(r - 1), left.min(s - 1), bottom.min(r - 1), right.min(s - 1)];
    ([h.max(r), w.max(s)], Pool { kernel: [r, s], strides: [sr, ss], pads, ceil_mode })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conv(
        seed: u64, n in 1usize..3, group in 1usize..4, c in 1usize..4, k in 1usize..4, bias: bool,
        (h, r, sr, dr, [top, bottom]) in side(2), (w, s, ss, ds, [left, right]) in side(2),
    ) {
        let mut trial = Trial::new(seed);
        let mut inputs = vec![
            trial.operand("x", &[n, group * c, h, w]),
            trial.operand("weight", &[group * k, c, r, s]),
        ];
        if bias {
            inputs.push(trial.operand("bias", &[group * k]));
        }
        let (pads, strides, dilations) = ([top, left, bottom, right], [sr, ss], [dr, ds]);
        let y = trial.graph.add("y", Op::Conv(Conv { strides, pads, dilations, group }), &inputs);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn depthwise_conv(
        seed: u64, n in 1usize..3, c in 1usize..20, bias: bool,
        (h, r, sr, dr, [top, bottom]) in side(2), (w, s, ss, ds, [left, right]) in side(2),
    ) {
        let mut trial = Trial::new(seed);
        let mut inputs = vec![trial.operand("x", &[n, c, h, w]), trial.operand("weight", &[c, 1, r, s])];
        if bias {
            inputs.push(trial.operand("bias", &[c]));
        }
        let (pads, strides, dilations) = ([top, left, bottom, right], [sr, ss], [dr, ds]);
        let y = trial.graph.add("y", Op::Conv(Conv { strides, pads, dilations, group: c }), &inputs);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn gemm(seed: u64, m in 1usize..6, n in 1usize..20, k in 1usize..20, trans_a: bool, trans_b: bool, bias: bool) {
        let mut trial = Trial::new(seed);
        let mut inputs = vec![
            trial.operand("a", &if trans_a { [k, m] } else { [m, k] }),
            trial.operand("b", &if trans_b { [n, k] } else { [k, n] }),
        ];
        if bias {
            inputs.push(trial.operand("c", &[n]));
        }
        let y = trial.graph.add("y", Op::Gemm(Gemm { trans_a, trans_b }), &inputs);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn add_and_mul(
        seed: u64, mul: bool, shape in prop::collection::vec(1usize..5, 4), ones in prop::collection::vec(0usize..4, 4),
        swap: bool,
    ) {
        let mut trial = Trial::new(seed);
        let broadcast: Vec<usize> = shape.iter().zip(ones).map(|(&d, one)| if one == 0 { 1 } else { d }).collect();
        let mut inputs = vec![trial.operand("a", &shape), trial.operand("b", &broadcast)];
        if swap {
            inputs.reverse();
        }
        let y = trial.graph.add("y", if mul { Op::Binary(Binary::Mul) } else { Op::Binary(Binary::Add) }, &inputs);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn a_value_that_is_used_twice(seed: u64, n in 1usize..4, c in 1usize..12) {
        let mut trial = Trial::new(seed);
        let x = trial.operand("x", &[n, c, 2, 3]);
        let square = trial.graph.add("square", Op::Binary(Binary::Mul), &[x, x]).unwrap();
        let y = trial.graph.add("y", Op::Binary(Binary::Add), &[square, x]);
        // The central difference of a parabola is its slope.
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn relu_and_clip(seed: u64, n in 1usize..3, c in 1usize..20, pixels in 1usize..5, bounds in prop::option::of((-16i8..1, 1i8..16))) {
        let mut trial = Trial::new(seed);
        let x = trial.distinct("x", &[n, c, pixels, 1]);
        let op = match bounds {
            None => Op::Unary(Unary::Relu),
            Some((low, high)) => Op::Unary(Unary::Clip(Clip { min: f32::from(low) / 8.0, max: f32::from(high) / 8.0 })),
        };
        let y = trial.graph.add("y", op, &[x]);
        trial.check(y, Kind::Linear(1.0 / 32.0))?;
    }

    #[test]
    fn sigmoid(seed: u64, n in 1usize..4, c in 1usize..20) {
        let mut trial = Trial::new(seed);
        let x = trial.operand("x", &[n, c]);
        let y = trial.graph.add("y", Op::Unary(Unary::Sigmoid), &[x]);
        trial.check(y, Kind::Smooth(1.0 / 8.0, 1e-4))?;
    }

    #[test]
    fn max_pool(seed: u64, n in 1usize..3, c in 1usize..10, axes in [side(2), side(2)], ceil: bool) {
        let mut trial = Trial::new(seed);
        let ([h, w], pool) = pool(axes, ceil);
        let x = trial.distinct("x", &[n, c, h, w]);
        let y = trial.graph.add("y", Op::Pool(Pooling::Max(pool)), &[x]);
        trial.check(y, Kind::Linear(1.0 / 32.0))?;
    }

    #[test]
    fn average_pool(seed: u64, n in 1usize..3, c in 1usize..10, axes in [side(2), side(2)], ceil: bool, count_include_pad: bool) {
        let mut trial = Trial::new(seed);
        let ([h, w], pool) = pool(axes, ceil);
        let x = trial.operand("x", &[n, c, h, w]);
        let y = trial.graph.add("y", Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad })), &[x]);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn global_average_pool_and_flatten(seed: u64, n in 1usize..3, c in 1usize..20, h in 1usize..6, w in 1usize..6, axis in 0usize..5) {
        let mut trial = Trial::new(seed);
        let x = trial.operand("x", &[n, c, h, w]);
        let mean = trial.graph.add("mean", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
        let sum = trial.graph.add("sum", Op::Binary(Binary::Add), &[x, mean]).unwrap();
        let y = trial.graph.add("y", Op::Shape(ShapeOp::Flatten { axis }), &[sum]);
        trial.check(y, Kind::Linear(0.5))?;
    }

    #[test]
    fn batch_norm(seed: u64, n in 2usize..4, c in 1usize..20, h in 2usize..4, w in 1usize..4, frozen: bool) {
        let mut trial = Trial::new(seed);
        let x = trial.operand("x", &[n, c, h, w]);
        let vectors = ["weight", "bias"].map(|name| trial.operand(name, &[c]));
        let mean = trial.parameter("mean", Tensor::full([c], 0.25), Role::Buffer);
        let var = trial.parameter("var", Tensor::full([c], 0.75), Role::Buffer);
        let inputs = [x, vectors[0], vectors[1], mean, var];
        let op = if frozen { "FrozenBatchNorm" } else { "TrainingBatchNorm" };
        let y = add_operator(&mut trial.graph, op, &json!({ "epsilon": 0.25, "momentum": 0.1 }), &inputs);
        trial.check(y.map(|y| y[0]), Kind::Smooth(1.0 / 16.0, 1e-3))?;
    }

    #[test]
    fn softmax(seed: u64, n in 1usize..4, c in 1usize..20, pixels in prop::option::of(1usize..4)) {
        let mut trial = Trial::new(seed);
        let x = match pixels {
            None => trial.operand("x", &[n, c]),
            Some(w) => trial.operand("x", &[n, c, 2, w]),
        };
        let y = trial.graph.add("y", Op::Softmax { axis: 1 }, &[x]);
        trial.check(y, Kind::Smooth(1.0 / 8.0, 1e-4))?;
    }

    #[test]
    fn cross_entropy(seed: u64, n in 1usize..6, c in 1usize..20, label_smoothing in 0f32..0.9, weighted: bool) {
        let mut trial = Trial::new(seed);
        let logits = trial.operand("logits", &[n, c]);
        let labels = (0..n).map(|_| trial.random.below(c) as i64).collect();
        let mut inputs = vec![logits, trial.input("labels", Tensor::i64([n], labels))];
        if weighted {
            let weights = (0..c).map(|_| trial.random.range(0.25, 2.0)).collect();
            inputs.push(trial.input("class_weights", Tensor::f32([c], weights)));
        }
        let y = trial.graph.add("y", Op::SoftmaxCrossEntropyLoss(CrossEntropy { label_smoothing }), &inputs);
        trial.check(y, Kind::Smooth(1.0 / 8.0, 1e-4))?;
    }

    #[test]
    fn dropout(seed: u64, n in 1usize..4, c in 1usize..30, ratio in 0f32..0.9, layer: u64, keys in prop::collection::vec(any::<i64>(), 4)) {
        let mut trial = Trial::new(seed);
        let x = trial.operand("x", &[n, c]);
        let keys = trial.input("keys", Tensor::i64([n], keys[..n].to_vec()));
        let y = trial.graph.add("y", Op::Train(TrainOp::Dropout { ratio, layer }), &[x, keys]);
        trial.check(y, Kind::Linear(0.5))?;
    }
}

#[test]
fn dropout_keeps_the_right_part_and_depends_on_key_and_layer_only() {
    let (n, c, ratio) = (40, 500, 0.3);
    let build = |layer| {
        let mut graph = Graph::new("dropout");
        let x = graph.add_input(
            "x",
            DType::F32,
            Shape::from_iter(["batch".into(), offshoot_graph::Dim::from(c)]),
        );
        let keys = graph.add_input("keys", DType::I64, Shape::from_iter(["batch"]));
        let y = graph.add("y", Op::Train(TrainOp::Dropout { ratio, layer }), &[x, keys]).unwrap();
        graph.add_output("y", y);
        graph
    };
    let masked = |layer, keys: &[i64]| {
        let x = Tensor::full([keys.len(), c], 2.0);
        let keys = Tensor::i64([keys.len()], keys.to_vec());
        let inputs = [("x", &x), ("keys", &keys)];
        let y = run(&executor(Isa::best()), &build(layer), &inputs, &Weights::new());
        y["y"].as_f32().unwrap().to_vec()
    };
    let keys: Vec<i64> = (0..n).map(|i| i * i - 7).collect();
    let y = masked(3, &keys);
    let kept = y.iter().filter(|&&v| v != 0.0).count() as f64;
    assert!(y.iter().all(|&v| v == 0.0 || (v - 2.0 / 0.7).abs() < 1e-6));
    // Five standard deviations of a binomial count.
    let all = n as f64 * c as f64;
    assert!((kept - 0.7 * all).abs() < 5.0 * (0.7 * 0.3 * all).sqrt(), "{kept} of {all}");
    // Another batch, another place: the same mask. Another layer or key: another.
    assert_eq!(masked(3, &[keys[5], keys[2]]), [&y[5 * c..6 * c], &y[2 * c..3 * c]].concat());
    assert_ne!(masked(4, &keys[..1]), y[..c]);
    assert_ne!(y[..c], y[c..2 * c]);
    // Neighboring elements are not tied: pairs are kept together as often as independence says.
    let pairs = y.chunks_exact(2).filter(|p| p[0] != 0.0 && p[1] != 0.0).count() as f64;
    assert!((pairs - 0.49 * all / 2.0).abs() < 5.0 * (0.49 * 0.51 * all / 2.0).sqrt(), "{pairs}");
}
