//! Operators of PyTorch into ours, one at a time. Signatures: `native_functions.yaml` of PyTorch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use offshoot_graph::op::{
    Attribute, AveragePool, BatchNormalization, Binary, Clip, Conv, Gemm, LayerNormalization, MatMul, Pool,
    Reduce, Unary,
};
use offshoot_graph::{Data, Dim, Graph, Op, Role, Shape, Tensor, ValueId, Weights};

use super::place::Place;
use super::program::Program;
use super::value::{Stored, Value};
use crate::elements::{MAX_ELEMENTS, check_activation};
use crate::error::Problem;
use crate::metadata::MAX_SIDE;
use crate::names::Names;
use crate::pth::storage;

/// More nodes than any classifier has.
const MAX_NODES: usize = 1 << 16;

const WAY_OUT: &str = "In TorchScript, offshoot reads convolutional networks and transformers of the usual operators; give a PyTorch \
                       checkpoint with `{model} NAME {weights} FILE` where there is one";

/// A call of an operator.
pub(super) struct OperatorCall<'a> {
    /// Its name without `torch.`.
    pub(super) operator: &'a str,
    /// The name of the node that it becomes.
    pub(super) name: String,
    pub(super) values: Vec<Value>,
    pub(super) named: Vec<(Rc<str>, Value)>,
    pub(super) place: Place,
}

/// A tensor of the run as the code sees it. Operators that work in place give it another value; those that share its
/// memory then see something that we do not follow.
struct Cell {
    content: Content,
    /// Tensors of one group share their memory.
    group: usize,
    /// The group's count of changes when this tensor was made or changed.
    version: u32,
}

#[derive(Clone, Copy)]
enum Content {
    Value(ValueId),
    /// A value with zeros around it (top, left, bottom, right), for the convolution that reads it.
    Padded(ValueId, [usize; 4]),
}

/// The graph built so far.
pub(super) struct Builder {
    pub(super) graph: Graph,
    /// The batch axis of the input.
    batch: Dim,
    /// The batch that the file was traced with, which may stand in its reshapes.
    traced_batch: Option<i64>,
    cells: Vec<Cell>,
    /// How often the memory of each group was changed.
    groups: Vec<u32>,
    /// Constants of one or a few elements.
    constants: BTreeMap<usize, Tensor>,
    /// By tensor, and whether it is a running statistic.
    parameters: HashMap<(Stored, bool), ValueId>,
    /// The tensors of the file that are parameters, by name.
    pub(super) used: Vec<(String, Stored)>,
    names: Names,
    /// Nodes of Softmax that stand for `log_softmax`.
    pub(super) logarithms: HashSet<String>,
}

impl OperatorCall<'_> {
    fn unsupported(&self, what: impl AsRef<str>) -> Problem {
        self.place.unsupported(format!("`torch.{:.60}`: {}", self.operator, what.as_ref()), WAY_OUT)
    }

    fn damaged(&self, what: impl AsRef<str>) -> Problem {
        self.place.damaged(format!("`torch.{:.60}`: {}", self.operator, what.as_ref()))
    }

    /// Argument `index`, or the one called `name`.
    fn get(&self, index: usize, name: &str) -> Option<&Value> {
        let named = || self.named.iter().find(|(n, _)| &**n == name).map(|(_, value)| value);
        self.values.get(index).or_else(named).filter(|v| **v != Value::None)
    }

    fn flag(&self, index: usize, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(index, name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(Value::Int(n)) => Ok(*n != 0),
            Some(other) => Err(self.unsupported(format!("{name} is {}", other.kind()))),
        }
    }

    fn number(&self, index: usize, name: &str, default: f64) -> Result<f64, Problem> {
        match self.get(index, name) {
            None => Ok(default),
            Some(value) => {
                value.number().ok_or_else(|| self.unsupported(format!("{name} is {}", value.kind())))
            }
        }
    }

    fn int(&self, index: usize, name: &str, default: i64) -> Result<i64, Problem> {
        match self.get(index, name) {
            None => Ok(default),
            Some(value) => value.int().ok_or_else(|| self.unsupported(format!("{name} is {}", value.kind()))),
        }
    }

    fn ints(&self, index: usize, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        match self.get(index, name) {
            None => Ok(None),
            Some(Value::List(items)) => {
                let ints = items.iter().map(Value::int).collect::<Option<Vec<_>>>();
                ints.map(Some).ok_or_else(|| self.unsupported(format!("{name} is not known before the run")))
            }
            Some(value) => match value.int() {
                Some(n) => Ok(Some(vec![n])),
                None => Err(self.unsupported(format!("{name} is {}", value.kind()))),
            },
        }
    }

    /// Height and width, from `least` up; one number stands for both. `None` where nothing or an empty list is given.
    fn pair(&self, index: usize, name: &str, least: usize) -> Result<Option<[usize; 2]>, Problem> {
        let Some(values) = self.ints(index, name)? else { return Ok(None) };
        let fits = |&v: &i64| usize::try_from(v).ok().filter(|v| (least..=MAX_SIDE).contains(v));
        let sizes: Option<Vec<usize>> = values.iter().map(fits).collect();
        match sizes.as_deref() {
            Some([]) => Ok(None),
            Some(&[both]) => Ok(Some([both, both])),
            Some(&[height, width]) => Ok(Some([height, width])),
            _ => {
                Err(self
                    .unsupported(format!("{name} is {values:?}, not two numbers from {least} to {MAX_SIDE}")))
            }
        }
    }

    /// An axis of a value of `rank` axes, counted from the end when negative.
    fn axis(&self, axis: i64, rank: usize) -> Result<usize, Problem> {
        let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        usize::try_from(counted)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| self.damaged(format!("axis {axis} is outside of {rank} axes")))
    }
}

