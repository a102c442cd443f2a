//! The tensors of a program while it is followed: which value of the graph each one is, and which of them share their memory.

use std::collections::HashMap;
use std::ops::Range;

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{DType, Dim, Op, Role, Shape, Tensor, ValueId};

use super::call::{Bound, Call};
use super::table::{self, Table};
use super::value::{Stored, Value};
use crate::error::Problem;
use crate::import::{Importer, Site, Windows};

/// More nodes than any classifier has.
const MAX_NODES: usize = 1 << 16;

/// A tensor of the run as the code sees it. Operators that work in place give it another value; those that share its
/// memory then see something that we do not follow.
struct Cell {
    content: Windows,
    /// The padded picture that it is, where an operator without windows has read it.
    settled: Option<ValueId>,
    /// Tensors of one group share their memory.
    group: usize,
    /// The group's count of changes when this tensor was made or changed.
    version: u32,
}

/// Rows of tensors of the file, one behind the other.
type Rows = Vec<(Stored, Range<usize>)>;

/// A parameter that is made of rows of several tensors.
pub(crate) struct Stacked {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    id: ValueId,
}

/// Operators of PyTorch as a graph, call by call.
pub(crate) struct Aten {
    pub(crate) import: Importer,
    cells: Vec<Cell>,
    /// How often the memory of each group was changed.
    groups: Vec<u32>,
    /// The tensors of the file that are parameters, by name.
    pub(crate) used: Vec<(String, Stored)>,
    /// The parameters that are made of rows of several tensors.
    pub(crate) stacked: HashMap<Rows, Stacked>,
    table: std::rc::Rc<Table>,
    /// Whether sizes of a program for one picture were read as those of each picture of a batch.
    pub(super) of_one_picture: bool,
}

impl Aten {
    pub(crate) fn new(name: &str, batch: Dim, traced_batch: Option<i64>) -> Aten {
        let fixed = traced_batch.and_then(|n| usize::try_from(n).ok());
        Aten {
            import: Importer::new(name, batch, fixed),
            cells: Vec::new(),
            groups: Vec::new(),
            used: Vec::new(),
            stacked: HashMap::new(),
            table: std::rc::Rc::new(table::table()),
            of_one_picture: false,
        }
    }

