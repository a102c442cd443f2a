//! What operators read.

use half::f16;
use offshoot_graph::op::{Composite, PadMode, ShapeOp};
use offshoot_graph::{Data, Op, Role, Tensor as Held, ValueId};

use super::{Call, Frame, Known, Reader, plain, transposed};
use crate::error::Problem;
use crate::litert::file::Tensor;
use crate::litert::schema::kind;

impl<'a> Reader<'a> {
    /// What a tensor that is computed stands for: a float value and the order of its axes.
    pub(super) fn value(&mut self, call: &Call<'_>, tensor: usize) -> Result<(ValueId, Vec<usize>), Problem> {
        let name = self.file.tensors[tensor].name;
        match self.known.get(&tensor).cloned() {
            Some(Known::Value { id, order }) => Ok((id, order)),
            Some(Known::Bytes { levels, scale, zero, order, float }) => {
                if let Some(id) = float {
                    return Ok((id, order));
                }
                let op = Op::DequantizeLinear { axis: 0 };
                let id = self.add(call, &format!("{name}.floats"), op, &[levels, scale, zero])?;
                let float = Some(id);
                let known = Known::Bytes { levels, scale, zero, order: order.clone(), float };
                self.known.insert(tensor, known);
                Ok((id, order))
            }
            Some(Known::Framed(frame)) => self.framed(call, tensor, frame),
            Some(Known::Numbers(_)) => Err(call.foreign(format!("it reads the stored `{name}` as a value"))),
            None => Err(call.damaged(format!("it reads `{name}`, which comes later or never"))),
        }
    }

    /// A tensor with something around it, as a value of its own.
    fn framed(
        &mut self,
        call: &Call<'_>,
        tensor: usize,
        frame: Frame,
    ) -> Result<(ValueId, Vec<usize>), Problem> {
        let (id, order) = self.value(call, frame.tensor)?;
        let mut pads = vec![[0; 2]; order.len()];
        for (own, &axis) in frame.pads.iter().zip(&order) {
            pads[axis] = *own;
        }
        let mode = PadMode::Constant(frame.number.unwrap_or(f32::MIN));
        let name = self.file.tensors[tensor].name;
        let id = self.add(call, name, Op::Composite(Composite::Pad { pads, mode }), &[id])?;
        self.known.insert(tensor, Known::Value { id, order: order.clone() });
        Ok((id, order))
    }

    /// The order of a tensor's axes, where it is computed.
    pub(super) fn order(&self, tensor: usize) -> Option<Vec<usize>> {
        match self.known.get(&tensor)? {
            Known::Value { order, .. } | Known::Bytes { order, .. } => Some(order.clone()),
            Known::Framed(frame) => self.order(frame.tensor),
            Known::Numbers(_) => None,
        }
    }

    /// A tensor as a value whose axes stand in the tensor's places as `order` says.
    pub(super) fn in_order(
        &mut self,
        call: &Call<'_>,
        tensor: usize,
        order: &[usize],
    ) -> Result<ValueId, Problem> {
        if self.is_stored(tensor) {
            return self.stored_in(call, tensor, order);
        }
        let (id, own) = self.value(call, tensor)?;
        if own.len() != order.len() {
            return Err(call.damaged(format!("it takes {} axes, not {}", order.len(), own.len())));
        }
        self.turn(call, id, &own, order)
    }

    /// The value that has axis `order[i]` where `id` has axis `own[i]`.
    fn turn(
        &mut self,
        call: &Call<'_>,
        id: ValueId,
        own: &[usize],
        order: &[usize],
    ) -> Result<ValueId, Problem> {
        if own == order {
            return Ok(id);
        }
        let mut perm = vec![0; order.len()];
        for (&to, &from) in order.iter().zip(own) {
            perm[to] = from;
        }
        if let Some(&turned) = self.turned.get(&(id, perm.clone())) {
            return Ok(turned);
        }
        let name = format!("{}.turned", self.graph.value(id).name);
        // Of sizes of one, nothing is moved.
        let sizes = &self.graph.value(id).shape.0;
        let op = match perm.iter().filter(|&&axis| sizes[axis].fixed() != Some(1)).is_sorted() {
            true => ShapeOp::Reshape { shape: perm.iter().map(|&axis| sizes[axis].clone()).collect() },
            false => ShapeOp::Transpose { perm: perm.clone() },
        };
        let turned = self.add(call, &name, Op::Shape(op), &[id])?;
        self.turned.insert((id, perm), turned);
        Ok(turned)
    }

    /// Whether a tensor's numbers stand in the file.
    pub(super) fn is_stored(&self, tensor: usize) -> bool {
        self.file.tensors[tensor].data.is_some() || matches!(self.known.get(&tensor), Some(Known::Numbers(_)))
    }

