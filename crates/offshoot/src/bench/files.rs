//! The file of each target, made as `export` and `quantize` make it.

use std::path::{Path, PathBuf};

use offshoot_files::stem;
use offshoot_formats::coreml;
use offshoot_formats::onnx;
use offshoot_formats::torchscript::Form;
use offshoot_graph::remedy::DATA;
use offshoot_graph::{Executor, Model};

use super::formats::FormatsProgress;
use crate::compare::Inputs;
use crate::coreml::export_coreml;
use crate::dynamic::DynamicInt8;
use crate::error::Result;
use crate::export::{Exported, Proof, export_onnx, export_torchscript};
use crate::nvidia::{TensorRtOptions, tensorrt_folder};
use crate::quantize::{QuantizePictures, StaticOptions, quantize_static};

/// A file or folder that is shipped.
pub(super) struct Shipped {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// One that is there, or why it is not.
pub(super) type Made = std::result::Result<Shipped, String>;

/// A file for each target. Those of one format serve several.
pub(super) struct Files {
    pub(super) onnx: Made,
    pub(super) int8_static: Made,
    pub(super) int8_dynamic: Made,
    pub(super) torchscript: Made,
    pub(super) coreml: Made,
    pub(super) tensorrt: Made,
}

impl Files {
    /// Writes them into `folder`, each proven on the built-in pictures.
    ///
    /// # Errors
    /// When the model cannot be written as ONNX. What else cannot be made says so in its place.
    pub(super) fn make(
        model: &Model,
        pictures: &QuantizePictures,
        folder: &Path,
        source_sha256: Option<&str>,
        executor: &dyn Executor,
        progress: &mut dyn FnMut(FormatsProgress<'_>),
    ) -> Result<Files> {
        let inputs = Inputs::built_in(&model.metadata.preprocessing)?;
        let proof = Proof { inputs: &inputs, executor, source_sha256, float: None };
        let stem = stem(model.metadata.architecture.as_deref().unwrap_or("model"));
        let path = |ending: &str| folder.join(format!("{stem}{ending}"));
        let shipped = |Exported { path, bytes, .. }| Shipped { path, bytes };
        let reason = |made: Result<Exported>| made.map(shipped).map_err(|e| e.to_string());
        let mut doing = |what: &str| progress(FormatsProgress::Doing(what));
        doing("writing ONNX");
        let onnx = export_onnx(model, &path(".onnx"), onnx::Options::default(), proof)?;
        doing("writing ONNX in dynamic int8");
        let int8_dynamic = dynamic(model, &path("-dynamic-int8.onnx"), proof);
        doing("writing TorchScript, Core ML and what TensorRT takes");
        let torchscript = export_torchscript(model, &path(".pt"), Form::Traced, proof);
        let coreml = export_coreml(model, &path(".mlpackage"), coreml::Options::default(), proof);
        let tensorrt = tensorrt_folder(model, &path("-tensorrt"), &TensorRtOptions::default(), proof)
            .map(|(file, _)| file);
        let int8_static = match pictures.calibration.is_empty() {
            true => Err(format!(
                "static int8 is calibrated on pictures like those of the training, and there are none: give a run directory or {DATA} DIR"
            )),
            false => reason(in_static(model, pictures, &path("-int8.onnx"), proof, &mut doing)),
        };
        Ok(Files {
            onnx: Ok(shipped(onnx)),
            int8_static,
            int8_dynamic: int8_dynamic.map_err(|e| e.to_string()),
            torchscript: reason(torchscript),
            coreml: reason(coreml),
            tensorrt: reason(tensorrt),
        })
    }
}

fn dynamic(model: &Model, path: &Path, proof: Proof<'_>) -> Result<Shipped> {
    let int8 = DynamicInt8::of_model(model.clone())?;
    let [bytes, _] = int8.write_onnx(path, onnx::Options::default(), Some(proof))?;
    Ok(Shipped { path: path.to_owned(), bytes })
}

fn in_static(
    model: &Model,
    pictures: &QuantizePictures,
    path: &Path,
    proof: Proof<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Exported> {
    // What is measured comes later, with the other targets.
    let calibration =
        QuantizePictures { calibration: pictures.calibration.clone(), ..QuantizePictures::default() };
    let quantized = quantize_static(model, &calibration, &StaticOptions::default(), proof.executor, say)?;
    let proof = Proof { float: Some(model), ..proof };
    export_onnx(&quantized.model, path, onnx::Options::default(), proof)
}
