//! Learning from several batches at once, which may be spread over processes.
//!
//! The gradients of the batches, each times the weight of its batch, are summed in the tree of [`offshoot_world`], and all else is taken in the
//! order of the batches. So the bits of an update do not depend on how many processes there are, and a process alone does the
//! same. Each process gets the sums and makes the same update.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use offshoot_graph::op::{Op, TrainOp};
use offshoot_graph::passes::{TrainingGraph, apply_graph, gradient_output, state_output, sum_parameter};
use offshoot_graph::{Tensor, Weights};
use offshoot_world::{Alone, Sums, World, part};

use super::collect::{Collector, Layout};
use super::{Answered, refusal};
use crate::step::{Batch, NetworkError, StepError, StepReport, TrainStep};

/// The batches that are learned from together, and who has which.
#[derive(Clone, Copy)]
pub struct Share<'a> {
    /// The processes.
    pub world: &'a dyn World,
    /// The batches of all of them. Each process has its [`part`].
    pub batches: usize,
}

/// The graphs of a session that learn from several batches together, by their numbers, and what surrounds their runs.
#[derive(Clone)]
pub(in crate::step) struct Together {
    gradients: usize,
    apply: usize,
    layout: Arc<Layout>,
    /// The running statistics that move, with the weight of a batch in each (PyTorch's `momentum`).
    momenta: Arc<[(String, f64)]>,
}

/// What a batch has come to, its gradients apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Learned {
    weight: f32,
    loss: f32,
    images: u32,
    correct: u32,
    error: f64,
}

/// Bytes of a [`Learned`].
const LEARNED: usize = 24;

/// What all batches have come to.
#[derive(Default)]
struct Total {
    weight: f64,
    /// The sum of the losses times the weights.
    loss: f64,
    images: usize,
    correct: usize,
    error: f64,
}

impl Learned {
    fn bytes(self) -> [u8; LEARNED] {
        let mut bytes = [0; LEARNED];
        bytes[..4].copy_from_slice(&self.weight.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.loss.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.images.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.correct.to_le_bytes());
        bytes[16..].copy_from_slice(&self.error.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8; LEARNED]) -> Learned {
        let (fields, error) = bytes.split_last_chunk().unwrap_or((&[], &[0; 8]));
        let field = |place: usize| fields.as_chunks().0.get(place).copied().unwrap_or_default();
        let [weight, loss] = [0, 1].map(|place| f32::from_le_bytes(field(place)));
        let [images, correct] = [2, 3].map(|place| u32::from_le_bytes(field(place)));
        Learned { weight, loss, images, correct, error: f64::from_le_bytes(*error) }
    }
}

/// What the batches of a process have come to, in their order. After a problem there are no more.
#[derive(Default)]
struct Outcome {
    learned: Vec<Learned>,
    /// What each has added to the running statistics, one after the other.
    statistics: Vec<f32>,
    /// Why the step is to be refused.
    problem: Option<String>,
}

impl Outcome {
    /// The outcomes of all processes, one after the other: those of the batches in their order.
    fn gathered(self, world: &dyn World) -> Result<Outcome, StepError> {
        let Outcome { learned, statistics, problem } = self;
        let problem = problem.unwrap_or_default();
        let mut own = (learned.len() as u64).to_le_bytes().to_vec();
        learned.iter().for_each(|batch| own.extend(batch.bytes()));
        own.extend(problem.as_bytes());
        let mut all = Outcome::default();
        for bytes in world.all_gather(&own)? {
            let Some((count, rest)) = bytes.split_first_chunk() else { continue };
            let count = usize::try_from(u64::from_le_bytes(*count)).unwrap_or(0);
            let (batches, problem) = rest.split_at_checked(count.saturating_mul(LEARNED)).unwrap_or_default();
            all.learned.extend(batches.as_chunks().0.iter().map(Learned::of));
            let problem = Some(String::from_utf8_lossy(problem).into_owned());
            all.problem = all.problem.or(problem.filter(|text| !text.is_empty()));
        }
        for bytes in world.all_gather(bytemuck::cast_slice(&statistics))? {
            all.statistics.extend(bytes.as_chunks().0.iter().map(|&x| f32::from_ne_bytes(x)));
        }
        Ok(all)
    }
}

impl TrainStep {
    /// Learns from several batches at once: one update with the gradient of the loss over all their pictures. That is the
    /// update of one large batch where batch norms are frozen or absent; others normalize each batch by itself and move their
    /// running statistics with each.
    ///
    /// # Errors
    /// As [`TrainStep::learn`]; nothing has changed then, running statistics included.
    pub fn learn_together(&mut self, batches: &[Batch], factor: f64) -> Result<StepReport, StepError> {
        self.learn_shared(batches, Share { world: &Alone, batches: batches.len() }, factor)
    }

