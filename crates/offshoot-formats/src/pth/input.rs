//! Bytes of a pickle, counted, so that no length in it is believed beyond what is left.

use std::io::{BufRead, Read};

use crate::error::Problem;

/// The longest line of the text opcodes (a number, a name).
const MAX_LINE: u64 = 1 << 16;

pub(crate) struct Input<R> {
    source: R,
    name: &'static str,
    position: u64,
    len: u64,
}

impl<R: BufRead> Input<R> {
    /// The bytes of `source`, which has `len` of them; `name` says in messages what they are.
    pub(crate) fn new(source: R, len: u64, name: &'static str) -> Self {
        Input { source, name, position: 0, len }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_source(self) -> R {
        self.source
    }

    /// Where we are, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}, byte {}", self.name, self.position)
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(self.place(), what)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|e| Problem::read(self.place(), e))?;
        self.position += N as u64;
        Ok(bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[b]| b)
    }

    /// `count` bytes; an error before any allocation when fewer are left.
    pub(crate) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Problem> {
        let left = self.len.saturating_sub(self.position);
        if count > left {
            return Err(self.damaged(format!("a value of {count} bytes where {left} are left")));
        }
        let mut bytes = vec![0; count as usize];
        self.source.read_exact(&mut bytes).map_err(|e| Problem::read(self.place(), e))?;
        self.position += count;
        Ok(bytes)
    }

    /// The text up to the end of the line.
    pub(crate) fn line(&mut self) -> Result<String, Problem> {
        let mut line = Vec::new();
        self.source
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|e| Problem::read(self.place(), e))?;
        if line.last() != Some(&b'\n') {
            return Err(self.damaged("a line without an end"));
        }
        self.position += line.len() as u64;
        line.pop();
        String::from_utf8(line).map_err(|_| self.damaged("a line that is not UTF-8"))
    }
}
