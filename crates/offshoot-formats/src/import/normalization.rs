//! Norms: of the batch, of the last axes, of groups of channels.

use offshoot_graph::op::{
    BatchNormalization, Binary, Composite, LayerNormalization, Norm, Reduce, ShapeOp, Unary,
};
use offshoot_graph::{Dim, DimOp, Op, Shape, Tensor, ValueId};

use super::{Importer, Site};
use crate::error::Problem;

/// A weight and a bias, where they are given.
#[derive(Clone, Copy, Default)]
pub(crate) struct Affine {
    pub(crate) weight: Option<ValueId>,
    pub(crate) bias: Option<ValueId>,
}

impl Importer {
    /// A norm of each channel by statistics that are kept: of pictures, and of what has other axes than rows and columns as pictures.
    pub(crate) fn batch_norm(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        parameters: [ValueId; 4],
        norm: BatchNormalization,
    ) -> Result<ValueId, Problem> {
        let op = Op::Norm(Norm::Batch(norm));
        let shape = self.shape(x).clone();
        let operands = |x| [&[x], &parameters[..]].concat();
        if shape.rank() < 3 || shape.rank() == 4 {
            return self.push(site, op, &operands(x));
        }
        let rows = shape.0[3..].iter().fold(Dim::Fixed(1), |n, dim| n.combine(DimOp::Mul, dim));
        let picture = Shape([&shape.0[..3], &[rows]].concat());
        let picture =
            self.push_part(site, "picture", Op::Shape(ShapeOp::Reshape { shape: picture }), &[x])?;
        let normed = self.push(site, op, &operands(picture))?;
        self.push_part(site, "shape", Op::Shape(ShapeOp::Reshape { shape }), &[normed])
    }

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
            let op = Op::Norm(Norm::Layer(LayerNormalization { epsilon }));
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
        let channels = self.channels(site, x)?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(site.damage(&format!("{channels} channels are no {groups} groups")));
        }
        let [weight, bias] = self.affine_of_channels(site, affine, channels)?;
        self.compose(site, Composite::GroupNormalization { groups, epsilon }, &[x, weight, bias])
    }

    /// A norm over the pixels of each channel, times a weight and plus a bias of each channel.
    pub(crate) fn instance_norm(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        affine: Affine,
        epsilon: f32,
    ) -> Result<ValueId, Problem> {
        let channels = self.channels(site, x)?;
        let [weight, bias] = self.affine_of_channels(site, affine, channels)?;
        self.compose(site, Composite::InstanceNormalization { epsilon }, &[x, weight, bias])
    }

    fn channels(&self, site: &dyn Site, x: ValueId) -> Result<usize, Problem> {
        let channels = self.shape(x).0.get(1).and_then(Dim::fixed);
        channels.ok_or_else(|| site.refused("only a norm of a known number of channels is read"))
    }

    /// A weight and a bias of each channel; those that are not given are 1 and 0.
    fn affine_of_channels(
        &mut self,
        site: &dyn Site,
        affine: Affine,
        channels: usize,
    ) -> Result<[ValueId; 2], Problem> {
        let weight = self.of_channels(site, "weight", affine.weight, channels, 1.0)?;
        Ok([weight, self.of_channels(site, "bias", affine.bias, channels, 0.0)?])
    }

    fn of_channels(
        &mut self,
        site: &dyn Site,
        part: &str,
        given: Option<ValueId>,
        channels: usize,
        otherwise: f32,
    ) -> Result<ValueId, Problem> {
        let Some(id) = given else {
            return Ok(self.constant(site, part, Tensor::full([channels], otherwise)));
        };
        if self.shape(id).as_fixed() != Some(vec![channels]) {
            let what = format!(
                "its {part} is {}, and not one number for each of {channels} channels",
                self.shape(id)
            );
            return Err(site.damage(&what));
        }
        Ok(id)
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