    /// [`TrainStep::learn_together`] with batches that are spread over processes: `batches` are the [`part`] of this one. All processes
    /// call it, with steps in the same state, and are left with steps in the same state, that which one process with all
    /// batches would be left with, to the bit.
    ///
    /// # Errors
    /// As [`TrainStep::learn`], on all processes where the step was refused, and when a process cannot be reached.
    pub fn learn_shared(
        &mut self,
        batches: &[Batch],
        share: Share<'_>,
        factor: f64,
    ) -> Result<StepReport, StepError> {
        let statistics = self.read_all(&self.training.states);
        let report = self.accumulate(batches, share, &statistics).and_then(|learned| {
            let Total { weight, loss, images, correct, error } = learned;
            let report = self.apply(weight, factor)?;
            Ok(StepReport { loss: (loss / weight) as f32, images, correct, error, ..report })
        });
        if !matches!(report, Ok(StepReport { skipped: false, .. })) {
            self.session.restore(&statistics).map_err(NetworkError::from)?;
        }
        report
    }

    /// The graphs that learn from several batches, added to the session at the first call.
    fn together(&mut self) -> Result<Together, NetworkError> {
        if let Some(together) = &self.together {
            return Ok(together.clone());
        }
        let apply = apply_graph(&self.training, self.optimizer.rule(), self.clip, self.ema.is_some())?;
        let layout =
            Layout::new(&self.training, |name| self.session.read(name).map_or(0, |weight| weight.len()));
        let sums: Weights = (layout.parameters.iter())
            .map(|place| (sum_parameter(&place.name), Tensor::zeros([place.range.len()])))
            .collect();
        let gradients = self.session.add_graph(&self.training.graph, &Weights::new())?;
        let apply = self.session.add_graph(&apply, &sums)?;
        let (layout, momenta) = (Arc::new(layout), momenta(&self.training).into());
        Ok(self.together.insert(Together { gradients, apply, layout, momenta }).clone())
    }

    /// Sums the gradients, and moves the running statistics on from `statistics`.
    ///
    /// A thread sums and sends the gradients of a part of the parameters while those of other parts are still computed.
    fn accumulate(
        &mut self,
        batches: &[Batch],
        share: Share<'_>,
        statistics: &Weights,
    ) -> Result<Total, StepError> {
        let together = self.together()?;
        let layout = &*together.layout;
        let (ready, buckets) = channel();
        let mut reduce_all = Some(move || layout.reduce(share.world, buckets));
        let overlaps = share.world.is_shared() && share.world.overlaps();
        let (outcome, sum) = thread::scope(|scope| {
            let started = reduce_all.take_if(|_| overlaps).map(|reduce_all| scope.spawn(reduce_all));
            let outcome = self.run_own(&together, batches, share, ready);
            let sum = match (started, reduce_all.take()) {
                (Some(thread), _) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                (None, Some(reduce_all)) => reduce_all(),
                (None, None) => Ok(Vec::new()),
            };
            (outcome, sum)
        });
        let (outcome, sum) = (outcome?.gathered(share.world)?, sum?);
        if let Some(problem) = outcome.problem {
            return Err(StepError::NotFinite { problem });
        }
        self.session.restore(&layout.sums(&sum)).map_err(NetworkError::from)?;
        self.move_statistics(&together, statistics, &outcome.statistics)?;
        let mut total = Total::default();
        for batch in outcome.learned {
            total.weight += f64::from(batch.weight);
            total.loss += f64::from(batch.weight) * f64::from(batch.loss);
            total.images += batch.images as usize;
            total.correct += batch.correct as usize;
            total.error += batch.error;
        }
        Ok(total)
    }

    /// Runs the batches of this process, and gives what is `ready` of their sums to be summed with those of others. After a problem, zeros take the
    /// place of gradients, as the others wait for sums.
    fn run_own(
        &mut self,
        together: &Together,
        batches: &[Batch],
        share: Share<'_>,
        ready: Sender<(usize, Sums)>,
    ) -> Result<Outcome, StepError> {
        let own = part(share.world.rank(), share.batches, share.world.size());
        let mut collector = Collector::new(&together.layout, own.clone(), share.batches, ready);
        let (mut outcome, mut failed) = (Outcome::default(), None);
        for (index, batch) in own.zip(batches) {
            if outcome.problem.is_none() && failed.is_none() {
                collector.start(index, self.weight_of(&batch.labels));
                match self.run_one(together, batch, &mut collector, &mut outcome.statistics) {
                    Ok(learned) => outcome.learned.push(learned),
                    Err(StepError::NotFinite { problem }) => outcome.problem = Some(problem),
                    Err(other) => failed = Some(other),
                }
            } else {
                collector.start(index, 0.0);
            }
            collector.end();
        }
        collector.finish();
        failed.map_or(Ok(outcome), Err)
    }

