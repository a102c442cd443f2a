//! Products of matrices and the softmax between them as one operator, which holds few scores at a time.

use std::collections::HashMap;

use offshoot_graph::op::{Binary, GradOp, MatMul, ShapeOp};
use offshoot_graph::passes::Rewriter;
use offshoot_graph::{DType, Dim, Graph, GraphError, Node, NodeId, Op, Source, ValueId};

use super::op::{Attention, CpuOp};
use super::readers::Readers;

/// Fuses softmax(scale q kᵀ + mask) v, where nothing else reads what is between, whether or not there are a scale and a mask. In a graph
/// with a backward pass its gradients are fused too.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub(super) fn fuse_attention(graph: &Graph<CpuOp>) -> Result<Graph<CpuOp>, GraphError> {
    let readers = Readers::of(graph);
    let mut places: HashMap<NodeId, Place> = HashMap::new();
    let mut swallowed = vec![false; graph.values().len()];
    let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
    for node in graph.nodes() {
        let Some(mut found) = Found::at(&readers, node) else { continue };
        if found.backward.is_none() {
            replaced.extend(found.take_scales(&readers));
        }
        found.between.iter().for_each(|value| swallowed[value.index()] = true);
        let op = CpuOp::Attention(found.attention);
        places.insert(found.last, Place { op, inputs: found.inputs.clone(), outputs: node.outputs.clone() });
        let Some(backward) = found.backward else { continue };
        let grads = Place {
            op: CpuOp::AttentionGrad(found.attention),
            inputs: found.inputs.into_iter().chain([backward.dy]).collect(),
            outputs: backward.grads.to_vec(),
        };
        places.insert(backward.first, grads);
        backward.grads.iter().for_each(|value| swallowed[value.index()] = true);
    }
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        let id = node.outputs.first().and_then(|&value| graph.producer(value));
        if let Some(place) = id.and_then(|id| places.remove(&id)) {
            let inputs: Vec<ValueId> = place.inputs.iter().map(|&v| rewriter.get(v)).collect();
            let outputs = rewriter.new.add_node(&node.name, place.op, &inputs)?;
            place.outputs.iter().zip(outputs).for_each(|(&old, new)| rewriter.set(old, new));
        } else if let &[output] = &node.outputs[..]
            && let Some(&value) = replaced.get(&output)
        {
            rewriter.set(output, rewriter.get(value));
        } else if !node.outputs.iter().any(|value| swallowed[value.index()]) {
            rewriter.copy(node)?;
        }
    }
    rewriter.finish()
}

