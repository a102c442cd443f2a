//! The preparation of pictures as nodes before a network: bytes of any size in, what the network takes out.

use offshoot_graph::model::INPUT;
use offshoot_graph::{Dim, Fit, Interpolation, Metadata, Preprocessing, Shape, Tensor};

mod evaluate;

pub use evaluate::Preparer;

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_type};
use super::write::{described, float, int, ints, proto_node};
use crate::elements::write_le;
use crate::error::Problem;

/// The input of a file that prepares its pictures: u8 RGB, [batch_size, height, width, 3], any height and width.
pub(super) const IMAGE: &str = "image";

/// The first opset whose Resize is antialiased, as Pillow's and ours are.
pub(super) const OPSET: i64 = 18;

/// What every name begins with that is made here.
pub(super) const PREFIX: &str = "preprocess.";

/// ONNX's number of the type u8.
pub(super) const U8: i32 = 2;
const F32: i64 = 1;
const I64: i64 = 7;
const F64: i64 = 11;

/// The axes of the input.
pub(super) fn image_shape(batch: &Dim) -> Shape {
    Shape(vec![batch.clone(), Dim::symbol("height"), Dim::symbol("width"), 3.into()])
}

/// Nodes and their constants.
#[derive(Default)]
pub(super) struct Preparation {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: Vec<TensorProto>,
}

/// The nodes from [`IMAGE`] to [`INPUT`]. A function of `steps` alone.
///
/// # Errors
/// When ONNX has no such filter.
pub(super) fn preparation(steps: &Preprocessing) -> Result<Preparation, Problem> {
    let mut p = Preparation::default();
    let planes = p.node("planes", "Transpose", &[IMAGE], vec![ints("perm", &[0, 3, 1, 2])]);
    let shape = p.node("shape", "Shape", &[&planes], Vec::new());
    let [batch, height, width] = [("batch", 0), ("height", 2), ("width", 3)].map(|(name, axis)| {
        let axis = p.ints(&format!("{name}_axis"), &[axis]);
        p.node(name, "Gather", &[&shape, &axis], vec![int("axis", 0)])
    });
    let channels = p.ints("channels", &[3]);
    let size = p.ints("size", &[steps.size as i64]);
    let square = match steps.fit {
        Fit::Crop => {
            let resize = p.ints("resize", &[steps.resize as i64]);
            let short = p.node("short", "Min", &[&height, &width], Vec::new());
            let [rows, columns] = [("rows", &height), ("columns", &width)].map(|(name, side)| {
                let scaled = p.node(&format!("{name}_scaled"), "Mul", &[side, &resize], Vec::new());
                p.node(name, "Div", &[&scaled, &short], Vec::new())
            });
            let resized =
                p.resize(steps, &planes, [&batch, &channels], [&height, &width], [&rows, &columns])?;
            p.centre(&resized, &rows, &columns, &size)
        }
        Fit::Pad => {
            let (padded, long) = p.pad(steps, &planes, &height, &width);
            p.resize(steps, &padded, [&batch, &channels], [&long, &long], [&size, &size])?
        }
        Fit::Stretch => p.resize(steps, &planes, [&batch, &channels], [&height, &width], [&size, &size])?,
    };
    p.normalise(steps, &square);
    Ok(p)
}

/// Takes the preparation out of a graph, when it is the one that `metadata` describes.
///
/// # Errors
/// When it is another.
pub(super) fn remove(graph: &mut GraphProto, metadata: &str) -> Result<(), Problem> {
    let damaged = |what: &str| Problem::damaged(format!("input `{IMAGE}`"), what);
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|e| damaged(&e.to_string()))?;
    let expected = preparation(&metadata.preprocessing)?;
    let (constants, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.initializer).into_iter().partition(|t| t.name.starts_with(PREFIX));
    graph.initializer = others;
    let same = graph.node.len() >= expected.nodes.len()
        && graph.node[..expected.nodes.len()] == expected.nodes
        && constants == expected.constants;
    if !same {
        let what = "the file prepares its pictures in another way than its metadata says";
        let way_out = "It was changed, or written by an earlier version: export the model again";
        return Err(Problem::unsupported(format!("input `{IMAGE}`"), what, way_out));
    }
    graph.node.drain(..expected.nodes.len());
    let input = graph.value_info.iter().find(|v| v.name == INPUT).cloned();
    graph.input = vec![input.ok_or_else(|| damaged("the file does not say what its network takes"))?];
    Ok(())
}

impl Preparation {
    fn node(&mut self, name: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = format!("{PREFIX}{name}");
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        let node = NodeProto { attribute: attributes, ..proto_node(op, &name, inputs, &name) };
        self.nodes.push(node);
        name
    }

