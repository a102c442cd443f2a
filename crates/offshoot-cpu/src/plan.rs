//! A plan: the steps that run a graph at given sizes, and the buffers they work in.

use std::time::Instant;

use bytemuck::{cast_slice, cast_slice_mut};
use offshoot_graph::{DType, ExecuteError, StepTime, Tensor};

use crate::buffer::Buffer;
use crate::commit::{Commit, Read};
use crate::kernels::element::Stored;
use crate::kernels::{self, conv::PackedFilter};
use crate::memory::{Lifetime, place};

/// A run of elements that a step reads or writes. An index into the plan's table of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) usize);

/// Where a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Arena(Region),
    /// In an input of the run.
    Input(usize),
    /// In a parameter of the run.
    Parameter(usize),
    /// In the plan's constants.
    Constant(usize),
}

/// A part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where it starts, in bytes.
    pub(crate) offset: usize,
    pub(crate) size: Size,
}

impl Region {
    fn end(self) -> usize {
        self.offset + self.size.bytes()
    }

    /// The region's elements in `arena`, whose type is known where the plan is made.
    pub(crate) fn of<E: Stored>(self, arena: &[u8]) -> &[E] {
        debug_assert_eq!(self.size.dtype, E::DTYPE, "the type of an operand");
        cast_slice(&arena[self.offset..self.end()])
    }
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
    bytes: &'a mut [u8],
    dtype: DType,
}

impl Out<'_> {
    /// The elements, whose type is known where the plan is made.
    pub(crate) fn get<E: Stored>(&mut self) -> &mut [E] {
        debug_assert_eq!(self.dtype, E::DTYPE, "the type of an output");
        cast_slice_mut(self.bytes)
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
    /// One of `reads` whose memory the first output may take over, if nothing reads it later. The step finds out by
    /// [`Memory::place`].
    pub(crate) over: Option<BufferId>,
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
    arena: Gaps<'a>,
    inputs: &'a [&'a Tensor],
    parameters: &'a [&'a Tensor],
    constants: &'a [Tensor],
}

impl Memory<'_> {
    /// The elements of a buffer, whose type is known where the plan is made.
    pub(crate) fn get<E: Stored>(&self, id: BufferId) -> &[E] {
        match self.try_get(id) {
            Some(elements) => elements,
            None => unreachable!("a step reads what it writes only where it asked to"),
        }
    }

    /// The elements of a buffer, unless an output has taken its memory over.
    fn try_get<E: Stored>(&self, id: BufferId) -> Option<&[E]> {
        let tensor = match self.places[id.0] {
            Place::Arena(region) => return self.arena.get(region),
            Place::Input(i) => self.inputs[i],
            Place::Parameter(i) => self.parameters[i],
            Place::Constant(i) => &self.constants[i],
        };
        debug_assert_eq!(tensor.dtype(), E::DTYPE, "the type of an operand");
        Some(E::of_data(tensor.data()).unwrap_or_default())
    }

    /// The operand that the step's first output may take over, and that output.
    pub(crate) fn place<'m, E: Stored>(
        &'m self,
        over: BufferId,
        out: &'m mut Out<'_>,
    ) -> kernels::Place<'m, E> {
        match self.try_get(over) {
            Some(from) => kernels::Place::Apart(from, out.get()),
            None => kernels::Place::Over(out.get()),
        }
    }

    /// The elements of an i64 input.
    pub(crate) fn get_i64(&self, input: usize) -> &[i64] {
        self.inputs[input].as_i64().unwrap_or_default()
    }
}

/// What is left of the arena while a step writes parts of it: (offset, bytes), by rising offset.
struct Gaps<'a>(Vec<(usize, &'a [u8])>);

