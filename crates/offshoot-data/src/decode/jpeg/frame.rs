//! JPEG as cameras and programs write it: 8 bits, Huffman codes, baseline or progressive, gray or YCbCr whose chroma is as dense
//! as luma or half as dense across, down, or both. The samples are libjpeg-turbo's to the bit.

use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::match_target;

use super::bits::{Bits, Codes, ZIGZAG};
use super::color::{Plane, Ratio, to_rgb};
use super::idct;
use super::scan::{Band, Tables, part, whole};
use crate::augment::Crop;

/// Rows and columns.
type Part = (Range<usize>, Range<usize>);

/// The RGB pixels of this part of a picture. `size` is the width and height of the whole, which were found to be acceptable. `None` for
/// a file that is damaged, or of another kind.
pub(super) fn decode(bytes: &[u8], size: (usize, usize), crop: Crop) -> Option<Vec<u8>> {
    let part = (crop.top..crop.top + crop.height, crop.left..crop.left + crop.width);
    let mut file = File { bytes, size, part, ..File::default() };
    file.read()?;
    let complete = !file.components.is_empty() && file.components.iter().all(|component| component.seen);
    if !complete {
        return None;
    }
    if file.progressive {
        file.components.iter_mut().for_each(transform);
    }
    let ratio = file.ratio();
    let planes: Vec<Plane> = file.components.into_iter().map(|component| component.plane).collect();
    Some(to_rgb(&planes, ratio, file.part))
}

/// What was read of a file.
#[derive(Default)]
struct File<'a> {
    bytes: &'a [u8],
    size: (usize, usize),
    part: Part,
    quantization: [Option<[i32; 64]>; 4],
    dc: [Option<Box<Codes>>; 4],
    ac: [Option<Box<Codes>>; 4],
    /// How many units are between restart markers; 0 if there are none.
    restart: usize,
    progressive: bool,
    components: Vec<Component>,
}

struct Component {
    name: u8,
    across: usize,
    down: usize,
    /// Its quantization table, and what that held when the first scan began.
    table: usize,
    quantization: [i32; 64],
    seen: bool,
    /// Blocks across and down that hold samples of the picture.
    own: (usize, usize),
    /// Blocks in a row, with those that fill up the last unit.
    stride: usize,
    /// The rows and columns of blocks that the wanted part depends on.
    needed: Part,
    /// The last DC coefficient.
    last: i32,
    /// All blocks, of a progressive file.
    coefficients: Vec<[i16; 64]>,
    plane: Plane,
}

/// A component of a scan: which it is, and its tables.
type Member<'a> = (usize, Tables<'a>);

/// How blocks follow each other in a scan.
struct Layout {
    /// Units across and down: blocks of one component, or of several those that cover the same pixels.
    units: (usize, usize),
    single: bool,
    restart: usize,
}

impl<'a> File<'a> {
    fn read(&mut self) -> Option<()> {
        let mut at = 2;
        loop {
            let &[byte, marker] = self.bytes.get(at..)?.first_chunk()?;
            match (byte, marker) {
                (0xFF, 0xD9) => return Some(()),
                (0xFF, 0xFF) => at += 1,
                (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
                (0xFF, _) => {
                    let length = usize::from(u16::from_be_bytes(*self.bytes.get(at + 2..)?.first_chunk()?));
                    let end = at + 2 + length;
                    let content = self.bytes.get(at + 4..end)?;
                    at = if marker == 0xDA { self.scan(content, end)? } else { end };
                    self.segment(marker, content)?;
                }
                // Stray bytes between segments.
                _ => at += 1,
            }
        }
    }

    fn segment(&mut self, marker: u8, content: &[u8]) -> Option<()> {
        match marker {
            0xC0..=0xC2 => self.frame(marker == 0xC2, content),
            0xC4 => self.codes(content),
            0xDB => self.quantization(content),
            0xDD => {
                self.restart = usize::from(u16::from_be_bytes(*content.first_chunk()?));
                Some(())
            }
            0xC3 | 0xC5..=0xCF => None,
            _ => Some(()),
        }
    }

    fn quantization(&mut self, mut content: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let wide = usize::from(kind >> 4);
            let values = rest.get(..64 * (1 + wide)).filter(|_| wide < 2)?;
            let mut table = [0; 64];
            for (&place, value) in ZIGZAG.iter().zip(values.chunks_exact(1 + wide)) {
                table[usize::from(place)] = value.iter().fold(0, |sum, &byte| sum << 8 | i32::from(byte));
            }
            *self.quantization.get_mut(usize::from(kind & 0xF))? = Some(table);
            content = &rest[values.len()..];
        }
        Some(())
    }

