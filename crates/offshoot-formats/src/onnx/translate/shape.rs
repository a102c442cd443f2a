//! Operators that move elements: other shapes, other orders, parts.

use offshoot_graph::op::ShapeOp;
use offshoot_graph::{DType, Dim, Op, Shape, ValueId};

use super::tokens::whole;
use super::{Operand, SIMPLIFY, Stored, Translator};
use crate::error::Problem;
use crate::import::{Number, Part, Site, Target};
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// Another order of the axes of a picture (what converters of TensorFlow put around its operators) or of a weight.
    pub(super) fn transpose(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (first, last) = (Some(&[0, 3, 1, 2][..]), Some(&[0, 2, 3, 1][..]));
        let perm = node.ints("perm");
        match self.operand(node, 0)? {
            Operand::Stored(s) if s.tensor.shape().len() == 2 && matches!(perm, None | Some([1, 0])) => {
                Ok(Operand::Stored(Stored { transposed: !s.transposed, ..s }))
            }
            Operand::Stored(s) if !s.transposed => self.transposed_weight(node, &s),
            Operand::ChannelsLast(x) if perm == first => Ok(Operand::Value(x)),
            Operand::Value(x) if perm == last && self.import.shape(x).rank() == 4 => {
                Ok(Operand::ChannelsLast(x))
            }
            Operand::Padded { padded, node, channels_last }
                if perm == if channels_last { first } else { last } =>
            {
                Ok(Operand::Padded { padded, node, channels_last: !channels_last })
            }
            same @ (Operand::Value(x) | Operand::ChannelsLast(x))
                if perm.is_some_and(|p| p.iter().copied().eq(0..self.import.shape(x).rank() as i64)) =>
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
            | Operand::Probed(_)
            | Operand::Rows(_) => {
                let x = self.value(node, 0)?;
                let rank = self.import.shape(x).rank();
                let perm = match perm {
                    Some(perm) => perm.iter().map(|&a| node.axis(a, rank)).collect::<Result<_, _>>()?,
                    None => (0..rank).rev().collect(),
                };
                self.import.transpose(&node, x, perm).map(Operand::Value)
            }
        }
    }

    pub(super) fn concat(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let mut inputs = Vec::new();
        for index in 0..node.proto.input.len() {
            inputs.push(self.value(node, index)?);
        }
        let first = *inputs.first().ok_or_else(|| node.damaged("it has no inputs"))?;
        let axis = node.axis(node.int("axis", 0), self.import.shape(first).rank())?;
        self.import.push(&node, Op::Shape(ShapeOp::Concat { axis }), &inputs)
    }

    /// A part of one axis.
    pub(super) fn slice(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        if let Operand::Stored(table) = self.operand(node, 0)? {
            return self.first_places(node, &table);
        }
        let x = self.value(node, 0)?;
        if self.is_whole(node, x)? {
            return Ok(x);
        }
        let starts = self.ints(node, 1, "starts")?.unwrap_or_default();
        let axes = self.ints(node, 3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(node, 4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
        let ends = match node.ints("ends") {
            Some(ends) => ends.iter().map(|&end| Number::Known(end as f64)).collect(),
            None => self.numbers(node, 2)?.map(|ends| ends.data).unwrap_or_default(),
        };
        if [axes.len(), steps.len(), ends.len()] != [starts.len(); 3] {
            return Err(node.damaged("it has not one start, end, axis and step for each part"));
        }
        let mut part = x;
        for (i, end) in ends.iter().enumerate() {
            let axis = node.place_of(axes[i], self.import.rank(x))?;
            let name = if i + 1 == ends.len() {
                node.name().to_owned()
            } else {
                format!("{}.axis{axis}", node.name())
            };
            part = self.part(&Part { site: &node, name }, part, axis, (starts[i], end, steps[i]))?;
        }
        Ok(part)
    }

    /// The places of one axis from a start up to an end, by steps.
    fn part(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        (start, end, step): (i64, &Number, i64),
    ) -> Result<ValueId, Problem> {
        let size = self.import.shape(x).0[axis].clone();
        let end = match *end {
            Number::Known(end) => end as i64,
            Number::Size(ref end) if *end == size => i64::MAX,
            Number::Size(_) | Number::Unknown => {
                return Err(site.refused("its ends are not known before the run"));
            }
        };
        let Dim::Fixed(size) = size else {
            return match (start, end, step) {
                (0, end, 1) if end >= i64::from(i32::MAX) => Ok(x),
                _ => Err(site.refused("only neighbours along an axis of known size are read")),
            };
        };
        if step == 1 {
            return self.import.slice(site, x, axis, [start, end]);
        }
        let size = size as i64;
        let place = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let (mut at, end) = (place(start).clamp(low, high), place(end).clamp(low, high));
        let mut places = Vec::new();
        while step != 0 && if step > 0 { at < end } else { at > end } {
            places.push(at);
            at = at.saturating_add(step);
        }
        self.import.places(site, x, axis, &places, &[places.len()])
    }

    /// The part of a value with one index along an axis, without that axis.
    pub(super) fn pick(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let shape = self.import.shape(x).clone();
        let axis = node.place_of(node.int("axis", 0), shape.rank())?;
        let indices = self.numbers(node, 1)?;
        let (index, under) = match indices {
            Some(numbers) => (numbers.ints(), numbers.shape),
            // More of them than sizes are.
            None => {
                let indices = self.stored(node, 1)?.tensor;
                (whole(&indices), indices.shape().to_vec())
            }
        };
        let Some(index) = index else {
            return Err(node.unsupported("only indices that are known before the run are picked", SIMPLIFY));
        };
        let scalar = under.is_empty();
        match (shape.0[axis].fixed(), &index[..]) {
            (Some(_), &[index]) if under.len() < 2 => self.import.pick(&node, x, axis, index, !scalar),
            (Some(_), indices) => self.import.places(&node, x, axis, indices, &under),
            (None, &[index]) => self.pick_counted(node, x, axis, index, scalar),
            (None, _) => Err(node.unsupported("the axis has no known size", SIMPLIFY)),
        }
    }

    pub(super) fn tile(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let times = self.numbers(node, 1)?.map(|n| n.data).unwrap_or_default();
        self.import.tile(&node, x, &times)
    }

    pub(super) fn triangle(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let shift = match node.input(1) {
            Some(_) => self.ints(node, 1, "k")?.and_then(|k| k.first().copied()).unwrap_or(0),
            None => 0,
        };
        self.import.triangle(&node, x, shift, node.int("upper", 1) != 0)
    }

    /// Pixels as channels, and channels as pixels.
    pub(super) fn blocks(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let block = usize::try_from(node.int("blocksize", 0)).unwrap_or(0);
        match node.op() {
            "SpaceToDepth" => self.import.space_to_depth(&node, x, block),
            _ => self.import.depth_to_space(&node, x, block, node.text("mode") == Some("CRD")),
        }
    }

    pub(super) fn unsqueeze(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = self.value(node, 0)?;
        let axes = self.ints(node, 1, "axes")?.unwrap_or_default();
        self.import.unsqueeze(&node, x, &axes)
    }

    pub(super) fn expand(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let x = match self.operand(node, 0)? {
            Operand::Stored(s) if s.tensor.dtype() == DType::I64 => self.known_tokens(node, &s)?,
            _ => self.value(node, 0)?,
        };
        let sizes = self.numbers(node, 1)?.map(|n| n.data).unwrap_or_default();
        self.import.expand(&node, x, &sizes)
    }

    /// Input 0 for an operator that lays its elements in a row: with channels last, of one pixel.
    pub(super) fn flattened(&mut self, node: NodeView<'a>) -> Result<(ValueId, bool), Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let pixel = [Dim::Fixed(1), Dim::Fixed(1)];
        if channels_last && self.import.shape(x).0.get(2..) != Some(&pixel) {
            return Ok((self.value(node, 0)?, false));
        }
        Ok((x, channels_last))
    }

    pub(super) fn flatten(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (mut x, channels_last) = self.flattened(node)?;
        let axis = node.axis(node.int("axis", 1), self.import.shape(x).rank())?;
        if channels_last && axis != 1 {
            x = self.value(node, 0)?;
        }
        if axis == 1 && self.import.rank(x) == 2 {
            return Ok(x);
        }
        self.import.push(&node, Op::Shape(ShapeOp::Flatten { axis }), &[x])
    }

    pub(super) fn squeeze(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let shape = self.import.shape(x).clone();
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
        self.import.reshape_to(&node, x, shape)
    }

    /// A reshape to sizes that are known but for those of the inputs and one that follows from the others.
    pub(super) fn reshape(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        // In a file of ours a weight keeps its name, and its Reshape is part of the graph.
        if let Operand::Stored(stored) = self.operand(node, 0)?
            && !self.context.own
        {
            return self.reshaped_weight(node, stored);
        }
        let (x, _) = self.flattened(node)?;
        let numbers = match node.ints("shape") {
            Some(shape) => shape.iter().map(|&d| Number::Known(d as f64)).collect(),
            None => match self.numbers(node, 1)? {
                Some(numbers) => numbers.data,
                None => return Err(node.unsupported("its shape is not known before the run", SIMPLIFY)),
            },
        };
        let copies = !node.flag("allowzero");
        let target = |number| match number {
            Number::Known(-1.0) => Target::Rest,
            Number::Known(0.0) if copies => Target::Copied,
            number => Target::Size(number),
        };
        let reshaped = self.import.reshape(&node, x, numbers.into_iter().map(target).collect());
        reshaped.map(Operand::Value).map_err(|(problem, counted_on)| {
            self.context.counted_on.set(counted_on);
            problem
        })
    }
}
