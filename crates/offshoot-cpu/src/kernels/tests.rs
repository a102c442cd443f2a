//! Operands that safe code can pass and no kernel may take: each is refused with a panic before a pointer is made of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ConvShape;
use super::batch_norm::BatchNorm;
use super::conv::{Epilogue, PackedFilter, conv};
use super::conv_input_grad::conv_input_grad;
use super::conv_weight_grad::{conv_weight_grad, conv_weight_grad_workspace};
use super::depthwise;
use super::gemm::{GemmShape, gemm, matmul};
use super::int8::conv::{ByteFilter, Numbers};
use super::int8::depthwise::{DepthwiseFilter, depthwise as byte_depthwise};
use super::int8::{Output, Requantize, conv::conv as byte_conv};
use super::layout::transpose;
use super::lstm::{Sizes, Work, lstm};
use super::pool::{Pool, PoolShape, pool, pool_grad};
use super::shape::{Columns, copy_columns, copy_rows};
use super::simd::Isa;
use super::source::Source;
use super::strided::{Strided, copy_strided};
use super::{Activation, int8};

/// Half of the bits of a `usize`: the product of two of these is 0.
const HUGE: usize = 1 << (usize::BITS / 2);

/// Asserts that `call` panics, on every path.
#[track_caller]
fn refused(what: &str, call: impl Fn(Isa)) {
    for isa in Isa::available() {
        assert!(catch_unwind(AssertUnwindSafe(|| call(isa))).is_err(), "{what} on {isa}");
    }
}

fn plain_shape() -> ConvShape {
    ConvShape { in_h: 8, out_h: 8, ..ConvShape::of_matrices(8, 16, 16) }
}

/// Convolutions whose sizes wrap, or that are none.
fn wrong_shapes() -> Vec<ConvShape> {
    let plain = plain_shape();
    vec![
        ConvShape { batch: HUGE, out_w: HUGE, in_w: HUGE, ..plain },
        ConvShape { in_h: HUGE, in_w: HUGE, out_h: HUGE, out_w: HUGE, ..plain },
        ConvShape { in_c: 0, out_h: HUGE, out_w: HUGE, ..plain },
        ConvShape { in_c: HUGE, out_c: HUGE, ..plain },
        ConvShape { kernel: [HUGE, HUGE], ..plain },
        ConvShape { pads: [usize::MAX, 0, 0, 0], ..plain },
        ConvShape { pads: [0, usize::MAX - 7, 0, 0], ..plain },
        ConvShape { dilations: [usize::MAX; 2], kernel: [2, 2], ..plain },
        ConvShape { strides: [usize::MAX / 7, 1], ..plain },
        ConvShape { strides: [0, 1], ..plain },
        ConvShape { groups: 0, ..plain },
        ConvShape { groups: 3, ..plain },
    ]
}

/// As many elements as products that wrap say.
fn wrapped<const N: usize>(sizes: [usize; N]) -> usize {
    let len = sizes.into_iter().fold(1usize, usize::wrapping_mul);
    if len < 1 << 20 { len } else { 0 }
}

#[test]
fn products_of_matrices_whose_sizes_wrap_are_refused() {
    for [m, n, k] in
        [[HUGE, HUGE, 0], [HUGE, 0, HUGE], [0, HUGE, HUGE], [HUGE, HUGE, HUGE], [usize::MAX, 2, 0]]
    {
        for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let shape = GemmShape { trans_a, trans_b, m, n, k };
            refused(&format!("{shape:?}"), |isa| gemm(isa, &shape, &[], &[], None, &mut []));
        }
    }
    let shape = GemmShape { trans_a: false, trans_b: true, m: HUGE, n: 2, k: 0 };
    refused("many matrices", |isa| matmul(isa, HUGE, &shape, &[], &[], &mut []));
    // No rows of a column each are no elements, and nothing to do.
    let shape = GemmShape { trans_a: false, trans_b: true, m: 0, n: HUGE, k: 1 };
    refused("a matrix that is not there", |isa| gemm(isa, &shape, &[], &[], None, &mut []));
    let shape = GemmShape { trans_a: false, trans_b: true, m: 0, n: HUGE, k: 0 };
    gemm(Isa::best(), &shape, &[], &[], None, &mut []);
}

