//! Operators on types that they have no kernels for.

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::op::{LayerNormalization, Norm, TrainOp};
use offshoot_graph::{DType, ExecuteError, Executor, Graph, Op, Shape, Tensor, ValueId, Weights};

/// What a graph of one operator on the rows of `x` as `half` is refused with.
fn refusal(half: DType, op: Op, others: impl Fn(&mut Graph) -> Vec<ValueId>) -> ExecuteError {
    let mut graph = Graph::new("types");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 8]));
    let x = graph.add("half", Op::Train(TrainOp::Cast { to: half }), &[x]).unwrap();
    let inputs: Vec<ValueId> = [x].into_iter().chain(others(&mut graph)).collect();
    let y = graph.add("operator", op, &inputs).unwrap();
    graph.add_output("y", y);
    let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
    let mut session = executor.prepare(&graph, &Weights::new()).unwrap();
    session.run(&[("x", &Tensor::zeros([2, 8]))]).unwrap_err()
}

#[test]
fn an_operator_without_kernels_for_half_types_is_refused() {
    for half in [DType::BF16, DType::F16] {
        let softmax = refusal(half, Op::Softmax { axis: 1 }, |_| Vec::new());
        let norm = Op::Norm(Norm::Layer(LayerNormalization { epsilon: 1e-5 }));
        let norm = refusal(half, norm, |graph| {
            ["weight", "bias"].map(|name| graph.add_constant(name, Tensor::zeros([8]))).to_vec()
        });
        for (error, op) in [(softmax, "Softmax"), (norm, "LayerNormalization")] {
            let wanted = format!(
                "node `operator` ({op}) cannot run on this executor: it takes f32, and `half` is {half}"
            );
            assert_eq!(error.to_string(), wanted);
        }
    }
}
