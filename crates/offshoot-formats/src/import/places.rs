//! Elements at places that are known before the run: lists of indices, repetitions, triangles, blocks of pixels.

use offshoot_graph::op::{SequenceOp, ShapeOp};
use offshoot_graph::{Dim, DimOp, Op, Shape, Tensor, ValueId};

use super::{Importer, Number, Part, Site};
use crate::elements::MAX_ELEMENTS;
use crate::error::Problem;

impl Importer {
    /// The places `indices` of an axis of known size, under the shape `under` in the place of that axis.
    pub(crate) fn places(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        indices: &[i64],
        under: &[usize],
    ) -> Result<ValueId, Problem> {
        let dims = self.shape(x).0.clone();
        let size = dims[axis].fixed().ok_or_else(|| site.refused("the axis has no known size"))?;
        let counted = |&index: &i64| {
            let counted = if index < 0 { index.saturating_add(size as i64) } else { index };
            usize::try_from(counted).ok().filter(|&i| i < size)
        };
        let places: Option<Vec<usize>> = indices.iter().map(counted).collect();
        let places = places.ok_or_else(|| site.damage(&format!("an index is outside of {size}")))?;
        let (Some(&first), count) = (places.first(), places.len()) else {
            return Err(site.refused("it picks nothing"));
        };
        let dims: Vec<Dim> = [&dims[..axis], &Shape::fixed(under).0, &dims[axis + 1..]].concat();
        let picked = match runs(&places) {
            _ if dims.len() == self.rank(x) && places.iter().copied().eq(first..first + count) => {
                return self.slice(site, x, axis, [first as i64, (first + count) as i64]);
            }
            _ if self.is_every(x, axis, &places) => self.every(site, x, axis, &places)?,
            runs if runs.len() <= MAX_RUNS => self.joined_runs(site, x, axis, &runs)?,
            _ => self.rows_of(site, x, axis, places)?,
        };
        self.reshape_to(&Part { site, name: site.part("picked") }, picked, Shape(dims))
    }

    /// Whether these are all places of an axis that are so far from each other.
    fn is_every(&self, x: ValueId, axis: usize, places: &[usize]) -> bool {
        let (Some(size), &[first, second, ..]) = (self.shape(x).0[axis].fixed(), places) else {
            return false;
        };
        let step = second.saturating_sub(first);
        let all = step > 1 && first < step && size.is_multiple_of(step) && places.len() == size / step;
        all && places.iter().enumerate().all(|(i, &place)| place == first + i * step)
    }

    /// Every so many of the places of an axis.
    fn every(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        places: &[usize],
    ) -> Result<ValueId, Problem> {
        let dims = self.shape(x).0.clone();
        let (first, step) = (places[0], places[1] - places[0]);
        let of = |sides: &[usize]| Shape([&dims[..axis], &Shape::fixed(sides).0, &dims[axis + 1..]].concat());
        let apart = Op::Shape(ShapeOp::Reshape { shape: of(&[places.len(), step]) });
        let apart = self.push_part(site, "apart", apart, &[x])?;
        let slice = Op::Shape(ShapeOp::Slice { axis: axis + 1, start: first, end: first + 1 });
        let picked = self.push_part(site, "every", slice, &[apart])?;
        self.push(site, Op::Shape(ShapeOp::Reshape { shape: of(&[places.len()]) }), &[picked])
    }

