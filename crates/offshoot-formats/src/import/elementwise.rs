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

    /// x / (1 + |x|)
    pub(crate) fn softsign(&mut self, site: &dyn Site, x: ValueId) -> Result<ValueId, Problem> {
        let size = self.push_part(site, "size", Op::Unary(Unary::Abs), &[x])?;
        let one = self.number(site, "one", 1.0);
        let sum = self.push_part(site, "sum", Op::Binary(Binary::Add), &[size, one])?;
        self.push(site, Op::Binary(Binary::Div), &[x, sum])
    }

    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    pub(crate) fn gelu_by_tanh(&mut self, site: &dyn Site, x: ValueId) -> Result<ValueId, Problem> {
        let times = |importer: &mut Importer, part: &str, a: ValueId, b: ValueId| {
            importer.push_part(site, part, Op::Binary(Binary::Mul), &[a, b])
        };
        let square = times(self, "square", x, x)?;
        let factor = self.number(site, "factor", 0.044_715);
        let bent = times(self, "bent", square, factor)?;
        let one = self.number(site, "one", 1.0);
        let bent = self.push_part(site, "bent_more", Op::Binary(Binary::Add), &[bent, one])?;
        let cubic = times(self, "cubic", x, bent)?;
        let scale =
            self.number(site, "scale", std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
        let scaled = times(self, "scaled", cubic, scale)?;
        let tanh = self.push_part(site, "tanh", Op::Unary(Unary::Tanh), &[scaled])?;
        let one = self.number(site, "other_one", 1.0);
        let gate = self.push_part(site, "gate", Op::Binary(Binary::Add), &[tanh, one])?;
        let half = self.number(site, "half", 0.5);
        let halved = times(self, "halved", x, half)?;
        self.push(site, Op::Binary(Binary::Mul), &[halved, gate])
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
