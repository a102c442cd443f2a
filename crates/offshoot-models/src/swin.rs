//! Swin transformers as torchvision builds them (Liu et al., "Swin Transformer: hierarchical vision transformer using shifted windows",
//! 2021, and "Swin Transformer V2: scaling up capacity and resolution", 2022). Channels are last throughout. There is no
//! stochastic depth.

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Binary, Composite, Op, PadMode, Reduce, ShapeOp, Unary};
use offshoot_graph::{Dim, Graph, GraphError, Role, Tensor, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Library, Names, Speller, replace_start};
use crate::squeeze::{FEATURES, biased, layer_norm, norm_parameters, normalized, product, unbiased};
use crate::windows::{Windows, joined, parted, transposed, with_batch};

/// What distinguishes one Swin transformer from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    /// Blocks in each stage.
    pub(crate) repeats: &'a [usize],
    /// Heads of the attention in each stage.
    pub(crate) heads: &'a [usize],
    /// Features of a pixel in the first stage; each further one has twice as many.
    pub(crate) width: usize,
    /// Height and width of a window in pixels of the stage.
    pub(crate) window: usize,
    pub(crate) version: Version,
}

/// Of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Norms before the branches, a table of biases.
    One,
    /// Norms behind the branches, cosines as scores, biases that a small network computes.
    Two,
}

/// Height and width of the squares that become one pixel at the start.
pub(crate) const PATCH: usize = 4;
/// Of the norms.
pub(crate) const EPSILON: f32 = 1e-5;
/// More stages than any network has: features double with each.
pub(crate) const MOST_STAGES: usize = 8;
/// The largest window that is built: its pairs of pixels are a table.
pub(crate) const LARGEST_WINDOW: usize = 64;
/// Hidden features of the network that computes biases.
const BIAS_WIDTH: usize = 512;
/// What `torch.nn.functional.normalize` divides by at least.
const LEAST_LENGTH: f32 = 1e-12;

const TINY: Variant<'static> =
    Variant { repeats: &[2, 2, 6, 2], heads: &[3, 6, 12, 24], width: 96, window: 7, version: Version::One };
const TINY_V2: Variant<'static> = Variant { window: 8, version: Version::Two, ..TINY };

pub(crate) const ARCHITECTURES: [Architecture; 2] = [
    architecture("swin_t", Some("swin_tiny_patch4_window7_224"), [224, 232], &TINY),
    architecture("swin_v2_t", None, [256, 260], &TINY_V2),
];

const fn architecture(
    name: &'static str,
    timm: Option<&'static str>,
    [size, resize]: [usize; 2],
    variant: &'static Variant<'static>,
) -> Architecture {
    Architecture {
        name,
        timm,
        size,
        features: 768,
        stem: &["features.0"],
        blocks: FEATURES.split_at(7).0,
        tail: &["norm"],
        head: "head",
        original_dropout: 0.0,
        resize: Resize::Bicubic(resize),
        sizes: Sizes::AtLeast(PATCH),
        fan_out: FanOut::Whole,
        family: variant,
    }
}

impl Family for Variant<'_> {
    fn backbone(&self, graph: &mut Graph, input: ValueId, size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input, size, self)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        match self.version {
            Version::One => vec![speller.own(), speller.all(Library::Timm, &timm)],
            // timm has one tensor for the bias of the queries and one for that of the values.
            Version::Two => vec![speller.own()],
        }
    }
}

/// Everything before the pooling: [N, 3, size, size] -> [N, C, H, W].
pub(crate) fn backbone(
    graph: &mut Graph,
    input: ValueId,
    size: usize,
    variant: &Variant<'_>,
) -> Result<ValueId, GraphError> {
    let batch = graph.value(input).shape.0.first().cloned().unwrap_or(Dim::Fixed(1));
    let patches = Conv2d::new(variant.width, PATCH).stride(PATCH).pads([0; 4]);
    let x = biased(graph, "features.0.0", input, patches)?;
    let x = transposed(graph, "features.0.1", x, [0, 2, 3, 1])?;
    let mut x = layer_norm(graph, "features.0.2", x, variant.width, EPSILON)?;
    let (mut side, mut width) = (size / PATCH, variant.width);
    for (stage, (&repeats, &heads)) in variant.repeats.iter().zip(variant.heads).enumerate() {
        if stage > 0 {
            let path = format!("features.{}", 2 * stage);
            x = merged(graph, &path, x, &batch, [side, width], variant.version)?;
            (side, width) = (side.div_ceil(2), 2 * width);
        }
        for index in 0..repeats {
            let path = format!("features.{}.{index}", 2 * stage + 1);
            let shifted = index % 2 == 1;
            let block = Block { path, batch: &batch, side, width, heads, shifted, variant };
            x = block.append(graph, x)?;
        }
    }
    let x = layer_norm(graph, "norm", x, width, EPSILON)?;
    transposed(graph, "permute", x, [0, 3, 1, 2])
}

