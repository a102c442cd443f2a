//! What operators read and give: tensors of the file, in the order of axes that each wants.

use half::f16;
use offshoot_graph::{Data, Dim, Node, Shape, Source, Tensor, ValueId};

use super::builder::{Affine, Spec};
use super::{Job, Writer, place, refused};
use crate::error::Problem;
use crate::litert::flat::Fields;
use crate::litert::schema::{Code, kind};
use crate::parts::transposed;

/// The order of axes that LiteRT's operators on pictures take: axis i of the file is this axis of the graph.
pub(super) const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

/// Fewer numbers than these stay f32 where weights are f16.
const SMALLEST_HALF: usize = 32;

/// A value in the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) tensor: i32,
    /// Which axis of the value each axis of the tensor is.
    pub(super) order: Vec<usize>,
    /// Whether its elements are int8.
    pub(super) bytes: bool,
}

/// Stored numbers as `sizes`, with axis `perm[i]` in the place of axis i.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Constant {
    pub(super) id: ValueId,
    pub(super) sizes: Vec<usize>,
    pub(super) perm: Vec<usize>,
}

/// A weight in integers behind a DequantizeLinear.
#[derive(Clone, Debug)]
pub(super) struct Scaled {
    pub(super) integers: ValueId,
    pub(super) scales: Vec<f32>,
    pub(super) axis: usize,
}

/// The elements of `of` in an order.
pub(super) fn turned<T: Clone>(of: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&axis| of[axis].clone()).collect()
}

