//! `offshoot predict`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{Error, FolderOptions, PictureError, Prediction, Transform, pictures, predict};
use offshoot_graph::text::{escaped, shown};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor, TtaArgument};
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt or a .pt2), then pictures or folders of
    /// pictures; `-` reads one picture from standard input.
    #[arg(value_name = "MODEL PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Number of classes to print.
    #[arg(long, help_heading = "Output", value_name = "K", default_value_t = 5, value_parser = top)]
    top: usize,
    /// Print the logits too (with --json).
    #[arg(long, help_heading = "Output", requires = "json")]
    logits: bool,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    tta: TtaArgument,
    #[command(flatten)]
    processor: Processor,
    /// Treat a picture that cannot be read as an error instead of skipping it.
    #[arg(long, help_heading = "Data")]
    strict: bool,
    /// Print one JSON object for each picture, one on a line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

fn top(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "give a number, at least 1".into())
}

/// What stands for standard input among the paths.
const STANDARD_INPUT: &str = "-";
/// More bytes than a file of a picture has.
const MAX_PICTURE: u64 = 1 << 30;

/// The picture that came by standard input, as a file for the time of the run.
struct Piped(Option<tempfile::NamedTempFile>);

impl Piped {
    /// Reads it where `paths` ask for it, and puts the file in its place.
    fn read(paths: &mut [PathBuf]) -> Result<Piped, Failure> {
        let mut asked = paths.iter_mut().filter(|path| *path == Path::new(STANDARD_INPUT));
        let Some(path) = asked.next() else { return Ok(Piped(None)) };
        if asked.next().is_some() {
            return Err(Error::Input("`-` reads one picture from standard input; give it once".into()).into());
        }
        let failed = |source| Error::Io { path: "standard input".into(), action: "read", source };
        let mut bytes = Vec::new();
        std::io::stdin().take(MAX_PICTURE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.is_empty() || bytes.len() as u64 > MAX_PICTURE {
            let what =
                if bytes.is_empty() { "it is empty" } else { "more than 1 GiB, no picture is that large" };
            return Err(Error::Input(format!("standard input: {what}; give one picture")).into());
        }
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.flush()).map_err(failed)?;
        *path = file.path().to_owned();
        Ok(Piped(Some(file)))
    }

    /// The name that a picture was given by.
    fn named(&self, path: PathBuf) -> PathBuf {
        match &self.0 {
            Some(file) if file.path() == path => STANDARD_INPUT.into(),
            _ => path,
        }
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, mut paths) = self.pretrained.source(self.paths)?;
        if paths.is_empty() {
            return Err(Error::Input("give pictures, or folders of them, after the model".into()).into());
        }
        let executor = self.processor.device()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let decode = Transform::new(&model.metadata.preprocessing)?.decode_options();
        let folder = FolderOptions { strict: self.strict, decode, ..FolderOptions::default() };
        let piped = Piped::read(&mut paths)?;
        let found = pictures(&paths, &folder)?;
        let mut closed = false;
        let mut count = 0;
        let views = self.tta.views(&model.metadata)?;
        let failed =
            predict(&model, found.paths, &views, (self.top, self.logits), &executor, |mut prediction| {
                count += 1;
                prediction.path = piped.named(prediction.path);
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
        let named = |error: PictureError| PictureError { path: piped.named(error.path), ..error };
        let skipped: Vec<PictureError> = found.skipped.into_iter().chain(failed).map(named).collect();
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
    let guesses: Vec<String> = prediction
        .top
        .iter()
        .map(|g| format!("{} {:.1}%", escaped(&g.class), 100.0 * g.probability))
        .collect();
    print::line(&format!("{}: {}", shown(&prediction.path), guesses.join(", ")))
}
