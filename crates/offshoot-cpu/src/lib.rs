//! offshoot's CPU executor: plans, kernels and SIMD dispatch.

pub mod kernels;
