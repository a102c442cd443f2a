//! Tables of embeddings whose rows are bytes. They become tables of floats when they are read: a lookup takes as long as before.

use std::rc::Rc;

use offshoot_graph::op::{Binary, ShapeOp};
use offshoot_graph::{DType, Data, Op, Tensor, ValueId};

use super::{FLOAT, Operand, Stored, Translator};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

/// What a Gather looks up in a stored table, before it is known what the table stands for.
#[derive(Clone)]
pub(super) struct Rows<'a> {
    pub(super) table: Stored,
    /// The Gather.
    pub(super) node: NodeView<'a>,
}

/// Whether a table is of bytes, or has one number for each row, which may be their scale.
pub(super) fn is_part_of_bytes(table: &Stored) -> bool {
    is_bytes(table) || matches!(table.tensor.shape(), [_, 1])
}

fn is_bytes(table: &Stored) -> bool {
    matches!(table.tensor.dtype(), DType::U8 | DType::I8)
}

impl<'a> Translator<'a> {
    /// Looks up the rows that `node` reads, which are not those of a table of bytes that it makes floats of.
    pub(super) fn settle_rows(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        for name in &node.proto.input {
            if let Some(Operand::Rows(rows)) = self.operands.get(name.as_str()).cloned() {
                let found = match is_bytes(&rows.table) {
                    // What moves them stands before the node that makes floats of them.
                    true => self.floats_of_bytes(node, &rows, "as they are".to_owned(), |_| (1.0, 0))?,
                    false => self.looked_up(rows.node, &rows.table)?,
                };
                if let (Operand::Value(id), true) = (&found, is_bytes(&rows.table)) {
                    self.bytes.insert(*id);
                }
                self.operands.insert(name, found);
            }
        }
        Ok(())
    }

    /// Rows of bytes with one scale for all of them: what ONNX Runtime's tools and ours write.
    pub(super) fn dequantized_rows(
        &mut self,
        node: NodeView<'a>,
        rows: &Rows<'a>,
    ) -> Result<Operand<'a>, Problem> {
        let (step, zero_point) = self.step(node)?;
        let way = format!("times {step} from {zero_point}");
        self.floats_of_bytes(node, rows, way, |_| (step, zero_point))
    }

    /// The scale and the zero point of all that a DequantizeLinear reads.
    fn step(&mut self, node: NodeView<'a>) -> Result<(f32, i16), Problem> {
        let scale = self.stored(node, 1)?;
        let zero_point = match node.input(2) {
            Some(_) => only(&self.stored(node, 2)?.tensor),
            None => Some(0),
        };
        let scale = self.floats(&scale)?;
        match (scale.as_f32().unwrap_or_default(), zero_point) {
            (&[step], Some(zero_point)) => Ok((step, zero_point)),
            _ => Err(node.unsupported("of rows of bytes one scale and one zero point are read", FLOAT)),
        }
    }

    /// Whether `x` is bytes of a table that are floats here, with their axes moved perhaps.
    pub(super) fn is_of_bytes(&self, mut x: ValueId) -> bool {
        while !self.bytes.contains(&x) {
            let Some(producer) = self.import.graph.producer(x) else { return false };
            let node = self.import.graph.node(producer);
            if !matches!(
                node.op,
                Op::Shape(ShapeOp::Reshape { .. } | ShapeOp::Flatten { .. } | ShapeOp::Transpose { .. })
            ) {
                return false;
            }
            x = node.inputs[0];
        }
        true
    }

    /// The floats that such bytes stand for.
    pub(super) fn dequantized_bytes(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
    ) -> Result<Operand<'a>, Problem> {
        let (step, zero_point) = self.step(node)?;
        let number = |translator: &mut Self, part: &str, number: f32| {
            let name = translator.import.names.unused(&format!("{}.{part}", node.name()));
            translator.import.graph.add_constant(&name, Tensor::f32([], vec![number]))
        };
        let zero = number(self, "zero", -f32::from(zero_point));
        let centred = self.import.push_named(
            &node,
            &format!("{}.centred", node.name()),
            Op::Binary(Binary::Add),
            &[x, zero],
        )?;
        let scale = number(self, "step", step);
        self.import.push(&node, Op::Binary(Binary::Mul), &[centred, scale]).map(Operand::Value)
    }

    /// Rows of bytes times the scale of each: what we write where the rows of a table differ in size.
    pub(super) fn scaled_rows(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        for (index, other) in [(0, 1), (1, 0)] {
            let (Operand::Rows(bytes), Operand::Rows(scales)) =
                (self.operand(node, index)?, self.operand(node, other)?)
            else {
                return Ok(None);
            };
            let alike = bytes.table.tensor.shape().first() == scales.table.tensor.shape().first()
                && bytes.node.input(1) == scales.node.input(1);
            if !alike || !is_bytes(&bytes.table) || is_bytes(&scales.table) {
                continue;
            }
            let numbers = self.floats(&scales.table)?;
            let numbers = numbers.as_f32().unwrap_or_default();
            let way = format!("times {}", scales.table.name);
            return self.floats_of_bytes(node, &bytes, way, |row| (numbers[row], 0)).map(Some);
        }
        Ok(None)
    }

    /// What a Gather finds in the floats that a table of bytes stands for, by the scale and the zero point of each row.
    fn floats_of_bytes(
        &mut self,
        node: NodeView<'a>,
        rows: &Rows<'a>,
        way: String,
        scale: impl Fn(usize) -> (f32, i16),
    ) -> Result<Operand<'a>, Problem> {
        let bytes = Rc::clone(&rows.table.tensor);
        // A product may read the same bytes as they are, and another Gather with other scales.
        let mut name = format!("{}.floats", rows.table.name);
        if self.derived.keys().any(|(made, other)| *made == rows.table.name && *other != way) {
            name = format!("{name} {way}");
        }
        let table = self.once(&node.place(), &rows.table.name, way, bytes.len(), |_| {
            let width: usize = bytes.shape().iter().skip(1).product();
            let float = |(i, byte): (usize, i16)| {
                let (scale, zero_point) = scale(i / width.max(1));
                f32::from(byte - zero_point) * scale
            };
            let floats = match bytes.data() {
                Data::U8(v) => v.iter().map(|&x| i16::from(x)).enumerate().map(float).collect(),
                Data::I8(v) => v.iter().map(|&x| i16::from(x)).enumerate().map(float).collect(),
                _ => Vec::new(),
            };
            Tensor::new(bytes.shape(), Data::F32(floats)).map_err(|e| node.damaged(e.to_string()))
        })?;
        self.looked_up(rows.node, &Stored { name, tensor: table, ..rows.table.clone() })
    }
}

/// The only byte of a tensor.
fn only(tensor: &Tensor) -> Option<i16> {
    match tensor.data() {
        Data::U8(v) if v.len() == 1 => Some(v[0].into()),
        Data::I8(v) if v.len() == 1 => Some(v[0].into()),
        _ => None,
    }
}
