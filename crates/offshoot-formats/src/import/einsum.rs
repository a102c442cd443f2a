//! Sums of products by letters: `torch.einsum` and ONNX's Einsum.

use offshoot_graph::op::{Binary, Gemm, MatMul, Reduce, ShapeOp};
use offshoot_graph::{Dim, DimOp, Op, Shape, ValueId};

use super::{Importer, Part, Site};
use crate::error::Problem;

/// A value whose axes have letters.
struct Lettered {
    id: ValueId,
    letters: Vec<char>,
}

/// Letters by the operands that have them and whether the result does.
struct Roles {
    /// In both and in the result: the same in each product.
    stacked: Vec<char>,
    /// In both and not in the result: summed by the product.
    summed: Vec<char>,
    left: Vec<char>,
    right: Vec<char>,
}

impl Importer {
    /// The sums of products that `equation` describes, of one or two values.
    pub(crate) fn einsum(
        &mut self,
        site: &dyn Site,
        equation: &str,
        operands: &[ValueId],
    ) -> Result<ValueId, Problem> {
        let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, result) = equation.split_once("->").ok_or_else(|| refused(site, &equation))?;
        let terms: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
        let result: Vec<char> = result.chars().collect();
        let fits = |(term, &id): (&Vec<char>, &ValueId)| is_plain(term) && term.len() == self.rank(id);
        let known = result.iter().all(|letter| terms.iter().any(|term| term.contains(letter)));
        if terms.len() != operands.len()
            || !terms.iter().zip(operands).all(fits)
            || !is_plain(&result)
            || !known
        {
            return Err(refused(site, &equation));
        }
        let lettered = |(&id, letters): (&ValueId, &Vec<char>)| Lettered { id, letters: letters.clone() };
        let mut values: Vec<Lettered> = operands.iter().zip(&terms).map(lettered).collect();
        for (i, value) in values.iter_mut().enumerate() {
            let others: Vec<char> =
                (0..terms.len()).filter(|&j| j != i).flat_map(|j| terms[j].clone()).collect();
            self.sum_lonely(site, value, |letter| others.contains(&letter) || result.contains(&letter))?;
        }
        let made = match &values[..] {
            [_] => values.remove(0),
            [a, b] => self.contracted(site, a, b, &result)?,
            _ => return Err(refused(site, &equation)),
        };
        let perm: Option<Vec<usize>> =
            result.iter().map(|letter| made.letters.iter().position(|own| own == letter)).collect();
        self.transpose(site, made.id, perm.ok_or_else(|| refused(site, &equation))?)
    }

    /// Sums over the letters that nothing else has.
    fn sum_lonely(
        &mut self,
        site: &dyn Site,
        value: &mut Lettered,
        keeps: impl Fn(char) -> bool,
    ) -> Result<(), Problem> {
        while let Some(axis) = value.letters.iter().position(|&letter| !keeps(letter)) {
            let part = Part { site, name: site.part("sum") };
            value.id = self.reduction(&part, Reduce::Sum, value.id, &[axis], false)?;
            value.letters.remove(axis);
        }
        Ok(())
    }

    /// The product of two values as one of stacks of matrices, or element by element where nothing is summed.
    fn contracted(
        &mut self,
        site: &dyn Site,
        a: &Lettered,
        b: &Lettered,
        result: &[char],
    ) -> Result<Lettered, Problem> {
        let roles = Roles::of(a, b, result);
        let dims = |importer: &Importer, value: &Lettered, letters: &[char]| -> Vec<Dim> {
            let of = |letter| value.letters.iter().position(|own| own == letter).unwrap_or(0);
            letters.iter().map(|letter| importer.shape(value.id).0[of(letter)].clone()).collect()
        };
        let letters = [&roles.stacked[..], &roles.left, &roles.right].concat();
        let mut shape = dims(self, a, &roles.stacked);
        shape.extend(dims(self, a, &roles.left));
        shape.extend(dims(self, b, &roles.right));
        let id = if roles.summed.is_empty() {
            let ones = |n: usize| vec![Dim::Fixed(1); n];
            let first = [dims(self, a, &roles.stacked), dims(self, a, &roles.left), ones(roles.right.len())];
            let second = [dims(self, b, &roles.stacked), ones(roles.left.len()), dims(self, b, &roles.right)];
            let first = self.arranged(site, "left", a, [&roles.stacked, &roles.left, &[]], first.concat())?;
            let second =
                self.arranged(site, "right", b, [&roles.stacked, &roles.right, &[]], second.concat())?;
            self.push_part(site, "product", Op::Binary(Binary::Mul), &[first, second])?
        } else {
            let matrix = |stack: Vec<Dim>, rows: &[Dim], columns: &[Dim]| {
                [stack, vec![product(rows), product(columns)]].concat()
            };
            let summed = dims(self, a, &roles.summed);
            let first = matrix(dims(self, a, &roles.stacked), &dims(self, a, &roles.left), &summed);
            // A matrix is used as it is held.
            if let (&[column], &[row], true) = (&roles.summed[..], &roles.right[..], roles.stacked.is_empty())
            {
                let first = self.arranged(site, "left", a, [&[], &roles.left, &roles.summed], first)?;
                let product = Op::Gemm(Gemm { trans_a: false, trans_b: b.letters == [row, column] });
                let made = self.push_part(site, "product", product, &[first, b.id])?;
                let id = self.reshape_to(&Part { site, name: site.part("axes") }, made, Shape(shape))?;
                return Ok(Lettered { id, letters });
            }
            let second = matrix(dims(self, b, &roles.stacked), &summed, &dims(self, b, &roles.right));
            let first =
                self.arranged(site, "left", a, [&roles.stacked, &roles.left, &roles.summed], first)?;
            let second =
                self.arranged(site, "right", b, [&roles.stacked, &roles.summed, &roles.right], second)?;
            let made = self.push_part(site, "product", Op::MatMul(MatMul::default()), &[first, second])?;
            self.reshape_to(&Part { site, name: site.part("axes") }, made, Shape(shape))?
        };
        Ok(Lettered { id, letters })
    }

    /// A value with its axes in the order of `letters`, under a shape of as many elements.
    fn arranged(
        &mut self,
        site: &dyn Site,
        part: &str,
        value: &Lettered,
        letters: [&[char]; 3],
        shape: Vec<Dim>,
    ) -> Result<ValueId, Problem> {
        let place = |letter| value.letters.iter().position(|own| own == letter).unwrap_or(0);
        let perm: Vec<usize> = letters.concat().iter().map(place).collect();
        let turned = self.transpose(&Part { site, name: site.part(part) }, value.id, perm)?;
        if self.shape(turned).0 == shape {
            return Ok(turned);
        }
        let name = site.part(&format!("{part}.matrix"));
        self.push_named(site, &name, Op::Shape(ShapeOp::Reshape { shape: Shape(shape) }), &[turned])
    }
}

impl Roles {
    fn of(a: &Lettered, b: &Lettered, result: &[char]) -> Roles {
        let in_order = |from: &[char], keeps: &dyn Fn(&char) -> bool| -> Vec<char> {
            from.iter().copied().filter(|letter| keeps(letter)).collect()
        };
        Roles {
            stacked: in_order(result, &|l| a.letters.contains(l) && b.letters.contains(l)),
            summed: in_order(&a.letters, &|l| b.letters.contains(l) && !result.contains(l)),
            left: in_order(&a.letters, &|l| !b.letters.contains(l)),
            right: in_order(&b.letters, &|l| !a.letters.contains(l)),
        }
    }
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Fixed(1), |n, dim| n.combine(DimOp::Mul, dim))
}

/// Letters that are each there once.
fn is_plain(letters: &[char]) -> bool {
    let once = |(i, letter): (usize, &char)| letter.is_ascii_alphabetic() && !letters[..i].contains(letter);
    letters.iter().enumerate().all(once)
}

fn refused(site: &dyn Site, equation: &str) -> Problem {
    site.refused(&format!("sums of products of the form `{equation:.60}` are not read"))
}