#[test]
fn convolutions_whose_sizes_wrap_are_refused() {
    for s in wrong_shapes() {
        let what = format!("{s:?}");
        let x = vec![0.0f32; wrapped([s.batch, s.in_h, s.in_w, s.in_c])];
        let y = vec![0.0f32; wrapped([s.batch, s.out_h, s.out_w, s.out_c])];
        let w = vec![0.0f32; wrapped([s.out_c, s.in_c / s.groups.max(1), s.kernel[0], s.kernel[1]])];
        refused(&what, |isa| PackedFilter::new().pack(isa, &s, &w));
        refused(&what, |isa| PackedFilter::new().pack_for_input_grad(isa, &s, &w));
        refused(&what, |isa| {
            let mut filter = PackedFilter::new();
            filter.pack(isa, &plain_shape(), &[0.0; 256]);
            conv(isa, &s, &x, &filter, &Epilogue::NONE, &mut y.clone());
        });
        refused(&what, |isa| {
            let mut filter = PackedFilter::new();
            filter.pack_for_input_grad(isa, &plain_shape(), &[0.0; 256]);
            conv_input_grad(isa, &s, &y, &filter, &mut x.clone());
        });
        refused(&what, |isa| assert_eq!(conv_weight_grad_workspace(isa, &s), 0));
        refused(&what, |isa| conv_weight_grad(isa, &s, &x, &y, &mut w.clone(), &mut [0.0; 4096]));
    }
}

#[test]
fn depthwise_convolutions_whose_sizes_wrap_are_refused() {
    for s in wrong_shapes() {
        let s = ConvShape { groups: s.in_c, out_c: s.in_c, ..s };
        if s.fits() {
            continue;
        }
        let what = format!("{s:?}");
        let x = vec![0.0f32; wrapped([s.batch, s.in_h, s.in_w, s.in_c])];
        let y = vec![0.0f32; wrapped([s.batch, s.out_h, s.out_w, s.out_c])];
        let w = vec![0.0f32; wrapped([s.out_c, s.kernel[0], s.kernel[1]])];
        refused(&what, |_| depthwise::pack(&s, &w, &mut w.clone()));
        refused(&what, |isa| {
            depthwise::forward(isa, &s, &x, &w, None, (Activation::None, None), &mut y.clone())
        });
        refused(&what, |isa| depthwise::input_grad(isa, &s, &y, &w, &mut x.clone()));
        refused(&what, |isa| depthwise::weight_grad(isa, &s, &x, &y, &mut w.clone()));
        refused(&what, |isa| {
            let x = Source::Plain(&x[..]);
            depthwise::forward_in_training(isa, &s, &x, &w, &mut y.clone(), None);
        });
    }
}

#[test]
fn byte_convolutions_whose_sizes_wrap_are_refused() {
    let bounds = (f32::NEG_INFINITY, f32::INFINITY);
    for s in wrong_shapes() {
        let what = format!("{s:?}");
        let x = vec![0; wrapped([s.batch, s.in_h, s.in_w, s.in_c])];
        let y = vec![0.0f32; wrapped([s.batch, s.out_h, s.out_w, s.out_c])];
        let w = vec![0; wrapped([s.out_c, s.in_c / s.groups.max(1), s.kernel[0], s.kernel[1]])];
        let (bias, scale) = (vec![0; s.out_c % HUGE], vec![1.0; s.out_c % HUGE]);
        let numbers = Numbers { weights: &w, bias: &bias, scale: &scale, zero_point: 0 };
        refused(&what, |isa| drop(ByteFilter::pack(isa, &s, &numbers)));
        refused(&what, |_| drop(DepthwiseFilter::pack(&s, &numbers)));
        refused(&what, |isa| {
            let plain = Numbers { weights: &[0; 256], bias: &[0; 16], scale: &[1.0; 16], zero_point: 0 };
            let filter = ByteFilter::pack(isa, &plain_shape(), &plain);
            byte_conv(isa, &s, &x, &filter, Output::Floats { y: &mut y.clone(), bounds });
        });
        let by_channel = ConvShape { groups: s.in_c, out_c: s.in_c, ..s };
        if by_channel.fits() {
            continue;
        }
        refused(&what, |isa| {
            let plain = Numbers { weights: &[0; 16], bias: &[0; 16], scale: &[1.0; 16], zero_point: 0 };
            let filter = DepthwiseFilter::pack(&ConvShape { groups: 16, ..plain_shape() }, &plain);
            byte_depthwise(isa, &by_channel, &x, &filter, Output::Floats { y: &mut y.clone(), bounds });
        });
    }
}

