//! offshoot takes a pretrained image classifier, fine-tunes it on a folder of pictures, and ships it with the proof
//! that the shipped file matches the trained model.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//!
//! use offshoot::{
//!     Control, CpuExecutor, CpuOptions, Dataset, Event, Inputs, ModelSource, Proof, Recipe, Settings,
//! };
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let settings = Settings {
//!         model: Some("mobilenet_v2".into()),
//!         weights: Some("mobilenet_v2.pth".into()),
//!         data: Some("photos".into()),
//!         freeze: Some("backbone".parse()?),
//!         ..Settings::default()
//!     };
//!     let own = offshoot::own_preprocessing("mobilenet_v2", settings.weights.as_deref())?;
//!     let recipe = Recipe::resolve(settings, &own)?;
//!     let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
//!     let model = offshoot::starting_model(&recipe, &data.classes, &mut |warning| eprintln!("{warning}"))?;
//!     let executor = CpuExecutor::new(CpuOptions::default())?;
//!     let (run, stop) = (Path::new("run"), AtomicBool::new(false));
//!     let mut progress = |event: Event<'_>| println!("{event:?}");
//!     let control = Control::new(&mut progress, &stop);
//!     offshoot::train(model, &recipe, &data, run, &executor, control)?;
//!     let best = ModelSource::Path(run.into()).load(&Default::default())?.model;
//!     let inputs = Inputs::from_samples(data.val, &best.metadata.preprocessing)?;
//!     let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: None, float: None };
//!     let exported = offshoot::export_onnx(&best, Path::new("photos.onnx"), Default::default(), proof)?;
//!     println!("top-1 agrees on {} of the validation pictures", exported.top1_agreement);
//!     Ok(())
//! }
//! ```
//!
//! The crates below it can be used by themselves: `offshoot-graph` (the graph and its passes), `offshoot-cpu` (the
//! executor), `offshoot-models`, `offshoot-formats`, `offshoot-data`, `offshoot-train`, `offshoot-quant`.

#![warn(clippy::print_stderr)] // it panics where standard error cannot be written
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod bench;
mod compare;
mod coreml;
mod dynamic;
mod error;
mod export;
mod folded;
mod inspect;
mod labels;
mod manifest;
mod memory;
mod models;
mod npz;
mod nvidia;
mod predict;
mod preparation;
mod pull;
mod quantize;
mod source;
mod staging;
mod start;

pub use bench::{
    BenchOptions, FormatsOptions, FormatsProgress, Timing, TrainBenchOptions, bench_formats, bench_infer,
    bench_train, check_formats, write_formats,
};
pub use compare::{BATCHES, Comparison, Inputs, TOLERANCE, batches, compare, disagreements};
pub use coreml::{F16_TOLERANCE, INT8_TOLERANCE, export_coreml};
pub use dynamic::DynamicInt8;
pub use error::{Error, Result};
pub use export::{Exported, Proof, export_onnx, export_torchscript, shipped};
pub use folded::folded_norms;
pub use inspect::{Inspection, ModelInspection, TensorInspection, inspect};
pub use labels::labelled;
pub use manifest::{
    Manifest, ManifestFile, ManifestPreparation, ManifestProof, exports_of_others, origin, origins, sha256,
};
pub use memory::{batch_within, check_memory};
pub use models::{ModelInfo, WeightsInfo, models};
pub use nvidia::{TensorRtExport, TensorRtOptions, export_tensorrt, export_triton, trtexec_program};
pub use offshoot_cpu::{CpuExecutor, CpuOptions, Isa};
pub use offshoot_data::{
    Augmentation, Dataset, FolderOptions, Labelled, Loader, LoaderOptions, PictureError, Policy, Sample,
    Transform, Tta, View, pictures,
};
pub use offshoot_formats::coreml::{
    Options as CoreMlOptions, Precision, StoredWeights, is_package as is_coreml_package,
};
pub use offshoot_formats::onnx::Options as OnnxOptions;
pub use offshoot_formats::tensorrt::{EnginePrecision, Profile};
pub use offshoot_formats::torchscript::Form;
pub use offshoot_graph::{Fit, Metadata, Model, Preprocessing};
pub use offshoot_quant::{Method, Scheme, WeightBits};
pub use offshoot_train::health;
pub use offshoot_train::{
    Amp, Control, Event, Freeze, GradScaler, Inference, Metrics, Recipe, RunPictures, Settings, evaluate,
    evaluate_views, train,
};
pub use predict::{Guess, Prediction, predict};
pub use preparation::{PREPARED_LEVELS, PREPARED_MEAN_LEVELS};
pub use pull::{Patience, PullOptions, Pulled, Wanted, fetch, fetch_wanted, pull};
pub use quantize::{
    QuantizePictures, Quantized, StaticModel, StaticOptions, calibration_batches, check_float, export_static,
    is_quantized, quantize_static,
};
pub use source::{Loaded, ModelSource, Overrides, is_onnx, word};
pub use staging::{MadeFolders, check_replaceable};
pub use start::{
    architecture_of, keep_base, keeps_head, own_preprocessing, resumed, starting_model,
    starting_preprocessing, with_default_recipe,
};

/// A path in JSON; bytes of it that are no UTF-8 are written as `\xNN`.
fn lossy<S: serde::Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&offshoot_graph::text::path_text(path))
}
