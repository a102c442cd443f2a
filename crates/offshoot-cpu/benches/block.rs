//! Inverted residual blocks of MobileNetV2 in one step.
#![allow(missing_docs)] // what `criterion_group!` writes

mod ceilings;
mod shapes;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offshoot_cpu::kernels::Activation;
use offshoot_cpu::kernels::block::{Block, Dense, Depthwise, block};
use offshoot_cpu::kernels::conv::PackedFilter;
use offshoot_cpu::kernels::simd::Isa;

use ceilings::Ceilings;
use shapes::padded;

/// Size of the input, channels in, between and out, and the stride.
const BLOCKS: [[usize; 5]; 5] = [
    [112, 16, 96, 24, 2],
    [56, 24, 144, 24, 1],
    [28, 32, 192, 32, 1],
    [14, 64, 384, 64, 1],
    [14, 96, 576, 96, 1],
];

const RELU6: Activation = Activation::Clip { min: 0.0, max: 6.0 };

fn bench_block(criterion: &mut Criterion<Ceilings>, batch: usize, sizes: [usize; 5]) {
    let [size, in_c, between, out_c, stride] = sizes;
    let (isa, out) = (Isa::best(), size / stride);
    let expand = padded(batch, [size, in_c, between, 1, 1], 1);
    let middle = padded(batch, [size, between, between, 3, stride], between);
    let project = padded(batch, [out, between, out_c, 1, 1], 1);
    let (mut wide, mut narrow) = (PackedFilter::new(), PackedFilter::new());
    wide.pack(isa, &expand, &vec![0.25; in_c * between]);
    narrow.pack(isa, &project, &vec![0.25; between * out_c]);
    let weights = vec![0.1; 9 * between];
    let parts = Block {
        expand: Some(Dense { shape: expand, filter: &wide, bias: None, activation: RELU6 }),
        depthwise: Depthwise { shape: middle, weights: &weights, bias: None, activation: RELU6 },
        project: Dense { shape: project, filter: &narrow, bias: None, activation: Activation::None },
    };
    let (x, mut y) = (vec![0.5; batch * size * size * in_c], vec![0.0; batch * out * out * out_c]);
    let sums = size * size * in_c * between + out * out * between * (9 + out_c);
    let mut group = criterion.benchmark_group(format!("block {size} {in_c}->{between}->{out_c}/{stride}"));
    group.sample_size(10).throughput(Throughput::Elements((2 * batch * sums) as u64));
    group.bench_function(BenchmarkId::from_parameter(batch), |b| {
        b.iter(|| block(isa, &parts, black_box(&x), None, &mut y));
    });
    group.finish();
}

fn blocks(criterion: &mut Criterion<Ceilings>) {
    for batch in [1, 16] {
        for sizes in BLOCKS {
            bench_block(criterion, batch, sizes);
        }
    }
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = blocks);
criterion_main!(benches);
