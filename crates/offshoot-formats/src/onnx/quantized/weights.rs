//! Tensors that the file stores: weights in integers, their scales and zero points.

use offshoot_graph::{Data, Tensor};

use super::super::attributes::NodeView;
use super::super::proto::{NodeProto, TensorProto};
use super::{FLOAT, Kind, Note, Pass, Steps};
use crate::error::Problem;

/// ONNX's numbers of element types.
const F32: i32 = 1;
const U8: i32 = 2;

/// Scales and zero points of a tensor, as many of each, and which elements each belongs to.
struct Places {
    scale: Vec<f32>,
    zero_point: Vec<i32>,
    axis: usize,
    /// Places of the axis that share one; 0: there is one for each place, or one for all.
    block: usize,
}

impl<'a> Pass<'a> {
    /// A DequantizeLinear of a tensor of the file: it stays where a product may read it as integers.
    pub(super) fn stored_weight(&mut self, node: NodeView<'a>, x: &str) -> Result<(), Problem> {
        let output = node.required_output()?;
        let data_type = self.stored.get(x).and_then(|tensor| tensor.data_type).unwrap_or_default();
        let in_blocks = node.int("block_size", 0) != 0;
        let eight = Kind::of(data_type).is_none_or(|kind| kind.eight) && !in_blocks;
        let by_products =
            |readers: &Vec<(&NodeProto, usize)>| readers.iter().any(|&(node, at)| reads_integers(node, at));
        if eight && self.readers.get(output).is_none_or(by_products) {
            self.nodes.push(NodeProto { domain: String::new(), ..node.proto.clone() });
            return Ok(());
        }
        if !eight {
            self.note(Note::Weights);
        }
        let steps = self.steps_at(node, [1, 2])?;
        self.floats_of(node, x, &steps, Some(node.int("axis", 1)), Some(output))?;
        Ok(())
    }

    /// A tensor of the file as floats.
    pub(super) fn floats_of(
        &mut self,
        node: NodeView<'a>,
        x: &str,
        steps: &Steps,
        axis: Option<i64>,
        output: Option<&str>,
    ) -> Result<String, Problem> {
        let rounded = self.rounded_weights.get(x).copied();
        let (shape, integers) = match rounded {
            Some(weight) => (self.read(node, weight)?.shape().to_vec(), Vec::new()),
            None => self.integers(node, x)?,
        };
        let scale = self.floats(node, &steps.scale)?;
        let zero_point = match &steps.zero_point {
            Some(name) => self.integers(node, name)?.1,
            None => vec![0; scale.len()],
        };
        let rank = shape.len();
        let block = usize::try_from(node.int("block_size", 0));
        let block = block.map_err(|_| node.damaged("its block_size is negative"))?;
        let axis = if scale.len() == 1 && block == 0 { 0 } else { node.place_of(axis.unwrap_or(1), rank)? };
        let places = Places { scale, zero_point, axis, block };
        let floats = match rounded {
            Some(weight) => {
                let kind = self.kind(node, steps.zero_point.as_deref())?;
                places.rounded(&shape, &self.floats(node, weight)?, [kind.low, kind.high])
            }
            None => places.floats(&shape, &integers),
        };
        let floats = floats.ok_or_else(|| {
            let (scales, zeros) = (places.scale.len(), places.zero_point.len());
            node.damaged(format!("{scales} scales and {zeros} zero points do not fit a tensor of {shape:?}"))
        })?;
        let name = output.map_or_else(|| format!("{x}.floats"), str::to_owned);
        let name = if output.is_some() { name } else { self.unused(name) };
        self.add_floats(node, name, &shape, &floats)
    }

