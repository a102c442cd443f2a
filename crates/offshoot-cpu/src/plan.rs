//! A plan: the steps that run a graph at given sizes, and the buffers they work in.

use std::time::Instant;

use bytemuck::cast_slice;
use offshoot_graph::{DType, ExecuteError, StepTime, Tensor};

use crate::buffer::Buffer;
use crate::kernels::conv::PackedFilter;
use crate::kernels::element::Element;
use crate::memory::{Lifetime, place};

/// A run of elements that a step reads or writes. An index into the plan's table of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) usize);

/// Where a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one of the shared buffers.
    Slot { slot: usize, len: usize, dtype: DType },
    /// In an input of the run.
    Input(usize),
    /// In a parameter of the run.
    Parameter(usize),
    /// In the plan's constants.
    Constant(usize),
}

/// A buffer that is yet to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Elements.
    pub(crate) len: usize,
    /// Their type.
    pub(crate) dtype: DType,
}

impl Size {
    fn bytes(self) -> usize {
        self.len * self.dtype.size()
    }
}

/// A buffer that a step writes.
pub(crate) struct Out<'a> {
    buffer: &'a mut Buffer,
    len: usize,
    dtype: DType,
}

impl Out<'_> {
    /// The elements, whose type is known where the plan is made.
    pub(crate) fn get<E: Element>(&mut self) -> &mut [E] {
        debug_assert_eq!(self.dtype, E::DTYPE, "the type of an output");
        self.buffer.get_mut(self.len)
    }
}

/// What a step computes. It reads through [`Memory`] and writes the outputs it is handed, in order.
pub(crate) type Run =
    Box<dyn FnMut(&Memory<'_>, &mut Scratch, &mut [Out<'_>]) -> Result<(), ExecuteError> + Send>;

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
    /// The elements of a buffer, whose type is known where the plan is made.
    pub(crate) fn get<E: Element>(&self, id: BufferId) -> &[E] {
        let floats = match self.places[id.0] {
            Place::Slot { slot, len, dtype } => {
                debug_assert_eq!(dtype, E::DTYPE, "the type of an operand");
                return self.slots[slot].get(len);
            }
            Place::Input(i) => self.inputs[i].as_f32().unwrap_or_default(),
            Place::Parameter(i) => self.parameters[i],
            Place::Constant(i) => &self.constants[i],
        };
        debug_assert_eq!(DType::F32, E::DTYPE, "the type of an operand");
        cast_slice(floats)
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
    /// The shared buffers' lengths in bytes.
    pub(crate) slots: Vec<usize>,
    /// Name, shape and buffer of each output.
    pub(crate) outputs: Vec<(String, Vec<usize>, BufferId)>,
}

impl Plan {
    /// Decides where the buffers live. `buffers` holds, for each, its place or, for those to be placed, its size.
    pub(crate) fn new(
        steps: Vec<Step>,
        buffers: Vec<Result<Place, Size>>,
        constants: Vec<Vec<f32>>,
        outputs: Vec<(String, Vec<usize>, BufferId)>,
    ) -> Plan {
        let mut lives: Vec<Option<Lifetime>> = vec![None; buffers.len()];
        let mut touch = |id: BufferId, step: usize| {
            if let Err(size) = buffers[id.0] {
                let first = Lifetime { len: size.bytes(), first: step, last: step };
                let life = lives[id.0].get_or_insert(first);
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
        let mut slot_of = vec![0; buffers.len()];
        for (&buffer, &slot) in living.iter().zip(&placement.slots) {
            slot_of[buffer] = slot;
        }
        let place = |(buffer, slot): (Result<Place, Size>, usize)| {
            buffer.unwrap_or_else(|Size { len, dtype }| Place::Slot { slot, len, dtype })
        };
        let places = buffers.into_iter().zip(slot_of).map(place).collect();
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
            let mut writes: Vec<Out<'_>> = taken.iter_mut().map(Taken::out).collect();
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
    dtype: DType,
    buffer: Buffer,
}

impl Taken {
    fn out(&mut self) -> Out<'_> {
        Out { buffer: &mut self.buffer, len: self.len, dtype: self.dtype }
    }
}

fn take(slots: &mut [Buffer], places: &[Place], writes: &[BufferId]) -> Vec<Taken> {
    let taken = writes.iter().map(|id| match places[id.0] {
        Place::Slot { slot, len, dtype } => {
            Taken { slot, len, dtype, buffer: std::mem::take(&mut slots[slot]) }
        }
        Place::Input(_) | Place::Parameter(_) | Place::Constant(_) => {
            unreachable!("what steps write is never the caller's")
        }
    });
    taken.collect()
}
