//! Functions of one element and of two, comparisons and choices.

use offshoot_graph::op::{Attribute, Binary, Clip, Reduce, ShapeOp, Unary};
use offshoot_graph::{Op, ValueId};

use super::call::{Bound, Call};
use super::reductions;
use super::signature::Signature;
use super::state::Aten;
use super::table::Rows;
use super::value::{Stored, Value};
use crate::error::Problem;
use crate::import::{Comparison, Site};

pub(super) const ROWS: Rows = &[
    ("add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1)", sum),
    ("add.Scalar(Tensor self, Scalar other, Scalar alpha=1)", sum),
    ("sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1)", difference),
    ("sub.Scalar(Tensor self, Scalar other, Scalar alpha=1)", difference),
    ("rsub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1)", reverse_difference),
    ("rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1)", reverse_difference),
    ("mul.Tensor(Tensor self, Tensor other)", |a, c| a.pair(c, Binary::Mul, |x| x)),
    ("mul.Scalar(Tensor self, Scalar other)", |a, c| a.pair(c, Binary::Mul, |x| x)),
    ("div.Tensor(Tensor self, Tensor other)", quotient),
    ("div.Scalar(Tensor self, Scalar other)", quotient),
    ("div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode)", quotient),
    ("div.Scalar_mode(Tensor self, Scalar other, *, str? rounding_mode)", quotient),
    ("true_divide.Tensor(Tensor self, Tensor other)", quotient),
    ("max.other(Tensor self, Tensor other)", |a, c| a.pair(c, Binary::Max, |x| x)),
    ("min.other(Tensor self, Tensor other)", |a, c| a.pair(c, Binary::Min, |x| x)),
    ("max(Tensor self)", only_two),
    ("min(Tensor self)", only_two),
    ("max.dim(Tensor self, int dim, bool keepdim=False)", only_two),
    ("min.dim(Tensor self, int dim, bool keepdim=False)", only_two),
    ("pow.Tensor_Scalar(Tensor self, Scalar exponent)", power),
    ("pow.Scalar(Scalar self, Tensor exponent)", power),
    ("pow.Tensor_Tensor(Tensor self, Tensor exponent)", power),
    ("square(Tensor self)", square),
    ("silu(Tensor self)", silu),
    ("rsqrt(Tensor self)", |a, c| {
        let x = a.tensor(c, "self")?;
        let id = a.import.reciprocal_root(c, x)?;
        a.finish(c, id)
    }),
    ("relu6(Tensor self)", |a, c| a.function(c, Unary::Clip(Clip { min: 0.0, max: 6.0 }))),
    ("hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1)", |a, c| {
        let clip = Clip { min: c.number("min_val")? as f32, max: c.number("max_val")? as f32 };
        a.function(c, Unary::Clip(clip))
    }),
    ("clamp_min(Tensor self, Scalar min)", |a, c| {
        let clip = Clip { min: c.number("min")? as f32, ..Clip::NONE };
        a.function(c, Unary::Clip(clip))
    }),
    ("clamp_max(Tensor self, Scalar max)", |a, c| {
        let clip = Clip { max: c.number("max")? as f32, ..Clip::NONE };
        a.function(c, Unary::Clip(clip))
    }),
    ("prelu(Tensor self, Tensor weight)", prelu),
    ("gt.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::Greater)),
    ("gt.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::Greater)),
    ("lt.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::Less)),
    ("lt.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::Less)),
    ("ge.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::GreaterOrEqual)),
    ("ge.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::GreaterOrEqual)),
    ("le.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::LessOrEqual)),
    ("le.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::LessOrEqual)),
    ("eq.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::Equal)),
    ("eq.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::Equal)),
    ("ne.Tensor(Tensor self, Tensor other)", |a, c| a.comparison(c, Comparison::NotEqual)),
    ("ne.Scalar(Tensor self, Scalar other)", |a, c| a.comparison(c, Comparison::NotEqual)),
    ("logical_not(Tensor self)", not),
    ("bitwise_not(Tensor self)", not),
    ("logical_and(Tensor self, Tensor other)", and),
    ("bitwise_and.Tensor(Tensor self, Tensor other)", and),
    ("__and__.Tensor(Tensor self, Tensor other)", and),
    ("logical_or(Tensor self, Tensor other)", or),
    ("bitwise_or.Tensor(Tensor self, Tensor other)", or),
    ("__or__.Tensor(Tensor self, Tensor other)", or),
    ("where.self(Tensor condition, Tensor self, Tensor other)", choice),
    ("where.ScalarOther(Tensor condition, Tensor self, Scalar other)", choice),
    ("where.ScalarSelf(Tensor condition, Scalar self, Tensor other)", choice),
    ("where.Scalar(Tensor condition, Scalar self, Scalar other)", choice),
    ("masked_fill.Scalar(Tensor self, Tensor mask, Scalar value)", masked_fill),
    ("masked_fill.Tensor(Tensor self, Tensor mask, Tensor value)", masked_fill),
];

impl Aten {
    /// An operator that a row of the graph's own functions describes.
    pub(super) fn row_of_the_graph(
        &mut self,
        call: &Call<'_>,
        operator: &str,
        in_place: bool,
    ) -> Result<Value, Problem> {
        let text =
            match (Unary::from_aten(operator), Binary::from_aten(operator), Reduce::from_aten(operator)) {
                (Some(_), _, _) => "function(Tensor self)",
                (None, Some(_), _) => "function(Tensor self, Tensor other)",
                (None, None, Some(_)) => {
                    "function(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)"
                }
                (None, None, None) => return Err(call.refused("this operator is not read")),
            };
        let signature = Signature::parse(text).ok_or_else(|| call.refused("this operator is not read"))?;
        let bound = Bound { call, signature: &signature, in_place };
        match (Unary::from_aten(operator), Binary::from_aten(operator), Reduce::from_aten(operator)) {
            (Some(unary), _, _) => self.function(&bound, with_numbers(call, unary)?),
            (None, Some(binary), _) => self.pair(&bound, binary, |x| x),
            (None, None, Some(reduce)) => reductions::reduce(self, &bound, reduce),
            (None, None, None) => Err(call.refused("this operator is not read")),
        }
    }

    fn function(&mut self, call: &Bound<'_>, unary: Unary) -> Result<Value, Problem> {
        let x = self.tensor(call, "self")?;
        let id = self.import.function(call, unary, x)?;
        self.finish(call, id)
    }

    /// The operands of a function of two, of which the second has `f` applied where it is known.
    fn operands(&mut self, call: &Bound<'_>, f: fn(f32) -> f32) -> Result<[ValueId; 2], Problem> {
        let names = [0, 1].map(|index| call.signature.arguments[index].name);
        let values = [call.required(names[0])?, call.required(names[1])?];
        if values.iter().all(|value| !matches!(value, Value::Tensor(_) | Value::Stored(_))) {
            return Err(call.refused("none of its operands is a tensor, and they are no numbers that fit it"));
        }
        let a = self.element(call, values[0], &call.label(names[0]), |x| x)?;
        Ok([a, self.element(call, values[1], &call.label(names[1]), f)?])
    }

    fn pair(&mut self, call: &Bound<'_>, op: Binary, f: fn(f32) -> f32) -> Result<Value, Problem> {
        if call.in_place {
            counts_nothing(call)?;
        }
        let operands = self.operands(call, f)?;
        let id = self.import.binary(call, op, operands)?;
        self.finish(call, id)
    }

    fn comparison(&mut self, call: &Bound<'_>, comparison: Comparison) -> Result<Value, Problem> {
        let operands = self.operands(call, |x| x)?;
        let id = self.import.compare(call, comparison, operands)?;
        self.finish(call, id)
    }

    fn truth(&mut self, call: &Bound<'_>, name: &str) -> Result<ValueId, Problem> {
        let x = self.any(call, name)?;
        match self.import.is_truth(x) {
            true => Ok(x),
            false => Err(call.refused(&format!("its {} is no boolean that can be read", call.label(name)))),
        }
    }
}

/// Only the count of batches is a stored tensor that changes.
fn counts_nothing(call: &Bound<'_>) -> Result<(), Problem> {
    match call.first() {
        Some(Value::Stored(_)) => Err(call.call.in_training_mode()),
        _ => Ok(()),
    }
}

/// A function of one element with the numbers of a call, whose other arguments must be what the member is.
fn with_numbers(call: &Call<'_>, unary: Unary) -> Result<Unary, Problem> {
    let row = unary.row();
    let exact = |value: &Value| *value == Value::Text("none".into());
    if unary == Unary::Gelu && !call.at(1, "approximate").is_none_or(exact) {
        return Err(call.refused("only the exact form is read"));
    }
    for fixed in row.fixed {
        let found = call.number_at(fixed.place, fixed.name, fixed.value)?;
        if found != fixed.value {
            return Err(call.refused(&format!("{} is {found}, and only {} is read", fixed.name, fixed.value)));
        }
    }
    let number = |a: &Attribute| match a.aten {
        Some((place, name)) => Ok(call.number_at(place, name, a.aten_default.into())? as f32),
        None => Ok(a.aten_default),
    };
    let numbers = row.attributes.iter().map(number).collect::<Result<Vec<f32>, Problem>>()?;
    Ok(unary.with_numbers(&numbers))
}

/// Whether an argument is a number or a constant of the file: a difference or quotient with it is a sum or product.
fn is_known(call: &Bound<'_>, name: &str) -> bool {
    call.get(name).is_some_and(|value| {
        value.number().is_some() || matches!(value, Value::Stored(Stored { constant: true, .. }))
    })
}

fn plain_alpha(call: &Bound<'_>) -> Result<(), Problem> {
    match call.number("alpha")? {
        1.0 => Ok(()),
        _ => Err(call.refused("alpha other than 1 is not read")),
    }
}

fn sum(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    plain_alpha(call)?;
    aten.pair(call, Binary::Add, |x| x)
}

fn difference(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    plain_alpha(call)?;
    match is_known(call, "other") {
        true => aten.pair(call, Binary::Add, |x| -x),
        false => aten.pair(call, Binary::Sub, |x| x),
    }
}

fn reverse_difference(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    plain_alpha(call)?;
    let [a, b] = aten.operands(call, |x| x)?;
    let id = aten.import.binary(call, Binary::Sub, [b, a])?;
    aten.finish(call, id)
}

fn quotient(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.get("rounding_mode").is_some() {
        return Err(call.refused("division with rounding is not read"));
    }
    match is_known(call, "other") {
        true => aten.pair(call, Binary::Mul, |x| 1.0 / x),
        false => aten.pair(call, Binary::Div, |x| x),
    }
}

fn only_two(_: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    Err(call.refused("only the extreme of two tensors is read"))
}

fn power(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if let Some(exponent) = call.get("exponent").and_then(Value::number) {
        let x = aten.any(call, "self")?;
        if let Some(id) = aten.import.power(call, x, exponent)? {
            return aten.finish(call, id);
        }
    }
    aten.pair(call, Binary::Pow, |x| x)
}

fn square(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let id = aten.import.push(call, Op::Binary(Binary::Mul), &[x, x])?;
    aten.finish(call, id)
}

/// x * sigmoid(x)
fn silu(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let gate = aten.import.push_part(call, "sigmoid", Op::Unary(Unary::Sigmoid), &[x])?;
    let id = aten.import.push(call, Op::Binary(Binary::Mul), &[x, gate])?;
    aten.finish(call, id)
}

/// A slope for each channel, the second axis.
fn prelu(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "self")?;
    let mut slope = aten.any(call, "weight")?;
    let (rank, count) = (aten.import.rank(x), aten.import.shape(slope).as_fixed().unwrap_or_default());
    if let [count] = count[..]
        && count > 1
        && rank > 2
    {
        let mut shape = vec![1; rank - 1];
        shape[0] = count;
        let shape = offshoot_graph::Shape::fixed(&shape);
        slope = aten.import.push_part(call, "slope", Op::Shape(ShapeOp::Reshape { shape }), &[slope])?;
    }
    let id = aten.import.sloped(call, x, slope)?;
    aten.finish(call, id)
}

fn not(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let truth = aten.truth(call, "self")?;
    let id = aten.import.not(call, truth)?;
    aten.finish(call, id)
}

fn and(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let (a, b) = (aten.truth(call, "self")?, aten.truth(call, "other")?);
    let id = aten.import.and(call, a, b)?;
    aten.finish(call, id)
}

fn or(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let (a, b) = (aten.truth(call, "self")?, aten.truth(call, "other")?);
    let id = aten.import.or(call, a, b)?;
    aten.finish(call, id)
}

fn choice(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let truth = aten.truth(call, "condition")?;
    let sides = [aten.any(call, "self")?, aten.any(call, "other")?];
    let id = aten.import.choice(call, truth, sides)?;
    aten.finish(call, id)
}

fn masked_fill(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let truth = aten.truth(call, "mask")?;
    let sides = [aten.any(call, "value")?, aten.any(call, "self")?];
    let id = aten.import.choice(call, truth, sides)?;
    aten.finish(call, id)
}