impl Gaps<'_> {
    /// The elements of a region that nobody writes.
    fn get<E: Stored>(&self, region: Region) -> Option<&[E]> {
        let after = self.0.partition_point(|&(start, _)| start <= region.offset);
        let (start, gap) = *self.0.get(after.checked_sub(1)?)?;
        let moved = Region { offset: region.offset - start, ..region };
        (moved.end() <= gap.len()).then(|| moved.of(gap))
    }
}

/// Takes `writes` out of the arena: they, in order, and the gaps between them.
fn split<'a>(arena: &'a mut [u8], writes: &[Region]) -> (Vec<Out<'a>>, Gaps<'a>) {
    let mut order: Vec<usize> = (0..writes.len()).collect();
    order.sort_by_key(|&i| (writes[i].offset, writes[i].end()));
    let (mut rest, mut start, mut gaps) = (arena, 0, Vec::with_capacity(writes.len() + 1));
    let mut written: Vec<(usize, Out<'a>)> = Vec::with_capacity(writes.len());
    for i in order {
        let (gap, from) = rest.split_at_mut(writes[i].offset - start);
        let (bytes, after) = from.split_at_mut(writes[i].size.bytes());
        gaps.push((start, &*gap));
        written.push((i, Out { bytes, dtype: writes[i].size.dtype }));
        (rest, start) = (after, writes[i].end());
    }
    gaps.push((start, &*rest));
    written.sort_by_key(|&(i, _)| i);
    (written.into_iter().map(|(_, out)| out).collect(), Gaps(gaps))
}

/// The steps of a graph at given sizes.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) places: Vec<Place>,
    pub(crate) constants: Vec<Tensor>,
    /// Bytes of the arena.
    pub(crate) bytes: usize,
    /// Name, shape and buffer of each output.
    pub(crate) outputs: Vec<(String, Vec<usize>, BufferId)>,
    /// What changes parameters when the steps have run.
    pub(crate) commits: Vec<Commit>,
}

impl Plan {
    /// Decides where the buffers live. `buffers` holds, for each, its place or, for those to be placed, its size.
    pub(crate) fn new(
        steps: Vec<Step>,
        buffers: Vec<Result<Place, Size>>,
        constants: Vec<Tensor>,
        outputs: Vec<(String, Vec<usize>, BufferId)>,
        commits: Vec<Commit>,
    ) -> Plan {
        let read = commits.iter().flat_map(|commit| commit.reads.iter().filter_map(Read::buffer));
        let kept: Vec<BufferId> = outputs.iter().map(|&(_, _, id)| id).chain(read).collect();
        let (tenants, lives) = tenants(&steps, &buffers, &kept);
        let placement = place(&lives);
        let places = buffers.into_iter().zip(tenants).map(|(buffer, tenant)| {
            let offset = tenant.map_or(0, |tenant| placement.offsets[tenant]);
            buffer.unwrap_or_else(|size| Place::Arena(Region { offset, size }))
        });
        Plan { steps, places: places.collect(), constants, bytes: placement.bytes, outputs, commits }
    }

    /// Runs every step. `arena` grows to what the plan needs.
    pub(crate) fn run(
        &mut self,
        arena: &mut Buffer,
        scratch: &mut Scratch,
        inputs: &[&Tensor],
        parameters: &[&Tensor],
        mut profile: Option<&mut Vec<StepTime>>,
    ) -> Result<(), ExecuteError> {
        arena.reserve(self.bytes);
        let Plan { steps, places, constants, bytes, .. } = self;
        let arena = arena.get_mut::<u8>(*bytes);
        for step in steps {
            let start = profile.is_some().then(Instant::now);
            let written: Vec<Region> = step.writes.iter().map(|&id| own(places, id)).collect();
            let (mut writes, gaps) = split(arena, &written);
            let memory = Memory { places, arena: gaps, inputs, parameters, constants };
            (step.run)(&memory, scratch, &mut writes)?;
            if let (Some(profile), Some(start)) = (&mut profile, start) {
                profile.push(StepTime { node: step.node.clone(), time: start.elapsed() });
            }
        }
        Ok(())
    }
}

