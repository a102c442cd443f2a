//! The graph with its QuantizeLinear and DequantizeLinear.

use std::collections::{BTreeSet, HashMap};

use offshoot_graph::passes::{freeze, prune};
use offshoot_graph::{
    DType, Data, Graph, GraphError, Model, Node, Op, Parameter, Role, Source, Tensor, ValueId, Weights,
};

use crate::calibrate::Calibration;
use crate::error::QuantError;
use crate::range::Range;
use crate::scheme::Affine;
use crate::select::{Network, Part};
use crate::weights::{least_scales, mean_shift, round_bias, round_weight};

/// `network` in integers but for the operators in `kept`: the form that `offshoot_graph::op` describes, with weights of i8
/// under the names that they had.
///
/// # Errors
/// When `kept` names an operator that is not quantized anyway.
pub fn quantize(
    network: &Network,
    calibration: &Calibration,
    kept: &BTreeSet<String>,
) -> Result<Model, QuantError> {
    Rewriting::new(network, calibration, kept, Weight::Rounded)?.run()
}

/// `network` with all that [`quantize`] rounds rounded at each run: weights and biases are the floats that they were, and can
/// be used for quantization-aware training. The scales stay as they are.
///
/// # Errors
/// As [`quantize`].
pub fn fake_quantize(
    network: &Network,
    calibration: &Calibration,
    kept: &BTreeSet<String>,
) -> Result<Model, QuantError> {
    Rewriting::new(network, calibration, kept, Weight::Float)?.run()
}

/// What becomes of weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Integers, dequantized at each run.
    Rounded,
    /// Floats, rounded at each run.
    Float,
}

struct Rewriting<'a> {
    network: &'a Network,
    calibration: &'a Calibration,
    kept: &'a BTreeSet<String>,
    weight: Weight,
    rounded: Vec<bool>,
    new: Graph,
    weights: Weights,
    /// What stands for each value of the old graph where it is read.
    map: Vec<Option<ValueId>>,
    /// The scale and the zero point of each value that others take theirs from.
    scales: HashMap<ValueId, [ValueId; 2]>,
    /// Zero points that are all zero, by type and number: one constant for all channels of that number.
    zeros: HashMap<(DType, usize), ValueId>,
}

