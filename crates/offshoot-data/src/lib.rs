//! Folders of pictures: decoding, transforms, augmentation, loading.

pub mod augment;
mod decode;
mod folder;
mod loader;
mod resample;
mod transform;

pub use decode::{DecodeError, DecodeOptions, Picture, PictureError, decode, probe, read_picture};
pub use folder::{Dataset, FolderError, FolderOptions, Labelled, Pictures, Sample, labelled, pictures};
pub use loader::{Batch, Epoch, Loader, LoaderOptions};
pub use transform::{Transform, TransformError};
