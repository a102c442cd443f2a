//! Our graph as nodes of an exported program.

mod operators;

use std::collections::HashMap;

use offshoot_graph::model::BATCH;
use offshoot_graph::{Bindings, DType, Dim, DimOp, Graph, Node, Shape, Source, ValueId};
use serde_json::{Map, Value as Json, json};

use super::names::{Held, Taken, held};
use crate::error::Problem;

pub(super) const WAY_OUT: &str = "Export the model's own graph";

/// The number of pictures, as the file's expressions call it, and an example of it.
const BATCH_SYMBOL: &str = "s0";
const EXAMPLE: usize = 2;

/// An argument of a call by its name in PyTorch's signature.
type Argument<'a> = (&'a str, Json);

/// A program that is being written.
pub(super) struct Printer<'a> {
    graph: &'a Graph,
    taken: Taken,
    /// The stored tensors of the state dict, in the order of the program's inputs.
    pub(super) held: Vec<Held>,
    /// The constants of the graph with their names, which follow.
    pub(super) constants: Vec<(ValueId, String)>,
    names: HashMap<ValueId, String>,
    nodes: Vec<Json>,
    tensors: Map<String, Json>,
    sizes: Map<String, Json>,
    /// The name of the node that says how many pictures there are.
    batch: Option<String>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(graph: &'a Graph) -> Printer<'a> {
        let mut taken = Taken::default();
        let held = held(graph, &mut taken);
        let constants = graph.values().filter(|(_, value)| matches!(value.source, Source::Constant(_)));
        let constants: Vec<(ValueId, String)> = constants
            .enumerate()
            .map(|(number, (id, _))| (id, taken.word(&format!("c_constant_{number}"))))
            .collect();
        let mut names: HashMap<ValueId, String> = constants.iter().cloned().collect();
        names.extend(held.iter().filter_map(|held| Some((held.value?, held.name.clone()))));
        for &id in graph.inputs() {
            names.insert(id, taken.word("x"));
        }
        Printer {
            graph,
            taken,
            held,
            constants,
            names,
            nodes: Vec::new(),
            tensors: Map::new(),
            sizes: Map::new(),
            batch: None,
        }
    }

    /// The program as the JSON of the archive.
    pub(super) fn program(mut self) -> Result<Json, Problem> {
        let (Some(&input), [(_, output)]) = (self.graph.inputs().first(), self.graph.outputs()) else {
            return Err(Problem::unsupported("graph", "it has not one input and one output", WAY_OUT));
        };
        for (index, held) in self.held.iter().enumerate() {
            let meta = self.held_meta(index)?;
            self.tensors.insert(held.name.clone(), meta);
        }
        for (id, name) in self.constants.iter().cloned().chain([(input, self.names[&input].clone())]) {
            let value = self.graph.value(id);
            let meta = meta(&value.shape, value.dtype, false)?;
            self.tensors.insert(name, meta);
        }
        for node in self.graph.nodes() {
            self.node(node)?;
        }
        let (input, output) = (self.names[&input].clone(), self.name(*output)?);
        let user = |name: &str| json!({"arg": tensor(name)});
        let mut specs: Vec<Json> = self.held.iter().map(input_spec).collect();
        specs.extend(self.constants.iter().enumerate().map(|(number, (_, name))| {
            json!({"tensor_constant": {"arg": {"name": name}, "tensor_constant_name": constant_key(number)}})
        }));
        specs.push(json!({"user_input": user(&input)}));
        let names =
            self.held.iter().map(|held| &held.name).chain(self.constants.iter().map(|(_, name)| name));
        let inputs: Vec<Json> = names.chain([&input]).map(|name| tensor(name)).collect();
        Ok(json!({
            "graph_module": {
                "graph": {
                    "inputs": inputs,
                    "outputs": [tensor(&output)],
                    "nodes": self.nodes,
                    "tensor_values": self.tensors,
                    "sym_int_values": self.sizes,
                    "sym_bool_values": {},
                    "sym_float_values": {},
                    "custom_obj_values": {},
                    "is_single_tensor_return": false,
                },
                "signature": {
                    "input_specs": specs,
                    "output_specs": [{"user_output": user(&output)}],
                },
                "module_call_graph": [{"fqn": "", "signature": {
                    "inputs": [],
                    "outputs": [],
                    "in_spec": IN_SPEC,
                    "out_spec": OUT_SPEC,
                    "forward_arg_names": [input],
                }}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": 10},
            "range_constraints": {BATCH_SYMBOL: {"min_val": 1, "max_val": null}},
            "schema_version": {"major": super::SCHEMA.0, "minor": super::SCHEMA.1},
            "verifiers": ["TRAINING"],
            "torch_version": "2.15.0",
            "guards_code": [],
        }))
    }

    /// What the program says of one of its stored tensors.
    pub(super) fn held_meta(&self, index: usize) -> Result<Json, Problem> {
        let held = &self.held[index];
        match held.value.map(|id| self.graph.value(id)) {
            Some(value) => meta(&value.shape, value.dtype, held.role == offshoot_graph::Role::Weight),
            None => meta(&Shape(vec![]), DType::I64, false),
        }
    }

    // ---- nodes ----

    /// The name of a value that is there already.
    fn name(&self, id: ValueId) -> Result<String, Problem> {
        self.names
            .get(&id)
            .cloned()
            .ok_or_else(|| Problem::unsupported("graph", "its nodes are not in order", WAY_OUT))
    }

    /// A call whose one result is a tensor, which has the name `name`, or the operator's.
    fn call(
        &mut self,
        name: Option<String>,
        target: &str,
        arguments: Vec<Argument<'_>>,
        shape: &Shape,
        dtype: DType,
    ) -> Result<String, Problem> {
        let name = self.taken.word(name.as_deref().unwrap_or_else(|| operator(target)));
        self.tensors.insert(name.clone(), meta(shape, dtype, false)?);
        self.push(target, arguments, tensor(&name), &name);
        Ok(name)
    }

    fn push(&mut self, target: &str, arguments: Vec<Argument<'_>>, output: Json, name: &str) {
        let inputs = arguments.into_iter().map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1}));
        let inputs: Vec<Json> = inputs.collect();
        self.nodes.push(json!({
            "target": format!("torch.ops.aten.{target}"),
            "inputs": inputs,
            "outputs": [output],
            "metadata": {},
            "is_hop_single_tensor_return": null,
            "name": name,
        }));
    }

    /// The number of pictures, as an item of a list of sizes.
    fn batch_size(&mut self) -> Result<Json, Problem> {
        if self.batch.is_none() {
            let input = self.graph.inputs().first().map(|&id| self.name(id)).transpose()?.unwrap_or_default();
            let name = self.taken.word("batch_size");
            self.sizes.insert(name.clone(), size(&Dim::symbol(BATCH))?);
            let arguments = vec![("self", tensor(&input)), ("dim", json!({"as_int": 0}))];
            self.push("sym_size.int", arguments, json!({"as_sym_int": {"as_name": name}}), &name);
            self.batch = Some(name);
        }
        Ok(json!({"as_name": self.batch}))
    }

    /// The name of the first result of a node in the program.
    fn result(&mut self, node: &Node, name: String) {
        self.names.insert(node.outputs[0], name);
    }
}

