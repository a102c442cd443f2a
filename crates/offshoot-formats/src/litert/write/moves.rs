//! Operators that move elements.

use offshoot_graph::op::{Composite, Coordinates, PadMode, Resampling};
use offshoot_graph::{Dim, Op, ValueId};

use super::layers::unfused;
use super::operands::{CHANNELS_LAST, narrow, open_sizes, turned};
use super::{Job, Writer, place, refused};
use crate::error::Problem;
use crate::litert::flat::Field;
use crate::litert::schema::{Code, slot};

/// Whether a Pad is written, and not what it consists of.
pub(super) fn is_written(composite: &Composite) -> bool {
    let Composite::Pad { mode, .. } = composite else { return false };
    match mode {
        PadMode::Constant(number) => number.is_finite(),
        PadMode::Reflect => true,
        PadMode::Edge => false,
    }
}

impl Writer<'_> {
    pub(super) fn reshape(&mut self, job: &Job<'_>) -> Result<(), Problem> {
        let node = job.node;
        let dims = self.dims(job.target);
        let Some(sizes) = open_sizes(&dims)? else {
            return Err(refused(node, "more than one of its sizes depends on the number of pictures"));
        };
        let order = self.bytewise_plain(node.inputs[0]);
        let x = self.x(job, 0, &order)?;
        let sizes = self.list(&sizes);
        let order = self.plain_order(job.target);
        self.give(job, Code::Reshape, vec![x, sizes], &order, vec![])
    }

    /// An order in which the elements lie as in the graph's, preferably the one that they are in: axes of size one may stand
    /// anywhere.
    fn bytewise_plain(&self, id: ValueId) -> Vec<usize> {
        let plain = self.plain_order(id);
        let dims = self.dims(id);
        let held = self.places.get(&id).map(|place| place.order.clone());
        let wide = |order: &Vec<usize>| order.iter().filter(|&&axis| dims[axis] != Dim::Fixed(1)).is_sorted();
        held.filter(wide).unwrap_or(plain)
    }

    /// Nothing is moved before an operator wants its axes in an order.
    pub(super) fn transpose(&mut self, job: &Job<'_>, perm: &[usize]) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0);
        let order = order.ok_or_else(|| refused(node, "it moves what is repeated for each picture"))?;
        let x = self.x(job, 0, &order)?;
        // Axis i of the result is axis perm[i] of the operand.
        let now = |axis: &usize| perm.iter().position(|from| from == axis).unwrap_or_default();
        let order: Vec<usize> = order.iter().map(now).collect();
        self.hold(job, x, &order);
        Ok(())
    }

    pub(super) fn slice(
        &mut self,
        job: &Job<'_>,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let x = self.x(job, 0, &order)?;
        let (mut begin, mut sizes) = (Vec::new(), Vec::new());
        for (&own, dim) in order.iter().zip(turned(&self.dims(node.inputs[0]), &order)) {
            begin.push(if own == axis { narrow(start)? } else { 0 });
            sizes.push(match (own == axis, dim.fixed()) {
                (true, _) => narrow(end - start)?,
                (false, Some(n)) => narrow(n)?,
                (false, None) => -1,
            });
        }
        let (begin, sizes) = (self.list(&begin), self.list(&sizes));
        self.give(job, Code::Slice, vec![x, begin, sizes], &order, vec![])
    }

    pub(super) fn concat(&mut self, job: &Job<'_>, axis: usize) -> Result<(), Problem> {
        let node = job.node;
        if node.inputs.iter().any(|id| self.repeated.contains_key(id)) {
            return self.concat_repeated(job, axis);
        }
        let order = self.common_order(job);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for i in 0..node.inputs.len() {
            inputs.push(match job.affine {
                Some(_) => self.rescaled(job, i, &order)?,
                None => self.floats_of(node, i, &order)?,
            });
        }
        let axis = order.iter().position(|&own| own == axis).unwrap_or_default();
        let options = vec![(0, Field::Int(narrow(axis)?)), (1, Field::Byte(0))];
        self.give(job, Code::Concat, inputs, &order, options)
    }

    /// One value, and before or behind it numbers that are the same for each picture: room for them, and a sum. So the number of
    /// pictures stays open.
    fn concat_repeated(&mut self, job: &Job<'_>, axis: usize) -> Result<(), Problem> {
        let node = job.node;
        let computed: Vec<usize> =
            (0..node.inputs.len()).filter(|&i| self.places.contains_key(&node.inputs[i])).collect();
        let [own] = computed[..] else {
            return Err(refused(
                node,
                "numbers that are repeated for each picture stand beside one value only",
            ));
        };
        let order = self.plain_order(node.inputs[own]);
        let dims = self.dims(node.outputs[0]);
        let mut sizes: Vec<usize> = dims.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
        let inner: usize = sizes[axis + 1..].iter().product();
        let outer: usize = sizes[..axis].iter().product();
        let mut parts = Vec::with_capacity(node.inputs.len());
        for (i, &id) in node.inputs.iter().enumerate() {
            let own_dims = self.dims(id);
            let width = own_dims[axis].fixed().ok_or_else(|| refused(node, "its sizes are not known"))?;
            let numbers = if i == own { vec![0.0; outer * width * inner] } else { self.numbers(node, i)?.0 };
            if numbers.len() != outer * width * inner {
                return Err(refused(node, "numbers are repeated along more than the pictures"));
            }
            parts.push((width, numbers));
        }
        let mut joined = Vec::new();
        for row in 0..outer {
            for (width, numbers) in &parts {
                joined.extend_from_slice(&numbers[row * width * inner..(row + 1) * width * inner]);
            }
        }
        let widths = |parts: &[(usize, Vec<f32>)]| parts.iter().map(|(width, _)| width).sum::<usize>();
        let mut pads = vec![[0; 2]; order.len()];
        pads[axis] = [widths(&parts[..own]), widths(&parts[own + 1..])];
        let x = self.floats_of(node, own, &order)?;
        let pads = self.pairs(&pads)?;
        let room = self.step(&format!("{}.room", node.name), Code::Pad, vec![x, pads], &dims, vec![])?;
        sizes[axis] = widths(&parts);
        let name = format!("{}.repeated", node.name);
        let numbers = self.store(&place(node), &name, &sizes, &joined)?;
        self.give(job, Code::Add, vec![room, numbers], &order, unfused())
    }

    /// A broadcast: of numbers one that those who read it make, of a value a sum with zeros.
    pub(super) fn expand(&mut self, job: &Job<'_>) -> Result<(), Problem> {
        let node = job.node;
        if self.is_stored(node.inputs[0]) {
            self.repeated.insert(node.outputs[0], node.inputs[0]);
            return Ok(());
        }
        let (from, to) = (self.dims(node.inputs[0]), self.dims(node.outputs[0]));
        let behind = to.len() - from.len();
        let open = to
            .iter()
            .enumerate()
            .any(|(i, dim)| dim.fixed().is_none() && i.checked_sub(behind).is_none_or(|i| from[i] != *dim));
        if open {
            return Err(refused(
                node,
                "LiteRT does not repeat a value for a number of pictures that is open",
            ));
        }
        let order = self.plain_order(node.outputs[0]);
        let sizes: Vec<usize> = to.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
        let x = self.float_in(node.inputs[0], &self.plain_order(node.inputs[0]))?;
        let name = format!("{}.zeros", node.name);
        let zeros = self.store(&place(node), &name, &sizes, &vec![0.0; sizes.iter().product()])?;
        self.give(job, Code::Add, vec![x, zeros], &order, unfused())
    }

    pub(super) fn composite(&mut self, job: &Job<'_>, composite: &Composite) -> Result<(), Problem> {
        match composite {
            Composite::Pad { pads, mode } => self.pad(job, pads, *mode),
            Composite::Resize { size, resampling: Resampling::Linear, coordinates } => {
                self.resize(job, *size, *coordinates)
            }
            Composite::Resize { .. }
            | Composite::LogSoftmax { .. }
            | Composite::GroupNormalization { .. }
            | Composite::InstanceNormalization { .. }
            | Composite::Split { .. }
            | Composite::Gru { .. } => Err(refused(job.node, "LiteRT has no such operator")),
        }
    }

    fn pad(&mut self, job: &Job<'_>, pads: &[[usize; 2]], mode: PadMode) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let mut inputs = vec![self.floats_of(node, 0, &order)?, self.pairs(&turned(pads, &order))?];
        let (code, options) = match mode {
            PadMode::Constant(0.0) => (Code::Pad, vec![]),
            PadMode::Constant(number) => {
                let name = format!("{}.number", node.name);
                inputs.push(self.store(&place(node), &name, &[1], &[number])?);
                (Code::PadV2, vec![])
            }
            PadMode::Reflect => (Code::MirrorPad, vec![(0, Field::Byte(0))]),
            PadMode::Edge => return Err(refused(node, "LiteRT does not repeat a border")),
        };
        self.give(job, code, inputs, &order, options)
    }

    fn resize(
        &mut self,
        job: &Job<'_>,
        [height, width]: [usize; 2],
        coordinates: Coordinates,
    ) -> Result<(), Problem> {
        debug_assert!(matches!(job.node.op, Op::Composite(_)));
        let x = self.floats_of(job.node, 0, &CHANNELS_LAST)?;
        let sizes = self.list(&[narrow(height)?, narrow(width)?]);
        let flags = match coordinates {
            Coordinates::HalfPixel => [0, 1],
            Coordinates::AlignCorners => [1, 0],
            Coordinates::Asymmetric => [0, 0],
        };
        let options = vec![
            (slot::resize::ALIGN_CORNERS, Field::Byte(flags[0])),
            (slot::resize::HALF_PIXEL, Field::Byte(flags[1])),
        ];
        self.give(job, Code::ResizeBilinear, vec![x, sizes], &CHANNELS_LAST, options)
    }
}
