//! Functions of bytes, element by element.

use offshoot_graph::ExecuteError;

use super::elementwise::row_groups;
use super::{Lowering, Node, unsupported};
use crate::kernels::batch_norm::{BatchNorm, inv_std};
use crate::kernels::elementwise::{binary, unary};
use crate::kernels::int8::binary::{Bytes, Function, Other, Stored, combine};
use crate::kernels::int8::table::table;
use crate::kernels::quantize::{Scales, dequantize, quantize};
use crate::kernels::simd::Isa;
use crate::optimize::{QuantizedBinary, Steps, Term};

impl Lowering<'_> {
    /// A function of one tensor of bytes.
    pub(super) fn byte_function(&mut self, node: &Node, terms: &[Term]) -> Result<(), ExecuteError> {
        let bytes = table_of(self.isa, terms);
        let bytes = bytes.ok_or_else(|| unsupported(node, "it is no function of bytes".into()))?;
        let (isa, order) = (self.isa, self.held_order(&node.inputs));
        let x = self.in_order(node.inputs[0], order)?;
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("int8 table", x, y, move |x, y| table(isa, x, &bytes, y));
        Ok(())
    }

    /// A function of two operands.
    pub(super) fn byte_binary(
        &mut self,
        node: &Node,
        QuantizedBinary { op, other, swapped }: QuantizedBinary,
        a: Steps,
        stored: Stored,
    ) -> Result<(), ExecuteError> {
        let (isa, function) = (self.isa, Function { op, swapped });
        let Some(b) = other else { return self.byte_rows(node, function, a, stored) };
        let order = self.held_order(&node.inputs);
        let operands = (self.in_order(node.inputs[0], order)?, self.in_order(node.inputs[1], order)?);
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("int8 binary", operands, y, move |(x, other), y| {
            combine(isa, stored, bytes(x, a), Other::Bytes(function, bytes(other, b)), y);
        });
        Ok(())
    }

    /// A function of bytes and of rows of floats.
    fn byte_rows(
        &mut self,
        node: &Node,
        function: Function,
        a: Steps,
        stored: Stored,
    ) -> Result<(), ExecuteError> {
        let isa = self.isa;
        let order = self.order_of_rank(node.outputs[0]);
        let shapes = [0, 1].map(|input| self.aligned(node, input, order));
        let groups = row_groups(&shapes[0], &shapes[1])
            .ok_or_else(|| unsupported(node, "its second operand is no row of numbers".into()))?;
        let x = self.in_order(node.inputs[0], order)?;
        let numbers = self.operand::<f32>(node, 1, order)?;
        let y = self.write_in_order(node.outputs[0], order)?;
        self.step("int8 binary", (x, numbers), y, move |(x, numbers), y| {
            combine(isa, stored, bytes(x, a), Other::Rows { function, numbers, groups }, y);
        });
        Ok(())
    }

    /// A batch norm by running statistics.
    pub(super) fn byte_batch_norm(
        &mut self,
        node: &Node,
        epsilon: f32,
        a: Steps,
        stored: Stored,
    ) -> Result<(), ExecuteError> {
        self.picture(node, node.inputs[0])?;
        let (isa, x) = (self.isa, self.read(node.inputs[0])?);
        let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|i| self.plain(node.inputs[i]));
        let vectors = [gamma?, beta?, mean?, var?];
        let y = self.write(node.outputs[0])?;
        self.step("int8 batch norm", (x, vectors), y, move |(x, [gamma, beta, mean, var]), y| {
            let mut inverse = vec![0.0; var.len()];
            inv_std(var, epsilon, &mut inverse);
            let (scale, shift) = BatchNorm { mean, inv_std: &inverse, gamma, beta }.affine();
            combine(isa, stored, bytes(x, a), Other::Affine { scale: &scale, shift: &shift }, y);
        });
        Ok(())
    }
}

fn bytes(x: &[u8], Steps { scale, zero_point }: Steps) -> Bytes<'_> {
    Bytes { x, zero_point, scale }
}

/// What a part of a function gives for each byte.
enum Column {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

/// What the last part gives for each byte; `None` where it gives no bytes, or reads what does not stand before it.
fn table_of(isa: Isa, terms: &[Term]) -> Option<[u8; 256]> {
    let mut columns: Vec<Column> = Vec::new();
    for &term in terms {
        let column = column(isa, &columns, term)?;
        columns.push(column);
    }
    match columns.pop()? {
        Column::Bytes(bytes) => bytes.try_into().ok(),
        Column::Floats(_) => None,
    }
}

fn column(isa: Isa, columns: &[Column], term: Term) -> Option<Column> {
    let floats = |place: usize| match columns.get(place)? {
        Column::Floats(floats) => Some(floats),
        Column::Bytes(_) => None,
    };
    let mut y = vec![0.0; 256];
    match term {
        Term::Byte => return Some(Column::Bytes((0..=255).collect())),
        Term::Number(number) => y.fill(number),
        Term::Dequantize(place, Steps { scale, zero_point }) => {
            let Some(Column::Bytes(x)) = columns.get(place) else { return None };
            dequantize(x, Scales::new(&[scale], &[zero_point], 1), &mut y);
        }
        Term::Unary(op, place) => unary(isa, op, floats(place)?, &mut y),
        Term::Binary(op, [a, b]) => binary(isa, op, floats(a)?, floats(b)?, &mut y),
        Term::Quantize(place, Steps { scale, zero_point }) => {
            let mut bytes = vec![0; 256];
            quantize(isa, floats(place)?, Scales::new(&[scale], &[zero_point], 1), &mut bytes);
            return Some(Column::Bytes(bytes));
        }
    }
    Some(Column::Floats(y))
}