/// The axes as they are.
pub(super) fn plain(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// LiteRT's integers are of 32 bits.
pub(super) fn narrow(n: usize) -> Result<i32, Problem> {
    i32::try_from(n)
        .map_err(|_| Problem::unsupported("graph", format!("a size of {n} is too large"), super::WAY_OUT))
}

impl Writer<'_> {
    pub(super) fn dims(&self, id: ValueId) -> Vec<Dim> {
        self.graph.value(id).shape.0.clone()
    }

    /// The sizes of a value for one picture.
    pub(super) fn sizes(&self, node: &Node, id: ValueId) -> Result<Vec<usize>, Problem> {
        self.graph.value(id).shape.eval(&self.one).map_err(|e| refused(node, e.to_string()))
    }

    /// Sizes for one picture, and with -1 where they depend on the number of pictures.
    fn both_sizes(&self, name: &str, dims: &[Dim]) -> Result<(Vec<i32>, Option<Vec<i32>>), Problem> {
        let sizes = Shape(dims.to_vec()).eval(&self.one);
        let sizes =
            sizes.map_err(|e| Problem::unsupported(format!("`{name}`"), e.to_string(), super::WAY_OUT))?;
        let sizes = sizes.into_iter().map(narrow).collect::<Result<Vec<i32>, _>>()?;
        let open = dims.iter().zip(&sizes).map(|(dim, &n)| if dim.fixed().is_none() { -1 } else { n });
        let open: Vec<i32> = open.collect();
        let signature = (open != sizes).then_some(open);
        Ok((sizes, signature))
    }

    /// A new tensor of floats, or of bytes that stand for floats.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        dims: &[Dim],
        affine: Option<&Affine>,
    ) -> Result<i32, Problem> {
        let (sizes, signature) = self.both_sizes(name, dims)?;
        let kind = if affine.is_some() { kind::I8 } else { kind::F32 };
        let tensor = self.file.tensor(Spec { name, kind, sizes, signature, affine });
        if let Some(affine) = affine {
            self.affines.insert(tensor, affine.clone());
        }
        Ok(tensor)
    }

    pub(super) fn float(&mut self, name: &str, dims: &[Dim]) -> Result<i32, Problem> {
        self.tensor(name, dims, None)
    }

    /// Adds an operator on floats, or on bytes where its result is.
    pub(super) fn operator(&mut self, code: Code, inputs: Vec<i32>, output: i32, options: Fields) {
        let bytes = self.affines.contains_key(&output);
        self.file.operator(code, code.row().versions[usize::from(bytes)], inputs, output, options);
    }

    /// Adds an operator on floats, and a tensor of its result.
    pub(super) fn step(
        &mut self,
        name: &str,
        code: Code,
        inputs: Vec<i32>,
        dims: &[Dim],
        options: Fields,
    ) -> Result<i32, Problem> {
        let output = self.float(name, dims)?;
        self.operator(code, inputs, output, options);
        Ok(output)
    }

    /// Adds the operator that gives a job's result, whose axes stand in an order.
    pub(super) fn give(
        &mut self,
        job: &Job<'_>,
        code: Code,
        inputs: Vec<i32>,
        order: &[usize],
        options: Fields,
    ) -> Result<(), Problem> {
        let dims = turned(&self.dims(job.target), order);
        let name = self.graph.value(job.target).name.clone();
        let tensor = self.tensor(&name, &dims, job.affine.as_ref())?;
        self.operator(code, inputs, tensor, options);
        self.hold(job, tensor, order);
        Ok(())
    }

    /// Makes a tensor the job's result.
    pub(super) fn hold(&mut self, job: &Job<'_>, tensor: i32, order: &[usize]) {
        let place = Place { tensor, order: order.to_vec(), bytes: job.affine.is_some() };
        self.places.insert(job.target, place);
    }

    /// An operand as the job computes it, bytes or floats, in an order.
    pub(super) fn x(&mut self, job: &Job<'_>, i: usize, order: &[usize]) -> Result<i32, Problem> {
        let id = job.node.inputs[i];
        match job.affine {
            Some(_) => {
                let place = self.places.get(&id).cloned();
                let place = place.ok_or_else(|| refused(job.node, "it computes on stored numbers"))?;
                self.turn(id, &place, order)
            }
            None => self.floats_of(job.node, i, order),
        }
    }

    /// The order that an operand's axes stand in, where it is computed.
    pub(super) fn order(&self, node: &Node, i: usize) -> Option<Vec<usize>> {
        self.places.get(&node.inputs[i]).map(|place| place.order.clone())
    }

    /// An operand as floats in an order: one that is computed, or stored numbers.
    pub(super) fn floats_of(&mut self, node: &Node, i: usize, order: &[usize]) -> Result<i32, Problem> {
        let id = node.inputs[i];
        if self.places.contains_key(&id) {
            return self.float_in(id, order);
        }
        let (_, shape) = self.numbers(node, i)?;
        // Axes in front, as NumPy adds them.
        let missing = order.len().saturating_sub(shape.len());
        let sizes: Vec<usize> = std::iter::repeat_n(1, missing).chain(shape.iter().copied()).collect();
        let single = sizes.iter().all(|&n| n == 1);
        match single && shape.len() < order.len() {
            true => self.constant(node, i, &shape, &plain(shape.len())),
            false => self.constant(node, i, &sizes, order),
        }
    }

    /// A computed value as floats in an order.
    pub(super) fn float_in(&mut self, id: ValueId, order: &[usize]) -> Result<i32, Problem> {
        let place = self.places[&id].clone();
        let place = match (place.bytes, self.floats.get(&id)) {
            (false, _) => place,
            (true, Some(floats)) => floats.clone(),
            (true, None) => {
                let name = format!("{}.float", self.graph.value(id).name);
                let tensor = self.float(&name, &turned(&self.dims(id), &place.order))?;
                let version = Code::Dequantize.row().versions[1];
                self.file.operator(Code::Dequantize, version, vec![place.tensor], tensor, vec![]);
                let floats = Place { tensor, bytes: false, ..place };
                self.floats.insert(id, floats.clone());
                floats
            }
        };
        self.turn(id, &place, order)
    }

    /// The tensor at `place` with its axes in another order.
    fn turn(&mut self, id: ValueId, place: &Place, order: &[usize]) -> Result<i32, Problem> {
        // An operand with fewer axes is broadcast over the first ones, which then stand in front: see `common_order`.
        let own = plain(place.order.len());
        let order = if own.len() < order.len() { &own } else { order };
        if place.order == order {
            return Ok(place.tensor);
        }
        // Two values may be the same tensor in different orders.
        let from = |axis: &usize| place.order.iter().position(|own| own == axis).unwrap_or_default();
        let perm: Vec<usize> = order.iter().map(from).collect();
        let key = (place.tensor, perm.clone());
        if let Some(&tensor) = self.turned.get(&key) {
            return Ok(tensor);
        }
        let all = self.dims(id);
        let dims = turned(&all, order);
        let name = format!("{}.turned", self.graph.value(id).name);
        let affine = self.affines.get(&place.tensor).cloned();
        let tensor = self.tensor(&name, &dims, affine.as_ref())?;
        let wide = |order: &[usize]| -> Vec<usize> {
            order.iter().copied().filter(|&axis| all[axis] != Dim::Fixed(1)).collect()
        };
        // Sizes of one may go anywhere.
        if wide(&place.order) == wide(order)
            && let Some(list) = open_sizes(&dims)?
        {
            let sizes = self.list(&list);
            self.operator(Code::Reshape, vec![place.tensor, sizes], tensor, vec![]);
        } else {
            let perm = perm.into_iter().map(narrow).collect::<Result<Vec<i32>, _>>()?;
            let perm = self.list(&perm);
            self.operator(Code::Transpose, vec![place.tensor, perm], tensor, vec![]);
        }
        self.turned.insert(key, tensor);
        Ok(tensor)
    }

    /// A list of integers.
    pub(super) fn list(&mut self, numbers: &[i32]) -> i32 {
        if let Some(&tensor) = self.lists.get(numbers) {
            return tensor;
        }
        let name = format!("list.{}", self.lists.len());
        let sizes = vec![numbers.len() as i32];
        let spec = Spec { name: &name, kind: kind::I32, sizes, signature: None, affine: None };
        let tensor = self.file.constant(spec, numbers.iter().flat_map(|n| n.to_le_bytes()).collect());
        self.lists.insert(numbers.to_vec(), tensor);
        tensor
    }

    /// A list of the numbers of a matrix.
    pub(super) fn pairs(&mut self, numbers: &[[usize; 2]]) -> Result<i32, Problem> {
        let flat = numbers.iter().flatten().map(|&n| narrow(n)).collect::<Result<Vec<i32>, _>>()?;
        // Of another shape than a list of as many.
        let name = format!("pads.{}", self.lists.len());
        let sizes = vec![numbers.len() as i32, 2];
        let spec = Spec { name: &name, kind: kind::I32, sizes, signature: None, affine: None };
        Ok(self.file.constant(spec, flat.iter().flat_map(|n| n.to_le_bytes()).collect()))
    }

    /// The tensor of a parameter or constant, or of what is only moved of them.
    pub(super) fn stored(&self, id: ValueId) -> Option<&Tensor> {
        let value = self.graph.value(id);
        match &value.source {
            Source::Parameter(_) => self.weights.get(&value.name),
            Source::Constant(tensor) => Some(tensor),
            Source::Node { .. } => match self.repeated.get(&id) {
                Some(&once) => self.stored(once),
                None => self.moved.get(&id),
            },
            Source::Input => None,
        }
    }

    /// Whether the numbers of a value are known before the run.
    pub(super) fn is_stored(&self, id: ValueId) -> bool {
        self.stored(id).is_some() || self.scaled.contains_key(&id)
    }

    /// The numbers of an input that the operator must know beforehand, and their sizes.
    pub(super) fn numbers(&self, node: &Node, i: usize) -> Result<(Vec<f32>, Vec<usize>), Problem> {
        let id = node.inputs[i];
        let value = self.graph.value(id);
        let place = || format!("parameter `{}`", value.name);
        if let Some(scaled) = self.scaled.get(&id) {
            return self.dequantized(node, scaled);
        }
        let tensor = match self.stored(id) {
            Some(tensor) => tensor,
            None if matches!(value.source, Source::Parameter(_)) => {
                return Err(Problem::unsupported(place(), "the weights do not hold it", "Load all weights"));
            }
            None => return Err(refused(node, format!("LiteRT wants `{}` to be a constant", value.name))),
        };
        match tensor.as_f32() {
            Some(numbers)
                if Shape::fixed(tensor.shape()) == value.shape || self.repeated.contains_key(&id) =>
            {
                Ok((numbers.to_vec(), tensor.shape().to_vec()))
            }
            _ => {
                let held = format!("{}{}", tensor.dtype(), Shape::fixed(tensor.shape()));
                let what = format!("the weights hold {held}, the graph takes f32{}", value.shape);
                Err(Problem::unsupported(place(), what, "Load the weights of this model"))
            }
        }
    }

    fn dequantized(&self, node: &Node, scaled: &Scaled) -> Result<(Vec<f32>, Vec<usize>), Problem> {
        let tensor = self.stored(scaled.integers);
        let missing = || refused(node, "the weights do not hold its integers");
        let tensor = tensor.ok_or_else(missing)?;
        let shape = tensor.shape().to_vec();
        let inner: usize = shape[(scaled.axis + 1).min(shape.len())..].iter().product();
        let scale = |i: usize| scaled.scales[i / inner.max(1) % scaled.scales.len()];
        let numbers = match tensor.data() {
            Data::I8(levels) => levels.iter().enumerate().map(|(i, &q)| f32::from(q) * scale(i)).collect(),
            Data::I32(levels) => levels.iter().enumerate().map(|(i, &q)| q as f32 * scale(i)).collect(),
            Data::F32(_)
            | Data::F64(_)
            | Data::F16(_)
            | Data::BF16(_)
            | Data::I64(_)
            | Data::U8(_)
            | Data::Bool(_) => return Err(refused(node, "its weights are neither i8 nor i32")),
        };
        Ok((numbers, shape))
    }

    /// A stored operand as `sizes`, with axis `perm[i]` in the place of axis i.
    pub(super) fn constant(
        &mut self,
        node: &Node,
        i: usize,
        sizes: &[usize],
        perm: &[usize],
    ) -> Result<i32, Problem> {
        let id = node.inputs[i];
        let key = Constant { id, sizes: sizes.to_vec(), perm: perm.to_vec() };
        if let Some(&tensor) = self.constants.get(&key) {
            return Ok(tensor);
        }
        let (numbers, _) = self.numbers(node, i)?;
        let numbers = transposed(&numbers, sizes, perm);
        let name = self.graph.value(id).name.clone();
        let tensor = self.store(&format!("parameter `{name}`"), &name, &turned(sizes, perm), &numbers)?;
        self.constants.insert(key, tensor);
        Ok(tensor)
    }

    /// One number that an operator reads.
    pub(super) fn number(&mut self, node: &Node, suffix: &str, number: f32) -> Result<i32, Problem> {
        self.store(&place(node), &format!("{}.{suffix}", node.name), &[], &[number])
    }

    /// A tensor of numbers, in the type of the weights.
    pub(super) fn store(
        &mut self,
        place: &str,
        name: &str,
        sizes: &[usize],
        numbers: &[f32],
    ) -> Result<i32, Problem> {
        let half = self.half && numbers.len() >= SMALLEST_HALF;
        let fits = |x: &&f32| if half { f16::from_f32(**x).is_finite() } else { x.is_finite() };
        if let Some(x) = numbers.iter().find(|x| !fits(x)) {
            let (what, way_out) = match x.is_finite() {
                true => (format!("it holds {x}, more than f16 can"), "Write f32: {precision} f32"),
                false => (format!("it holds {x}"), "Look for where training went wrong: offshoot check"),
            };
            return Err(Problem::unsupported(place, what, way_out));
        }
        let sizes = sizes.iter().map(|&n| narrow(n)).collect::<Result<Vec<i32>, _>>()?;
        let spec = |name, kind| Spec { name, kind, sizes: sizes.clone(), signature: None, affine: None };
        if !half {
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            return Ok(self.file.constant(spec(name, kind::F32), bytes));
        }
        let bytes = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let stored = format!("{name}.f16");
        let halves = self.file.constant(spec(&stored, kind::F16), bytes);
        let tensor = self.file.tensor(spec(name, kind::F32));
        self.operator(Code::Dequantize, vec![halves], tensor, vec![]);
        Ok(tensor)
    }

    /// A tensor of int8 or i32, as stored.
    pub(super) fn integers(
        &mut self,
        name: &str,
        sizes: &[usize],
        data: &Data,
        affine: &Affine,
    ) -> Result<i32, Problem> {
        let sizes = sizes.iter().map(|&n| narrow(n)).collect::<Result<Vec<i32>, _>>()?;
        let kind = if matches!(data, Data::I8(_)) { kind::I8 } else { kind::I32 };
        let mut bytes = Vec::new();
        crate::elements::write_le(data, &mut bytes)
            .map_err(|e| Problem::unsupported("graph", e.to_string(), super::WAY_OUT))?;
        let spec = Spec { name, kind, sizes, signature: None, affine: Some(affine) };
        Ok(self.file.constant(spec, bytes))
    }
}

/// Sizes for a Reshape, of which one may be open; `None` where more are.
pub(super) fn open_sizes(dims: &[Dim]) -> Result<Option<Vec<i32>>, Problem> {
    let size = |dim: &Dim| dim.fixed().map_or(Ok(-1), narrow);
    let sizes = dims.iter().map(size).collect::<Result<Vec<i32>, _>>()?;
    Ok(Some(sizes).filter(|sizes| sizes.iter().filter(|&&n| n < 0).count() <= 1))
}
