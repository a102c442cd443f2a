//! Booleans of a file, which are f32 of 1 or 0 here, and choices by them.

use offshoot_graph::op::{Binary, Clip, SequenceOp, ShapeOp, Unary};
use offshoot_graph::{Op, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

/// A comparison of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    Equal,
    NotEqual,
}

const WHERE: Op = Op::Sequence(SequenceOp::Where);

impl Importer {
    /// Notes that a value is a boolean.
    pub(crate) fn mark_truth(&mut self, x: ValueId) -> ValueId {
        self.truths.insert(x);
        x
    }

    /// Whether `x` is a boolean: an f32 of 1 or 0 here.
    pub(crate) fn is_truth(&self, mut x: ValueId) -> bool {
        while !self.truths.contains(&x) {
            let Some((op, inputs)) = self.made_by(x) else { return false };
            if !matches!(
                op,
                Op::Shape(
                    ShapeOp::Reshape { .. }
                        | ShapeOp::Flatten { .. }
                        | ShapeOp::Expand { .. }
                        | ShapeOp::Transpose { .. }
                        | ShapeOp::Slice { .. }
                )
            ) {
                return false;
            }
            x = inputs[0];
        }
        true
    }

    /// 1 where `x` is not 0, else 0.
    pub(crate) fn truth_of(&mut self, site: &dyn Site, x: ValueId) -> Result<ValueId, Problem> {
        if self.is_truth(x) { Ok(x) } else { self.truth(site, &site.part("truth"), x, true) }
    }

    /// 1 where `x` is not 0, else 0; or the other way around.
    fn truth(&mut self, site: &dyn Site, name: &str, x: ValueId, yes: bool) -> Result<ValueId, Problem> {
        let (condition, holds) = self.condition_of(x);
        let yes = yes == holds;
        // In the order in which they are read: a file that is written and read again is the same.
        let first = self.number(site, if yes { "true" } else { "false" }, f32::from(u8::from(yes)));
        let second = self.number(site, if yes { "false" } else { "true" }, f32::from(u8::from(!yes)));
        let truth = self.push_named(site, name, WHERE, &[condition, first, second])?;
        Ok(self.mark_truth(truth))
    }

    pub(crate) fn not(&mut self, site: &dyn Site, truth: ValueId) -> Result<ValueId, Problem> {
        self.truth(site, site.name(), truth, false)
    }

    pub(crate) fn and(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        let both = self.push(site, Op::Binary(Binary::Mul), &[a, b])?;
        Ok(self.mark_truth(both))
    }

    pub(crate) fn or(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        self.choice(site, a, [a, b])
    }

    pub(crate) fn xor(&mut self, site: &dyn Site, a: ValueId, b: ValueId) -> Result<ValueId, Problem> {
        let difference = self.push_part(site, "difference", Op::Binary(Binary::Sub), &[a, b])?;
        self.truth(site, site.name(), difference, true)
    }

    /// `a` where the truth holds, else `b`. A softplus that is spelled out is one again.
    pub(crate) fn choice(
        &mut self,
        site: &dyn Site,
        truth: ValueId,
        [a, b]: [ValueId; 2],
    ) -> Result<ValueId, Problem> {
        if self.is_softplus(truth, a, b) {
            return self.push(site, Op::Unary(Unary::Softplus), &[a]);
        }
        let constants = self.known_number(a).is_some() && self.known_number(b).is_some();
        let (condition, a, b) = match self.condition_of(truth) {
            (condition, true) => (condition, a, b),
            (condition, false) if !constants => (condition, b, a),
            (_, false) => (truth, a, b),
        };
        let operands = self.aligned(site, &[condition, a, b])?;
        let result = self.push(site, WHERE, &operands)?;
        if self.is_truth(a) && self.is_truth(b) {
            self.mark_truth(result);
        }
        Ok(result)
    }

