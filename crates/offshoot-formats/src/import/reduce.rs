//! Reductions along axes.

use offshoot_graph::op::{Binary, Pooling, Reduce, ShapeOp, Unary};
use offshoot_graph::{Op, Shape, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

impl Importer {
    /// A reduction over axes, which stay with one place where `kept`.
    pub(crate) fn reduction(
        &mut self,
        site: &dyn Site,
        op: Reduce,
        x: ValueId,
        axes: &[usize],
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let mut reduced = x;
        for &axis in axes {
            // One axis alone keeps the node's name, so that what was written reads the same.
            let name = if axes.len() == 1 && kept {
                site.name().to_owned()
            } else {
                site.part(&format!("axis{axis}"))
            };
            reduced = self.push_named(site, &name, Op::Reduce { op, axis }, &[reduced])?;
        }
        if kept { Ok(reduced) } else { self.without_axes(site, reduced, axes) }
    }

    /// `x` without axes that have one place.
    fn without_axes(&mut self, site: &dyn Site, x: ValueId, axes: &[usize]) -> Result<ValueId, Problem> {
        let kept = (0..self.rank(x)).filter(|axis| !axes.contains(axis));
        let shape = Shape(kept.map(|axis| self.shape(x).0[axis].clone()).collect());
        self.reshape_to(site, x, shape)
    }

    /// A mean; that of all pixels of a picture in its own form.
    pub(crate) fn mean(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if self.rank(x) != 4 || sorted != [2, 3] {
            return self.reduction(site, Reduce::Mean, x, axes, kept);
        }
        let mean = self.push(site, Op::Pool(Pooling::GlobalAverage), &[x])?;
        if kept {
            Ok(mean)
        } else {
            self.push_part(site, "flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[mean])
        }
    }

    /// The logarithm of a sum of powers of e, from numbers that are shifted so that none overflows.
    pub(crate) fn log_sum_exp(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let mut largest = x;
        for &axis in axes {
            largest = self.push_part(site, "largest", Op::Reduce { op: Reduce::Max, axis }, &[largest])?;
        }
        let shifted = self.push_part(site, "shifted", Op::Binary(Binary::Sub), &[x, largest])?;
        let mut sum = self.push_part(site, "exp", Op::Unary(Unary::Exp), &[shifted])?;
        for &axis in axes {
            sum = self.push_part(site, "sum", Op::Reduce { op: Reduce::Sum, axis }, &[sum])?;
        }
        let log = self.push_part(site, "log", Op::Unary(Unary::Log), &[sum])?;
        let name = if kept { site.name().to_owned() } else { site.part("kept") };
        let y = self.push_named(site, &name, Op::Binary(Binary::Add), &[log, largest])?;
        if kept { Ok(y) } else { self.without_axes(site, y, axes) }
    }

    /// The sum of squares.
    pub(crate) fn sum_of_squares(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let squares = self.push_part(site, "squares", Op::Binary(Binary::Mul), &[x, x])?;
        self.reduction(site, Reduce::Sum, squares, axes, kept)
    }

    /// The sum of absolute numbers.
    pub(crate) fn sum_of_absolutes(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        kept: bool,
    ) -> Result<ValueId, Problem> {
        let absolute = self.push_part(site, "absolute", Op::Unary(Unary::Abs), &[x])?;
        self.reduction(site, Reduce::Sum, absolute, axes, kept)
    }

    /// The variance over axes, whose squares' sum is divided by the number of elements less `correction`.
    pub(crate) fn variance(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        kept: bool,
        correction: f64,
    ) -> Result<ValueId, Problem> {
        let sizes: Option<Vec<usize>> = axes.iter().map(|&axis| self.shape(x).0[axis].fixed()).collect();
        let sizes = sizes.ok_or_else(|| site.refused("only axes of known size are read"))?;
        let count = sizes.iter().map(|&n| n as f64).product::<f64>();
        let mut mean = x;
        for &axis in axes {
            mean = self.push_part(site, "mean", Op::Reduce { op: Reduce::Mean, axis }, &[mean])?;
        }
        let centred = self.push_part(site, "centred", Op::Binary(Binary::Sub), &[x, mean])?;
        let squares = self.push_part(site, "squares", Op::Binary(Binary::Mul), &[centred, centred])?;
        let biased = self.reduction(site, Reduce::Mean, squares, axes, kept)?;
        if correction == 0.0 {
            return Ok(biased);
        }
        let factor = (count / (count - correction)) as f32;
        if !factor.is_finite() || factor <= 0.0 {
            return Err(site.refused("the variance of so few elements is not defined"));
        }
        let factor = self.number(site, "factor", factor);
        self.push_part(site, "scaled", Op::Binary(Binary::Mul), &[biased, factor])
    }
}
