//! Every operator, forward and backward, on every SIMD path and any number of threads, against PyTorch in double
//! precision (`scripts/golden/ops.py`).

use offshoot_cpu::{CpuExecutor, Isa};
use offshoot_graph::op::{Binary, Reduce, Unary};
use offshoot_graph::passes::{differentiate, expand, gradient_output, unroll};
use offshoot_graph::{DType, Graph, Op, Role, Shape, Tensor, ValueId, Weights};
use serde_json::Value;

use crate::golden::{Golden, Report, add_operator, executors, run_on_all, strings};

/// Relative to the largest element.
const FORWARD: f32 = 2e-6;
const GRADIENT: f32 = 5e-6;
/// The golden files with operators.
const FILES: [&str; 4] = ["ops", "modern", "functions", "composites"];

/// A case's graph, and what it runs with.
struct Built {
    graph: Graph,
    operands: Vec<ValueId>,
    weights: Weights,
    inputs: Vec<(String, Tensor)>,
}

impl Built {
    fn inputs(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }
}

/// A graph with the case's inputs, those in `parameters` as parameters.
fn build(golden: &Golden, case: &Value, trainable: &[&str], frozen: &[&str]) -> Built {
    let name = case["name"].as_str().unwrap();
    let mut built =
        Built { graph: Graph::new(name), operands: Vec::new(), weights: Weights::new(), inputs: Vec::new() };
    for input in strings(&case["inputs"]) {
        let tensor = golden.get(&format!("{name}/in/{input}")).clone();
        let id = if trainable.contains(&input) || frozen.contains(&input) {
            let role = if trainable.contains(&input) { Role::Weight } else { Role::Buffer };
            built.weights.insert(input.to_string(), tensor.clone());
            built.graph.add_parameter(input, tensor.shape(), role)
        } else {
            built.inputs.push((input.to_string(), tensor.clone()));
            built.graph.add_input(input, tensor.dtype(), Shape::fixed(tensor.shape()))
        };
        built.operands.push(id);
    }
    built
}

#[test]
fn every_function_has_a_case() {
    let golden = Golden::load("functions");
    let tested: Vec<&str> = golden.cases.iter().map(|case| case["op"].as_str().unwrap()).collect();
    let names = Unary::ALL.iter().map(|u| u.row().name).chain(Binary::ALL.iter().map(|b| b.row().onnx));
    let names = names.chain(Reduce::ALL.iter().map(|r| r.row().onnx)).chain(["Gather", "Where"]);
    let missing: Vec<&str> = names.filter(|name| !tested.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn forward_agrees_with_pytorch() {
    let (executors, mut report) = (executors(), Report::default());
    for golden in FILES.map(Golden::load) {
        forward(&golden, &executors, &mut report);
    }
    report.finish();
}

fn forward(golden: &Golden, executors: &[(Isa, Vec<CpuExecutor>)], report: &mut Report) {
    for case in &golden.cases {
        let name = case["name"].as_str().unwrap();
        // As in a network: the first operand comes from outside, the others are frozen.
        let frozen: Vec<&str> = strings(&case["inputs"])
            .into_iter()
            .skip(1)
            .filter(|i| !matches!(*i, "labels" | "indices"))
            .collect();
        let mut built = build(golden, case, &frozen, &[]);
        offshoot_graph::passes::freeze(&mut built.graph, |_| true);
        let (op, attributes) = (case["op"].as_str().unwrap(), &case["attributes"]);
        let outputs = add_operator(&mut built.graph, op, attributes, &built.operands).unwrap();
        for (i, y) in outputs.iter().enumerate() {
            built.graph.add_output(&i.to_string(), *y);
        }
        for (isa, executors) in executors {
            let what = format!("{name} on {isa:?}");
            let found = run_on_all(executors, &built.graph, &built.inputs(), &built.weights, &what);
            for (i, y) in &found {
                let wanted = golden.get(&format!("{name}/out/{i}"));
                report.compare(y, wanted, FORWARD, &format!("{what}, output {i}"));
            }
        }
    }
}

#[test]
fn gradients_agree_with_pytorch() {
    let (executors, mut report) = (executors(), Report::default());
    for golden in FILES.map(Golden::load) {
        gradients(&golden, &executors, &mut report);
    }
    report.finish();
}

fn gradients(golden: &Golden, executors: &[(Isa, Vec<CpuExecutor>)], report: &mut Report) {
    for case in golden.cases.iter().filter(|c| !strings(&c["gradients"]).is_empty()) {
        let name = case["name"].as_str().unwrap();
        let wanted = strings(&case["gradients"]);
        let running: Vec<&str> =
            strings(&case["inputs"]).into_iter().filter(|i| matches!(*i, "mean" | "var")).collect();
        let mut built = build(golden, case, &wanted, &running);
        let (op, attributes) = (case["op"].as_str().unwrap(), &case["attributes"]);
        let outputs = add_operator(&mut built.graph, op, attributes, &built.operands).unwrap();
        let functional = golden.get(&format!("{name}/functional")).clone();
        let shape = Shape::fixed(functional.shape());
        let coefficients = built.graph.add_input("functional", DType::F32, shape);
        built.inputs.push(("functional".into(), functional));
        let loss = built.graph.add("loss", Op::Binary(Binary::Mul), &[outputs[0], coefficients]).unwrap();
        built.graph.add_output("loss", loss);
        let parts = unroll(&expand(&built.graph, |_| true).unwrap(), |_| true).unwrap();
        let loss = parts.output("loss").unwrap();
        let gradients = differentiate(parts, loss).unwrap();
        built.graph = gradients.graph;
        for (parameter, gradient) in gradients.gradients {
            let output = gradient_output(&built.graph.value(parameter).name);
            built.graph.add_output(&output, gradient);
        }
        assert_eq!(built.graph.outputs().len(), 1 + wanted.len(), "{name}");
        for (isa, executors) in executors {
            let what = format!("{name} on {isa:?}");
            let found = run_on_all(executors, &built.graph, &built.inputs(), &built.weights, &what);
            for input in &wanted {
                let wanted = golden.get(&format!("{name}/grad/{input}"));
                let what = format!("{what}, gradient of {input}");
                report.compare(&found[&gradient_output(input)], wanted, GRADIENT, &what);
            }
        }
    }
}
