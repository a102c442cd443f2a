//! A plan: the steps that run a graph at given sizes, and the buffers they work in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::cast_slice;
use offshoot_graph::{Data, ExecuteError, StepTime, Tensor};

use crate::buffer::Buffer;
use crate::commit::{Commit, Parameters, commit};
use crate::kernels::conv::PackedFilter;
use crate::memory::{Lifetime, place};
use crate::operands::{Arena, Buffers, Given, Reads, Region, Slot, Writes};

/// What a step computes.
type Run = Box<dyn FnMut(Arena<'_>, &Given<'_>, &mut Scratch) -> Result<(), ExecuteError> + Send>;

/// What a step is in a profile: see [`StepTime`].
#[derive(Clone, Default)]
pub(crate) struct Label {
    pub(crate) node: Arc<str>,
    pub(crate) operator: &'static str,
    pub(crate) kernel: &'static str,
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
}

impl Label {
    /// The time that it took.
    pub(crate) fn timed(&self, time: Duration) -> StepTime {
        let Label { node, operator, kernel, operations, bytes } = self;
        StepTime {
            node: node.as_ref().to_owned(),
            operator,
            kernel,
            time,
            operations: *operations,
            bytes: *bytes,
        }
    }
}

/// One kernel call.
pub(crate) struct Step {
    pub(crate) label: Label,
    pub(crate) buffers: Buffers,
    run: Run,
}

impl Step {
    /// A step that calls `run` with the elements of what it reads and writes.
    pub(crate) fn new<R: Reads, W: Writes>(
        reads: R,
        writes: W,
        mut run: impl for<'r, 'w> FnMut(
            R::Elements<'r>,
            W::Elements<'w>,
            &mut Scratch,
        ) -> Result<(), ExecuteError>
        + Send
        + 'static,
    ) -> Step {
        let mut buffers = Buffers::default();
        reads.register(&mut buffers);
        writes.register(&mut buffers);
        let run = move |arena: Arena<'_>, given: &Given<'_>, scratch: &mut Scratch| {
            // (For as long as the handles are borrowed, which is shorter.)
            let mut arena = arena;
            let outputs = writes.get(&mut arena);
            run(reads.get(&arena.rest(given)), outputs, scratch)
        };
        Step { label: Label::default(), buffers, run: Box::new(run) }
    }
}

/// Memory that a step may use while it runs, shared by all.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) filter: PackedFilter,
    pub(crate) floats: Buffer,
}

/// An output of the graph.
pub(crate) struct PlanOutput {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) floats: Floats,
}

/// The buffer of an output, by the type of its elements.
#[derive(Clone, Copy)]
pub(crate) enum Floats {
    F32(Slot),
    F64(Slot),
}

impl Floats {
    fn slot(self) -> Slot {
        match self {
            Floats::F32(slot) | Floats::F64(slot) => slot,
        }
    }
}

/// The steps of a graph at given sizes.
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// Where each buffer is in the arena.
    regions: Vec<Region>,
    constants: Vec<Tensor>,
    /// Bytes of the arena.
    bytes: usize,
    outputs: Vec<PlanOutput>,
    /// After which steps outputs of f32 are computed, by their places, in the order of the steps.
    computed: Vec<(usize, usize)>,
    /// What changes parameters when the steps have run.
    commits: Vec<Commit>,
}

impl Plan {
    /// Decides where the buffers live. `sizes` are their bytes.
    pub(crate) fn new(
        steps: Vec<Step>,
        sizes: &[usize],
        constants: Vec<Tensor>,
        outputs: Vec<PlanOutput>,
        commits: Vec<Commit>,
    ) -> Plan {
        let read = commits.iter().flat_map(Commit::buffers);
        let kept: Vec<Slot> = outputs.iter().map(|output| output.floats.slot()).chain(read).collect();
        let (tenants, lives) = tenants(&steps, sizes, &kept);
        let placement = place(&lives);
        let regions = sizes.iter().zip(tenants).map(|(&bytes, tenant)| {
            let offset = tenant.map_or(0, |tenant| placement.offsets[tenant]);
            Region { offset, bytes }
        });
        let computed = computed(&steps, &outputs);
        let (regions, bytes) = (regions.collect(), placement.bytes);
        Plan { steps, regions, constants, bytes, outputs, computed, commits }
    }

