//! Functions of bytes: the optimized plan gives the bytes that the operators give one by one.

use offshoot_cpu::Isa;
use offshoot_graph::op::{BatchNormalization, Binary, Norm, Pooling, Unary};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Data, Dim, Graph, Op, Operator, Shape, Tensor, ValueId, Weights};
use proptest::prelude::*;

use crate::support::{executors, run, unoptimized};

/// A graph of functions of bytes, made of choices.
struct Maker<'a> {
    graph: Graph,
    choices: &'a [u16],
    /// Floats behind a DequantizeLinear or functions of such: those of the shape of the input, and those of one pixel.
    wide: Vec<ValueId>,
    narrow: Vec<ValueId>,
    names: usize,
}

impl Maker<'_> {
    fn below(&mut self, n: usize) -> usize {
        let Some((&first, rest)) = self.choices.split_first() else { return 0 };
        self.choices = rest;
        usize::from(first) % n
    }

    fn add(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.names += 1;
        self.graph.add(&format!("n{}", self.names), op, inputs).unwrap()
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.names += 1;
        self.graph.add_constant(&format!("c{}", self.names), tensor)
    }

    /// x by way of bytes.
    fn rounded(&mut self, x: ValueId) -> ValueId {
        let scale = [0.02, 0.0371, 0.125, 0.004][self.below(4)];
        let scale = self.constant(Tensor::f32([], vec![scale]));
        let zero = self.below(256);
        let zero =
            if self.below(2) == 0 { Data::U8(vec![zero as u8]) } else { Data::I8(vec![zero as u8 as i8]) };
        let zero = self.constant(Tensor::new([], zero).unwrap());
        let q = self.add(Op::QuantizeLinear { axis: 0 }, &[x, scale, zero]);
        self.add(Op::DequantizeLinear { axis: 0 }, &[q, scale, zero])
    }

    fn one_of(&mut self, values: &[ValueId]) -> ValueId {
        let index = self.below(values.len());
        values[index]
    }

    /// Another function of some of the values, now and then rounded.
    fn step(&mut self, channels: usize) {
        let is_wide = self.below(3) > 0;
        let values = if is_wide { self.wide.clone() } else { self.narrow.clone() };
        let x = self.one_of(&values);
        let y = match self.below(6) {
            5 if is_wide => {
                let vectors = [0.3, -0.1, 0.2, 0.7].map(|step| {
                    let row = (0..channels).map(|c| c as f32 * 0.01 + step).collect();
                    self.constant(Tensor::f32([channels], row))
                });
                let norm = Norm::Batch(BatchNormalization { epsilon: 1e-5, momentum: 0.1 });
                self.add(Op::Norm(norm), &[&[x], &vectors[..]].concat())
            }
            0 | 1 => {
                // (What a product of x and one of these is recognized as is computed otherwise.)
                let gate = |op: &Unary| matches!(op, Unary::HardSigmoid(_) | Unary::Softplus);
                let all: Vec<Unary> = Unary::ALL.iter().copied().filter(|op| !gate(op)).collect();
                let op = all[self.below(all.len())];
                self.add(Op::Unary(op), &[x])
            }
            kind => {
                let op = Binary::ALL[self.below(Binary::ALL.len())];
                let other = match kind {
                    2 => self.one_of(&values),
                    3 if is_wide => {
                        let narrow = self.narrow.clone();
                        self.one_of(&narrow)
                    }
                    3 => self.constant(Tensor::f32([], vec![0.3])),
                    _ => {
                        let row = (0..channels).map(|c| c as f32 * 0.2 - 1.0).collect();
                        self.constant(Tensor::f32([channels, 1, 1], row))
                    }
                };
                let operands = if self.below(2) == 0 { [x, other] } else { [other, x] };
                self.add(Op::Binary(op), &operands)
            }
        };
        let y = if self.below(4) > 0 { self.rounded(y) } else { y };
        if is_wide { self.wide.push(y) } else { self.narrow.push(y) }
    }
}

fn check(
    choices: &[u16],
    [batch, channels, height, width]: [usize; 4],
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut graph = Graph::new("bytes");
    let sizes = [channels, height, width].map(Dim::Fixed);
    let x = graph.add_input("x", DType::F32, Shape([vec![Dim::symbol("n")], sizes.to_vec()].concat()));
    let mut maker = Maker { graph, choices, wide: Vec::new(), narrow: Vec::new(), names: 0 };
    let rounded = maker.rounded(x);
    maker.wide.push(rounded);
    let pooled = maker.add(Op::Pool(Pooling::GlobalAverage), &[x]);
    let pooled = maker.rounded(pooled);
    maker.narrow.push(pooled);
    while !maker.choices.is_empty() {
        maker.step(channels);
    }
    for (name, value) in [("wide", maker.wide.pop()), ("narrow", maker.narrow.pop())] {
        let value = maker.rounded(value.unwrap());
        maker.graph.add_output(name, value);
    }
    let mut random = Random::new(seed, 0, 0, Purpose::Init);
    let x = (0..batch * channels * height * width).map(|_| random.normal() * 2.0).collect();
    let x = Tensor::f32([batch, channels, height, width], x);
    for isa in Isa::available() {
        let wanted = run(&unoptimized(isa), &maker.graph, &[("x", &x)], &Weights::new());
        for executor in executors(isa) {
            let found = run(&executor, &maker.graph, &[("x", &x)], &Weights::new());
            for (name, wanted) in &wanted {
                let bits = |tensor: &Tensor| {
                    tensor.as_f32().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                prop_assert_eq!(bits(&found[name]), bits(wanted), "{} on {}", name, isa);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_optimized_plan_gives_the_bytes_of_the_operators(
        choices in proptest::collection::vec(any::<u16>(), 0..80),
        sizes in [1usize..4, 1usize..70, 1usize..6, 1usize..6], seed in 0u64..1000,
    ) {
        check(&choices, sizes, seed)?;
    }
}

/// What becomes of a function x * sigmoid(x) whose two steps are rounded, times a number for each channel.
#[test]
fn a_chain_between_bytes_is_one_table_and_a_gate_one_pass() {
    let mut graph = Graph::new("bytes");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 20, 5, 3]));
    let mut maker = Maker { graph, choices: &[], wide: Vec::new(), narrow: Vec::new(), names: 0 };
    let x = maker.rounded(x);
    let gate = maker.add(Op::Unary(Unary::Sigmoid), &[x]);
    let gate = maker.rounded(gate);
    let silu = maker.add(Op::Binary(Binary::Mul), &[x, gate]);
    let silu = maker.rounded(silu);
    let mean = maker.add(Op::Pool(Pooling::GlobalAverage), &[silu]);
    let mean = maker.rounded(mean);
    let gated = maker.add(Op::Binary(Binary::Mul), &[mean, silu]);
    let gated = maker.rounded(gated);
    maker.graph.add_output("y", gated);
    let optimized = offshoot_cpu::optimize::optimize(&maker.graph).unwrap();
    let names: Vec<&str> = optimized.nodes().iter().map(|node| node.op.name()).collect();
    let wanted = [
        "QuantizeLinear",
        "Quantized.Function",
        "Quantized.GlobalAveragePool",
        "DequantizeLinear",
        "Quantized.Binary",
        "DequantizeLinear",
    ];
    assert_eq!(names, wanted);
}