/// The operator of a target, without its overload.
fn operator(target: &str) -> &str {
    target.split('.').next().unwrap_or(target)
}

/// One positional argument, a tensor, as PyTorch describes the structure of a call; and one tensor as its result.
const IN_SPEC: &str = "[1, {\"type\": \"builtins.tuple\", \"context\": \"null\", \"children_spec\": [{\"type\": \"builtins.tuple\", \"context\": \"null\", \"children_spec\": [{\"type\": null, \"context\": null, \"children_spec\": []}]}, {\"type\": \"builtins.dict\", \"context\": \"[]\", \"children_spec\": []}]}]";
const OUT_SPEC: &str = "[1, {\"type\": null, \"context\": null, \"children_spec\": []}]";

/// The name of a constant among the tensors of the archive.
pub(super) fn constant_key(number: usize) -> String {
    format!("constant_{number}")
}

fn input_spec(held: &Held) -> Json {
    let (arg, key) = (json!({"name": held.name}), &held.key);
    match held.role {
        offshoot_graph::Role::Weight => json!({"parameter": {"arg": arg, "parameter_name": key}}),
        offshoot_graph::Role::Buffer => {
            json!({"buffer": {"arg": arg, "buffer_name": key, "persistent": true}})
        }
    }
}

fn tensor(name: &str) -> Json {
    json!({"as_tensor": {"name": name}})
}

/// What the schema says of a tensor whose elements lie one after another.
pub(super) fn meta(shape: &Shape, dtype: DType, requires_grad: bool) -> Result<Json, Problem> {
    let number = match dtype {
        DType::F32 => 7,
        DType::I64 => 5,
        DType::Bool => 12,
        other => {
            let what =
                format!("it has a tensor of {other}, and exported programs of float32 alone are written");
            return Err(Problem::unsupported("graph", what, "Export the float model, or export to ONNX"));
        }
    };
    let mut strides = vec![Dim::Fixed(1)];
    for dim in shape.0.iter().skip(1).rev() {
        let last = strides[strides.len() - 1].combine(DimOp::Mul, dim);
        strides.push(last);
    }
    strides.truncate(shape.rank());
    strides.reverse();
    let sizes = |dims: &[Dim]| dims.iter().map(size).collect::<Result<Vec<Json>, Problem>>();
    Ok(json!({
        "dtype": number,
        "sizes": sizes(&shape.0)?,
        "requires_grad": requires_grad,
        "device": {"type": "cpu", "index": null},
        "strides": sizes(&strides)?,
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }))
}

fn size(dim: &Dim) -> Result<Json, Problem> {
    if let Some(n) = dim.fixed() {
        return Ok(json!({"as_int": n}));
    }
    let example = dim.eval(&Bindings::from([(BATCH.to_owned(), EXAMPLE)]));
    let example = example.map_err(|e| Problem::unsupported("graph", e.to_string(), WAY_OUT))?;
    Ok(json!({"as_expr": {"expr_str": expression(dim), "hint": {"as_int": example}}}))
}

/// An expression as SymPy's own text of it.
fn expression(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(n) => format!("Integer({n})"),
        Dim::Symbol(_) => format!("Symbol('{BATCH_SYMBOL}', positive=True, integer=True)"),
        Dim::Expr(e) => {
            let (a, b) = (expression(&e.1), expression(&e.2));
            match e.0 {
                DimOp::Add => format!("Add({a}, {b})"),
                DimOp::Sub => format!("Add({a}, Mul(Integer(-1), {b}))"),
                DimOp::Mul => format!("Mul({a}, {b})"),
                DimOp::Div => format!("FloorDiv({a}, {b})"),
            }
        }
    }
}
