//! What a step reads and writes. A step is made of handles, and its kernel gets the elements of these handles and nothing
//! else: what memory planning knows of a step is what its kernel can touch, and the type of the elements is the handle's.

use std::marker::PhantomData;

use bytemuck::{cast_slice, cast_slice_mut};
use offshoot_graph::{DType, Data, Tensor};

use crate::kernels::element::Stored;

/// A buffer of the arena: its number among the plan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

/// Where the elements of an operand are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
    /// In the arena.
    Arena(Slot),
    /// In an input of the run.
    Input(usize),
    /// In a parameter of the run.
    Parameter(usize),
    /// In the plan's constants.
    Constant(usize),
}

/// An operand whose type is known when the plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnyOperand {
    location: Location,
    dtype: DType,
}

impl AnyOperand {
    /// An input of the run, which has this type.
    pub(crate) fn input(index: usize, dtype: DType) -> AnyOperand {
        AnyOperand { location: Location::Input(index), dtype }
    }

    /// A parameter of the run, which has this type.
    pub(crate) fn parameter(index: usize, dtype: DType) -> AnyOperand {
        AnyOperand { location: Location::Parameter(index), dtype }
    }

    /// A constant of the plan, which has this type.
    pub(crate) fn constant(index: usize, dtype: DType) -> AnyOperand {
        AnyOperand { location: Location::Constant(index), dtype }
    }

    /// Which constant of the plan it is, if it is one.
    pub(crate) fn as_constant(self) -> Option<usize> {
        match self.location {
            Location::Constant(index) => Some(index),
            Location::Arena(_) | Location::Input(_) | Location::Parameter(_) => None,
        }
    }

    /// The buffer of the arena that it is in, if it is in one.
    pub(crate) fn slot(self) -> Option<Slot> {
        match self.location {
            Location::Arena(slot) => Some(slot),
            Location::Input(_) | Location::Parameter(_) | Location::Constant(_) => None,
        }
    }

    /// Which input of the run it is, if it is one.
    pub(crate) fn as_input(self) -> Option<usize> {
        match self.location {
            Location::Input(index) => Some(index),
            Location::Arena(_) | Location::Parameter(_) | Location::Constant(_) => None,
        }
    }

    /// Which parameter of the graph it is, if it is one.
    pub(crate) fn as_parameter(self) -> Option<usize> {
        match self.location {
            Location::Parameter(index) => Some(index),
            Location::Arena(_) | Location::Input(_) | Location::Constant(_) => None,
        }
    }

    /// The type of its elements.
    pub(crate) fn dtype(self) -> DType {
        self.dtype
    }

    /// The same operand as one of `E`, if it is.
    pub(crate) fn of<E: Stored>(self) -> Option<Operand<E>> {
        (self.dtype == E::DTYPE).then_some(Operand { location: self.location, elements: PhantomData })
    }
}

/// What a step can read: elements of type `E`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<E> {
    location: Location,
    elements: PhantomData<E>,
}

impl<E: Stored> From<Operand<E>> for AnyOperand {
    fn from(operand: Operand<E>) -> AnyOperand {
        AnyOperand { location: operand.location, dtype: E::DTYPE }
    }
}

/// What a step can write: a buffer of elements of type `E`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output<E> {
    slot: Slot,
    elements: PhantomData<E>,
}

impl<E: Stored> Output<E> {
    /// A buffer of the arena that is made for elements of this type.
    pub(crate) fn new(slot: Slot) -> Output<E> {
        Output { slot, elements: PhantomData }
    }

    /// The buffer that it is.
    pub(crate) fn slot(self) -> Slot {
        self.slot
    }

    /// What was written.
    pub(crate) fn operand(self) -> Operand<E> {
        Operand { location: Location::Arena(self.slot), elements: PhantomData }
    }
}

/// An operand whose memory the step's first output may take over where nothing reads it later: its elements, or `None`
/// where the output holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over<E>(pub(crate) Operand<E>);

