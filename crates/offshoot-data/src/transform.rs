//! A decoded picture to the network's input: fit, resize, normalize, as [`Preprocessing`] says.

use std::ops::Range;

use multiversion::multiversion;
use offshoot_graph::random::Random;
use offshoot_graph::{Fit, Preprocessing};

use crate::augment::{self, Augmentation, Crop};
use crate::decode::{DecodeOptions, Picture, Pixels};
use crate::resample::{Span, resample};

/// The longest input side that is accepted, in pixels.
const MAX_SIZE: usize = 1 << 14;

/// A [`Preprocessing`] that cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransformError {
    /// The size is 0 or absurd.
    #[error("preprocessing: size {size} is outside 1..={MAX_SIZE}")]
    Size {
        /// [`Preprocessing::size`].
        size: usize,
    },
    /// The resized picture would be smaller than the crop, or absurd.
    #[error(
        "preprocessing: resize {resize} is outside {size}..={MAX_SIZE}; the crop of {size} is taken from it"
    )]
    Resize {
        /// [`Preprocessing::resize`].
        resize: usize,
        /// [`Preprocessing::size`].
        size: usize,
    },
    /// Normalization would make infinite or undefined numbers.
    #[error("preprocessing: mean {mean:?} and std {std:?} must be finite and std above 0")]
    Statistics {
        /// [`Preprocessing::mean`].
        mean: [f32; 3],
        /// [`Preprocessing::std`].
        std: [f32; 3],
    },
}

/// How an evaluation picture is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// For [`Fit::Crop`]: the corner that the crop comes from (whether it lies at the end across, and down); else the middle.
    pub corner: Option<[bool; 2]>,
    /// Whether it is mirrored left to right.
    pub flip: bool,
}

/// Test-time augmentation: predictions for several views of a picture are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tta {
    /// One view.
    #[default]
    Off,
    /// The picture and its mirror image.
    Flip,
    /// torchvision's `TenCrop`: the corners and the middle, and their mirror images. For [`Fit::Crop`].
    Ten,
}

impl Tta {
    /// The views.
    pub fn views(self) -> Vec<View> {
        let corners = [[false, false], [true, false], [false, true], [true, true]].map(Some);
        let crops = match self {
            Tta::Off | Tta::Flip => vec![None],
            Tta::Ten => corners.into_iter().chain([None]).collect(),
        };
        let flips: &[bool] = if self == Tta::Off { &[false] } else { &[false, true] };
        flips.iter().flat_map(|&flip| crops.iter().map(move |&corner| View { corner, flip })).collect()
    }
}

/// Carries out a [`Preprocessing`].
///
/// A picture first becomes `size * size * 3` bytes (rows of RGB pixels), then the network's input:
/// `3 * size * size` f32, channel by channel, `(byte / 255 - mean) / std`.
///
/// ```
/// use offshoot_data::{Picture, Transform};
/// use offshoot_graph::Preprocessing;
///
/// let transform = Transform::new(&Preprocessing::default())?;
/// let gray = Picture::new(640, 480, vec![128; 640 * 480 * 3]).expect("the length is right");
/// let bytes = transform.evaluate(&gray);
/// let mut input = vec![0.0; transform.input_len()];
/// transform.normalize(&bytes, &mut input);
/// assert!((input[0] - (128.0 / 255.0 - 0.485) / 0.229).abs() < 1e-6);
/// # Ok::<(), offshoot_data::TransformError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Transform {
    preprocessing: Preprocessing,
}

