//! Random initial weights.

use std::collections::HashMap;

use offshoot_graph::op::{Binary, Gemm, Op, SequenceOp, ShapeOp};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Graph, Tensor, Value, ValueId, Weights};

/// What counts as the fan-out of a convolution in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FanOut {
    /// Output channels times kernel elements, as in torchvision.
    Whole,
    /// The same divided by the groups, as in timm's EfficientNet.
    PerGroup,
}

/// A parameter could not be initialized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parameter `{name}` of {graph} cannot be initialized: {reason}")]
pub struct InitError {
    /// The graph's name.
    pub graph: String,
    /// The parameter's name.
    pub name: String,
    /// What is missing.
    pub reason: &'static str,
}

/// How a parameter's values are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Distribution {
    Constant(f32),
    /// Mean 0 and this standard deviation.
    Normal(f32),
    /// From minus this to this.
    Uniform(f32),
}

/// See [`crate::Architecture::init_parameters`].
pub(crate) fn init_parameters<'n>(
    graph: &Graph,
    names: impl IntoIterator<Item = &'n str>,
    fan_out: FanOut,
    seed: u64,
) -> Result<Weights, InitError> {
    let readers = readers(graph);
    let parameters: HashMap<&str, ValueId> =
        graph.parameters().iter().map(|&id| (graph.value(id).name.as_str(), id)).collect();
    let init = |name: &str| {
        let error = |reason| InitError { graph: graph.name().to_string(), name: name.to_string(), reason };
        let &id = parameters.get(name).ok_or_else(|| error("there is none of this name"))?;
        let shape = graph.value(id).shape.as_fixed().ok_or_else(|| error("its shape is not known"))?;
        let distribution = readers
            .get(&id)
            .and_then(|&(op, operands, place)| distribution(graph, op, operands, place, fan_out))
            .ok_or_else(|| error("no convolution, batch norm or linear layer reads it"))?;
        Ok((name.to_string(), draw(name, shape, distribution, seed)))
    };
    names.into_iter().map(init).collect()
}

type Reader<'g> = (&'g Op, &'g [ValueId], usize);

/// The operator that reads each value first, its operands, and the value's place among them.
fn readers(graph: &Graph) -> HashMap<ValueId, Reader<'_>> {
    let mut readers = HashMap::new();
    for node in graph.nodes() {
        for (place, &input) in node.inputs.iter().enumerate() {
            readers.entry(input).or_insert((&node.op, node.inputs.as_slice(), place));
        }
    }
    readers
}

fn distribution(
    graph: &Graph,
    op: &Op,
    operands: &[ValueId],
    place: usize,
    fan_out: FanOut,
) -> Option<Distribution> {
    let weight = || Some(graph.value(*operands.get(1)?));
    let constant = |value: f32| Some(Distribution::Constant(value));
    if let Op::Conv(conv) = op {
        let groups = if fan_out == FanOut::PerGroup { conv.group } else { 1 };
        return match place {
            // Kaiming normal: gain sqrt(2) for ReLU.
            1 => Some(Distribution::Normal((2.0 / (fan_outputs(weight()?)? / groups as f32)).sqrt())),
            2 => constant(0.0),
            _ => None,
        };
    }
    if let Op::Gemm(gemm) = op {
        let uniform = Distribution::Uniform(1.0 / fan_inputs(weight()?, *gemm)?.sqrt());
        return (place > 0).then_some(uniform);
    }
    // (x, weight, bias), and of a batch norm the running mean and variance
    if matches!(op, Op::Norm(_)) {
        return match place {
            1 | 4 => constant(1.0),
            2 | 3 => constant(0.0),
            _ => None,
        };
    }
    // Tokens, positions, and tables of biases for pairs of pixels.
    let table = Op::Sequence(SequenceOp::Gather);
    if matches!(op, Op::Shape(ShapeOp::Expand { .. }) | Op::Binary(Binary::Add)) || *op == table {
        return Some(Distribution::Normal(0.02));
    }
    // The bias of queries and values, a slice each.
    if matches!(op, Op::Shape(ShapeOp::Slice { .. })) {
        return constant(0.0);
    }
    // The logarithm of a scale of cosines, which is bounded.
    if matches!(op, Op::Binary(Binary::Min)) {
        return constant(10f32.ln());
    }
    // The scale of a branch: nearly nothing of it at first.
    matches!(op, Op::Binary(Binary::Mul)).then_some(Distribution::Constant(1e-6))
}