    /// A comparison of floats. Of what is not a number each says no, but [`Comparison::NotEqual`] and those that are its likes.
    pub(crate) fn compare(
        &mut self,
        site: &dyn Site,
        comparison: Comparison,
        [a, b]: [ValueId; 2],
    ) -> Result<ValueId, Problem> {
        let (a, b) = match comparison {
            Comparison::Less | Comparison::GreaterOrEqual => (b, a),
            _ => (a, b),
        };
        let name = site.part("truth");
        match (comparison, self.known_number(b)) {
            (Comparison::NotEqual, Some(0.0)) => return self.truth(site, &name, a, true),
            (Comparison::Equal, Some(0.0)) => return self.truth(site, &name, a, false),
            _ => {}
        }
        // The difference of two infinities is no number.
        let a = self.finite(site, a)?;
        let difference = match self.known_number(b).filter(|number| number.is_finite()) {
            // As a difference with a number is read everywhere.
            Some(number) => {
                let number = self.number(site, "less", -number);
                self.push_part(site, "difference", Op::Binary(Binary::Add), &[a, number])?
            }
            None => {
                let b = self.finite(site, b)?;
                let operands = self.aligned(site, &[a, b])?;
                self.push_part(site, "difference", Op::Binary(Binary::Sub), &operands)?
            }
        };
        let holds =
            !matches!(comparison, Comparison::GreaterOrEqual | Comparison::LessOrEqual | Comparison::Equal);
        let condition = match comparison {
            Comparison::Equal | Comparison::NotEqual => difference,
            _ => self.push_part(site, "above", Op::Unary(Unary::Relu), &[difference])?,
        };
        self.truth(site, &name, condition, holds)
    }

    /// What a truth asks, and whether it holds where that is not 0: 1 where something is not 0 is that something.
    fn condition_of(&self, mut truth: ValueId) -> (ValueId, bool) {
        let mut holds = true;
        while let Some((&WHERE, &[condition, first, second])) = self.made_by(truth) {
            match (self.known_number(first), self.known_number(second)) {
                (Some(1.0), Some(0.0)) => {}
                (Some(0.0), Some(1.0)) => holds = !holds,
                _ => break,
            }
            truth = condition;
        }
        (truth, holds)
    }

    /// `x` with the largest float in the place of infinity.
    fn finite(&mut self, site: &dyn Site, x: ValueId) -> Result<ValueId, Problem> {
        if self.known_number(x).is_some_and(f32::is_finite) {
            return Ok(x);
        }
        let bounds = Clip { min: f32::MIN, max: f32::MAX };
        self.push_part(site, "finite", Op::Unary(Unary::Clip(bounds)), &[x])
    }

    /// Whether x where x > 20, else log(1 + exp x): PyTorch's newer exporter writes Softplus so.
    fn is_softplus(&self, truth: ValueId, x: ValueId, below: ValueId) -> bool {
        self.threshold_of(truth).is_some_and(|(of, threshold)| self.is_scaled(of, x) && threshold >= 15.0)
            && self.softplus_of(below).is_some_and(|of| self.is_scaled(of, x))
    }

    /// Whether `x` is `of`, times 1 perhaps.
    fn is_scaled(&self, x: ValueId, of: ValueId) -> bool {
        x == of || self.factor_of(x).is_some_and(|(inner, factor)| factor == 1.0 && inner == of)
    }

    fn factor_of(&self, x: ValueId) -> Option<(ValueId, f32)> {
        let (Op::Binary(Binary::Mul), &[a, b]) = self.made_by(x)? else { return None };
        match (self.known_number(a), self.known_number(b)) {
            (_, Some(factor)) => Some((a, factor)),
            (Some(factor), None) => Some((b, factor)),
            (None, None) => None,
        }
    }

    /// x and the number, where `truth` is x > number.
    fn threshold_of(&self, truth: ValueId) -> Option<(ValueId, f32)> {
        let (&WHERE, &[above, one, no]) = self.made_by(truth)? else { return None };
        if (self.known_number(one), self.known_number(no)) != (Some(1.0), Some(0.0)) {
            return None;
        }
        let (Op::Unary(Unary::Relu), &[difference]) = self.made_by(above)? else { return None };
        let (Op::Binary(Binary::Add), &[finite, less]) = self.made_by(difference)? else { return None };
        let (Op::Unary(Unary::Clip(_)), &[x]) = self.made_by(finite)? else { return None };
        Some((x, -self.known_number(less)?))
    }

    /// x, where `y` is log(1 + exp x), times 1 perhaps.
    fn softplus_of(&self, y: ValueId) -> Option<ValueId> {
        let y = self.factor_of(y).map_or(y, |(inner, factor)| if factor == 1.0 { inner } else { y });
        let (Op::Unary(Unary::Log), &[sum]) = self.made_by(y)? else { return None };
        self.exp_of(self.less_one(sum)?)
    }
}
