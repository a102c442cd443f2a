//! Names that others chose, as text that is safe to print.

use std::fmt::Write as _;
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

/// `text` without characters that change what a terminal shows: control characters, ends of lines and marks of the
/// writing direction are written as escapes (`\n`, `\x1b`, `\u{202e}`).
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
        c if c.is_control() || is_direction(c) => write!(all, "\\u{{{:x}}}", u32::from(c)),
        c => write!(all, "{c}"),
    };
}

/// Marks of the writing direction, which make a name look like another one, and the separators of lines that Unicode has.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_not_lost() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\xc3.png\n"));
        assert_eq!(path_text(path), "a\\xff\\xc3.png\n");
        assert_eq!(shown(path), "a\\xff\\xc3.png\\n");
    }
}
