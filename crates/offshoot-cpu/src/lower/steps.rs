//! Handles for values, and the steps that take them.

use half::{bf16, f16};
use offshoot_graph::{DType, ExecuteError, ValueId};

use super::{Lowering, Node, Order, Work, unsupported};
use crate::kernels::convert::{convert, round};
use crate::kernels::element::{Element, Stored};
use crate::kernels::layout::{nchw_to_nhwc, nhwc_to_nchw};
use crate::operands::{AnyOperand, Buffers, Operand, Output, Reads, Slot, Writes, bytes_of};
use crate::plan::{Label, Scratch, Step};

impl Lowering<'_> {
    /// The error of the node that is being lowered.
    pub(super) fn refused(&self, reason: String) -> ExecuteError {
        let Work { node, operator, .. } = &self.current;
        ExecuteError::Unsupported { node: node.as_ref().to_owned(), op: operator, reason }
    }

    /// An operand as one of `E`, if it is.
    pub(super) fn typed<E: Stored>(
        &self,
        value: ValueId,
        operand: AnyOperand,
    ) -> Result<Operand<E>, ExecuteError> {
        operand.of().ok_or_else(|| {
            let name = &self.graph.value(value).name;
            self.refused(format!("it takes {}, and `{name}` is {}", E::DTYPE, operand.dtype()))
        })
    }

    /// A value's elements in the order of the graph's axes.
    pub(super) fn plain<E: Stored>(&mut self, value: ValueId) -> Result<Operand<E>, ExecuteError> {
        self.in_order(value, Order::Graph)
    }

    /// A value's elements as kernels read them: channels last for rank 4.
    pub(super) fn read<E: Stored>(&mut self, value: ValueId) -> Result<Operand<E>, ExecuteError> {
        self.in_order(value, self.order_of_rank(value))
    }

    pub(super) fn order_of_rank(&self, value: ValueId) -> Order {
        if self.shape(value).len() == 4 { Order::ChannelsLast } else { Order::Graph }
    }

    pub(super) fn in_order<E: Stored>(
        &mut self,
        value: ValueId,
        order: Order,
    ) -> Result<Operand<E>, ExecuteError> {
        let operand = self.any_in_order(value, order)?;
        self.typed(value, operand)
    }

    /// [`Lowering::in_order`] for elements of any type.
    pub(super) fn any_in_order(&mut self, value: ValueId, order: Order) -> Result<AnyOperand, ExecuteError> {
        if let Some(&operand) = self.held.get(&(value, order)) {
            return Ok(operand);
        }
        if let Some(copied) = self.copied(value, order) {
            return copied;
        }
        if let Some(node) = self.lazy.nodes.remove(&value) {
            let work = self.work_of(node);
            let reader = std::mem::replace(&mut self.current, work);
            self.typed_node(node)?;
            self.current = reader;
            return self.any_in_order(value, order);
        }
        let other = if order == Order::Graph { Order::ChannelsLast } else { Order::Graph };
        let Some(&from) = self.held.get(&(value, other)) else {
            return Err(
                self.refused(format!("`{}` is read before it is computed", self.graph.value(value).name))
            );
        };
        match from.dtype() {
            DType::F32 => self.change_order::<f32>(value, from, order),
            DType::BF16 => self.change_order::<bf16>(value, from, order),
            DType::F16 => self.change_order::<f16>(value, from, order),
            DType::I8 => self.change_order::<i8>(value, from, order),
            DType::U8 => self.change_order::<u8>(value, from, order),
            DType::I32 => self.change_order::<i32>(value, from, order),
            DType::I64 => self.change_order::<i64>(value, from, order),
            DType::F64 => self.change_order::<f64>(value, from, order),
            DType::Bool => Err(self.refused("there are no kernels for bool".into())),
        }
    }

    /// The elements of a value in the other order than that of `from`.
    pub(super) fn change_order<E: Stored>(
        &mut self,
        value: ValueId,
        from: AnyOperand,
        order: Order,
    ) -> Result<AnyOperand, ExecuteError> {
        // (Only rank 4 has two orders, and those of one channel or one pixel are the same.)
        let &[n, c, h, w] = self.shape(value) else { return Ok(from) };
        if c == 1 || h * w == 1 {
            self.alias(value, order, from);
            return Ok(from);
        }
        let (from, to) = (self.typed::<E>(value, from)?, self.write_in_order::<E>(value, order)?);
        let change = if order == Order::Graph { nhwc_to_nchw::<E> } else { nchw_to_nhwc::<E> };
        self.moving_step("layout", from, to, move |from, to| change(n, c, h * w, from, to));
        Ok(to.operand().into())
    }

    /// A new buffer for a value that a kernel makes.
    pub(super) fn write<E: Stored>(&mut self, value: ValueId) -> Result<Output<E>, ExecuteError> {
        self.write_in_order(value, self.order_of_rank(value))
    }

    /// A new buffer for a value that a kernel makes in the order of the graph's axes.
    pub(super) fn write_plain<E: Stored>(&mut self, value: ValueId) -> Result<Output<E>, ExecuteError> {
        self.write_in_order(value, Order::Graph)
    }

    pub(super) fn write_in_order<E: Stored>(
        &mut self,
        value: ValueId,
        order: Order,
    ) -> Result<Output<E>, ExecuteError> {
        let graph = self.graph.value(value);
        if graph.dtype != E::DTYPE {
            return Err(self.refused(format!(
                "it gives {}, and `{}` is {}",
                E::DTYPE,
                graph.name,
                graph.dtype
            )));
        }
        let output = self.fresh(self.len(value));
        self.alias(value, order, output.operand());
        Ok(output)
    }

    /// New buffers for all outputs of a node, in the order of the graph's axes.
    pub(super) fn write_all<E: Stored, const N: usize>(
        &mut self,
        node: &Node,
    ) -> Result<[Output<E>; N], ExecuteError> {
        let outputs: Vec<_> = node.outputs.iter().map(|&v| self.write_plain(v)).collect::<Result<_, _>>()?;
        outputs.try_into().map_err(|_| unsupported(node, format!("it must have {N} outputs")))
    }

    /// Lets `value` be the elements of an operand.
    pub(super) fn alias(&mut self, value: ValueId, order: Order, operand: impl Into<AnyOperand>) {
        self.held.insert((value, order), operand.into());
    }

    /// Adds a step: `run` calls `kernel` with the elements of what it reads and writes. The first step of a node is the one that
    /// makes its operations.
    pub(super) fn step<R: Reads, W: Writes>(
        &mut self,
        kernel: &'static str,
        reads: R,
        writes: W,
        mut run: impl for<'r, 'w> FnMut(R::Elements<'r>, W::Elements<'w>) + Send + 'static,
    ) {
        self.scratch_step(kernel, reads, writes, move |reads, writes, _| run(reads, writes));
    }

    /// [`Lowering::step`] for a kernel that moves or converts what another one reads.
    pub(super) fn moving_step<R: Reads, W: Writes>(
        &mut self,
        kernel: &'static str,
        reads: R,
        writes: W,
        mut run: impl for<'r, 'w> FnMut(R::Elements<'r>, W::Elements<'w>) + Send + 'static,
    ) {
        let step = Step::new(reads, writes, move |reads, writes, _| {
            run(reads, writes);
            Ok(())
        });
        self.add(kernel, 0, step);
    }

    /// [`Lowering::step`] for a kernel that needs memory to work in.
    pub(super) fn scratch_step<R: Reads, W: Writes>(
        &mut self,
        kernel: &'static str,
        reads: R,
        writes: W,
        mut run: impl for<'r, 'w> FnMut(R::Elements<'r>, W::Elements<'w>, &mut Scratch) + Send + 'static,
    ) {
        let operations = std::mem::take(&mut self.current.operations);
        let step = Step::new(reads, writes, move |reads, writes, scratch| {
            run(reads, writes, scratch);
            Ok(())
        });
        self.add(kernel, operations, step);
    }

    /// [`Lowering::step`] for a kernel that refuses some of what it reads.
    pub(super) fn fallible_step<R: Reads, W: Writes>(
        &mut self,
        kernel: &'static str,
        reads: R,
        writes: W,
        mut run: impl for<'r, 'w> FnMut(R::Elements<'r>, W::Elements<'w>) -> Result<(), ExecuteError>
        + Send
        + 'static,
    ) {
        let operations = std::mem::take(&mut self.current.operations);
        self.add(kernel, operations, Step::new(reads, writes, move |reads, writes, _| run(reads, writes)));
    }

    fn add(&mut self, kernel: &'static str, operations: u64, mut step: Step) {
        let Work { node, operator, .. } = self.current.clone();
        let bytes = self.bytes_of(&step.buffers) as u64;
        step.label = Label { node, operator, kernel, operations, bytes };
        self.steps.push(step);
    }

    /// Bytes that a step reads and writes, each once.
    fn bytes_of(&self, buffers: &Buffers) -> usize {
        let Buffers { reads, writes, given, packed, .. } = buffers;
        let buffer = |slot: &Slot| self.sizes[slot.0];
        let read: usize = firsts(reads).map(buffer).sum();
        let given: usize = firsts(given).map(|&operand| self.given_bytes(operand)).sum();
        read + writes.iter().map(buffer).sum::<usize>() + given + packed
    }

    /// Bytes of an input, a parameter or a constant.
    fn given_bytes(&self, operand: AnyOperand) -> usize {
        if let Some(index) = operand.as_constant() {
            return bytes_of(&self.constants[index]).len();
        }
        let input = operand.as_input().map(|index| self.graph.inputs()[index]);
        let value = input.or_else(|| operand.as_parameter().map(|index| self.graph.parameters()[index]));
        value.map_or(0, |value| self.len(value) * operand.dtype().size())
    }

    /// A copy of elements as another type.
    pub(super) fn cast<A: Element, B: Element>(&mut self, from: Operand<A>, len: usize) -> Output<B> {
        let (to, isa) = (self.fresh::<B>(len), self.isa);
        self.moving_step("cast", from, to, move |from, to| convert(isa, from, to));
        to
    }

    /// Sums in f32 as what an operator on `E` gives.
    pub(super) fn narrowed<E: Element>(&mut self, sums: Output<f32>, len: usize) -> Operand<E> {
        match AnyOperand::from(sums.operand()).of::<E>() {
            Some(same) => same,
            None => self.cast::<f32, E>(sums.operand(), len).operand(),
        }
    }

    /// The elements of a weight that an operator on `E` reads, rounded to what `E` can hold.
    pub(super) fn rounded<E: Element>(&mut self, weight: ValueId) -> Result<Operand<f32>, ExecuteError> {
        let from = self.plain::<f32>(weight)?;
        if E::DTYPE == DType::F32 {
            return Ok(from);
        }
        let (to, isa) = (self.fresh::<f32>(self.len(weight)), self.isa);
        self.moving_step("cast", from, to, move |from, to| round::<E>(isa, from, to));
        Ok(to.operand())
    }

    /// A new buffer.
    pub(super) fn fresh<E: Stored>(&mut self, len: usize) -> Output<E> {
        self.sizes.push(len * size_of::<E>());
        Output::new(Slot(self.sizes.len() - 1))
    }
}

/// Each of `all` where it stands first.
fn firsts<T: PartialEq>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().enumerate().filter(|(index, x)| !all[..*index].contains(x)).map(|(_, x)| x)
}