/// What a step reads and writes: the buffers that memory planning places, and what is outside of the arena.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) reads: Vec<Slot>,
    pub(crate) writes: Vec<Slot>,
    /// One of `reads` whose memory the first of `writes` may take over.
    pub(crate) over: Option<Slot>,
    /// Inputs, parameters and constants that it reads.
    pub(crate) given: Vec<AnyOperand>,
    /// Bytes that it reads of what was packed when the plan was made.
    pub(crate) packed: usize,
}

/// Operands that a step reads: handles, and tuples, arrays, options and lists of them.
pub(crate) trait Reads: Send + 'static {
    /// What the kernel gets.
    type Elements<'m>;

    /// Adds the buffers of these operands.
    fn register(&self, buffers: &mut Buffers);

    /// The elements while a step runs.
    fn get<'m>(&'m self, memory: &Memory<'m>) -> Self::Elements<'m>;
}

/// Outputs of a step: handles, and tuples, arrays and options of them.
pub(crate) trait Writes: Send + 'static {
    /// What the kernel gets.
    type Elements<'m>;

    /// Adds the buffers of these outputs.
    fn register(&self, buffers: &mut Buffers);

    /// The elements while a step runs.
    fn get<'m>(&'m self, arena: &mut Arena<'m>) -> Self::Elements<'m>;
}

impl<E: Stored> Reads for Operand<E> {
    type Elements<'m> = &'m [E];

    fn register(&self, buffers: &mut Buffers) {
        match self.location {
            Location::Arena(slot) => buffers.reads.push(slot),
            Location::Input(_) | Location::Parameter(_) | Location::Constant(_) => {
                buffers.given.push(AnyOperand::from(*self));
            }
        }
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> &'m [E] {
        cast_slice(match self.location {
            Location::Arena(slot) => memory.arena(slot),
            Location::Input(index) => memory.given.inputs[index],
            Location::Parameter(index) => memory.given.parameters[index],
            Location::Constant(index) => memory.given.constants[index],
        })
    }
}

impl<E: Stored> Reads for Over<E> {
    type Elements<'m> = Option<&'m [E]>;

    fn register(&self, buffers: &mut Buffers) {
        self.0.register(buffers);
        buffers.over = AnyOperand::from(self.0).slot();
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> Option<&'m [E]> {
        match self.0.location {
            Location::Arena(slot) => memory.unwritten(slot).map(cast_slice),
            Location::Input(_) | Location::Parameter(_) | Location::Constant(_) => Some(self.0.get(memory)),
        }
    }
}

impl<E: Stored> Writes for Output<E> {
    type Elements<'m> = &'m mut [E];

    fn register(&self, buffers: &mut Buffers) {
        buffers.writes.push(self.slot);
    }

    fn get<'m>(&'m self, arena: &mut Arena<'m>) -> &'m mut [E] {
        cast_slice_mut(arena.take(self.slot))
    }
}

/// What was packed when the plan was made, and its bytes.
pub(crate) struct Packed<T> {
    pub(crate) data: T,
    pub(crate) bytes: usize,
}

impl<T: Send + 'static> Reads for Packed<T> {
    type Elements<'m> = &'m T;

    fn register(&self, buffers: &mut Buffers) {
        buffers.packed += self.bytes;
    }

    fn get<'m>(&'m self, _: &Memory<'m>) -> &'m T {
        &self.data
    }
}

impl Reads for () {
    type Elements<'m> = ();

    fn register(&self, _: &mut Buffers) {}

    fn get<'m>(&'m self, _: &Memory<'m>) {}
}

impl<T: Reads> Reads for Vec<T> {
    type Elements<'m> = Vec<T::Elements<'m>>;

    fn register(&self, buffers: &mut Buffers) {
        self.iter().for_each(|operand| operand.register(buffers));
    }

    fn get<'m>(&'m self, memory: &Memory<'m>) -> Vec<T::Elements<'m>> {
        self.iter().map(|operand| operand.get(memory)).collect()
    }
}

