//! Tables of JSON: `.jsonl`, an object on each line.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use offshoot_graph::Task;
use offshoot_graph::text::quoted;
use serde_json::{Map, Value};

use super::TableError;
use super::columns::{Columns, ROLES, Role};
use super::rows::{MOST_BYTES, Problem, Rows};
use super::several::{listed_labels, truth};
use super::targets::listed_targets;

/// Reads a table with an object on each line.
pub(super) fn read(path: &Path, columns: &Columns, rows: &mut Rows) -> Result<(), Problem> {
    let file = offshoot_files::open(path).map_err(TableError::Read)?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut number, mut is_empty) = (Vec::new(), 0, true);
    loop {
        line.clear();
        number += 1;
        // One byte more than is allowed tells that there is more.
        let read = reader.by_ref().take(MOST_BYTES as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(TableError::Read)? == 0 {
            return if is_empty { Err(TableError::Empty.into()) } else { Ok(()) };
        }
        if line.len() > MOST_BYTES {
            return Err(TableError::LongRow { line: number, limit: MOST_BYTES }.into());
        }
        let text = line.strip_prefix("\u{feff}".as_bytes()).filter(|_| number == 1).unwrap_or(&line);
        if text.trim_ascii().is_empty() {
            continue;
        }
        is_empty = false;
        match serde_json::from_slice::<Map<String, Value>>(text) {
            Ok(object) => {
                check_columns(&object, columns, rows)?;
                add(number, &object, columns, rows)?;
            }
            Err(error) => rows.refuse(number, format!("not a JSON object: {error}"))?,
        }
    }
}

/// An error where the first object that is read lacks what is needed: it is a table of something else.
fn check_columns(object: &Map<String, Value>, columns: &Columns, rows: &mut Rows) -> Result<(), TableError> {
    if rows.rows.is_empty() && rows.seen == [false; ROLES] {
        let keys: Vec<String> = object.keys().cloned().collect();
        let places = columns.find(&keys, rows.task)?;
        rows.declared = places.several.into_iter().map(|place| keys[place].clone()).collect();
    }
    Ok(())
}

fn add(line: u64, object: &Map<String, Value>, columns: &Columns, rows: &mut Rows) -> Result<(), Problem> {
    let (role, texts) = match rows.task {
        Task::Single | Task::Multi => (Role::Label, class_labels(object, &rows.declared)),
        Task::Regression => (Role::Target, target_texts(object, &rows.declared)),
    };
    match fields(object, columns, &Role::ALL, rows.task).and_then(|fields| Ok((fields, texts?))) {
        Ok((mut fields, texts)) => {
            if !rows.declared.is_empty() {
                fields[role as usize] = Some(texts.into());
            }
            rows.add(line, fields.each_ref().map(|text| text.as_deref()))
        }
        Err(reason) => rows.refuse(line, reason),
    }
}

/// Those of `classes` for which an object says 1, as [`listed_labels`] writes them.
fn class_labels(object: &Map<String, Value>, classes: &[String]) -> Result<String, String> {
    let mut labels = Vec::new();
    for class in classes {
        let value = object.get(class).ok_or_else(|| format!("no `{class}` in this row"))?;
        let value = text(value).map_err(|kind| format!("`{class}` is {kind}, and not 0 or 1"))?;
        if truth(class, value.as_deref().unwrap_or_default())? {
            labels.push(class.as_str());
        }
    }
    Ok(listed_labels(labels.into_iter()))
}

/// The texts of `targets`, as [`listed_targets`] writes them.
pub(super) fn target_texts(object: &Map<String, Value>, targets: &[String]) -> Result<String, String> {
    let mut texts = Vec::with_capacity(targets.len());
    for target in targets {
        let value = object.get(target).ok_or_else(|| format!("no `{}` in this row", quoted(target)))?;
        let found =
            text(value).map_err(|kind| format!("`{}` is {kind}, and not a number", quoted(target)))?;
        texts.push(found.unwrap_or_default());
    }
    Ok(listed_targets(texts.iter().map(|text| &**text)))
}

/// What an object says in these `roles`, but for targets, in the order of [`Role::ALL`].
pub(super) fn fields<'a>(
    object: &'a Map<String, Value>,
    columns: &Columns,
    roles: &[Role],
    task: Task,
) -> Result<[Option<Cow<'a, str>>; ROLES], String> {
    let mut texts: [Option<Cow<'_, str>>; ROLES] = Default::default();
    let needed = |role: &Role| match role {
        Role::Label => task != Task::Regression,
        Role::Target => false,
        Role::Path | Role::Split | Role::Group | Role::Weight => true,
    };
    for &role in roles.iter().filter(|role| needed(role)) {
        let found = columns.names(role, task).into_iter().find_map(|name| object.get_key_value(name));
        let Some((column, value)) = found else { continue };
        let labels = labels(value).filter(|_| task == Task::Multi && role == Role::Label);
        texts[role as usize] = match labels {
            Some(labels) => Some(labels.into()),
            None => text(value).map_err(|kind| format!("`{column}` is {kind}, not a text or a number"))?,
        };
    }
    Ok(texts)
}

/// The labels of a list of texts, as [`listed_labels`] writes them.
fn labels(value: &Value) -> Option<String> {
    let texts: Option<Vec<Cow<'_, str>>> = value.as_array()?.iter().map(|value| text(value).ok()?).collect();
    Some(listed_labels(texts?.iter().map(|text| &**text)))
}

/// A value as the field of a table; `None` for `null`.
fn text(value: &Value) -> Result<Option<Cow<'_, str>>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(truth) => Ok(Some(truth.to_string().into())),
        Value::Number(number) => Ok(Some(number.to_string().into())),
        Value::String(text) => Ok(Some(text.into())),
        Value::Array(_) => Err("a list"),
        Value::Object(_) => Err("an object"),
    }
}
