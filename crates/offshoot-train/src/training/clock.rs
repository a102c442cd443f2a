//! Times of a run: how long it has trained, how long it will, and when its files were written last.

use std::time::{Duration, Instant};

pub(super) struct Clock {
    /// When this session started.
    start: Instant,
    earlier_seconds: f64,
    /// Steps of this session, and the time they took.
    steps: u64,
    stepping: Duration,
    pub(super) last_checkpoint: Instant,
    pub(super) last_report: Option<Instant>,
}

impl Clock {
    /// That of a session since `start`, after those that took `earlier_seconds`.
    pub(super) fn new(start: Instant, earlier_seconds: f64) -> Clock {
        let (steps, stepping) = (0, Duration::ZERO);
        Clock { start, earlier_seconds, steps, stepping, last_checkpoint: Instant::now(), last_report: None }
    }

    /// Takes in a step.
    pub(super) fn add_step(&mut self, time: Duration) {
        self.stepping += time;
        self.steps += 1;
    }

    /// How long so many steps take if they go on like those of this session so far.
    pub(super) fn time_of(&self, steps: u64) -> Duration {
        self.stepping.div_f64(self.steps.max(1) as f64).mul_f64(steps as f64)
    }

    /// Seconds of training so far, earlier sessions included.
    pub(super) fn seconds(&self) -> f64 {
        self.earlier_seconds + self.start.elapsed().as_secs_f64()
    }
}