    fn codes(&mut self, mut content: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let counts: &[u8; 16] = rest.first_chunk()?;
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let codes = Box::new(Codes::new(counts, rest.get(16..16 + count)?)?);
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(kind & 0xF)).filter(|_| kind >> 4 < 2)? = Some(codes);
            content = &rest[16 + count..];
        }
        Some(())
    }

    fn frame(&mut self, progressive: bool, content: &[u8]) -> Option<()> {
        let (&[bits, a, b, c, d, count], rest) = content.split_first_chunk()?;
        let [height, width] = [[a, b], [c, d]].map(|side| usize::from(u16::from_be_bytes(side)));
        let sampling: Vec<[u8; 3]> = rest.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
        let usual = match sampling[..] {
            [_] => true,
            [[_, luma, _], [_, 0x11, _], [_, 0x11, _]] => matches!(luma, 0x11 | 0x12 | 0x21 | 0x22),
            _ => false,
        };
        let first = self.components.is_empty() && (width, height) == self.size;
        if !(usual && first && bits == 8 && usize::from(count) == sampling.len()) {
            return None;
        }
        self.progressive = progressive;
        // Of a single component it does not matter how dense it is.
        let factors = |luma: u8| if sampling.len() == 1 { (1, 1) } else { (luma >> 4, luma & 0xF) };
        let densest = factors(sampling[0][1]);
        let densest = (usize::from(densest.0), usize::from(densest.1));
        for &[name, density, table] in &sampling {
            let (across, down) = factors(density);
            let density = (usize::from(across), usize::from(down));
            let mut component = Component::new(self.size, density, densest, &self.part);
            (component.name, component.table) = (name, usize::from(table));
            if progressive {
                component.coefficients = vec![[0; 64]; component.plane.samples.len() / 64];
            }
            self.components.push(component);
        }
        Some(())
    }

    fn ratio(&self) -> Ratio {
        self.components
            .first()
            .map_or(Ratio { across: 1, down: 1 }, |luma| Ratio { across: luma.across, down: luma.down })
    }

    /// Decodes the scan of this header. Returns the place of the marker behind it.
    fn scan(&mut self, header: &[u8], at: usize) -> Option<usize> {
        let (&count, rest) = header.split_first()?;
        let (members, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let &[first, last, bits] = rest.first_chunk()?;
        let (first, last, high, low) =
            (usize::from(first), usize::from(last), bits >> 4, u32::from(bits & 0xF));
        let band = Band { first, last, refine: high > 0, low };
        let mut order: Vec<Member<'_>> = Vec::new();
        for &[name, tables] in members.as_chunks().0 {
            let index = self.components.iter().position(|component| component.name == name)?;
            if order.iter().any(|&(other, _)| other == index) {
                return None;
            }
            let dc = self.dc.get(usize::from(tables >> 4))?.as_deref();
            let ac = self.ac.get(usize::from(tables & 0xF))?.as_deref();
            order.push((index, Tables { dc, ac }));
            let component = &mut self.components[index];
            if !component.seen {
                component.quantization = (*self.quantization.get(component.table)?)?;
            }
            (component.seen, component.last) = (true, 0);
        }
        let luma = self.components.first()?;
        let single = order.len() == 1;
        let units = match order[..] {
            [(index, _)] => self.components[index].own,
            _ => (self.size.0.div_ceil(8 * luma.across), self.size.1.div_ceil(8 * luma.down)),
        };
        let layout = Layout { units, single, restart: self.restart };
        let mut bits = Bits::new(self.bytes, at);
        if self.progressive {
            let usual =
                first <= last && last < 64 && low < 14 && (if first == 0 { last == 0 } else { single });
            usual.then(|| progressive(&mut bits, &mut self.components, &order, &layout, band))??;
        } else {
            baseline(&mut bits, &mut self.components, &order, &layout)?;
        }
        bits.marker()
    }
}

impl Component {
    /// A component of a picture of this size (width and height), as dense across and down as `density`, where the densest is
    /// `densest`.
    fn new(
        size: (usize, usize),
        density: (usize, usize),
        densest: (usize, usize),
        wanted: &Part,
    ) -> Component {
        let width = (size.0 * density.0).div_ceil(densest.0);
        let height = (size.1 * density.1).div_ceil(densest.1);
        let stride = size.0.div_ceil(8 * densest.0) * density.0;
        let rows = size.1.div_ceil(8 * densest.1) * density.1;
        let needed = |pixels: &Range<usize>, ratio: usize| {
            (pixels.start / ratio).saturating_sub(1) / 8..(pixels.end.div_ceil(ratio) + 1).div_ceil(8)
        };
        Component {
            name: 0,
            across: density.0,
            down: density.1,
            table: 0,
            quantization: [0; 64],
            seen: false,
            own: (width.div_ceil(8), height.div_ceil(8)),
            stride,
            needed: (needed(&wanted.0, densest.1 / density.1), needed(&wanted.1, densest.0 / density.0)),
            last: 0,
            coefficients: Vec::new(),
            plane: Plane { samples: vec![0; stride * rows * 64], stride: 8 * stride, width, height },
        }
    }

    fn needs(&self, row: usize, column: usize) -> bool {
        self.needed.0.contains(&row) && self.needed.1.contains(&column)
    }
}

