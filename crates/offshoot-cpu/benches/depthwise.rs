//! Depthwise convolutions of MobileNetV2 (3x3) and EfficientNet-Lite (5x5): forward and both gradients.
#![allow(missing_docs)] // what `criterion_group!` writes

mod ceilings;
mod shapes;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offshoot_cpu::kernels::simd::Isa;
use offshoot_cpu::kernels::{Activation, depthwise};

use ceilings::Ceilings;
use shapes::padded;

/// (side, channels, kernel, stride)
const LAYERS: [(usize, usize, usize, usize); 9] = [
    (112, 32, 3, 1),
    (112, 96, 3, 2),
    (56, 144, 3, 1),
    (28, 192, 3, 1),
    (14, 384, 3, 1),
    (14, 576, 3, 1),
    (7, 960, 3, 1),
    (28, 240, 5, 1),
    (7, 1152, 5, 1),
];

fn layer(
    criterion: &mut Criterion<Ceilings>,
    batch: usize,
    (side, channels, kernel, stride): (usize, usize, usize, usize),
) {
    let isa = Isa::best();
    let shape = padded(batch, [side, channels, channels, kernel, stride], channels);
    let x = vec![0.5; batch * side * side * channels];
    let dy = vec![0.25; batch * shape.out_h * shape.out_w * channels];
    let weights = vec![0.1; kernel * kernel * channels];
    let bias = vec![0.1; channels];
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weights.clone());

    let name = format!("depthwise {side}x{side}x{channels} {kernel}x{kernel}/{stride}");
    let mut group = criterion.benchmark_group(name);
    // Reads the one and writes the other: to be held against a copy.
    group.throughput(Throughput::Bytes(4 * (x.len() + y.len()) as u64));
    group.sample_size(10);
    let relu6 = Activation::Clip { min: 0.0, max: 6.0 };
    group.bench_function(BenchmarkId::new("forward", batch), |b| {
        b.iter(|| depthwise::forward(isa, &shape, &x, &weights, Some(&bias), (relu6, None), &mut y));
    });
    group.bench_function(BenchmarkId::new("input gradient", batch), |b| {
        b.iter(|| depthwise::input_grad(isa, &shape, &dy, &weights, &mut dx));
    });
    group.bench_function(BenchmarkId::new("weight gradient", batch), |b| {
        b.iter(|| depthwise::weight_grad(isa, &shape, &x, &dy, &mut dw));
    });
    group.finish();
}

fn layers(criterion: &mut Criterion<Ceilings>) {
    for batch in [1, 16] {
        for sizes in LAYERS {
            layer(criterion, batch, sizes);
        }
    }
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = layers);
criterion_main!(benches);
