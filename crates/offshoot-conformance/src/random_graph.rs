//! Random graphs that pass the shape rules, which is what a reader of files gives. Tests of several crates take them from here.

mod made;

pub use made::{Made, Outputs};

use std::slice;

use offshoot_graph::model::{BATCH, INPUT};
use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, Clip, Conv, Gemm, LayerNormalization, MatMul, Norm, Pool,
    Pooling, Reduce, SequenceOp, ShapeOp, Unary,
};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Bindings, DType, Data, Dim, Graph, Op, Role, Shape, Tensor, ValueId, Weights};

/// The batch of graphs whose batch is fixed.
const BATCH_OF_TWO: Dim = Dim::Fixed(2);

/// Makes a graph of a list of choices, so that a shorter list is a smaller graph.
#[derive(Debug)]
pub struct Maker<'a> {
    choices: std::slice::Iter<'a, u16>,
    graph: Graph,
    weights: Weights,
    /// All values so far, the input first.
    pub values: Vec<ValueId>,
    random: Random,
}

impl<'a> Maker<'a> {
    /// The graph of `choices`.
    pub fn new(choices: &'a [u16]) -> Maker<'a> {
        let mut maker = Maker {
            choices: choices.iter(),
            graph: Graph::new("random"),
            weights: Weights::new(),
            values: Vec::new(),
            random: Random::new(choices.len() as u64, 0, 0, Purpose::Init),
        };
        let batch = if maker.below(4) == 0 { BATCH_OF_TWO } else { Dim::symbol(BATCH) };
        let [c, h, mut w] = [[3, 3, 3, 1, 8, 17], [8, 14, 2, 7, 1, 19], [1, 3, 7, 8, 14, 20]].map(|of| {
            let index = maker.below(of.len());
            Dim::Fixed(of[index])
        });
        if maker.flip() {
            w = h.clone();
        }
        let x = maker.graph.add_input(INPUT, DType::F32, Shape(vec![batch, c, h, w]));
        maker.values.push(x);
        while maker.choices.len() > 0 {
            maker.step();
        }
        maker
    }

    /// The next choice of `n`; 0 when there are none left.
    fn below(&mut self, n: usize) -> usize {
        self.choices.next().map_or(0, |&choice| usize::from(choice) % n)
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of the values, mostly the last.
    fn value(&mut self) -> ValueId {
        let last = self.values.len() - 1;
        let back = if self.below(4) == 0 { self.below(self.values.len()) } else { 0 };
        self.values[last - back]
    }

    fn dims(&self, value: ValueId) -> Vec<Dim> {
        self.graph.value(value).shape.0.clone()
    }

    /// The size of an axis, if it is known and there.
    fn size(&self, value: ValueId, axis: usize) -> usize {
        self.dims(value).get(axis).and_then(Dim::fixed).unwrap_or(1)
    }

    fn parameter(&mut self, shape: &[usize], role: Role, positive: bool) -> ValueId {
        let name = format!("p{}", self.weights.len());
        let len = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|_| self.random.normal() * 0.3).collect();
        let values = values.into_iter().map(|v| if positive { v.abs() + 0.5 } else { v }).collect();
        self.weights.insert(name.clone(), Tensor::f32(shape, values));
        self.graph.add_parameter(&name, shape, role)
    }

    /// A trainable parameter of random numbers.
    pub fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.parameter(shape, Role::Weight, false)
    }

    /// A constant of one number.
    pub fn number(&mut self, number: f32) -> ValueId {
        self.graph.add_constant("number", Tensor::f32([], vec![number]))
    }

    /// A constant of so many elements that are the same number.
    pub fn numbers(&mut self, count: usize, number: f32) -> ValueId {
        self.graph.add_constant("numbers", Tensor::f32([count], vec![number; count]))
    }

    /// Adds a node, if its inputs fit and it makes no more than 30,000 elements of a batch of 3.
    pub fn add(&mut self, op: Op, inputs: &[ValueId]) -> Option<ValueId> {
        let name = format!("n{}", self.graph.nodes().len());
        let mut graph = self.graph.clone();
        let outputs = graph.add_node(&name, op, inputs).ok()?;
        let batch = Bindings::from([(BATCH.to_string(), 3)]);
        let sizes = graph.value(*outputs.first()?).shape.eval(&batch).ok()?;
        if sizes.iter().product::<usize>() > 30_000 {
            return None;
        }
        self.graph = graph;
        self.values.extend(&outputs);
        outputs.first().copied()
    }

