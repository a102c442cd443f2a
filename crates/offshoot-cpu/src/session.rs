//! A prepared graph: its plans by size, its packed filters, its buffers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use offshoot_graph::{
    Bindings, Dim, ExecuteError, Graph, Parameter, Session, StepTime, Tensor, ValueId, Weights,
};

use crate::CpuExecutor;
use crate::buffer::Buffer;
use crate::commit::Parameters;
use crate::filters::Filters;
use crate::kernels::{self, simd::Isa};
use crate::lower::lower;
use crate::optimize::{CpuOp, optimize, unoptimized};
use crate::plan::{Label, Plan, Scratch, Watch};

/// Plans kept at once: the whole batches, the last smaller one, and a few more.
const PLANS: usize = 4;

/// A graph of a session.
struct Program {
    graph: Graph<CpuOp>,
    /// The places of its parameters among the session's.
    parameters: Vec<usize>,
    plans: Vec<(Bindings, Plan)>,
    /// Those of all sessions that were forked of one. The lock is held while a plan is made, and not while it runs.
    filters: Arc<Mutex<Filters>>,
}

impl Program {
    /// The place of the plan for `bindings`, made now if it is not there. The least recently made one is dropped for it.
    fn plan(&mut self, bindings: Bindings, isa: Isa, parameters: &[&Tensor]) -> Result<usize, ExecuteError> {
        if let Some(found) = self.plans.iter().position(|(b, _)| *b == bindings) {
            return Ok(found);
        }
        let plan = kernels::holding_a_lock(|| {
            // (What a panic leaves there is whole: filters are added one at a time.)
            let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
            lower(&self.graph, &bindings, isa, parameters, &mut filters)
        })?;
        if self.plans.len() == PLANS {
            self.plans.remove(0);
        }
        self.plans.push((bindings, plan));
        Ok(self.plans.len() - 1)
    }

    /// Forgets what was made of the parameters' numbers.
    fn forget(&mut self) {
        self.plans.clear();
        self.filters = Arc::default();
    }
}

/// See [`Session`].
pub(crate) struct CpuSession {
    executor: CpuExecutor,
    programs: Vec<Program>,
    names: HashMap<String, usize>,
    parameters: Vec<Tensor>,
    /// The places of the parameters that runs change.
    changing: BTreeMap<String, usize>,
    arena: Buffer,
    scratch: Scratch,
    /// The program and the plan of the last run, if there are outputs.
    last: Option<(usize, usize)>,
    profile: Vec<StepTime>,
}

impl CpuSession {
    /// A session without graphs.
    pub(crate) fn new(executor: &CpuExecutor) -> CpuSession {
        CpuSession {
            executor: executor.clone(),
            programs: Vec::new(),
            names: HashMap::new(),
            parameters: Vec::new(),
            changing: BTreeMap::new(),
            arena: Buffer::default(),
            scratch: Scratch::default(),
            last: None,
            profile: Vec::new(),
        }
    }

    /// The plan of the last run.
    fn last(&self) -> Option<&Plan> {
        let (program, plan) = self.last?;
        Some(&self.programs.get(program)?.plans.get(plan)?.1)
    }

    /// An output of the last run.
    fn output(&self, name: &str) -> Option<Tensor> {
        self.last()?.output(name, &self.arena)
    }

    /// Runs a graph, and lets its results take the place of the parameters. `watch` is handed each output of f32 once it is computed.
    fn run_program(
        &mut self,
        graph: usize,
        inputs: &[(&str, &Tensor)],
        watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        self.last = None;
        let CpuSession { executor, programs, parameters, arena, scratch, profile, .. } = self;
        let program = programs.get_mut(graph).ok_or(ExecuteError::NoGraph(graph))?;
        let (inputs, bindings) = bind(&program.graph, inputs)?;
        profile.clear();
        let mut profile = executor.profile.then_some(profile);
        let work = || {
            let given: Vec<&Tensor> = program.parameters.iter().map(|&place| &parameters[place]).collect();
            let index = program.plan(bindings, executor.isa, &given)?;
            program.plans[index].1.run(arena, scratch, &inputs, &given, profile.as_deref_mut(), watch)?;
            Ok::<usize, ExecuteError>(index)
        };
        let index = executor.run(true, work)?;
        self.last = Some((graph, index));
        let plan = &mut program.plans[index].1;
        if !plan.changes_parameters() {
            return Ok(());
        }
        let label = profile.is_some().then(|| update_label(plan, &program.parameters, parameters));
        let start = Instant::now();
        let mut parameters = Parameters { all: parameters, of_graph: &program.parameters };
        let committed = executor.run(false, || plan.commit(arena, &inputs, &mut parameters));
        if let (Some(profile), Some(label)) = (profile, label) {
            profile.push(label.timed(start.elapsed()));
        }
        committed
    }

