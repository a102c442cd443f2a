//! Every path against sums written down as they are defined.

use offshoot_graph::op::{Binary, Clip, Unary};
use offshoot_graph::random::{Purpose, Random};
use proptest::prelude::*;

use super::super::ConvShape;
use super::super::conv::weights_len;
use super::super::elementwise::{binary, unary_in_place};
use super::super::pool::{Pool, PoolShape};
use super::super::quantize::{Scales, quantize};
use super::super::simd::Isa;
use super::binary::{self as int8_binary, Function, Other, Stored, combine};
use super::conv::{ByteFilter, Numbers, conv};
use super::depthwise::{DepthwiseFilter, depthwise, supports};
use super::pool::{Mean, global_average, pool};
use super::simd::Packing;
use super::table::table;
use super::{Output, Requantize, Residual};

struct Bytes(Random);

impl Bytes {
    fn new(seed: u64) -> Bytes {
        Bytes(Random::new(seed, 0, 0, Purpose::Init))
    }

    /// `len` bytes, the largest and the smallest among them often.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.0.normal() * 100.0 + 128.0).clamp(0.0, 255.0) as u8).collect()
    }

    fn weights(&mut self, len: usize, [low, high]: [f32; 2]) -> Vec<i8> {
        (0..len).map(|_| (self.0.normal() * high).clamp(low, high) as i8).collect()
    }
}

/// The sums of products of a convolution, NHWC.
fn sums(s: &ConvShape, x: &[u8], numbers: &Numbers<'_>) -> Vec<i64> {
    let [kernel_h, kernel_w] = s.kernel;
    let (depth, cols) = (s.in_c / s.groups, s.out_c / s.groups);
    let mut sums = Vec::new();
    for index in 0..s.batch * s.out_h * s.out_w * s.out_c {
        let (k, pixel) = (index % s.out_c, index / s.out_c);
        let (ow, oh, n) = (pixel % s.out_w, pixel / s.out_w % s.out_h, pixel / s.out_w / s.out_h);
        let mut sum = i64::from(numbers.bias[k]);
        for (c, r, t) in
            (0..depth).flat_map(|c| (0..kernel_h).flat_map(move |r| (0..kernel_w).map(move |t| (c, r, t))))
        {
            let h = (oh * s.strides[0] + r * s.dilations[0]).wrapping_sub(s.pads[0]);
            let w = (ow * s.strides[1] + t * s.dilations[1]).wrapping_sub(s.pads[1]);
            if h < s.in_h && w < s.in_w {
                let x = x[((n * s.in_h + h) * s.in_w + w) * s.in_c + k / cols * depth + c];
                let weight = numbers.weights[((k * depth + c) * kernel_h + r) * kernel_w + t];
                sum += (i64::from(x) - i64::from(numbers.zero_point)) * i64::from(weight);
            }
        }
        sums.push(sum);
    }
    sums
}

fn requantized(y: f32, to: Requantize) -> u8 {
    let y = y.round_ties_even() as i32 + i32::from(to.zero_point);
    y.clamp(to.bounds[0].into(), to.bounds[1].into()) as u8
}

fn conv_shapes() -> impl Strategy<Value = ConvShape> {
    let sizes = (1usize..3, 1usize..9, 1usize..19, [1usize..8, 1usize..8], 1usize..4);
    let window = ([1usize..5, 1usize..5], [1usize..3, 1usize..3], [0usize..3, 0usize..3], 1usize..3);
    (sizes, window).prop_map(|((batch, in_h, in_w, [c, k], groups), (kernel, strides, pads, dilation))| {
        let out = |len: usize, i: usize| {
            (len + 2 * pads[i]).saturating_sub((kernel[i] - 1) * dilation + 1) / strides[i] + 1
        };
        ConvShape {
            batch,
            in_h: in_h + 8,
            in_w: in_w + 8,
            in_c: c * 9 * groups,
            out_h: out(in_h + 8, 0),
            out_w: out(in_w + 8, 1),
            out_c: k * 11 * groups,
            kernel,
            strides,
            pads: [pads[0], pads[1], pads[0], pads[1]],
            dilations: [dilation; 2],
            groups,
        }
    })
}

