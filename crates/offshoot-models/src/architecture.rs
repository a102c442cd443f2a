//! What an architecture is: how it is built, its names, its sizes and its preprocessing.

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Op, Pooling, ShapeOp};
use offshoot_graph::text::quoted;
use offshoot_graph::{DType, Dim, Graph, GraphError, Interpolation, Preprocessing, Shape, ValueId, Weights};

use crate::head::{self, Head, HeadError};
use crate::init::{self, FanOut, InitError};
use crate::published::{Published, published};
use crate::spelling::{Names, Speller};

/// Most classes that are accepted.
pub const MAX_CLASSES: usize = 1 << 17;
/// The longest input side that is accepted, in pixels.
pub const MAX_SIZE: usize = 1 << 14;

/// An architecture and what goes with it.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Its name on the command line and in files: torchvision's, or timm's (that of an EfficientNet-Lite without `tf_`).
    pub name: &'static str,
    /// What timm calls its model that computes the same, where it has one.
    pub timm: Option<&'static str>,
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
    pub(crate) family: &'static dyn Family,
}

/// A family of architectures, with what tells one of it from another.
pub(crate) trait Family: std::fmt::Debug + Sync {
    /// Everything before the pooling, or before the head where nothing is pooled: [N, 3, size, size] -> [N, C, H, W] or [N,
    /// features].
    ///
    /// # Errors
    /// None for a size that the architecture takes.
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError>;

    /// What the head reads, [N, features]: the means of the backbone's channels.
    ///
    /// # Errors
    /// As [`Family::backbone`].
    fn features(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        let x = self.backbone(graph, input, size)?;
        let x = graph.add("avgpool", Op::Pool(Pooling::GlobalAverage), &[x])?;
        graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])
    }

    /// How libraries spell the parameters of `architecture`, its own spelling first.
    fn spellings(&self, architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names>;

    /// Whether the original head is a 1x1 convolution in front of the pooling.
    fn has_convolutional_head(&self) -> bool {
        false
    }

    /// Whether the original head, a linear layer, has a bias.
    fn has_head_bias(&self) -> bool {
        true
    }

    /// What the names of parameters begin with that other libraries' models have for training alone.
    fn only_in_training(&self) -> &'static [&'static str] {
        &[]
    }

    /// Changes those of `weights` whose shape follows from the input's size.
    fn fit_to_size(&self, _size: usize, _weights: &mut Weights) {}
}

/// The heights and widths that an architecture can be built for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sizes {
    Any,
    /// Smaller ones leave a layer without pixels.
    AtLeast(usize),
    /// Whole patches of so many pixels, each with a position of its own.
    MultipleOf(usize),
    /// Whole windows in each block: a multiple of so many pixels.
    Tiled(usize),
    /// What is left of them, divided by `shrinks`, must be pooled evenly to `to` pixels.
    Pooled {
        shrinks: usize,
        to: usize,
    },
}

impl Sizes {
    /// What the sizes must be, when `size` is none.
    pub(crate) fn refuse(self, size: usize) -> Option<String> {
        match self {
            Sizes::AtLeast(least) if size < least => Some(format!("at least {least}")),
            Sizes::MultipleOf(patch) | Sizes::Tiled(patch) if !size.is_multiple_of(patch) => {
                Some(format!("a multiple of {patch}, such as {}", (size / patch).max(1) * patch))
            }
            Sizes::Pooled { shrinks, to } => {
                let left = size / shrinks;
                let fits = left >= to && left.is_multiple_of(to);
                let (one, step) = (shrinks * to, shrinks - 1);
                let wanted = format!("{one} to {}, or {} to {}", one + step, 2 * one, 2 * one + step);
                (!fits).then_some(wanted)
            }
            Sizes::Any | Sizes::AtLeast(_) | Sizes::MultipleOf(_) | Sizes::Tiled(_) => None,
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
    /// The same with this filter, mean and standard deviation one half.
    Half(usize, Interpolation),
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
#[error("no architecture is called `{}`{} Known: {}", quoted(name), hint(*.nearest), known)]
pub struct UnknownArchitecture {
    /// The name that was asked for.
    pub name: String,
    /// The name most like it, if one is.
    pub nearest: Option<&'static str>,
    /// All names.
    pub known: String,
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
        let logits = match head {
            Head::Linear { dropout } if self.convolutional_head() => {
                let x = self.family.backbone(&mut graph, input, size)?;
                head::convolutional(&mut graph, self.head, x, dropout, classes)?
            }
            Head::Linear { dropout } if !self.family.has_head_bias() => {
                let x = self.family.features(&mut graph, input, size)?;
                head::unbiased(&mut graph, self.head, x, dropout, [classes, self.features])?
            }
            Head::Linear { .. } | Head::Mlp { .. } => {
                let x = self.family.features(&mut graph, input, size)?;
                head.append(&mut graph, self.head, x, classes)?
            }
        };
        graph.add_output(OUTPUT, logits);
        Ok(graph)
    }

    /// Whether there are weights whose shape follows from the input's size.
    pub fn is_resampled(&self) -> bool {
        matches!(self.sizes, Sizes::MultipleOf(_))
    }

    /// Whether the original head is a 1x1 convolution in front of the pooling.
    pub(crate) fn convolutional_head(&self) -> bool {
        self.family.has_convolutional_head()
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
        self.family.fit_to_size(size, weights);
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
            Resize::Half(resize, interpolation) => Preprocessing {
                size: self.size,
                resize,
                interpolation,
                mean: [0.5; 3],
                std: [0.5; 3],
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

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or(".".into(), |name| format!("; did you mean `{name}`?"))
}