impl Builder {
    pub(super) fn new(
        name: &str,
        batch: Dim,
        traced_batch: Option<i64>,
        constants: BTreeMap<usize, Tensor>,
    ) -> Builder {
        Builder {
            graph: Graph::new(name),
            batch,
            traced_batch,
            cells: Vec::new(),
            groups: Vec::new(),
            constants,
            parameters: HashMap::new(),
            used: Vec::new(),
            names: Names::default(),
            logarithms: HashSet::new(),
        }
    }

    /// A value of the graph as a tensor of the code.
    pub(super) fn define(&mut self, value: ValueId) -> Value {
        self.cell(Content::Value(value), None)
    }

    fn cell(&mut self, content: Content, group: Option<usize>) -> Value {
        let group = group.unwrap_or_else(|| {
            self.groups.push(0);
            self.groups.len() - 1
        });
        self.cells.push(Cell { content, group, version: self.groups[group] });
        Value::Tensor(self.cells.len() - 1)
    }

    /// The number that a constant of one element is.
    pub(super) fn number(&self, stored: Stored) -> Option<Value> {
        let tensor = self.constants.get(&stored.node).filter(|t| t.shape().is_empty())?;
        match tensor.data() {
            Data::I64(v) => v.first().map(|&n| Value::Int(n)),
            Data::I32(v) => v.first().map(|&n| Value::Int(n.into())),
            Data::F64(v) => v.first().map(|&x| Value::Float(x)),
            Data::F32(v) => v.first().map(|&x| Value::Float(x.into())),
            Data::Bool(v) => v.first().map(|&b| Value::Bool(b)),
            Data::F16(_) | Data::BF16(_) | Data::I8(_) | Data::U8(_) => None,
        }
    }

    /// The value of the graph that `value` is, at the end of the code.
    pub(super) fn result(&self, value: &Value, place: &Place) -> Result<ValueId, Problem> {
        let Value::Tensor(cell) = value else {
            let what = format!("the result is {}, a classifier's is one tensor", value.kind());
            return Err(place.unsupported(what, WAY_OUT));
        };
        let held = &self.cells[*cell];
        match held.content {
            _ if held.version != self.groups[held.group] => {
                let what = "the result shares memory with a tensor that an operator changed in place since";
                Err(place.unsupported(what, WAY_OUT))
            }
            Content::Value(id) => Ok(id),
            Content::Padded(..) => Err(place.unsupported("the result ends in a padding", WAY_OUT)),
        }
    }

    pub(super) fn operator<R>(
        &mut self,
        call: &OperatorCall<'_>,
        program: &Program<R>,
    ) -> Result<Value, Problem> {
        if self.graph.nodes().len() > MAX_NODES {
            return Err(call.place.too_large("the model has too many operators", MAX_NODES as u64));
        }
        let (operator, in_place) = match call.operator.strip_suffix('_') {
            Some(operator) if !operator.ends_with('_') => (operator, true),
            _ => (call.operator, false),
        };
        let op = match operator {
            "size" => return self.size(call, program),
            "dim" => return Ok(Value::Int(self.shape_of(call, program)?.rank() as i64)),
            "t" => return self.transposed(call, program),
            "contiguous" | "detach" | "clone" | "alias" => return self.same(call),
            "dropout" | "feature_dropout" | "alpha_dropout" => return self.dropout(call),
            "pad" | "constant_pad_nd" => return self.pad(call),
            "flatten" => return self.flatten(call),
            "layer_norm" => return self.layer_norm(call, program),
            "permute" | "transpose" => return self.permute(call),
            "cat" | "concat" => return self.concat(call, program),
            "slice" | "select" => return self.part(call),
            "unsqueeze" => return self.unsqueeze(call),
            "expand" => return self.expand(call, program),
            "view" | "reshape" => return self.reshape(call),
            "squeeze" => return self.squeeze(call),
            "mean" => return self.mean(call),
            "conv2d" | "_convolution" => return self.convolution(call, program),
            "linear" => return self.linear(call, program),
            "addmm" => return self.addmm(call, program),
            "matmul" | "mm" => return self.matmul(call, program),
            "batch_norm" => return self.batch_norm(call, program),
            "adaptive_avg_pool2d" => return self.global_pool(call),
            "silu" => return self.silu(call, in_place),
            "rsqrt" => return self.reciprocal_root(call, in_place),
            "relu6" => Op::Unary(Unary::Clip(Clip { min: 0.0, max: 6.0 })),
            "hardtanh" => Op::Unary(Unary::Clip(Clip {
                min: call.number(1, "min_val", -1.0)? as f32,
                max: call.number(2, "max_val", 1.0)? as f32,
            })),
            "log_softmax" => {
                let rank = self.shape(self.tensor(call, 0)?).rank();
                let axis = call.axis(call.int(1, "dim", -1)?, rank)?;
                let x = self.tensor(call, 0)?;
                let id = self.push(call, &call.name, Op::Softmax { axis }, &[x])?;
                self.logarithms.insert(self.graph.value(id).name.clone());
                return self.finish(call, in_place, id);
            }
            "softmax" => {
                let rank = self.shape(self.tensor(call, 0)?).rank();
                Op::Softmax { axis: call.axis(call.int(1, "dim", -1)?, rank)? }
            }
            "max_pool2d" => {
                if call.pair(4, "dilation", 1)?.is_some_and(|d| d != [1, 1]) {
                    return Err(call.unsupported("pooling with dilation is not read"));
                }
                Op::MaxPool(self.pool(call, call.flag(5, "ceil_mode", false)?)?)
            }
            "avg_pool2d" => {
                if call.get(6, "divisor_override").is_some() {
                    return Err(call.unsupported("a divisor of its own is not read"));
                }
                let pool = self.pool(call, call.flag(4, "ceil_mode", false)?)?;
                Op::AveragePool(AveragePool {
                    pool,
                    count_include_pad: call.flag(5, "count_include_pad", true)?,
                })
            }
            other => match (Unary::from_aten(other), Reduce::from_aten(other)) {
                (Some(unary), _) => Op::Unary(function(call, unary)?),
                (None, Some(reduce)) => return self.reduce(call, reduce),
                (None, None) if other == "rsub" || Binary::from_aten(other).is_some() => {
                    return self.binary(call, other, in_place, program);
                }
                (None, None) => return Err(call.unsupported("this operator is not read")),
            },
        };
        let x = self.tensor(call, 0)?;
        let id = self.push(call, &call.name, op, &[x])?;
        self.finish(call, in_place, id)
    }