    fn step(&mut self) {
        let x = self.value();
        match self.below(22) {
            0..=2 => {
                self.convolution(x);
            }
            3 => self.separable(x),
            4 => self.norm(x),
            5 | 6 => {
                let op = self.activation();
                self.add(op, &[x]);
            }
            7 => {
                let other = self.value();
                let op = if self.flip() { Op::Binary(Binary::Add) } else { Op::Binary(Binary::Mul) };
                self.add(op, &[x, other]);
            }
            8 => self.constant(x),
            9 => self.pool(x),
            10 => {
                self.add(Op::Pool(Pooling::GlobalAverage), &[x]);
            }
            11 => self.gemm(x),
            12 => self.product(x),
            13 => self.layer_norm(x),
            14 => {
                let last = self.dims(x).len().saturating_sub(1);
                let axis = [last, last, 1, 0][self.below(4)];
                // In a file the batch is open, and an answer may not depend on its other pictures.
                if axis > 0 || self.graph.value(x).shape.0.first() != Some(&BATCH_OF_TWO) {
                    self.add(Op::Softmax { axis }, &[x]);
                }
            }
            15 => self.transpose(x),
            16 => self.reshape(x),
            17 => {
                let (other, axis) = (self.value(), self.below(4));
                self.add(Op::Shape(ShapeOp::Concat { axis }), &[x, other, x]);
            }
            18 => {
                let axis = self.below(4);
                let start = self.below(self.size(x, axis));
                let end = start + 1 + self.below(self.size(x, axis) - start);
                self.add(Op::Shape(ShapeOp::Slice { axis, start, end }), &[x]);
            }
            19 => self.sequence(x),
            20 => self.quantized(x),
            _ => {
                let mut shape = self.dims(x);
                if let Some(axis) = shape.iter().position(|d| d.fixed() == Some(1)) {
                    shape[axis] = Dim::Fixed(1 + self.below(5));
                }
                self.add(Op::Shape(ShapeOp::Expand { shape: Shape(shape) }), &[x]);
            }
        }
    }

