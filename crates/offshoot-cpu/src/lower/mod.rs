//! From a graph at given sizes to the steps of a plan. Rank-4 activations become NHWC here.

mod block;
mod conv;
mod elementwise;
mod loss;
mod norm;
mod pool;

use std::collections::HashMap;

use offshoot_graph::op::{FusedOp, GradOp, TrainOp};
use offshoot_graph::{Bindings, DType, ExecuteError, Graph, Node, Op, Parameter, Role, Source, ValueId};

use crate::kernels::Activation;
use crate::kernels::layout::{nchw_to_nhwc, nhwc_to_nchw};
use crate::kernels::simd::Isa;
use crate::plan::{BufferId, Memory, Place, Plan, Scratch, Step};
use crate::session::Filters;

/// Plans `graph` at the sizes of `bindings`. Frozen filters are packed into `filters` from `parameters`.
pub(crate) fn lower(
    graph: &Graph,
    bindings: &Bindings,
    isa: Isa,
    parameters: &[&[f32]],
    filters: &mut Filters,
) -> Result<Plan, ExecuteError> {
    let mut lowering = Lowering::new(graph, bindings, isa, parameters, filters)?;
    let blocks = lowering.blocks();
    for (index, node) in graph.nodes().iter().enumerate() {
        match blocks.chains.get(&index) {
            Some(&chain) => lowering.block(chain)?,
            None if blocks.inner.contains(&index) => {}
            None => lowering.node(node)?,
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

struct Lowering<'a> {
    graph: &'a Graph,
    isa: Isa,
    parameters: &'a [&'a [f32]],
    filters: &'a mut Filters,
    shapes: Vec<Vec<usize>>,
    /// Each buffer's place, or the length of one that is yet to be placed.
    buffers: Vec<Result<Place, usize>>,
    constants: Vec<Vec<f32>>,
    /// The buffers that hold a value so far.
    held: HashMap<(ValueId, Order), BufferId>,
    steps: Vec<Step>,
}

impl<'a> Lowering<'a> {
    fn new(
        graph: &'a Graph,
        bindings: &Bindings,
        isa: Isa,
        parameters: &'a [&'a [f32]],
        filters: &'a mut Filters,
    ) -> Result<Lowering<'a>, ExecuteError> {
        let shapes = graph.values().map(|(_, v)| v.shape.eval(bindings)).collect::<Result<Vec<_>, _>>()?;
        let mut lowering = Lowering {
            graph,
            isa,
            parameters,
            filters,
            shapes,
            buffers: Vec::new(),
            constants: Vec::new(),
            held: HashMap::new(),
            steps: Vec::new(),
        };
        let given = graph.inputs().iter().enumerate().map(|(i, &id)| (id, Place::Input(i)));
        for (id, place) in
            given.chain(graph.parameters().iter().enumerate().map(|(i, &id)| (id, Place::Parameter(i))))
        {
            lowering.hold(id, Order::Graph, Ok(place));
        }
        for (id, value) in graph.values() {
            if let Source::Constant(tensor) = &value.source {
                lowering.constants.push(tensor.as_f32().unwrap_or_default().to_vec());
                let place = Place::Constant(lowering.constants.len() - 1);
                lowering.hold(id, Order::Graph, Ok(place));
            }
        }
        Ok(lowering)
    }

    fn hold(&mut self, value: ValueId, order: Order, buffer: Result<Place, usize>) -> BufferId {
        self.buffers.push(buffer);
        let id = BufferId(self.buffers.len() - 1);
        self.held.insert((value, order), id);
        id
    }

    fn finish(mut self) -> Result<Plan, ExecuteError> {
        let mut outputs = Vec::new();
        for (name, value) in self.graph.outputs() {
            let mut id = self.plain(*value)?;
            if self.buffers[id.0].is_ok() {
                id = self.copy(id, self.len(*value));
            }
            outputs.push((name.clone(), self.shape(*value).to_vec(), id));
        }
        Ok(Plan::new(self.steps, self.buffers, self.constants, outputs))
    }

    /// A copy of somebody else's memory, for an output that is an input.
    fn copy(&mut self, from: BufferId, len: usize) -> BufferId {
        let to = self.fresh(len);
        self.push("copy", vec![from], vec![to], move |memory, _, out| {
            out[0].copy_from_slice(memory.get(from));
            Ok(())
        });
        to
    }

    fn fresh(&mut self, len: usize) -> BufferId {
        self.buffers.push(Err(len));
        BufferId(self.buffers.len() - 1)
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.shapes[value.index()]
    }

    /// The shape in memory: channels last for rank 4.
    fn memory_shape(&self, value: ValueId) -> Vec<usize> {
        match *self.shape(value) {
            [n, c, h, w] => vec![n, h, w, c],
            ref other => other.to_vec(),
        }
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
        matches!(
            self.graph.parameter_info(value),
            Some(Parameter { trainable: true, .. } | Parameter { role: Role::Buffer, .. })
        )
    }

    /// The elements of a parameter.
    fn parameter(&self, value: ValueId) -> Option<&'a [f32]> {
        let index = self.graph.parameters().iter().position(|&p| p == value)?;
        Some(self.parameters[index])
    }

    /// The place of an i64 input among the graph's inputs.
    fn i64_input(&self, node: &Node, value: ValueId) -> Result<usize, ExecuteError> {
        let index = self.graph.inputs().iter().position(|&i| i == value);
        index
            .filter(|_| self.graph.value(value).dtype == DType::I64)
            .ok_or_else(|| unsupported(node, "its labels or keys must be an i64 input of the graph".into()))
    }

    /// A value's elements in the order of the graph's axes.
    fn plain(&mut self, value: ValueId) -> Result<BufferId, ExecuteError> {
        self.in_order(value, Order::Graph)
    }

    /// A value's elements as kernels read them: channels last for rank 4.
    fn read(&mut self, value: ValueId) -> Result<BufferId, ExecuteError> {
        self.in_order(value, self.order_of_rank(value))
    }

    fn order_of_rank(&self, value: ValueId) -> Order {
        if self.shape(value).len() == 4 { Order::ChannelsLast } else { Order::Graph }
    }

    fn in_order(&mut self, value: ValueId, order: Order) -> Result<BufferId, ExecuteError> {
        if let Some(&id) = self.held.get(&(value, order)) {
            return Ok(id);
        }
        let other = if order == Order::Graph { Order::ChannelsLast } else { Order::Graph };
        let from = self.held[&(value, other)];
        let [n, c, h, w] = *self.shape(value) else { unreachable!("only rank 4 has two orders") };
        if c == 1 || h * w == 1 {
            self.held.insert((value, order), from);
            return Ok(from);
        }
        let to = self.hold(value, order, Err(n * c * h * w));
        self.push("layout", vec![from], vec![to], move |memory, _, out| {
            let convert = if order == Order::Graph { nhwc_to_nchw } else { nchw_to_nhwc };
            convert(n, c, h * w, memory.get(from), out[0]);
            Ok(())
        });
        Ok(to)
    }

    /// A new buffer for a value that a kernel makes.
    fn write(&mut self, value: ValueId) -> BufferId {
        self.hold(value, self.order_of_rank(value), Err(self.len(value)))
    }

    /// A new buffer for a value that a kernel makes in the order of the graph's axes.
    fn write_plain(&mut self, value: ValueId) -> BufferId {
        self.hold(value, Order::Graph, Err(self.len(value)))
    }

    /// Lets `value` be the elements that `id` holds.
    fn alias(&mut self, value: ValueId, order: Order, id: BufferId) {
        self.held.insert((value, order), id);
    }

    fn push(
        &mut self,
        node: &str,
        reads: Vec<BufferId>,
        writes: Vec<BufferId>,
        run: impl FnMut(&Memory<'_>, &mut Scratch, &mut [&mut [f32]]) -> Result<(), ExecuteError> + Send + 'static,
    ) {
        self.steps.push(Step { node: node.to_string(), reads, writes, run: Box::new(run) });
    }

    fn node(&mut self, node: &Node) -> Result<(), ExecuteError> {
        match &node.op {
            Op::Conv(conv) => self.conv(node, conv, Activation::None, false),
            Op::Fused(FusedOp::Conv { conv, residual, activation }) => {
                self.conv(node, conv, kernel_activation(*activation), *residual)
            }
            Op::Grad(GradOp::ConvInput { conv, .. }) => self.conv_input_grad(node, conv),
            Op::Grad(GradOp::ConvWeight { conv, .. }) => self.conv_weight_grad(node, conv),
            Op::Gemm(gemm) => self.gemm(node, *gemm),
            Op::Grad(GradOp::SumToChannels) => self.sum_to_channels(node),

            Op::BatchNormalization(norm) => self.batch_normalization(node, *norm),
            Op::Train(TrainOp::BatchNormStats(norm)) => self.batch_norm_stats(node, *norm),
            Op::Train(TrainOp::InvStd { epsilon }) => self.inv_std(node, *epsilon),
            Op::Train(TrainOp::BatchNormApply) => self.batch_norm_apply(node, Activation::None, false),
            Op::Fused(FusedOp::BatchNormApply { residual, activation }) => {
                self.batch_norm_apply(node, kernel_activation(*activation), *residual)
            }
            Op::Grad(GradOp::BatchNormReduce) => self.batch_norm_reduce(node),
            Op::Fused(FusedOp::BatchNormReduce { activation }) => {
                self.fused_batch_norm_reduce(node, kernel_activation(*activation))
            }
            Op::Grad(GradOp::BatchNormInput) => self.batch_norm_input(node),
            Op::Fused(FusedOp::BatchNormInput { activation }) => {
                self.fused_batch_norm_input(node, kernel_activation(*activation))
            }
            Op::Grad(GradOp::BatchNormScale) => self.batch_norm_scale(node),

            Op::Relu => self.activation(node, Activation::Relu),
            Op::Clip(clip) => self.activation(node, Activation::Clip { min: clip.min, max: clip.max }),
            Op::Sigmoid => self.sigmoid(node),
            Op::Grad(GradOp::Relu) => self.activation_grad(node, Activation::Relu),
            Op::Grad(GradOp::Clip(clip)) => {
                self.activation_grad(node, Activation::Clip { min: clip.min, max: clip.max })
            }
            Op::Grad(GradOp::Sigmoid) => self.sigmoid_grad(node),
            Op::Add => self.binary(node, crate::kernels::elementwise::Binary::Add),
            Op::Mul => self.binary(node, crate::kernels::elementwise::Binary::Mul),
            Op::Grad(GradOp::ReduceTo { .. }) => self.reduce_to(node),

            Op::MaxPool(pool) => self.max_pool(node, pool),
            Op::AveragePool(pool) => self.average_pool(node, pool),
            Op::GlobalAveragePool => self.global_average_pool(node),
            Op::Grad(GradOp::MaxPool(pool)) => self.max_pool_grad(node, pool),
            Op::Grad(GradOp::AveragePool { pool, .. }) => self.average_pool_grad(node, pool),
            Op::Grad(GradOp::GlobalAveragePool { .. }) => self.global_average_pool_grad(node),

            Op::Flatten { .. } | Op::Grad(GradOp::Reshape { .. }) => self.reshape(node),
            Op::Identity | Op::Dropout { .. } => {
                let order = self.order_of_rank(node.inputs[0]);
                let id = self.read(node.inputs[0])?;
                self.alias(node.outputs[0], order, id);
                Ok(())
            }
            Op::Train(TrainOp::Dropout { ratio, layer }) | Op::Grad(GradOp::Dropout { ratio, layer }) => {
                self.dropout(node, *ratio, *layer)
            }
            Op::Softmax { axis } => self.softmax(node, *axis),
            Op::Grad(GradOp::Softmax { axis }) => self.softmax_grad(node, *axis),
            Op::SoftmaxCrossEntropyLoss(loss) => self.cross_entropy(node, *loss),
            Op::Grad(GradOp::SoftmaxCrossEntropyLoss(loss)) => self.cross_entropy_grad(node, *loss),
        }
    }
}

fn unsupported(node: &Node, reason: String) -> ExecuteError {
    ExecuteError::Unsupported { node: node.name.clone(), op: node.op.name(), reason }
}

fn kernel_activation(activation: offshoot_graph::op::Activation) -> Activation {
    match activation {
        offshoot_graph::op::Activation::None => Activation::None,
        offshoot_graph::op::Activation::Relu => Activation::Relu,
        offshoot_graph::op::Activation::Clip(clip) => Activation::Clip { min: clip.min, max: clip.max },
    }
}