impl<'a> Rewriting<'a> {
    fn new(
        network: &'a Network,
        calibration: &'a Calibration,
        kept: &'a BTreeSet<String>,
        weight: Weight,
    ) -> Result<Rewriting<'a>, QuantError> {
        let operators = network.operators();
        if let Some(name) = kept.iter().find(|name| !operators.contains(name)) {
            return Err(QuantError::Unknown { name: name.clone() });
        }
        Ok(Rewriting {
            network,
            calibration,
            kept,
            weight,
            rounded: network.rounded(kept),
            new: Graph::new(network.graph.name()),
            weights: Weights::new(),
            map: vec![None; network.graph.values().len()],
            scales: HashMap::new(),
            zeros: HashMap::new(),
        })
    }

    fn run(mut self) -> Result<Model, QuantError> {
        let old = &self.network.graph;
        for (id, value) in old.values() {
            let copy = match &value.source {
                Source::Input => Some(self.new.add_input(&value.name, value.dtype, value.shape.clone())),
                Source::Constant(tensor) => Some(self.new.add_constant(&value.name, tensor.clone())),
                Source::Parameter(_) | Source::Node { .. } => None,
            };
            self.map[id.index()] = copy;
        }
        for &input in old.inputs() {
            self.round(input)?;
        }
        for (node, &part) in old.nodes().iter().zip(&self.network.parts) {
            self.node(node, part)?;
        }
        for (name, id) in old.outputs() {
            let id = self.read(*id);
            self.new.add_output(name, id);
        }
        let mut graph = prune(&self.new)?;
        freeze(&mut graph, |_| self.weight == Weight::Rounded);
        self.weights.retain(|name, _| graph.find_parameter(name).is_some());
        Ok(Model { graph, weights: self.weights, metadata: self.network.metadata.clone() })
    }

    /// What stands for a value; a parameter is copied when it is read first.
    fn read(&mut self, id: ValueId) -> ValueId {
        if let Some(new) = self.map[id.index()] {
            return new;
        }
        let value = self.network.graph.value(id);
        let role = match value.source {
            Source::Parameter(Parameter { role, .. }) => role,
            Source::Input | Source::Constant(_) | Source::Node { .. } => Role::Weight,
        };
        let tensor = self.network.weights.get(&value.name).cloned();
        let tensor = tensor.expect("folding has checked the weights");
        let new = self.parameter(&value.name, tensor, role);
        self.map[id.index()] = Some(new);
        new
    }

    fn parameter(&mut self, name: &str, tensor: Tensor, role: Role) -> ValueId {
        let id = self.new.add_typed_parameter(name, tensor.dtype(), tensor.shape(), role);
        self.weights.insert(self.new.value(id).name.clone(), tensor);
        id
    }

    fn node(&mut self, node: &Node, part: Part) -> Result<(), QuantError> {
        let inputs = match part {
            Part::Weighted if !self.kept.contains(&node.name) => self.weighted_inputs(node)?,
            Part::Float | Part::Weighted | Part::Computed | Part::Moved | Part::Follows => {
                node.inputs.iter().map(|&id| self.read(id)).collect()
            }
        };
        let outputs = self.new.add_node(&node.name, node.op.clone(), &inputs)?;
        for (&old, new) in node.outputs.iter().zip(outputs) {
            self.map[old.index()] = Some(new);
            self.round(old)?;
        }
        Ok(())
    }

    /// Puts a Q and a DQ behind a value that is to be rounded.
    fn round(&mut self, id: ValueId) -> Result<(), QuantError> {
        if !self.rounded[id.index()] {
            return Ok(());
        }
        let name = self.network.graph.value(id).name.clone();
        let [scale, zero] = self.scales_of(id);
        let x = self.read(id);
        self.map[id.index()] = Some(self.pair(&name, x, scale, zero, 0)?);
        Ok(())
    }

    fn pair(
        &mut self,
        name: &str,
        x: ValueId,
        scale: ValueId,
        zero: ValueId,
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        let q = self.new.add(&format!("{name}.quantized"), Op::QuantizeLinear { axis }, &[x, scale, zero])?;
        self.new.add(&format!("{name}.dequantized"), Op::DequantizeLinear { axis }, &[q, scale, zero])
    }

    fn affine(&self, id: ValueId) -> Affine {
        let origin = self.network.graph.value(self.network.origin(id));
        let range = self.calibration.ranges.get(&origin.name).copied();
        self.network.scheme.activations.affine(range.unwrap_or(Range { low: 0.0, high: 0.0 }))
    }

    /// The scale and the zero point that a value is rounded under.
    fn scales_of(&mut self, id: ValueId) -> [ValueId; 2] {
        let origin = self.network.origin(id);
        if let Some(&scales) = self.scales.get(&origin) {
            return scales;
        }
        let Affine { scale, zero } = self.affine(id);
        let name = &self.network.graph.value(origin).name;
        let scale = self.new.add_constant(&format!("{name}.scale"), Tensor::f32([], vec![scale]));
        let zero = self.network.scheme.activations.zero_point(zero);
        let zero = self.new.add_constant(&format!("{name}.zero_point"), zero);
        self.scales.insert(origin, [scale, zero]);
        [scale, zero]
    }

    /// x, the weight and the bias of a convolution or product.
    fn weighted_inputs(&mut self, node: &Node) -> Result<Vec<ValueId>, QuantError> {
        let network = self.network;
        let scheme = network.scheme;
        let value = |i: usize| node.inputs.get(i).map(|&id| network.graph.value(id));
        let stored = |i: usize| value(i).and_then(|v| network.weights.get(&v.name));
        let weight = stored(1).expect("a node with a weight has one that folding has checked");
        let mut bias = stored(2).and_then(Tensor::as_f32).map(<[f32]>::to_vec);
        let (axis, group) = if let Op::Conv(conv) = &node.op {
            (0, conv.group)
        } else if let Op::Gemm(gemm) = &node.op {
            (usize::from(!gemm.trans_b), 1)
        } else {
            unreachable!("{} has no weight", node.op.name())
        };
        let activation = self.affine(node.inputs[0]).scale;
        let least = match &bias {
            Some(bias) if scheme.integer_bias => least_scales(bias, activation),
            Some(_) | None => Vec::new(),
        };
        let rounded =
            round_weight(weight, axis, scheme.weights, &least).expect("weights in integers were f32");
        let weight_name = value(1).map_or_else(String::new, |v| v.name.clone());
        let mut inputs = vec![self.read(node.inputs[0])];
        inputs.push(self.weight(&weight_name, weight, &rounded.integers, &rounded.scales, axis)?);
        if self.weight == Weight::Float {
            inputs.extend(node.inputs[2..].iter().map(|&id| self.read(id)));
            return Ok(inputs);
        }
        if scheme.bias_correction
            && let Some(means) = self.calibration.means.get(&network.graph.value(node.inputs[0]).name)
        {
            let shift = mean_shift(weight, &rounded, axis, group, means);
            let bias = bias.get_or_insert_with(|| vec![0.0; rounded.scales.len()]);
            bias.iter_mut().zip(shift).for_each(|(b, s)| *b = (f64::from(*b) - s) as f32);
        }
        if let Some(bias) = bias {
            let path = weight_name.strip_suffix(".weight").unwrap_or(&weight_name);
            let name = value(2).map_or_else(|| format!("{path}.bias"), |v| v.name.clone());
            inputs.push(self.bias(&name, bias, activation, &rounded.scales)?);
        }
        Ok(inputs)
    }

    /// As many zero points of i8 or i32 that are zero.
    fn zeros(&mut self, dtype: DType, places: usize) -> ValueId {
        if let Some(&zeros) = self.zeros.get(&(dtype, places)) {
            return zeros;
        }
        let data = if dtype == DType::I8 { Data::I8(vec![0; places]) } else { Data::I32(vec![0; places]) };
        let tensor = Tensor::new([places], data).expect("one for each place");
        let zeros = self.new.add_constant(&format!("zeros.{dtype}.{places}"), tensor);
        self.zeros.insert((dtype, places), zeros);
        zeros
    }

    /// A weight behind its DequantizeLinear.
    fn weight(
        &mut self,
        name: &str,
        float: &Tensor,
        integers: &Tensor,
        scales: &[f32],
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        let places = scales.len();
        let scale = self.new.add_constant(&format!("{name}.scale"), Tensor::f32([places], scales.to_vec()));
        let zero = self.zeros(DType::I8, places);
        match self.weight {
            Weight::Float => {
                let w = self.parameter(name, float.clone(), Role::Weight);
                self.pair(name, w, scale, zero, axis)
            }
            Weight::Rounded => {
                let w = self.parameter(name, integers.clone(), Role::Weight);
                let op = Op::DequantizeLinear { axis };
                self.new.add(&format!("{name}.dequantized"), op, &[w, scale, zero])
            }
        }
    }

    /// A bias, behind its DequantizeLinear where it becomes integers.
    fn bias(
        &mut self,
        name: &str,
        bias: Vec<f32>,
        activation: f32,
        weight: &[f32],
    ) -> Result<ValueId, GraphError> {
        let places = bias.len();
        if !self.network.scheme.integer_bias {
            return Ok(self.parameter(name, Tensor::f32([places], bias), Role::Weight));
        }
        let (integers, scales) = round_bias(&bias, activation, weight);
        let scale = self.new.add_constant(&format!("{name}.scale"), Tensor::f32([places], scales));
        let zero = self.zeros(DType::I32, places);
        let integers = Tensor::new([places], Data::I32(integers)).expect("one for each place");
        let b = self.parameter(name, integers, Role::Weight);
        self.new.add(&format!("{name}.dequantized"), Op::DequantizeLinear { axis: 0 }, &[b, scale, zero])
    }
}
