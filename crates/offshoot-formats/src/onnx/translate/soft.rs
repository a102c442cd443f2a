//! Softmax and Sigmoid that a file computes in several operators: exp(x - max(x)) / sum(exp(x - max(x))), 1 / (1 + exp(-x)), and their logarithms.
//! Of these operators nothing else is read.

use offshoot_graph::{Op, ValueId};

use super::super::attributes::NodeView;
use super::{Operand, SIMPLIFY, Translator};
use crate::error::Problem;

/// What stands behind the names inside of such a group of nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Soft {
    /// -x
    Negative(ValueId),
    /// The largest number of x along an axis.
    Largest(ValueId, usize),
    /// x - its largest number along an axis.
    Shifted(ValueId, usize),
    /// exp(x), or that of x shifted along an axis.
    Exp(ValueId, Option<usize>),
    /// exp(-x)
    ExpOfNegative(ValueId),
    /// The sum of [`Soft::Exp`] along an axis.
    Sum(ValueId, usize, Option<usize>),
    /// 1 + exp(-x)
    OneMore(ValueId),
}

impl<'a> Translator<'a> {
    /// What `node` gives when it is part of such a group.
    pub(super) fn soft(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        let soft = match node.op() {
            "Neg" => Soft::Negative(self.value(node, 0)?),
            "ReduceMax" => {
                let x = self.value(node, 0)?;
                Soft::Largest(x, self.kept_axis(node, x)?)
            }
            "Exp" => match self.soft_operand(node, 0)? {
                Some(Soft::Shifted(x, axis)) => Soft::Exp(x, Some(axis)),
                Some(Soft::Negative(x)) => Soft::ExpOfNegative(x),
                Some(_) => return Err(self.unread(node)),
                None => {
                    let x = self.value(node, 0)?;
                    match self.graph.producer(x).map(|id| self.graph.node(id).clone()) {
                        Some(log) if self.logarithms.contains(&log.name) => {
                            return self.push(node, log.op, &log.inputs).map(Operand::Value).map(Some);
                        }
                        _ => Soft::Exp(x, None),
                    }
                }
            },
            "Sub" => match self.soft_operand(node, 1)? {
                Some(Soft::Largest(x, axis)) if self.value(node, 0)? == x => Soft::Shifted(x, axis),
                Some(_) => return Err(self.unread(node)),
                None => return Ok(None),
            },
            "ReduceSum" => match self.soft_operand(node, 0)? {
                Some(Soft::Exp(x, shift)) => Soft::Sum(x, self.kept_axis(node, x)?, shift),
                Some(_) => return Err(self.unread(node)),
                None => return Ok(None),
            },
            "Add" => match [self.soft_operand(node, 0)?, self.soft_operand(node, 1)?] {
                [Some(Soft::ExpOfNegative(x)), None] if self.is_one(node, 1)? => Soft::OneMore(x),
                [None, Some(Soft::ExpOfNegative(x))] if self.is_one(node, 0)? => Soft::OneMore(x),
                [None, None] => return Ok(None),
                _ => return Err(self.unread(node)),
            },
            "Div" => {
                return match [self.soft_operand(node, 0)?, self.soft_operand(node, 1)?] {
                    [Some(Soft::Exp(x, shift)), Some(Soft::Sum(of, axis, of_shift))]
                        if (x, shift) == (of, of_shift) && shift.is_none_or(|s| s == axis) =>
                    {
                        self.push(node, Op::Softmax { axis }, &[x]).map(Operand::Value).map(Some)
                    }
                    [None, Some(Soft::OneMore(x))] if self.is_one(node, 0)? => self.sigmoid(node, x),
                    [None, None] => Ok(None),
                    _ => Err(self.unread(node)),
                };
            }
            "Reciprocal" => {
                return match self.soft_operand(node, 0)? {
                    Some(Soft::OneMore(x)) => self.sigmoid(node, x),
                    _ => Err(self.unread(node)),
                };
            }
            "LogSoftmax" => return self.softmax(node).map(|y| Some(self.logarithm(y))),
            "Log" => {
                let x = self.value(node, 0)?;
                return match self.graph.producer(x).map(|id| self.graph.node(id).clone()) {
                    Some(softmax) if matches!(softmax.op, Op::Softmax { .. }) => {
                        let y = self.push(node, softmax.op, &softmax.inputs)?;
                        Ok(Some(self.logarithm(y)))
                    }
                    _ => Err(self.unread(node)),
                };
            }
            _ => return Ok(None),
        };
        Ok(Some(Operand::Soft(soft)))
    }

    fn sigmoid(&mut self, node: NodeView<'a>, x: ValueId) -> Result<Option<Operand<'a>>, Problem> {
        self.push(node, Op::Sigmoid, &[x]).map(Operand::Value).map(Some)
    }

    /// The Softmax `y`, taken for its logarithm. It must not stay in the graph.
    fn logarithm(&mut self, y: ValueId) -> Operand<'a> {
        let name = self.graph.value(y).name.clone();
        self.logarithms.insert(name);
        Operand::Value(y)
    }

    fn soft_operand(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<Soft>, Problem> {
        match self.operand(node, index)? {
            Operand::Soft(soft) => Ok(Some(soft)),
            _ => Ok(None),
        }
    }

    fn is_one(&mut self, node: NodeView<'a>, index: usize) -> Result<bool, Problem> {
        let stored = match self.operand(node, index)? {
            Operand::Stored(stored) => self.floats(&stored)?,
            _ => return Ok(false),
        };
        Ok(stored.as_f32().is_some_and(|x| !x.is_empty() && x.iter().all(|&x| x == 1.0)))
    }

    /// The one axis that a reduction of `x` is along, which stays with one place.
    fn kept_axis(&mut self, node: NodeView<'a>, x: ValueId) -> Result<usize, Problem> {
        let rank = self.shape(x).rank();
        match (self.ints(node, 1, "axes")?.as_deref(), node.int("keepdims", 1)) {
            (Some(&[axis]), 1) => node.axis(axis, rank),
            _ => Err(self.unread(node)),
        }
    }

    pub(super) fn unread(&self, node: NodeView<'a>) -> Problem {
        node.unsupported("it is read as a part of a softmax or a sigmoid only", SIMPLIFY)
    }
}
