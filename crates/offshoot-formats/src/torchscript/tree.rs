//! The hierarchy of modules that parameters' names give: `layer1.0.conv1.weight` is the attribute `weight` of the
//! module `conv1` of the module `0` of the module `layer1`.

use std::collections::{HashMap, HashSet};

use offshoot_graph::op::Norm;
use offshoot_graph::{Graph, Op, Role, ValueId};

/// Attributes that every module has, methods of the outermost one, and words of the language.
const RESERVED: &[&str] =
    &["training", "_is_full_backward_hook", "forward", "logits", "preprocess", "classify", "classes", ""];

/// Words that cannot follow a dot.
const KEYWORDS: &[&str] = &[
    "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else",
    "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not",
    "or", "pass", "raise", "return", "try", "while", "with", "yield", "None", "True", "False",
];

/// How deep modules nest; a key of more parts becomes one name.
const MAX_DEPTH: usize = 32;

/// A tensor of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A parameter of the graph.
    Parameter(ValueId, Role),
    /// PyTorch's count of the batches that a batch norm has seen, which inference does not use.
    Counter,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    /// The name of its class.
    pub(super) class: String,
    pub(super) children: Vec<(String, usize)>,
    pub(super) tensors: Vec<(String, Held)>,
    /// The node of the graph that it computes by itself.
    pub(super) node: Option<usize>,
}

pub(super) struct Tree {
    /// The outermost first.
    pub(super) modules: Vec<Module>,
    /// The module and attribute of each parameter.
    places: HashMap<ValueId, (usize, String)>,
    /// How to reach each module from `self`.
    paths: Vec<String>,
}

impl Tree {
    pub(super) fn new(graph: &Graph) -> Tree {
        let mut tree =
            Tree { modules: vec![Module::default()], places: HashMap::new(), paths: vec!["self".to_owned()] };
        for &id in graph.parameters() {
            let role = graph.parameter_info(id).map_or(Role::Weight, |p| p.role);
            tree.add(&graph.value(id).name, Held::Parameter(id, role));
        }
        tree.claim_nodes(graph);
        tree.name_classes(graph);
        tree
    }

    fn add(&mut self, key: &str, held: Held) {
        let mut module = 0;
        let mut parts: Vec<&str> = key.split('.').collect();
        if parts.len() > MAX_DEPTH {
            parts = vec![key];
        }
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            module = self.child(module, part);
        }
        let mut name = attribute(last);
        while self.is_taken(module, &name) {
            name.push('_');
        }
        if let Held::Parameter(id, _) = held {
            self.places.insert(id, (module, name.clone()));
        }
        self.modules[module].tensors.push((name, held));
    }

    fn is_taken(&self, module: usize, name: &str) -> bool {
        let module = &self.modules[module];
        module.tensors.iter().any(|(n, _)| n == name) || module.children.iter().any(|(n, _)| n == name)
    }

    /// The child called `part`, made where there is none.
    fn child(&mut self, module: usize, part: &str) -> usize {
        let mut name = attribute(part);
        loop {
            if let Some((_, child)) = self.modules[module].children.iter().find(|(n, _)| *n == name) {
                return *child;
            }
            if !self.is_taken(module, &name) {
                break;
            }
            name.push('_');
        }
        let child = self.modules.len();
        self.paths.push(member(&self.paths[module], &name));
        self.modules.push(Module::default());
        self.modules[module].children.push((name, child));
        child
    }

    /// Gives a node to the module that holds all of its parameters, and those of no other node.
    fn claim_nodes(&mut self, graph: &Graph) {
        for (index, node) in graph.nodes().iter().enumerate() {
            let parameters = node.inputs.iter().skip(1);
            let modules: Option<Vec<usize>> =
                parameters.map(|id| self.places.get(id).map(|&(module, _)| module)).collect();
            let Some(modules) = modules else { continue };
            let Some(&module) = modules.first() else { continue };
            let held = &self.modules[module];
            // The method of a module gives one tensor.
            if node.outputs.len() != 1 {
                continue;
            }
            let alone = modules.iter().all(|&m| m == module) && held.tensors.len() == modules.len();
            if module == 0 || !alone || held.node.is_some() || !held.children.is_empty() {
                continue;
            }
            let is_norm = matches!(node.op, Op::Norm(Norm::Batch(_)));
            let module = &mut self.modules[module];
            module.node = Some(index);
            if is_norm && module.tensors.iter().all(|(name, _)| name != "num_batches_tracked") {
                module.tensors.push(("num_batches_tracked".to_owned(), Held::Counter));
            }
        }
    }

    fn name_classes(&mut self, graph: &Graph) {
        let mut taken = HashSet::from(["Model".to_owned()]);
        self.modules[0].class = "Model".to_owned();
        for index in 1..self.modules.len() {
            let node = self.modules[index].node;
            let kind = node.map_or("Container", |node| graph.nodes()[node].op.name());
            let path = self.paths[index].trim_start_matches("self").replace("getattr(self", "");
            let words = path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let words: Vec<&str> = words.filter(|w| !w.is_empty() && *w != "getattr").collect();
            let mut name = format!("{kind}_{}", words.join("_"));
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            self.modules[index].class = name;
        }
    }

    /// The attribute that a parameter is, of its module.
    pub(super) fn attribute(&self, parameter: ValueId) -> Option<&str> {
        self.places.get(&parameter).map(|(_, name)| name.as_str())
    }

    /// The expression for a parameter, from `self` of the outermost module.
    pub(super) fn expression(&self, parameter: ValueId) -> Option<String> {
        let (module, name) = self.places.get(&parameter)?;
        Some(member(&self.paths[*module], name))
    }

    /// The expression for the module that computes `node` by itself.
    pub(super) fn owner(&self, node: usize) -> Option<&str> {
        let module = self.modules.iter().position(|m| m.node == Some(node))?;
        Some(&self.paths[module])
    }
}

/// `of.name`, or `getattr(of, "name")` where the name is no word.
pub(super) fn member(of: &str, name: &str) -> String {
    match is_word(name) {
        true => format!("{of}.{name}"),
        false => format!("getattr({of}, \"{name}\")"),
    }
}

/// Whether a name can stand in the code as it is.
pub(super) fn is_word(name: &str) -> bool {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    start && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !KEYWORDS.contains(&name)
}

/// A part of a key as the name of an attribute: the same, unless PyTorch could not say it.
fn attribute(part: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "_-:/".contains(c) { c } else { '_' };
    let mut name: String = part.chars().map(safe).collect();
    if RESERVED.contains(&name.as_str()) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_attributes() {
        assert_eq!(member("self", "conv1"), "self.conv1");
        assert_eq!(member("self.layer1", "0"), "getattr(self.layer1, \"0\")");
        assert_eq!(member("self", "lambda"), "getattr(self, \"lambda\")");
        assert_eq!(attribute("onnx::Conv_193"), "onnx::Conv_193");
        assert_eq!(attribute("a\"b\n"), "a_b_");
        assert_eq!([attribute(""), attribute("training")], ["_", "training_"]);
    }

    #[test]
    fn parameters_with_the_name_of_a_module_get_another() {
        let mut graph = Graph::new("");
        for name in ["a.b", "a", "a.b.c", "x", "x.y"] {
            graph.add_parameter(name, &[1], Role::Weight);
        }
        let tree = Tree::new(&graph);
        let shown: Vec<String> =
            graph.parameters().iter().map(|&id| tree.expression(id).unwrap_or_default()).collect();
        assert_eq!(shown, ["self.a.b", "self.a_", "self.a.b_.c", "self.x", "self.x_.y"]);
    }
}
