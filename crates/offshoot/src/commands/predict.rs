//! `offshoot predict`

use std::path::PathBuf;

use clap::Args;
use offshoot::{Error, FolderOptions, PictureError, Prediction, Transform, pictures, predict};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, TtaArgument};
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx or a TorchScript .pt), then pictures, or folders of them.
    #[arg(value_name = "MODEL PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// How many classes to name.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Print the logits too (with --json).
    #[arg(long)]
    logits: bool,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    tta: TtaArgument,
    #[command(flatten)]
    processor: Processor,
    /// Make a picture that cannot be used an error.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object for each picture.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, paths) = self.pretrained.source(self.paths)?;
        if paths.is_empty() {
            return Err(Error::Input("give pictures, or folders of them, after the model".into()).into());
        }
        let executor = self.processor.executor()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let folder = FolderOptions { strict: self.strict, decode, ..FolderOptions::default() };
        let found = pictures(&paths, &folder)?;
        let mut closed = false;
        let mut count = 0;
        let views = self.tta.views(&model.metadata)?;
        let failed = predict(&model, found.paths, &views, (self.top, self.logits), &executor, |prediction| {
            count += 1;
            let printed = if self.json { print::json(&prediction) } else { text(&prediction) };
            match printed {
                Ok(()) => Ok(()),
                Err(Failure::Error(error)) => Err(error),
                Err(Failure::ClosedPipe | Failure::Check | Failure::Interrupted) => {
                    closed = true;
                    Err(Error::Input("nobody reads the output".into()))
                }
            }
        });
        let failed = match failed {
            Err(_) if closed => return Err(Failure::ClosedPipe),
            other => other?,
        };
        let skipped: Vec<PictureError> = found.skipped.into_iter().chain(failed).collect();
        print::skipped(&skipped);
        match skipped.into_iter().next() {
            Some(first) if self.strict => Err(first.into()),
            Some(first) if count == 0 => {
                Err(Error::Input(format!("no picture could be classified; the first: {first}")).into())
            }
            _ => Ok(()),
        }
    }
}

fn text(prediction: &Prediction) -> Outcome {
    let guesses: Vec<String> =
        prediction.top.iter().map(|g| format!("{} {:.1}%", g.class, 100.0 * g.probability)).collect();
    print::line(&format!("{}: {}", prediction.path.display(), guesses.join(", ")))
}
