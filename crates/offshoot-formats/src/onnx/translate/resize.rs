//! Resize, and Upsample before it.

use offshoot_graph::op::{Coordinates, Resampling};
use offshoot_graph::{Dim, ValueId};

use super::{Operand, SIMPLIFY, Translator, laid};
use crate::error::Problem;
use crate::import::Number;
use crate::onnx::attributes::NodeView;

/// Where the sizes of a result come from.
enum Extent {
    Sizes(Vec<Number>),
    Scales(Vec<Number>),
}

impl<'a> Translator<'a> {
    pub(super) fn resize(&mut self, node: NodeView<'a>) -> Result<Operand<'a>, Problem> {
        let (x, channels_last) = self.laid_out(node, 0)?;
        let own = self.import.sides(&node, x)?;
        let resampling = resampling(node, self.context.opset)?;
        let coordinates = coordinates(node, self.context.opset)?;
        let size = self.extent(node, x, channels_last, coordinates.unwrap_or(Coordinates::HalfPixel))?;
        let coordinates = match coordinates {
            Some(coordinates) => coordinates,
            None => pytorch_coordinates(node, own, size)?,
        };
        let down = |side: usize| size[side] < own[side] && !own[side].is_multiple_of(size[side].max(1));
        if self.context.opset < 11 && resampling == Resampling::NearestFloor && (down(0) || down(1)) {
            return Err(node.unsupported("the nearest pixel of fewer is not defined in this opset", SIMPLIFY));
        }
        Ok(laid(self.import.resize(&node, x, size, resampling, coordinates)?, channels_last))
    }

    /// Height and width of the result.
    fn extent(
        &mut self,
        node: NodeView<'a>,
        x: ValueId,
        channels_last: bool,
        coordinates: Coordinates,
    ) -> Result<[usize; 2], Problem> {
        let (extent, mut size) = (self.given_extent(node)?, self.import.sides(&node, x)?);
        let (Extent::Sizes(numbers) | Extent::Scales(numbers)) = &extent;
        let axes = match node.ints("axes") {
            Some(axes) => axes.to_vec(),
            None => (0..4).collect(),
        };
        if numbers.len() != axes.len() {
            return Err(node.damaged(format!("{} sizes are given of {} axes", numbers.len(), axes.len())));
        }
        for (&axis, number) in axes.iter().zip(numbers) {
            let axis = node.place_of(axis, 4)?;
            let axis = if channels_last { [0, 2, 3, 1][axis] } else { axis };
            match (axis.checked_sub(2), &extent) {
                (None, _) => self.unchanged(node, x, axis, &extent, number)?,
                (Some(side), Extent::Sizes(_)) => {
                    let known = number.dim().as_ref().and_then(Dim::fixed);
                    size[side] = known.ok_or_else(|| unknown(node))?;
                }
                (Some(side), Extent::Scales(_)) => {
                    let &Number::Known(scale) = number else { return Err(unknown(node)) };
                    // As ONNX Runtime multiplies.
                    let product = f64::from(size[side] as f32 * scale as f32);
                    size[side] = self.import.side_of(&node, product, coordinates)?;
                }
            }
        }
        Ok(size)
    }

    /// The sizes or factors: the first of them that holds numbers.
    fn given_extent(&mut self, node: NodeView<'a>) -> Result<Extent, Problem> {
        if let Some(scales) = node.floats("scales") {
            return Ok(Extent::Scales(scales.iter().map(|&scale| Number::Known(scale.into())).collect()));
        }
        let (scales, sizes) = if self.context.opset < 11 { (1, 3) } else { (2, 3) };
        for (index, extent) in [(scales, Extent::Scales as fn(Vec<Number>) -> Extent), (sizes, Extent::Sizes)]
        {
            if node.input(index).is_none() {
                continue;
            }
            let numbers = self.numbers(node, index)?.ok_or_else(|| unknown(node))?.data;
            if !numbers.is_empty() {
                return Ok(extent(numbers));
            }
        }
        Err(node.damaged("it has neither sizes nor scales"))
    }

    /// An error unless the result has as many places along the batch or the channels as `x`.
    fn unchanged(
        &self,
        node: NodeView<'a>,
        x: ValueId,
        axis: usize,
        extent: &Extent,
        number: &Number,
    ) -> Result<(), Problem> {
        let dim = self.import.shape(x).0.get(axis);
        let same = match (extent, number) {
            (Extent::Scales(_), number) => *number == Number::Known(1.0),
            (Extent::Sizes(_), &Number::Known(n)) if self.import.is_batch(dim, n) => true,
            (Extent::Sizes(_), number) => number.dim().as_ref() == dim,
        };
        match same {
            true => Ok(()),
            false => Err(node.unsupported("only the height and width are resized", SIMPLIFY)),
        }
    }
}

fn unknown(node: NodeView<'_>) -> Problem {
    node.unsupported(
        "the size of its result is not known before the run",
        "Export with a fixed picture size, such as 224 by 224",
    )
}

fn resampling(node: NodeView<'_>, opset: i64) -> Result<Resampling, Problem> {
    let refused = |what: &str| Err(node.unsupported(what, SIMPLIFY));
    if node.flag("antialias") || node.flag("exclude_outside") {
        return refused("`antialias` and `exclude_outside` are not read");
    }
    if node.text("keep_aspect_ratio_policy").unwrap_or("stretch") != "stretch" {
        return refused("only the policy `stretch` is read");
    }
    match node.text("mode").unwrap_or("nearest") {
        "linear" => Ok(Resampling::Linear),
        "cubic" if node.float("cubic_coeff_a").unwrap_or(-0.75) == -0.75 => Ok(Resampling::Cubic),
        "cubic" => refused("only cubics with a = -0.75 are read"),
        "nearest" if opset < 11 => Ok(Resampling::NearestFloor),
        "nearest" => match node.text("nearest_mode").unwrap_or("round_prefer_floor") {
            "round_prefer_floor" => Ok(Resampling::Nearest),
            "round_prefer_ceil" => Ok(Resampling::NearestCeil),
            "floor" => Ok(Resampling::NearestFloor),
            other => refused(&format!("nearest_mode `{other:.30}` is not read")),
        },
        other => refused(&format!("mode `{other:.30}` is not read")),
    }
}

/// Where pixels lie; `None` as PyTorch has it, which depends on the size.
fn coordinates(node: NodeView<'_>, opset: i64) -> Result<Option<Coordinates>, Problem> {
    if opset < 11 {
        return Ok(Some(Coordinates::Asymmetric));
    }
    match node.text("coordinate_transformation_mode").unwrap_or("half_pixel") {
        "half_pixel" => Ok(Some(Coordinates::HalfPixel)),
        "align_corners" => Ok(Some(Coordinates::AlignCorners)),
        "asymmetric" => Ok(Some(Coordinates::Asymmetric)),
        "pytorch_half_pixel" => Ok(None),
        other => {
            let what = format!("coordinate_transformation_mode `{other:.30}` is not read");
            Err(node.unsupported(what, SIMPLIFY))
        }
    }
}

/// `pytorch_half_pixel`: half a pixel, but for the one pixel of a side, which is the first of its input.
fn pytorch_coordinates(
    node: NodeView<'_>,
    own: [usize; 2],
    size: [usize; 2],
) -> Result<Coordinates, Problem> {
    let first = |side: usize| size[side] == 1 && own[side] != 1;
    let same = |side: usize| size[side] == own[side];
    match (first(0) || first(1), (first(0) || same(0)) && (first(1) || same(1))) {
        (false, _) => Ok(Coordinates::HalfPixel),
        (true, true) => Ok(Coordinates::AlignCorners),
        (true, false) => {
            Err(node.unsupported("pytorch_half_pixel with one row or one column is not read", SIMPLIFY))
        }
    }
}
