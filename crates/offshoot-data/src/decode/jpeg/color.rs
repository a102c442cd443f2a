//! Planes of samples to RGB: chroma is made as large as luma with libjpeg's "fancy" upsampling (`jdsample.c`: each pixel is
//! three parts of the nearest sample and one of the next), and YCbCr becomes RGB (`jdcolor.c`), to the bit.

use std::ops::Range;

/// One component of a picture.
pub(super) struct Plane {
    /// Rows of `stride` samples.
    pub(super) samples: Vec<u8>,
    pub(super) stride: usize,
    /// The samples of a row, and the rows, that belong to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Plane {
    fn row(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride..][..self.width]
    }
}

/// How many times as dense luma is as chroma.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ratio {
    pub(super) across: usize,
    pub(super) down: usize,
}

/// Writes RGB pixels, the rows and columns of `part`, of one plane (gray) or three.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2",
    "x86_64+sse4.1"
))]
pub(super) fn to_rgb(planes: &[Plane], ratio: Ratio, part: (Range<usize>, Range<usize>)) -> Vec<u8> {
    let (rows, columns) = part;
    let mut pixels = Vec::with_capacity(rows.len() * columns.len() * 3);
    let mut chroma = Chroma::new(ratio, &columns);
    for row in rows {
        let luma = &planes[0].row(row)[columns.clone()];
        let start = pixels.len();
        pixels.resize(start + 3 * luma.len(), 0);
        let output = &mut pixels[start..];
        match planes {
            [_, blue, red] => {
                let skip = columns.start - chroma.first;
                let [blue, red] = chroma.rows([blue, red], row);
                convert(luma, &blue[skip..], &red[skip..], output);
            }
            _ => output.chunks_exact_mut(3).zip(luma).for_each(|(pixel, &gray)| pixel.fill(gray)),
        }
    }
    pixels
}

#[inline(always)]
fn convert(luma: &[u8], blue: &[u8], red: &[u8], output: &mut [u8]) {
    let chroma = blue.iter().zip(red);
    for ((pixel, &y), (&blue, &red)) in output.chunks_exact_mut(3).zip(luma).zip(chroma) {
        let (y, blue, red) = (i32::from(y), i32::from(blue) - 128, i32::from(red) - 128);
        let to_byte = |value: i32| value.clamp(0, 255) as u8;
        pixel[0] = to_byte(y + ((91881 * red + 32768) >> 16));
        pixel[1] = to_byte(y + ((-22554 * blue - 46802 * red + 32768) >> 16));
        pixel[2] = to_byte(y + ((116130 * blue + 32768) >> 16));
    }
}

/// Rows of chroma as wide as luma.
struct Chroma {
    ratio: Ratio,
    /// The column of luma that the rows begin at: at most one before the first that is needed.
    first: usize,
    /// The samples of a row that are needed.
    needed: Range<usize>,
    /// These and one more at either end, times 1 or, where rows are mixed too, 4.
    sums: Vec<u16>,
    rows: [Vec<u8>; 2],
}

impl Chroma {
    fn new(ratio: Ratio, columns: &Range<usize>) -> Chroma {
        let needed = columns.start / ratio.across..columns.end.div_ceil(ratio.across);
        let row = vec![0; needed.len() * ratio.across];
        let sums = vec![0; needed.len() + 2];
        Chroma { ratio, first: needed.start * ratio.across, needed, sums, rows: [row.clone(), row] }
    }

    #[inline(always)]
    fn rows<'a>(&'a mut self, planes: [&'a Plane; 2], row: usize) -> [&'a [u8]; 2] {
        let near = row / self.ratio.down;
        if self.ratio == (Ratio { across: 1, down: 1 }) {
            return planes.map(|plane| &plane.row(row)[self.needed.clone()]);
        }
        for (n, plane) in planes.into_iter().enumerate() {
            let far =
                if row.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(plane.height - 1) };
            let (near, far) = (plane.row(near), plane.row(far));
            match (self.ratio.across, self.ratio.down) {
                (2, _) if plane.width <= 2 => self.repeat(near, n),
                (1, _) => self.mix(near, far, row, n),
                (_, 1) => {
                    self.gather(near.len(), |i| u16::from(near[i]));
                    self.spread::<1, 2, 2>(n);
                }
                _ => {
                    self.gather(near.len(), |i| 3 * u16::from(near[i]) + u16::from(far[i]));
                    self.spread::<8, 7, 4>(n);
                }
            }
        }
        [&self.rows[0], &self.rows[1]]
    }

    /// Each sample twice.
    fn repeat(&mut self, near: &[u8], n: usize) {
        for (pair, &sample) in self.rows[n].chunks_exact_mut(2).zip(&near[self.needed.clone()]) {
            pair.fill(sample);
        }
    }

    /// Half as many rows, and as many columns.
    #[inline(always)]
    fn mix(&mut self, near: &[u8], far: &[u8], row: usize, n: usize) {
        let half = 1 + (row % 2) as u16;
        let samples = near[self.needed.clone()].iter().zip(&far[self.needed.clone()]);
        for (output, (&near, &far)) in self.rows[n].iter_mut().zip(samples) {
            *output = ((3 * u16::from(near) + u16::from(far) + half) >> 2) as u8;
        }
    }

    /// Fills `sums`; at the edges of the picture the last sample stands for what is outside.
    #[inline(always)]
    fn gather(&mut self, width: usize, sum: impl Fn(usize) -> u16) {
        let Range { start, end } = self.needed;
        let count = end - start;
        for (i, value) in (start..end).zip(&mut self.sums[1..count + 1]) {
            *value = sum(i);
        }
        self.sums[0] = sum(start.saturating_sub(1));
        self.sums[count + 1] = sum(end.min(width - 1));
    }

    /// Twice as many columns.
    #[inline(always)]
    fn spread<const LEFT: u16, const RIGHT: u16, const SHIFT: u32>(&mut self, n: usize) {
        let (before, after) = (&self.sums[..], &self.sums[2..]);
        let sums = self.sums[1..].iter().zip(before).zip(after);
        for (pair, ((&sum, &before), &after)) in self.rows[n].chunks_exact_mut(2).zip(sums) {
            pair[0] = ((3 * sum + before + LEFT) >> SHIFT) as u8;
            pair[1] = ((3 * sum + after + RIGHT) >> SHIFT) as u8;
        }
    }
}
