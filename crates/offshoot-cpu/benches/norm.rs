//! The kernels that memory bounds, on the largest activation of MobileNetV2 (16 x 112 x 112 x 96), against a copy.
#![allow(missing_docs)] // what `criterion_group!` writes

mod ceilings;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use offshoot_cpu::kernels::batch_norm::{
    BatchNorm, Gate, batch_norm_apply, batch_norm_input_grad, batch_norm_reduce, batch_norm_stats,
};
use offshoot_cpu::kernels::convert::convert;
use offshoot_cpu::kernels::dropout::{Dropout, dropout};
use offshoot_cpu::kernels::elementwise::unary;
use offshoot_cpu::kernels::layout::nchw_to_nhwc;
use offshoot_cpu::kernels::pool::{Pool, PoolShape, pool, pool_grad};
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::softmax::softmax;
use offshoot_cpu::kernels::{Activation, Place};
use offshoot_graph::op::Unary;
use rayon::prelude::*;

use ceilings::Ceilings;

const CHANNELS: usize = 96;
const SIZE: usize = 16 * 112 * 112 * CHANNELS;
const RELU6: Activation = Activation::Clip { min: 0.0, max: 6.0 };

/// Runs `run`, which reads and writes `tensors` tensors of SIZE elements in all.
fn bench(criterion: &mut Criterion<Ceilings>, name: &str, tensors: u64, mut run: impl FnMut()) {
    let mut group = criterion.benchmark_group("16x112x112x96");
    group.throughput(Throughput::Bytes(4 * SIZE as u64 * tensors)).sample_size(10);
    group.bench_function(name, |b| b.iter(&mut run));
    group.finish();
}

fn input() -> Vec<f32> {
    (0..SIZE).map(|i| (i % 1000) as f32 * 0.004 - 2.0).collect()
}

fn elementwise(criterion: &mut Criterion<Ceilings>) {
    let (x, mut y) = (input(), vec![0.0; SIZE]);
    bench(criterion, "copy", 2, || {
        y.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(y, x)| y.copy_from_slice(x));
    });
    bench(criterion, "relu", 2, || unary(Isa::best(), Unary::Relu, &x, &mut y));
    bench(criterion, "silu", 2, || unary(Isa::best(), Unary::Silu, &x, &mut y));
    let keys: Vec<i64> = (0..16).collect();
    let mask = Dropout { p: 0.2, layer: 1, keys: &keys };
    bench(criterion, "dropout", 2, || dropout(Isa::best(), &mask, &x, &mut y));
    bench(criterion, "softmax of each pixel", 2, || softmax(Isa::best(), &x, CHANNELS, &mut y));
    bench(criterion, "NCHW to NHWC", 2, || nchw_to_nhwc(16, CHANNELS, 112 * 112, &x, &mut y));
    let mut half = vec![bf16::ZERO; SIZE];
    let mut group = criterion.benchmark_group("16x112x112x96");
    group.throughput(Throughput::Bytes(6 * SIZE as u64)).sample_size(10);
    group.bench_function("f32 to bf16", |b| b.iter(|| convert(Isa::best(), &x, &mut half)));
    group.finish();
}

fn batch_norm(criterion: &mut Criterion<Ceilings>) {
    let isa = Isa::best();
    let (x, mut y) = (input(), vec![0.5; SIZE]);
    let (mut mean, mut inv_std) = (vec![0.0; CHANNELS], vec![0.0; CHANNELS]);
    bench(criterion, "batch norm: statistics", 1, || {
        batch_norm_stats(isa, &x, 1e-5, &mut mean, &mut inv_std, None);
    });
    let ones = vec![1.0; CHANNELS];
    let norm = BatchNorm { mean: &mean, inv_std: &inv_std, gamma: &ones, beta: &ones };
    bench(criterion, "batch norm: apply, relu6", 2, || batch_norm_apply(isa, &x, &norm, None, RELU6, &mut y));
    let (mut dgamma, mut dbeta) = (ones.clone(), ones.clone());
    let gate = Gate::Recomputed(RELU6);
    bench(criterion, "batch norm: reduce", 2, || {
        batch_norm_reduce(isa, &x, &y, &norm, gate, &mut dgamma, &mut dbeta);
    });
    bench(criterion, "batch norm: input gradient", 3, || {
        batch_norm_input_grad(isa, &x, Place::Over(&mut y), &norm, gate, &ones, &ones);
    });
}

fn pooling(criterion: &mut Criterion<Ceilings>) {
    let isa = Isa::best();
    let shape = PoolShape {
        batch: 16,
        in_h: 112,
        in_w: 112,
        channels: CHANNELS,
        out_h: 56,
        out_w: 56,
        kernel: [3; 2],
        strides: [2; 2],
        pads: [1; 4],
        dilations: [1; 2],
    };
    let (x, mut dx) = (input(), vec![0.0; SIZE]);
    let (mut y, dy) = (vec![0.0; SIZE / 4], vec![0.5; SIZE / 4]);
    bench(criterion, "max pool 3x3/2", 1, || pool(isa, Pool::Max, &shape, &x, &mut y));
    bench(criterion, "max pool 3x3/2: gradient", 2, || pool_grad(isa, Pool::Max, &shape, &x, &dy, &mut dx));
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = elementwise, batch_norm, pooling);
criterion_main!(benches);