/// A fused operator and the values that it makes, where one of the nodes was that it replaces.
struct Place {
    op: CpuOp,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

/// An attention that ends in a product with the values.
struct Found {
    /// The product.
    last: NodeId,
    attention: Attention,
    inputs: Vec<ValueId>,
    /// What is not computed any more.
    between: Vec<ValueId>,
    backward: Option<Backward>,
}

impl Found {
    /// The attention whose last operator is `node`, if it is one on f32, or on halves with a softmax of f32.
    fn at(readers: &Readers<'_>, node: &Node<CpuOp>) -> Option<Found> {
        let graph = readers.graph;
        let &[parts, v] = product(node, Some(false))? else { return None };
        let dtype = graph.value(parts).dtype;
        let probabilities = match dtype {
            DType::F32 => parts,
            DType::BF16 | DType::F16 => readers.cast_from(parts, dtype)?,
            _ => return None,
        };
        let softmax = readers.producer(probabilities)?;
        let Op::Softmax { axis } = *softmax.op.plain()? else { return None };
        let mut scores = softmax.inputs[0];
        if axis + 1 != graph.value(scores).shape.rank() {
            return None;
        }
        let mut found = Found {
            last: graph.producer(node.outputs[0])?,
            attention: Attention { scale: 1.0, keys_first: false, mask: false },
            inputs: Vec::new(),
            between: vec![parts, probabilities, scores],
            backward: None,
        };
        let mut mask = None;
        if let Some(node) = readers.inner(scores)
            && let Some((scaled, other)) = masked(graph, node)
        {
            (scores, mask) = (scaled, Some(other));
            found.between.push(scores);
        }
        if let Some((unscaled, scale)) = readers.inner(scores).and_then(|node| scaled(graph, node)) {
            (scores, found.attention.scale) = (unscaled, scale);
            found.between.push(scores);
        }
        if dtype != DType::F32 {
            readers.only(scores)?;
            scores = readers.cast_from(scores, DType::F32)?;
            found.between.push(scores);
        }
        let product_of_scores = readers.maker(scores)?;
        let &[q, k] = product(product_of_scores, None)? else { return None };
        found.attention.keys_first =
            product_of_scores.op == CpuOp::Plain(Op::MatMul(MatMul { trans_a: false, trans_b: true }));
        found.attention.mask = mask.is_some();
        if graph.value(scores).dtype != dtype {
            return None;
        }
        found.inputs = [q, k, v].into_iter().chain(mask).collect();
        if readers.only(parts).is_some() && readers.only(probabilities).is_some() {
            return Some(found);
        }
        let backward = Backward::of(readers, [parts, probabilities], [q, k, v], found.attention)?;
        found.between.extend(&backward.between);
        Some(Found { backward: Some(backward), ..found })
    }
}

impl Found {
    /// Multiplies the scores with what queries and keys were multiplied with, which is a pass over memory less for each. Gives what takes the
    /// place of the values that are not needed any more.
    fn take_scales(&mut self, readers: &Readers<'_>) -> Vec<(ValueId, ValueId)> {
        let mut replaced = Vec::new();
        for operand in 0..2 {
            let Some(found) = Scaled::of(readers, self.inputs[operand]) else { continue };
            self.attention.scale *= found.scale;
            self.between.extend(found.unread);
            replaced.extend(found.replaced);
        }
        replaced
    }
}

/// An operand of attention that was multiplied with a number before it was moved.
struct Scaled {
    scale: f32,
    /// What takes the place of the product, and of the operand where it was cast from f32 afterwards.
    replaced: Vec<(ValueId, ValueId)>,
    /// What was cast to f32 for the product alone.
    unread: Option<ValueId>,
}

impl Scaled {
    fn of(readers: &Readers<'_>, operand: ValueId) -> Option<Scaled> {
        let dtype = readers.graph.value(operand).dtype;
        let mut value = readers.only(operand).map(|_| operand)?;
        let mut replaced = Vec::new();
        if dtype != DType::F32 {
            value = readers.cast_from(value, dtype)?;
            replaced.push((operand, value));
        }
        let mut node = readers.maker(value)?;
        while let Some(Op::Shape(
            ShapeOp::Reshape { .. } | ShapeOp::Transpose { .. } | ShapeOp::Flatten { .. },
        )) = node.op.plain()
        {
            value = node.inputs[0];
            node = readers.maker(value)?;
        }
        let (unscaled, scale) = scaled(readers.graph, node)?;
        // Halves are moved, rather than what was cast from them.
        let halves = (dtype != DType::F32).then(|| readers.cast_from(unscaled, DType::F32));
        let from = halves.unwrap_or(Some(unscaled))?;
        replaced.push((value, from));
        let unread = halves.and_then(|_| readers.only(unscaled)).map(|_| unscaled);
        let fits = readers.graph.value(from).dtype == dtype && scale.is_finite();
        fits.then_some(Scaled { scale, replaced, unread })
    }
}

/// The gradients of an attention.
struct Backward {
    /// The first of the nodes that compute them.
    first: NodeId,
    /// The gradient of the attention's result.
    dy: ValueId,
    /// What is not computed any more.
    between: Vec<ValueId>,
    /// Those of q, k and v.
    grads: [ValueId; 3],
}

impl Backward {
    /// Those of softmax(scale q kᵀ + mask) v, where these alone read `probabilities`, the softmax, and `parts`, the same in the type of v, beside
    /// the attention's last product.
    fn of(
        readers: &Readers<'_>,
        [parts, probabilities]: [ValueId; 2],
        [q, k, v]: [ValueId; 3],
        op: Attention,
    ) -> Option<Backward> {
        let graph = readers.graph;
        let dtype = graph.value(parts).dtype;
        // The product, the gradient of v and that of the softmax, which reads the f32; a cast reads that too.
        let expected = if dtype == DType::F32 { [3, 3] } else { [2, 2] };
        if [parts, probabilities].map(|value| readers.all(value).len()) != expected {
            return None;
        }
        let transposed = |trans_a, trans_b| CpuOp::Plain(Op::MatMul(MatMul { trans_a, trans_b }));
        let reader = |value: ValueId, wanted: &dyn Fn(&Node<CpuOp>) -> bool| {
            readers.nodes(value).into_iter().find(|node| wanted(node))
        };
        let to_values = reader(parts, &|node| node.op == transposed(true, false) && node.inputs[0] == parts)?;
        let softmax = reader(probabilities, &|node| {
            matches!(node.op.plain(), Some(Op::Grad(GradOp::Softmax { .. })))
                && node.inputs[1] == probabilities
        })?;
        let (dy, mut dparts) = (to_values.inputs[1], softmax.inputs[0]);
        let mut between = vec![dparts];
        if dtype != DType::F32 {
            readers.only(dparts)?;
            dparts = readers.cast_from(dparts, DType::F32)?;
            between.push(dparts);
        }
        let of_parts = readers.maker(dparts)?;
        if of_parts.op != transposed(false, true) || of_parts.inputs != [dy, v] {
            return None;
        }
        let mut scores = softmax.outputs[0];
        between.push(scores);
        if op.scale != 1.0 {
            let &[node] = &readers.of_f32(scores)[..] else { return None };
            let (_, scale) = scaled(graph, node).filter(|(x, _)| *x == scores)?;
            if scale != op.scale {
                return None;
            }
            scores = node.outputs[0];
            between.push(scores);
        }
        if dtype != DType::F32 {
            let &[node] = &readers.nodes(scores)[..] else { return None };
            scores = node.outputs[0];
            readers.cast_from(scores, dtype)?;
            between.push(scores);
        }
        let [_, _] = readers.all(scores) else { return None };
        let to_queries = reader(scores, &|node| {
            node.op == transposed(false, !op.keys_first) && node.inputs == [scores, k]
        })?;
        let operands = if op.keys_first { [scores, q] } else { [q, scores] };
        let to_keys = reader(scores, &|node| node.op == transposed(true, false) && node.inputs == operands)?;
        let grads = [to_queries, to_keys, to_values].map(|node| node.outputs[0]);
        let first =
            [to_values.outputs[0], dparts].into_iter().filter_map(|value| graph.producer(value)).min()?;
        Some(Backward { first, dy, between, grads })
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
    use offshoot_graph::op::TrainOp;
    use offshoot_graph::passes::{Gradients, autocast, differentiate};
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

    #[test]
    fn gradients_are_fused_with_it() {
        for (k, keys_first) in [(Keys::Rows, true), (Keys::Columns, false), (Keys::Transposed, true)] {
            let graph = training(k, |graph, x| with_number(graph, Binary::Mul, x, 0.25));
            let ops: Vec<CpuOp> = optimize(&graph).unwrap().nodes().iter().map(|n| n.op.clone()).collect();
            let attention = Attention { scale: 0.25, keys_first, mask: false };
            assert_eq!(ops, [CpuOp::Attention(attention), CpuOp::AttentionGrad(attention)]);
        }
    }

    #[test]
    fn halves_with_a_softmax_of_f32_are_fused_too() {
        for half in [DType::BF16, DType::F16] {
            let graph = training_in(Some(half), Keys::Rows, |graph, x| {
                let x = with_number(graph, Binary::Mul, x, 0.25);
                let mask = graph.add_constant("mask", Tensor::f32([1, 5, 5], vec![1.0; 25]));
                graph.add("masked", Op::Binary(Binary::Add), &[x, mask]).unwrap()
            });
            let ops: Vec<CpuOp> = optimize(&graph).unwrap().nodes().iter().map(|n| n.op.clone()).collect();
            let attention = Attention { scale: 0.25, keys_first: true, mask: true };
            let fused: Vec<&CpuOp> = ops.iter().filter(|op| op.plain().is_none()).collect();
            assert_eq!(fused, [&CpuOp::Attention(attention), &CpuOp::AttentionGrad(attention)]);
            let is_cast = |op: &CpuOp| matches!(op.plain(), Some(Op::Train(TrainOp::Cast { .. })));
            assert!(ops.iter().all(|op| op.plain().is_none() || is_cast(op)), "{half}: {ops:?}");
        }
    }

    #[test]
    fn a_mask_that_learns_keeps_the_gradients_apart() {
        let graph = training(Keys::Rows, |graph, x| with_mask(graph, x, &[1, 5, 5]));
        let fused = |node: &Node<CpuOp>| matches!(node.op, CpuOp::Attention(_) | CpuOp::AttentionGrad(_));
        assert!(!optimize(&graph).unwrap().nodes().iter().any(fused));
    }

    /// How a graph has k: a row or a column a key, or the first and a Transpose.
    #[derive(Clone, Copy, PartialEq)]
    enum Keys {
        Rows,
        Columns,
        Transposed,
    }

    /// An attention of parameters, and the gradients of all of them.
    fn training(keys: Keys, scores: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Graph {
        training_in(None, keys, scores)
    }

    /// The same in mixed precision, where there is a type for that.
    fn training_in(
        half: Option<DType>,
        keys: Keys,
        scores: impl FnOnce(&mut Graph, ValueId) -> ValueId,
    ) -> Graph {
        let mut graph = Graph::new("training");
        let [q, v] = ["q", "v"].map(|name| graph.add_parameter(name, &[2, 5, 4], Role::Weight));
        let shape = if keys == Keys::Columns { [2, 4, 5] } else { [2, 5, 4] };
        let mut k = graph.add_parameter("k", &shape, Role::Weight);
        if keys == Keys::Transposed {
            k = graph.add("kt", Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1] }), &[k]).unwrap();
        }
        let product = |trans_b| Op::MatMul(MatMul { trans_a: false, trans_b });
        let x = graph.add("scores", product(keys == Keys::Rows), &[q, k]).unwrap();
        let x = scores(&mut graph, x);
        let x = graph.add("parts", Op::Softmax { axis: 2 }, &[x]).unwrap();
        let y = graph.add("y", product(false), &[x, v]).unwrap();
        graph.add_output("y", y);
        if let Some(half) = half {
            graph = autocast(&graph, half).unwrap();
        }
        let y = graph.outputs()[0].1;
        let Gradients { mut graph, gradients } = differentiate(graph, y).unwrap();
        for (i, (_, gradient)) in gradients.into_iter().enumerate() {
            graph.add_output(&format!("gradient{i}"), gradient);
        }
        graph
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
    fn numbers_that_queries_and_keys_are_multiplied_with_belong_to_it() {
        for half in [None, Some(DType::BF16)] {
            let mut graph = Graph::new("attention");
            let shape = || Shape(vec![Dim::symbol("n"), 5.into(), 4.into()]);
            let [q, k, v] = ["q", "k", "v"].map(|name| graph.add_input(name, DType::F32, shape()));
            let square = Shape(vec![Dim::symbol("n"), 4.into(), 4.into()]);
            let weight = graph.add_input("weight", DType::F32, square);
            let plain = Op::MatMul(MatMul { trans_a: false, trans_b: false });
            let [q, k, v] = [q, k, v].map(|x| graph.add("linear", plain.clone(), &[x, weight]).unwrap());
            let [q, k] =
                [(q, 0.5), (k, 0.25)].map(|(x, number)| with_number(&mut graph, Binary::Mul, x, number));
            let transpose = Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 1] });
            let k = graph.add("moved", transpose, &[k]).unwrap();
            let x = graph.add("scores", plain.clone(), &[q, k]).unwrap();
            let x = graph.add("parts", Op::Softmax { axis: 2 }, &[x]).unwrap();
            let y = graph.add("y", plain, &[x, v]).unwrap();
            graph.add_output("y", y);
            if let Some(half) = half {
                graph = autocast(&graph, half).unwrap();
            }
            let nodes = optimize(&graph).unwrap();
            let multiplies = |node: &Node<CpuOp>| matches!(node.op.plain(), Some(Op::Binary(_)));
            assert!(!nodes.nodes().iter().any(multiplies), "{nodes:?}");
            let scales = nodes.nodes().iter().filter_map(|node| {
                let CpuOp::Attention(attention) = node.op else { return None };
                Some(attention.scale)
            });
            assert_eq!(scales.collect::<Vec<f32>>(), [0.125]);
        }
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