impl Transform {
    /// Checks that `preprocessing` can be carried out.
    pub fn new(preprocessing: &Preprocessing) -> Result<Transform, TransformError> {
        let &Preprocessing { size, resize, fit, mean, std, .. } = preprocessing;
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(TransformError::Size { size });
        }
        if fit == Fit::Crop && !(size..=MAX_SIZE).contains(&resize) {
            return Err(TransformError::Resize { resize, size });
        }
        let usable = |std: f32| std.is_normal() && std > 0.0;
        if !mean.iter().all(|mean| mean.is_finite()) || !std.into_iter().all(usable) {
            return Err(TransformError::Statistics { mean, std });
        }
        Ok(Transform { preprocessing: preprocessing.clone() })
    }

    /// What this transform carries out.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// How pictures must be decoded for it, with the default limits.
    pub fn decode_options(&self) -> DecodeOptions {
        DecodeOptions::from(&self.preprocessing)
    }

    /// Length of one picture's input: `3 * size * size`.
    pub fn input_len(&self) -> usize {
        3 * self.preprocessing.size * self.preprocessing.size
    }

    /// The transform for evaluation: `size * size * 3` bytes, rows of RGB pixels.
    pub fn evaluate<'p>(&self, picture: impl Into<Pixels<'p>>) -> Vec<u8> {
        self.look(picture, View::default())
    }

    /// [`Transform::evaluate`] from another side: for [`Fit::Crop`] the crop may come from a corner; any may be flipped.
    pub fn look<'p>(&self, picture: impl Into<Pixels<'p>>, view: View) -> Vec<u8> {
        let picture = picture.into();
        let Preprocessing { size, resize, fit, .. } = self.preprocessing;
        let (width, height) = (picture.width(), picture.height());
        let (horizontal, vertical) = match fit {
            Fit::Crop => {
                let (resized_width, resized_height) = resized(width, height, resize);
                (view.crop(width, resized_width, size, 0), view.crop(height, resized_height, size, 1))
            }
            Fit::Pad => {
                let side = width.max(height);
                (padded(width, side, size), padded(height, side, size))
            }
            Fit::Stretch => (cropped(width, 0..width, size), cropped(height, 0..height, size)),
        };
        let mut pixels = self.resample(picture, &horizontal, &vertical);
        if view.flip {
            augment::flip(&mut pixels, size);
        }
        pixels
    }

    /// The transform for training, a pure function of the picture and the stream of random numbers: for
    /// [`Fit::Crop`] a random resized crop of the source picture, for the others the evaluation transform; then all else that
    /// `how` says of single pictures. The same shape as from [`Transform::evaluate`].
    pub fn augment(&self, picture: &Picture, how: &Augmentation, random: &mut Random) -> Vec<u8> {
        let mut pixels = match self.preprocessing.fit {
            Fit::Crop => {
                self.crop(picture, augment::random_crop(picture.width(), picture.height(), how, random))
            }
            Fit::Pad | Fit::Stretch => self.evaluate(picture),
        };
        self.change(&mut pixels, how, random);
        pixels
    }

    /// [`Transform::augment`] of what was cut out of the picture already.
    pub(crate) fn augment_part(&self, part: &Picture, how: &Augmentation, random: &mut Random) -> Vec<u8> {
        let whole = Crop { left: 0, top: 0, width: part.width(), height: part.height() };
        let mut pixels = self.crop(part, whole);
        self.change(&mut pixels, how, random);
        pixels
    }

    /// Whether a training picture starts as a random crop, and not as the evaluation picture.
    pub(crate) fn crops_at_random(&self) -> bool {
        self.preprocessing.fit == Fit::Crop
    }

    /// All that `how` says but the crop.
    pub(crate) fn change(&self, pixels: &mut [u8], how: &Augmentation, random: &mut Random) {
        let mean = self.preprocessing.mean.map(|mean| (mean * 255.0).round() as u8);
        how.change(pixels, self.preprocessing.size, mean, random);
    }

    /// Bytes from [`Transform::evaluate`] or [`Transform::augment`] to the network's input, channel by channel
    /// (RGB), each `size` rows of `size`. Both slices must have [`Transform::input_len`] elements.
    pub fn normalize(&self, pixels: &[u8], input: &mut [f32]) {
        assert_eq!(pixels.len(), self.input_len(), "one picture of size * size * 3 bytes");
        assert_eq!(input.len(), self.input_len(), "one input of 3 * size * size values");
        normalize(pixels, input, self.preprocessing.mean, self.preprocessing.std);
    }

    /// The network's input back to bytes, as a person can look at it: the inverse of [`Transform::normalize`] but for rounding.
    pub fn denormalize(&self, input: &[f32]) -> Vec<u8> {
        let Preprocessing { mean, std, .. } = self.preprocessing;
        let plane = (input.len() / 3).max(1);
        let byte = |i: usize, c: usize| ((input[c * plane + i] * std[c] + mean[c]) * 255.0).round() as u8;
        (0..input.len() / 3).flat_map(|i| [0, 1, 2].map(|c| byte(i, c))).collect()
    }

    /// A part of the picture, resized to the input's size; pixels outside it have no influence. The rectangle must lie
    /// within the picture. The same shape as from [`Transform::evaluate`].
    pub fn crop(&self, picture: &Picture, crop: Crop) -> Vec<u8> {
        let size = self.preprocessing.size;
        let horizontal = cropped(picture.width(), crop.left..crop.left + crop.width, size);
        let vertical = cropped(picture.height(), crop.top..crop.top + crop.height, size);
        self.resample(picture.into(), &horizontal, &vertical)
    }

    fn resample(&self, picture: Pixels<'_>, horizontal: &Span, vertical: &Span) -> Vec<u8> {
        let Preprocessing { interpolation, background, .. } = self.preprocessing;
        resample(picture, interpolation, (horizontal, vertical), background)
    }
}

