//! From a graph at given sizes to the steps of a plan. Rank-4 activations become NHWC here.

mod attention;
mod block;
mod bytes;
mod concat;
mod conv;
mod dynamic;
mod elementwise;
mod filter;
mod integers;
mod lazy;
mod loss;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod sequence;
mod shape;
mod steps;
mod update;
mod views;
mod widened;

use std::collections::HashMap;
use std::sync::Arc;

use half::{bf16, f16};
use offshoot_graph::op::{GradOp, MatMul, Norm, Pooling, Recurrent, ShapeOp, TrainOp, Unary};
use offshoot_graph::{
    Bindings, DType, DimError, ExecuteError, Op, Operator, Parameter, Shape, Source, Tensor, ValueId,
};

use crate::filters::Filters;
use crate::kernels::Activation;
use crate::kernels::element::Element;
use crate::kernels::simd::Isa;
use crate::operands::AnyOperand;
use crate::optimize::{self, CpuOp};
use crate::plan::{Floats, Plan, PlanOutput, Step};

use concat::Concats;
use lazy::Lazy;
use views::Views;
use widened::Widened;

type Graph = offshoot_graph::Graph<CpuOp>;
type Node = offshoot_graph::Node<CpuOp>;

/// Plans `graph` at the sizes of `bindings`. Frozen filters are packed into `filters` from `parameters`.
pub(crate) fn lower(
    graph: &Graph,
    bindings: &Bindings,
    isa: Isa,
    parameters: &[&Tensor],
    filters: &mut Filters,
) -> Result<Plan, ExecuteError> {
    let mut lowering = Lowering::new(graph, bindings, isa, parameters, filters)?;
    let blocks = lowering.blocks();
    for (index, node) in graph.nodes().iter().enumerate() {
        lowering.current = lowering.work_of(node);
        match blocks.chains.get(&index) {
            Some(&chain) => lowering.block(chain)?,
            None if blocks.inner.contains(&index) => {}
            None => lowering.visit(index, node)?,
        }
    }
    lowering.finish()
}

/// The order of a rank-4 value's axes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    /// The graph's own: [N, C, H, W], or any other rank.
    Graph,
    /// [N, H, W, C].
    ChannelsLast,
}

impl Order {
    /// The shape in memory of a value of this shape.
    fn of(self, shape: Vec<usize>) -> Vec<usize> {
        match (self, &shape[..]) {
            (Order::ChannelsLast, &[n, c, h, w]) => vec![n, h, w, c],
            _ => shape,
        }
    }
}

/// What is being lowered: a node, or several as one.
#[derive(Clone, Default)]
struct Work {
    /// Its name.
    node: Arc<str>,
    operator: &'static str,
    /// Its operations, until the step that makes them has taken them.
    operations: u64,
}

struct Lowering<'a> {
    graph: &'a Graph,
    isa: Isa,
    parameters: &'a [&'a Tensor],
    filters: &'a mut Filters,
    shapes: Vec<Vec<usize>>,
    /// The node that is being lowered.
    current: Work,
    /// The bytes of each buffer.
    sizes: Vec<usize>,
    constants: Vec<Tensor>,
    /// What holds a value so far.
    held: HashMap<(ValueId, Order), AnyOperand>,
    /// What is computed where it is read.
    lazy: Lazy<'a>,
    /// Concatenations that are written part by part.
    concats: Concats,
    /// Values that are parts of others.
    views: Views,
    /// Casts in front of products.
    widened: Widened,
    steps: Vec<Step>,
}