    /// Stored floats as an operand whose axes stand as `order` says; axes in front may be missing.
    pub(super) fn stored_in(
        &mut self,
        call: &Call<'_>,
        tensor: usize,
        order: &[usize],
    ) -> Result<ValueId, Problem> {
        let sizes = &self.file.tensors[tensor].sizes;
        if sizes.iter().all(|&n| n == 1) && sizes.len() < order.len() {
            return self.parameter(call, tensor, sizes.clone(), &plain(sizes.len()));
        }
        let missing = order.len().checked_sub(sizes.len());
        let missing = missing.ok_or_else(|| call.damaged("an operand of it has too many axes"))?;
        let sizes: Vec<usize> = std::iter::repeat_n(1, missing).chain(sizes.iter().copied()).collect();
        let perm = inverse(order);
        self.parameter(call, tensor, sizes, &perm)
    }

    /// A stored tensor as a parameter: as `sizes`, with axis `perm[i]` in the place of axis i.
    pub(super) fn parameter(
        &mut self,
        call: &Call<'_>,
        tensor: usize,
        sizes: Vec<usize>,
        perm: &[usize],
    ) -> Result<ValueId, Problem> {
        let shape: Vec<usize> = perm.iter().map(|&axis| sizes[axis]).collect();
        let key = (tensor, [shape.clone(), perm.to_vec()].concat());
        if let Some(&id) = self.parameters.get(&key) {
            return Ok(id);
        }
        let held = &self.file.tensors[tensor];
        let id = match held.kind {
            kind::F32 => {
                let numbers = transposed(&self.numbers(call, tensor)?, &sizes, perm);
                match numbers.len() {
                    1 => self.graph.add_constant(held.name, Held::f32(shape, numbers)),
                    _ => self.keep(call, held.name, Data::F32(numbers), &shape)?,
                }
            }
            kind::I8 | kind::I32 => self.integers(call, tensor, sizes, perm, shape)?,
            other => return Err(call.foreign(format!("`{}` is of type {other}", held.name))),
        };
        self.parameters.insert(key, id);
        Ok(id)
    }

    fn keep(&mut self, call: &Call<'_>, name: &str, data: Data, shape: &[usize]) -> Result<ValueId, Problem> {
        let tensor = Held::new(shape, data).map_err(|e| call.damaged(e.to_string()))?;
        let id = self.graph.add_typed_parameter(name, tensor.dtype(), shape, Role::Weight);
        self.weights.insert(self.graph.value(id).name.clone(), tensor);
        Ok(id)
    }