/// Four pixels as one with twice the features: [N, side, side, width] -> [N, ⌈side / 2⌉, ⌈side / 2⌉, 2 width].
fn merged(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    batch: &Dim,
    [side, width]: [usize; 2],
    version: Version,
) -> Result<ValueId, GraphError> {
    let half = side.div_ceil(2);
    let x = padded(graph, path, x, 2 * half - side)?;
    let shape = with_batch(batch, &[half, 2, half, 2 * width]);
    let x = graph.add(&format!("{path}.apart"), Op::Shape(ShapeOp::Reshape { shape }), &[x])?;
    let part = |graph: &mut Graph, name: String, x, axis, index: usize, size| {
        let slice = ShapeOp::Slice { axis, start: index * size, end: (index + 1) * size };
        graph.add(&format!("{path}.{name}"), Op::Shape(slice), &[x])
    };
    let rows = [part(graph, "row0".into(), x, 2, 0, 1)?, part(graph, "row1".into(), x, 2, 1, 1)?];
    let mut parts = Vec::new();
    for (column, row) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        parts.push(part(graph, format!("pixel{row}{column}"), rows[row], 4, column, width)?);
    }
    let x = graph.add(&format!("{path}.cat"), Op::Shape(ShapeOp::Concat { axis: 4 }), &parts)?;
    let mut x = graph.add(&format!("{path}.rows"), Op::Shape(ShapeOp::Flatten { axis: 4 }), &[x])?;
    let reduction = format!("{path}.reduction");
    match version {
        Version::One => {
            let weight =
                graph.add_parameter(&format!("{reduction}.weight"), &[2 * width, 4 * width], Role::Weight);
            x = layer_norm(graph, &format!("{path}.norm"), x, 4 * width, EPSILON)?;
            x = product(graph, &reduction, &[x, weight])?;
        }
        Version::Two => {
            x = unbiased(graph, &reduction, x, [2 * width, 4 * width])?;
            x = layer_norm(graph, &format!("{path}.norm"), x, 2 * width, EPSILON)?;
        }
    }
    let shape = with_batch(batch, &[half, half, 2 * width]);
    graph.add(&format!("{path}.pixels"), Op::Shape(ShapeOp::Reshape { shape }), &[x])
}

/// [N, H, W, C] with `more` rows and columns of zeros behind.
fn padded(graph: &mut Graph, path: &str, x: ValueId, more: usize) -> Result<ValueId, GraphError> {
    if more == 0 {
        return Ok(x);
    }
    let pads = vec![[0, 0], [0, more], [0, more], [0, 0]];
    let pad = Composite::Pad { pads, mode: PadMode::Constant(0.0) };
    graph.add(&format!("{path}.padded"), Op::Composite(pad), &[x])
}

/// Attention in windows and two linear layers, each added to what comes in: [N, side, side, width] -> the same.
struct Block<'a> {
    path: String,
    batch: &'a Dim,
    side: usize,
    width: usize,
    heads: usize,
    /// Whether windows are shifted by half of their side, where there are several.
    shifted: bool,
    variant: &'a Variant<'a>,
}

/// The parameters of an attention.
struct Parameters {
    bias: Bias,
    /// Weight and bias of queries, keys and values, and of the output.
    qkv: [ValueId; 2],
    output: [ValueId; 2],
}

/// What the biases of pairs of pixels are made of.
enum Bias {
    Table(ValueId),
    /// The logarithm of the scores' scale; weight and bias of the first layer, weight of the second.
    Network {
        scale: ValueId,
        layers: [ValueId; 3],
    },
}

