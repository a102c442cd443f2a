//! The table of operators: PyTorch's signature of each, and what makes a graph of it.

use std::collections::HashMap;

use super::call::{Bound, Call};
use super::signature::Signature;
use super::state::Aten;
use super::value::Value;
use super::{arithmetic, linear, moves, norms, pictures, places, recurrent, reductions};
use crate::error::Problem;

/// What a call gives.
pub(super) type Run = fn(&mut Aten, &Bound<'_>) -> Result<Value, Problem>;

/// Signatures, and what each becomes; those of one name in the order in which they are tried.
pub(super) type Rows = &'static [(&'static str, Run)];

const FAMILIES: &[Rows] = &[
    arithmetic::ROWS,
    linear::ROWS,
    moves::ROWS,
    norms::ROWS,
    pictures::ROWS,
    places::ROWS,
    recurrent::ROWS,
    reductions::ROWS,
];

pub(super) struct Table {
    by_name: HashMap<&'static str, Vec<(Signature, Run)>>,
}

/// All operators, but those that the rows of the graph's own functions describe.
pub(super) fn table() -> Table {
    let mut by_name: HashMap<&'static str, Vec<(Signature, Run)>> = HashMap::new();
    for &(text, run) in FAMILIES.iter().copied().flatten() {
        if let Some(signature) = Signature::parse(text) {
            by_name.entry(signature.name).or_default().push((signature, run));
        }
    }
    Table { by_name }
}

impl Table {
    /// The operator that a call means: the overload that it names, or the first that takes its arguments. Where none does, the
    /// last one says what is wrong with them.
    pub(super) fn find(&self, name: &str, call: &Call<'_>) -> Option<(&Signature, Run)> {
        let named = || call.named.iter().map(|(name, value)| (&**name, value));
        let rows = self.by_name.get(name)?;
        let found = match call.overload {
            Some(overload) => rows.iter().find(|(signature, _)| signature.overload == overload),
            None => rows.iter().find(|(signature, _)| signature.takes(&call.values, named())).or(rows.last()),
        };
        found.map(|(signature, run)| (signature, *run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_is_read_and_each_overload_stands_once() {
        let rows: usize = FAMILIES.iter().map(|rows| rows.len()).sum();
        let table = table();
        assert_eq!(table.by_name.values().map(Vec::len).sum::<usize>(), rows, "one of them does not parse");
        for (name, rows) in &table.by_name {
            for (index, (signature, _)) in rows.iter().enumerate() {
                let twice = rows[..index].iter().any(|(other, _)| other.overload == signature.overload);
                assert!(!twice, "{name}.{}", signature.overload);
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_signature() {
        let table = table();
        let (signature, _) = &table.by_name["batch_norm"][0];
        let named = |name: &str| signature.arguments.iter().find(|argument| argument.name == name).unwrap();
        assert_eq!(named("cudnn_enabled").default, None);
        let (signature, _) = &table.by_name["layer_norm"][0];
        let named = |name: &str| signature.arguments.iter().find(|argument| argument.name == name).unwrap();
        assert_eq!(named("eps").default, Some(Value::Float(1e-5)));
        assert!(named("weight").optional && named("weight").default.is_none());
        assert!(!named("normalized_shape").optional);
    }
}
