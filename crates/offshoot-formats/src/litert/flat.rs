//! [FlatBuffers](https://flatbuffers.dev): tables whose fields are numbered slots, and vectors of what they hold. What is read is
//! borrowed from the file and checked field by field; what is written has each table before what it refers to.

use crate::error::Problem;

/// What a slot of a table holds.
#[derive(Clone, Debug)]
pub(super) enum Field {
    Byte(u8),
    Int(i32),
    Float(f32),
    Text(String),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
    Floats(Vec<f32>),
    /// Aligned to [`ALIGNMENT`], so that numbers in it can be used in place.
    Bytes(Vec<u8>),
    Table(Fields),
    Tables(Vec<Fields>),
}

/// A table to write: its slots and what they hold.
pub(super) type Fields = Vec<(u16, Field)>;

/// What bytes are aligned to, as LiteRT's schema asks for.
const ALIGNMENT: usize = 16;

/// A flatbuffer that begins with `root`.
pub(super) fn encode(root: &Fields, identifier: &[u8; 4]) -> Vec<u8> {
    let mut writer = Writer { bytes: vec![0; 4] };
    writer.bytes.extend_from_slice(identifier);
    writer.refer(0, |writer| writer.table(root));
    writer.bytes
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Fills the offset at `place` with the distance to what `write` writes, which says where it begins.
    fn refer(&mut self, place: usize, write: impl FnOnce(&mut Writer) -> usize) {
        let to = write(self);
        self.bytes[place..place + 4].copy_from_slice(&((to - place) as u32).to_le_bytes());
    }

    /// Zeros, until what comes `ahead` bytes later is aligned.
    fn align(&mut self, alignment: usize, ahead: usize) {
        while !(self.bytes.len() + ahead).is_multiple_of(alignment) {
            self.bytes.push(0);
        }
    }

    fn table(&mut self, fields: &Fields) -> usize {
        // Fields of four bytes first, so that all are aligned.
        let (bytes, words): (Vec<_>, Vec<_>) =
            fields.iter().partition(|(_, field)| matches!(field, Field::Byte(_)));
        let slots = fields.iter().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        let mut places = vec![0u16; slots.into()];
        for (i, (slot, _)) in words.iter().enumerate() {
            places[usize::from(*slot)] = 4 + 4 * i as u16;
        }
        for (i, (slot, _)) in bytes.iter().enumerate() {
            places[usize::from(*slot)] = (4 + 4 * words.len() + i) as u16;
        }
        let vtable_len = 4 + 2 * slots;
        let table_len = (4 + 4 * words.len() + bytes.len()) as u16;
        self.align(4, vtable_len.into());
        let vtable = self.bytes.len();
        for number in [vtable_len, table_len].into_iter().chain(places) {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        let table = self.bytes.len();
        self.bytes.extend_from_slice(&((table - vtable) as i32).to_le_bytes());
        for (_, field) in &words {
            let word = match field {
                Field::Int(number) => number.to_le_bytes(),
                Field::Float(number) => number.to_le_bytes(),
                Field::Byte(_)
                | Field::Text(_)
                | Field::Ints(_)
                | Field::Longs(_)
                | Field::Floats(_)
                | Field::Bytes(_)
                | Field::Table(_)
                | Field::Tables(_) => [0; 4],
            };
            self.bytes.extend_from_slice(&word);
        }
        for (_, field) in &bytes {
            if let Field::Byte(byte) = field {
                self.bytes.push(*byte);
            }
        }
        for (i, (_, field)) in words.iter().enumerate() {
            self.referred(table + 4 + 4 * i, field);
        }
        table
    }

    /// Writes what the field at `place` refers to, if it does.
    fn referred(&mut self, place: usize, field: &Field) {
        match field {
            Field::Byte(_) | Field::Int(_) | Field::Float(_) => {}
            Field::Text(text) => self.refer(place, |writer| {
                let at = writer.vector(1, text.len(), text.bytes());
                writer.bytes.push(0);
                at
            }),
            Field::Ints(numbers) => self.refer(place, |writer| {
                writer.vector(4, numbers.len(), numbers.iter().flat_map(|n| n.to_le_bytes()))
            }),
            Field::Longs(numbers) => self.refer(place, |writer| {
                writer.vector(8, numbers.len(), numbers.iter().flat_map(|n| n.to_le_bytes()))
            }),
            Field::Floats(numbers) => self.refer(place, |writer| {
                writer.vector(4, numbers.len(), numbers.iter().flat_map(|n| n.to_le_bytes()))
            }),
            Field::Bytes(bytes) => self.refer(place, |writer| {
                writer.align(ALIGNMENT, 4);
                let at = writer.bytes.len();
                writer.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                writer.bytes.extend_from_slice(bytes);
                at
            }),
            Field::Table(fields) => self.refer(place, |writer| writer.table(fields)),
            Field::Tables(tables) => self.refer(place, |writer| {
                let zeros = std::iter::repeat_n(0, 4 * tables.len());
                let at = writer.vector(4, tables.len(), zeros);
                for (i, fields) in tables.iter().enumerate() {
                    writer.refer(at + 4 + 4 * i, |writer| writer.table(fields));
                }
                at
            }),
        }
    }

    fn vector(&mut self, alignment: usize, len: usize, bytes: impl Iterator<Item = u8>) -> usize {
        self.align(alignment.max(4), 4);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
        self.bytes.extend(bytes);
        at
    }
}

/// A table in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The offsets of its slots.
    slots: &'a [[u8; 2]],
}