/// RGB bytes to three planes of `(byte / 255 - mean) / std`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn normalize(pixels: &[u8], input: &mut [f32], mean: [f32; 3], std: [f32; 3]) {
    let plane = input.len() / 3;
    let (red, rest) = input.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let planes = red.iter_mut().zip(green).zip(blue);
    for (((red, green), blue), pixel) in planes.zip(pixels.chunks_exact(3)) {
        let value = |c: usize| (f32::from(pixel[c]) / 255.0 - mean[c]) / std[c];
        (*red, *green, *blue) = (value(0), value(1), value(2));
    }
}

/// The size after the shorter side has become `shorter`: torchvision's rule, the longer side rounded down.
fn resized(width: usize, height: usize, shorter: usize) -> (usize, usize) {
    let longer = |long: usize, short: usize| (shorter as f64 * long as f64 / short as f64) as usize;
    if width <= height { (shorter, longer(height, width)) } else { (longer(width, height), shorter) }
}

impl View {
    /// The whole picture resized to `resized`, of which `size` are kept (in the middle with torchvision's rounding: half to
    /// even). `axis` is 0 across and 1 down.
    fn crop(self, picture: usize, resized: usize, size: usize, axis: usize) -> Span {
        let start = match self.corner {
            None => ((resized - size) as f64 / 2.0).round_ties_even() as usize,
            Some(at_end) => usize::from(at_end[axis]) * (resized - size),
        };
        Span { picture, canvas: picture, origin: 0, resized, keep: start..start + size }
    }
}

/// The picture in the middle of a canvas of length `side`, resized to `size`. An odd pixel of padding comes last.
fn padded(picture: usize, side: usize, size: usize) -> Span {
    let before = (side - picture) / 2;
    Span { picture, canvas: side, origin: -(before as i64), resized: size, keep: 0..size }
}

