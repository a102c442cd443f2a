//! Dense tensors in host memory, and the named sets of them that a graph's parameters live in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 64-bit IEEE float.
    F64,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte a boolean.
    Bool,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// True for the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
        })
    }
}

/// The elements of a [`Tensor`], in row-major order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variants are those of `DType`
pub enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

impl Data {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
            Data::F16(_) => DType::F16,
            Data::BF16(_) => DType::BF16,
            Data::I64(_) => DType::I64,
            Data::I32(_) => DType::I32,
            Data::I8(_) => DType::I8,
            Data::U8(_) => DType::U8,
            Data::Bool(_) => DType::Bool,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::F16(v) => v.len(),
            Data::BF16(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::I8(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::Bool(v) => v.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A dense row-major tensor. A scalar has an empty shape and one element.
///
/// Clones share their elements until one of them is changed, which then gets elements of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Arc<Data>,
}

/// The number of elements did not fit the shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tensor of shape {shape:?} cannot hold {elements} elements")]
pub struct TensorSizeError {
    /// The shape that was asked for.
    pub shape: Vec<usize>,
    /// The elements that were given.
    pub elements: usize,
}

impl Tensor {
    /// A tensor of `shape` that holds `data`.
    ///
    /// # Errors
    /// When the product of `shape` is not `data.len()` (or overflows).
    pub fn new(shape: impl Into<Vec<usize>>, data: Data) -> Result<Tensor, TensorSizeError> {
        Tensor::of(shape.into(), Arc::new(data))
    }

    fn of(shape: Vec<usize>, data: Arc<Data>) -> Result<Tensor, TensorSizeError> {
        let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if wanted != Some(data.len()) {
            return Err(TensorSizeError { shape, elements: data.len() });
        }
        Ok(Tensor { shape, data })
    }

    /// An f32 tensor.
    ///
    /// # Panics
    /// When `data` does not fill `shape`: for sizes that come from code, not from a file.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Tensor {
        Tensor::new(shape, Data::F32(data)).expect("the data fills the shape")
    }

    /// An i64 tensor.
    ///
    /// # Panics
    /// When `data` does not fill `shape`: for sizes that come from code, not from a file.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Tensor {
        Tensor::new(shape, Data::I64(data)).expect("the data fills the shape")
    }

    /// An f32 tensor of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Tensor {
        Tensor::full(shape, 0.0)
    }

    /// An f32 tensor whose elements are all `value`.
    pub fn full(shape: impl Into<Vec<usize>>, value: f32) -> Tensor {
        let shape = shape.into();
        let data = Data::F32(vec![value; shape.iter().product()]);
        Tensor { shape, data: Arc::new(data) }
    }

    /// The size of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements, when they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &*self.data {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements to change, when they are f32.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        match Arc::make_mut(&mut self.data) {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements, when they are f32, out of the tensor: without a copy where no other tensor shares them.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match Arc::unwrap_or_clone(self.data) {
            Data::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements, when they are f64.
    pub fn as_f64(&self) -> Option<&[f64]> {
        match &*self.data {
            Data::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The elements, when they are i64.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &*self.data {
            Data::I64(v) => Some(v),
            _ => None,
        }
    }

    /// The same elements as f32. Floats of any width are converted (to nearest even); other types are `None`.
    pub fn to_f32(&self) -> Option<Tensor> {
        let data = match &*self.data {
            Data::F32(_) => return Some(self.clone()),
            Data::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::I64(_) | Data::I32(_) | Data::I8(_) | Data::U8(_) | Data::Bool(_) => return None,
        };
        Some(Tensor { shape: self.shape.clone(), data: Arc::new(Data::F32(data)) })
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the product of `shape` is another.
    pub fn reshape(self, shape: impl Into<Vec<usize>>) -> Result<Tensor, TensorSizeError> {
        Tensor::of(shape.into(), self.data)
    }
}

/// Tensors by name: the parameters of a graph, named with PyTorch state-dict keys.
pub type Weights = BTreeMap<String, Tensor>;
