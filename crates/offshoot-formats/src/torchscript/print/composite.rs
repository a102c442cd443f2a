//! Operators that others define, under PyTorch's names for them.

use offshoot_graph::Graph;
use offshoot_graph::op::{Composite, Direction, PadMode};

use super::{MODULE, float, truth};
use crate::composite::{in_torch, torch_resize};

/// Which composite operators are written as they are.
pub(in crate::torchscript) fn written(graph: &Graph) -> impl Fn(&Composite) -> bool + use<> {
    let in_torch = in_torch(graph);
    // PyTorch resets after the product with the recurrence.
    move |composite| match composite {
        Composite::Gru { linear_before_reset, .. } => *linear_before_reset,
        Composite::LogSoftmax { .. }
        | Composite::GroupNormalization { .. }
        | Composite::InstanceNormalization { .. }
        | Composite::Pad { .. }
        | Composite::Split { .. }
        | Composite::Resize { .. } => in_torch(composite),
    }
}

/// The call of an operator on the expressions `inputs`; `None` where PyTorch has none.
pub(super) fn call(composite: &Composite, inputs: &[String]) -> Option<String> {
    let x = &inputs[0];
    Some(match composite {
        Composite::LogSoftmax { axis } => format!("torch.log_softmax({x}, {axis}, None)"),
        Composite::GroupNormalization { groups, epsilon } => {
            let [_, weight, bias] = inputs else { return None };
            format!("torch.group_norm({x}, {groups}, {weight}, {bias}, {}, True)", float(*epsilon))
        }
        Composite::InstanceNormalization { epsilon } => {
            let [_, weight, bias] = inputs else { return None };
            let epsilon = float(*epsilon);
            format!("torch.instance_norm({x}, {weight}, {bias}, None, None, True, 0., {epsilon}, True)")
        }
        Composite::Pad { pads, mode } => {
            let first = match mode {
                PadMode::Constant(_) => pads.iter().position(|pad| *pad != [0; 2]).unwrap_or(pads.len()),
                PadMode::Reflect | PadMode::Edge => 2,
            };
            // The last axis comes first.
            let sides: Vec<usize> = pads.get(first..)?.iter().rev().flatten().copied().collect();
            match mode {
                PadMode::Constant(number) => {
                    format!("torch.pad({x}, {sides:?}, \"constant\", {})", number_of(*number))
                }
                PadMode::Reflect => format!("torch.pad({x}, {sides:?}, \"reflect\")"),
                PadMode::Edge => format!("torch.pad({x}, {sides:?}, \"replicate\")"),
            }
        }
        Composite::Split { axis, sizes } => format!("torch.split_with_sizes({x}, {sizes:?}, {axis})"),
        Composite::Resize { size, resampling, coordinates } => {
            let (function, corners) = torch_resize(*resampling, *coordinates)?;
            let corners = corners.map(|corners| format!(", {}", truth(corners))).unwrap_or_default();
            format!("torch.{function}({x}, {size:?}{corners}, None, None)")
        }
        Composite::Gru { direction, linear_before_reset: true } => recurrent("gru", *direction, inputs),
        Composite::Gru { linear_before_reset: false, .. } => return None,
    })
}

/// The call of one of the functions that stand in the code for it.
pub(super) fn recurrent(function: &str, direction: Direction, inputs: &[String]) -> String {
    let (ways, reverse) = (direction.ways(), truth(direction == Direction::Reverse));
    format!("{MODULE}.{function}({}, {ways}, {reverse})", inputs.join(", "))
}

/// A number as TorchScript's code says it, infinite ones too.
fn number_of(number: f32) -> String {
    match number {
        f32::INFINITY => "inf".to_owned(),
        f32::NEG_INFINITY => "-inf".to_owned(),
        number => float(number),
    }
}
