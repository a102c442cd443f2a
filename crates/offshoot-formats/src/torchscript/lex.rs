//! The tokens of a file of TorchScript.

use std::rc::Rc;

use super::place::Place;
use crate::error::Problem;

/// How deep brackets may nest.
const MAX_BRACKETS: u32 = 64;
/// How deep blocks may nest.
const MAX_BLOCKS: usize = 32;

/// The longest name.
const MAX_NAME: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(Rc<str>),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// One character of punctuation.
    Mark(char),
    /// `->`
    Arrow,
    /// The end of a statement.
    Newline,
    Indent,
    Dedent,
}

/// The tokens of `text`, each with its line, counted from 1.
pub(super) fn tokens(text: &str, file: &Rc<str>) -> Result<Vec<(Token, u32)>, Problem> {
    let mut lexer = Lexer { rest: text, file, line: 1, brackets: 0, blocks: vec![0], found: Vec::new() };
    lexer.run()?;
    Ok(lexer.found)
}

struct Lexer<'a> {
    rest: &'a str,
    file: &'a Rc<str>,
    line: u32,
    brackets: u32,
    /// The indentations of the open blocks.
    blocks: Vec<usize>,
    found: Vec<(Token, u32)>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Result<(), Problem> {
        while !self.rest.is_empty() {
            self.start_of_line()?;
            while !self.end_of_line()? {
                self.token()?;
            }
        }
        if self.brackets > 0 {
            return Err(self.damaged("a bracket is not closed"));
        }
        self.close_blocks(0);
        Ok(())
    }

    fn damaged(&self, what: impl Into<String>) -> Problem {
        Place { file: self.file.clone(), line: self.line }.damaged(what)
    }

    fn push(&mut self, token: Token) {
        self.found.push((token, self.line));
    }

    /// Takes what `matches` from the front.
    fn take(&mut self, matches: impl Fn(char) -> bool) -> &'a str {
        let len = self.rest.find(|c| !matches(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// Opens or closes blocks, unless the line is empty or goes on inside brackets.
    fn start_of_line(&mut self) -> Result<(), Problem> {
        let indent = self.take(|c| c == ' ').len();
        if self.brackets > 0 || self.rest.starts_with(['\n', '\r', '#']) || self.rest.is_empty() {
            return Ok(());
        }
        let open = self.blocks.last().copied().unwrap_or(0);
        if indent > open {
            if self.blocks.len() > MAX_BLOCKS {
                return Err(self.damaged(format!("blocks nest deeper than {MAX_BLOCKS}")));
            }
            self.blocks.push(indent);
            self.push(Token::Indent);
        }
        self.close_blocks(indent);
        match self.blocks.last() {
            Some(&open) if open == indent => Ok(()),
            _ => Err(self.damaged("the line is indented like no block around it")),
        }
    }

    fn close_blocks(&mut self, indent: usize) {
        while self.blocks.last().is_some_and(|&open| open > indent) {
            self.blocks.pop();
            self.push(Token::Dedent);
        }
    }

    /// Whether the line ends here; it is then left behind.
    fn end_of_line(&mut self) -> Result<bool, Problem> {
        self.take(|c| matches!(c, ' ' | '\t' | '\r'));
        if self.rest.starts_with('#') {
            self.take(|c| c != '\n');
        }
        if !self.rest.is_empty() && !self.rest.starts_with('\n') {
            return Ok(false);
        }
        let statement =
            !matches!(self.found.last(), None | Some((Token::Newline | Token::Indent | Token::Dedent, _)));
        if self.brackets == 0 && statement {
            self.push(Token::Newline);
        }
        self.rest = self.rest.strip_prefix('\n').unwrap_or_default();
        self.line += 1;
        Ok(true)
    }

    fn token(&mut self) -> Result<(), Problem> {
        let Some(first) = self.rest.chars().next() else { return Ok(()) };
        if first.is_ascii_alphabetic() || first == '_' {
            let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
            if name.len() > MAX_NAME {
                return Err(self.damaged(format!("a name is longer than {MAX_NAME} letters")));
            }
            self.push(Token::Name(name.into()));
            return Ok(());
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '"' || first == '\'' {
            return self.text(first);
        }
        if let Some(rest) = self.rest.strip_prefix("->") {
            self.rest = rest;
            self.push(Token::Arrow);
            return Ok(());
        }
        match first {
            '(' | '[' | '{' if self.brackets == MAX_BRACKETS => {
                return Err(self.damaged(format!("brackets nest deeper than {MAX_BRACKETS}")));
            }
            '(' | '[' | '{' => self.brackets += 1,
            ')' | ']' | '}' if self.brackets == 0 => {
                return Err(self.damaged(format!("`{first}` closes nothing")));
            }
            ')' | ']' | '}' => self.brackets -= 1,
            ',' | '.' | ':' | '=' | '-' => {}
            _ => return Err(self.damaged(format!("`{first}` is nothing that PyTorch writes"))),
        }
        self.rest = &self.rest[1..];
        self.push(Token::Mark(first));
        Ok(())
    }

    fn number(&mut self) -> Result<(), Problem> {
        let whole = self.rest;
        self.take(|c| c.is_ascii_digit());
        let mut float = false;
        if let Some(rest) = self.rest.strip_prefix('.') {
            (self.rest, float) = (rest, true);
            self.take(|c| c.is_ascii_digit());
        }
        if let Some(rest) = self.rest.strip_prefix(['e', 'E']) {
            (self.rest, float) = (rest.strip_prefix(['+', '-']).unwrap_or(rest), true);
            self.take(|c| c.is_ascii_digit());
        }
        let text = &whole[..whole.len() - self.rest.len()];
        let token = match float {
            true => text.parse().ok().map(Token::Float),
            false => text.parse().ok().map(Token::Int),
        };
        let token = token.ok_or_else(|| self.damaged(format!("`{text:.40}` is no number of 64 bits")))?;
        self.push(token);
        Ok(())
    }

    /// A text in quotes. Escapes of bytes are kept as they are written: no name needs them.
    fn text(&mut self, quote: char) -> Result<(), Problem> {
        let mut text = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '\n' => break,
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('"' | '\'' | '\\'))) => text.push(c),
                    Some((_, c)) => text.extend(['\\', c]),
                    None => break,
                },
                _ if c == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    self.push(Token::Text(text.into()));
                    return Ok(());
                }
                _ => text.push(c),
            }
        }
        Err(self.damaged("a text is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_brackets_numbers_and_texts() {
        let text = "def f(a,\n    b) -> x:\n  c = [1, -2.5e-3]\n\n  d = \"a\\\"\\n\"\ne\n";
        let found = tokens(text, &"f.py".into()).unwrap();
        let shown: Vec<String> = found
            .iter()
            .map(|(token, line)| match token {
                Token::Name(name) => format!("{line}{name}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown.join(" "),
            "1def 1f Mark('(') 1a Mark(',') 2b Mark(')') Arrow 2x Mark(':') Newline Indent 3c Mark('=') Mark('[') \
             Int(1) Mark(',') Mark('-') Float(0.0025) Mark(']') Newline 5d Mark('=') Text(\"a\\\"\\n\") Newline \
             Dedent 6e Newline"
        );
    }

    #[test]
    fn what_is_no_code_is_refused_with_its_line() {
        for (text, what) in [
            ("a\n(", "bracket is not closed"),
            ("a\n  b\n c", "line 3: the line is indented"),
            ("a\n99999999999999999999", "line 2"),
            ("\"abc\nd\"", "text is not closed"),
            ("a $ b", "`$`"),
            ("é", "`é`"),
            (")", "closes nothing"),
            (&"(".repeat(100), "nest deeper"),
            (&"a".repeat(300), "a name is longer"),
        ] {
            let message = tokens(text, &"f.py".into()).unwrap_err().to_string();
            assert!(message.contains(what) && message.contains("f.py"), "{message}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_nothing() {
        let text = "# a\n\n  # b\r\nc = (1,  # d\n      2)\t\n   \ndef 'e\\f'\r\n";
        let found = tokens(text, &"f.py".into()).unwrap();
        let shown: Vec<String> = found.iter().map(|(token, line)| format!("{line}{token:?}")).collect();
        assert_eq!(
            shown.join(" "),
            "4Name(\"c\") 4Mark('=') 4Mark('(') 4Int(1) 4Mark(',') 5Int(2) 5Mark(')') 5Newline 7Name(\"def\") \
             7Text(\"e\\\\f\") 7Newline"
        );
    }

    #[test]
    fn what_nests_and_names_have_a_largest_size() {
        let blocks = |n: usize| (0..=n).map(|depth| format!("{}a\n", " ".repeat(depth))).collect::<String>();
        for (text, limit) in [
            (&(|n| "(".repeat(n) + &")".repeat(n)) as &dyn Fn(usize) -> String, MAX_BRACKETS as usize),
            (&|n| "_".repeat(n), MAX_NAME),
            (&blocks, MAX_BLOCKS),
        ] {
            assert!(tokens(&text(limit), &"f.py".into()).is_ok(), "{limit}");
            assert!(tokens(&text(limit + 1), &"f.py".into()).is_err(), "{limit}");
        }
    }
}
