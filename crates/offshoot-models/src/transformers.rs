//! Classifiers of Hugging Face's transformers: `config.json` says what is built, and the tensors of `model.safetensors` become its
//! parameters.
//!
//! What transformers leaves open is built as the configuration says it, and what is not built is refused by its key.

mod config;
mod kind;
mod names;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::text::quoted;
use offshoot_graph::{DType, Dim, Graph, GraphError, Shape, Tensor, Weights};
use serde_json::{Map, Value};

use crate::architecture::{BuildOptions, MAX_CLASSES, MAX_SIZE, expected_parameters};
use crate::head::Head;
use crate::registry::architectures;
use config::Config;
use kind::Kind;

/// A classifier of transformers that is not built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransformersError {
    /// Another type of model.
    #[error(
        "`model_type` is `{}`; built are resnet, convnext, mobilenet_v2, efficientnet, vit, deit, dinov2 and swin: export others to ONNX",
        quoted(_0)
    )]
    Type(String),
    /// A value that is not built.
    #[error("`{key}` is {}, and must be {wanted}: export the model to ONNX instead", quoted(found))]
    Value {
        /// Its key in `config.json`.
        key: String,
        /// What stands there.
        found: String,
        /// What can.
        wanted: String,
    },
    /// A tensor is missing or has another shape.
    #[error("the tensor `{key}` must be f32 {wanted:?}; there is {found}")]
    Tensor {
        /// Its key in `model.safetensors`.
        key: String,
        /// The shape that it must have.
        wanted: Vec<usize>,
        /// What there is.
        found: String,
    },
    /// A backbone alone.
    #[error("there is no `{0}`: it is a backbone without a classifier")]
    NoHead(String),
    /// A picture that the network cannot take.
    #[error(
        "pictures of {size} pixels a side do not fit: it must be at most {MAX_SIZE} and a multiple of {patch}"
    )]
    Size {
        /// The size.
        size: usize,
        /// The side of a patch.
        patch: usize,
    },
    /// See [`GraphError`].
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// A classifier that was read.
#[derive(Clone, Debug)]
pub struct Transformers {
    /// From `input` to `output`, logits.
    pub graph: Graph,
    /// Its parameters.
    pub weights: Weights,
    /// The architecture of the registry that has the same graph.
    pub architecture: Option<&'static str>,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// Keys of tensors that are not used.
    pub unused: Vec<String>,
}

/// The classifier that `config`, the object in a `config.json`, and `weights`, with the keys of its file, describe, for pictures of
/// `size` pixels a side.
///
/// # Errors
/// When the configuration says something that is not built, or the weights do not fit.
pub fn transformers(
    config: &Map<String, Value>,
    mut weights: Weights,
    size: usize,
) -> Result<Transformers, TransformersError> {
    let config = Config(config);
    let class = match config.0.get("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str).unwrap_or_default(),
        _ => "",
    };
    let kind = Kind::new(config, class)?;
    let patch = kind.patch();
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(patch) {
        return Err(TransformersError::Size { size, patch });
    }
    if class.ends_with("WithTeacher") {
        join_heads(&mut weights)?;
    }
    let key = names::keys(&kind, &format!("{}.weight", kind.head())).concat();
    let rows = weights.get(&key).and_then(|weight| weight.shape().first().copied());
    let count = match rows {
        Some(count @ 1..=MAX_CLASSES) => count,
        Some(_) | None => return Err(TransformersError::NoHead(key)),
    };
    let classes = classes(config, count)?;
    let (kind, graph, architecture) = known(kind, count, size)?;
    let (weights, unused) = take(&kind, &graph, weights, size)?;
    Ok(Transformers { graph, weights, architecture, classes, unused })
}

/// The side of the pictures that `config` names, where it does.
pub fn transformers_size(config: &Map<String, Value>) -> Option<usize> {
    config.get("image_size")?;
    Config(config).side("image_size", 1).ok()
}

