//! Contact sheets: pictures in rows, with words under each.

mod letters;

pub use self::letters::Letters;

use self::letters::Drawn;
use crate::decode::Picture;

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

/// A sheet of rows of tiles of `size` x `size` pixels. Letters that no font has are left out; see [`Letters::can_draw`].
pub fn contact_sheet(rows: &[Vec<Tile>], size: usize, letters: &Letters) -> Picture {
    let letter = letters.height(rows.iter().flatten().flat_map(|tile| &tile.caption));
    let scale = SIDE.div_ceil(size.max(1));
    let side = size * scale;
    let (across, down) = (side + MARGIN, side + MARGIN + LINES * (letter + 2));
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns * across + MARGIN, rows.len() * down + MARGIN);
    let mut sheet = Canvas { pixels: PAPER.repeat(width * height), width };
    for (y, row) in rows.iter().enumerate() {
        for (x, tile) in row.iter().enumerate() {
            let (left, top) = (MARGIN + x * across, MARGIN + y * down);
            sheet.draw(tile, size, scale, (left, top));
            for (line, text) in tile.caption.iter().enumerate() {
                let text = letters.draw(text, side, letter);
                sheet.write(&text, (left, top + side + 2 + line * (letter + 2)));
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

    fn write(&mut self, text: &Drawn, (left, top): (usize, usize)) {
        for (i, &level) in text.levels.iter().enumerate().filter(|(_, level)| **level > 0) {
            let mix = |c: usize| {
                let (ink, paper) = (u32::from(INK[c]), u32::from(PAPER[c]));
                ((ink * u32::from(level) + paper * u32::from(255 - level)) / 255) as u8
            };
            self.set(left + i % text.width, top + i / text.width, &[0, 1, 2].map(mix));
        }
    }
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
        let rows = [vec![tile(1, "cat"), tile(2, "größer")], vec![tile(3, "")]];
        let sheet = contact_sheet(&rows, 100, &Letters::new());
        assert_eq!((sheet.width(), sheet.height()), (2 * 206 + 6, 2 * (206 + 20) + 6));
        let count = |value| sheet.pixels().iter().filter(|&&x| x == value).count();
        assert_eq!([1, 2, 3].map(count), [200 * 200 * 3; 3]);
        assert!(count(30) > 300);
    }

    #[test]
    fn small_tiles_are_magnified_and_words_stand_under_them() {
        let corners = [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]];
        let tile = Tile { pixels: corners.concat(), caption: ["L".to_owned(), "L".to_owned()] };
        let sheet = contact_sheet(&[vec![tile.clone(), tile]], 2, &Letters::new());
        let pixel = |x: usize, y: usize| {
            let at = (y * sheet.width() + x) * 3;
            sheet.pixels()[at..at + 3].to_vec()
        };
        for left in [6, 6 + 128 + 6] {
            for (x, y, corner) in
                [(0, 0, 0), (63, 63, 0), (64, 0, 1), (127, 63, 1), (0, 64, 2), (127, 127, 3)]
            {
                assert_eq!(pixel(left + x, 6 + y), corners[corner], "{x} {y}");
            }
            assert_eq!(
                (pixel(left - 1, 6), pixel(left + 128, 6), pixel(left, 5)),
                (PAPER.into(), PAPER.into(), PAPER.into())
            );
            // The upper edge of an L is four pixels long.
            for top in [6 + 128 + 2, 6 + 128 + 2 + 10] {
                let edge: Vec<bool> = (0..5).map(|x| pixel(left + x, top) == INK).collect();
                assert_eq!(edge, [true, true, true, true, false]);
                assert_eq!(pixel(left, top - 1), PAPER);
            }
        }
    }

    #[test]
    fn letters_are_mixed_with_the_paper() {
        let mut canvas = Canvas { pixels: PAPER.repeat(6), width: 3 };
        canvas.write(&Drawn { width: 2, levels: vec![0, 255, 51, 0] }, (1, 0));
        let found: Vec<u8> = canvas.pixels.chunks(3).map(|pixel| pixel[0]).collect();
        // A fifth of the ink: 250 - 220 / 5.
        assert_eq!(found, [250, 250, 30, 250, 206, 250]);
    }
}
