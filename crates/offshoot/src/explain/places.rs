//! Where the places of the picture are in the values of a network.

use offshoot_graph::model::INPUT;
use offshoot_graph::op::{Composite, Norm, Op, ShapeOp};
use offshoot_graph::{Graph, Node, ValueId};

use super::shape_of_one;

/// How a value holds numbers for the places of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// [N, C, rows, columns]
    ChannelsFirst,
    /// [N, rows, columns, C]
    ChannelsLast,
    /// [N, C, rows * columns]
    Flat,
    /// [N, before + rows * columns, C]: tokens of which the first `before` are no places
    Tokens {
        /// The class token and its like.
        before: usize,
    },
}

/// The places in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) channels: usize,
}

impl Grid {
    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.rows * self.columns
    }

    /// Where the number of a channel at a place is in the value of one picture.
    pub(super) fn index(&self, channel: usize, place: usize) -> usize {
        match self.layout {
            Layout::ChannelsFirst | Layout::Flat => channel * self.places() + place,
            Layout::ChannelsLast => place * self.channels + channel,
            Layout::Tokens { before } => (before + place) * self.channels + channel,
        }
    }
}

/// The places of each value of a graph, by the value's index; `None` where a value has none, or they are not found. Those of the picture
/// are followed through the graph; what convolutions, pooling and batch norms read has them by their definition.
pub(super) fn grids(graph: &Graph) -> Vec<Option<Grid>> {
    let shapes: Vec<Option<Vec<usize>>> = graph.values().map(|(id, _)| shape_of_one(graph, id)).collect();
    let mut finder = Finder { shapes, grids: vec![None; graph.values().len()] };
    for &input in graph.inputs().iter().filter(|&&id| graph.value(id).name == INPUT) {
        finder.set(input, Layout::ChannelsFirst);
    }
    for node in graph.nodes() {
        if matches!(node.op, Op::Conv(_) | Op::Pool(_) | Op::Norm(Norm::Batch(_))) {
            finder.set(node.inputs[0], Layout::ChannelsFirst);
        }
        finder.follow(node);
    }
    finder.grids
}

struct Finder {
    shapes: Vec<Option<Vec<usize>>>,
    grids: Vec<Option<Grid>>,
}

impl Finder {
    fn shape(&self, id: ValueId) -> &[usize] {
        self.shapes[id.index()].as_deref().unwrap_or_default()
    }

    fn grid(&self, id: ValueId) -> Option<Grid> {
        self.grids[id.index()]
    }

    /// Notes that a value of four axes, or of as many tokens as `like` has places, holds places.
    fn set(&mut self, id: ValueId, layout: Layout) {
        let grid = match (layout, self.shape(id)) {
            (Layout::ChannelsFirst, &[1, channels, rows, columns]) => {
                Grid { layout, rows, columns, channels }
            }
            (Layout::ChannelsLast, &[1, rows, columns, channels]) => Grid { layout, rows, columns, channels },
            _ => return,
        };
        self.grids[id.index()] = Some(grid);
    }

    /// Notes that a value holds the places of `grid` in another layout, where its shape says so.
    fn set_as(&mut self, id: ValueId, layout: Layout, of: Grid) {
        let (places, shape) = (of.places(), self.shape(id));
        let channels = match (layout, shape) {
            (Layout::ChannelsFirst, &[1, channels, rows, columns])
            | (Layout::ChannelsLast, &[1, rows, columns, channels])
                if (rows, columns) == (of.rows, of.columns) =>
            {
                channels
            }
            (Layout::Flat, &[1, channels, flat]) if flat == places => channels,
            (Layout::Tokens { before }, &[1, tokens, channels]) if tokens == before + places => channels,
            _ => return,
        };
        self.grids[id.index()] = Some(Grid { layout, channels, ..of });
    }

    /// Finds the places of what a node makes.
    fn follow(&mut self, node: &Node) {
        let output = node.outputs[0];
        if let Op::Conv(_) | Op::Pool(_) = node.op {
            self.set(output, Layout::ChannelsFirst);
        } else if let Op::Shape(op) = &node.op {
            self.moved(node, op);
        } else if let Op::Composite(composite) = &node.op {
            self.composed(node, composite);
        } else if matches!(
            node.op,
            Op::Unary(_)
                | Op::Binary(_)
                | Op::Norm(_)
                | Op::Dropout { .. }
                | Op::QuantizeLinear { .. }
                | Op::DequantizeLinear { .. }
        ) {
            self.kept(node);
        }
    }

    /// The places of the input that has the output's shape.
    fn kept(&mut self, node: &Node) {
        let output = node.outputs[0];
        let same = node.inputs.iter().filter(|&&id| self.shape(id) == self.shape(output));
        let grid = same.filter_map(|&id| self.grid(id)).next();
        self.grids[output.index()] = self.grids[output.index()].or(grid);
    }

