//! The parts of an archive: the tree of modules with their attributes, the constants, and the code, parsed as it is
//! needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, Read, Seek};
use std::rc::Rc;

use offshoot_graph::Tensor;

use super::parse::{Class, Function, Module, parse};
use crate::error::Problem;
use crate::pth::container::Archive;
use crate::pth::pickle::Pickled;
use crate::pth::values::{Node, TensorView, Value};

/// The most bytes of one file of code, and of all that are read. ResNet-152 has 0.4 MB.
const MAX_CODE_FILE: u64 = 1 << 20;
const MAX_CODE: usize = 4 << 20;

/// The longest name of a parameter or a class.
const MAX_NAME: usize = 512;

pub(super) struct Program<R> {
    pub(super) archive: Archive<R>,
    /// The tree of modules.
    pub(super) data: Pickled,
    /// A tuple of tensors, `CONSTANTS.c0` and so on in the code.
    pub(super) constants: Pickled,
    /// What stands in the dictionary of attributes at a node of `data`.
    attributes: HashMap<usize, Rc<Attributes>>,
    /// The place of each constant, by node of `constants`.
    constant_places: HashMap<usize, usize>,
    /// Constants of one or a few elements, by node of `constants`.
    pub(super) small_constants: BTreeMap<usize, Tensor>,
    /// The state-dict key of each module and tensor, by node of `data`.
    pub(super) names: HashMap<usize, Rc<str>>,
    code: HashMap<Rc<str>, Option<Rc<Module>>>,
    code_bytes: usize,
}

/// The attributes of a module.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) values: HashMap<Rc<str>, Value>,
    /// Whether some are modules.
    pub(super) has_modules: bool,
}

impl<R: Read + Seek> Program<R> {
    pub(super) fn open(source: BufReader<R>, len: u64) -> Result<Program<R>, Problem> {
        let archive = Archive::new(source, len)?;
        if !archive.has("constants.pkl") {
            let way_out = "Give a file that torch.jit.save wrote";
            return Err(Problem::unsupported("the archive", "it is no TorchScript program", way_out));
        }
        let (data, constants) = (archive.pickle("data.pkl")?, archive.pickle("constants.pkl")?);
        let mut program = Program {
            archive,
            data,
            constants,
            attributes: HashMap::new(),
            names: HashMap::new(),
            constant_places: HashMap::new(),
            small_constants: BTreeMap::new(),
            code: HashMap::new(),
            code_bytes: 0,
        };
        program.name_everything()?;
        let constants = program.constants.heap.tuple(&program.constants.root).unwrap_or_default();
        let nodes = constants.iter().enumerate().rev();
        program.constant_places = nodes
            .filter_map(|(place, value)| match value {
                Value::Node(node) => Some((*node, place)),
                _ => None,
            })
            .collect();
        Ok(program)
    }

    /// The class of the module at `node`.
    pub(super) fn class(&mut self, node: usize) -> Result<Rc<Class>, Problem> {
        let Some(Node::Object { class, .. }) = self.data.heap.nodes.get(node) else {
            return Err(Problem::damaged("data.pkl", "a method of something that is no module"));
        };
        if class.len() > MAX_NAME {
            return Err(Problem::damaged("data.pkl", "the name of a class is too long"));
        }
        let class = class.clone();
        let (module, name) = class.rsplit_once('.').unwrap_or(("", &class));
        let found = self.module(module)?.and_then(|m| m.classes.get(name).cloned());
        found
            .ok_or_else(|| Problem::damaged("the archive", format!("it has no code for the class `{class}`")))
    }

    /// The function with this full name, when there is one.
    pub(super) fn function(&mut self, path: &str) -> Result<Option<Rc<Function>>, Problem> {
        let (module, name) = path.rsplit_once('.').unwrap_or(("", path));
        Ok(self.module(module)?.and_then(|m| m.functions.get(name).cloned()))
    }