    // ---- tensors ----

    /// The cell of argument `index`, which must not have been changed through another tensor.
    fn cell_of(&self, call: &OperatorCall<'_>, index: usize) -> Result<usize, Problem> {
        match call.values.get(index) {
            Some(&Value::Tensor(cell)) => {
                let held = &self.cells[cell];
                match held.version == self.groups[held.group] {
                    true => Ok(cell),
                    false => Err(call.unsupported(
                        "its input shares memory with a tensor that an operator changed in place since",
                    )),
                }
            }
            Some(other) => Err(call.unsupported(format!("its argument {index} is {}", other.kind()))),
            None => Err(call.damaged(format!("its argument {index} is missing"))),
        }
    }

    /// Argument `index`, computed at each run.
    fn tensor(&self, call: &OperatorCall<'_>, index: usize) -> Result<ValueId, Problem> {
        match self.cells[self.cell_of(call, index)?].content {
            Content::Value(id) => Ok(id),
            Content::Padded(..) => Err(call.unsupported("zeros around its input are not read")),
        }
    }

    /// A node's output as the result of a call: a new tensor, or the first argument changed in place.
    fn finish(&mut self, call: &OperatorCall<'_>, in_place: bool, id: ValueId) -> Result<Value, Problem> {
        if !in_place {
            return Ok(self.define(id));
        }
        let cell = self.cell_of(call, 0)?;
        let group = self.cells[cell].group;
        self.groups[group] += 1;
        self.cells[cell].version = self.groups[group];
        self.cells[cell].content = Content::Value(id);
        Ok(Value::Tensor(cell))
    }

    /// A node's output that shares its memory with the first argument.
    fn view(&mut self, call: &OperatorCall<'_>, id: ValueId) -> Result<Value, Problem> {
        let group = self.cells[self.cell_of(call, 0)?].group;
        Ok(self.cell(Content::Value(id), Some(group)))
    }

    fn push(
        &mut self,
        call: &OperatorCall<'_>,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, Problem> {
        let name = self.names.unused(name);
        let id = self.graph.add(&name, op, inputs).map_err(|e| call.unsupported(e.reason))?;
        let shape = self.shape(id);
        check_activation(&call.place.text(), shape.0.iter().skip(1).filter_map(Dim::fixed))?;
        Ok(id)
    }

    fn shape(&self, id: ValueId) -> &Shape {
        &self.graph.value(id).shape
    }

    // ---- stored tensors ----

    fn stored(&self, call: &OperatorCall<'_>, index: usize, name: &str) -> Result<Stored, Problem> {
        match call.get(index, name) {
            Some(Value::Stored(stored)) => Ok(*stored),
            Some(other) => {
                Err(call.unsupported(format!("its {name} is {}, not stored in the file", other.kind())))
            }
            None => Err(call.unsupported(format!("it has no {name}"))),
        }
    }

    fn stored_shape<R>(&self, stored: Stored, program: &Program<R>) -> Result<Vec<usize>, Problem> {
        let heap = if stored.constant { &program.constants.heap } else { &program.data.heap };
        let name = self.key(stored, program);
        let view = program
            .tensor(stored.constant, stored.node)
            .ok_or_else(|| Problem::damaged(format!("`{name}`"), "it is no tensor"))?;
        let mut shape = storage::shape(heap, &name, view)?;
        if stored.transposed {
            shape.reverse();
        }
        Ok(shape)
    }

    /// The name of a tensor of the file.
    fn key<R>(&self, stored: Stored, program: &Program<R>) -> String {
        match stored.constant {
            true => format!("constants.{}", program.constant_index(stored.node)),
            false => program.name(stored.node).to_string(),
        }
    }

    /// The parameter that a stored tensor is.
    fn parameter<R>(
        &mut self,
        call: &OperatorCall<'_>,
        (index, name): (usize, &str),
        role: Role,
        program: &Program<R>,
    ) -> Result<ValueId, Problem> {
        let stored = self.stored(call, index, name)?;
        if stored.transposed {
            return Err(call.unsupported(format!("its {name} is transposed")));
        }
        self.stored_parameter(call, stored, role, program)
    }

    fn stored_parameter<R>(
        &mut self,
        call: &OperatorCall<'_>,
        stored: Stored,
        role: Role,
        program: &Program<R>,
    ) -> Result<ValueId, Problem> {
        let stored = Stored { transposed: false, ..stored };
        if let Some(&id) = self.parameters.get(&(stored, role == Role::Buffer)) {
            return Ok(id);
        }
        let shape = self.stored_shape(stored, program)?;
        if shape.contains(&0) {
            return Err(call.damaged("one of its weights has no elements"));
        }
        let name = self.names.unused(&self.key(stored, program));
        let id = self.graph.add_parameter(&name, &shape, role);
        self.used.push((self.graph.value(id).name.clone(), stored));
        self.parameters.insert((stored, role == Role::Buffer), id);
        Ok(id)
    }