/// Implements a trait of operands for options, arrays and tuples of them.
macro_rules! compositions {
    ($trait:ident, $memory:ty) => {
        impl<T: $trait> $trait for Option<T> {
            type Elements<'m> = Option<T::Elements<'m>>;

            fn register(&self, buffers: &mut Buffers) {
                self.iter().for_each(|operand| operand.register(buffers));
            }

            fn get<'m>(&'m self, memory: $memory) -> Self::Elements<'m> {
                self.as_ref().map(|operand| operand.get(memory))
            }
        }

        impl<T: $trait, const N: usize> $trait for [T; N] {
            type Elements<'m> = [T::Elements<'m>; N];

            fn register(&self, buffers: &mut Buffers) {
                self.iter().for_each(|operand| operand.register(buffers));
            }

            fn get<'m>(&'m self, memory: $memory) -> Self::Elements<'m> {
                self.each_ref().map(|operand| operand.get(memory))
            }
        }

        compositions!(tuple $trait, $memory, A, B);
        compositions!(tuple $trait, $memory, A, B, C);
        compositions!(tuple $trait, $memory, A, B, C, D);
        compositions!(tuple $trait, $memory, A, B, C, D, F);
    };
    (tuple $trait:ident, $memory:ty, $($name:ident),+) => {
        #[allow(non_snake_case)] // a variable for each type
        impl<$($name: $trait),+> $trait for ($($name,)+) {
            type Elements<'m> = ($($name::Elements<'m>,)+);

            fn register(&self, buffers: &mut Buffers) {
                let ($($name,)+) = self;
                $($name.register(buffers);)+
            }

            fn get<'m>(&'m self, memory: $memory) -> Self::Elements<'m> {
                let ($($name,)+) = self;
                ($($name.get(memory),)+)
            }
        }
    };
}

compositions!(Reads, &Memory<'m>);
compositions!(Writes, &mut Arena<'m>);

/// A part of the arena, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where it starts.
    pub(crate) offset: usize,
    /// How long it is.
    pub(crate) bytes: usize,
}

/// The bytes of what is given to a run, whose types and shapes are compared with the graph's before.
pub(crate) struct Given<'m> {
    inputs: Vec<&'m [u8]>,
    parameters: Vec<&'m [u8]>,
    constants: Vec<&'m [u8]>,
}

impl<'m> Given<'m> {
    pub(crate) fn new(
        inputs: &[&'m Tensor],
        parameters: &[&'m Tensor],
        constants: &'m [Tensor],
    ) -> Given<'m> {
        Given {
            inputs: inputs.iter().map(|tensor| bytes_of(tensor)).collect(),
            parameters: parameters.iter().map(|tensor| bytes_of(tensor)).collect(),
            constants: constants.iter().map(bytes_of).collect(),
        }
    }
}

/// The elements of a tensor as bytes.
pub(crate) fn bytes_of(tensor: &Tensor) -> &[u8] {
    match tensor.data() {
        Data::F32(elements) => cast_slice(elements),
        Data::F64(elements) => cast_slice(elements),
        Data::F16(elements) => cast_slice(elements),
        Data::BF16(elements) => cast_slice(elements),
        Data::I64(elements) => cast_slice(elements),
        Data::I32(elements) => cast_slice(elements),
        Data::I8(elements) => cast_slice(elements),
        Data::U8(elements) => elements,
        Data::Bool(elements) => cast_slice(elements),
    }
}

/// The arena while a step runs. The step takes what it writes out of it, and reads what is left.
pub(crate) struct Arena<'m> {
    /// By slot.
    regions: &'m [Region],
    /// What has not been taken: (offset, bytes), by rising offset, the first of them 0.
    left: Vec<(usize, &'m mut [u8])>,
}

impl<'m> Arena<'m> {
    pub(crate) fn new(bytes: &'m mut [u8], regions: &'m [Region]) -> Arena<'m> {
        Arena { regions, left: vec![(0, bytes)] }
    }