    /// The code of a module by its dotted name.
    fn module(&mut self, path: &str) -> Result<Option<Rc<Module>>, Problem> {
        if let Some(module) = self.code.get(path) {
            return Ok(module.clone());
        }
        let file: Rc<str> = format!("code/{}.py", path.replace('.', "/")).into();
        let module = match self.archive.has(&file) {
            true => Some(Rc::new(self.parse(&file)?)),
            false => None,
        };
        self.code.insert(path.into(), module.clone());
        Ok(module)
    }

    fn parse(&mut self, file: &Rc<str>) -> Result<Module, Problem> {
        let bytes = self.archive.read(file, MAX_CODE_FILE)?;
        self.code_bytes += bytes.len();
        if self.code_bytes > MAX_CODE {
            let what = "the archive has too much code".into();
            return Err(Problem::TooLarge { place: file.to_string(), what, limit: MAX_CODE as u64 });
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem::damaged(file.to_string(), "the code is not UTF-8"))?;
        parse(&text, file)
    }
}

impl<R> Program<R> {
    /// The node of the outermost module.
    pub(super) fn root(&self) -> Result<usize, Problem> {
        match (&self.data.root, self.data.heap.node(&self.data.root)) {
            (&Value::Node(node), Some(Node::Object { .. })) => Ok(node),
            _ => Err(Problem::damaged("data.pkl", "it holds no module")),
        }
    }

    /// The name of the outermost module's class, without its path.
    pub(super) fn class_name(&self) -> String {
        let name = self.data.heap.type_name(&self.data.root);
        name.rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// Walks the modules from the root; each and each tensor is named by the first way that leads to it.
    fn name_everything(&mut self) -> Result<(), Problem> {
        let root = self.root()?;
        let mut waiting: Vec<(usize, Rc<str>)> = vec![(root, "".into())];
        let mut read = HashSet::new();
        while let Some((node, path)) = waiting.pop() {
            if self.names.contains_key(&node) {
                continue;
            }
            self.names.insert(node, path.clone());
            let Some(Node::Object { state: Some(state), .. }) = self.data.heap.nodes.get(node) else {
                continue;
            };
            let (&Value::Node(dict), Some(entries)) = (state, self.data.heap.dict(state)) else { continue };
            if !read.insert(dict) {
                continue;
            }
            let mut attributes = Attributes::default();
            let mut found = Vec::new();
            for (key, value) in entries {
                let Value::Text(key) = key else { continue };
                attributes.values.insert(key.clone(), value.clone());
                let Value::Node(child) = *value else { continue };
                let child_node = self.data.heap.node(value);
                attributes.has_modules |= matches!(child_node, Some(Node::Object { .. }));
                if matches!(child_node, Some(Node::Object { .. } | Node::Tensor(_))) {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}").into() };
                    if path.len() > MAX_NAME {
                        let what = "the name of a parameter is too long".into();
                        let place = "data.pkl".into();
                        return Err(Problem::TooLarge { place, what, limit: MAX_NAME as u64 });
                    }
                    found.push((child, path));
                }
            }
            self.attributes.insert(dict, Rc::new(attributes));
            waiting.extend(found.into_iter().rev());
        }
        Ok(())
    }

    /// The attributes of the module at `node`.
    pub(super) fn attributes(&self, node: usize) -> Rc<Attributes> {
        let state = match self.data.heap.nodes.get(node) {
            Some(Node::Object { state: Some(Value::Node(dict)), .. }) => self.attributes.get(dict),
            _ => None,
        };
        state.cloned().unwrap_or_default()
    }

    /// The state-dict key of a module or tensor.
    pub(super) fn name(&self, node: usize) -> Rc<str> {
        self.names.get(&node).cloned().unwrap_or_else(|| "".into())
    }

    /// The place of the tensor at `node` among the constants.
    pub(super) fn constant_index(&self, node: usize) -> usize {
        self.constant_places.get(&node).copied().unwrap_or(node)
    }

    /// The tensor at a node of the data or of the constants.
    pub(super) fn tensor(&self, constant: bool, node: usize) -> Option<&TensorView> {
        let heap = if constant { &self.constants.heap } else { &self.data.heap };
        match heap.nodes.get(node) {
            Some(Node::Tensor(view)) => Some(view),
            _ => None,
        }
    }
}
