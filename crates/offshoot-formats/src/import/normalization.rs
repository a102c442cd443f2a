//! Norms: of the batch, of the last axes, of groups of channels.

use offshoot_graph::op::{Binary, LayerNormalization, Reduce, Unary};
use offshoot_graph::{Dim, DimOp, Op, Shape, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

/// A weight and a bias, where they are given.
#[derive(Clone, Copy, Default)]
pub(crate) struct Affine {
    pub(crate) weight: Option<ValueId>,
    pub(crate) bias: Option<ValueId>,
}

impl Importer {
    /// A norm over the axes from `axis` on, times a weight and plus a bias of these axes.
    pub(crate) fn layer_norm(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        affine: Affine,
        epsilon: f32,
    ) -> Result<ValueId, Problem> {
        let rank = self.rank(x);
        if let (Some(weight), Some(bias)) = (affine.weight, affine.bias)
            && axis + 1 == rank
        {
            let op = Op::LayerNormalization(LayerNormalization { epsilon });
            return self.push(site, op, &[x, weight, bias]);
        }
        let axes: Vec<usize> = (axis..rank).collect();
        let normed = self.normed(site, x, &axes, epsilon)?;
        self.affine(site, normed, affine)
    }

    /// A norm over the channels of each of `groups` and all their pixels, times a weight and plus a bias of each channel.
    pub(crate) fn group_norm(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        groups: usize,
        affine: Affine,
        epsilon: f32,
    ) -> Result<ValueId, Problem> {
        let shape = self.shape(x).clone();
        let (Some(batch), Some(channels)) = (shape.0.first(), shape.0.get(1).and_then(Dim::fixed)) else {
            return Err(site.refused("only a norm of a known number of channels is read"));
        };
        if groups == 0 || channels % groups != 0 {
            return Err(site.damage(&format!("{channels} channels are no {groups} groups")));
        }
        let pixels =
            shape.0[2..].iter().fold(Dim::Fixed(channels / groups), |n, dim| n.combine(DimOp::Mul, dim));
        let rows = Shape(vec![batch.clone(), Dim::Fixed(groups), pixels]);
        let rows = self.shaped(site, "groups", x, rows)?;
        let normed = self.normed(site, rows, &[2], epsilon)?;
        let normed = self.shaped(site, "normed", normed, shape.clone())?;
        let of_channels = |importer: &mut Self, part: &str, id: Option<ValueId>| match id {
            None => Ok(None),
            Some(id) => importer.of_channels(site, part, id, channels, shape.rank()).map(Some),
        };
        let weight = of_channels(self, "weight", affine.weight)?;
        let bias = of_channels(self, "bias", affine.bias)?;
        self.affine(site, normed, Affine { weight, bias })
    }

    /// `x` under a shape that it may have already.
    fn shaped(&mut self, site: &dyn Site, part: &str, x: ValueId, shape: Shape) -> Result<ValueId, Problem> {
        if *self.shape(x) == shape { Ok(x) } else { self.push_part(site, part, Op::Reshape { shape }, &[x]) }
    }

    /// A number for each channel, under the axes of a picture.
    fn of_channels(
        &mut self,
        site: &dyn Site,
        part: &str,
        id: ValueId,
        channels: usize,
        rank: usize,
    ) -> Result<ValueId, Problem> {
        if self.shape(id).as_fixed() != Some(vec![channels]) {
            let what = format!(
                "its {part} is {}, and not one number for each of {channels} channels",
                self.shape(id)
            );
            return Err(site.damage(&what));
        }
        let mut shape = vec![1; rank];
        shape[1] = channels;
        self.push_part(site, part, Op::Reshape { shape: Shape::fixed(&shape) }, &[id])
    }

    /// (x - mean) / sqrt(var + epsilon) over axes, with the biased variance.
    fn normed(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axes: &[usize],
        epsilon: f32,
    ) -> Result<ValueId, Problem> {
        let mean = self.mean_of(site, "mean", x, axes)?;
        let centred = self.push_part(site, "centred", Op::Binary(Binary::Sub), &[x, mean])?;
        let squares = self.push_part(site, "squares", Op::Binary(Binary::Mul), &[centred, centred])?;
        let variance = self.mean_of(site, "variance", squares, axes)?;
        let epsilon = self.number(site, "epsilon", epsilon);
        let variance = self.push_part(site, "positive", Op::Binary(Binary::Add), &[variance, epsilon])?;
        let deviation = self.push_part(site, "deviation", Op::Unary(Unary::Sqrt), &[variance])?;
        self.push_part(site, "scaled", Op::Binary(Binary::Div), &[centred, deviation])
    }

    fn mean_of(
        &mut self,
        site: &dyn Site,
        part: &str,
        x: ValueId,
        axes: &[usize],
    ) -> Result<ValueId, Problem> {
        let mut mean = x;
        for &axis in axes {
            mean = self.push_part(site, part, Op::Reduce { op: Reduce::Mean, axis }, &[mean])?;
        }
        Ok(mean)
    }

    fn affine(&mut self, site: &dyn Site, x: ValueId, affine: Affine) -> Result<ValueId, Problem> {
        match (affine.weight, affine.bias) {
            (Some(weight), Some(bias)) => {
                let operands = self.aligned(site, &[x, weight])?;
                let weighted = self.push_part(site, "weighted", Op::Binary(Binary::Mul), &operands)?;
                self.binary(site, Binary::Add, [weighted, bias])
            }
            (Some(weight), None) => self.binary(site, Binary::Mul, [x, weight]),
            (None, Some(bias)) => self.binary(site, Binary::Add, [x, bias]),
            (None, None) => Ok(x),
        }
    }
}
