//! Reading the tables of a run directory.

use std::path::Path;

use offshoot_files::{Kind, read};

use crate::csv::records;

/// A CSV file (RFC 4180).
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    /// Each as long as the columns.
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// `None` where there is no such file or a line has another length than the first. What is not UTF-8 is replaced.
    pub(super) fn read(path: &Path) -> Option<Table> {
        Table::parse(&String::from_utf8_lossy(&read(path, Kind::TABLE).ok()?))
    }

    fn parse(text: &str) -> Option<Table> {
        let mut lines = records(text).into_iter();
        let columns = lines.next()?;
        let rows: Vec<Vec<String>> = lines.collect();
        rows.iter().all(|row| row.len() == columns.len()).then_some(Table { columns, rows })
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
        let table = Table::parse("a,\"b,\"\"c\"\"\"\n1,\"x\ny\"\n2,\n").unwrap();
        assert_eq!(table.columns, ["a", "b,\"c\""]);
        assert_eq!(table.rows, [["1", "x\ny"], ["2", ""]]);
        assert_eq!(table.numbers("a"), [Some(1.0), Some(2.0)]);
        assert!(Table::parse("a,b\n1\n").is_none() && Table::parse("").is_none());
    }
}
