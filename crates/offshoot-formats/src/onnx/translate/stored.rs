//! Tensors of the file: parameters, constants, and what is made of them before the run.

use std::rc::Rc;

use offshoot_graph::{DType, Op, Role, Tensor, ValueId};

use super::{FLOAT, Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;
use crate::onnx::fold::reshaped;

impl<'a> Translator<'a> {
    /// The parameter that `stored` is. One tensor in two roles becomes two parameters. Others keep weights in Constant nodes
    /// too; in a file of ours such a node is a constant of the graph.
    pub(super) fn parameter(&mut self, stored: &Stored, role: Role) -> Result<ValueId, Problem> {
        let tensor = self.floats(stored)?;
        if stored.constant && self.context.own {
            return self.constant_of(&stored.name, tensor);
        }
        self.weight_of(&stored.name, tensor, role)
    }

    /// The parameter of `tensor`, which the file calls `name`.
    pub(super) fn weight_of(
        &mut self,
        name: &str,
        tensor: Rc<Tensor>,
        role: Role,
    ) -> Result<ValueId, Problem> {
        let (id, new) = self.import.parameter(name, tensor.dtype(), tensor.shape(), role);
        if new {
            self.context.tensors.charge(&format!("tensor `{name}`"), tensor.len(), tensor.dtype().size())?;
            self.weights.insert(self.import.graph.value(id).name.clone(), tensor);
        }
        Ok(id)
    }

    /// A parameter of as many axes as it has in the file's order.
    pub(super) fn plain_parameter(
        &mut self,
        node: NodeView<'a>,
        index: usize,
        role: Role,
    ) -> Result<ValueId, Problem> {
        let stored = self.stored(node, index)?;
        if stored.transposed {
            return Err(node.unsupported(format!("its input {index} is transposed in the graph"), SIMPLIFY));
        }
        self.parameter(&stored, role)
    }

    pub(super) fn floats(&mut self, stored: &Stored) -> Result<Rc<Tensor>, Problem> {
        let place = format!("tensor `{}`", stored.name);
        if stored.tensor.is_empty() {
            return Err(Problem::damaged(place, "it has no elements"));
        }
        if stored.tensor.as_f32().is_some() {
            return Ok(Rc::clone(&stored.tensor));
        }
        self.converted = true;
        self.once(&place, &stored.name, "f32".to_owned(), stored.tensor.len(), |_| {
            stored.tensor.to_f32().ok_or_else(|| {
                let what = format!("its elements are {}, a weight's are floats", stored.tensor.dtype());
                Problem::unsupported(&place, what, "Export the model in float32, before quantization")
            })
        })
    }

    /// What `make` makes of the tensor `name`, of `len` elements of at most four bytes. What is made in one way takes memory
    /// once, however many nodes read it.
    pub(super) fn once(
        &mut self,
        place: &str,
        name: &str,
        way: String,
        len: usize,
        make: impl FnOnce(&mut Self) -> Result<Tensor, Problem>,
    ) -> Result<Rc<Tensor>, Problem> {
        let key = (name.to_owned(), way);
        if let Some(made) = self.derived.get(&key) {
            return Ok(Rc::clone(made));
        }
        self.context.tensors.charge(place, len, 4)?;
        let made = Rc::new(make(self)?);
        self.derived.insert(key, Rc::clone(&made));
        Ok(made)
    }

    /// A constant of `shape` under the name that the file has for it. The same tensor of the file is one constant.
    pub(super) fn shared_constant(
        &mut self,
        name: String,
        tensor: Tensor,
        shape: &[usize],
        node: NodeView<'a>,
    ) -> Result<ValueId, Problem> {
        let tensor = tensor.reshape(shape).map_err(|e| node.damaged(e.to_string()))?;
        self.constant_of(&name, Rc::new(tensor))
    }

    /// The constant of `tensor`, which the file calls `name`.
    fn constant_of(&mut self, name: &str, tensor: Rc<Tensor>) -> Result<ValueId, Problem> {
        let key = (name.to_owned(), tensor.dtype(), tensor.shape().to_vec());
        if let Some(&id) = self.constants.get(&key) {
            return Ok(id);
        }
        self.context.tensors.charge(&format!("tensor `{name}`"), tensor.len(), tensor.dtype().size())?;
        let unused = self.import.names.unused(name);
        let id = self.import.graph.add_constant(&unused, Rc::unwrap_or_clone(tensor));
        self.constants.insert(key, id);
        Ok(id)
    }

    /// The parameter of integers that `stored` is.
    pub(super) fn integers(&mut self, node: NodeView<'a>, stored: &Stored) -> Result<ValueId, Problem> {
        let tensor = Rc::clone(&stored.tensor);
        if !matches!(tensor.dtype(), DType::U8 | DType::I8 | DType::I32) || tensor.is_empty() {
            let what = format!("its input is {} elements of {}", tensor.len(), tensor.dtype());
            return Err(node.unsupported(what, FLOAT));
        }
        self.weight_of(&stored.name, tensor, Role::Weight)
    }

    /// Input `index` when a node computes it from a weight of the file, rounded to integers.
    pub(super) fn dequantized(
        &mut self,
        node: NodeView<'a>,
        index: usize,
    ) -> Result<Option<ValueId>, Problem> {
        let Operand::Value(id) = self.operand(node, index)? else { return Ok(None) };
        let producer = self.import.graph.producer(id).map(|n| &self.import.graph.node(n).op);
        Ok(matches!(producer, Some(Op::DequantizeLinear { .. })).then_some(id))
    }

    /// A weight or bias: dequantized, or stored as floats.
    pub(super) fn weight(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        match self.dequantized(node, index)? {
            Some(id) => Ok(id),
            None => self.plain_parameter(node, index, Role::Weight),
        }
    }

    pub(super) fn constant(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let name = node.proto.output.first().map_or(node.name(), String::as_str).to_owned();
        let tensor = if let Some(proto) = node.tensor("value") {
            self.context.tensors.read(proto)?
        } else if let Some(x) = node.float("value_float") {
            Tensor::f32([], vec![x])
        } else if let Some(x) = node.floats("value_floats") {
            Tensor::f32([x.len()], x.to_vec())
        } else if node.has("value_int") {
            Tensor::i64([], vec![node.int("value_int", 0)])
        } else if let Some(x) = node.ints("value_ints") {
            Tensor::i64([x.len()], x.to_vec())
        } else {
            let sparse = node.has("sparse_value");
            let what = if sparse { "it holds a sparse tensor" } else { "it holds no numbers" };
            return Err(node.unsupported(what, SIMPLIFY));
        };
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true }))
    }

    pub(super) fn transposed_weight(
        &mut self,
        node: NodeView<'a>,
        stored: &Stored,
    ) -> Result<Operand<'a>, Problem> {
        let rank = stored.tensor.shape().len();
        let axes: Vec<i64> =
            node.ints("perm").map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
        let floats = self.floats(stored)?;
        self.context.tensors.charge(&node.place(), floats.len(), 4)?;
        let tensor = permuted(&floats, &axes)
            .ok_or_else(|| node.damaged(format!("perm is {axes:?} for a tensor of {rank} axes")))?;
        let name = node.proto.output.first().cloned().unwrap_or_default();
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), ..stored.clone() }))
    }

    pub(super) fn reshaped_weight(
        &mut self,
        node: NodeView<'a>,
        stored: Stored,
    ) -> Result<Operand<'a>, Problem> {
        let target = self.ints(node, 1, "shape")?.unwrap_or_default();
        let shape = reshaped(stored.tensor.shape(), &target, !node.flag("allowzero"));
        let shape = shape.filter(|_| !stored.transposed).ok_or_else(|| {
            let what = format!("a weight of {:?} does not take the shape {target:?}", stored.tensor.shape());
            node.unsupported(what, SIMPLIFY)
        })?;
        let name = node.proto.output.first().cloned().unwrap_or_default();
        let floats = Rc::unwrap_or_clone(self.floats(&stored)?);
        let tensor = floats.reshape(shape).map_err(|e| node.damaged(e.to_string()))?;
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), ..stored }))
    }

    /// A stored operand of a sum or product: a parameter, or a constant where it is one in the file, is a single
    /// number, or is not used as it is.
    pub(super) fn term(
        &mut self,
        node: NodeView<'a>,
        stored: &Stored,
        as_it_is: bool,
        f: fn(f32) -> f32,
    ) -> Result<ValueId, Problem> {
        if stored.transposed {
            return Err(node.unsupported("one of its operands is transposed in the graph", SIMPLIFY));
        }
        let number = stored.tensor.len() == 1 && !self.context.own;
        if as_it_is && !stored.constant && !number {
            return self.parameter(stored, Role::Weight);
        }
        let mut tensor = Rc::unwrap_or_clone(self.floats(stored)?);
        self.context.tensors.charge(&node.place(), tensor.len(), 4)?;
        tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x = f(*x));
        let name = self.import.names.unused(&stored.name);
        Ok(self.import.graph.add_constant(&name, tensor))
    }

    /// A stored operand of a picture with its channels last, for the same picture with its channels first: one number,
    /// or one a channel.
    pub(super) fn channels_first(&mut self, node: NodeView<'a>, stored: Stored) -> Result<Stored, Problem> {
        let shape = stored.tensor.shape();
        let (channels, rest) = shape.split_last().map_or((1, &[][..]), |(&c, rest)| (c, rest));
        if stored.tensor.len() == 1 {
            return Ok(stored);
        }
        if shape.len() > 4 || rest.iter().any(|&d| d != 1) {
            let what = format!("an operand of {shape:?} with the channels last is not read");
            return Err(node.unsupported(what, SIMPLIFY));
        }
        let tensor = Rc::unwrap_or_clone(self.floats(&stored)?)
            .reshape([1, channels, 1, 1])
            .map_err(|e| node.damaged(e.to_string()))?;
        Ok(Stored { tensor: Rc::new(tensor), ..stored })
    }
}

/// An f32 tensor with its axes in another order; `None` when `perm` is none.
pub(in crate::onnx) fn permuted(tensor: &Tensor, perm: &[i64]) -> Option<Tensor> {
    let shape = tensor.shape();
    let axes: Vec<usize> = perm.iter().map(|&a| usize::try_from(a).ok()).collect::<Option<_>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len()) {
        return None;
    }
    let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    let source = tensor.as_f32()?;
    let made: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
    let mut at = vec![0; made.len()];
    let mut data = Vec::with_capacity(source.len());
    for _ in 0..source.len() {
        data.push(source[at.iter().zip(&axes).map(|(i, &a)| i * strides[a]).sum::<usize>()]);
        for axis in (0..at.len()).rev() {
            at[axis] += 1;
            if at[axis] < made[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Some(Tensor::f32(made, data))
}
