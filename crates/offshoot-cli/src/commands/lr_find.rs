//! `offshoot lr-find`

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::jobs::writable_file;
use offshoot::{
    Dataset, Error, Freeze, Recipe, Settings, Transform, starting_model, starting_preprocessing,
    with_default_recipe,
};
use offshoot_formats::atomic::write_atomically;
use offshoot_train::report::rate_curve_svg;
use offshoot_train::{RangeTest, RateCurve, RatePoint, lr_find};

use super::arguments::{PreprocessingArguments, Processor, TableArguments, whole};
use super::{Failure, Outcome, print};

/// Lines and columns of the curve on the terminal.
const ROWS: usize = 12;
const COLUMNS: usize = 60;

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with one folder of pictures for each class, or with `train` and `val` folders that hold those; or a table of pictures.
    data: PathBuf,
    /// Architecture to fine-tune (`offshoot models` lists them), or a classifier with its graph: FILE.onnx, FILE.pt2.
    #[arg(long, help_heading = "Model", value_name = "NAME")]
    model: String,
    /// Pretrained weights: a .pth, .safetensors, TorchScript .pt or .pt2 [default: random weights].
    #[arg(long, help_heading = "Model", value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Recipe file (TOML) with settings; flags take precedence over it.
    #[arg(long, help_heading = "Model", value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Parameters to freeze: backbone, none, or patterns on parameter names.
    #[arg(long, help_heading = "Model", value_name = "WHAT")]
    freeze: Option<Freeze>,
    /// Batch size [default: 16].
    #[arg(long, help_heading = "Optimization", value_name = "N", value_parser = whole::<usize>("batch_size"))]
    batch_size: Option<usize>,
    /// Lowest learning rate.
    #[arg(long, help_heading = "Optimization", value_name = "X", default_value = "1e-7", value_parser = rate)]
    from: f64,
    /// Highest learning rate.
    #[arg(long, help_heading = "Optimization", value_name = "X", default_value = "10", value_parser = rate)]
    to: f64,
    /// Number of steps.
    #[arg(long, help_heading = "Optimization", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..=100_000))]
    steps: u32,
    /// Random seed [default: 0].
    #[arg(long, help_heading = "Optimization", value_name = "N", value_parser = whole::<u64>("seed"))]
    seed: Option<u64>,
    /// Also write the curve to a file: .csv or .svg. May be given several times.
    #[arg(long, help_heading = "Output", value_name = "FILE", value_parser = curve_file)]
    out: Vec<PathBuf>,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    processor: Processor,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|x: &f64| (1e-30..=1e30).contains(x));
    rate.ok_or_else(|| "give a rate above 0, as in 1e-7".into())
}

fn curve_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|e| e.to_str()) {
        Some("csv" | "svg") => Ok(path),
        _ => Err("give a name that ends in .csv or .svg".into()),
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        if self.from >= self.to {
            return Err(Error::Input(format!("--from {} must be below --to {}", self.from, self.to)).into());
        }
        self.out.iter().try_for_each(|path| writable_file(path))?;
        let recipe = self.recipe()?;
        let executor = self.processor.device()?;
        Transform::new(&recipe.preprocessing)?;
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        print::notes(&data.notes);
        print::skipped(&data.skipped);
        let model = starting_model(&recipe, &data.classes, &mut print::warning)?;
        let test = RangeTest { from: self.from, to: self.to, steps: self.steps as usize };
        let bar = print::bar(test.steps as u64, "rates");
        let curve = lr_find(model, &recipe, &data, &executor, test, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        for path in &self.out {
            write(path, &curve)?;
        }
        if self.json { print::json(&curve) } else { text(&curve) }
    }

    fn recipe(&self) -> Result<Recipe, Failure> {
        let mut settings = Settings {
            model: Some(self.model.clone()),
            weights: self.weights.clone(),
            data: Some(self.data.clone()),
            freeze: self.freeze.clone(),
            batch_size: self.batch_size,
            seed: self.seed,
            threads: self.processor.threads.map(|n| n.get()),
            preprocessing: self.preprocessing.settings(),
            columns: self.table.columns.clone(),
            root: self.table.root.clone(),
            ..Settings::default()
        };
        if let Some(path) = &self.recipe {
            settings = settings.over(Settings::read(path)?)?;
        }
        let own = starting_preprocessing(&settings)?;
        Ok(Recipe::resolve(with_default_recipe(settings), &own)?)
    }
}

