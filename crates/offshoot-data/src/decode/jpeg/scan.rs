//! Scans: the coefficients of blocks, baseline and progressive.

use super::bits::{Bits, Codes, ZIGZAG};

/// What a scan header says of the coefficients.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// The first and the last in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Whether bits of them are known, of which this scan adds one.
    pub(super) refine: bool,
    /// The lowest bit that it states.
    pub(super) low: u32,
}

/// The tables of one component in a scan.
pub(super) struct Tables<'a> {
    pub(super) dc: Option<&'a Codes>,
    pub(super) ac: Option<&'a Codes>,
}

/// A block of a baseline scan. `block` must be zeros. Returns the last coefficient in zigzag order.
#[inline(always)]
pub(super) fn whole(
    bits: &mut Bits<'_>,
    tables: &Tables<'_>,
    dc: &mut i32,
    block: &mut [i16; 64],
) -> Option<usize> {
    *dc = dc.wrapping_add(bits.difference(tables.dc?)?);
    block[0] = *dc as i16;
    bits.coefficients(tables.ac?, block)
}

/// A block of a progressive scan. `run` is how many blocks without new coefficients there still are.
#[inline(always)]
pub(super) fn part(
    bits: &mut Bits<'_>,
    tables: &Tables<'_>,
    band: Band,
    (dc, run): (&mut i32, &mut u32),
    block: &mut [i16; 64],
) -> Option<()> {
    match (band.first, band.refine) {
        (0, false) => {
            *dc = dc.wrapping_add(bits.difference(tables.dc?)?);
            block[0] = dc.wrapping_shl(band.low) as i16;
            Some(())
        }
        (0, true) => {
            block[0] |= (bits.read(1) as i16) << band.low;
            Some(())
        }
        (_, false) => first(bits, tables.ac?, band, run, block),
        (_, true) => refine(bits, tables.ac?, band, run, block),
    }
}

fn first(bits: &mut Bits<'_>, codes: &Codes, band: Band, run: &mut u32, block: &mut [i16; 64]) -> Option<()> {
    if *run > 0 {
        *run -= 1;
        return Some(());
    }
    let mut place = band.first;
    while place <= band.last {
        let symbol = bits.symbol(codes)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 0xF));
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) - 1 + bits.read(zeros);
            return Some(());
        }
        place += zeros as usize;
        if size > 0 {
            if place > band.last {
                return None;
            }
            let value = bits.signed_value(size).wrapping_shl(band.low);
            block[usize::from(ZIGZAG[place])] = value as i16;
        }
        place += 1;
    }
    Some(())
}

fn refine(
    bits: &mut Bits<'_>,
    codes: &Codes,
    band: Band,
    run: &mut u32,
    block: &mut [i16; 64],
) -> Option<()> {
    let mut place = band.first;
    while *run == 0 && place <= band.last {
        let symbol = bits.symbol(codes)?;
        let (mut zeros, mut value) = (u32::from(symbol >> 4), 0);
        match symbol & 0xF {
            0 if zeros < 15 => {
                *run = (1 << zeros) + bits.read(zeros);
                break;
            }
            0 => {}
            1 => value = if bits.read(1) == 1 { 1 << band.low } else { -1 << band.low },
            _ => return None,
        }
        place = known(bits, band, place, Some(&mut zeros), block);
        if place <= band.last {
            block[usize::from(ZIGZAG[place])] = value;
        } else if value != 0 {
            return None;
        }
        place += 1;
    }
    if *run > 0 {
        known(bits, band, place, None, block);
        *run -= 1;
    }
    Some(())
}

/// Adds a bit to each coefficient that is not 0, from `place` on, until so many that are 0 were passed, and one more comes.
/// Returns the place of that.
fn known(
    bits: &mut Bits<'_>,
    band: Band,
    mut place: usize,
    mut zeros: Option<&mut u32>,
    block: &mut [i16; 64],
) -> usize {
    while place <= band.last {
        let coefficient = &mut block[usize::from(ZIGZAG[place])];
        if *coefficient != 0 {
            if bits.read(1) == 1 && *coefficient & 1 << band.low == 0 {
                let step = if *coefficient > 0 { 1 } else { -1 };
                *coefficient = coefficient.wrapping_add(step << band.low);
            }
        } else if let Some(zeros) = &mut zeros {
            if **zeros == 0 {
                return place;
            }
            **zeros -= 1;
        }
        place += 1;
    }
    place
}
