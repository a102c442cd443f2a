//! Vectors as arrays of eight, in plain Rust.

#![allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller

use super::{Arithmetic, Kernel, Simd};
use half::{bf16, f16};

/// 2^n for n in [-126, 128], that of 128 as infinity.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// The lanes, one by one. (`array::from_fn` is a loop that may stop: much more code to optimize in each kernel.)
#[inline(always)]
fn lanes<T>(f: impl Fn(usize) -> T) -> [T; 8] {
    [f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)]
}

/// Arrays of eight, in plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Arithmetic for Portable {
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Multiply then add: a fused `mul_add` is a library call where the target has no FMA.
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn at_least(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] > x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn at_most(x: [f32; 8], bound: [f32; 8]) -> [f32; 8] {
        lanes(|i| if bound[i] < x[i] { bound[i] } else { x[i] })
    }
    #[inline(always)]
    unsafe fn where_gt(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        lanes(|i| if a[i] > b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn zero_where_ge(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        lanes(|i| if a[i] >= b[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn where_eq(a: [f32; 8], b: [f32; 8], v: [f32; 8]) -> [f32; 8] {
        lanes(|i| if a[i] == b[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn select_gt(a: [f32; 8], b: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        lanes(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn select_nan(x: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        lanes(|i| if x[i].is_nan() { yes[i] } else { no[i] })
    }
    #[inline(never)]
    unsafe fn round(x: [f32; 8]) -> [f32; 8] {
        lanes(|i| x[i].round_ties_even())
    }
    #[inline(never)]
    unsafe fn scale_by_power(v: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        lanes(|i| {
            let half = n[i] as i32 >> 1;
            v[i] * power_of_two(half) * power_of_two(n[i] as i32 - half)
        })
    }
    #[inline(always)]
    unsafe fn scale_by_normal_power(v: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        lanes(|i| v[i] * power_of_two(n[i] as i32))
    }
}

impl Simd for Portable {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(never)]
    unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.run::<Portable>() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> [f32; 8] {
        let mut v = [0.0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, n: usize, v: [f32; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn permute(v: [f32; 8], from: [f32; 8]) -> [f32; 8] {
        lanes(|i| v[from[i].to_bits() as usize % 8])
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    type Half = [u16; 8];

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> [u16; 8] {
        unsafe { from.cast::<[u16; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: [u16; 8]) {
        unsafe { to.cast::<[u16; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_half_first(from: *const u16, n: usize) -> [u16; 8] {
        let mut v = [0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store_half_first(to: *mut u16, n: usize, v: [u16; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn from_bf16(v: [u16; 8]) -> [f32; 8] {
        lanes(|i| bf16::from_bits(v[i]).to_f32())
    }
    #[inline(never)]
    unsafe fn to_bf16(v: [f32; 8]) -> [u16; 8] {
        lanes(|i| bf16::from_f32(v[i]).to_bits())
    }
    #[inline(never)]
    unsafe fn from_f16(v: [u16; 8]) -> [f32; 8] {
        lanes(|i| f16::from_bits(v[i]).to_f32_const())
    }
    #[inline(never)]
    unsafe fn to_f16(v: [f32; 8]) -> [u16; 8] {
        lanes(|i| f16::from_f32_const(v[i]).to_bits())
    }
    #[inline(always)]
    unsafe fn pair(a: [u16; 8], b: [u16; 8]) -> [f32; 8] {
        lanes(|i| f32::from_bits(u32::from(a[i]) | u32::from(b[i]) << 16))
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let [low, high] =
            [|x: f32| f32::from_bits(x.to_bits() << 16), |x: f32| f32::from_bits(x.to_bits() & !0xFFFF)];
        lanes(|i| c[i] + low(a[i]) * low(b[i]) + high(a[i]) * high(b[i]))
    }
}
