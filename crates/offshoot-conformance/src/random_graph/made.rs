//! A random graph that was made: its inputs, its outputs, and the classifier that it becomes.

use offshoot_graph::model::{INPUT, OUTPUT};
use offshoot_graph::op::{Pooling, ShapeOp};
use offshoot_graph::passes::LABELS;
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{ExecuteError, Executor, Graph, Metadata, Op, Preprocessing, Tensor, ValueId, Weights};

/// A random graph.
#[derive(Debug)]
pub struct Made {
    /// The graph.
    pub graph: Graph,
    /// The graph without outputs.
    pub(super) bare: Graph,
    /// Its parameters.
    pub weights: Weights,
    /// The values that are floats.
    pub shown: Vec<ValueId>,
}

/// The outputs of a run by name.
pub type Outputs = Vec<(String, Vec<f32>)>;

impl Made {
    /// What it runs on.
    pub fn picture(&self) -> Tensor {
        let x = self.graph.value(self.graph.inputs()[0]);
        let shape: Vec<usize> = x.shape.0.iter().map(|d| d.fixed().unwrap_or(3)).collect();
        let mut random = Random::new(7, 0, 0, Purpose::Init);
        let len = shape.iter().product();
        Tensor::f32(shape, (0..len).map(|_| random.normal()).collect())
    }

    /// Runs `graph`, which reads what this one does.
    ///
    /// # Errors
    /// Those of the executor.
    pub fn run(
        &self,
        executor: &dyn Executor,
        graph: &Graph,
        weights: &Weights,
    ) -> Result<Outputs, ExecuteError> {
        let x = self.picture();
        let labels = Tensor::i64([x.shape()[0]], vec![0; x.shape()[0]]);
        let mut session = executor.prepare(graph, weights)?;
        let given = [(INPUT, &x), (LABELS, &labels)];
        session.run(&given[..graph.inputs().len()])?;
        let output = |(name, _): &(String, ValueId)| {
            (name.clone(), session.read(name).and_then(Tensor::into_f32).unwrap_or_default())
        };
        Ok(graph.outputs().iter().map(output).collect())
    }

    /// Whether floats are quantized in it.
    pub fn has_bytes(&self) -> bool {
        self.graph.nodes().iter().any(|n| matches!(n.op, Op::QuantizeLinear { .. }))
    }

    /// A classifier that ends with this graph's last value, if that can be one.
    pub fn classifier(&self) -> Option<(Graph, Weights)> {
        let mut graph = self.bare.clone();
        let x = *self.shown.last()?;
        let pooled = match graph.value(x).shape.rank() {
            4 => {
                let pooled = graph.add("pooled", Op::Pool(Pooling::GlobalAverage), &[x]).ok()?;
                graph.add("flat", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[pooled]).ok()?
            }
            _ => x,
        };
        let logits = graph.linear("head", pooled, 3).ok()?;
        let batch = &graph.value(graph.inputs()[0]).shape.0[0];
        if graph.value(logits).shape.0[0] != *batch {
            return None;
        }
        graph.add_output(OUTPUT, logits);
        let inner = graph.value(pooled).shape.0[1].fixed()?;
        let mut weights = self.weights.clone();
        weights.insert("head.weight".into(), Tensor::f32([3, inner], vec![0.1; 3 * inner]));
        weights.insert("head.bias".into(), Tensor::f32([3], vec![0.0, 0.1, 0.2]));
        Some((graph, weights))
    }

    /// What goes with a classifier of the three classes that [`Made::classifier`] has.
    pub fn metadata(&self) -> Metadata {
        let preprocessing = Preprocessing { size: self.picture().shape()[2], ..Preprocessing::default() };
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        Metadata { classes, preprocessing, ..Metadata::default() }
    }
}
