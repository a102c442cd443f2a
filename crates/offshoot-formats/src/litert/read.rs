//! A file of ours as a graph again: what proves that its bytes say what the model is.

mod elements;
mod layers;
mod moves;
mod values;

use std::collections::HashMap;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::op::{Clip, Unary};
use offshoot_graph::passes::{prune, recognize_gated};
use offshoot_graph::{Bindings, DType, Dim, Graph, Metadata, Model, Op, Shape, ValueId, Weights};

use super::WAY_OUT;
use super::file::{File, Operator, Tensor};
use super::schema::{Code, Fused, kind};
use crate::elements::check_activation;
use crate::error::Problem;
use crate::metadata;
use crate::parts::transposed;

pub(super) fn model(file: &File<'_>) -> Result<Model, Problem> {
    let damaged = |what: String| Problem::damaged("graph", what);
    let place = |tensor: usize| &file.tensors[tensor];
    let &[1, height, width, 3] = &place(file.input).sizes[..] else {
        return Err(Problem::unsupported("input", "it takes no RGB pictures, channels last", WAY_OUT));
    };
    let &[1, classes] = &place(file.output).sizes[..] else {
        return Err(Problem::unsupported("output", "it is not the logits of one picture", WAY_OUT));
    };
    if height != width || place(file.input).kind != kind::F32 {
        return Err(Problem::unsupported("input", "it takes no square pictures of f32", WAY_OUT));
    }
    let metadata = metadata::parse(file.json, "metadata", classes, Some(width))?;
    let mut reader = Reader::new(file, metadata);
    for (index, operator) in file.operators.iter().enumerate() {
        reader.operator(operator, index)?;
    }
    let end = Call::new(file, None, file.output, "output");
    let logits = reader.in_order(&end, file.output, &[0, 1])?;
    let Reader { mut graph, weights, metadata, .. } = reader;
    graph.add_output(OUTPUT, logits);
    let graph =
        prune(&graph).and_then(|graph| recognize_gated(&graph)).map_err(|e| damaged(e.to_string()))?;
    let weights = weights.into_iter().filter(|(name, _)| graph.find_parameter(name).is_some()).collect();
    Ok(Model { graph, weights, metadata })
}

/// What a tensor of the file stands for.
#[derive(Clone)]
enum Known {
    /// A value, and which of its axes each axis of the tensor is.
    Value { id: ValueId, order: Vec<usize> },
    /// Bytes, and their floats where something has read them.
    Bytes { levels: ValueId, scale: ValueId, zero: ValueId, order: Vec<usize>, float: Option<ValueId> },
    /// Numbers that are stored in f16.
    Numbers(Vec<f32>),
    /// Another tensor with something around it.
    Framed(Frame),
}

/// A tensor with more places before and behind it along its axes.
#[derive(Clone)]
struct Frame {
    tensor: usize,
    pads: Vec<[usize; 2]>,
    /// What they hold; `None`, less than everything else.
    number: Option<f32>,
}

struct Reader<'a> {
    file: &'a File<'a>,
    metadata: Metadata,
    graph: Graph,
    weights: Weights,
    known: HashMap<usize, Known>,
    /// Parameters that were made of stored tensors, in an order.
    parameters: HashMap<(usize, Vec<usize>), ValueId>,
    /// Values in other orders.
    turned: HashMap<(ValueId, Vec<usize>), ValueId>,
    /// Scales and zero points of bytes.
    affines: HashMap<(u32, i64), [ValueId; 2]>,
    /// How many bytes of stored numbers were read.
    read: usize,
}

/// An operator, and where it is for messages.
struct Call<'a> {
    operator: Option<&'a Operator<'a>>,
    output: &'a Tensor<'a>,
    index: usize,
    place: String,
}

impl<'a> Call<'a> {
    fn new(file: &'a File<'a>, operator: Option<&'a Operator<'a>>, tensor: usize, kind: &str) -> Call<'a> {
        let output = &file.tensors[tensor];
        let place = format!("`{}` ({kind})", output.name);
        Call { operator, output, index: tensor, place }
    }

    fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(&self.place, what)
    }

    fn foreign(&self, what: impl Into<String>) -> Problem {
        Problem::unsupported(&self.place, what, WAY_OUT)
    }

    fn inputs(&self) -> &'a [usize] {
        self.operator.map_or(&[], |operator| &operator.inputs)
    }

    /// The tensor that is operand `i`.
    fn tensor(&self, i: usize) -> Result<usize, Problem> {
        let missing = || self.damaged(format!("it has {} operands", self.inputs().len()));
        self.inputs().get(i).copied().ok_or_else(missing)
    }

    /// An option that is a byte.
    fn byte(&self, slot: u16) -> Result<u8, Problem> {
        let options = self.operator.and_then(|operator| operator.options);
        options.map_or(Ok(0), |table| table.byte(slot))
    }

    fn flag(&self, slot: u16) -> Result<bool, Problem> {
        self.byte(slot).map(|byte| byte != 0)
    }

    /// An option that is a size.
    fn size(&self, slot: u16, otherwise: i32) -> Result<usize, Problem> {
        let options = self.operator.and_then(|operator| operator.options);
        let number = options.map_or(Ok(otherwise), |table| table.int(slot, otherwise))?;
        let size = usize::try_from(number).ok().filter(|&n| n <= metadata::MAX_SIDE);
        size.ok_or_else(|| self.damaged(format!("{number} is no size")))
    }

    fn float(&self, slot: u16) -> Result<f32, Problem> {
        let options = self.operator.and_then(|operator| operator.options);
        options.map_or(Ok(0.0), |table| table.float(slot))
    }

    fn fused(&self, slot: u16) -> Result<Fused, Problem> {
        let number = self.byte(slot)?;
        Fused::from_number(number).ok_or_else(|| self.foreign(format!("activation {number} is not known")))
    }
}

