//! Event files for TensorBoard: TFRecords of `tensorflow.Event` messages with one scalar each.
//!
//! Sources: TensorFlow, `core/lib/io/record_writer.cc` (a record is its length as u64, the masked CRC-32C of that, the data, the masked
//! CRC-32C of the data), `core/util/event.proto` and `core/framework/summary.proto` (field numbers).

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use offshoot_files::open;
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_formats::error::Problem;

use super::table::Table;

/// The folder in a run directory that TensorBoard is pointed at.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";
/// The file in it. The name is the same for every run.
pub const EVENTS_FILE: &str = "events.out.tfevents.0.offshoot";

/// Writes all scalars of `results.csv` and `health.csv`. Times are seconds of training since the run's start.
pub(super) fn write(run: &Path, results: &Table, health: &Table) -> Result<(), FormatError> {
    let folder = run.join(TENSORBOARD_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|error| FormatError {
        path: folder.clone(),
        problem: Problem::Io { action: "make", error },
    })?;
    let mut records = Vec::new();
    record(&mut records, &event(0.0, 0, Some("brain.Event:2"), None));
    check_ours(&folder, &records)?;
    for ((tag, epoch, value), time) in scalars(results, health) {
        record(&mut records, &event(time, epoch, None, Some((&tag, value))));
    }
    write_atomically(&folder.join(EVENTS_FILE), |file| file.write_all(&records))
}

/// Checks that the folder is one of the run, and that what has the name of the file in it, if anything does, begins as ours does.
fn check_ours(folder: &Path, start: &[u8]) -> Result<(), FormatError> {
    let refuse = |path: &Path, what: &str| {
        Err(Problem::unsupported("report", what.to_owned(), "Move it away").at(path))
    };
    if folder.is_symlink() {
        return refuse(folder, "a symbolic link is in the place of the folder for TensorBoard");
    }
    let path = folder.join(EVENTS_FILE);
    let mut found = Vec::new();
    match open(&path).and_then(|file| file.take(start.len() as u64).read_to_end(&mut found)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) if found == start => Ok(()),
        _ => refuse(&path, "there is a file of this name already that is none of offshoot"),
    }
}

type Scalar = ((String, i64, f64), f64);

/// Tag, epoch, value; and time.
fn scalars(results: &Table, health: &Table) -> Vec<Scalar> {
    let (epochs, seconds) = (results.numbers("epoch"), results.numbers("seconds"));
    let rows = epochs.iter().zip(&seconds).rev();
    let times: HashMap<u64, f64> =
        rows.filter_map(|(epoch, &seconds)| Some(((*epoch)?.to_bits(), seconds?))).collect();
    let time = |epoch: f64| times.get(&epoch.to_bits()).copied().unwrap_or(0.0);
    let mut scalars = Vec::new();
    for column in results.columns.iter().filter(|column| *column != "epoch") {
        let (set, what) = column.split_once('_').unwrap_or(("", column));
        let tag = match set {
            "train" | "val" => format!("{what}/{set}"),
            _ => format!("run/{column}"),
        };
        for (&epoch, value) in epochs.iter().zip(results.numbers(column)) {
            if let (Some(epoch), Some(value)) = (epoch, value) {
                scalars.push(((tag.clone(), epoch as i64, value), time(epoch)));
            }
        }
    }
    for column in ["gradient_norm", "weight_norm"] {
        let Some(groups) = health.column("group") else { break };
        for ((group, epoch), value) in groups.zip(health.numbers("epoch")).zip(health.numbers(column)) {
            if let (Some(epoch), Some(value)) = (epoch, value) {
                scalars.push(((format!("{column}/{group}"), epoch as i64, value), time(epoch)));
            }
        }
    }
    scalars
}

/// An `Event`: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5 (`Summary`).
fn event(time: f64, step: i64, version: Option<&str>, scalar: Option<(&str, f64)>) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(time.to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step as u64);
    if let Some(version) = version {
        bytes(&mut out, 3, version.as_bytes());
    }
    if let Some((tag, value)) = scalar {
        // Summary: value = 1 (repeated Value); Value: tag = 1 (string), simple_value = 2 (float).
        let mut inner = Vec::new();
        bytes(&mut inner, 1, tag.as_bytes());
        inner.push(2 << 3 | 5);
        inner.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &inner);
        bytes(&mut out, 5, &summary);
    }
    out
}

fn bytes(out: &mut Vec<u8>, field: u8, data: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
}

/// TensorFlow's mask over CRC-32C: turned right by 15 bits, plus a constant.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_length_and_masked_checksums() {
        let (mut out, data) = (Vec::new(), event(0.0, 0, Some("brain.Event:2"), None));
        record(&mut out, &data);
        assert_eq!((out[0] as usize, out.len()), (data.len(), 8 + 4 + data.len() + 4));
        assert_eq!(out[12..12 + data.len()], data);
        // The masked checksum of the length 24, the first twelve bytes of every file that TensorFlow writes.
        assert_eq!(masked(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
