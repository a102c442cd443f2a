//! Weights that the quantized layers of PyTorch keep packed: in a state dict they stand in a tuple or in a `ScriptObject`
//! under one key, whatever number of tensors they are.

use super::state_dict::Entries;
use super::values::{Heap, Node, QuantizedView, TensorView, Value};

/// The key under which a quantized `Linear` keeps its weight and bias.
const LINEAR: &str = "._packed_params._packed_params";
/// Those under which an `LSTMCell`, a `GRUCell` or an `RNNCell` keeps the two of its weights, but for `ih` or `hh`.
const CELL: &str = "._packed_weight_";
/// What stands between an `LSTM` or a `GRU` and the number of one of its cells: a layer in one direction.
const CELLS: &str = "._all_weight_values.";

/// The tensors that `value`, which stands under `key`, is made of, by the names that the float layer has for them. `None` where
/// it is not packed.
pub(super) fn parts<'a>(
    heap: &'a Heap,
    entries: &Entries<'a>,
    key: &str,
    value: &'a Value,
) -> Option<Vec<(String, &'a Value)>> {
    if let Some(layer) = key.strip_suffix(LINEAR) {
        let parts = heap.tuple(value)?.iter();
        return Some(
            ["weight", "bias"].iter().zip(parts).map(|(n, part)| (format!("{layer}.{n}"), part)).collect(),
        );
    }
    if let Some((layer, which)) = key.split_once(CELL) {
        let (weight, bias) = linear(heap, value)?;
        return Some(vec![
            (format!("{layer}.weight_{which}"), weight),
            (format!("{layer}.bias_{which}"), bias),
        ]);
    }
    let (layer, index) = cell_of(key)?;
    let cell = cell(heap, value)?;
    let name = |what: &str| match place(heap, entries, layer, index) {
        Some(place) => format!("{layer}.{what}_{place}"),
        None => format!("{layer}{CELLS}{index}.{what}"),
    };
    let names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];
    Some(names.into_iter().zip(cell).map(|(what, part)| (name(what), part)).collect())
}

/// Whether `key` is the `scale` or `zero_point` beside a packed weight: what the layer would scale its output by, were that
/// quantized too.
pub(super) fn is_output_scale(entries: &Entries<'_>, key: &str) -> bool {
    let layer = key.strip_suffix(".scale").or_else(|| key.strip_suffix(".zero_point"));
    layer.is_some_and(|layer| entries.contains_key(format!("{layer}{LINEAR}").as_str()))
}

/// The layer and the number in the key of one of its cells.
fn cell_of(key: &str) -> Option<(&str, usize)> {
    let (layer, number) = key.strip_suffix(".param")?.split_once(CELLS)?;
    Some((layer, number.parse().ok()?))
}

/// The two weights and the two biases of a cell: `((kind, biases, _, _, linears), class)`, where the biases may stand in the
/// linear layers instead.
fn cell<'a>(heap: &'a Heap, value: &'a Value) -> Option<[&'a Value; 4]> {
    let [_, biases, _, _, linears] = heap.tuple(state(heap, value)?)? else { return None };
    let [input, hidden] = list(heap, linears)? else { return None };
    let ((input, input_bias), (hidden, hidden_bias)) = (linear(heap, input)?, linear(heap, hidden)?);
    match list(heap, biases)? {
        [input_bias, hidden_bias] => Some([input, hidden, input_bias, hidden_bias]),
        _ => Some([input, hidden, input_bias, hidden_bias]),
    }
}

/// Weight and bias of a packed linear layer: `((weight, bias), class)`.
fn linear<'a>(heap: &'a Heap, value: &'a Value) -> Option<(&'a Value, &'a Value)> {
    match heap.tuple(state(heap, value)?)? {
        [weight] => Some((weight, &Value::None)),
        [weight, bias, ..] => Some((weight, bias)),
        [] => None,
    }
}

/// What a `ScriptObject` holds; the name of its class stands beside it.
fn state<'a>(heap: &'a Heap, value: &'a Value) -> Option<&'a Value> {
    match heap.node(value)? {
        Node::Object { class, state: Some(state) } if class.ends_with(".ScriptObject") => {
            heap.tuple(state)?.first()
        }
        _ => None,
    }
}

fn list<'a>(heap: &'a Heap, value: &Value) -> Option<&'a [Value]> {
    match heap.node(value)? {
        Node::List(items) | Node::Tuple(items) => Some(items),
        _ => None,
    }
}

/// The end of the names of cell `index` of `layer`: `l0`, `l0_reverse`, `l1`. `None` where the shapes do not tell whether the
/// second cell is another layer or another direction.
fn place(heap: &Heap, entries: &Entries<'_>, layer: &str, index: usize) -> Option<String> {
    let sizes = |number: usize| {
        let value = entries.get(format!("{layer}{CELLS}{number}.param").as_str())?;
        let [input, hidden, ..] = cell(heap, value)?;
        Some((columns(heap, input)?, columns(heap, hidden)?))
    };
    let directions = match (sizes(0), sizes(1), sizes(2)) {
        (_, None, _) => 1,
        (Some((_, hidden)), _, Some((input, _))) if input == 2 * hidden => 2,
        (_, _, Some(_)) => 1,
        (Some((first, hidden)), Some((second, _)), None) if first != hidden => {
            if second == first {
                2
            } else {
                1
            }
        }
        _ => return None,
    };
    let reverse = if index % directions == 1 { "_reverse" } else { "" };
    Some(format!("l{}{reverse}", index / directions))
}

/// The second dim of a weight.
fn columns(heap: &Heap, weight: &Value) -> Option<u64> {
    let shape = match heap.node(weight)? {
        Node::Tensor(TensorView { shape, .. }) => shape,
        Node::Quantized(view) => {
            let QuantizedView { integers, .. } = view.as_ref();
            &integers.shape
        }
        _ => return None,
    };
    shape.get(1).copied()
}