    /// MatMulNBits: a product with a matrix of few bits, in blocks along the reduction.
    pub(super) fn blocks(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let size = |name: &str| usize::try_from(node.int(name, 0)).ok().filter(|&n| n > 0);
        let (Some(k), Some(n), Some(block)) = (size("K"), size("N"), size("block_size")) else {
            return Err(node.damaged("it does not say how large its matrix is"));
        };
        let bits = node.int("bits", 4);
        if !matches!(bits, 4 | 8) || node.input(4).is_some() {
            return Err(
                node.unsupported("weights of 4 or 8 bits in the order of the columns are read", FLOAT)
            );
        }
        self.note(Note::Weights);
        let blocks = k.div_ceil(block);
        let per_byte = if bits == 4 { 2 } else { 1 };
        let row = block.div_ceil(per_byte);
        let zeros_row = blocks.div_ceil(per_byte);
        let (_, bytes) = self.integers(node, node.required(1)?)?;
        let scale = self.floats(node, node.required(2)?)?;
        let zeros = match node.input(3) {
            Some(name) => Some(self.integers(node, name)?.1),
            None => None,
        };
        let wanted = n
            .checked_mul(blocks)
            .and_then(|all| Some([all.checked_mul(row)?, all, n.checked_mul(zeros_row)?]));
        let held = [bytes.len(), scale.len(), zeros.as_ref().map_or(n.saturating_mul(zeros_row), Vec::len)];
        if wanted != Some(held) {
            return Err(node
                .damaged(format!("a matrix of {k} by {n} has not {held:?} bytes, scales and zero points")));
        }
        let part = |bytes: &[i32], index: usize| match per_byte {
            2 => bytes[index / 2] >> (4 * (index % 2)) & 15,
            _ => bytes[index],
        };
        self.charge(node, k, n)?;
        let mut floats = vec![0.0; k * n];
        for column in 0..n {
            for i in 0..k {
                let at = column * blocks + i / block;
                let zero = match &zeros {
                    Some(zeros) => part(&zeros[column * zeros_row..], i / block),
                    None => 1 << (bits - 1),
                };
                let level = part(&bytes[at * row..], i % block) - zero;
                floats[i * n + column] = level as f32 * scale[at];
            }
        }
        let name = self.unused(format!("{}.floats", node.required(1)?));
        let matrix = self.add_floats(node, name, &[k, n], &floats)?;
        let inputs = vec![node.required(0)?.to_owned(), matrix];
        let output = node.required_output()?;
        match node.input(5) {
            None => self.push("MatMul", node.name().to_owned(), inputs, Vec::new(), Some(output)),
            Some(bias) => {
                let product =
                    self.push("MatMul", format!("{}.product", node.name()), inputs, Vec::new(), None);
                self.push(
                    "Add",
                    node.name().to_owned(),
                    vec![product, bias.to_owned()],
                    Vec::new(),
                    Some(output),
                )
            }
        };
        Ok(())
    }

    /// A bias of i32, in steps of the product of two scales.
    pub(super) fn bias(
        &mut self,
        node: NodeView<'a>,
        bias: &str,
        [x, w]: [&str; 2],
        factor: f32,
    ) -> Result<String, Problem> {
        let (x, w) = (self.floats(node, x)?, self.floats(node, w)?);
        let &[x] = &x[..] else { return Err(node.unsupported("its input has more than one scale", FLOAT)) };
        let scales: Vec<f32> = w.iter().map(|w| x * w * factor).collect();
        let name = self.unused(format!("{bias}.scale"));
        let scale = self.add_floats(node, name, &[scales.len()], &scales)?;
        self.dequantized(node, bias, &Steps { scale, zero_point: None }, Some(0), None)
    }

    /// As many zero points as scales.
    pub(super) fn matched(&mut self, node: NodeView<'a>, steps: &Steps) -> Result<Steps, Problem> {
        let Some(zero_point) = &steps.zero_point else { return Ok(steps.clone()) };
        let (scales, zeros) = (self.count(&steps.scale), self.count(zero_point));
        let mut steps = steps.clone();
        match (scales, zeros) {
            (Some(scales), Some(1)) if scales > 1 => {
                let Some(&tensor) = self.stored.get(zero_point.as_str()) else { return Ok(steps) };
                let zero = self.one_integer(node, zero_point)?;
                let name = self.unused(format!("{zero_point}.{scales}"));
                self.charge(node, scales, 1)?;
                let bytes = vec![zero as u8; scales];
                let made = TensorProto { data_type: tensor.data_type, ..raw(&name, &[scales], bytes) };
                self.made = self.made.saturating_add(scales as u64);
                self.tensors.push(made);
                steps.zero_point = Some(name);
            }
            (Some(1), Some(zeros)) if zeros > 1 => {
                let scale = self.floats(node, &steps.scale)?;
                self.charge(node, zeros, 4)?;
                let name = self.unused(format!("{}.{zeros}", steps.scale));
                steps.scale = self.add_floats(node, name, &[zeros], &vec![scale[0]; zeros])?;
            }
            _ => {}
        }
        Ok(steps)
    }

