//! `offshoot export`

use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{
    Dataset, Error, Exported, FolderOptions, Form, Inputs, Model, OnnxOptions, Proof, Recipe, Transform,
    export_onnx, export_torchscript, labelled, sha256,
};
use serde_json::json;

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL: a run directory, a .safetensors of ours, an .onnx or a TorchScript .pt.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// What to write: onnx, torchscript.
    #[arg(long, value_name = "FORMAT,..", value_delimiter = ',', required = true)]
    format: Vec<String>,
    /// For torchscript: a file that prepares its pictures itself and has a method `classify`.
    #[arg(long)]
    script: bool,
    /// For onnx: the operator set, 13 to 21. 17 by default, 18 with --with-preprocess.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(13..=21))]
    opset: Option<i64>,
    /// For onnx: a file that prepares its pictures itself; it takes bytes [batch, height, width, 3] of any size.
    #[arg(long)]
    with_preprocess: bool,
    /// Pictures for the proof; by default the run's validation pictures, else some that are built in.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to write; by default the run's `exports`, else the model's folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        self.check_formats()?;
        let (source, rest) = self.pretrained.source(self.paths.clone())?;
        if let Some(extra) = rest.first() {
            return Err(Error::Input(format!("one model at a time; what is {} for?", extra.display())).into());
        }
        let executor = self.processor.executor()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let run = self.paths.first().filter(|p| p.is_dir());
        let inputs = proof_inputs(&model, run.map(PathBuf::as_path), self.data.as_deref())?;
        let out = self.out_folder(run.map(PathBuf::as_path));
        std::fs::create_dir_all(&out).map_err(|source| Error::Io {
            path: out.clone(),
            action: "create",
            source,
        })?;
        let stem = self.stem(&model);
        let onnx = out.join(format!("{stem}.onnx"));
        let torchscript = out.join(format!("{stem}.pt"));
        let source = source.checkpoint().and_then(|path| sha256(&path))?;
        let proof = Proof { inputs: &inputs, executor: &executor, source_sha256: Some(&source) };
        let mut files = Vec::new();
        for format in &self.format {
            files.push(match format.as_str() {
                "torchscript" => {
                    let form = if self.script { Form::Scripted } else { Form::Traced };
                    export_torchscript(&model, &torchscript, form, proof)?
                }
                _ => export_onnx(&model, &onnx, self.onnx_options(), proof)?,
            });
        }
        if self.json { print::json(&json!({"files": files})) } else { files.iter().try_for_each(text) }
    }

    fn onnx_options(&self) -> OnnxOptions {
        let with_preprocess = self.with_preprocess;
        let opset = self.opset.unwrap_or(if with_preprocess { 18 } else { 17 });
        OnnxOptions { opset, with_preprocess, ..OnnxOptions::default() }
    }

    fn check_formats(&self) -> Result<(), Failure> {
        if let Some(format) = self.format.iter().find(|f| !matches!(f.as_str(), "onnx" | "torchscript")) {
            let known = matches!(format.as_str(), "coreml" | "tensorrt");
            let what = if known { "is not supported yet" } else { "is no format" };
            return Err(Error::Input(format!("--format {format} {what}; give onnx or torchscript")).into());
        }
        if self.script && !self.format.iter().any(|f| f == "torchscript") {
            return Err(Error::Input("--script goes with --format torchscript".into()).into());
        }
        if self.with_preprocess && !self.format.iter().any(|f| f == "onnx") {
            return Err(Error::Input("--with-preprocess goes with --format onnx".into()).into());
        }
        Ok(())
    }

    fn out_folder(&self, run: Option<&Path>) -> PathBuf {
        match (&self.out, run, self.paths.first().and_then(|p| p.parent())) {
            (Some(out), _, _) => out.clone(),
            (None, Some(run), _) => run.join("exports"),
            (None, None, Some(parent)) => parent.to_owned(),
            (None, None, None) => PathBuf::new(),
        }
    }

    /// The file's name without its ending: the architecture's, else that of the model file.
    fn stem(&self, model: &Model) -> String {
        let file = || self.paths.first()?.file_stem()?.to_str().map(str::to_owned);
        model.metadata.architecture.clone().or_else(file).unwrap_or_else(|| "model".into())
    }
}

/// Pictures to compare on: those asked for, the run's validation pictures, or the built-in ones.
pub(crate) fn proof_inputs(
    model: &Model,
    run: Option<&Path>,
    data: Option<&Path>,
) -> Result<Inputs, Failure> {
    let preprocessing = &model.metadata.preprocessing;
    let decode = Transform::new(preprocessing)?.decode_options();
    if let Some(data) = data {
        let options = FolderOptions { decode, ..FolderOptions::default() };
        let found = labelled(data, &model.metadata.classes, &options)?;
        return Ok(Inputs::from_samples(found.samples, preprocessing)?);
    }
    let recipe = run.and_then(|run| Recipe::read(run).ok());
    // The pictures may have moved since; the built-in ones are always there.
    let samples = recipe.and_then(|r| Dataset::open(&r.data, &r.folder_options()).ok()).map(|d| d.val);
    match samples.filter(|s| !s.is_empty()) {
        Some(samples) => Ok(Inputs::from_samples(samples, preprocessing)?),
        None => {
            eprintln!("comparing on the built-in pictures; --data DIR compares on your own");
            Ok(Inputs::built_in(preprocessing)?)
        }
    }
}

fn text(file: &Exported) -> Outcome {
    print::line(&format!("{}  {}", file.path.display(), print::bytes(file.bytes)))?;
    let (diff, agree) = (file.max_abs_diff, 100.0 * file.top1_agreement);
    print::line(&format!(
        "  read back and compared: largest difference of a logit {diff:.2e}, top-1 agrees on {agree:.1} %"
    ))
}
