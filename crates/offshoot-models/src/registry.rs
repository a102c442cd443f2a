//! The architectures that offshoot can build, by name.

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::Op;
use offshoot_graph::text::quoted;
use offshoot_graph::{DType, Dim, Graph, GraphError, Interpolation, Preprocessing, Shape, ValueId, Weights};

use crate::head::{self, Head, HeadError};
use crate::init::{self, FanOut, InitError};
use crate::published::{Published, published};
use crate::{
    convnext, densenet, efficientnet, efficientnet_lite, mobilenet_v2, mobilenet_v3, regnet, resnet,
    squeezenet, vgg, vit,
};

/// Most classes that are accepted.
pub const MAX_CLASSES: usize = 1 << 17;
/// The longest input side that is accepted, in pixels.
pub const MAX_SIZE: usize = 1 << 14;

/// An architecture and what goes with it.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Its name on the command line and in files: torchvision's, or timm's without `tf_`.
    pub name: &'static str,
    /// Height and width of the input that the published weights were trained for, in pixels.
    pub size: usize,
    /// Features that the head reads.
    pub features: usize,
    /// The modules and parameters before the blocks.
    pub stem: &'static [&'static str],
    /// The modules that repeat, from input to output: ResNet's stages, MobileNetV2's blocks, EfficientNet's stages.
    pub blocks: &'static [&'static str],
    /// The modules between the blocks and the head.
    pub tail: &'static [&'static str],
    /// The module that a new head replaces.
    pub head: &'static str,
    pub(crate) original_dropout: f32,
    pub(crate) resize: Resize,
    pub(crate) sizes: Sizes,
    pub(crate) fan_out: FanOut,
    pub(crate) family: Family,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    ResNet(resnet::Variant),
    MobileNetV2,
    MobileNetV3(mobilenet_v3::Variant),
    EfficientNet(efficientnet::Variant),
    EfficientNetLite(efficientnet_lite::Variant),
    Vgg {
        /// Whether batch norms follow the convolutions.
        norms: bool,
    },
    DenseNet,
    RegNetY,
    SqueezeNet,
    ConvNeXt(convnext::Variant),
    Vit(vit::Variant),
}

/// The heights and widths that an architecture can be built for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sizes {
    Any,
    /// Smaller ones leave a layer without pixels.
    AtLeast(usize),
    /// Whole patches of so many pixels.
    MultipleOf(usize),
    /// What is left of them, divided by `shrinks`, must be pooled evenly to `to` pixels.
    Pooled {
        shrinks: usize,
        to: usize,
    },
}

impl Sizes {
    /// What the sizes must be, when `size` is none.
    fn refuse(self, size: usize) -> Option<String> {
        match self {
            Sizes::AtLeast(least) if size < least => Some(format!("at least {least}")),
            Sizes::MultipleOf(patch) if !size.is_multiple_of(patch) => {
                Some(format!("a multiple of {patch}, such as {}", (size / patch).max(1) * patch))
            }
            Sizes::Pooled { shrinks, to } => {
                let left = size / shrinks;
                let fits = left >= to && left.is_multiple_of(to);
                let (one, step) = (shrinks * to, shrinks - 1);
                let wanted = format!("{one} to {}, or {} to {}", one + step, 2 * one, 2 * one + step);
                (!fits).then_some(wanted)
            }
            Sizes::Any | Sizes::AtLeast(_) | Sizes::MultipleOf(_) => None,
        }
    }
}

/// Whose evaluation preprocessing the published weights expect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resize {
    Torchvision,
    EfficientNetLite,
    /// torchvision's with another length of the shorter side.
    Bilinear(usize),
    /// The same with a bicubic filter.
    Bicubic(usize),
}

/// What is free in an architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BuildOptions {
    /// Classes, 1..=[`MAX_CLASSES`].
    pub classes: usize,
    /// Height and width of the input in pixels, 1..=[`MAX_SIZE`].
    pub size: usize,
    /// What replaces the original head; `None` keeps it.
    pub head: Option<Head>,
}

/// No architecture has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no architecture is called `{}`{} Known: {}", quoted(name), hint(*.nearest), names())]
pub struct UnknownArchitecture {
    /// The name that was asked for.
    pub name: String,
    /// The name most like it, if one is.
    pub nearest: Option<&'static str>,
}

