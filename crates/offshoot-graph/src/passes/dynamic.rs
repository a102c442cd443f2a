//! Dynamic int8: linear layers whose weights are bytes.

use std::collections::{HashMap, HashSet};

use super::rewrite::Rewriter;
use crate::graph::{Graph, GraphError, Node, Role, ValueId};
use crate::int8;
use crate::op::{Gemm, Op};
use crate::tensor::{DType, Data, Tensor, Weights};

/// What is added to the name of a weight for that of its scales.
const SCALE: &str = "_scale";

/// The graph with each Gemm that multiplies its input with a parameter for which `chosen` holds as
/// [`Op::DynamicQuantizeMatMul`]. The parameter keeps its name and shape and becomes i8; `NAME_scale` holds its scales, one
/// for each output. A weight that something else reads, too, stays.
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn dynamic_int8_graph(graph: &Graph, chosen: impl Fn(&str) -> bool) -> Result<Graph, GraphError> {
    let weights = quantizable(graph, chosen);
    let mut rewriter =
        Rewriter::with_sources(graph, |id| !weights.contains_key(&id), |input| input.shape.clone());
    let mut made: HashMap<ValueId, [ValueId; 2]> = HashMap::new();
    for node in graph.nodes() {
        let weight = node.inputs.get(1).copied();
        let Some((weight, gemm)) = weight.and_then(|id| Some((id, *weights.get(&id)?))) else {
            rewriter.copy(node)?;
            continue;
        };
        let [bytes, scale] = *made.entry(weight).or_insert_with(|| {
            let value = graph.value(weight);
            let shape = value.shape.as_fixed().unwrap_or_default();
            let units = shape.get(usize::from(!gemm.trans_b)).copied().unwrap_or_default();
            let new = &mut rewriter.new;
            [
                new.add_typed_parameter(&value.name, DType::I8, &shape, Role::Weight),
                new.add_parameter(&format!("{}{SCALE}", value.name), &[units], Role::Buffer),
            ]
        });
        let mut inputs = vec![rewriter.get(node.inputs[0]), bytes, scale];
        inputs.extend(node.inputs.get(2).map(|&bias| rewriter.get(bias)));
        let op = Op::DynamicQuantizeMatMul { trans_b: gemm.trans_b };
        let output = rewriter.new.add(&node.name, op, &inputs)?;
        rewriter.set(node.outputs[0], output);
    }
    rewriter.finish()
}

/// [`dynamic_int8_graph`] of all weights that are finite, and the weights it takes: bytes in place of floats, and their
/// scales ([`int8`]).
///
/// # Errors
/// None for a graph whose nodes passed their shape rules.
pub fn dynamic_int8(graph: &Graph, weights: &Weights) -> Result<(Graph, Weights), GraphError> {
    let mut quantized = weights.clone();
    let mut done = HashSet::new();
    for (id, gemm) in quantizable(graph, |_| true) {
        let name = &graph.value(id).name;
        if let Some([bytes, scale]) = weights.get(name).and_then(|tensor| rows_as_bytes(tensor, gemm.trans_b))
        {
            quantized.insert(name.clone(), bytes);
            quantized.insert(format!("{name}{SCALE}"), scale);
            done.insert(name.clone());
        }
    }
    Ok((dynamic_int8_graph(graph, |name| done.contains(name))?, quantized))
}

/// The parameters for which `chosen` holds and that only Gemms read, as their second operand, all in the same way.
fn quantizable(graph: &Graph, chosen: impl Fn(&str) -> bool) -> HashMap<ValueId, Gemm> {
    let mut found: HashMap<ValueId, Gemm> = HashMap::new();
    let mut barred: HashSet<ValueId> = graph.outputs().iter().map(|&(_, id)| id).collect();
    for node in graph.nodes() {
        for (index, &id) in node.inputs.iter().enumerate() {
            match product(graph, node).filter(|_| index == 1 && chosen(&graph.value(id).name)) {
                Some(gemm) if found.get(&id).is_none_or(|other| *other == gemm) => {
                    found.insert(id, gemm);
                }
                _ => {
                    barred.insert(id);
                }
            }
        }
    }
    found.retain(|id, _| !barred.contains(id) && graph.parameter_info(*id).is_some());
    found
}

/// The attributes of a Gemm over rows of f32.
fn product(graph: &Graph, node: &Node) -> Option<Gemm> {
    let Op::Gemm(gemm) = node.op else { return None };
    let floats = node.inputs.iter().all(|&id| graph.value(id).dtype == DType::F32);
    (!gemm.trans_a && floats).then_some(gemm)
}

/// A matrix as bytes, and their scales, one for each output; `None` when it is not finite.
fn rows_as_bytes(matrix: &Tensor, trans_b: bool) -> Option<[Tensor; 2]> {
    let (elements, &[rows, columns]) = (matrix.as_f32()?, matrix.shape()) else { return None };
    let units = if trans_b { rows } else { columns };
    let unit = |index: usize| if trans_b { index / columns } else { index % columns };
    let of_unit = |u: usize| {
        let (start, step) = if trans_b { (u * columns, 1) } else { (u, columns) };
        let count = if trans_b { columns } else { rows };
        (0..count).map(move |i| elements[start + i * step])
    };
    let scales: Vec<f32> = (0..units).map(|u| int8::scale(of_unit(u))).collect::<Option<_>>()?;
    let bytes = elements.iter().enumerate().map(|(i, &x)| int8::quantize(x, scales[unit(i)])).collect();
    let bytes = Tensor::new(matrix.shape(), Data::I8(bytes)).ok()?;
    Some([bytes, Tensor::f32([units], scales)])
}
