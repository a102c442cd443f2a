//! Reading the tables of a run directory.

use std::io;
use std::path::Path;

use offshoot_files::{Kind, read};
use offshoot_graph::text::quoted;

use crate::csv::records;

/// A CSV file (RFC 4180).
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    /// Each as long as the columns.
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// `None` where there is no such file. What is not UTF-8 is replaced.
    ///
    /// # Errors
    /// Why it cannot be read, or is none with these columns at its beginning, in words.
    pub(super) fn read(path: &Path, columns: &[&str]) -> Result<Option<Table>, String> {
        match read(path, Kind::TABLE) {
            Ok(bytes) => Table::parse(&String::from_utf8_lossy(&bytes), columns).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn parse(text: &str, first: &[&str]) -> Result<Table, String> {
        let mut lines = records(text).into_iter();
        let columns = lines.next().ok_or("it is empty")?;
        if !first.iter().eq(columns.iter().take(first.len())) {
            return Err(format!("its columns do not begin with {}", first.join(",")));
        }
        let rows: Vec<Vec<String>> = lines.collect();
        match rows.iter().position(|row| row.len() != columns.len()) {
            Some(row) => Err(format!(
                "row {} has {} fields where there are {} columns",
                row + 1,
                rows[row].len(),
                columns.len()
            )),
            None => Ok(Table { columns, rows }),
        }
    }

    /// An error for a field that is neither empty nor a number, but for the columns of `texts`.
    pub(super) fn check_numbers(self, texts: &[&str]) -> Result<Table, String> {
        for (row, fields) in self.rows.iter().enumerate() {
            for (column, field) in self.columns.iter().zip(fields) {
                if !field.is_empty() && !texts.contains(&&**column) && field.parse::<f64>().is_err() {
                    let (row, column, field) = (row + 1, quoted(column), quoted(field));
                    return Err(format!("row {row} has `{field}` under {column}, which is no number"));
                }
            }
        }
        Ok(self)
    }

    pub(super) fn column(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        let place = self.columns.iter().position(|column| column == name)?;
        Some(self.rows.iter().map(move |row| row[place].as_str()))
    }

    /// The numbers of a column, `None` where there is none in a row.
    pub(super) fn numbers(&self, name: &str) -> Vec<Option<f64>> {
        let finite = |text: &str| text.parse().ok().filter(|x: &f64| x.is_finite());
        self.column(name).map(|column| column.map(finite).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_hold_anything() {
        let table = Table::parse("a,\"b,\"\"c\"\"\"\n1,\"x\ny\"\n2,\n", &["a"]).unwrap();
        assert_eq!(table.columns, ["a", "b,\"c\""]);
        assert_eq!(table.rows, [["1", "x\ny"], ["2", ""]]);
        assert_eq!(table.numbers("a"), [Some(1.0), Some(2.0)]);
        for (text, why) in [("a,b\n1,2\n1\n", "row 2 has 1 fields"), ("", "empty"), ("b\n", "begin with a")] {
            let error = Table::parse(text, &["a"]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let numbers = |text: &str| Table::parse(text, &[]).unwrap().check_numbers(&["b"]);
        assert!(numbers("a,b\n1e-3,x\n,y\nNaN,z\n").is_ok());
        assert!(numbers("a,b\n1,x\n1.2.3,y\n").unwrap_err().contains("row 2 has `1.2.3` under a"));
    }
}