    /// A zero point 0.
    pub(super) fn zero(&mut self, node: NodeView<'a>, data_type: i32) -> Result<String, Problem> {
        let name = self.unused(format!("{}.zero_point", node.name()));
        let bytes = vec![0; if matches!(data_type, 4 | 5) { 2 } else { 1 }];
        let tensor = TensorProto { data_type: Some(data_type), ..raw(&name, &[], bytes) };
        self.extra.insert(name.clone(), data_type);
        self.tensors.push(tensor);
        Ok(name)
    }

    /// A constant.
    pub(super) fn number(&mut self, node: NodeView<'a>, number: f32) -> Result<String, Problem> {
        if let Some(name) = self.numbers.get(&number.to_bits()) {
            return Ok(name.clone());
        }
        let name = self.unused(format!("number_{number}"));
        let name = self.add_floats(node, name, &[], &[number])?;
        self.numbers.insert(number.to_bits(), name.clone());
        Ok(name)
    }

    /// The elements of a tensor of the file.
    fn count(&self, name: &str) -> Option<usize> {
        let dims = &self.stored.get(name)?.dims;
        dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
    }

    /// Whether a scale is known to be one of several.
    pub(super) fn is_one_of_several(&self, scale: &str) -> bool {
        self.count(scale).is_some_and(|count| count != 1)
    }

    fn read(&mut self, node: NodeView<'a>, name: &str) -> Result<Tensor, Problem> {
        let tensor = self.stored.get(name).copied();
        let tensor =
            tensor.ok_or_else(|| node.unsupported(format!("`{name}` is not stored in the file"), FLOAT))?;
        self.reader.read(tensor)
    }

    pub(super) fn floats(&mut self, node: NodeView<'a>, name: &str) -> Result<Vec<f32>, Problem> {
        let tensor = self.read(node, name)?;
        let floats = tensor.to_f32().and_then(|tensor| tensor.as_f32().map(<[f32]>::to_vec));
        floats.filter(|x| !x.is_empty()).ok_or_else(|| node.damaged(format!("`{name}` holds no floats")))
    }

    pub(super) fn one_integer(&mut self, node: NodeView<'a>, name: &str) -> Result<i32, Problem> {
        if self.extra.contains_key(name) {
            return Ok(0);
        }
        match self.integers(node, name)?.1[..] {
            [one] => Ok(one),
            _ => Err(node.unsupported(format!("`{name}` is more than one zero point"), FLOAT)),
        }
    }

    /// A shape and the numbers of a tensor of integers of at most 32 bits.
    fn integers(&mut self, node: NodeView<'a>, name: &str) -> Result<(Vec<usize>, Vec<i32>), Problem> {
        let few = self.stored.get(name).and_then(|tensor| tensor.data_type).unwrap_or_default();
        if matches!(few, 21 | 22) {
            return self.nibbles(node, name, few == 22);
        }
        let tensor = self.read(node, name)?;
        let integers = match tensor.data() {
            Data::U8(x) => x.iter().map(|&x| x.into()).collect(),
            Data::I8(x) => x.iter().map(|&x| x.into()).collect(),
            Data::I32(x) => x.clone(),
            _ => {
                return Err(node.unsupported(format!("`{name}` holds no integers of at most 32 bits"), FLOAT));
            }
        };
        Ok((tensor.shape().to_vec(), integers))
    }

