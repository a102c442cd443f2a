//! ONNX nodes into ours, one operator at a time.

mod dynamic;
mod elementwise;
mod norms;
mod operand;
mod probe;
mod products;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod shape;
mod sizes;
mod split;
mod stored;
mod tables;
mod tokens;
mod window;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use offshoot_graph::op::{Binary, Reduce};
use offshoot_graph::{DType, Dim, Graph, Shape, Tensor, ValueId, Weights};

use self::operand::laid;
use self::probe::{Passing, Probed};
use self::reduce::Reduction;
pub(super) use self::stored::permuted;
use self::tables::Rows;
use super::MICROSOFT;
use super::attributes::NodeView;
use super::fold::Numbers;
use super::proto::TensorProto;
use super::tensors::TensorReader;
use crate::error::Problem;
use crate::import::{Comparison, Importer, Padded};

pub(super) const SIMPLIFY: &str = "Export the model in inference mode for a plain classifier of pictures, or simplify the file \
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
    /// A picture with a number around it, for the windows that read it; with its channels last in the file, if it says so.
    Padded { padded: Padded, node: NodeView<'a>, channels_last: bool },
    /// x times a matrix, for the Add of a bias that may read it.
    Product { x: ValueId, matrix: Stored, node: NodeView<'a> },
    /// On the way to a product with a matrix of bytes.
    Dynamic(Dynamic<'a>),
    /// One number everywhere, under a shape that is not all known: the states that an LSTM starts from, masks of nothing.
    Filled(Filled<'a>),
    /// Known now for each size of a batch.
    Probed(Rc<Probed>),
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
struct Filled<'a> {
    number: f32,
    /// `None` where it does not follow from the sizes of the inputs.
    shape: Option<Shape>,
    node: NodeView<'a>,
}

/// What stands behind the names in the nodes of [`Op::DynamicQuantizeMatMul`].
#[derive(Clone)]
enum Dynamic<'a> {
    /// An output of DynamicQuantizeLinear.
    Of { x: ValueId, part: Part },
    /// (bytes of x - their zero point) times a matrix of bytes, each of which is less by `less` than the file has it.
    Sums { x: ValueId, matrix: Stored, less: f32 },
    /// The scale of x's bytes times those of a matrix.
    Scales { x: ValueId, scale: Stored },
    /// The product, for the Add of a bias that may read it.
    Product { x: ValueId, matrix: Stored, less: f32, scale: Stored, node: NodeView<'a> },
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
    /// A size of the inputs that the file leaves open, and the number that it counts on nevertheless.
    pub(super) counted_on: &'a Cell<Option<(Dim, usize)>>,
}

/// The graph built so far.
pub(super) struct Translator<'a> {
    context: Context<'a>,
    pub(super) import: Importer,
    weights: BTreeMap<String, Rc<Tensor>>,
    /// Whether elements of another type were made f32.
    pub(super) converted: bool,
    /// Whether what the graph computes of weights was computed again before the run, so that nodes may be read by nothing.
    pub(super) recomputed: bool,
    operands: HashMap<&'a str, Operand<'a>>,
    /// Known tensors that some nodes are still to read.
    passing: HashMap<&'a str, Passing>,
    /// The nodes that compute of weights alone, by what they give.
    of_weights: HashMap<&'a str, NodeView<'a>>,
    /// How many of these stand behind each other.
    depths: HashMap<&'a str, usize>,
    /// Constants by name, element type and shape.
    constants: HashMap<(String, DType, Vec<usize>), ValueId>,
    /// Rows of tables of bytes, as floats of the same numbers.
    bytes: HashSet<ValueId>,
    /// What was made of a tensor of the file, by its name and by what was done: many nodes may share it.
    derived: HashMap<(String, String), Rc<Tensor>>,
}

impl<'a> Translator<'a> {
    pub(super) fn new(context: Context<'a>, import: Importer) -> Translator<'a> {
        Translator {
            context,
            import,
            weights: BTreeMap::new(),
            converted: false,
            recomputed: false,
            operands: HashMap::new(),
            passing: HashMap::new(),
            of_weights: HashMap::new(),
            depths: HashMap::new(),
            constants: HashMap::new(),
            bytes: HashSet::new(),
            derived: HashMap::new(),
        }
    }

    /// The graph and its weights.
    pub(super) fn finish(self) -> (Graph, Weights) {
        drop((self.operands, self.derived));
        let weights = self.weights.into_iter().map(|(name, t)| (name, Rc::unwrap_or_clone(t))).collect();
        (self.import.graph, weights)
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
        match self.lookup(name)? {
            Some(Operand::Product { x, matrix, node }) => self.gemm(node, x, &matrix, None),
            Some(Operand::Value(id)) => Ok(id),
            Some(Operand::Dynamic(Dynamic::Product { x, matrix, less, scale, node })) => {
                self.dynamic_product(node, x, (&matrix, less), &scale, None)
            }
            Some(Operand::Padded { padded, node, channels_last: false }) => {
                self.import.settle_padded(&node, padded)
            }
            Some(
                Operand::Stored(_)
                | Operand::Numbers(_)
                | Operand::Padded { .. }
                | Operand::ChannelsLast(_)
                | Operand::Dynamic(_)
                | Operand::Filled(_)
                | Operand::Probed(_)
                | Operand::Rows(_),
            )
            | None => {
                let place = format!("output `{name}`");
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
        match node.op() {
            "Split" => return self.split(node),
            "GRU" => return self.gru(node),
            _ => {}
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
            let again = matches!(operand, Operand::Value(_)) && self.is_of_weights(node);
            self.operands.insert(output, operand);
            if again {
                self.of_weights.insert(output, node);
                return Ok(());
            }
        }
        self.forget(node);
        Ok(())
    }

    /// What an operator that is read gives.
    fn operator(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let Some(result) = self.function(node)? {
            return Ok(result);
        }
        match node.op() {
            "Constant" => self.constant(node),
            "Identity" | "Cast" => self.alias(node),
            "Transpose" => self.transpose(node),
            "Pad" => self.pad(node),
            "Resize" | "Upsample" => self.resize(node),
            "MatMul" => self.matmul(node),
            "Reshape" => self.reshape(node),
            "Clip" => self.clip(node),
            "Max" => self.extreme(node, Binary::Max),
            "Min" => self.extreme(node, Binary::Min),
            "Dropout" => self.dropout(node),
            "Add" => self.add(node),
            "Mul" => self.product(node),
            "MatMulInteger" => self.dynamic_sums(node),
            "Sub" if !self.is_computed(node, 1)? => self.binary(node, Binary::Add, |x| -x),
            "Div" if !self.is_computed(node, 1)? => self.binary(node, Binary::Mul, |x| 1.0 / x),
            "ReduceMean" => self.reduce_mean(node),
            "QuantizeLinear" => self.quantize(node),
            "DequantizeLinear" => self.dequantize(node),
            "Gather" => self.gather(node),
            "BatchNormalization" => self.batch_norm(node),
            "Tile" => self.known_or(node, Self::tile),
            "Trilu" => self.known_or(node, Self::triangle),
            "ScatterND" | "ScatterElements" => self.known_or(node, Self::scatter),
            "GatherND" => self.known_or(node, Self::gather_rows),
            "CumSum" | "OneHot" | "EyeLike" | "Round" | "Sign" | "Sin" | "Cos" => {
                self.known_or(node, Self::computed)
            }
            "Range" => self.range(node),
            _ => self.computed(node).map(Operand::Value),
        }
    }

    /// What an operator gives that is never known before the run, with its axes as the file has them.
    fn computed(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        match node.op() {
            "Sub" => self.pairwise(node, Binary::Sub, 2),
            "Div" => self.pairwise(node, Binary::Div, 2),
            "Pow" => self.power(node),
            "Sum" => self.pairwise(node, Binary::Add, node.proto.input.len()),
            "Mean" => self.mean_of(node),
            "PRelu" => self.prelu(node),
            "Conv" => self.conv(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.global_pool(node, Reduce::Mean),
            "GlobalMaxPool" => self.global_pool(node, Reduce::Max),
            "Gemm" => self.general_product(node),
            "LayerNormalization" => self.layer_norm(node),
            "InstanceNormalization" => self.instance_norm(node),
            "GroupNormalization" => self.group_norm(node),
            "Softmax" => self.softmax(node, false),
            "LogSoftmax" => self.softmax(node, true),
            "Concat" => self.concat(node),
            "Slice" => self.slice(node),
            "Unsqueeze" => self.unsqueeze(node),
            "Squeeze" => self.squeeze(node),
            "SpaceToDepth" | "DepthToSpace" => self.blocks(node),
            "Einsum" => self.einsum(node),
            "Col2Im" => self.overlapped(node),
            "Attention" => self.attention(node),
            "Softsign" => self.softsign(node),
            "Expand" => self.expand(node),
            "Flatten" => self.flatten(node),
            "Equal" => self.equal(node),
            "Greater" => self.compare(node, Comparison::Greater),
            "Less" => self.compare(node, Comparison::Less),
            "GreaterOrEqual" => self.compare(node, Comparison::GreaterOrEqual),
            "LessOrEqual" => self.compare(node, Comparison::LessOrEqual),
            "Not" => self.not(node),
            "And" | "Or" | "Xor" => self.both_or_either(node),
            "Where" => self.choice(node),
            op => match Reduction::from_onnx(op) {
                Some(op) => self.reduction(node, op),
                None => Err(node.unsupported(
                    "this operator is not read",
                    "Give a PyTorch checkpoint with `{model} NAME {weights} FILE` where there is one; docs/features.md lists the \
                     operators that are read",
                )),
            },
        }
    }

    fn product(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if let Some(rows) = self.scaled_rows(node)? {
            return Ok(rows);
        }
        self.settle_rows(node)?;
        match self.dynamic_mul(node)? {
            Some(product) => Ok(product),
            None => self.binary(node, Binary::Mul, |x| x),
        }
    }
}

/// An operator that computes something else in training.
pub(super) fn in_training_mode(node: NodeView<'_>) -> Problem {
    node.unsupported(
        "it was exported in training mode",
        "Export in inference mode: call `model.eval()` first",
    )
}
