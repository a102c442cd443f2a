//! Tables of text: `.csv` and `.tsv`, with the names of the columns in the first line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use csv_core::{ReadRecordResult, ReaderBuilder};
use offshoot_graph::Task;

use super::TableError;
use super::columns::{Columns, Places, ROLES, Role};
use super::rows::{MOST_BYTES, Problem, Rows};
use super::several::{listed_labels, truth};
use super::targets::listed_targets;

/// What tables are separated by, and the extension of their files.
const SEPARATORS: [(u8, &str, &str); 3] =
    [(b',', "commas", ".csv"), (b'\t', "tabs", ".tsv"), (b';', "semicolons", ".csv with commas")];

/// Reads a table whose fields are separated by `separator`.
pub(super) fn read(path: &Path, separator: u8, columns: &Columns, rows: &mut Rows) -> Result<(), Problem> {
    let mut records = Records::open(path, separator)?;
    if records.next()?.is_none() {
        return Err(TableError::Empty.into());
    }
    let header = header(&records);
    check_separator(&header, separator)?;
    let Places { roles, several } = columns.find(&header, rows.task)?;
    rows.declared = several.iter().map(|&place| header[place].clone()).collect();
    while let Some(line) = records.next()? {
        if records.len() != header.len() {
            let reason = format!("{} fields in this row, and {} columns", records.len(), header.len());
            rows.refuse(line, reason)?;
            continue;
        }
        let read = fields(&records, &roles).map_err(|_| NOT_TEXT.to_owned());
        let (role, texts) = match rows.task {
            Task::Single | Task::Multi => (Role::Label, class_labels(&records, &header, &several)),
            Task::Regression => (Role::Target, target_texts(&records, &several)),
        };
        match read.and_then(|fields| Ok((fields, texts?))) {
            Ok((mut fields, texts)) => {
                if !several.is_empty() {
                    fields[role as usize] = Some(&texts);
                }
                rows.add(line, fields)?;
            }
            Err(reason) => rows.refuse(line, reason)?,
        }
    }
    Ok(())
}

/// Why a row is refused that is no text.
const NOT_TEXT: &str = "the row is not UTF-8 text";

/// The classes whose columns of the record that was read last say 1, as [`listed_labels`] writes them.
fn class_labels(records: &Records, header: &[String], classes: &[usize]) -> Result<String, String> {
    let mut labels = Vec::new();
    for &place in classes {
        let text = std::str::from_utf8(records.field(place)).map_err(|_| NOT_TEXT.to_owned())?;
        if truth(&header[place], text)? {
            labels.push(header[place].as_str());
        }
    }
    Ok(listed_labels(labels.into_iter()))
}

/// The texts of the targets of the record that was read last, as [`listed_targets`] writes them.
fn target_texts(records: &Records, places: &[usize]) -> Result<String, String> {
    let texts = places.iter().map(|&place| std::str::from_utf8(records.field(place)));
    let texts: Vec<&str> = texts.collect::<Result<_, _>>().map_err(|_| NOT_TEXT.to_owned())?;
    Ok(listed_targets(texts.into_iter()))
}

/// The fields at `places` of the record that was read last.
fn fields<'a>(
    records: &'a Records,
    places: &[Option<usize>; ROLES],
) -> Result<[Option<&'a str>; ROLES], std::str::Utf8Error> {
    let mut fields = [None; ROLES];
    for (field, place) in fields.iter_mut().zip(places) {
        *field = place.map(|place| std::str::from_utf8(records.field(place))).transpose()?;
    }
    Ok(fields)
}

/// The names of the columns, without the mark of byte order that some programs begin a file with.
fn header(records: &Records) -> Vec<String> {
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_start_matches('\u{feff}').trim().to_owned();
    (0..records.len()).map(|place| name(records.field(place))).collect()
}

/// An error where one column has another separator in its name.
fn check_separator(header: &[String], separator: u8) -> Result<(), TableError> {
    let [only] = header else { return Ok(()) };
    let found = SEPARATORS.iter().find(|(byte, ..)| *byte != separator && only.contains(char::from(*byte)));
    let wanted = SEPARATORS.iter().find(|(byte, ..)| *byte == separator);
    match (found, wanted) {
        (Some((_, found, ending)), Some((_, wanted, _))) => {
            Err(TableError::Separator { found, wanted, ending })
        }
        _ => Ok(()),
    }
}

/// The records of a file, one at a time, with the lines that they begin at.
struct Records {
    reader: BufReader<File>,
    parser: csv_core::Reader,
    /// The line of the next byte, from 1.
    line: u64,
    /// The bytes of the fields of the record that was read last, one after the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many fields it has.
    count: usize,
}

impl Records {
    fn open(path: &Path, separator: u8) -> Result<Records, TableError> {
        let reader = BufReader::with_capacity(1 << 16, offshoot_files::open(path)?);
        let parser = ReaderBuilder::new().delimiter(separator).build();
        Ok(Records { reader, parser, line: 1, bytes: vec![0; 1 << 10], ends: vec![0; 1 << 5], count: 0 })
    }

    /// The number of fields.
    fn len(&self) -> usize {
        self.count
    }

    fn field(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }

    /// Reads a record and gives the line that it begins at; `None` at the end.
    fn next(&mut self) -> Result<Option<u64>, TableError> {
        self.pass_empty_lines()?;
        let (first, mut read, mut ends) = (self.line, 0, 0);
        loop {
            let input = self.reader.fill_buf()?;
            let (result, taken, bytes, more) =
                self.parser.read_record(input, &mut self.bytes[read..], &mut self.ends[ends..]);
            self.line += input[..taken].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.reader.consume(taken);
            (read, ends) = (read + bytes, ends + more);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if read >= MOST_BYTES => {
                    return Err(TableError::LongRow { line: first, limit: MOST_BYTES });
                }
                ReadRecordResult::OutputFull => self.bytes.resize(2 * self.bytes.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => {
                    self.count = ends;
                    return Ok(Some(first));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// Takes the ends of lines before the next record.
    fn pass_empty_lines(&mut self) -> Result<(), TableError> {
        loop {
            let input = self.reader.fill_buf()?;
            let (length, ends) = (input.len(), input.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')));
            let (mut count, mut lines) = (0, 0);
            ends.for_each(|byte| {
                count += 1;
                lines += u64::from(*byte == b'\n');
            });
            self.reader.consume(count);
            self.line += lines;
            if count < length || length == 0 {
                return Ok(());
            }
        }
    }
}
