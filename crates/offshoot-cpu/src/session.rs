//! A prepared graph: its plans by size, its packed filters, its buffers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use offshoot_graph::{
    Bindings, DType, Dim, ExecuteError, Graph, Operator, Session, StepTime, Tensor, TensorView, ValueId,
    Weights,
};

use crate::CpuExecutor;
use crate::buffer::Buffer;
use crate::kernels::ConvShape;
use crate::kernels::conv::PackedFilter;
use crate::kernels::int8::conv::ByteFilter;
use crate::kernels::int8::depthwise::DepthwiseFilter;
use crate::kernels::simd::Isa;
use crate::lower::lower;
use crate::optimize::{CpuOp, optimize, unoptimized};
use crate::plan::{Place, Plan, Scratch};

/// Plans kept at once: the whole batches, the last smaller one, and a few more.
const PLANS: usize = 4;

/// The packed form of frozen filters.
#[derive(Default)]
pub(crate) struct Filters {
    /// By its parameter, the direction, whether it is for Winograd's algorithm, and the type that its weights were rounded
    /// to.
    pub(crate) floats: HashMap<(ValueId, Direction, bool, DType), Arc<PackedFilter>>,
    /// Filters of integers, by the result.
    pub(crate) integers: HashMap<ValueId, IntegerFilter>,
    /// Tensors that were computed of frozen weights: depthwise filters, and floats of integers.
    pub(crate) tensors: HashMap<(ValueId, DType), Tensor>,
}

/// A packed filter of integers.
#[derive(Clone)]
pub(crate) enum IntegerFilter {
    /// Of a dense or grouped convolution.
    Dense(Arc<ByteFilter>),
    /// Of a depthwise one.
    Depthwise(Arc<DepthwiseFilter>),
}

impl IntegerFilter {
    /// Whether it is packed for `shape` on `isa`.
    pub(crate) fn serves(&self, isa: Isa, shape: &ConvShape) -> bool {
        match self {
            IntegerFilter::Dense(filter) => filter.serves(isa, shape),
            IntegerFilter::Depthwise(filter) => filter.serves(shape),
        }
    }
}

/// What a filter is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// The convolution itself.
    Forward,
    /// The gradient of its input.
    Backward,
}

/// See [`Session`].
pub(crate) struct CpuSession {
    graph: Graph<CpuOp>,
    executor: CpuExecutor,
    plans: Vec<(Bindings, Plan)>,
    /// Those of all sessions that were forked of one. The lock is held while a plan is made, and not while it runs.
    filters: Arc<Mutex<Filters>>,
    arena: Buffer,
    scratch: Scratch,
    /// The plan of the last run, if it went well.
    last: Option<usize>,
    profile: Vec<StepTime>,
}

impl CpuSession {
    /// Checks that `weights` has every parameter of `graph`.
    pub(crate) fn new(
        graph: &Graph,
        weights: &Weights,
        executor: &CpuExecutor,
    ) -> Result<CpuSession, ExecuteError> {
        parameters(graph, weights)?;
        let graph = if executor.unoptimized { unoptimized(graph)? } else { optimize(graph)? };
        Ok(CpuSession::with_filters(graph, executor.clone(), Arc::default()))
    }

    fn with_filters(graph: Graph<CpuOp>, executor: CpuExecutor, filters: Arc<Mutex<Filters>>) -> CpuSession {
        CpuSession {
            graph,
            executor,
            plans: Vec::new(),
            filters,
            arena: Buffer::default(),
            scratch: Scratch::default(),
            last: None,
            profile: Vec::new(),
        }
    }

    /// The place of the plan for `bindings`, made now if it is not there. The least recently made one is dropped for it.
    fn plan(&mut self, bindings: Bindings, parameters: &[&Tensor]) -> Result<usize, ExecuteError> {
        if let Some(found) = self.plans.iter().position(|(b, _)| *b == bindings) {
            return Ok(found);
        }
        // (What a panic leaves there is whole: filters are added one at a time.)
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = lower(&self.graph, &bindings, self.executor.isa, parameters, &mut filters)?;
        drop(filters);
        if self.plans.len() == PLANS {
            self.plans.remove(0);
        }
        self.plans.push((bindings, plan));
        Ok(self.plans.len() - 1)
    }
}

impl Session for CpuSession {
    fn run(&mut self, inputs: &[(&str, &Tensor)], weights: &Weights) -> Result<(), ExecuteError> {
        self.last = None;
        let (inputs, bindings) = bind(&self.graph, inputs)?;
        let parameters = parameters(&self.graph, weights)?;
        let executor = self.executor.clone();
        executor.run(|| {
            let index = self.plan(bindings, &parameters)?;
            let CpuSession { plans, arena, scratch, profile, executor, .. } = self;
            profile.clear();
            let profile = executor.profile.then_some(profile);
            plans[index].1.run(arena, scratch, &inputs, &parameters, profile)?;
            self.last = Some(index);
            Ok(())
        })
    }

    fn fork(&self) -> Box<dyn Session> {
        let (graph, executor) = (self.graph.clone(), self.executor.clone());
        Box::new(CpuSession::with_filters(graph, executor, Arc::clone(&self.filters)))
    }

