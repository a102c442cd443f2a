//! The state dict in what a pickle describes, under the wrappers that training scripts put around it.

use std::collections::{BTreeMap, HashSet};

use super::packed;
use super::pickle::Pickled;
use super::values::{Heap, Node, QuantizedView, TensorView, Value};
use crate::error::Problem;

/// Keys that hold the state dict, the likeliest first; averaged weights only when there are no others.
const WRAPPERS: &[&str] = &[
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "params_ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
];

/// How deep wrappers are followed.
const MAX_WRAPPERS: usize = 4;

pub(super) struct Found<'a> {
    pub(super) wrappers: Vec<String>,
    /// By key, in the order of the keys.
    pub(super) tensors: Vec<(String, &'a TensorView)>,
    /// Those of integers that stand for floats.
    pub(super) quantized: Vec<(String, &'a QuantizedView)>,
    /// Keys of other values, with their type.
    pub(super) skipped: Vec<(String, String)>,
    /// Those of them that tensors stand in.
    pub(super) unread: Vec<(String, String)>,
}

/// The entries of a dictionary whose keys are text; the last of equal keys counts, as in Python.
pub(super) type Entries<'a> = BTreeMap<&'a str, &'a Value>;

pub(super) fn find(pickled: &Pickled) -> Result<Found<'_>, Problem> {
    let heap = &pickled.heap;
    let (mut wrappers, mut rivals) = (Vec::new(), Vec::new());
    let mut dict = &pickled.root;
    loop {
        let Some(entries) = entries(heap, dict) else { return Err(no_state_dict(heap, dict, &wrappers)) };
        match wrapped(heap, &entries) {
            Some((key, inner)) if wrappers.len() < MAX_WRAPPERS => {
                wrappers.push(key.to_owned());
                rivals.extend(others_with_tensors(heap, &entries, key));
                dict = inner;
            }
            _ => {
                let mut found = collect(heap, dict, &entries, wrappers)?;
                let read = found.wrappers.join(".");
                let other = |key| (key, format!("a state dict too; the one under `{read}` is read"));
                found.unread.extend(rivals.into_iter().map(other));
                return Ok(found);
            }
        }
    }
}

fn entries<'a>(heap: &'a Heap, value: &Value) -> Option<Entries<'a>> {
    let named = |(key, value): &'a (Value, Value)| match key {
        Value::Text(key) => Some((&**key, value)),
        _ => None,
    };
    Some(heap.dict(value)?.iter().filter_map(named).collect())
}

/// The wrapper key whose dictionary has tensors, else the first that has a dictionary.
fn wrapped<'a>(heap: &'a Heap, entries: &Entries<'a>) -> Option<(&'static str, &'a Value)> {
    let candidates: Vec<_> = WRAPPERS
        .iter()
        .filter_map(|&key| entries.get(key).map(|&value| (key, value)))
        .filter(|(_, value)| heap.dict(value).is_some_and(|inner| !inner.is_empty()))
        .collect();
    candidates.iter().find(|(_, value)| has_tensors(heap, value)).or(candidates.first()).copied()
}

fn has_tensors(heap: &Heap, value: &Value) -> bool {
    let inner = heap.dict(value).unwrap_or_default();
    inner.iter().any(|(_, value)| matches!(heap.node(value), Some(Node::Tensor(_) | Node::Quantized(_))))
}

/// The keys beside `read` whose dictionaries have tensors, as those of averaged weights do.
fn others_with_tensors(heap: &Heap, entries: &Entries<'_>, read: &str) -> Vec<String> {
    let others = entries.iter().filter(|(key, value)| **key != read && has_tensors(heap, value));
    others.map(|(key, _)| (*key).to_owned()).collect()
}

fn collect<'a>(
    heap: &'a Heap,
    dict: &Value,
    entries: &Entries<'a>,
    wrappers: Vec<String>,
) -> Result<Found<'a>, Problem> {
    let mut found = Found { wrappers, tensors: vec![], quantized: vec![], skipped: vec![], unread: vec![] };
    for (&key, &value) in entries {
        match packed::parts(heap, entries, key, value) {
            Some(parts) if parts.iter().all(|(name, _)| !entries.contains_key(name.as_str())) => {
                parts.into_iter().for_each(|(name, part)| found.enter(heap, name, part));
            }
            _ if packed::is_output_scale(entries, key) => {}
            _ => found.enter(heap, key.to_owned(), value),
        }
    }
    if found.tensors.is_empty() && found.quantized.is_empty() {
        return Err(no_state_dict(heap, dict, &found.wrappers));
    }
    Ok(found)
}

impl<'a> Found<'a> {
    fn enter(&mut self, heap: &'a Heap, key: String, value: &'a Value) {
        match heap.node(value) {
            Some(Node::Tensor(tensor)) => self.tensors.push((key, tensor)),
            Some(Node::Quantized(tensor)) => self.quantized.push((key, tensor)),
            // A layer without a bias.
            _ if matches!(value, Value::None) => {}
            _ => {
                if holds_tensor(heap, value) {
                    self.unread.push((key.clone(), heap.type_name(value)));
                }
                self.skipped.push((key, heap.type_name(value)));
            }
        }
    }
}

/// Whether a tensor stands anywhere in `value`.
fn holds_tensor(heap: &Heap, value: &Value) -> bool {
    let mut seen = HashSet::new();
    let mut next = vec![value];
    while let Some(value) = next.pop() {
        let (Value::Node(index), Some(node)) = (value, heap.node(value)) else { continue };
        if !seen.insert(*index) {
            continue;
        }
        match node {
            Node::Tensor(_) | Node::Quantized(_) => return true,
            Node::Tuple(items) | Node::List(items) => next.extend(items),
            Node::Dict(pairs) => next.extend(pairs.iter().map(|(_, value)| value)),
            Node::Object { state, .. } => next.extend(state),
            Node::Storage(_) => {}
        }
    }
    false
}

fn no_state_dict(heap: &Heap, value: &Value, wrappers: &[String]) -> Problem {
    let place = match wrappers {
        [] => "the saved object".to_owned(),
        keys => format!("the object under `{}`", keys.join("`, `")),
    };
    let entries = entries(heap, value).unwrap_or_default();
    let module = WRAPPERS.iter().find_map(|key| match entries.get(key).and_then(|v| heap.node(v)) {
        Some(Node::Object { class, .. }) => Some(format!("a pickled `{class}` under `{key}`")),
        _ => None,
    });
    let what = match (module, heap.dict(value)) {
        (Some(module), _) => module,
        (None, Some([])) => "an empty dictionary".into(),
        (None, Some(_)) => format!("a dictionary without tensors, with the keys {}", some_keys(&entries)),
        (None, None) => format!("a `{}`", heap.type_name(value)),
    };
    let way_out = "Load it in PyTorch and save the weights alone: torch.save(model.state_dict(), ..)";
    Problem::unsupported(place, format!("it is no state dict but {what}"), way_out)
}

fn some_keys(entries: &Entries<'_>) -> String {
    let short = |key: &&str| format!("`{}`", key.chars().take(40).collect::<String>());
    let shown: Vec<_> = entries.keys().take(6).map(short).collect();
    let rest = entries.len().saturating_sub(shown.len());
    match rest {
        0 => shown.join(", "),
        _ => format!("{} and {rest} more", shown.join(", ")),
    }
}
