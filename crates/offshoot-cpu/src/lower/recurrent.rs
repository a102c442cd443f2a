//! LSTMs, whose weights do not change.

use offshoot_graph::op::Direction;
use offshoot_graph::{DType, Data, ExecuteError, Tensor};

use super::Node;
use super::dynamic::transposed;
use super::{Lowering, unsupported};
use crate::kernels::lstm::{Numbers, Sizes, Way, Weights, Work, lstm};
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
        let bytes = |i: usize, k: usize| match known(i)? {
            Data::I8(all) => Ok(transposed(&all[index * units * k..][..units * k], [k, units])),
            _ => Err(frozen()),
        };
        let bias = floats(node.inputs.len() - 1, 2 * units)?;
        let bias: Vec<f32> = bias[..units].iter().zip(&bias[units..]).map(|(w, r)| w + r).collect();
        let pack = |weights: Weights<'_>| {
            let numbers = Numbers { weights, bias: &bias };
            Way::pack(self.isa, sizes, &numbers, direction.is_reverse(index))
        };
        if self.dtype(node.inputs[1]) == DType::I8 {
            let (w, r) = (bytes(1, input)?, bytes(2, hidden)?);
            return Ok(pack(Weights::Bytes([&w, &r], [floats(3, units)?, floats(4, units)?])));
        }
        Ok(pack(Weights::Floats([floats(1, units * input)?, floats(2, units * hidden)?])))
    }
}
