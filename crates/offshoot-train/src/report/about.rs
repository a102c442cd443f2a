//! The part of the page about the run as a whole: when and how it was started, what it warned of, and of which pictures it is.

use offshoot_graph::text::path_text;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use super::page::{MOST_ROWS, facts, isolated, table};
use super::table::Table;
use crate::recipe::Recipe;
use crate::run::LOG_FILE;
use crate::run_pictures::names_of;

/// Warnings that are told.
const MOST_WARNINGS: usize = 100;
/// Pictures that were left out and are named.
const MOST_SKIPPED: usize = 20;

/// The lines of `log.csv`: time, kind, text.
pub(super) struct Events(Vec<[String; 3]>);

impl Events {
    /// Those of a table.
    pub(super) fn of_log(table: Table) -> Events {
        Events(table.rows.into_iter().filter_map(|row| row.try_into().ok()).collect())
    }

    fn of<'a>(&'a self, kinds: &'a [&str]) -> impl Iterator<Item = &'a [String; 3]> {
        self.0.iter().filter(|[_, kind, _]| kinds.contains(&kind.as_str()))
    }

    /// When the run was started and by what, and its files.
    pub(super) fn run(&self, recipe: Option<&Recipe>) -> String {
        let mut all = Vec::new();
        for [time, kind, text] in self.of(&["started", "resumed", "command"]) {
            match kind.as_str() {
                "command" => all.push(("command", text.clone())),
                kind => all.push((kind, format!("{}, {text}", readable(time)))),
            }
        }
        if let Some(Recipe { model, weights, data, .. }) = recipe {
            all.push(("model", model.clone()));
            let weights = weights.as_ref().map(path_text);
            all.push(("weights", weights.unwrap_or_else(|| "random".into())));
            all.push(("data", path_text(data)));
        }
        if all.is_empty() { String::new() } else { facts(&all) }
    }

    /// What the run warned of, each text once, and the pictures that it left out.
    pub(super) fn warnings(&self) -> String {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut html = String::new();
        for [time, _, text] in self.of(&["warning"]) {
            if seen.insert(text) && seen.len() <= MOST_WARNINGS {
                let _ = write!(html, "<li>{} <small>{}</small></li>", isolated(text), readable(time));
            }
        }
        if let more @ 1.. = seen.len().saturating_sub(MOST_WARNINGS) {
            let _ = write!(html, "<li>{more} more warnings, in {LOG_FILE}</li>");
        }
        let mut skipped: Vec<&str> = self.of(&["skipped"]).map(|[_, _, text]| text.as_str()).collect();
        skipped.sort_unstable();
        skipped.dedup();
        for text in skipped.iter().take(MOST_SKIPPED) {
            let _ = write!(html, "<li>skipped {}</li>", isolated(text));
        }
        if let more @ 1.. = skipped.len().saturating_sub(MOST_SKIPPED) {
            let _ = write!(html, "<li>{more} more pictures skipped</li>");
        }
        if html.is_empty() { html } else { format!("<ul>{html}</ul>") }
    }
}

/// `2026-11-28T09:34:45Z` as `2026-11-28 09:34 UTC`.
fn readable(time: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => time.to_owned(),
    }
}

/// How many pictures of each class there are to train and to validate with.
pub(super) fn pictures(table: &Table) -> String {
    let mut counts: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut total = [0, 0];
    for row in &table.rows {
        if let [set, class, _, ..] = &row[..] {
            let set = usize::from(set == "val");
            total[set] += 1;
            names_of(class).into_iter().for_each(|class| counts.entry(class).or_default()[set] += 1);
        }
    }
    let row = |(class, [train, val]): (&str, [u64; 2])| {
        vec![class.to_owned(), train.to_string(), val.to_string(), (train + val).to_string()]
    };
    let mut rows: Vec<Vec<String>> = counts.iter().map(|(class, sets)| row((class, *sets))).collect();
    if !rows.is_empty() || total != [0, 0] {
        // The last of those that are shown.
        let all = if rows.is_empty() { "all" } else { "all classes" };
        rows.insert(rows.len().min(MOST_ROWS - 1), row((all, total)));
    }
    self::table(&["class", "training pictures", "validation pictures", "total"], &rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_and_the_list_of_pictures_are_shown_escaped() {
        let log = "time,kind,text\n2026-11-28T09:34:45Z,started,offshoot 1\n2026-11-28T09:34:45Z,command,\"offshoot train 'a,b'\"\n\
                   2026-11-28T09:35:00Z,warning,<b> rises\n2026-11-28T09:36:00Z,warning,<b> rises\n2026-11-28T09:36:00Z,skipped,x.png: cut\n";
        let table = |text: &str| Table::parse(text, &[]).unwrap();
        let pictures_csv = "set,class,path,bytes\ntrain,a<,1.png,9\ntrain,a<,2.png,9\nval,b,3.png,9\n";
        let events = Events::of_log(table(log));
        let run = events.run(None);
        assert!(run.contains("2026-11-28 09:34 UTC, offshoot 1"), "{run}");
        assert!(run.contains("offshoot train &#39;a,b&#39;"), "{run}");
        let warnings = events.warnings();
        assert_eq!(warnings.matches("&lt;b&gt; rises").count(), 1, "{warnings}");
        assert!(warnings.contains("skipped <bdi>x.png: cut</bdi>"), "{warnings}");
        let pictures = pictures(&table(pictures_csv));
        for row in [
            "<bdi>a&lt;</bdi></td><td class=\"n\">2</td><td class=\"n\">0</td><td class=\"n\">2</td>",
            "all classes</td><td class=\"n\">2</td><td class=\"n\">1</td><td class=\"n\">3</td>",
        ] {
            assert!(pictures.contains(row), "{pictures}");
        }
        let several = "set,class,path\ntrain,\"labels:[\"\"a\"\",\"\"b,c\"\"]\",1.png\ntrain,labels:[],2.png\nval,\"labels:[\"\"a\"\"]\",3.png\n";
        let pictures = super::pictures(&table(several));
        for row in [
            "<td>a</td><td class=\"n\">1</td><td class=\"n\">1",
            "<bdi>b,c</bdi>",
            "all classes</td><td class=\"n\">2</td><td class=\"n\">1",
        ] {
            assert!(pictures.contains(row), "{row} {pictures}");
        }
        let nothing = Events::of_log(Table::default());
        assert_eq!([nothing.run(None), nothing.warnings(), super::pictures(&Table::default())], ["", "", ""]);
    }
}