/// Output channels times kernel elements of a convolution's weight [K, C / group, R, S].
fn fan_outputs(weight: &Value) -> Option<f32> {
    let [k, _, r, s] = weight.shape.as_fixed()?.try_into().ok()?;
    Some(k as f32 * r as f32 * s as f32)
}

/// Input features of a linear layer's weight.
fn fan_inputs(weight: &Value, gemm: Gemm) -> Option<f32> {
    let [rows, columns] = weight.shape.as_fixed()?.try_into().ok()?;
    Some(if gemm.trans_b { columns as f32 } else { rows as f32 })
}

fn draw(name: &str, shape: Vec<usize>, distribution: Distribution, seed: u64) -> Tensor {
    // A stream by name: adding a parameter does not change the others.
    let mut random = Random::new(seed, 0, stable_hash(name), Purpose::Init);
    let elements = shape.iter().product();
    let mut sample = || match distribution {
        Distribution::Constant(value) => value,
        Distribution::Normal(deviation) => deviation * random.normal(),
        Distribution::Uniform(bound) => random.range(-bound, bound),
    };
    Tensor::f32(shape, (0..elements).map(|_| sample()).collect())
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BuildOptions, Head, find};

    fn graph(name: &str, classes: usize, head: &str) -> Graph {
        let head: Head = head.parse().unwrap();
        find(name).unwrap().build(&BuildOptions { classes, size: 32, head: Some(head) }).unwrap()
    }

    fn init(name: &str, graph: &Graph, parameter: &str, seed: u64) -> Vec<f32> {
        let weights = find(name).unwrap().init_parameters(graph, [parameter], seed).unwrap();
        weights[parameter].as_f32().unwrap().to_vec()
    }

    fn deviation(values: &[f32]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // The test vectors of the reference implementation.
        assert_eq!(stable_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let (ten, mlp) = (graph("resnet18", 10, "linear"), graph("resnet18", 3, "mlp:8"));
        let conv = init("resnet18", &ten, "conv1.weight", 1);
        assert_eq!(conv, init("resnet18", &mlp, "conv1.weight", 1));
        assert_ne!(conv, init("resnet18", &ten, "conv1.weight", 2));
        let [a, b] = ["layer1.0.conv1.weight", "layer1.0.conv2.weight"].map(|p| init("resnet18", &ten, p, 1));
        assert_eq!(a.len(), b.len());
        assert_ne!(a, b);
    }

    #[test]
    fn distributions_are_pytorchs() {
        let resnet = graph("resnet18", 1000, "linear");
        let close = |values: &[f32], wanted: f64| {
            let found = deviation(values);
            assert!((found / wanted - 1.0).abs() < 0.02, "{found} for {wanted}");
        };
        close(&init("resnet18", &resnet, "layer2.0.conv2.weight", 3), (2.0 / (128.0 * 9.0f64)).sqrt());
        close(&init("resnet18", &resnet, "layer2.0.downsample.0.weight", 3), (2.0 / 128.0f64).sqrt());
        let bound = 1.0 / 512f32.sqrt();
        for parameter in ["fc.weight", "fc.bias"] {
            let values = init("resnet18", &resnet, parameter, 3);
            assert!(values.iter().all(|x| x.abs() <= bound));
            assert!((deviation(&values) * 3f64.sqrt() / f64::from(bound) - 1.0).abs() < 0.05);
        }
        for (parameter, value) in
            [("bn1.weight", 1.0), ("bn1.bias", 0.0), ("bn1.running_mean", 0.0), ("bn1.running_var", 1.0)]
        {
            assert_eq!(init("resnet18", &resnet, parameter, 3), [value; 64]);
        }
    }

    #[test]
    fn depthwise_convolutions_follow_their_library() {
        let mobilenet = graph("mobilenet_v2", 10, "linear");
        let values = init("mobilenet_v2", &mobilenet, "features.17.conv.1.0.weight", 0);
        assert!((deviation(&values) / (2.0 / (960.0 * 9.0f64)).sqrt() - 1.0).abs() < 0.03);
        let lite = graph("efficientnet_lite0", 10, "linear");
        let values = init("efficientnet_lite0", &lite, "blocks.6.0.conv_dw.weight", 0);
        assert!((deviation(&values) / (2.0 / 9.0f64).sqrt() - 1.0).abs() < 0.03);
    }

    #[test]
    fn a_name_that_is_no_parameter_is_an_error() {
        let resnet = graph("resnet18", 10, "linear");
        let error = find("resnet18").unwrap().init_parameters(&resnet, ["relu"], 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the parameter `relu` of resnet18 cannot be initialized: there is none of this name"
        );
    }
}