    /// The place of a parameter of that type and shape.
    fn place(&self, name: &str, tensor: &Tensor) -> Result<usize, ExecuteError> {
        let place = self.names.get(name).copied();
        let found = place.map(|place| &self.parameters[place]);
        let fits = |own: &&Tensor| (own.dtype(), own.shape()) == (tensor.dtype(), tensor.shape());
        place.filter(|_| found.is_some_and(|own| fits(&own))).ok_or_else(|| ExecuteError::Parameter {
            name: name.to_owned(),
            wanted: found.map_or("no tensor".into(), |own| format!("{}{:?}", own.dtype(), own.shape())),
            found: format!("{}{:?}", tensor.dtype(), tensor.shape()),
        })
    }
}

impl Session for CpuSession {
    fn add_graph(&mut self, graph: &Graph, weights: &Weights) -> Result<usize, ExecuteError> {
        let held = |name: &str| self.names.get(name).map(|&place| &self.parameters[place]);
        let found = parameters(graph, |name| held(name).or_else(|| weights.get(name)))?;
        let found: Vec<(String, Tensor)> =
            found.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        let mut places = Vec::with_capacity(found.len());
        for (name, tensor) in found {
            let next = self.parameters.len();
            let place = *self.names.entry(name).or_insert(next);
            if place == next {
                self.parameters.push(tensor);
            }
            places.push(place);
        }
        for (parameter, _) in graph.results() {
            let name = graph.value(*parameter).name.clone();
            let place = self.names[&name];
            self.changing.insert(name, place);
        }
        let graph = if self.executor.unoptimized { unoptimized(graph)? } else { optimize(graph)? };
        // Optimization keeps the order of parameters and drops those that nothing reads.
        let places = graph.parameters().iter().map(|&id| self.names[&graph.value(id).name]).collect();
        self.programs.push(Program { graph, parameters: places, plans: Vec::new(), filters: Arc::default() });
        Ok(self.programs.len() - 1)
    }

    fn run_graph(&mut self, graph: usize, inputs: &[(&str, &Tensor)]) -> Result<(), ExecuteError> {
        self.run_program(graph, inputs, None)
    }

    fn run_graph_watched(
        &mut self,
        graph: usize,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
        watch: &mut (dyn FnMut(&str, &[f32]) + Send),
    ) -> Result<(), ExecuteError> {
        let mut wanted = |name: &str, values: &[f32]| {
            if outputs.contains(&name) {
                watch(name, values);
            }
        };
        self.run_program(graph, inputs, Some(&mut wanted))
    }

    fn fork(&self) -> Box<dyn Session> {
        let fork = |program: &Program| Program {
            graph: program.graph.clone(),
            parameters: program.parameters.clone(),
            plans: Vec::new(),
            filters: Arc::clone(&program.filters),
        };
        Box::new(CpuSession {
            programs: self.programs.iter().map(fork).collect(),
            names: self.names.clone(),
            parameters: self.parameters.clone(),
            changing: self.changing.clone(),
            ..CpuSession::new(&self.executor)
        })
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        self.output(name).or_else(|| Some(self.parameters[*self.names.get(name)?].clone()))
    }

    fn upload(&mut self, name: &str, tensor: &Tensor) -> Result<(), ExecuteError> {
        let place = self.place(name, tensor)?;
        self.parameters[place] = tensor.clone();
        let changes = |program: &Program| {
            let own = program.graph.find_parameter(name);
            own.is_none_or(|id| program.graph.parameter_info(id).is_some_and(Parameter::changes))
        };
        self.programs.iter_mut().filter(|program| !changes(program)).for_each(Program::forget);
        Ok(())
    }

    fn state(&self) -> Weights {
        let state = self.changing.iter();
        state.map(|(name, &place)| (name.clone(), self.parameters[place].clone())).collect()
    }

