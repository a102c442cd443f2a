//! What activations are stored in: f32, or half of it. Arithmetic is in f32; a kernel converts what it loads and stores.
//! Quantized ones are integers.

use bytemuck::Pod;
use half::{bf16, f16};
use offshoot_graph::{DType, Data};

use super::parallel::Shared;
use super::simd::Simd;

mod sealed {
    /// Types whose memory kernels know.
    pub trait Sealed {}
}

/// What memory holds: a float or an integer. No other crate has types of it, as unsafe code relies on what their functions give.
pub trait Stored: Pod + Send + Sync + sealed::Sealed {
    /// Its type in the graph.
    const DTYPE: DType;

    /// The elements of a tensor, if they are of this type.
    fn of_data(data: &Data) -> Option<&[Self]>;
}

macro_rules! stored {
    ($($type:ty, $variant:ident;)*) => {
        $(impl sealed::Sealed for $type {}

        impl Stored for $type {
            const DTYPE: DType = DType::$variant;

            fn of_data(data: &Data) -> Option<&[$type]> {
                match data {
                    Data::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        })*
    };
}

stored! {
    f32, F32;
    f64, F64;
    bf16, BF16;
    f16, F16;
    i8, I8;
    u8, U8;
    i32, I32;
    i64, I64;
}

/// A float in memory.
pub trait Element: Stored {
    /// Reads a vector.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;

    /// Reads the first `n` < LANES elements and zeros the rest.
    ///
    /// # Safety
    /// As [`Simd::load_first`].
    unsafe fn load_first<S: Simd>(from: *const Self, n: usize) -> S::V;

    /// Writes a vector, rounded to nearest even.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V);

    /// Writes the first `n` < LANES elements, rounded to nearest even.
    ///
    /// # Safety
    /// As [`Simd::store_first`].
    unsafe fn store_first<S: Simd>(to: *mut Self, n: usize, v: S::V);

    /// As [`Element::store`], of a sum of products of bf16: from inside of `dispatch_bf16` or `dispatch_tiles`.
    ///
    /// # Safety
    /// As there.
    unsafe fn store_sum<S: Simd>(to: *mut Self, v: S::V) {
        // Safety: the caller's promise.
        unsafe { Self::store::<S>(to, v) }
    }

    /// The number that it holds.
    fn to_f32(self) -> f32;

    /// The nearest element, ties to even.
    fn from_f32(x: f32) -> Self;

    /// The elements of `view`, if they are of this type.
    fn of(view: View<'_>) -> Option<&[Self]>;

    /// A slice whose type is known at run time.
    fn view(elements: &[Self]) -> View<'_>;

    /// As [`Element::view`], to change.
    fn view_mut(elements: &mut [Self]) -> ViewMut<'_>;
}

/// Elements of a type that is known at run time.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the variants are those of `DType`
pub enum View<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl View<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            View::F32(v) => v.len(),
            View::Bf16(v) => v.len(),
            View::F16(v) => v.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the elements begin, and the bytes that each takes.
    pub(super) fn bytes(&self) -> (*const u8, usize) {
        match self {
            View::F32(v) => (v.as_ptr().cast(), 4),
            View::Bf16(v) => (v.as_ptr().cast(), 2),
            View::F16(v) => (v.as_ptr().cast(), 2),
        }
    }
}

/// Elements to change, of a type that is known at run time.
#[derive(Debug)]
#[allow(missing_docs)] // the variants are those of `DType`
pub enum ViewMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

impl ViewMut<'_> {
    /// The elements as what tasks share.
    pub(super) fn shared(self) -> SharedView {
        match self {
            ViewMut::F32(v) => SharedView::F32(Shared::new(v)),
            ViewMut::Bf16(v) => SharedView::Bf16(Shared::new(v)),
            ViewMut::F16(v) => SharedView::F16(Shared::new(v)),
        }
    }
}

/// A [`ViewMut`] that tasks share because each of them touches other elements.
#[derive(Clone, Copy)]
pub(super) enum SharedView {
    F32(Shared<f32>),
    Bf16(Shared<bf16>),
    F16(Shared<f16>),
}

impl SharedView {
    /// Where the elements begin, and the bytes that each takes.
    pub(super) fn bytes(self) -> (*const u8, usize) {
        match self {
            SharedView::F32(v) => (v.get().cast_const().cast(), 4),
            SharedView::Bf16(v) => (v.get().cast_const().cast(), 2),
            SharedView::F16(v) => (v.get().cast_const().cast(), 2),
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(from: *const f32, n: usize) -> S::V {
        // Safety: the caller's promise.
        unsafe { S::load_first(from, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut f32, v: S::V) {
        // Safety: the caller's promise.
        unsafe { S::store(to, v) }
    }
    #[inline(always)]
    unsafe fn store_first<S: Simd>(to: *mut f32, n: usize, v: S::V) {
        // Safety: the caller's promise.
        unsafe { S::store_first(to, n, v) }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    fn of(view: View<'_>) -> Option<&[f32]> {
        match view {
            View::F32(elements) => Some(elements),
            View::Bf16(_) | View::F16(_) => None,
        }
    }
    fn view(elements: &[f32]) -> View<'_> {
        View::F32(elements)
    }
    fn view_mut(elements: &mut [f32]) -> ViewMut<'_> {
        ViewMut::F32(elements)
    }
}

/// A 16-bit float: `$from` and `$to` convert a vector of it.
macro_rules! half_element {
    ($type:ty, $variant:ident, $from:ident, $to:ident, $sum_to:ident) => {
        impl Element for $type {
            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const $type) -> S::V {
                // Safety: the caller's promise; the type has the layout of u16.
                unsafe { S::$from(S::load_half(from.cast())) }
            }
            #[inline(always)]
            unsafe fn load_first<S: Simd>(from: *const $type, n: usize) -> S::V {
                // Safety: as above.
                unsafe { S::$from(S::load_half_first(from.cast(), n)) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(to: *mut $type, v: S::V) {
                // Safety: as above.
                unsafe { S::store_half(to.cast(), S::$to(v)) }
            }
            #[inline(always)]
            unsafe fn store_first<S: Simd>(to: *mut $type, n: usize, v: S::V) {
                // Safety: as above.
                unsafe { S::store_half_first(to.cast(), n, S::$to(v)) }
            }
            #[inline(always)]
            unsafe fn store_sum<S: Simd>(to: *mut $type, v: S::V) {
                // Safety: as above.
                unsafe { S::store_half(to.cast(), S::$sum_to(v)) }
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn from_f32(x: f32) -> $type {
                <$type>::from_f32(x)
            }
            fn of(view: View<'_>) -> Option<&[$type]> {
                match view {
                    View::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
            fn view(elements: &[$type]) -> View<'_> {
                View::$variant(elements)
            }
            fn view_mut(elements: &mut [$type]) -> ViewMut<'_> {
                ViewMut::$variant(elements)
            }
        }
    };
}

half_element!(bf16, Bf16, from_bf16, to_bf16, sum_to_bf16);
half_element!(f16, F16, from_f16, to_f16, to_f16);
