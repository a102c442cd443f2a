//! LSTMs, whose weights do not change.

use offshoot_graph::op::Direction;
use offshoot_graph::{DType, Data, ExecuteError, Tensor};

use super::Node;
use super::dynamic::transposed;
use super::{Lowering, unsupported};
use crate::kernels::ConvShape;
use crate::kernels::conv::PackedFilter;
use crate::kernels::dynamic::ByteMatrix;
use crate::kernels::lstm::{Matrix, Sizes, Way, Work, lstm};
use crate::operands::Packed;

impl Lowering<'_> {
    /// (x, weight, recurrence, scales of both if they are bytes, bias) -> (y, last h)
    pub(super) fn lstm(&mut self, node: &Node, direction: Direction) -> Result<(), ExecuteError> {
        let (&[steps, batch, input], &[_, _, hidden]) =
            (self.shape(node.inputs[0]), self.shape(node.outputs[1]))
        else {
            return Err(unsupported(node, "its input must be steps of rows".into()));
        };
        let sizes = Sizes { steps, batch, input, hidden };
        let ways = (0..direction.ways()).map(|index| self.way(node, direction, index, sizes));
        let ways = ways.collect::<Result<Vec<Way>, _>>()?;
        let (x, outputs) = (self.plain(node.inputs[0])?, self.write_all::<f32, 2>(node)?);
        let (isa, mut work) = (self.isa, Work::default());
        let weights = [1, 2].map(|i| self.len(node.inputs[i]) * self.dtype(node.inputs[i]).size());
        let reads = (x, Packed { data: ways, bytes: weights.iter().sum() });
        let kernel = if self.dtype(node.inputs[1]) == DType::I8 { "int8 lstm" } else { "lstm" };
        self.step(kernel, reads, outputs, move |(x, ways), outputs| {
            lstm(isa, sizes, x, ways, &mut work, outputs);
        });
        Ok(())
    }

    fn way(
        &self,
        node: &Node,
        direction: Direction,
        index: usize,
        sizes: Sizes,
    ) -> Result<Way, ExecuteError> {
        let Sizes { input, hidden, .. } = sizes;
        let units = 4 * hidden;
        let frozen = || unsupported(node, "its weights must be frozen".into());
        let known = |i: usize| self.known(node.inputs[i]).map(Tensor::data).ok_or_else(frozen);
        let floats = |i: usize, len: usize| match known(i)? {
            Data::F32(all) => Ok(&all[index * len..(index + 1) * len]),
            _ => Err(frozen()),
        };
        let matrix = |i: usize, k: usize| match known(i)? {
            Data::F32(all) => {
                let mut filter = PackedFilter::new();
                let weight = &all[index * units * k..][..units * k];
                filter.pack(self.isa, &ConvShape::of_matrices(1, k, units), weight);
                Ok(Matrix::Floats(filter))
            }
            Data::I8(all) => {
                let weight = transposed(&all[index * units * k..][..units * k], [k, units]);
                let weight = ByteMatrix::pack(self.isa, &weight, [units, k]);
                Ok(Matrix::Bytes { weight, scale: floats(i + 2, units)?.to_vec() })
            }
            _ => Err(frozen()),
        };
        let bias = floats(node.inputs.len() - 1, 2 * units)?;
        let bias = bias[..units].iter().zip(&bias[units..]).map(|(w, r)| w + r).collect();
        let (weight, recurrence) = (matrix(1, input)?, matrix(2, hidden)?);
        Ok(Way { weight, recurrence, bias, reverse: direction.is_reverse(index) })
    }
}
