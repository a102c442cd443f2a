//! The Gaussian error linear unit as several operators.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{Binary, Op, Unary};

/// Each x (1 + erf(x / sqrt 2)) / 2 that the graph computes operator by operator, in any order of its products, as one
/// [`Unary::Gelu`]. Files of opsets before 20 have no other way to say it.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn recognize_gelu(graph: &Graph) -> Result<Graph, GraphError> {
    let search = Search::new(graph);
    let found: HashMap<ValueId, ValueId> = graph.nodes().iter().filter_map(|erf| search.gelu(erf)).collect();
    if found.is_empty() {
        return Ok(graph.clone());
    }
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        match found.get(&node.outputs[0]) {
            Some(&x) => {
                let x = rewriter.get(x);
                let y = rewriter.new.add(&node.name, Op::Unary(Unary::Gelu), &[x])?;
                rewriter.set(node.outputs[0], y);
            }
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

struct Search<'a> {
    graph: &'a Graph,
    /// The nodes that read each value; outputs of the graph count as read twice.
    readers: Vec<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Search<'a> {
        let mut readers = vec![Vec::new(); graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|v| readers[v.index()].push(index));
        }
        for (_, output) in graph.outputs() {
            readers[output.index()].extend([usize::MAX; 2]);
        }
        Search { graph, readers }
    }

    /// The result and the operand of the Gelu around the node `erf`.
    fn gelu(&self, erf: &Node) -> Option<(ValueId, ValueId)> {
        let scaled = if erf.op == Op::Unary(Unary::Erf) { self.maker(erf.inputs[0])? } else { return None };
        let x = self.times(scaled, std::f32::consts::FRAC_1_SQRT_2)?;
        let sum = self.reader(erf.outputs[0])?;
        let one = self.other(sum, erf.outputs[0])?;
        if sum.op != Op::Binary(Binary::Add) || !self.is_number(one, 1.0) {
            return None;
        }
        // x and a half are multiplied to the sum, one after the other in any order, or together.
        let product = self.reader(sum.outputs[0]).filter(|n| n.op == Op::Binary(Binary::Mul))?;
        let factor = self.other(product, sum.outputs[0])?;
        let half_of = |value| self.maker(value).and_then(|node| self.times(node, 0.5));
        if half_of(factor) == Some(x) {
            return Some((product.outputs[0], x));
        }
        let last = self.reader(product.outputs[0]).filter(|n| n.op == Op::Binary(Binary::Mul))?;
        let other = self.other(last, product.outputs[0])?;
        let whole = factor == x && self.is_number(other, 0.5) || self.is_number(factor, 0.5) && other == x;
        whole.then_some((last.outputs[0], x))
    }

    fn maker(&self, value: ValueId) -> Option<&'a Node> {
        self.graph.producer(value).map(|n| self.graph.node(n))
    }

    /// The node that alone reads `value`.
    fn reader(&self, value: ValueId) -> Option<&'a Node> {
        match self.readers[value.index()][..] {
            [reader] => self.graph.nodes().get(reader),
            _ => None,
        }
    }

    /// The operand of a node of two beside `value`.
    fn other(&self, node: &Node, value: ValueId) -> Option<ValueId> {
        match node.inputs[..] {
            [a, b] if a == value => Some(b),
            [a, b] if b == value => Some(a),
            _ => None,
        }
    }

    /// What `node` multiplies by `number`.
    fn times(&self, node: &Node, number: f32) -> Option<ValueId> {
        let (Op::Binary(Binary::Mul), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
        if self.is_number(b, number) { Some(a) } else { self.is_number(a, number).then_some(b) }
    }

    /// Whether `value` is a constant that is `number` but for rounding.
    fn is_number(&self, value: ValueId, number: f32) -> bool {
        match &self.graph.value(value).source {
            Source::Constant(tensor) => {
                matches!(tensor.as_f32(), Some(&[x]) if (x - number).abs() <= 1e-6)
            }
            Source::Input | Source::Parameter(_) | Source::Node { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use crate::tensor::{DType, Tensor};

    #[test]
    fn every_order_of_the_products_is_known_and_nothing_else() {
        for order in 0..4 {
            let mut graph = Graph::new("g");
            let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 3]));
            let number = |graph: &mut Graph, x| graph.add_constant("c", Tensor::f32([], vec![x]));
            let root = number(&mut graph, std::f32::consts::FRAC_1_SQRT_2);
            let one = number(&mut graph, if order == 3 { 2.0 } else { 1.0 });
            let half = number(&mut graph, 0.5);
            let mut add = |op: Op, a, b| graph.add("n", op, &[a, b]).unwrap();
            let scaled = add(Op::Binary(Binary::Mul), x, root);
            let halved = add(Op::Binary(Binary::Mul), half, x);
            let erf = graph.add("erf", Op::Unary(Unary::Erf), &[scaled]).unwrap();
            let mut add = |op: Op, a, b| graph.add("n", op, &[a, b]).unwrap();
            let sum = add(Op::Binary(Binary::Add), erf, one);
            let y = match order {
                0 => add(Op::Binary(Binary::Mul), halved, sum),
                1 => {
                    let product = add(Op::Binary(Binary::Mul), sum, half);
                    add(Op::Binary(Binary::Mul), x, product)
                }
                _ => {
                    let product = add(Op::Binary(Binary::Mul), x, sum);
                    add(Op::Binary(Binary::Mul), product, half)
                }
            };
            graph.add_output("y", y);
            let found = recognize_gelu(&graph).unwrap();
            let ops: Vec<&str> = found.nodes().iter().map(|n| n.op.name()).collect();
            assert_eq!(ops == ["Gelu"], order < 3, "{order}: {ops:?}");
        }
    }
}