fn check_conv(shape: &ConvShape, seed: u64, seven_bits: bool) {
    let mut random = Bytes::new(seed);
    let x = random.bytes(shape.batch * shape.in_h * shape.in_w * shape.in_c);
    let area = shape.kernel[0] * shape.kernel[1] * (shape.in_c / shape.groups);
    let weights =
        random.weights(shape.out_c * area, if seven_bits { [-64.0, 64.0] } else { [-128.0, 127.0] });
    let bias: Vec<i32> = (0..shape.out_c).map(|k| (k as i32 - 5) * 1000).collect();
    let scale: Vec<f32> = (0..shape.out_c).map(|k| 0.3 / (area as f32).sqrt() / (100.0 + k as f32)).collect();
    let numbers = Numbers { weights: &weights, bias: &bias, scale: &scale, zero_point: 117 };
    let wanted = sums(shape, &x, &numbers);
    let scaled = |i: usize| wanted[i] as f32 * scale[i % shape.out_c];
    let requantize = Requantize { zero_point: 100, bounds: [90, 230] };
    let plain: Vec<u8> = (0..wanted.len()).map(|i| requantized(scaled(i), requantize)).collect();
    let floats: Vec<f32> = (0..wanted.len()).map(|i| scaled(i).clamp(-3.0, 100.0)).collect();
    let other = random.bytes(wanted.len());
    let sum = Requantize { zero_point: 3, bounds: [0, 255] };
    let residual = Residual { x: &other, x_zero_point: 120, x_scale: 0.75, scale: 1.25, sum };
    // These numbers are exact in f32.
    let added: Vec<u8> = (0..wanted.len())
        .map(|i| {
            let y = f32::from(plain[i]) - 100.0;
            requantized(y * 1.25 + (f32::from(other[i]) - 120.0) * 0.75, sum)
        })
        .collect();
    let run = |run: &dyn Fn(Output<'_>), what: &str| {
        let (mut y, mut z) = (vec![0; wanted.len()], vec![0.0; wanted.len()]);
        run(Output::Bytes { y: &mut y, requantize, residual: None });
        assert!(y == plain, "bytes of {what}");
        run(Output::Bytes { y: &mut y, requantize, residual: Some(residual) });
        assert!(y == added, "bytes with a residual of {what}");
        y.copy_from_slice(&other);
        let inside = Residual { x: &[], ..residual };
        run(Output::Bytes { y: &mut y, requantize, residual: Some(inside) });
        assert!(y == added, "bytes over a residual of {what}");
        run(Output::Floats { y: &mut z, bounds: (-3.0, 100.0) });
        assert!(z == floats, "floats of {what}");
    };
    for isa in paths() {
        for packing in [Packing::of(isa), Packing::for_product(isa, usize::MAX, usize::MAX), Packing::GROUPED]
        {
            let filter = ByteFilter::pack_as(isa, packing, shape, &numbers);
            run(&|out| conv(isa, shape, &x, &filter, out), &format!("{shape:?}, {isa} {packing:?}"));
        }
    }
    if supports(shape) {
        let filter = DepthwiseFilter::pack(shape, &numbers);
        for isa in Isa::available() {
            run(&|out| depthwise(isa, shape, &x, &filter, out), &format!("{shape:?}, depthwise {isa}"));
        }
    }
}

/// Those of this machine, and tiles in plain Rust.
fn paths() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().chain([Isa::EMULATED_TILES])
}

