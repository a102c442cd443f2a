//! Our graph as TorchScript code.

mod composite;

use std::fmt::Write;

use offshoot_graph::op::{
    Attribute, AveragePool, BatchNormalization, Clip, Conv, Gemm, LayerNormalization, MatMul, Norm, Pool,
    Pooling, Recurrent, Reduce, SequenceOp, ShapeOp, Unary,
};
use offshoot_graph::{Dim, Graph, Node, Op, Shape, Source, ValueId};

pub(super) use self::composite::written;
use super::recurrent;
use super::tree::{Held, Module, Tree, is_word};
use crate::error::Problem;

/// The file of code, as a Python module.
pub(super) const MODULE: &str = "__torch__.offshoot";

const WAY_OUT: &str = "Export the model's own graph";

/// The code of a model.
pub(super) struct Printer<'a> {
    graph: &'a Graph,
    tree: &'a Tree,
    /// The constants that the code reads, in their order.
    pub(super) constants: Vec<ValueId>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(graph: &'a Graph, tree: &'a Tree) -> Printer<'a> {
        let constant = |id: &ValueId| matches!(graph.value(*id).source, Source::Constant(_));
        let constants = graph.values().map(|(id, _)| id).filter(constant).collect();
        Printer { graph, tree, constants }
    }

    /// Every class. `methods` are more methods of the outermost one, whose network has the name `network`.
    pub(super) fn code(&self, network: &str, attributes: &str, methods: &str) -> Result<String, Problem> {
        let mut code = String::new();
        for (index, module) in self.tree.modules.iter().enumerate() {
            self.declaration(module, &mut code);
            if index == 0 {
                code += attributes;
                code += &self.network(network)?;
                code += methods;
            } else if let Some(node) = module.node {
                code += &self.leaf(module, &self.graph.nodes()[node])?;
            }
        }
        code += &recurrent::functions(&code);
        Ok(code)
    }

    fn declaration(&self, module: &Module, code: &mut String) {
        let list = |wanted: fn(&Held) -> bool| {
            let names = module.tensors.iter().filter(|(_, held)| wanted(held));
            names.map(|(name, _)| format!("\"{name}\", ")).collect::<String>()
        };
        let parameters = list(|held| matches!(held, Held::Parameter(_, offshoot_graph::Role::Weight)));
        let buffers = list(|held| !matches!(held, Held::Parameter(_, offshoot_graph::Role::Weight)));
        *code += &format!("class {}(Module):\n", module.class);
        *code += &format!("  __parameters__ = [{parameters}]\n  __buffers__ = [{buffers}]\n");
        *code += "  training : bool\n  _is_full_backward_hook : Optional[bool]\n";
        let tensors = module.tensors.iter().map(|(name, _)| (name, "Tensor".to_owned()));
        let children = module
            .children
            .iter()
            .map(|(name, child)| (name, format!("{MODULE}.{}", self.tree.modules[*child].class)));
        for (name, class) in tensors.chain(children) {
            *code += &match is_word(name) {
                true => format!("  {name} : {class}\n"),
                false => format!("  __annotations__[\"{name}\"] = {class}\n"),
            };
        }
    }

    /// The method of a module that computes one node.
    fn leaf(&self, module: &Module, node: &Node) -> Result<String, Problem> {
        let parameters: Option<Vec<String>> = node
            .inputs
            .iter()
            .skip(1)
            .map(|&id| Some(super::tree::member("self", self.tree.attribute(id)?)))
            .collect();
        let inputs: Vec<String> =
            std::iter::once("input".to_owned()).chain(parameters.unwrap_or_default()).collect();
        let result = self.operator(node, &inputs)?;
        Ok(format!(
            "  def forward(self: {MODULE}.{},\n    input: Tensor) -> Tensor:\n    return {result}\n",
            module.class
        ))
    }

    /// The method that computes the whole graph.
    fn network(&self, name: &str) -> Result<String, Problem> {
        let mut code = format!("  def {name}(self: {MODULE}.Model,\n    input: Tensor) -> Tensor:\n");
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let inputs: Vec<String> = node.inputs.iter().map(|&id| self.name(id)).collect();
            let result = match (self.tree.owner(index), inputs.first()) {
                (Some(module), Some(input)) => format!("{module}.forward({input}, )"),
                _ => self.operator(node, &inputs)?,
            };
            let names: Vec<String> = node.outputs.iter().map(|&id| self.name(id)).collect();
            let names = if let [only] = &names[..] { only.clone() } else { names.join(", ") + "," };
            let _ = writeln!(code, "    {names} = {result}"); // a String takes every text
        }
        let [(_, output)] = self.graph.outputs() else {
            return Err(Problem::unsupported("graph", "it has not one output", WAY_OUT));
        };
        Ok(code + &format!("    return {}\n", self.name(*output)))
    }

    /// How the code of the outermost module calls a value.
    fn name(&self, id: ValueId) -> String {
        match &self.graph.value(id).source {
            Source::Input => "input".to_owned(),
            Source::Parameter(_) => self.tree.expression(id).unwrap_or_default(),
            Source::Constant(_) => {
                format!("CONSTANTS.c{}", self.constants.iter().position(|&c| c == id).unwrap_or_default())
            }
            Source::Node { node, output: 0 } => format!("x{}", node.index()),
            Source::Node { node, output } => format!("x{}_{output}", node.index()),
        }
    }

    /// Whether what is expanded has its first axis already, and that is no plain batch.
    fn keeps_first(&self, node: &Node, shape: &Shape) -> bool {
        let own = &self.graph.value(node.inputs[0]).shape;
        own.rank() == shape.rank()
            && own.0.first() == shape.0.first()
            && matches!(own.0.first(), Some(Dim::Expr(_)))
    }

    fn operator(&self, node: &Node, inputs: &[String]) -> Result<String, Problem> {
        let x = &inputs[0];
        let unsupported = |what: &str| {
            let place = format!("node `{}` ({})", node.name, node.op.name());
            Problem::unsupported(place, what, WAY_OUT)
        };
        Ok(match &node.op {
            Op::Conv(conv) => convolution(conv, inputs),
            Op::Gemm(gemm) => product(*gemm, inputs),
            Op::Norm(Norm::Batch(BatchNormalization { epsilon, momentum })) => {
                let [_, weight, bias, mean, var] = inputs else {
                    return Err(unsupported("it has not five inputs"));
                };
                let (momentum, epsilon) = (float(*momentum), float(*epsilon));
                format!(
                    "torch.batch_norm({x}, {weight}, {bias}, {mean}, {var}, False, {momentum}, {epsilon}, True)"
                )
            }
            Op::Unary(Unary::Clip(clip)) => clipped(*clip, x),
            Op::Unary(unary) => {
                function(*unary, x).ok_or_else(|| unsupported("PyTorch has no such function"))?
            }
            Op::Reduce { op: Reduce::L2, axis } => {
                format!("torch.linalg_vector_norm({x}, 2, [{axis}], True)")
            }
            Op::Reduce { op, axis } => format!("torch.{}({x}, [{axis}], True)", op.row().aten[0]),
            Op::Binary(binary) => format!("torch.{}({x}, {})", binary.row().aten[0], inputs[1]),
            Op::MatMul(MatMul { trans_a, trans_b }) => {
                let operand = |value: &str, transposed: bool| match transposed {
                    true => format!("torch.transpose({value}, -2, -1)"),
                    false => value.to_owned(),
                };
                format!("torch.matmul({}, {})", operand(x, *trans_a), operand(&inputs[1], *trans_b))
            }
            Op::Norm(Norm::Layer(LayerNormalization { epsilon })) => {
                let [_, weight, bias] = inputs else { return Err(unsupported("it has not three inputs")) };
                let width = self.graph.value(node.inputs[1]).shape.as_fixed().unwrap_or_default();
                format!("torch.layer_norm({x}, {width:?}, {weight}, {bias}, {}, True)", float(*epsilon))
            }
            Op::Shape(ShapeOp::Transpose { perm }) => format!("torch.permute({x}, {perm:?})"),
            Op::Shape(ShapeOp::Reshape { shape }) => match sizes(shape) {
                Some(sizes) => format!("torch.reshape({x}, {sizes:?})"),
                None => return Err(unsupported("its shape has more than one size that is not known")),
            },
            Op::Shape(ShapeOp::Concat { axis }) => format!("torch.cat([{}], {axis})", inputs.join(", ")),
            Op::Shape(ShapeOp::Slice { axis, start, end }) => {
                format!("torch.slice({x}, {axis}, {start}, {end}, 1)")
            }
            // As many windows of a batch as there are stay so many.
            Op::Shape(ShapeOp::Expand { shape }) if self.keeps_first(node, shape) => {
                let sizes =
                    sizes(shape).ok_or_else(|| unsupported("its shape has sizes that are not known"))?;
                format!("torch.expand({x}, {sizes:?})")
            }
            Op::Shape(ShapeOp::Expand { shape }) => match sizes(shape).as_deref() {
                Some([-1, rest @ ..]) if !rest.contains(&-1) && matches!(shape.0[0], Dim::Symbol(_)) => {
                    let rest: String = rest.iter().map(|n| format!(", {n}")).collect();
                    format!("torch.expand({x}, [torch.size(input, 0){rest}])")
                }
                Some(sizes) if !sizes.contains(&-1) => format!("torch.expand({x}, {sizes:?})"),
                Some(_) | None => return Err(unsupported("its shape has sizes that are not known")),
            },
            Op::Pool(Pooling::Max(pool)) => {
                let windows = windows(pool).ok_or_else(|| {
                    unsupported("PyTorch pads both sides alike, by at most half of the kernel")
                })?;
                format!("torch.max_pool2d({x}, {windows}, [1, 1], {})", truth(pool.ceil_mode))
            }
            Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad })) => {
                let windows = windows(pool).ok_or_else(|| {
                    unsupported("PyTorch pads both sides alike, by at most half of the kernel")
                })?;
                format!(
                    "torch.avg_pool2d({x}, {windows}, {}, {}, None)",
                    truth(pool.ceil_mode),
                    truth(*count_include_pad)
                )
            }
            Op::Pool(Pooling::GlobalAverage) => format!("torch.adaptive_avg_pool2d({x}, [1, 1])"),
            Op::Shape(ShapeOp::Flatten { axis: 1 }) => format!("torch.flatten({x}, 1)"),
            Op::Shape(ShapeOp::Flatten { .. }) => match sizes(&self.graph.value(node.outputs[0]).shape) {
                Some(sizes) => format!("torch.reshape({x}, {sizes:?})"),
                None => return Err(unsupported("both sizes of its result are not known")),
            },
            Op::Softmax { axis } => format!("torch.softmax({x}, {axis}, None)"),
            Op::Composite(composite) => {
                composite::call(composite, inputs).ok_or_else(|| unsupported("it is to be expanded"))?
            }
            Op::Sequence(SequenceOp::Where) => {
                let [_, a, b] = inputs else { return Err(unsupported("it has not three inputs")) };
                format!("torch.where(torch.ne({x}, 0), {a}, {b})")
            }
            Op::Recurrent(Recurrent::Lstm(direction)) => composite::recurrent("lstm", *direction, inputs),
            Op::Sequence(SequenceOp::Gather) => {
                let [_, indices] = inputs else { return Err(unsupported("it has not two inputs")) };
                format!("torch.embedding({x}, {indices}, -1, False, False)")
            }
            Op::Sequence(SequenceOp::Positions { .. } | SequenceOp::Equal { .. } | SequenceOp::ToFloat) => {
                return Err(unsupported("it is not written: export to ONNX"));
            }
            Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeMatMul { .. }
            | Op::Recurrent(Recurrent::DynamicQuantizeLstm(_)) => {
                return Err(unsupported("TorchScript of quantized models is not written: export to ONNX"));
            }
            Op::Shape(ShapeOp::Identity)
            | Op::Dropout { .. }
            | Op::SoftmaxCrossEntropyLoss(_)
            | Op::Train(_)
            | Op::Grad(_)
            | Op::Update(_) => return Err(unsupported("it belongs to training")),
        })
    }
}

