//! Tensors that no input decides, but perhaps the number of pictures in a batch.
//!
//! Those that depend on it (a mask for each picture, the places of all pictures) are computed for batches of two sizes. What is alike
//! for each picture in both is a constant for one; the places of all pictures are found again as such.

use std::rc::Rc;

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Bindings, DType, Data, Dim, DimOp, Op, Shape, Tensor, ValueId};

use super::{Operand, SIMPLIFY, Stored, Translator};
use crate::elements::MAX_ELEMENTS;
use crate::error::Problem;
use crate::import::{Number, Part, Site};
use crate::onnx::array::{Array, Kind, Known};
use crate::onnx::attributes::NodeView;
use crate::onnx::fold::MAX_NUMBERS;

/// The sizes of the batches.
const BATCHES: [usize; 2] = [2, 3];

/// A tensor for each of these batches.
pub(super) type Probed = [Array; 2];

/// More nodes one after another are not computed again.
const MAX_DEPTH: usize = 12;

/// What is forgotten once all have read it.
pub(super) struct Passing {
    readers: usize,
    /// Its elements.
    held: usize,
}

/// A part of a value: for each axis the first place and the number of places, or all of it.
type Region = Vec<Option<[usize; 2]>>;

impl<'a> Translator<'a> {
    /// What `node` makes of tensors that are known, of weights only where asked for. (Of a file of ours all of it is part of the graph.)
    pub(super) fn evaluated(
        &mut self,
        node: NodeView<'a>,
        weights: bool,
    ) -> Result<Option<Operand<'a>>, Problem> {
        if self.context.own || node.proto.input.is_empty() || node.proto.input.len() > MAX_NUMBERS {
            return Ok(None);
        }
        let (mut inputs, mut elements, mut constant) = ([Vec::new(), Vec::new()], 0usize, true);
        for index in 0..node.proto.input.len() {
            let [first, second] = match node.input(index) {
                None => [None, None],
                Some(_) => match self.arrays(node, index, weights)? {
                    Some(arrays) => arrays.map(Some),
                    None => return Ok(None),
                },
            };
            if let (Some(_), Operand::Stored(stored)) = (&first, self.operand(node, index)?) {
                constant &= is_no_weight(&stored);
            }
            elements = elements.saturating_add(first.as_ref().map_or(0, Array::len));
            inputs[0].push(first);
            inputs[1].push(second);
        }
        let fill = match node.tensor("value") {
            Some(proto) => Array::from_tensor(&self.context.tensors.read(proto)?),
            None => None,
        };
        let evaluate =
            |inputs: &[_]| Known { node, inputs, fill: fill.clone(), most: MAX_ELEMENTS }.evaluate();
        let Some(array) = evaluate(&inputs[0]) else { return Ok(None) };
        // What it read stays with its own node; this is the room for the copies.
        self.context.tensors.charge(&node.place(), elements, size_of::<f64>())?;
        self.context.tensors.release(elements, size_of::<f64>());
        let other =
            if inputs[0] == inputs[1] { None } else { evaluate(&inputs[1]).map(Some).unwrap_or_default() };
        if inputs[0] != inputs[1] && other.is_none() {
            return Ok(None);
        }
        let (held, operand) = match other.filter(|other| *other != array) {
            Some(other) => (array.len() + other.len(), Operand::Probed(Rc::new([array, other]))),
            None => {
                let held = array.len();
                let Some(tensor) = array.to_tensor() else { return Ok(None) };
                (held, Operand::Stored(self.derived(node, tensor, constant)))
            }
        };
        self.context.tensors.charge(&node.place(), held, size_of::<f64>())?;
        if let Some(output) = node.proto.output.first() {
            let readers = self.context.uses.get(output.as_str()).copied().unwrap_or(0);
            self.passing.insert(output, Passing { readers, held });
        }
        Ok(Some(operand))
    }

    /// Forgets known tensors that `node` was the last to read.
    pub(super) fn forget(&mut self, node: NodeView<'a>) {
        // Rows of a table are looked up when another node reads them.
        if node.op() == "Gather" {
            return;
        }
        for name in &node.proto.input {
            let Some(passing) = self.passing.get_mut(name.as_str()) else { continue };
            passing.readers = passing.readers.saturating_sub(1);
            if passing.readers == 0 {
                self.context.tensors.release(passing.held, size_of::<f64>());
                self.passing.remove(name.as_str());
                self.operands.remove(name.as_str());
            }
        }
    }

    /// Input `index`, where it is known now and no weight, unless asked for, for each of the batches.
    fn arrays(&mut self, node: NodeView<'a>, index: usize, weights: bool) -> Result<Option<Probed>, Problem> {
        let same = |array: Option<Array>| array.map(|array| [array.clone(), array]);
        let Some(operand) = self.lookup(node.required(index)?)? else { return Ok(None) };
        Ok(match operand {
            Operand::Stored(stored) if !is_bytes(&stored) && (weights || is_no_weight(&stored)) => {
                let array = Array::from_tensor(&stored.tensor);
                same(if stored.transposed { array.and_then(|array| array.turned()) } else { array })
            }
            Operand::Numbers(numbers) => {
                let kind = if numbers.float { Kind::Float } else { Kind::Whole };
                let number = |number: &Number, batch: usize| match number {
                    Number::Known(x) => Some(*x),
                    Number::Size(dim) => self.size_at(dim, batch).map(|size| size as f64),
                    Number::Unknown => None,
                };
                let array = |batch: usize| {
                    let data: Option<Vec<f64>> = numbers.data.iter().map(|n| number(n, batch)).collect();
                    Array::new(numbers.shape.clone(), data?, kind)
                };
                pair(array)
            }
            Operand::Filled(filled) => {
                let array = |batch: usize| {
                    let dims = &filled.shape.as_ref()?.0;
                    let shape: Vec<usize> =
                        dims.iter().map(|dim| self.size_at(dim, batch)).collect::<Option<_>>()?;
                    let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
                    let room = count <= MAX_ELEMENTS;
                    room.then(|| Array::new(shape, vec![f64::from(filled.number); count], Kind::Float))?
                };
                pair(array)
            }
            Operand::Probed(probed) => Some((*probed).clone()),
            Operand::Value(_) if weights => {
                let name = node.input(index).unwrap_or_default();
                let Some(&maker) = self.of_weights.get(name) else { return Ok(None) };
                self.recomputed = true;
                let mut inputs = [Vec::new(), Vec::new()];
                for index in 0..maker.proto.input.len() {
                    let [first, second] = match maker.input(index) {
                        Some(_) => match self.arrays(maker, index, true)? {
                            Some(arrays) => arrays.map(Some),
                            None => return Ok(None),
                        },
                        None => [None, None],
                    };
                    inputs[0].push(first);
                    inputs[1].push(second);
                }
                let [first, second] = inputs.map(|inputs| {
                    Known { node: maker, inputs: &inputs, fill: None, most: MAX_ELEMENTS }.evaluate()
                });
                first.zip(second).map(|(first, second)| [first, second])
            }
            Operand::Stored(_)
            | Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Rows(_) => None,
        })
    }

    /// Whether a node reads nothing that an input decides, and not what many others made of weights: what it gives is computed again
    /// when something asks for it.
    pub(super) fn is_of_weights(&mut self, node: NodeView<'a>) -> bool {
        let depth = |name: &String| match self.operands.get(name.as_str()) {
            Some(Operand::Value(_)) => self
                .of_weights
                .get(name.as_str())
                .map(|_| self.depths.get(name.as_str()).copied().unwrap_or(0) + 1),
            Some(Operand::Stored(_) | Operand::Numbers(_) | Operand::Probed(_)) => Some(0),
            Some(_) => None,
            None => (name.is_empty() || self.context.initializers.contains_key(name.as_str())).then_some(0),
        };
        let depth = node.proto.input.iter().map(depth).try_fold(0, |most, depth| Some(most.max(depth?)));
        match (depth, node.proto.output.first()) {
            (Some(depth @ ..MAX_DEPTH), Some(output)) => {
                self.depths.insert(output, depth);
                true
            }
            _ => false,
        }
    }

    /// A size that depends on nothing but the batch.
    fn size_at(&self, dim: &Dim, batch: usize) -> Option<usize> {
        let bindings = match &self.import.batch {
            Dim::Symbol(name) => Bindings::from([(name.to_string(), batch)]),
            Dim::Fixed(_) | Dim::Expr(_) => Bindings::new(),
        };
        dim.eval(&bindings).ok()
    }

    pub(super) fn shape_of_probed(&self, probed: &Probed) -> Option<Shape> {
        let [first, second] = probed;
        let dim = |(&a, &b): (&usize, &usize)| match (a == b, a.checked_div(BATCHES[0])) {
            (true, _) => Some(Dim::Fixed(a)),
            (false, Some(each)) if [each * BATCHES[0], each * BATCHES[1]] == [a, b] => {
                Some(self.import.batch.combine(DimOp::Mul, &Dim::Fixed(each)))
            }
            (false, _) => None,
        };
        let same = first.shape().len() == second.shape().len();
        same.then(|| first.shape().iter().zip(second.shape()).map(dim).collect::<Option<_>>().map(Shape))?
    }

    /// What is alike for each picture, as a value of the graph.
    pub(super) fn alike(
        &mut self,
        node: NodeView<'a>,
        name: &str,
        probed: &Probed,
    ) -> Result<ValueId, Problem> {
        let refused =
            || node.unsupported(format!("`{name}` is another for each picture of a batch"), SIMPLIFY);
        let shape = self.shape_of_probed(probed).ok_or_else(refused)?;
        let one = probed[0].without(&shape, &self.import.batch).ok_or_else(refused)?;
        let other = probed[1].without(&shape, &self.import.batch);
        let tensor = one.to_tensor().filter(|_| other.as_ref() == Some(&one)).ok_or_else(refused)?;
        let truth = tensor.dtype() == DType::Bool;
        let floats = as_floats(tensor).ok_or_else(refused)?;
        let id = self.import.constant(&node, "each", floats);
        if truth {
            self.import.mark_truth(id);
        }
        self.import.push_part(&node, "all", Op::Shape(ShapeOp::Expand { shape }), &[id])
    }

    /// What a Gather takes of a value at places that depend on the batch: all of it, in order, under another shape. PyTorch's newer
    /// exporter writes a mean of pixels so.
    pub(super) fn in_order(&mut self, node: NodeView<'a>, places: &Probed) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let shape = self.shape_of_probed(places);
        let counts = |(array, batch): (&Array, usize)| {
            let all = self.import.shape(x).0.first().and_then(|dim| self.size_at(dim, batch));
            let ints = array.ints().unwrap_or_default();
            all == Some(ints.len()) && ints.into_iter().eq(0..all.unwrap_or(0) as i64)
        };
        let whole = places.iter().zip(BATCHES).all(counts) && self.import.rank(x) == 1;
        match shape.filter(|_| whole) {
            Some(shape) => self.import.reshape_to(&node, x, shape),
            None => Err(node.unsupported("its indices are others for each picture of a batch", SIMPLIFY)),
        }
    }

    /// What `node`, which says where elements go, makes of stored tensors; of others what `of_values` does.
    pub(super) fn known_or(
        &mut self,
        node: NodeView<'a>,
        of_values: fn(&mut Self, NodeView<'a>) -> Result<ValueId, Problem>,
    ) -> Result<Operand<'a>, Problem> {
        match self.evaluated(node, true)? {
            Some(known) => Ok(known),
            None => of_values(self, node).map(Operand::Value),
        }
    }

    /// A value with others in the place of some of its elements, which are a box.
    pub(super) fn scatter(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if node.text("reduction").unwrap_or("none") != "none" {
            return Err(node.unsupported("a scattered sum is not read", SIMPLIFY));
        }
        let (x, updates) = (self.value(node, 0)?, self.value(node, 2)?);
        let shape = self.import.shape(x).clone();
        let axis = match node.op() {
            "ScatterElements" => Some(node.place_of(node.int("axis", 0), shape.rank())?),
            _ => None,
        };
        let box_of = |translator: &Self, array: &Array, batch: usize| match axis {
            Some(axis) => translator.places_along(&shape, array, axis, batch),
            None => translator.region(&shape, array, batch),
        };
        let places = self.arrays(node, 1, false)?;
        let region = places.and_then(|[first, second]| {
            let region = box_of(self, &first, BATCHES[0])?;
            (box_of(self, &second, BATCHES[1])? == region).then_some(region)
        });
        let region = region.ok_or_else(|| {
            node.unsupported("only a box of elements that is known before the run is replaced", SIMPLIFY)
        })?;
        let sides = shape.0.iter().enumerate().map(|(axis, dim)| match region.get(axis) {
            Some(Some([_, count])) => Dim::Fixed(*count),
            Some(None) | None => dim.clone(),
        });
        let part = Part { site: &node, name: format!("{}.updates", node.name()) };
        let updates = self.import.reshape_to(&part, updates, Shape(sides.collect()))?;
        self.replaced(&node, x, updates, &region, 0)
    }

    /// The box of an axis that indices name, which are alike along all other axes and as many as these have places.
    fn places_along(&self, shape: &Shape, indices: &Array, axis: usize, batch: usize) -> Option<Region> {
        let sizes: Vec<usize> = shape.0.iter().map(|dim| self.size_at(dim, batch)).collect::<Option<_>>()?;
        let own = indices.shape();
        let count = *own.get(axis)?;
        if own.len() != sizes.len() || (0..own.len()).any(|i| i != axis && own[i] != sizes[i]) {
            return None;
        }
        let inner: usize = own[axis + 1..].iter().product();
        let numbers = indices.ints()?;
        let start = usize::try_from(*numbers.first()?).ok().filter(|start| start + count <= sizes[axis])?;
        let alike = numbers.iter().enumerate().all(|(i, &index)| index == (start + i / inner % count) as i64);
        let mut region = vec![None; axis + 1];
        region[axis] = (count < sizes[axis]).then_some([start, count]);
        alike.then_some(region)
    }

    /// The elements of a value that rows of indices name.
    pub(super) fn gather_rows(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let refused = || {
            node.unsupported("only elements at places that are known before the run are looked up", SIMPLIFY)
        };
        let Some([indices, other]) = self.arrays(node, 1, false)? else { return Err(refused()) };
        let (&depth, outer) = indices.shape().split_last().ok_or_else(refused)?;
        let dims = self.import.shape(x).0.clone();
        let sizes: Option<Vec<usize>> =
            dims.get(..depth).and_then(|dims| dims.iter().map(Dim::fixed).collect());
        let (Some(sizes), true) = (sizes, indices == other && depth > 0 && node.int("batch_dims", 0) == 0)
        else {
            return Err(refused());
        };
        let numbers = indices.ints().ok_or_else(refused)?;
        let place = |row: &[i64]| {
            row.iter().zip(&sizes).try_fold(0i64, |place, (&index, &size)| {
                let size = i64::try_from(size).ok()?;
                let index = if index < 0 { index.checked_add(size)? } else { index };
                (0..size).contains(&index).then(|| place.checked_mul(size)?.checked_add(index))?
            })
        };
        let places: Option<Vec<i64>> = numbers.chunks_exact(depth).map(place).collect();
        let places = places.ok_or_else(|| node.damaged("an index is outside of its axis"))?;
        let part = Part { site: &node, name: format!("{}.flat", node.name()) };
        let flat = self.import.flatten(&part, x, 0, depth - 1)?;
        self.import.places(&node, flat, 0, &places, outer)
    }

    /// The box that rows of indices name, one after another.
    fn region(&self, shape: &Shape, indices: &Array, batch: usize) -> Option<Region> {
        let (&depth, _) = indices.shape().split_last()?;
        let sizes: Vec<usize> =
            shape.0.iter().take(depth).map(|dim| self.size_at(dim, batch)).collect::<Option<_>>()?;
        let numbers = indices.ints()?;
        let rows: Vec<&[i64]> = numbers.chunks_exact(depth.max(1)).collect();
        let (first, last) = (*rows.first()?, *rows.last()?);
        let mut counts = Vec::new();
        let mut region = Region::new();
        for axis in 0..depth {
            let start = usize::try_from(first[axis]).ok()?;
            let end = usize::try_from(last[axis])
                .ok()
                .filter(|&end| end >= start && end < *sizes.get(axis).unwrap_or(&0))?;
            counts.push(end + 1 - start);
            let whole = start == 0 && end + 1 == sizes[axis];
            region.push((!whole).then_some([start, end + 1 - start]));
        }
        let count = counts.iter().try_fold(1usize, |n, &c| n.checked_mul(c))?;
        if count != rows.len() {
            return None;
        }
        for (i, row) in rows.iter().enumerate() {
            let mut rest = i;
            for axis in (0..depth).rev() {
                if row[axis] != first[axis] + (rest % counts[axis]) as i64 {
                    return None;
                }
                rest /= counts[axis];
            }
        }
        Some(region)
    }

    /// `x` with `updates` in the place of a box, from `axis` on.
    fn replaced(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        updates: ValueId,
        region: &[Option<[usize; 2]>],
        axis: usize,
    ) -> Result<ValueId, Problem> {
        let Some(at) = (axis..region.len()).find(|&axis| region[axis].is_some()) else { return Ok(updates) };
        let Some([start, count]) = region[at] else { return Ok(updates) };
        let size =
            self.import.shape(x).0[at].fixed().ok_or_else(|| site.refused("the axis has no known size"))?;
        let side = |name: &str| Part { site, name: site.part(&format!("axis{at}.{name}")) };
        let mut parts = Vec::new();
        if start > 0 {
            parts.push(self.import.slice(&side("before"), x, at, [0, start as i64])?);
        }
        let middle = self.import.slice(&side("middle"), x, at, [start as i64, (start + count) as i64])?;
        parts.push(self.replaced(site, middle, updates, region, at + 1)?);
        if start + count < size {
            parts.push(self.import.slice(&side("behind"), x, at, [(start + count) as i64, size as i64])?);
        }
        match parts[..] {
            [only] => Ok(only),
            _ => self.import.push_part(
                site,
                &format!("axis{at}"),
                Op::Shape(ShapeOp::Concat { axis: at }),
                &parts,
            ),
        }
    }
}

fn pair(array: impl Fn(usize) -> Option<Array>) -> Option<Probed> {
    let [first, second] = BATCHES.map(array);
    Some([first?, second?])
}

/// Whether a stored tensor is nothing that training changes.
fn is_no_weight(stored: &Stored) -> bool {
    stored.constant || !stored.tensor.dtype().is_float() || stored.tensor.len() == 1
}

/// Whether a stored tensor is of bytes, as those of a quantized network, which stay what they are.
fn is_bytes(stored: &Stored) -> bool {
    matches!(stored.tensor.dtype(), DType::U8 | DType::I8)
}

/// Floats and booleans as f32.
fn as_floats(tensor: Tensor) -> Option<Tensor> {
    let shape = tensor.shape().to_vec();
    match tensor.data() {
        Data::Bool(truths) => {
            Some(Tensor::f32(shape, truths.iter().map(|&truth| f32::from(u8::from(truth))).collect()))
        }
        _ => tensor.to_f32(),
    }
}
