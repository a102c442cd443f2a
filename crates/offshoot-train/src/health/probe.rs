//! A graph run with its inner values as outputs: their ranges, and the first that is not finite.
//!
//! The graph is the one before fusion, so that each value is one that the model's own nodes make. A graph with
//! everything exposed would need the memory of all its values at once; so it runs several times, each time with as many
//! values exposed as fit in a budget.

use std::fmt;
use std::ops::ControlFlow;

use offshoot_graph::passes::expose;
use offshoot_graph::{Bindings, DType, Dim, Executor, Graph, Source, Tensor, ValueId, Weights};
use serde::Serialize;

use crate::inference::NetworkError;

/// Bytes of values that are exposed in one run; a single value may be larger.
const WINDOW: usize = 512 << 20;

/// What the numbers of a tensor are like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The least of the finite numbers; 0 where there is none.
    pub min: f32,
    /// The greatest of the finite numbers; 0 where there is none.
    pub max: f32,
    /// The mean of the finite numbers; 0 where there is none.
    pub mean: f64,
    /// How many are infinite or not a number.
    pub nonfinite: usize,
    /// How many there are.
    pub elements: usize,
}

impl Range {
    /// That of `values`.
    pub fn of(values: &[f32]) -> Range {
        let (mut min, mut max, mut sum, mut finite) = (f32::INFINITY, f32::NEG_INFINITY, 0.0, 0usize);
        for &x in values.iter().filter(|x| x.is_finite()) {
            (min, max, sum, finite) = (min.min(x), max.max(x), sum + f64::from(x), finite + 1);
        }
        let (nonfinite, elements) = (values.len() - finite, values.len());
        match finite {
            0 => Range { min: 0.0, max: 0.0, mean: 0.0, nonfinite, elements },
            _ => Range { min, max, mean: sum / finite as f64, nonfinite, elements },
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { min, max, mean, nonfinite, elements } = self;
        write!(f, "min {min:.3e}, max {max:.3e}, mean {mean:.3e}, {nonfinite} of {elements} not finite")
    }
}

/// What a node reads or makes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operand {
    /// The value's name; a parameter's is its PyTorch key.
    pub name: String,
    /// Whether it is a parameter.
    pub parameter: bool,
    /// What its numbers are like.
    pub range: Range,
}

/// Where the first number that is not finite comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// An input was given with it.
    Input(Operand),
    /// A node made it, from inputs without one or with a parameter that has one.
    Node {
        /// The node's name.
        node: String,
        /// Its operator, by ONNX's name where it has one.
        op: &'static str,
        /// What it made.
        output: Operand,
        /// The floating-point values it read, parameters among them.
        inputs: Vec<Operand>,
    },
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NonFinite::Input(Operand { name, range, .. }) => {
                write!(f, "the input `{name}` is not finite as it is given: {range}")
            }
            NonFinite::Node { node, op, output, inputs } => {
                write!(f, "the first value that is not finite is made by node `{node}` ({op})")?;
                write!(f, "\n  output `{}`: {}", output.name, output.range)?;
                inputs.iter().try_for_each(|Operand { name, parameter, range }| {
                    let kind = if *parameter { "parameter" } else { "input" };
                    write!(f, "\n  {kind} `{name}`: {range}")
                })
            }
        }
    }
}

impl NonFinite {
    /// The same in a line, without the ranges.
    pub fn brief(&self) -> String {
        let counted = |operand: &Operand| {
            let kind = if operand.parameter { "parameter " } else { "" };
            match operand.range {
                Range { nonfinite: 0, .. } => format!("{kind}`{}`", operand.name),
                Range { nonfinite, elements, .. } => {
                    format!("{kind}`{}` ({nonfinite} of {elements} not finite)", operand.name)
                }
            }
        };
        match self {
            NonFinite::Input(operand) => format!("the input {} is given so", counted(operand)),
            NonFinite::Node { node, op, inputs, .. } => {
                let inputs: Vec<String> = inputs.iter().map(counted).collect();
                format!(
                    "the first value that is not finite is made by node `{node}` ({op}) of {}",
                    inputs.join(", ")
                )
            }
        }
    }
}

/// A graph with everything that a run of it reads.
pub struct Probe<'a> {
    /// The graph, not fused.
    pub graph: &'a Graph,
    /// Its parameters.
    pub weights: &'a Weights,
    /// Its inputs by name; more than it has do no harm.
    pub inputs: &'a [(&'a str, &'a Tensor)],
    /// What runs it.
    pub executor: &'a dyn Executor,
}