/// A model could not be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// See [`UnknownArchitecture`].
    #[error(transparent)]
    Unknown(#[from] UnknownArchitecture),
    /// See [`HeadError`].
    #[error(transparent)]
    Head(#[from] HeadError),
    /// No classes, or absurdly many.
    #[error("{architecture} with {classes} classes: the number must be in 1..={MAX_CLASSES}")]
    Classes {
        /// The architecture's name.
        architecture: &'static str,
        /// The number that was asked for.
        classes: usize,
    },
    /// An input of no pixels, or absurdly many.
    #[error("{architecture} for pictures of {size} pixels a side: the size must be in 1..={MAX_SIZE}")]
    Size {
        /// The architecture's name.
        architecture: &'static str,
        /// The size that was asked for.
        size: usize,
    },
    /// An input that the architecture cannot take.
    #[error("{architecture} takes no pictures of {size} pixels a side: the size must be {wanted}")]
    Shape {
        /// The architecture's name.
        architecture: &'static str,
        /// The size that was asked for.
        size: usize,
        /// What it must be.
        wanted: String,
    },
    /// See [`GraphError`].
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Every architecture.
pub fn architectures() -> impl Iterator<Item = &'static Architecture> {
    const MOBILENETS: [Architecture; 1] = [mobilenet_v2::ARCHITECTURE];
    const OTHERS: [Architecture; 3] =
        [densenet::ARCHITECTURE, regnet::ARCHITECTURE, squeezenet::ARCHITECTURE];
    const FAMILIES: [&[Architecture]; 9] = [
        &resnet::ARCHITECTURES,
        &MOBILENETS,
        &mobilenet_v3::ARCHITECTURES,
        &efficientnet_lite::ARCHITECTURES,
        &efficientnet::ARCHITECTURES,
        &convnext::ARCHITECTURES,
        &vit::ARCHITECTURES,
        &vgg::ARCHITECTURES,
        &OTHERS,
    ];
    FAMILIES.into_iter().flatten()
}

/// The architecture called `name`; timm's prefix `tf_` may stand before that of an EfficientNet-Lite, whose padding is
/// TensorFlow's. Its other models with that prefix are not those without.
///
/// # Errors
/// When none is; the message lists all and proposes the nearest.
pub fn find(name: &str) -> Result<&'static Architecture, UnknownArchitecture> {
    let known = |name: &str| architectures().find(|a| a.name == name);
    known(name)
        .or_else(|| known(name.strip_prefix("tf_")?).filter(|a| a.pads_as_tensorflow()))
        .ok_or_else(|| UnknownArchitecture { name: name.to_string(), nearest: nearest(name) })
}

/// The graph of the architecture called `name`: see [`Architecture::build`].
///
/// # Errors
/// As [`find`] and [`Architecture::build`].
pub fn build(name: &str, options: &BuildOptions) -> Result<Graph, BuildError> {
    find(name)?.build(options)
}

