//! Tensors of integers that stand for floats, as `torch.ao.quantization` saves them.

use std::collections::BTreeMap;

use offshoot_graph::{Data, Tensor, Weights};

use super::storage::{self, Source};
use super::values::{Heap, QuantizedView, Quantizer, TensorView};
use crate::error::Problem;

/// Integers that stand for floats: (integer - zero point) * scale.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// The integers: i8, u8 or i32.
    pub integers: Tensor,
    /// One for the tensor, or one for each place of `axis`.
    pub scales: Vec<f32>,
    /// As many.
    pub zero_points: Vec<i32>,
    /// The axis that the scales go along, where there is not one for all.
    pub axis: Option<usize>,
}

/// The parts of a quantized tensor, as names of tensors that are read together.
const PARTS: [&str; 3] = ["integers", "scales", "zero points"];

/// Reads plain and quantized tensors: all floats in one, the integers of the quantized ones in the other.
pub(super) fn load<'a>(
    heap: &Heap,
    mut tensors: Vec<(String, &'a TensorView)>,
    quantized: &[(String, &'a QuantizedView)],
    source: Source<'_>,
) -> Result<(Weights, BTreeMap<String, QuantizedTensor>), Problem> {
    let limit = source.limit;
    for (name, view) in quantized {
        let mut parts = vec![&view.integers];
        if let Quantizer::Axis { scales, zero_points, .. } = &view.quantizer {
            parts.extend([scales.as_ref(), zero_points.as_ref()]);
        }
        tensors.extend(PARTS.iter().zip(parts).map(|(part, view)| (part_name(name, part), view)));
    }
    let mut weights = storage::load(heap, &tensors, source)?;
    let mut made = BTreeMap::new();
    let mut claimed = 0u64;
    for (name, view) in quantized {
        let [integers, scales, zero_points] = PARTS.map(|part| weights.remove(&part_name(name, part)));
        let place = format!("tensor `{name}`");
        let tensor = integers.and_then(|integers| checked(integers, &view.quantizer, scales, zero_points));
        let tensor =
            tensor.ok_or_else(|| Problem::damaged(&place, "its scales or zero points make no sense"))?;
        claimed = claimed.saturating_add(4 * tensor.integers.len() as u64);
        if claimed > limit {
            let what = format!("the floats of the quantized tensors up to it take {claimed} bytes");
            return Err(Problem::TooLarge { place, what, limit });
        }
        weights.insert(name.clone(), tensor.dequantize());
        made.insert(name.clone(), tensor);
    }
    Ok((weights, made))
}

/// No key has a line break in it and this at the end.
fn part_name(name: &str, part: &str) -> String {
    format!("{name}\n{part}")
}

fn checked(
    integers: Tensor,
    quantizer: &Quantizer,
    scales: Option<Tensor>,
    zero_points: Option<Tensor>,
) -> Option<QuantizedTensor> {
    let (scales, zero_points, axis) = match quantizer {
        Quantizer::Tensor { scale, zero_point } => (vec![*scale as f32], vec![*zero_point], None),
        Quantizer::Axis { axis, .. } => {
            let axis = usize::try_from(*axis).ok().filter(|&a| a < integers.shape().len())?;
            let scales = scales?.to_f32()?.as_f32()?.to_vec();
            let zero_points = match zero_points?.data() {
                Data::I64(v) => v.clone(),
                Data::I32(v) => v.iter().map(|&z| z.into()).collect(),
                _ => return None,
            };
            if [scales.len(), zero_points.len()] != [integers.shape()[axis]; 2] {
                return None;
            }
            (scales, zero_points, Some(axis))
        }
    };
    let zero_points = zero_points.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<_>>()?;
    let plain = matches!(integers.data(), Data::I8(_) | Data::U8(_) | Data::I32(_));
    let finite = scales.iter().all(|s| s.is_finite());
    (plain && finite).then_some(QuantizedTensor { integers, scales, zero_points, axis })
}

impl QuantizedTensor {
    /// The floats that it stands for, as PyTorch's `dequantize`.
    ///
    /// # Panics
    /// When `integers` are of another type than it says there. None that was read is.
    pub fn dequantize(&self) -> Tensor {
        let shape = self.integers.shape();
        let inner: usize = self.axis.map_or(usize::MAX, |axis| shape[axis + 1..].iter().product());
        let float = |index: usize, integer: i64| {
            let place = index.checked_div(inner).unwrap_or(0) % self.scales.len().max(1);
            let (scale, zero_point) = (self.scales.get(place), self.zero_points.get(place));
            let centred = integer - i64::from(zero_point.copied().unwrap_or(0));
            centred as f32 * scale.copied().unwrap_or(1.0)
        };
        let floats = match self.integers.data() {
            Data::I8(v) => v.iter().enumerate().map(|(i, &x)| float(i, x.into())).collect(),
            Data::U8(v) => v.iter().enumerate().map(|(i, &x)| float(i, x.into())).collect(),
            Data::I32(v) => v.iter().enumerate().map(|(i, &x)| float(i, x.into())).collect(),
            Data::F32(_) | Data::F64(_) | Data::F16(_) | Data::BF16(_) | Data::I64(_) | Data::Bool(_) => {
                unreachable!("quantized tensors hold integers of 8 or 32 bits")
            }
        };
        Tensor::f32(shape, floats)
    }
}
