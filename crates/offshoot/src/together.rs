//! Whether the processes of a job are about to do the same.

use std::io::Write as _;
use std::path::Path;

use offshoot_formats::safetensors;
use offshoot_graph::text::shown;
use offshoot_graph::{Executor, Model};
use offshoot_world::World;

use crate::error::Result;
use crate::hash::hash_of;

/// Checks that all processes of `world` have the same model and the same list of pictures, and compute alike.
///
/// # Errors
/// What differs first, and where.
pub(crate) fn agree<'p>(
    world: &dyn World,
    executor: &dyn Executor,
    model: &Model,
    pictures: impl Iterator<Item = &'p Path>,
) -> Result<()> {
    if !world.is_shared() {
        return Ok(());
    }
    let metadata = serde_json::to_string(&model.metadata).unwrap_or_default();
    let weights = hash_of(|out| safetensors::write_to(out, &model.weights, &metadata));
    let graph = hash_of(|out| out.write_all(model.graph.to_string().as_bytes()));
    world.agree(&[
        ("processors or instruction sets", executor.describe()),
        ("models", format!("{weights} {graph}")),
    ])?;
    let list: Vec<String> = pictures.map(|path| shown(path).to_string()).collect();
    let hash = hash_of(|out| list.iter().try_for_each(|path| writeln!(out, "{path}")));
    // Whether there is a difference is known to all: only then are the lists compared.
    if world.agree(&[("pictures", hash)]).is_err() {
        world.agree(&[("pictures", list.join("\n"))])?;
    }
    Ok(())
}
