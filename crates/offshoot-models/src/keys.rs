//! The names that other libraries give the parameters of an architecture, and the prefixes that wrappers put before them.

use std::collections::HashMap;

use offshoot_graph::{Tensor, Weights};

use crate::architecture::{Architecture, BuildOptions, expected_parameters};
use crate::registry::architectures;
use crate::spelling::{Library, Names, Speller};

/// How many left out keys a note names.
const SHOWN: usize = 4;

/// Weights under the names that the graph of an architecture has.
#[derive(Clone, Debug, PartialEq)]
pub struct CanonicalKeys {
    /// The weights. Keys that no known library has stay as they are, for the caller to report.
    pub weights: Weights,
    /// What a user should know about how they were read.
    pub notes: Vec<String>,
}

/// The same weights under the names that the graph of `architecture` has.
///
/// Known are the names of torchvision, of timm where it has the same function, for EfficientNet-Lite those of lukemelas'
/// `EfficientNet-PyTorch`, and those that torchvision had in earlier versions. Whatever stands before every one of these names
/// (`module.`, `model.`, `backbone._orig_mod.`) is removed, and what does not stand behind it is left out with a note.
pub fn canonical_keys(architecture: &Architecture, weights: Weights) -> CanonicalKeys {
    let expected = parameters(architecture);
    let spellings = architecture.family.spellings(architecture, &Speller { expected: &expected });
    let Some(best) = best_spelling(&spellings, &weights).filter(|best| 2 * best.matched >= expected.len())
    else {
        return CanonicalKeys { weights, notes: Vec::new() };
    };
    let names = &spellings[best.spelling];
    let auxiliary = architecture.family.only_in_training();
    let is_auxiliary = |key: &str| {
        let name = key.strip_prefix(&best.prefix);
        name.is_some_and(|name| auxiliary.iter().any(|start| name.starts_with(start)))
    };
    let weights = weights.into_iter().filter(|(key, _)| !is_auxiliary(key));
    let (inside, outside): (Weights, Weights) = weights.partition(|(key, _)| {
        key.strip_prefix(&best.prefix).is_some_and(|name| !is_of_training(name))
            && !best.others.iter().any(|other| key.starts_with(other.as_str()))
    });
    let mut renamed = rename(inside, best.prefix.len(), names);
    if let Some((from, to)) = names.epsilon {
        change_epsilon(&mut renamed, from, to);
    }
    let mut notes = Vec::new();
    let left_out: Vec<String> = outside.into_keys().filter(|key| !is_counter(key)).collect();
    if !left_out.is_empty() {
        notes.push(left_out_note(&best, &left_out));
    }
    notes.extend(names.note.clone());
    CanonicalKeys { weights: renamed, notes }
}

/// `weights` of `architecture` under timm's names and in its shapes, for timm's model called [`Architecture::timm`]: the function
/// stays the same where timm's norms have another epsilon. `None` where timm has no such model.
pub fn timm_weights(architecture: &Architecture, weights: &Weights) -> Option<Weights> {
    architecture.timm?;
    let expected = parameters(architecture);
    let spellings = architecture.family.spellings(architecture, &Speller { expected: &expected });
    let timm = spellings.iter().find(|names| names.library == Library::Timm).or(spellings.first())?;
    let mut weights = weights.clone();
    if let Some((timm, own)) = timm.epsilon {
        change_epsilon(&mut weights, own, timm);
    }
    let names: HashMap<&str, &str> =
        timm.own.iter().map(|(theirs, (own, _))| (own.as_str(), theirs.as_str())).collect();
    let renamed = |(own, tensor): (String, Tensor)| {
        let theirs = *names.get(own.as_str())?;
        let shape = timm_shape(theirs, tensor.shape());
        Some((theirs.to_owned(), Tensor::new(shape, tensor.data().clone()).ok()?))
    };
    weights.into_iter().map(renamed).collect()
}

