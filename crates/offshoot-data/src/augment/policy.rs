//! TrivialAugment and RandAugment with torchvision's operations and magnitudes.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::random::Random;
use serde::{Deserialize, Serialize};

use super::pixels::PixelOp;

/// Magnitudes that an operation has.
const BINS: u32 = 31;

/// Which random operations a picture goes through after crop, flips and jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// None.
    #[default]
    Off,
    /// torchvision's `TrivialAugmentWide`: one operation of random magnitude (Müller and Hutter, 2021).
    Trivial,
    /// torchvision's `RandAugment`: some operations one after the other, of one magnitude (Cubuk and others, 2020).
    Rand {
        /// How many operations.
        operations: u32,
        /// How strong they are, 0 to 30.
        magnitude: u32,
    },
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        let (name, numbers) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let rand = |numbers: &str| {
            let (operations, magnitude) = numbers.split_once(',')?;
            let operations = operations.parse().ok().filter(|n| (1..=14).contains(n))?;
            let magnitude = magnitude.parse().ok().filter(|&n| n < BINS)?;
            Some(Policy::Rand { operations, magnitude })
        };
        let policy = match (name, numbers) {
            ("off", None) => Some(Policy::Off),
            ("trivial", None) => Some(Policy::Trivial),
            ("rand", numbers) => rand(numbers.unwrap_or("2,9")),
            _ => None,
        };
        policy.ok_or_else(|| {
            "give off, trivial, rand or rand:OPERATIONS,MAGNITUDE (1 to 14 and 0 to 30): rand:2,9".into()
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Off => f.write_str("off"),
            Policy::Trivial => f.write_str("trivial"),
            Policy::Rand { operations, magnitude } => write!(f, "rand:{operations},{magnitude}"),
        }
    }
}

impl Serialize for Policy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The ranges of magnitudes.
struct Space {
    shear: f64,
    /// In pixels.
    translate: f64,
    rotate: f64,
    /// Of brightness, color, contrast and sharpness: 1 minus and 1 plus this.
    enhance: f64,
    /// Bits that posterizing takes away.
    posterize: f64,
}

/// The names that torchvision gives the operations, in its order.
const OPERATIONS: [&str; 14] = [
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
];

impl Policy {
    /// The ranges for pictures of `size` pixels.
    fn space(self, size: usize) -> Space {
        match self {
            Policy::Off | Policy::Trivial => {
                Space { shear: 0.99, translate: 32.0, rotate: 135.0, enhance: 0.99, posterize: 6.0 }
            }
            Policy::Rand { .. } => {
                let translate = 150.0 / 331.0 * size as f64;
                Space { shear: 0.3, translate, rotate: 30.0, enhance: 0.9, posterize: 4.0 }
            }
        }
    }

    /// Draws what happens to a picture of `size` x `size` pixels.
    pub fn draw(self, size: usize, random: &mut Random) -> Vec<PixelOp> {
        let (operations, magnitude) = match self {
            Policy::Off => (0, None),
            Policy::Trivial => (1, None),
            Policy::Rand { operations, magnitude } => (operations, Some(magnitude)),
        };
        let drawn = (0..operations).filter_map(|_| {
            let name = OPERATIONS[random.below(OPERATIONS.len())];
            let bin = magnitude.unwrap_or_else(|| random.below(BINS as usize) as u32);
            let negative = random.uniform() < 0.5;
            self.operation(name, bin, negative, size)
        });
        drawn.collect()
    }

    /// The operation that torchvision calls `name` at one of the 31 magnitudes, for pictures of `size` pixels. `None` for
    /// `Identity` and unknown names. `negative` does not matter to operations whose magnitude has no sign.
    pub fn operation(self, name: &str, bin: u32, negative: bool, size: usize) -> Option<PixelOp> {
        let space = self.space(size);
        let part = f64::from(bin) / f64::from(BINS - 1);
        let signed = |most: f64| if negative { -part * most } else { part * most };
        Some(match name {
            "ShearX" => PixelOp::ShearX(signed(space.shear)),
            "ShearY" => PixelOp::ShearY(signed(space.shear)),
            "TranslateX" => PixelOp::TranslateX(signed(space.translate) as i32),
            "TranslateY" => PixelOp::TranslateY(signed(space.translate) as i32),
            "Rotate" => PixelOp::Rotate { degrees: signed(space.rotate), smooth: false },
            "Brightness" => PixelOp::Brightness(1.0 + signed(space.enhance)),
            "Color" => PixelOp::Saturation(1.0 + signed(space.enhance)),
            "Contrast" => PixelOp::Contrast(1.0 + signed(space.enhance)),
            "Sharpness" => PixelOp::Sharpness(1.0 + signed(space.enhance)),
            "Posterize" => PixelOp::Posterize(8 - (part * space.posterize).round_ties_even() as u32),
            "Solarize" => PixelOp::Solarize(255.0 * (1.0 - part)),
            "AutoContrast" => PixelOp::AutoContrast,
            "Equalize" => PixelOp::Equalize,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offshoot_graph::random::Purpose;

    #[test]
    fn policies_have_names() {
        for text in ["off", "trivial", "rand:2,9", "rand:14,30"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!("rand".parse(), Ok(Policy::Rand { operations: 2, magnitude: 9 }));
        for bad in ["", "Trivial", "trivial:3", "rand:", "rand:0,9", "rand:2", "rand:2,31", "rand:15,1"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_operation_is_drawn_as_often_as_any_other() {
        let mut identities = 0;
        let policy = Policy::Rand { operations: 3, magnitude: 9 };
        for picture in 0..10_000 {
            let drawn = policy.draw(224, &mut Random::new(1, 0, picture, Purpose::Augment));
            identities += 3 - drawn.len();
        }
        assert!((identities as f64 / 30_000.0 - 1.0 / 14.0).abs() < 0.005, "{identities}");
    }
}
