//! Inception-v3 (Szegedy et al., "Rethinking the Inception architecture for computer vision", 2015) as torchvision builds it,
//! without the auxiliary classifier, which only training has.

use offshoot_graph::builder::{BATCH_NORM, Conv2d};
use offshoot_graph::op::{AveragePool, BatchNormalization, Conv, Op, Pool, Pooling, ShapeOp, Unary};
use offshoot_graph::{Graph, GraphError, Interpolation, Role, ValueId};

use crate::architecture::{Architecture, Family, Resize, Sizes};
use crate::init::FanOut;
use crate::spelling::{Names, Speller};

const NORM: BatchNormalization = BatchNormalization { epsilon: 1e-3, ..BATCH_NORM };

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    name: "inception_v3",
    timm: Some("inception_v3"),
    size: 299,
    features: 2048,
    stem: &["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"],
    blocks: &[
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
        "Mixed_7a", "Mixed_7b", "Mixed_7c",
    ],
    tail: &[],
    head: "fc",
    original_dropout: 0.5,
    // torchvision changes the pictures of its published weights in the network: mean and deviation become one half.
    resize: Resize::Half(342, Interpolation::Bilinear),
    sizes: Sizes::AtLeast(75),
    fan_out: FanOut::Whole,
    family: &Inception,
};

#[derive(Debug)]
struct Inception;

impl Family for Inception {
    fn backbone(&self, graph: &mut Graph, input: ValueId, _size: usize) -> Result<ValueId, GraphError> {
        backbone(graph, input)
    }

    fn spellings(&self, _architecture: &Architecture, speller: &Speller<'_>) -> Vec<Names> {
        vec![speller.own()]
    }

    fn only_in_training(&self) -> &'static [&'static str] {
        &["AuxLogits."]
    }
}

/// Everything before the head: [N, 3, H, W] -> [N, 2048, H', W'].
fn backbone(graph: &mut Graph, input: ValueId) -> Result<ValueId, GraphError> {
    let valid = |channels, kernel| Conv2d::new(channels, kernel).pads([0; 4]);
    let mut x = basic_conv(graph, "Conv2d_1a_3x3", input, valid(32, 3).stride(2))?;
    x = basic_conv(graph, "Conv2d_2a_3x3", x, valid(32, 3))?;
    x = basic_conv(graph, "Conv2d_2b_3x3", x, Conv2d::new(64, 3))?;
    x = max_pool(graph, "maxpool1", x, [3, 2], false)?;
    x = basic_conv(graph, "Conv2d_3b_1x1", x, valid(80, 1))?;
    x = basic_conv(graph, "Conv2d_4a_3x3", x, valid(192, 3))?;
    x = max_pool(graph, "maxpool2", x, [3, 2], false)?;
    for (path, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = Branches { graph, path, x }.five_by_five(pooled)?;
    }
    x = Branches { graph, path: "Mixed_6a", x }.first_reduction()?;
    for (path, width) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = Branches { graph, path, x }.seven_by_seven(width)?;
    }
    x = Branches { graph, path: "Mixed_7a", x }.second_reduction()?;
    for path in ["Mixed_7b", "Mixed_7c"] {
        x = Branches { graph, path, x }.expanded()?;
    }
    Ok(x)
}

/// A module whose branches read `x`.
struct Branches<'a> {
    graph: &'a mut Graph,
    path: &'static str,
    x: ValueId,
}