    /// Parts of an axis one after another.
    fn joined_runs(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        runs: &[[usize; 2]],
    ) -> Result<ValueId, Problem> {
        let mut parts = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            let part = Part { site, name: site.part(&format!("part{i}")) };
            parts.push(self.slice(&part, x, axis, run.map(|place| place as i64))?);
        }
        match parts[..] {
            [only] => Ok(only),
            _ => self.push(site, Op::Shape(ShapeOp::Concat { axis }), &parts),
        }
    }

    /// Places of an axis, which a Gather looks up as rows.
    fn rows_of(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        axis: usize,
        places: Vec<usize>,
    ) -> Result<ValueId, Problem> {
        let indices = Tensor::i64([places.len()], places.into_iter().map(|i| i as i64).collect());
        let gather = Op::Sequence(SequenceOp::Gather);
        if axis == 0 {
            let indices = self.constant(site, "indices", indices);
            return self.push(site, gather, &[x, indices]);
        }
        let rank = self.rank(x);
        let perm: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&i| i != axis)).collect();
        let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
        let first = self.push_part(site, "first", Op::Shape(ShapeOp::Transpose { perm }), &[x])?;
        let rows = Part { site, name: site.part("rows") };
        let indices = self.constant(&rows, "indices", indices);
        let rows = self.push(&rows, gather, &[first, indices])?;
        self.push(site, Op::Shape(ShapeOp::Transpose { perm: back }), &[rows])
    }

    /// `x`, so often along each axis.
    pub(crate) fn tile(&mut self, site: &dyn Site, x: ValueId, times: &[Number]) -> Result<ValueId, Problem> {
        let dims = self.shape(x).0.clone();
        if times.len() != dims.len() {
            return Err(site.damage("it has not one number of repetitions for each axis"));
        }
        let mut tiled = x;
        for (axis, number) in times.iter().enumerate() {
            let name = site.part(&format!("axis{axis}"));
            let mut wide = self.shape(tiled).clone();
            match (number, &dims[axis]) {
                (Number::Known(1.0), _) => {}
                (number, Dim::Fixed(1)) if number.dim().is_some_and(|n| n != Dim::Fixed(0)) => {
                    wide.0[axis] = number.dim().unwrap_or(Dim::Fixed(1));
                    tiled =
                        self.push_named(site, &name, Op::Shape(ShapeOp::Expand { shape: wide }), &[tiled])?;
                }
                (&Number::Known(n), _) if (2.0..=MAX_TILES).contains(&n) => {
                    let copies = vec![tiled; n as usize];
                    tiled = self.push_named(site, &name, Op::Shape(ShapeOp::Concat { axis }), &copies)?;
                }
                _ => return Err(site.refused("its repetitions are not known before the run, or too many")),
            }
        }
        Ok(tiled)
    }

    /// The part of matrices on or above the diagonal that is `shift` right of the main one, or on and below it; zeros elsewhere.
    pub(crate) fn triangle(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        shift: i64,
        upper: bool,
    ) -> Result<ValueId, Problem> {
        let dims = &self.shape(x).0;
        let sizes: Option<Vec<usize>> = dims[dims.len().saturating_sub(2)..].iter().map(Dim::fixed).collect();
        let (Some([rows, columns]), true) = (sizes.as_deref(), dims.len() > 1) else {
            return Err(site.refused("only matrices of known size have triangles"));
        };
        let (rows, columns) = (*rows, *columns);
        if rows.saturating_mul(columns) > MAX_ELEMENTS {
            return Err(site.refused("its matrices are too large"));
        }
        let keeps = |i: usize| {
            let right = (i % columns) as i64 - (i / columns) as i64;
            f32::from(u8::from(if upper { right >= shift } else { right <= shift }))
        };
        let mask = Tensor::f32([rows, columns], (0..rows * columns).map(keeps).collect());
        let mask = self.constant(site, "truth", mask);
        self.mark_truth(mask);
        let zero = self.number(site, "zero", 0.0);
        self.push(site, Op::Sequence(SequenceOp::Where), &[mask, x, zero])
    }

    /// Blocks of `block` by `block` pixels as channels. The channels of one pixel stand together, pixel after pixel.
    pub(crate) fn space_to_depth(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        block: usize,
    ) -> Result<ValueId, Problem> {
        let [n, c, h, w] = self.picture(site, x)?;
        let by = Dim::Fixed(block.max(1));
        let [rows, columns] = [&h, &w].map(|side| side.combine(DimOp::Div, &by));
        let apart = vec![n.clone(), c.clone(), rows.clone(), by.clone(), columns.clone(), by.clone()];
        let shape = vec![n, c.combine(DimOp::Mul, &Dim::Fixed(block.saturating_mul(block))), rows, columns];
        self.rearranged(site, x, apart, vec![0, 3, 5, 1, 2, 4], shape)
    }

    /// Channels as blocks of `block` by `block` pixels; those of one pixel stand together, or (`by_channel`) those of one channel.
    pub(crate) fn depth_to_space(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        block: usize,
        by_channel: bool,
    ) -> Result<ValueId, Problem> {
        let [n, c, h, w] = self.picture(site, x)?;
        let by = Dim::Fixed(block.max(1));
        let channels = c.combine(DimOp::Div, &Dim::Fixed(block.saturating_mul(block).max(1)));
        let (apart, perm) = match by_channel {
            true => ([channels.clone(), by.clone(), by.clone()], vec![0, 1, 4, 2, 5, 3]),
            false => ([by.clone(), by.clone(), channels.clone()], vec![0, 3, 4, 1, 5, 2]),
        };
        let apart = [vec![n.clone()], apart.to_vec(), vec![h.clone(), w.clone()]].concat();
        let shape = vec![n, channels, h.combine(DimOp::Mul, &by), w.combine(DimOp::Mul, &by)];
        self.rearranged(site, x, apart, perm, shape)
    }

    fn picture(&self, site: &dyn Site, x: ValueId) -> Result<[Dim; 4], Problem> {
        <[Dim; 4]>::try_from(self.shape(x).0.clone()).map_err(|_| site.damage("its input is no picture"))
    }

    /// `x` under a shape, with its axes in another order, under another shape.
    fn rearranged(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        apart: Vec<Dim>,
        perm: Vec<usize>,
        shape: Vec<Dim>,
    ) -> Result<ValueId, Problem> {
        let apart =
            self.push_part(site, "apart", Op::Shape(ShapeOp::Reshape { shape: Shape(apart) }), &[x])?;
        let turned = self.push_part(site, "turned", Op::Shape(ShapeOp::Transpose { perm }), &[apart])?;
        self.push(site, Op::Shape(ShapeOp::Reshape { shape: Shape(shape) }), &[turned])
    }
}

/// Places that follow on each other: the first of each run, and the one behind its last.
fn runs(places: &[usize]) -> Vec<[usize; 2]> {
    let mut runs: Vec<[usize; 2]> = Vec::new();
    for &place in places {
        match runs.last_mut() {
            Some([_, end]) if *end == place => *end += 1,
            _ => runs.push([place, place + 1]),
        }
    }
    runs
}

/// More runs of places are looked up one by one.
const MAX_RUNS: usize = 64;

/// More repetitions of what has several places already than any network makes.
const MAX_TILES: f64 = 1024.0;
