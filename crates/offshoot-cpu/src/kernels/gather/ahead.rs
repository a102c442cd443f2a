//! What the tiles of a block ask for while they compute.

use crate::kernels::prefetch::Stream;

/// What the tiles of a part of the reduction ask for. (Divisions here, and not for each tile, which may take as little time as they do.)
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// The first of the rows that tiles read in place for the first time, and the floats from one to the next.
    source: Option<(*const f32, usize)>,
    /// Floats of such a row for each step of a tile.
    row: usize,
    /// The rows of the pixels after the block's, in floats, whatever their elements are.
    following: (*const f32, usize),
    /// Floats of those for each tile, and for each step of one.
    portion: [usize; 2],
}

impl Ahead {
    /// For so many tiles of `depth` steps.
    pub(super) fn new(
        source: Option<(*const f32, usize)>,
        following: (*const f32, usize),
        tiles: usize,
        depth: usize,
    ) -> Ahead {
        let steps = depth.max(1);
        let row = source.map_or(0, |(_, pitch)| pitch.div_ceil(steps));
        let portion = following.1.div_ceil(tiles.max(1));
        Ahead { source, row, following, portion: [portion, portion.div_ceil(steps)] }
    }

    /// The rows that tile `i` of panel `panel` asks for, of the tiles of a panel that start at `starts`: those of the next tile, where it
    /// is the first to read them; else a portion of those of the next block.
    #[inline(always)]
    pub(super) fn rows(&self, panel: usize, starts: &[usize], i: usize) -> Stream {
        let (tiles, (following, floats)) = (starts.len() - 1, self.following);
        if let Some((source, pitch)) = self.source
            && panel == 0
            && (i + 1 < tiles || floats > 0)
        {
            let (start, end) = (starts[i], starts[i + 1]);
            return Stream::at_rate(source.wrapping_add(end * pitch), (end - start) * self.row);
        }
        let [portion, rate] = self.portion;
        let start = (panel * tiles + i) * portion;
        if start < floats { Stream::at_rate(following.wrapping_add(start), rate) } else { Stream::NOTHING }
    }
}
