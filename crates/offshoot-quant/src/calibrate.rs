//! Running a float network on pictures, to see what its activations are.

use std::collections::{BTreeMap, BTreeSet};

use offshoot_graph::model::INPUT;
use offshoot_graph::passes::expose;
use offshoot_graph::{Executor, Session, Source, Tensor, ValueId};
use rayon::prelude::*;

use crate::error::QuantError;
use crate::histogram::Histogram;
use crate::method::Method;
use crate::range::Range;
use crate::select::{Network, Part};

/// What a network was seen to do on some pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The range of each activation that may be rounded, by the name of its value.
    pub(crate) ranges: BTreeMap<String, Range>,
    /// The mean of each channel of what convolutions and products read, by the name of the value.
    pub(crate) means: BTreeMap<String, Vec<f32>>,
}

impl Calibration {
    /// The ranges, by the names of the values.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, Range)> {
        self.ranges.iter().map(|(name, &range)| (name.as_str(), range))
    }
}

/// What has been seen of a value.
struct Seen {
    id: ValueId,
    name: String,
    /// Whether the network is given it.
    input: bool,
    low: f32,
    high: f32,
    /// Sums over pictures and pixels, a channel each.
    sums: Vec<f64>,
    /// Elements of a channel.
    count: u64,
    histogram: Option<Histogram>,
}

/// Runs `network` on `batches` of pictures, `[n, 3, size, size]` each, and finds the range of each activation by `method`. The
/// same pictures give the same ranges on any number of threads.
///
/// # Errors
/// When there are no pictures, the executor cannot run the network, or a value is not finite.
pub fn calibrate(
    network: &Network,
    batches: &[Tensor],
    method: Method,
    executor: &dyn Executor,
) -> Result<Calibration, QuantError> {
    if batches.is_empty() {
        return Err(QuantError::NoPictures);
    }
    let mut seen = watched(network);
    let inner: Vec<ValueId> = seen.iter().filter(|s| !s.input).map(|s| s.id).collect();
    let graph = expose(&network.graph, &inner)?;
    let mut session = executor.prepare(&graph, &network.weights)?;
    for batch in batches {
        look(&mut *session, batch, &mut seen, Seen::widen)?;
    }
    if let Some(bad) = seen.iter().find(|s| !(s.low.is_finite() && s.high.is_finite())) {
        return Err(QuantError::NotFinite { node: bad.name.clone() });
    }
    if method != Method::MinMax {
        seen.iter_mut().for_each(|s| s.histogram = Some(Histogram::new(Range { low: s.low, high: s.high })));
        for batch in batches {
            look(&mut *session, batch, &mut seen, Seen::count)?;
        }
    }
    let activations = network.scheme.activations;
    // Of the scores, the largest are those that matter.
    let whole: BTreeSet<ValueId> = network.rounded_outputs().map(|id| network.origin(id)).collect();
    let range = |s: &Seen| match &s.histogram {
        Some(histogram) if !whole.contains(&s.id) => method.range(histogram, activations),
        Some(_) | None => Range { low: s.low, high: s.high },
    };
    let ranges = seen.par_iter().map(|s| (s.name.clone(), range(s))).collect();
    let means = seen.iter().map(|s| (s.name.clone(), s.means())).collect();
    Ok(Calibration { ranges, means })
}

/// The values whose ranges or means are needed.
fn watched(network: &Network) -> Vec<Seen> {
    let rounded = network.rounded(&BTreeSet::new());
    let ids = network.graph.values().map(|(id, _)| id).filter(|id| rounded[id.index()]);
    let read = network.graph.nodes().iter().zip(&network.parts);
    let read = read.filter(|(_, part)| **part == Part::Weighted).map(|(node, _)| node.inputs[0]);
    let ids: BTreeSet<ValueId> = ids.map(|id| network.origin(id)).chain(read).collect();
    let seen = |id: ValueId| {
        let value = network.graph.value(id);
        let channels = value.shape.0.get(1).and_then(|d| d.fixed()).unwrap_or(1);
        Seen {
            id,
            name: value.name.clone(),
            input: matches!(value.source, Source::Input),
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            sums: vec![0.0; channels],
            count: 0,
            histogram: None,
        }
    };
    ids.into_iter().map(seen).collect()
}

/// Runs the network on a batch and shows each value to `show`.
fn look(
    session: &mut dyn Session,
    batch: &Tensor,
    seen: &mut [Seen],
    show: fn(&mut Seen, &[f32], &[usize]),
) -> Result<(), QuantError> {
    session.run(&[(INPUT, batch)])?;
    // As many at a time as there are threads: each is a copy.
    for seen in seen.chunks_mut(rayon::current_num_threads()) {
        let read = |s: &Seen| session.read(&s.name).filter(|_| !s.input).unwrap_or_else(|| batch.clone());
        let values: Vec<Tensor> = seen.iter().map(read).collect();
        seen.par_iter_mut().zip(&values).for_each(|(seen, value)| {
            show(seen, value.as_f32().unwrap_or_default(), value.shape());
        });
    }
    Ok(())
}

impl Seen {
    /// Takes the extremes and the sums of a batch in.
    fn widen(&mut self, data: &[f32], shape: &[usize]) {
        for &x in data {
            // A NaN widens the range to one that is refused.
            self.low = if x < self.low || x.is_nan() { x } else { self.low };
            self.high = if x > self.high || x.is_nan() { x } else { self.high };
        }
        let channels = self.sums.len();
        let pixels = shape.iter().skip(2).product::<usize>().max(1);
        for (row, row_data) in data.chunks(pixels).enumerate() {
            self.sums[row % channels] += row_data.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        self.count += (data.len() / channels.max(1)) as u64;
    }

    fn count(&mut self, data: &[f32], _: &[usize]) {
        if let Some(histogram) = &mut self.histogram {
            histogram.add(data);
        }
    }

    fn means(&self) -> Vec<f32> {
        self.sums.iter().map(|sum| (sum / self.count.max(1) as f64) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use offshoot_graph::{DType, Graph, Shape};

    use super::*;

    #[test]
    fn extremes_and_means_are_those_of_all_batches() {
        let mut seen = Seen {
            id: Graph::new("any").add_input("x", DType::F32, Shape::default()),
            name: "x".into(),
            input: true,
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            sums: vec![0.0; 2],
            count: 0,
            histogram: None,
        };
        // Two pictures of two channels of two pixels, then rows of two features.
        seen.widen(&[1.0, 3.0, -10.0, -20.0, 5.0, 7.0, -30.0, -40.0], &[2, 2, 1, 2]);
        assert_eq!((seen.low, seen.high, seen.means()), (-40.0, 7.0, vec![4.0, -25.0]));
        seen.widen(&[9.0, 50.0], &[1, 2]);
        assert_eq!((seen.low, seen.high, seen.means()), (-40.0, 50.0, vec![5.0, -10.0]));
        seen.widen(&[f32::NAN, 0.0], &[1, 2]);
        assert!(seen.low.is_nan() || seen.high.is_nan());
    }
}