/// A number as it stands in the file.
pub(super) type Word = [u8; 4];

fn damaged(at: usize, what: &str) -> Problem {
    Problem::damaged(format!("byte {at}"), what)
}

fn word(bytes: &[u8], at: usize) -> Result<Word, Problem> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    word.copied().ok_or_else(|| damaged(at, "a number lies outside of the file"))
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk::<2>().map(|&b| u16::from_le_bytes(b).into())
}

/// The place that the offset at `at` refers to.
fn follow(bytes: &[u8], at: usize) -> Result<usize, Problem> {
    let offset = u32::from_le_bytes(word(bytes, at)?) as usize;
    at.checked_add(offset)
        .filter(|&to| offset > 0 && to < bytes.len())
        .ok_or_else(|| damaged(at, "an offset leads out of the file"))
}

/// The table that a file begins with.
pub(super) fn root<'a>(bytes: &'a [u8], identifier: &[u8; 4]) -> Result<Table<'a>, Problem> {
    if bytes.get(4..8) != Some(identifier) {
        let name = String::from_utf8_lossy(identifier);
        return Err(damaged(4, &format!("there is no `{name}`")));
    }
    Table::new(bytes, follow(bytes, 0)?)
}

impl<'a> Table<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Result<Table<'a>, Problem> {
        let back = i32::from_le_bytes(word(bytes, at)?);
        let vtable = at.checked_add_signed(-(back as isize));
        let slots = vtable.and_then(|vtable| {
            let len = short(bytes, vtable)?;
            bytes.get(vtable.checked_add(4)?..vtable.checked_add(len)?)
        });
        let slots = slots.ok_or_else(|| damaged(at, "the slots of a table lie outside of the file"))?;
        Ok(Table { bytes, at, slots: slots.as_chunks().0 })
    }

    /// Where a slot's field is, if there is one.
    fn place(&self, slot: u16) -> Option<usize> {
        let offset = u16::from_le_bytes(*self.slots.get(usize::from(slot))?);
        (offset != 0).then(|| self.at + usize::from(offset))
    }

    pub(super) fn byte(&self, slot: u16) -> Result<u8, Problem> {
        let Some(at) = self.place(slot) else { return Ok(0) };
        self.bytes.get(at).copied().ok_or_else(|| damaged(at, "a byte lies outside of the file"))
    }

    pub(super) fn int(&self, slot: u16, otherwise: i32) -> Result<i32, Problem> {
        self.place(slot).map_or(Ok(otherwise), |at| word(self.bytes, at).map(i32::from_le_bytes))
    }

    pub(super) fn float(&self, slot: u16) -> Result<f32, Problem> {
        self.place(slot).map_or(Ok(0.0), |at| word(self.bytes, at).map(f32::from_le_bytes))
    }

    /// A vector of `size` bytes an element; empty where there is none.
    fn vector(&self, slot: u16, size: usize) -> Result<(usize, &'a [u8]), Problem> {
        let Some(place) = self.place(slot) else { return Ok((0, &[])) };
        let at = follow(self.bytes, place)?;
        let len = u32::from_le_bytes(word(self.bytes, at)?) as usize;
        let end = len.checked_mul(size).and_then(|n| n.checked_add(at + 4));
        let content = end.and_then(|end| self.bytes.get(at + 4..end));
        let content = content.ok_or_else(|| damaged(at, "a vector is longer than the file"))?;
        Ok((at + 4, content))
    }

    pub(super) fn bytes(&self, slot: u16) -> Result<&'a [u8], Problem> {
        self.vector(slot, 1).map(|(_, bytes)| bytes)
    }

    pub(super) fn text(&self, slot: u16) -> Result<&'a str, Problem> {
        let (at, bytes) = self.vector(slot, 1)?;
        std::str::from_utf8(bytes).map_err(|_| damaged(at, "a text is no UTF-8"))
    }

    /// A vector of numbers of four bytes.
    pub(super) fn words(&self, slot: u16) -> Result<&'a [Word], Problem> {
        self.vector(slot, 4).map(|(_, bytes)| bytes.as_chunks().0)
    }

    /// A vector of numbers of eight bytes.
    pub(super) fn longs(&self, slot: u16) -> Result<&'a [[u8; 8]], Problem> {
        self.vector(slot, 8).map(|(_, bytes)| bytes.as_chunks().0)
    }

    pub(super) fn table(&self, slot: u16) -> Result<Option<Table<'a>>, Problem> {
        let Some(place) = self.place(slot) else { return Ok(None) };
        Table::new(self.bytes, follow(self.bytes, place)?).map(Some)
    }

    pub(super) fn tables(&self, slot: u16) -> Result<Vec<Table<'a>>, Problem> {
        let (start, content) = self.vector(slot, 4)?;
        let places = (0..content.len() / 4).map(|i| start + 4 * i);
        places.map(|place| Table::new(self.bytes, follow(self.bytes, place)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let inner = vec![(2, Field::Byte(7)), (0, Field::Text("ü".into()))];
        let root: Fields = vec![
            (0, Field::Int(-3)),
            (1, Field::Byte(9)),
            (3, Field::Bytes(vec![1, 2, 3])),
            (4, Field::Ints(vec![5, -6])),
            (5, Field::Longs(vec![-1 << 40])),
            (6, Field::Floats(vec![0.5])),
            (7, Field::Tables(vec![inner.clone(), vec![]])),
            (8, Field::Table(inner)),
            (9, Field::Float(1.5)),
        ];
        encode(&root, b"TEST")
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let table = root(&bytes, b"TEST").unwrap();
        assert_eq!((table.int(0, 0).unwrap(), table.byte(1).unwrap(), table.int(2, 8).unwrap()), (-3, 9, 8));
        assert_eq!(table.bytes(3).unwrap(), [1, 2, 3]);
        assert_eq!(
            table.words(4).unwrap().iter().map(|&w| i32::from_le_bytes(w)).collect::<Vec<_>>(),
            [5, -6]
        );
        assert_eq!(table.longs(5).unwrap(), [(-1i64 << 40).to_le_bytes()]);
        assert_eq!(table.words(6).unwrap(), [0.5f32.to_le_bytes()]);
        let inner = table.tables(7).unwrap();
        assert_eq!((inner.len(), inner[0].text(0).unwrap(), inner[0].byte(2).unwrap()), (2, "ü", 7));
        assert_eq!(table.table(8).unwrap().unwrap().text(0).unwrap(), "ü");
        assert_eq!((table.float(9).unwrap(), table.text(20).unwrap()), (1.5, ""));
        assert!(table.table(21).unwrap().is_none());
    }

    #[test]
    fn bytes_and_numbers_are_aligned() {
        let bytes = sample();
        let place = |slice: &[u8]| slice.as_ptr() as usize - bytes.as_ptr() as usize;
        let table = root(&bytes, b"TEST").unwrap();
        assert!(place(table.bytes(3).unwrap()).is_multiple_of(ALIGNMENT));
        assert!(place(table.longs(5).unwrap().as_flattened()).is_multiple_of(8));
        assert!(place(table.words(6).unwrap().as_flattened()).is_multiple_of(4));
    }

    /// Any byte may change, and the file may end anywhere: an error or other values, no panic.
    #[test]
    fn damage_is_an_error() {
        let whole = sample();
        let read = |bytes: &[u8]| {
            let Ok(table) = root(bytes, b"TEST") else { return };
            for slot in 0..12 {
                let _ = (table.int(slot, 0), table.byte(slot), table.float(slot), table.text(slot));
                let _ = (table.bytes(slot), table.words(slot), table.longs(slot));
                let _ = (table.table(slot), table.tables(slot));
            }
        };
        for end in 0..whole.len() {
            read(&whole[..end]);
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                read(&bytes);
            }
        }
    }
}