/// The names in `id2label`, of which there must be `count`. One that stands twice is followed by its index.
fn classes(config: Config<'_>, count: usize) -> Result<Vec<String>, TransformersError> {
    let Some(labels) = config.0.get("id2label").filter(|labels| !labels.is_null()) else {
        return Ok((0..count).map(|index| index.to_string()).collect());
    };
    let name = |index: usize| labels.get(index.to_string())?.as_str().map(str::to_owned);
    let names: Option<Vec<String>> = (0..count).map(name).collect();
    let whole = labels.as_object().is_some_and(|labels| labels.len() == count);
    let Some(names) = names.filter(|_| whole) else {
        return config.refuse(
            "id2label",
            format!("{count} names under \"0\", \"1\", .., one a row of the classifier"),
        );
    };
    Ok(unique(names))
}

/// The same names, with its index behind each that stands more than once.
pub fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashMap::new();
    names.iter().for_each(|name| *seen.entry(name.clone()).or_insert(0) += 1);
    let numbered = |(index, name): (usize, String)| match seen.get(&name) {
        Some(2..) => format!("{name} ({index})"),
        Some(_) | None => name,
    };
    names.into_iter().enumerate().map(numbered).collect()
}

fn build(kind: &Kind, name: &str, classes: usize, size: usize, dropout: f32) -> Result<Graph, GraphError> {
    let mut graph = Graph::new(name);
    let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), size.into(), size.into()]);
    let input = graph.add_input(INPUT, DType::F32, shape);
    let features = kind.features(&mut graph, input, size)?;
    let logits = Head::Linear { dropout }.append(&mut graph, kind.head(), features, classes)?;
    graph.add_output(OUTPUT, logits);
    Ok(graph)
}

/// The graph, and the architecture of the registry that has the same.
fn known(
    kind: Kind,
    classes: usize,
    size: usize,
) -> Result<(Kind, Graph, Option<&'static str>), TransformersError> {
    for kind in [Some(kind.clone()), kind.renamed()].into_iter().flatten() {
        for architecture in architectures().filter(|a| a.head == kind.head()) {
            let options = BuildOptions { classes, size, head: None };
            let Ok(ours) = architecture.build(&options) else { continue };
            let theirs = build(&kind, architecture.name, classes, size, architecture.original_dropout)?;
            if ours.to_string() == theirs.to_string() {
                return Ok((kind, ours, Some(architecture.name)));
            }
        }
    }
    let graph = build(&kind, "transformers", classes, size, 0.0)?;
    Ok((kind, graph, None))
}

/// The parameters of `graph`, and the keys that are left.
fn take(
    kind: &Kind,
    graph: &Graph,
    mut weights: Weights,
    size: usize,
) -> Result<(Weights, Vec<String>), TransformersError> {
    let mut taken = Weights::new();
    for (name, shape) in expected_parameters(graph) {
        let keys = names::keys(kind, &name);
        let parts: Vec<Option<Tensor>> = keys.iter().map(|key| weights.remove(key)).collect();
        let found = match parts.iter().flatten().count() {
            0 => neutral(kind, &name, &shape),
            _ => joined(parts),
        };
        if let Some(tensor) = found {
            taken.insert(name, tensor);
        }
    }
    if let Kind::ViT(variant) = kind {
        crate::vit::resample_positions(variant, size, &mut taken);
    }
    for (name, wanted) in expected_parameters(graph) {
        let key = names::keys(kind, &name).join(", ");
        match taken.get_mut(&name) {
            Some(tensor) if tensor.as_f32().is_some() && tensor.len() == wanted.iter().product::<usize>() => {
                // A scale of channels has no axes of pixels there.
                if tensor.shape() != wanted && name.ends_with("layer_scale") {
                    *tensor =
                        Tensor::new(wanted.clone(), tensor.data().clone()).unwrap_or_else(|_| tensor.clone());
                }
                if tensor.shape() != wanted {
                    let found = format!("{} {:?}", tensor.dtype(), tensor.shape());
                    return Err(TransformersError::Tensor { key, wanted, found });
                }
            }
            Some(tensor) => {
                let found = format!("{} {:?}", tensor.dtype(), tensor.shape());
                return Err(TransformersError::Tensor { key, wanted, found });
            }
            None => return Err(TransformersError::Tensor { key, wanted, found: "none".into() }),
        }
    }
    let known = ["num_batches_tracked", "mask_token", "relative_position_index"];
    let left = weights
        .into_keys()
        .filter(|key| !known.iter().any(|end| key.ends_with(end)) && !key.contains(".pooler."));
    Ok((taken, left.collect()))
}

