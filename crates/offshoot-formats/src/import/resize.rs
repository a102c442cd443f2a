//! Pictures of another size.

use offshoot_graph::op::{Composite, Coordinates, Resampling};
use offshoot_graph::{Dim, ValueId};

use super::{Importer, Site};
use crate::error::Problem;
use crate::metadata::MAX_SIDE;

impl Importer {
    /// The height and width of pictures that are resized.
    pub(crate) fn sides(&self, site: &dyn Site, x: ValueId) -> Result<[usize; 2], Problem> {
        match self.shape(x).0[..] {
            [_, _, Dim::Fixed(height), Dim::Fixed(width)] => Ok([height, width]),
            _ => Err(site.refused("only pictures (four axes) of a known height and width are resized")),
        }
    }

    /// The size that a file with factors means: `product`, the size times the factor, rounded down. Where pixels lie follows from
    /// the factor, and from the two sizes only if these have the same ratio.
    pub(crate) fn side_of(
        &self,
        site: &dyn Site,
        product: f64,
        coordinates: Coordinates,
    ) -> Result<usize, Problem> {
        let whole = product.floor();
        if coordinates != Coordinates::AlignCorners && (product - whole).abs() > 1e-5 {
            return Err(site.refused(&format!("its factor gives {product} pixels, not a whole number")));
        }
        // What is no size becomes 0 or the largest one, and is refused with the others.
        Ok(whole as usize)
    }

    /// `x` with `size` rows and columns.
    pub(crate) fn resize(
        &mut self,
        site: &dyn Site,
        x: ValueId,
        size: [usize; 2],
        resampling: Resampling,
        coordinates: Coordinates,
    ) -> Result<ValueId, Problem> {
        if size == self.sides(site, x)? {
            return Ok(x);
        }
        if size.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            let what = format!("it makes pictures of {} by {}, not 1 to {MAX_SIDE} pixels", size[0], size[1]);
            return Err(site.refused(&what));
        }
        self.compose(site, Composite::Resize { size, resampling, coordinates }, &[x])
    }
}
