//! Tensors from the bytes of their storages.

use offshoot_graph::{Tensor, Weights};

use super::values::{Heap, Storage, TensorView};
use crate::elements::{ByteOrder, Stored};
use crate::error::Problem;

/// A tensor whose every number was checked: its elements lie within the storage.
struct Plan<'a> {
    name: &'a str,
    storage: usize,
    stored: Stored,
    shape: Vec<usize>,
    /// In bytes.
    strides: Vec<usize>,
    /// Of the first element, in bytes from the start of the storage.
    start: usize,
    /// Bytes the elements take in the file.
    bytes: usize,
}

/// Where the bytes of storages are.
pub(crate) struct Source<'a> {
    /// The bytes of a storage, whose size was checked against `limit`.
    pub(crate) bytes: &'a mut dyn FnMut(&Storage) -> Result<Vec<u8>, Problem>,
    /// The most bytes that the tensors may take together.
    pub(crate) limit: u64,
    /// The byte order of the elements.
    pub(crate) order: ByteOrder,
}

/// Reads `tensors`, one storage after the other, so that only one is in memory beside the result.
pub(crate) fn load(
    heap: &Heap,
    tensors: &[(String, &TensorView)],
    source: Source<'_>,
) -> Result<Weights, Problem> {
    let mut plans =
        tensors.iter().map(|(name, view)| plan(heap, name, view)).collect::<Result<Vec<_>, _>>()?;
    plans.sort_by_key(|plan| plan.storage);
    check_memory(heap, &plans, source.limit)?;

    let mut weights = Weights::new();
    let mut held: Option<(usize, Vec<u8>)> = None;
    for plan in &plans {
        let bytes = match held.take() {
            Some((storage, bytes)) if storage == plan.storage => bytes,
            _ => (source.bytes)(&heap.storages[plan.storage])?,
        };
        let data = match is_row_major(plan) {
            true => plan.stored.decode(&bytes[plan.start..plan.start + plan.bytes], source.order),
            false => plan.stored.decode(&gather(&bytes, plan), source.order),
        };
        let tensor = Tensor::new(plan.shape.clone(), data)
            .map_err(|e| Problem::damaged(format!("tensor `{}`", plan.name), e.to_string()))?;
        weights.insert(plan.name.to_owned(), tensor);
        held = Some((plan.storage, bytes));
    }
    Ok(weights)
}

/// The shape of a tensor whose elements lie within its storage.
pub(crate) fn shape(heap: &Heap, name: &str, view: &TensorView) -> Result<Vec<usize>, Problem> {
    Ok(plan(heap, name, view)?.shape)
}

/// Refuses tensors that together, or storages that together, take more than `limit` bytes: strides of zero and
/// compression let a small file claim any size.
fn check_memory(heap: &Heap, plans: &[Plan<'_>], limit: u64) -> Result<(), Problem> {
    let (mut tensors, mut storages) = (0u64, 0u64);
    let mut last = None;
    for plan in plans {
        let elements = (plan.bytes / plan.stored.size()) as u64;
        tensors = tensors.saturating_add(elements.saturating_mul(plan.stored.decoded_size() as u64));
        if last != Some(plan.storage) {
            storages = storages.saturating_add(heap.storages[plan.storage].bytes);
            last = Some(plan.storage);
        }
        let claimed = tensors.max(storages);
        if claimed > limit {
            let place = format!("tensor `{}`", plan.name);
            return Err(Problem::TooLarge {
                place,
                what: format!("the tensors up to it claim {claimed} bytes"),
                limit,
            });
        }
    }
    Ok(())
}

fn plan<'a>(heap: &Heap, name: &'a str, view: &TensorView) -> Result<Plan<'a>, Problem> {
    let place = || format!("tensor `{name}`");
    let stored = view.stored.clone().map_err(|class| {
        let way_out = "Convert the model to a float type (dequantize it) and save it again";
        Problem::unsupported(place(), format!("its elements are of `{class}`"), way_out)
    })?;
    checked(heap, name, view, stored)
        .ok_or_else(|| Problem::damaged(place(), "its shape and strides reach beyond its storage"))
}

fn checked<'a>(heap: &Heap, name: &'a str, view: &TensorView, stored: Stored) -> Option<Plan<'a>> {
    let size = stored.size() as u64;
    let storage = &heap.storages[view.storage.storage];
    let base = view.storage.offset.checked_mul(storage.width)?;
    let reach = view.storage.len.checked_mul(storage.width)?;

    if view.shape.len() != view.strides.len() {
        return None;
    }
    let elements = view.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    let start = view.offset.checked_mul(size)?;
    if elements > 0 {
        let mut last = view.offset;
        for (&d, &stride) in view.shape.iter().zip(&view.strides) {
            last = last.checked_add((d - 1).checked_mul(stride)?)?;
        }
        let end = last.checked_add(1)?.checked_mul(size)?;
        if end > reach || base.checked_add(end)? > storage.bytes {
            return None;
        }
    }
    let to_bytes = |stride: u64| usize::try_from(stride.checked_mul(size)?).ok();
    Some(Plan {
        name,
        storage: view.storage.storage,
        stored,
        shape: view.shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?,
        strides: match elements {
            0 => vec![0; view.shape.len()],
            _ => view.strides.iter().map(|&s| to_bytes(s)).collect::<Option<_>>()?,
        },
        start: if elements > 0 { usize::try_from(base.checked_add(start)?).ok()? } else { 0 },
        bytes: usize::try_from(elements.checked_mul(size)?).ok()?,
    })
}

/// True when the elements lie one after the other in the order we keep them.
fn is_row_major(plan: &Plan<'_>) -> bool {
    let mut expected = plan.stored.size();
    for (&d, &stride) in plan.shape.iter().zip(&plan.strides).rev() {
        if d != 1 && stride != expected {
            return plan.bytes == 0;
        }
        expected = expected.saturating_mul(d);
    }
    true
}

/// The bytes of the elements in row-major order.
fn gather(storage: &[u8], plan: &Plan<'_>) -> Vec<u8> {
    let size = plan.stored.size();
    let mut out = Vec::with_capacity(plan.bytes);
    let mut index = vec![0usize; plan.shape.len()];
    let mut at = plan.start;
    while out.len() < plan.bytes {
        out.extend_from_slice(&storage[at..at + size]);
        for axis in (0..index.len()).rev() {
            if index[axis] + 1 < plan.shape[axis] {
                index[axis] += 1;
                at += plan.strides[axis];
                break;
            }
            at -= index[axis] * plan.strides[axis];
            index[axis] = 0;
        }
    }
    out
}
