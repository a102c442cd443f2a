//! Gradients as they are computed: what of them is complete can be summed over processes while others are still computed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender};

use offshoot_graph::passes::{TrainingGraph, gradient_output, sum_parameter};
use offshoot_graph::{Tensor, Weights};
use offshoot_world::{Sums, World, WorldError, reduce};

/// Elements of the gradients that are summed at once, at least: 4 MiB of f32. Fewer would be many messages, and more would wait
/// longer for the last of them.
const BUCKET: usize = 1 << 20;

/// A trained parameter.
pub(super) struct Place {
    pub(super) name: String,
    /// Its elements among those of all.
    pub(super) range: Range<usize>,
    bucket: usize,
}

/// The trained parameters in the order in which their gradients are computed, in buckets.
pub(super) struct Layout {
    pub(super) parameters: Vec<Place>,
    /// The elements of each bucket.
    buckets: Vec<Range<usize>>,
    /// The parameters by the names of their gradients.
    by_output: HashMap<String, usize>,
}

impl Layout {
    /// That of the parameters that `training` trains, of which `len` says how many elements each has.
    pub(super) fn new(training: &TrainingGraph, len: impl Fn(&str) -> usize) -> Layout {
        let graph = &training.graph;
        let computed = |name: &String| {
            let gradient = graph.output(&gradient_output(name));
            gradient.and_then(|id| graph.producer(id)).map(|node| node.index())
        };
        let mut names = training.trained.clone();
        names.sort_by_cached_key(|name| (computed(name), name.clone()));
        let (mut parameters, mut buckets, mut start) = (Vec::new(), Vec::<Range<usize>>::new(), 0);
        for name in names {
            let range = start..start + len(&name);
            start = range.end;
            match buckets.last_mut().filter(|bucket| bucket.len() < BUCKET) {
                Some(bucket) => bucket.end = range.end,
                None => buckets.push(range.clone()),
            }
            parameters.push(Place { name, range, bucket: buckets.len() - 1 });
        }
        let by_output = parameters.iter().enumerate();
        let by_output =
            by_output.map(|(place, parameter)| (gradient_output(&parameter.name), place)).collect();
        Layout { parameters, buckets, by_output }
    }

    /// Sums the buckets that come over all processes.
    pub(super) fn reduce(
        &self,
        world: &dyn World,
        ready: Receiver<(usize, Sums)>,
    ) -> Result<Vec<f32>, WorldError> {
        let mut all = vec![0.0; self.buckets.last().map_or(0, |bucket| bucket.end)];
        for (bucket, sums) in ready {
            let range = self.buckets[bucket].clone();
            all[range.clone()].copy_from_slice(&reduce(world, sums, range.len())?);
        }
        Ok(all)
    }

    /// The sums of all buckets as parameters of the graph that updates.
    pub(super) fn sums(&self, all: &[f32]) -> Weights {
        let sum = |place: &Place| {
            let values = all[place.range.clone()].to_vec();
            (sum_parameter(&place.name), Tensor::f32([values.len()], values))
        };
        self.parameters.iter().map(sum).collect()
    }
}

/// Takes in the gradients of the batches of a process, and gives away each bucket when the last batch has filled it. Buckets go in their
/// order, the same on all processes.
pub(super) struct Collector<'l> {
    layout: &'l Layout,
    /// The last batch of this process.
    last: Option<usize>,
    ready: Sender<(usize, Sums)>,
    /// Of each bucket, those of the batches before.
    sums: Vec<Sums>,
    /// Of the batch that runs: its place among all, its weight, and of each bucket the elements, and how many parameters are missing.
    batch: usize,
    weight: f32,
    values: Vec<Vec<f32>>,
    missing: Vec<usize>,
    /// The next bucket that is to be given away.
    next: usize,
}

impl<'l> Collector<'l> {
    /// Before the first batch of those of this process, `own` of `count`.
    pub(super) fn new(
        layout: &'l Layout,
        own: Range<usize>,
        count: usize,
        ready: Sender<(usize, Sums)>,
    ) -> Collector<'l> {
        let sums = layout.buckets.iter().map(|_| Sums::new(count)).collect();
        let (last, batch) = (own.clone().last(), own.start);
        let (values, missing) = (Vec::new(), Vec::new());
        Collector { layout, last, ready, sums, batch, weight: 0.0, values, missing, next: 0 }
    }

    /// A batch starts, whose gradients are multiplied by `weight`.
    pub(super) fn start(&mut self, batch: usize, weight: f32) {
        (self.batch, self.weight, self.next) = (batch, weight, 0);
        self.values = self.layout.buckets.iter().map(|bucket| vec![0.0; bucket.len()]).collect();
        self.missing = vec![0; self.layout.buckets.len()];
        self.layout.parameters.iter().for_each(|place| self.missing[place.bucket] += 1);
    }

    /// Takes in a gradient, by the name of the output.
    pub(super) fn take(&mut self, output: &str, gradient: &[f32]) {
        let Some(place) = self.layout.by_output.get(output).map(|&place| &self.layout.parameters[place])
        else {
            return;
        };
        let start = self.layout.buckets[place.bucket].start;
        let into = &mut self.values[place.bucket][place.range.start - start..place.range.end - start];
        into.iter_mut().zip(gradient).for_each(|(x, &gradient)| *x = self.weight * gradient);
        self.missing[place.bucket] = self.missing[place.bucket].saturating_sub(1);
        while self.missing.get(self.next) == Some(&0) {
            self.put_next();
        }
    }

    /// The batch is done; what it has not given is 0.
    pub(super) fn end(&mut self) {
        while self.next < self.layout.buckets.len() {
            self.put_next();
        }
    }

    /// All batches are done: what a process without any adds to the sums is nothing.
    pub(super) fn finish(mut self) {
        if self.last.is_none() {
            (0..self.layout.buckets.len()).for_each(|bucket| self.give(bucket));
        }
    }

    fn put_next(&mut self) {
        let bucket = self.next;
        self.next += 1;
        self.sums[bucket].push(self.batch, std::mem::take(&mut self.values[bucket]));
        if self.last == Some(self.batch) {
            self.give(bucket);
        }
    }

    fn give(&mut self, bucket: usize) {
        let sums = std::mem::replace(&mut self.sums[bucket], Sums::new(0));
        // Fails only where the other end has failed, which says so.
        let _ = self.ready.send((bucket, sums));
    }
}
