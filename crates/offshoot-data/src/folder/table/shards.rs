//! Data sets in `.tar` files, in the form of WebDataset: members whose names are the same up to the first point belong together, a
//! picture (`00017.jpg`) and its class (`00017.cls`, a text; or `label` in `00017.json`, which may name split, group and weight too, and holds the
//! targets where numbers are predicted).

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use offshoot_graph::Task;
use serde_json::{Map, Value};

use super::super::files::has_picture_name;
use super::columns::{Columns, ROLES, Role};
use super::rows::{MOST_BYTES, Problem, Rows};
use super::{TableError, json};
use crate::decode::DecodeError;
use crate::stored::Archive;

/// The most files that one name stands for.
const MOST_SHARDS: u64 = 100_000;

/// The files that a name stands for: of `photos-{000..015}.tar`, sixteen.
///
/// # Errors
/// When the braces hold no such range.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>, TableError> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(vec![path.to_owned()]);
    };
    let Some((before, rest)) = name.split_once('{').filter(|_| !path.exists()) else {
        return Ok(vec![path.to_owned()]);
    };
    let wrong = || TableError::Shards { name: name.to_owned(), most: MOST_SHARDS };
    let (range, after) = rest.split_once('}').ok_or_else(wrong)?;
    let (first, last) = range.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (from, to) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
    if after.contains('{') || from > to || to - from >= MOST_SHARDS {
        return Err(wrong());
    }
    // As in a shell: `000` gives all numbers three digits.
    let digits = if first.starts_with('0') { first.len() } else { 1 };
    Ok((from..=to).map(|number| path.with_file_name(format!("{before}{number:0digits$}{after}"))).collect())
}

/// Reads the samples of all files that `path` stands for.
pub(super) fn read(path: &Path, columns: &Columns, rows: &mut Rows) -> Result<(), Problem> {
    let mut number = 0;
    if rows.task == Task::Regression {
        rows.declared = columns.target_names();
    }
    for shard in shards(path)? {
        let unreadable = |error| TableError::Shard { path: shard.clone(), source: error };
        let archive = Archive::known(&shard).map_err(unreadable)?;
        let file = offshoot_files::open(&shard).map_err(unreadable)?;
        let mut members = archive.members().peekable();
        let mut reader = Shard { path: &shard, file, columns, rows };
        while let Some((name, place)) = members.next() {
            let Some((key, _)) = parts(name) else { continue };
            let mut all = vec![(name, place)];
            while let Some(next) = members.next_if(|(name, _)| parts(name).is_some_and(|(k, _)| k == key)) {
                all.push(next);
            }
            number += 1;
            reader.add(number, key, &all)?;
        }
    }
    Ok(())
}

/// A name up to the first point behind the last `/`, and what comes after the point.
fn parts(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let point = base + name[base..].find('.')?;
    // A name that begins with a point is hidden.
    (point > base).then(|| (&name[..point], &name[point + 1..]))
}

/// A member: its name, its first byte and how many it has.
type Member<'a> = (&'a str, (u64, u64));

struct Shard<'a> {
    path: &'a Path,
    file: std::fs::File,
    columns: &'a Columns,
    rows: &'a mut Rows,
}

impl Shard<'_> {
    /// Takes the members of one name, if there is a picture among them.
    fn add(&mut self, number: u64, key: &str, members: &[Member<'_>]) -> Result<(), Problem> {
        let pictures: Vec<&Member<'_>> =
            members.iter().filter(|(name, _)| has_picture_name(Path::new(name))).collect();
        let picture = match pictures[..] {
            [] => return Ok(()),
            [(name, _)] => self.path.join(name),
            [(first, _), (second, _), ..] => {
                let reason = format!("stands beside {second:?}: which of them is the picture is not known");
                return self.refuse(number, first, reason);
            }
        };
        let name = pictures[0].0;
        let of = |ending: &str| {
            members.iter().find(|(name, _)| parts(name).is_some_and(|(_, e)| e.eq_ignore_ascii_case(ending)))
        };
        let class = match of("cls").map(|member| self.text(member)).transpose() {
            Ok(class) => class,
            Err(reason) => return self.refuse(number, name, reason),
        };
        let object = match of("json").map(|member| self.object(member)).transpose() {
            Ok(object) => object.unwrap_or_default(),
            Err(reason) => return self.refuse(number, name, reason),
        };
        let roles = [Role::Label, Role::Split, Role::Group, Role::Weight];
        let mut fields = match json::fields(&object, self.columns, &roles, self.rows.task) {
            Ok(fields) => fields,
            Err(reason) => return self.refuse(number, name, format!("{key}.json: {reason}")),
        };
        match self.rows.task {
            Task::Single | Task::Multi => {
                let class = class.map(|class| class.trim().to_owned());
                if class.is_some() {
                    fields[Role::Label as usize] = class.map(Into::into);
                }
                if fields[Role::Label as usize].is_none() {
                    let reason = format!("no label: there is no {key}.cls, and no label in {key}.json");
                    return self.refuse(number, name, reason);
                }
            }
            Task::Regression => match json::target_texts(&object, &self.rows.declared) {
                Ok(texts) => fields[Role::Target as usize] = Some(texts.into()),
                Err(reason) => return self.refuse(number, name, format!("{key}.json: {reason}")),
            },
        }
        let mut texts: [Option<&str>; ROLES] = fields.each_ref().map(|field| field.as_deref());
        let path = picture.to_string_lossy();
        texts[Role::Path as usize] = Some(&path);
        self.rows.add(number, texts)
    }

    fn refuse(&mut self, number: u64, name: &str, reason: String) -> Result<(), Problem> {
        self.rows.refuse_picture(number, self.path.join(name), DecodeError::Member(reason))
    }

    /// The content of a small member.
    fn text(&mut self, (name, (start, bytes)): &Member<'_>) -> Result<String, String> {
        if *bytes > MOST_BYTES as u64 {
            return Err(format!("{name} has {bytes} bytes, more than {MOST_BYTES}"));
        }
        let mut content = Vec::new();
        let read = self
            .file
            .seek(SeekFrom::Start(*start))
            .and_then(|_| (&mut self.file).take(*bytes).read_to_end(&mut content));
        read.map_err(|error| format!("{name} cannot be read: {error}"))?;
        String::from_utf8(content).map_err(|_| format!("{name} is not UTF-8 text"))
    }

    fn object(&mut self, member: &Member<'_>) -> Result<Map<String, Value>, String> {
        let text = self.text(member)?;
        serde_json::from_str(&text).map_err(|error| format!("{} is not a JSON object: {error}", member.0))
    }
}
