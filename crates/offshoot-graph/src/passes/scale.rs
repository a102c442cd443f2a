//! Outputs in the units of what is predicted.

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, NodeId, Source, ValueId};
use crate::model::OUTPUT;
use crate::op::{Binary, Gemm, Op};
use crate::regression::Scale;
use crate::tensor::{Tensor, Weights};

/// The output [`OUTPUT`] of `graph` in the units of its targets: each is multiplied by its deviation, and its mean is added. The factors are
/// constants of the graph, f32 `[targets]`, so that mixed precision and quantization leave this part in f32.
///
/// # Errors
/// When the graph has no [`OUTPUT`] of as many targets as there are `scales`.
pub fn scale_outputs(graph: &Graph, scales: &[Scale]) -> Result<Graph, GraphError> {
    let refused = |reason: String| GraphError { node: OUTPUT.into(), op: "output", reason };
    let output =
        graph.output(OUTPUT).ok_or_else(|| refused("the graph has no output of that name".into()))?;
    let shape = &graph.value(output).shape;
    if shape.0.len() != 2 || shape.0[1].fixed() != Some(scales.len()) {
        return Err(refused(format!("it is {shape}, not [N, {}]", scales.len())));
    }
    let mut rewriter = Rewriter::new(graph);
    for node in graph.nodes() {
        rewriter.copy(node)?;
    }
    let numbers = |of: fn(&Scale) -> f64| {
        Tensor::f32([scales.len()], scales.iter().map(|scale| of(scale) as f32).collect())
    };
    let (x, new) = (rewriter.get(output), &mut rewriter.new);
    let deviation = new.add_constant("targets.deviation", numbers(|scale| scale.deviation));
    let mean = new.add_constant("targets.mean", numbers(|scale| scale.mean));
    let scaled = new.add("targets.scaled", Op::Binary(Binary::Mul), &[x, deviation])?;
    let shifted = new.add("targets.shifted", Op::Binary(Binary::Add), &[scaled, mean])?;
    rewriter.set(output, shifted);
    rewriter.finish()
}

/// How a graph ends that gives outputs in the units of its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputScale {
    /// What is scaled, `[N, targets]`.
    pub value: ValueId,
    /// What it is multiplied by.
    pub deviations: Vec<f32>,
    /// What is added then.
    pub means: Vec<f32>,
    /// The nodes that do both.
    pub nodes: [NodeId; 2],
}

/// The end of a graph that [`scale_outputs`] has made, or that a file has in that form. `None` where the only output is none.
pub fn output_scale(graph: &Graph) -> Option<OutputScale> {
    let [(_, output)] = graph.outputs() else { return None };
    let step = |id: ValueId, wanted: Binary| {
        let place = graph.producer(id)?;
        let node = graph.node(place);
        let [x, by] = node.inputs[..] else { return None };
        let Source::Constant(tensor) = &graph.value(by).source else { return None };
        let is_row = tensor.shape().len() == 1 && graph.value(x).shape == graph.value(id).shape;
        let fits = node.op == Op::Binary(wanted) && is_row;
        fits.then(|| Some((place, x, tensor.as_f32()?.to_vec()))).flatten()
    };
    let (last, scaled, means) = step(*output, Binary::Add)?;
    let (first, value, deviations) = step(scaled, Binary::Mul)?;
    Some(OutputScale { value, deviations, means, nodes: [first, last] })
}

/// The weights with which the linear layer (a Gemm with a weight `[targets, n]` and a bias) that computes `value` gives its results times
/// `factors` plus `shifts`. `None` where no such layer computes it.
pub fn rescaled_layer(
    graph: &Graph,
    weights: &Weights,
    value: ValueId,
    (factors, shifts): (&[f64], &[f64]),
) -> Option<Weights> {
    let node = graph.node(graph.producer(value)?);
    let (Op::Gemm(Gemm { trans_a: false, trans_b: true }), &[_, weight, bias]) = (&node.op, &node.inputs[..])
    else {
        return None;
    };
    let named = |id: ValueId| graph.parameter_info(id).map(|_| graph.value(id).name.clone());
    let (weight, bias) = (named(weight)?, named(bias)?);
    let [rows, columns] = *weights.get(&weight)?.shape() else { return None };
    if [rows; 3] != [factors.len(), shifts.len(), weights.get(&bias)?.len()] || columns == 0 {
        return None;
    }
    let mut scaled = weights.clone();
    let values = scaled.get_mut(&weight)?.as_f32_mut()?;
    for (row, factor) in values.chunks_exact_mut(columns).zip(factors) {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
    for (x, (factor, shift)) in
        scaled.get_mut(&bias)?.as_f32_mut()?.iter_mut().zip(factors.iter().zip(shifts))
    {
        *x = (f64::from(*x) * factor + shift) as f32;
    }
    Some(scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Role;
    use crate::model::{BATCH, INPUT};
    use crate::shape::{Dim, Shape};
    use crate::tensor::DType;

    fn plain(targets: usize) -> Graph {
        let mut graph = Graph::new("plain");
        let x = graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol(BATCH), targets.into()]));
        graph.add_output(OUTPUT, x);
        graph
    }

    #[test]
    fn a_scaled_output_is_recognized() {
        let graph = plain(2);
        assert_eq!(output_scale(&graph), None);
        let scales = [Scale { mean: 3.0, deviation: 0.5 }, Scale { mean: -1.0, deviation: 4.0 }];
        let scaled = scale_outputs(&graph, &scales).unwrap();
        let found = output_scale(&scaled).unwrap();
        assert_eq!((found.deviations, found.means), (vec![0.5, 4.0], vec![3.0, -1.0]));
        assert_eq!(scaled.value(found.value).name, INPUT);
        assert!(scale_outputs(&plain(3), &scales).is_err());
    }

    #[test]
    fn a_linear_layer_takes_the_scale_over() {
        let mut graph = Graph::new("linear");
        let x = graph.add_input(INPUT, DType::F32, Shape(vec![Dim::symbol(BATCH), 2.into()]));
        let weight = graph.add_parameter("fc.weight", &[1, 2], Role::Weight);
        let bias = graph.add_parameter("fc.bias", &[1], Role::Weight);
        let gemm = Gemm { trans_a: false, trans_b: true };
        let y = graph.add("fc", Op::Gemm(gemm), &[x, weight, bias]).unwrap();
        graph.add_output(OUTPUT, y);
        let weights = Weights::from([
            ("fc.weight".to_owned(), Tensor::f32([1, 2], vec![1.0, -2.0])),
            ("fc.bias".to_owned(), Tensor::f32([1], vec![0.5])),
        ]);
        let scaled = rescaled_layer(&graph, &weights, y, (&[10.0], &[100.0])).unwrap();
        assert_eq!(scaled["fc.weight"].as_f32(), Some(&[10.0, -20.0][..]));
        assert_eq!(scaled["fc.bias"].as_f32(), Some(&[105.0][..]));
        // The head is found behind the scale.
        let ended = scale_outputs(&graph, &[Scale { mean: 3.0, deviation: 0.5 }]).unwrap();
        let head = crate::passes::layer_before(&ended, ended.output(OUTPUT).unwrap());
        assert_eq!(head.map(|node| node.name.as_str()), Some("fc"));
        assert_eq!(rescaled_layer(&graph, &weights, x, (&[10.0], &[100.0])), None);
        assert_eq!(rescaled_layer(&graph, &weights, y, (&[10.0; 2], &[100.0; 2])), None);
    }
}