impl<'a> Lowering<'a> {
    fn new(
        graph: &'a Graph,
        bindings: &Bindings,
        isa: Isa,
        parameters: &'a [&'a Tensor],
        filters: &'a mut Filters,
    ) -> Result<Lowering<'a>, ExecuteError> {
        let shapes = graph.values().map(|(_, v)| shape_of(&v.shape, bindings)).collect::<Result<_, _>>()?;
        let mut lowering = Lowering {
            graph,
            isa,
            parameters,
            filters,
            shapes,
            current: Work::default(),
            sizes: Vec::new(),
            constants: Vec::new(),
            held: HashMap::new(),
            lazy: Lazy::new(graph),
            concats: Concats::new(graph),
            views: Views::new(graph),
            widened: Widened::new(graph, isa),
            steps: Vec::new(),
        };
        for (index, &id) in graph.inputs().iter().enumerate() {
            lowering.alias(id, Order::Graph, AnyOperand::input(index, lowering.dtype(id)));
        }
        for (index, &id) in graph.parameters().iter().enumerate() {
            lowering.alias(id, Order::Graph, AnyOperand::parameter(index, lowering.dtype(id)));
        }
        for (id, value) in graph.values() {
            if let Source::Constant(tensor) = &value.source {
                let constant = lowering.constant(tensor.clone());
                lowering.alias(id, Order::Graph, constant);
            }
        }
        Ok(lowering)
    }

    /// A tensor known now.
    fn constant(&mut self, tensor: Tensor) -> AnyOperand {
        let dtype = tensor.dtype();
        self.constants.push(tensor);
        AnyOperand::constant(self.constants.len() - 1, dtype)
    }

    fn finish(mut self) -> Result<Plan, ExecuteError> {
        let mut outputs = Vec::new();
        for (name, value) in self.graph.outputs() {
            self.current = Work { node: name.as_str().into(), operator: "output", operations: 0 };
            let (floats, shape) = (self.output(*value)?, self.shape(*value).to_vec());
            outputs.push(PlanOutput { name: name.clone(), shape, floats });
        }
        let commits = self.commits()?;
        Ok(Plan::new(self.steps, &self.sizes, self.constants, outputs, commits))
    }

    /// The floats of an output of the graph, in a buffer.
    fn output(&mut self, value: ValueId) -> Result<Floats, ExecuteError> {
        let operand = self.any_in_order(value, Order::Graph)?;
        match (operand.dtype(), operand.slot()) {
            (DType::F32, Some(slot)) => Ok(Floats::F32(slot)),
            (DType::F64, Some(slot)) => Ok(Floats::F64(slot)),
            (DType::BF16, _) => self.copy::<bf16>(value),
            (DType::F16, _) => self.copy::<f16>(value),
            // An input, a parameter or a constant.
            (DType::F32, None) => self.copy::<f32>(value),
            (dtype @ (DType::U8 | DType::I8 | DType::I32 | DType::I64 | DType::F64 | DType::Bool), _) => {
                Err(self.refused(format!("it is {dtype}, and outputs are floats")))
            }
        }
    }

    fn copy<E: Element>(&mut self, value: ValueId) -> Result<Floats, ExecuteError> {
        let (from, len) = (self.plain::<E>(value)?, self.len(value));
        Ok(Floats::F32(self.cast::<E, f32>(from, len).slot()))
    }

    /// A node by itself.
    fn work_of(&self, node: &Node) -> Work {
        self.fused(node.op.name(), &[node])
    }

    /// Nodes that are lowered as one.
    fn fused(&self, operator: &'static str, nodes: &[&Node]) -> Work {
        let shapes = |ids: &[ValueId]| ids.iter().map(|&id| self.shape(id).to_vec()).collect::<Vec<_>>();
        let multiply_adds =
            |node: &&Node| node.op.multiply_adds(&shapes(&node.inputs), &shapes(&node.outputs));
        let operations = nodes.iter().map(multiply_adds).fold(0u64, u64::saturating_add).saturating_mul(2);
        let node = match nodes {
            [first, .., last] => format!("{} .. {}", first.name, last.name).into(),
            _ => nodes.iter().map(|node| node.name.as_str()).collect::<String>().into(),
        };
        Work { node, operator, operations }
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.shapes[value.index()]
    }

    /// The shape in memory of a value that is held in `order`.
    fn shape_in(&self, value: ValueId, order: Order) -> Vec<usize> {
        order.of(self.shape(value).to_vec())
    }

    fn dtype(&self, value: ValueId) -> DType {
        self.graph.value(value).dtype
    }

    fn len(&self, value: ValueId) -> usize {
        self.shape(value).iter().product()
    }

    /// [N, C, H, W] of a value; a rank-2 value is one pixel.
    fn picture(&self, node: &Node, value: ValueId) -> Result<[usize; 4], ExecuteError> {
        match *self.shape(value) {
            [n, c, h, w] => Ok([n, c, h, w]),
            [n, c] => Ok([n, c, 1, 1]),
            ref other => Err(unsupported(
                node,
                format!("its input has the shape {other:?}, not [N, C, H, W] or [N, C]"),
            )),
        }
    }

    /// Whether training changes a value between runs: a trainable parameter or a running statistic.
    fn changes(&self, value: ValueId) -> bool {
        self.graph.parameter_info(value).is_some_and(Parameter::changes)
    }

    /// The elements of an f32 parameter.
    fn parameter(&self, value: ValueId) -> Option<&'a [f32]> {
        self.parameter_tensor(value)?.as_f32()
    }

    fn parameter_tensor(&self, value: ValueId) -> Option<&'a Tensor> {
        let index = self.graph.parameters().iter().position(|&p| p == value)?;
        Some(self.parameters[index])
    }

    /// The tensor of a constant, or of a parameter that is frozen.
    fn known(&self, value: ValueId) -> Option<&Tensor> {
        if self.parameter_tensor(value).is_some() {
            return self.parameter_tensor(value).filter(|_| !self.changes(value));
        }
        let constant = self.held.get(&(value, Order::Graph))?.as_constant()?;
        Some(&self.constants[constant])
    }

    /// Lowers a node for the type of its activations, which is that of its first input.
    fn typed_node(&mut self, node: &Node) -> Result<(), ExecuteError> {
        match &node.op {
            CpuOp::Quantized(quantized) => return self.quantized(node, quantized),
            CpuOp::Plain(op) => {
                if let Some(done) = self.untyped_node(node, op) {
                    return done;
                }
            }
            CpuOp::Conv { .. }
            | CpuOp::Gemm { .. }
            | CpuOp::Attention(_)
            | CpuOp::AttentionGrad(_)
            | CpuOp::ChannelShuffle { .. }
            | CpuOp::GroupNorm { .. }
            | CpuOp::BatchNormApply { .. }
            | CpuOp::BatchNormReduce { .. }
            | CpuOp::BatchNormInput { .. } => {}
        }
        match (self.dtype(node.inputs[0]), node.op.plain()) {
            (DType::F32, _) => self.node::<f32>(node),
            (DType::BF16, _) => self.node::<bf16>(node),
            (DType::F16, _) => self.node::<f16>(node),
            (DType::U8, Some(op)) => self.integers(node, op),
            (DType::I64, Some(op)) => self.tokens(node, op),
            (other, _) => Err(unsupported(node, format!("there are no kernels for {other}"))),
        }
    }

    /// Lowers a node whose kernels do not go by the type of its first input, if it is one.
    fn untyped_node(&mut self, node: &Node, op: &Op) -> Option<Result<(), ExecuteError>> {
        if let Op::Sequence(op) = op {
            return Some(self.sequence(node, *op));
        }
        if let Op::Update(op) = op {
            return Some(self.update(node, *op));
        }
        let Op::DequantizeLinear { axis } = op else { return None };
        Some(self.dequantize(node, *axis))
    }

    /// The activation of a fused batch norm: one whose gradient passes or does not.
    fn gate(&self, node: &Node, activation: optimize::Activation) -> Result<Activation, ExecuteError> {
        match epilogue(activation) {
            (gate, None) => Ok(gate),
            (_, Some(_)) => Err(unsupported(node, format!("a batch norm does not apply {activation:?}"))),
        }
    }

    fn node<E: Element>(&mut self, node: &Node) -> Result<(), ExecuteError> {
        match &node.op {
            CpuOp::Plain(op) => self.plain_node::<E>(node, op),
            CpuOp::Quantized(quantized) => self.quantized(node, quantized),
            CpuOp::Conv { conv, residual, activation } => {
                self.conv::<E>(node, conv, epilogue(*activation), *residual)
            }
            CpuOp::Gemm { gemm, then } => self.gemm::<E>(node, *gemm, Some(*then)),
            CpuOp::Attention(op) => self.attention::<E>(node, *op),
            CpuOp::AttentionGrad(op) => self.attention_grad::<E>(node, *op),
            CpuOp::ChannelShuffle { groups } => self.channel_shuffle::<E>(node, *groups),
            CpuOp::GroupNorm { groups, epsilon } => self.group_norm(node, *groups, *epsilon),
            CpuOp::BatchNormApply { residual, activation } => {
                self.batch_norm_apply::<E>(node, self.gate(node, *activation)?, *residual)
            }
            CpuOp::BatchNormReduce { activation } => {
                self.fused_batch_norm_reduce::<E>(node, self.gate(node, *activation)?)
            }
            CpuOp::BatchNormInput { activation } => {
                self.fused_batch_norm_input::<E>(node, self.gate(node, *activation)?)
            }
        }
    }

    fn plain_node<E: Element>(&mut self, node: &Node, op: &Op) -> Result<(), ExecuteError> {
        match op {
            Op::Conv(conv) => self.conv::<E>(node, conv, (Activation::None, None), false),
            Op::Grad(GradOp::ConvInput { conv, .. }) => self.conv_input_grad::<E>(node, conv),
            Op::Grad(GradOp::ConvWeight { conv, .. }) => self.conv_weight_grad::<E>(node, conv),
            Op::Gemm(gemm) => self.gemm::<E>(node, *gemm, None),
            Op::MatMul(MatMul { trans_a, trans_b }) => self.matmul::<E>(node, [*trans_a, *trans_b]),
            Op::Grad(GradOp::SumToChannels) => self.sum_to_channels::<E>(node),

            Op::Norm(Norm::Batch(norm)) => self.batch_normalization::<E>(node, *norm),
            Op::Train(TrainOp::BatchNormStats(norm)) => self.batch_norm_stats::<E>(node, *norm),
            Op::Train(TrainOp::InvStd { epsilon }) => self.inv_std(node, *epsilon),
            Op::Train(TrainOp::BatchNormApply) => self.batch_norm_apply::<E>(node, Activation::None, false),
            Op::Grad(GradOp::BatchNormReduce) => self.batch_norm_reduce::<E>(node),
            Op::Grad(GradOp::BatchNormInput) => self.batch_norm_input::<E>(node),
            Op::Grad(GradOp::BatchNormScale) => self.batch_norm_scale::<E>(node),

            Op::Unary(op) => self.unary::<E>(node, *op),
            Op::Grad(GradOp::Unary(op)) => self.unary_grad::<E>(node, *op),
            Op::Binary(op) => self.binary::<E>(node, *op),
            Op::Grad(GradOp::Binary { op, slot }) => self.binary_grad::<E>(node, *op, *slot),
            Op::Reduce { op, axis } => self.reduce(node, *op, *axis),
            Op::Grad(GradOp::Reduce { op, axis }) => self.reduce_grad(node, *op, *axis),
            Op::Grad(GradOp::Gather { .. }) => self.gather_grad(node),
            Op::Grad(GradOp::ReduceTo { .. }) => self.reduce_to::<E>(node),

            Op::Pool(Pooling::Max(pool)) => self.max_pool::<E>(node, pool),
            Op::Pool(Pooling::Average(pool)) => self.average_pool::<E>(node, pool),
            Op::Pool(Pooling::GlobalAverage) => self.global_average_pool::<E>(node),
            Op::Grad(GradOp::MaxPool(pool)) => self.max_pool_grad::<E>(node, pool),
            Op::Grad(GradOp::AveragePool { pool, .. }) => self.average_pool_grad::<E>(node, pool),
            Op::Grad(GradOp::GlobalAveragePool { .. }) => self.global_average_pool_grad::<E>(node),

            Op::Norm(Norm::Layer(norm)) => self.layer_norm(node, *norm),
            Op::Grad(GradOp::LayerNormReduce(norm)) => self.layer_norm_reduce(node, *norm),
            Op::Grad(GradOp::LayerNormInput(norm)) => self.layer_norm_input(node, *norm),

            Op::Shape(ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. })
            | Op::Grad(GradOp::Reshape { .. }) => self.reshape(node),
            Op::Shape(ShapeOp::Transpose { perm }) => self.transpose::<E>(node, perm),
            Op::Shape(ShapeOp::Concat { axis }) => self.concat::<E>(node, *axis),
            Op::Shape(ShapeOp::Slice { axis, start, .. }) => self.slice(node, *axis, *start),
            Op::Grad(GradOp::Slice { axis, start, .. }) => self.slice_grad::<E>(node, *axis, *start),
            Op::Shape(ShapeOp::Expand { .. }) => self.expand::<E>(node),
            Op::Shape(ShapeOp::Identity) | Op::Dropout { .. } => {
                let view = self.view(node.inputs[0])?;
                self.set_view(node.outputs[0], &view, view.places.clone());
                Ok(())
            }
            Op::Train(TrainOp::Cast { to }) => self.cast_node::<E>(node, *to),
            Op::Train(TrainOp::Dropout { ratio, layer }) | Op::Grad(GradOp::Dropout { ratio, layer }) => {
                self.dropout::<E>(node, *ratio, *layer)
            }
            Op::Softmax { axis } => self.softmax(node, *axis),
            Op::Grad(GradOp::Softmax { axis }) => self.softmax_grad(node, *axis),
            Op::QuantizeLinear { axis } => self.quantize(node, *axis),
            Op::DequantizeLinear { axis } => self.dequantize(node, *axis),
            Op::DynamicQuantizeMatMul { trans_b } => self.dynamic_product(node, *trans_b),
            Op::Sequence(op) => self.sequence(node, *op),
            Op::Update(op) => self.update(node, *op),
            Op::Composite(_) => Err(unsupported(node, "it is to be expanded".into())),
            Op::Recurrent(Recurrent::Lstm(direction) | Recurrent::DynamicQuantizeLstm(direction)) => {
                self.lstm(node, *direction)
            }
            Op::Grad(GradOp::QuantizeLinear { axis }) => self.quantize_grad(node, *axis),
            Op::SoftmaxCrossEntropyLoss(loss) => self.cross_entropy(node, *loss),
            Op::Grad(GradOp::SoftmaxCrossEntropyLoss(loss)) => self.cross_entropy_grad(node, *loss),
        }
    }
}

/// More elements than a value can have in memory: a file may multiply the sizes of its inputs as often as it likes.
const MAX_ELEMENTS: usize = 1 << 32;

/// The numbers that a shape stands for.
fn shape_of(shape: &Shape, bindings: &Bindings) -> Result<Vec<usize>, DimError> {
    let numbers = shape.eval(bindings)?;
    let elements = numbers.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    match elements.filter(|&n| n <= MAX_ELEMENTS) {
        Some(_) => Ok(numbers),
        None => Err(DimError::Invalid(format!("{shape} = {numbers:?}"))),
    }
}

fn unsupported(node: &Node, reason: String) -> ExecuteError {
    ExecuteError::Unsupported { node: node.name.clone(), op: node.op.name(), reason }
}

/// What a kernel applies as it stores, and what is applied to its result in place after that.
fn epilogue(activation: optimize::Activation) -> (Activation, Option<Unary>) {
    match activation {
        optimize::Activation::None => (Activation::None, None),
        optimize::Activation::Relu => (Activation::Relu, None),
        optimize::Activation::Clip(clip) => (Activation::Clip { min: clip.min, max: clip.max }, None),
        optimize::Activation::Smooth(unary) => (Activation::None, Some(unary)),
    }
}
