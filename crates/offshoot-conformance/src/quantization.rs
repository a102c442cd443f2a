//! QuantizeLinear and DequantizeLinear against ONNX Runtime, and the gradient of the pair against PyTorch
//! (`scripts/golden/quantize.py`). Both are exact.

use offshoot_graph::op::Binary;
use offshoot_graph::passes::differentiate;
use offshoot_graph::{DType, Data, Graph, Op, Role, Shape, Tensor, ValueId, Weights};
use serde_json::Value;

use crate::golden::Golden;
use crate::{Executors, Report};

/// A case's tensors and axis.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    axis: usize,
    op: &'a str,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, case: &'a Value) -> Case<'a> {
        let axis = case["axis"].as_u64().unwrap_or(0) as usize;
        Case { golden, name: case["name"].as_str().unwrap(), axis, op: case["op"].as_str().unwrap() }
    }

    fn tensor(&self, key: &str) -> &'a Tensor {
        self.golden.get(&format!("{}/{key}", self.name))
    }

    /// The scale and the zero point as constants.
    fn scales(&self, graph: &mut Graph) -> [ValueId; 2] {
        ["scale", "zero"].map(|key| graph.add_constant(key, self.tensor(key).clone()))
    }
}

/// The integers of `q` as floats: what DequantizeLinear gives with scale 1 and zero point 0.
fn as_floats(graph: &mut Graph, q: ValueId) -> ValueId {
    let zero = match graph.value(q).dtype {
        DType::U8 => Data::U8(vec![0]),
        DType::I8 => Data::I8(vec![0]),
        other => panic!("{other}"),
    };
    let one = graph.add_constant("one", Tensor::f32([], vec![1.0]));
    let zero = graph.add_constant("none", Tensor::new([], zero).unwrap());
    graph.add("shown", Op::DequantizeLinear { axis: 0 }, &[q, one, zero]).unwrap()
}

fn floats(tensor: &Tensor) -> Tensor {
    let floats = match tensor.data() {
        Data::F32(v) => v.clone(),
        Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
        other => panic!("{:?}", other.dtype()),
    };
    Tensor::f32(tensor.shape(), floats)
}

/// The results.
pub(crate) fn both(executors: Executors<'_>, report: &mut Report) {
    let golden = Golden::load("quantize");
    assert!(golden.cases.len() > 30);
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let x = case.tensor("x");
        // The operand comes from outside, or is a weight that is known beforehand.
        for frozen in [false, true] {
            let mut graph = Graph::new(case.name);
            let mut weights = Weights::new();
            let id = if frozen {
                weights.insert("x".into(), x.clone());
                graph.add_typed_parameter("x", x.dtype(), x.shape(), Role::Buffer)
            } else {
                graph.add_input("x", x.dtype(), Shape::fixed(x.shape()))
            };
            let [scale, zero] = case.scales(&mut graph);
            let y = if case.op == "QuantizeLinear" {
                let q = graph.add("q", Op::QuantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap();
                assert_eq!(graph.value(q).dtype, case.tensor("zero").dtype());
                as_floats(&mut graph, q)
            } else {
                graph.add("y", Op::DequantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap()
            };
            graph.add_output("y", y);
            let inputs = if frozen { vec![] } else { vec![("x", x)] };
            let found = executors.run(&graph, &inputs, &weights, case.name, report);
            if let Some(y) = found.get("y") {
                report.compare(y, &floats(case.tensor("y")), 0.0, case.name);
            }
        }
    }
}

/// The gradients.
pub(crate) fn gradient(executors: Executors<'_>, report: &mut Report) {
    let golden = Golden::load("quantize");
    let mut blocked = 0;
    for case in golden.cases.iter().filter(|c| c["op"] == "QuantizeLinear") {
        let case = Case::new(&golden, case);
        let x = case.tensor("x");
        let mut graph = Graph::new(case.name);
        let id = graph.add_parameter("x", x.shape(), Role::Weight);
        let [scale, zero] = case.scales(&mut graph);
        let q = graph.add("q", Op::QuantizeLinear { axis: case.axis }, &[id, scale, zero]).unwrap();
        let y = graph.add("y", Op::DequantizeLinear { axis: case.axis }, &[q, scale, zero]).unwrap();
        let dy = graph.add_input("dy", DType::F32, Shape::fixed(x.shape()));
        let loss = graph.add("loss", Op::Binary(Binary::Mul), &[y, dy]).unwrap();
        let gradients = differentiate(graph, loss).unwrap();
        let mut graph = gradients.graph;
        graph.add_output("dx", gradients.gradients[0].1);
        let weights = Weights::from([("x".to_string(), x.clone())]);
        let wanted = case.tensor("dx");
        blocked += wanted.as_f32().unwrap().iter().filter(|&&d| d == 0.0).count();
        let found = executors.run(&graph, &[("dy", case.tensor("dy"))], &weights, case.name, report);
        if let Some(dx) = found.get("dx") {
            report.compare(dx, wanted, 0.0, case.name);
        }
    }
    assert!(blocked > 100, "the cases saturate");
}
