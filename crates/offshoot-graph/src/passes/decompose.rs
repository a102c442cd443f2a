//! Operators as other ones, for formats that do not have them.

use std::collections::HashSet;

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Clip, HardSigmoid, MatMul, Op, ShapeOp, Unary};
use crate::tensor::Tensor;

/// The graph with other operators in place of each [`Unary`] that `has` does not hold for, where there are such. The
/// others stay as they are.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn decompose(graph: &Graph, has: impl Fn(Unary) -> bool) -> Result<Graph, GraphError> {
    // HardSwish has a HardSigmoid among its parts, and no part of that one has parts.
    replaced(&replaced(graph, &has)?, &has)
}

/// The graph with Transposes of the last two axes in front of each [`Op::MatMul`] that uses an operand so.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn plain_products(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let (&Op::MatMul(MatMul { trans_a, trans_b }), &[a, b]) = (&node.op, &node.inputs[..]) else {
            rewriter.copy(node)?;
            continue;
        };
        let mut inputs = [rewriter.get(a), rewriter.get(b)];
        for (input, (transposed, suffix)) in inputs.iter_mut().zip([(trans_a, "a"), (trans_b, "b")]) {
            if transposed {
                let rank = rewriter.new.value(*input).shape.rank();
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 2, rank - 1);
                let name = format!("{}.{suffix}_transposed", node.name);
                *input = rewriter.new.add(&name, Op::Shape(ShapeOp::Transpose { perm }), &[*input])?;
            }
        }
        let y = rewriter.new.add(&node.name, Op::MatMul(MatMul::default()), &inputs)?;
        rewriter.set(node.outputs[0], y);
    }
    rewriter.finish()
}

fn replaced(graph: &Graph, has: &impl Fn(Unary) -> bool) -> Result<Graph, GraphError> {
    if !graph.nodes().iter().any(|node| matches!(node.op, Op::Unary(unary) if !has(unary))) {
        return Ok(graph.clone());
    }
    let names = graph.values().map(|(_, value)| value.name.clone()).collect();
    let mut parts = Parts { rewriter: Rewriter::new(graph), names, node: String::new() };
    for node in graph.nodes() {
        let Op::Unary(unary) = node.op else {
            parts.rewriter.copy(node)?;
            continue;
        };
        let x = parts.rewriter.get(node.inputs[0]);
        parts.node.clone_from(&node.name);
        match if has(unary) { None } else { parts.of(unary, x)? } {
            Some(y) => parts.rewriter.set(node.outputs[0], y),
            None => parts.rewriter.copy(node)?,
        }
    }
    parts.rewriter.finish()
}

struct Parts<'a> {
    rewriter: Rewriter<'a>,
    names: HashSet<String>,
    /// The name of the node that is replaced, which its last part gets.
    node: String,
}

impl Parts<'_> {
    /// The function of `x` by other operators; `None` where it has no other form.
    fn of(&mut self, unary: Unary, x: ValueId) -> Result<Option<ValueId>, GraphError> {
        match unary {
            Unary::HardSwish => {
                let gate = Unary::HardSigmoid(HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 });
                self.gated(x, &[gate]).map(Some)
            }
            Unary::Silu => self.gated(x, &[Unary::Sigmoid]).map(Some),
            Unary::Mish => self.gated(x, &[Unary::Softplus, Unary::Tanh]).map(Some),
            Unary::Gelu => {
                let scaled = self.by(x, Binary::Mul, std::f32::consts::FRAC_1_SQRT_2, "scaled")?;
                let erf = self.part("erf", Op::Unary(Unary::Erf), &[scaled])?;
                let sum = self.by(erf, Binary::Add, 1.0, "sum")?;
                let product = self.part("product", Op::Binary(Binary::Mul), &[x, sum])?;
                self.by(product, Binary::Mul, 0.5, "").map(Some)
            }
            Unary::HardSigmoid(HardSigmoid { alpha, beta }) => {
                let scaled = self.by(x, Binary::Mul, alpha, "scaled")?;
                let line = self.by(scaled, Binary::Add, beta, "line")?;
                self.part("", Op::Unary(Unary::Clip(Clip { min: 0.0, max: 1.0 })), &[line]).map(Some)
            }
            Unary::Reciprocal => {
                let name = self.unused("one");
                let one = self.rewriter.new.add_constant(&name, Tensor::f32([], vec![1.0]));
                self.part("", Op::Binary(Binary::Div), &[one, x]).map(Some)
            }
            Unary::Neg => self.by(x, Binary::Mul, -1.0, "").map(Some),
            Unary::Relu
            | Unary::Clip(_)
            | Unary::Sigmoid
            | Unary::Erf
            | Unary::Tanh
            | Unary::Exp
            | Unary::Log
            | Unary::Sqrt
            | Unary::Abs
            | Unary::Softplus
            | Unary::LeakyRelu(_)
            | Unary::Elu(_) => Ok(None),
        }
    }

    /// x times a chain of functions of x.
    fn gated(&mut self, x: ValueId, chain: &[Unary]) -> Result<ValueId, GraphError> {
        let mut gate = x;
        for &unary in chain {
            gate = self.part(&unary.row().name.to_lowercase(), Op::Unary(unary), &[gate])?;
        }
        self.part("", Op::Binary(Binary::Mul), &[x, gate])
    }

    /// A function of `x` and a number.
    fn by(&mut self, x: ValueId, op: Binary, number: f32, suffix: &str) -> Result<ValueId, GraphError> {
        let name = self.unused(&format!("{suffix}.number"));
        let number = self.rewriter.new.add_constant(&name, Tensor::f32([], vec![number]));
        self.part(suffix, Op::Binary(op), &[x, number])
    }

    fn part(&mut self, suffix: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let name = if suffix.is_empty() { self.node.clone() } else { self.unused(suffix) };
        self.rewriter.new.add(&name, op, inputs)
    }

    fn unused(&mut self, suffix: &str) -> String {
        let mut name = format!("{}.{}", self.node, suffix.trim_start_matches('.'));
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use crate::tensor::DType;

    #[test]
    fn what_a_format_lacks_becomes_operators_that_it_has() {
        let simple = |unary: Unary| {
            !matches!(
                unary,
                Unary::HardSwish
                    | Unary::Silu
                    | Unary::Mish
                    | Unary::Gelu
                    | Unary::HardSigmoid(_)
                    | Unary::Neg
                    | Unary::Reciprocal
            )
        };
        for &unary in Unary::ALL {
            let mut graph = Graph::new("g");
            let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
            // A name that a part would take.
            let x = graph.add("y.sigmoid", Op::Unary(Unary::Relu), &[x]).unwrap();
            let y = graph.add("y", Op::Unary(unary), &[x]).unwrap();
            graph.add_output("y", y);
            let parts = decompose(&graph, simple).unwrap();
            let lacking = |node: &crate::graph::Node| matches!(node.op, Op::Unary(u) if !simple(u));
            assert!(!parts.nodes().iter().any(lacking), "{unary:?}");
            assert_eq!(parts.nodes().last().unwrap().name, "y");
            assert_eq!(parts.nodes().last().unwrap().op == Op::Unary(unary), simple(unary), "{unary:?}");
        }
    }
}
