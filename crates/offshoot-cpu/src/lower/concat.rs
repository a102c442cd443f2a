//! Concatenations of channels, whose parts convolutions write where they belong.

use std::collections::{HashMap, HashSet};

use offshoot_graph::{ExecuteError, Graph, Op, ValueId};

use super::{Lowering, Node, Order};
use crate::kernels::element::Stored;
use crate::kernels::shape::{Columns, copy_columns};
use crate::operands::{Output, Slot};
use crate::optimize::CpuOp;

/// The concatenations that convolutions write parts of.
#[derive(Default)]
pub(super) struct Concats {
    /// The result that alone has a use for each value, and the value's place among its inputs.
    results: HashMap<ValueId, (ValueId, usize)>,
    /// The buffers of results of which a part has been written, channels last.
    buffers: HashMap<ValueId, Slot>,
    /// The parts that have been written.
    written: HashSet<ValueId>,
}

impl Concats {
    pub(super) fn new(graph: &Graph<CpuOp>) -> Concats {
        let uses = graph.use_counts();
        let mut results = HashMap::new();
        for node in graph.nodes().iter().filter(|node| is_of_channels(graph, node)) {
            for (place, &input) in
                node.inputs.iter().enumerate().filter(|(_, input)| uses[input.index()] == 1)
            {
                results.insert(input, (node.outputs[0], place));
            }
        }
        Concats { results, ..Concats::default() }
    }
}

fn is_of_channels(graph: &Graph<CpuOp>, node: &Node) -> bool {
    use offshoot_graph::op::ShapeOp::Concat;
    node.op.plain() == Some(&Op::Shape(Concat { axis: 1 })) && graph.value(node.outputs[0]).shape.rank() == 4
}

impl Lowering<'_> {
    /// The buffer of the concatenation that alone reads `value`, if one does, and the columns of `value` in it. From now on the value is
    /// nowhere else.
    pub(super) fn write_part<E: Stored>(&mut self, value: ValueId) -> Option<(Output<E>, Columns)> {
        let &(whole, place) = self.concats.results.get(&value)?;
        let id = self.graph.producer(whole)?;
        let before = self.graph.node(id).inputs[..place].iter().map(|&input| self.shape(input)[1]).sum();
        let columns = Columns { row: self.shape(whole)[1], start: before, width: self.shape(value)[1] };
        self.concats.written.insert(value);
        Some((self.buffer_of_parts(whole), columns))
    }

    /// [`Lowering::write_part`], or a new buffer with the columns of its pixels.
    pub(super) fn write_columns<E: Stored>(
        &mut self,
        value: ValueId,
    ) -> Result<(Output<E>, Columns), ExecuteError> {
        match self.write_part(value) {
            Some(part) => Ok(part),
            None => Ok((self.write(value)?, Columns::whole(self.shape(value)[1]))),
        }
    }

    fn buffer_of_parts<E: Stored>(&mut self, whole: ValueId) -> Output<E> {
        if let Some(&slot) = self.concats.buffers.get(&whole) {
            return Output::new(slot);
        }
        let buffer = self.fresh::<E>(self.len(whole));
        self.concats.buffers.insert(whole, buffer.slot());
        buffer
    }

    pub(super) fn concat<E: Stored>(&mut self, node: &Node, axis: usize) -> Result<(), ExecuteError> {
        let whole = node.outputs[0];
        let partly = self.concats.buffers.contains_key(&whole);
        let order = if partly { Order::ChannelsLast } else { self.held_order(&node.inputs) };
        let (mut parts, mut columns, mut start) = (Vec::new(), Vec::new(), 0);
        for &input in &node.inputs {
            let size = self.shape(input)[axis];
            if !self.concats.written.contains(&input) {
                parts.push(self.in_order::<E>(input, order)?);
                let from = self.columns((input, order), axis, 0, size);
                columns.push((from, self.columns((whole, order), axis, start, size)));
            }
            start += size;
        }
        let y = if partly { self.buffer_of_parts(whole) } else { self.fresh::<E>(self.len(whole)) };
        self.alias(whole, order, y.operand());
        if parts.is_empty() {
            return Ok(());
        }
        self.step("copy columns", parts, y, move |parts, y| {
            for (part, &(from, to)) in parts.into_iter().zip(&columns) {
                copy_columns(part, from, y, to);
            }
        });
        Ok(())
    }
}