    /// Weights in integers behind their DequantizeLinear.
    fn integers(
        &mut self,
        call: &Call<'_>,
        tensor: usize,
        sizes: Vec<usize>,
        perm: &[usize],
        shape: Vec<usize>,
    ) -> Result<ValueId, Problem> {
        let held = &self.file.tensors[tensor];
        let bytes = self.raw(call, tensor)?;
        let damaged = || call.damaged(format!("the scales of `{}` do not fit it", held.name));
        let own = usize::try_from(held.axis).ok();
        let axis = own.and_then(|own| perm.iter().position(|&from| from == own)).ok_or_else(damaged)?;
        let scales: Vec<f32> = held.scales.iter().map(|&w| f32::from_le_bytes(w)).collect();
        let (places, axis) = match scales.len() {
            1 => (vec![], 0),
            n if Some(&n) == shape.get(axis) => (vec![n], axis),
            _ => return Err(damaged()),
        };
        if held.zeros.iter().any(|zero| zero.iter().any(|&byte| byte != 0)) {
            return Err(call.foreign(format!("`{}` has a zero point that is not 0", held.name)));
        }
        if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err(damaged());
        }
        let (data, zeros) = match held.kind {
            kind::I8 => {
                let levels: Vec<i8> = bytes.iter().map(|&b| b as i8).collect();
                (Data::I8(transposed(&levels, &sizes, perm)), Data::I8(vec![0; scales.len()]))
            }
            _ => {
                let sums: Vec<i32> = bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
                (Data::I32(transposed(&sums, &sizes, perm)), Data::I32(vec![0; scales.len()]))
            }
        };
        let integers = self.keep(call, held.name, data, &shape)?;
        let name = &held.name;
        let scale = self.graph.add_constant(&format!("{name}.scale"), Held::f32(places.clone(), scales));
        let zeros = Held::new(places, zeros).map_err(|e| call.damaged(e.to_string()))?;
        let zero = self.graph.add_constant(&format!("{name}.zero_point"), zeros);
        let op = Op::DequantizeLinear { axis };
        self.add(call, &format!("{name}.dequantized"), op, &[integers, scale, zero])
    }

    /// The scale and the zero point of a tensor of bytes, which are u8 in the graph.
    pub(super) fn affine(&mut self, call: &Call<'_>, tensor: &Tensor<'_>) -> Result<[ValueId; 2], Problem> {
        let (scale, zero) = self.scale_of(call, tensor)?;
        if let Some(&found) = self.affines.get(&(scale.to_bits(), zero)) {
            return Ok(found);
        }
        let level = Data::U8(vec![(zero + 128) as u8]);
        let level = Held::new([], level).map_err(|e| call.damaged(e.to_string()))?;
        let scale_id = self.graph.add_constant(&format!("{}.scale", tensor.name), Held::f32([], vec![scale]));
        let zero_id = self.graph.add_constant(&format!("{}.zero_point", tensor.name), level);
        self.affines.insert((scale.to_bits(), zero), [scale_id, zero_id]);
        Ok([scale_id, zero_id])
    }

    /// The one scale and zero point of a tensor of bytes.
    pub(super) fn scale_of(&self, call: &Call<'_>, tensor: &Tensor<'_>) -> Result<(f32, i64), Problem> {
        let (&[scale], &[zero]) = (tensor.scales, tensor.zeros) else {
            return Err(call.foreign("its bytes do not have one scale and one zero point"));
        };
        let (scale, zero) = (f32::from_le_bytes(scale), i64::from_le_bytes(zero));
        match scale.is_finite() && scale > 0.0 && (-128..128).contains(&zero) {
            true => Ok((scale, zero)),
            false => Err(call.damaged(format!("bytes cannot stand for levels of {scale} from {zero} on"))),
        }
    }

    /// The stored floats of a tensor.
    pub(super) fn numbers(&mut self, call: &Call<'_>, tensor: usize) -> Result<Vec<f32>, Problem> {
        if let Some(Known::Numbers(numbers)) = self.known.get(&tensor) {
            let numbers = numbers.clone();
            self.count(call, numbers.len())?;
            return Ok(numbers);
        }
        let held = &self.file.tensors[tensor];
        let bytes = self.raw(call, tensor)?;
        match held.kind {
            kind::F32 => Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            kind::F16 => Ok(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()),
            other => Err(call.foreign(format!("`{}` is of type {other}", held.name))),
        }
    }

    /// A stored list of integers.
    pub(super) fn list(&mut self, call: &Call<'_>, i: usize) -> Result<Vec<i32>, Problem> {
        let tensor = call.tensor(i)?;
        if self.file.tensors[tensor].kind != kind::I32 {
            return Err(call.damaged(format!("its operand {i} is no list of integers")));
        }
        let bytes = self.raw(call, tensor)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect())
    }

    /// A stored list of sizes.
    pub(super) fn sizes(&mut self, call: &Call<'_>, i: usize) -> Result<Vec<usize>, Problem> {
        let wrong = || call.damaged(format!("its operand {i} is no list of sizes"));
        self.list(call, i)?.into_iter().map(|n| usize::try_from(n).map_err(|_| wrong())).collect()
    }

    /// The elements of a stored tensor, as many as its sizes say.
    fn raw(&mut self, call: &Call<'_>, tensor: usize) -> Result<&'a [u8], Problem> {
        let held = &self.file.tensors[tensor];
        let size = match held.kind {
            kind::I8 => 1,
            kind::F16 => 2,
            _ => 4,
        };
        let missing = || call.damaged(format!("it reads `{}`, which comes later or never", held.name));
        let data = held.data.ok_or_else(missing)?;
        let len = held.sizes.iter().try_fold(size, |n: usize, &d| n.checked_mul(d));
        if len != Some(data.len()) {
            return Err(
                call.damaged(format!("the elements of `{}` are not as many as its sizes say", held.name))
            );
        }
        // Lists may be read again and again.
        if data.len() > SHORT {
            self.count(call, data.len())?;
        }
        Ok(data)
    }

    /// Bounds what is made of the file's numbers by its size: in a file of ours each is read once, one in f16 twice.
    fn count(&mut self, call: &Call<'_>, bytes: usize) -> Result<(), Problem> {
        self.read = self.read.saturating_add(bytes);
        match self.read <= self.file.bytes.saturating_mul(2) {
            true => Ok(()),
            false => Err(call.foreign("operators read the same numbers in several forms")),
        }
    }
}

/// Bytes of a short list.
const SHORT: usize = 256;

/// The permutation that undoes another.
pub(super) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (place, &axis) in order.iter().enumerate() {
        inverse[axis] = place;
    }
    inverse
}
