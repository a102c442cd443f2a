//! Functions of one element and of two, and what changes nothing.

use std::rc::Rc;

use offshoot_graph::op::{Binary, Clip, Unary};
use offshoot_graph::{Data, Op, Tensor, ValueId};

use super::tokens::BOOL;
use super::{Dynamic, Operand, SIMPLIFY, Stored, Translator, in_training_mode, laid};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// Identity, and Cast between float types (everything is computed in f32). The exporter of PyTorch writes
    /// Identity where two parameters are equal; they become two again.
    pub(super) fn alias(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let ("Cast", Operand::Value(x)) = (node.op(), self.operand(node, 0)?) {
            return self.cast(node, x).map(Operand::Value);
        }
        if let ("Cast", BOOL, Operand::Stored(stored)) =
            (node.op(), node.int("to", 0), self.operand(node, 0)?)
            && !stored.transposed
            && let Some(numbers) = stored.tensor.as_f32()
        {
            // Under its own name, so that what is written of it reads the same.
            let truths = Data::Bool(numbers.iter().map(|&x| x != 0.0).collect());
            let tensor =
                Tensor::new(stored.tensor.shape(), truths).map_err(|e| node.damaged(e.to_string()))?;
            return Ok(Operand::Stored(Stored { tensor: Rc::new(tensor), constant: true, ..stored }));
        }
        if node.op() == "Cast" && !matches!(node.int("to", 0), 1 | 10 | 11 | 16) {
            return Err(node.unsupported("a cast to integers is not read", SIMPLIFY));
        }
        match self.operand(node, 0)? {
            Operand::Stored(stored) => {
                let name = node.proto.output.first().cloned().unwrap_or_default();
                Ok(Operand::Stored(Stored { name, ..stored }))
            }
            Operand::Numbers(numbers) => Ok(Operand::Numbers(numbers)),
            Operand::ChannelsLast(x) => Ok(Operand::ChannelsLast(x)),
            same @ Operand::Dynamic(Dynamic::Sums { .. }) if node.op() == "Cast" => Ok(same),
            same @ Operand::Rows(_) => Ok(same),
            Operand::Value(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Probed(_)
            | Operand::Filled(_) => self.value(node, 0).map(Operand::Value),
        }
    }

    /// An operator to which all elements are alike, in any layout.
    pub(super) fn elementwise(&mut self, node: NodeView<'a>, op: Op) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        Ok(laid(self.import.push(&node, op, &[x])?, channels_last))
    }

    /// What a function of one element gives, but a Clip, whose bounds are inputs.
    pub(super) fn function(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        let Some(unary) = unary(node)? else { return Ok(None) };
        let (x, channels_last) = self.laid_out(node, 0)?;
        if unary == Unary::Gelu && node.text("approximate") == Some("tanh") {
            return Ok(Some(laid(self.import.gelu_by_tanh(&node, x)?, channels_last)));
        }
        Ok(Some(laid(self.import.function(&node, unary, x)?, channels_last)))
    }

    /// A function of the first two of `count` operands, of the result and the third, and so on. Any may be stored.
    pub(super) fn pairwise(
        &mut self,
        node: NodeView<'a>,
        op: Binary,
        count: usize,
    ) -> Result<ValueId, Problem> {
        let mut result = self.value(node, 0)?;
        for index in 1..count {
            let other = self.value(node, index)?;
            result = self.import.binary(&node, op, [result, other])?;
        }
        Ok(result)
    }

    /// A power; of 1, 2 and 1/2 in their own forms.
    pub(super) fn power(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if let Some(&[exponent]) = self.numbers(node, 1)?.and_then(|n| n.known()).as_deref() {
            let x = self.value(node, 0)?;
            if let Some(id) = self.import.power(&node, x, exponent)? {
                return Ok(id);
            }
        }
        self.pairwise(node, Binary::Pow, 2)
    }

    /// The mean of several values.
    pub(super) fn mean_of(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let count = node.proto.input.len();
        let sum = self.pairwise(node, Binary::Add, count)?;
        let factor = self.import.number(&node, "factor", 1.0 / count as f32);
        self.import.push(&node, Op::Binary(Binary::Mul), &[sum, factor])
    }

    /// x, and a slope times x below 0.
    pub(super) fn prelu(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, slope) = (self.value(node, 0)?, self.value(node, 1)?);
        self.import.sloped(&node, x, slope)
    }

    /// x / (1 + |x|)
    pub(super) fn softsign(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        self.import.softsign(&node, x)
    }

    pub(super) fn clip(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let min = self.bound(node, 1, "min", f32::NEG_INFINITY)?;
        let max = self.bound(node, 2, "max", f32::INFINITY)?;
        self.elementwise(node, Op::Unary(Unary::Clip(Clip { min, max })))
    }

    /// Max and Min. Of a value and one number it is half of a Clip, as converters of TensorFlow write ReLU6.
    pub(super) fn extreme(&mut self, node: NodeView<'a>, op: Binary) -> Result<Operand<'a>, Problem> {
        let count = node.proto.input.len();
        if count == 1 {
            return self.operand(node, 0);
        }
        let (value, bound) = match (self.one_number(node, 0)?, self.one_number(node, 1)?) {
            (None, Some(bound)) if count == 2 => (0, bound),
            (Some(bound), None) if count == 2 => (1, bound),
            _ => return self.pairwise(node, op, count).map(Operand::Value),
        };
        let clip = match op == Binary::Max {
            true => Clip { min: bound, ..Clip::NONE },
            false => Clip { max: bound, ..Clip::NONE },
        };
        let (x, channels_last) = self.laid_out(node, value)?;
        Ok(laid(self.import.push(&node, Op::Unary(Unary::Clip(clip)), &[x])?, channels_last))
    }

    pub(super) fn bound(
        &mut self,
        node: NodeView<'a>,
        index: usize,
        name: &str,
        none: f32,
    ) -> Result<f32, Problem> {
        if node.input(index).is_none() {
            return Ok(node.float(name).unwrap_or(none));
        }
        self.one_number(node, index)?.ok_or_else(|| {
            node.unsupported(format!("its {name} is not one number known before the run"), SIMPLIFY)
        })
    }

    pub(super) fn dropout(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        // A mode that is not known before the run may be training.
        let inference = |n: Vec<f64>| n.iter().all(|&x| x == 0.0);
        if node.input(2).is_some() && !self.numbers(node, 2)?.and_then(|n| n.known()).is_some_and(inference) {
            return Err(in_training_mode(node));
        }
        let ratio = self.bound(node, 1, "ratio", 0.5)?;
        if !(0.0..1.0).contains(&ratio) {
            return Err(node.damaged(format!("its ratio is {ratio}")));
        }
        self.elementwise(node, Op::Dropout { ratio })
    }

    /// A sum or product of two values, or of a value and a stored tensor to which `f` was applied.
    pub(super) fn binary(
        &mut self,
        node: NodeView<'a>,
        op: Binary,
        f: fn(f32) -> f32,
    ) -> Result<Operand<'a>, Problem> {
        let commutes = matches!(node.op(), "Add" | "Mul");
        let mut last = [false; 2];
        for (index, last) in last.iter_mut().enumerate() {
            *last = matches!(self.operand(node, index)?, Operand::ChannelsLast(_));
        }
        // Beside a value in the file's own layout it is one too.
        let mixed = (0..2).find(|&i| last[i]).is_some_and(|i| !last[1 - i])
            && self.is_computed(node, usize::from(last[0]))?;
        let channels_last = last.contains(&true) && !mixed;
        let mut inputs = Vec::new();
        for index in 0..2 {
            let id = match self.operand(node, index)? {
                Operand::ChannelsLast(id) if channels_last => id,
                Operand::Stored(s) if index == 1 || commutes => {
                    let s = if channels_last { self.channels_first(node, s)? } else { s };
                    self.term(node, &s, commutes, f)?
                }
                Operand::Numbers(n) if index == 1 || commutes => {
                    let what = "it computes with a size that is not known before the run";
                    let tensor = n.to_tensor().ok_or_else(|| node.unsupported(what, SIMPLIFY))?;
                    let name = node.required(index)?.to_owned();
                    let s = Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true };
                    self.term(node, &s, commutes, f)?
                }
                _ if index == 1 && !commutes => {
                    return Err(node.unsupported("its second operand is not stored in the file", SIMPLIFY));
                }
                _ => self.value(node, index)?,
            };
            inputs.push(id);
        }
        Ok(laid(self.import.binary(&node, op, [inputs[0], inputs[1]])?, channels_last))
    }
}

/// The function of one element that `node` is, but a Clip.
fn unary(node: NodeView<'_>) -> Result<Option<Unary>, Problem> {
    let found = Unary::from_onnx(node.op()).filter(|unary| !matches!(unary, Unary::Clip(_)));
    let Some(unary) = found else { return Ok(None) };
    if unary == Unary::Gelu && !matches!(node.text("approximate"), None | Some("none" | "tanh")) {
        return Err(node.damaged("its approximation is none that ONNX has"));
    }
    let numbers = unary.row().attributes.iter().map(|a| node.float(a.onnx).unwrap_or(a.onnx_default));
    let numbers: Vec<f32> = numbers.collect();
    match numbers.iter().find(|n| !n.is_finite()) {
        Some(n) => Err(node.damaged(format!("one of its attributes is {n}"))),
        None => Ok(Some(unary.with_numbers(&numbers))),
    }
}