/// Goes through the units of a scan: `block` gets each block's component, tables, row and column.
#[inline(always)]
fn each_block(
    bits: &mut Bits<'_>,
    components: &mut [Component],
    (order, layout): (&[Member<'_>], &Layout),
    mut block: impl FnMut(&mut Bits<'_>, &mut Component, &Tables<'_>, (usize, usize), bool) -> Option<()>,
) -> Option<()> {
    let mut since = 0;
    let mut restarts = 0u8;
    let mut fresh = true;
    for y in 0..layout.units.1 {
        for x in 0..layout.units.0 {
            if since == layout.restart && layout.restart > 0 {
                bits.restart(restarts % 8)?;
                restarts = restarts.wrapping_add(1);
                components.iter_mut().for_each(|component| component.last = 0);
                (since, fresh) = (0, true);
            }
            since += 1;
            for (index, tables) in order {
                let component = &mut components[*index];
                let (across, down) = if layout.single { (1, 1) } else { (component.across, component.down) };
                for row in y * down..(y + 1) * down {
                    for column in x * across..(x + 1) * across {
                        block(bits, component, tables, (row, column), std::mem::take(&mut fresh))?;
                    }
                }
            }
        }
        bits.sound().then_some(())?;
    }
    Some(())
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn baseline(
    bits: &mut Bits<'_>,
    components: &mut [Component],
    order: &[Member<'_>],
    layout: &Layout,
) -> Option<()> {
    each_block(bits, components, (order, layout), |bits, component, tables, (row, column), _| {
        let mut block = [0; 64];
        let last = whole(bits, tables, &mut component.last, &mut block)?;
        if component.needs(row, column) {
            component.write(&block, last == 0, (row, column), |block, table, output, stride| {
                match_target! {
                    "x86_64+avx2" => idct::avx2::block(block, table, output, stride),
                    _ => idct::block(block, table, output, stride),
                }
            });
        }
        Some(())
    })
}

#[multiversion(targets("x86_64+avx2+bmi1+bmi2"))]
fn progressive(
    bits: &mut Bits<'_>,
    components: &mut [Component],
    order: &[Member<'_>],
    layout: &Layout,
    band: Band,
) -> Option<()> {
    let mut run = 0;
    each_block(bits, components, (order, layout), |bits, component, tables, (row, column), fresh| {
        if fresh {
            run = 0;
        }
        let block = &mut component.coefficients[row * component.stride + column];
        part(bits, tables, band, (&mut component.last, &mut run), block)
    })
}

impl Component {
    /// Writes the samples of a block, by `transform` where it is not `plain`.
    #[inline(always)]
    fn write(
        &mut self,
        block: &[i16; 64],
        plain: bool,
        (row, column): (usize, usize),
        transform: impl FnOnce(&[i16; 64], &[i32; 64], &mut [u8], usize),
    ) {
        let stride = self.plane.stride;
        let samples = &mut self.plane.samples[8 * (row * stride + column)..];
        match plain {
            true => idct::plain_block(block[0], &self.quantization, samples, stride),
            false => transform(block, &self.quantization, samples, stride),
        }
    }
}

/// The samples of a progressive file.
#[multiversion(targets("x86_64+avx2"))]
fn transform(component: &mut Component) {
    let blocks = std::mem::take(&mut component.coefficients);
    for (row, blocks) in blocks.chunks_exact(component.stride).enumerate() {
        for (column, block) in blocks.iter().enumerate() {
            if !component.needs(row, column) {
                continue;
            }
            let plain = block[1..].iter().all(|&value| value == 0);
            component.write(block, plain, (row, column), |block, table, output, stride| {
                match_target! {
                    "x86_64+avx2" => idct::avx2::block(block, table, output, stride),
                    _ => idct::block(block, table, output, stride),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_part_is_cut_out_of_the_whole() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpegs");
        for kind in ["baseline_420", "baseline_422", "baseline_444", "progressive_420", "restart_422"] {
            let bytes = std::fs::read(folder.join(format!("{kind}_50x41.jpg"))).expect("it is there");
            let all = Crop { left: 0, top: 0, width: 50, height: 41 };
            let whole = decode(&bytes, (50, 41), all).expect("it is usual");
            for (left, width) in [(0, 1), (0, 50), (1, 16), (7, 9), (15, 18), (16, 16), (33, 17), (49, 1)] {
                for (top, height) in [(0, 1), (0, 41), (1, 15), (8, 8), (15, 18), (16, 2), (31, 10), (40, 1)]
                {
                    let part =
                        decode(&bytes, (50, 41), Crop { left, top, width, height }).expect("as the whole");
                    let rows = whole.chunks(3 * 50).skip(top).take(height);
                    let cut: Vec<u8> = rows.flat_map(|row| &row[3 * left..][..3 * width]).copied().collect();
                    assert!(part == cut, "{kind}: {left} {top} {width} {height}");
                }
            }
        }
    }
}
