//! Windows over pictures. LiteRT pads them by a rule of its own or not at all: other padding is an operator.

use offshoot_graph::op::{AveragePool, Pool, Pooling, ShapeOp};
use offshoot_graph::{Data, Dim, Node, Op, ValueId};

use super::layers::{keep_dims, unfused};
use super::operands::{CHANNELS_LAST, narrow, turned};
use super::{Job, Writer, place, refused};
use crate::error::Problem;
use crate::litert::flat::{Field, Fields};
use crate::litert::schema::{Code, padding, slot};

/// Windows of a convolution or a pool: rows and columns.
pub(super) struct Windows {
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    /// Top, left, bottom, right.
    pub(super) pads: [usize; 4],
}

/// What stands around a picture before its windows are taken: the padding that windows reach, before and behind, of rows and
/// columns.
struct Around {
    pads: [[usize; 2]; 2],
    /// Whether it is what LiteRT's own rule gives.
    same: bool,
}

impl Windows {
    pub(super) fn of(pool: &Pool) -> Windows {
        Windows { kernel: pool.kernel, strides: pool.strides, dilations: [1, 1], pads: pool.pads }
    }

    /// The options that convolutions and pools share.
    pub(super) fn options(&self, padding: u8) -> Result<Fields, Problem> {
        Ok(vec![
            (slot::conv::PADDING, Field::Byte(padding)),
            (slot::conv::STRIDE_W, Field::Int(narrow(self.strides[1])?)),
            (slot::conv::STRIDE_H, Field::Int(narrow(self.strides[0])?)),
        ])
    }

    /// For pictures of `from` rows and columns and `to` windows.
    fn around(&self, from: [usize; 2], to: [usize; 2]) -> Option<Around> {
        let (mut pads, mut same) = ([[0; 2]; 2], true);
        for axis in 0..2 {
            let span =
                (self.kernel[axis].checked_sub(1)?).checked_mul(self.dilations[axis])?.checked_add(1)?;
            let reach = (to[axis].checked_sub(1)?).checked_mul(self.strides[axis])?.checked_add(span)?;
            let before = self.pads[axis];
            let missing = reach.saturating_sub(from[axis]);
            same &= to[axis] == from[axis].div_ceil(self.strides[axis].max(1)) && before == missing / 2;
            pads[axis] = [before, missing.saturating_sub(before)];
        }
        Some(Around { pads, same })
    }
}

/// What is around a picture.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Zeros, or what LiteRT's own operator takes for them.
    Zeros,
    /// Zeros that a mean counts.
    Counted,
    /// Less than everything else.
    Least,
}

