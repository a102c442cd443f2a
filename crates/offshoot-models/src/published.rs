//! Where published weights come from.

/// Weights that their authors publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where the file is.
    pub url: &'static str,
    /// The file's SHA-256 in hexadecimal: all 64 digits, or the first eight, which its authors put in its name. Empty
    /// where none is known.
    pub sha256: &'static str,
    /// What its authors say of its licence.
    pub license: &'static str,
    /// Whether it has a head, for ImageNet-1k's classes.
    pub has_head: bool,
}

/// torchvision says nothing of the licence of its weights, which were trained on ImageNet.
const TORCHVISION: &str = "not stated (code: BSD-3-Clause; trained on ImageNet-1k)";
const TIMM: &str = "Apache-2.0 (trained on ImageNet-1k)";
const DINO: &str = "Apache-2.0";

/// The file of PyTorch's that starts with `name`; the first eight digits of its hash are part of its name.
macro_rules! torchvision {
    ($name:literal, $hash:literal) => {
        Published {
            url: concat!("https://download.pytorch.org/models/", $name, "-", $hash, ".pth"),
            sha256: $hash,
            license: TORCHVISION,
            has_head: true,
        }
    };
}

macro_rules! timm_lite {
    ($name:literal, $hash:literal) => {
        Published {
            url: concat!(
                "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/tf_",
                $name,
                "-",
                $hash,
                ".pth"
            ),
            sha256: $hash,
            license: TIMM,
            has_head: true,
        }
    };
}

/// The published weights that fit the default preprocessing of the architecture called `name`.
pub(crate) fn published(name: &str) -> Option<Published> {
    Some(match name {
        "resnet18" => torchvision!("resnet18", "f37072fd"),
        "resnet34" => torchvision!("resnet34", "b627a593"),
        "resnet50" => torchvision!("resnet50", "0676ba61"),
        "resnet101" => torchvision!("resnet101", "63fe2227"),
        "resnet152" => torchvision!("resnet152", "394f9c45"),
        "mobilenet_v2" => Published {
            sha256: "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            ..torchvision!("mobilenet_v2", "b0353104")
        },
        "mobilenet_v3_small" => torchvision!("mobilenet_v3_small", "047dcff4"),
        "mobilenet_v3_large" => torchvision!("mobilenet_v3_large", "8738ca79"),
        "efficientnet_b0" => torchvision!("efficientnet_b0_rwightman", "7f5810bc"),
        "efficientnet_b1" => torchvision!("efficientnet_b1_rwightman", "bac287d4"),
        "efficientnet_b2" => torchvision!("efficientnet_b2_rwightman", "c35c1473"),
        "efficientnet_b3" => torchvision!("efficientnet_b3_rwightman", "b3899882"),
        "efficientnet_b4" => torchvision!("efficientnet_b4_rwightman", "23ab8bcd"),
        "efficientnet_lite0" => timm_lite!("efficientnet_lite0", "0aa007d2"),
        "efficientnet_lite1" => timm_lite!("efficientnet_lite1", "bde8b488"),
        "efficientnet_lite2" => timm_lite!("efficientnet_lite2", "dcccb7df"),
        "efficientnet_lite3" => timm_lite!("efficientnet_lite3", "b733e338"),
        "efficientnet_lite4" => timm_lite!("efficientnet_lite4", "741542c3"),
        "convnext_tiny" => torchvision!("convnext_tiny", "983f1562"),
        "convnext_small" => torchvision!("convnext_small", "0c510722"),
        "vit_b_16" => torchvision!("vit_b_16", "c867db91"),
        "vgg16" => torchvision!("vgg16", "397923af"),
        "vgg16_bn" => torchvision!("vgg16_bn", "6c64b313"),
        "densenet121" => torchvision!("densenet121", "a639ec97"),
        "regnet_y_400mf" => torchvision!("regnet_y_400mf", "c65dace8"),
        "squeezenet1_1" => torchvision!("squeezenet1_1", "b8a52dc0"),
        "vit_small_patch14_dinov2" => Published {
            url: "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
            sha256: "",
            license: DINO,
            has_head: false,
        },
        _ => return None,
    })
}