/// The shape of timm's parameter called `name` where ours has `own`: some of its linear layers are convolutions.
fn timm_shape(name: &str, own: &[usize]) -> Vec<usize> {
    match (name, own) {
        ("pre_logits.fc1.weight", &[out, inputs]) => vec![out, inputs / 49, 7, 7],
        ("pre_logits.fc2.weight" | "conv_head.weight", &[out, inputs]) => vec![out, inputs, 1, 1],
        (name, &[channels, 1, 1]) if name.ends_with(".gamma") => vec![channels],
        _ => own.to_vec(),
    }
}

/// The architecture whose parameters `weights` have, by name and shape, whatever their head.
pub fn recognise(weights: &Weights) -> Option<&'static Architecture> {
    /// The fraction of the parameters of both that are the same.
    const ENOUGH: f64 = 0.95;
    let likeness = |architecture: &'static Architecture| {
        let expected: Vec<_> =
            parameters(architecture).into_iter().filter(|(name, _)| !architecture.is_head(name)).collect();
        let shapes: HashMap<&str, usize> =
            expected.iter().map(|(name, shape)| (name.as_str(), shape.iter().product())).collect();
        let canonical = canonical_keys(architecture, weights.clone()).weights;
        let keys = canonical.keys().filter(|key| !architecture.is_head(key) && !is_counter(key)).count();
        let same = canonical.iter().filter(|(key, t)| shapes.get(key.as_str()) == Some(&t.len())).count();
        2.0 * same as f64 / (expected.len() + keys) as f64
    };
    let mut best = (ENOUGH, None);
    for architecture in architectures() {
        let likeness = likeness(architecture);
        if likeness > best.0 {
            best = (likeness, Some(architecture));
        }
    }
    best.1
}

/// Whether training has put a key beside the model's: a criterion, a metric, a counter.
fn is_of_training(name: &str) -> bool {
    let module = name.split('.').next().unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let counter = is_counter(name) && last != "num_batches_tracked" && !is_of_windows(last);
    counter || ["criterion", "loss", "metric"].iter().any(|word| module.contains(word))
}

/// Names and shapes of the parameters for one class.
fn parameters(architecture: &Architecture) -> Vec<(String, Vec<usize>)> {
    let options = BuildOptions { classes: 1, size: architecture.size, head: None };
    architecture.build(&options).map_or_else(|_| Vec::new(), |graph| expected_parameters(&graph))
}

/// Whether a key is that of a counter, which no graph has: of a batch norm, of averaged weights, of a profiler. Or of what Swin and
/// MaxViT store though it follows from the sizes.
fn is_counter(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    matches!(last, "num_batches_tracked" | "n_averaged" | "total_ops" | "total_params") || is_of_windows(last)
}

/// The last part of a key of indices, distances and masks of windows.
fn is_of_windows(last: &str) -> bool {
    matches!(last, "relative_position_index" | "relative_coords_table" | "attn_mask")
}

struct Best {
    spelling: usize,
    prefix: String,
    matched: usize,
    /// Prefixes under which there are as many parameters.
    others: Vec<String>,
}

/// The spelling and the prefix under which most parameters are found: of equal ones the graph's own and the shortest.
fn best_spelling(spellings: &[Names], weights: &Weights) -> Option<Best> {
    let mut found: Vec<(usize, usize, String)> = Vec::new();
    for (index, names) in spellings.iter().enumerate() {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for key in weights.keys() {
            let starts = std::iter::once(0).chain(key.match_indices('.').map(|(at, _)| at + 1));
            for start in starts.filter(|&start| names.own.contains_key(&key[start..])) {
                *counts.entry(&key[..start]).or_default() += 1;
            }
        }
        found.extend(counts.into_iter().map(|(prefix, count)| (count, index, prefix.to_owned())));
    }
    found.sort_by(|a, b| (b.0, a.1, a.2.len(), &a.2).cmp(&(a.0, b.1, b.2.len(), &b.2)));
    let (matched, spelling, prefix) = found.first()?.clone();
    let others = found.iter().filter(|f| f.0 == matched && f.2 != prefix).map(|f| f.2.clone()).collect();
    Some(Best { spelling, prefix, matched, others })
}

