//! The path of plain Rust.

#![allow(clippy::undocumented_unsafe_blocks)] // the traits state what each method asks of its caller

use super::{Integers, Words};
use crate::kernels::simd::Portable;

impl Integers for Portable {
    type I = [i32; 8];

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> [i32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> [i32; 8] {
        unsafe { from.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i32(to: *mut i32, v: [i32; 8]) {
        unsafe { to.cast::<[i32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add_i32(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn to_floats(v: [i32; 8]) -> [f32; 8] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_integers(v: [f32; 8]) -> [i32; 8] {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [i32; 8] {
        unsafe { from.cast::<[u8; 8]>().read_unaligned().map(i32::from) }
    }
    #[inline(always)]
    unsafe fn load_bytes_first(from: *const u8, n: usize) -> [i32; 8] {
        let mut bytes = [0u8; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), n) };
        bytes.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: [i32; 8]) {
        unsafe { to.cast::<[u8; 8]>().write_unaligned(v.map(|x| x as u8)) }
    }
    #[inline(always)]
    unsafe fn store_bytes_first(to: *mut u8, n: usize, v: [i32; 8]) {
        unsafe { std::ptr::copy_nonoverlapping(v.map(|x| x as u8).as_ptr(), to, n) }
    }
    #[inline(always)]
    unsafe fn store_requantized(to: [*mut u8; 2], y: [[f32; 8]; 2], zero_point: u8, [low, high]: [u8; 2]) {
        let byte =
            |y: f32| (y.round_ties_even() + f32::from(zero_point)).max(low.into()).min(high.into()) as u8;
        for (to, y) in to.into_iter().zip(y) {
            unsafe { to.cast::<[u8; 8]>().write_unaligned(y.map(byte)) };
        }
    }
    #[inline(always)]
    unsafe fn copy_bytes(from: *const u8, _: usize, to: *mut u8, n: usize) {
        unsafe { std::ptr::copy_nonoverlapping(from, to, n) }
    }
}

impl Words for Portable {
    #[inline(always)]
    unsafe fn add_cells<const CELLS: usize>(
        sum: [i32; 8],
        a: [*const u8; CELLS],
        offset: usize,
        b: [[i32; 8]; CELLS],
    ) -> [i32; 8] {
        let mut words = [[0i16; 2]; 8];
        for (a, b) in a.into_iter().zip(b) {
            // The even and the odd bytes: those of `a` without, those of `b` with their sign.
            let a = unsafe { a.add(offset).cast::<i32>().read_unaligned() };
            let [even, odd] = [halves(a & 0x00FF_00FF), halves((a >> 8) & 0x00FF_00FF)];
            for (words, b) in words.iter_mut().zip(b) {
                for (half, b) in halves(b).into_iter().enumerate() {
                    words[half] += even[half] * (b << 8 >> 8) + odd[half] * (b >> 8);
                }
            }
        }
        std::array::from_fn(|i| sum[i].wrapping_add(i32::from(words[i][0]) + i32::from(words[i][1])))
    }
}

/// The lower and the upper 16 bits.
#[inline(always)]
fn halves(x: i32) -> [i16; 2] {
    [x as i16, (x >> 16) as i16]
}
