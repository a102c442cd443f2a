//! Contact sheets: pictures in rows, with words under each.

use font8x8::UnicodeFonts as _;

use crate::decode::Picture;

/// Side of a letter, in pixels.
const LETTER: usize = 8;
/// Space around a tile, in pixels.
const MARGIN: usize = 6;
/// Lines of words under a tile.
const LINES: usize = 2;
/// Tiles smaller than this are magnified.
const SIDE: usize = 128;

const PAPER: [u8; 3] = [250; 3];
const INK: [u8; 3] = [30; 3];

/// A picture of a sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// Rows of RGB pixels, as many as they are wide.
    pub pixels: Vec<u8>,
    /// What stands under it: two lines; what is too long is cut off in the middle.
    pub caption: [String; LINES],
}

/// A sheet of rows of tiles of `size` x `size` pixels. Letters beyond Latin, Greek and Japanese Hiragana show as `?`.
pub fn contact_sheet(rows: &[Vec<Tile>], size: usize) -> Picture {
    let scale = SIDE.div_ceil(size.max(1));
    let side = size * scale;
    let (across, down) = (side + MARGIN, side + MARGIN + LINES * (LETTER + 2));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns * across + MARGIN, rows.len() * down + MARGIN);
    let mut sheet = Canvas { pixels: PAPER.repeat(width * height), width };
    for (y, row) in rows.iter().enumerate() {
        for (x, tile) in row.iter().enumerate() {
            let (left, top) = (MARGIN + x * across, MARGIN + y * down);
            sheet.draw(tile, size, scale, (left, top));
            for (line, text) in tile.caption.iter().enumerate() {
                sheet.write(text, side / LETTER, (left, top + side + 2 + line * (LETTER + 2)));
            }
        }
    }
    Picture::new(width, height, sheet.pixels).expect("the sheet has the size that it was made with")
}

struct Canvas {
    pixels: Vec<u8>,
    width: usize,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, colour: &[u8]) {
        let at = (y * self.width + x) * 3;
        self.pixels[at..at + 3].copy_from_slice(colour);
    }

    fn draw(&mut self, tile: &Tile, size: usize, scale: usize, (left, top): (usize, usize)) {
        for y in 0..size * scale {
            for x in 0..size * scale {
                let at = (y / scale * size + x / scale) * 3;
                self.set(left + x, top + y, &tile.pixels[at..at + 3]);
            }
        }
    }

    /// Writes at most `most` letters.
    fn write(&mut self, text: &str, most: usize, (left, top): (usize, usize)) {
        for (place, letter) in shortened(text, most).into_iter().enumerate() {
            for (y, bits) in glyph(letter).into_iter().enumerate() {
                for x in (0..LETTER).filter(|x| bits >> x & 1 == 1) {
                    self.set(left + place * LETTER + x, top + y, &INK);
                }
            }
        }
    }
}

fn glyph(letter: char) -> [u8; LETTER] {
    let in_some = |letter| {
        font8x8::BASIC_FONTS
            .get(letter)
            .or_else(|| font8x8::LATIN_FONTS.get(letter))
            .or_else(|| font8x8::GREEK_FONTS.get(letter))
            .or_else(|| font8x8::HIRAGANA_FONTS.get(letter))
    };
    in_some(letter).or_else(|| in_some('?')).unwrap_or_default()
}

/// The letters of a text, the middle left out where there are more than `most`.
fn shortened(text: &str, most: usize) -> Vec<char> {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return letters;
    }
    let kept = most.saturating_sub(2);
    let (start, end) = (kept / 2, kept - kept / 2);
    let middle = ".".repeat(most.min(2));
    letters[..start]
        .iter()
        .copied()
        .chain(middle.chars())
        .chain(letters[letters.len() - end..].iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_its_tiles_and_words() {
        let tile = |value, caption: &str| Tile {
            pixels: vec![value; 3 * 100 * 100],
            caption: [caption.to_owned(), "a much longer text than there is room for".to_owned()],
        };
        let rows = [vec![tile(1, "cat"), tile(2, "汉字")], vec![tile(3, "")]];
        let sheet = contact_sheet(&rows, 100);
        assert_eq!((sheet.width(), sheet.height()), (2 * 206 + 6, 2 * (206 + 20) + 6));
        let count = |value| sheet.pixels().iter().filter(|&&x| x == value).count();
        assert_eq!([1, 2, 3].map(count), [200 * 200 * 3; 3]);
        assert!(count(30) > 300);
    }

    #[test]
    fn long_words_lose_their_middle() {
        let short = |text, most| shortened(text, most).into_iter().collect::<String>();
        assert_eq!(short("abcdefghij", 6), "ab..ij");
        assert_eq!(
            [short("abc", 3), short("abc", 2), short("abc", 1), short("abc", 0)],
            ["abc", "..", ".", ""]
        );
    }
}
