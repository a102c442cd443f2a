//! Functions of one element, of two, choices, reductions and running sums.

use super::{Array, Kind, Known, broadcast, count, places};

impl Known<'_> {
    pub(super) fn computed(&self) -> Option<Array> {
        let x = self.input(0)?;
        match self.node.op() {
            "Identity" => Some(x.clone()),
            "Cast" | "CastLike" => self.cast(x),
            "Where" => self.choice(x),
            "Not" => Some(map(x, Kind::Truth, |x| f64::from(u8::from(x == 0.0)))),
            "Clip" => self.clip(x),
            "CumSum" => self.running_sum(x),
            "Trilu" => self.triangle(x),
            op => match (function(op), pairwise(op), reduction(op)) {
                (Some(f), ..) => Some(map(x, x.kind, f)),
                (None, Some((f, kind)), _) => self.pairs(x, f, kind),
                (None, None, Some(f)) => self.reduced(x, f),
                (None, None, None) => None,
            },
        }
    }

    fn cast(&self, x: &Array) -> Option<Array> {
        let kind = match (self.node.op(), self.node.int("to", 0)) {
            ("CastLike", _) => self.input(1)?.kind,
            (_, 1 | 10 | 11 | 16) => Kind::Float,
            (_, 2..=7 | 12 | 13) => Kind::Whole,
            (_, 9) => Kind::Truth,
            _ => return None,
        };
        Some(map(x, kind, |x| match kind {
            Kind::Float => x,
            Kind::Whole => x.trunc(),
            Kind::Truth => f64::from(u8::from(x != 0.0)),
        }))
    }

    fn clip(&self, x: &Array) -> Option<Array> {
        let bound = |index: usize, name: &str, none: f64| match self.input(index) {
            Some(bound) => bound.one(),
            None => Some(self.node.float(name).map_or(none, f64::from)),
        };
        let (min, max) = (bound(1, "min", f64::NEG_INFINITY)?, bound(2, "max", f64::INFINITY)?);
        Some(map(x, x.kind, |x| x.max(min).min(max)))
    }

    fn choice(&self, condition: &Array) -> Option<Array> {
        let (a, b) = (self.input(1)?, self.input(2)?);
        let shape = broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)?;
        self.room(&shape)?;
        let [condition, a, b] = [condition, a, b].map(|side| spread(side, &shape));
        let (condition, a, b) = (condition?, a?, b?);
        let pick = |(i, &truth): (usize, &f64)| if truth != 0.0 { a.data[i] } else { b.data[i] };
        Array::new(shape, condition.data.iter().enumerate().map(pick).collect(), a.kind)
    }

    /// A function of the first two inputs, of the result and the third, and so on.
    fn pairs(&self, x: &Array, f: fn(f64, f64, bool) -> f64, kind: Option<Kind>) -> Option<Array> {
        let mut result = x.clone();
        if self.inputs.len() < 2 {
            return matches!(self.node.op(), "Max" | "Min").then_some(result);
        }
        let f: fn(f64, f64, bool) -> f64 = match self.node.op() {
            "Mod" if self.node.flag("fmod") => |x, y, _| x % y,
            _ => f,
        };
        for index in 1..self.inputs.len() {
            let other = self.input(index)?;
            let shape = broadcast(&result.shape, &other.shape)?;
            self.room(&shape)?;
            let whole = result.kind != Kind::Float;
            let divides = whole && matches!(self.node.op(), "Div" | "Mod");
            if divides && other.data.contains(&0.0) {
                return None;
            }
            let kind = kind.unwrap_or(result.kind);
            let (a, b) = (spread(&result, &shape)?, spread(other, &shape)?);
            let data = a.data.iter().zip(&b.data).map(|(&a, &b)| rounded(f(a, b, whole), kind)).collect();
            result = Array::new(shape, data, kind)?;
        }
        Some(result)
    }

    fn reduced(&self, x: &Array, f: fn(&mut dyn Iterator<Item = f64>) -> f64) -> Option<Array> {
        let rank = x.shape.len();
        let axes = match self.ints(1, "axes") {
            Some(axes) if !axes.is_empty() => axes,
            _ if self.node.flag("noop_with_empty_axes") => return Some(x.clone()),
            _ => (0..rank as i64).collect(),
        };
        let axes: Vec<usize> = axes.iter().map(|&axis| Self::axis(axis, rank)).collect::<Option<_>>()?;
        let strides = x.strides();
        let side = |inside: bool| -> (Vec<usize>, Vec<isize>) {
            let chosen = (0..rank).filter(|axis| axes.contains(axis) == inside);
            chosen.map(|axis| (x.shape[axis], strides[axis])).unzip()
        };
        let ((outer, outer_strides), (inner, inner_strides)) = (side(false), side(true));
        let within = places(&inner, &inner_strides, 0);
        if within.is_empty() {
            return None;
        }
        let element =
            |start: isize| rounded(f(&mut within.iter().map(|&at| x.data[(start + at) as usize])), x.kind);
        let data = places(&outer, &outer_strides, 0).into_iter().map(element).collect();
        let kept = self.node.int("keepdims", 1) != 0;
        let shape = match kept {
            true => (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { x.shape[axis] }).collect(),
            false => outer,
        };
        Array::new(shape, data, x.kind)
    }

    /// The sums of the elements before each, and of itself.
    fn running_sum(&self, x: &Array) -> Option<Array> {
        let axis = Self::axis(self.input(1)?.one()? as i64, x.shape.len())?;
        let (exclusive, reverse) = (self.node.flag("exclusive"), self.node.flag("reverse"));
        let inner = count(&x.shape[axis + 1..])?;
        let mut data = x.data.clone();
        for block in data.chunks_mut((x.shape[axis] * inner).max(1)) {
            for column in 0..inner {
                let mut sum = 0.0;
                for step in 0..x.shape[axis] {
                    let row = if reverse { x.shape[axis] - 1 - step } else { step };
                    let element = &mut block[row * inner + column];
                    let next = rounded(sum + *element, x.kind);
                    *element = if exclusive { sum } else { next };
                    sum = next;
                }
            }
        }
        Array::new(x.shape.clone(), data, x.kind)
    }

    /// The part of matrices above or below a diagonal, and zeros.
    fn triangle(&self, x: &Array) -> Option<Array> {
        let [.., rows, columns] = x.shape[..] else { return None };
        let shift = match self.input(1) {
            Some(shift) => shift.one()? as i64,
            None => 0,
        };
        let upper = self.node.int("upper", 1) != 0;
        let keeps = |i: usize| {
            let (row, column) = ((i / columns.max(1) % rows.max(1)) as i64, (i % columns.max(1)) as i64);
            let right = column.saturating_sub(row);
            if upper { right >= shift } else { right <= shift }
        };
        let data = x.data.iter().enumerate().map(|(i, &x)| if keeps(i) { x } else { 0.0 }).collect();
        Array::new(x.shape.clone(), data, x.kind)
    }
}