/// The same weights lie otherwise for another width of the picture, another form of the window and another path.
#[test]
fn a_byte_filter_for_another_shape_is_refused() {
    let window = |in_w: usize, out_w: usize, kernel: [usize; 2]| ConvShape {
        in_h: 2,
        in_w,
        in_c: 4,
        out_h: 2,
        out_w,
        out_c: 8,
        kernel,
        pads: [kernel[0] / 2, kernel[1] / 2, kernel[0] / 2, kernel[1] / 2],
        ..ConvShape::of_matrices(1, 4, 8)
    };
    let packed = window(14, 14, [3, 3]);
    let weights: Vec<i8> = (0..288).map(|i| (i % 255 - 127) as i8).collect();
    let numbers = Numbers { weights: &weights, bias: &[0; 8], scale: &[1.0; 8], zero_point: 3 };
    let bounds = (f32::NEG_INFINITY, f32::INFINITY);
    let run = |isa: Isa, filter: &ByteFilter, s: &ConvShape| {
        let x = vec![0; s.batch * s.in_h * s.in_w * s.in_c];
        let mut y = vec![0.0; s.batch * s.out_h * s.out_w * s.out_c];
        byte_conv(isa, s, &x, filter, Output::Floats { y: &mut y, bounds });
    };
    for isa in Isa::available() {
        let filter = ByteFilter::pack(isa, &packed, &numbers);
        run(isa, &filter, &packed);
        run(isa, &filter, &ConvShape { batch: 2, in_h: 1, out_h: 1, ..packed });
    }
    // Narrower than a tile, so that windows are gathered; wider; and windows of as many pixels.
    for other in
        [window(3, 3, [3, 3]), window(28, 28, [3, 3]), window(14, 14, [1, 9]), window(14, 14, [9, 1])]
    {
        refused(&format!("{other:?}"), |isa| run(isa, &ByteFilter::pack(isa, &packed, &numbers), &other));
    }
    let grouped = ConvShape { in_c: 8, out_c: 8, groups: 2, ..packed };
    refused("groups", |isa| run(isa, &ByteFilter::pack(isa, &packed, &numbers), &grouped));
    for other in Isa::available() {
        let filter = ByteFilter::pack(other, &packed, &numbers);
        for isa in Isa::available().into_iter().filter(|&isa| isa != other) {
            let result = catch_unwind(AssertUnwindSafe(|| run(isa, &filter, &packed)));
            assert!(result.is_err(), "{isa}, packed for {other}");
        }
    }
}

#[test]
fn pooling_whose_sizes_wrap_is_refused() {
    let plain = PoolShape {
        batch: 1,
        in_h: 4,
        in_w: 4,
        channels: 4,
        out_h: 4,
        out_w: 4,
        kernel: [1, 1],
        strides: [1, 1],
        pads: [0; 4],
        dilations: [1, 1],
    };
    let wrong = [
        PoolShape { batch: HUGE, in_w: HUGE, out_w: HUGE, ..plain },
        PoolShape { in_h: HUGE, in_w: HUGE, out_h: HUGE, out_w: HUGE, ..plain },
        PoolShape { channels: 0, in_h: HUGE, out_w: HUGE, ..plain },
        PoolShape { pads: [usize::MAX - 2, 0, 0, 0], ..plain },
        PoolShape { kernel: [2, 2], dilations: [usize::MAX, 1], ..plain },
        PoolShape { strides: [usize::MAX / 3, 1], ..plain },
        PoolShape { kernel: [0, 1], ..plain },
    ];
    for s in wrong {
        let x = vec![0.0f32; wrapped([s.batch, s.in_h, s.in_w, s.channels])];
        let y = vec![0.0f32; wrapped([s.batch, s.out_h, s.out_w, s.channels])];
        for kind in [Pool::Max, Pool::Average { count_include_pad: true }] {
            let what = format!("{kind:?} of {s:?}");
            refused(&what, |isa| pool(isa, kind, &s, &x, &mut y.clone()));
            refused(&what, |isa| pool_grad(isa, kind, &s, &x, &y, &mut x.clone()));
            refused(&what, |_| {
                let requantize = Requantize { zero_point: 0, bounds: [0, 255] };
                let mean = int8::pool::Mean { zero_point: 0, scale: 1.0, requantize };
                int8::pool::pool(kind, &mean, &s, &vec![0; x.len()], &mut vec![0; y.len()]);
            });
        }
    }
}

