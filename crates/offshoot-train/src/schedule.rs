//! How the learning rate changes from step to step.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use offshoot_graph::text::quoted;
use serde::{Deserialize, Serialize};

/// The factor that the warm-up starts from.
pub const WARMUP_START: f64 = 0.01;

/// The shape of a schedule after its warm-up, as recipes write it: `cosine`, `constant`, `onecycle`, `onecycle:rise=0.25,linear`,
/// `step:10,gamma=0.5`, `plateau:patience=5`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleKind {
    /// The rate stays.
    Constant,
    /// The rate falls to zero along half a cosine.
    Cosine,
    /// The rate rises and falls.
    OneCycle(OneCycle),
    /// The rate is multiplied by `gamma` after each `every` epochs.
    Step {
        /// Epochs.
        every: u64,
        /// The factor, above 0.
        gamma: f64,
    },
    /// The rate is lowered when the loss has stopped falling.
    Plateau(PlateauOptions),
}

/// Smith's 1cycle policy, `torch.optim.lr_scheduler.OneCycleLR` without its cycle of the momentum. PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCycle {
    /// The fraction of the steps in which the rate rises, above 0 and below 1.
    pub rise: f64,
    /// The rate starts at this part of the highest.
    pub start: f64,
    /// The rate ends at this part of the rate at the start.
    pub end: f64,
    /// Whether it changes along straight lines instead of half cosines.
    pub linear: bool,
    /// Whether it falls to the rate at the start in as many steps as it rose, and then on to its end.
    pub three_phase: bool,
}

impl Default for OneCycle {
    fn default() -> OneCycle {
        OneCycle { rise: 0.3, start: 1.0 / 25.0, end: 1e-4, linear: false, three_phase: false }
    }
}

/// When a [`Plateau`] lowers the rate. PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlateauOptions {
    /// Epochs without a better loss before the rate is lowered.
    pub patience: u64,
    /// What the rate is multiplied by, above 0 and below 1.
    pub factor: f64,
    /// The part by which a loss must be lower to be better.
    pub threshold: f64,
    /// Epochs after a lowering that do not count.
    pub cooldown: u64,
    /// The rate of a recipe (`lr`) is not lowered beyond this. Other groups keep their proportion to it.
    pub min_lr: f64,
    /// A lowering of that rate by no more than this is not made.
    pub eps: f64,
}

impl Default for PlateauOptions {
    fn default() -> PlateauOptions {
        PlateauOptions { patience: 10, factor: 0.1, threshold: 1e-4, cooldown: 0, min_lr: 0.0, eps: 1e-8 }
    }
}

/// Lowers the rate when the loss has stopped falling: `torch.optim.lr_scheduler.ReduceLROnPlateau` with `mode="min"` and
/// `threshold_mode="rel"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    /// The lowest loss so far; `None` before the first.
    best: Option<f64>,
    /// Epochs since.
    bad: u64,
    /// Epochs that do not count.
    cooling: u64,
    /// The factor of the rate.
    factor: f64,
}

impl Default for Plateau {
    fn default() -> Plateau {
        Plateau { best: None, bad: 0, cooling: 0, factor: 1.0 }
    }
}

impl Plateau {
    /// The factor of the rate.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Takes in the loss of an epoch. `lr` is the rate at the factor 1.
    pub fn update(&mut self, loss: f64, options: &PlateauOptions, lr: f64) {
        // Of a loss that is not a number, none is lower.
        if !loss.is_nan() && self.best.is_none_or(|best| loss < best * (1.0 - options.threshold)) {
            (self.best, self.bad) = (Some(loss), 0);
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            (self.cooling, self.bad) = (self.cooling - 1, 0);
        }
        if self.bad > options.patience {
            let rate = lr * self.factor;
            let lower = (rate * options.factor).max(options.min_lr);
            if rate - lower > options.eps {
                self.factor = lower / lr;
            }
            (self.cooling, self.bad) = (options.cooldown, 0);
        }
    }
}

