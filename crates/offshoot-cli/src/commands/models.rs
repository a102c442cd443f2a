//! `offshoot models`

use clap::Args;
use offshoot::{ModelInfo, WeightsInfo, models};
use serde::Serialize;

use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct All {
    models: Vec<ModelInfo>,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let models = models()?;
        if self.json {
            return print::json(&All { models });
        }
        print::line("name                          size   parameters   multiply-adds   classes   weights")?;
        for model in models {
            print::line(&row(&model))?;
            for weights in &model.other_weights {
                let name = format!("  {}.{}", model.name, weights.version);
                print::line(&format!("{name:76}   {}", where_from(weights)))?;
            }
        }
        print::line(
            "`offshoot pull NAME` downloads the weights, `offshoot pull NAME.VERSION` another version. timm's efficientnet_lite models \
             without tf_ are those with _symmetric here. ONNX classifiers can be fine-tuned too: --model FILE.onnx",
        )
    }
}

fn row(model: &ModelInfo) -> String {
    let millions = |n: u64| n as f64 / 1e6;
    let classes = model.classes.map_or("no head".into(), |n| n.to_string());
    let weights = match &model.weights {
        Some(weights) => where_from(weights),
        None => "none published".into(),
    };
    format!(
        "{:28} {:5} {:10.1} M {:13.0} M {:>9}   {weights}",
        model.name,
        model.size,
        millions(model.parameters),
        millions(model.multiply_adds),
        classes
    )
}

fn where_from(weights: &WeightsInfo) -> String {
    let accuracy = weights.accuracy.map_or_else(String::new, |percent| format!(", top-1 {percent:.1} %"));
    format!("{} ({}{accuracy})", weights.url, weights.license)
}
