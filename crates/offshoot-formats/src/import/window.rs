//! Windows over pictures: convolutions and poolings.

use offshoot_graph::op::{AveragePool, Conv, Pool, Pooling, Reduce};
use offshoot_graph::{Op, ValueId};

use super::{Importer, Padded, Part, Site};
use crate::error::Problem;

/// What an operator with windows reads: a value, or one with padding before it.
#[derive(Clone, Copy)]
pub(crate) enum Windows {
    Of(ValueId),
    Around(Padded),
}

impl Windows {
    /// The value without what a Pad adds.
    pub(crate) fn value(&self) -> ValueId {
        match self {
            Windows::Of(x) => *x,
            Windows::Around(padded) => padded.x,
        }
    }

    /// What a Pad adds.
    pub(crate) fn pads(&self) -> [usize; 4] {
        match self {
            Windows::Of(_) => [0; 4],
            Windows::Around(padded) => padded.pads,
        }
    }
}

impl Importer {
    /// The value that windows with these pads read, and their pads together with those before them where `joined` allows it.
    fn joined(
        &mut self,
        site: &dyn Site,
        x: Windows,
        pads: &mut [usize; 4],
        joined: impl Fn(&Importer, &Padded) -> bool,
    ) -> Result<ValueId, Problem> {
        match x {
            Windows::Of(x) => Ok(x),
            Windows::Around(padded) if joined(self, &padded) => {
                pads.iter_mut().zip(padded.pads).for_each(|(pad, more)| *pad = pad.saturating_add(more));
                Ok(padded.x)
            }
            Windows::Around(padded) => {
                let name = site.part("padded");
                self.settle_padded(&Part { site, name }, padded)
            }
        }
    }

    /// A convolution of x with `operands`: the weight, and a bias perhaps.
    pub(crate) fn conv(
        &mut self,
        site: &dyn Site,
        x: Windows,
        mut conv: Conv,
        operands: &[ValueId],
    ) -> Result<ValueId, Problem> {
        let x = self.joined(site, x, &mut conv.pads, |_, padded| padded.number == 0.0)?;
        self.push(site, Op::Conv(conv), &[&[x], operands].concat())
    }

    /// Zeros of a Pad before it never win over what a Relu gave, as padding never does.
    pub(crate) fn max_pool(
        &mut self,
        site: &dyn Site,
        x: Windows,
        mut pool: Pool,
    ) -> Result<ValueId, Problem> {
        let Pool { kernel, .. } = pool;
        let own = pool.pads;
        let loses = |importer: &Importer, padded: &Padded| {
            let lowest = padded.number == f32::NEG_INFINITY
                || padded.number == 0.0 && importer.never_negative(padded.x);
            // A window of padding alone would have no element left.
            let inside = |side: usize| own[side] + padded.pads[side] < kernel[side % 2];
            lowest && (0..4).all(inside) && !pool.ceil_mode
        };
        let mut pads = pool.pads;
        let x = self.joined(site, x, &mut pads, loses)?;
        pool.pads = pads;
        self.push(site, Op::Pool(Pooling::Max(pool)), &[x])
    }

    /// Zeros of a Pad before it count in the mean.
    pub(crate) fn average_pool(
        &mut self,
        site: &dyn Site,
        x: Windows,
        mut average: AveragePool,
    ) -> Result<ValueId, Problem> {
        let AveragePool { pool, count_include_pad } = &average;
        let own = pool.pads != [0; 4] && !count_include_pad;
        let counts = !own && !pool.ceil_mode;
        let around = x.pads() != [0; 4];
        let mut pads = average.pool.pads;
        let x = self.joined(site, x, &mut pads, |_, padded| counts && padded.number == 0.0)?;
        average.count_include_pad |= around && pads != average.pool.pads;
        average.pool.pads = pads;
        self.push(site, Op::Pool(Pooling::Average(average)), &[x])
    }

    /// The largest or the mean of all pixels, which stays with one row and column.
    pub(crate) fn global_pool(
        &mut self,
        site: &dyn Site,
        op: Reduce,
        x: ValueId,
    ) -> Result<ValueId, Problem> {
        if self.rank(x) == 4 && op == Reduce::Mean {
            return self.push(site, Op::Pool(Pooling::GlobalAverage), &[x]);
        }
        let axes: Vec<usize> = (2..self.rank(x)).collect();
        self.reduction(site, op, x, &axes, true)
    }

    fn never_negative(&self, x: ValueId) -> bool {
        let any = (f64::NEG_INFINITY, f64::INFINITY);
        matches!(self.made_by(x), Some((Op::Unary(unary), _)) if (unary.row().range)(&unary.numbers(), any).0 >= 0.0)
    }
}
