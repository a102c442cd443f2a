//! The weights that a name stands for, in a graph and in those around it.

use std::collections::HashMap;

use offshoot_graph::{Data, Tensor};

use super::super::attributes::NodeView;
use super::super::fold::reshaped;
use super::super::proto::{NodeProto, TensorProto};
use super::super::tensors::{TensorReader, is_read};
use super::super::translate::permuted;
use super::super::wire::{Field, Splitter};
use super::tag;
use crate::error::Problem;

/// How many nodes may stand between a tensor and what reads it.
const MAX_STEPS: usize = 24;

/// What a step costs of the budget of memory, in bytes, so that a graph cannot ask for endless ones.
const STEP: usize = 64;

/// What gives a value.
enum Maker {
    /// An initializer.
    Tensor(TensorProto),
    /// A node that weights come out of: see [`moves_weights`].
    Node(NodeProto),
    /// An input or any other node.
    Other,
}

/// The values of one graph.
pub(super) struct Scope {
    pub(super) id: usize,
    makers: HashMap<String, Maker>,
    /// What DynamicQuantizeLinear made of values here: the bytes, their scale, their zero point.
    pub(super) quantized: HashMap<String, [String; 3]>,
}

/// Whether a node gives a tensor or moves its elements, as exporters leave it between weights and what reads them.
pub(super) fn moves_weights(node: &NodeProto) -> bool {
    let standard = matches!(node.domain.as_str(), "" | "ai.onnx") && node.output.len() == 1;
    standard
        && matches!(
            node.op_type.as_str(),
            "Constant" | "Identity" | "Transpose" | "Unsqueeze" | "Squeeze" | "Reshape" | "Concat" | "Slice"
        )
}

impl Scope {
    pub(super) fn new(id: usize, fields: &[Field], splitter: &mut Splitter) -> Result<Scope, Problem> {
        let mut makers = HashMap::new();
        for field in fields {
            match (field.tag, &field.body) {
                (tag::GRAPH_INITIALIZER, Some(body)) => {
                    let tensor = splitter.tensor(body)?;
                    makers.insert(tensor.name.clone(), Maker::Tensor(tensor));
                }
                (tag::GRAPH_INPUT, Some(body)) => {
                    makers.entry(super::value_name(body)?).or_insert(Maker::Other);
                }
                (tag::GRAPH_NODE, Some(body)) => {
                    let node = splitter.node(body)?;
                    for output in node.output.iter().filter(|o| !o.is_empty()) {
                        let maker =
                            if moves_weights(&node) { Maker::Node(node.clone()) } else { Maker::Other };
                        makers.insert(output.clone(), maker);
                    }
                }
                _ => {}
            }
        }
        Ok(Scope { id, makers, quantized: HashMap::new() })
    }
}

/// The innermost of `scopes` that has `name`.
pub(super) fn home(scopes: &[Scope], name: &str) -> Option<usize> {
    scopes.iter().rposition(|scope| scope.makers.contains_key(name))
}

/// Whether `name`, read in the last of `scopes`, is an initializer.
pub(super) fn is_initializer(scopes: &[Scope], name: &str) -> bool {
    home(scopes, name).is_some_and(|at| matches!(scopes[at].makers.get(name), Some(Maker::Tensor(_))))
}

/// The tensors of a file that were read, by the scope and the name they have: what many nodes share takes memory once.
pub(super) struct Store {
    pub(super) reader: TensorReader,
    read: HashMap<(usize, String), Tensor>,
}

impl Store {
    pub(super) fn new(reader: TensorReader) -> Store {
        Store { reader, read: HashMap::new() }
    }
}

/// The tensor that `name` stands for, read in the last of `scopes`; `None` where it depends on what is given at a run.
pub(super) fn stored(scopes: &[Scope], name: &str, store: &mut Store) -> Result<Option<Tensor>, Problem> {
    read(scopes, name, store, MAX_STEPS)
}

fn read(scopes: &[Scope], name: &str, store: &mut Store, steps: usize) -> Result<Option<Tensor>, Problem> {
    let Some(at) = home(scopes, name) else { return Ok(None) };
    let key = (scopes[at].id, name.to_owned());
    if let Some(tensor) = store.read.get(&key) {
        return Ok(Some(tensor.clone()));
    }
    let tensor = match scopes[at].makers.get(name) {
        Some(Maker::Tensor(proto)) => element(proto, &mut store.reader)?,
        Some(Maker::Node(node)) if steps > 0 => {
            given(&scopes[..=at], NodeView { proto: node }, store, steps - 1)?
        }
        Some(Maker::Node(_) | Maker::Other) | None => None,
    };
    if let Some(tensor) = &tensor {
        store.read.insert(key, tensor.clone());
    }
    Ok(tensor)
}

