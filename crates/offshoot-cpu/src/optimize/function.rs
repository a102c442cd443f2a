//! Functions of one tensor of bytes: whatever stands between its DequantizeLinear and a QuantizeLinear and works element by
//! element, however often it is rounded in between.

use std::collections::HashMap;

use offshoot_graph::op::{Binary, ShapeOp, Unary};
use offshoot_graph::{DType, Graph, Node, Op, ValueId};

use super::op::Steps;
use super::quantized::{constant, steps};

/// A part of a function of a byte. Operands are the places of earlier parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Term {
    /// The byte.
    Byte,
    /// A number that does not depend on it.
    Number(f32),
    /// What a byte stands for.
    Dequantize(usize, Steps),
    /// A function of one number.
    Unary(Unary, usize),
    /// A function of two.
    Binary(Binary, [usize; 2]),
    /// The byte that stands for a number.
    Quantize(usize, Steps),
}

impl Term {
    /// The same part, with its operands at other places.
    fn moved(self, place: impl Fn(usize) -> usize) -> Term {
        match self {
            Term::Byte | Term::Number(_) => self,
            Term::Dequantize(x, steps) => Term::Dequantize(place(x), steps),
            Term::Unary(op, x) => Term::Unary(op, place(x)),
            Term::Binary(op, operands) => Term::Binary(op, operands.map(place)),
            Term::Quantize(x, steps) => Term::Quantize(place(x), steps),
        }
    }

    fn operands(self) -> Vec<usize> {
        match self {
            Term::Byte | Term::Number(_) => Vec::new(),
            Term::Dequantize(x, _) | Term::Unary(_, x) | Term::Quantize(x, _) => vec![x],
            Term::Binary(_, operands) => operands.to_vec(),
        }
    }
}

/// The most parts of a function: what is longer goes by way of bytes.
const MOST: usize = 256;

/// A part, and what its function is of.
struct Part {
    term: Term,
    /// The bytes; none of a number.
    of: Option<ValueId>,
    /// Parts of the function, at most.
    size: usize,
}

/// The values of a graph that are functions of one tensor of bytes.
pub(super) struct Functions<'a> {
    graph: &'a Graph,
    parts: Vec<Part>,
    /// The last part of each value.
    places: HashMap<ValueId, usize>,
}

impl<'a> Functions<'a> {
    pub(super) fn of(graph: &'a Graph) -> Functions<'a> {
        let mut functions = Functions { graph, parts: Vec::new(), places: HashMap::new() };
        for node in graph.nodes() {
            if let Some(place) = functions.visit(node) {
                functions.places.insert(node.outputs[0], place);
            }
        }
        functions
    }

    /// The bytes that `value`, bytes too, is a function of, and the parts of that function in order.
    pub(super) fn get(&self, value: ValueId) -> Option<(ValueId, Vec<Term>)> {
        let &last = self.places.get(&value)?;
        let source = self.parts[last].of?;
        let mut needed = vec![last];
        let mut next = 0;
        while let Some(&place) = needed.get(next) {
            next += 1;
            for operand in self.parts[place].term.operands() {
                if !needed.contains(&operand) {
                    needed.push(operand);
                }
            }
        }
        // Operands stand before what reads them.
        needed.sort_unstable();
        let place = |old: usize| needed.binary_search(&old).unwrap_or_default();
        let terms = needed.iter().map(|&old| self.parts[old].term.moved(place)).collect();
        Some((source, terms))
    }

    /// The last part of what `node` makes, where it is such a function.
    fn visit(&mut self, node: &Node) -> Option<usize> {
        if matches!(node.op, Op::DequantizeLinear { .. }) {
            let (q, steps) = (node.inputs[0], steps(self.graph, node)?);
            if self.graph.value(q).dtype != DType::U8 {
                return None;
            }
            let byte = match self.places.get(&q) {
                Some(&place) => place,
                None => self.push(Term::Byte, Some(q))?,
            };
            return self.push(Term::Dequantize(byte, steps), None);
        }
        if matches!(node.op, Op::QuantizeLinear { .. }) {
            let (&x, steps) = (self.places.get(&node.inputs[0])?, steps(self.graph, node)?);
            return self.push(Term::Quantize(x, steps), None);
        }
        if let Op::Unary(op) = node.op {
            return self.push(Term::Unary(op, *self.places.get(&node.inputs[0])?), None);
        }
        if node.op == Op::Shape(ShapeOp::Identity) {
            return self.places.get(&node.inputs[0]).copied();
        }
        let Op::Binary(op) = node.op else { return None };
        let operands = [self.operand(node, 0)?, self.operand(node, 1)?];
        self.push(Term::Binary(op, operands), None)
    }

    /// An operand of the shape of the result, or one number.
    fn operand(&mut self, node: &Node, input: usize) -> Option<usize> {
        let value = node.inputs[input];
        if let Some(&[number]) = constant(self.graph, value).and_then(|tensor| tensor.as_f32()) {
            let last = self.parts.len();
            self.parts.push(Part { term: Term::Number(number), of: None, size: 1 });
            return Some(last);
        }
        let same = self.graph.value(value).shape == self.graph.value(node.outputs[0]).shape;
        self.places.get(&value).copied().filter(|_| same)
    }

    /// The place of a new part, of a function of the bytes `of` or of those that its operands are functions of.
    fn push(&mut self, term: Term, of: Option<ValueId>) -> Option<usize> {
        let (mut of, mut size) = (of, 1);
        for operand in term.operands() {
            let part = &self.parts[operand];
            size += part.size;
            match (of, part.of) {
                (Some(one), Some(other)) if one != other => return None,
                _ => of = of.or(part.of),
            }
        }
        (of.is_some() && size <= MOST).then(|| {
            self.parts.push(Part { term, of, size });
            self.parts.len() - 1
        })
    }
}
