//! Functions of elements, and reductions.

use offshoot_graph::Dim;
use offshoot_graph::op::{Binary, Clip, Reduce, Unary};

use super::layers::{activation, keep_dims, unfused, with_last};
use super::operands::{narrow, turned};
use super::{Job, Writer, refused};
use crate::error::Problem;
use crate::litert::flat::{Field, Fields};
use crate::litert::schema::Code;

/// Whether a function is written, and not what it consists of.
pub(super) fn is_written(unary: Unary) -> bool {
    match unary {
        Unary::HardSigmoid(_) | Unary::Silu | Unary::Mish | Unary::Reciprocal => false,
        Unary::Relu
        | Unary::Clip(_)
        | Unary::Sigmoid
        | Unary::HardSwish
        | Unary::Erf
        | Unary::Gelu
        | Unary::Tanh
        | Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Neg
        | Unary::Abs
        | Unary::Softplus
        | Unary::LeakyRelu(_)
        | Unary::Elu(_) => true,
    }
}

/// The operator of a function of two elements, and its options.
fn of_two(binary: Binary, job: &Job<'_>) -> (Code, Fields) {
    match binary {
        Binary::Add => (Code::Add, vec![activation(job, 0)]),
        Binary::Sub => (Code::Sub, unfused()),
        Binary::Mul => (Code::Mul, unfused()),
        Binary::Div => (Code::Div, unfused()),
        Binary::Max => (Code::Maximum, vec![]),
        Binary::Min => (Code::Minimum, vec![]),
        Binary::Pow => (Code::Pow, vec![]),
    }
}

