//! Operators that others define, under PyTorch's names for them.

use offshoot_graph::Graph;
use offshoot_graph::op::{Composite, Coordinates, Direction, PadMode, Resampling};

use super::{MODULE, float, truth};
use crate::composite::{exact_nearest, is_nearest, nearest_has_ties};

/// Which composite operators are written as they are.
pub(in crate::torchscript) fn written(graph: &Graph) -> impl Fn(&Composite) -> bool + use<> {
    let (exact, ties) = (exact_nearest(graph), nearest_has_ties(graph));
    move |composite| match composite {
        Composite::Resize { resampling, coordinates, .. } => {
            let written = resize(*resampling, *coordinates).is_some() && (exact || !is_nearest(*resampling));
            written && (*resampling != Resampling::Nearest || !ties)
        }
        // PyTorch mirrors and repeats the rows and columns of pictures.
        Composite::Pad { pads, mode: PadMode::Reflect | PadMode::Edge } => {
            (3..=4).contains(&pads.len()) && pads[..2] == [[0; 2]; 2]
        }
        Composite::Pad { mode: PadMode::Constant(_), .. }
        | Composite::LogSoftmax { .. }
        | Composite::GroupNormalization { .. }
        | Composite::InstanceNormalization { .. }
        | Composite::Split { .. } => true,
        // PyTorch resets after the product with the recurrence.
        Composite::Gru { linear_before_reset, .. } => *linear_before_reset,
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
            let (function, corners) = resize(*resampling, *coordinates)?;
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

/// The function that resizes, and whether it aligns the corners where it can.
fn resize(resampling: Resampling, coordinates: Coordinates) -> Option<(&'static str, Option<bool>)> {
    let corners = match coordinates {
        Coordinates::HalfPixel => Some(false),
        Coordinates::AlignCorners => Some(true),
        Coordinates::Asymmetric => None,
    };
    match resampling {
        // Where no pixel is in the middle between two.
        Resampling::Nearest | Resampling::NearestCeil if corners == Some(false) => {
            Some(("_upsample_nearest_exact2d", None))
        }
        Resampling::NearestFloor if corners.is_none() => Some(("upsample_nearest2d", None)),
        Resampling::Linear => corners.map(|corners| ("upsample_bilinear2d", Some(corners))),
        Resampling::Cubic => corners.map(|corners| ("upsample_bicubic2d", Some(corners))),
        Resampling::NearestFloor | Resampling::Nearest | Resampling::NearestCeil => None,
    }
}

/// A number as TorchScript's code says it, infinite ones too.
fn number_of(number: f32) -> String {
    match number {
        f32::INFINITY => "inf".to_owned(),
        f32::NEG_INFINITY => "-inf".to_owned(),
        number => float(number),
    }
}
