//! Softmax and Sigmoid, and their logarithms: also where a file computes them in several operators, exp(x - max(x)) /
//! sum(exp(x - max(x))) and 1 / (1 + exp(-x)).

use offshoot_graph::op::{Binary, Composite, Reduce, Unary};
use offshoot_graph::{Op, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

impl Importer {
    pub(crate) fn log_softmax(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
    ) -> Result<ValueId, Problem> {
        self.compose(site, Composite::LogSoftmax { axis }, &[x])
    }

    /// What a Softmax is of, and its axis, where it makes `x`.
    pub(super) fn softmax_before(&self, x: ValueId) -> Option<(ValueId, usize)> {
        let (&Op::Softmax { axis }, &[of]) = self.made_by(x)? else { return None };
        Some((of, axis))
    }

    /// What the logarithm of a softmax is of, and its axis, where it makes `x`.
    pub(super) fn log_softmax_before(&self, x: ValueId) -> Option<(ValueId, usize)> {
        let (&Op::Composite(Composite::LogSoftmax { axis }), &[of]) = self.made_by(x)? else { return None };
        Some((of, axis))
    }

    /// x and the axis, where `powers` / `sum` is the softmax of x.
    pub(super) fn softmax_of(&self, powers: ValueId, sum: ValueId) -> Option<(ValueId, usize)> {
        let x = self.exp_of(powers)?;
        let axis = self.sum_of_powers(sum, x)?;
        Some((self.shift_of(x, axis).unwrap_or(x), axis))
    }

    /// x and the axis, where `x` - `log` is the logarithm of the softmax of x.
    pub(super) fn log_softmax_of(&self, x: ValueId, log: ValueId) -> Option<(ValueId, usize)> {
        // As `Importer::log_sum_exp` writes it.
        if let (Op::Binary(Binary::Add), &[log, largest]) = self.made_by(log)? {
            let (of, axis) = self.log_of_sum(log)?;
            let shifted = self.shift_of(of, axis) == Some(x) && self.largest_of(largest, axis) == Some(x);
            return shifted.then_some((x, axis));
        }
        let (of, axis) = self.log_of_sum(log)?;
        (of == x).then(|| (self.shift_of(x, axis).unwrap_or(x), axis))
    }

    /// x and the axis, where `log` is the logarithm of the sum of exp x.
    fn log_of_sum(&self, log: ValueId) -> Option<(ValueId, usize)> {
        let (Op::Unary(Unary::Log), &[sum]) = self.made_by(log)? else { return None };
        let (_, &[powers]) = self.made_by(sum)? else { return None };
        let of = self.exp_of(powers)?;
        Some((of, self.sum_of_powers(sum, of)?))
    }

    /// x, where `powers` is exp x.
    pub(super) fn exp_of(&self, powers: ValueId) -> Option<ValueId> {
        let (Op::Unary(Unary::Exp), &[x]) = self.made_by(powers)? else { return None };
        Some(x)
    }

    /// The axis along which `sum` is the sum of exp x.
    fn sum_of_powers(&self, sum: ValueId, x: ValueId) -> Option<usize> {
        let (&Op::Reduce { op: Reduce::Sum, axis }, &[powers]) = self.made_by(sum)? else { return None };
        (self.exp_of(powers) == Some(x)).then_some(axis)
    }

    /// The value whose largest numbers along the axis these are.
    fn largest_of(&self, largest: ValueId, axis: usize) -> Option<ValueId> {
        let (&Op::Reduce { op: Reduce::Max, axis: along }, &[x]) = self.made_by(largest)? else {
            return None;
        };
        (along == axis).then_some(x)
    }

    /// The value that `x` is, less its largest number along the axis.
    fn shift_of(&self, x: ValueId, axis: usize) -> Option<ValueId> {
        let (Op::Binary(Binary::Sub), &[of, largest]) = self.made_by(x)? else { return None };
        (self.largest_of(largest, axis) == Some(of)).then_some(of)
    }

    /// y, where `sum` is y + 1.
    pub(super) fn less_one(&self, sum: ValueId) -> Option<ValueId> {
        let (Op::Binary(Binary::Add), &[a, b]) = self.made_by(sum)? else { return None };
        match (self.known_number(a), self.known_number(b)) {
            (_, Some(1.0)) => Some(a),
            (Some(1.0), _) => Some(b),
            _ => None,
        }
    }

    /// x, where `above` (1, if none is given) / `below` is the sigmoid of x.
    pub(super) fn sigmoid_below(&self, above: Option<ValueId>, below: ValueId) -> Option<ValueId> {
        if above.is_some_and(|one| self.known_number(one) != Some(1.0)) {
            return None;
        }
        let negative = self.exp_of(self.less_one(below)?)?;
        let (Op::Unary(Unary::Neg), &[x]) = self.made_by(negative)? else { return None };
        Some(x)
    }
}