impl Writer<'_> {
    pub(super) fn unary(&mut self, job: &Job<'_>, unary: Unary) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let (code, options) = match unary {
            Unary::Relu => (Code::Relu, vec![]),
            Unary::Clip(clip) => return self.clip(job, clip, &order),
            Unary::Sigmoid => (Code::Logistic, vec![]),
            Unary::HardSwish => (Code::HardSwish, vec![]),
            Unary::Gelu => (Code::Gelu, vec![(0, Field::Byte(0))]),
            Unary::Tanh => (Code::Tanh, vec![]),
            Unary::Exp => (Code::Exp, vec![]),
            Unary::Log => (Code::Log, vec![]),
            Unary::Sqrt => (Code::Sqrt, vec![]),
            Unary::Neg => (Code::Neg, vec![]),
            Unary::Abs => (Code::Abs, vec![]),
            Unary::LeakyRelu(leaky) => (Code::LeakyRelu, vec![(0, Field::Float(leaky.alpha))]),
            Unary::Elu(elu) if elu.alpha == 1.0 => (Code::Elu, vec![]),
            Unary::Elu(elu) => return self.elu(job, elu.alpha, &order),
            Unary::Softplus => return self.softplus(job, &order),
            Unary::Erf | Unary::HardSigmoid(_) | Unary::Silu | Unary::Mish | Unary::Reciprocal => {
                return Err(refused(node, "LiteRT has no such operator"));
            }
        };
        let x = self.floats_of(node, 0, &order)?;
        self.give(job, code, vec![x], &order, options)
    }

    fn clip(&mut self, job: &Job<'_>, clip: Clip, order: &[usize]) -> Result<(), Problem> {
        let node = job.node;
        let mut x = self.floats_of(node, 0, order)?;
        let whole = match (clip.min, clip.max) {
            (0.0, 6.0) => Some(Code::Relu6),
            (0.0, 1.0) => Some(Code::Relu0To1),
            (0.0, f32::INFINITY) => Some(Code::Relu),
            _ => None,
        };
        if let Some(code) = whole {
            return self.give(job, code, vec![x], order, vec![]);
        }
        let dims = turned(&self.dims(node.outputs[0]), order);
        let bounds = [(Code::Maximum, clip.min, f32::NEG_INFINITY), (Code::Minimum, clip.max, f32::INFINITY)];
        let bounds: Vec<_> = bounds.into_iter().filter(|(_, bound, free)| bound != free).collect();
        let Some(((code, bound, _), first)) = bounds.split_last() else {
            self.hold(job, x, order);
            return Ok(());
        };
        for (code, bound, _) in first {
            let bound = self.number(node, "min", *bound)?;
            x = self.step(&format!("{}.low", node.name), *code, vec![x, bound], &dims, vec![])?;
        }
        let bound = self.number(node, "bound", *bound)?;
        self.give(job, *code, vec![x, bound], order, vec![])
    }

    /// max(x, 0) + alpha (e^min(x, 0) - 1)
    fn elu(&mut self, job: &Job<'_>, alpha: f32, order: &[usize]) -> Result<(), Problem> {
        let node = job.node;
        let dims = turned(&self.dims(node.outputs[0]), order);
        let name = |part: &str| format!("{}.{part}", node.name);
        let x = self.floats_of(node, 0, order)?;
        let zero = self.number(node, "zero", 0.0)?;
        let low = self.step(&name("low"), Code::Minimum, vec![x, zero], &dims, vec![])?;
        let low = self.step(&name("curve"), Code::Elu, vec![low], &dims, vec![])?;
        let factor = self.number(node, "alpha", alpha)?;
        let low = self.step(&name("scaled"), Code::Mul, vec![low, factor], &dims, unfused())?;
        let high = self.step(&name("high"), Code::Relu, vec![x], &dims, vec![])?;
        self.give(job, Code::Add, vec![high, low], order, unfused())
    }

    /// max(x, 0) + log(1 + e^-|x|)
    fn softplus(&mut self, job: &Job<'_>, order: &[usize]) -> Result<(), Problem> {
        let node = job.node;
        let dims = turned(&self.dims(node.outputs[0]), order);
        let name = |part: &str| format!("{}.{part}", node.name);
        let x = self.floats_of(node, 0, order)?;
        let mut y = x;
        for (part, code) in [("size", Code::Abs), ("low", Code::Neg), ("power", Code::Exp)] {
            y = self.step(&name(part), code, vec![y], &dims, vec![])?;
        }
        let one = self.number(node, "one", 1.0)?;
        y = self.step(&name("sum"), Code::Add, vec![y, one], &dims, unfused())?;
        y = self.step(&name("log"), Code::Log, vec![y], &dims, vec![])?;
        let high = self.step(&name("high"), Code::Relu, vec![x], &dims, vec![])?;
        self.give(job, Code::Add, vec![high, y], order, unfused())
    }

    pub(super) fn binary(&mut self, job: &Job<'_>, binary: Binary) -> Result<(), Problem> {
        let node = job.node;
        let order = self.common_order(job);
        let (code, options) = of_two(binary, job);
        let inputs = match job.affine {
            Some(_) => vec![self.x(job, 0, &order)?, self.x(job, 1, &order)?],
            None => vec![self.floats_of(node, 0, &order)?, self.floats_of(node, 1, &order)?],
        };
        self.give(job, code, inputs, &order, options)
    }

    /// The order in which operands that are broadcast meet: that of the first one with all axes, unless another one that is
    /// computed has fewer.
    pub(super) fn common_order(&self, job: &Job<'_>) -> Vec<usize> {
        let rank = self.graph.value(job.target).shape.rank();
        let places: Vec<_> = job.node.inputs.iter().filter_map(|id| self.places.get(id)).collect();
        let first = places.iter().find(|place| place.order.len() == rank);
        match first.filter(|_| places.iter().all(|place| place.order.len() == rank)) {
            Some(place) => place.order.clone(),
            None => (0..rank).collect(),
        }
    }

    pub(super) fn reduce(&mut self, job: &Job<'_>, op: Reduce, axis: usize) -> Result<(), Problem> {
        let node = job.node;
        let order = self.order(node, 0).unwrap_or_else(|| self.plain_order(node.inputs[0]));
        let place = order.iter().position(|&own| own == axis).unwrap_or_default();
        let axis = self.list(&[narrow(place)?]);
        let mut x = self.floats_of(node, 0, &order)?;
        let code = match op {
            Reduce::Sum => Code::Sum,
            Reduce::Mean => Code::Mean,
            Reduce::Max => Code::ReduceMax,
            Reduce::Min => Code::ReduceMin,
            Reduce::L2 => {
                let dims = turned(&self.dims(node.inputs[0]), &order);
                let mut rows = dims.clone();
                rows[place] = Dim::Fixed(1);
                let name = |part: &str| format!("{}.{part}", node.name);
                x = self.step(&name("squares"), Code::Mul, vec![x, x], &dims, unfused())?;
                x = self.step(&name("sum"), Code::Sum, vec![x, axis], &rows, keep_dims())?;
                return self.give(job, Code::Sqrt, vec![x], &order, vec![]);
            }
        };
        self.give(job, code, vec![x, axis], &order, keep_dims())
    }

    /// LiteRT's goes along the last axis.
    pub(super) fn softmax(&mut self, job: &Job<'_>, axis: usize) -> Result<(), Problem> {
        let node = job.node;
        let rank = self.graph.value(job.target).shape.rank();
        let order = with_last(self.order(node, 0), rank, axis);
        let x = self.floats_of(node, 0, &order)?;
        self.give(job, Code::Softmax, vec![x], &order, vec![(0, Field::Float(1.0))])
    }
}
