//! ONNX nodes into ours, one operator at a time.

mod recurrent;
mod soft;
mod split;
mod tables;
mod tokens;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use offshoot_graph::op::{
    AveragePool, BatchNormalization, Binary, Clip, Conv, Gemm, LayerNormalization, MatMul, Pool, Reduce,
    Unary,
};
use offshoot_graph::{DType, Data, Dim, DimOp, Graph, Op, Role, Shape, Tensor, ValueId, Weights};

use self::soft::Soft;
use self::tables::Rows;
use super::attributes::NodeView;
use super::fold::{MAX_NUMBERS, MAX_PARTS, Number, Numbers, fold, is_foldable, reshaped};
use super::proto::TensorProto;
use super::tensors::TensorReader;
use super::{MICROSOFT, complement};
use crate::elements::{MAX_ELEMENTS, check_activation};
use crate::error::Problem;
use crate::metadata::MAX_SIDE;
use crate::names::Names;

const SIMPLIFY: &str = "Export the model in inference mode for a plain classifier of pictures, or simplify the file \
                        with onnxsim";

const FLOAT: &str = "Export the model in float32, before quantization";

/// What stands behind a name of the file.
#[derive(Clone)]
enum Operand<'a> {
    /// Computed at each run.
    Value(ValueId),
    /// A picture computed at each run that the file has with its channels last, and the graph with its channels first.
    ChannelsLast(ValueId),
    /// Stored in the file.
    Stored(Stored),
    /// Sizes, known now.
    Numbers(Numbers),
    /// A value with zeros around it, for the windows that read it; with its channels last in the file, if it says so.
    Padded { x: ValueId, pads: [usize; 4], node: String, channels_last: bool },
    /// x times a matrix, for the Add of a bias that may read it.
    Product { x: ValueId, matrix: Stored, node: String },
    /// On the way to a product with a matrix of bytes.
    Dynamic(Dynamic),
    /// One number everywhere, under a shape that is not all known: the states that an LSTM starts from, masks of nothing.
    Filled(Filled),
    /// Inside of a softmax or a sigmoid that the file spells out.
    Soft(Soft),
    /// Rows of a stored table that what follows may make another: bytes, or a number for each row of them.
    Rows(Rows<'a>),
}

/// A tensor of the file.
#[derive(Clone)]
struct Stored {
    name: String,
    tensor: Rc<Tensor>,
    /// Whether it is read transposed.
    transposed: bool,
    /// Whether it is part of the computation rather than a parameter.
    constant: bool,
}

/// What ConstantOfShape makes.
#[derive(Clone)]
struct Filled {
    number: f32,
    /// `None` where it does not follow from the sizes of the inputs.
    shape: Option<Shape>,
    node: String,
}

/// What stands behind the names in the nodes of [`Op::DynamicQuantizeMatMul`].
#[derive(Clone)]
enum Dynamic {
    /// An output of DynamicQuantizeLinear.
    Of { x: ValueId, part: Part },
    /// (bytes of x - their zero point) times a matrix of bytes, each of which is less by `less` than the file has it.
    Sums { x: ValueId, matrix: Stored, less: f32 },
    /// The scale of x's bytes times those of a matrix.
    Scales { x: ValueId, scale: Stored },
    /// The product, for the Add of a bias that may read it.
    Product { x: ValueId, matrix: Stored, less: f32, scale: Stored, node: String },
}

/// The outputs of DynamicQuantizeLinear in order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Bytes,
    Scale,
    ZeroPoint,
}

/// What a translation starts from.
pub(super) struct Context<'a> {
    pub(super) initializers: &'a HashMap<&'a str, &'a TensorProto>,
    /// How often each name is read.
    pub(super) uses: HashMap<&'a str, usize>,
    pub(super) tensors: TensorReader,
    /// The version of the opset.
    pub(super) opset: i64,
    /// Whether we wrote the file.
    pub(super) own: bool,
    /// The batch axis of the input.
    pub(super) batch: Dim,
    /// The number the file has in its place, if any.
    pub(super) fixed_batch: Option<usize>,
    /// A size of the inputs that the file leaves open, and the number that it counts on nevertheless.
    pub(super) counted_on: &'a Cell<Option<(Dim, usize)>>,
}

/// The graph built so far.
pub(super) struct Translator<'a> {
    context: Context<'a>,
    pub(super) graph: Graph,
    weights: BTreeMap<String, Rc<Tensor>>,
    /// Whether elements of another type were made f32.
    pub(super) converted: bool,
    operands: HashMap<&'a str, Operand<'a>>,
    names: Names,
    parameters: HashMap<(String, bool, Vec<usize>), ValueId>,
    /// Scales and zero points.
    scales: HashMap<(String, DType), ValueId>,
    /// Rows of tables of bytes, as floats of the same numbers.
    bytes: HashSet<ValueId>,
    /// What was made of a tensor of the file, by its name and by what was done: many nodes may share it.
    derived: HashMap<(String, String), Rc<Tensor>>,
    /// Values that ONNX calls booleans, and that are f32 of 1 or 0 here.
    truths: HashSet<ValueId>,
    /// Nodes of Softmax that stand for a LogSoftmax.
    pub(super) logarithms: HashSet<String>,
}

