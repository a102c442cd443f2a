//! Settings as TOML tables: one over another, what differs between two, and where a setting stands in a text.

use offshoot_graph::text::quoted;
use serde::Serialize;

pub(super) fn table(settings: &impl Serialize) -> toml::Table {
    toml::Table::try_from(settings).expect("settings have a TOML form: `check` bounds whole numbers")
}

/// Tables whose keys are settings of their own; others are taken as a whole.
const MERGED: [&str; 2] = ["augmentation", "preprocessing"];

/// Puts `top` over `base`. Only some tables are merged key by key.
pub(super) fn overlay(base: &mut toml::Table, top: toml::Table) {
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(top)) if MERGED.contains(&key.as_str()) => {
                overlay(base, top)
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Lists what `flags` say and `saved` does not.
pub(super) fn compare(path: &str, saved: &toml::Table, flags: &toml::Table, conflicts: &mut Vec<String>) {
    for (key, flag) in flags {
        match (saved.get(key), flag) {
            (Some(toml::Value::Table(saved)), toml::Value::Table(flag)) if MERGED.contains(&key.as_str()) => {
                compare(&format!("{key}."), saved, flag, conflicts);
            }
            (Some(saved), flag) if saved == flag => {}
            (saved, flag) => {
                let saved = saved.map_or("nothing".into(), toml::Value::to_string);
                let (saved, flag) = (quoted(&saved), flag.to_string());
                conflicts.push(format!("`{path}{key}` is {saved} there and {} here", quoted(&flag)));
            }
        }
    }
}

/// The line of a setting (`lr`, `lr_groups.fc`) in the text of a recipe, from 1.
pub(super) fn line_of(text: &str, setting: &str) -> usize {
    let parsed = toml::de::DeTable::parse(text).ok();
    let start = parsed.and_then(|table| {
        let (key, inner) = setting.split_once('.').map_or((setting, None), |(key, inner)| (key, Some(inner)));
        let (name, value) = table.get_ref().iter().find(|(name, _)| name.get_ref() == key)?;
        let inner = value.get_ref().as_table().zip(inner).and_then(|(t, inner)| {
            t.iter().find(|(name, _)| name.get_ref() == inner).map(|(name, _)| name.span().start)
        });
        Some(inner.unwrap_or(name.span().start))
    });
    text[..start.unwrap_or(0)].matches('\n').count() + 1
}
