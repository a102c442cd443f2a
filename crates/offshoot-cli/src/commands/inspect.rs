//! `offshoot inspect`

use std::path::PathBuf;

use clap::Args;
use offshoot::{Inspection, ModelInspection, TensorInspection, inspect, jobs};
use offshoot_graph::text::shown;
use offshoot_graph::{Rejection, Scale, Task};

use super::arguments::{LastArgument, MemoryLimit, PreprocessingArguments};
use super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// A run directory, a .safetensors, an .onnx, a TorchScript .pt, a .pt2, or a .pth.
    file: PathBuf,
    #[command(flatten)]
    last: LastArgument,
    /// Print the whole graph and every tensor.
    #[arg(long, help_heading = "Output")]
    graph: bool,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    memory: MemoryLimit,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        self.memory.apply();
        let file = self.last.of(self.file)?;
        jobs::unfinished(&file).iter().for_each(|text| print::warning(text));
        let inspection = inspect(&file, &self.preprocessing.overrides())?;
        if self.json {
            return print::json(&inspection);
        }
        match inspection {
            Inspection::Model(model) => model_text(&model, self.graph),
            Inspection::Weights { path, parameters, tensors, warnings } => {
                warnings.iter().for_each(|warning| print::warning(&format!("{}: {warning}", shown(&path))));
                print::line(&format!("{}: weights without a graph", shown(&path)))?;
                print::line(&format!("  {} tensors, {parameters} elements", tensors.len()))?;
                tensors.iter().try_for_each(|t| print::line(&format!("  {}", typed(t))))
            }
        }
    }
}

fn typed(tensor: &TensorInspection) -> String {
    format!("{}: {}[{}]", tensor.name, tensor.dtype, tensor.shape.join(", "))
}

fn model_text(model: &ModelInspection, graph: bool) -> Outcome {
    model.warnings.iter().for_each(|w| print::warning(w));
    let named = model.architecture.as_deref().unwrap_or("a graph from a file");
    let head = model.head.as_deref().map_or(String::new(), |h| format!(", head {h}"));
    print::line(&format!("{}: {named}{head}", shown(&model.path)))?;
    let ends = |tensors: &[TensorInspection]| tensors.iter().map(typed).collect::<Vec<_>>().join("; ");
    print::line(&format!("  input          {}", ends(&model.inputs)))?;
    print::line(&format!("  output         {}", ends(&model.outputs)))?;
    print::line(&format!("  parameters     {}", model.parameters))?;
    let shown = model.classes.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    let more = if model.classes.len() > 10 { ", ..." } else { "" };
    let outputs = if model.task == Task::Regression { "targets" } else { "classes" };
    print::line(&format!("  {outputs}        {}: {shown}{more}", model.classes.len()))?;
    match model.task {
        Task::Single => {}
        Task::Regression => {
            print::line("  task           regression: numbers, in the units of the targets")?;
            if let Some(regression) = &model.regression {
                let of = |(name, scale): (&String, &Scale)| {
                    format!("{name} {} +- {}", scale.mean as f32, scale.deviation as f32)
                };
                let all = model.classes.iter().zip(&regression.scales).take(10).map(of);
                let all = all.collect::<Vec<_>>().join(", ");
                print::line(&format!("  loss           {}", regression.loss))?;
                print::line(&format!(
                    "  scales         {all}{more} (mean and deviation of the training pictures)"
                ))?;
            }
        }
        Task::Multi => {
            let of = |(class, threshold): (&String, &f64)| format!("{class} {threshold:.3}");
            let all = model.classes.iter().zip(&model.thresholds);
            let shown = all.take(10).map(of).collect::<Vec<_>>().join(", ");
            print::line("  task           multi: any number of classes a picture")?;
            print::line(&format!("  thresholds     {shown}{more}"))?;
        }
    }
    if let Some(temperature) = model.temperature {
        print::line(&format!(
            "  temperature    {temperature:.3}: probabilities are the softmax of logits divided by it"
        ))?;
    }
    if let Some(Rejection { score, threshold, precision }) = model.rejection {
        let (name, percent) = (score.name(), 100.0 * precision);
        print::line(&format!(
            "  rejection      {name} below {threshold:.3}; {percent:.1} % of the others were to be right"
        ))?;
    }
    if model.inputs.iter().any(|input| input.dtype == "f32" && input.shape.len() == 4) {
        print::line(&format!("  preprocessing  {}", model.preprocessing))?;
    }
    let operators: Vec<String> = model.operators.iter().map(|(name, n)| format!("{n} {name}")).collect();
    print::line(&format!("  operators      {}", operators.join(", ")))?;
    if let Some(training) = &model.training {
        print::line(&format!("  training       {training}"))?;
    }
    if graph { print::lines(model.graph.trim_end()) } else { Ok(()) }
}