    /// What a call gives.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Value, Problem> {
        if self.import.graph.nodes().len() > MAX_NODES {
            let (place, what) = (call.place.clone(), "the model has too many operators".into());
            return Err(Problem::TooLarge { place, what, limit: MAX_NODES as u64 });
        }
        let (operator, in_place) = match call.operator.strip_suffix('_') {
            Some(operator) if !operator.ends_with('_') => (operator, true),
            _ => (call.operator, false),
        };
        let table = std::rc::Rc::clone(&self.table);
        if let Some((signature, run)) = table.find(operator, call) {
            let bound = Bound { call, signature, in_place };
            bound.check_names()?;
            return run(self, &bound);
        }
        self.row_of_the_graph(call, operator, in_place)
    }

    // ---- tensors ----

    /// A value of the graph as a tensor of the code.
    pub(crate) fn define(&mut self, value: ValueId) -> Value {
        self.cell(Windows::Of(value), None)
    }

    pub(super) fn cell(&mut self, content: Windows, group: Option<usize>) -> Value {
        let group = group.unwrap_or_else(|| {
            self.groups.push(0);
            self.groups.len() - 1
        });
        self.cells.push(Cell { content, settled: None, group, version: self.groups[group] });
        Value::Tensor(self.cells.len() - 1)
    }

    /// What a cell holds, which must not have been changed through another tensor.
    fn content(&self, cell: usize, site: &dyn Site) -> Result<Windows, Problem> {
        let held = &self.cells[cell];
        match held.version == self.groups[held.group] {
            true => Ok(held.content),
            false => {
                Err(site
                    .refused("its input shares memory with a tensor that an operator changed in place since"))
            }
        }
    }

    /// The value of the graph that `value` is, at the end of the code.
    pub(crate) fn result(&mut self, value: &Value, site: &dyn Site) -> Result<ValueId, Problem> {
        let cell = match value {
            Value::Tensor(cell) => *cell,
            // As from a model that gives its outputs as a tuple.
            Value::List(items) if matches!(**items, [Value::Tensor(_)]) => {
                return self.result(&items[0], site);
            }
            _ => {
                let what = format!("the result is {}, a classifier's is one tensor", value.kind());
                return Err(site.refused(&what));
            }
        };
        let held = &self.cells[cell];
        if held.version != self.groups[held.group] {
            let what = "the result shares memory with a tensor that an operator changed in place since";
            return Err(site.refused(what));
        }
        self.settled(cell, site)
    }

    /// The value of the graph that a cell is.
    fn settled(&mut self, cell: usize, site: &dyn Site) -> Result<ValueId, Problem> {
        match (self.content(cell, site)?, self.cells[cell].settled) {
            (Windows::Of(id), _) | (Windows::Around(_), Some(id)) => Ok(id),
            (Windows::Around(padded), None) => {
                let id = self.import.settle_padded(site, padded)?;
                self.cells[cell].settled = Some(id);
                Ok(id)
            }
        }
    }

    /// An argument computed at each run or stored, for an operator with windows.
    pub(super) fn windows(&mut self, call: &Bound<'_>, name: &str) -> Result<Windows, Problem> {
        match call.required(name)? {
            Value::Tensor(cell) => self.content(*cell, call),
            Value::Stored(stored) => self.term(call, *stored, |x| x).map(Windows::Of),
            other => Err(call.refused(&format!("its {} is {}", call.label(name), other.kind()))),
        }
    }

    /// An argument computed at each run or stored.
    pub(super) fn tensor(&mut self, call: &Bound<'_>, name: &str) -> Result<ValueId, Problem> {
        match call.required(name)? {
            Value::Tensor(cell) => self.settled(*cell, call),
            Value::Stored(stored) => self.term(call, *stored, |x| x),
            other => Err(call.refused(&format!("its {} is {}", call.label(name), other.kind()))),
        }
    }

    /// An argument that is computed at each run, stored in the file, or a number.
    pub(super) fn any(&mut self, call: &Bound<'_>, name: &str) -> Result<ValueId, Problem> {
        let value = call.required(name)?;
        self.element(call, value, &call.label(name), |x| x)
    }

    /// A value of any kind, to whose numbers `f` is applied where they are known.
    pub(super) fn element(
        &mut self,
        call: &Bound<'_>,
        value: &Value,
        label: &str,
        f: fn(f32) -> f32,
    ) -> Result<ValueId, Problem> {
        match (value, value.number()) {
            (_, Some(number)) => {
                Ok(self.import.constant(call, "constant", Tensor::f32([], vec![f(number as f32)])))
            }
            (Value::Tensor(cell), _) => self.settled(*cell, call),
            (Value::Stored(stored), _) => self.term(call, *stored, f),
            _ => Err(call.refused(&format!("its {label} is {}", value.kind()))),
        }
    }

    /// A stored operand: a parameter, or a constant where it is one in the file.
    fn term(&mut self, call: &Bound<'_>, stored: Stored, f: fn(f32) -> f32) -> Result<ValueId, Problem> {
        if !stored.constant {
            let id = self.parameter(call, stored, Role::Weight)?;
            return match stored.transposed {
                true => self.import.push_part(
                    call,
                    "transposed",
                    Op::Shape(ShapeOp::Transpose { perm: vec![1, 0] }),
                    &[id],
                ),
                false => Ok(id),
            };
        }
        if stored.transposed {
            return Err(call.refused("one of its operands is transposed"));
        }
        let held = call.call.tensors.small(stored);
        let truths = held.is_some_and(|tensor| tensor.dtype() == DType::Bool);
        let floats = held.and_then(Tensor::to_f32).or_else(|| held.and_then(of_integers));
        let mut tensor = floats.ok_or_else(|| call.refused("one of its operands is a large constant"))?;
        tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x = f(*x));
        let id = self.import.constant(call, "constant", tensor);
        Ok(if truths { self.import.mark_truth(id) } else { id })
    }

    /// The result of a call: a new tensor, or the first argument changed in place.
    pub(super) fn finish(&mut self, call: &Bound<'_>, id: ValueId) -> Result<Value, Problem> {
        if !call.in_place {
            return Ok(self.define(id));
        }
        let Some(&Value::Tensor(cell)) = call.first() else {
            return Err(call.refused("what it changes in place is no tensor of the run"));
        };
        self.content(cell, call)?;
        let group = self.cells[cell].group;
        self.groups[group] += 1;
        self.cells[cell].version = self.groups[group];
        self.cells[cell].content = Windows::Of(id);
        Ok(Value::Tensor(cell))
    }

    /// A result that shares its memory with the first argument.
    pub(super) fn view(&mut self, call: &Bound<'_>, id: ValueId) -> Value {
        let group = match call.first() {
            Some(&Value::Tensor(cell)) => Some(self.cells[cell].group),
            _ => None,
        };
        self.cell(Windows::Of(id), group)
    }

    /// The number that PyTorch has for the type of a tensor's elements. All that is no boolean is f32 here.
    pub(crate) fn element_type(&self, value: &Value) -> Value {
        match value {
            Value::Tensor(cell) if self.import.is_truth(self.cells[*cell].content.value()) => Value::Int(11),
            Value::Tensor(_) | Value::Stored(Stored { constant: false, .. }) => Value::Int(6),
            _ => Value::Unknown,
        }
    }

    // ---- stored tensors ----

    pub(super) fn stored(&self, call: &Bound<'_>, name: &str) -> Result<Stored, Problem> {
        match call.get(name) {
            Some(Value::Stored(stored)) => Ok(*stored),
            Some(other) => {
                Err(call.refused(&format!("its {name} is {}, not stored in the file", other.kind())))
            }
            None => Err(call.refused(&format!("it has no {name}"))),
        }
    }

    /// The parameter that a stored tensor is, not transposed.
    pub(super) fn parameter(
        &mut self,
        call: &Bound<'_>,
        stored: Stored,
        role: Role,
    ) -> Result<ValueId, Problem> {
        let stored = Stored { transposed: false, ..stored };
        let shape = call.call.tensors.shape(stored)?;
        if shape.contains(&0) {
            return Err(call.damage("one of its weights has no elements"));
        }
        let key = call.call.tensors.key(stored);
        let (id, new) = self.import.parameter(&key, DType::F32, &shape, role);
        if new {
            self.used.push((self.import.graph.value(id).name.clone(), stored));
        }
        Ok(id)
    }

    /// The parameter of `shape` that holds `rows`.
    pub(super) fn stack(
        &mut self,
        call: &Bound<'_>,
        name: &str,
        rows: Rows,
        shape: &[usize],
    ) -> Result<ValueId, Problem> {
        if shape.contains(&0) {
            return Err(call.damage("one of its weights has no elements"));
        }
        if let Some(stacked) = self.stacked.get(&rows) {
            return Ok(stacked.id);
        }
        let name = self.import.names.unused(name);
        let id = self.import.graph.add_typed_parameter(&name, DType::F32, shape, Role::Weight);
        self.stacked.insert(rows, Stacked { name, shape: shape.to_vec(), id });
        Ok(id)
    }

    /// An argument that is a parameter, and not transposed.
    pub(super) fn weight(&mut self, call: &Bound<'_>, name: &str, role: Role) -> Result<ValueId, Problem> {
        let stored = self.stored(call, name)?;
        if stored.transposed {
            return Err(call.refused(&format!("its {name} is transposed")));
        }
        self.parameter(call, stored, role)
    }

    /// As [`Aten::weight`], where it is given; what is computed at each run, and a constant, is taken as it is.
    pub(super) fn given(&mut self, call: &Bound<'_>, name: &str) -> Result<Option<ValueId>, Problem> {
        match call.get(name) {
            None => Ok(None),
            Some(Value::Tensor(_)) => self.tensor(call, name).map(Some),
            Some(Value::Stored(stored)) if stored.constant => self.tensor(call, name).map(Some),
            Some(_) => self.weight(call, name, Role::Weight).map(Some),
        }
    }

    /// The shape of an argument.
    pub(super) fn shape_of(&mut self, call: &Bound<'_>, name: &str) -> Result<Shape, Problem> {
        match call.get(name) {
            Some(Value::Stored(stored)) => Ok(Shape::fixed(&call.call.shape_of(*stored)?)),
            Some(Value::Tensor(_)) => {
                let id = self.tensor(call, name)?;
                Ok(self.import.shape(id).clone())
            }
            _ => Err(call.refused("it is asked of something that is no tensor")),
        }
    }
}

/// Integers and booleans as floats of the same numbers.
fn of_integers(tensor: &Tensor) -> Option<Tensor> {
    use offshoot_graph::Data;
    let floats = match tensor.data() {
        Data::I64(v) => v.iter().map(|&n| n as f32).collect(),
        Data::I32(v) => v.iter().map(|&n| n as f32).collect(),
        Data::Bool(v) => v.iter().map(|&b| f32::from(u8::from(b))).collect(),
        _ => return None,
    };
    Tensor::new(tensor.shape(), Data::F32(floats)).ok()
}