impl Block<'_> {
    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn append(&self, graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
        let norms = [self.named("norm1"), self.named("norm2")];
        let norm = |graph: &mut Graph, index: usize, x, parameters| {
            normalized(graph, &norms[index], x, parameters, EPSILON)
        };
        let first = norm_parameters(graph, &norms[0], self.width);
        let parameters = self.parameters(graph);
        let second = norm_parameters(graph, &norms[1], self.width);
        let added = |graph: &mut Graph, name: &str, x, y| {
            graph.add(&self.named(name), Op::Binary(Binary::Add), &[x, y])
        };
        match self.variant.version {
            Version::One => {
                let x = norm(graph, 0, input, first)?;
                let x = self.attention(graph, x, &parameters)?;
                let input = added(graph, "attn.add", input, x)?;
                let x = norm(graph, 1, input, second)?;
                let x = self.perceptron(graph, x)?;
                added(graph, "mlp.add", input, x)
            }
            Version::Two => {
                let x = self.attention(graph, input, &parameters)?;
                let x = norm(graph, 0, x, first)?;
                let input = added(graph, "attn.add", input, x)?;
                let x = self.perceptron(graph, input)?;
                let x = norm(graph, 1, x, second)?;
                added(graph, "mlp.add", input, x)
            }
        }
    }

    /// The parameters of the attention, in the state dict's order.
    fn parameters(&self, graph: &mut Graph) -> Parameters {
        let &Block { width, heads, variant: &Variant { window, version, .. }, .. } = self;
        let mut add = |name: &str, shape: &[usize]| {
            graph.add_parameter(&self.named(&format!("attn.{name}")), shape, Role::Weight)
        };
        let own = match version {
            Version::One => add("relative_position_bias_table", &[(2 * window - 1).pow(2), heads]),
            Version::Two => add("logit_scale", &[heads, 1, 1]),
        };
        let qkv = [add("qkv.weight", &[3 * width, width]), add("qkv.bias", &[3 * width])];
        let output = [add("proj.weight", &[width, width]), add("proj.bias", &[width])];
        let bias = match version {
            Version::One => Bias::Table(own),
            Version::Two => Bias::Network {
                scale: own,
                layers: [
                    add("cpb_mlp.0.weight", &[BIAS_WIDTH, 2]),
                    add("cpb_mlp.0.bias", &[BIAS_WIDTH]),
                    add("cpb_mlp.2.weight", &[heads, BIAS_WIDTH]),
                ],
            },
        };
        Parameters { bias, qkv, output }
    }

    fn attention(
        &self,
        graph: &mut Graph,
        x: ValueId,
        parameters: &Parameters,
    ) -> Result<ValueId, GraphError> {
        let &Block { batch, side, width, heads, .. } = self;
        let path = self.named("attn");
        let window = self.variant.window;
        let whole = side.next_multiple_of(window);
        // A single window is not shifted.
        let shift = if self.shifted && whole > window { window / 2 } else { 0 };
        let windows =
            Windows { batch: batch.clone(), count: (whole / window).pow(2), side: window, heads, width };
        let x = padded(graph, &path, x, whole - side)?;
        let x = rolled(graph, &path, "rolled", x, whole, shift)?;
        let x = parted(graph, &path, x, batch, [whole, whole, width], window)?;
        let mask = (shift > 0).then(|| mask(whole, window, shift));
        let (scale, bias, qkv) = match parameters.bias {
            Bias::Table(table) => (
                None,
                windows.bias(graph, &path, table, [windows.pairs()])?,
                self.scaled(graph, &path, x, &windows, parameters)?,
            ),
            Bias::Network { scale, layers } => (
                Some(self.scale(graph, &path, scale)?),
                self.computed_bias(graph, &path, &windows, layers)?,
                self.directions(graph, &path, x, &windows, parameters)?,
            ),
        };
        let bias = match mask {
            Some(mask) => {
                let mask = graph.add_constant(&format!("{path}.mask"), mask);
                graph.add(&format!("{path}.masked"), Op::Binary(Binary::Add), &[bias, mask])?
            }
            None => bias,
        };
        let x = windows.attend(graph, &path, qkv, scale, bias)?;
        let [weight, bias] = parameters.output;
        let x = product(graph, &format!("{path}.proj"), &[x, weight, bias])?;
        let x = joined(graph, &format!("{path}.out"), x, batch, [whole, whole, width], window)?;
        let x = rolled(graph, &path, "back", x, whole, (whole - shift) % whole)?;
        if whole == side {
            return Ok(x);
        }
        let part = |axis| Op::Shape(ShapeOp::Slice { axis, start: 0, end: side });
        let x = graph.add(&format!("{path}.rows.part"), part(1), &[x])?;
        graph.add(&format!("{path}.columns.part"), part(2), &[x])
    }

    /// Queries that are divided by the root of their length, keys, values.
    fn scaled(
        &self,
        graph: &mut Graph,
        path: &str,
        x: ValueId,
        windows: &Windows,
        parameters: &Parameters,
    ) -> Result<[ValueId; 3], GraphError> {
        let [weight, bias] = parameters.qkv;
        let x = product(graph, &format!("{path}.qkv"), &[x, weight, bias])?;
        let factor = Tensor::f32([], vec![1.0 / (windows.depth() as f32).sqrt()]);
        let factor = graph.add_constant(&format!("{path}.factor"), factor);
        windows.split(graph, path, x, |graph, path, part, x| match part {
            0 => graph.add(&format!("{path}.scaled"), Op::Binary(Binary::Mul), &[x, factor]),
            _ => Ok(x),
        })
    }

    /// Queries and keys of length 1, and values. Keys have no bias.
    fn directions(
        &self,
        graph: &mut Graph,
        path: &str,
        x: ValueId,
        windows: &Windows,
        parameters: &Parameters,
    ) -> Result<[ValueId; 3], GraphError> {
        let [weight, bias] = parameters.qkv;
        let x = product(graph, &format!("{path}.qkv"), &[x, weight])?;
        let width = self.width;
        let [q, k, v] = windows.split(graph, path, x, |graph, path, part, x| {
            if part == 1 {
                return Ok(x);
            }
            let slice = ShapeOp::Slice { axis: 0, start: part * width, end: (part + 1) * width };
            let bias = graph.add(&format!("{path}.bias"), Op::Shape(slice), &[bias])?;
            graph.add(&format!("{path}.biased"), Op::Binary(Binary::Add), &[x, bias])
        })?;
        let least = graph.add_constant(&format!("{path}.least"), Tensor::f32([], vec![LEAST_LENGTH]));
        let mut direction = |name: &str, x| {
            let path = format!("{path}.{name}");
            let length = Op::Reduce { op: Reduce::L2, axis: 4 };
            let length = graph.add(&format!("{path}.length"), length, &[x])?;
            let length = graph.add(&format!("{path}.divisor"), Op::Binary(Binary::Max), &[length, least])?;
            graph.add(&format!("{path}.direction"), Op::Binary(Binary::Div), &[x, length])
        };
        Ok([direction("q", q)?, direction("k", k)?, v])
    }

    /// exp(min(logarithm, log 100)), [heads, 1, 1].
    fn scale(&self, graph: &mut Graph, path: &str, logarithm: ValueId) -> Result<ValueId, GraphError> {
        let most = graph.add_constant(&format!("{path}.most"), Tensor::f32([], vec![100f64.ln() as f32]));
        let x = graph.add(&format!("{path}.clamped"), Op::Binary(Binary::Min), &[logarithm, most])?;
        graph.add(&format!("{path}.scale"), Op::Unary(Unary::Exp), &[x])
    }

    /// 16 sigmoid(network(distance)) of each pair of pixels: [heads, pixels, pixels].
    fn computed_bias(
        &self,
        graph: &mut Graph,
        path: &str,
        windows: &Windows,
        [first, first_bias, second]: [ValueId; 3],
    ) -> Result<ValueId, GraphError> {
        let distances = graph.add_constant(&format!("{path}.relative_coords_table"), distances(windows.side));
        let network = format!("{path}.cpb_mlp");
        let x =
            graph.add(&format!("{network}.rows"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[distances])?;
        let x = product(graph, &format!("{network}.0"), &[x, first, first_bias])?;
        let x = graph.add(&format!("{network}.1"), Op::Unary(Unary::Relu), &[x])?;
        let x = product(graph, &format!("{network}.2"), &[x, second])?;
        let x = graph.add(&format!("{network}.sigmoid"), Op::Unary(Unary::Sigmoid), &[x])?;
        let factor = graph.add_constant(&format!("{network}.factor"), Tensor::f32([], vec![16.0]));
        let x = graph.add(&format!("{network}.scaled"), Op::Binary(Binary::Mul), &[x, factor])?;
        windows.bias(graph, path, x, [windows.pairs()])
    }

    fn perceptron(&self, graph: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        let &Block { batch, side, width, .. } = self;
        let path = self.named("mlp");
        let x = graph.add(&format!("{path}.rows"), Op::Shape(ShapeOp::Flatten { axis: 3 }), &[x])?;
        let x = graph.linear(&format!("{path}.0"), x, 4 * width)?;
        let x = graph.add(&format!("{path}.1"), Op::Unary(Unary::Gelu), &[x])?;
        let x = graph.linear(&format!("{path}.3"), x, width)?;
        let shape = with_batch(batch, &[side, side, width]);
        graph.add(&format!("{path}.pixels"), Op::Shape(ShapeOp::Reshape { shape }), &[x])
    }
}