impl Probe<'_> {
    /// The first input, and else the first node in the graph's order, that has a number which is not finite. The nodes
    /// of the backward pass come after those of the forward pass.
    ///
    /// # Errors
    /// When the graph cannot run on these inputs.
    pub fn first_nonfinite(&self) -> Result<Option<NonFinite>, NetworkError> {
        for &id in self.graph.inputs() {
            if let Some(given) = self.given(id).map(|data| self.operand(id, data))
                && given.range.nonfinite > 0
            {
                return Ok(Some(NonFinite::Input(given)));
            }
        }
        let mut first = None;
        self.visit(&self.computed(), |id, data| {
            if data.iter().all(|x| x.is_finite()) {
                return ControlFlow::Continue(());
            }
            first = Some((id, self.operand(id, data)));
            ControlFlow::Break(())
        })?;
        let Some((id, output)) = first else { return Ok(None) };
        let Some(node) = self.graph.producer(id).map(|node| self.graph.node(node)) else { return Ok(None) };
        let inputs = self.operands(&node.inputs)?;
        Ok(Some(NonFinite::Node { node: node.name.clone(), op: node.op.name(), output, inputs }))
    }

    /// All floating-point values that nodes make, in the order of the nodes.
    pub fn computed(&self) -> Vec<ValueId> {
        let outputs = self.graph.nodes().iter().flat_map(|node| &node.outputs).copied();
        outputs.filter(|&id| is_shown(self.graph.value(id).dtype)).collect()
    }

    /// Shows `look` each of `values`, which nodes make, row-major, in their order, until it says to stop.
    ///
    /// # Errors
    /// When the graph cannot run on these inputs.
    pub fn visit(
        &self,
        values: &[ValueId],
        mut look: impl FnMut(ValueId, &[f32]) -> ControlFlow<()>,
    ) -> Result<(), NetworkError> {
        let mut left = values;
        while !left.is_empty() {
            let (window, rest) = left.split_at(self.window(left)?);
            left = rest;
            let graph = expose(self.graph, window)?;
            let mut session = self.executor.prepare(&graph, self.weights)?;
            session.run(self.inputs)?;
            for &id in window {
                let Some(value) = session.read(&self.graph.value(id).name) else { continue };
                if look(id, value.as_f32().unwrap_or_default()).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many of `values` are exposed in the next run; at least one.
    fn window(&self, values: &[ValueId]) -> Result<usize, NetworkError> {
        let bindings = self.bindings();
        let mut bytes = 0usize;
        for (count, &id) in values.iter().enumerate() {
            let shape =
                self.graph.value(id).shape.eval(&bindings).map_err(offshoot_graph::ExecuteError::from)?;
            let elements = shape.iter().fold(1usize, |product, &n| product.saturating_mul(n));
            bytes = bytes.saturating_add(elements.saturating_mul(size_of::<f32>()));
            if bytes > WINDOW {
                return Ok(count.max(1));
            }
        }
        Ok(values.len())
    }

    /// The numbers that the inputs' shapes give to symbols.
    fn bindings(&self) -> Bindings {
        let mut bindings = Bindings::new();
        for &id in self.graph.inputs() {
            let value = self.graph.value(id);
            let Some((_, tensor)) = self.inputs.iter().find(|(name, _)| *name == value.name) else {
                continue;
            };
            for (dim, &n) in value.shape.0.iter().zip(tensor.shape()) {
                if let Dim::Symbol(name) = dim {
                    bindings.entry(name.to_string()).or_insert(n);
                }
            }
        }
        bindings
    }

    /// The ranges of the floating-point values among `values`.
    fn operands(&self, values: &[ValueId]) -> Result<Vec<Operand>, NetworkError> {
        let shown = values.iter().copied().filter(|&id| is_shown(self.graph.value(id).dtype));
        let mut operands = Vec::new();
        for id in shown {
            match self.given(id) {
                Some(data) => operands.push(self.operand(id, data)),
                None => self.visit(&[id], |id, data| {
                    operands.push(self.operand(id, data));
                    ControlFlow::Continue(())
                })?,
            }
        }
        Ok(operands)
    }

    fn operand(&self, id: ValueId, data: &[f32]) -> Operand {
        let parameter = self.graph.parameter_info(id).is_some();
        Operand { name: self.graph.value(id).name.clone(), parameter, range: Range::of(data) }
    }

    /// The f32 elements of an input, a parameter or a constant.
    fn given(&self, id: ValueId) -> Option<&[f32]> {
        let value = self.graph.value(id);
        match &value.source {
            Source::Input => self.inputs.iter().find(|(name, _)| *name == value.name)?.1.as_f32(),
            Source::Parameter(_) => self.weights.get(&value.name)?.as_f32(),
            Source::Constant(tensor) => tensor.as_f32(),
            Source::Node { .. } => None,
        }
    }
}

fn is_shown(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_the_finite_numbers() {
        let range = Range::of(&[1.0, f32::NAN, -3.0, f32::INFINITY]);
        assert_eq!(range, Range { min: -3.0, max: 1.0, mean: -1.0, nonfinite: 2, elements: 4 });
        assert_eq!(
            Range::of(&[f32::NAN]),
            Range { min: 0.0, max: 0.0, mean: 0.0, nonfinite: 1, elements: 1 }
        );
    }
}
