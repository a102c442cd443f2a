//! Products of matrices and the softmax between them as one operator, which holds few scores at a time.

use offshoot_graph::op::{Binary, MatMul};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Dim, Graph, GraphError, Node, Op, Source, ValueId};

use super::op::{Attention, CpuOp};

/// Fuses softmax(scale q kᵀ + mask) v, where nothing else reads what is between, whether or not there are a scale and a mask.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_attention(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let uses = graph.use_counts();
    let found: Vec<Option<Found>> = graph.nodes().iter().map(|node| Found::at(graph, &uses, node)).collect();
    let mut swallowed = vec![false; graph.values().len()];
    found.iter().flatten().flat_map(|found| &found.between).for_each(|value| swallowed[value.index()] = true);
    let mut rewriter = Rewriter::new(graph);
    for (node, found) in graph.nodes().iter().zip(&found) {
        match found {
            Some(found) => {
                let inputs: Vec<ValueId> = found.inputs.iter().map(|&v| rewriter.get(v)).collect();
                let y = rewriter.new.add(&node.name, CpuOp::Attention(found.attention), &inputs)?;
                rewriter.set(node.outputs[0], y);
            }
            None if node.outputs.iter().any(|value| swallowed[value.index()]) => {}
            None => rewriter.copy(node)?,
        }
    }
    rewriter.finish()
}

/// An attention that ends in a product with the values.
struct Found {
    attention: Attention,
    inputs: Vec<ValueId>,
    /// What is not computed any more.
    between: Vec<ValueId>,
}

impl Found {
    /// The attention whose last operator is `node`, if it is one on f32.
    fn at(graph: &Graph<CpuOp>, uses: &[usize], node: &Node<CpuOp>) -> Option<Found> {
        let &[parts, v] = product(node, Some(false))? else { return None };
        let inner = |value: ValueId| {
            let only = uses[value.index()] == 1 && graph.value(value).dtype == DType::F32;
            only.then(|| graph.producer(value)).flatten().map(|node| graph.node(node))
        };
        let softmax = inner(parts)?;
        let Op::Softmax { axis } = *softmax.op.plain()? else { return None };
        let mut scores = softmax.inputs[0];
        if axis + 1 != graph.value(scores).shape.rank() {
            return None;
        }
        let mut found = Found {
            attention: Attention { scale: 1.0, keys_first: false, mask: false },
            inputs: Vec::new(),
            between: vec![parts, scores],
        };
        let mut mask = None;
        if let Some(node) = inner(scores)
            && let Some((scaled, other)) = masked(graph, node)
        {
            (scores, mask) = (scaled, Some(other));
            found.between.push(scores);
        }
        if let Some((unscaled, scale)) = inner(scores).and_then(|node| scaled(graph, node)) {
            (scores, found.attention.scale) = (unscaled, scale);
            found.between.push(scores);
        }
        let product_of_scores = inner(scores)?;
        let &[q, k] = product(product_of_scores, None)? else { return None };
        found.attention.keys_first =
            product_of_scores.op == CpuOp::Plain(Op::MatMul(MatMul { trans_a: false, trans_b: true }));
        found.attention.mask = mask.is_some();
        found.inputs = [q, k, v].into_iter().chain(mask).collect();
        Some(found)
    }
}

/// The operands of a product of stacks of matrices whose first one is not transposed, nor the second where `trans_b` says so.
fn product(node: &Node<CpuOp>, trans_b: Option<bool>) -> Option<&[ValueId]> {
    let Op::MatMul(product) = node.op.plain()? else { return None };
    let fits = !product.trans_a && trans_b.is_none_or(|trans_b| product.trans_b == trans_b);
    fits.then_some(&node.inputs)
}

/// What `node` adds to scores, which have the shape of its result: a mask with all keys, broadcast over other axes or not.
fn masked(graph: &Graph<CpuOp>, node: &Node<CpuOp>) -> Option<(ValueId, ValueId)> {
    let (CpuOp::Plain(Op::Binary(Binary::Add)), &[a, b]) = (&node.op, &node.inputs[..]) else { return None };
    let shape = &graph.value(node.outputs[0]).shape;
    let (scores, mask) = if graph.value(a).shape == *shape { (a, b) } else { (b, a) };
    let (dims, given) = (&shape.0, &graph.value(mask).shape.0);
    let ahead = dims.len().checked_sub(given.len())?;
    let pairs = dims[ahead..].iter().zip(given).rev().enumerate();
    let mut fits =
        pairs.map(|(from_last, (dim, given))| dim == given || (from_last > 0 && *given == Dim::Fixed(1)));
    (!given.is_empty() && graph.value(scores).shape == *shape && fits.all(|fits| fits))
        .then_some((scores, mask))
}

