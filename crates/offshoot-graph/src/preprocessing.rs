//! How a picture becomes the network's input. Travels inside every file offshoot writes, so that training
//! and deployment cannot differ. This crate only carries it; `offshoot-data` carries it out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a picture of any shape becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Resize the shorter side to `resize`, keep the center `size` by `size`.
    Crop,
    /// Pad the shorter side with `background` to a square (the picture in the middle), resize to `size`.
    Pad,
    /// Resize to `size` by `size`, whatever the aspect.
    Stretch,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fit::Crop => "crop",
            Fit::Pad => "pad",
            Fit::Stretch => "stretch",
        })
    }
}

/// The filter that resizes, antialiased as in Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Cubic filter with a = -0.5 (Pillow's).
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
    /// Nearest pixel.
    Nearest,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
            Interpolation::Lanczos => "lanczos",
            Interpolation::Nearest => "nearest",
        })
    }
}

/// The steps from a decoded picture to the network's input: rotate by EXIF, lay over `background`, fit,
/// scale to 0..1, subtract `mean`, divide by `std`, in RGB order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the network's input, in pixels.
    pub size: usize,
    /// For [`Fit::Crop`]: the length of the shorter side before the crop, in pixels. At least `size`.
    pub resize: usize,
    /// How the picture becomes a square.
    pub fit: Fit,
    /// The resizing filter.
    pub interpolation: Interpolation,
    /// Subtracted from each channel, in units of 0..1.
    pub mean: [f32; 3],
    /// Each channel is divided by it, in units of 0..1.
    pub std: [f32; 3],
    /// RGB under transparent pixels and in the padding.
    pub background: [u8; 3],
    /// Whether the EXIF orientation is applied.
    pub exif_rotation: bool,
}

impl Preprocessing {
    /// `resize` in the same proportion for another `size`, in pixels.
    pub fn resize_for(&self, size: usize) -> usize {
        let ratio = self.resize as f64 / self.size.max(1) as f64;
        (size as f64 * ratio).round() as usize
    }

    /// Each step by name, as text for people.
    fn steps(&self) -> [(&'static str, String); 8] {
        [
            ("size", self.size.to_string()),
            ("fit", self.fit.to_string()),
            ("interpolation", self.interpolation.to_string()),
            ("resize", self.resize.to_string()),
            ("mean", listed(&self.mean)),
            ("std", listed(&self.std)),
            ("background", listed(&self.background)),
            ("exif rotation", if self.exif_rotation { "on" } else { "off" }.to_owned()),
        ]
    }

    /// What differs from `other`, a phrase for each step: `fit crop and pad`.
    pub fn differences(&self, other: &Preprocessing) -> Vec<String> {
        let both = self.steps().into_iter().zip(other.steps());
        let differing = both.filter(|((_, a), (_, b))| a != b);
        differing.map(|((name, a), (_, b))| format!("{name} {a} and {b}")).collect()
    }
}

/// Three numbers as flags take them: `0.485,0.456,0.406`.
fn listed<T: fmt::Display>(numbers: &[T; 3]) -> String {
    numbers.each_ref().map(ToString::to_string).join(",")
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps().map(|(name, text)| format!("{name} {text}"));
        f.write_str(&steps.join(", "))
    }
}

/// The mean of ImageNet's pictures, per RGB channel, on 0..1.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// The standard deviation of ImageNet's pictures, per RGB channel, on 0..1.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Default for Preprocessing {
    /// torchvision's evaluation preset: resize 256 (bilinear, antialiased), crop 224, ImageNet's mean and std.
    fn default() -> Preprocessing {
        Preprocessing {
            size: 224,
            resize: 256,
            fit: Fit::Crop,
            interpolation: Interpolation::Bilinear,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            background: [255, 255, 255],
            exif_rotation: true,
        }
    }
}
