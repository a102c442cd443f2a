//! Which places of a picture a prediction rests on.
//!
//! Each method gives a [`Heatmap`], a grid of numbers over the picture:
//! - Grad-CAM (Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017) and LayerCAM
//!   (Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", 2021): the activations of a layer,
//!   weighted by the gradient of the class's logit;
//! - attention relevance (Chefer et al., "Generic attention-model explainability", 2021): the attention of transformers, weighted by
//!   its gradient and followed through the layers;
//! - occlusion (Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2013): by how much the logit falls where a
//!   square of the picture is covered. It runs the network only, so that it works for any.

mod attention;
mod layer;
mod maps;
mod occlusion;
mod overlay;
mod places;

use std::fmt;
use std::str::FromStr;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::passes::{CLASS_MASK, class_gradients, exposed_gradient, exposed_value};
use offshoot_graph::{Bindings, Executor, Graph, Model, Session, Task, Tensor, ValueId};
use offshoot_infer::Inference;
use offshoot_infer::inference::check_answers;
use offshoot_infer::metrics::{Activation, argmax};

use crate::error::{Error, Result};
use crate::memory::{batch_within, check_gradient_memory};
use attention::Attentions;
use layer::Layer;
use occlusion::Occlusion;
pub use overlay::{heatmap_picture, overlay};

/// How a prediction is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainMethod {
    /// The positive gradients times the activations, place by place.
    LayerCam,
    /// The activations, each channel times the mean of its gradients.
    GradCam,
    /// The attention of a transformer times its gradients, through all layers.
    Attention,
    /// The fall of the logit where a square is covered.
    Occlusion,
}

impl ExplainMethod {
    const ALL: [(ExplainMethod, &str); 4] = [
        (ExplainMethod::LayerCam, "layercam"),
        (ExplainMethod::GradCam, "gradcam"),
        (ExplainMethod::Attention, "attention"),
        (ExplainMethod::Occlusion, "occlusion"),
    ];
}

impl fmt::Display for ExplainMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ExplainMethod::ALL.iter().find(|(method, _)| method == self).map(|(_, name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for ExplainMethod {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<ExplainMethod, String> {
        let found = ExplainMethod::ALL.iter().find(|(_, name)| *name == text).map(|(method, _)| *method);
        found.ok_or_else(|| "give auto, gradcam, layercam, attention or occlusion".to_owned())
    }
}

/// What is explained, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExplainOptions {
    /// The method. Without one it is attention relevance where every attention of the network is one of all its tokens to all, else LayerCAM,
    /// else occlusion.
    pub method: Option<ExplainMethod>,
    /// The class whose logit is explained, by its place among the outputs; without, the most likely one of each picture.
    pub class: Option<usize>,
    /// Of LayerCAM and Grad-CAM, the layer: a node of the graph, or a module, whose last node it is then. Without, the last layer that
    /// has places of the picture and influences the output.
    pub layer: Option<String>,
}

/// Numbers over a picture, in rows from its top left corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// The numbers, row by row. Those of occlusion may be below 0, where covering a place makes the class more likely.
    pub values: Vec<f32>,
}

/// What a prediction rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The place of the explained class among the outputs.
    pub class: usize,
    /// Its probability.
    pub probability: f64,
    /// The method that was used.
    pub method: ExplainMethod,
    /// Of LayerCAM and Grad-CAM, the name of the layer.
    pub layer: Option<String>,
    /// The map.
    pub map: Heatmap,
}

/// Explains predictions of one model.
pub struct Explainer {
    network: Inference,
    activation: Activation,
    class: Option<usize>,
    size: usize,
    way: Way,
}

/// What is computed for a map.
enum Way {
    Layer { method: ExplainMethod, layer: Layer, gradients: Gradients },
    Attention { attentions: Attentions, gradients: Gradients },
    Occlusion(Occlusion),
}

/// The graph that gives values of a network and the gradients of a class's logit by them.
struct Gradients {
    session: Box<dyn Session>,
    classes: usize,
}

impl Gradients {
    fn new(model: &Model, values: &[ValueId], executor: &dyn Executor) -> Result<Gradients> {
        check_gradient_memory(model, values)?;
        let graph = class_gradients(&model.graph, values)?;
        let classes = classes_of(&model.graph)?;
        Ok(Gradients { session: executor.prepare(&graph, &model.weights)?, classes })
    }

    /// Computes them for one picture [1, 3, size, size].
    fn run(&mut self, picture: &Tensor, class: usize) -> Result<()> {
        let mut mask = vec![0.0; self.classes];
        mask[class] = 1.0;
        let mask = Tensor::f32([self.classes], mask);
        Ok(self.session.run(&[(INPUT, picture), (CLASS_MASK, &mask)])?)
    }

    /// A value and its gradient. They have the same shape.
    fn read(&self, place: usize) -> Result<[Vec<f32>; 2]> {
        let read = |name: String| {
            let numbers = self.session.read(&name).and_then(Tensor::into_f32);
            let numbers =
                numbers.ok_or_else(|| Error::Input(format!("the network has no f32 value `{name}`")))?;
            check_answers(&numbers)?;
            Ok::<_, Error>(numbers)
        };
        Ok([read(exposed_value(place))?, read(exposed_gradient(place))?])
    }
}

/// The number of classes of a classifier.
fn classes_of(graph: &Graph) -> Result<usize> {
    let output = graph.output(OUTPUT).map(|id| &graph.value(id).shape);
    let classes = output.and_then(|shape| shape.0.get(1)).and_then(|dim| dim.fixed());
    classes.ok_or_else(|| Error::Input("the number of the model's classes is not known".into()))
}