impl<'a> Translator<'a> {
    pub(super) fn new(context: Context<'a>, name: &str) -> Translator<'a> {
        Translator {
            context,
            graph: Graph::new(name),
            weights: BTreeMap::new(),
            converted: false,
            operands: HashMap::new(),
            names: Names::default(),
            parameters: HashMap::new(),
            scales: HashMap::new(),
            bytes: HashSet::new(),
            derived: HashMap::new(),
            truths: HashSet::new(),
            logarithms: HashSet::new(),
        }
    }

    /// The graph and its weights.
    pub(super) fn finish(self) -> (Graph, Weights) {
        drop((self.operands, self.derived));
        let weights = self.weights.into_iter().map(|(name, t)| (name, Rc::unwrap_or_clone(t))).collect();
        (self.graph, weights)
    }

    /// Names a value of the graph as the file does.
    pub(super) fn define(&mut self, name: &'a str, value: ValueId) {
        self.operands.insert(name, Operand::Value(value));
    }

    /// Names a picture of the graph as the file does, which has its channels last.
    pub(super) fn define_channels_last(&mut self, name: &'a str, value: ValueId) {
        self.operands.insert(name, Operand::ChannelsLast(value));
    }

    /// The value called `name`, for the end of the graph.
    pub(super) fn result(&mut self, name: &'a str) -> Result<ValueId, Problem> {
        let place = format!("output `{name}`");
        match self.lookup(name)? {
            Some(Operand::Product { x, matrix, node }) => self.gemm(&node, x, &matrix, None),
            Some(Operand::Value(id)) => Ok(id),
            Some(Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node })) => {
                self.dynamic_product(&node, x, (&matrix, less), &scale, None)
            }
            Some(
                Operand::Stored(_)
                | Operand::Numbers(_)
                | Operand::Padded { .. }
                | Operand::ChannelsLast(_)
                | Operand::Dynamic(_)
                | Operand::Filled(_)
                | Operand::Soft(_)
                | Operand::Rows(_),
            )
            | None => {
                Err(Problem::unsupported(place, "it does not depend on the input as logits do", SIMPLIFY))
            }
        }
    }

    /// Adds what `node` computes.
    pub(super) fn translate(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        if !matches!(node.op(), "Mul" | "Cast" | "Identity" | "DequantizeLinear") {
            self.settle_rows(node)?;
        }
        if matches!((node.proto.domain.as_str(), node.op()), ("" | "ai.onnx", "LSTM"))
            || (node.proto.domain == MICROSOFT && node.op() == "DynamicQuantizeLSTM")
        {
            return self.lstm(node);
        }
        if !matches!(node.proto.domain.as_str(), "" | "ai.onnx") {
            let what = format!("operators of the domain `{}` are not read", node.proto.domain);
            return Err(node.unsupported(what, SIMPLIFY));
        }
        if node.op() == "DynamicQuantizeLinear" {
            return self.dynamic_quantize(node);
        }
        if node.op() == "Split" {
            return self.split(node);
        }
        let further = node.proto.output.iter().skip(1);
        if let Some(used) = further.into_iter().find(|o| self.context.uses.contains_key(o.as_str())) {
            let what = format!("its output `{used}` is not read");
            return Err(node.unsupported(what, SIMPLIFY));
        }
        let operand = match self.filled(node)? {
            Some(filled) => Operand::Filled(filled),
            None => self.known(node)?.map_or_else(|| self.operator(node), Ok)?,
        };
        if let Some(output) = node.proto.output.first() {
            self.operands.insert(output, operand);
        }
        Ok(())
    }

    /// What `node` gives when that is known now. (Arithmetic on sizes is on vectors of them.)
    fn known(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        let x = if node.input(0).is_some() { Some(self.operand(node, 0)?) } else { None };
        if matches!(x, Some(Operand::Stored(x)) if x.tensor.shape().len() > 1)
            && let Some(stored) = self.moved(node)?
        {
            return Ok(Some(Operand::Stored(stored)));
        }
        if self.is_table(node)? {
            return Ok(None);
        }
        match self.fold(node)? {
            Some(numbers) => Ok(Some(Operand::Numbers(numbers))),
            None => Ok(self.moved(node)?.map(Operand::Stored)),
        }
    }

    fn operator(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let Some(operand) = self.soft(node)? {
            return Ok(operand);
        }
        if let Some(unary) = self.function(node)? {
            return self.elementwise(node, Op::Unary(unary));
        }
        match node.op() {
            "Constant" => return self.constant(node),
            "Identity" | "Cast" => return self.alias(node),
            "Transpose" => return self.transpose(node),
            "Pad" => return self.pad(node),
            "MatMul" => return self.matmul(node),
            "Reshape" => return self.reshape(node),
            "Clip" => return self.clip(node),
            "Max" => return self.extreme(node, Binary::Max),
            "Min" => return self.extreme(node, Binary::Min),
            "Pow" => self.power(node),
            "Dropout" => return self.dropout(node),
            "Add" => return self.add(node),
            "Mul" => {
                if let Some(rows) = self.scaled_rows(node)? {
                    return Ok(rows);
                }
                self.settle_rows(node)?;
                return match self.dynamic_mul(node)? {
                    Some(product) => Ok(product),
                    None => self.binary(node, Op::Binary(Binary::Mul), |x| x),
                };
            }
            "MatMulInteger" => return self.dynamic_sums(node),
            "Sub" if self.is_computed(node, 1)? => self.pairwise(node, Binary::Sub, 2),
            "Div" if self.is_computed(node, 1)? => self.pairwise(node, Binary::Div, 2),
            "Sub" => return self.binary(node, Op::Binary(Binary::Add), |x| -x),
            "Div" => return self.binary(node, Op::Binary(Binary::Mul), |x| 1.0 / x),
            "ReduceMean" => return self.reduce_mean(node),
            "Conv" => self.conv(node),
            "Gemm" => self.general_product(node),
            "BatchNormalization" => self.batch_norm(node),
            "QuantizeLinear" => return self.quantize(node),
            "DequantizeLinear" => return self.dequantize(node),
            "LayerNormalization" => self.layer_norm(node),
            "Concat" => self.concat(node),
            "Slice" => self.slice(node),
            "Gather" => return self.gather(node),
            "Range" => return self.range(node),
            "Equal" => self.equal(node),
            "Not" => self.not(node),
            "And" | "Or" => self.both_or_either(node),
            "Where" => self.choice(node),
            "Unsqueeze" => self.unsqueeze(node),
            "Expand" => self.expand(node),
            "GlobalAveragePool" => self.unary(node, Op::GlobalAveragePool),
            "Softmax" => self.softmax(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "Flatten" => self.flatten(node),
            "Squeeze" => self.squeeze(node),
            op => match Reduce::from_onnx(op) {
                Some(op) => self.reduction(node, op),
                None => Err(node.unsupported(
                    "this operator is not read",
                    "offshoot reads convolutional networks, transformers and LSTMs of the usual operators; give a PyTorch \
                     checkpoint with `{model} NAME {weights} FILE` where there is one",
                )),
            },
        }
        .map(Operand::Value)
    }

    // ---- operands ----

    fn lookup(&mut self, name: &'a str) -> Result<Option<Operand<'a>>, Problem> {
        if let Some(operand) = self.operands.get(name) {
            return Ok(Some(operand.clone()));
        }
        let Some(proto) = self.context.initializers.get(name) else { return Ok(None) };
        let tensor = Rc::new(self.context.tensors.read(proto)?);
        let stored = Stored { name: name.to_owned(), tensor, transposed: false, constant: false };
        self.operands.insert(name, Operand::Stored(stored.clone()));
        Ok(Some(Operand::Stored(stored)))
    }

    fn operand(&mut self, node: NodeView<'a>, index: usize) -> Result<Operand<'a>, Problem> {
        let name = node.required(index)?;
        self.lookup(name)?.ok_or_else(|| node.damaged(format!("nothing gives its input `{name}`")))
    }

    /// Input `index`, computed at each run.
    fn value(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        match self.operand(node, index)? {
            Operand::Value(id) => Ok(id),
            Operand::Product { x, matrix, node: name } => {
                let id = self.gemm(&name, x, &matrix, None)?;
                self.define(node.required(index)?, id);
                Ok(id)
            }
            // The picture with its axes as the file has them.
            Operand::ChannelsLast(id) => {
                // The file's own name: what is written and read again keeps it.
                self.push_named(node.required(index)?, Op::Transpose { perm: vec![0, 2, 3, 1] }, &[id])
            }
            Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node: name }) => {
                let id = self.dynamic_product(&name, x, (&matrix, less), &scale, None)?;
                self.define(node.required(index)?, id);
                Ok(id)
            }
            Operand::Dynamic(_) => Err(node.unsupported(
                format!(
                    "its input {index} is a part of a product of bytes, of which this is no form that is read"
                ),
                FLOAT,
            )),
            Operand::Padded { node: pad, .. } => Err(Problem::unsupported(
                format!("node `{pad}` (Pad)"),
                format!("zeros around the input of {} are not read", node.op()),
                "Export with the padding as an attribute",
            )),
            Operand::Filled(filled) => {
                let id = self.spread_number(node, &filled)?;
                self.define(node.required(index)?, id);
                Ok(id)
            }
            Operand::Soft(soft) => {
                let name = node.required(index)?;
                let id = self.spelled_out(name, soft)?;
                self.define(name, id);
                Ok(id)
            }
            Operand::Rows(_) => {
                self.settle_rows(node)?;
                self.value(node, index)
            }
            Operand::Stored(_) | Operand::Numbers(_) => {
                Err(node.unsupported(format!("its input {index} is a constant"), SIMPLIFY))
            }
        }
    }

    /// Input `index`, computed at each run or stored.
    fn any(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        match self.operand(node, index)? {
            Operand::Stored(stored) => self.term(node, &stored, true, |x| x),
            Operand::Numbers(numbers) => {
                let what = "it computes with a size that is not known before the run";
                let tensor = numbers.to_tensor().ok_or_else(|| node.unsupported(what, SIMPLIFY))?;
                let name = node.required(index)?.to_owned();
                let stored = Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true };
                self.term(node, &stored, true, |x| x)
            }
            Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_)
            | Operand::Rows(_) => self.value(node, index),
        }
    }

    /// Whether input `index` is computed at each run.
    fn is_computed(&mut self, node: NodeView<'a>, index: usize) -> Result<bool, Problem> {
        Ok(!matches!(self.operand(node, index)?, Operand::Stored(_) | Operand::Numbers(_)))
    }

    /// Input `index`, computed at each run, and whether the file has its channels last.
    fn laid_out(&mut self, node: NodeView<'a>, index: usize) -> Result<(ValueId, bool), Problem> {
        match self.operand(node, index)? {
            Operand::ChannelsLast(id) => Ok((id, true)),
            _ => Ok((self.value(node, index)?, false)),
        }
    }

    /// Input `index` with its channels first, and the zeros around it.
    fn padded(&mut self, node: NodeView<'a>, index: usize) -> Result<(ValueId, [usize; 4]), Problem> {
        match self.operand(node, index)? {
            Operand::Padded { x, pads, channels_last: false, .. } => Ok((x, pads)),
            _ => Ok((self.value(node, index)?, [0; 4])),
        }
    }

    /// Input `index`, stored in the file.
    fn stored(&mut self, node: NodeView<'a>, index: usize) -> Result<Stored, Problem> {
        match self.operand(node, index)? {
            Operand::Stored(stored) => Ok(stored),
            Operand::Numbers(n) if n.known().is_some() => {
                let tensor =
                    n.to_tensor().ok_or_else(|| node.damaged("its numbers do not fit their shape"))?;
                let name = node.required(index)?.to_owned();
                Ok(Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true })
            }
            Operand::Numbers(_)
            | Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_)
            | Operand::Rows(_) => {
                let what =
                    format!("its input {index}, `{}`, is not stored in the file", node.required(index)?);
                Err(node.unsupported(what, "Export with the weights as constants"))
            }
        }
    }

    /// Input `index` as numbers, when it is given and they are few.
    fn numbers(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<Numbers>, Problem> {
        if node.input(index).is_none() {
            return Ok(None);
        }
        Ok(match self.operand(node, index)? {
            Operand::Numbers(numbers) => Some(numbers),
            Operand::Stored(s) if !s.transposed => Numbers::from_tensor(&s.tensor),
            Operand::Stored(_)
            | Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_)
            | Operand::Rows(_) => None,
        })
    }

    /// Whole numbers from input `index` or, in older opsets, from the attribute `name`.
    fn ints(&mut self, node: NodeView<'a>, index: usize, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        if let Some(values) = node.ints(name) {
            return Ok(Some(values.to_vec()));
        }
        if node.input(index).is_none() {
            return Ok(None);
        }
        match self.numbers(node, index)?.and_then(|n| n.ints()) {
            Some(values) => Ok(Some(values)),
            None => Err(node.unsupported(
                format!("its {name} are not known before the run"),
                "Export with a fixed picture size, such as 224 by 224",
            )),
        }
    }

    /// The parameter that `stored` is. One tensor in two roles becomes two parameters.
    fn parameter(&mut self, stored: &Stored, role: Role) -> Result<ValueId, Problem> {
        let key = (stored.name.clone(), role == Role::Buffer, stored.tensor.shape().to_vec());
        if let Some(&id) = self.parameters.get(&key) {
            return Ok(id);
        }
        let tensor = self.floats(stored)?;
        self.context.tensors.charge(&format!("tensor `{}`", stored.name), tensor.len(), 4)?;
        let name = self.names.unused(&stored.name);
        let id = self.graph.add_parameter(&name, tensor.shape(), role);
        self.weights.insert(self.graph.value(id).name.clone(), tensor);
        self.parameters.insert(key, id);
        Ok(id)
    }

    /// A parameter of as many axes as it has in the file's order.
    fn plain_parameter(&mut self, node: NodeView<'a>, index: usize, role: Role) -> Result<ValueId, Problem> {
        let stored = self.stored(node, index)?;
        if stored.transposed {
            return Err(node.unsupported(format!("its input {index} is transposed in the graph"), SIMPLIFY));
        }
        self.parameter(&stored, role)
    }

    fn floats(&mut self, stored: &Stored) -> Result<Rc<Tensor>, Problem> {
        let place = format!("tensor `{}`", stored.name);
        if stored.tensor.is_empty() {
            return Err(Problem::damaged(place, "it has no elements"));
        }
        if stored.tensor.as_f32().is_some() {
            return Ok(Rc::clone(&stored.tensor));
        }
        self.converted = true;
        self.once(&place, &stored.name, "f32".to_owned(), stored.tensor.len(), |_| {
            stored.tensor.to_f32().ok_or_else(|| {
                let what = format!("its elements are {}, a weight's are floats", stored.tensor.dtype());
                Problem::unsupported(&place, what, "Export the model in float32, before quantization")
            })
        })
    }

    /// What `make` makes of the tensor `name`, of `len` elements of at most four bytes. What is made in one way takes memory
    /// once, however many nodes read it.
    fn once(
        &mut self,
        place: &str,
        name: &str,
        way: String,
        len: usize,
        make: impl FnOnce(&mut Self) -> Result<Tensor, Problem>,
    ) -> Result<Rc<Tensor>, Problem> {
        let key = (name.to_owned(), way);
        if let Some(made) = self.derived.get(&key) {
            return Ok(Rc::clone(made));
        }
        self.context.tensors.charge(place, len, 4)?;
        let made = Rc::new(make(self)?);
        self.derived.insert(key, Rc::clone(&made));
        Ok(made)
    }

    fn push(&mut self, node: NodeView<'a>, op: Op, inputs: &[ValueId]) -> Result<ValueId, Problem> {
        self.push_named(node.name(), op, inputs)
    }

    fn push_named(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, Problem> {
        self.push_all(name, op, inputs).map(|results| results[0])
    }

    /// The results of a node, of which the first is the largest.
    fn push_all(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, Problem> {
        let place = format!("node `{name}` ({})", op.name());
        let unused = self.names.unused(name);
        let results = self
            .graph
            .add_node(&unused, op, inputs)
            .map_err(|e| Problem::unsupported(&place, e.reason, "Check the file with onnx.checker"))?;
        let id = results[0];
        let shape = &self.graph.value(id).shape;
        check_activation(&place, shape.0.iter().skip(1).map(known_factor))?;
        if !shape.0.iter().all(|dim| dim.is_small(MAX_PARTS)) {
            let what = "its output has a size that takes too many steps to compute".into();
            return Err(Problem::TooLarge { place, what, limit: MAX_PARTS as u64 });
        }
        Ok(results)
    }

    fn shape(&self, id: ValueId) -> &Shape {
        &self.graph.value(id).shape
    }

    // ---- sizes ----

    /// What `node` gives when it only computes with sizes.
    fn fold(&mut self, node: NodeView<'a>) -> Result<Option<Numbers>, Problem> {
        if node.op() == "Shape" {
            return self.shape_of(node).map(Some);
        }
        if !is_foldable(node.op()) || node.proto.input.len() > MAX_NUMBERS {
            return Ok(None);
        }
        let mut sizes = false;
        let mut inputs = Vec::new();
        for index in 0..node.proto.input.len() {
            if node.input(index).is_none() {
                inputs.push(None);
                continue;
            }
            let numbers = match self.operand(node, index)? {
                Operand::Numbers(numbers) => Some(numbers),
                Operand::Stored(s) if is_size(&s) => Numbers::from_tensor(&s.tensor),
                Operand::Stored(_)
                | Operand::Value(_)
                | Operand::ChannelsLast(_)
                | Operand::Padded { .. }
                | Operand::Product { .. }
                | Operand::Dynamic(_)
                | Operand::Filled(_)
                | Operand::Soft(_)
                | Operand::Rows(_) => None,
            };
            let Some(numbers) = numbers else { return Ok(None) };
            sizes = true;
            inputs.push(Some(numbers));
        }
        if !sizes {
            return Ok(None);
        }
        let fill = match node.tensor("value") {
            Some(proto) => {
                let tensor = self.context.tensors.read(proto)?;
                Numbers::from_tensor(&tensor).and_then(|n| n.data.first().cloned())
            }
            None => None,
        };
        let numbers = fold(node, &inputs, fill)?;
        self.context.tensors.charge(&node.place(), numbers.data.len() + 8, size_of::<Number>())?;
        Ok(Some(numbers))
    }

    fn shape_of(&mut self, node: NodeView<'a>) -> Result<Numbers, Problem> {
        let mut shape = match self.operand(node, 0)? {
            Operand::Stored(stored) => Shape::fixed(stored.tensor.shape()),
            Operand::Numbers(numbers) => Shape::fixed(&numbers.shape),
            Operand::Value(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_)
            | Operand::Rows(_) => {
                let x = self.value(node, 0)?;
                self.shape(x).clone()
            }
            Operand::ChannelsLast(x) => channels_last(self.shape(x)),
        };
        let rank = shape.rank() as i64;
        let bound = |name: &str, default| {
            let axis = node.int(name, default);
            (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize
        };
        let (start, end) = (bound("start", 0), bound("end", rank));
        shape.0 = shape.0.drain(start..end.max(start)).collect();
        Ok(Numbers::from_shape(&shape))
    }

    // ---- operators ----

    fn constant(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let name = node.proto.output.first().map_or(node.name(), String::as_str).to_owned();
        let tensor = if let Some(proto) = node.tensor("value") {
            self.context.tensors.read(proto)?
        } else if let Some(x) = node.float("value_float") {
            Tensor::f32([], vec![x])
        } else if let Some(x) = node.floats("value_floats") {
            Tensor::f32([x.len()], x.to_vec())
        } else if node.has("value_int") {
            Tensor::i64([], vec![node.int("value_int", 0)])
        } else if let Some(x) = node.ints("value_ints") {
            Tensor::i64([x.len()], x.to_vec())
        } else {
            let sparse = node.has("sparse_value");
            let what = if sparse { "it holds a sparse tensor" } else { "it holds no numbers" };
            return Err(node.unsupported(what, SIMPLIFY));
        };
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true }))
    }

    /// Identity, and Cast between float types (everything is computed in f32). The exporter of PyTorch writes
    /// Identity where two parameters are equal; they become two again.
    fn alias(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let ("Cast", Operand::Value(x)) = (node.op(), self.operand(node, 0)?) {
            return self.cast(node, x).map(Operand::Value);
        }
        if node.op() == "Cast" && !matches!(node.int("to", 0), 1 | 10 | 11 | 16) {
            return Err(node.unsupported("a cast to integers is not read", SIMPLIFY));
        }
        match self.operand(node, 0)? {
            Operand::Stored(stored) => {
                let name = node.proto.output.first().cloned().unwrap_or_default();
                Ok(Operand::Stored(Stored { name, ..stored }))
            }
            Operand::Numbers(numbers) => Ok(Operand::Numbers(numbers)),
            Operand::ChannelsLast(x) => Ok(Operand::ChannelsLast(x)),
            same @ Operand::Dynamic(Dynamic::Sums { .. }) if node.op() == "Cast" => Ok(same),
            same @ Operand::Rows(_) => Ok(same),
            Operand::Value(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_) => self.value(node, 0).map(Operand::Value),
        }
    }

    /// Another order of the axes of a picture (what converters of TensorFlow put around its operators) or of a weight.
    fn transpose(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (first, last) = (Some(&[0, 3, 1, 2][..]), Some(&[0, 2, 3, 1][..]));
        let perm = node.ints("perm");
        match self.operand(node, 0)? {
            Operand::Stored(s) if s.tensor.shape().len() == 2 && matches!(perm, None | Some([1, 0])) => {
                Ok(Operand::Stored(Stored { transposed: !s.transposed, ..s }))
            }
            Operand::Stored(s) if !s.transposed => self.transposed_weight(node, &s),
            Operand::ChannelsLast(x) if perm == first => Ok(Operand::Value(x)),
            Operand::Value(x) if perm == last && self.shape(x).rank() == 4 => Ok(Operand::ChannelsLast(x)),
            Operand::Padded { x, pads, node, channels_last }
                if perm == if channels_last { first } else { last } =>
            {
                Ok(Operand::Padded { x, pads, node, channels_last: !channels_last })
            }
            same @ (Operand::Value(x) | Operand::ChannelsLast(x))
                if perm.is_some_and(|p| p.iter().copied().eq(0..self.shape(x).rank() as i64)) =>
            {
                Ok(same)
            }
            Operand::Stored(_) | Operand::Numbers(_) => {
                Err(node.unsupported("of what is stored only weights are transposed", SIMPLIFY))
            }
            Operand::Value(_)
            | Operand::ChannelsLast(_)
            | Operand::Padded { .. }
            | Operand::Product { .. }
            | Operand::Dynamic(_)
            | Operand::Filled(_)
            | Operand::Soft(_)
            | Operand::Rows(_) => {
                let x = self.value(node, 0)?;
                let rank = self.shape(x).rank();
                let perm = match perm {
                    Some(perm) => perm.iter().map(|&a| node.axis(a, rank)).collect::<Result<_, _>>()?,
                    None => (0..rank).rev().collect(),
                };
                self.push(node, Op::Transpose { perm }, &[x]).map(Operand::Value)
            }
        }
    }

    /// A value, or a weight that a file keeps as floats and rounds at each run.
    fn quantize(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if node.int("precision", 0) != 0
            || node.has("output_dtype") && !matches!(node.int("output_dtype", 0), 0 | 2 | 3)
        {
            return Err(node.unsupported("only 8-bit integers are read", FLOAT));
        }
        let (x, channels_last) = match self.operand(node, 0)? {
            Operand::Stored(_) => (self.plain_parameter(node, 0, Role::Weight)?, false),
            _ => self.laid_out(node, 0)?,
        };
        let default = if node.int("output_dtype", 2) == 3 { DType::I8 } else { DType::U8 };
        let (axis, inputs) = self.scale_and_zero_point(node, x, channels_last, default)?;
        let y = self.push(node, Op::QuantizeLinear { axis }, &[x, inputs[0], inputs[1]])?;
        Ok(laid(y, channels_last))
    }

    fn dequantize(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if node.has("output_dtype") && !matches!(node.int("output_dtype", 0), 0 | 1) {
            return Err(node.unsupported("only floats of 32 bits are read", FLOAT));
        }
        if let Operand::Rows(rows) = self.operand(node, 0)? {
            return self.dequantized_rows(node, &rows);
        }
        if let Operand::Value(x) = self.operand(node, 0)?
            && self.is_of_bytes(x)
        {
            return self.dequantized_bytes(node, x);
        }
        let (x, channels_last) = match self.operand(node, 0)? {
            Operand::Stored(stored) if !stored.transposed => (self.integers(node, &stored)?, false),
            _ => self.laid_out(node, 0)?,
        };
        let default = self.graph.value(x).dtype;
        let (axis, inputs) = self.scale_and_zero_point(node, x, channels_last, default)?;
        let y = self.push(node, Op::DequantizeLinear { axis }, &[x, inputs[0], inputs[1]])?;
        Ok(laid(y, channels_last))
    }

    /// The axis and the two constants of a node that quantizes to, or dequantizes from, `dtype` where it does not say.
    fn scale_and_zero_point(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        channels_last: bool,
        dtype: DType,
    ) -> Result<(usize, [ValueId; 2]), Problem> {
        if node.int("block_size", 0) != 0 {
            return Err(node.unsupported("scales of blocks are not read", FLOAT));
        }
        let stored = self.stored(node, 1)?;
        let scale = self.floats(&stored)?;
        let valid = |&s: &f32| s.is_finite() && (s > 0.0 || s == 0.0 && node.op() == "DequantizeLinear");
        if !scale.as_f32().is_some_and(|s| s.iter().all(valid)) {
            return Err(node.damaged("a scale is no positive number"));
        }
        let places = scale.len();
        let zero_point = match node.input(2) {
            Some(_) => self.stored(node, 2)?.tensor,
            None => {
                Rc::new(zeros(dtype, places).ok_or_else(|| node.unsupported("it has no integers", FLOAT))?)
            }
        };
        if !matches!(zero_point.dtype(), DType::U8 | DType::I8 | DType::I32) || zero_point.len() != places {
            let (found, n) = (zero_point.dtype(), zero_point.len());
            let what =
                format!("{n} zero points of {found} for {places} scales: one of u8 or i8 for each is read");
            return Err(node.unsupported(what, FLOAT));
        }
        // One pair is for all elements, whatever its rank.
        let shape = if places == 1 { vec![] } else { vec![places] };
        let rank = self.shape(x).rank();
        let axis = if places == 1 { 0 } else { node.axis(node.int("axis", 1), rank)? };
        if channels_last && places != 1 {
            return Err(node.unsupported("of pictures with their channels last one scale is read", FLOAT));
        }
        let mut ids = [x; 2];
        for (index, tensor) in [scale, zero_point].into_iter().enumerate() {
            let name =
                node.input(index + 1).map_or_else(|| format!("{}.zero_point", node.name()), str::to_owned);
            ids[index] = self.shared_constant(name, Rc::unwrap_or_clone(tensor), &shape, node)?;
        }
        Ok((axis, ids))
    }

    /// A constant under the name that the file has for it. The same tensor of the file is one constant.
    fn shared_constant(
        &mut self,
        name: String,
        tensor: Tensor,
        shape: &[usize],
        node: NodeView<'a>,
    ) -> Result<ValueId, Problem> {
        let tensor = tensor.reshape(shape).map_err(|e| node.damaged(e.to_string()))?;
        let key = (name, tensor.dtype());
        if let Some(&id) = self.scales.get(&key) {
            return Ok(id);
        }
        self.context.tensors.charge(&node.place(), tensor.len(), tensor.dtype().size())?;
        let unused = self.names.unused(&key.0);
        let id = self.graph.add_constant(&unused, tensor);
        self.scales.insert(key, id);
        Ok(id)
    }

    /// The parameter of integers that `stored` is.
    fn integers(&mut self, node: NodeView<'a>, stored: &Stored) -> Result<ValueId, Problem> {
        let key = (stored.name.clone(), false, stored.tensor.shape().to_vec());
        if let Some(&id) = self.parameters.get(&key) {
            return Ok(id);
        }
        let tensor = Rc::clone(&stored.tensor);
        if !matches!(tensor.dtype(), DType::U8 | DType::I8 | DType::I32) || tensor.is_empty() {
            let what = format!("its input is {} elements of {}", tensor.len(), tensor.dtype());
            return Err(node.unsupported(what, FLOAT));
        }
        self.context.tensors.charge(&node.place(), tensor.len(), tensor.dtype().size())?;
        let name = self.names.unused(&stored.name);
        let id = self.graph.add_typed_parameter(&name, tensor.dtype(), tensor.shape(), Role::Weight);
        self.weights.insert(self.graph.value(id).name.clone(), tensor);
        self.parameters.insert(key, id);
        Ok(id)
    }

    /// Input `index` when a node computes it from a weight of the file, rounded to integers.
    fn dequantized(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<ValueId>, Problem> {
        let Operand::Value(id) = self.operand(node, index)? else { return Ok(None) };
        let producer = self.graph.producer(id).map(|n| &self.graph.node(n).op);
        Ok(matches!(producer, Some(Op::DequantizeLinear { .. })).then_some(id))
    }

    /// A weight or bias: dequantized, or stored as floats.
    fn weight(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        match self.dequantized(node, index)? {
            Some(id) => Ok(id),
            None => self.plain_parameter(node, index, Role::Weight),
        }
    }

    fn layer_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let rank = self.shape(x).rank();
        if node.axis(node.int("axis", -1), rank)? + 1 != rank || node.input(2).is_none() {
            return Err(
                node.unsupported("only a norm of the last axis with scale and bias is read", SIMPLIFY)
            );
        }
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let mut inputs = vec![x];
        for index in [1, 2] {
            inputs.push(self.plain_parameter(node, index, Role::Weight)?);
        }
        self.push(node, Op::LayerNormalization(LayerNormalization { epsilon }), &inputs)
    }

    fn concat(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let mut inputs = Vec::new();
        for index in 0..node.proto.input.len() {
            inputs.push(match self.operand(node, index)? {
                Operand::Stored(s) if !s.transposed => self.term(node, &s, true, |x| x)?,
                _ => self.value(node, index)?,
            });
        }
        let first = *inputs.first().ok_or_else(|| node.damaged("it has no inputs"))?;
        let axis = node.axis(node.int("axis", 0), self.shape(first).rank())?;
        self.push(node, Op::Concat { axis }, &inputs)
    }

    /// A part of one axis.
    fn slice(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if let Operand::Stored(table) = self.operand(node, 0)? {
            return self.first_places(node, &table);
        }
        let x = self.value(node, 0)?;
        if self.is_whole(node, x)? {
            return Ok(x);
        }
        let shape = self.shape(x).clone();
        let one = |values: Option<Vec<i64>>, name: &str| match values.as_deref() {
            Some(&[value]) => Ok(value),
            _ => Err(node.unsupported(format!("its {name} are not one number"), SIMPLIFY)),
        };
        let start = one(self.ints(node, 1, "starts")?, "starts")?;
        let end = one(self.ints(node, 2, "ends")?, "ends")?;
        let axis = one(Some(self.ints(node, 3, "axes")?.unwrap_or(vec![0])), "axes")?;
        let step = one(Some(self.ints(node, 4, "steps")?.unwrap_or(vec![1])), "steps")?;
        let axis = node.place_of(axis, shape.rank())?;
        let Some(size) = shape.0[axis].fixed().filter(|_| step == 1) else {
            return Err(node.unsupported("only neighbours along an axis of known size are read", SIMPLIFY));
        };
        let place = |i: i64| {
            let counted = if i < 0 { i.saturating_add(size as i64) } else { i };
            usize::try_from(counted).unwrap_or(0).min(size)
        };
        self.push(node, Op::Slice { axis, start: place(start), end: place(end) }, &[x])
    }

    /// The part of a value with one index along an axis, without that axis.
    fn pick(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let shape = self.shape(x).clone();
        let axis = node.place_of(node.int("axis", 0), shape.rank())?;
        let indices = self.numbers(node, 1)?;
        let scalar = indices.as_ref().is_some_and(|n| n.shape.is_empty());
        let index = indices.and_then(|n| n.ints()).filter(|n| n.len() == 1);
        let Some(index) = index else {
            return Err(node.unsupported("only one index that is known before the run is picked", SIMPLIFY));
        };
        let Some(size) = shape.0[axis].fixed() else {
            return self.pick_counted(node, x, axis, index[0], scalar);
        };
        let index = if index[0] < 0 { index[0].saturating_add(size as i64) } else { index[0] };
        let start = usize::try_from(index).ok().filter(|&i| i < size);
        let start = start.ok_or_else(|| node.damaged(format!("index {index} is outside of {size}")))?;
        let part = self.push(node, Op::Slice { axis, start, end: start + 1 }, &[x])?;
        if !scalar {
            return Ok(part);
        }
        let mut rest = shape.0;
        rest.remove(axis);
        self.reshape_to(node, part, Shape(rest))
    }

    /// `x` under another shape of as many elements.
    fn reshape_to(&mut self, node: NodeView<'a>, x: ValueId, shape: Shape) -> Result<ValueId, Problem> {
        if shape == *self.shape(x) {
            return Ok(x);
        }
        let flat = Op::Flatten { axis: 1 };
        let own = self.shape(x);
        let op = match (&shape.0[..], own.0.first()) {
            ([first, Dim::Fixed(_)], Some(batch)) if own.rank() > 2 && first == batch => flat,
            _ => Op::Reshape { shape },
        };
        self.push(node, op, &[x])
    }

    fn unsqueeze(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let axes = self.ints(node, 1, "axes")?.unwrap_or_default();
        let mut shape = self.shape(x).0.clone();
        let rank = shape.len().saturating_add(axes.len());
        let mut axes = axes.iter().map(|&a| node.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        for axis in axes {
            if axis > shape.len() {
                return Err(node.damaged("its axes are not those of the result"));
            }
            shape.insert(axis, Dim::Fixed(1));
        }
        self.reshape_to(node, x, Shape(shape))
    }

    fn expand(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = match self.operand(node, 0)? {
            Operand::Stored(s) if s.tensor.dtype() == DType::I64 => self.known_tokens(node, &s)?,
            Operand::Stored(s) => self.term(node, &s, true, |x| x)?,
            _ => self.value(node, 0)?,
        };
        let dims = self.shape(x).0.clone();
        let target = self.numbers(node, 1)?.map(|n| n.data).unwrap_or_default();
        let missing = target.len().saturating_sub(dims.len());
        let dim = |(i, number): (usize, &Number)| match *number {
            Number::Size(ref dim) => Some(dim.clone()),
            Number::Known(1.0) if i >= missing => dims.get(i - missing).cloned(),
            Number::Known(n) if i == 0 && self.context.fixed_batch.is_some_and(|b| b as f64 == n) => {
                Some(self.context.batch.clone())
            }
            Number::Known(n) if (1.0..=MAX_ELEMENTS as f64).contains(&n) => Some(Dim::Fixed(n as usize)),
            Number::Known(_) | Number::Unknown => None,
        };
        let shape: Option<Vec<Dim>> = target.iter().enumerate().map(dim).collect();
        match shape {
            Some(shape) if shape.len() >= dims.len() => {
                let shape = Shape(shape);
                if shape == *self.shape(x) {
                    return Ok(x);
                }
                self.push(node, Op::Expand { shape }, &[x])
            }
            _ => Err(node.unsupported("its shape is not known before the run", SIMPLIFY)),
        }
    }

    fn transposed_weight(&mut self, node: NodeView<'a>, stored: &Stored) -> Result<Operand<'a>, Problem> {
        let rank = stored.tensor.shape().len();
        let axes: Vec<i64> =
            node.ints("perm").map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
        let floats = self.floats(stored)?;
        self.context.tensors.charge(&node.place(), floats.len(), 4)?;
        let tensor = permuted(&floats, &axes)
            .ok_or_else(|| node.damaged(format!("perm is {axes:?} for a tensor of {rank} axes")))?;
        let name = node.proto.output.first().cloned().unwrap_or_default();
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), ..stored.clone() }))
    }

    fn pad(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let fill = self.numbers(node, 2)?.and_then(|n| n.known()).and_then(|n| n.first().copied());
        let zeros = match node.input(2) {
            Some(_) => fill == Some(0.0),
            None => node.float("value").unwrap_or(0.0) == 0.0,
        };
        if node.text("mode").unwrap_or("constant") != "constant" || !zeros {
            return Err(node.unsupported("only zeros around a picture are read", SIMPLIFY));
        }
        let pads = self.ints(node, 1, "pads")?.unwrap_or_default();
        let pads = self.spread(node, pads, self.shape(x).rank())?;
        let side = |&p: &i64| usize::try_from(p).ok().filter(|&p| p <= MAX_SIDE);
        let sides: Option<Vec<usize>> = pads.iter().map(side).collect();
        let around = match (sides.as_deref(), channels_last) {
            (Some([0, 0, 0, 0, 0, 0, 0, 0]), _) => return Ok(laid(x, channels_last)),
            (Some(&[0, 0, top, left, 0, 0, bottom, right]), false)
            | (Some(&[0, top, left, 0, 0, bottom, right, 0]), true) => [top, left, bottom, right],
            _ => {
                let what = format!("the padding {pads:?} is not around a picture");
                return Err(node.unsupported(what, SIMPLIFY));
            }
        };
        Ok(Operand::Padded { x, pads: around, node: node.name().to_owned(), channels_last })
    }

    /// The padding of all `rank` axes, where input 3 says that `pads` are those of some.
    fn spread(&mut self, node: NodeView<'a>, pads: Vec<i64>, rank: usize) -> Result<Vec<i64>, Problem> {
        if node.input(3).is_none() {
            return Ok(pads);
        }
        let axes = self.ints(node, 3, "axes")?.unwrap_or_default();
        if pads.len() != 2 * axes.len() {
            return Err(node.damaged(format!("{} pads for {} axes", pads.len(), axes.len())));
        }
        let mut all = vec![0; 2 * rank];
        for (i, &axis) in axes.iter().enumerate() {
            let axis = node.axis(axis, rank)?;
            if axis == rank {
                return Err(node.damaged(format!("axis {axis} is outside of {rank} axes")));
            }
            (all[axis], all[rank + axis]) = (pads[i], pads[axes.len() + i]);
        }
        Ok(all)
    }

    fn conv(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, around) = self.padded(node, 0)?;
        let shape = match self.dequantized(node, 1)? {
            Some(weight) => self.shape(weight).as_fixed().unwrap_or_default(),
            None => self.stored(node, 1)?.tensor.shape().to_vec(),
        };
        let kernel = match shape[..] {
            [_, _, rows, columns] => [rows, columns],
            ref shape => {
                let what = format!("a weight of {} axes is no convolution over pictures", shape.len());
                return Err(node.unsupported(what, SIMPLIFY));
            }
        };
        if node.sizes("kernel_shape", kernel, 1)? != kernel {
            return Err(node.damaged("kernel_shape is not that of its weight"));
        }
        let (strides, dilations) = (node.sizes("strides", [1, 1], 1)?, node.sizes("dilations", [1, 1], 1)?);
        let mut pads = self.pads(node, x, kernel, strides, dilations, around)?;
        pads.iter_mut().zip(around).for_each(|(pad, more)| *pad += more);
        let group = usize::try_from(node.int("group", 1)).map_err(|_| node.damaged("group is negative"))?;
        let mut inputs = vec![x, self.weight(node, 1)?];
        if node.input(2).is_some() {
            inputs.push(self.weight(node, 2)?);
        }
        self.push(node, Op::Conv(Conv { strides, pads, dilations, group }), &inputs)
    }

    /// The padding by attribute or by rule: top, left, bottom, right. `around` is added by a Pad before.
    fn pads(
        &self,
        node: NodeView<'a>,
        x: ValueId,
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
        around: [usize; 4],
    ) -> Result<[usize; 4], Problem> {
        let upper = match node.text("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "" => return node.sizes("pads", [0; 4], 0),
            "VALID" => return Ok([0; 4]),
            "SAME_UPPER" => true,
            "SAME_LOWER" => false,
            other => return Err(node.damaged(format!("auto_pad is `{other}`"))),
        };
        let mut pads = [0; 4];
        for side in 0..2 {
            let size = self.shape(x).0.get(2 + side).and_then(Dim::fixed).ok_or_else(|| {
                node.unsupported(
                    "auto_pad needs a known height and width",
                    "Say the pictures' size with {size}, or export with a fixed one, such as 224 by 224",
                )
            })?;
            let size = size.saturating_add(around[side] + around[side + 2]);
            let reach = dilations[side] * (kernel[side].max(1) - 1) + 1;
            let covered =
                (size.div_ceil(strides[side]).max(1) - 1).saturating_mul(strides[side]).saturating_add(reach);
            let total = covered.saturating_sub(size);
            let before = if upper { total / 2 } else { total.div_ceil(2) };
            (pads[side], pads[side + 2]) = (before, total - before);
        }
        Ok(pads)
    }

    /// The windows of a pooling, without what a Pad before it adds: `around`.
    fn pool(&mut self, node: NodeView<'a>, x: ValueId, around: [usize; 4]) -> Result<Pool, Problem> {
        if node.sizes("dilations", [1, 1], 1)? != [1, 1] {
            return Err(node.unsupported("pooling with dilations is not read", SIMPLIFY));
        }
        let kernel = node.sizes("kernel_shape", [0, 0], 1)?;
        if kernel == [0, 0] {
            return Err(node.damaged("kernel_shape is missing"));
        }
        let strides = node.sizes("strides", [1, 1], 1)?;
        let pads = self.pads(node, x, kernel, strides, [1, 1], around)?;
        Ok(Pool { kernel, strides, pads, ceil_mode: node.flag("ceil_mode") })
    }

    /// Zeros of a Pad before it never win over what a Relu gave, as padding never does.
    fn max_pool(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, around) = self.padded(node, 0)?;
        let mut pool = self.pool(node, x, around)?;
        if around != [0; 4] && !self.never_negative(x) {
            let what = "zeros around numbers that may be negative are not read";
            return Err(node.unsupported(what, "Export with the padding as an attribute"));
        }
        pool.pads.iter_mut().zip(around).for_each(|(pad, more)| *pad += more);
        self.push(node, Op::MaxPool(pool), &[x])
    }

    /// Zeros of a Pad before it count in the mean.
    fn average_pool(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, around) = self.padded(node, 0)?;
        let mut pool = self.pool(node, x, around)?;
        let mut count_include_pad = node.flag("count_include_pad");
        if around != [0; 4] {
            if (pool.pads != [0; 4] && !count_include_pad) || pool.ceil_mode {
                let what = "padding that counts and padding that does not are not read together";
                return Err(node.unsupported(what, "Export with the padding as an attribute"));
            }
            count_include_pad = true;
        }
        pool.pads.iter_mut().zip(around).for_each(|(pad, more)| *pad += more);
        self.push(node, Op::AveragePool(AveragePool { pool, count_include_pad }), &[x])
    }

    fn never_negative(&self, x: ValueId) -> bool {
        let producer = self.graph.producer(x).map(|id| &self.graph.node(id).op);
        let any = (f64::NEG_INFINITY, f64::INFINITY);
        matches!(producer, Some(Op::Unary(unary)) if (unary.row().range)(&unary.numbers(), any).0 >= 0.0)
    }

    fn unary(&mut self, node: NodeView<'a>, op: Op) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        self.push(node, op, &[x])
    }

    /// An operator to which all elements are alike, in any layout.
    fn elementwise(&mut self, node: NodeView<'a>, op: Op) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        Ok(laid(self.push(node, op, &[x])?, channels_last))
    }

    /// The function of one element that `node` is, but a Clip, whose bounds are inputs.
    fn function(&mut self, node: NodeView<'a>) -> Result<Option<Unary>, Problem> {
        let found = Unary::from_onnx(node.op()).filter(|unary| !matches!(unary, Unary::Clip(_)));
        let Some(unary) = found else { return Ok(None) };
        if unary == Unary::Gelu && node.text("approximate").unwrap_or("none") != "none" {
            return Err(node.unsupported("only the exact form is read", SIMPLIFY));
        }
        let numbers = unary.row().attributes.iter().map(|a| node.float(a.onnx).unwrap_or(a.onnx_default));
        let numbers: Vec<f32> = numbers.collect();
        match numbers.iter().find(|n| !n.is_finite()) {
            Some(n) => Err(node.damaged(format!("one of its attributes is {n}"))),
            None => Ok(Some(unary.with_numbers(&numbers))),
        }
    }

    /// A function of the first two of `count` operands, of the result and the third, and so on. Any may be stored.
    fn pairwise(&mut self, node: NodeView<'a>, op: Binary, count: usize) -> Result<ValueId, Problem> {
        let mut result = self.any(node, 0)?;
        for index in 1..count {
            let other = self.any(node, index)?;
            result = self.push(node, Op::Binary(op), &[result, other])?;
        }
        Ok(result)
    }

    /// A power; of 2 and 1/2 in their own forms.
    fn power(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let exponent = self.numbers(node, 1)?.and_then(|n| n.known());
        let x = self.any(node, 0)?;
        match exponent.as_deref() {
            Some(&[1.0]) => Ok(x),
            Some(&[2.0]) => self.push(node, Op::Binary(Binary::Mul), &[x, x]),
            Some(&[0.5]) => self.push(node, Op::Unary(Unary::Sqrt), &[x]),
            Some(_) | None => self.pairwise(node, Binary::Pow, 2),
        }
    }

    fn clip(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let min = self.bound(node, 1, "min", f32::NEG_INFINITY)?;
        let max = self.bound(node, 2, "max", f32::INFINITY)?;
        self.elementwise(node, Op::Unary(Unary::Clip(Clip { min, max })))
    }

    /// Max and Min. Of a value and one number it is half of a Clip, as converters of TensorFlow write ReLU6.
    fn extreme(&mut self, node: NodeView<'a>, op: Binary) -> Result<Operand<'a>, Problem> {
        let count = node.proto.input.len();
        if count == 1 {
            return self.operand(node, 0);
        }
        let (value, bound) = match (self.one_number(node, 0)?, self.one_number(node, 1)?) {
            (None, Some(bound)) if count == 2 => (0, bound),
            (Some(bound), None) if count == 2 => (1, bound),
            _ => return self.pairwise(node, op, count).map(Operand::Value),
        };
        let clip = match op == Binary::Max {
            true => Clip { min: bound, ..Clip::NONE },
            false => Clip { max: bound, ..Clip::NONE },
        };
        let (x, channels_last) = self.laid_out(node, value)?;
        Ok(laid(self.push(node, Op::Unary(Unary::Clip(clip)), &[x])?, channels_last))
    }

    /// Input `index`, where it is one number known before the run.
    fn one_number(&mut self, node: NodeView<'a>, index: usize) -> Result<Option<f32>, Problem> {
        match self.numbers(node, index)?.and_then(|n| n.known()).as_deref() {
            Some(&[number]) => Ok(Some(number as f32)),
            _ => Ok(None),
        }
    }

    fn bound(&mut self, node: NodeView<'a>, index: usize, name: &str, none: f32) -> Result<f32, Problem> {
        if node.input(index).is_none() {
            return Ok(node.float(name).unwrap_or(none));
        }
        self.one_number(node, index)?.ok_or_else(|| {
            node.unsupported(format!("its {name} is not one number known before the run"), SIMPLIFY)
        })
    }

    fn dropout(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        // A mode that is not known before the run may be training.
        let inference = |n: Vec<f64>| n.iter().all(|&x| x == 0.0);
        if node.input(2).is_some() && !self.numbers(node, 2)?.and_then(|n| n.known()).is_some_and(inference) {
            return Err(in_training_mode(node));
        }
        let ratio = self.bound(node, 1, "ratio", 0.5)?;
        if !(0.0..1.0).contains(&ratio) {
            return Err(node.damaged(format!("its ratio is {ratio}")));
        }
        self.elementwise(node, Op::Dropout { ratio })
    }

    fn softmax(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let rank = self.shape(x).rank();
        let mut axis = node.axis(node.int("axis", if self.context.opset < 13 { 1 } else { -1 }), rank)?;
        if self.context.opset < 13 {
            // Over all axes from there on, of which one may have several places.
            let dims = &self.shape(x).0;
            let wide: Vec<usize> = (axis..rank).filter(|&axis| dims[axis] != Dim::Fixed(1)).collect();
            axis = match wide[..] {
                [] => axis,
                [only] => only,
                _ => return Err(node.unsupported("a softmax over several axes is not read", SIMPLIFY)),
            };
        }
        self.push(node, Op::Softmax { axis }, &[x])
    }

    fn batch_norm(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        // Before opset 14, the statistics among the outputs say that those of the batch are meant.
        if node.flag("training_mode") || node.proto.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err(in_training_mode(node));
        }
        if node.int("spatial", 1) != 1 {
            return Err(node.unsupported("`spatial` = 0 is not read", SIMPLIFY));
        }
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let momentum = complement(node.float("momentum").unwrap_or(0.9));
        let mut inputs = vec![self.value(node, 0)?];
        for (index, role) in [(1, Role::Weight), (2, Role::Weight), (3, Role::Buffer), (4, Role::Buffer)] {
            inputs.push(self.plain_parameter(node, index, role)?);
        }
        self.push(node, Op::BatchNormalization(BatchNormalization { epsilon, momentum }), &inputs)
    }

    fn matmul(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let x = self.any(node, 0)?;
        if let Some(matrix) = self.dequantized(node, 1)?.filter(|&m| self.shape(m).rank() == 2) {
            let rank = self.shape(x).rank();
            if rank != 2 {
                let what = format!("a quantized product of a value of {rank} axes is not read");
                return Err(node.unsupported(what, FLOAT));
            }
            return self.push(node, Op::Gemm(Gemm::default()), &[x, matrix]).map(Operand::Value);
        }
        if let Operand::Value(_) | Operand::ChannelsLast(_) | Operand::Product { .. } =
            self.operand(node, 1)?
        {
            let other = self.value(node, 1)?;
            return self.push(node, Op::MatMul(MatMul::default()), &[x, other]).map(Operand::Value);
        }
        let matrix = self.stored(node, 1)?;
        Ok(Operand::Product { x, matrix, node: node.name().to_owned() })
    }

    fn gemm(
        &mut self,
        name: &str,
        x: ValueId,
        matrix: &Stored,
        bias: Option<&Stored>,
    ) -> Result<ValueId, Problem> {
        let mut operands = vec![self.parameter(matrix, Role::Weight)?];
        if let Some(bias) = bias {
            operands.push(self.parameter(bias, Role::Weight)?);
        }
        let product = Op::Gemm(Gemm { trans_a: false, trans_b: matrix.transposed });
        self.by_rows(name, product, x, operands)
    }

    /// A product of x, perhaps of rows of tokens or pixels, with `operands`: one matrix of all of them.
    fn by_rows(
        &mut self,
        name: &str,
        product: Op,
        x: ValueId,
        operands: Vec<ValueId>,
    ) -> Result<ValueId, Problem> {
        let mut shape = self.shape(x).clone();
        let axis = shape.rank().saturating_sub(1);
        let rows = match axis {
            0 | 1 => x,
            _ => self.push_named(&format!("{name}.rows"), Op::Flatten { axis }, &[x])?,
        };
        let y = self.push_named(name, product, &[vec![rows], operands].concat())?;
        let (true, Some(width)) = (axis > 1, self.shape(y).0.last().cloned()) else { return Ok(y) };
        shape.0[axis] = width;
        self.push_named(&format!("{name}.shape"), Op::Reshape { shape }, &[y])
    }

    // ---- products of bytes ----

    /// DynamicQuantizeLinear: nothing is computed before the product that reads what it gives.
    fn dynamic_quantize(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = self.any(node, 0)?;
        for (output, part) in node.proto.output.iter().zip([Part::Bytes, Part::Scale, Part::ZeroPoint]) {
            self.operands.insert(output, Operand::Dynamic(Dynamic::Of { x, part }));
        }
        Ok(())
    }

    fn dynamic_sums(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let other =
            || node.unsupported("only bytes of DynamicQuantizeLinear times stored bytes are read", FLOAT);
        let Operand::Dynamic(Dynamic::Of { x, part: Part::Bytes }) = self.operand(node, 0)? else {
            return Err(other());
        };
        let zero_point = node.input(2).map(|_| self.operand(node, 2)).transpose()?;
        match zero_point {
            Some(Operand::Dynamic(Dynamic::Of { x: of, part: Part::ZeroPoint })) if of == x => {}
            _ => return Err(other()),
        }
        let mut matrix = self.stored(node, 1)?;
        if matrix.tensor.shape().len() != 2 || matrix.tensor.is_empty() {
            return Err(other());
        }
        let zeros = match node.input(3) {
            Some(_) => Some(self.stored(node, 3)?),
            None => None,
        };
        let zero_point = zeros
            .as_ref()
            .map_or(Some(0), |zeros| common(&zeros.tensor))
            .ok_or_else(|| node.unsupported("its weights do not lie around one zero point", FLOAT))?;
        let bytes = Rc::clone(&matrix.tensor);
        // Signed bytes do not hold all differences of bytes from a zero point that is not in their middle.
        let middle = [zero_point, if bytes.dtype() == DType::U8 { 128 } else { 0 }];
        let (mut less, mut made) = (0, None);
        for middle in middle {
            let way = format!("around {middle}");
            let place = node.place();
            let shifted = match self.derived.get(&(matrix.name.clone(), way.clone())) {
                Some(shifted) => Some(Rc::clone(shifted)),
                None => match centred(&bytes, middle) {
                    Some(tensor) => {
                        let len = bytes.len().div_ceil(4);
                        Some(self.once(&place, &matrix.name, way, len, |_| Ok(tensor))?)
                    }
                    None => None,
                },
            };
            if let Some(shifted) = shifted {
                (less, made) = (zero_point - middle, Some(shifted));
                break;
            }
        }
        matrix.tensor = made.ok_or_else(|| node.unsupported("its weights are no bytes", FLOAT))?;
        let less = f32::from(less);
        Ok(Operand::Dynamic(Dynamic::Sums { x, matrix, less }))
    }

    /// What a Mul makes of the scales or the sums of a product of bytes; `None` where it multiplies something else.
    fn dynamic_mul(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        for (index, other) in [(0, 1), (1, 0)] {
            let pair = (self.operand(node, index)?, self.operand(node, other)?);
            return Ok(Some(Operand::Dynamic(match pair {
                (Operand::Dynamic(Dynamic::Of { x, part: Part::Scale }), Operand::Stored(scale)) => {
                    Dynamic::Scales { x, scale }
                }
                (
                    Operand::Dynamic(Dynamic::Sums { x, matrix, less }),
                    Operand::Dynamic(Dynamic::Scales { x: of, scale }),
                ) if x == of => Dynamic::Product { x, matrix, less, scale, node: node.name().to_owned() },
                _ => continue,
            })));
        }
        Ok(None)
    }

    fn dynamic_product(
        &mut self,
        name: &str,
        x: ValueId,
        (matrix, less): (&Stored, f32),
        scale: &Stored,
        bias: Option<&Stored>,
    ) -> Result<ValueId, Problem> {
        let place = || format!("node `{name}` (MatMulInteger)");
        let key = (matrix.name.clone(), false, matrix.tensor.shape().to_vec());
        let weight = match self.parameters.get(&key) {
            Some(&id) => id,
            None => {
                let unused = self.names.unused(&matrix.name);
                let id =
                    self.graph.add_typed_parameter(&unused, DType::I8, matrix.tensor.shape(), Role::Weight);
                self.weights.insert(self.graph.value(id).name.clone(), Rc::clone(&matrix.tensor));
                self.parameters.insert(key, id);
                id
            }
        };
        let columns = matrix.tensor.shape()[usize::from(!matrix.transposed)];
        let mut scale = scale.clone();
        if scale.tensor.len() == 1 && columns != 1 {
            let one = self.floats(&scale)?.as_f32().map_or(1.0, |s| s[0]);
            let way = format!("{columns} times");
            scale.tensor =
                self.once(&place(), &scale.name, way, columns, |_| Ok(Tensor::full([columns], one)))?;
        }
        let scales = self.parameter(&scale, Role::Buffer)?;
        let mut operands = vec![weight, scales];
        if let Some(bias) = bias {
            operands.push(self.parameter(bias, Role::Weight)?);
        }
        let product = Op::DynamicQuantizeMatMul { trans_b: matrix.transposed };
        let y = self.by_rows(name, product, x, operands)?;
        if less == 0.0 {
            return Ok(y);
        }
        // Each weight is too large by `less`: so many times the sum of x's bytes.
        let width = matrix.tensor.shape()[usize::from(matrix.transposed)];
        let ones = self.ones(&place(), width)?;
        let times = self.names.unused(&format!("{name}.less"));
        let times = self.graph.add_parameter(&times, &[1], Role::Buffer);
        self.weights.insert(self.graph.value(times).name.clone(), Rc::new(Tensor::f32([1], vec![-less])));
        let sums = Op::DynamicQuantizeMatMul { trans_b: false };
        let sums = self.by_rows(&format!("{name}.sums"), sums, x, vec![ones, times])?;
        let sums =
            self.push_named(&format!("{name}.scaled_sums"), Op::Binary(Binary::Mul), &[sums, scales])?;
        self.push_named(&format!("{name}.shifted"), Op::Binary(Binary::Add), &[y, sums])
    }

    /// A column of bytes that are 1.
    fn ones(&mut self, place: &str, rows: usize) -> Result<ValueId, Problem> {
        let key = ("ones".to_owned(), true, vec![rows, 1]);
        if let Some(&id) = self.parameters.get(&key) {
            return Ok(id);
        }
        self.context.tensors.charge(place, rows, 1)?;
        let tensor = Tensor::new([rows, 1], Data::I8(vec![1; rows]));
        let tensor = tensor.map_err(|e| Problem::damaged(place, e.to_string()))?;
        let name = self.names.unused(&format!("ones_{rows}"));
        let id = self.graph.add_typed_parameter(&name, DType::I8, tensor.shape(), Role::Weight);
        self.weights.insert(self.graph.value(id).name.clone(), Rc::new(tensor));
        self.parameters.insert(key, id);
        Ok(id)
    }

    fn general_product(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if node.flag("transA") {
            return Err(node.unsupported("a transposed first operand is not read", SIMPLIFY));
        }
        let x = self.value(node, 0)?;
        if let Some(matrix) = self.dequantized(node, 1)? {
            return self.integer_product(node, x, matrix);
        }
        let mut matrix = self.scaled(node, 1, "alpha")?;
        matrix.transposed ^= node.flag("transB");
        let bias = match node.input(2) {
            Some(_) => {
                let columns = matrix.tensor.shape().get(usize::from(!matrix.transposed)).copied();
                Some(self.bias(node, columns.unwrap_or(0))?)
            }
            None => None,
        };
        self.gemm(node.name(), x, &matrix, bias.as_ref())
    }

    /// A Gemm whose matrix is stored as integers.
    fn integer_product(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        matrix: ValueId,
    ) -> Result<ValueId, Problem> {
        if ["alpha", "beta"].iter().any(|name| node.float(name).is_some_and(|x| x != 1.0)) {
            return Err(node.unsupported("factors of a quantized product are not read", FLOAT));
        }
        let mut inputs = vec![x, matrix];
        if node.input(2).is_some() {
            inputs.push(self.weight(node, 2)?);
        }
        self.push(node, Op::Gemm(Gemm { trans_a: false, trans_b: node.flag("transB") }), &inputs)
    }

    /// Input `index` times the attribute `name`, which is 1 in practice.
    fn scaled(&mut self, node: NodeView<'a>, index: usize, name: &str) -> Result<Stored, Problem> {
        let stored = self.stored(node, index)?;
        let factor = node.float(name).unwrap_or(1.0);
        if factor == 1.0 {
            return Ok(stored);
        }
        let floats = self.floats(&stored)?;
        // Another product may read the same tensor without the factor.
        let name = format!("{}*{factor}", stored.name);
        let tensor = self.once(&node.place(), &name, String::new(), floats.len(), |_| {
            let mut tensor = (*floats).clone();
            tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x *= factor);
            Ok(tensor)
        })?;
        Ok(Stored { name, tensor, ..stored })
    }

    /// Gemm's third input as one number for each of `columns`.
    fn bias(&mut self, node: NodeView<'a>, columns: usize) -> Result<Stored, Problem> {
        let stored = self.scaled(node, 2, "beta")?;
        if *stored.tensor.shape() == [columns] {
            return Ok(stored);
        }
        let floats = self.floats(&stored)?;
        let way = format!("a bias of {columns}");
        let tensor = self.once(&node.place(), &stored.name, way, columns, |_| {
            let tensor = match *floats.shape() {
                [1, n] if n == columns => (*floats).clone().reshape([n]).ok(),
                _ if floats.len() == 1 => floats.as_f32().map(|x| Tensor::full([columns], x[0])),
                _ => None,
            };
            tensor.ok_or_else(|| {
                let what = format!("a bias of {:?} does not fit {columns} outputs", floats.shape());
                node.unsupported(what, SIMPLIFY)
            })
        })?;
        Ok(Stored { tensor, ..stored })
    }

    /// A sum; of a product and a stored vector it is one Gemm.
    fn add(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        for (index, other) in [(0, 1), (1, 0)] {
            let name = node.required(index)?;
            let alone = self.context.uses.get(name) == Some(&1);
            let (product, Operand::Stored(bias)) = (self.operand(node, index)?, self.operand(node, other)?)
            else {
                continue;
            };
            let (Operand::Product { ref matrix, .. } | Operand::Dynamic(Dynamic::Product { ref matrix, .. })) =
                product
            else {
                continue;
            };
            let columns = matrix.tensor.shape().get(usize::from(!matrix.transposed));
            if !alone || bias.tensor.shape().first() != columns || bias.tensor.shape().len() != 1 {
                continue;
            }
            match product {
                Operand::Product { x, matrix, node } => {
                    return self.gemm(&node, x, &matrix, Some(&bias)).map(Operand::Value);
                }
                Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node }) => {
                    let product = self.dynamic_product(&node, x, (&matrix, less), &scale, Some(&bias));
                    return product.map(Operand::Value);
                }
                _ => {}
            }
        }
        self.binary(node, Op::Binary(Binary::Add), |x| x)
    }

    /// A sum or product of two values, or of a value and a stored tensor to which `f` was applied.
    fn binary(&mut self, node: NodeView<'a>, op: Op, f: fn(f32) -> f32) -> Result<Operand<'a>, Problem> {
        let commutes = matches!(node.op(), "Add" | "Mul");
        let mut last = [false; 2];
        for (index, last) in last.iter_mut().enumerate() {
            *last = matches!(self.operand(node, index)?, Operand::ChannelsLast(_));
        }
        let channels_last = last.contains(&true);
        let mut inputs = Vec::new();
        for index in 0..2 {
            let id = match self.operand(node, index)? {
                Operand::ChannelsLast(id) => id,
                Operand::Stored(s) if index == 1 || commutes => {
                    let s = if channels_last { self.channels_first(node, s)? } else { s };
                    self.term(node, &s, commutes, f)?
                }
                Operand::Numbers(n) if index == 1 || commutes => {
                    let what = "it computes with a size that is not known before the run";
                    let tensor = n.to_tensor().ok_or_else(|| node.unsupported(what, SIMPLIFY))?;
                    let name = node.required(index)?.to_owned();
                    let s = Stored { name, tensor: Rc::new(tensor), transposed: false, constant: true };
                    self.term(node, &s, commutes, f)?
                }
                _ if index == 1 && !commutes => {
                    return Err(node.unsupported("its second operand is not stored in the file", SIMPLIFY));
                }
                _ if channels_last => {
                    let what = "one operand has its channels last, the other has them first";
                    return Err(node.unsupported(what, SIMPLIFY));
                }
                _ => self.value(node, index)?,
            };
            inputs.push(id);
        }
        Ok(laid(self.push(node, op, &inputs)?, channels_last))
    }

    /// A stored operand of a picture with its channels last, for the same picture with its channels first: one number,
    /// or one a channel.
    fn channels_first(&mut self, node: NodeView<'a>, stored: Stored) -> Result<Stored, Problem> {
        let shape = stored.tensor.shape();
        let (channels, rest) = shape.split_last().map_or((1, &[][..]), |(&c, rest)| (c, rest));
        if stored.tensor.len() == 1 {
            return Ok(stored);
        }
        if shape.len() > 4 || rest.iter().any(|&d| d != 1) {
            let what = format!("an operand of {shape:?} with the channels last is not read");
            return Err(node.unsupported(what, SIMPLIFY));
        }
        let tensor = Rc::unwrap_or_clone(self.floats(&stored)?)
            .reshape([1, channels, 1, 1])
            .map_err(|e| node.damaged(e.to_string()))?;
        Ok(Stored { tensor: Rc::new(tensor), ..stored })
    }

    /// A stored operand of a sum or product: a parameter, or a constant where it is one in the file, is a single
    /// number, or is not used as it is.
    fn term(
        &mut self,
        node: NodeView<'a>,
        stored: &Stored,
        as_it_is: bool,
        f: fn(f32) -> f32,
    ) -> Result<ValueId, Problem> {
        if stored.transposed {
            return Err(node.unsupported("one of its operands is transposed in the graph", SIMPLIFY));
        }
        let number = stored.tensor.len() == 1 && !self.context.own;
        if as_it_is && !stored.constant && !number {
            return self.parameter(stored, Role::Weight);
        }
        let mut tensor = Rc::unwrap_or_clone(self.floats(stored)?);
        self.context.tensors.charge(&node.place(), tensor.len(), 4)?;
        tensor.as_f32_mut().into_iter().flatten().for_each(|x| *x = f(*x));
        let name = self.names.unused(&stored.name);
        Ok(self.graph.add_constant(&name, tensor))
    }

    fn reduce_mean(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let rank = self.shape(x).rank();
        let axes = self.ints(node, 1, "axes")?.unwrap_or_default();
        let mut axes = axes.iter().map(|&a| node.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        if rank == 3 && axes == [1] && node.int("keepdims", 1) == 0 && !channels_last {
            return self.mean_of_steps(node, x).map(Operand::Value);
        }
        if rank != 4 || axes != if channels_last { [1, 2] } else { [2, 3] } {
            return self.reduction(node, Reduce::Mean).map(Operand::Value);
        }
        let mean = self.push(node, Op::GlobalAveragePool, &[x])?;
        if node.int("keepdims", 1) != 0 {
            return Ok(laid(mean, channels_last));
        }
        let name = format!("{}.flatten", node.name());
        self.push_named(&name, Op::Flatten { axis: 1 }, &[mean]).map(Operand::Value)
    }

    /// Input 0 for an operator that lays its elements in a row: with channels last, of one pixel.
    fn flattened(&mut self, node: NodeView<'a>) -> Result<(ValueId, bool), Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let pixel = [Dim::Fixed(1), Dim::Fixed(1)];
        if channels_last && self.shape(x).0.get(2..) != Some(&pixel) {
            return Ok((self.value(node, 0)?, false));
        }
        Ok((x, channels_last))
    }

    fn flatten(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (mut x, channels_last) = self.flattened(node)?;
        let axis = node.axis(node.int("axis", 1), self.shape(x).rank())?;
        if channels_last && axis != 1 {
            x = self.value(node, 0)?;
        }
        self.push(node, Op::Flatten { axis }, &[x])
    }

    fn squeeze(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let shape = self.shape(x).clone();
        let ones = || {
            let is_one = |&axis: &usize| shape.0[axis] == Dim::Fixed(1);
            (0..shape.rank()).filter(is_one).map(|axis| axis as i64).collect()
        };
        let axes = self.ints(node, 1, "axes")?.unwrap_or_else(ones);
        let mut axes = axes.iter().map(|&a| node.place_of(a, shape.rank())).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        if channels_last {
            // The graph has its axes 1 and 2 behind the channels.
            axes = match axes[..] {
                [1, 2] => vec![2, 3],
                _ => return Err(node.unsupported("only a height and width of one are removed", SIMPLIFY)),
            };
        }
        if axes.iter().any(|&axis| shape.0[axis] != Dim::Fixed(1)) {
            let what = format!("only axes of one place are removed, the input is {shape}");
            return Err(node.unsupported(what, SIMPLIFY));
        }
        let kept = (0..shape.rank()).filter(|axis| !axes.contains(axis));
        let shape = Shape(kept.map(|axis| shape.0[axis].clone()).collect());
        self.reshape_to(node, x, shape)
    }

    /// A reshape to sizes that are known but for the batch and one that follows from the others. To [batch, everything
    /// else] it is a Flatten; to the shape it has already it is nothing.
    fn reshape(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let Operand::Stored(stored) = self.operand(node, 0)? {
            return self.reshaped_weight(node, stored);
        }
        let (x, _) = self.flattened(node)?;
        let dims = self.shape(x).0.clone();
        let numbers = match node.ints("shape") {
            Some(shape) => shape.iter().map(|&d| Number::Known(d as f64)).collect(),
            None => match self.numbers(node, 1)? {
                Some(numbers) => numbers.data,
                None => return Err(node.unsupported("its shape is not known before the run", SIMPLIFY)),
            },
        };
        let copies = !node.flag("allowzero");
        let mut target: Vec<Option<Dim>> = Vec::new();
        for (i, number) in numbers.into_iter().enumerate() {
            target.push(match number {
                Number::Size(dim) => Some(dim),
                Number::Known(-1.0) => None,
                Number::Known(0.0) if copies && i < dims.len() => Some(dims[i].clone()),
                Number::Known(n) if i == 0 && self.is_batch(dims.first(), n) => dims.first().cloned(),
                Number::Known(n) if (1.0..=MAX_ELEMENTS as f64).contains(&n) => Some(Dim::Fixed(n as usize)),
                Number::Known(_) | Number::Unknown => {
                    let what = "its shape is not known before the run";
                    return Err(node.unsupported(what, SIMPLIFY));
                }
            });
        }
        let counted_on = dims.iter().zip(&target).find_map(|pair| match pair {
            (dim @ Dim::Symbol(_), Some(Dim::Fixed(n))) if *dim != self.context.batch => {
                Some((dim.clone(), *n))
            }
            _ => None,
        });
        match Shape(dims).reshaped(&target) {
            Some(shape) => self.reshape_to(node, x, shape).map(Operand::Value),
            None => {
                self.context.counted_on.set(counted_on);
                let shape = self.shape(x);
                let what = format!("the input, {shape}, has not as many elements as its result");
                Err(node.unsupported(what, SIMPLIFY))
            }
        }
    }

    fn reshaped_weight(&mut self, node: NodeView<'a>, stored: Stored) -> Result<Operand<'a>, Problem> {
        let target = self.ints(node, 1, "shape")?.unwrap_or_default();
        let shape = reshaped(stored.tensor.shape(), &target, !node.flag("allowzero"));
        let shape = shape.filter(|_| !stored.transposed).ok_or_else(|| {
            let what = format!("a weight of {:?} does not take the shape {target:?}", stored.tensor.shape());
            node.unsupported(what, SIMPLIFY)
        })?;
        let name = node.proto.output.first().cloned().unwrap_or_default();
        let floats = Rc::unwrap_or_clone(self.floats(&stored)?);
        let tensor = floats.reshape(shape).map_err(|e| node.damaged(e.to_string()))?;
        Ok(Operand::Stored(Stored { name, tensor: Rc::new(tensor), ..stored }))
    }

    /// Whether `n`, which a file with a fixed batch wrote for `dim`, is the batch.
    fn is_batch(&self, dim: Option<&Dim>, n: f64) -> bool {
        dim == Some(&self.context.batch) && self.context.fixed_batch.is_some_and(|b| b as f64 == n)
    }
}

/// Zero points of integers.
/// An operator that computes something else in training.
fn in_training_mode(node: NodeView<'_>) -> Problem {
    node.unsupported(
        "it was exported in training mode",
        "Export in inference mode: call `model.eval()` first",
    )
}

fn zeros(dtype: DType, places: usize) -> Option<Tensor> {
    let data = match dtype {
        DType::U8 => Data::U8(vec![0; places]),
        DType::I8 => Data::I8(vec![0; places]),
        DType::I32 => Data::I32(vec![0; places]),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::I64 | DType::Bool => return None,
    };
    Tensor::new([places], data).ok()
}

/// The number that all zero points are.
fn common(zero_points: &Tensor) -> Option<i16> {
    let zeros: Vec<i16> = match zero_points.data() {
        Data::I8(zeros) => zeros.iter().map(|&z| z.into()).collect(),
        Data::U8(zeros) => zeros.iter().map(|&z| z.into()).collect(),
        _ => return None,
    };
    zeros.first().copied().filter(|first| zeros.iter().all(|z| z == first))
}

/// Bytes without their zero point, as signed ones; `None` where they are no bytes or do not fit.
fn centred(tensor: &Tensor, zero: i16) -> Option<Tensor> {
    let data: Vec<i8> = match tensor.data() {
        Data::I8(v) => v.iter().map(|&x| i8::try_from(i16::from(x) - zero).ok()).collect::<Option<_>>()?,
        Data::U8(v) => v.iter().map(|&x| i8::try_from(i16::from(x) - zero).ok()).collect::<Option<_>>()?,
        _ => return None,
    };
    Tensor::new(tensor.shape(), Data::I8(data)).ok()
}

/// A value under the layout that the file has it in.
fn laid<'a>(x: ValueId, channels_last: bool) -> Operand<'a> {
    if channels_last { Operand::ChannelsLast(x) } else { Operand::Value(x) }
}

/// The shape of a picture with its channels last.
fn channels_last(shape: &Shape) -> Shape {
    match &shape.0[..] {
        [n, c, rest @ ..] => Shape([n].into_iter().chain(rest).chain([c]).cloned().collect()),
        _ => shape.clone(),
    }
}

/// An f32 tensor with its axes in another order; `None` when `perm` is none.
pub(super) fn permuted(tensor: &Tensor, perm: &[i64]) -> Option<Tensor> {
    let shape = tensor.shape();
    let axes: Vec<usize> = perm.iter().map(|&a| usize::try_from(a).ok()).collect::<Option<_>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len()) {
        return None;
    }
    let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    let source = tensor.as_f32()?;
    let made: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
    let mut at = vec![0; made.len()];
    let mut data = Vec::with_capacity(source.len());
    for _ in 0..source.len() {
        data.push(source[at.iter().zip(&axes).map(|(i, &a)| i * strides[a]).sum::<usize>()]);
        for axis in (0..at.len()).rev() {
            at[axis] += 1;
            if at[axis] < made[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Some(Tensor::f32(made, data))
}

/// The part of a size that a file decides, whatever the sizes of the inputs are.
fn known_factor(dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(n) => *n,
        Dim::Symbol(_) => 1,
        Dim::Expr(e) if !dim.is_small(MAX_PARTS) || matches!(e.0, DimOp::Div | DimOp::Sub) => 1,
        Dim::Expr(e) => {
            let (a, b) = (known_factor(&e.1), known_factor(&e.2));
            if e.0 == DimOp::Mul { a.saturating_mul(b) } else { a.saturating_add(b) }
        }
    }
}

/// Whether a stored tensor may take part in arithmetic on sizes: a weight never does.
fn is_size(stored: &Stored) -> bool {
    let small = stored.tensor.len() <= MAX_NUMBERS && !stored.transposed;
    small
        && (stored.constant
            || matches!(stored.tensor.data(), Data::I64(_) | Data::I32(_))
            || stored.tensor.len() == 1)
}
