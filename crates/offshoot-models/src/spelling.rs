//! How other libraries name the parameters of an architecture.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::BatchNormalization;
use offshoot_graph::remedy::MODEL;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// The graph's own names: torchvision's, or timm's for EfficientNet-Lite and DINOv2.
    Own,
    Timm,
    /// lukemelas' `EfficientNet-PyTorch`.
    Lukemelas,
    /// torchvision before it renamed layers, as in the files that it publishes.
    Older,
}

/// The parameters of an architecture as one library spells them.
pub(crate) struct Names {
    pub(crate) library: Library,
    /// The graph's own name and shape of each, by the library's name.
    pub(crate) own: HashMap<String, (String, Vec<usize>)>,
    /// The graph's own names.
    pub(crate) taken: HashSet<String>,
    /// The epsilon of the library's batch norms and that of the graph's, where they differ.
    pub(crate) epsilon: Option<(f32, f32)>,
    /// What the names cannot tell.
    pub(crate) note: Option<String>,
}

pub(crate) type Parameters = [(String, Vec<usize>)];

/// What the spellings of an architecture's parameters are made of.
pub(crate) struct Speller<'a> {
    /// The graph's own names and shapes.
    pub(crate) expected: &'a Parameters,
}

impl Speller<'_> {
    /// The graph's own names.
    pub(crate) fn own(&self) -> Names {
        self.all(Library::Own, &str::to_owned)
    }

    /// What `spell` makes of each name.
    pub(crate) fn all(&self, library: Library, spell: &dyn Fn(&str) -> String) -> Names {
        self.names(library, self.expected.iter().map(|(name, _)| spell(name)).collect())
    }

    /// timm's names of a network of inverted residual blocks ([`inverted_residuals`]).
    pub(crate) fn inverted_residuals(
        &self,
        place: &dyn Fn(usize, &str) -> (usize, usize),
        tail: &[&str],
    ) -> Names {
        self.names(Library::Timm, inverted_residuals(self.expected, place, tail))
    }

    /// The names in `spelled`, in the order of the graph's own.
    fn names(&self, library: Library, spelled: Vec<String>) -> Names {
        let own = spelled.into_iter().zip(self.expected.iter().cloned()).collect();
        let taken = self.expected.iter().map(|(name, _)| name.clone()).collect();
        Names { library, own, taken, epsilon: None, note: None }
    }
}

/// Which of two models of timm with the same names the architecture called `name` is: `tf_` pads as TensorFlow does.
pub(crate) fn other_padding(name: &str) -> String {
    let note = |padding: &str, other: &str| {
        format!(
            "the names are timm's, whose `{name}` pads {padding}; weights of its `{other}` have the same names and belong to \
             `{MODEL} {other}`"
        )
    };
    match name.strip_prefix("tf_") {
        Some(plain) => note("as TensorFlow does", plain),
        None => note("all sides alike", &format!("tf_{name}")),
    }
}

/// The epsilon of timm's norms and the graph's, where they differ.
pub(crate) fn timm_epsilon(timm: f32, norm: BatchNormalization) -> Option<(f32, f32)> {
    (timm != norm.epsilon).then_some((timm, norm.epsilon))
}

/// Stage and index of the `n`th block where each stage has so many.
pub(crate) fn consecutive(repeats: &[usize], mut n: usize) -> (usize, usize) {
    for (stage, &count) in repeats.iter().enumerate() {
        if n < count {
            return (stage, n);
        }
        n -= count;
    }
    (repeats.len(), n)
}

/// timm's names of a network of inverted residual blocks, whose modules come in torchvision's order: a stem, blocks whose
/// stage and index `place` says, and what `tail` names.
fn inverted_residuals(
    expected: &Parameters,
    place: &dyn Fn(usize, &str) -> (usize, usize),
    tail: &[&str],
) -> Vec<String> {
    let mut modules: Vec<&str> =
        expected.iter().filter_map(|(name, _)| Some(name.rsplit_once('.')?.0)).collect();
    modules.dedup();
    let (head, end) = (2.min(modules.len()), modules.len().saturating_sub(tail.len()));
    let mut names: HashMap<&str, String> = HashMap::new();
    names.extend(modules.iter().zip(["conv_stem", "bn1"]).map(|(&m, name)| (m, name.to_owned())));
    names.extend(modules[end..].iter().zip(tail).map(|(&m, &name)| (m, name.to_owned())));
    let blocks = modules[head..end.max(head)].chunk_by(|a, b| block_path(a) == block_path(b));
    for (n, block) in blocks.enumerate() {
        let (stage, index) = place(n, block[0]);
        let layers: Vec<&str> = block.iter().copied().filter(|m| squeeze(m).is_none()).collect();
        let layer_names: &[&str] = match layers.len() {
            2 => &["conv", "bn1"],
            4 if is_depthwise(expected, layers[0]) => &["conv_dw", "bn1", "conv_pw", "bn2"],
            4 => &["conv_exp", "bn1", "conv_pwl", "bn2"],
            _ => &["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"],
        };
        let named = layers.into_iter().zip(layer_names.iter().copied());
        let squeezes = block.iter().filter_map(|&module| Some((module, squeeze(module)?)));
        names.extend(named.chain(squeezes).map(|(m, name)| (m, format!("blocks.{stage}.{index}.{name}"))));
    }
    let spell = |name: &str| {
        let (module, parameter) = name.rsplit_once('.')?;
        Some(format!("{}.{parameter}", names.get(module)?))
    };
    expected.iter().map(|(name, _)| spell(name).unwrap_or_else(|| name.clone())).collect()
}

/// Whether each filter of a convolution reads one channel.
fn is_depthwise(expected: &Parameters, module: &str) -> bool {
    let weight = expected.iter().find(|(name, _)| name.strip_suffix(".weight") == Some(module));
    weight.is_some_and(|(_, shape)| shape.get(1) == Some(&1))
}

/// The path of the block that a module is in: what stands before `block` or `conv`.
fn block_path(module: &str) -> &str {
    [".block.", ".conv."].iter().find_map(|inside| Some(module.split_once(inside)?.0)).unwrap_or(module)
}

fn squeeze(module: &str) -> Option<&'static str> {
    match module.rsplit('.').next() {
        Some("fc1") => Some("se.conv_reduce"),
        Some("fc2") => Some("se.conv_expand"),
        _ => None,
    }
}

/// `name` with the first of `rules` that fits: what it begins with, and what stands there instead.
pub(crate) fn replace_start(name: &str, rules: &[(&str, &str)]) -> String {
    let changed = rules.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    changed.unwrap_or_else(|| name.to_owned())
}
