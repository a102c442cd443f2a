//! Operators that others define, under ONNX's names for them.

use offshoot_graph::op::{Composite, Coordinates, Direction, PadMode, Resampling};
use offshoot_graph::{Graph, Node, Tensor};

use super::{Writer, float, int, proto_node};
use crate::composite::exact_nearest;
use crate::error::Problem;
use crate::onnx::proto::{AttributeProto, attribute_type};

/// Which composite operators are written as they are. ONNX has norms of groups only from opset 18 on, and with another meaning
/// before 21.
pub(super) fn in_onnx(graph: &Graph) -> impl Fn(&Composite) -> bool + use<> {
    let exact = exact_nearest(graph);
    move |composite| match composite {
        Composite::GroupNormalization { .. } => false,
        Composite::Resize {
            resampling: Resampling::Nearest | Resampling::NearestCeil | Resampling::NearestFloor,
            ..
        } => exact,
        Composite::Resize { resampling: Resampling::Linear | Resampling::Cubic, .. }
        | Composite::LogSoftmax { .. }
        | Composite::InstanceNormalization { .. }
        | Composite::Pad { .. }
        | Composite::Split { .. }
        | Composite::Gru { .. } => true,
    }
}

impl Writer<'_, '_> {
    pub(super) fn composite(&mut self, node: &Node, composite: &Composite) -> Result<(), Problem> {
        let mut inputs: Vec<String> = node.inputs.iter().map(|&id| self.name(id).to_owned()).collect();
        let attributes = match composite {
            Composite::LogSoftmax { axis } => vec![int("axis", *axis as i64)],
            Composite::InstanceNormalization { epsilon } | Composite::GroupNormalization { epsilon, .. } => {
                vec![float("epsilon", *epsilon)]
            }
            Composite::Pad { pads, mode } => {
                let sides = [0, 1].into_iter().flat_map(|side| pads.iter().map(move |pad| pad[side] as i64));
                inputs.push(self.numbers(node, "pads", sides.collect())?);
                match mode {
                    PadMode::Constant(number) => {
                        inputs.push(self.float_number(node, "number", *number)?);
                        vec![text("mode", "constant")]
                    }
                    PadMode::Reflect => vec![text("mode", "reflect")],
                    PadMode::Edge => vec![text("mode", "edge")],
                }
            }
            Composite::Split { axis, sizes } => {
                let sizes = sizes.iter().map(|&size| size as i64).collect();
                inputs.push(self.numbers(node, "sizes", sizes)?);
                vec![int("axis", *axis as i64)]
            }
            Composite::Resize { resampling, coordinates, .. } => {
                let shape = self.graph.value(node.outputs[0]).shape.clone();
                let sizes = self.expanded(node, &shape)?;
                inputs.extend([String::new(), String::new(), sizes]);
                let mut attributes =
                    vec![text("coordinate_transformation_mode", transformation(*coordinates))];
                let (mode, nearest) = modes(*resampling);
                attributes.push(text("mode", mode));
                attributes.extend(nearest.map(|mode| text("nearest_mode", mode)));
                attributes
            }
            Composite::Gru { direction, linear_before_reset } => {
                let linear = int("linear_before_reset", (*linear_before_reset).into());
                self.recurrent(node, *direction, vec![linear]);
                return Ok(());
            }
        };
        self.several(node, inputs, attributes);
        Ok(())
    }

    /// A recurrent operator: inputs and outputs are those of the graph, and the attributes these, its direction and its size.
    pub(super) fn recurrent(&mut self, node: &Node, direction: Direction, own: Vec<AttributeProto>) {
        let recurrence = &self.graph.value(node.inputs[2]).shape;
        let hidden = recurrence.0.last().and_then(|dim| dim.fixed()).unwrap_or_default();
        let mut attributes = vec![text("direction", way(direction)), int("hidden_size", hidden as i64)];
        attributes.extend(own);
        let inputs = node.inputs.iter().map(|&id| self.name(id).to_owned()).collect();
        self.several(node, inputs, attributes);
    }

    /// A node with all outputs of the graph's.
    fn several(&mut self, node: &Node, inputs: Vec<String>, attributes: Vec<AttributeProto>) {
        let mut proto = proto_node(node.op.name(), &node.name, inputs, "");
        proto.output = node.outputs.iter().map(|&id| self.name(id).to_owned()).collect();
        proto.attribute = attributes;
        self.proto.node.push(proto);
    }

    /// The name of a number that `node` reads.
    fn float_number(&mut self, node: &Node, suffix: &str, value: f32) -> Result<String, Problem> {
        let name = self.unused(format!("{}.{suffix}", node.name));
        let proto = self.tensor(&name, &Tensor::f32([], vec![value]))?;
        self.proto.initializer.push(proto);
        Ok(name)
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    let r#type = Some(attribute_type::STRING);
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.as_bytes().to_vec().into()),
        r#type,
        ..Default::default()
    }
}

fn modes(resampling: Resampling) -> (&'static str, Option<&'static str>) {
    match resampling {
        Resampling::Nearest => ("nearest", Some("round_prefer_floor")),
        Resampling::NearestCeil => ("nearest", Some("round_prefer_ceil")),
        Resampling::NearestFloor => ("nearest", Some("floor")),
        Resampling::Linear => ("linear", None),
        Resampling::Cubic => ("cubic", None),
    }
}

fn transformation(coordinates: Coordinates) -> &'static str {
    match coordinates {
        Coordinates::HalfPixel => "half_pixel",
        Coordinates::AlignCorners => "align_corners",
        Coordinates::Asymmetric => "asymmetric",
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
        Direction::Bidirectional => "bidirectional",
    }
}
