//! Shapes whose dims are numbers, named symbols, or integer expressions of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One axis of a shape: a number, a symbol (`batch_size`), or an expression of both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number known when the graph is built.
    Fixed(usize),
    /// A number known when a plan is made, by name.
    Symbol(Arc<str>),
    /// Computed from other dims.
    Expr(Arc<(DimOp, Dim, Dim)>),
}

/// What an expression of dims computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DimOp {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b, rounded down
    Div,
}

/// The numbers that symbols stand for.
pub type Bindings = BTreeMap<String, usize>;

/// A dim could not be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A symbol without a number.
    #[error("the size `{0}` has no value")]
    Unbound(String),
    /// A size below zero, past the largest integer, or a division by zero.
    #[error("the size `{0}` is not a valid size")]
    Invalid(String),
}

impl Dim {
    /// The dim called `name`.
    pub fn symbol(name: &str) -> Dim {
        Dim::Symbol(name.into())
    }

    /// The number, when it is known without bindings.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) | Dim::Expr(_) => None,
        }
    }

    /// The dim `self op other`, computed at once where both are numbers and the result is one. Numbers added and
    /// subtracted one after another become one, and factors stand in one order, so that branches which keep a symbolic
    /// size agree on it.
    pub fn combine(&self, op: DimOp, other: &Dim) -> Dim {
        if let (DimOp::Add | DimOp::Sub, Dim::Fixed(n)) = (op, other)
            && let Some(dim) = self.shift(op, *n)
        {
            return dim;
        }
        match (op, self, other) {
            (_, Dim::Fixed(a), Dim::Fixed(b)) if op.apply(*a, *b).is_some() => {
                Dim::Fixed(op.apply(*a, *b).unwrap_or_default())
            }
            (DimOp::Add | DimOp::Sub, _, Dim::Fixed(0)) | (DimOp::Mul | DimOp::Div, _, Dim::Fixed(1)) => {
                self.clone()
            }
            (DimOp::Add, Dim::Fixed(0), _) | (DimOp::Mul, Dim::Fixed(1), _) => other.clone(),
            (DimOp::Mul, ..) => product(self, other),
            _ => Dim::Expr(Arc::new((op, self.clone(), other.clone()))),
        }
    }

    /// `(base +- m) +- n` as `base +- k`, where it has that form.
    fn shift(&self, op: DimOp, n: usize) -> Option<Dim> {
        let Dim::Expr(e) = self else { return None };
        let (inner @ (DimOp::Add | DimOp::Sub), base, Dim::Fixed(m)) = e.as_ref() else { return None };
        let (op, k) = match *inner == op {
            true => (op, m.checked_add(n)?),
            false if *m >= n => (*inner, m - n),
            false => (op, n - m),
        };
        Some(base.combine(op, &Dim::Fixed(k)))
    }

    /// Whether it is written with at most `most` numbers, symbols and signs: a size that is cheap to compute, whatever a
    /// file made it of.
    pub fn is_small(&self, most: usize) -> bool {
        fn left(dim: &Dim, most: usize) -> Option<usize> {
            let most = most.checked_sub(1)?;
            match dim {
                Dim::Fixed(_) | Dim::Symbol(_) => Some(most),
                Dim::Expr(e) => left(&e.2, left(&e.1, most)?),
            }
        }
        left(self, most).is_some()
    }

    /// The number it stands for.
    ///
    /// # Errors
    /// A symbol without a binding; a size below zero or too large.
    pub fn eval(&self, bindings: &Bindings) -> Result<usize, DimError> {
        match self {
            Dim::Fixed(n) => Ok(*n),
            Dim::Symbol(name) => {
                bindings.get(name.as_ref()).copied().ok_or_else(|| DimError::Unbound(name.to_string()))
            }
            Dim::Expr(e) => {
                let (op, a, b) = e.as_ref();
                op.apply(a.eval(bindings)?, b.eval(bindings)?)
                    .ok_or_else(|| DimError::Invalid(self.to_string()))
            }
        }
    }
}