    /// Bytes of the arena.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Runs every step. `arena` grows to what the plan needs. The inputs and parameters have the types and shapes that the plan was
    /// made for. `watch` is handed each output of f32 once it is computed.
    pub(crate) fn run(
        &mut self,
        arena: &mut Buffer,
        scratch: &mut Scratch,
        inputs: &[&Tensor],
        parameters: &[&Tensor],
        mut profile: Option<&mut Vec<StepTime>>,
        mut watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        arena.reserve(self.bytes);
        let Plan { steps, regions, constants, bytes, outputs, computed, .. } = self;
        let mut computed = computed.iter().peekable();
        let arena = arena.get_mut::<u8>(*bytes);
        let given = Given::new(inputs, parameters, constants);
        for (index, step) in steps.iter_mut().enumerate() {
            let start = profile.is_some().then(Instant::now);
            (step.run)(Arena::new(arena, regions), &given, scratch)?;
            if let (Some(profile), Some(start)) = (&mut profile, start) {
                profile.push(step.label.timed(start.elapsed()));
            }
            while let Some((_, output)) = computed.next_if(|(step, _)| *step == index) {
                if let Some(watch) = &mut watch {
                    let output = &outputs[*output];
                    let Region { offset, bytes } = regions[output.floats.slot().0];
                    watch(&output.name, cast_slice(&arena[offset..offset + bytes]));
                }
            }
        }
        Ok(())
    }

    /// An output of the last run, which worked in `arena`.
    pub(crate) fn output(&self, name: &str, arena: &Buffer) -> Option<Tensor> {
        let output = self.outputs.iter().find(|output| output.name == name)?;
        let Region { offset, bytes } = self.regions[output.floats.slot().0];
        let bytes = &arena.get::<u8>(self.bytes)[offset..offset + bytes];
        let data = match output.floats {
            Floats::F32(_) => Data::F32(cast_slice(bytes).to_vec()),
            Floats::F64(_) => Data::F64(cast_slice(bytes).to_vec()),
        };
        Tensor::new(output.shape.clone(), data).ok()
    }

    /// Bytes that [`Plan::commit`] reads and writes.
    pub(crate) fn commit_bytes(&self, parameters: &[&Tensor]) -> usize {
        let bytes = |slot: Slot| self.regions[slot.0].bytes;
        self.commits.iter().map(|commit| commit.bytes(parameters, bytes)).sum()
    }

    /// Whether a run changes parameters.
    pub(crate) fn changes_parameters(&self) -> bool {
        !self.commits.is_empty()
    }

    /// Gives parameters their new values when the steps have run in `arena`.
    ///
    /// # Errors
    /// When a new number would not be finite: nothing has changed then.
    pub(crate) fn commit(
        &mut self,
        arena: &mut Buffer,
        inputs: &[&Tensor],
        parameters: &mut Parameters<'_>,
    ) -> Result<(), ExecuteError> {
        let given = Given::new(inputs, &[], &self.constants);
        let arena = Arena::new(arena.get_mut(self.bytes), &self.regions);
        commit(&self.commits, &arena.rest(&given), parameters)
    }
}

/// Is told of an output once it is computed.
pub(crate) type Watch<'w> = dyn FnMut(&str, &[f32]) + Send + 'w;

/// After which steps outputs of f32 are computed, by their places, in the order of the steps.
fn computed(steps: &[Step], outputs: &[PlanOutput]) -> Vec<(usize, usize)> {
    let mut last_write = HashMap::new();
    for (index, Step { buffers, .. }) in steps.iter().enumerate() {
        buffers.writes.iter().for_each(|slot| {
            last_write.insert(slot.0, index);
        });
    }
    let floats = outputs.iter().enumerate().filter(|(_, output)| matches!(output.floats, Floats::F32(_)));
    let found = floats.filter_map(|(place, output)| Some((*last_write.get(&output.floats.slot().0)?, place)));
    let mut found: Vec<(usize, usize)> = found.collect();
    found.sort_unstable();
    found
}

