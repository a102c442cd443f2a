//! Image classifiers as offshoot graphs, and what goes with each: default preprocessing, the names of stem,
//! blocks and head, initial weights, and the keys that other libraries give the same weights.
//!
//! ```
//! use offshoot_models::{BuildOptions, Head, find};
//!
//! let resnet = find("resnet50")?;
//! let head: Head = "mlp:256,dropout=0.4".parse()?;
//! let graph = resnet.build(&BuildOptions { classes: 10, size: 224, head: Some(head) })?;
//! assert_eq!(graph.count_parameters(), (527_114 + 23_508_032, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod architecture;
mod convnext;
mod densenet;
mod efficientnet;
mod efficientnet_lite;
mod googlenet;
mod graft;
mod head;
mod inception;
mod init;
mod keys;
mod maxvit;
mod mnasnet;
mod mobilenet_v2;
mod mobilenet_v3;
mod mobilenet_v4;
mod published;
mod registry;
mod regnet;
mod resnet;
mod shufflenet;
mod spelling;
mod squeeze;
mod squeezenet;
mod swin;
mod transfer;
mod transformers;
mod vgg;
mod vit;
mod windows;

pub use architecture::{
    Architecture, BuildError, BuildOptions, MAX_CLASSES, MAX_SIZE, UnknownArchitecture, expected_parameters,
};
pub use graft::{GraftError, graft, grafted};
pub use head::{Head, HeadError};
pub use init::InitError;
pub use keys::{CanonicalKeys, canonical_keys, recognise, timm_weights};
pub use published::{Published, imagenet_classes};
pub use registry::{architectures, build, find};
pub use transfer::{TransferError, TransferOptions, described, original_classes, pretrained, transfer};
pub use transformers::{Transformers, TransformersError, transformers, transformers_size, unique};
