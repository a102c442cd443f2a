//! Products of bytes that are quantized at each run. Nothing is computed before the product that reads them.

use std::rc::Rc;

use offshoot_graph::op::Binary;
use offshoot_graph::{DType, Data, Op, Role, Tensor, ValueId};

use super::{Dynamic, FLOAT, Operand, Part, Stored, Translator};
use crate::error::Problem;
use crate::import::Site;
use crate::onnx::attributes::NodeView;

impl<'a> Translator<'a> {
    /// DynamicQuantizeLinear: nothing is computed before the product that reads what it gives.
    pub(super) fn dynamic_quantize(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = self.value(node, 0)?;
        for (output, part) in node.proto.output.iter().zip([Part::Bytes, Part::Scale, Part::ZeroPoint]) {
            self.operands.insert(output, Operand::Dynamic(Dynamic::Of { x, part }));
        }
        Ok(())
    }

    pub(super) fn dynamic_sums(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let other =
            || node.unsupported("only bytes of DynamicQuantizeLinear times stored bytes are read", FLOAT);
        let Operand::Dynamic(Dynamic::Of { x, part: Part::Bytes }) = self.operand(node, 0)? else {
            return Err(other());
        };
        let zero_point = node.input(2).map(|_| self.operand(node, 2)).transpose()?;
        match zero_point {
            Some(Operand::Dynamic(Dynamic::Of { x: of, part: Part::ZeroPoint })) if of == x => {}
            _ => return Err(other()),
        }
        let mut matrix = self.stored(node, 1)?;
        if matrix.tensor.shape().len() != 2 || matrix.tensor.is_empty() {
            return Err(other());
        }
        let zeros = match node.input(3) {
            Some(_) => Some(self.stored(node, 3)?),
            None => None,
        };
        let zero_point = zeros
            .as_ref()
            .map_or(Some(0), |zeros| common(&zeros.tensor))
            .ok_or_else(|| node.unsupported("its weights do not lie around one zero point", FLOAT))?;
        let bytes = Rc::clone(&matrix.tensor);
        // Signed bytes do not hold all differences of bytes from a zero point that is not in their middle.
        let middle = [zero_point, if bytes.dtype() == DType::U8 { 128 } else { 0 }];
        let (mut less, mut made) = (0, None);
        for middle in middle {
            let way = format!("around {middle}");
            let place = node.place();
            let shifted = match self.derived.get(&(matrix.name.clone(), way.clone())) {
                Some(shifted) => Some(Rc::clone(shifted)),
                None => match centred(&bytes, middle) {
                    Some(tensor) => {
                        let len = bytes.len().div_ceil(4);
                        Some(self.once(&place, &matrix.name, way, len, |_| Ok(tensor))?)
                    }
                    None => None,
                },
            };
            if let Some(shifted) = shifted {
                (less, made) = (zero_point - middle, Some(shifted));
                break;
            }
        }
        matrix.tensor = made.ok_or_else(|| node.unsupported("its weights are no bytes", FLOAT))?;
        let less = f32::from(less);
        Ok(Operand::Dynamic(Dynamic::Sums { x, matrix, less }))
    }

    /// What a Mul makes of the scales or the sums of a product of bytes; `None` where it multiplies something else.
    pub(super) fn dynamic_mul(&mut self, node: NodeView<'a>) -> Result<Option<Operand<'a>>, Problem> {
        for (index, other) in [(0, 1), (1, 0)] {
            let pair = (self.operand(node, index)?, self.operand(node, other)?);
            return Ok(Some(Operand::Dynamic(match pair {
                (Operand::Dynamic(Dynamic::Of { x, part: Part::Scale }), Operand::Stored(scale)) => {
                    Dynamic::Scales { x, scale }
                }
                (
                    Operand::Dynamic(Dynamic::Sums { x, matrix, less }),
                    Operand::Dynamic(Dynamic::Scales { x: of, scale }),
                ) if x == of => Dynamic::Product { x, matrix, less, scale, node },
                _ => continue,
            })));
        }
        Ok(None)
    }

    pub(super) fn dynamic_product(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        (matrix, less): (&Stored, f32),
        scale: &Stored,
        bias: Option<&Stored>,
    ) -> Result<ValueId, Problem> {
        let name = node.name();
        let weight = self.weight_of(&matrix.name, Rc::clone(&matrix.tensor), Role::Weight)?;
        let columns = matrix.tensor.shape()[usize::from(!matrix.transposed)];
        let mut scale = scale.clone();
        if scale.tensor.len() == 1 && columns != 1 {
            let one = self.floats(&scale)?.as_f32().map_or(1.0, |s| s[0]);
            let way = format!("{columns} times");
            scale.tensor =
                self.once(&node.place(), &scale.name, way, columns, |_| Ok(Tensor::full([columns], one)))?;
        }
        let scales = self.parameter(&scale, Role::Buffer)?;
        let mut operands = vec![weight, scales];
        if let Some(bias) = bias {
            operands.push(self.parameter(bias, Role::Weight)?);
        }
        let product = Op::DynamicQuantizeMatMul { trans_b: matrix.transposed };
        let y = self.import.by_rows(&node, name, product, x, &operands)?;
        if less == 0.0 {
            return Ok(y);
        }
        // Each weight is too large by `less`: so many times the sum of x's bytes.
        let width = matrix.tensor.shape()[usize::from(matrix.transposed)];
        let ones = self.ones(&node.place(), width)?;
        let times = self.import.names.unused(&node.part("less"));
        let times = self.import.graph.add_parameter(&times, &[1], Role::Buffer);
        self.weights
            .insert(self.import.graph.value(times).name.clone(), Rc::new(Tensor::f32([1], vec![-less])));
        let sums = Op::DynamicQuantizeMatMul { trans_b: false };
        let sums = self.import.by_rows(&node, &node.part("sums"), sums, x, &[ones, times])?;
        let sums = self.import.push_named(
            &node,
            &node.part("scaled_sums"),
            Op::Binary(Binary::Mul),
            &[sums, scales],
        )?;
        self.import.push_named(&node, &node.part("shifted"), Op::Binary(Binary::Add), &[y, sums])
    }

    /// A column of bytes that are 1.
    fn ones(&mut self, place: &str, rows: usize) -> Result<ValueId, Problem> {
        let tensor = Tensor::new([rows, 1], Data::I8(vec![1; rows]));
        let tensor = tensor.map_err(|e| Problem::damaged(place, e.to_string()))?;
        self.weight_of(&format!("ones_{rows}"), Rc::new(tensor), Role::Weight)
    }
}

/// The number that all zero points are.
fn common(zero_points: &Tensor) -> Option<i16> {
    let zeros: Vec<i16> = match zero_points.data() {
        Data::I8(zeros) => zeros.iter().map(|&z| z.into()).collect(),
        Data::U8(zeros) => zeros.iter().map(|&z| z.into()).collect(),
        _ => return None,
    };
    zeros.first().copied().filter(|first| zeros.iter().all(|z| z == first))
}

/// Bytes without their zero point, as signed ones; `None` where they are no bytes or do not fit.
fn centred(tensor: &Tensor, zero: i16) -> Option<Tensor> {
    let data: Vec<i8> = match tensor.data() {
        Data::I8(v) => v.iter().map(|&x| i8::try_from(i16::from(x) - zero).ok()).collect::<Option<_>>()?,
        Data::U8(v) => v.iter().map(|&x| i8::try_from(i16::from(x) - zero).ok()).collect::<Option<_>>()?,
        _ => return None,
    };
    Tensor::new(tensor.shape(), Data::I8(data)).ok()
}