    fn bias<R>(
        &mut self,
        call: &OperatorCall<'_>,
        index: usize,
        program: &Program<R>,
    ) -> Result<Option<ValueId>, Problem> {
        match call.get(index, "bias") {
            None => Ok(None),
            Some(_) => self.parameter(call, (index, "bias"), Role::Weight, program).map(Some),
        }
    }

    // ---- sizes ----

    fn shape_of<R>(&self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Shape, Problem> {
        match call.values.first() {
            Some(Value::Stored(stored)) => Ok(Shape::fixed(&self.stored_shape(*stored, program)?)),
            Some(Value::Tensor(cell)) => match self.cells[*cell].content {
                Content::Value(id) => Ok(self.shape(id).clone()),
                Content::Padded(..) => Err(call.unsupported("the size of a padded tensor is not read")),
            },
            _ => Err(call.unsupported("it is asked of something that is no tensor")),
        }
    }

    fn size<R>(&self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let shape = self.shape_of(call, program)?;
        let number = |dim: &Dim| match dim {
            Dim::Fixed(n) => Value::Int(*n as i64),
            other if *other == self.batch => Value::Batch,
            Dim::Symbol(_) | Dim::Expr(_) => Value::Unknown,
        };
        match call.get(1, "dim") {
            None => Ok(Value::List(shape.0.iter().map(number).collect())),
            Some(_) => Ok(number(&shape.0[call.axis(call.int(1, "dim", 0)?, shape.rank())?])),
        }
    }

    // ---- operators ----

    fn same(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        match call.operator {
            "clone" => Ok(self.define(x)),
            _ => Ok(call.values[0].clone()),
        }
    }

    fn transposed<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let stored = self.stored(call, 0, "input")?;
        if self.stored_shape(stored, program)?.len() != 2 {
            return Err(call.unsupported("only matrices are transposed"));
        }
        Ok(Value::Stored(Stored { transposed: !stored.transposed, ..stored }))
    }

    /// Dropout outside of training is nothing.
    fn dropout(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        self.check_inference(call.flag(2, "train", false)?, call)?;
        let ratio = call.number(1, "p", 0.5)? as f32;
        if !(0.0..1.0).contains(&ratio) || call.operator.starts_with(['f', 'a']) {
            self.tensor(call, 0)?;
            return Ok(call.values[0].clone());
        }
        let x = self.tensor(call, 0)?;
        let id = self.push(call, &call.name, Op::Dropout { ratio }, &[x])?;
        self.view(call, id)
    }

    fn check_inference(&self, training: bool, call: &OperatorCall<'_>) -> Result<(), Problem> {
        match training {
            false => Ok(()),
            true => Err(call.place.unsupported(
                format!("`torch.{}`: the model was saved in training mode", call.operator),
                "Call `model.eval()` before torch.jit.trace or torch.jit.script, and save it again",
            )),
        }
    }

    /// Zeros around a picture: left, right, top, bottom.
    fn pad(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let (mode, value) = match call.operator {
            "pad" => (call.get(2, "mode"), call.number(3, "value", 0.0)?),
            _ => (None, call.number(2, "value", 0.0)?),
        };
        if value != 0.0 || mode.is_some_and(|m| *m != Value::Text("constant".into())) {
            return Err(call.unsupported("only padding with zeros is read"));
        }
        let sides = call.ints(1, "pad")?.unwrap_or_default();
        let fits = |&v: &i64| usize::try_from(v).ok().filter(|&v| v <= MAX_SIDE);
        let sides: Option<Vec<usize>> = sides.iter().map(fits).collect();
        let Some(&[left, right, top, bottom]) = sides.as_deref() else {
            return Err(
                call.unsupported(format!("only padding of height and width by 0 to {MAX_SIDE} is read"))
            );
        };
        let x = self.tensor(call, 0)?;
        match [top, left, bottom, right] {
            [0, 0, 0, 0] => Ok(self.define(x)),
            pads => Ok(self.cell(Content::Padded(x, pads), None)),
        }
    }

