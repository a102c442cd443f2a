//! Convolutions, matrix products and norms.

use offshoot_graph::Dim;
use offshoot_graph::op::{Conv, Gemm};

use super::operands::{CHANNELS_LAST, narrow, plain, turned};
use super::windows::{Border, Windows};
use super::{Job, Writer, place, refused};
use crate::error::Problem;
use crate::litert::flat::{Field, Fields};
use crate::litert::schema::{Code, slot};

/// What an operator that can apply an activation says of it.
pub(super) fn activation(job: &Job<'_>, slot: u16) -> (u16, Field) {
    (slot, Field::Byte(job.fused.number()))
}

impl Writer<'_> {
    pub(super) fn conv(&mut self, job: &Job<'_>, conv: &Conv) -> Result<(), Problem> {
        let node = job.node;
        let filter = self.graph.value(node.inputs[1]).shape.as_fixed();
        let Some(filter) = filter.filter(|_| self.is_stored(node.inputs[1])) else {
            return Err(refused(node, "LiteRT wants its filter to be a constant"));
        };
        let windows = Windows {
            kernel: [filter[2], filter[3]],
            strides: conv.strides,
            dilations: conv.dilations,
            pads: conv.pads,
        };
        let (x, padding) = self.padded(job, &windows, Border::Zeros)?;
        let channels = self.dims(node.inputs[0])[1].fixed();
        let depthwise = filter[1] == 1 && channels == Some(conv.group) && conv.group > 1;
        let (perm, axis) = if depthwise { ([1, 2, 3, 0], 3) } else { ([0, 2, 3, 1], 0) };
        let [weight, bias] = match job.affine {
            Some(_) => self.integer_weights(job, [&filter, &perm], axis)?,
            None => [self.constant(node, 1, &filter, &perm)?, self.bias(job, filter[0])?],
        };
        let (mut options, code): (Fields, Code) = (windows.options(padding)?, Code::Conv);
        let [down, across] = conv.dilations;
        let (down, across) = (Field::Int(narrow(down)?), Field::Int(narrow(across)?));
        if !depthwise {
            options.push(activation(job, slot::conv::ACTIVATION));
            options.extend([(slot::conv::DILATION_W, across), (slot::conv::DILATION_H, down)]);
            return self.give(job, code, vec![x, weight, bias], &CHANNELS_LAST, options);
        }
        let multiplier = narrow(filter[0] / conv.group)?;
        options.push((slot::depthwise::MULTIPLIER, Field::Int(multiplier)));
        options.push(activation(job, slot::depthwise::ACTIVATION));
        options.extend([(slot::depthwise::DILATION_W, across), (slot::depthwise::DILATION_H, down)]);
        self.give(job, Code::Depthwise, vec![x, weight, bias], &CHANNELS_LAST, options)
    }

    /// The bias of a layer, zeros where it has none: older programs want one.
    fn bias(&mut self, job: &Job<'_>, channels: usize) -> Result<i32, Problem> {
        let node = job.node;
        match node.inputs.len() {
            3 if self.is_stored(node.inputs[2]) => self.constant(node, 2, &[channels], &[0]),
            3 => Err(refused(node, "LiteRT wants its bias to be a constant")),
            _ => self.store(&place(node), &format!("{}.zeros", node.name), &[channels], &vec![0.0; channels]),
        }
    }

    /// A linear layer where the second matrix is stored, else a product.
    pub(super) fn gemm(&mut self, job: &Job<'_>, gemm: Gemm) -> Result<(), Problem> {
        let node = job.node;
        if self.is_linear(node) {
            return self.linear(job, gemm);
        }
        if node.inputs.len() == 2 {
            return self.product(job, [gemm.trans_a, gemm.trans_b]);
        }
        let dims = self.dims(node.outputs[0]);
        let inputs = self.factors(job, [gemm.trans_a, gemm.trans_b])?;
        let name = format!("{}.product", node.name);
        let product = self.step(&name, Code::BatchMatMul, inputs, &dims, products([false; 2]))?;
        let c = self.floats_of(node, 2, &[0, 1])?;
        self.give(job, Code::Add, vec![product, c], &[0, 1], vec![activation(job, 0)])
    }

    fn linear(&mut self, job: &Job<'_>, gemm: Gemm) -> Result<(), Problem> {
        let node = job.node;
        // The first matrix is read turned where it is used so.
        let order = if gemm.trans_a { [1, 0] } else { [0, 1] };
        let x = self.x(job, 0, &order)?;
        let matrix = self.graph.value(node.inputs[1]).shape.as_fixed();
        let matrix = matrix.ok_or_else(|| refused(node, "the sizes of its weight are not known"))?;
        let perm = if gemm.trans_b { [0, 1] } else { [1, 0] };
        let columns = matrix[perm[0]];
        let [weight, bias] = match job.affine {
            Some(_) => self.integer_weights(job, [&matrix, &perm], 0)?,
            None => [self.constant(node, 1, &matrix, &perm)?, self.bias(job, columns)?],
        };
        let options = vec![activation(job, 0)];
        self.give(job, Code::FullyConnected, vec![x, weight, bias], &[0, 1], options)
    }

    /// The product of the first two inputs, each transposed or not.
    pub(super) fn product(&mut self, job: &Job<'_>, transposed: [bool; 2]) -> Result<(), Problem> {
        let order = self.plain_order(job.target);
        let inputs = self.factors(job, transposed)?;
        self.give(job, Code::BatchMatMul, inputs, &order, products([false; 2]))
    }

    /// The factors as they are multiplied.
    fn factors(&mut self, job: &Job<'_>, transposed: [bool; 2]) -> Result<Vec<i32>, Problem> {
        let factor = |(i, transposed): (usize, bool)| {
            let mut order = self.plain_order(job.node.inputs[i]);
            let rank = order.len();
            if transposed {
                order.swap(rank - 2, rank - 1);
            }
            self.floats_of(job.node, i, &order)
        };
        transposed.into_iter().enumerate().map(factor).collect()
    }

    /// A batch norm that no convolution takes up: a factor and a sum for each channel.
    pub(super) fn batch_norm(&mut self, job: &Job<'_>, epsilon: f32) -> Result<(), Problem> {
        let node = job.node;
        let [weight, bias, mean, variance] = {
            let numbers = |i| self.numbers(node, i).map(|(numbers, _)| numbers);
            [numbers(1)?, numbers(2)?, numbers(3)?, numbers(4)?]
        };
        let scale: Vec<f32> = weight.iter().zip(&variance).map(|(w, v)| w / (v + epsilon).sqrt()).collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect::<Vec<f32>>();
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let mut sizes = vec![1; order.len()];
        sizes[1] = scale.len();
        let sizes = turned(&sizes, &order);
        let x = self.floats_of(node, 0, &order)?;
        let (name, at) = (node.name.clone(), place(node));
        let scale = self.store(&at, &format!("{name}.scale"), &sizes, &scale)?;
        let shift = self.store(&at, &format!("{name}.shift"), &sizes, &shift)?;
        let dims = turned(&self.dims(node.outputs[0]), &order);
        let scaled = self.step(&format!("{name}.scaled"), Code::Mul, vec![x, scale], &dims, unfused())?;
        self.give(job, Code::Add, vec![scaled, shift], &order, unfused())
    }

    /// A norm of the last axis, which LiteRT has no operator for.
    pub(super) fn layer_norm(&mut self, job: &Job<'_>, epsilon: f32) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let last = order.iter().position(|&axis| axis + 1 == order.len()).unwrap_or_default();
        let dims = turned(&self.dims(node.outputs[0]), &order);
        let mut rows = dims.clone();
        rows[last] = Dim::Fixed(1);
        let name = |part: &str| format!("{}.{part}", node.name);
        let axis = self.list(&[narrow(last)?]);
        let x = self.floats_of(node, 0, &order)?;
        let mean = self.step(&name("mean"), Code::Mean, vec![x, axis], &rows, keep_dims())?;
        let centered = self.step(&name("centered"), Code::Sub, vec![x, mean], &dims, unfused())?;
        let squares = vec![centered, centered];
        let squares = self.step(&name("squares"), Code::Mul, squares, &dims, unfused())?;
        let variance = self.step(&name("variance"), Code::Mean, vec![squares, axis], &rows, keep_dims())?;
        let epsilon = self.number(node, "epsilon", epsilon)?;
        let sum = self.step(&name("sum"), Code::Add, vec![variance, epsilon], &rows, unfused())?;
        let inverse = self.step(&name("inverse"), Code::Rsqrt, vec![sum], &rows, vec![])?;
        let unit = self.step(&name("unit"), Code::Mul, vec![centered, inverse], &dims, unfused())?;
        let weight = self.floats_of(node, 1, &order)?;
        let scaled = self.step(&name("scaled"), Code::Mul, vec![unit, weight], &dims, unfused())?;
        let bias = self.floats_of(node, 2, &order)?;
        self.give(job, Code::Add, vec![scaled, bias], &order, unfused())
    }
}

/// Options of an operator without an activation.
pub(super) fn unfused() -> Fields {
    vec![(0, Field::Byte(0))]
}

/// Options of a reduction whose axis stays.
pub(super) fn keep_dims() -> Fields {
    vec![(0, Field::Byte(1))]
}

fn products([a, b]: [bool; 2]) -> Fields {
    vec![(0, Field::Byte(a.into())), (1, Field::Byte(b.into()))]
}

/// The order that a value's axes stand in, in which `last` is the last one.
pub(super) fn with_last(order: Option<Vec<usize>>, rank: usize, last: usize) -> Vec<usize> {
    let mut order = order.unwrap_or_else(|| plain(rank));
    order.retain(|&axis| axis != last);
    order.push(last);
    order
}
