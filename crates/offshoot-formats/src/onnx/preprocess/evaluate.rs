//! What the nodes before a network make of pictures, by ONNX's definitions of their operators: so that the file is proven as it
//! stands, and not as it was meant.
//!
//! ONNX leaves open how a Resize of bytes rounds. Here it is as in ONNX Runtime: columns first, each direction rounded to bytes.

use std::collections::HashMap;

use offshoot_graph::model::INPUT;
use offshoot_graph::{Data, Tensor};
use prost::bytes::Bytes;

use super::super::attributes::NodeView;
use super::super::proto::{NodeProto, decode};
use super::super::tensors::TensorReader;
use super::{F32, F64, I64, IMAGE, PREFIX};
use crate::error::Problem;

/// The most bytes of a resized picture.
const MAX_BYTES: usize = 1 << 30;

/// The nodes of a file that prepare its pictures.
pub struct Preparer {
    nodes: Vec<NodeProto>,
    constants: HashMap<String, Tensor>,
}

impl Preparer {
    /// That of a file, where it takes `image`.
    pub(in crate::onnx) fn of(bytes: Bytes) -> Result<Option<Preparer>, Problem> {
        let mut reader = TensorReader::new(bytes.len() as u64, None);
        let Some(graph) = decode(bytes)?.graph else { return Ok(None) };
        if !graph.input.iter().any(|input| input.name == IMAGE) {
            return Ok(None);
        }
        let nodes = graph.node.into_iter().filter(|node| node.name.starts_with(PREFIX)).collect();
        let constants = graph.initializer.iter().filter(|tensor| tensor.name.starts_with(PREFIX));
        let constants = constants.map(|tensor| Ok((tensor.name.clone(), reader.read(tensor)?)));
        Ok(Some(Preparer { nodes, constants: constants.collect::<Result<_, Problem>>()? }))
    }

    /// What the network takes, f32 [n, 3, size, size], of `pictures`, u8 [n, height, width, 3].
    ///
    /// # Errors
    /// When a node is of an operator that no preparation of ours has, or does not fit what it reads.
    pub fn run(&self, pictures: Tensor) -> Result<Tensor, Problem> {
        let mut values = self.constants.clone();
        values.insert(IMAGE.to_owned(), pictures);
        for proto in &self.nodes {
            let node = NodeView { proto };
            let made = {
                let inputs = proto.input.iter().filter(|name| !name.is_empty());
                let read =
                    |name| values.get(name).ok_or_else(|| node.damaged(format!("nothing gives `{name}`")));
                let inputs = inputs.map(read).collect::<Result<Vec<&Tensor>, Problem>>()?;
                computed(node, &inputs)?.ok_or_else(|| node.damaged("it does not fit what it reads"))?
            };
            values.extend(proto.output.iter().map(|name| (name.clone(), made.clone())));
        }
        values
            .remove(INPUT)
            .ok_or_else(|| Problem::damaged(format!("input `{IMAGE}`"), "nothing prepares it"))
    }
}

