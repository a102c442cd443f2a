//! How much memory a network takes for the pictures that it looks at, before it takes it.

use std::path::Path;

use offshoot_files::memory_limit;
use offshoot_graph::model::BATCH;
use offshoot_graph::op::Op;
use offshoot_graph::remedy::MEMORY_LIMIT;
use offshoot_graph::text::shown;
use offshoot_graph::{Bindings, Model, Node, Source, ValueId};

use crate::error::{Error, Result};

/// Copies of a picture's input that wait for the network as bytes, a quarter of its floats each.
const AHEAD: u64 = 3;

/// The bytes of a batch, about: its pictures as floats and as bytes, and what the operator reads and writes that does most of
/// that. What the file itself holds does not count.
fn bytes_of(model: &Model, batch: usize) -> u64 {
    let (graph, bindings) = (&model.graph, Bindings::from([(BATCH.to_owned(), batch)]));
    let bytes = |&id: &ValueId| {
        let value = graph.value(id);
        let shape = match value.source {
            Source::Parameter(_) | Source::Constant(_) => None,
            Source::Input | Source::Node { .. } => value.shape.eval(&bindings).ok(),
        };
        let elements = shape.map_or(0, |shape| shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64)));
        elements.saturating_mul(value.dtype.size() as u64)
    };
    let all = |node: &Node| node.inputs.iter().chain(&node.outputs).map(bytes).fold(0, u64::saturating_add);
    let most = graph.nodes().iter().map(all).max().unwrap_or(0);
    let size = model.metadata.preprocessing.size as u64;
    let input = 12u64.saturating_mul(size.saturating_mul(size)).saturating_mul(batch as u64);
    input.saturating_add(input / 4 * AHEAD).saturating_add(most)
}

/// The most pictures, up to `most` and at least one, that fit into [`memory_limit`] with their activations.
pub fn batch_within(model: &Model, most: usize) -> usize {
    let (one, limit) = (bytes_of(model, 1), memory_limit());
    let more = bytes_of(model, 2).saturating_sub(one).max(1);
    let fit = 1 + limit.saturating_sub(one) / more;
    usize::try_from(fit).unwrap_or(usize::MAX).min(most.max(1))
}

/// An error where one picture does not fit into [`memory_limit`] with all that gradients are made of: the activations of the whole network, and
/// `values` with their gradients.
///
/// # Errors
/// When it does not.
pub(crate) fn check_gradient_memory(model: &Model, values: &[ValueId]) -> Result<()> {
    let (graph, bindings) = (&model.graph, Bindings::from([(BATCH.to_owned(), 1)]));
    let bytes = |id: ValueId| {
        let shape = graph.value(id).shape.eval(&bindings).unwrap_or_default();
        shape.iter().fold(4u64, |n, &d| n.saturating_mul(d as u64))
    };
    // What only gives a value another shape is in memory once.
    let computed = graph.nodes().iter().filter(|node| !matches!(node.op, Op::Shape(_)));
    let forward = computed.flat_map(|node| &node.outputs).map(|&id| bytes(id)).fold(0, u64::saturating_add);
    let kept = values.iter().map(|&id| bytes(id).saturating_mul(2)).fold(0, u64::saturating_add);
    let (needed, limit) = (forward.saturating_add(kept).max(bytes_of(model, 1)), memory_limit());
    if needed <= limit {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::advice(format_args!(
        "the gradients of one picture take about {} MiB in this network, above the limit of {}; give {MEMORY_LIMIT} {}, or use occlusion",
        mib(needed),
        mib(limit),
        mib(needed)
    )))
}

/// An error where not even one picture fits into [`memory_limit`]: a file of a few bytes can ask for pictures of any size.
///
/// # Errors
/// When it does not. `path` is the model's file.
pub fn check_memory(model: &Model, path: &Path) -> Result<()> {
    let (needed, limit) = (bytes_of(model, 1), memory_limit());
    if needed <= limit {
        return Ok(());
    }
    let (size, mib) = (model.metadata.preprocessing.size, |bytes: u64| bytes.div_ceil(1 << 20));
    Err(Error::advice(format_args!(
        "{}: one picture of {size} x {size} pixels takes about {} MiB in this network, above the limit of {}; give {MEMORY_LIMIT} {}",
        shown(path),
        mib(needed),
        mib(limit),
        mib(needed)
    )))
}