fn check_class(class: usize, classes: usize) -> Result<()> {
    if class < classes {
        return Ok(());
    }
    let text = format!("{class} is too large: the model has {classes} classes");
    Err(Error::Option { option: "class", text })
}

/// A shape for a batch of one picture, where it follows from the batch alone.
fn shape_of_one(graph: &Graph, id: ValueId) -> Option<Vec<usize>> {
    graph.value(id).shape.eval(&Bindings::from([(BATCH.to_owned(), 1)])).ok()
}

impl Explainer {
    /// Prepares explanations of what `model` predicts.
    ///
    /// # Errors
    /// When the class is none of the model's, the method does not fit it, there is no such layer, its gradients take more memory than
    /// [`offshoot_files::memory_limit`], or the executor cannot run it.
    pub fn new(model: &Model, options: &ExplainOptions, executor: &dyn Executor) -> Result<Explainer> {
        if model.metadata.task == Task::Regression {
            let text = "explanations are of classes, and this model predicts numbers";
            return Err(Error::Input(text.into()));
        }
        let classes = classes_of(&model.graph)?;
        options.class.map_or(Ok(()), |class| check_class(class, classes))?;
        let way = way(model, options, executor)?;
        // Probabilities are those that `predict` gives in f32.
        let network = Inference::of_graph(&model.graph, &model.weights, executor)?;
        let activation = Activation::new(network.gives_probabilities(), model.metadata.task);
        let size = model.metadata.preprocessing.size;
        Ok(Explainer { network, activation, class: options.class, size, way })
    }

    /// The method that is used.
    pub fn method(&self) -> ExplainMethod {
        match &self.way {
            Way::Layer { method, .. } => *method,
            Way::Attention { .. } => ExplainMethod::Attention,
            Way::Occlusion(_) => ExplainMethod::Occlusion,
        }
    }

    /// Explains the prediction for a picture, which is the network's input: 3 channels of `size` rows of `size` numbers.
    ///
    /// # Errors
    /// When `input` has another length, or the network gives NaN or infinities.
    pub fn explain(&mut self, input: &[f32]) -> Result<Explanation> {
        self.explain_class(input, self.class)
    }

    /// [`Explainer::explain`] of any class; `None` is the most likely one.
    ///
    /// # Errors
    /// Those of [`Explainer::explain`], and where the model has no such class.
    pub fn explain_class(&mut self, input: &[f32], class: Option<usize>) -> Result<Explanation> {
        let size = self.size;
        let wanted = 3 * size * size;
        if input.len() != wanted {
            let found = input.len();
            return Err(Error::Input(format!("{found} numbers; a picture of this model has {wanted}")));
        }
        let picture = Tensor::f32([1, 3, size, size], input.to_vec());
        let row = self.network.run(&picture)?.into_f32().unwrap_or_default();
        check_answers(&row)?;
        let class = class.unwrap_or_else(|| argmax(&row));
        check_class(class, row.len())?;
        let probability = self.activation.probabilities(&row).get(class).copied().unwrap_or_default();
        let method = self.method();
        let (map, layer) = match &mut self.way {
            Way::Layer { layer, gradients, .. } => {
                gradients.run(&picture, class)?;
                let [values, gradient] = gradients.read(0)?;
                let map = match method {
                    ExplainMethod::GradCam => maps::grad_cam(&values, &gradient, layer.grid),
                    ExplainMethod::LayerCam | ExplainMethod::Attention | ExplainMethod::Occlusion => {
                        maps::layer_cam(&values, &gradient, layer.grid)
                    }
                };
                (map, Some(layer.name.clone()))
            }
            Way::Attention { attentions, gradients } => {
                gradients.run(&picture, class)?;
                (attentions.relevance(|place| gradients.read(place))?, None)
            }
            Way::Occlusion(occlusion) => {
                (occlusion.map(&mut self.network, &picture, class, row[class])?, None)
            }
        };
        Ok(Explanation { class, probability, method, layer, map })
    }
}

/// The way of the method that is asked for, or of the first that fits the model.
fn way(model: &Model, options: &ExplainOptions, executor: &dyn Executor) -> Result<Way> {
    let occlusion =
        || Way::Occlusion(Occlusion::new(model.metadata.preprocessing.size, batch_within(model, 16)));
    let by_layer = |method| {
        let layer = Layer::find(&model.graph, options.layer.as_deref())?;
        let gradients = Gradients::new(model, &[layer.value], executor)?;
        Ok::<_, Error>(Way::Layer { method, layer, gradients })
    };
    let by_attention = |attentions: Attentions| {
        let gradients = Gradients::new(model, attentions.values(), executor)?;
        Ok::<_, Error>(Way::Attention { attentions, gradients })
    };
    if options.layer.is_some()
        && matches!(options.method, Some(ExplainMethod::Attention | ExplainMethod::Occlusion))
    {
        let text = "is for gradcam and layercam: the other methods look at the whole network".into();
        return Err(Error::Option { option: "layer", text });
    }
    match options.method {
        Some(method @ (ExplainMethod::GradCam | ExplainMethod::LayerCam)) => by_layer(method),
        Some(ExplainMethod::Attention) => by_attention(Attentions::find(&model.graph)?),
        Some(ExplainMethod::Occlusion) => Ok(occlusion()),
        None if options.layer.is_some() => by_layer(ExplainMethod::LayerCam),
        None => match Attentions::find(&model.graph) {
            Ok(attentions) => by_attention(attentions),
            Err(_) => match by_layer(ExplainMethod::LayerCam) {
                // A network of dynamic int8 has no gradients, others no layer with places.
                Err(Error::Graph(_) | Error::Option { .. }) => Ok(occlusion()),
                other => other,
            },
        },
    }
}
