//! Names that others chose, as text that is safe to print.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;

/// A path on one line of a terminal: what [`path_text`] gives, with the characters that [`escaped`] escapes escaped.
pub fn shown(path: impl AsRef<Path>) -> String {
    escaped(&path_text(path))
}

/// A path as text. Bytes that are no UTF-8 are written as `\xNN`; everything else is as it is.
pub fn path_text(path: impl AsRef<Path>) -> String {
    let mut text = String::new();
    for chunk in path.as_ref().as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `text` without characters that change what a terminal shows or that cannot be seen: control characters, ends of lines, marks of
/// the writing direction and invisible characters are written as escapes (`\n`, `\x1b`, `\u{202e}`, `\u{feff}`).
pub fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, c| {
        escape(c, &mut all);
        all
    })
}

/// [`escaped`] for text of several lines: ends of lines and tabs stay.
pub fn escaped_lines(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, c| {
        match c {
            '\n' | '\t' => all.push(c),
            c => escape(c, &mut all),
        }
        all
    })
}

fn escape(c: char, all: &mut String) {
    let _ = match c {
        '\n' => write!(all, "\\n"),
        '\r' => write!(all, "\\r"),
        '\t' => write!(all, "\\t"),
        c if c.is_ascii_control() => write!(all, "\\x{:02x}", u32::from(c)),
        c if c.is_control() || is_invisible(c) => write!(all, "\\u{{{:x}}}", u32::from(c)),
        c => write!(all, "{c}"),
    };
}

/// Whether nothing is seen of a character, or it acts on those around it, so that one name looks like another: those of Unicode's
/// categories Cf, Zl and Zp, and those that it calls default-ignorable.
pub fn is_invisible(c: char) -> bool {
    INVISIBLE.iter().any(|range| range.contains(&c))
}

/// Those of Unicode 16.
const INVISIBLE: [RangeInclusive<char>; 25] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// `text`, each line of which has at most about `most` characters: the middle of a longer one is left out, and said to be. What a
/// message quotes may be of any length.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    let is_long = |line: &str| line.len() > most && line.chars().count() > most;
    if !text.lines().any(is_long) {
        return text.into();
    }
    let line = |line: &str| match is_long(line) {
        true => {
            let letters: Vec<char> = line.chars().collect();
            let (start, end) = (most * 2 / 3, letters.len() - most / 3);
            let [head, tail] = [&letters[..start], &letters[end..]].map(String::from_iter);
            format!("{head} ... ({} characters left out) ... {tail}", end - start)
        }
        false => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n").into()
}

/// The most characters of a value that a message quotes.
const QUOTED: usize = 120;

/// A text of others inside a message: not all of a long one.
pub fn quoted(text: &str) -> Cow<'_, str> {
    shortened(text, QUOTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_on_its_line_and_does_not_command_the_terminal() {
        assert_eq!(shown("photos/Äpfel 1.png"), "photos/Äpfel 1.png");
        assert_eq!(shown("a\u{1b}[31m\nb\rc\td"), "a\\x1b[31m\\nb\\rc\\td");
        assert_eq!(shown("gnp.\u{202e}exe\u{2066}\u{9b}\u{7f}"), "gnp.\\u{202e}exe\\u{2066}\\u{9b}\\x7f");
        assert_eq!(escaped_lines("a\n\tb\u{1b}c"), "a\n\tb\\x1bc");
    }

    #[test]
    fn a_character_that_is_not_seen_is_written_out() {
        // Some of each block: soft hyphen, Arabic sign, Hangul filler, zero width, separators, selector, byte order mark, tag.
        for c in [
            0xad, 0x34f, 0x600, 0x6dd, 0x890, 0x115f, 0x1160, 0x17b4, 0x180e, 0x200b, 0x200d, 0x2028, 0x2029,
            0x2060, 0x2064, 0x206a, 0x3164, 0xfe0f, 0xfeff, 0xffa0, 0xfff9, 0x110bd, 0x1d173, 0xe0001,
            0xe0041, 0xe01ef,
        ] {
            let text = format!("cat{}", char::from_u32(c).unwrap());
            assert_eq!(escaped(&text), format!("cat\\u{{{c:x}}}"));
            assert_eq!(escaped_lines(&text), escaped(&text));
        }
        for seen in ["é", "e\u{301}", "ا", "中", "한", "\u{a0}", "\u{3000}", "😀", "\u{fffd}", "\u{1161}"]
        {
            assert_eq!(escaped(seen), seen);
        }
    }

    #[test]
    fn what_is_quoted_has_a_bounded_length() {
        assert_eq!(shortened("short\nlines\n", 5), "short\nlines\n");
        assert_eq!(shortened("é".repeat(9).as_str(), 9), "é".repeat(9));
        let long = format!("a{}z\nb", "é".repeat(10_000));
        assert_eq!(shortened(&long, 6), "aééé ... (9996 characters left out) ... éz\nb");
        assert!(quoted(&"x".repeat(1 << 20)).len() < 200);
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_not_lost() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\xc3.png\n"));
        assert_eq!(path_text(path), "a\\xff\\xc3.png\n");
        assert_eq!(shown(path), "a\\xff\\xc3.png\\n");
    }
}
