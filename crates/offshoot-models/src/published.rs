//! Where published weights come from, and what goes with them.

use std::ops::RangeInclusive;
use std::path::Path;

use offshoot_graph::{Interpolation, Preprocessing};

mod torchvision;

/// The names of ImageNet-1k's classes, in the order of the logits.
pub fn imagenet_classes() -> impl Iterator<Item = &'static str> {
    include_str!("published/imagenet.txt").lines()
}

/// Weights that their authors publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// What their authors call them, among those of the same architecture.
    pub version: &'static str,
    /// Where the file is.
    pub url: &'static str,
    /// The file's SHA-256 in hexadecimal: all 64 digits, or the first eight, which its authors put in its name. Empty
    /// where none is known.
    pub sha256: &'static str,
    /// The license, as its authors state it.
    pub license: &'static str,
    /// Whether it has a head, for ImageNet-1k's classes.
    pub has_head: bool,
    /// The fraction of ImageNet-1k's validation pictures that its authors say it gets right, in percent.
    pub accuracy: Option<f64>,
    /// The size of the file in MiB, rounded to thousandths, where it is known.
    mebibytes: Option<f64>,
    /// Size, length of the shorter side before the crop, and filter, where they are not the architecture's.
    evaluation: Option<(usize, usize, Interpolation)>,
}

/// torchvision says nothing of the license of its weights, which were trained on ImageNet.
const TORCHVISION: &str = "not stated (code: BSD-3-Clause; trained on ImageNet-1k)";
const NON_COMMERCIAL: &str = "CC-BY-NC-4.0 (SWAG; trained on ImageNet-1k)";
const TIMM: &str = "Apache-2.0 (trained on ImageNet-1k)";
const DINO: &str = "Apache-2.0";

/// A file of PyTorch's; the first eight digits of its hash are part of its name.
macro_rules! file {
    ($version:literal, $name:literal, $hash:literal, $accuracy:literal, $mebibytes:literal, $size:literal, $resize:literal,
     $filter:expr, $license:expr) => {
        Published {
            version: $version,
            url: concat!("https://download.pytorch.org/models/", $name, "-", $hash, ".pth"),
            sha256: $hash,
            license: $license,
            has_head: true,
            accuracy: Some($accuracy),
            mebibytes: Some($mebibytes),
            evaluation: Some(($size, $resize, $filter)),
        }
    };
}
use file;

macro_rules! timm_lite {
    ($name:literal, $hash:literal) => {
        Published {
            version: "in1k",
            url: concat!(
                "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/",
                $name,
                "-",
                $hash,
                ".pth"
            ),
            sha256: $hash,
            license: TIMM,
            has_head: true,
            accuracy: None,
            mebibytes: None,
            evaluation: None,
        }
    };
}

/// Hashes of which more than the digits in the name is known.
const WHOLE_HASHES: [&str; 1] = ["b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"];

/// The published weights of the architecture called `name`, the best first.
pub(crate) fn published(name: &str) -> Vec<Published> {
    let other = match name {
        "efficientnet_lite0" => timm_lite!("tf_efficientnet_lite0", "0aa007d2"),
        "efficientnet_lite1" => timm_lite!("tf_efficientnet_lite1", "bde8b488"),
        "efficientnet_lite2" => timm_lite!("tf_efficientnet_lite2", "dcccb7df"),
        "efficientnet_lite3" => timm_lite!("tf_efficientnet_lite3", "b733e338"),
        "efficientnet_lite4" => timm_lite!("tf_efficientnet_lite4", "741542c3"),
        "efficientnet_lite0_symmetric" => {
            Published { version: "ra_in1k", ..timm_lite!("efficientnet_lite0_ra", "37913777") }
        }
        "vit_small_patch14_dinov2" => Published {
            version: "lvd142m",
            url: "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
            sha256: "",
            license: DINO,
            has_head: false,
            accuracy: None,
            mebibytes: None,
            evaluation: None,
        },
        _ => {
            let files = torchvision::FILES.iter().filter(|(architecture, _)| *architecture == name);
            return files.map(|(_, file)| file.with_whole_hash()).collect();
        }
    };
    vec![other]
}