/// A learning rate for each step.
///
/// With `w` warm-up steps out of `n`, step `t` (from 0) runs at this factor of the rate:
///
/// - `t < w`: `0.01 + 0.99 t / w`, times the factor that the schedule starts from (1, but for [`ScheduleKind::OneCycle`])
/// - then, for [`ScheduleKind::Cosine`]: `(1 + cos(pi (t - w) / (n - w))) / 2`; for [`ScheduleKind::Constant`] and
///   [`ScheduleKind::Plateau`]: 1; for [`ScheduleKind::Step`]: `gamma` to the power of the number of times that `every` epochs
///   have passed since; [`ScheduleKind::OneCycle`] as PyTorch has it.
///
/// That is PyTorch's `SequentialLR` of `LinearLR(start_factor=0.01, total_iters=w)` and
/// `CosineAnnealingLR(T_max=n - w)` (`StepLR`, `OneCycleLR`) with one scheduler step after each optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: u64,
    steps: u64,
    steps_per_epoch: u64,
}

impl Schedule {
    /// A schedule of `epochs` epochs of `steps_per_epoch` steps, of which the part `warmup` (0..1, rounded down to whole
    /// steps) warms up.
    pub fn new(kind: ScheduleKind, warmup: f64, steps_per_epoch: u64, epochs: u64) -> Schedule {
        let steps = steps_per_epoch.saturating_mul(epochs);
        let warmup = (warmup * steps as f64) as u64;
        Schedule { kind, warmup, steps, steps_per_epoch: steps_per_epoch.max(1) }
    }

    /// The factor of the learning rate at step `t`, from 0.
    pub fn factor(&self, t: u64) -> f64 {
        if t < self.warmup {
            let part = WARMUP_START + (1.0 - WARMUP_START) * t as f64 / self.warmup as f64;
            return part * self.after_warmup(0);
        }
        self.after_warmup(t - self.warmup)
    }

    /// The factor at step `t` of those after the warm-up.
    fn after_warmup(&self, t: u64) -> f64 {
        let n = self.steps - self.warmup;
        match self.kind {
            ScheduleKind::Constant | ScheduleKind::Plateau(_) => 1.0,
            ScheduleKind::Cosine => {
                // libm in Rust: bit-identical on every machine.
                (1.0 + libm::cos(PI * (t as f64 / n.max(1) as f64).min(1.0))) / 2.0
            }
            ScheduleKind::OneCycle(cycle) => cycle.factor(t as f64, n as f64),
            ScheduleKind::Step { every, gamma } => {
                let times = t / every.max(1).saturating_mul(self.steps_per_epoch);
                libm::pow(gamma, times as f64)
            }
        }
    }
}

impl OneCycle {
    /// The factor at step `t` of `n`.
    fn factor(self, t: f64, n: f64) -> f64 {
        let top = self.rise * n - 1.0;
        let (start, end) = (self.start, self.start * self.end);
        let phases: &[(f64, f64, f64)] = if self.three_phase {
            &[(top, start, 1.0), (2.0 * self.rise * n - 2.0, 1.0, start), (n - 1.0, start, end)]
        } else {
            &[(top, start, 1.0), (n - 1.0, 1.0, end)]
        };
        let mut from = 0.0;
        for &(until, low, high) in phases {
            if t <= until {
                return self.between(low, high, (t - from) / (until - from).max(f64::MIN_POSITIVE));
            }
            from = until;
        }
        end
    }

    /// The value at the part `part` of the way from `a` to `b`.
    fn between(self, a: f64, b: f64, part: f64) -> f64 {
        match self.linear {
            true => (b - a) * part + a,
            false => b + (a - b) / 2.0 * (libm::cos(PI * part) + 1.0),
        }
    }
}

impl FromStr for ScheduleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<ScheduleKind, String> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let options: Vec<&str> = options.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
        let kind = match name.trim() {
            "constant" if options.is_empty() => ScheduleKind::Constant,
            "cosine" if options.is_empty() => ScheduleKind::Cosine,
            "onecycle" => ScheduleKind::OneCycle(one_cycle(&options)?),
            "step" => step(&options)?,
            "plateau" => ScheduleKind::Plateau(plateau(&options)?),
            _ => {
                return Err(format!(
                    "`{}` is not constant, cosine, onecycle, step:10,gamma=0.1 or plateau:patience=10",
                    quoted(text)
                ));
            }
        };
        Ok(kind)
    }
}

