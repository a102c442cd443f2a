//! Operators that move elements.

use offshoot_graph::op::{Composite, Coordinates, PadMode, Resampling, ShapeOp};
use offshoot_graph::{Dim, Op};

use super::{CHANNELS_LAST, Call, Frame, Known, Reader, plain};
use crate::error::Problem;
use crate::litert::schema::{kind, slot};
use crate::metadata::MAX_SIDE;

impl Reader<'_> {
    pub(super) fn reshape(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let target: Vec<Option<Dim>> = self
            .list(call, 1)?
            .into_iter()
            .map(|n| match n {
                -1 => Ok(None),
                _ => usize::try_from(n).map(|n| Some(Dim::Fixed(n))),
            })
            .collect::<Result<_, _>>()
            .map_err(|_| call.damaged("a size of it is below -1"))?;
        let tensor = call.tensor(0)?;
        let (id, own) = self.value(call, tensor)?;
        let dims = &self.graph.value(id).shape.0;
        // Where only sizes of one stand elsewhere, the elements lie as they do in the graph.
        let alike = own.iter().filter(|&&axis| dims[axis].fixed() != Some(1)).is_sorted();
        let id = if alike { id } else { self.in_order(call, tensor, &plain(own.len()))? };
        let shape = self.graph.value(id).shape.reshaped(&target);
        let shape = shape.ok_or_else(|| call.damaged("it changes the number of elements"))?;
        let order = plain(shape.rank());
        let id = self.add(call, call.output.name, Op::Shape(ShapeOp::Reshape { shape }), &[id])?;
        self.give(call, id, &order)
    }

    /// What only turns axes is no operator before one wants them in an order.
    pub(super) fn transpose(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let perm = self.sizes(call, 1)?;
        let tensor = call.tensor(0)?;
        let is_permutation = {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            sorted == plain(perm.len())
        };
        // Of bytes, their floats: rounded again, they are the same bytes.
        let (id, own) = self.value(call, tensor)?;
        if !is_permutation || perm.len() != own.len() {
            return Err(call.damaged("it does not turn the axes that there are"));
        }
        let order: Vec<usize> = perm.iter().map(|&place| own[place]).collect();
        match self.known.get(&tensor).cloned() {
            Some(Known::Bytes { levels, scale, zero, float, .. }) if self.same_scale(call, tensor)? => {
                self.know(call, Known::Bytes { levels, scale, zero, order, float }, id)
            }
            _ => self.give(call, id, &order),
        }
    }

    /// Whether the call's result is bytes under the scale of a tensor.
    fn same_scale(&self, call: &Call<'_>, tensor: usize) -> Result<bool, Problem> {
        Ok(call.output.kind == kind::I8
            && self.scale_of(call, call.output)? == self.scale_of(call, &self.file.tensors[tensor])?)
    }

    pub(super) fn slice(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let (begin, sizes) = (self.sizes(call, 1)?, self.list(call, 2)?);
        let (id, order) = self.value(call, call.tensor(0)?)?;
        let dims = self.one_picture(id);
        if begin.len() != order.len() || sizes.len() != order.len() {
            return Err(call.damaged("it does not begin and end on every axis"));
        }
        let mut parts = Vec::new();
        for (place, &axis) in order.iter().enumerate() {
            let size = match sizes[place] {
                -1 => dims[axis].checked_sub(begin[place]),
                n => usize::try_from(n).ok(),
            };
            let end = size.and_then(|size| size.checked_add(begin[place]));
            let end = end.ok_or_else(|| call.damaged("it ends before it begins"))?;
            if (begin[place], end) != (0, dims[axis]) {
                parts.push((axis, begin[place], end));
            }
        }
        let op = match parts[..] {
            [] => ShapeOp::Identity,
            [(axis, start, end)] => ShapeOp::Slice { axis, start, end },
            _ => return Err(call.foreign("it takes a part of more than one axis")),
        };
        let id = self.add(call, call.output.name, Op::Shape(op), &[id])?;
        self.give(call, id, &order)
    }

    pub(super) fn concat(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        if call.byte(1)? != 0 {
            return Err(call.foreign("it applies an activation"));
        }
        let order = self.common_order(call)?;
        let place = call.size(0, 0)?;
        let &axis = order.get(place).ok_or_else(|| call.damaged("there is no such axis"))?;
        let mut inputs = Vec::with_capacity(call.inputs().len());
        for &tensor in call.inputs() {
            inputs.push(self.in_order(call, tensor, &order)?);
        }
        let id = self.add(call, call.output.name, Op::Shape(ShapeOp::Concat { axis }), &inputs)?;
        self.give(call, id, &order)
    }

    /// What is put around a value; the operator that reads it may take it for its own padding.
    pub(super) fn pad(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let tensor = call.tensor(0)?;
        let pads = self.pairs(call, 1)?;
        let held = &self.file.tensors[tensor];
        let bytes = call.output.kind == kind::I8;
        if bytes != matches!(self.known.get(&tensor), Some(Known::Bytes { .. }))
            || (bytes && !self.same_scale(call, tensor)?)
        {
            return Err(call.foreign("its result has another type than its operand"));
        }
        let number = match call.inputs().get(2) {
            None => Some(0.0),
            Some(&number) if bytes => {
                let least = self.file.tensors[number].data == Some(&[0x80]);
                if !least {
                    return Err(call.foreign("it puts other bytes around its operand than the least"));
                }
                None
            }
            Some(&number) => match self.numbers(call, number)?[..] {
                [number] => Some(number).filter(|&number| number > f32::MIN),
                _ => return Err(call.damaged("it has no number")),
            },
        };
        let rank = held.sizes.len();
        if self.order(tensor).is_none_or(|order| order.len() != rank) || pads.len() != rank {
            return Err(call.damaged("it does not say what is around every axis"));
        }
        let wide = held.sizes.iter().zip(&pads).map(|(n, [before, behind])| n + before + behind);
        if !wide.eq(call.output.sizes.iter().copied()) {
            return Err(call.damaged("it has other sizes than those that the file says"));
        }
        self.insert(call, Known::Framed(Frame { tensor, pads, number }))
    }

    /// A list of pairs of sizes.
    fn pairs(&mut self, call: &Call<'_>, i: usize) -> Result<Vec<[usize; 2]>, Problem> {
        let sizes = self.sizes(call, i)?;
        match sizes.iter().all(|&n| n <= MAX_SIDE) && sizes.len().is_multiple_of(2) {
            true => Ok(sizes.as_chunks().0.to_vec()),
            false => Err(call.damaged("its padding is no list of pairs of sizes")),
        }
    }

    pub(super) fn mirror(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let own = self.pairs(call, 1)?;
        let (id, order) = self.value(call, call.tensor(0)?)?;
        if call.byte(0)? != 0 || own.len() != order.len() {
            return Err(call.foreign("it is no reflection that offshoot writes"));
        }
        let mut pads = vec![[0; 2]; order.len()];
        for (own, &axis) in own.iter().zip(&order) {
            pads[axis] = *own;
        }
        let op = Op::Composite(Composite::Pad { pads, mode: PadMode::Reflect });
        let id = self.add(call, call.output.name, op, &[id])?;
        self.give(call, id, &order)
    }

    pub(super) fn resize(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let coordinates =
            match (call.flag(slot::resize::ALIGN_CORNERS)?, call.flag(slot::resize::HALF_PIXEL)?) {
                (false, true) => Coordinates::HalfPixel,
                (true, false) => Coordinates::AlignCorners,
                (false, false) => Coordinates::Asymmetric,
                (true, true) => return Err(call.foreign("its pixels lie in two ways")),
            };
        let size: [usize; 2] = self
            .sizes(call, 1)?
            .try_into()
            .ok()
            .filter(|size: &[usize; 2]| size.iter().all(|&n| n <= MAX_SIDE))
            .ok_or_else(|| call.damaged("it gives no height and width"))?;
        let x = self.in_order(call, call.tensor(0)?, &CHANNELS_LAST)?;
        let op = Op::Composite(Composite::Resize { size, resampling: Resampling::Linear, coordinates });
        let id = self.add(call, call.output.name, op, &[x])?;
        self.give(call, id, &CHANNELS_LAST)
    }
}
