//! `offshoot explain`

use std::path::PathBuf;

use clap::Args;
use offshoot::jobs::{self, Explained};
use offshoot::{ExplainMethod, ExplainOptions, pictures};
use offshoot_graph::text::{escaped, shown};

use super::arguments::{self, PreprocessingArguments, Pretrained, Processor};
use super::each::{self, Printed};
use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder), then pictures or folders of
    /// pictures.
    #[arg(value_name = "MODEL PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    /// Folder to write to: for a picture NAME.jpg, NAME.overlay.png (the picture as the network sees it, with the map over it in colors) and
    /// NAME.heatmap.png (the map in gray levels).
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    out: PathBuf,
    /// Method: layercam or gradcam (the activations of a layer, weighted by the gradient of the class's logit), attention (the attention of a
    /// transformer, weighted by its gradient, through all layers), or occlusion (by how much the logit falls where a square is covered,
    /// which works for any network) [default: auto, which is attention for transformers whose attention is of all tokens to all, else
    /// layercam, else occlusion].
    #[arg(long, help_heading = "Explanation", value_name = "METHOD", value_parser = method)]
    method: Option<Method>,
    /// The class to explain [default: the most likely one of each picture].
    #[arg(long, help_heading = "Explanation", value_name = "NAME")]
    class: Option<String>,
    /// For layercam and gradcam: the layer, which is a node of the graph (see inspect), or a module, whose last node it is then [default: the last
    /// layer with numbers for the places of a picture].
    #[arg(long, help_heading = "Explanation", value_name = "NAME")]
    layer: Option<String>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    processor: Processor,
    /// Treat a picture that cannot be read as an error instead of skipping it.
    #[arg(long, help_heading = "Data")]
    strict: bool,
    /// Print one JSON object for each picture, one on a line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What `--method` says.
#[derive(Clone, Copy, Debug)]
enum Method {
    Auto,
    Of(ExplainMethod),
}

fn method(text: &str) -> Result<Method, String> {
    if text == "auto" { Ok(Method::Auto) } else { text.parse().map(Method::Of) }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, paths) = self.pretrained.source(self.paths)?;
        each::check_given(&paths)?;
        jobs::writable_folder(&self.out)?;
        let executor = self.processor.device()?;
        let model = arguments::load(&source, &self.preprocessing.overrides())?.model;
        let folder = each::folder_options(&model, self.strict)?;
        let class = self.class.map(|name| jobs::class_named(&model.metadata, &name)).transpose()?;
        let method = match self.method {
            Some(Method::Of(method)) => Some(method),
            Some(Method::Auto) | None => None,
        };
        let options = ExplainOptions { method, class, layer: self.layer };
        let found = pictures(&paths, &folder)?;
        let mut all = Printed::default();
        let failed = jobs::explain(&model, &found.paths, &self.out, &options, &executor, |explained| {
            all.add(if self.json { print::json(&explained) } else { text(&explained) })
        });
        let failed = all.ended(failed)?;
        all.finish(found.skipped.into_iter().chain(failed).collect(), self.strict, "explained")
    }
}

fn text(explained: &Explained) -> Outcome {
    let layer = explained.layer.as_ref().map_or(String::new(), |layer| format!(" of {}", escaped(layer)));
    print::line(&format!(
        "{}: {} {:.1}%, {}{layer}: {}",
        shown(&explained.path),
        escaped(&explained.class),
        100.0 * explained.probability,
        explained.method,
        shown(&explained.overlay)
    ))
}