/// What a parameter is that transformers leaves out where a configuration says so: no bias, no scale.
fn neutral(kind: &Kind, name: &str, shape: &[usize]) -> Option<Tensor> {
    match kind {
        Kind::ViT(_) if name.ends_with("attn.qkv.bias") || name.ends_with("in_proj_bias") => {
            Some(Tensor::zeros(shape.to_vec()))
        }
        Kind::ConvNext { .. } if name.ends_with("layer_scale") => Some(Tensor::full(shape.to_vec(), 1.0)),
        _ => None,
    }
}

/// Tensors one after the other along the first axis; `None` where one is missing or they do not fit.
fn joined(parts: Vec<Option<Tensor>>) -> Option<Tensor> {
    let mut parts: Vec<Tensor> = parts.into_iter().collect::<Option<_>>()?;
    if parts.len() == 1 {
        return parts.pop();
    }
    let shape = parts[0].shape().to_vec();
    let (&rows, rest) = shape.split_first()?;
    if parts.iter().any(|part| part.shape() != shape) {
        return None;
    }
    let mut values = Vec::new();
    for part in &parts {
        values.extend_from_slice(part.as_f32()?);
    }
    Some(Tensor::f32([&[rows * parts.len()], rest].concat(), values))
}

/// The two classifiers of a distilled DeiT, whose logits are averaged, as one that reads both tokens.
fn join_heads(weights: &mut Weights) -> Result<(), TransformersError> {
    let mut part = |name: &str| {
        let key = |head| format!("{head}_classifier.{name}");
        let (a, b) = (weights.remove(&key("cls")), weights.remove(&key("distillation")));
        let missing = || TransformersError::NoHead(key("cls"));
        let (a, b) = (a.ok_or_else(missing)?, b.ok_or_else(missing)?);
        match (a.as_f32(), b.as_f32()) {
            (Some(x), Some(y)) if a.shape() == b.shape() => Ok((a.shape().to_vec(), x.to_vec(), y.to_vec())),
            _ => Err(TransformersError::Tensor {
                key: key("distillation"),
                wanted: a.shape().to_vec(),
                found: format!("{} {:?}", b.dtype(), b.shape()),
            }),
        }
    };
    let (shape, x, y) = part("weight")?;
    let (bias_shape, x_bias, y_bias) = part("bias")?;
    let &[classes, width] = shape.as_slice() else {
        let found = format!("{} axes", shape.len());
        return Err(TransformersError::Tensor { key: "cls_classifier.weight".into(), wanted: vec![], found });
    };
    let halves = |row: usize| {
        let row = row * width..(row + 1) * width;
        x[row.clone()].iter().chain(&y[row]).map(|value| value / 2.0)
    };
    let weight = (0..classes).flat_map(halves).collect();
    let bias = x_bias.iter().zip(&y_bias).map(|(a, b)| (a + b) / 2.0).collect();
    weights.insert("classifier.weight".into(), Tensor::f32([classes, 2 * width], weight));
    weights.insert("classifier.bias".into(), Tensor::f32(bias_shape, bias));
    Ok(())
}
