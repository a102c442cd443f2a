//! The names of what is written: keys that PyTorch can set as attributes of modules, and names of values that its code can say.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::Norm;
use offshoot_graph::{Graph, Op, Role, Source, ValueId};

/// What a module has already.
const ATTRIBUTES: &[&str] =
    &["training", "forward", "modules", "parameters", "buffers", "T_destination", "dump_patches"];

/// Words of the code that PyTorch makes of a graph, and of Python.
const WORDS: &[&str] = &[
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "None",
    "True",
    "False",
    "self",
    "torch",
    "operator",
    "_operator",
    "device",
    "inf",
    "nan",
    "NoneType",
    "fx_pytree",
    "pytree",
    "math",
    "builtins",
    "input",
    "output",
    "float",
    "int",
    "bool",
    "max",
    "min",
    "sum",
    "abs",
    "pow",
    "round",
    "len",
    "range",
    "list",
    "tuple",
    "dict",
    "set",
    "slice",
];

/// A tensor that is stored and an input of the program.
pub(super) struct Held {
    /// The value of the graph; `None` of PyTorch's count of the batches that a batch norm has seen, which inference does not use.
    pub(super) value: Option<ValueId>,
    pub(super) role: Role,
    /// Its key in the state dict.
    pub(super) key: String,
    /// The name of the input.
    pub(super) name: String,
}

/// Names that were given.
#[derive(Default)]
pub(super) struct Taken(HashMap<String, usize>);

impl Taken {
    /// `name` as a word of Python that nothing else has.
    pub(super) fn word(&mut self, name: &str) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
        let mut word: String = name.chars().map(safe).collect();
        if !word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            word.insert(0, '_');
        }
        if WORDS.contains(&word.as_str()) {
            word.push('_');
        }
        // As PyTorch numbers them.
        let mut found = word.clone();
        while self.0.contains_key(&found) {
            let times = self.0.entry(word.clone()).or_insert(0);
            *times += 1;
            found = format!("{word}_{times}");
        }
        self.0.insert(found.clone(), 0);
        found
    }
}

/// The parameters of a graph and the counters of its batch norms, first weights and then buffers.
pub(super) fn held(graph: &Graph, taken: &mut Taken) -> Vec<Held> {
    let role = |id: ValueId| graph.parameter_info(id).map_or(Role::Weight, |p| p.role);
    let (weights, buffers): (Vec<ValueId>, Vec<ValueId>) =
        graph.parameters().iter().partition(|&&id| role(id) == Role::Weight);
    let mut keys = Keys::default();
    let mut held = Vec::new();
    for id in weights.into_iter().chain(buffers) {
        let key = keys.key(&graph.value(id).name);
        let prefix = if role(id) == Role::Weight { "p" } else { "b" };
        let name = taken.word(&format!("{prefix}_{key}"));
        held.push(Held { value: Some(id), role: role(id), key, name });
    }
    for counter in counters(graph) {
        let key = keys.key(&counter);
        let name = taken.word(&format!("b_{key}"));
        held.push(Held { value: None, role: Role::Buffer, key, name });
    }
    held
}

/// The keys of the counters of batch norms whose other tensors have PyTorch's keys.
fn counters(graph: &Graph) -> Vec<String> {
    let mut seen = HashSet::new();
    let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::Norm(Norm::Batch(_))));
    let counter = norms.filter_map(|node| {
        let key = |id: ValueId| match graph.value(id).source {
            Source::Parameter(_) => Some(graph.value(id).name.as_str()),
            Source::Input | Source::Constant(_) | Source::Node { .. } => None,
        };
        let module = key(*node.inputs.get(3)?)?.strip_suffix(".running_mean")?;
        Some(format!("{module}.num_batches_tracked"))
    });
    counter.filter(|key| graph.find_parameter(key).is_none() && seen.insert(key.clone())).collect()
}

/// Keys so far, as paths of modules that end in a tensor.
#[derive(Default)]
struct Keys {
    tensors: HashSet<String>,
    modules: HashSet<String>,
}

impl Keys {
    /// `key`, or one like it where PyTorch could not set it: where a part is empty or a module's own attribute, or another key
    /// goes through a tensor.
    fn key(&mut self, key: &str) -> String {
        let parts: Vec<&str> = key.split('.').collect();
        let (mut path, last) = (String::new(), parts.len() - 1);
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                path.push('.');
            }
            path.push_str(part);
            if part.is_empty() || ATTRIBUTES.contains(&part) {
                path.push('_');
            }
            let is_tensor = index == last;
            while self.tensors.contains(&path) || is_tensor && self.modules.contains(&path) {
                path.push('_');
            }
            let all = if is_tensor { &mut self.tensors } else { &mut self.modules };
            all.insert(path.clone());
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_that_nothing_else_has() {
        let mut taken = Taken::default();
        let words = ["layer1.0", "layer1_0", "0", "torch", "torch_", "a\"b"].map(|name| taken.word(name));
        assert_eq!(words, ["layer1_0", "layer1_0_1", "_0", "torch_", "torch__1", "a_b"]);
    }

    #[test]
    fn keys_can_be_set_as_attributes() {
        let mut keys = Keys::default();
        let made = ["a.b", "a", "a.b.c", "x", "x.y", "", "l.training"].map(|key| keys.key(key));
        assert_eq!(made, ["a.b", "a_", "a.b_.c", "x", "x_.y", "_", "l.training_"]);
    }
}
