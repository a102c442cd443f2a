//! Data sets of pictures: decoding, transforms, augmentation, loading.
//!
//! - [`Dataset`], [`labelled`] and [`pictures`] find picture files on disk and name those that cannot be used;
//! - [`decode`] and [`read_picture`] make a [`Picture`] (8-bit RGB) of any common format;
//! - [`Transform`] carries out a [`Preprocessing`](offshoot_graph::Preprocessing), with the results of Pillow and
//!   torchvision;
//! - [`Loader`] yields batches, decoded and augmented ahead on threads of its own.
//!
//! No file can cause a panic or an allocation far beyond its picture's size: what is wrong with it comes back
//! as a [`DecodeError`]. Everything random is a function of (seed, epoch, picture).
//!
//! One picture, from file to network input:
//!
//! ```no_run
//! use offshoot_data::{Transform, read_picture};
//! use offshoot_graph::Preprocessing;
//!
//! let transform = Transform::new(&Preprocessing::default())?;
//! let picture = read_picture("cat.jpg".as_ref(), &transform.decode_options())?;
//! let mut input = vec![0.0; transform.input_len()];
//! transform.normalize(&transform.evaluate(&picture), &mut input);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

//! Features, all of them on by default: `folders` (data sets on disk), `encode` (writing pictures), `sheet` (contact sheets), and the
//! formats `gif`, `qoi`, `tiff` and `webp`. JPEG, PNG, BMP, PNM, TGA and ICO are always read.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod augment;
mod decode;
#[cfg(feature = "encode")]
mod encode;
#[cfg(feature = "folders")]
mod folder;
mod loader;
mod resample;
#[cfg(feature = "sheet")]
mod sheet;
mod stored;
mod transform;

pub use augment::{Augmentation, Mix, Policy};
pub use decode::{
    DEFAULT_MAX_PIXELS, DecodeError, DecodeOptions, Picture, PictureError, Pixels, decode, max_pixels, probe,
    read_picture, set_max_pixels, with_decoded, with_picture,
};
#[cfg(feature = "folders")]
pub use folder::{
    Columns, ColumnsError, Dataset, FolderError, FolderOptions, Labelled, Pictures, TableError, data_exists,
    is_table, labelled, picture_ending, picture_folder, pictures, training, training_folder,
};
pub use loader::{Batch, Draw, Epoch, Loader, LoaderOptions, Sample, batch_count};
#[cfg(feature = "sheet")]
pub use sheet::{Letters, Tile, contact_sheet};
pub use stored::{PictureReader, open_picture, picture_file};
pub use transform::{Transform, TransformError, Tta, View};
