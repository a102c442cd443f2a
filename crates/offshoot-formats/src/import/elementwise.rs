//! Functions of one element and of two.

use offshoot_graph::op::{Binary, Clip, ShapeOp, Unary};
use offshoot_graph::{Dim, Op, Shape, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

impl Importer {
    /// A function of one element. The exponential of a logarithm of a softmax is the softmax, and the other way round.
    pub(crate) fn function(&mut self, site: &dyn Site, unary: Unary, x: ValueId) -> Result<ValueId, Problem> {
        if unary == Unary::Exp
            && let Some((of, axis)) = self.log_softmax_before(x)
        {
            return self.push(site, Op::Softmax { axis }, &[of]);
        }
        if unary == Unary::Log
            && let Some((of, axis)) = self.softmax_before(x)
        {
            return self.log_softmax(site, of, axis);
        }
        if unary == Unary::Reciprocal
            && let Some(of) = self.sigmoid_below(None, x)
        {
            return self.push(site, Op::Unary(Unary::Sigmoid), &[of]);
        }
        self.push(site, Op::Unary(unary), &[x])
    }

    /// A function of two elements. A softmax or a sigmoid that is spelled out is one again.
    pub(crate) fn binary(
        &mut self,
        site: &dyn Site,
        op: Binary,
        [a, b]: [ValueId; 2],
    ) -> Result<ValueId, Problem> {
        if op == Binary::Div {
            if let Some((of, axis)) = self.softmax_of(a, b) {
                return self.push(site, Op::Softmax { axis }, &[of]);
            }
            if let Some(of) = self.sigmoid_below(Some(a), b) {
                return self.push(site, Op::Unary(Unary::Sigmoid), &[of]);
            }
        }
        if op == Binary::Sub
            && let Some((of, axis)) = self.log_softmax_of(a, b)
        {
            return self.log_softmax(site, of, axis);
        }
        let operands = self.aligned(site, &[a, b])?;
        self.push(site, Op::Binary(op), &operands)
    }

    /// Values that are broadcast to each other. One of [C, H, W] beside a batch of pictures gets a batch axis, as executors take it.
    pub(super) fn aligned(&mut self, site: &dyn Site, ids: &[ValueId]) -> Result<Vec<ValueId>, Problem> {
        let most = ids.iter().map(|&id| self.rank(id)).max();
        let mut aligned = Vec::new();
        for &id in ids {
            let dims = &self.shape(id).0;
            let one = Dim::Fixed(1);
            let picture = dims.len() == 3 && dims[0] != one && dims[1..].iter().any(|dim| *dim != one);
            aligned.push(match picture && most == Some(4) {
                true => {
                    let shape = Shape([&[one], &dims[..]].concat());
                    self.push_part(site, "batch", Op::Shape(ShapeOp::Reshape { shape }), &[id])?
                }
                false => id,
            });
        }
        Ok(aligned)
    }

    /// A power; those of 1, 2 and 1/2 in their own forms.
    pub(crate) fn power(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        exponent: f64,
    ) -> Result<Option<ValueId>, Problem> {
        Ok(Some(match exponent {
            1.0 => x,
            2.0 => self.push(site, Op::Binary(Binary::Mul), &[x, x])?,
            0.5 => self.push(site, Op::Unary(Unary::Sqrt), &[x])?,
            -1.0 => self.function(site, Unary::Reciprocal, x)?,
            _ => return Ok(None),
        }))
    }

    /// 1 / sqrt x
    pub(crate) fn reciprocal_root(&mut self, site: &dyn Site, x: ValueId) -> Result<ValueId, Problem> {
        let root = self.push_part(site, "sqrt", Op::Unary(Unary::Sqrt), &[x])?;
        self.push(site, Op::Unary(Unary::Reciprocal), &[root])
    }

    /// x, and slope x below 0, with a slope that is a value.
    pub(crate) fn sloped(&mut self, site: &dyn Site, x: ValueId, slope: ValueId) -> Result<ValueId, Problem> {
        let below = Op::Unary(Unary::Clip(Clip { max: 0.0, ..Clip::NONE }));
        let below = self.push_part(site, "below", below, &[x])?;
        let above = self.push_part(site, "above", Op::Unary(Unary::Relu), &[x])?;
        let operands = self.aligned(site, &[below, slope])?;
        let below = self.push_part(site, "sloped", Op::Binary(Binary::Mul), &operands)?;
        self.push(site, Op::Binary(Binary::Add), &[above, below])
    }
}