/// A part of the picture, resized to `size`. Pixels outside the part have no influence.
fn cropped(picture: usize, part: Range<usize>, size: usize) -> Span {
    Span { picture, canvas: part.len(), origin: part.start as i64, resized: size, keep: 0..size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offshoot_graph::Interpolation;
    use offshoot_graph::random::Purpose;
    use proptest::prelude::*;

    #[test]
    fn impossible_preprocessing_is_refused() {
        let refused = |change: fn(&mut Preprocessing)| {
            let mut preprocessing = Preprocessing::default();
            change(&mut preprocessing);
            Transform::new(&preprocessing).expect_err("it cannot be carried out").to_string()
        };
        assert_eq!(refused(|p| p.size = 0), "preprocessing: size 0 is outside 1..=16384");
        assert_eq!(
            refused(|p| p.resize = 223),
            "preprocessing: resize 223 is outside 224..=16384; the crop of 224 is taken from it"
        );
        assert!(refused(|p| p.std[1] = 0.0).contains("std above 0"));
        assert!(refused(|p| p.mean[2] = f32::NAN).contains("must be finite"));
    }

    #[test]
    fn resize_only_matters_to_crop() {
        let preprocessing = Preprocessing { fit: Fit::Pad, resize: 0, ..Preprocessing::default() };
        assert!(Transform::new(&preprocessing).is_ok());
    }

    /// Mostly small sides, some very long.
    fn side() -> impl Strategy<Value = usize> {
        prop_oneof![1..40usize, 1..3usize, 1..20_000usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_shape_becomes_a_square(
            width in side(), height in side(), size in 1..40usize, more in 0..9usize, seed: u64,
        ) {
            prop_assume!(width * height < 1_000_000);
            let picture = Picture::new(width, height, vec![77; width * height * 3]).expect("the length is right");
            for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                for interpolation in [Interpolation::Nearest, Interpolation::Bicubic] {
                    let preprocessing = Preprocessing {
                        size, resize: size + more, fit, interpolation, background: [77; 3], ..Preprocessing::default()
                    };
                    let transform = Transform::new(&preprocessing).expect("it can be carried out");
                    let mut random = Random::new(seed, 0, 0, Purpose::Augment);
                    for pixels in [transform.evaluate(&picture), transform.augment(&picture, &Augmentation::default(), &mut random)] {
                        prop_assert_eq!(pixels, vec![77; transform.input_len()]);
                    }
                }
            }
        }
    }

    /// The gray levels of a picture of 6 by 4 pixels that are kept, which are their places.
    fn seen(view: View) -> Vec<u8> {
        let preprocessing = Preprocessing { size: 2, resize: 4, ..Preprocessing::default() };
        let transform = Transform::new(&preprocessing).expect("it can be carried out");
        let picture =
            Picture::new(6, 4, (0..24).flat_map(|i| [i; 3]).collect()).expect("the length is right");
        transform.look(&picture, view).into_iter().step_by(3).collect()
    }

    #[test]
    fn views_are_the_corners_and_the_middle_and_their_mirror_images() {
        let found: Vec<Vec<u8>> = Tta::Ten.views().into_iter().map(seen).collect();
        let wanted = [[0u8, 1, 6, 7], [4, 5, 10, 11], [12, 13, 18, 19], [16, 17, 22, 23], [8, 9, 14, 15]]
            .map(|v| v.to_vec());
        assert_eq!(found[..5], wanted);
        let mirrored = wanted.map(|v| vec![v[1], v[0], v[3], v[2]]);
        assert_eq!(found[5..], mirrored);
        assert_eq!(Tta::Off.views(), [View::default()]);
        assert_eq!(Tta::Flip.views(), [View::default(), View { corner: None, flip: true }]);
    }

    #[test]
    fn an_input_becomes_the_bytes_that_it_was_made_of() {
        let preprocessing = Preprocessing { size: 16, resize: 16, ..Preprocessing::default() };
        let transform = Transform::new(&preprocessing).expect("it can be carried out");
        let pixels: Vec<u8> = (0..transform.input_len()).map(|i| (i / 3 * 7 + i % 3 * 80) as u8).collect();
        let mut input = vec![0.0; pixels.len()];
        transform.normalize(&pixels, &mut input);
        assert_eq!(transform.denormalize(&input), pixels);
    }
}