    /// Runs one batch. Hands its gradients to `collector`, and adds to `statistics` what it adds to the running ones: these are zeros
    /// while it runs, as those that the batches before it leave may not be known yet.
    fn run_one(
        &mut self,
        together: &Together,
        Batch { features, labels, keys }: &Batch,
        collector: &mut Collector<'_>,
        statistics: &mut Vec<f32>,
    ) -> Result<Learned, StepError> {
        let zeros: Weights = (self.read_all(&self.training.states).into_iter())
            .map(|(name, tensor)| (name, Tensor::zeros(tensor.shape())))
            .collect();
        self.session.restore(&zeros).map_err(NetworkError::from)?;
        let outputs: Vec<String> =
            together.layout.parameters.iter().map(|place| gradient_output(&place.name)).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mut watch = |output: &str, gradient: &[f32]| collector.take(output, gradient);
        let refused = self.run_batch([features, labels, keys], &[], |session, inputs| {
            session.run_graph_watched(together.gradients, inputs, &outputs, &mut watch)
        })?;
        refused.map_or(Ok(()), |name| Err(self.refused(&name)))?;
        let loss = self.loss()?;
        let Answered { correct, error } = self.answered(labels);
        let (weight, images, correct) = (self.weight_of(labels), labels.shape()[0] as u32, correct as u32);
        let learned = Learned { weight, loss, images, correct, error };
        for (name, _) in &*together.momenta {
            let added = self.session.read(&state_output(name));
            let added = added.as_ref().and_then(Tensor::as_f32).unwrap_or_default();
            if added.iter().any(|x| !x.is_finite()) {
                return Err(self.refused(name));
            }
            statistics.extend(added);
        }
        Ok(learned)
    }

    /// Moves the running statistics on from what they were with what the batches add, in the order of the batches.
    fn move_statistics(
        &mut self,
        together: &Together,
        before: &Weights,
        added: &[f32],
    ) -> Result<(), StepError> {
        let mut now = before.clone();
        let of_batch: usize = now.values().map(Tensor::len).sum();
        for mut batch in added.chunks_exact(of_batch.max(1)) {
            for (name, momentum) in &*together.momenta {
                let Some(values) = now.get_mut(name).and_then(Tensor::as_f32_mut) else { continue };
                let (new, rest) = batch.split_at(values.len());
                for (x, &new) in values.iter_mut().zip(new) {
                    *x = ((1.0 - momentum) * f64::from(*x) + f64::from(new)) as f32;
                }
                batch = rest;
            }
        }
        let broken = |(_, tensor): &(&String, &Tensor)| {
            tensor.as_f32().unwrap_or_default().iter().any(|x| !x.is_finite())
        };
        if let Some((name, _)) = now.iter().find(broken) {
            return Err(self.refused(name));
        }
        Ok(self.session.restore(&now).map_err(NetworkError::from)?)
    }

    /// Updates the weights with the sums of the gradients of batches whose weights are `weight` together.
    fn apply(&mut self, weight: f64, factor: f64) -> Result<StepReport, StepError> {
        let Together { apply, .. } = self.together()?;
        let update = self.update((1.0 / weight) as f32, factor);
        let refused = refusal(self.session.run_graph(apply, &update.inputs()))?;
        self.finish_update(refused, update.unscale)
    }
}

/// The running statistics that a step moves, each once, with the weight of a batch in them.
fn momenta(training: &TrainingGraph) -> Vec<(String, f64)> {
    let graph = &training.graph;
    let mut found = BTreeMap::new();
    for node in graph.nodes() {
        if let Op::Train(TrainOp::BatchNormStats(norm)) = &node.op {
            for &statistic in &node.inputs[1..3] {
                found.insert(graph.value(statistic).name.clone(), f64::from(norm.momentum));
            }
        }
    }
    found.retain(|name, _| training.states.contains(name));
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_has_come_to_is_the_same_behind_a_message() {
        let learned =
            Learned { weight: 7.5, loss: f32::MIN_POSITIVE, images: 9, correct: u32::MAX - 3, error: 0.1 };
        assert_eq!(Learned::of(&learned.bytes()), learned);
    }
}
