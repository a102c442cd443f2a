//! offshoot takes a pretrained image classifier, fine-tunes it on a folder of pictures, and ships it with the proof
//! that the shipped file matches the trained model.
//!
//! A [`Classifier`] says what is in pictures, from any number of threads. It needs none of the features:
//!
//! ```no_run
//! # fn main() -> offshoot::Result<()> {
//! # let jpeg_bytes: Vec<u8> = Vec::new();
//! let best = offshoot::Classifier::open("run")?.classify(&jpeg_bytes)?.top(3);
//! # Ok(()) }
//! ```
//!
//! `FineTune` (feature `train`) trains one and ships it:
//!
//! ```no_run
//! # #[cfg(feature = "train")]
//! fn main() -> offshoot::Result<()> {
//!     let tuned = offshoot::FineTune::new("mobilenet_v2", "photos")
//!         .weights("mobilenet_v2.pth")
//!         .epochs(10)
//!         .run("run")?;
//!     let exported = tuned.export_onnx("photos.onnx")?;
//!     println!("top-1 agrees on {} of the validation pictures", exported.top1_agreement);
//!     Ok(())
//! }
//! # #[cfg(not(feature = "train"))]
//! # fn main() {}
//! ```
//!
//! # Features
//!
//! | feature | what it adds | by default |
//! | --- | --- | --- |
//! | `train` | training, quantization, export with its proof, comparisons, benchmarks; Core ML packages | yes |
//! | `gif`, `qoi`, `tiff`, `webp` | reading pictures of these formats, beside JPEG, PNG, BMP, PNM, TGA and ICO | yes |
//! | `download` | published weights from the network (`pull`) | no |
//! | `peers` | measuring a model in ONNX Runtime and PyTorch too (`bench_formats`) | no |
//!
//! The crates below it can be used by themselves: `offshoot-graph` (the graph and its passes), `offshoot-cpu` (the
//! executor), `offshoot-models`, `offshoot-formats`, `offshoot-data`, `offshoot-infer`, `offshoot-train`, `offshoot-quant`. The
//! command `offshoot` is in `offshoot-cli`.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[cfg(feature = "train")]
mod bench;
mod classifier;
#[cfg(feature = "train")]
mod compare;
#[cfg(feature = "train")]
mod coreml;
mod device;
#[cfg(feature = "train")]
mod dynamic;
mod error;
#[cfg(feature = "explain")]
mod explain;
#[cfg(feature = "train")]
mod export;
#[cfg(feature = "train")]
mod fine_tune;
mod folded;
mod hash;
#[cfg(feature = "train")]
mod huggingface;
mod inspect;
#[cfg(feature = "train")]
mod integers;
#[cfg(feature = "train")]
pub mod jobs;
#[cfg(feature = "train")]
mod labels;
#[cfg(feature = "train")]
mod litert;
#[cfg(feature = "train")]
mod manifest;
mod memory;
mod models;
#[cfg(feature = "train")]
mod npz;
#[cfg(feature = "train")]
mod nvidia;
mod predict;
#[cfg(feature = "train")]
mod preparation;
#[cfg(feature = "download")]
mod pull;
#[cfg(feature = "train")]
mod quantize;
mod reject;
mod source;
#[cfg(feature = "train")]
mod staging;
#[cfg(feature = "train")]
mod start;
mod together;

#[cfg(feature = "train")]
mod making {
    pub use crate::bench::{
        BenchOptions, KernelTime, OperatorTime, Timing, TrainBenchOptions, bench_infer, bench_train,
        by_kernel,
    };
    #[cfg(feature = "peers")]
    pub use crate::bench::{FormatsOptions, FormatsProgress, bench_formats, check_formats, write_formats};
    pub use crate::compare::{
        BATCHES, Comparison, F16_TOLERANCE, INT8_TOLERANCE, Inputs, TOLERANCE, batches, compare,
        disagreements,
    };
    pub use crate::coreml::export_coreml;
    pub use crate::dynamic::DynamicInt8;
    pub use crate::export::{Exported, Proof, export_onnx, export_pt2, export_torchscript, shipped};
    pub use crate::fine_tune::{FineTune, FineTuned};
    pub use crate::huggingface::export_huggingface;
    pub use crate::integers::{check_float, is_quantized};
    pub use crate::labels::labelled;
    pub use crate::litert::export_litert;
    pub use crate::manifest::{
        Manifest, ManifestFile, ManifestPreparation, ManifestProof, exports_of_others, origin, origins,
    };
    pub use crate::nvidia::{
        TensorRtExport, TensorRtOptions, export_tensorrt, export_triton, trtexec_program,
    };
    pub use crate::preparation::{PREPARED_LEVELS, PREPARED_MEAN_LEVELS};
    pub use crate::quantize::{
        QuantizePictures, Quantized, StaticModel, StaticOptions, calibration_batches, export_static,
        quantize_static,
    };
    pub use crate::staging::{MadeFolders, check_replaceable};
    pub use crate::start::{
        architecture_of, keep_base, keeps_head, own_preprocessing, resumed, starting_model,
        starting_preprocessing, with_default_recipe,
    };
    pub use offshoot_data::{Dataset, FolderOptions, Labelled, pictures};
    pub use offshoot_formats::coreml::{
        Options as CoreMlOptions, Precision, StoredWeights, is_package as is_coreml_package,
    };
    pub use offshoot_formats::litert::{Options as LiteRtOptions, StoredWeights as LiteRtWeights};
    pub use offshoot_formats::onnx::Options as OnnxOptions;
    pub use offshoot_formats::tensorrt::{EnginePrecision, Profile};
    pub use offshoot_formats::torchscript::Form;
    pub use offshoot_quant::{Method, Scheme, WeightBits};
    pub use offshoot_train::health;
    pub use offshoot_train::recipe::PreprocessingSettings;
    pub use offshoot_train::{Amp, Control, Event, Freeze, GradScaler, Recipe, RunPictures, Settings, train};
}

pub use classifier::{Classification, Classifier, Prepared};
pub use device::{CpuOptions, Device, InferencePrecision, Isa};
pub use error::{Error, Result};
#[cfg(feature = "explain")]
pub use explain::{ExplainMethod, ExplainOptions, Explainer, Explanation, Heatmap, heatmap_picture, overlay};
pub use folded::folded_norms;
pub use hash::sha256;
pub use inspect::{Inspection, ModelInspection, TensorInspection, inspect};
#[cfg(feature = "train")]
pub use making::*;
pub use memory::{batch_within, check_memory};
pub use models::{ModelInfo, WeightsInfo, models};
pub use offshoot_data::{
    Augmentation, DecodeError, Loader, LoaderOptions, Picture, PictureError, Policy, Sample, Transform, Tta,
    View,
};
pub use offshoot_graph::remedy::{self, Remedy};
pub use offshoot_graph::{Fit, Metadata, Model, Preprocessing, Rejection, Score};
pub use offshoot_infer::{Figures, Inference, LabelMetrics, Metrics, evaluate, evaluate_views};
pub use predict::{Guess, PredictOptions, Prediction, TargetValue, predict, predict_shared};
#[cfg(feature = "download")]
pub use pull::{
    HUB, Patience, PullOptions, Pulled, PulledFile, PulledFolder, Wanted, fetch, fetch_wanted, pull,
    pull_folder,
};
pub use reject::Threshold;
pub use source::{Loaded, ModelSource, Overrides, from_state_dict, is_onnx, word};

/// A path in JSON; bytes of it that are no UTF-8 are written as `\xNN`.
fn lossy<S: serde::Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&offshoot_graph::text::path_text(path))
}