/// What a node gives; `None` where its inputs do not fit it.
fn computed(node: NodeView<'_>, inputs: &[&Tensor]) -> Result<Option<Tensor>, Problem> {
    let Some((&x, others)) = inputs.split_first() else { return Ok(None) };
    let axis = node.place_of(node.int("axis", 0), x.shape().len().max(1))?;
    let second = others.first().copied();
    Ok(match (node.op(), second) {
        ("Transpose", _) => node.ints("perm").and_then(|perm| transposed(x, perm)),
        ("Shape", _) => Some(vector(x.shape().iter().map(|&d| d as i64).collect())),
        ("Gather", Some(places)) => places.as_i64().and_then(|places| picked(x, axis, &inside(places)?, 0)),
        ("Concat", _) => joined(inputs, axis),
        ("Cast", _) => cast(x, node.int("to", 0)),
        ("Expand", Some(shape)) => shape.as_i64().and_then(|shape| expanded(x, shape)),
        ("CumSum", Some(_)) => running_sum(x),
        ("And", Some(y)) => match (x.data(), y.data()) {
            (Data::Bool(x), Data::Bool(y)) => Some(truths(x.iter().zip(y).map(|(&x, &y)| x && y).collect())),
            _ => None,
        },
        ("Where", Some(yes)) => match (x.data(), others.get(1)) {
            (Data::Bool(x), Some(&no)) => x.first().map(|&x| if x { yes.clone() } else { no.clone() }),
            _ => None,
        },
        ("Slice", Some(starts)) => others.get(1..3).and_then(|rest| sliced(x, starts, rest[0], rest[1])),
        ("Pad", Some(pads)) => padded(x, pads, others.get(1).copied()),
        ("Resize", Some(sizes)) => match sizes.as_i64() {
            Some(sizes) => resized(node, x, sizes)?,
            None => None,
        },
        ("Less", Some(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Some(truths(x.iter().zip(y).map(|(x, y)| x < y).collect())),
            _ => None,
        },
        (op @ ("Min" | "Max" | "Add" | "Sub" | "Mul" | "Div"), Some(y)) => arithmetic(op, x, y),
        _ => return Err(node.unsupported("no preparation of ours has this operator", "Please report this")),
    })
}

fn vector(values: Vec<i64>) -> Tensor {
    Tensor::i64([values.len()], values)
}

fn truths(values: Vec<bool>) -> Tensor {
    let shape = [values.len()];
    Tensor::new(shape, Data::Bool(values)).unwrap_or_else(|_| vector(Vec::new()))
}

/// Places that stand in a tensor, of which none is counted from the end.
fn inside(places: &[i64]) -> Option<Vec<Option<usize>>> {
    places.iter().map(|&place| usize::try_from(place).ok().map(Some)).collect()
}

/// The rows of an axis at `places`; rows of `fill` where there is none.
fn picked(x: &Tensor, axis: usize, places: &[Option<usize>], fill: u8) -> Option<Tensor> {
    let mut shape = x.shape().to_vec();
    let (side, inner) = (*shape.get(axis)?, shape[axis + 1..].iter().product::<usize>());
    if places.iter().flatten().any(|&place| place >= side) {
        return None;
    }
    shape[axis] = places.len();
    let data = match x.data() {
        Data::U8(all) => Data::U8(rows(all, side, inner, places, fill)),
        Data::I64(all) => Data::I64(rows(all, side, inner, places, i64::from(fill))),
        _ => return None,
    };
    Tensor::new(shape, data).ok()
}

fn rows<T: Copy>(all: &[T], side: usize, inner: usize, places: &[Option<usize>], fill: T) -> Vec<T> {
    let filler = vec![fill; inner];
    let blocks = all.chunks_exact((side * inner).max(1));
    let row = |block: &'_ [T], place: &Option<usize>| match place {
        Some(place) => block[place * inner..(place + 1) * inner].to_vec(),
        None => filler.clone(),
    };
    blocks
        .flat_map(|block| places.iter().flat_map(move |place| row(block, place)).collect::<Vec<T>>())
        .collect()
}

/// Rows of pixels as planes.
fn transposed(x: &Tensor, perm: &[i64]) -> Option<Tensor> {
    let (Data::U8(bytes), &[n, height, width, 3], [0, 3, 1, 2]) = (x.data(), x.shape(), perm) else {
        return None;
    };
    let pictures = bytes.chunks_exact((height * width * 3).max(1));
    let plane =
        |picture: &'_ [u8], channel: usize| picture.iter().skip(channel).step_by(3).copied().collect();
    let planes: Vec<Vec<u8>> = pictures.flat_map(|p| [0, 1, 2].map(|c| plane(p, c))).collect();
    Tensor::new([n, 3, height, width], Data::U8(planes.concat())).ok()
}

fn joined(inputs: &[&Tensor], axis: usize) -> Option<Tensor> {
    let mut shape = inputs.first()?.shape().to_vec();
    *shape.get_mut(axis)? = inputs.iter().map(|x| x.shape().get(axis).copied()).sum::<Option<usize>>()?;
    let outer: usize = Some(shape[..axis].iter().product()).filter(|&n| n > 0)?;
    fn join<T: Copy>(parts: &[&[T]], outer: usize) -> Vec<T> {
        let row = |part: &'_ [T], at: usize| part[at * (part.len() / outer)..][..part.len() / outer].to_vec();
        (0..outer)
            .flat_map(|at| parts.iter().flat_map(move |part| row(part, at)).collect::<Vec<T>>())
            .collect()
    }
    macro_rules! of {
        ($kind:ident) => {{
            let part = |x: &&'_ Tensor| match x.data() {
                Data::$kind(part) => Some(part.clone()),
                _ => None,
            };
            let parts: Vec<Vec<_>> = inputs.iter().map(part).collect::<Option<_>>()?;
            Data::$kind(join(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), outer))
        }};
    }
    let data = match inputs[0].data() {
        Data::U8(_) => of!(U8),
        Data::I64(_) => of!(I64),
        Data::F64(_) => of!(F64),
        _ => return None,
    };
    Tensor::new(shape, data).ok()
}

fn cast(x: &Tensor, to: i64) -> Option<Tensor> {
    let data = match (x.data(), to) {
        (Data::U8(x), F32) => Data::F32(x.iter().map(|&x| f32::from(x)).collect()),
        (Data::I64(x), F64) => Data::F64(x.iter().map(|&x| x as f64).collect()),
        (Data::F64(x), I64) => Data::I64(x.iter().map(|&x| x as i64).collect()),
        _ => return None,
    };
    Tensor::new(x.shape(), data).ok()
}

