//! The tables of a run directory: CSV (RFC 4180) that a spreadsheet computes nothing of.
//!
//! A text that a spreadsheet would take for a formula has a `'` before it, which makes it a text there. Reading takes it away
//! again, so that any text comes back as it was.

use std::borrow::Cow;

/// What marks a text.
const MARK: char = '\'';

/// A text as a field of a line.
pub(crate) fn quoted(text: &str) -> Cow<'_, str> {
    let marked = match is_like_a_formula(text) && !is_number(text) {
        true => Cow::Owned(format!("{MARK}{text}")),
        false => Cow::Borrowed(text),
    };
    match marked.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", marked.replace('"', "\"\"")).into(),
        false => marked,
    }
}

/// Whether a text begins, after any marks, as a formula does. Tabs and ends of lines before one are left out by spreadsheets,
/// and some take the wide forms of East Asian scripts for the same.
fn is_like_a_formula(text: &str) -> bool {
    text.trim_start_matches(MARK).starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

/// Whether a text is a plain number, as in `-0.5` and `+1e-3`.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) && text.parse::<f64>().is_ok()
}

/// The text that was written as a field.
fn unmarked(mut field: String) -> String {
    if field.starts_with(MARK) && is_like_a_formula(&field) {
        field.remove(0);
    }
    field
}

/// The fields of each line of a table.
pub(crate) fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let (mut record, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(unmarked(std::mem::take(&mut field))),
            '\n' if !quoted => {
                record.push(unmarked(std::mem::take(&mut field)));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !quoted => {}
            other => field.push(other),
        }
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(unmarked(field));
        records.push(record);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula_and_each_comes_back() {
        let plain = ["", "a", "a=b", "-0.5", "+1e-3", "-1", "'", "''a", "it's", "2024-01-01", "'a=b"];
        for text in plain {
            assert_eq!(quoted(text), text);
        }
        let marked = [
            "=1+1",
            "+cmd|x",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "\r\n=1",
            "-",
            "--1",
            "-inf",
            "+nan",
            "'=1",
            "''@x",
            "'-1",
            "＝1",
            "=HYPERLINK(\"http://x,y\")",
        ];
        for text in marked {
            assert!(quoted(text).trim_start_matches('"').starts_with(MARK), "{text:?}");
        }
        let all: Vec<&str> = plain.into_iter().chain(marked).collect();
        let line = all.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",");
        assert_eq!(records(&format!("{line}\n{line}")), [&all[..], &all]);
    }
}