fn one_cycle(options: &[&str]) -> Result<OneCycle, String> {
    let mut cycle = OneCycle::default();
    for option in options {
        match option.split_once('=') {
            Some(("rise", x)) => {
                cycle.rise = number("rise", x, "above 0 and below 1", |x| x > 0.0 && x < 1.0)?
            }
            Some(("start", x)) => {
                cycle.start = number("start", x, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?
            }
            Some(("end", x)) => {
                cycle.end = number("end", x, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?
            }
            None if *option == "linear" => cycle.linear = true,
            None if *option == "three" => cycle.three_phase = true,
            _ => {
                return Err(format!(
                    "onecycle has no `{}`; it has rise=0.3, start=0.04, end=0.0001, linear, three",
                    quoted(option)
                ));
            }
        }
    }
    match cycle.three_phase && cycle.rise > 0.5 {
        true => Err(format!("onecycle in three phases needs a rise of at most 0.5, not {}", cycle.rise)),
        false => Ok(cycle),
    }
}

fn step(options: &[&str]) -> Result<ScheduleKind, String> {
    let (mut every, mut gamma) = (None, 0.1);
    for option in options {
        match option.split_once('=') {
            Some(("gamma", x)) => {
                gamma = number("gamma", x, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?
            }
            None => every = Some(count("step", option)?),
            Some(_) => {
                return Err(format!("step has no `{}`; it is step:EPOCHS,gamma=0.1", quoted(option)));
            }
        }
    }
    let every =
        every.filter(|&n| n > 0).ok_or("step needs a number of epochs, at least 1: step:10,gamma=0.1")?;
    Ok(ScheduleKind::Step { every, gamma })
}

fn plateau(options: &[&str]) -> Result<PlateauOptions, String> {
    let mut plateau = PlateauOptions::default();
    for option in options {
        match option.split_once('=') {
            Some(("patience", x)) => plateau.patience = count("patience", x)?,
            Some(("cooldown", x)) => plateau.cooldown = count("cooldown", x)?,
            Some(("factor", x)) => {
                plateau.factor = number("factor", x, "above 0 and below 1", |x| x > 0.0 && x < 1.0)?
            }
            Some(("threshold", x)) => {
                plateau.threshold =
                    number("threshold", x, "at least 0 and below 1", |x| (0.0..1.0).contains(&x))?;
            }
            Some(("min_lr", x)) => plateau.min_lr = number("min_lr", x, "at least 0", |x| x >= 0.0)?,
            Some(("eps", x)) => plateau.eps = number("eps", x, "at least 0", |x| x >= 0.0)?,
            _ => {
                return Err(format!(
                    "plateau has no `{}`; it has patience=10, factor=0.1, threshold=0.0001, cooldown=0, min_lr=0, \
                     eps=1e-8",
                    quoted(option)
                ));
            }
        }
    }
    Ok(plateau)
}

fn number(name: &str, text: &str, range: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    let x = text.trim().parse().ok().filter(|&x: &f64| x.is_finite() && holds(x));
    x.ok_or_else(|| format!("`{name}` must be {range}, not {}", quoted(text)))
}

fn count(name: &str, text: &str) -> Result<u64, String> {
    let n = text.trim().parse().ok().filter(|&n: &u64| n <= 1_000_000);
    n.ok_or_else(|| format!("`{name}` must be a whole number, 0 to 1000000, not {}", quoted(text)))
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScheduleKind::Constant => f.write_str("constant"),
            ScheduleKind::Cosine => f.write_str("cosine"),
            ScheduleKind::OneCycle(OneCycle { rise, start, end, linear, three_phase }) => {
                write!(f, "onecycle:rise={rise},start={start},end={end}")?;
                f.write_str(if *linear { ",linear" } else { "" })?;
                f.write_str(if *three_phase { ",three" } else { "" })
            }
            ScheduleKind::Step { every, gamma } => write!(f, "step:{every},gamma={gamma}"),
            ScheduleKind::Plateau(PlateauOptions { patience, factor, threshold, cooldown, min_lr, eps }) => {
                write!(
                    f,
                    "plateau:patience={patience},factor={factor},threshold={threshold},cooldown={cooldown},\
                     min_lr={min_lr:e},eps={eps:e}"
                )
            }
        }
    }
}

impl Serialize for ScheduleKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ScheduleKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ScheduleKind, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_stays_and_falls() {
        let cosine = Schedule::new(ScheduleKind::Cosine, 0.1, 10, 10);
        assert_eq!(cosine.factor(0), WARMUP_START);
        assert_eq!(cosine.factor(10), 1.0);
        assert!((cosine.factor(55) - 0.5).abs() < 1e-12);
        assert!(cosine.factor(99) > 0.0 && cosine.factor(99) < 0.001);
        assert_eq!(cosine.factor(1000), 0.0);
        assert_eq!(Schedule::new(ScheduleKind::Constant, 0.0, 0, 0).factor(5), 1.0);
        assert_eq!(Schedule::new(ScheduleKind::Cosine, 0.5, 1, 1).factor(0), 1.0);
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_the_lowest() {
        let options = PlateauOptions { patience: 1, ..PlateauOptions::default() };
        let mut plateau = Plateau::default();
        [f64::NAN, 1.0, 0.5].iter().for_each(|&loss| plateau.update(loss, &options, 0.1));
        assert_eq!((plateau.best, plateau.factor()), (Some(0.5), 1.0));
    }

    #[test]
    fn a_cycle_of_one_step_is_a_number() {
        for three_phase in [false, true] {
            for linear in [false, true] {
                let kind = ScheduleKind::OneCycle(OneCycle { linear, three_phase, ..OneCycle::default() });
                let cycle = |n| Schedule::new(kind, 0.0, n, 1);
                assert!(
                    [1, 2, 3].iter().all(|&n| (0..n + 2).all(|t| (0.0..=1.0).contains(&cycle(n).factor(t))))
                );
            }
        }
    }

    #[test]
    fn schedules_are_written_as_they_are_read() {
        for text in [
            "constant",
            "cosine",
            "onecycle:rise=0.25,start=0.1,end=0.01,linear,three",
            "step:10,gamma=0.5",
            "plateau:patience=3,factor=0.2,threshold=0.01,cooldown=1,min_lr=1e-6,eps=0e0",
        ] {
            assert_eq!(text.parse::<ScheduleKind>().unwrap().to_string(), text);
        }
        assert_eq!("onecycle".parse(), Ok(ScheduleKind::OneCycle(OneCycle::default())));
        assert_eq!("step:3".parse(), Ok(ScheduleKind::Step { every: 3, gamma: 0.1 }));
        for (text, part) in [
            ("linear", "constant, cosine"),
            ("cosine:3", "constant, cosine"),
            ("step", "number of epochs"),
            ("step:0", "at least 1"),
            ("step:3,gamma=2", "`gamma` must be above 0"),
            ("step:3,rate=1", "no `rate=1`"),
            ("onecycle:rise=1", "`rise` must be"),
            ("onecycle:fall=1", "no `fall=1`"),
            ("onecycle:cubic", "no `cubic`"),
            ("onecycle:three,rise=0.7", "at most 0.5"),
            ("plateau:patience=-1", "`patience` must be"),
            ("plateau:min_lr=-1", "`min_lr` must be at least 0"),
            ("plateau:floor=1", "no `floor=1`"),
        ] {
            let error = text.parse::<ScheduleKind>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_ends_of_ranges_are_taken_or_refused() {
        let taken = |option: &str, x: &str| format!("{option}={x}").parse::<ScheduleKind>().is_ok();
        for (option, inside, outside) in [
            ("onecycle:rise", &["0.001", "0.999"][..], &["-1", "0", "1", "2"][..]),
            ("onecycle:three,rise", &["0.5"], &["0.501"]),
            ("onecycle:start", &["0.001", "1"], &["-1", "0", "1.001"]),
            ("onecycle:end", &["0.001", "1"], &["-1", "0", "1.001"]),
            ("step:3,gamma", &["0.001", "1"], &["-1", "0", "1.001"]),
            ("plateau:factor", &["0.001", "0.999"], &["-1", "0", "1", "2"]),
            ("plateau:threshold", &["0", "0.999"], &["-1", "1"]),
            ("plateau:min_lr", &["0", "2"], &["-0.001", "inf"]),
            ("plateau:eps", &["0", "2"], &["-0.001", "NaN"]),
            ("plateau:patience", &["0", "1000000"], &["1000001", "0.5"]),
            ("plateau:cooldown", &["0", "1000000"], &["1000001", "0.5"]),
        ] {
            inside.iter().for_each(|x| assert!(taken(option, x), "{option}={x}"));
            outside.iter().for_each(|x| assert!(!taken(option, x), "{option}={x}"));
        }
    }
}
