//! Letters: 8 x 8 pixels from a built-in font, and the system's fonts for scripts that it does not have.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ab_glyph::{Font as _, FontRef, FontVec, ScaleFont as _};
use font8x8::UnicodeFonts as _;
use unicode_width::UnicodeWidthChar as _;

/// Side of a built-in letter, in pixels.
const SIDE: usize = 8;
/// Height of a line in a font of the system, in pixels: Chinese needs as many.
const HEIGHT: usize = 16;

/// A text as gray levels, 0 to 255, row by row.
pub(super) struct Drawn {
    pub(super) width: usize,
    pub(super) levels: Vec<u8>,
}

/// The fonts of a sheet. Those of the system are looked through when the first text needs one.
#[derive(Default)]
pub struct Letters {
    system: OnceCell<fontdb::Database>,
    /// What was found for texts before.
    found: RefCell<BTreeMap<String, Option<Rc<FontVec>>>>,
}

impl Letters {
    /// The built-in font, and those of the system.
    pub fn new() -> Letters {
        Letters::default()
    }

    /// Whether a text can be drawn: a font has all its letters, and they stand side by side from left to right.
    pub fn can_draw(&self, text: &str) -> bool {
        is_plain(text) || self.font(text).is_some()
    }

    /// The height of a line that all the texts fit in, in pixels.
    pub(super) fn height<'a>(&self, mut texts: impl Iterator<Item = &'a String>) -> usize {
        if texts.all(|text| is_plain(text)) { SIDE } else { HEIGHT }
    }

    /// The text with its middle left out where it is wider than `most` pixels; `height` is that of the line.
    pub(super) fn draw(&self, text: &str, most: usize, height: usize) -> Drawn {
        let font = if is_plain(text) { None } else { self.font(text) };
        let letters: Vec<char> = text.chars().collect();
        (0..=letters.len())
            .map(|left_out| drawn(&without_middle(&letters, left_out), font.as_deref(), height))
            .find(|drawn| drawn.width <= most)
            .unwrap_or(Drawn { width: 0, levels: Vec::new() })
    }

    /// The first font of the system that has all letters of a text.
    fn font(&self, text: &str) -> Option<Rc<FontVec>> {
        let known = self.found.borrow().get(text).cloned();
        known.unwrap_or_else(|| {
            let font = self.search(text).map(Rc::new);
            self.found.borrow_mut().insert(text.to_owned(), font.clone());
            font
        })
    }

    fn search(&self, text: &str) -> Option<FontVec> {
        // Letters that join, stand over others or run to the left need more than a font.
        if text.chars().any(|letter| letter.width() == Some(0) || is_joined(letter)) {
            return None;
        }
        let system = self.system.get_or_init(|| {
            let mut system = fontdb::Database::new();
            system.load_system_fonts();
            system
        });
        system.faces().find_map(|face| {
            let load = |data: &[u8], index| {
                let font = FontRef::try_from_slice_and_index(data, index).ok()?;
                let has_all = text.chars().all(|letter| letter == ' ' || font.glyph_id(letter).0 != 0);
                if has_all { FontVec::try_from_vec_and_index(data.to_vec(), index).ok() } else { None }
            };
            system.with_face_data(face.id, load).flatten()
        })
    }
}

/// Whether the built-in font has all letters.
fn is_plain(text: &str) -> bool {
    text.chars().all(|letter| built_in(letter).is_some())
}

/// Scripts from Hebrew to Myanmar (with Arabic and those of India between them), Khmer and Mongolian.
fn is_joined(letter: char) -> bool {
    matches!(letter, '\u{590}'..='\u{109F}' | '\u{1780}'..='\u{18AF}' | '\u{FB1D}'..='\u{FDFF}' | '\u{FE70}'..='\u{FEFC}')
}

fn built_in(letter: char) -> Option<[u8; SIDE]> {
    font8x8::BASIC_FONTS
        .get(letter)
        .or_else(|| font8x8::LATIN_FONTS.get(letter))
        .or_else(|| font8x8::GREEK_FONTS.get(letter))
        .or_else(|| font8x8::HIRAGANA_FONTS.get(letter))
        .filter(|_| !letter.is_control())
}

/// The letters with `left_out` of them, from the middle, replaced by two dots.
fn without_middle(letters: &[char], left_out: usize) -> Vec<char> {
    if left_out == 0 {
        return letters.to_vec();
    }
    let kept = letters.len() - left_out;
    let (start, end) = (kept / 2, kept - kept / 2);
    [&letters[..start], &['.', '.'], &letters[letters.len() - end..]].concat()
}

