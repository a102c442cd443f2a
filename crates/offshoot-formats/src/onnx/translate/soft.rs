//! Softmax and Sigmoid that a file computes in several operators: exp(x - max(x)) / sum(exp(x - max(x))), 1 / (1 + exp(-x)), and their logarithms.
//! A group of nodes that turns out to be something else is read node by node.

use offshoot_graph::op::{Binary, Reduce, Unary};
use offshoot_graph::{Op, ValueId};

use super::super::attributes::NodeView;
use super::{Operand, Translator};
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
                match self.kept_axis(node, x)? {
                    Some(axis) => Soft::Largest(x, axis),
                    None => return Ok(None),
                }
            }
            "Exp" => match self.soft_operand(node, 0)? {
                Some(Soft::Shifted(x, axis)) => Soft::Exp(x, Some(axis)),
                Some(Soft::Negative(x)) => Soft::ExpOfNegative(x),
                Some(_) | None => {
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
                Some(Soft::Largest(x, axis)) if self.operand_is(node, 0, x)? => Soft::Shifted(x, axis),
                Some(_) | None => return Ok(None),
            },
            "ReduceSum" => match self.soft_operand(node, 0)? {
                Some(Soft::Exp(x, shift)) => match self.kept_axis(node, x)? {
                    Some(axis) => Soft::Sum(x, axis, shift),
                    None => return Ok(None),
                },
                Some(_) | None => return Ok(None),
            },
            "Add" => match [self.soft_operand(node, 0)?, self.soft_operand(node, 1)?] {
                [Some(Soft::ExpOfNegative(x)), None] if self.is_one(node, 1)? => Soft::OneMore(x),
                [None, Some(Soft::ExpOfNegative(x))] if self.is_one(node, 0)? => Soft::OneMore(x),
                _ => return Ok(None),
            },
            "Div" => {
                return match [self.soft_operand(node, 0)?, self.soft_operand(node, 1)?] {
                    [Some(Soft::Exp(x, shift)), Some(Soft::Sum(of, axis, of_shift))]
                        if (x, shift) == (of, of_shift) && shift.is_none_or(|s| s == axis) =>
                    {
                        self.push(node, Op::Softmax { axis }, &[x]).map(Operand::Value).map(Some)
                    }
                    [None, Some(Soft::OneMore(x))] if self.is_one(node, 0)? => self.sigmoid(node, x),
                    _ => Ok(None),
                };
            }
            "Reciprocal" => {
                return match self.soft_operand(node, 0)? {
                    Some(Soft::OneMore(x)) => self.sigmoid(node, x),
                    _ => Ok(None),
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
                    _ => Ok(None),
                };
            }
            _ => return Ok(None),
        };
        Ok(Some(Operand::Soft(soft)))
    }

    fn sigmoid(&mut self, node: NodeView<'a>, x: ValueId) -> Result<Option<Operand<'a>>, Problem> {
        self.push(node, Op::Unary(Unary::Sigmoid), &[x]).map(Operand::Value).map(Some)
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

    /// The one axis that a reduction of `x` is along, if it stays with one place.
    fn kept_axis(&mut self, node: NodeView<'a>, x: ValueId) -> Result<Option<usize>, Problem> {
        let rank = self.shape(x).rank();
        match (self.ints(node, 1, "axes")?.as_deref(), node.int("keepdims", 1)) {
            (Some(&[axis]), 1) => node.axis(axis, rank).map(Some),
            _ => Ok(None),
        }
    }

    fn operand_is(&mut self, node: NodeView<'a>, index: usize, x: ValueId) -> Result<bool, Problem> {
        Ok(matches!(self.operand(node, index)?, Operand::Value(id) if id == x))
    }

    /// The value called `name` that a part of such a group makes, node by node.
    pub(super) fn spelled_out(&mut self, name: &str, soft: Soft) -> Result<ValueId, Problem> {
        let part = |suffix: &str| format!("{name}.{suffix}");
        match soft {
            Soft::Negative(x) => self.push_named(name, Op::Unary(Unary::Neg), &[x]),
            Soft::Largest(x, axis) => self.push_named(name, Op::Reduce { op: Reduce::Max, axis }, &[x]),
            Soft::Shifted(x, axis) => {
                let largest =
                    self.push_named(&part("largest"), Op::Reduce { op: Reduce::Max, axis }, &[x])?;
                self.push_named(name, Op::Binary(Binary::Sub), &[x, largest])
            }
            Soft::Exp(x, shift) => {
                let x = match shift {
                    Some(axis) => self.spelled_out(&part("shifted"), Soft::Shifted(x, axis))?,
                    None => x,
                };
                self.push_named(name, Op::Unary(Unary::Exp), &[x])
            }
            Soft::ExpOfNegative(x) => {
                let negative = self.spelled_out(&part("negative"), Soft::Negative(x))?;
                self.push_named(name, Op::Unary(Unary::Exp), &[negative])
            }
            Soft::Sum(x, axis, shift) => {
                let powers = self.spelled_out(&part("exp"), Soft::Exp(x, shift))?;
                self.push_named(name, Op::Reduce { op: Reduce::Sum, axis }, &[powers])
            }
            Soft::OneMore(x) => {
                let power = self.spelled_out(&part("exp"), Soft::ExpOfNegative(x))?;
                let one = self.number(name, "one", 1.0);
                self.push_named(name, Op::Binary(Binary::Add), &[power, one])
            }
        }
    }
}