    /// Integers of four bits, of which a byte holds two, the first in its lower half.
    fn nibbles(
        &mut self,
        node: NodeView<'a>,
        name: &str,
        signed: bool,
    ) -> Result<(Vec<usize>, Vec<i32>), Problem> {
        let Some(&tensor) = self.stored.get(name) else { return Err(node.damaged("a tensor is missing")) };
        let damaged = || node.damaged(format!("the dims of `{name}` are no sizes"));
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(damaged)?;
        let count = self.count(name).ok_or_else(damaged)?;
        let bytes = TensorProto {
            dims: vec![i64::try_from(count.div_ceil(2)).map_err(|_| damaged())?],
            data_type: Some(U8),
            ..tensor.clone()
        };
        let bytes = self.reader.read(&bytes)?;
        let Data::U8(bytes) = bytes.data() else { return Err(damaged()) };
        self.reader.charge(&node.place(), count, 4)?;
        let nibble = |i: usize| {
            let nibble = i32::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
            if signed && nibble > 7 { nibble - 16 } else { nibble }
        };
        Ok((shape, (0..count).map(nibble).collect()))
    }

    fn charge(&mut self, node: NodeView<'a>, rows: usize, columns: usize) -> Result<(), Problem> {
        let elements = rows.checked_mul(columns).ok_or_else(|| node.damaged("its sizes are too large"))?;
        self.reader.charge(&node.place(), elements, 4)
    }

    /// Adds a tensor of floats.
    fn add_floats(
        &mut self,
        node: NodeView<'a>,
        name: String,
        shape: &[usize],
        floats: &[f32],
    ) -> Result<String, Problem> {
        self.reader.charge(&node.place(), floats.len(), 4)?;
        self.made = self.made.saturating_add(4 * floats.len() as u64);
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push(raw(&name, shape, bytes));
        Ok(name)
    }
}

impl Places {
    /// The floats that integers stand for; `None` where there are not as many scales and zero points as the shape asks for.
    fn floats(&self, shape: &[usize], integers: &[i32]) -> Option<Vec<f32>> {
        let place = self.place(shape)?;
        let float =
            |(i, &x): (usize, &i32)| x.wrapping_sub(self.zero_point[place(i)]) as f32 * self.scale[place(i)];
        Some(integers.iter().enumerate().map(float).collect())
    }

    /// Floats as their integers have them, which are within bounds.
    fn rounded(&self, shape: &[usize], floats: &[f32], bounds: [i32; 2]) -> Option<Vec<f32>> {
        let place = self.place(shape)?;
        let float = |(i, &x): (usize, &f32)| {
            let (scale, zero_point) = (self.scale[place(i)], self.zero_point[place(i)]);
            let [low, high] = bounds.map(|bound| bound.saturating_sub(zero_point) as f32);
            (x / scale).max(low).min(high).round_ties_even() * scale
        };
        Some(floats.iter().enumerate().map(float).collect())
    }

    /// Which scale each element of a tensor has.
    fn place(&self, shape: &[usize]) -> Option<impl Fn(usize) -> usize> {
        let (axis, block, scales) = (self.axis, self.block, self.scale.len());
        let size = shape.get(axis).copied().unwrap_or(1).max(1);
        let count = |sizes: &[usize]| sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let inner = count(shape.get(axis + 1..).unwrap_or_default())?.max(1);
        let len = count(shape)?;
        let blocks = size.checked_div(block).map(|_| size.div_ceil(block));
        let wanted = match (blocks, scales) {
            (Some(blocks), _) => len / size * blocks,
            (None, 1) => 1,
            (None, _) => size,
        };
        let place = move |i: usize| match (blocks, scales) {
            (Some(blocks), _) => (i / inner / size * blocks + i / inner % size / block) * inner + i % inner,
            (None, 1) => 0,
            (None, _) => i / inner % size,
        };
        ([scales, self.zero_point.len()] == [wanted; 2]).then_some(place)
    }
}

/// Whether `node` may read its input `at` as integers behind a DequantizeLinear.
fn reads_integers(node: &NodeProto, at: usize) -> bool {
    match node.op_type.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" => matches!(at, 1 | 2),
        "MatMul" => at == 1,
        "Gather" | "Transpose" | "Reshape" | "Cast" | "Identity" | "QuantizeLinear" => at == 0,
        _ => false,
    }
}

/// A tensor of f32, or of what its user says.
fn raw(name: &str, shape: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&d| d as i64).collect(),
        data_type: Some(F32),
        name: name.to_owned(),
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}