impl Published {
    /// Whether `version` names these weights: as their authors do, or without `IMAGENET1K_`, in any case of letters.
    pub fn is_called(&self, version: &str) -> bool {
        let short = self.version.strip_prefix("IMAGENET1K_").unwrap_or(self.version);
        [self.version, short].iter().any(|name| name.eq_ignore_ascii_case(version))
    }

    /// Whether a file is called as these weights are published: with the digits of their hash before the extension.
    pub fn names(&self, file: &Path) -> bool {
        let digits = self.sha256.get(..8);
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        digits.zip(stem).is_some_and(|(digits, stem)| {
            stem.strip_suffix(digits).is_some_and(|name| name.ends_with(['-', '_']))
        })
    }

    /// Whether a file of `bytes` bytes can be these weights, as far as its size tells.
    pub fn may_have(&self, bytes: u64) -> bool {
        !self.sha256.is_empty() && self.bytes().is_none_or(|known| known.contains(&bytes))
    }

    /// The sizes that the file may have, in bytes. `None` where its size is not known.
    pub fn bytes(&self) -> Option<RangeInclusive<u64>> {
        let bytes = |mebibytes: f64| (mebibytes * f64::from(1 << 20)) as u64;
        self.mebibytes.map(|known| bytes(known - 0.002)..=bytes(known + 0.002))
    }

    /// How pictures become the input that these weights were measured with, where that is not the architecture's
    /// preprocessing `own`.
    pub fn preprocessing(&self, own: Preprocessing) -> Preprocessing {
        match self.evaluation {
            Some((size, resize, interpolation)) => Preprocessing { size, resize, interpolation, ..own },
            None => own,
        }
    }

    fn with_whole_hash(self) -> Published {
        let whole = WHOLE_HASHES.into_iter().find(|hash| hash.starts_with(self.sha256));
        Published { sha256: whole.unwrap_or(self.sha256), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{architectures, find};

    #[test]
    fn what_is_published_can_be_told_apart() {
        let mut hashes = Vec::new();
        for architecture in architectures() {
            let all = architecture.all_published();
            for (index, file) in all.iter().enumerate() {
                let named = all.iter().position(|other| other.is_called(file.version));
                assert_eq!(named, Some(index), "{} {}", architecture.name, file.version);
                hashes.push(file.sha256);
            }
            // The first version has the preprocessing that the architecture assumes of weights it does not know.
            if let Some(first) = all.iter().find(|file| file.is_called("V1")) {
                let own = architecture.preprocessing();
                assert_eq!(first.preprocessing(own.clone()), own, "{}", architecture.name);
            }
        }
        hashes.sort_unstable();
        assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_best_weights_come_first_with_their_preprocessing() {
        let resnet = find("resnet50").unwrap();
        let best = resnet.published().unwrap();
        assert_eq!((best.version, best.sha256, best.accuracy), ("IMAGENET1K_V2", "11ad3fa6", Some(80.858)));
        assert_eq!(best.preprocessing(resnet.preprocessing()).resize, 232);
        assert!(best.names(Path::new("a/resnet50-11ad3fa6.pth")));
        assert!(!best.names(Path::new("resnet50.pth")) && !best.names(Path::new("resnet50-0676ba61.pth")));
        assert!(best.may_have(102_540_417) && !best.may_have(102_530_333));
    }

    #[test]
    fn imagenet_has_a_thousand_classes() {
        let classes: Vec<&str> = imagenet_classes().collect();
        assert_eq!(
            (classes.len(), classes[0], classes[207], classes[999]),
            (1000, "tench", "golden retriever", "toilet tissue")
        );
    }
}
