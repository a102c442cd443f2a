//! Vectors of NEON.

#![allow(clippy::undocumented_unsafe_blocks)] // the trait states what each method asks of its caller

use super::{Arithmetic, Kernel, Simd};
use half::f16;
#[allow(clippy::wildcard_imports)] // the intrinsics have names of their own
use std::arch::aarch64::*;

/// Four lanes of NEON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon;

/// 2^n for n in [-126, 128], that of 128 as infinity.
#[inline(always)]
unsafe fn power_of_two_4(n: int32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
}

/// The lower and the upper bf16 of each lane as f32.
#[inline(always)]
unsafe fn unpaired_4(v: float32x4_t) -> [float32x4_t; 2] {
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let high = vandq_u32(bits, vdupq_n_u32(!0xFFFF));
        [vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits)), vreinterpretq_f32_u32(high)]
    }
}

impl Arithmetic for Neon {
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn at_least(x: float32x4_t, bound: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(bound, x) }
    }
    #[inline(always)]
    unsafe fn at_most(x: float32x4_t, bound: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(bound, x) }
    }
    #[inline(always)]
    unsafe fn where_gt(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a, b), vreinterpretq_u32_f32(v))) }
    }
    #[inline(always)]
    unsafe fn zero_where_ge(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcgeq_f32(a, b))) }
    }
    #[inline(always)]
    unsafe fn where_eq(a: float32x4_t, b: float32x4_t, v: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vandq_u32(vceqq_f32(a, b), vreinterpretq_u32_f32(v))) }
    }
    #[inline(always)]
    unsafe fn select_gt(a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcgtq_f32(a, b), yes, no) }
    }
    #[inline(always)]
    unsafe fn select_nan(x: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vceqq_f32(x, x), no, yes) }
    }
    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(x) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let v = vmulq_f32(v, power_of_two_4(half));
            vmulq_f32(v, power_of_two_4(vsubq_s32(n, half)))
        }
    }
    #[inline(always)]
    unsafe fn scale_by_normal_power(v: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(v, power_of_two_4(vcvtq_s32_f32(n))) }
    }
}

impl Simd for Neon {
    const LANES: usize = 4;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 4;

    #[inline(never)]
    unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
        unsafe { kernel.run::<Neon>() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> float32x4_t {
        let mut v = [0.0f32; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n);
            vld1q_f32(v.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, n: usize, v: float32x4_t) {
        let mut lanes = [0.0f32; 4];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn permute(v: float32x4_t, from: float32x4_t) -> float32x4_t {
        unsafe {
            let (mut lanes, mut places) = ([0.0f32; 4], [0u32; 4]);
            vst1q_f32(lanes.as_mut_ptr(), v);
            vst1q_u32(places.as_mut_ptr(), vreinterpretq_u32_f32(from));
            let moved = places.map(|place| lanes[place as usize % 4]);
            vld1q_f32(moved.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(v) }
    }

    type Half = uint16x4_t;

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> uint16x4_t {
        unsafe { vld1_u16(from) }
    }
    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: uint16x4_t) {
        unsafe { vst1_u16(to, v) }
    }
    #[inline(always)]
    unsafe fn load_half_first(from: *const u16, n: usize) -> uint16x4_t {
        let mut lanes = [0u16; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            vld1_u16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_half_first(to: *mut u16, n: usize, v: uint16x4_t) {
        let mut lanes = [0u16; 4];
        unsafe {
            vst1_u16(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn from_bf16(v: uint16x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(v)) }
    }
    #[inline(always)]
    unsafe fn to_bf16(v: float32x4_t) -> uint16x4_t {
        unsafe {
            let bits = vreinterpretq_u32_f32(v);
            // Half a unit of what is kept, less one bit where that is even.
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), rounded, quiet))
        }
    }
    #[inline(always)]
    unsafe fn from_f16(v: uint16x4_t) -> float32x4_t {
        let (mut halves, mut lanes) = ([0u16; 4], [0.0f32; 4]);
        unsafe {
            vst1_u16(halves.as_mut_ptr(), v);
            for (lane, half) in lanes.iter_mut().zip(halves) {
                *lane = f16::from_bits(half).to_f32_const();
            }
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn to_f16(v: float32x4_t) -> uint16x4_t {
        let (mut halves, mut lanes) = ([0u16; 4], [0.0f32; 4]);
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), v);
            for (half, lane) in halves.iter_mut().zip(lanes) {
                *half = f16::from_f32_const(lane).to_bits();
            }
            vld1_u16(halves.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn pair(a: uint16x4_t, b: uint16x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vorrq_u32(vmovl_u16(a), vshll_n_u16::<16>(b))) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe {
            let ([a_low, a_high], [b_low, b_high]) = (unpaired_4(a), unpaired_4(b));
            vfmaq_f32(vfmaq_f32(c, a_low, b_low), a_high, b_high)
        }
    }
}
