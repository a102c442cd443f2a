//! Functions that are a value times a gate of it, where a file spells them out.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Source, ValueId};
use crate::op::{Binary, Clip, HardSigmoid, Op, Unary};

/// The products of a value and its own gate as the one function that they are: [`Unary::Silu`], [`Unary::Mish`] and
/// [`Unary::HardSwish`], the last one with the numbers 3 and 6 in any place.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn recognize_gated(graph: &Graph) -> Result<Graph, GraphError> {
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        match gated(graph, node).or_else(|| hard_swish_divided_last(graph, node)) {
            Some((function, x)) => {
                let x = rewriter.get(x);
                let y = rewriter.new.add(&node.name, Op::Unary(function), &[x])?;
                rewriter.set(node.outputs[0], y);
            }
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// The function and x, when `node` computes x gate(x).
fn gated(graph: &Graph, node: &Node) -> Option<(Unary, ValueId)> {
    let (Op::Binary(Binary::Mul), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let of = |x: ValueId, gate: ValueId| Some((function_of_gate(graph, gate, x)?, x));
    of(a, b).or_else(|| of(b, a))
}

/// The function whose gate of `x` is `gate`.
fn function_of_gate(graph: &Graph, gate: ValueId, x: ValueId) -> Option<Unary> {
    let node = maker(graph, gate)?;
    let is = |node: &Node, function: Unary| node.op == Op::Unary(function) && node.inputs[0] == x;
    if is(node, Unary::Sigmoid) {
        return Some(Unary::Silu);
    }
    let softplus = || maker(graph, node.inputs[0]).is_some_and(|inner| is(inner, Unary::Softplus));
    if node.op == Op::Unary(Unary::Tanh) && softplus() {
        return Some(Unary::Mish);
    }
    let hard_swish = is(node, Unary::HardSigmoid(HARD_SWISH))
        || divided_by_six(graph, node).is_some_and(|gate| is_six_times_gate(graph, gate, x));
    hard_swish.then_some(Unary::HardSwish)
}

/// The gate of HardSwish.
const HARD_SWISH: HardSigmoid = HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };

/// HardSwish and x, when `node` divides x Clip(x + 3, 0, 6) by 6.
fn hard_swish_divided_last(graph: &Graph, node: &Node) -> Option<(Unary, ValueId)> {
    let product = maker(graph, divided_by_six(graph, node)?)?;
    let (Op::Binary(Binary::Mul), &[a, b]) = (&product.op, &product.inputs[..]) else { return None };
    let of = |x: ValueId, gate: ValueId| is_six_times_gate(graph, gate, x).then_some((Unary::HardSwish, x));
    of(a, b).or_else(|| of(b, a))
}

/// Whether `value` is Clip(x + 3, 0, 6).
fn is_six_times_gate(graph: &Graph, value: ValueId, x: ValueId) -> bool {
    let Some(clip) = maker(graph, value) else { return false };
    let clips = clip.op == Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 }));
    let Some(sum) = maker(graph, clip.inputs[0]).filter(|sum| clips && sum.op == Op::Binary(Binary::Add))
    else {
        return false;
    };
    let adds = |own: usize| sum.inputs[own] == x && number(graph, sum.inputs[1 - own]) == Some(3.0);
    adds(0) || adds(1)
}

/// What `node` divides by 6, or multiplies with a sixth.
fn divided_by_six(graph: &Graph, node: &Node) -> Option<ValueId> {
    let (Op::Binary(op), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let numbers = [a, b].map(|operand| number(graph, operand));
    let sixth = Some(HARD_SWISH.alpha);
    if *op == Binary::Div && numbers[1] == Some(6.0) || *op == Binary::Mul && numbers[1] == sixth {
        return Some(a);
    }
    (*op == Binary::Mul && numbers[0] == sixth).then_some(b)
}

fn maker(graph: &Graph, value: ValueId) -> Option<&Node> {
    graph.producer(value).map(|node| graph.node(node))
}

/// The number that a constant of one element, which changes no shape, is.
fn number(graph: &Graph, value: ValueId) -> Option<f32> {
    let Source::Constant(tensor) = &graph.value(value).source else { return None };
    tensor
        .as_f32()
        .filter(|numbers| numbers.len() == 1 && tensor.shape().len() <= 1)
        .map(|numbers| numbers[0])
}