impl<'a> Reader<'a> {
    fn new(file: &'a File<'a>, metadata: Metadata) -> Reader<'a> {
        let mut graph = Graph::new(metadata.architecture.clone().unwrap_or_default());
        let size = metadata.preprocessing.size;
        let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), size.into(), size.into()]);
        let id = graph.add_input(INPUT, DType::F32, shape);
        let known = HashMap::from([(file.input, Known::Value { id, order: CHANNELS_LAST.to_vec() })]);
        Reader {
            file,
            metadata,
            graph,
            weights: Weights::new(),
            known,
            parameters: HashMap::new(),
            turned: HashMap::new(),
            affines: HashMap::new(),
            read: 0,
        }
    }

    /// One row for each operator that the writer writes.
    fn operator(&mut self, operator: &'a Operator<'a>, index: usize) -> Result<(), Problem> {
        let code = operator.code;
        let mut call = Call::new(self.file, Some(operator), operator.output, code.row().name);
        call.place = format!("operator {index}, {}", call.place);
        let call = &call;
        match code {
            Code::Conv | Code::Depthwise => self.conv(call, code),
            Code::FullyConnected => self.linear(call),
            Code::BatchMatMul => self.product(call),
            Code::MaxPool => self.max_pool(call),
            Code::AveragePool => self.average_pool(call),
            Code::Mean | Code::Sum | Code::ReduceMax | Code::ReduceMin => self.reduce(call, code),
            Code::Add | Code::Sub | Code::Mul | Code::Div | Code::Maximum | Code::Minimum | Code::Pow => {
                self.binary(call, code)
            }
            Code::Logistic
            | Code::Relu
            | Code::Relu6
            | Code::Relu0To1
            | Code::Tanh
            | Code::Exp
            | Code::Neg
            | Code::Log
            | Code::Sqrt
            | Code::Rsqrt
            | Code::LeakyRelu
            | Code::Abs
            | Code::Elu
            | Code::HardSwish
            | Code::Gelu => self.unary(call, code),
            Code::Softmax => self.softmax(call),
            Code::Reshape => self.reshape(call),
            Code::Transpose => self.transpose(call),
            Code::Slice => self.slice(call),
            Code::Concat => self.concat(call),
            Code::Pad | Code::PadV2 => self.pad(call),
            Code::MirrorPad => self.mirror(call),
            Code::ResizeBilinear => self.resize(call),
            Code::Quantize => self.quantize(call),
            Code::Dequantize => self.dequantize(call),
        }
    }

    fn add(&mut self, call: &Call<'_>, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, Problem> {
        let id = self.graph.add(name, op, inputs).map_err(|e| call.damaged(e.to_string()))?;
        check_activation(&call.place, self.one_picture(id).into_iter())?;
        Ok(id)
    }

    /// Makes `id`, after an activation, what the call gives.
    fn give_fused(
        &mut self,
        call: &Call<'_>,
        id: ValueId,
        order: &[usize],
        fused: Fused,
    ) -> Result<(), Problem> {
        let unary = match fused {
            Fused::None => return self.give(call, id, order),
            Fused::Relu => Unary::Relu,
            Fused::Relu6 => Unary::Clip(Clip { min: 0.0, max: 6.0 }),
        };
        let id = self.add(call, &format!("{}.activation", call.output.name), Op::Unary(unary), &[id])?;
        self.give(call, id, order)
    }

    /// Makes `id` what the call gives.
    fn give(&mut self, call: &Call<'_>, id: ValueId, order: &[usize]) -> Result<(), Problem> {
        let order = order.to_vec();
        let known = match call.output.kind {
            kind::F32 => Known::Value { id, order },
            kind::I8 => {
                let [scale, zero] = self.affine(call, call.output)?;
                let op = Op::QuantizeLinear { axis: 0 };
                let levels =
                    self.add(call, &format!("{}.levels", call.output.name), op, &[id, scale, zero])?;
                Known::Bytes { levels, scale, zero, order, float: None }
            }
            other => return Err(call.foreign(format!("its result is of type {other}"))),
        };
        self.know(call, known, id)
    }

    /// Notes what the call's result is, whose sizes are those of `id`.
    fn know(&mut self, call: &Call<'_>, known: Known, id: ValueId) -> Result<(), Problem> {
        let sizes = self.one_picture(id);
        let order = match &known {
            Known::Value { order, .. } | Known::Bytes { order, .. } => Some(order),
            Known::Numbers(_) | Known::Framed(_) => None,
        };
        let as_stated = order.is_none_or(|order| {
            order.len() == sizes.len()
                && order.iter().map(|&axis| sizes[axis]).eq(call.output.sizes.iter().copied())
        });
        if !as_stated {
            return Err(call.damaged("it has other sizes than those that the file says"));
        }
        self.insert(call, known)
    }

    fn insert(&mut self, call: &Call<'_>, known: Known) -> Result<(), Problem> {
        match (self.known.insert(call.index, known), call.output.data) {
            (None, None) => Ok(()),
            _ => Err(call.damaged("its result is known before")),
        }
    }

    /// A value's sizes for one picture.
    fn one_picture(&self, id: ValueId) -> Vec<usize> {
        let one = Bindings::from([(BATCH.to_owned(), 1)]);
        self.graph.value(id).shape.eval(&one).unwrap_or_default()
    }
}

/// The order of axes that LiteRT's operators on pictures take.
const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

fn plain(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}