/// What a node gives that gives or moves weights.
fn given(
    scopes: &[Scope],
    node: NodeView<'_>,
    store: &mut Store,
    steps: usize,
) -> Result<Option<Tensor>, Problem> {
    if node.op() == "Constant" {
        return node.tensor("value").map_or(Ok(None), |proto| element(proto, &mut store.reader));
    }
    store.reader.charge(&node.place(), STEP, 1)?;
    let mut inputs = Vec::new();
    for input in node.proto.input.iter().filter(|i| !i.is_empty()) {
        match read(scopes, input, store, steps)? {
            Some(tensor) => inputs.push(tensor),
            None => return Ok(None),
        }
    }
    let Some(moved) = moved(node, &inputs) else { return Ok(None) };
    store.reader.charge(&node.place(), moved.len(), moved.dtype().size())?;
    Ok(Some(moved))
}

fn element(proto: &TensorProto, tensors: &mut TensorReader) -> Result<Option<Tensor>, Problem> {
    if is_read(proto) { tensors.read(proto).map(Some) } else { Ok(None) }
}

/// What a node makes of stored tensors; `None` for what no exporter writes.
pub(in crate::onnx) fn moved(node: NodeView<'_>, inputs: &[Tensor]) -> Option<Tensor> {
    let x = inputs.first()?;
    let rank = x.shape().len();
    let axes = || match inputs.get(1) {
        Some(axes) => axes.as_i64().map(<[i64]>::to_vec),
        None => node.ints("axes").map(<[i64]>::to_vec),
    };
    match node.op() {
        "Identity" => Some(x.clone()),
        "Transpose" => {
            let perm = node.ints("perm").map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
            permuted(x, &perm)
        }
        "Reshape" => {
            let shape = reshaped(x.shape(), inputs.get(1)?.as_i64()?, !node.flag("allowzero"))?;
            x.clone().reshape(shape).ok()
        }
        "Unsqueeze" => {
            let axes = axes()?;
            let places = places(&axes, rank.checked_add(axes.len())?)?;
            let mut shape = x.shape().to_vec();
            for place in places {
                (place <= shape.len()).then(|| shape.insert(place, 1))?;
            }
            x.clone().reshape(shape).ok()
        }
        "Squeeze" => {
            let places = places(&axes()?, rank)?;
            let kept = (0..rank).filter(|axis| !places.contains(axis)).map(|axis| x.shape()[axis]);
            let shape: Vec<usize> = kept.collect();
            x.clone().reshape(shape).ok()
        }
        "Concat" => concatenated(inputs, *places(&[node.int("axis", 0)], rank)?.first()?),
        "Slice" => sliced(inputs),
        _ => None,
    }
}

/// Axes counted from the front, in order.
fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let place = |&axis: &i64| {
        let counted = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(counted).ok().filter(|&a| a < rank)
    };
    let mut places: Vec<usize> = axes.iter().map(place).collect::<Option<_>>()?;
    places.sort_unstable();
    Some(places)
}

fn concatenated(inputs: &[Tensor], axis: usize) -> Option<Tensor> {
    let first = inputs.first()?.shape();
    let mut shape = first.to_vec();
    shape[axis] = 0;
    for input in inputs {
        let fits = input.shape().len() == first.len()
            && (0..first.len()).all(|i| i == axis || input.shape()[i] == first[i]);
        shape[axis] = shape[axis].checked_add(*input.shape().get(axis).filter(|_| fits)?)?;
    }
    let outer: usize = first[..axis].iter().product();
    let parts: Vec<&[f32]> = inputs.iter().map(Tensor::as_f32).collect::<Option<_>>()?;
    let mut data = Vec::with_capacity(parts.iter().map(|p| p.len()).sum());
    for row in 0..outer {
        for part in &parts {
            let width = part.len() / outer;
            data.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    Tensor::new(shape, Data::F32(data)).ok()
}

/// Neighbors along one axis.
fn sliced(inputs: &[Tensor]) -> Option<Tensor> {
    let x = inputs.first()?;
    let one = |i: usize| match inputs.get(i)?.as_i64()? {
        &[number] => Some(number),
        _ => None,
    };
    let (start, end) = (one(1)?, one(2)?);
    let axis = if inputs.len() > 3 { one(3)? } else { 0 };
    if inputs.len() > 4 && one(4)? != 1 {
        return None;
    }
    let axis = *places(&[axis], x.shape().len())?.first()?;
    let size = x.shape()[axis];
    let place = |i: i64| {
        let counted = if i < 0 { i.saturating_add(size as i64) } else { i };
        usize::try_from(counted).unwrap_or(0).min(size)
    };
    let (start, end) = (place(start), place(end).max(place(start)));
    let (outer, inner) =
        (x.shape()[..axis].iter().product::<usize>(), x.shape()[axis + 1..].iter().product::<usize>());
    let part = [start * inner, end * inner];
    let data = match x.data() {
        Data::F32(all) => Data::F32(columns(all, outer, size * inner, part)),
        Data::I64(all) => Data::I64(columns(all, outer, size * inner, part)),
        _ => return None,
    };
    let mut shape = x.shape().to_vec();
    shape[axis] = end - start;
    Tensor::new(shape, data).ok()
}

/// The elements from `start` to `end` of each of `rows` rows.
fn columns<T: Copy>(all: &[T], rows: usize, width: usize, [start, end]: [usize; 2]) -> Vec<T> {
    (0..rows).flat_map(|row| &all[row * width + start..row * width + end]).copied().collect()
}