/// Which tenant of the arena each buffer is, and how long each tenant lives. An output that takes over the memory of an
/// operand that dies with its step is the same tenant.
fn tenants(steps: &[Step], sizes: &[usize], kept: &[Slot]) -> (Vec<Option<usize>>, Vec<Lifetime>) {
    let mut last_use = vec![0; sizes.len()];
    for (index, Step { buffers, .. }) in steps.iter().enumerate() {
        buffers.writes.iter().chain(&buffers.reads).for_each(|slot| last_use[slot.0] = index);
    }
    kept.iter().for_each(|slot| last_use[slot.0] = steps.len());
    let mut tenants: Vec<Option<usize>> = vec![None; sizes.len()];
    let mut lives: Vec<Lifetime> = Vec::new();
    for (index, Step { buffers, .. }) in steps.iter().enumerate() {
        for (place, slot) in buffers.writes.iter().enumerate() {
            let bytes = sizes[slot.0];
            if tenants[slot.0].is_some() {
                // Another step has written a part of it, and it lives to its last use.
                continue;
            }
            let over = buffers.over.filter(|over| {
                let once = buffers.reads.iter().filter(|&read| read == over).count() == 1;
                place == 0 && once && last_use[over.0] == index && sizes[over.0] == bytes
            });
            let tenant = over.and_then(|over| tenants[over.0]).unwrap_or(lives.len());
            if tenant == lives.len() {
                lives.push(Lifetime { bytes, first: index, last: index });
            }
            lives[tenant].last = lives[tenant].last.max(last_use[slot.0]);
            tenants[slot.0] = Some(tenant);
        }
    }
    (tenants, lives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operands::{Operand, Output, Over};

    /// A buffer of floats.
    fn buffer(index: usize) -> Output<f32> {
        Output::new(Slot(index))
    }

    fn step(over: Option<usize>, reads: &[usize], write: usize) -> Step {
        let over = over.map(|over| Over(buffer(over).operand()));
        let reads: Vec<Operand<f32>> = reads.iter().map(|&read| buffer(read).operand()).collect();
        Step::new((over, reads), buffer(write), |_, _, _| Ok(()))
    }

    fn plan(steps: Vec<Step>, sizes: &[usize], output: usize) -> Plan {
        let output = PlanOutput {
            name: String::new(),
            shape: vec![sizes[output] / 4],
            floats: Floats::F32(Slot(output)),
        };
        Plan::new(steps, sizes, Vec::new(), vec![output], Vec::new())
    }

    #[test]
    fn an_output_takes_over_an_operand_that_dies() {
        let steps =
            vec![step(None, &[], 0), step(Some(0), &[], 1), step(Some(1), &[], 2), step(None, &[1, 2], 3)];
        let plan = plan(steps, &[640; 4], 3);
        assert_eq!(plan.regions[0], plan.regions[1]);
        assert_ne!(plan.regions[1], plan.regions[2], "1 is read again");
        assert_eq!(plan.bytes, 3 * 640);
    }

    #[test]
    fn an_operand_that_is_read_twice_stays() {
        let steps = vec![step(None, &[], 0), step(Some(0), &[0], 1)];
        assert_eq!(plan(steps, &[64; 2], 1).bytes, 128);
    }

    #[test]
    fn steps_pass_on_what_they_compute() {
        let first = Step::new((), buffer(0), |(), x, _| {
            x.copy_from_slice(&[1.0, 2.0]);
            Ok(())
        });
        let second = Step::new(Over(buffer(0).operand()), buffer(1), |x, y, _| {
            assert!(x.is_none(), "it is in the place of what it reads");
            y.iter_mut().for_each(|y| *y += 1.0);
            Ok(())
        });
        let (mut plan, mut arena) = (plan(vec![first, second], &[8; 2], 1), Buffer::default());
        plan.run(&mut arena, &mut Scratch::default(), &[], &[], None, None).unwrap();
        assert_eq!(plan.output("", &arena), Some(Tensor::f32([2], vec![2.0, 3.0])));
        assert!(plan.output("other", &arena).is_none());
    }
}
