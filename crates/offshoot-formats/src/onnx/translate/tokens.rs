//! What networks over tokens have: tables of embeddings, positions, masks.

use std::rc::Rc;

use offshoot_graph::op::{SequenceOp, ShapeOp};
use offshoot_graph::{DType, Data, Dim, Op, Role, Shape, Tensor, ValueId};

use super::tables::{Rows, is_part_of_bytes};
use super::{Filled, Operand, SIMPLIFY, Stored, Translator};
use crate::elements::MAX_ELEMENTS;
use crate::error::Problem;
use crate::import::{Comparison, Number};
use crate::onnx::attributes::NodeView;
use crate::onnx::dynamic::moved;
use crate::onnx::fold::MAX_NUMBERS;

/// Types of ONNX that a Cast may name.
const FLOATS: [i64; 4] = [1, 10, 11, 16];
const INTEGERS: [i64; 2] = [6, 7];
pub(super) const BOOL: i64 = 9;

impl<'a> Translator<'a> {
    // ---- rows of tables ----

    /// Rows of a table, or one place of an axis.
    pub(super) fn gather(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let indices = match self.operand(node, 1)? {
            Operand::Value(id) => Some(id),
            _ => None,
        };
        match (self.operand(node, 0)?, indices) {
            // In a file of ours a weight keeps its name, and its Gather is part of the graph.
            (Operand::Stored(table), None) if self.context.own && table.tensor.dtype().is_float() => {
                self.pick(node).map(Operand::Value)
            }
            (Operand::Stored(table), None) if node.int("axis", 0) != 0 && !table.transposed => {
                let what = "of what is stored only floats are looked up";
                self.evaluated(node, true)?.ok_or_else(|| node.unsupported(what, SIMPLIFY))
            }
            (Operand::Stored(table), _) if node.int("axis", 0) != 0 || table.transposed => {
                Err(node.unsupported("of what is stored only rows (axis 0) are looked up", SIMPLIFY))
            }
            (Operand::Stored(table), _) if is_part_of_bytes(&table) => {
                Ok(Operand::Rows(Rows { table, node }))
            }
            (Operand::Stored(table), _) => self.looked_up(node, &table),
            (_, Some(indices)) if node.int("axis", 0) == 0 => {
                let x = self.value(node, 0)?;
                self.rows(node, x, indices).map(Operand::Value)
            }
            (_, Some(_)) => Err(node.unsupported("only rows (axis 0) are looked up by tokens", SIMPLIFY)),
            (_, None) => match self.operand(node, 1)? {
                Operand::Probed(places) => self.in_order(node, &places).map(Operand::Value),
                _ => self.pick(node).map(Operand::Value),
            },
        }
    }