/// What `node` multiplies with a number, and the number.
fn scaled(graph: &Graph<CpuOp>, node: &Node<CpuOp>) -> Option<(ValueId, f32)> {
    let (Op::Binary(op), &[a, b]) = (node.op.plain()?, &node.inputs[..]) else { return None };
    let number = |value: ValueId| match &graph.value(value).source {
        Source::Constant(tensor) => {
            tensor.as_f32().filter(|numbers| numbers.len() == 1).map(|numbers| numbers[0])
        }
        _ => None,
    };
    let (x, scale) = match (number(a), number(b)) {
        (_, Some(scale)) if *op == Binary::Mul => (a, scale),
        (Some(scale), None) if *op == Binary::Mul => (b, scale),
        (_, Some(divisor)) if *op == Binary::Div => (a, 1.0 / divisor),
        _ => return None,
    };
    (graph.value(x).shape == graph.value(node.outputs[0]).shape).then_some((x, scale))
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{Role, Shape, Tensor};

    use super::super::optimize;
    use super::*;

    /// The attentions of softmax(scores) v, where `scores` makes scores from q kᵀ of [2, 5, 5].
    fn found(scores: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Vec<Attention> {
        let mut graph = Graph::new("attention");
        let shape = || Shape(vec![Dim::symbol("n"), 5.into(), 4.into()]);
        let [q, k, v] = ["q", "k", "v"].map(|name| graph.add_input(name, DType::F32, shape()));
        let product = |trans_b| Op::MatMul(MatMul { trans_a: false, trans_b });
        let x = graph.add("scores", product(true), &[q, k]).unwrap();
        let x = scores(&mut graph, x);
        let x = graph.add("parts", Op::Softmax { axis: 2 }, &[x]).unwrap();
        let y = graph.add("y", product(false), &[x, v]).unwrap();
        graph.add_output("y", y);
        let attention = |node: &Node<CpuOp>| {
            if let CpuOp::Attention(attention) = &node.op { Some(*attention) } else { None }
        };
        optimize(&graph).unwrap().nodes().iter().filter_map(attention).collect()
    }

    fn with_number(graph: &mut Graph, op: Binary, x: ValueId, number: f32) -> ValueId {
        let number = graph.add_constant("number", Tensor::f32([1], vec![number]));
        graph.add("scaled", Op::Binary(op), &[x, number]).unwrap()
    }

    fn with_mask(graph: &mut Graph, x: ValueId, shape: &[usize]) -> ValueId {
        let mask = graph.add_parameter("mask", shape, Role::Weight);
        graph.add("masked", Op::Binary(Binary::Add), &[mask, x]).unwrap()
    }

    #[test]
    fn a_scale_and_a_mask_belong_to_it() {
        let plain = Attention { scale: 1.0, keys_first: true, mask: false };
        assert_eq!(found(|_, x| x), [plain]);
        assert_eq!(
            found(|graph, x| with_number(graph, Binary::Mul, x, 0.25)),
            [Attention { scale: 0.25, ..plain }]
        );
        let both = found(|graph, x| {
            let x = with_number(graph, Binary::Div, x, 4.0);
            with_mask(graph, x, &[1, 5, 5])
        });
        assert_eq!(both, [Attention { scale: 0.25, mask: true, ..plain }]);
    }

    #[test]
    fn what_others_read_or_do_in_between_keeps_it_apart() {
        assert_eq!(found(|graph, x| with_number(graph, Binary::Add, x, 1.0)), [], "one number is no mask");
        assert_eq!(found(|graph, x| with_mask(graph, x, &[5, 1])), [], "one number for all keys");
        let read = found(|graph, x| {
            graph.add_output("scores", x);
            x
        });
        assert_eq!(read, []);
    }
}
