//! The kernels: plain functions on slices, NHWC, f32. One file a kernel, generic over [`simd::Simd`].
#![allow(unsafe_code)]

pub mod simd;
