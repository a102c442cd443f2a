//! Products with weights of bytes that quantize what they read.

use std::borrow::Cow;

use offshoot_graph::{Data, ExecuteError, Tensor};

use super::Node;
use super::{Lowering, unsupported};
use crate::kernels::dynamic::{ByteMatrix, DynamicProduct, dynamic_product};
use crate::operands::Packed;

impl Lowering<'_> {
    /// (x, weight, scale, bias?) -> y
    pub(super) fn dynamic_product(&mut self, node: &Node, trans_b: bool) -> Result<(), ExecuteError> {
        let (&[_, k], &[m, n]) = (self.shape(node.inputs[0]), self.shape(node.outputs[0])) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let weight = ByteMatrix::pack(self.isa, &self.rows_of_bytes(node, trans_b, [n, k])?, [n, k]);
        let x = self.plain(node.inputs[0])?;
        let scale = self.plain(node.inputs[2])?;
        let bias = node.inputs.get(3).map(|&b| self.plain(b)).transpose()?;
        let writes = (self.write_plain(node.outputs[0])?, self.fresh(m * k));
        let isa = self.isa;
        let reads = (x, Packed { data: weight, bytes: n * k }, scale, bias);
        self.step("int8 product", reads, writes, move |(x, weight, scale, bias), (y, bytes)| {
            dynamic_product(isa, &DynamicProduct { x, weight, scale, bias }, bytes, y);
        });
        Ok(())
    }

    /// The weight as [n, k]: bytes are never trained.
    fn rows_of_bytes(
        &self,
        node: &Node,
        trans_b: bool,
        [n, k]: [usize; 2],
    ) -> Result<Cow<'_, [i8]>, ExecuteError> {
        match self.known(node.inputs[1]).map(Tensor::data) {
            Some(Data::I8(weight)) if trans_b => Ok(Cow::Borrowed(weight)),
            Some(Data::I8(weight)) => Ok(Cow::Owned(transposed(weight, [k, n]))),
            _ => Err(unsupported(node, "its weight is not known before the run".into())),
        }
    }
}

/// A matrix [rows, columns] as [columns, rows].
pub(super) fn transposed(matrix: &[i8], [rows, columns]: [usize; 2]) -> Vec<i8> {
    (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect()
}