impl Architecture {
    /// A graph from `input`, normalized f32 pictures [batch_size, 3, size, size], to `output`, logits
    /// [batch_size, classes]. Every parameter is trainable. Nodes have PyTorch's module paths, parameters its
    /// state-dict keys.
    ///
    /// # Errors
    /// When an option is out of range.
    pub fn build(&self, options: &BuildOptions) -> Result<Graph, BuildError> {
        let &BuildOptions { classes, size, head } = options;
        let architecture = self.name;
        if !(1..=MAX_CLASSES).contains(&classes) {
            return Err(BuildError::Classes { architecture, classes });
        }
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(BuildError::Size { architecture, size });
        }
        if let Some(wanted) = self.sizes.refuse(size) {
            return Err(BuildError::Shape { architecture, size, wanted });
        }
        let head = head.unwrap_or(Head::Linear { dropout: self.original_dropout }).check()?;
        Ok(self.assemble(size, head, classes)?)
    }

    fn assemble(&self, size: usize, head: Head, classes: usize) -> Result<Graph, GraphError> {
        let mut graph = Graph::new(self.name);
        let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), size.into(), size.into()]);
        let input = graph.add_input(INPUT, DType::F32, shape);
        let logits = match (self.convolutional_head(), head) {
            (true, Head::Linear { dropout }) => {
                let x = squeezenet::backbone(&mut graph, input)?;
                head::convolutional(&mut graph, self.head, x, dropout, classes)?
            }
            _ => {
                let x = self.backbone(&mut graph, input, size)?;
                head.append(&mut graph, self.head, x, classes)?
            }
        };
        graph.add_output(OUTPUT, logits);
        Ok(graph)
    }

    /// Whether strided convolutions pad as TensorFlow's do.
    fn pads_as_tensorflow(&self) -> bool {
        matches!(&self.family, Family::EfficientNetLite(variant) if !variant.symmetric())
    }

    /// Whether the original head is a 1x1 convolution in front of the pooling.
    pub(crate) fn convolutional_head(&self) -> bool {
        matches!(self.family, Family::SqueezeNet)
    }

    /// The features that the head reads, [N, features].
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        let x = match &self.family {
            Family::ResNet(variant) => resnet::backbone(graph, input, variant),
            Family::MobileNetV2 => mobilenet_v2::backbone(graph, input),
            Family::MobileNetV3(variant) => return mobilenet_v3::features(graph, input, variant),
            Family::EfficientNet(variant) => efficientnet::backbone(graph, input, variant),
            Family::EfficientNetLite(variant) => efficientnet_lite::backbone(graph, input, size, variant),
            Family::Vgg { norms } => return vgg::features(graph, input, size, *norms),
            Family::DenseNet => densenet::backbone(graph, input),
            Family::RegNetY => regnet::backbone(graph, input),
            Family::SqueezeNet => squeezenet::backbone(graph, input),
            Family::ConvNeXt(variant) => return convnext::features(graph, input, variant),
            Family::Vit(variant) => return vit::features(graph, input, size, variant),
        }?;
        let x = graph.add("avgpool", Op::GlobalAveragePool, &[x])?;
        graph.add("flatten", Op::Flatten { axis: 1 }, &[x])
    }

    /// The best published weights, if there are any that we know of.
    pub fn published(&self) -> Option<Published> {
        self.all_published().into_iter().next()
    }

    /// All published weights that we know of, the best first.
    pub fn all_published(&self) -> Vec<Published> {
        published(self.name)
    }

    /// Changes those of `weights` whose shape follows from the input's size to what the graph for `size` pixels has: the
    /// positions of a transformer's patches are resampled.
    pub fn fit_to_size(&self, size: usize, weights: &mut Weights) {
        if let Family::Vit(variant) = &self.family {
            vit::resample_positions(variant, size, weights);
        }
    }

    /// How pictures become the input that weights of this architecture are assumed to expect where nothing else is known: what
    /// its first published ones were trained for.
    pub fn preprocessing(&self) -> Preprocessing {
        match self.resize {
            Resize::Torchvision => Preprocessing::default(),
            Resize::Bilinear(resize) => Preprocessing { size: self.size, resize, ..Preprocessing::default() },
            Resize::Bicubic(resize) => Preprocessing {
                size: self.size,
                resize,
                interpolation: Interpolation::Bicubic,
                ..Preprocessing::default()
            },
            // Google's: (x - 127) / 128 on 0..255. timm's 0.5 and 0.5 are (x - 127.5) / 127.5.
            Resize::EfficientNetLite => Preprocessing {
                size: self.size,
                resize: self.size + 32,
                interpolation: Interpolation::Bicubic,
                mean: [127.0 / 255.0; 3],
                std: [128.0 / 255.0; 3],
                ..Preprocessing::default()
            },
        }
    }

    /// Whether a parameter or node belongs to the head.
    pub fn is_head(&self, name: &str) -> bool {
        name.strip_prefix(self.head).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Random initial values of those parameters of `graph` that are `names`.
    ///
    /// They are distributed as torchvision (timm for EfficientNet-Lite) initializes them: convolutions normal
    /// with variance 2 / fan_out, batch norms 1 and 0, linear layers uniform within 1 / sqrt(fan_in) as
    /// `torch.nn.Linear` does by itself. A parameter's values depend on the seed, its name and its shape only.
    ///
    /// # Errors
    /// When a name is no parameter of the graph, or a parameter that no convolution, batch norm or linear layer reads.
    pub fn init_parameters<'n>(
        &self,
        graph: &Graph,
        names: impl IntoIterator<Item = &'n str>,
        seed: u64,
    ) -> Result<Weights, InitError> {
        init::init_parameters(graph, names, self.fan_out, seed)
    }
}

/// The parameters and running statistics of `graph` by name and shape, in the state dict's order.
pub fn expected_parameters(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let values = graph.parameters().iter().map(|&id| graph.value(id));
    values.filter_map(|v| Some((v.name.clone(), v.shape.as_fixed()?))).collect()
}

/// The known name with the fewest edits to `name`, if they are at most a third of it.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let candidates = architectures().map(|a| (strsim::damerau_levenshtein(&name, a.name), a.name));
    let (edits, nearest) = candidates.min_by_key(|&(edits, _)| edits)?;
    (edits <= nearest.len() / 3).then_some(nearest)
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or(".".into(), |name| format!("; did you mean `{name}`?"))
}

