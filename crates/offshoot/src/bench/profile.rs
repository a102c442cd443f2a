//! Where the time of a step goes: its operators, the kernels chosen for them, and the rates that these reach.

use std::collections::BTreeMap;
use std::time::Duration;

use offshoot_graph::StepTime;
use serde::Serialize;

use super::quantile;

/// What one step of the plan took: an operator, several as one, or what is moved between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatorTime {
    /// The node of the graph that the step belongs to; of several in one, `first .. last`.
    pub node: String,
    /// What is computed.
    pub operator: &'static str,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// Milliseconds, the median of the timed runs.
    pub milliseconds: f64,
    /// GFLOP/s: 10^9 operations a second, where a multiply-add of a convolution or a matrix product counts as two.
    pub gflops: f64,
    /// GB/s: 10^9 bytes a second of what it reads and writes, each counted once.
    pub gbytes: f64,
    /// The operations.
    pub operations: u64,
    /// The bytes.
    pub bytes: u64,
}

/// The steps of one operator by one kernel together.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// What is computed.
    pub operator: &'static str,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// How many steps there are.
    pub steps: usize,
    /// Milliseconds of all of them.
    pub milliseconds: f64,
    /// As [`OperatorTime::gflops`].
    pub gflops: f64,
    /// As [`OperatorTime::gbytes`].
    pub gbytes: f64,
}

/// 10^9 things a second.
fn rate(things: u64, milliseconds: f64) -> f64 {
    if milliseconds > 0.0 { things as f64 / milliseconds / 1e6 } else { 0.0 }
}

/// The times of each step of some runs of the same plan.
#[derive(Default)]
pub(super) struct Runs {
    steps: Vec<StepTime>,
    /// By step.
    times: Vec<Vec<f64>>,
}

impl Runs {
    pub(super) fn add<'s>(&mut self, run: impl Iterator<Item = &'s StepTime>) {
        let first = self.steps.is_empty();
        for (index, step) in run.enumerate() {
            if first {
                self.steps.push(StepTime { time: Duration::ZERO, ..step.clone() });
                self.times.push(Vec::new());
            }
            if let Some(times) = self.times.get_mut(index) {
                times.push(step.time.as_secs_f64() * 1e3);
            }
        }
    }

    /// In the order of the run.
    pub(super) fn operators(self) -> Vec<OperatorTime> {
        let operator = |(step, times): (StepTime, Vec<f64>)| {
            let milliseconds = quantile(&times, 0.5).unwrap_or_default();
            let StepTime { node, operator, kernel, operations, bytes, .. } = step;
            let [gflops, gbytes] = [operations, bytes].map(|things| rate(things, milliseconds));
            OperatorTime { node, operator, kernel, milliseconds, gflops, gbytes, operations, bytes }
        };
        self.steps.into_iter().zip(self.times).map(operator).collect()
    }
}

/// The sums of `operators` by operator and kernel, slowest first.
pub fn by_kernel(operators: &[OperatorTime]) -> Vec<KernelTime> {
    let mut groups: BTreeMap<_, Vec<&OperatorTime>> = BTreeMap::new();
    for operator in operators {
        groups.entry((operator.operator, operator.kernel)).or_default().push(operator);
    }
    let sum = |((operator, kernel), steps): (_, Vec<&OperatorTime>)| {
        let milliseconds = steps.iter().map(|step| step.milliseconds).sum();
        let sum = |of: fn(&OperatorTime) -> u64| rate(steps.iter().map(|step| of(step)).sum(), milliseconds);
        let (gflops, gbytes) = (sum(|step| step.operations), sum(|step| step.bytes));
        KernelTime { operator, kernel, steps: steps.len(), milliseconds, gflops, gbytes }
    };
    let mut sums: Vec<KernelTime> = groups.into_iter().map(sum).collect();
    sums.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kernel: &'static str, microseconds: u64) -> StepTime {
        let time = Duration::from_micros(microseconds);
        StepTime {
            node: kernel.into(),
            operator: "Conv",
            kernel,
            time,
            operations: 2_000_000,
            bytes: 500_000,
        }
    }

    #[test]
    fn times_are_medians_and_rates_those_of_sums() {
        let mut runs = Runs::default();
        for scale in [1, 9, 2] {
            runs.add([step("a", 1000 * scale), step("b", 500 * scale), step("a", 0)].iter());
        }
        let operators = runs.operators();
        let found: Vec<_> = operators.iter().map(|o| (o.milliseconds, o.gflops, o.gbytes)).collect();
        assert_eq!(found, [(2.0, 1.0, 0.25), (1.0, 2.0, 0.5), (0.0, 0.0, 0.0)]);
        let sums: Vec<_> =
            by_kernel(&operators).iter().map(|k| (k.kernel, k.steps, k.milliseconds, k.gflops)).collect();
        assert_eq!(sums, [("a", 2, 2.0, 2.0), ("b", 1, 1.0, 2.0)]);
    }
}