/// Output channels, height and width of the kernel, stride; without a stride there is padding.
type Layer = (&'static str, usize, [usize; 2], usize);

impl Branches<'_> {
    /// torchvision's `InceptionA`.
    fn five_by_five(mut self, pooled: usize) -> Result<ValueId, GraphError> {
        let one = self.chain(&[("branch1x1", 64, [1, 1], 1)])?;
        let five = self.chain(&[("branch5x5_1", 48, [1, 1], 1), ("branch5x5_2", 64, [5, 5], 1)])?;
        let three = self.chain(&[
            ("branch3x3dbl_1", 64, [1, 1], 1),
            ("branch3x3dbl_2", 96, [3, 3], 1),
            ("branch3x3dbl_3", 96, [3, 3], 1),
        ])?;
        let pool = self.pooled(pooled)?;
        self.together(&[one, five, three, pool])
    }

    /// torchvision's `InceptionB`.
    fn first_reduction(mut self) -> Result<ValueId, GraphError> {
        let three = self.chain(&[("branch3x3", 384, [3, 3], 2)])?;
        let double = self.chain(&[
            ("branch3x3dbl_1", 64, [1, 1], 1),
            ("branch3x3dbl_2", 96, [3, 3], 1),
            ("branch3x3dbl_3", 96, [3, 3], 2),
        ])?;
        let pool = max_pool(self.graph, &format!("{}.branch_pool", self.path), self.x, [3, 2], false)?;
        self.together(&[three, double, pool])
    }

    /// torchvision's `InceptionC`: 7x7 as 1x7 and 7x1.
    fn seven_by_seven(mut self, width: usize) -> Result<ValueId, GraphError> {
        let one = self.chain(&[("branch1x1", 192, [1, 1], 1)])?;
        let seven = self.chain(&[
            ("branch7x7_1", width, [1, 1], 1),
            ("branch7x7_2", width, [1, 7], 1),
            ("branch7x7_3", 192, [7, 1], 1),
        ])?;
        let double = self.chain(&[
            ("branch7x7dbl_1", width, [1, 1], 1),
            ("branch7x7dbl_2", width, [7, 1], 1),
            ("branch7x7dbl_3", width, [1, 7], 1),
            ("branch7x7dbl_4", width, [7, 1], 1),
            ("branch7x7dbl_5", 192, [1, 7], 1),
        ])?;
        let pool = self.pooled(192)?;
        self.together(&[one, seven, double, pool])
    }

    /// torchvision's `InceptionD`.
    fn second_reduction(mut self) -> Result<ValueId, GraphError> {
        let three = self.chain(&[("branch3x3_1", 192, [1, 1], 1), ("branch3x3_2", 320, [3, 3], 2)])?;
        let seven = self.chain(&[
            ("branch7x7x3_1", 192, [1, 1], 1),
            ("branch7x7x3_2", 192, [1, 7], 1),
            ("branch7x7x3_3", 192, [7, 1], 1),
            ("branch7x7x3_4", 192, [3, 3], 2),
        ])?;
        let pool = max_pool(self.graph, &format!("{}.branch_pool", self.path), self.x, [3, 2], false)?;
        self.together(&[three, seven, pool])
    }

    /// torchvision's `InceptionE`: 3x3 as 1x3 and 3x1 side by side.
    fn expanded(mut self) -> Result<ValueId, GraphError> {
        let one = self.chain(&[("branch1x1", 320, [1, 1], 1)])?;
        let three = self.chain(&[("branch3x3_1", 384, [1, 1], 1)])?;
        let three = self.forked(three, ["branch3x3_2a", "branch3x3_2b"])?;
        let double = self.chain(&[("branch3x3dbl_1", 448, [1, 1], 1), ("branch3x3dbl_2", 384, [3, 3], 1)])?;
        let double = self.forked(double, ["branch3x3dbl_3a", "branch3x3dbl_3b"])?;
        let pool = self.pooled(192)?;
        self.together(&[one, three[0], three[1], double[0], double[1], pool])
    }

    fn chain(&mut self, layers: &[Layer]) -> Result<ValueId, GraphError> {
        layers.iter().try_fold(self.x, |x, layer| self.layer(x, layer))
    }

    fn forked(&mut self, x: ValueId, [flat, tall]: [&'static str; 2]) -> Result<[ValueId; 2], GraphError> {
        Ok([self.layer(x, &(flat, 384, [1, 3], 1))?, self.layer(x, &(tall, 384, [3, 1], 1))?])
    }

    fn layer(
        &mut self,
        x: ValueId,
        &(name, channels, kernel, stride): &Layer,
    ) -> Result<ValueId, GraphError> {
        let pads = if stride == 1 { kernel.map(|k| k / 2) } else { [0; 2] };
        let pads = [pads[0], pads[1], pads[0], pads[1]];
        let conv = Conv { pads, strides: [stride; 2], ..Conv::default() };
        conv_norm_relu(self.graph, &format!("{}.{name}", self.path), x, (channels, kernel), conv)
    }

    /// A 1x1 convolution of means of 3x3 pixels.
    fn pooled(&mut self, channels: usize) -> Result<ValueId, GraphError> {
        let pool = Pool { kernel: [3, 3], strides: [1, 1], pads: [1; 4], ceil_mode: false };
        let op = Op::Pool(Pooling::Average(AveragePool { pool, count_include_pad: true }));
        let means = self.graph.add(&format!("{}.means", self.path), op, &[self.x])?;
        self.layer(means, &("branch_pool", channels, [1, 1], 1))
    }

    fn together(self, branches: &[ValueId]) -> Result<ValueId, GraphError> {
        self.graph.add(&format!("{}.cat", self.path), Op::Shape(ShapeOp::Concat { axis: 1 }), branches)
    }
}

/// torchvision's `BasicConv2d`: `path.conv`, `path.bn` and ReLU.
pub(crate) fn basic_conv(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    conv: Conv2d,
) -> Result<ValueId, GraphError> {
    conv_norm_relu(graph, path, x, (conv.out_channels, [conv.kernel; 2]), conv.attributes)
}

fn conv_norm_relu(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    (out, [height, width]): (usize, [usize; 2]),
    conv: Conv,
) -> Result<ValueId, GraphError> {
    let shape = graph.value(x).shape.clone();
    let channels = shape.0.get(1).and_then(|d| d.fixed()).unwrap_or_default();
    let weight =
        graph.add_parameter(&format!("{path}.conv.weight"), &[out, channels, height, width], Role::Weight);
    let x = graph.add(&format!("{path}.conv"), Op::Conv(conv), &[x, weight])?;
    let x = graph.batch_norm(&format!("{path}.bn"), x, NORM)?;
    graph.add(&format!("{path}.relu"), Op::Unary(Unary::Relu), &[x])
}

/// The largest of squares; of what is left at the border too where `ceil_mode`.
pub(crate) fn max_pool(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    [kernel, stride]: [usize; 2],
    ceil_mode: bool,
) -> Result<ValueId, GraphError> {
    let pool = Pool { kernel: [kernel; 2], strides: [stride; 2], pads: [0; 4], ceil_mode };
    graph.add(path, Op::Pool(Pooling::Max(pool)), &[x])
}