    fn output(&self, name: &str) -> Option<TensorView<'_>> {
        let (_, plan) = &self.plans[self.last?];
        let (_, shape, id) = plan.outputs.iter().find(|(n, _, _)| n == name)?;
        match plan.places[id.0] {
            Place::Arena(region) => Some(TensorView { shape, data: region.of(self.arena.get(plan.bytes)) }),
            // Outputs are copied where they would be somebody else's.
            Place::Input(_) | Place::Parameter(_) | Place::Constant(_) => None,
        }
    }

    fn workspace_bytes(&self) -> usize {
        self.last.map_or(0, |last| self.plans[last].1.bytes)
    }

    fn profile(&self) -> &[StepTime] {
        &self.profile
    }
}

/// The tensors of the graph's inputs in order, and the numbers that their shapes give to symbols.
fn bind<'a>(
    graph: &Graph<CpuOp>,
    given: &[(&str, &'a Tensor)],
) -> Result<(Vec<&'a Tensor>, Bindings), ExecuteError> {
    let mut bindings = Bindings::new();
    let mut tensors = Vec::new();
    for &id in graph.inputs() {
        let value = graph.value(id);
        let &(_, tensor) = given
            .iter()
            .find(|(name, _)| *name == value.name)
            .ok_or_else(|| ExecuteError::MissingInput(value.name.clone()))?;
        let fits = tensor.dtype() == value.dtype
            && tensor.shape().len() == value.shape.rank()
            && !tensor.is_empty()
            && value.shape.0.iter().zip(tensor.shape()).all(|(dim, &n)| match dim {
                Dim::Fixed(wanted) => *wanted == n,
                Dim::Symbol(name) => *bindings.entry(name.to_string()).or_insert(n) == n,
                Dim::Expr(_) => dim.eval(&bindings) == Ok(n),
            });
        if !fits {
            return Err(ExecuteError::Input {
                name: value.name.clone(),
                wanted: format!("{}{}", value.dtype, value.shape),
                found: format!("{}{:?}", tensor.dtype(), tensor.shape()),
            });
        }
        tensors.push(tensor);
    }
    Ok((tensors, bindings))
}

/// The tensors of the graph's parameters in order.
fn parameters<'a, O: Operator>(
    graph: &Graph<O>,
    weights: &'a Weights,
) -> Result<Vec<&'a Tensor>, ExecuteError> {
    let parameter = |&id: &ValueId| {
        let value = graph.value(id);
        let tensor = weights.get(&value.name);
        let fits = tensor
            .filter(|t| t.dtype() == value.dtype && Some(t.shape()) == value.shape.as_fixed().as_deref());
        fits.ok_or_else(|| ExecuteError::Parameter {
            name: value.name.clone(),
            wanted: format!("{}{}", value.dtype, value.shape),
            found: tensor.map_or("missing".into(), |t| format!("{}{:?}", t.dtype(), t.shape())),
        })
    };
    graph.parameters().iter().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use offshoot_graph::builder::Conv2d;
    use offshoot_graph::passes::freeze;
    use offshoot_graph::{DType, Shape};

    use super::*;
    use crate::CpuOptions;

    #[test]
    fn a_fork_shares_what_was_packed_and_gives_the_same_bits() {
        let mut graph = Graph::new("fork");
        let x = graph.add_input("x", DType::F32, Shape(vec![Dim::symbol("n"), 8.into(), 9.into(), 9.into()]));
        let y = graph.conv2d("dense", x, &Conv2d::new(16, 1)).unwrap();
        let y = graph.conv2d("deep", y, &Conv2d::new(16, 3).group(16)).unwrap();
        graph.add_output("y", y);
        freeze(&mut graph, |_| true);
        let numbers = |len: usize| (0..len).map(|i| (i * 31 % 17) as f32 - 8.0).collect::<Vec<f32>>();
        let weights = Weights::from([
            ("dense.weight".to_owned(), Tensor::f32([16, 8, 1, 1], numbers(128))),
            ("deep.weight".to_owned(), Tensor::f32([16, 1, 3, 3], numbers(144))),
        ]);
        let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
        let mut first = CpuSession::new(&graph, &weights, &executor).unwrap();
        let run = |session: &mut dyn Session, pictures: usize| {
            let input = Tensor::f32([pictures, 8, 9, 9], numbers(pictures * 648));
            session.run(&[("x", &input)], &weights).unwrap();
            session.output("y").unwrap().data.to_vec()
        };
        let wanted = run(&mut first, 1);
        assert!(wanted.iter().any(|&y| y != 0.0));
        let mut others: Vec<Box<dyn Session>> = (0..3).map(|_| first.fork()).collect();
        for fork in &mut others {
            assert_eq!(run(&mut **fork, 1), wanted);
        }
        let filters = first.filters.lock().unwrap();
        let (dense, deep) = (filters.floats.values(), filters.tensors.values());
        // One in the map, and one in the plan of each session.
        assert_eq!(dense.map(Arc::strong_count).collect::<Vec<_>>(), [5]);
        assert_eq!(deep.map(Tensor::shape).collect::<Vec<_>>(), [[144]]);
    }
}
