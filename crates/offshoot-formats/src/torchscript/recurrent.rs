//! GRU and LSTM as ONNX and the graph define them, by PyTorch's operators: functions of the code that reorder the gates of the
//! weights. What is written calls them, and what is read knows them again by every word, so that a written graph is read as it was.

use std::rc::Rc;

use super::parse::{Function, parse};
use super::print::MODULE;

/// A recurrent operator under the name of its function and of PyTorch's operator.
struct Cell {
    name: &'static str,
    /// The gates of the graph in PyTorch's order: GRU has z, r, h here and r, z, n there, LSTM i, o, f, c and i, f, g, o.
    order: &'static [usize],
    start: &'static str,
    results: &'static str,
}

const CELLS: [Cell; 2] = [
    Cell { name: "gru", order: &[1, 0, 2], start: "start", results: "y, last, " },
    Cell { name: "lstm", order: &[0, 2, 3, 1], start: "[start, start]", results: "y, last, cell, " },
];

/// The functions that `code` calls.
pub(super) fn functions(code: &str) -> String {
    let called = |cell: &&Cell| code.contains(&format!("{MODULE}.{}(", cell.name));
    CELLS.iter().filter(called).map(Cell::function).collect()
}

/// The functions by the name of PyTorch's operator, for [`find`].
pub(super) fn known() -> Vec<(&'static str, Rc<Function>)> {
    let file: Rc<str> = "".into();
    let parsed = |cell: &Cell| {
        let module = parse(&cell.function(), &file).ok()?;
        module.functions.get(cell.name).map(|function| (cell.name, Rc::clone(function)))
    };
    CELLS.iter().filter_map(parsed).collect()
}

/// PyTorch's operator in the one of `known` that `function` is, whatever its name.
pub(super) fn find(known: &[(&'static str, Rc<Function>)], function: &Function) -> Option<&'static str> {
    let same = |other: &Function| other.parameters == function.parameters && other.body == function.body;
    known.iter().find(|(_, other)| same(other)).map(|(name, _)| *name)
}

impl Cell {
    fn function(&self) -> String {
        let Cell { name, order, start, results } = self;
        let gates = order.len();
        let rows: Vec<String> = order.iter().map(|gate| format!("gates[{gate}]")).collect();
        let rows = rows.join(", ");
        format!(
            r#"def {name}(x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor,
    ways: int,
    reverse: bool) -> Tuple[Tensor, Tensor]:
  hidden = torch.size(recurrence, 2)
  rows = torch.mul(hidden, {gates})
  weights = annotate(List[Tensor], [])
  for way in range(ways):
    both = torch.select(bias, 0, way)
    parts = [torch.select(weight, 0, way), torch.select(recurrence, 0, way), torch.slice(both, 0, 0, rows, 1), torch.slice(both, 0, rows, torch.mul(rows, 2), 1)]
    for part in range(4):
      gates = torch.chunk(parts[part], {gates}, 0)
      _0 = torch.append(weights, torch.cat([{rows}], 0))
  start = torch.zeros([ways, torch.size(x, 1), hidden], dtype=ops.prim.dtype(x), layout=None, device=ops.prim.device(x), pin_memory=False)
  if reverse:
    x0 = torch.flip(x, [0])
  else:
    x0 = x
  {results}= torch.{name}(x0, {start}, weights, True, 1, 0., False, torch.eq(ways, 2), False)
  y0 = torch.permute(torch.reshape(y, [torch.size(x, 0), torch.size(x, 1), ways, hidden]), [0, 2, 1, 3])
  if reverse:
    y1 = torch.flip(y0, [0])
  else:
    y1 = y0
  return (y1, last)
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_known_and_no_other_one() {
        let known = known();
        assert_eq!(known.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["gru", "lstm"]);
        let read = |text: &str| {
            let module = parse(text, &"code.py".into()).unwrap();
            find(&known, module.functions.values().next().unwrap())
        };
        for cell in &CELLS {
            let text = cell.function();
            assert_eq!(read(&text), Some(cell.name));
            assert_eq!(
                read(&format!("\n\n{}", text.replace(&format!("def {}", cell.name), "def f"))),
                Some(cell.name)
            );
            for (word, other) in [
                ("True, 1, 0.", "True, 1, 0.5"),
                ("gates[2]", "gates[0]"),
                ("bias: Tensor", "bias: Tensor=None"),
            ] {
                let changed = text.replace(word, other);
                assert!(changed != text && read(&changed).is_none(), "{word}");
            }
        }
        assert_eq!(read("def gru(x: Tensor) -> Tensor:\n  return x\n"), None);
    }

    #[test]
    fn only_what_is_called_is_written() {
        assert_eq!(functions("x0 = torch.relu(input)"), "");
        assert!(functions("x0 = __torch__.offshoot.lstm(input)").starts_with("def lstm("));
    }
}
