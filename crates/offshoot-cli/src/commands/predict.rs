//! `offshoot predict`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::{Error, PictureError, PredictOptions, Prediction, Threshold, jobs, pictures, predict_shared};
use offshoot_graph::text::{escaped, shown};

use super::arguments::{self, PrecisionArgument, PreprocessingArguments, Pretrained, Processor, TtaArgument};
use super::each::{self, Printed};
use super::world::WorldArguments;
use super::{Failure, Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder), then pictures or folders of
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
    /// Say `none of these` of pictures whose highest probability is below T, 0 to 1, or, with auto, whose score is below the threshold
    /// that `train` has fitted on validation pictures. Of a model of several labels: the probability from which on a picture has a class, or
    /// auto, the fitted ones [default there: auto].
    #[arg(long, help_heading = "Output", value_name = "T|auto")]
    threshold: Option<Threshold>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    tta: TtaArgument,
    #[command(flatten)]
    precision: PrecisionArgument,
    #[command(flatten)]
    processor: Processor,
    #[command(flatten)]
    world: WorldArguments,
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
        each::check_given(&paths)?;
        let world = self.world.world();
        if world.is_shared() && paths.iter().any(|path| path == Path::new(STANDARD_INPUT)) {
            return Err(
                Error::Input("`-` reads standard input, which one process has: give a file".into()).into()
            );
        }
        let executor = self.precision.device(&self.processor)?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let folder = each::folder_options(&model, self.strict)?;
        let piped = Piped::read(&mut paths)?;
        let found = pictures(&paths, &folder)?;
        let mut all = Printed::default();
        let views = jobs::views(self.tta.tta, &model.metadata)?;
        let options = PredictOptions { top: self.top, logits: self.logits, threshold: self.threshold };
        let failed =
            predict_shared(&model, found.paths, &views, options, (&executor, world), |mut prediction| {
                prediction.path = piped.named(prediction.path);
                all.add(if self.json { print::json(&prediction) } else { text(&prediction) })
            });
        let failed = all.ended(failed)?;
        let named = |error: PictureError| PictureError { path: piped.named(error.path), ..error };
        let skipped = found.skipped.into_iter().chain(failed).map(named).collect();
        all.finish(skipped, self.strict, "classified")
    }
}

fn text(prediction: &Prediction) -> Outcome {
    if let Some(values) = &prediction.values {
        let values: Vec<String> =
            values.iter().map(|found| format!("{} {}", escaped(&found.target), found.value)).collect();
        return print::line(&format!("{}: {}", shown(&prediction.path), values.join(", ")));
    }
    let guesses: Vec<String> = prediction
        .top
        .iter()
        .map(|g| format!("{} {:.1}%", escaped(&g.class), 100.0 * g.probability))
        .collect();
    let labels = prediction.labels.as_ref().map(|labels| {
        let labels: Vec<String> = labels.iter().map(|label| escaped(label)).collect();
        if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }
    });
    let rejected = prediction.rejected.filter(|&rejected| rejected).map(|_| "none of these".to_owned());
    let labels = labels.or(rejected).map_or(String::new(), |labels| format!("{labels}; "));
    print::line(&format!("{}: {labels}{}", shown(&prediction.path), guesses.join(", ")))
}
