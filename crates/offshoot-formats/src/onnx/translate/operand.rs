//! What stands behind the names of a file, as the operators read it.

use std::rc::Rc;

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{Op, ValueId};

use super::{Dynamic, FLOAT, Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::import::Windows;
use crate::onnx::attributes::NodeView;
use crate::onnx::fold::Numbers;

impl Operand<'_> {
    /// Its numbers when they are known now and few; those of a tensor of the file where `reads` says so.
    pub(super) fn into_numbers(self, reads: impl FnOnce(&Stored) -> bool) -> Option<Numbers> {
        match self {
            Operand::Numbers(numbers) => Some(numbers),
            Operand::Stored(stored) if reads(&stored) => Numbers::from_tensor(&stored.tensor),
            Operand::Stored(_)
            | Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Probed(_)
            | Operand::Rows(_) => None,
        }
    }
}

impl<'a> Translator<'a> {
    pub(super) fn lookup(&mut self, name: &'a str) -> Result<Option<Operand<'a>>, Problem> {
        if let Some(operand) = self.operands.get(name) {
            return Ok(Some(operand.clone()));
        }
        let Some(proto) = self.context.initializers.get(name) else { return Ok(None) };
        let tensor = Rc::new(self.context.tensors.read(proto)?);
        let stored = Stored { name: name.to_owned(), tensor, transposed: false, constant: false };
        self.operands.insert(name, Operand::Stored(stored.clone()));
        Ok(Some(Operand::Stored(stored)))
    }

    pub(super) fn operand(&mut self, node: NodeView<'a>, index: usize) -> Result<Operand<'a>, Problem> {
        let name = node.required(index)?;
        self.lookup(name)?.ok_or_else(|| node.damaged(format!("nothing gives its input `{name}`")))
    }

    /// Input `index`, computed at each run or stored.
    pub(super) fn value(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        let name = node.required(index)?;
        let id = match self.operand(node, index)? {
            Operand::Value(id) => return Ok(id),
            Operand::Product { x, matrix, node } => self.gemm(node, x, &matrix, None)?,
            // The picture with its axes as the file has them, and the file's own name: what is written and read again keeps it.
            Operand::ChannelsLast(id) => {
                return self.import.push_named(
                    &node,
                    name,
                    Op::Shape(ShapeOp::Transpose { perm: vec![0, 2, 3, 1] }),
                    &[id],
                );
            }
            Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node }) => {
                self.dynamic_product(node, x, (&matrix, less), &scale, None)?
            }
            Operand::Dynamic(_) => {
                let what = "is a part of a product of bytes, of which this is no form that is read";
                return Err(node.unsupported(format!("its input {index} {what}"), FLOAT));
            }
            Operand::Padded { padded, node: pad, channels_last } => {
                let id = self.import.settle_padded(&pad, padded)?;
                self.operands.insert(name, laid(id, channels_last));
                return self.value(node, index);
            }
            Operand::Filled(filled) => self.spread_number(node, &filled)?,
            // It stays known, for what may be computed of it.
            Operand::Probed(probed) => return self.alike(node, name, &probed),
            Operand::Rows(_) => {
                self.settle_rows(node)?;
                return self.value(node, index);
            }
            Operand::Stored(stored) => return self.term(node, &stored, true, |x| x),
            Operand::Numbers(numbers) => {
                let what = "it computes with a size that is not known before the run";
                let tensor = numbers.to_tensor().ok_or_else(|| node.unsupported(what, SIMPLIFY))?;
                let stored = Stored {
                    name: name.to_owned(),
                    tensor: Rc::new(tensor),
                    transposed: false,
                    constant: true,
                };
                return self.term(node, &stored, true, |x| x);
            }
        };
        self.define(name, id);
        Ok(id)
    }

    /// Whether input `index` is computed at each run.
    pub(super) fn is_computed(&mut self, node: NodeView<'a>, index: usize) -> Result<bool, Problem> {
        Ok(!matches!(self.operand(node, index)?, Operand::Stored(_) | Operand::Numbers(_)))
    }

    /// Input `index`, computed at each run, and whether the file has its channels last.
    pub(super) fn laid_out(&mut self, node: NodeView<'a>, index: usize) -> Result<(ValueId, bool), Problem> {
        match self.operand(node, index)? {
            Operand::ChannelsLast(id) if self.import.rank(id) == 4 => Ok((id, true)),
            Operand::Padded { padded, node: pad, channels_last } => {
                let id = self.import.settle_padded(&pad, padded)?;
                self.operands.insert(node.required(index)?, laid(id, channels_last));
                Ok((id, channels_last))
            }
            _ => Ok((self.value(node, index)?, false)),
        }
    }

    /// Input `index` with its channels first, and the numbers around it.
    pub(super) fn windows(&mut self, node: NodeView<'a>, index: usize) -> Result<Windows, Problem> {
        match self.operand(node, index)? {
            Operand::Padded { padded, channels_last: false, .. } => Ok(Windows::Around(padded)),
            _ => Ok(Windows::Of(self.value(node, index)?)),
        }
    }

    /// Input `index`, stored in the file.
    pub(super) fn stored(&mut self, node: NodeView<'a>, index: usize) -> Result<Stored, Problem> {
        match self.operand(node, index)? {
            Operand::Stored(stored) => Ok(stored),
            Operand::Numbers(n) if n.known().is_some() => {
                let tensor =
                    n.to_tensor().ok_or_else(|| node.damaged("its numbers do not fit their shape"))?;
                let name = node.required(index)?.to_owned();
                Ok(Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true })
            }
            Operand::Numbers(_)
            | Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Probed(_)
            | Operand::Rows(_) => {
                let what =
                    format!("its input {index}, `{}`, is not stored in the file", node.required(index)?);
                Err(node.unsupported(what, "Export with the weights as constants"))
            }
        }
    }

    /// Input `index` as numbers, when it is given and they are few.
    pub(super) fn numbers(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<Numbers>, Problem> {
        if node.input(index).is_none() {
            return Ok(None);
        }
        Ok(self.operand(node, index)?.into_numbers(|stored| !stored.transposed))
    }

    /// Whole numbers from input `index` or, in older opsets, from the attribute `name`.
    pub(super) fn ints(
        &mut self,
        node: NodeView<'a>,
        index: usize,
        name: &str,
    ) -> Result<Option<Vec<i64>>, Problem> {
        if let Some(values) = node.ints(name) {
            return Ok(Some(values.to_vec()));
        }
        if node.input(index).is_none() {
            return Ok(None);
        }
        match self.numbers(node, index)?.and_then(|n| n.ints()) {
            Some(values) => Ok(Some(values)),
            None => Err(node.unsupported(
                format!("its {name} are not known before the run"),
                "Export with a fixed picture size, such as 224 by 224",
            )),
        }
    }

    /// Input `index`, where it is one number known before the run.
    pub(super) fn one_number(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<f32>, Problem> {
        match self.numbers(node, index)?.and_then(|n| n.known()).as_deref() {
            Some(&[number]) => Ok(Some(number as f32)),
            _ => Ok(None),
        }
    }
}

/// A value under the layout that the file has it in.
pub(super) fn laid<'a>(x: ValueId, channels_last: bool) -> Operand<'a> {
    if channels_last { Operand::ChannelsLast(x) } else { Operand::Value(x) }
}
