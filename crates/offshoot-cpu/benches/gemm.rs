//! Matrix products of a classifier's linear layer, forward and backward.

mod ceilings;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use offshoot_cpu::kernels::gemm::{GemmShape, gemm};
use offshoot_cpu::kernels::simd::Isa;

use ceilings::Ceilings;

/// Features and classes of the layer.
const FEATURES: usize = 1280;
const CLASSES: usize = 1000;

fn linear(criterion: &mut Criterion<Ceilings>) {
    for batch in [1, 16] {
        let products = [
            ("y = x wT", GemmShape { trans_a: false, trans_b: true, m: batch, n: CLASSES, k: FEATURES }),
            ("dx = dy w", GemmShape { trans_a: false, trans_b: false, m: batch, n: FEATURES, k: CLASSES }),
            ("dw = dyT x", GemmShape { trans_a: true, trans_b: false, m: CLASSES, n: FEATURES, k: batch }),
        ];
        for (name, shape) in products {
            bench_product(criterion, &format!("batch {batch}: {name}"), &shape);
        }
    }
}

fn bench_product(criterion: &mut Criterion<Ceilings>, name: &str, shape: &GemmShape) {
    let GemmShape { m, n, k, .. } = *shape;
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.throughput(Throughput::Elements((2 * m * n * k) as u64));
    for isa in Isa::available() {
        group.bench_function(isa.to_string(), |bench| {
            bench.iter(|| gemm(isa, shape, black_box(&a), &b, None, &mut c));
        });
    }
    group.finish();
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = linear);
criterion_main!(benches);
