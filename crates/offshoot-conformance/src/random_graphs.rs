//! Random graphs: an executor may compute a value on the way to another, but not to another result.

use offshoot_graph::passes::{LOSS, LossOptions, fold_batch_norm, freeze, training_graph};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{DType, Executor, Graph, Weights};

use crate::random_graph::{self, Made, Maker, Outputs};
use crate::{Executors, Report};

/// Graphs that are tried.
const GRAPHS: usize = 60;
/// Relative to the largest element, or to 1 where all are smaller.
const TOLERANCE: f64 = 2e-4;

/// What the operators give one by one: every value is an output, so that none is computed on the way to another.
fn one_by_one(made: &Made, executor: &dyn Executor) -> Option<Outputs> {
    let mut graph = made.graph.clone();
    for &value in &made.shown {
        graph.add_output(&format!("shown.{}", graph.value(value).name), value);
    }
    made.run(executor, &graph, &made.weights).ok()
}

/// The name of the first output that is not the one wanted. Those that are too large for f32 are not compared.
fn other_output<'a>(found: &'a Outputs, wanted: &Outputs) -> Option<&'a str> {
    let differs = |(name, found): &&(String, Vec<f32>)| {
        let wanted = wanted.iter().find(|(other, _)| other == name).map(|(_, wanted)| wanted);
        wanted.filter(|wanted| wanted.iter().all(|v| v.abs() < 1e30)).is_some_and(|wanted| {
            let difference = offshoot_testing::difference_above(found, wanted, 1.0);
            difference > TOLERANCE
        })
    };
    found.iter().find(differs).map(|(name, _)| name.as_str())
}

/// Answers and losses of random graphs, each in all its forms.
pub(crate) fn answers(executors: Executors<'_>, report: &mut Report) {
    let mut random = Random::new(11, 0, 0, Purpose::Init);
    let (mut run, mut trained) = (0, 0);
    for index in 0..GRAPHS {
        let choices = random_graph::choices(&mut random, 150);
        let made = Maker::new(&choices).finish();
        for executor in executors.0 {
            run += usize::from(answer(&made, *executor, &format!("random graph {index}"), report));
            trained += usize::from(loss(&made, *executor, &format!("random graph {index}"), report));
        }
    }
    let least = GRAPHS * executors.0.len() / 4;
    assert!(run >= 2 * least && trained >= least, "{run} ran and {trained} trained, of {GRAPHS}");
}

/// Whether the graph runs.
pub(crate) fn answer(made: &Made, executor: &dyn Executor, what: &str, report: &mut Report) -> bool {
    let Some(wanted) = one_by_one(made, executor) else { return false };
    let mut frozen = made.graph.clone();
    freeze(&mut frozen, |_| true);
    let (folded, weights) = fold_batch_norm(&frozen, &made.weights).unwrap();
    compare(made, executor, (&frozen, &made.weights), &wanted, what, report);
    compare(made, executor, (&folded, &weights), &wanted, &format!("{what}, folded"), report);
    true
}

fn compare(
    made: &Made,
    executor: &dyn Executor,
    (graph, weights): (&Graph, &Weights),
    wanted: &Outputs,
    what: &str,
    report: &mut Report,
) {
    match made.run(executor, graph, weights) {
        Err(error) => report.note(format!("{what}: {error}")),
        // A step of the scale is left to an executor that computes on bytes.
        Ok(_) if made.has_bytes() => {}
        Ok(found) => {
            if let Some(name) = other_output(&found, wanted) {
                report.note(format!("{what}: `{name}` is another one when all values are outputs"));
            }
        }
    }
}

/// Whether the network can be trained. Its loss must be the same when all values are outputs.
pub(crate) fn loss(made: &Made, executor: &dyn Executor, what: &str, report: &mut Report) -> bool {
    trained(made, executor, (what, |name| name == LOSS), report)
}

/// As [`loss`], of the gradients too.
pub(crate) fn gradients(made: &Made, executor: &dyn Executor, what: &str, report: &mut Report) -> bool {
    trained(made, executor, (what, |_| true), report)
}

fn trained(
    made: &Made,
    executor: &dyn Executor,
    (what, compared): (&str, fn(&str) -> bool),
    report: &mut Report,
) -> bool {
    let Some((graph, weights)) = made.classifier() else { return false };
    let Ok(step) = training_graph(&graph, LossOptions::default()) else { return false };
    let mut shown = step.graph.clone();
    for (value, info) in step.graph.values().filter(|(_, info)| info.dtype == DType::F32) {
        shown.add_output(&format!("shown.{}", info.name), value);
    }
    let (Ok(wanted), Ok(found)) =
        (made.run(executor, &shown, &weights), made.run(executor, &step.graph, &weights))
    else {
        return false;
    };
    let chosen = |of: Outputs| of.into_iter().filter(|(name, _)| compared(name)).collect::<Outputs>();
    let (found, wanted) = (chosen(found), chosen(wanted));
    if let Some(other) = other_output(&found, &wanted).filter(|_| !made.has_bytes()) {
        report.note(format!("{what}: `{other}` is another one when all values are outputs"));
    }
    true
}