fn rename(weights: Weights, prefix: usize, names: &Names) -> Weights {
    let mut renamed = Weights::new();
    for (key, tensor) in weights {
        let name = &key[prefix..];
        match names.own.get(name) {
            Some((own, shape)) => {
                let tensor = if names.library == Library::Own { tensor } else { reshape(tensor, shape) };
                renamed.insert(own.clone(), tensor);
            }
            // The first counts that has a name: two must not overwrite each other.
            None if !names.taken.contains(name) => {
                renamed.insert(name.to_owned(), tensor);
            }
            None => {
                renamed.insert(key, tensor);
            }
        }
    }
    renamed
}

/// `tensor` in `shape` where it has as many elements: a linear layer can be a 1x1 convolution elsewhere. The first axis of a
/// head, which goes over the classes, stays as it is.
fn reshape(tensor: Tensor, shape: &[usize]) -> Tensor {
    if tensor.shape() == shape || tensor.len() != shape.iter().product::<usize>() {
        return tensor;
    }
    Tensor::new(shape, tensor.data().clone()).unwrap_or(tensor)
}

/// Makes the norms of weights that were trained with an epsilon of `from` compute the same with one of `to`. The variance takes
/// up the difference; where it is too small for that, it becomes zero and the scale takes up the rest.
fn change_epsilon(weights: &mut Weights, from: f32, to: f32) {
    let norms: Vec<String> =
        weights.keys().filter_map(|k| k.strip_suffix(".running_var")).map(str::to_owned).collect();
    for norm in norms {
        let [variance, scale] =
            ["running_var", "weight"].map(|part| weights.get(&format!("{norm}.{part}")).cloned());
        let (Some(variance), Some(scale)) = (variance, scale) else { continue };
        let (Some(old), Some(gamma)) = (variance.as_f32(), scale.as_f32()) else { continue };
        let moved: Vec<f32> = old.iter().map(|&v| (v + (from - to)).max(0.0)).collect();
        let factor = |(&old, &new): (&f32, &f32)| {
            ((f64::from(new) + f64::from(to)) / (f64::from(old) + f64::from(from))).sqrt()
        };
        let scaled: Vec<f32> = gamma
            .iter()
            .zip(old.iter().zip(&moved))
            .map(|(&gamma, pair)| (f64::from(gamma) * factor(pair)) as f32)
            .collect();
        weights.insert(format!("{norm}.running_var"), Tensor::f32(variance.shape(), moved));
        weights.insert(format!("{norm}.weight"), Tensor::f32(scale.shape(), scaled));
    }
}