impl Writer<'_> {
    /// The rows and columns of a node's first operand and of its result, which must be known.
    fn sides(&self, node: &Node) -> Result<[[usize; 2]; 2], Problem> {
        let sides = |id: ValueId| {
            let dims = self.dims(id);
            Some([dims.get(2)?.fixed()?, dims.get(3)?.fixed()?])
        };
        let both = sides(node.inputs[0]).zip(sides(node.outputs[0]));
        let (from, to) = both.ok_or_else(|| refused(node, "its pictures are not of one size"))?;
        Ok([from, to])
    }

    fn around(&self, node: &Node, windows: &Windows) -> Result<Around, Problem> {
        let [from, to] = self.sides(node)?;
        windows.around(from, to).ok_or_else(|| refused(node, "its windows are too large"))
    }

    /// The first operand with what is around it, and the padding that the operator itself makes.
    pub(super) fn padded(
        &mut self,
        job: &Job<'_>,
        windows: &Windows,
        border: Border,
    ) -> Result<(i32, u8), Problem> {
        let around = self.around(job.node, windows)?;
        let x = self.x(job, 0, &CHANNELS_LAST)?;
        if around.pads == [[0; 2]; 2] {
            return Ok((x, padding::VALID));
        }
        if around.same && border != Border::Counted {
            return Ok((x, padding::SAME));
        }
        Ok((self.framed(job, x, around.pads, border)?, padding::VALID))
    }

    /// A picture with more rows and columns around it.
    fn framed(
        &mut self,
        job: &Job<'_>,
        x: i32,
        pads: [[usize; 2]; 2],
        border: Border,
    ) -> Result<i32, Problem> {
        let node = job.node;
        let mut dims = turned(&self.dims(node.inputs[0]), &CHANNELS_LAST);
        for (dim, [before, behind]) in dims[1..3].iter_mut().zip(pads) {
            *dim = Dim::Fixed(dim.fixed().unwrap_or_default() + before + behind);
        }
        let affine = self.bytes_under(node, 0).filter(|_| job.affine.is_some()).cloned();
        let name = format!("{}.padded", node.name);
        let places = self.pairs(&[[0; 2], pads[0], pads[1], [0; 2]])?;
        let least = match &affine {
            Some(affine) => affine.zeros != [-128],
            None => !self.never_negative(node.inputs[0]),
        };
        let tensor = self.tensor(&name, &dims, affine.as_ref())?;
        if border != Border::Least || !least {
            self.operator(Code::Pad, vec![x, places], tensor, vec![]);
            return Ok(tensor);
        }
        let name = format!("{}.least", node.name);
        let value = match &affine {
            Some(affine) => self.integers(&name, &[1], &Data::I8(vec![i8::MIN]), affine)?,
            None => self.store(&place(node), &name, &[1], &[f32::MIN])?,
        };
        self.operator(Code::PadV2, vec![x, places, value], tensor, vec![]);
        Ok(tensor)
    }

    /// Whether a value is seen to be 0 at least.
    fn never_negative(&self, id: ValueId) -> bool {
        let Some(node) = self.graph.producer(id).map(|id| self.graph.node(id)) else { return false };
        if let Op::Unary(unary) = node.op {
            return (unary.row().range)(&unary.numbers(), (f64::NEG_INFINITY, f64::INFINITY)).0 >= 0.0;
        }
        let moves = matches!(node.op, Op::Pool(Pooling::Max(_)) | Op::Shape(ShapeOp::Concat { .. }));
        moves && node.inputs.iter().all(|&input| self.never_negative(input))
    }

    pub(super) fn max_pool(&mut self, job: &Job<'_>, pool: &Pool) -> Result<(), Problem> {
        let windows = Windows::of(pool);
        let (x, padding) = self.padded(job, &windows, Border::Least)?;
        self.pool(job, Code::MaxPool, x, windows.options(padding)?, pool)
    }

    fn pool(
        &mut self,
        job: &Job<'_>,
        code: Code,
        x: i32,
        mut options: Fields,
        pool: &Pool,
    ) -> Result<(), Problem> {
        options.extend(sides_of(pool)?);
        self.give(job, code, vec![x], &CHANNELS_LAST, options)
    }

    /// Whether LiteRT's mean of each window divides by what the node's does.
    pub(super) fn divides_alike(&self, node: &Node, average: &AveragePool) -> bool {
        self.around(node, &Windows::of(&average.pool)).is_ok_and(|around| {
            let unpadded = around.pads == [[0; 2]; 2];
            unpadded || (around.same && !average.count_include_pad) || self.divisors(node, average).is_none()
        })
    }

    pub(super) fn average_pool(&mut self, job: &Job<'_>, average: &AveragePool) -> Result<(), Problem> {
        let (node, pool) = (job.node, &average.pool);
        let windows = Windows::of(pool);
        let border = if average.count_include_pad { Border::Counted } else { Border::Zeros };
        let (x, padding) = self.padded(job, &windows, border)?;
        let mut options = windows.options(padding)?;
        options.extend(sides_of(pool)?);
        let dims = turned(&self.dims(node.outputs[0]), &CHANNELS_LAST);
        if let Some(under) = self.bytes_under(node, 0).cloned().filter(|_| job.affine.is_some()) {
            if job.affine.as_ref() == Some(&under) {
                return self.give(job, Code::AveragePool, vec![x], &CHANNELS_LAST, options);
            }
            // LiteRT's mean of bytes has the scale of its operand.
            let mean = self.tensor(&format!("{}.mean", node.name), &dims, Some(&under))?;
            self.operator(Code::AveragePool, vec![x], mean, options);
            return self.give(job, Code::Quantize, vec![mean], &CHANNELS_LAST, vec![]);
        }
        let counts = self.divisors(node, average).filter(|_| padding == padding::VALID);
        let Some(factors) = counts else {
            return self.give(job, Code::AveragePool, vec![x], &CHANNELS_LAST, options);
        };
        let mean = self.step(&format!("{}.mean", node.name), Code::AveragePool, vec![x], &dims, options)?;
        let sizes = turned(&self.sizes(node, node.outputs[0])?, &CHANNELS_LAST);
        let name = format!("{}.factors", node.name);
        let factors = self.store(&place(node), &name, &[1, sizes[1], sizes[2], 1], &factors)?;
        self.give(job, Code::Mul, vec![mean, factors], &CHANNELS_LAST, unfused())
    }

    /// What the mean of each window with all of its places is to be multiplied by; `None` where it is 1 everywhere.
    fn divisors(&self, node: &Node, average: &AveragePool) -> Option<Vec<f32>> {
        let [from, to] = self.sides(node).ok()?;
        let AveragePool { pool, count_include_pad } = average;
        // How many places of a window are counted along an axis.
        let counted = |axis: usize, i: usize| {
            let (before, behind) = (pool.pads[axis], pool.pads[axis + 2]);
            let start = i * pool.strides[axis];
            let (low, high) = match count_include_pad {
                true => (0, from[axis] + before + behind),
                false => (before, from[axis] + before),
            };
            (start + pool.kernel[axis]).min(high).saturating_sub(start.max(low)).max(1)
        };
        let all = (pool.kernel[0] * pool.kernel[1]) as f32;
        let factor = |y: usize, x: usize| all / (counted(0, y) * counted(1, x)) as f32;
        let factors: Vec<f32> = (0..to[0]).flat_map(|y| (0..to[1]).map(move |x| factor(y, x))).collect();
        factors.iter().any(|&f| f != 1.0).then_some(factors)
    }

    pub(super) fn global_average(&mut self, job: &Job<'_>) -> Result<(), Problem> {
        let x = self.x(job, 0, &CHANNELS_LAST)?;
        let axes = self.list(&[1, 2]);
        self.give(job, Code::Mean, vec![x, axes], &CHANNELS_LAST, keep_dims())
    }
}

/// The sides of a pool's windows.
fn sides_of(pool: &Pool) -> Result<Fields, Problem> {
    Ok(vec![
        (slot::pool::WIDTH, Field::Int(narrow(pool.kernel[1])?)),
        (slot::pool::HEIGHT, Field::Int(narrow(pool.kernel[0])?)),
        (slot::pool::ACTIVATION, Field::Byte(0)),
    ])
}
