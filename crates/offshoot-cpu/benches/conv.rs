//! Convolutions and their gradients on layers of ResNet-50 and MobileNetV2. Operations are those of the sums as they are
//! written down, also where Winograd's algorithm needs fewer: these layers can be above the peak.

mod ceilings;
mod shapes;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use offshoot_cpu::kernels::Activation;
use offshoot_cpu::kernels::conv::{Epilogue, PackedFilter, conv};
use offshoot_cpu::kernels::conv_input_grad::conv_input_grad;
use offshoot_cpu::kernels::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use offshoot_cpu::kernels::element::Element;
use offshoot_cpu::kernels::simd::Isa;

use ceilings::Ceilings;
use shapes::padded;

/// Size of the input, channels in and out, kernel and stride.
const LAYERS: [[usize; 5]; 11] = [
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
    [14, 768, 3072, 1, 1],
];

fn layers(criterion: &mut Criterion<Ceilings>) {
    for (batch, layer) in [1, 16].into_iter().flat_map(|batch| LAYERS.map(|layer| (batch, layer))) {
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::PORTABLE) {
            bench_layer::<f32>(criterion, isa, batch, layer, |x| x);
            bench_layer::<bf16>(criterion, isa, batch, layer, bf16::from_f32);
        }
    }
}

fn bench_layer<E: Element>(
    criterion: &mut Criterion<Ceilings>,
    isa: Isa,
    batch: usize,
    layer: [usize; 5],
    number: fn(f32) -> E,
) {
    let s = padded(batch, layer, 1);
    let [size, in_c, out_c, kernel, stride] = layer;
    let (x, w) = (vec![number(0.5); batch * size * size * in_c], vec![0.25; out_c * in_c * kernel * kernel]);
    let dy = vec![number(0.5); batch * s.out_h * s.out_w * out_c];
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
    let bias = vec![0.1; out_c];
    let mut filter = PackedFilter::new();
    filter.set_element::<E>();
    let dtype = E::DTYPE;
    let name = format!("{dtype} {isa} batch {batch}: {size} {in_c}->{out_c} {kernel}x{kernel}/{stride}");
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    group.throughput(Throughput::Elements((2 * dy.len() * w.len() / out_c) as u64));
    filter.pack(isa, &s, &w);
    let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Activation::Relu, then: None };
    group.bench_function("forward", |b| b.iter(|| conv(isa, &s, black_box(&x), &filter, &epilogue, &mut y)));
    filter.pack_for_input_grad(isa, &s, &w);
    group.bench_function("input gradient", |b| {
        b.iter(|| conv_input_grad(isa, &s, black_box(&dy), &filter, &mut dx));
    });
    let mut workspace = vec![0.0; conv_weight_grad_workspace(isa, &s)];
    group.bench_function("weight gradient", |b| {
        b.iter(|| conv_weight_grad(isa, &s, black_box(&x), &dy, &mut dw, &mut workspace));
    });
    group.finish();
}

criterion_group!(name = benches; config = ceilings::criterion(); targets = layers);
criterion_main!(benches);
