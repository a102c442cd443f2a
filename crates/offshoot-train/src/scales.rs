//! The scale of what is predicted: mean and deviation of each target over the training pictures, which become a part of the model.

use offshoot_data::{Dataset, Sample};
use offshoot_graph::model::OUTPUT;
use offshoot_graph::op::{Reduce, ShapeOp, Unary};
use offshoot_graph::passes::scale_outputs;
use offshoot_graph::{Graph, Model, Node, Op, Regression, RegressionLoss, Scale, Task};

use crate::error::TrainError;
use crate::inference::NetworkError;
use crate::step::StepError;

/// The scale of each target of the training pictures.
///
/// # Errors
/// When a target cannot be scaled, or a picture has other targets.
pub(crate) fn scales(data: &Dataset) -> Result<Vec<Scale>, TrainError> {
    let count = data.classes.len();
    let fits = |sample: &Sample| sample.targets.as_ref().is_some_and(|targets| targets.len() == count);
    if data.train.is_empty() || !data.train.iter().chain(&data.val).all(fits) {
        return Err(TrainError::NoTargets);
    }
    let scale = |(place, name): (usize, &String)| {
        let values =
            data.train.iter().filter_map(|sample| sample.targets.as_ref()).map(|targets| targets[place]);
        Scale::of(values).map_err(|problem| TrainError::Target { name: name.clone(), problem })
    };
    data.classes.iter().enumerate().map(scale).collect()
}

/// The function that bounds the outputs of a graph, such as SqueezeNet's ReLU: no number below the mean of a target could be predicted.
fn bounded_end(graph: &Graph) -> Option<&Node> {
    let mut node = graph.node(graph.producer(graph.output(OUTPUT)?)?);
    loop {
        let bounds = matches!(
            node.op,
            Op::Softmax { .. }
                | Op::Unary(
                    Unary::Relu
                        | Unary::Clip(_)
                        | Unary::Sigmoid
                        | Unary::HardSigmoid(_)
                        | Unary::Tanh
                        | Unary::Abs
                        | Unary::Exp
                        | Unary::Sqrt
                        | Unary::Softplus
                )
        );
        if bounds {
            return Some(node);
        }
        let keeps = matches!(
            node.op,
            Op::Dropout { .. }
                | Op::Pool(_)
                | Op::Shape(
                    ShapeOp::Identity
                        | ShapeOp::Flatten { .. }
                        | ShapeOp::Reshape { .. }
                        | ShapeOp::Transpose { .. }
                )
                | Op::Reduce { op: Reduce::Mean, .. }
        );
        node = graph.node(graph.producer(*node.inputs.first().filter(|_| keeps)?)?);
    }
}

/// The model with outputs in the units of the targets of `data`, where it predicts numbers and does not scale them yet.
///
/// # Errors
/// As [`scales`].
pub(crate) fn with_scales(
    model: Model,
    loss: Option<RegressionLoss>,
    data: &Dataset,
) -> Result<Model, TrainError> {
    if model.metadata.task != Task::Regression || model.metadata.regression.is_some() {
        return Ok(model);
    }
    if let Some(node) = bounded_end(&model.graph) {
        return Err(TrainError::Bounded { node: node.name.clone(), op: node.op.name() });
    }
    let scales = scales(data)?;
    let graph = scale_outputs(&model.graph, &scales);
    let graph = graph.map_err(|error| StepError::Network(NetworkError::from(error)))?;
    let mut metadata = model.metadata;
    metadata.regression = Some(Regression { loss: loss.unwrap_or_default(), scales });
    Ok(Model { graph, metadata, ..model })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(targets: &[[f64; 2]]) -> Dataset {
        let train = targets.iter().map(|targets| Sample::with_targets("x.png", *targets)).collect();
        Dataset { classes: vec!["a".into(), "b".into()], train, ..Dataset::default() }
    }

    #[test]
    fn each_target_has_its_scale() {
        let good = data(&[[1.0, -10.0], [3.0, 30.0]]);
        let found = scales(&good).unwrap();
        assert_eq!(found, [Scale { mean: 2.0, deviation: 1.0 }, Scale { mean: 10.0, deviation: 20.0 }]);
        let text = scales(&data(&[[1.0, 5.0], [2.0, 5.0]])).unwrap_err().to_string();
        assert!(text.contains("`b`") && text.contains("is 5 for all"), "{text}");
        let mut short = good.clone();
        short.train.push(Sample::with_targets("y.png", [1.0]));
        assert!(matches!(scales(&short), Err(TrainError::NoTargets)));
        let classes = Dataset { train: vec![Sample::new("x.png", 0)], ..good };
        assert!(matches!(scales(&classes), Err(TrainError::NoTargets)));
    }
}