/// Windows that lie beside the picture altogether, or over all of it.
#[test]
fn windows_beside_the_picture_give_their_sums() {
    for (in_w, kernel_w, pads) in
        [(3, 1, [2, 3]), (3, 2, [4, 3]), (1, 3, [3, 4]), (2, 5, [6, 5]), (30, 2, [0, 3])]
    {
        let shape = ConvShape {
            batch: 2,
            in_h: 2,
            in_w,
            in_c: 9,
            out_h: 2,
            out_w: in_w + pads[0] + pads[1] - kernel_w + 1,
            out_c: 11,
            kernel: [2, kernel_w],
            strides: [1; 2],
            pads: [0, pads[0], 1, pads[1]],
            dilations: [1; 2],
            groups: 1,
        };
        check_conv(&shape, 1, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions_are_their_sums(shape in conv_shapes(), seed in 0u64..1000, seven_bits in any::<bool>()) {
        check_conv(&shape, seed, seven_bits);
    }

    /// Lines of whole tiles of some path or of all, and windows of more than a pixel, some of them beyond the picture.
    #[test]
    fn windows_read_from_strips_give_their_sums(
        size in (1usize..3, 1usize..6, [12usize..13, 27usize..29, 84usize..85], 0usize..3), channels in [1usize..10, 1usize..70],
        kernel in [1usize..5, 2usize..8], strides in [1usize..3, 1usize..4], pads in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        seed in 0u64..1000, seven_bits in any::<bool>(),
    ) {
        let (batch, out_h, widths, width) = size;
        let input = |out: usize, i: usize| {
            let from = (out - 1) * strides[i] + kernel[i];
            let pads = [pads[i].min(from - 1), pads[i + 2].min(from - 1 - pads[i].min(from - 1))];
            (from - pads[0] - pads[1], pads)
        };
        let ((in_h, vertical), (in_w, horizontal)) = (input(out_h, 0), input(widths[width], 1));
        check_conv(&ConvShape {
            batch, in_h, in_w, in_c: channels[0], out_h, out_w: widths[width], out_c: channels[1], kernel, strides,
            pads: [vertical[0], horizontal[0], vertical[1], horizontal[1]], dilations: [1; 2], groups: 1,
        }, seed, seven_bits);
    }

    #[test]
    fn depthwise_convolutions_are_their_sums(
        shape in conv_shapes(), channels in 1usize..70, square in prop::option::of(0usize..4), seed in 0u64..1000,
    ) {
        let mut shape = ConvShape { in_c: channels, out_c: channels, groups: channels, ..shape };
        if let Some(i) = square {
            let (kernel, stride) = ([3, 3, 5, 5][i], [1, 2, 1, 2][i]);
            let out = |len: usize, pad: usize| (len + 2 * pad - kernel) / stride + 1;
            shape = ConvShape {
                kernel: [kernel; 2],
                strides: [stride; 2],
                dilations: [1; 2],
                out_h: out(shape.in_h, shape.pads[0]),
                out_w: out(shape.in_w, shape.pads[1]),
                ..shape
            };
        }
        check_conv(&shape, seed, false);
    }

    #[test]
    fn tables_are_looked_up(len in 0usize..300, seed in 0u64..1000) {
        let mut random = Bytes::new(seed);
        let (x, bytes) = (random.bytes(len), random.bytes(256));
        let bytes: [u8; 256] = bytes.try_into().unwrap();
        let wanted: Vec<u8> = x.iter().map(|&x| bytes[usize::from(x)]).collect();
        for isa in Isa::available() {
            let mut y = vec![0; len];
            table(isa, &x, &bytes, &mut y);
            prop_assert_eq!(&y, &wanted, "{}", isa);
        }
    }

    /// DequantizeLinear, the function of floats and QuantizeLinear, one by one.
    #[test]
    fn functions_of_two_operands_are_those_of_floats(
        rows in 1usize..40, width in 1usize..150, groups in 1usize..4, op in 0usize..Binary::ALL.len(), swapped in any::<bool>(),
        seed in 0u64..1000,
    ) {
        let mut random = Bytes::new(seed);
        let (len, op) = (rows * width * groups, Binary::ALL[op]);
        let (a, b) = (random.bytes(len), random.bytes(len));
        let (function, stored) = (Function { op, swapped }, Stored { clip: (-1.0, 9.0), scale: 0.037, zero_point: 30 });
        let a = int8_binary::Bytes { x: &a, zero_point: 9, scale: 0.011 };
        let b = int8_binary::Bytes { x: &b, zero_point: 128, scale: 0.31 };
        // Also numbers that no bytes stand for.
        let special = [f32::NAN, f32::INFINITY, 0.0];
        let numbers: Vec<f32> =
            (0..groups * width).map(|i| *special.get(i % 17).unwrap_or(&(i as f32 * 0.1 - 3.0))).collect();
        for isa in Isa::available() {
            let floats = |b: int8_binary::Bytes<'_>| -> Vec<f32> {
                b.x.iter().map(|&x| (f32::from(x) - f32::from(b.zero_point)) * b.scale).collect()
            };
            let wanted = |other: &[f32]| {
                let a = floats(a);
                let (mut y, mut bytes) = (vec![0.0; len], vec![0u8; len]);
                let [first, second] = if swapped { [other, &a] } else { [&a, other] };
                binary(isa, op, first, second, &mut y);
                unary_in_place(isa, Unary::Clip(Clip { min: -1.0, max: 9.0 }), &mut y);
                quantize(isa, &y, Scales::new(&[stored.scale], &[stored.zero_point], 1), &mut bytes);
                bytes
            };
            let mut y = vec![0; len];
            combine(isa, stored, a, Other::Bytes(function, b), &mut y);
            prop_assert_eq!(&y, &wanted(&floats(b)), "{}", isa);
            combine(isa, stored, a, Other::Rows { function, numbers: &numbers, groups }, &mut y);
            let spread: Vec<f32> = numbers.chunks_exact(width).flat_map(|row| row.repeat(rows)).collect();
            prop_assert_eq!(&y, &wanted(&spread), "{}", isa);
        }
    }

    #[test]
    fn pools_are_what_they_say(
        size in [1usize..9, 1usize..9], kernel in [1usize..4, 1usize..4], strides in [1usize..3, 1usize..3],
        channels in 1usize..40, seed in 0u64..1000, count_include_pad in any::<bool>(),
    ) {
        let pads = [kernel[0] / 2, kernel[1] / 2];
        let out = |i: usize| (size[i] + 2 * pads[i] - kernel[i]) / strides[i] + 1;
        let shape = PoolShape {
            batch: 2, in_h: size[0], in_w: size[1], channels, out_h: out(0), out_w: out(1), kernel, strides,
            pads: [pads[0], pads[1], pads[0], pads[1]], dilations: [1, 1],
        };
        let x = Bytes::new(seed).bytes(2 * size[0] * size[1] * channels);
        let requantize = Requantize { zero_point: 30, bounds: [0, 255] };
        let mean = Mean { zero_point: 40, scale: 1.5, requantize };
        let (mut largest, mut means) = (vec![0; 2 * out(0) * out(1) * channels], Vec::new());
        means.clone_from(&largest);
        pool(Pool::Max, &mean, &shape, &x, &mut largest);
        pool(Pool::Average { count_include_pad }, &mean, &shape, &x, &mut means);
        for i in 0..means.len() {
            let (c, pixel) = (i % channels, i / channels);
            let (ow, oh, n) = (pixel % out(1), pixel / out(1) % out(0), pixel / out(1) / out(0));
            let window: Vec<i32> = (0..kernel[0] * kernel[1]).filter_map(|k| {
                let h = (oh * strides[0] + k / kernel[1]).wrapping_sub(pads[0]);
                let w = (ow * strides[1] + k % kernel[1]).wrapping_sub(pads[1]);
                let inside = h < size[0] && w < size[1];
                inside.then(|| i32::from(x[((n * size[0] + h) * size[1] + w) * channels + c]))
            }).collect();
            prop_assert_eq!(Some(i32::from(largest[i])), window.iter().max().copied());
            let count = if count_include_pad { kernel[0] * kernel[1] } else { window.len() };
            let sum: i32 = window.iter().map(|x| x - 40).sum();
            prop_assert_eq!(means[i], requantized(sum as f32 * (1.5 / count as f32), requantize));
        }
        let mut y = vec![0; 2 * channels];
        global_average(&mean, 2, &x, &mut y);
        for (i, &y) in y.iter().enumerate() {
            let pixels = x.chunks_exact(channels).skip(i / channels * size[0] * size[1]).take(size[0] * size[1]);
            let sum: i32 = pixels.map(|p| i32::from(p[i % channels]) - 40).sum();
            prop_assert_eq!(y, requantized(sum as f32 * (1.5 / (size[0] * size[1]) as f32), requantize));
        }
    }
}

/// A convolution of a square picture, which keeps its size.
fn square(size: usize, in_c: usize, out_c: usize, kernel: usize) -> ConvShape {
    ConvShape {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: size,
        out_w: size,
        out_c,
        kernel: [kernel; 2],
        strides: [1; 2],
        pads: [kernel / 2; 4],
        dilations: [1; 2],
        groups: 1,
    }
}

/// Reductions longer than a part of a row, and more rows than a block.
#[test]
fn long_reductions_and_many_pixels_are_summed_too() {
    for shape in [
        square(7, 260, 40, 3),
        square(1, 2049, 1000, 1),
        square(20, 3, 17, 7),
        square(84, 3, 40, 7),
        square(28, 520, 5, 3),
    ] {
        check_conv(&shape, 1, false);
        check_conv(&shape, 2, true);
    }
}

/// More pixels than the input has: those beyond it are zeros, wherever the windows are read from.
#[test]
fn pixels_beyond_the_input_are_zeros() {
    for (in_c, kernel) in [(8, [1, 1]), (7, [1, 1]), (8, [3, 3])] {
        let shape =
            ConvShape { in_h: 2, in_w: 3, out_h: 5, out_w: 9, in_c, kernel, ..square(3, in_c, 16, 1) };
        check_conv(&ConvShape { pads: [0; 4], ..shape }, 3, false);
    }
}

#[test]
fn the_largest_bytes_and_weights_are_summed_without_saturation() {
    let shape = square(6, 21, 19, 3);
    for pattern in [[127, 127], [-128, -128], [127, -128], [64, 65], [-64, -65]] {
        let x = vec![255; shape.in_h * shape.in_w * shape.in_c];
        let weights: Vec<i8> = pattern.into_iter().cycle().take(weights_len(&shape)).collect();
        let numbers = Numbers {
            weights: &weights,
            bias: &vec![0; shape.out_c],
            scale: &vec![1.0; shape.out_c],
            zero_point: 0,
        };
        let wanted: Vec<f32> = sums(&shape, &x, &numbers).into_iter().map(|sum| sum as f32).collect();
        for isa in paths() {
            for packing in
                [Packing::of(isa), Packing::for_product(isa, usize::MAX, usize::MAX), Packing::GROUPED]
            {
                let filter = ByteFilter::pack_as(isa, packing, &shape, &numbers);
                let mut y = vec![0.0; wanted.len()];
                let bounds = (f32::NEG_INFINITY, f32::INFINITY);
                conv(isa, &shape, &x, &filter, Output::Floats { y: &mut y, bounds });
                assert!(y == wanted, "{pattern:?}, {isa} {packing:?}");
            }
        }
    }
}