    /// Takes a buffer out. (It panics where two outputs of a step overlap, which [`memory::place`](crate::memory::place) rules
    /// out.)
    fn take(&mut self, slot: Slot) -> &'m mut [u8] {
        let Region { offset, bytes } = self.regions[slot.0];
        let at = self.left.partition_point(|&(start, _)| start <= offset) - 1;
        let (start, part) = &mut self.left[at];
        let (before, rest) = std::mem::take(part).split_at_mut(offset - *start);
        let (taken, after) = rest.split_at_mut(bytes);
        *part = before;
        self.left.insert(at + 1, (offset + bytes, after));
        taken
    }

    /// What the step reads.
    pub(crate) fn rest<'r>(&'r self, given: &'r Given<'_>) -> Memory<'r> {
        Memory { regions: self.regions, left: &self.left, given }
    }
}

/// What a step reads while it runs.
pub(crate) struct Memory<'m> {
    regions: &'m [Region],
    /// What no output has taken.
    left: &'m [(usize, &'m mut [u8])],
    given: &'m Given<'m>,
}

impl<'m> Memory<'m> {
    /// The part of the arena that begins last before the buffer, and where the buffer would be in it.
    fn around(&self, slot: Slot) -> (&'m [u8], std::ops::Range<usize>) {
        let Region { offset, bytes } = self.regions[slot.0];
        let (start, part) = &self.left[self.left.partition_point(|&(start, _)| start <= offset) - 1];
        (part, offset - start..offset - start + bytes)
    }

    /// The bytes of a buffer. (It panics where an output has taken them, which placement rules out for what a step reads.)
    fn arena(&self, slot: Slot) -> &'m [u8] {
        let (part, range) = self.around(slot);
        &part[range]
    }

    /// The bytes of a buffer, unless an output has taken them.
    fn unwritten(&self, slot: Slot) -> Option<&'m [u8]> {
        let (part, range) = self.around(slot);
        part.get(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: usize) -> Region {
        Region { offset, bytes: 64 }
    }

    #[test]
    fn a_step_gets_its_operands_and_an_output_hides_what_it_takes_over() {
        let mut bytes = [0u8; 256];
        bytes[0] = 7;
        let regions = [region(0), region(64), region(128), region(192), region(64)];
        let [zero, one, two, three, four] = [0, 1, 2, 3, 4].map(|i| Output::<u8>::new(Slot(i)));
        let given = Given { inputs: vec![&[5; 3]], parameters: Vec::new(), constants: Vec::new() };
        let mut arena = Arena::new(&mut bytes, &regions);
        let writes = (three, Some(one));
        let (high, low) = writes.get(&mut arena);
        high.fill(3);
        assert_eq!((high.len(), low.map(|low| low.len())), (64, Some(64)));
        let memory = arena.rest(&given);
        let input = AnyOperand::input(0, DType::U8).of::<u8>().unwrap();
        let reads = (vec![zero.operand(), two.operand()], Over(four.operand()), Over(two.operand()), input);
        let (plain, taken, apart, input) = reads.get(&memory);
        assert_eq!((plain[0][0], plain[1].len(), input), (7, 64, &[5; 3][..]));
        assert!(taken.is_none() && apart.is_some());
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn what_an_output_has_taken_is_not_read() {
        let mut bytes = [0u8; 128];
        let regions = [region(0), region(64)];
        let mut arena = Arena::new(&mut bytes, &regions);
        let output = Output::<u8>::new(Slot(1));
        output.get(&mut arena);
        let given = Given { inputs: Vec::new(), parameters: Vec::new(), constants: Vec::new() };
        output.operand().get(&arena.rest(&given));
    }

    #[test]
    fn an_operand_has_one_type() {
        let labels = AnyOperand::parameter(0, DType::I64);
        assert!(labels.of::<i64>().is_some());
        assert!(labels.of::<f32>().is_none() && labels.of::<i32>().is_none());
    }
}