    fn constant(&mut self, name: &str, tensor: &Tensor) -> String {
        let name = format!("{PREFIX}{name}");
        let mut raw = Vec::new();
        // A Vec takes all that is written to it.
        let _ = write_le(tensor.data(), &mut raw);
        let elements = TensorProto { raw_data: Some(raw.into()), ..TensorProto::default() };
        self.constants.push(described(&name, tensor, elements));
        name
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        self.constant(name, &Tensor::i64([values.len()], values.to_vec()))
    }

    /// Resizes bytes from the sides `from` to the sides `to`, each its height and its width.
    fn resize(
        &mut self,
        steps: &Preprocessing,
        x: &str,
        leading: [&str; 2],
        from: [&str; 2],
        to: [&str; 2],
    ) -> Result<String, Problem> {
        let filter = match steps.interpolation {
            Interpolation::Nearest => return Ok(self.nearest(x, from, to)),
            Interpolation::Bilinear => vec![text("mode", "linear")],
            Interpolation::Bicubic => vec![text("mode", "cubic"), float("cubic_coeff_a", -0.5)],
            Interpolation::Lanczos => {
                let what = "ONNX has no Lanczos filter to prepare pictures with";
                let way_out = "Train with another interpolation, or prepare pictures before the network";
                return Err(Problem::unsupported("preprocessing", what, way_out));
            }
        };
        let between = self.between(from, to);
        let between =
            self.resize_to("resized_once", x, leading, between.each_ref().map(String::as_str), &filter);
        Ok(self.resize_to("resized", &between, leading, to, &filter))
    }

    /// The sides after the first of two directions. As bytes are rounded after each, the order shows: this is Pillow's and
    /// ours, which is down first where that direction shrinks by more than twice as many pixels as the other.
    fn between(&mut self, [height, width]: [&str; 2], [rows, columns]: [&str; 2]) -> [String; 2] {
        let two = self.ints("twice", &[2]);
        let down = self.node("shrinks_down", "Sub", &[height, rows], Vec::new());
        let across = self.node("shrinks_across", "Sub", &[width, columns], Vec::new());
        let across = self.node("shrinks_across_twice", "Mul", &[&across, &two], Vec::new());
        let shrinks = self.node("shrinks", "Less", &[rows, height], Vec::new());
        let more = self.node("shrinks_more", "Less", &[&across, &down], Vec::new());
        let first = self.node("down_first", "And", &[&shrinks, &more], Vec::new());
        [
            self.node("between_rows", "Where", &[&first, rows, height], Vec::new()),
            self.node("between_columns", "Where", &[&first, width, columns], Vec::new()),
        ]
    }

    /// One Resize to `sides`. What lies outside of the picture has no weight. On bytes, ONNX Runtime rounds its result.
    fn resize_to(
        &mut self,
        name: &str,
        x: &str,
        [batch, channels]: [&str; 2],
        [rows, columns]: [&str; 2],
        filter: &[AttributeProto],
    ) -> String {
        let mut attributes = filter.to_vec();
        attributes.extend([int("antialias", 1), int("exclude_outside", 1)]);
        attributes.push(text("coordinate_transformation_mode", "half_pixel"));
        let sizes = [batch, channels, rows, columns];
        let sizes = self.node(&format!("{name}_sizes"), "Concat", &sizes, vec![int("axis", 0)]);
        self.node(name, "Resize", &[x, "", "", &sizes], attributes)
    }

    /// The nearest pixels. Where a middle falls between two of them, the rounding of a running sum decides in Pillow and here, and
    /// no Resize knows that one: the places are computed.
    fn nearest(&mut self, x: &str, from: [&str; 2], to: [&str; 2]) -> String {
        let half = self.double("half", 0.5);
        let one = self.ints("one", &[1]);
        let first_axis = self.ints("first_axis", &[0]);
        let mut x = x.to_owned();
        for (name, axis, from, to) in [("down", 2, from[0], to[0]), ("across", 3, from[1], to[1])] {
            let part = |end: &str| format!("{name}_{end}");
            let [source, target] = [("from", from), ("to", to)]
                .map(|(end, side)| self.node(&part(end), "Cast", &[side], vec![int("to", F64)]));
            let scale = self.node(&part("scale"), "Div", &[&source, &target], Vec::new());
            let first = self.node(&part("first"), "Mul", &[&scale, &half], Vec::new());
            let others = self.node(&part("count"), "Sub", &[to, &one], Vec::new());
            let others = self.node(&part("steps"), "Expand", &[&scale, &others], Vec::new());
            let steps = self.node(&part("all"), "Concat", &[&first, &others], vec![int("axis", 0)]);
            let middles = self.node(&part("middles"), "CumSum", &[&steps, &first_axis], Vec::new());
            let places = self.node(&part("places"), "Cast", &[&middles], vec![int("to", I64)]);
            x = self.node(&part("nearest"), "Gather", &[&x, &places], vec![int("axis", axis)]);
        }
        x
    }

    fn double(&mut self, name: &str, value: f64) -> String {
        self.raw(name, F64 as i32, &[1], value.to_le_bytes().to_vec())
    }