    fn activation(&mut self) -> Op {
        match self.below(10) {
            0 | 1 => Op::Unary(Unary::Relu),
            2 => Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 })),
            3 => Op::Unary(Unary::Clip(Clip { min: f32::NEG_INFINITY, max: 0.5 })),
            4..9 => {
                let tame: Vec<Unary> = Unary::ALL
                    .iter()
                    .copied()
                    .filter(|unary| {
                        !matches!(unary, Unary::Log | Unary::Sqrt | Unary::Exp | Unary::Reciprocal)
                    })
                    .collect();
                Op::Unary(tame[self.below(tame.len())])
            }
            _ => Op::Shape(ShapeOp::Identity),
        }
    }

    fn convolution(&mut self, x: ValueId) -> Option<ValueId> {
        let channels = self.size(x, 1);
        let groups: Vec<usize> =
            [1, 2, 4, channels].into_iter().filter(|g| channels.is_multiple_of(*g)).collect();
        let at = self.below(groups.len());
        let group = groups[at];
        let multiple = 1 + self.below(5);
        let out = group * multiple;
        let kernel = [1, 1, 3, 3, 5, 2, 7].map(|k| [k, k]);
        let at = self.below(kernel.len());
        let [r, s] = if self.below(8) == 0 { [1, 3] } else { kernel[at] };
        let dilation = 1 + usize::from(self.below(6) == 0);
        let pads = match self.below(4) {
            0 => [0; 4],
            1 => [0, 0, r / 2, s / 2],
            _ => [r / 2, s / 2, r / 2, s / 2],
        };
        let stride = 1 + usize::from(self.below(3) == 0);
        let conv = Conv { strides: [stride; 2], pads, dilations: [dilation; 2], group };
        self.conv_node(x, [out, channels / group, r, s], conv)
    }

    /// A convolution, with a bias and an activation as it happens.
    fn conv_node(&mut self, x: ValueId, shape: [usize; 4], conv: Conv) -> Option<ValueId> {
        let mut inputs = vec![x, self.weight(&shape)];
        if self.flip() {
            inputs.push(self.weight(&shape[..1]));
        }
        let y = self.add(Op::Conv(conv), &inputs)?;
        match self.below(5) {
            0 => Some(y),
            1 => {
                self.norm(y);
                Some(y)
            }
            _ => {
                let op = self.activation();
                self.add(op, &[y])
            }
        }
    }

    /// Depthwise and pointwise convolutions in turn, as mobile networks have them, from either.
    fn separable(&mut self, x: ValueId) {
        let mut x = x;
        let mut depthwise = self.flip();
        for _ in 0..2 + self.below(5) {
            let channels = self.size(x, 1);
            let made = if depthwise {
                let stride = 1 + usize::from(self.below(4) == 0);
                let kernel = 3 + 2 * self.below(2);
                let conv =
                    Conv { pads: [kernel / 2; 4], strides: [stride; 2], group: channels, ..Conv::default() };
                self.conv_node(x, [channels, 1, kernel, kernel], conv)
            } else {
                let out = [channels, channels * 4 % 97 + 1, 16][self.below(3)];
                self.conv_node(x, [out, channels, 1, 1], Conv::default())
            };
            let Some(y) = made else { return };
            x = if self.below(4) == 0 { self.add(Op::Binary(Binary::Add), &[y, x]).unwrap_or(y) } else { y };
            depthwise = !depthwise;
        }
    }

    /// A batch norm of `x`, with an activation as it happens.
    pub fn norm(&mut self, x: ValueId) {
        let channels = [self.size(x, 1)];
        let inputs = [
            x,
            self.weight(&channels),
            self.weight(&channels),
            self.parameter(&channels, Role::Buffer, false),
            self.parameter(&channels, Role::Buffer, true),
        ];
        let op = Op::Norm(Norm::Batch(BatchNormalization { epsilon: 1e-5, momentum: 0.1 }));
        if let Some(y) = self.add(op, &inputs)
            && self.flip()
        {
            let op = self.activation();
            self.add(op, &[y]);
        }
    }

    /// x with a constant, or with a parameter.
    fn constant(&mut self, x: ValueId) {
        let channels = self.size(x, 1);
        let shape = [vec![], vec![1], vec![channels, 1, 1], vec![self.size(x, 3)]][self.below(4)].clone();
        let len = shape.iter().product();
        let other = if self.flip() {
            self.weight(&shape)
        } else {
            let values = (0..len).map(|_| self.random.normal()).collect();
            self.graph.add_constant("c", Tensor::f32(shape, values))
        };
        let ops = [Binary::Add, Binary::Mul, Binary::Sub, Binary::Max, Binary::Min];
        let op = Op::Binary(ops[self.below(ops.len())]);
        let inputs = if self.flip() { [x, other] } else { [other, x] };
        self.add(op, &inputs);
    }

    fn pool(&mut self, x: ValueId) {
        let kernel = [1 + self.below(3), 1 + self.below(3)];
        let pads =
            if self.flip() { [kernel[0] / 2, kernel[1] / 2, kernel[0] / 2, kernel[1] / 2] } else { [0; 4] };
        let strides = [1 + self.below(2), 1 + self.below(3)];
        let pool = Pool { kernel, strides, pads, ceil_mode: self.flip() };
        let op = match self.below(3) {
            0 => Op::Pool(Pooling::Max(pool)),
            at => Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad: at == 1 })),
        };
        self.add(op, &[x]);
    }

    fn gemm(&mut self, x: ValueId) {
        let x = match self.dims(x).len() {
            2 => Some(x),
            _ => self.add(Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]),
        };
        let Some(x) = x else { return };
        let (inner, out, trans_b) = (self.size(x, 1), 1 + self.below(40), self.flip());
        let weight = self.weight(&if trans_b { [out, inner] } else { [inner, out] });
        let mut inputs = vec![x, weight];
        if self.flip() {
            inputs.push(self.weight(&[out]));
        }
        self.add(Op::Gemm(Gemm { trans_a: false, trans_b }), &inputs);
    }

    fn product(&mut self, x: ValueId) {
        let rank = self.dims(x).len();
        match self.below(4) {
            0 if rank >= 2 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, rank - 2);
                let Some(other) = self.add(Op::Shape(ShapeOp::Transpose { perm }), &[x]) else { return };
                self.add(Op::MatMul(MatMul::default()), &[x, other]);
            }
            1 => drop(self.add(Op::MatMul(MatMul { trans_a: true, trans_b: false }), &[x, x])),
            2 => drop(self.add(Op::MatMul(MatMul { trans_a: false, trans_b: true }), &[x, x])),
            _ => {
                let other = self.weight(&[self.size(x, rank.saturating_sub(1)), 5]);
                self.add(Op::MatMul(MatMul::default()), &[x, other]);
            }
        }
    }

    fn layer_norm(&mut self, x: ValueId) {
        let width = [self.size(x, self.dims(x).len().saturating_sub(1))];
        let inputs = [x, self.weight(&width), self.weight(&width)];
        self.add(Op::Norm(Norm::Layer(LayerNormalization { epsilon: 1e-3 })), &inputs);
    }

    fn transpose(&mut self, x: ValueId) {
        let mut perm: Vec<usize> = (0..self.dims(x).len()).collect();
        for i in (1..perm.len()).rev() {
            let j = self.below(i + 1);
            perm.swap(i, j);
        }
        self.add(Op::Shape(ShapeOp::Transpose { perm }), &[x]);
    }

    fn reshape(&mut self, x: ValueId) {
        let dims = self.dims(x);
        let shape = match (self.below(4), &dims[..]) {
            (0, _) => [&[Dim::Fixed(1)], &dims[..]].concat(),
            (1, [n, c, h, w]) => match (h.fixed(), w.fixed()) {
                (Some(h), Some(w)) => vec![n.clone(), c.clone(), Dim::Fixed(h * w)],
                _ => return,
            },
            (2, [n, c, rest @ ..]) if c.fixed().is_some_and(|c| c % 2 == 0) => {
                [&[n.clone(), Dim::Fixed(2), Dim::Fixed(self.size(x, 1) / 2)], rest].concat()
            }
            (_, [n, c, rest @ ..]) => [slice::from_ref(n), rest, slice::from_ref(c)].concat(),
            _ => return,
        };
        self.add(Op::Shape(ShapeOp::Reshape { shape: Shape(shape) }), &[x]);
    }

    fn sequence(&mut self, x: ValueId) {
        let axis = self.below(4);
        match self.below(4) {
            0 => {
                // Functions that are defined, or stay small, for some numbers only.
                let gate = self.add(Op::Unary(Unary::Sigmoid), &[x]);
                let wild = [Unary::Log, Unary::Sqrt, Unary::Exp, Unary::Reciprocal][self.below(4)];
                gate.and_then(|gate| self.add(Op::Unary(wild), &[gate]))
            }
            1 => {
                let op = Reduce::ALL[self.below(Reduce::ALL.len())];
                self.add(Op::Reduce { op, axis }, &[x])
            }
            2 => {
                let (a, b) = (self.value(), self.value());
                self.add(Op::Sequence(SequenceOp::Where), &[x, a, b])
            }
            _ => {
                let two = self.graph.add_constant("two", Tensor::f32([], vec![2.0]));
                self.add(Op::Binary(Binary::Div), &[x, two])
            }
        };
    }

    /// x by way of bytes.
    fn quantized(&mut self, x: ValueId) {
        let scale = self.graph.add_constant("scale", Tensor::f32([], vec![0.02]));
        let zero = if self.flip() { Data::U8(vec![100]) } else { Data::I8(vec![0]) };
        let zero = self.graph.add_constant("zero", Tensor::new(Vec::new(), zero).unwrap());
        if let Some(q) = self.add(Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]) {
            self.add(Op::DequantizeLinear { axis: 0 }, &[q, scale, zero]);
        }
    }

    /// The graph with the last value, and some others, as outputs.
    pub fn finish(mut self) -> Made {
        let bare = self.graph.clone();
        let floats: Vec<ValueId> =
            self.values.iter().copied().filter(|&v| self.graph.value(v).dtype == DType::F32).collect();
        for (i, &value) in floats.iter().enumerate() {
            if i + 1 == floats.len() || self.random.below(8) == 0 {
                self.graph.add_output(&format!("y{i}"), value);
            }
        }
        Made { graph: self.graph, bare, weights: self.weights, shown: floats }
    }
}

/// Choices for a graph, drawn from `random`.
pub fn choices(random: &mut Random, most: usize) -> Vec<u16> {
    (0..6 + random.below(most)).map(|_| random.below(1 << 16) as u16).collect()
}