/// One number, over and over.
fn expanded(x: &Tensor, shape: &[i64]) -> Option<Tensor> {
    let (Data::F64(x), &[count]) = (x.data(), shape) else { return None };
    let count = usize::try_from(count).ok().filter(|&n| n <= MAX_BYTES)?;
    Tensor::new([count], Data::F64(vec![*x.first()?; count])).ok()
}

fn running_sum(x: &Tensor) -> Option<Tensor> {
    let Data::F64(x) = x.data() else { return None };
    let mut sum = 0.0;
    let sums: Vec<f64> = x
        .iter()
        .map(|x| {
            sum += x;
            sum
        })
        .collect();
    Tensor::new([sums.len()], Data::F64(sums)).ok()
}

fn sliced(x: &Tensor, starts: &Tensor, ends: &Tensor, axes: &Tensor) -> Option<Tensor> {
    let mut x = x.clone();
    for ((&start, &end), &axis) in starts.as_i64()?.iter().zip(ends.as_i64()?).zip(axes.as_i64()?) {
        let axis = usize::try_from(axis).ok()?;
        let side = *x.shape().get(axis)?;
        let [start, end] = [start, end].map(|place| usize::try_from(place).unwrap_or(0).min(side));
        x = picked(&x, axis, &(start..end).map(Some).collect::<Vec<_>>(), 0)?;
    }
    Some(x)
}

fn padded(x: &Tensor, pads: &Tensor, fill: Option<&Tensor>) -> Option<Tensor> {
    let Data::U8(fill) = fill?.data() else { return None };
    let (fill, pads, rank) = (*fill.first()?, pads.as_i64()?, x.shape().len());
    let mut x = x.clone();
    for axis in 0..rank {
        let [before, after] = [pads.get(axis)?, pads.get(axis + rank)?]
            .map(|&n| usize::try_from(n).ok().filter(|&n| n < MAX_BYTES));
        let (before, after) = (before?, after?);
        if before + after > 0 {
            let own = (0..x.shape()[axis]).map(Some);
            let places = std::iter::repeat_n(None, before).chain(own).chain(std::iter::repeat_n(None, after));
            x = picked(&x, axis, &places.collect::<Vec<_>>(), fill)?;
        }
    }
    Some(x)
}

/// Numbers of two tensors, of which one may be a single number, or one number for each channel.
fn arithmetic(op: &str, x: &Tensor, y: &Tensor) -> Option<Tensor> {
    let inner: usize = x.shape().iter().skip(2).product();
    let place = |i: usize| if y.len() == x.len() { i } else { i / inner.max(1) % y.len().max(1) };
    fn each<T: Copy>(
        x: &[T],
        y: &[T],
        place: impl Fn(usize) -> usize,
        f: impl Fn(T, T) -> Option<T>,
    ) -> Option<Vec<T>> {
        x.iter().enumerate().map(|(i, &x)| f(x, *y.get(place(i))?)).collect()
    }
    let data = match (x.data(), y.data()) {
        (Data::I64(x), Data::I64(y)) => Data::I64(each(x, y, place, |x, y| match op {
            "Min" => Some(x.min(y)),
            "Max" => Some(x.max(y)),
            "Add" => x.checked_add(y),
            "Sub" => x.checked_sub(y),
            "Mul" => x.checked_mul(y),
            _ => x.checked_div(y),
        })?),
        (Data::F64(x), Data::F64(y)) => Data::F64(each(x, y, place, |x, y| match op {
            "Mul" => Some(x * y),
            "Div" => Some(x / y),
            _ => None,
        })?),
        (Data::F32(x), Data::F32(y)) => Data::F32(each(x, y, place, |x, y| match op {
            "Sub" => Some(x - y),
            "Div" => Some(x / y),
            _ => None,
        })?),
        _ => return None,
    };
    Tensor::new(x.shape(), data).ok()
}

fn resized(node: NodeView<'_>, x: &Tensor, sizes: &[i64]) -> Result<Option<Tensor>, Problem> {
    let (Data::U8(bytes), &[n, channels, height, width]) = (x.data(), x.shape()) else { return Ok(None) };
    let sizes: Option<Vec<usize>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
    let Some(&[n2, channels2, rows, columns]) = sizes.as_deref() else { return Ok(None) };
    let taps = Taps::of(node)?;
    let most = [n, channels, rows.max(height), columns.max(width)];
    let most = most.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
    if (n, channels) != (n2, channels2) || most.is_none_or(|n| n > MAX_BYTES) || height * width == 0 {
        return Ok(None);
    }
    let mut bytes = bytes.clone();
    if columns != width {
        bytes = weighed(&bytes, width, 1, &taps.along(width, columns));
    }
    if rows != height {
        bytes = weighed(&bytes, height, columns, &taps.along(height, rows));
    }
    Ok(Tensor::new([n, channels, rows, columns], Data::U8(bytes)).ok())
}