fn drawn(letters: &[char], font: Option<&FontVec>, height: usize) -> Drawn {
    match font {
        None => in_bits(letters, height),
        Some(font) => in_font(letters, font, height),
    }
}

fn in_bits(letters: &[char], height: usize) -> Drawn {
    let width = letters.len() * SIDE;
    let mut levels = vec![0; width * height];
    let top = (height - SIDE) / 2;
    for (place, &letter) in letters.iter().enumerate() {
        for (y, bits) in built_in(letter).unwrap_or_default().into_iter().enumerate() {
            for x in (0..SIDE).filter(|x| bits >> x & 1 == 1) {
                levels[(top + y) * width + place * SIDE + x] = 255;
            }
        }
    }
    Drawn { width, levels }
}

fn in_font(letters: &[char], font: &FontVec, height: usize) -> Drawn {
    let scaled = font.as_scaled(height as f32);
    let advance = |letter: &char| scaled.h_advance(scaled.glyph_id(*letter));
    let width = letters.iter().map(advance).sum::<f32>().ceil().max(0.0) as usize;
    let mut levels = vec![0; width * height];
    let mut left = 0.0;
    for letter in letters {
        let mut glyph = scaled.scaled_glyph(*letter);
        glyph.position = ab_glyph::point(left, scaled.ascent());
        left += advance(letter);
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        outline.draw(|x, y, level| {
            // What hangs over the edges is cut off.
            let (x, y) = (x as i64 + bounds.min.x as i64, y as i64 + bounds.min.y as i64);
            if (0..width as i64).contains(&x) && (0..height as i64).contains(&y) {
                let at = y as usize * width + x as usize;
                levels[at] = levels[at].max((level.clamp(0.0, 1.0) * 255.0) as u8);
            }
        });
    }
    Drawn { width, levels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_drawn_in_full_or_not_at_all() {
        let letters = Letters::new();
        assert!(letters.can_draw("cat, größer Ωμέγα ひらがな"));
        // Joined scripts, and a letter of no font.
        for text in ["عربي", "हिन्दी", "e\u{301}", "\u{10FFFF}"] {
            assert!(!letters.can_draw(text), "{text}");
        }
        for text in ["кошка", "汉字"] {
            if letters.can_draw(text) {
                let drawn = letters.draw(text, 200, HEIGHT);
                assert!(drawn.levels.iter().filter(|&&level| level > 100).count() > 20, "{text}");
            }
        }
    }

    #[test]
    fn long_words_lose_their_middle() {
        let short = |text: &str, left_out| {
            without_middle(&text.chars().collect::<Vec<_>>(), left_out).into_iter().collect::<String>()
        };
        assert_eq!(
            [short("abcdefghij", 0), short("abcdefghij", 6), short("abc", 3)],
            ["abcdefghij", "ab..ij", ".."]
        );
        let letters = Letters::new();
        assert_eq!(letters.draw("abcdefghij", 6 * SIDE, SIDE).width, 6 * SIDE);
        assert_eq!(letters.draw("abc", SIDE, SIDE).width, 0);
    }

    #[test]
    fn letters_of_the_built_in_font_are_upright_and_in_the_middle_of_the_line() {
        let drawn = Letters::new().draw("Li", 2 * SIDE, SIDE + 3);
        let row =
            |row: &[u8]| row.iter().map(|&level| if level == 255 { '#' } else { '.' }).collect::<String>();
        let rows: Vec<String> = drawn.levels.chunks(drawn.width).map(row).collect();
        let wanted = [
            "................",
            "####......##....",
            ".##.............",
            ".##......###....",
            ".##.......##....",
            ".##...#...##....",
            ".##..##...##....",
            "#######..####...",
            "................",
            "................",
            "................",
        ];
        assert_eq!(rows, wanted);
    }

    #[test]
    fn scripts_whose_letters_join_are_known() {
        for letter in ['\u{590}', 'ع', 'ह', 'ក', '\u{FEFC}'] {
            assert!(is_joined(letter), "{letter}");
        }
        for letter in ['a', 'Ω', '汉', 'ひ', '\u{58F}', '\u{FEFD}'] {
            assert!(!is_joined(letter), "{letter}");
        }
    }
}
