//! A plan: the steps that run a graph at given sizes, and the buffers they work in.

use std::time::Instant;

use offshoot_graph::{ExecuteError, StepTime, Tensor};

use crate::buffer::Buffer;
use crate::kernels::conv::PackedFilter;
use crate::memory::{Lifetime, place};

/// A run of f32 that a step reads or writes. An index into the plan's table of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) usize);

/// Where a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one of the shared buffers.
    Slot { slot: usize, len: usize },
    /// In an input of the run.
    Input(usize),
    /// In a parameter of the run.
    Parameter(usize),
    /// In the plan's constants.
    Constant(usize),
}

/// What a step computes. It reads through [`Memory`] and writes the outputs it is handed, in order.
pub(crate) type Run =
    Box<dyn FnMut(&Memory<'_>, &mut Scratch, &mut [&mut [f32]]) -> Result<(), ExecuteError> + Send>;

/// One kernel call.
pub(crate) struct Step {
    /// The node it belongs to.
    pub(crate) node: String,
    pub(crate) reads: Vec<BufferId>,
    pub(crate) writes: Vec<BufferId>,
    pub(crate) run: Run,
}

/// Memory that a step may use while it runs, shared by all.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) filter: PackedFilter,
    pub(crate) floats: Buffer,
}

/// What steps read.
pub(crate) struct Memory<'a> {
    places: &'a [Place],
    slots: &'a [Buffer],
    inputs: &'a [&'a Tensor],
    parameters: &'a [&'a [f32]],
    constants: &'a [Vec<f32>],
}

impl Memory<'_> {
    /// The elements of a buffer.
    pub(crate) fn get(&self, id: BufferId) -> &[f32] {
        match self.places[id.0] {
            Place::Slot { slot, len } => self.slots[slot].get(len),
            Place::Input(i) => self.inputs[i].as_f32().unwrap_or_default(),
            Place::Parameter(i) => self.parameters[i],
            Place::Constant(i) => &self.constants[i],
        }
    }

    /// The elements of an i64 input.
    pub(crate) fn get_i64(&self, input: usize) -> &[i64] {
        self.inputs[input].as_i64().unwrap_or_default()
    }
}

/// The steps of a graph at given sizes.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) places: Vec<Place>,
    pub(crate) constants: Vec<Vec<f32>>,
    /// The lengths of the shared buffers.
    pub(crate) slots: Vec<usize>,
    /// Name, shape and buffer of each output.
    pub(crate) outputs: Vec<(String, Vec<usize>, BufferId)>,
}

impl Plan {
    /// Decides where the buffers live. `buffers` holds, for each, its place or, for those to be placed, its length.
    pub(crate) fn new(
        steps: Vec<Step>,
        buffers: Vec<Result<Place, usize>>,
        constants: Vec<Vec<f32>>,
        outputs: Vec<(String, Vec<usize>, BufferId)>,
    ) -> Plan {
        let mut lives: Vec<Option<Lifetime>> = vec![None; buffers.len()];
        let mut touch = |id: BufferId, step: usize| {
            if let Err(len) = buffers[id.0] {
                let life = lives[id.0].get_or_insert(Lifetime { len, first: step, last: step });
                life.last = life.last.max(step);
            }
        };
        for (index, step) in steps.iter().enumerate() {
            step.writes.iter().chain(&step.reads).for_each(|&id| touch(id, index));
        }
        outputs.iter().for_each(|&(_, _, id)| touch(id, steps.len()));

        let living: Vec<usize> = (0..buffers.len()).filter(|&i| lives[i].is_some()).collect();
        let lifetimes: Vec<Lifetime> = living.iter().filter_map(|&i| lives[i]).collect();
        let placement = place(&lifetimes);
        let mut places: Vec<Place> =
            buffers.into_iter().map(|b| b.unwrap_or(Place::Slot { slot: 0, len: 0 })).collect();
        for (&buffer, (&slot, life)) in living.iter().zip(placement.slots.iter().zip(&lifetimes)) {
            places[buffer] = Place::Slot { slot, len: life.len };
        }
        Plan { steps, places, constants, slots: placement.sizes, outputs }
    }

    /// Runs every step. `slots` grows to what the plan needs.
    pub(crate) fn run(
        &mut self,
        slots: &mut Vec<Buffer>,
        scratch: &mut Scratch,
        inputs: &[&Tensor],
        parameters: &[&[f32]],
        mut profile: Option<&mut Vec<StepTime>>,
    ) -> Result<(), ExecuteError> {
        if slots.len() < self.slots.len() {
            slots.resize_with(self.slots.len(), Buffer::default);
        }
        for (slot, &len) in slots.iter_mut().zip(&self.slots) {
            slot.reserve(len);
        }
        let Plan { steps, places, constants, .. } = self;
        for step in steps {
            let start = profile.is_some().then(Instant::now);
            // The outputs leave `slots` while they are written, so that the rest can be read.
            let mut taken = take(slots, places, &step.writes);
            let mut writes: Vec<&mut [f32]> = taken.iter_mut().map(|t| t.buffer.get_mut(t.len)).collect();
            let memory = Memory { places, slots, inputs, parameters, constants };
            let result = (step.run)(&memory, scratch, &mut writes);
            for t in taken {
                slots[t.slot] = t.buffer;
            }
            result?;
            if let (Some(profile), Some(start)) = (&mut profile, start) {
                profile.push(StepTime { node: step.node.clone(), time: start.elapsed() });
            }
        }
        Ok(())
    }
}

/// A shared buffer that a step writes.
struct Taken {
    slot: usize,
    len: usize,
    buffer: Buffer,
}

fn take(slots: &mut [Buffer], places: &[Place], writes: &[BufferId]) -> Vec<Taken> {
    let taken = writes.iter().map(|id| match places[id.0] {
        Place::Slot { slot, len } => Taken { slot, len, buffer: std::mem::take(&mut slots[slot]) },
        Place::Input(_) | Place::Parameter(_) | Place::Constant(_) => {
            unreachable!("what steps write is never the caller's")
        }
    });
    taken.collect()
}