/// The elements of `x` over `shape`, to which it is broadcast.
pub(super) fn spread(x: &Array, shape: &[usize]) -> Option<Array> {
    if x.shape == shape {
        return Some(x.clone());
    }
    let missing = shape.len().checked_sub(x.shape.len())?;
    let own = x.strides();
    let stride = |axis: usize| match axis.checked_sub(missing) {
        Some(i) if x.shape[i] == shape[axis] => Some(own[i]),
        Some(i) if x.shape[i] == 1 => Some(0),
        Some(_) => None,
        None => Some(0),
    };
    let strides: Vec<isize> = (0..shape.len()).map(stride).collect::<Option<_>>()?;
    x.at(shape.to_vec(), &strides, 0)
}

fn map(x: &Array, kind: Kind, f: impl Fn(f64) -> f64) -> Array {
    let data = x.data.iter().map(|&x| rounded(f(x), kind)).collect();
    Array { shape: x.shape.clone(), data, kind }
}

/// Floats are f32, as a runtime has them.
fn rounded(x: f64, kind: Kind) -> f64 {
    if kind == Kind::Float { f64::from(x as f32) } else { x }
}

fn function(op: &str) -> Option<fn(f64) -> f64> {
    Some(match op {
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Sign" => |x| if x == 0.0 { 0.0 } else { x.signum() },
        "Sqrt" => f64::sqrt,
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Sin" => f64::sin,
        "Cos" => f64::cos,
        "Tanh" => f64::tanh,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Reciprocal" => f64::recip,
        "Relu" => |x| x.max(0.0),
        "Sigmoid" => |x| 1.0 / (1.0 + (-x).exp()),
        _ => return None,
    })
}

/// A function of two numbers, and of whether they are whole; and what the result is, where that is not what they are.
type Pairwise = (fn(f64, f64, bool) -> f64, Option<Kind>);

fn pairwise(op: &str) -> Option<Pairwise> {
    let truth = Some(Kind::Truth);
    let found: Pairwise = match op {
        "Add" | "Sum" => (|x, y, _| x + y, None),
        "Sub" => (|x, y, _| x - y, None),
        "Mul" => (|x, y, _| x * y, None),
        "Div" => (|x, y, whole| if whole { (x / y).trunc() } else { x / y }, None),
        "Mod" => (|x, y, _| x - y * (x / y).floor(), None),
        "Pow" => (|x, y, _| x.powf(y), None),
        "Max" => (|x, y, _| x.max(y), None),
        "Min" => (|x, y, _| x.min(y), None),
        "Equal" => (|x, y, _| f64::from(u8::from(x == y)), truth),
        "Less" => (|x, y, _| f64::from(u8::from(x < y)), truth),
        "LessOrEqual" => (|x, y, _| f64::from(u8::from(x <= y)), truth),
        "Greater" => (|x, y, _| f64::from(u8::from(x > y)), truth),
        "GreaterOrEqual" => (|x, y, _| f64::from(u8::from(x >= y)), truth),
        "And" => (|x, y, _| x * y, truth),
        "Or" => (|x, y, _| x.max(y), truth),
        "Xor" => (|x, y, _| f64::from(u8::from(x != y)), truth),
        _ => return None,
    };
    Some(found)
}

fn reduction(op: &str) -> Option<fn(&mut dyn Iterator<Item = f64>) -> f64> {
    Some(match op {
        "ReduceSum" => |all| all.sum(),
        "ReduceProd" => |all| all.product(),
        "ReduceMax" => |all| all.fold(f64::NEG_INFINITY, f64::max),
        "ReduceMin" => |all| all.fold(f64::INFINITY, f64::min),
        "ReduceMean" => |all| {
            let (sum, count) = all.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
            sum / count
        },
        "ReduceL2" => |all| all.map(|x| x * x).sum::<f64>().sqrt(),
        _ => return None,
    })
}