fn write(path: &Path, curve: &RateCurve) -> Result<(), Failure> {
    let text = match path.extension().is_some_and(|e| e == "svg") {
        true => rate_curve_svg(curve),
        false => csv(&curve.points),
    };
    Ok(write_atomically(path, |file| file.write_all(text.as_bytes()))?)
}

fn csv(points: &[RatePoint]) -> String {
    let lines = points.iter().map(|p| format!("{:e},{:.6}\n", p.lr, p.loss));
    std::iter::once("learning_rate,loss\n".to_owned()).chain(lines).collect()
}

/// Places in the unit square: the logarithm of the rate from the left, the loss from the top. Losses far above the first are cut.
fn places(points: &[RatePoint]) -> Vec<(f64, f64)> {
    let low = points.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min);
    let first = points.first().map_or(low, |p| p.loss);
    let high = points.iter().map(|p| p.loss).fold(low, f64::max).min(first + (first - low).max(0.1));
    let (start, end) = (points.first().map_or(1.0, |p| p.lr), points.last().map_or(1.0, |p| p.lr));
    let width = (end / start).ln().max(f64::MIN_POSITIVE);
    let place = |p: &RatePoint| {
        ((p.lr / start).ln() / width, ((high - p.loss) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0))
    };
    points.iter().map(place).collect()
}

/// The curve as lines of text.
fn drawing(points: &[RatePoint]) -> String {
    let mut rows = vec![vec![' '; COLUMNS]; ROWS];
    for (x, y) in places(points) {
        rows[(y * (ROWS - 1) as f64).round() as usize][(x * (COLUMNS - 1) as f64).round() as usize] = '*';
    }
    rows.into_iter().map(|row| format!("|{}\n", row.into_iter().collect::<String>().trim_end())).collect()
}

fn text(curve: &RateCurve) -> Outcome {
    let ends = [curve.points.first(), curve.points.last()].map(|p| p.map_or(0.0, |p| p.lr));
    print::lines(drawing(&curve.points).trim_end())?;
    let (first, last) = (format!("{:.0e}", ends[0]), format!("{:.0e}", ends[1]));
    print::line(&format!(
        "{first}{last:>width$}   loss over the learning rate",
        width = COLUMNS + 1 - first.len()
    ))?;
    match curve.suggestion {
        Some(lr) => print::line(&format!("suggestion: --lr {lr:.1e}")),
        None => print::line("no suggestion: the loss never falls; give more --steps, or look at the curve"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> RateCurve {
        let points = [(1e-3, 2.0), (1e-2, 1.0), (1e-1, 1.5), (1.0, 90.0)];
        RateCurve { suggestion: Some(5e-3), points: points.map(|(lr, loss)| RatePoint { lr, loss }).to_vec() }
    }

    #[test]
    fn a_curve_is_drawn_and_listed() {
        let drawn = drawing(&curve().points);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), ROWS);
        // The first loss is half way down, the lowest at the bottom, the exploded one at the top.
        assert!(
            lines[0].ends_with('*') && lines[ROWS - 1].contains('*') && lines[6].starts_with("|*"),
            "{drawn}"
        );
        assert_eq!(csv(&curve().points).lines().nth(2), Some("1e-2,1.000000"));
    }

    #[test]
    fn a_curve_of_one_point_is_drawn() {
        let one = [RatePoint { lr: 1e-3, loss: 1.0 }];
        assert!(drawing(&one).contains('*'));
    }
}
