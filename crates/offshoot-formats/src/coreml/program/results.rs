//! What a program gives: labels, probabilities and logits, or numbers.

use offshoot_graph::passes::{OutputScale, gives_probabilities};
use offshoot_graph::{Metadata, Task, ValueId};

use super::{TAKES_PICTURES, Writer};
use crate::coreml::builder::named_type;
use crate::coreml::proto::{Value, ValueType, data_type};
use crate::coreml::{LOGITS, Precision, TARGETS};
use crate::error::Problem;

impl Writer<'_> {
    /// Logits, probabilities and labels, in f32.
    pub(super) fn results(&mut self, metadata: &Metadata) -> Result<(), Problem> {
        let output = self.output()?;
        let f32_type = self.widened(output, metadata.classes.len(), LOGITS)?;
        if gives_probabilities(self.graph, self.weights) {
            self.program.classify(LOGITS, &metadata.classes);
            return Ok(());
        }
        let probabilities = self.program.unused("probabilities");
        let (kind, axis) = match metadata.task {
            Task::Single => {
                let axis = self.program.constant("probabilities_axis", Value::ints(vec![1], &[]));
                ("softmax", Some(("axis", axis)))
            }
            Task::Multi | Task::Regression => ("sigmoid", None),
        };
        let divided = match metadata.temperature.filter(|_| metadata.task.is_single()) {
            Some(temperature) => {
                let name = self.program.unused("calibrated");
                let inverse =
                    self.program.constant_f32("inverse_temperature", &[(1.0 / temperature) as f32], &[]);
                let inputs = [("x", LOGITS.to_owned()), ("y", inverse)];
                self.program.named("mul", &inputs, vec![named_type(&name, f32_type.clone())]);
                name
            }
            None => LOGITS.to_owned(),
        };
        let inputs: Vec<_> = [("x", divided)].into_iter().chain(axis).collect();
        self.program.named(kind, &inputs, vec![named_type(&probabilities, f32_type)]);
        self.program.classify(&probabilities, &metadata.classes);
        Ok(())
    }

    /// The one output of the graph.
    fn output(&self) -> Result<ValueId, Problem> {
        match self.graph.outputs() {
            [(_, output)] => Ok(*output),
            all => {
                let what = format!("it has {} outputs, not one", all.len());
                Err(Problem::unsupported("graph", what, TAKES_PICTURES))
            }
        }
    }

    /// Names a value of `[1, columns]` in f32, and gives its type.
    fn widened(&mut self, value: ValueId, columns: usize, name: &str) -> Result<ValueType, Problem> {
        let shape = self.graph.value(value).shape.eval(&self.bindings).unwrap_or_default();
        let Some(computed) = self.names.get(&value).filter(|_| shape == [1, columns]).cloned() else {
            let what = format!("it does not give {columns} logits");
            return Err(Problem::unsupported("graph", what, TAKES_PICTURES));
        };
        let f32_type = ValueType::tensor(data_type::FLOAT32, &shape);
        let (kind, parameter) = match self.program.precision {
            Precision::F16 => {
                let dtype = self.program.constant(&format!("{name}_dtype"), Value::string("fp32"));
                ("cast", Some(("dtype", dtype)))
            }
            Precision::F32 => ("identity", None),
        };
        let inputs: Vec<_> = [("x", computed)].into_iter().chain(parameter).collect();
        self.program.named(kind, &inputs, vec![named_type(name, f32_type.clone())]);
        Ok(f32_type)
    }

    /// The predicted numbers. Their units are applied in f32: f16 holds no number above 65504, and three digits.
    pub(super) fn targets(&mut self, metadata: &Metadata, scale: Option<OutputScale>) -> Result<(), Problem> {
        let columns = metadata.classes.len();
        let Some(OutputScale { value, deviations, means, .. }) = scale else {
            let output = self.output()?;
            return self.widened(output, columns, TARGETS).map(|_| ());
        };
        let plain = self.program.unused("plain_targets");
        let f32_type = self.widened(value, columns, &plain)?;
        let deviations = self.program.constant_f32("target_deviations", &deviations, &[columns]);
        let scaled = self.program.unused("scaled_targets");
        let inputs = [("x", plain), ("y", deviations)];
        self.program.named("mul", &inputs, vec![named_type(&scaled, f32_type.clone())]);
        let means = self.program.constant_f32("target_means", &means, &[columns]);
        self.program.named("add", &[("x", scaled), ("y", means)], vec![named_type(TARGETS, f32_type)]);
        Ok(())
    }
}