fn left_out_note(best: &Best, left_out: &[String]) -> String {
    let shown: Vec<String> = left_out.iter().take(SHOWN).map(|key| format!("`{key}`")).collect();
    let more = match left_out.len().saturating_sub(SHOWN) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    let (shown, prefix) = (shown.join(", "), &best.prefix);
    let rivals: Vec<String> = best.others.iter().map(|other| format!("`{other}`")).collect();
    match (rivals.is_empty(), prefix.is_empty()) {
        (true, true) => format!("left out are {shown}{more}, which are no weights of the model"),
        (true, false) => format!("the weights under `{prefix}` are read; left out are {shown}{more}"),
        (false, true) => {
            format!("the file holds these weights twice; left out are those under {}", rivals.join(", "))
        }
        (false, false) => format!(
            "the file holds these weights more than once; those under `{prefix}` are read and those under {} left out. \
             Save the ones you want alone if these are not they",
            rivals.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;

    /// Zeros for all parameters of an architecture, with names changed.
    fn weights(architecture: &str, name: impl Fn(&str) -> String) -> Weights {
        let parameters = parameters(find(architecture).unwrap());
        parameters.into_iter().map(|(key, shape)| (name(&key), Tensor::zeros(shape))).collect()
    }

    fn names(weights: &Weights) -> Vec<&str> {
        weights.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_prefix_is_found_by_what_stands_behind_it() {
        let plain = weights("resnet18", str::to_owned);
        let architecture = find("resnet18").unwrap();
        for prefix in
            ["", "module.", "model.", "net.", "backbone.", "encoder.", "_orig_mod.", "a.module._orig_mod.fc."]
        {
            let mut wrapped = weights("resnet18", |key| format!("{prefix}{key}"));
            wrapped.insert("n_averaged".into(), Tensor::zeros([]));
            wrapped.insert(format!("{prefix}layer1.0.bn1.num_batches_tracked"), Tensor::zeros([]));
            wrapped.insert(format!("{prefix}fc.total_ops"), Tensor::zeros([1]));
            wrapped.insert(format!("{prefix}loss_fn.pos_weight"), Tensor::zeros([3]));
            wrapped.insert("criterion.weight".into(), Tensor::zeros([3]));
            let CanonicalKeys { weights, notes } = canonical_keys(architecture, wrapped);
            let found: Vec<&str> = names(&weights).into_iter().filter(|key| !is_counter(key)).collect();
            assert_eq!(found, names(&plain), "{prefix}");
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].contains("criterion.weight`") && notes[0].contains(prefix), "{notes:?}");
        }
    }

    #[test]
    fn of_two_sets_one_is_read_and_both_are_named() {
        let architecture = find("squeezenet1_1").unwrap();
        let mut both = weights("squeezenet1_1", |key| format!("model.{key}"));
        both.extend(weights("squeezenet1_1", |key| format!("ema_model.{key}")));
        let found = canonical_keys(architecture, both);
        assert_eq!(names(&found.weights), names(&weights("squeezenet1_1", str::to_owned)));
        assert!(found.notes[0].contains("`model.`") && found.notes[0].contains("`ema_model.`"));
    }

    #[test]
    fn unknown_keys_stay() {
        let architecture = find("resnet18").unwrap();
        let mut some = weights("resnet18", str::to_owned);
        some.insert("se.weight".into(), Tensor::zeros([1]));
        let found = canonical_keys(architecture, some.clone());
        assert_eq!((found.weights, found.notes), (some, vec![]));
        let foreign = weights("vgg16", |key| format!("model.{key}"));
        assert_eq!(canonical_keys(architecture, foreign.clone()).weights, foreign);
    }

    #[test]
    fn weights_of_another_architecture_are_recognised() {
        for name in ["resnet34", "mobilenet_v3_large", "densenet121", "efficientnet_lite2", "regnet_y_400mf"]
        {
            let wrapped = weights(name, |key| format!("net.{key}"));
            assert_eq!(recognise(&wrapped).map(|a| a.name), Some(name));
        }
        assert!(recognise(&Weights::from([("a.weight".to_owned(), Tensor::zeros([3, 3]))])).is_none());
    }

    #[test]
    fn another_epsilon_leaves_the_function_as_it_was() {
        let (variance, scale) = ([2.0f32, 1e-3, 1e-7], [0.5f32, 2.0, -1.0]);
        let mut weights = Weights::from([
            ("bn.running_var".to_owned(), Tensor::f32([3], variance.to_vec())),
            ("bn.weight".to_owned(), Tensor::f32([3], scale.to_vec())),
        ]);
        change_epsilon(&mut weights, 1e-5, 1e-3);
        let part = |name: &str| weights[name].as_f32().unwrap().to_vec();
        let (moved, scaled) = (part("bn.running_var"), part("bn.weight"));
        for i in 0..3 {
            let before = scale[i] / (variance[i] + 1e-5).sqrt();
            let after = scaled[i] / (moved[i] + 1e-3).sqrt();
            assert!((before - after).abs() <= 1e-5 * before.abs(), "{i}: {before} {after}");
            assert!(moved[i] >= 0.0);
        }
        // Where the variance can take it up, the scale is the trained one.
        assert!((scaled[0] - scale[0]).abs() < 1e-6);
    }
}