    fn restore(&mut self, state: &Weights) -> Result<(), ExecuteError> {
        for (name, tensor) in state {
            self.place(name, tensor)?;
        }
        state.iter().try_for_each(|(name, tensor)| self.upload(name, tensor))
    }

    fn workspace_bytes(&self) -> usize {
        self.last().map_or(0, Plan::bytes)
    }

    fn profile(&self) -> &[StepTime] {
        &self.profile
    }
}

/// What the update of the parameters is in a profile.
fn update_label(plan: &Plan, places: &[usize], parameters: &[Tensor]) -> Label {
    let of_graph: Vec<&Tensor> = places.iter().map(|&place| &parameters[place]).collect();
    let bytes = plan.commit_bytes(&of_graph) as u64;
    Label { node: "update".into(), operator: "Update", kernel: "update", operations: 0, bytes }
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

/// The names and tensors of the graph's parameters in order.
fn parameters<'g, 'w>(
    graph: &'g Graph,
    held: impl Fn(&str) -> Option<&'w Tensor>,
) -> Result<Vec<(&'g str, &'w Tensor)>, ExecuteError> {
    let parameter = |&id: &ValueId| {
        let value = graph.value(id);
        let tensor = held(&value.name);
        let fits = tensor
            .filter(|t| t.dtype() == value.dtype && Some(t.shape()) == value.shape.as_fixed().as_deref());
        fits.map(|tensor| (value.name.as_str(), tensor)).ok_or_else(|| ExecuteError::Parameter {
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
        let mut first = CpuSession::new(&executor);
        first.add_graph(&graph, &weights).unwrap();
        let run = |session: &mut dyn Session| {
            session.run(&[("x", &Tensor::f32([1, 8, 9, 9], numbers(648)))]).unwrap();
            session.read("y").unwrap()
        };
        let wanted = run(&mut first);
        assert!(wanted.as_f32().unwrap().iter().any(|&y| y != 0.0));
        let mut others: Vec<Box<dyn Session>> = (0..3).map(|_| first.fork()).collect();
        for fork in &mut others {
            assert_eq!(run(&mut **fork), wanted);
        }
        let filters = first.programs[0].filters.lock().unwrap();
        let (dense, deep) = (filters.floats.values(), filters.tensors.values());
        // One in the map, and one in the plan of each session.
        assert_eq!(dense.map(Arc::strong_count).collect::<Vec<_>>(), [5]);
        assert_eq!(deep.map(Tensor::shape).collect::<Vec<_>>(), [[144]]);
    }

    #[test]
    fn sessions_make_their_plans_at_the_same_time() {
        let mut graph = Graph::new("crowd");
        let x = graph.add_input("x", DType::F32, Shape(vec![1.into(), 64.into(), 8.into(), 8.into()]));
        let y = graph.conv2d("first", x, &Conv2d::new(64, 3)).unwrap();
        let y = graph.conv2d("second", y, &Conv2d::new(64, 3)).unwrap();
        graph.add_output("y", y);
        freeze(&mut graph, |_| true);
        let numbers = |len: usize| (0..len).map(|i| (i * 31 % 17) as f32 - 8.0).collect::<Vec<f32>>();
        let filter = || Tensor::f32([64, 64, 3, 3], numbers(64 * 64 * 9));
        let weights =
            Weights::from(["first.weight", "second.weight"].map(|name| (name.to_owned(), filter())));
        let x = Tensor::f32([1, 64, 8, 8], numbers(64 * 64));
        let threads = std::num::NonZero::new(2);
        let executor = CpuExecutor::new(CpuOptions { threads, ..CpuOptions::default() }).unwrap();
        for _ in 0..20 {
            let mut session = CpuSession::new(&executor);
            session.add_graph(&graph, &weights).unwrap();
            let mut others: Vec<Box<dyn Session>> = (0..6).map(|_| session.fork()).collect();
            std::thread::scope(|scope| {
                for session in &mut others {
                    scope.spawn(|| session.run(&[("x", &x)]).unwrap());
                }
            });
            let results: Vec<Tensor> = others.iter().map(|session| session.read("y").unwrap()).collect();
            assert!(results.iter().all(|y| *y == results[0]));
        }
    }
}