    fn convolution<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let plain = call.operator == "conv2d";
        let (x, around) = match self.cells[self.cell_of(call, 0)?].content {
            Content::Value(id) => (id, [0; 4]),
            Content::Padded(id, pads) => (id, pads),
        };
        if !plain && call.flag(6, "transposed", false)? {
            return Err(call.unsupported("transposed convolutions are not read"));
        }
        let weight = self.parameter(call, (1, "weight"), Role::Weight, program)?;
        let [_, _, height, width] = self.shape(weight).as_fixed().unwrap_or_default()[..] else {
            return Err(call.unsupported("only convolutions over pictures (four axes) are read"));
        };
        let mut inputs = vec![x, weight];
        inputs.extend(self.bias(call, 2, program)?);
        let strides = call.pair(3, "stride", 1)?.unwrap_or([1, 1]);
        let dilations = call.pair(5, "dilation", 1)?.unwrap_or([1, 1]);
        let mut pads = convolution_padding(call, [height, width], strides, dilations)?;
        for (pad, more) in pads.iter_mut().zip(around) {
            *pad += more;
        }
        let group = call.int(if plain { 6 } else { 8 }, "groups", 1)?;
        let group = usize::try_from(group).ok().filter(|&g| g > 0);
        let group = group.ok_or_else(|| call.damaged("its number of groups is not above 0"))?;
        let id = self.push(call, &call.name, Op::Conv(Conv { strides, pads, dilations, group }), &inputs)?;
        Ok(self.define(id))
    }

    fn linear<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let weight = self.stored(call, 1, "weight")?;
        let mut operands = vec![self.stored_parameter(call, weight, Role::Weight, program)?];
        operands.extend(self.bias(call, 2, program)?);
        self.product(call, x, !weight.transposed, &operands)
    }

    /// x times a matrix, plus a bias perhaps. Rows of tokens or pixels become one matrix.
    fn product(
        &mut self,
        call: &OperatorCall<'_>,
        x: ValueId,
        trans_b: bool,
        operands: &[ValueId],
    ) -> Result<Value, Problem> {
        let mut shape = self.shape(x).clone();
        let axis = shape.rank().saturating_sub(1);
        let rows = match axis {
            0 | 1 => x,
            _ => self.push(call, &format!("{}.rows", call.name), Op::Flatten { axis }, &[x])?,
        };
        let inputs: Vec<ValueId> = std::iter::once(rows).chain(operands.iter().copied()).collect();
        let y = self.push(call, &call.name, Op::Gemm(Gemm { trans_a: false, trans_b }), &inputs)?;
        let (true, Some(width)) = (axis > 1, self.shape(y).0.last().cloned()) else {
            return Ok(self.define(y));
        };
        shape.0[axis] = width;
        let y = self.push(call, &format!("{}.shape", call.name), Op::Reshape { shape }, &[y])?;
        Ok(self.define(y))
    }

    fn layer_norm<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        if call.ints(1, "normalized_shape")?.is_none_or(|shape| shape.len() != 1) {
            return Err(call.unsupported("only a norm of the last axis is read"));
        }
        let inputs = [
            self.tensor(call, 0)?,
            self.parameter(call, (2, "weight"), Role::Weight, program)?,
            self.parameter(call, (3, "bias"), Role::Weight, program)?,
        ];
        let epsilon = call.number(4, "eps", 1e-5)? as f32;
        let op = Op::LayerNormalization(LayerNormalization { epsilon });
        let id = self.push(call, &call.name, op, &inputs)?;
        Ok(self.define(id))
    }

    fn permute(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let rank = self.shape(x).rank();
        let perm = match call.operator {
            "permute" => {
                let axes = call.ints(1, "dims")?.unwrap_or_default();
                axes.iter().map(|&a| call.axis(a, rank)).collect::<Result<Vec<_>, _>>()?
            }
            _ => {
                let mut perm: Vec<usize> = (0..rank).collect();
                let [a, b] = [(1, "dim0", 0), (2, "dim1", 1)]
                    .map(|(index, name, default)| call.axis(call.int(index, name, default)?, rank));
                perm.swap(a?, b?);
                perm
            }
        };
        let id = self.push(call, &call.name, Op::Transpose { perm }, &[x])?;
        self.view(call, id)
    }

    /// A tensor of a list: computed, or a parameter.
    fn element<R>(
        &mut self,
        call: &OperatorCall<'_>,
        value: &Value,
        program: &Program<R>,
    ) -> Result<ValueId, Problem> {
        match *value {
            Value::Stored(stored) => self.term(call, stored, |x| x, program),
            Value::Tensor(cell) => {
                let held = &self.cells[cell];
                match held.content {
                    Content::Value(id) if held.version == self.groups[held.group] => Ok(id),
                    _ => Err(call.unsupported("one of its tensors was changed in place or padded since")),
                }
            }
            _ => Err(call.unsupported(format!("one of its tensors is {}", value.kind()))),
        }
    }

    fn concat<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let Some(Value::List(items)) = call.get(0, "tensors").cloned() else {
            return Err(call.unsupported("it is given no list of tensors"));
        };
        let mut inputs = Vec::new();
        for item in items.iter() {
            inputs.push(self.element(call, item, program)?);
        }
        let first = *inputs.first().ok_or_else(|| call.damaged("its list is empty"))?;
        let axis = call.axis(call.int(1, "dim", 0)?, self.shape(first).rank())?;
        let id = self.push(call, &call.name, Op::Concat { axis }, &inputs)?;
        Ok(self.define(id))
    }

    /// Neighbors along an axis (slice), or one place of it without the axis (select).
    fn part(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let mut shape = self.shape(x).clone();
        let axis = call.axis(call.int(1, "dim", 0)?, shape.rank())?;
        let first = call.int(2, if call.operator == "slice" { "start" } else { "index" }, 0)?;
        if call.operator == "slice" {
            let end = call.int(3, "end", i64::MAX)?;
            if call.int(4, "step", 1)? != 1 {
                return Err(call.unsupported("only steps of one are read"));
            }
            if first == 0 && end == i64::MAX {
                return Ok(call.values[0].clone());
            }
        }
        let size = shape.0[axis].fixed().ok_or_else(|| call.unsupported("the axis has no known size"))?;
        let place = |i: i64| {
            let counted = if i < 0 { i.saturating_add(size as i64) } else { i };
            usize::try_from(counted).unwrap_or(0).min(size)
        };
        let start = place(first);
        let end = match call.operator {
            "slice" => place(call.int(3, "end", i64::MAX)?),
            _ => start + 1,
        };
        let id = self.push(call, &call.name, Op::Slice { axis, start, end }, &[x])?;
        if call.operator == "slice" {
            return self.view(call, id);
        }
        shape.0.remove(axis);
        self.reshaped(call, id, shape)
    }

    fn unsqueeze(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let mut shape = self.shape(x).clone();
        let axis = call.axis(call.int(1, "dim", 0)?, shape.rank() + 1)?;
        shape.0.insert(axis, Dim::Fixed(1));
        self.reshaped(call, x, shape)
    }

    fn expand<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let value = call.values.first().cloned().unwrap_or(Value::None);
        let x = self.element(call, &value, program)?;
        let Some(Value::List(target)) = call.get(1, "size") else {
            return Err(call.unsupported("it is given no sizes"));
        };
        let dims = self.shape(x).0.clone();
        let missing = target.len().saturating_sub(dims.len());
        let dim = |(i, size): (usize, &Value)| match size {
            Value::Batch => Some(self.batch.clone()),
            Value::Int(-1) if i >= missing => dims.get(i - missing).cloned(),
            Value::Int(n) if i == 0 && self.traced_batch == Some(*n) => Some(self.batch.clone()),
            Value::Int(n) => {
                usize::try_from(*n).ok().filter(|n| (1..=MAX_ELEMENTS).contains(n)).map(Dim::Fixed)
            }
            _ => None,
        };
        let shape: Option<Vec<Dim>> = target.iter().enumerate().map(dim).collect();
        let shape = shape.ok_or_else(|| call.unsupported("its sizes are not known before the run"))?;
        let id = self.push(call, &call.name, Op::Expand { shape: Shape(shape) }, &[x])?;
        Ok(self.define(id))
    }

    /// bias + x matrix
    fn addmm<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        for (index, name) in [(3, "beta"), (4, "alpha")] {
            if call.number(index, name, 1.0)? != 1.0 {
                return Err(call.unsupported(format!("{name} other than 1 is not read")));
            }
        }
        let x = self.tensor(call, 1)?;
        let matrix = self.stored(call, 2, "mat2")?;
        let inputs = [
            x,
            self.stored_parameter(call, matrix, Role::Weight, program)?,
            self.parameter(call, (0, "bias"), Role::Weight, program)?,
        ];
        let gemm = Gemm { trans_a: false, trans_b: matrix.transposed };
        let id = self.push(call, &call.name, Op::Gemm(gemm), &inputs)?;
        Ok(self.define(id))
    }

    fn matmul<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        if let Some(Value::Tensor(_)) = call.values.get(1) {
            let other = self.tensor(call, 1)?;
            let id = self.push(call, &call.name, Op::MatMul(MatMul::default()), &[x, other])?;
            return Ok(self.define(id));
        }
        let matrix = self.stored(call, 1, "second operand")?;
        let weight = self.stored_parameter(call, matrix, Role::Weight, program)?;
        self.product(call, x, matrix.transposed, &[weight])
    }

    fn batch_norm<R>(&mut self, call: &OperatorCall<'_>, program: &Program<R>) -> Result<Value, Problem> {
        self.check_inference(call.flag(5, "training", false)?, call)?;
        let mut inputs = vec![self.tensor(call, 0)?];
        for (index, name, role) in [
            (1, "weight", Role::Weight),
            (2, "bias", Role::Weight),
            (3, "running_mean", Role::Buffer),
            (4, "running_var", Role::Buffer),
        ] {
            inputs.push(self.parameter(call, (index, name), role, program)?);
        }
        let momentum = call.number(6, "momentum", 0.1)? as f32;
        let epsilon = call.number(7, "eps", 1e-5)? as f32;
        let norm = BatchNormalization { epsilon, momentum };
        let id = self.push(call, &call.name, Op::BatchNormalization(norm), &inputs)?;
        Ok(self.define(id))
    }

    fn pool(&self, call: &OperatorCall<'_>, ceil_mode: bool) -> Result<Pool, Problem> {
        let kernel = call.pair(1, "kernel_size", 1)?.ok_or_else(|| call.damaged("it has no kernel size"))?;
        let strides = call.pair(2, "stride", 1)?.unwrap_or(kernel);
        let [height, width] = call.pair(3, "padding", 0)?.unwrap_or([0, 0]);
        if height > kernel[0] / 2 || width > kernel[1] / 2 {
            return Err(call.damaged("its padding is more than half of its kernel"));
        }
        Ok(Pool { kernel, strides, pads: [height, width, height, width], ceil_mode })
    }

    fn global_pool(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        if call.pair(1, "output_size", 1)? != Some([1, 1]) {
            return Err(call.unsupported("only the mean of all pixels, an output of 1 by 1, is read"));
        }
        let id = self.push(call, &call.name, Op::GlobalAveragePool, &[x])?;
        Ok(self.define(id))
    }

    fn mean(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let rank = self.shape(x).rank();
        let axes = call.ints(1, "dim")?.unwrap_or_default();
        let mut axes = axes.iter().map(|&a| call.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        if rank != 4 || axes != [2, 3] {
            return self.reduce(call, Reduce::Mean);
        }
        let mean = self.push(call, &call.name, Op::GlobalAveragePool, &[x])?;
        if call.flag(2, "keepdim", false)? {
            return Ok(self.define(mean));
        }
        let id = self.push(call, &format!("{}.flatten", call.name), Op::Flatten { axis: 1 }, &[mean])?;
        Ok(self.define(id))
    }

    fn flatten(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let rank = self.shape(x).rank();
        let (start, end) =
            (call.axis(call.int(1, "start_dim", 0)?, rank)?, call.axis(call.int(2, "end_dim", -1)?, rank)?);
        if start != 1 || end + 1 != rank {
            return Err(call.unsupported("only flattening to [batch, everything else] is read"));
        }
        self.flat(call, x)
    }

    fn flat(&mut self, call: &OperatorCall<'_>, x: ValueId) -> Result<Value, Problem> {
        if self.shape(x).rank() == 2 {
            return self.view(call, x);
        }
        let id = self.push(call, &call.name, Op::Flatten { axis: 1 }, &[x])?;
        self.view(call, id)
    }

    /// Removes the named axes of one place; of an axis with more, as in PyTorch, nothing.
    fn squeeze(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let mut dims = self.shape(x).0.clone();
        let axes = call.ints(1, "dim")?.unwrap_or_default();
        let mut axes = axes.iter().map(|&a| call.axis(a, dims.len())).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        if axes.is_empty() || axes.iter().any(|&axis| dims[axis].fixed().is_none()) {
            return Err(call.unsupported("it would remove the batch where that is one picture"));
        }
        for axis in axes.into_iter().rev() {
            if dims[axis] == Dim::Fixed(1) {
                dims.remove(axis);
            }
        }
        self.reshaped(call, x, Shape(dims))
    }

    /// A reshape to sizes that are known but for the batch and one that follows from the others.
    fn reshape(&mut self, call: &OperatorCall<'_>) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let Some(Value::List(target)) = call.get(1, "shape") else {
            return Err(call.unsupported("it is given no sizes"));
        };
        let starts_with_batch = self.shape(x).0.first() == Some(&self.batch);
        let mut dims: Vec<Option<Dim>> = Vec::new();
        for (i, size) in target.iter().enumerate() {
            dims.push(match size {
                Value::Batch => Some(self.batch.clone()),
                Value::Int(-1) => None,
                Value::Int(n) if i == 0 && starts_with_batch && self.traced_batch == Some(*n) => {
                    Some(self.batch.clone())
                }
                Value::Int(n) => match usize::try_from(*n).ok().filter(|n| (1..=MAX_ELEMENTS).contains(n)) {
                    Some(n) => Some(Dim::Fixed(n)),
                    None => return Err(call.damaged(format!("a size is {n}"))),
                },
                other => return Err(call.unsupported(format!("one of its sizes is {}", other.kind()))),
            });
        }
        match self.shape(x).reshaped(&dims) {
            Some(shape) => self.reshaped(call, x, shape),
            None => {
                let what = format!("its input, {}, has not as many elements as its result", self.shape(x));
                Err(call.unsupported(what))
            }
        }
    }

    /// `x` under another shape of as many elements; to [batch, everything else] it is a Flatten.
    fn reshaped(&mut self, call: &OperatorCall<'_>, x: ValueId, shape: Shape) -> Result<Value, Problem> {
        let own = self.shape(x);
        if shape == *own {
            return self.view(call, x);
        }
        let op = match (&shape.0[..], own.0.first()) {
            ([first, Dim::Fixed(_)], Some(batch)) if own.rank() > 2 && first == batch => {
                Op::Flatten { axis: 1 }
            }
            _ => Op::Reshape { shape },
        };
        let id = self.push(call, &call.name, op, &[x])?;
        match call.values.first() {
            Some(Value::Tensor(_)) => self.view(call, id),
            _ => Ok(self.define(id)),
        }
    }

    /// x * sigmoid(x)
    fn silu(&mut self, call: &OperatorCall<'_>, in_place: bool) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let gate = self.push(call, &format!("{}.sigmoid", call.name), Op::Unary(Unary::Sigmoid), &[x])?;
        let id = self.push(call, &call.name, Op::Binary(Binary::Mul), &[x, gate])?;
        self.finish(call, in_place, id)
    }

    /// 1 / sqrt x
    fn reciprocal_root(&mut self, call: &OperatorCall<'_>, in_place: bool) -> Result<Value, Problem> {
        let x = self.tensor(call, 0)?;
        let root = self.push(call, &format!("{}.sqrt", call.name), Op::Unary(Unary::Sqrt), &[x])?;
        let id = self.push(call, &call.name, Op::Unary(Unary::Reciprocal), &[root])?;
        self.finish(call, in_place, id)
    }

    /// A reduction along given axes.
    fn reduce(&mut self, call: &OperatorCall<'_>, op: Reduce) -> Result<Value, Problem> {
        let of_norm = usize::from(op == Reduce::L2);
        let order = if op == Reduce::L2 {
            call.number(1, if call.operator == "norm" { "p" } else { "ord" }, 2.0)?
        } else {
            2.0
        };
        if order != 2.0 {
            return Err(call.unsupported(format!("the norm of order {order} is not read")));
        }
        let Some(axes) = call.ints(1 + of_norm, "dim")?.filter(|axes| !axes.is_empty()) else {
            return Err(call.unsupported("only a reduction along given axes is read"));
        };
        let mut x = self.tensor(call, 0)?;
        let rank = self.shape(x).rank();
        let axes = axes.iter().map(|&a| call.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        for &axis in &axes {
            x = self.push(call, &call.name, Op::Reduce { op, axis }, &[x])?;
        }
        if call.flag(2 + of_norm, "keepdim", false)? {
            return Ok(self.define(x));
        }
        let kept = (0..rank).filter(|axis| !axes.contains(axis));
        let shape = Shape(kept.map(|axis| self.shape(x).0[axis].clone()).collect());
        let id = self.push(call, &format!("{}.squeezed", call.name), Op::Reshape { shape }, &[x])?;
        Ok(self.define(id))
    }

    /// A function of two operands, of which one is a tensor of the run.
    fn binary<R>(
        &mut self,
        call: &OperatorCall<'_>,
        operator: &str,
        in_place: bool,
        program: &Program<R>,
    ) -> Result<Value, Problem> {
        if matches!(operator, "add" | "sub" | "rsub") && call.number(2, "alpha", 1.0)? != 1.0 {
            return Err(call.unsupported("alpha other than 1 is not read"));
        }
        if operator == "div" && call.get(2, "rounding_mode").is_some() {
            return Err(call.unsupported("division with rounding is not read"));
        }
        if in_place {
            // Only the count of batches is a stored tensor that changes.
            self.check_inference(matches!(call.values.first(), Some(Value::Stored(_))), call)?;
            self.cell_of(call, 0)?;
        }
        if !call.values.iter().take(2).any(|value| matches!(value, Value::Tensor(_))) {
            return Err(
                call.unsupported("none of its operands is a tensor, and they are no numbers that fit it")
            );
        }
        if operator == "pow" && matches!(call.get(1, "exponent").and_then(Value::number), Some(2.0)) {
            let x = self.tensor(call, 0)?;
            let id = self.push(call, &call.name, Op::Binary(Binary::Mul), &[x, x])?;
            return self.finish(call, in_place, id);
        }
        if matches!(operator, "max" | "min") && call.values.len() != 2 {
            return Err(call.unsupported("only the extreme of two tensors is read"));
        }
        // A difference or quotient with a number or a constant is a sum or product.
        let known = |value: Option<&Value>| {
            value.is_some_and(|v| {
                v.number().is_some() || matches!(v, Value::Stored(stored) if stored.constant)
            })
        };
        let (op, f): (Binary, fn(f32) -> f32) = match operator {
            "sub" if known(call.values.get(1)) => (Binary::Add, |x| -x),
            "div" if known(call.values.get(1)) => (Binary::Mul, |x| 1.0 / x),
            "rsub" => (Binary::Sub, |x| x),
            other => match Binary::from_aten(other) {
                Some(binary) => (binary, |x| x),
                None => return Err(call.unsupported("this operator is not read")),
            },
        };
        let mut inputs = Vec::new();
        for index in 0..2 {
            let id = match call.values.get(index) {
                Some(Value::Tensor(_)) => self.tensor(call, index)?,
                Some(value) => match (value, value.number()) {
                    (_, Some(number)) => self.constant(call, Tensor::f32([], vec![f(number as f32)])),
                    (Value::Stored(stored), None) => self.term(call, *stored, f, program)?,
                    _ => return Err(call.unsupported(format!("its argument {index} is {}", value.kind()))),
                },
                None => return Err(call.damaged(format!("its argument {index} is missing"))),
            };
            inputs.push(id);
        }
        if operator == "rsub" {
            inputs.reverse();
        }
        let id = self.push(call, &call.name, Op::Binary(op), &inputs)?;
        self.finish(call, in_place, id)
    }

    fn constant(&mut self, call: &OperatorCall<'_>, tensor: Tensor) -> ValueId {
        let name = self.names.unused(&format!("{}.constant", call.name));
        self.graph.add_constant(&name, tensor)
    }

    /// A stored operand of a sum or product: a parameter, or a constant where it is one in the file.
    fn term<R>(
        &mut self,
        call: &OperatorCall<'_>,
        stored: Stored,
        f: fn(f32) -> f32,
        program: &Program<R>,
    ) -> Result<ValueId, Problem> {
        if stored.transposed {
            return Err(call.unsupported("one of its operands is transposed"));
        }
        if !stored.constant {
            return self.stored_parameter(call, stored, Role::Weight, program);
        }
        let held = self.constants.get(&stored.node).and_then(Tensor::to_f32);
        let mut tensor = held.ok_or_else(|| call.unsupported("one of its operands is a large constant"))?;
        tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x = f(*x));
        Ok(self.constant(call, tensor))
    }
}

