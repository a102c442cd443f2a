//! QuantizeLinear and DequantizeLinear.

use std::rc::Rc;

use offshoot_graph::{DType, Data, Op, Role, Tensor, ValueId};

use super::{FLOAT, Operand, Translator, laid};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// A value, or a weight that a file keeps as floats and rounds at each run.
    pub(super) fn quantize(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if node.int("precision", 0) != 0
            || node.has("output_dtype") && !matches!(node.int("output_dtype", 0), 0 | 2 | 3)
        {
            return Err(node.unsupported("only 8-bit integers are read", FLOAT));
        }
        let (x, channels_last) = match self.operand(node, 0)? {
            Operand::Stored(_) => (self.plain_parameter(node, 0, Role::Weight)?, false),
            _ => self.laid_out(node, 0)?,
        };
        let default = if node.int("output_dtype", 2) == 3 { DType::I8 } else { DType::U8 };
        let (axis, inputs) = self.scale_and_zero_point(node, x, channels_last, default)?;
        let y = self.import.push(&node, Op::QuantizeLinear { axis }, &[x, inputs[0], inputs[1]])?;
        Ok(laid(y, channels_last))
    }

    pub(super) fn dequantize(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        if node.has("output_dtype") && !matches!(node.int("output_dtype", 0), 0 | 1) {
            return Err(node.unsupported("only floats of 32 bits are read", FLOAT));
        }
        if let Operand::Rows(rows) = self.operand(node, 0)? {
            return self.dequantized_rows(node, &rows);
        }
        if let Operand::Value(x) = self.operand(node, 0)?
            && self.is_of_bytes(x)
        {
            return self.dequantized_bytes(node, x);
        }
        let (x, channels_last) = match self.operand(node, 0)? {
            Operand::Stored(stored) if !stored.transposed => (self.integers(node, &stored)?, false),
            _ => self.laid_out(node, 0)?,
        };
        let default = self.import.graph.value(x).dtype;
        let (axis, inputs) = self.scale_and_zero_point(node, x, channels_last, default)?;
        let y = self.import.push(&node, Op::DequantizeLinear { axis }, &[x, inputs[0], inputs[1]])?;
        Ok(laid(y, channels_last))
    }

    /// The axis and the two constants of a node that quantizes to, or dequantizes from, `dtype` where it does not say.
    pub(super) fn scale_and_zero_point(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        channels_last: bool,
        dtype: DType,
    ) -> Result<(usize, [ValueId; 2]), Problem> {
        if node.int("block_size", 0) != 0 {
            return Err(node.unsupported("scales of blocks are not read", FLOAT));
        }
        let stored = self.stored(node, 1)?;
        let scale = self.floats(&stored)?;
        let valid = |&s: &f32| s.is_finite() && (s > 0.0 || s == 0.0 && node.op() == "DequantizeLinear");
        if !scale.as_f32().is_some_and(|s| s.iter().all(valid)) {
            return Err(node.damaged("a scale is no positive number"));
        }
        let places = scale.len();
        let zero_point = match node.input(2) {
            Some(_) => self.stored(node, 2)?.tensor,
            None => {
                Rc::new(zeros(dtype, places).ok_or_else(|| node.unsupported("it has no integers", FLOAT))?)
            }
        };
        if !matches!(zero_point.dtype(), DType::U8 | DType::I8 | DType::I32) || zero_point.len() != places {
            let (found, n) = (zero_point.dtype(), zero_point.len());
            let what =
                format!("{n} zero points of {found} for {places} scales: one of u8 or i8 for each is read");
            return Err(node.unsupported(what, FLOAT));
        }
        // One pair is for all elements, whatever its rank.
        let shape = if places == 1 { vec![] } else { vec![places] };
        let rank = self.import.shape(x).rank();
        let axis = if places == 1 { 0 } else { node.axis(node.int("axis", 1), rank)? };
        if channels_last && places != 1 {
            return Err(node.unsupported("of pictures with their channels last one scale is read", FLOAT));
        }
        let mut ids = [x; 2];
        for (index, tensor) in [scale, zero_point].into_iter().enumerate() {
            let name =
                node.input(index + 1).map_or_else(|| format!("{}.zero_point", node.name()), str::to_owned);
            ids[index] = self.shared_constant(name, Rc::unwrap_or_clone(tensor), &shape, node)?;
        }
        Ok((axis, ids))
    }
}

/// Zero points of integers.
fn zeros(dtype: DType, places: usize) -> Option<Tensor> {
    let data = match dtype {
        DType::U8 => Data::U8(vec![0; places]),
        DType::I8 => Data::I8(vec![0; places]),
        DType::I32 => Data::I32(vec![0; places]),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::I64 | DType::Bool => return None,
    };
    Tensor::new([places], data).ok()
}
