//! From pretrained weights to a model: as they are, or with a new head.

use offshoot_graph::remedy::{MODEL, WEIGHTS};
use offshoot_graph::{Graph, Metadata, Model, Preprocessing, Weights};

use crate::architecture::{Architecture, BuildError, BuildOptions, expected_parameters};
use crate::head::Head;
use crate::init::InitError;
use crate::registry::find;

/// What a model with a new head is for.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferOptions {
    /// The classes, in the order of the logits.
    pub classes: Vec<String>,
    /// The new head.
    pub head: Head,
    /// How a picture becomes the input.
    pub preprocessing: Preprocessing,
    /// What the new head's initial weights are drawn from.
    pub seed: u64,
}

/// Weights could not become a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// See [`BuildError`].
    #[error(transparent)]
    Build(#[from] BuildError),
    /// See [`InitError`].
    #[error(transparent)]
    Init(#[from] InitError),
    /// The weights do not show how many classes there are.
    #[error(
        "the weights have no `{key}` of shape [classes, {features}], the head of {architecture}: the file holds no head, or \
         another one. `offshoot train {MODEL} {architecture} {WEIGHTS} FILE` gives them a new one", MODEL = MODEL, WEIGHTS = WEIGHTS)]
    NoHead {
        /// The architecture's name.
        architecture: &'static str,
        /// The key that was looked for.
        key: String,
        /// The architecture's features.
        features: usize,
    },
    /// A parameter is missing or not what the graph needs.
    #[error("the weights of {architecture} need `{name}` as f32 {wanted:?}; they have {found}")]
    Parameter {
        /// The architecture's name.
        architecture: &'static str,
        /// The parameter's name.
        name: String,
        /// The shape it must have.
        wanted: Vec<usize>,
        /// What the weights hold.
        found: String,
    },
    /// Metadata that names no architecture.
    #[error("the model's metadata names no architecture, so that its graph cannot be built")]
    NoArchitecture,
}

/// How many classes `weights` with the original head of `architecture` have, by the shape of that head.
///
/// # Errors
/// When there is no such head.
pub fn original_classes(architecture: &Architecture, weights: &Weights) -> Result<usize, TransferError> {
    let key = format!("{}.weight", architecture.head);
    match weights.get(&key).map(|t| t.shape()) {
        Some(&[classes, features]) if features == architecture.features => Ok(classes),
        Some(&[classes, features, 1, 1])
            if features == architecture.features && architecture.convolutional_head() =>
        {
            Ok(classes)
        }
        Some(_) | None => Err(TransferError::NoHead {
            architecture: architecture.name,
            key,
            features: architecture.features,
        }),
    }
}

/// The pretrained model as it is. Its classes are called by their indices.
///
/// `weights` have canonical keys; those that the graph does not have are left out.
///
/// # Errors
/// When the weights lack a parameter, or one has another shape or is not f32.
pub fn pretrained(
    architecture: &Architecture,
    mut weights: Weights,
    preprocessing: Preprocessing,
) -> Result<Model, TransferError> {
    architecture.fit_to_size(preprocessing.size, &mut weights);
    let classes = original_classes(architecture, &weights)?;
    let graph = architecture.build(&BuildOptions { classes, size: preprocessing.size, head: None })?;
    let weights = take(architecture, expected_parameters(&graph), weights)?;
    let metadata = Metadata {
        architecture: Some(architecture.name.to_string()),
        head: None,
        classes: (0..classes).map(|i| i.to_string()).collect(),
        preprocessing,
        ..Metadata::default()
    };
    Ok(Model { graph, weights, metadata })
}

/// A model whose backbone is pretrained and whose head is new. Every parameter is trainable.
///
/// `weights` have canonical keys; a head among them, and what the graph does not have, is left out.
///
/// # Errors
/// When the weights lack a parameter of the backbone, or one has another shape or is not f32; when an option is
/// out of range.
pub fn transfer(
    architecture: &Architecture,
    mut weights: Weights,
    options: TransferOptions,
) -> Result<Model, TransferError> {
    let TransferOptions { classes, head, preprocessing, seed } = options;
    let size = preprocessing.size;
    architecture.fit_to_size(size, &mut weights);
    let graph = architecture.build(&BuildOptions { classes: classes.len(), size, head: Some(head) })?;
    let (new, kept): (Vec<_>, Vec<_>) =
        expected_parameters(&graph).into_iter().partition(|(name, _)| architecture.is_head(name));
    let mut weights = take(architecture, kept, weights)?;
    let new = new.iter().map(|(name, _)| name.as_str());
    weights.extend(architecture.init_parameters(&graph, new, seed)?);
    let metadata = Metadata {
        architecture: Some(architecture.name.to_string()),
        head: Some(head.to_string()),
        classes,
        preprocessing,
        ..Metadata::default()
    };
    Ok(Model { graph, weights, metadata })
}