/// The shortest decimals of a number: what people wrote, `1e-5` and not its nearest float32.
pub(super) fn float(x: f32) -> String {
    // Those of the largest lie above it, which PyTorch refuses.
    if x.abs() == f32::MAX { format!("{:?}", f64::from(x)) } else { format!("{x:?}") }
}

/// The sizes of a shape, -1 in the place of the one that is not known; `None` where more are.
fn sizes(shape: &Shape) -> Option<Vec<i64>> {
    let sizes: Vec<i64> = shape.0.iter().map(|d| d.fixed().map_or(-1, |n| n as i64)).collect();
    (sizes.iter().filter(|&&n| n == -1).count() < 2).then_some(sizes)
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn convolution(conv: &Conv, inputs: &[String]) -> String {
    let [top, left, bottom, right] = conv.pads;
    let bias = inputs.get(2).map_or("None", String::as_str);
    let (x, padding) = match (top, left) == (bottom, right) {
        true => (inputs[0].clone(), [top, left]),
        false => (
            format!("torch.pad({}, [{left}, {right}, {top}, {bottom}], \"constant\", 0.)", inputs[0]),
            [0, 0],
        ),
    };
    let Conv { strides, dilations, group, .. } = conv;
    format!("torch.conv2d({x}, {}, {bias}, {strides:?}, {padding:?}, {dilations:?}, {group})", inputs[1])
}

fn product(gemm: Gemm, inputs: &[String]) -> String {
    let x = if gemm.trans_a { format!("torch.t({})", inputs[0]) } else { inputs[0].clone() };
    match (gemm.trans_b, inputs.get(2)) {
        (true, Some(bias)) => format!("torch.linear({x}, {}, {bias})", inputs[1]),
        (true, None) => format!("torch.linear({x}, {}, None)", inputs[1]),
        (false, Some(bias)) => format!("torch.addmm({bias}, {x}, {})", inputs[1]),
        (false, None) => format!("torch.matmul({x}, {})", inputs[1]),
    }
}

/// Whether PyTorch has a function of one element, with these numbers.
pub(super) fn in_torch(unary: Unary) -> bool {
    let row = unary.row();
    let fits = |(a, number): (&Attribute, f32)| a.aten.is_some() || (number - a.aten_default).abs() < 1e-6;
    row.attributes.iter().zip(unary.numbers()).all(fits)
}

/// The call of a function of one element, with all of its arguments.
fn function(unary: Unary, x: &str) -> Option<String> {
    let row = unary.row();
    let given =
        row.attributes.iter().zip(unary.numbers()).filter_map(|(a, number)| Some((a.aten?.0, float(number))));
    let fixed = row.fixed.iter().map(|fixed| (fixed.place, format!("{:?}", fixed.value)));
    let mut arguments: Vec<(usize, String)> = given.chain(fixed).collect();
    arguments.sort_by_key(|(place, _)| *place);
    let arguments: String = arguments.into_iter().map(|(_, argument)| format!(", {argument}")).collect();
    in_torch(unary).then(|| format!("torch.{}({x}{arguments})", row.aten))
}

fn clipped(clip: Clip, x: &str) -> String {
    let bound = |x: f32| if x.is_finite() { float(x) } else { "None".to_owned() };
    match (clip.min.is_finite(), clip.max.is_finite()) {
        (true, true) => format!("torch.hardtanh({x}, {}, {})", bound(clip.min), bound(clip.max)),
        (false, false) => x.to_owned(),
        _ => format!("torch.clamp({x}, {}, {})", bound(clip.min), bound(clip.max)),
    }
}

/// Kernel, strides and padding, where PyTorch can say them.
fn windows(pool: &Pool) -> Option<String> {
    let [top, left, bottom, right] = pool.pads;
    let fits = (top, left) == (bottom, right) && top <= pool.kernel[0] / 2 && left <= pool.kernel[1] / 2;
    fits.then(|| format!("{:?}, {:?}, {:?}", pool.kernel, pool.strides, [top, left]))
}

/// The number of logits.
pub(super) fn classes(graph: &Graph) -> Option<usize> {
    let (_, output) = graph.outputs().first()?;
    graph.value(*output).shape.0.last().and_then(Dim::fixed)
}
