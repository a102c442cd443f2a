//! `offshoot eval`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use offshoot::Score;
use offshoot::jobs::{Accepted, ClassEvaluation, EvaluateJob, Evaluation, LabelEvaluation, TargetEvaluation};
use offshoot_graph::text::escaped;

use super::arguments::{
    self, PrecisionArgument, PreprocessingArguments, Pretrained, Processor, TableArguments, TtaArgument,
};
use super::printer::Printer;
use super::world::WorldArguments;
use super::{Outcome, print};

/// Classes whose figures are printed.
const MOST_CLASSES: usize = 30;

#[derive(Args)]
pub(crate) struct Arguments {
    /// MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder) and DATA (a folder with one
    /// folder of pictures for each class, or a table of pictures) [default for a run: its own validation pictures].
    #[arg(value_name = "MODEL DATA", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pretrained: Pretrained,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    tta: TtaArgument,
    #[command(flatten)]
    precision: PrecisionArgument,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    processor: Processor,
    #[command(flatten)]
    world: WorldArguments,
    /// Treat a picture that cannot be read as an error instead of skipping it.
    #[arg(long, help_heading = "Data")]
    strict: bool,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let (source, rest) = self.pretrained.source(self.paths)?;
        let job = EvaluateJob {
            source,
            data: arguments::data(rest)?,
            overrides: self.preprocessing.overrides(),
            tta: self.tta.tta,
            strict: self.strict,
            table: self.table.table(),
        };
        let mut printer = Printer::counting("eval");
        let device = self.precision.device(&self.processor)?;
        let evaluation = job.run_shared(&device, self.world.world(), &mut printer)?;
        printer.finish();
        if self.json { print::json(&evaluation) } else { text(&evaluation) }
    }
}

fn text(evaluation: &Evaluation) -> Outcome {
    match evaluation {
        Evaluation::Classes(found) => of_classes(found),
        Evaluation::Labels(found) => of_labels(found),
        Evaluation::Targets(found) => of_targets(found),
    }
}

fn of_targets(found: &TargetEvaluation) -> Outcome {
    let shown = |r2: Option<f64>| r2.map_or("-".to_owned(), |r2| format!("{r2:.4}"));
    print::line(&format!("MAE       {:.6}", found.mae))?;
    print::line(&format!("RMSE      {:.6}", found.rmse))?;
    print::line(&format!("R^2       {}", shown(found.r2)))?;
    print::line(&format!("loss      {:.4}", found.loss))?;
    print::line(&format!("images    {} ({} skipped)", found.images, found.skipped))?;
    per_class(&found.per_target, |figures| {
        format!("MAE {:.6}  RMSE {:.6}  R^2 {}", figures.mae, figures.rmse, shown(figures.r2))
    })
}

fn of_labels(found: &LabelEvaluation) -> Outcome {
    let auroc = found.auroc.map_or("-".to_owned(), |area| format!("{area:.4}"));
    print::line(&format!("mAP       {:.4}", found.map))?;
    print::line(&format!("AUROC     {auroc}"))?;
    print::line(&format!("micro F1  {:.4}", found.f1_micro))?;
    print::line(&format!("macro F1  {:.4}", found.f1_macro))?;
    print::line(&format!("all right {:.4}", found.exact))?;
    print::line(&format!("loss      {:.4}", found.loss))?;
    print::line(&format!("images    {} ({} skipped)", found.images, found.skipped))?;
    let shown = |x: Option<f64>| x.map_or("-     ".to_owned(), |x| format!("{x:.4}"));
    per_class(&found.per_class, |figures| {
        let (ap, auroc) = (shown(figures.ap), shown(figures.auroc));
        let (f1, threshold) = (figures.f1, figures.threshold);
        format!("AP {ap}  AUROC {auroc}  F1 {f1:.4} at {threshold:.3}  of {}", figures.images)
    })
}

fn of_classes(evaluation: &ClassEvaluation) -> Outcome {
    print::line(&format!("accuracy  {:.4}", evaluation.accuracy))?;
    print::line(&format!("top-5     {:.4}", evaluation.top5))?;
    print::line(&format!("loss      {:.4}", evaluation.loss))?;
    let with = evaluation.temperature.map_or(String::new(), |t| format!("  with temperature {t:.3}"));
    print::line(&format!("ECE       {:.4}{with}", evaluation.ece))?;
    print::line(&format!("Brier     {:.4}{with}", evaluation.brier))?;
    print::line(&format!("images    {} ({} skipped)", evaluation.images, evaluation.skipped))?;
    coverage(evaluation)?;
    per_class(&evaluation.per_class, |figures| {
        format!("{:.4}  of {}", figures.accuracy.unwrap_or(0.0), figures.images)
    })
}

/// The accuracy on parts of the pictures, those with the highest scores.
fn coverage(evaluation: &ClassEvaluation) -> Outcome {
    let score = evaluation.rejection.map_or(Score::Probability, |own| own.score).name();
    let text = |found: &Accepted| {
        let accuracy = found.accuracy.map_or("-".to_owned(), |accuracy| format!("{accuracy:.4}"));
        let (covered, least) = (100.0 * found.coverage, found.threshold);
        format!("accuracy {accuracy} on {covered:.1} % of the pictures: {score} from {least:.3}")
    };
    evaluation.coverage.iter().try_for_each(|found| print::line(&format!("coverage  {}", text(found))))?;
    evaluation.rejection.map_or(Ok(()), |own| print::line(&format!("accepted  {}", text(&own.accepted))))
}

/// A line for each class or target, unless there are too many.
fn per_class<T>(classes: &BTreeMap<String, T>, line: impl Fn(&T) -> String) -> Outcome {
    if classes.len() > MOST_CLASSES {
        return Ok(());
    }
    let names: Vec<String> = classes.keys().map(|class| escaped(class)).collect();
    let width = print::widest(names.iter().map(String::as_str));
    for (name, figures) in names.iter().zip(classes.values()) {
        print::line(&format!("  {}  {}", print::padded(name, width), line(figures)))?;
    }
    Ok(())
}
