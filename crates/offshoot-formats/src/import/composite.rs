//! Operators that others define.

use offshoot_graph::op::{Composite, Direction, PadMode};
use offshoot_graph::{Dim, Op, ValueId};

use super::{Importer, Site};
use crate::elements::check_activation;
use crate::error::Problem;

/// What composite operators become, together.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts {
    nodes: usize,
    /// Elements of the matrices that resize.
    weights: usize,
}

/// More than those of any classifier become.
const MOST: Parts = Parts { nodes: 1 << 18, weights: 1 << 26 };

impl Importer {
    /// A composite operator with one result.
    pub(crate) fn compose(
        &mut self,
        site: &dyn Site,
        composite: Composite,
        inputs: &[ValueId],
    ) -> Result<ValueId, Problem> {
        self.compose_all(site, composite, inputs).map(|results| results[0])
    }

    /// The results of a composite operator. With those before it, it must not become too many others: a few bytes of a file say
    /// how often a step is repeated.
    pub(crate) fn compose_all(
        &mut self,
        site: &dyn Site,
        composite: Composite,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, Problem> {
        let dims = inputs.first().map(|&x| self.shape(x).0.clone()).unwrap_or_default();
        let parts = parts(&composite, &dims);
        self.composed.nodes = self.composed.nodes.saturating_add(parts.nodes);
        self.composed.weights = self.composed.weights.saturating_add(parts.weights);
        for (found, limit, what) in [
            (self.composed.nodes, MOST.nodes, "nodes"),
            (self.composed.weights, MOST.weights, "weights of pixels"),
        ] {
            if found > limit {
                let what = format!("with the operators before it, it becomes {found} {what}");
                return Err(Problem::TooLarge { place: site.place(), what, limit: limit as u64 });
            }
        }
        if let (Composite::Resize { size, .. }, [_, channels, height, _]) = (&composite, &dims[..]) {
            // The columns are resized before the rows.
            let wide = [channels, height].map(|dim| dim.fixed().unwrap_or(1));
            check_activation(&site.place(), wide.into_iter().chain([size[1]]))?;
        }
        self.push_all(site, site.name(), Op::Composite(composite), inputs)
    }
}

/// What an operator on a first input of these sizes becomes, at most.
fn parts(composite: &Composite, dims: &[Dim]) -> Parts {
    let size = |axis: usize| dims.get(axis).and_then(Dim::fixed).unwrap_or(1);
    let nodes = |nodes: usize| Parts { nodes, weights: 0 };
    match composite {
        Composite::LogSoftmax { .. }
        | Composite::GroupNormalization { .. }
        | Composite::InstanceNormalization { .. } => nodes(16),
        Composite::Pad { pads, mode: PadMode::Constant(_) | PadMode::Edge } => nodes(8 * pads.len()),
        Composite::Pad { pads, mode: PadMode::Reflect } => {
            nodes(pads.iter().flatten().fold(8, |sum, &places| sum.saturating_add(places)))
        }
        Composite::Split { sizes, .. } => nodes(sizes.len()),
        Composite::Resize { size: [height, width], .. } => {
            let weights = size(2).saturating_mul(*height).saturating_add(size(3).saturating_mul(*width));
            Parts { nodes: 16, weights }
        }
        Composite::Gru { direction, .. } => nodes(steps(size(0), *direction).saturating_mul(32)),
    }
}

/// The steps of all directions.
fn steps(steps: usize, direction: Direction) -> usize {
    steps.saturating_mul(direction.ways())
}