/// How a Resize weighs pixels.
struct Taps {
    filter: fn(f64, f64) -> f64,
    /// How far the filter reaches, in pixels.
    reach: f64,
    /// The cubic filter's coefficient.
    a: f64,
    antialias: bool,
    exclude_outside: bool,
}

impl Taps {
    fn of(node: NodeView<'_>) -> Result<Taps, Problem> {
        let (filter, reach): (fn(f64, f64) -> f64, f64) = match node.text("mode") {
            Some("linear") => (|x, _| 1.0 - x, 1.0),
            Some("cubic") => (cubic, 2.0),
            _ => return Err(node.unsupported("its mode is neither linear nor cubic", "Please report this")),
        };
        if node.text("coordinate_transformation_mode").is_some_and(|mode| mode != "half_pixel") {
            return Err(
                node.unsupported("its coordinates are not those of half pixels", "Please report this")
            );
        }
        Ok(Taps {
            filter,
            reach,
            a: f64::from(node.float("cubic_coeff_a").unwrap_or(-0.75)),
            antialias: node.flag("antialias"),
            exclude_outside: node.flag("exclude_outside"),
        })
    }

    /// For each of `count` pixels that are made of `side`: the pixels it reads, and their weights, which sum to 1.
    fn along(&self, side: usize, count: usize) -> Vec<Vec<(usize, f64)>> {
        let scale = side as f64 / count as f64;
        let wide = if self.antialias { scale.max(1.0) } else { 1.0 };
        let last = side as i64 - 1;
        let of = |pixel: usize| {
            let centre = (pixel as f64 + 0.5) * scale - 0.5;
            let [from, to] = [(centre - self.reach * wide).ceil(), (centre + self.reach * wide).floor()];
            let all = (from as i64..=to as i64).filter(|i| !self.exclude_outside || (0..=last).contains(i));
            let weight = |i: i64| (self.filter)((i as f64 - centre).abs() / wide, self.a);
            let taps: Vec<_> = all.map(|i| (i.clamp(0, last) as usize, weight(i))).collect();
            let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
            taps.into_iter().map(|(i, weight)| (i, weight / sum)).collect()
        };
        (0..count).map(of).collect()
    }
}

fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// Weighs rows of `inner` bytes, `side` of which stand together, and rounds half up.
fn weighed(bytes: &[u8], side: usize, inner: usize, taps: &[Vec<(usize, f64)>]) -> Vec<u8> {
    let mut made = Vec::with_capacity(bytes.len() / (side * inner).max(1) * taps.len() * inner);
    let mut sums = vec![0.0; inner];
    for block in bytes.chunks_exact((side * inner).max(1)) {
        for taps in taps {
            sums.fill(0.5);
            for &(row, weight) in taps {
                let row = &block[row * inner..(row + 1) * inner];
                sums.iter_mut().zip(row).for_each(|(sum, &byte)| *sum += weight * f64::from(byte));
            }
            // A cast of a float to a byte saturates.
            made.extend(sums.iter().map(|sum| sum.floor() as u8));
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::super::super::write::{float, int, proto_node};
    use super::super::text;
    use super::*;

    fn noise(count: usize) -> Vec<u8> {
        let byte = |i: u64| ((i * i).wrapping_mul(2_654_435_761).wrapping_add(i * 40_503) >> 7) as u8;
        (0..count as u64).map(byte).collect()
    }

    /// `scripts/golden/resize.py`.
    #[derive(serde::Deserialize)]
    struct Case {
        sizes: [usize; 4],
        mode: String,
        exclude_outside: i64,
        pixels: Vec<u8>,
    }

    #[test]
    fn a_resize_is_that_of_onnx_runtime() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/onnx/resize.json");
        let golden = std::fs::read_to_string(golden).unwrap();
        let cases: Vec<Case> = serde_json::from_str(&golden).unwrap();
        assert_eq!(cases.len(), 24);
        for Case { sizes: [height, width, rows, columns], mode, exclude_outside, pixels } in cases {
            let x = Tensor::new([1, 1, height, width], Data::U8(noise(height * width))).unwrap();
            let mut proto = proto_node("Resize", "r", vec![], "y");
            proto.attribute = vec![
                text("mode", &mode),
                float("cubic_coeff_a", -0.5),
                int("antialias", 1),
                int("exclude_outside", exclude_outside),
            ];
            let made = resized(NodeView { proto: &proto }, &x, &[1, 1, rows as i64, columns as i64]);
            let made = made.unwrap().unwrap();
            let Data::U8(made) = made.data() else { panic!("bytes") };
            let furthest = made.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(
                made.len() == pixels.len() && furthest <= 1,
                "{mode} {exclude_outside} {height} {width} {rows} {columns}: {furthest}"
            );
        }
    }
}