fn names() -> String {
    architectures().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_and_proposes_the_nearest() {
        assert_eq!(
            find("ResNet5O").unwrap_err().to_string(),
            format!("no architecture is called `ResNet5O`; did you mean `resnet50`? Known: {}", names())
        );
        assert_eq!(find("mobilenetv2").unwrap_err().nearest, Some("mobilenet_v2"));
        assert_eq!(find("swin_t").unwrap_err().nearest, None);
        assert_eq!(find("").unwrap_err().nearest, None);
        assert_eq!(find("tf_efficientnet_lite0").unwrap().name, "efficientnet_lite0");
        // These pad otherwise than those without the prefix.
        for name in ["tf_efficientnet_b0", "tf_mobilenet_v3_small", "tf_efficientnet_lite0_symmetric"] {
            assert!(find(name).is_err(), "{name}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let options = BuildOptions { classes: 10, size: 64, head: None };
        let message = |options| build("resnet18", &options).unwrap_err().to_string();
        assert_eq!(
            message(BuildOptions { classes: 0, ..options }),
            "resnet18 with 0 classes: the number must be in 1..=131072"
        );
        assert_eq!(
            message(BuildOptions { size: 0, ..options }),
            "resnet18 for pictures of 0 pixels a side: the size must be in 1..=16384"
        );
        assert!(build("resnet18", &BuildOptions { size: usize::MAX, ..options }).is_err());
        assert!(build("resnet18", &BuildOptions { classes: usize::MAX, ..options }).is_err());
        let head = Some(Head::Mlp { hidden: 0, dropout: 0.0 });
        assert!(matches!(build("resnet18", &BuildOptions { head, ..options }), Err(BuildError::Head(_))));
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused_with_those_that_do() {
        let message =
            |name, size| build(name, &BuildOptions { classes: 3, size, head: None }).unwrap_err().to_string();
        assert_eq!(
            message("vit_b_16", 230),
            "vit_b_16 takes no pictures of 230 pixels a side: the size must be a multiple of 16, such as 224"
        );
        assert_eq!(
            message("vgg16", 256),
            "vgg16 takes no pictures of 256 pixels a side: the size must be 224 to 255, or 448 to 479"
        );
        assert_eq!(
            message("densenet121", 31),
            "densenet121 takes no pictures of 31 pixels a side: the size must be at least 32"
        );
    }

    #[test]
    fn every_size_builds() {
        for architecture in architectures() {
            for size in [1, 2, 31, 33, 97, 112, 224, 255] {
                if architecture.sizes.refuse(size).is_some() {
                    continue;
                }
                let graph = architecture.build(&BuildOptions { classes: 3, size, head: None }).unwrap();
                let logits = graph.value(graph.output(OUTPUT).unwrap());
                assert_eq!(logits.shape.to_string(), "[batch_size, 3]");
            }
        }
    }

    #[test]
    fn stem_blocks_tail_and_head_are_all_of_the_parameters() {
        for architecture in architectures() {
            let size = architecture.size;
            let graph = architecture.build(&BuildOptions { classes: 3, size, head: None }).unwrap();
            let modules: Vec<&str> =
                [architecture.stem, architecture.blocks, architecture.tail, &[architecture.head]].concat();
            let inside = |name: &str, module: &str| {
                name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let parameters = expected_parameters(&graph);
            for (name, _) in &parameters {
                let count = modules.iter().filter(|m| inside(name, m)).count();
                assert_eq!(count, 1, "{}: {name}", architecture.name);
            }
            for module in modules {
                assert!(parameters.iter().any(|(name, _)| inside(name, module)), "{module} is empty");
            }
            let (_, shape) =
                parameters.iter().find(|(n, _)| *n == format!("{}.weight", architecture.head)).unwrap();
            assert_eq!(shape[..2], [3, architecture.features]);
        }
    }

    #[test]
    fn preprocessing_is_the_published_one() {
        let lite = find("efficientnet_lite2").unwrap().preprocessing();
        assert_eq!((lite.size, lite.resize, lite.interpolation), (260, 292, Interpolation::Bicubic));
        // (x - 127) / 128 of the byte 255 is 1.
        assert!(((1.0 - lite.mean[0]) / lite.std[0] - 1.0).abs() < 1e-6);
        assert_eq!(find("resnet18").unwrap().preprocessing(), Preprocessing::default());
    }
}