impl DimOp {
    fn apply(self, a: usize, b: usize) -> Option<usize> {
        match self {
            DimOp::Add => a.checked_add(b),
            DimOp::Sub => a.checked_sub(b),
            DimOp::Mul => a.checked_mul(b),
            DimOp::Div => a.checked_div(b),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Dim {
        Dim::symbol(name)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Expr(e) => {
                let sign = match e.0 {
                    DimOp::Add => '+',
                    DimOp::Sub => '-',
                    DimOp::Mul => '*',
                    DimOp::Div => '/',
                };
                write!(f, "({}{sign}{})", e.1, e.2)
            }
        }
    }
}

/// The dims of a value, outermost first. A scalar has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of numbers.
    pub fn fixed(dims: &[usize]) -> Shape {
        Shape(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The numbers, when all are known without bindings.
    pub fn as_fixed(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::fixed).collect()
    }

    /// The numbers it stands for.
    ///
    /// # Errors
    /// As [`Dim::eval`], and when a computed size is zero: a window that does not fit.
    pub fn eval(&self, bindings: &Bindings) -> Result<Vec<usize>, DimError> {
        let size = |dim: &Dim| match (dim, dim.eval(bindings)?) {
            (Dim::Expr(_), 0) => Err(DimError::Invalid(dim.to_string())),
            (_, n) => Ok(n),
        };
        self.0.iter().map(size).collect()
    }
}

impl<D: Into<Dim>> FromIterator<D> for Shape {
    fn from_iter<I: IntoIterator<Item = D>>(dims: I) -> Shape {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(Dim::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

impl Shape {
    /// Whether both have as many elements, whatever their symbols stand for.
    pub fn has_as_many_as(&self, other: &Shape) -> bool {
        factors(&self.0).is_some_and(|own| factors(&other.0) == Some(own))
    }

    /// The shape `target` with as many elements as this one, where the one dim that is `None` follows from the others.
    /// `None` when it does not.
    pub fn reshaped(&self, target: &[Option<Dim>]) -> Option<Shape> {
        let known: Vec<Dim> = target.iter().flatten().cloned().collect();
        if known.len() == target.len() {
            return Some(Shape(known)).filter(|shape| shape.has_as_many_as(self));
        }
        let ((mut number, mut others), (by, rest)) = (factors(&self.0)?, factors(&known)?);
        if known.len() + 1 != target.len() || by == 0 || number % by != 0 {
            return None;
        }
        number /= by;
        for dim in rest {
            let at = others.iter().position(|other| *other == dim)?;
            others.remove(at);
        }
        let last = others.into_iter().fold(Dim::Fixed(number), |n, dim| n.combine(DimOp::Mul, &dim));
        Some(Shape(target.iter().map(|dim| dim.clone().unwrap_or_else(|| last.clone())).collect()))
    }
}

/// a b, as a number times factors in a fixed order.
fn product(a: &Dim, b: &Dim) -> Dim {
    let plain = |a: Dim, b: &Dim| Dim::Expr(Arc::new((DimOp::Mul, a, b.clone())));
    let Some((number, others)) = factors(&[a.clone(), b.clone()]) else { return plain(a.clone(), b) };
    let number = Some(Dim::Fixed(number)).filter(|n| *n != Dim::Fixed(1) || others.is_empty());
    let all = number.into_iter().chain(others);
    all.reduce(|product, dim| plain(product, &dim)).unwrap_or(Dim::Fixed(1))
}

/// The product of dims as a number times factors that are not known, in a fixed order.
fn factors(dims: &[Dim]) -> Option<(usize, Vec<Dim>)> {
    fn add(dim: &Dim, number: &mut usize, others: &mut Vec<Dim>) -> Option<()> {
        match dim {
            Dim::Fixed(n) => *number = number.checked_mul(*n)?,
            Dim::Expr(e) if e.0 == DimOp::Mul => {
                add(&e.1, number, others)?;
                add(&e.2, number, others)?;
            }
            Dim::Symbol(_) | Dim::Expr(_) => others.push(dim.clone()),
        }
        Some(())
    }
    let (mut number, mut others) = (1, Vec::new());
    dims.iter().try_for_each(|dim| add(dim, &mut number, &mut others))?;
    others.sort_by_key(Dim::to_string);
    Some((number, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_fold_print_and_evaluate() {
        let height = Dim::symbol("height");
        let out = height.combine(DimOp::Add, &Dim::Fixed(2)).combine(DimOp::Sub, &Dim::Fixed(3));
        let out = out.combine(DimOp::Div, &Dim::Fixed(2)).combine(DimOp::Add, &Dim::Fixed(1));
        assert_eq!(out.to_string(), "(((height-1)/2)+1)");
        assert_eq!(out.eval(&Bindings::from([("height".into(), 224)])), Ok(112));
        assert_eq!(out.eval(&Bindings::new()), Err(DimError::Unbound("height".into())));
        assert!(matches!(out.eval(&Bindings::from([("height".into(), 0)])), Err(DimError::Invalid(_))));
        assert_eq!(Dim::Fixed(6).combine(DimOp::Div, &Dim::Fixed(4)), Dim::Fixed(1));
    }

    #[test]
    fn numbers_one_after_another_become_one() {
        let chain = |steps: &[(DimOp, usize)]| {
            steps.iter().fold(Dim::symbol("h"), |dim, &(op, n)| dim.combine(op, &Dim::Fixed(n)))
        };
        use DimOp::{Add, Div, Sub};
        assert_eq!(chain(&[(Add, 2), (Sub, 3), (Div, 1), (Add, 1)]), Dim::symbol("h"));
        assert_eq!(chain(&[(Sub, 1), (Sub, 4)]), chain(&[(Sub, 5)]));
        assert_eq!(chain(&[(Add, 5), (Sub, 3)]), chain(&[(Add, 2)]));
        assert_eq!(chain(&[(Add, usize::MAX), (Add, 1)]).eval(&Bindings::from([("h".into(), 1)])).ok(), None);
        let shape = Shape(vec![chain(&[(Sub, 2)])]);
        assert_eq!(shape.eval(&Bindings::from([("h".into(), 3)])), Ok(vec![1]));
        assert!(matches!(shape.eval(&Bindings::from([("h".into(), 2)])), Err(DimError::Invalid(_))));
    }
}