#[test]
fn what_moves_elements_refuses_sizes_that_wrap() {
    refused("transpose", |_| transpose::<f32>(1, HUGE, HUGE, &[], &mut []));
    refused("transpose of none", |_| transpose::<f32>(0, HUGE, HUGE, &[], &mut []));
    refused("places", |_| copy_strided::<f32>(&[], &Strided::dense(vec![HUGE, 1, HUGE]), &mut []));
    refused("no permutation", |_| drop(Strided::dense(vec![2, 2]).permuted(&[0, 0])));
    refused("rows", |_| assert!(copy_rows::<f32>(&[], usize::MAX / 4 + 1, &[0; 4], &mut []).is_err()));
    let from = Columns { row: 4, start: 0, width: 2 };
    let to = Columns { row: 4, start: usize::MAX, width: 2 };
    refused("columns before the row", |_| copy_columns::<f32>(&[0.0; 8], from, &mut [0.0; 8], to));
    refused("columns of rows that wrap", |_| {
        let to = Columns { row: usize::MAX / 2 + 1, start: 0, width: 2 };
        copy_columns::<f32>(&[0.0; 8], from, &mut [], to);
    });
}

#[test]
fn a_recurrence_whose_sizes_wrap_is_refused() {
    for (steps, batch, input, hidden) in [
        (1, 1, 0, 1 << (usize::BITS - 2)),
        (HUGE, HUGE, 1, 1),
        (1, HUGE, 0, HUGE),
        (1, 1, 0, usize::MAX / 2 + 1),
    ] {
        let sizes = Sizes { steps, batch, input, hidden };
        refused(&format!("{sizes:?}"), |isa| {
            lstm(isa, sizes, &[], &[], &mut Work::default(), [&mut [], &mut []]);
        });
    }
}

/// The vectors of a norm that differ in length, and rows that are not there.
#[test]
fn operands_that_do_not_fit_each_other_are_refused() {
    let (x, four, three) = ([0.0f32; 32], [1.0f32; 4], [1.0f32; 3]);
    let norm = BatchNorm { mean: &four, inv_std: &four, gamma: &three, beta: &four };
    let shape = ConvShape::of_matrices(8, 4, 4);
    refused("a norm without a scale for each channel", |isa| {
        let mut filter = PackedFilter::new();
        filter.pack(isa, &shape, &[0.0; 16]);
        let source = Source::norm(&x, &norm, Activation::Relu);
        super::conv::conv_in_training(isa, &shape, &source, &filter, &mut [0.0; 32], None);
    });
    refused("rows behind the operand", |isa| {
        Source::Plain(&x[..]).read(isa, 4, 0..9, 0..4, (&mut [0.0; 64], 4));
    });
    refused("rows whose place wraps", |isa| {
        let first = usize::MAX / 4 + 1;
        Source::Plain(&x[..]).read(isa, 4, first..first + 1, 0..4, (&mut [0.0; 64], 4));
    });
    refused("no room for the rows", |isa| {
        Source::Plain(&x[..]).read(isa, 4, 0..3, 0..4, (&mut [0.0; 64], usize::MAX / 2 + 1));
    });
}

#[test]
fn a_path_comes_from_the_processor() {
    let all = Isa::available();
    assert_eq!(all[0], Isa::PORTABLE);
    assert_eq!(all.last(), Some(&Isa::best()));
    for name in ["portable", "avx2", "avx512", "avx512bf16", "amx", "neon", "sse2", ""] {
        let found = Isa::by_name(name);
        assert_eq!(found.is_some(), all.iter().any(|isa| isa.name() == name), "{name}");
        assert!(found.is_none_or(|isa| isa.to_string() == name && all.contains(&isa)), "{name}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_eq!(Isa::by_name("neon"), None);
    }
}