/// A function of one element with the numbers of a call, whose other arguments must be what the member is.
fn function(call: &OperatorCall<'_>, unary: Unary) -> Result<Unary, Problem> {
    let row = unary.row();
    let exact = |value: &Value| *value == Value::Text("none".into());
    if unary == Unary::Gelu && !call.get(1, "approximate").is_none_or(exact) {
        return Err(call.unsupported("only the exact form is read"));
    }
    for fixed in row.fixed {
        let found = call.number(fixed.place, fixed.name, fixed.value)?;
        if found != fixed.value {
            return Err(
                call.unsupported(format!("{} is {found}, and only {} is read", fixed.name, fixed.value))
            );
        }
    }
    let number = |a: &Attribute| match a.aten {
        Some((place, name)) => Ok(call.number(place, name, a.aten_default.into())? as f32),
        None => Ok(a.aten_default),
    };
    let numbers = row.attributes.iter().map(number).collect::<Result<Vec<f32>, Problem>>()?;
    Ok(unary.with_numbers(&numbers))
}

/// What a convolution adds around its input, as numbers or as a word.
fn convolution_padding(
    call: &OperatorCall<'_>,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
) -> Result<[usize; 4], Problem> {
    let word = match call.get(4, "padding") {
        Some(Value::Text(word)) => word.clone(),
        _ => {
            let [height, width] = call.pair(4, "padding", 0)?.unwrap_or([0, 0]);
            return Ok([height, width, height, width]);
        }
    };
    match &*word {
        "valid" => Ok([0; 4]),
        "same" if strides == [1, 1] => {
            let mut pads = [0; 4];
            for side in 0..2 {
                let total = dilations[side].saturating_mul(kernel[side].saturating_sub(1));
                if total > MAX_SIDE {
                    return Err(call.unsupported("its padding is too large"));
                }
                (pads[side], pads[side + 2]) = (total / 2, total - total / 2);
            }
            Ok(pads)
        }
        _ => Err(call.unsupported(format!("padding `{word:.20}` with these strides is not read"))),
    }
}

/// The weights that the graph uses, from the archive.
pub(super) fn load<R: std::io::Read + std::io::Seek>(
    program: &mut Program<R>,
    used: &[(String, Stored)],
) -> Result<Weights, Problem> {
    let mut weights = Weights::new();
    let (limit, order) = (program.archive.memory_limit(), program.archive.byte_order()?);
    for constant in [false, true] {
        let (heap, folder) = match constant {
            true => (&program.constants.heap, "constants"),
            false => (&program.data.heap, "data"),
        };
        let wanted = used.iter().filter(|(_, stored)| stored.constant == constant);
        let found = wanted.filter_map(|(name, stored)| match heap.nodes.get(stored.node) {
            Some(crate::pth::values::Node::Tensor(view)) => Some((name.clone(), view)),
            _ => None,
        });
        let found: Vec<_> = found.collect();
        let archive = &mut program.archive;
        let source = storage::Source { bytes: &mut |storage| archive.storage(folder, storage), limit, order };
        weights.append(&mut storage::load(heap, &found, source)?);
    }
    Ok(weights)
}