    /// Rows of a stored table of floats, at places that are known or given at each run.
    pub(super) fn looked_up(&mut self, node: NodeView<'a>, table: &Stored) -> Result<Operand<'a>, Problem> {
        match self.operand(node, 1)? {
            Operand::Value(indices) => {
                let table = self.parameter(table, Role::Weight)?;
                self.rows(node, table, indices).map(Operand::Value)
            }
            _ => self.known_rows(node, table).map(Operand::Stored),
        }
    }

    fn rows(&mut self, node: NodeView<'a>, table: ValueId, indices: ValueId) -> Result<ValueId, Problem> {
        self.import.push(&node, Op::Sequence(SequenceOp::Gather), &[table, indices])
    }

    /// Rows of a table that are known now.
    fn known_rows(&mut self, node: NodeView<'a>, table: &Stored) -> Result<Stored, Problem> {
        let indices = self.stored(node, 1)?.tensor;
        let Some(numbers) = whole(&indices) else {
            return Err(node.unsupported(format!("its indices are {}", indices.dtype()), SIMPLIFY));
        };
        let floats = self.floats(table)?;
        let (&rows, row) =
            floats.shape().split_first().ok_or_else(|| node.damaged("its table is a scalar"))?;
        let width: usize = row.iter().product();
        let len = numbers.len().checked_mul(width).filter(|&n| n <= MAX_ELEMENTS);
        let len = len.ok_or_else(|| node.unsupported("the rows that it looks up are too many", SIMPLIFY))?;
        self.context.tensors.charge(&node.place(), len, 4)?;
        let source = floats.as_f32().unwrap_or_default();
        let mut data = Vec::with_capacity(len);
        for index in numbers {
            let counted = if index < 0 { index.saturating_add(rows as i64) } else { index };
            let at = usize::try_from(counted).ok().filter(|&at| at < rows);
            let at = at.ok_or_else(|| node.damaged(format!("index {index} is outside of {rows} rows")))?;
            data.extend_from_slice(&source[at * width..(at + 1) * width]);
        }
        let tensor = Tensor::new([indices.shape(), row].concat(), Data::F32(data));
        let tensor = tensor.map_err(|e| node.damaged(e.to_string()))?;
        Ok(self.derived(node, tensor, table.constant))
    }

    /// What `node` makes of a tensor of the file.
    pub(super) fn derived(&self, node: NodeView<'a>, tensor: Tensor, constant: bool) -> Stored {
        let name = node.proto.output.first().cloned().unwrap_or_default();
        Stored { name, tensor: Rc::new(tensor), transposed: false, constant }
    }

    /// What `node` gives when it only moves elements of stored tensors: exporters do so with the weights of an LSTM.
    pub(super) fn moved(&mut self, node: NodeView<'a>) -> Result<Option<Stored>, Problem> {
        if !matches!(node.op(), "Slice" | "Concat" | "Unsqueeze" | "Squeeze") {
            return Ok(None);
        }
        let (mut inputs, mut constant) = (Vec::new(), true);
        for index in (0..node.proto.input.len()).filter(|&i| node.input(i).is_some()) {
            match self.operand(node, index)? {
                Operand::Stored(stored) if !stored.transposed => {
                    constant &= stored.constant || index > 0 && node.op() != "Concat";
                    inputs.push((*stored.tensor).clone());
                }
                Operand::Numbers(numbers) if index > 0 => match numbers.ints() {
                    Some(ints) => inputs.push(Tensor::i64([ints.len()], ints)),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        let Some(tensor) = moved(node, &inputs) else { return Ok(None) };
        self.context.tensors.charge(&node.place(), tensor.len(), tensor.dtype().size())?;
        Ok(Some(self.derived(node, tensor, constant)))
    }

    /// The numbers from 0 on: known, or as many as an axis of an input has places.
    pub(super) fn range(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let mut bounds = Vec::new();
        for index in 0..3 {
            let numbers = self.numbers(node, index)?.filter(|n| !n.float && n.data.len() == 1);
            let number = numbers.and_then(|n| n.data.into_iter().next());
            bounds.push(number.ok_or_else(|| node.unsupported("its bounds are no whole numbers", SIMPLIFY))?);
        }
        match &bounds[..] {
            &[Number::Known(start), Number::Known(end), Number::Known(step)] if step != 0.0 => {
                self.known_range(node, [start, end, step])
            }
            [Number::Known(0.0), Number::Size(count), Number::Known(1.0)] => {
                self.positions(node, node.name(), count).map(Operand::Value)
            }
            _ => Err(node.unsupported("only 0, 1, 2 .. up to a size of the input is counted", SIMPLIFY)),
        }
    }

    fn known_range(
        &mut self,
        node: NodeView<'a>,
        [start, end, step]: [f64; 3],
    ) -> Result<Operand<'a>, Problem> {
        let count = ((end - start) / step).ceil().max(0.0);
        if count > MAX_ELEMENTS as f64 {
            let what = format!("it counts {count} numbers");
            return Err(Problem::TooLarge { place: node.place(), what, limit: MAX_ELEMENTS as u64 });
        }
        let count = count as usize;
        self.context.tensors.charge(&node.place(), count, size_of::<i64>())?;
        let data = (0..count).map(|i| (start + i as f64 * step) as i64).collect();
        Ok(Operand::Stored(self.derived(node, Tensor::i64([count], data), true)))
    }

    /// 0, 1, 2 .. up to a size of an input.
    fn positions(&mut self, node: NodeView<'a>, name: &str, count: &Dim) -> Result<ValueId, Problem> {
        let of = |&id: &ValueId| Some((id, self.import.shape(id).0.iter().position(|dim| dim == count)?));
        let Some((input, axis)) = self.import.graph.inputs().iter().find_map(of) else {
            return Err(node.unsupported(format!("{count} is no size of an input"), SIMPLIFY));
        };
        self.import.push_named(&node, name, Op::Sequence(SequenceOp::Positions { axis }), &[input])
    }

    /// As many places of a stored table as the input has steps: `positions[:, :steps]`.
    pub(super) fn first_places(&mut self, node: NodeView<'a>, table: &Stored) -> Result<ValueId, Problem> {
        let refused = || node.unsupported("of what is stored only the first places are taken", SIMPLIFY);
        let shape = table.tensor.shape().to_vec();
        let axis = match self.ints(node, 3, "axes")? {
            None => 0,
            Some(axes) if axes.len() == 1 => node.place_of(axes[0], shape.len())?,
            Some(_) => return Err(refused()),
        };
        let (start, step) = (self.ints(node, 1, "starts")?, self.ints(node, 4, "steps")?);
        let end = self.numbers(node, 2)?.and_then(|n| n.data.into_iter().next());
        let Some(Number::Size(end)) = end else { return Err(refused()) };
        let mut whole: Shape = Shape::fixed(&shape);
        whole.0[axis] = end.clone();
        if start != Some(vec![0]) || step.is_some_and(|step| step != [1]) || table.transposed {
            return Err(refused());
        }
        if shape.get(..axis).is_none_or(|before| before.iter().any(|&n| n != 1)) {
            return Err(refused());
        }
        if let Data::I64(tokens) = table.tensor.data() {
            return self.first_tokens(node, tokens, &end, whole);
        }
        let rows = (*self.floats(table)?).clone().reshape(&shape[axis..]);
        let rows = rows.map_err(|e| node.damaged(e.to_string()))?;
        let rows = self.parameter(&Stored { tensor: Rc::new(rows), ..table.clone() }, Role::Weight)?;
        let positions = self.positions(node, &format!("{}.positions", node.name()), &end)?;
        let name = format!("{}.rows", node.name());
        let picked =
            self.import.push_named(&node, &name, Op::Sequence(SequenceOp::Gather), &[rows, positions])?;
        self.import.reshape_to(&node, picked, whole)
    }

    /// As many of stored tokens as the input has steps: those that count the steps, or are all alike.
    fn first_tokens(
        &mut self,
        node: NodeView<'a>,
        tokens: &[i64],
        end: &Dim,
        whole: Shape,
    ) -> Result<ValueId, Problem> {
        let first = tokens.first().copied().ok_or_else(|| node.damaged("its input is empty"))?;
        if tokens.iter().copied().eq(0..tokens.len() as i64) {
            let positions = self.positions(node, node.name(), end)?;
            return self.import.reshape_to(&node, positions, whole);
        }
        if tokens.iter().any(|&token| token != first) {
            return Err(node.unsupported("of stored tokens only 0, 1, 2 .. are counted", SIMPLIFY));
        }
        let name = self.import.names.unused(&format!("{}.token", node.name()));
        let token = self.import.graph.add_constant(&name, Tensor::i64([], vec![first]));
        self.import.push(&node, Op::Shape(ShapeOp::Expand { shape: whole }), &[token])
    }

    /// Tokens of the file, for a node that computes with them at each run.
    pub(super) fn known_tokens(&mut self, node: NodeView<'a>, stored: &Stored) -> Result<ValueId, Problem> {
        self.context.tensors.charge(&node.place(), stored.tensor.len(), size_of::<i64>())?;
        let name = self.import.names.unused(&stored.name);
        Ok(self.import.graph.add_constant(&name, (*stored.tensor).clone()))
    }

    /// Whether `node` is a Slice of a stored matrix up to a size of the input: no arithmetic on sizes.
    pub(super) fn is_table(&mut self, node: NodeView<'a>) -> Result<bool, Problem> {
        if node.op() != "Slice" || node.input(2).is_none() {
            return Ok(false);
        }
        let matrix = matches!(self.operand(node, 0)?, Operand::Stored(s) if s.tensor.shape().len() > 1);
        Ok(matrix && self.numbers(node, 2)?.is_some_and(|n| n.known().is_none()))
    }

    /// Whether a Slice takes all of an axis, whose size need not be known.
    pub(super) fn is_whole(&mut self, node: NodeView<'a>, x: ValueId) -> Result<bool, Problem> {
        let starts = self.ints(node, 1, "starts")?;
        let axis = self.ints(node, 3, "axes")?.unwrap_or(vec![0]);
        let step = self.ints(node, 4, "steps")?.unwrap_or(vec![1]);
        let ([axis], [1], Some([0])) = (&axis[..], &step[..], starts.as_deref()) else { return Ok(false) };
        let axis = node.place_of(*axis, self.import.shape(x).rank())?;
        let ends = match node.ints("ends") {
            Some(&[end]) => Some(Number::Known(end as f64)),
            _ => self.numbers(node, 2)?.filter(|n| n.data.len() == 1).and_then(|n| n.data.into_iter().next()),
        };
        let size = &self.import.shape(x).0[axis];
        Ok(match ends {
            Some(Number::Size(end)) => end == *size,
            Some(Number::Known(end)) => size.fixed().is_none() && end >= f64::from(i32::MAX),
            Some(Number::Unknown) | None => false,
        })
    }

    /// One place of an axis whose size is not known: a row, once that axis comes first.
    pub(super) fn pick_counted(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        axis: usize,
        index: i64,
        scalar: bool,
    ) -> Result<ValueId, Problem> {
        if !scalar {
            return Err(node.unsupported("of an axis of unknown size only one place is picked", SIMPLIFY));
        }
        let rank = self.import.shape(x).rank();
        let perm: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&i| i != axis)).collect();
        let first = match axis {
            0 => x,
            _ => self.import.push_named(
                &node,
                &format!("{}.first", node.name()),
                Op::Shape(ShapeOp::Transpose { perm }),
                &[x],
            )?,
        };
        let name = self.import.names.unused(&format!("{}.index", node.name()));
        let index = self.import.graph.add_constant(&name, Tensor::i64([], vec![index]));
        self.rows(node, first, index)
    }

    // ---- numbers of tokens, and booleans ----

    /// A Cast of what is computed at each run.
    pub(super) fn cast(&mut self, node: NodeView<'a>, x: ValueId) -> Result<ValueId, Problem> {
        let (to, tokens) = (node.int("to", 0), self.import.graph.value(x).dtype == DType::I64);
        if FLOATS.contains(&to) {
            return if tokens {
                self.import.push(&node, Op::Sequence(SequenceOp::ToFloat), &[x])
            } else {
                Ok(x)
            };
        }
        // A token that does not fit 32 bits is no row of a table either.
        if INTEGERS.contains(&to) && (tokens || self.import.is_truth(x))
            || to == BOOL && self.import.is_truth(x)
        {
            return Ok(x);
        }
        if to == BOOL && tokens {
            let name = format!("{}.zero", node.name());
            let zero =
                self.import.push_named(&node, &name, Op::Sequence(SequenceOp::Equal { number: 0 }), &[x])?;
            return self.import.not(&node, zero);
        }
        if to == BOOL {
            return self.import.truth_of(&node, x);
        }
        Err(node.unsupported("a cast to integers is not read", SIMPLIFY))
    }

    fn truth(&mut self, node: NodeView<'a>, index: usize) -> Result<ValueId, Problem> {
        if let Operand::Stored(stored) = self.operand(node, index)?
            && let Data::Bool(truths) = stored.tensor.data()
        {
            self.context.tensors.charge(&node.place(), truths.len(), 4)?;
            let numbers = truths.iter().map(|&truth| f32::from(u8::from(truth))).collect();
            let name = self.import.names.unused(&stored.name);
            return Ok(self.import.graph.add_constant(&name, Tensor::f32(stored.tensor.shape(), numbers)));
        }
        if let Operand::Numbers(numbers) = self.operand(node, index)?
            && let Some(tensor) = numbers.to_tensor()
        {
            let constant = self.import.constant(&node, "truth", tensor);
            return Ok(self.import.mark_truth(constant));
        }
        let x = self.value(node, index)?;
        if self.import.is_truth(x) {
            return Ok(x);
        }
        Err(node.unsupported(format!("its input {index} is no boolean that can be read"), SIMPLIFY))
    }

    /// Tokens that are a number, or floats that are equal.
    pub(super) fn equal(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        for (tokens, number) in [(0, 1), (1, 0)] {
            let Operand::Value(x) = self.operand(node, tokens)? else { continue };
            let numbers = self.numbers(node, number)?.filter(|n| !n.float);
            let Some(&[number]) = numbers.and_then(|n| n.ints()).as_deref() else { continue };
            if self.import.graph.value(x).dtype == DType::I64 {
                let truth = self.import.push(&node, Op::Sequence(SequenceOp::Equal { number }), &[x])?;
                self.import.mark_truth(truth);
                return Ok(truth);
            }
        }
        self.compare(node, Comparison::Equal)
    }

    pub(super) fn not(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let truth = self.truth(node, 0)?;
        self.import.not(&node, truth)
    }

    pub(super) fn both_or_either(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (a, b) = (self.truth(node, 0)?, self.truth(node, 1)?);
        match node.op() {
            "And" => self.import.and(&node, a, b),
            "Or" => self.import.or(&node, a, b),
            _ => self.import.xor(&node, a, b),
        }
    }

    pub(super) fn choice(&mut self, node: NodeView<'a>) -> Result<ValueId, Problem> {
        let (truth, sides) = (self.truth(node, 0)?, [self.value(node, 1)?, self.value(node, 2)?]);
        self.import.choice(&node, truth, sides)
    }

    /// A comparison of floats.
    pub(super) fn compare(&mut self, node: NodeView<'a>, comparison: Comparison) -> Result<ValueId, Problem> {
        for index in 0..2 {
            let floats = match self.operand(node, index)? {
                Operand::Value(id) => self.import.graph.value(id).dtype.is_float(),
                Operand::Stored(stored) => stored.tensor.dtype().is_float(),
                Operand::Numbers(numbers) => numbers.float,
                _ => true,
            };
            if !floats {
                let what = "only floats are compared, and tokens with one number that is known";
                return Err(node.unsupported(what, SIMPLIFY));
            }
        }
        let operands = [self.value(node, 0)?, self.value(node, 1)?];
        self.import.compare(&node, comparison, operands)
    }

    // ---- one number everywhere ----

    /// What `node` makes when it is one number under a shape that is not all known, or large, or a part of such.
    pub(super) fn filled(&mut self, node: NodeView<'a>) -> Result<Option<Filled<'a>>, Problem> {
        let filled = |number, shape| Filled { number, shape, node };
        match node.op() {
            "ConstantOfShape" => {
                let Operand::Numbers(sizes) = self.operand(node, 0)? else { return Ok(None) };
                let small = |sizes: Vec<f64>| sizes.iter().product::<f64>() <= MAX_NUMBERS as f64;
                let tensor =
                    node.tensor("value").map(|proto| self.context.tensors.read(proto)).transpose()?;
                let number = tensor.map_or(Some(0.0), |t| t.as_f32().and_then(|t| t.first().copied()));
                match number {
                    Some(number) if !sizes.known().is_some_and(small) => {
                        Ok(Some(filled(number, sizes.to_shape())))
                    }
                    _ => Ok(None),
                }
            }
            "Slice" => match self.operand(node, 0)? {
                // All of it is known.
                Operand::Filled(Filled { shape: Some(shape), .. }) if shape.as_fixed().is_some() => Ok(None),
                Operand::Filled(Filled { number, .. }) => Ok(Some(filled(number, None))),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The number, under its shape.
    pub(super) fn spread_number(
        &mut self,
        node: NodeView<'a>,
        filled: &Filled<'a>,
    ) -> Result<ValueId, Problem> {
        let Some(shape) = filled.shape.clone() else {
            let what =
                format!("the shape of what `{}` makes is not known before the run", filled.node.name());
            return Err(node.unsupported(what, SIMPLIFY));
        };
        let name = self.import.names.unused(&format!("{}.number", filled.node.name()));
        let number = self.import.graph.add_constant(&name, Tensor::f32([], vec![filled.number]));
        self.import.push_named(&node, filled.node.name(), Op::Shape(ShapeOp::Expand { shape }), &[number])
    }
}

/// Whole numbers of a stored tensor.
pub(super) fn whole(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor.data() {
        Data::I64(numbers) => Some(numbers.clone()),
        Data::I32(numbers) => Some(numbers.iter().map(|&n| n.into()).collect()),
        // Sizes that were computed while the file was read.
        Data::F32(numbers) if numbers.iter().all(|n| n.fract() == 0.0) => {
            Some(numbers.iter().map(|&n| n as i64).collect())
        }
        _ => None,
    }
}
