//! Products with weights of bytes that quantise what they read.

use offshoot_graph::{DType, Data, ExecuteError, Node, Tensor};

use super::{Lowering, unsupported};
use crate::kernels::dynamic::{DynamicProduct, dynamic_product};
use crate::plan::BufferId;

impl Lowering<'_> {
    /// (x, weight, scale, bias?) -> y
    pub(super) fn dynamic_product(&mut self, node: &Node, trans_b: bool) -> Result<(), ExecuteError> {
        let (&[_, k], &[m, n]) = (self.shape(node.inputs[0]), self.shape(node.outputs[0])) else {
            return Err(unsupported(node, "its operands must be matrices".into()));
        };
        let (rows, sums) = self.rows_of_bytes(node, trans_b, [n, k])?;
        let x = self.plain(node.inputs[0])?;
        let scale = self.plain(node.inputs[2])?;
        let bias = node.inputs.get(3).map(|&b| self.plain(b)).transpose()?;
        let y = self.write_plain(node.outputs[0]);
        let bytes = self.fresh(m * k, DType::U8);
        let isa = self.isa;
        let reads = [x, rows, sums, scale].into_iter().chain(bias).collect();
        self.push(&node.name, reads, vec![y, bytes], move |memory, _, out| {
            let product = DynamicProduct {
                x: memory.get(x),
                weight: memory.get(rows),
                sums: memory.get(sums),
                scale: memory.get(scale),
                bias: bias.map(|b| memory.get(b)),
                k,
            };
            let [y, bytes] = out else { unreachable!("the step has two outputs") };
            dynamic_product(isa, &product, bytes.get(), y.get());
            Ok(())
        });
        Ok(())
    }

    /// The weight as [n, k], and the sum of each row, computed now: bytes are never trained.
    fn rows_of_bytes(
        &mut self,
        node: &Node,
        trans_b: bool,
        [n, k]: [usize; 2],
    ) -> Result<(BufferId, BufferId), ExecuteError> {
        let weight = self.known(node.inputs[1]).map(Tensor::data);
        let Some(Data::I8(weight)) = weight else {
            return Err(unsupported(node, "its weight is not known before the run".into()));
        };
        let rows: Vec<i8> = match trans_b {
            true => weight.clone(),
            false => transposed(weight, [k, n]),
        };
        let sums = sums_of_rows(&rows, k);
        let constant =
            |shape: &[usize], data| Tensor::new(shape, data).map_err(|e| unsupported(node, e.to_string()));
        let (rows, sums) = (constant(&[n, k], Data::I8(rows))?, constant(&[n], Data::I32(sums))?);
        Ok((self.constant(rows), self.constant(sums)))
    }
}

/// A matrix [rows, columns] as [columns, rows].
pub(super) fn transposed(matrix: &[i8], [rows, columns]: [usize; 2]) -> Vec<i8> {
    (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect()
}

/// The sum of each row of `k` bytes.
pub(super) fn sums_of_rows(matrix: &[i8], k: usize) -> Vec<i32> {
    matrix.chunks_exact(k.max(1)).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect()
}