/// [N, side, side, C] with rows and columns moved up by `shift`, the first behind the last ones.
fn rolled(
    graph: &mut Graph,
    path: &str,
    name: &str,
    mut x: ValueId,
    side: usize,
    shift: usize,
) -> Result<ValueId, GraphError> {
    if shift == 0 {
        return Ok(x);
    }
    for axis in [1, 2] {
        let mut part = |name: &str, start, end| {
            let slice = Op::Shape(ShapeOp::Slice { axis, start, end });
            graph.add(&format!("{path}.{name}.axis{axis}"), slice, &[x])
        };
        let parts = [part("end", shift, side)?, part("start", 0, shift)?];
        x = graph.add(&format!("{path}.{name}.axis{axis}"), Op::Shape(ShapeOp::Concat { axis }), &parts)?;
    }
    Ok(x)
}

/// What is added to the scores of shifted windows, [windows, 1, pixels, pixels]: -100 where two pixels are neighbors only because they
/// were rolled, as in torchvision.
fn mask(side: usize, window: usize, shift: usize) -> Tensor {
    let zone = |place: usize| match place {
        _ if place < side - window => 0,
        _ if place < side - shift => 1,
        _ => 2,
    };
    let (per_side, pixels) = (side / window, window * window);
    let zone_of = |of: usize, pixel: usize| {
        let row = of / per_side * window + pixel / window;
        let column = of % per_side * window + pixel % window;
        (zone(row), zone(column))
    };
    let mut values = Vec::with_capacity(per_side * per_side * pixels * pixels);
    for of in 0..per_side * per_side {
        let zones: Vec<_> = (0..pixels).map(|pixel| zone_of(of, pixel)).collect();
        let row =
            |a: &(i32, i32)| zones.iter().map(|b| if a == b { 0.0 } else { -100.0 }).collect::<Vec<f32>>();
        values.extend(zones.iter().flat_map(row));
    }
    Tensor::f32([per_side * per_side, 1, pixels, pixels], values)
}