    /// The square of `size` pixels in the middle: half of what is left over, rounded half to even.
    fn centre(&mut self, x: &str, rows: &str, columns: &str, size: &str) -> String {
        let two = self.ints("two", &[2]);
        let starts = [("top", rows), ("left", columns)].map(|(name, side)| {
            let part = |end: &str| format!("{name}_{end}");
            let over = self.node(&part("over"), "Sub", &[side, size], Vec::new());
            let half = self.node(&part("half"), "Div", &[&over, &two], Vec::new());
            let remainder = |p: &mut Preparation, name: &str, of: &str, quotient: &str| {
                let even = p.node(&format!("{name}_even"), "Mul", &[quotient, &two], Vec::new());
                p.node(name, "Sub", &[of, &even], Vec::new())
            };
            let rest = remainder(self, &part("rest"), &over, &half);
            let quarter = self.node(&part("quarter"), "Div", &[&half, &two], Vec::new());
            let odd = remainder(self, &part("odd"), &half, &quarter);
            let up = self.node(&part("up"), "Mul", &[&rest, &odd], Vec::new());
            self.node(name, "Add", &[&half, &up], Vec::new())
        });
        let starts = self.node("starts", "Concat", &[&starts[0], &starts[1]], vec![int("axis", 0)]);
        let ends = self.node("ends", "Add", &[&starts, size], Vec::new());
        let axes = self.ints("crop_axes", &[2, 3]);
        self.node("cropped", "Slice", &[x, &starts, &ends, &axes], Vec::new())
    }

    /// A square of the longer side, the picture in its middle, the background around it; and that side.
    fn pad(&mut self, steps: &Preprocessing, x: &str, height: &str, width: &str) -> (String, String) {
        let two = self.ints("two", &[2]);
        let none = self.ints("none", &[0, 0]);
        let long = self.node("long", "Max", &[height, width], Vec::new());
        let [(top, bottom), (left, right)] =
            [("top", "bottom", height), ("left", "right", width)].map(|(before, after, side)| {
                let over = self.node(&format!("{before}_over"), "Sub", &[&long, side], Vec::new());
                let first = self.node(before, "Div", &[&over, &two], Vec::new());
                let last = self.node(after, "Sub", &[&over, &first], Vec::new());
                (first, last)
            });
        let parts = [&none, &top, &left, &none, &bottom, &right].map(String::as_str);
        let pads = self.node("pads", "Concat", &parts, vec![int("axis", 0)]);
        let [red, green, blue] = steps.background;
        if red == green && green == blue {
            let colour = self.byte("background", red);
            return (self.node("padded", "Pad", &[x, &pads, &colour], Vec::new()), long);
        }
        // A Pad has one color: each channel has its own.
        let axis = self.ints("channel_axis", &[1]);
        let channels =
            [("red", red, 0), ("green", green, 1), ("blue", blue, 2)].map(|(name, byte, index)| {
                let start = self.ints(&format!("{name}_start"), &[index]);
                let end = self.ints(&format!("{name}_end"), &[index + 1]);
                let channel =
                    self.node(&format!("{name}_plane"), "Slice", &[x, &start, &end, &axis], Vec::new());
                let colour = self.byte(&format!("{name}_background"), byte);
                self.node(&format!("{name}_padded"), "Pad", &[&channel, &pads, &colour], Vec::new())
            });
        let channels = channels.each_ref().map(String::as_str);
        (self.node("padded", "Concat", &channels, vec![int("axis", 1)]), long)
    }

    fn byte(&mut self, name: &str, byte: u8) -> String {
        self.raw(name, U8, &[], vec![byte])
    }

    fn raw(&mut self, name: &str, element_type: i32, dims: &[i64], bytes: Vec<u8>) -> String {
        let name = format!("{PREFIX}{name}");
        self.constants.push(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(element_type),
            name: name.clone(),
            raw_data: Some(bytes.into()),
            ..TensorProto::default()
        });
        name
    }

    /// (byte / 255 - mean) / std, in the order in which we round.
    fn normalise(&mut self, steps: &Preprocessing, x: &str) {
        let full = self.constant("full", &Tensor::f32([], vec![255.0]));
        let mean = self.constant("mean", &Tensor::f32([1, 3, 1, 1], steps.mean.to_vec()));
        let std = self.constant("std", &Tensor::f32([1, 3, 1, 1], steps.std.to_vec()));
        let x = self.node("float", "Cast", &[x], vec![int("to", F32)]);
        let x = self.node("unit", "Div", &[&x, &full], Vec::new());
        let x = self.node("centred", "Sub", &[&x, &mean], Vec::new());
        let node = proto_node("Div", &format!("{PREFIX}normalised"), vec![x, std], INPUT);
        self.nodes.push(node);
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    let s = Some(value.as_bytes().to_vec().into());
    AttributeProto { name: name.to_owned(), s, r#type: Some(attribute_type::STRING), ..Default::default() }
}