/// The graph of the model that `metadata` describes: what a file of ours holds weights for.
///
/// # Errors
/// When the metadata names no architecture, or one or a head that cannot be built.
pub fn described(metadata: &Metadata) -> Result<Graph, TransferError> {
    let name = metadata.architecture.as_deref().ok_or(TransferError::NoArchitecture)?;
    let architecture = find(name).map_err(BuildError::from)?;
    let head = metadata.head.as_deref().map(str::parse).transpose().map_err(BuildError::from)?;
    let (classes, size) = (metadata.classes.len(), metadata.preprocessing.size);
    Ok(architecture.build(&BuildOptions { classes, size, head })?)
}

fn take(
    architecture: &Architecture,
    expected: Vec<(String, Vec<usize>)>,
    mut weights: Weights,
) -> Result<Weights, TransferError> {
    expected
        .into_iter()
        .map(|(name, wanted)| {
            let found = match weights.remove(&name) {
                Some(tensor) if tensor.shape() == wanted && tensor.as_f32().is_some() => {
                    return Ok((name, tensor));
                }
                Some(tensor) => format!("{} {:?}", tensor.dtype(), tensor.shape()),
                None => "none".to_string(),
            };
            Err(TransferError::Parameter { architecture: architecture.name, name, wanted, found })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Tensor;

    use super::*;

    /// Weights that differ from parameter to parameter.
    fn weights(architecture: &Architecture, classes: usize) -> Weights {
        let graph = architecture.build(&BuildOptions { classes, size: 32, head: None }).unwrap();
        let filled = |(i, (name, shape)): (usize, (_, Vec<usize>))| (name, Tensor::full(shape, i as f32));
        expected_parameters(&graph).into_iter().enumerate().map(filled).collect()
    }

    fn options(head: &str) -> TransferOptions {
        TransferOptions {
            classes: vec!["ash".into(), "oak".into(), "yew".into()],
            head: head.parse().unwrap(),
            preprocessing: Preprocessing { size: 64, ..Preprocessing::default() },
            seed: 5,
        }
    }

    #[test]
    fn a_transfer_keeps_the_backbone_and_draws_the_head() {
        for name in ["resnet18", "mobilenet_v2", "efficientnet_lite0"] {
            let architecture = find(name).unwrap();
            let pretrained = weights(architecture, 1000);
            for head in ["linear", "mlp:16,dropout=0.4"] {
                let model = transfer(architecture, pretrained.clone(), options(head)).unwrap();
                let expected = expected_parameters(&model.graph);
                assert_eq!(model.weights.len(), expected.len());
                for (name, shape) in &expected {
                    let tensor = &model.weights[name];
                    assert_eq!(tensor.shape(), shape);
                    assert_eq!(architecture.is_head(name), pretrained.get(name) != Some(tensor), "{name}");
                }
                let again = described(&model.metadata).unwrap();
                assert_eq!(expected_parameters(&again), expected);
                assert_eq!(again.to_string(), model.graph.to_string());
            }
        }
    }

    #[test]
    fn pretrained_weights_tell_their_classes() {
        let architecture = find("resnet18").unwrap();
        let model = pretrained(architecture, weights(architecture, 4), Preprocessing::default()).unwrap();
        assert_eq!(model.metadata.classes, ["0", "1", "2", "3"]);
        assert_eq!(described(&model.metadata).unwrap().to_string(), model.graph.to_string());
    }

    #[test]
    fn weights_that_do_not_fit_are_refused_by_name() {
        let architecture = find("resnet18").unwrap();
        let whole = weights(architecture, 4);
        let refuse = |change: fn(&mut Weights)| {
            let mut weights = whole.clone();
            change(&mut weights);
            pretrained(architecture, weights, Preprocessing::default()).unwrap_err().to_string()
        };
        assert_eq!(
            refuse(|w| {
                w.remove("bn1.bias");
            }),
            "the weights of resnet18 need `bn1.bias` as f32 [64]; they have none"
        );
        assert_eq!(
            refuse(|w| {
                w.insert("bn1.bias".into(), Tensor::i64([64], vec![0; 64]));
            }),
            "the weights of resnet18 need `bn1.bias` as f32 [64]; they have i64 [64]"
        );
        let no_head = "the weights have no `fc.weight` of shape [classes, 512], the head of resnet18: the file holds no head, or \
                       another one. `offshoot train `model` resnet18 `weights` FILE` gives them a new one";
        assert_eq!(
            refuse(|w| {
                w.remove("fc.weight");
            }),
            no_head
        );
        assert_eq!(
            refuse(|w| {
                w.insert("fc.weight".into(), Tensor::zeros([4, 2048]));
            }),
            no_head
        );
    }

    #[test]
    fn metadata_without_a_known_architecture_is_refused() {
        let metadata = Metadata {
            architecture: None,
            head: None,
            classes: vec!["a".into()],
            preprocessing: Preprocessing::default(),
            ..Metadata::default()
        };
        assert_eq!(described(&metadata), Err(TransferError::NoArchitecture));
        let unknown = Metadata { architecture: Some("resnet19".into()), ..metadata.clone() };
        assert!(matches!(described(&unknown), Err(TransferError::Build(BuildError::Unknown(_)))));
        let head = Some("tree".into());
        let odd = Metadata { architecture: Some("resnet18".into()), head, ..metadata };
        assert!(matches!(described(&odd), Err(TransferError::Build(BuildError::Head(_)))));
    }
}
