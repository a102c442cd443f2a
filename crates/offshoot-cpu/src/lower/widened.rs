//! Casts of bf16 to f32 in front of products: tiles multiply the bf16 themselves, with the same products and sums in f32.

use std::collections::HashMap;

use offshoot_graph::op::TrainOp;
use offshoot_graph::{DType, Op, ValueId};

use super::{Graph, Node};
use crate::kernels::simd::Isa;

/// The casts of a graph.
#[derive(Default)]
pub(super) struct Widened {
    /// What each was cast from.
    from: HashMap<ValueId, ValueId>,
    /// How many of its readers are no products on tiles.
    others: HashMap<ValueId, usize>,
}

impl Widened {
    /// Those of `graph`, where `isa` has tiles.
    pub(super) fn new(graph: &Graph, isa: Isa) -> Widened {
        let mut all = Widened::default();
        if !isa.has_tiles() {
            return all;
        }
        let uses = graph.use_counts();
        for node in graph.nodes() {
            let cast = matches!(node.op.plain(), Some(Op::Train(TrainOp::Cast { to: DType::F32 })));
            if cast && graph.value(node.inputs[0]).dtype == DType::BF16 {
                all.from.insert(node.outputs[0], node.inputs[0]);
                all.others.insert(node.outputs[0], uses[node.outputs[0].index()]);
            }
        }
        for node in graph.nodes() {
            if all.operands(node).is_some() {
                for input in &node.inputs {
                    all.others.entry(*input).and_modify(|others| *others -= 1);
                }
            }
        }
        all
    }

    /// What the operands of a product were cast from, if both were.
    pub(super) fn operands(&self, node: &Node) -> Option<[ValueId; 2]> {
        let (true, [a, b]) = (matches!(node.op.plain(), Some(Op::Gemm(_))), &node.inputs[..]) else {
            return None;
        };
        Some([*self.from.get(a)?, *self.from.get(b)?])
    }

    /// Whether nothing but products on tiles reads the cast that gives `value`.
    pub(super) fn is_needless(&self, value: ValueId) -> bool {
        self.others.get(&value) == Some(&0)
    }
}
