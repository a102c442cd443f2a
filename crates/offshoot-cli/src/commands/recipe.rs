//! `offshoot recipe`

use std::path::PathBuf;

use clap::Args;
use offshoot::{Amp, Isa, Recipe, Settings, own_preprocessing, with_default_recipe, word};
use offshoot_train::template;

use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Architecture to fine-tune (`offshoot models` lists them), or a classifier with its graph: FILE.onnx, FILE.pt2.
    #[arg(long, help_heading = "Model", value_name = "NAME")]
    model: String,
    /// Recipe file (TOML) with settings; the defaults of the others are printed with them.
    #[arg(long, help_heading = "Model", value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let own = own_preprocessing(&self.model, None)?;
        let given = self.recipe.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        // The recipe is that of pretrained weights; which ones, and of which pictures, the command line of `train` says.
        let here = Settings { model: Some(self.model), ..Settings::default() };
        let stand_ins =
            Settings { weights: Some("weights".into()), data: Some("data".into()), ..Settings::default() };
        let recipe = Recipe::resolve(with_default_recipe(here.over(given)?.over(stand_ins)?), &own)?;
        if self.json {
            return print::json(&recipe);
        }
        let text = template(&recipe);
        print::line(&format!(
            "# The recipe of {}. Use it with: offshoot train DATA --model {} --weights FILE --recipe THIS.toml",
            recipe.model,
            word(recipe.model.as_ref())
        ))?;
        if Isa::best().has_tiles() && recipe.amp == Amp::Off {
            print::line("# This processor multiplies bf16 several times as fast as f32: try --amp bf16.")?;
        }
        print::lines(text.trim_end())
    }
}
