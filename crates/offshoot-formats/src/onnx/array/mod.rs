//! Tensors that are known before the run, and what operators make of them.
//!
//! Exporters leave in the graph what a network computes of no input: masks of windows, grids of positions, tables of indices. All of
//! that is computed here, element by element, when the file is read. Whether it may be (that it is no weight, which training
//! changes) is for the caller to know.

mod arithmetic;
mod make;
mod moves;

use offshoot_graph::{Data, Dim, Shape, Tensor};

use super::attributes::NodeView;

/// Axes, more than any file needs.
const MAX_RANK: usize = 16;

/// What the numbers of an [`Array`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// f32, whatever the file has.
    Float,
    /// Integers, exact up to 2^53.
    Whole,
    Truth,
}

/// A tensor whose elements are held as f64.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
    kind: Kind,
}

/// What a node computes of known tensors.
pub(super) struct Known<'a> {
    pub(super) node: NodeView<'a>,
    /// `None` where an input is not given.
    pub(super) inputs: &'a [Option<Array>],
    /// The node's tensor `value`.
    pub(super) fill: Option<Array>,
    /// The most elements of a result.
    pub(super) most: usize,
}

impl Array {
    /// `None` when there are not as many elements as the shape says.
    pub(super) fn new(shape: Vec<usize>, data: Vec<f64>, kind: Kind) -> Option<Array> {
        let fits = shape.len() <= MAX_RANK && count(&shape) == Some(data.len());
        fits.then_some(Array { shape, data, kind })
    }

    pub(super) fn from_tensor(tensor: &Tensor) -> Option<Array> {
        let (data, kind): (Vec<f64>, Kind) = match tensor.data() {
            Data::F32(v) => (v.iter().map(|&x| x.into()).collect(), Kind::Float),
            Data::F64(v) => (v.iter().map(|&x| f64::from(x as f32)).collect(), Kind::Float),
            Data::F16(v) => (v.iter().map(|x| x.to_f64()).collect(), Kind::Float),
            Data::BF16(v) => (v.iter().map(|x| x.to_f64()).collect(), Kind::Float),
            Data::I64(v) => (v.iter().map(|&x| x as f64).collect(), Kind::Whole),
            Data::I32(v) => (v.iter().map(|&x| x.into()).collect(), Kind::Whole),
            Data::I8(v) => (v.iter().map(|&x| x.into()).collect(), Kind::Whole),
            Data::U8(v) => (v.iter().map(|&x| x.into()).collect(), Kind::Whole),
            Data::Bool(v) => (v.iter().map(|&x| f64::from(u8::from(x))).collect(), Kind::Truth),
        };
        Array::new(tensor.shape().to_vec(), data, kind)
    }

    pub(super) fn to_tensor(&self) -> Option<Tensor> {
        let data = match self.kind {
            Kind::Float => Data::F32(self.data.iter().map(|&x| x as f32).collect()),
            Kind::Whole => Data::I64(self.data.iter().map(|&x| x as i64).collect()),
            Kind::Truth => Data::Bool(self.data.iter().map(|&x| x != 0.0).collect()),
        };
        Tensor::new(self.shape.clone(), data).ok()
    }

    /// A matrix, transposed.
    pub(super) fn turned(&self) -> Option<Array> {
        let &[rows, columns] = &self.shape[..] else { return None };
        self.at(vec![columns, rows], &[1, columns as isize], 0)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.data.iter().all(|&x| x == 0.0)
    }

    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    pub(super) fn ints(&self) -> Option<Vec<i64>> {
        (self.kind != Kind::Float).then(|| self.data.iter().map(|&x| x as i64).collect())
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// One place of each axis that `of` calls `batch`, where its places are all alike.
    pub(super) fn without(&self, of: &Shape, batch: &Dim) -> Option<Array> {
        let mut one = self.shape.clone();
        for (size, dim) in one.iter_mut().zip(&of.0) {
            match dim {
                Dim::Fixed(_) => {}
                dim if dim == batch => *size = 1,
                Dim::Symbol(_) | Dim::Expr(_) => return None,
            }
        }
        let picked = self.at(one, &self.strides(), 0)?;
        (arithmetic::spread(&picked, &self.shape)? == *self).then_some(picked)
    }

    /// The only element.
    fn one(&self) -> Option<f64> {
        match self.data[..] {
            [x] => Some(x),
            _ => None,
        }
    }

    /// Strides of its elements, in order.
    fn strides(&self) -> Vec<isize> {
        strides(&self.shape)
    }

    /// The elements at places that are counted along `strides` from `start`. `None` when one is outside.
    fn at(&self, shape: Vec<usize>, strides: &[isize], start: isize) -> Option<Array> {
        let place = |at: isize| usize::try_from(at).ok().and_then(|at| self.data.get(at)).copied();
        let data: Option<Vec<f64>> = places(&shape, strides, start).into_iter().map(place).collect();
        Array::new(shape, data?, self.kind)
    }
}

impl Known<'_> {
    /// The result, where the operator and this form of it are known.
    pub(super) fn evaluate(&self) -> Option<Array> {
        self.moved().or_else(|| self.computed()).or_else(|| self.made())
    }

    fn input(&self, index: usize) -> Option<&Array> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Whole numbers of an input or, in older opsets, of an attribute.
    fn ints(&self, index: usize, name: &str) -> Option<Vec<i64>> {
        match self.input(index) {
            Some(array) => array.ints(),
            None => self.node.ints(name).map(<[i64]>::to_vec),
        }
    }

    /// An axis, counted from the end when negative.
    fn axis(axis: i64, rank: usize) -> Option<usize> {
        let counted = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(counted).ok().filter(|&axis| axis < rank)
    }

    /// The elements of a result of this shape, when they are not too many.
    fn room(&self, shape: &[usize]) -> Option<usize> {
        count(shape).filter(|&n| n <= self.most && shape.len() <= MAX_RANK)
    }
}

fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))
}

fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

/// Where the elements of a tensor of `shape` are, in order.
fn places(shape: &[usize], strides: &[isize], start: isize) -> Vec<isize> {
    let total = count(shape).unwrap_or(0);
    let (mut index, mut at) = (vec![0; shape.len()], start);
    let mut places = Vec::with_capacity(total);
    for _ in 0..total {
        places.push(at);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis] as isize;
            index[axis] = 0;
        }
    }
    places
}

/// The shape that both are broadcast to, as NumPy does.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let joined = |axis| match (dim(a, axis), dim(b, axis)) {
        (x, y) if x == y => Some(x),
        (1, y) => Some(y),
        (x, 1) => Some(x),
        _ => None,
    };
    (0..rank).map(joined).collect()
}