    fn composed(&mut self, node: &Node, composite: &Composite) {
        let grid = self.grid(node.inputs[0]);
        match composite {
            Composite::GroupNormalization { .. } | Composite::InstanceNormalization { .. } => self.kept(node),
            Composite::Resize { .. } => self.set(node.outputs[0], Layout::ChannelsFirst),
            Composite::Pad { .. } | Composite::Split { .. } => {
                for &output in &node.outputs {
                    if let Some(Grid {
                        layout: layout @ (Layout::ChannelsFirst | Layout::ChannelsLast),
                        ..
                    }) = grid
                    {
                        self.set(output, layout);
                    }
                }
            }
            Composite::LogSoftmax { .. } | Composite::Gru { .. } => {}
        }
    }

    fn moved(&mut self, node: &Node, op: &ShapeOp) {
        let (input, output) = (node.inputs[0], node.outputs[0]);
        match op {
            ShapeOp::Identity => self.kept(node),
            ShapeOp::Concat { axis } => self.joined(node, *axis),
            ShapeOp::Transpose { perm } => {
                let Some(grid) = self.grid(input) else { return };
                let layout = match (grid.layout, &perm[..]) {
                    (Layout::ChannelsFirst, [0, 2, 3, 1]) => Layout::ChannelsLast,
                    (Layout::ChannelsLast, [0, 3, 1, 2]) => Layout::ChannelsFirst,
                    (Layout::Flat, [0, 2, 1]) => Layout::Tokens { before: 0 },
                    (Layout::Tokens { before: 0 }, [0, 2, 1]) => Layout::Flat,
                    _ => return,
                };
                self.set_as(output, layout, grid);
            }
            ShapeOp::Flatten { .. } | ShapeOp::Reshape { .. } => {
                let Some(grid) = self.grid(input) else { return self.squared(output) };
                let layouts: &[Layout] = match grid.layout {
                    Layout::ChannelsFirst | Layout::Flat => &[Layout::ChannelsFirst, Layout::Flat],
                    Layout::ChannelsLast | Layout::Tokens { before: 0 } => {
                        &[Layout::ChannelsLast, Layout::Tokens { before: 0 }]
                    }
                    Layout::Tokens { .. } => &[],
                };
                for &layout in layouts {
                    self.set_as(output, layout, grid);
                }
                if self.grid(output).is_some_and(|found| found.channels != grid.channels) {
                    self.grids[output.index()] = None;
                }
                self.squared(output);
            }
            ShapeOp::Slice { axis, start, end } => {
                let Some(grid) = self.grid(input) else { return };
                match grid.layout {
                    Layout::ChannelsFirst | Layout::ChannelsLast => self.set(output, grid.layout),
                    Layout::Flat if *axis == 1 => self.set_as(output, Layout::Flat, grid),
                    Layout::Tokens { before }
                        if *axis == 1 && *start <= before && *end == before + grid.places() =>
                    {
                        self.set_as(output, Layout::Tokens { before: before - start }, grid);
                    }
                    Layout::Tokens { .. } if *axis == 2 => self.set_as(output, grid.layout, grid),
                    Layout::Flat | Layout::Tokens { .. } => {}
                }
            }
            ShapeOp::Expand { .. } => {}
        }
    }

    /// Channels beside channels, or tokens before the places.
    fn joined(&mut self, node: &Node, axis: usize) {
        let (output, last) = (node.outputs[0], node.inputs[node.inputs.len() - 1]);
        let Some(grid) = node.inputs.iter().find_map(|&id| self.grid(id)) else { return };
        match grid.layout {
            Layout::ChannelsFirst if axis == 1 => self.set(output, grid.layout),
            Layout::ChannelsLast if axis == 3 => self.set(output, grid.layout),
            Layout::Tokens { before } if axis == 1 && self.grid(last) == Some(grid) => {
                let own = before + grid.places();
                let more = self.shape(output).get(1).and_then(|all| all.checked_sub(own));
                if let Some(more) = more {
                    self.set_as(output, Layout::Tokens { before: before + more }, grid);
                }
            }
            Layout::ChannelsFirst | Layout::ChannelsLast | Layout::Flat | Layout::Tokens { .. } => {}
        }
    }

    /// A square of pixels with their channels last, which networks make of windows: [1, side, side, C].
    fn squared(&mut self, output: ValueId) {
        if let &[1, rows, columns, _] = self.shape(output)
            && rows == columns
            && self.grid(output).is_none()
        {
            self.set(output, Layout::ChannelsLast);
        }
    }
}
