//! Convolutions of bytes on layers of ResNet-50 and MobileNetV2, with weights of eight and of seven bits.

mod ceilings;
mod shapes;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use offshoot_cpu::kernels::int8::conv::{ByteFilter, Numbers, conv};
use offshoot_cpu::kernels::int8::depthwise::{DepthwiseFilter, depthwise};
use offshoot_cpu::kernels::int8::{Output, Requantize};
use offshoot_cpu::kernels::simd::Isa;

use ceilings::Ceilings;
use shapes::padded;

/// Size of the input, channels in and out, kernel and stride.
const LAYERS: [[usize; 5]; 10] = [
    [224, 3, 64, 7, 2],
    [56, 64, 64, 3, 1],
    [14, 256, 256, 3, 1],
    [7, 512, 512, 3, 1],
    [56, 128, 128, 3, 2],
    [56, 64, 256, 1, 1],
    [14, 1024, 256, 1, 1],
    [224, 3, 32, 3, 2],
    [56, 24, 144, 1, 1],
    [14, 96, 576, 1, 1],
];

/// The same of depthwise convolutions.
const DEPTHWISE: [[usize; 5]; 4] =
    [[112, 32, 32, 3, 1], [112, 96, 96, 3, 2], [28, 192, 192, 3, 1], [14, 576, 576, 3, 1]];

const REQUANTIZE: Requantize = Requantize { zero_point: 0, bounds: [0, 255] };

fn layers(criterion: &mut Criterion<Ceilings>) {
    for (batch, weight) in [(1, 100), (16, 100), (16, 50)] {
        for isa in Isa::available().into_iter().filter(|&isa| isa.name() == "avx2" || isa == Isa::best()) {
            LAYERS.iter().for_each(|&layer| bench(criterion, isa, batch, layer, weight, false));
            DEPTHWISE.iter().for_each(|&layer| bench(criterion, isa, batch, layer, weight, true));
        }
    }
}

fn bench(
    criterion: &mut Criterion<Ceilings>,
    isa: Isa,
    batch: usize,
    layer: [usize; 5],
    weight: i8,
    depthwise_layer: bool,
) {
    let [size, in_c, out_c, kernel, stride] = layer;
    let shape = padded(batch, layer, if depthwise_layer { in_c } else { 1 });
    let weights = vec![weight; out_c * in_c / shape.groups * kernel * kernel];
    let (bias, scale) = (vec![0; out_c], vec![1e-4; out_c]);
    let numbers = Numbers { weights: &weights, bias: &bias, scale: &scale, zero_point: 0 };
    let x = vec![3u8; batch * size * size * in_c];
    let mut y = vec![0u8; batch * shape.out_h * shape.out_w * out_c];
    let name = format!(
        "{isa} int8 weights {weight} batch {batch}: {size} {in_c}->{out_c} {kernel}x{kernel}/{stride}"
    );
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.throughput(Throughput::Elements((2 * y.len() * weights.len() / out_c) as u64));
    if depthwise_layer {
        let filter = DepthwiseFilter::pack(&shape, &numbers);
        group.bench_function("depthwise", |b| {
            b.iter(|| {
                let output = Output::Bytes { y: &mut y, requantize: REQUANTIZE, residual: None };
                depthwise(isa, &shape, black_box(&x), &filter, output);
            });
        });
    } else {
        let filter = ByteFilter::pack(isa, &shape, &numbers);
        group.bench_function("forward", |b| {
            b.iter(|| {
                let output = Output::Bytes { y: &mut y, requantize: REQUANTIZE, residual: None };
                conv(isa, &shape, black_box(&x), &filter, output);
            });
        });
    }
    group.finish();
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = layers);
criterion_main!(benches);
