// Written by scripts/golden/published.py from torchvision 0.29.2.

use super::{NON_COMMERCIAL, Published, TORCHVISION, file};
use offshoot_graph::Interpolation::{Bicubic, Bilinear};

/// Architecture and file, the best first.
#[rustfmt::skip]
pub(super) const FILES: &[(&str, Published)] = &[
    ("resnet18", file!("IMAGENET1K_V1", "resnet18", "f37072fd", 69.758, 44.661, 224, 256, Bilinear, TORCHVISION)),
    ("resnet34", file!("IMAGENET1K_V1", "resnet34", "b627a593", 73.314, 83.275, 224, 256, Bilinear, TORCHVISION)),
    ("resnet50", file!("IMAGENET1K_V2", "resnet50", "11ad3fa6", 80.858, 97.79, 224, 232, Bilinear, TORCHVISION)),
    ("resnet50", file!("IMAGENET1K_V1", "resnet50", "0676ba61", 76.13, 97.781, 224, 256, Bilinear, TORCHVISION)),
    ("resnet101", file!("IMAGENET1K_V2", "resnet101", "cd907fc2", 81.886, 170.53, 224, 232, Bilinear, TORCHVISION)),
    ("resnet101", file!("IMAGENET1K_V1", "resnet101", "63fe2227", 77.374, 170.511, 224, 256, Bilinear, TORCHVISION)),
    ("resnet152", file!("IMAGENET1K_V2", "resnet152", "f82ba261", 82.284, 230.474, 224, 232, Bilinear, TORCHVISION)),
    ("resnet152", file!("IMAGENET1K_V1", "resnet152", "394f9c45", 78.312, 230.434, 224, 256, Bilinear, TORCHVISION)),
    ("mobilenet_v2", file!("IMAGENET1K_V2", "mobilenet_v2", "7ebf99e0", 72.154, 13.598, 224, 232, Bilinear, TORCHVISION)),
    ("mobilenet_v2", file!("IMAGENET1K_V1", "mobilenet_v2", "b0353104", 71.878, 13.555, 224, 256, Bilinear, TORCHVISION)),
    ("mobilenet_v3_small", file!("IMAGENET1K_V1", "mobilenet_v3_small", "047dcff4", 67.668, 9.829, 224, 256, Bilinear, TORCHVISION)),
    ("mobilenet_v3_large", file!("IMAGENET1K_V2", "mobilenet_v3_large", "5c1a4163", 75.274, 21.107, 224, 232, Bilinear, TORCHVISION)),
    ("mobilenet_v3_large", file!("IMAGENET1K_V1", "mobilenet_v3_large", "8738ca79", 74.042, 21.114, 224, 256, Bilinear, TORCHVISION)),
    ("efficientnet_b0", file!("IMAGENET1K_V1", "efficientnet_b0_rwightman", "7f5810bc", 77.692, 20.451, 224, 256, Bicubic, TORCHVISION)),
    ("efficientnet_b1", file!("IMAGENET1K_V2", "efficientnet_b1", "c27df63c", 79.838, 30.136, 240, 255, Bilinear, TORCHVISION)),
    ("efficientnet_b1", file!("IMAGENET1K_V1", "efficientnet_b1_rwightman", "bac287d4", 78.642, 30.134, 240, 256, Bicubic, TORCHVISION)),
    ("efficientnet_b2", file!("IMAGENET1K_V1", "efficientnet_b2_rwightman", "c35c1473", 80.608, 35.174, 288, 288, Bicubic, TORCHVISION)),
    ("efficientnet_b3", file!("IMAGENET1K_V1", "efficientnet_b3_rwightman", "b3899882", 82.008, 47.184, 300, 320, Bicubic, TORCHVISION)),
    ("efficientnet_b4", file!("IMAGENET1K_V1", "efficientnet_b4_rwightman", "23ab8bcd", 83.384, 74.489, 380, 384, Bicubic, TORCHVISION)),
    ("convnext_tiny", file!("IMAGENET1K_V1", "convnext_tiny", "983f1562", 82.52, 109.119, 224, 236, Bilinear, TORCHVISION)),
    ("convnext_small", file!("IMAGENET1K_V1", "convnext_small", "0c510722", 83.616, 191.703, 224, 230, Bilinear, TORCHVISION)),
    ("vit_b_16", file!("IMAGENET1K_V1", "vit_b_16", "c867db91", 81.072, 330.285, 224, 256, Bilinear, TORCHVISION)),
    ("vit_b_16", file!("IMAGENET1K_SWAG_E2E_V1", "vit_b_16_swag", "9ac1b537", 85.304, 331.398, 384, 384, Bicubic, NON_COMMERCIAL)),
    ("vit_b_16", file!("IMAGENET1K_SWAG_LINEAR_V1", "vit_b_16_lc_swag", "4e70ced5", 81.886, 330.285, 224, 224, Bicubic, NON_COMMERCIAL)),
    ("vgg16", file!("IMAGENET1K_V1", "vgg16", "397923af", 71.592, 527.796, 224, 256, Bilinear, TORCHVISION)),
    ("vgg16_bn", file!("IMAGENET1K_V1", "vgg16_bn", "6c64b313", 73.36, 527.866, 224, 256, Bilinear, TORCHVISION)),
    ("densenet121", file!("IMAGENET1K_V1", "densenet121", "a639ec97", 74.434, 30.845, 224, 256, Bilinear, TORCHVISION)),
    ("regnet_y_400mf", file!("IMAGENET1K_V2", "regnet_y_400mf", "e6988f5f", 75.804, 16.806, 224, 232, Bilinear, TORCHVISION)),
    ("regnet_y_400mf", file!("IMAGENET1K_V1", "regnet_y_400mf", "c65dace8", 74.046, 16.806, 224, 256, Bilinear, TORCHVISION)),
    ("squeezenet1_1", file!("IMAGENET1K_V1", "squeezenet1_1", "b8a52dc0", 58.178, 4.729, 224, 256, Bilinear, TORCHVISION)),
];