/// The distances of rows and columns that pairs of pixels of a window have, [1, 2 window - 1, 2 window - 1, 2]: in units of an eighth of the largest,
/// logarithmic, as torchvision's `relative_coords_table`.
fn distances(window: usize) -> Tensor {
    let most = window as f32 - 1.0;
    let of = |place: usize| {
        let x = (place as f32 - most) / most.max(1.0) * 8.0;
        (x.abs() + 1.0).log2().copysign(x) / 3.0
    };
    let places = 2 * window - 1;
    let values = (0..places).flat_map(|row| (0..places).flat_map(move |column| [of(row), of(column)]));
    Tensor::f32([1, places, places, 2], values.collect())
}

/// timm's name of a parameter.
fn timm(name: &str) -> String {
    let rules = [
        ("features.0.0.", "patch_embed.proj."),
        ("features.0.2.", "patch_embed.norm."),
        ("head.", "head.fc."),
    ];
    let spell = || {
        let (place, rest) = name.strip_prefix("features.")?.split_once('.')?;
        match place.parse::<usize>().ok()? {
            0 => None,
            place if place.is_multiple_of(2) => Some(format!("layers.{}.downsample.{rest}", place / 2)),
            place => {
                let (block, layer) = rest.split_once('.')?;
                let layer = replace_start(layer, &[("mlp.0.", "mlp.fc1."), ("mlp.3.", "mlp.fc2.")]);
                Some(format!("layers.{}.blocks.{block}.{layer}", place / 2))
            }
        }
    };
    spell().unwrap_or_else(|| replace_start(name, &rules))
}