/// The region of a buffer that a step writes.
fn own(places: &[Place], id: BufferId) -> Region {
    match places[id.0] {
        Place::Arena(region) => region,
        Place::Input(_) | Place::Parameter(_) | Place::Constant(_) => {
            unreachable!("what steps write is never the caller's")
        }
    }
}

/// Which tenant of the arena each buffer is, and how long each tenant lives. An output that takes over the memory of an
/// operand that dies with its step is the same tenant.
fn tenants(
    steps: &[Step],
    buffers: &[Result<Place, Size>],
    kept: &[BufferId],
) -> (Vec<Option<usize>>, Vec<Lifetime>) {
    let mut last_use = vec![0; buffers.len()];
    for (index, step) in steps.iter().enumerate() {
        step.writes.iter().chain(&step.reads).for_each(|id| last_use[id.0] = index);
    }
    kept.iter().for_each(|id| last_use[id.0] = steps.len());
    let mut tenants: Vec<Option<usize>> = vec![None; buffers.len()];
    let mut lives: Vec<Lifetime> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        for (slot, id) in step.writes.iter().enumerate() {
            let Err(size) = buffers[id.0] else { continue };
            let over = step.over.filter(|over| {
                let once = step.reads.iter().filter(|&read| read == over).count() == 1;
                slot == 0 && once && last_use[over.0] == index && buffers[over.0] == Err(size)
            });
            let tenant = over.and_then(|over| tenants[over.0]).unwrap_or(lives.len());
            if tenant == lives.len() {
                lives.push(Lifetime { bytes: size.bytes(), first: index, last: index });
            }
            lives[tenant].last = lives[tenant].last.max(last_use[id.0]);
            tenants[id.0] = Some(tenant);
        }
    }
    (tenants, lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(len: usize) -> Size {
        Size { len, dtype: DType::F32 }
    }

    fn step(reads: &[usize], write: usize, over: Option<usize>) -> Step {
        let ids = |ids: &[usize]| ids.iter().map(|&i| BufferId(i)).collect();
        let run: Run = Box::new(|_, _, _| Ok(()));
        Step { node: String::new(), reads: ids(reads), writes: ids(&[write]), over: over.map(BufferId), run }
    }

    #[test]
    fn an_output_takes_over_an_operand_that_dies() {
        let steps =
            vec![step(&[], 0, None), step(&[0], 1, Some(0)), step(&[1], 2, Some(1)), step(&[1, 2], 3, None)];
        let buffers = vec![Err(floats(160)); 4];
        let plan =
            Plan::new(steps, buffers, Vec::new(), vec![(String::new(), vec![160], BufferId(3))], Vec::new());
        assert_eq!(plan.places[0], plan.places[1]);
        assert_ne!(plan.places[1], plan.places[2], "1 is read again");
        assert_eq!(plan.bytes, 3 * 640);
    }

    #[test]
    fn an_operand_that_is_read_twice_stays() {
        let steps = vec![step(&[], 0, None), step(&[0, 0], 1, Some(0))];
        let plan = Plan::new(
            steps,
            vec![Err(floats(16)); 2],
            Vec::new(),
            vec![(String::new(), vec![16], BufferId(1))],
            Vec::new(),
        );
        assert_eq!(plan.bytes, 128);
    }

    #[test]
    fn a_written_region_is_not_read() {
        let mut arena = Buffer::default();
        arena.reserve(256);
        let region = |offset| Region { offset, size: floats(16) };
        let (written, gaps) = split(arena.get_mut(256), &[region(192), region(64)]);
        assert_eq!(written.iter().map(|w| w.bytes.len()).collect::<Vec<_>>(), [64, 64]);
        assert!(gaps.get::<f32>(region(0)).is_some() && gaps.get::<f32>(region(128)).is_some());
        assert!(gaps.get::<f32>(region(64)).is_none() && gaps.get::<f32>(region(192)).is_none());
    }
}
