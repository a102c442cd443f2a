//! Types, scales and zero points of quantized values.

use offshoot_graph::{Data, Tensor};

use crate::range::Range;

/// The integers of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// u8 with any zero point: all 256 levels lie within the range. What CPUs multiply fastest.
    Asymmetric,
    /// i8 with zero point 0, as TensorRT asks for.
    Symmetric,
}

/// The integers of weights: i8, symmetric, with a scale for each output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// -63..63. A product with u8 and its neighbor's fit in 16 bits (2 x 255 x 63 < 2^15), so that AVX2's `vpmaddubsw`,
    /// which processors without VNNI compute with, never saturates.
    Seven,
    /// -127..127, for processors with VNNI or ARM's dot products, and for GPUs. Elsewhere a runtime may saturate and be wrong.
    Eight,
}

/// Which values are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The operands and results of convolutions, products, sums, pools and concatenations, so that a network stays in
    /// integers from its first convolution to its last layer. What ONNX Runtime and our own executor run fastest.
    Everywhere,
    /// As TensorRT wants it: before convolutions, products and global means, and on the branch of a sum that skips the
    /// convolutions, whose own branch stays in float to be fused with the sum.
    Inputs,
}

/// How a network is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The integers of activations.
    pub activations: Activations,
    /// The integers of weights.
    pub weights: WeightBits,
    /// Whether biases become i32 as well.
    pub integer_bias: bool,
    /// Which values are rounded.
    pub placement: Placement,
    /// Whether what the network gives is rounded too, over all that was seen of it.
    pub outputs: bool,
    /// Whether biases make up for what the rounding of the weights changes on average.
    pub bias_correction: bool,
}

impl Scheme {
    /// For processors: u8 activations, i32 biases, all in integers.
    pub fn cpu(weights: WeightBits) -> Scheme {
        Scheme {
            activations: Activations::Asymmetric,
            weights,
            integer_bias: true,
            placement: Placement::Everywhere,
            outputs: false,
            bias_correction: true,
        }
    }

    /// For LiteRT: as for processors, with weights of eight bits; its layers on int8 give int8, so that the last one rounds the
    /// logits.
    pub fn litert() -> Scheme {
        Scheme { outputs: true, ..Scheme::cpu(WeightBits::Eight) }
    }

    /// For TensorRT: i8 with zero point 0, float biases, Q and DQ before what is multiplied.
    pub fn tensorrt() -> Scheme {
        Scheme {
            activations: Activations::Symmetric,
            weights: WeightBits::Eight,
            integer_bias: false,
            placement: Placement::Inputs,
            outputs: false,
            bias_correction: true,
        }
    }
}

impl WeightBits {
    /// The largest number; the smallest is minus that.
    pub(crate) fn largest(self) -> f32 {
        match self {
            WeightBits::Seven => 63.0,
            WeightBits::Eight => 127.0,
        }
    }
}

/// A scale and a zero point: q stands for (q - zero) * scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
}

impl Activations {
    /// The smallest and the largest integer.
    pub(crate) fn bounds(self) -> [i32; 2] {
        match self {
            Activations::Asymmetric => [0, 255],
            Activations::Symmetric => [-128, 127],
        }
    }

    /// The scale and zero point under which the levels span `range`. Zero is one of the levels.
    pub(crate) fn affine(self, range: Range) -> Affine {
        let (low, high) = (range.low.min(0.0), range.high.max(0.0));
        let span = match self {
            Activations::Asymmetric => (high - low) / 255.0,
            Activations::Symmetric => high.max(-low) / 127.0,
        };
        // A value that is always 0, or whose levels a float cannot tell apart.
        if !span.is_normal() {
            return Affine { scale: 1.0, zero: 0 };
        }
        let zero = match self {
            Activations::Asymmetric => (-low / span).round_ties_even() as i32,
            Activations::Symmetric => 0,
        };
        Affine { scale: span, zero: zero.clamp(self.bounds()[0], self.bounds()[1]) }
    }

    /// A zero point as a tensor.
    pub(crate) fn zero_point(self, zero: i32) -> Tensor {
        let data = match self {
            Activations::Asymmetric => Data::U8(vec![zero as u8]),
            Activations::Symmetric => Data::I8(vec![zero as i8]),
        };
        Tensor::new([], data).expect("one element is a scalar")
    }
}

impl Affine {
    /// x as the level next to it within `bounds`, as a float again.
    pub(crate) fn round(self, x: f64, bounds: [i32; 2]) -> f64 {
        let scale = f64::from(self.scale);
        let level = ((x / scale).round_ties_even() + f64::from(self.zero))
            .clamp(f64::from(bounds[0]), f64::from(bounds[1]));
        (level - f64::from(self.zero)) * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_level_and_the_range_is_spanned() {
        let affine = Activations::Asymmetric.affine(Range { low: -1.0, high: 4.1 });
        assert_eq!(affine.zero, 50);
        assert!((affine.scale - 5.1 / 255.0).abs() < 1e-7);
        // A range beside zero is widened to it.
        assert_eq!(Activations::Asymmetric.affine(Range { low: 2.0, high: 5.1 }).zero, 0);
        assert_eq!(Activations::Asymmetric.affine(Range { low: -5.1, high: -2.0 }).zero, 255);
        let affine = Activations::Symmetric.affine(Range { low: -2.54, high: 1.0 });
        assert_eq!(affine, Affine { scale: 2.54 / 127.0, zero: 0 });
        assert_eq!(
            Activations::Asymmetric.affine(Range { low: 0.0, high: 0.0 }),
            Affine { scale: 1.0, zero: 0 }
        );
    }

    #[test]
    fn seven_bits_do_not_saturate_sixteen() {
        let pair = 2 * 255 * WeightBits::Seven.largest() as i32;
        assert!(pair <= i32::from(i16::MAX), "{pair}");
        assert!(2 * 255 * WeightBits::Eight.largest() as i32 > i32::from(i16::MAX));
    }

    #[test]
    fn numbers_become_the_nearest_level_within_the_bounds() {
        let affine = Affine { scale: 0.5, zero: 3 };
        let bounds = Activations::Asymmetric.bounds();
        assert_eq!([0.8, -0.8, -5.0, 1000.0].map(|x| affine.round(x, bounds)), [1.0, -1.0, -1.5, 126.0]);
        let affine = Affine { scale: 2.0, zero: 0 };
        let bounds = Activations::Symmetric.bounds();
        assert_eq!([3.1, -1000.0, 1000.0].map(|x| affine.round(x, bounds)), [4.0, -256.0, 254.0]);
    }
}
