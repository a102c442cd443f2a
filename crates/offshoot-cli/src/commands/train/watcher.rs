//! What a run shows while it goes on.

use indicatif::ProgressBar;
use offshoot::Event;
use offshoot_graph::Task;
use offshoot_train::{EpochRow, GroupRow};

use crate::commands::print;

/// Draws what happens.
#[derive(Default)]
pub(super) struct Watcher {
    /// What a picture has.
    task: Task,
    bar: Option<ProgressBar>,
    /// Pictures that turned out to be unusable.
    pub(super) skipped: usize,
}

impl Watcher {
    /// One of a run for this task.
    pub(super) fn new(task: Task) -> Watcher {
        Watcher { task, ..Watcher::default() }
    }

    pub(super) fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Start {
                trainable_parameters,
                frozen_parameters,
                train_images,
                val_images,
                resumed,
                ..
            } => {
                print::aside(&format!(
                    "parameters  {} trainable, {} frozen",
                    grouped(*trainable_parameters),
                    grouped(*frozen_parameters)
                ));
                print::aside(&format!(
                    "pictures    {train_images} to train with, {val_images} to validate with"
                ));
                if let Some((epochs, steps)) = resumed {
                    print::aside(&format!("resumed     after {epochs} epochs and {steps} steps"));
                }
            }
            Event::Stage { epoch, groups } => {
                self.finish();
                if *epoch > 0 {
                    print::aside(&format!("unfrozen    after {epoch} epochs"));
                }
                print::aside_lines(table(groups).trim_end());
            }
            Event::Average { val_accuracy, best } => {
                let accuracy =
                    val_accuracy.map_or("not validated".into(), |a| format!("val {}", figure(self.task, a)));
                let kept = if *best { "   kept as the best" } else { "" };
                print::aside(&format!("average of the last epochs   {accuracy}{kept}"));
            }
            Event::Ended => {
                let figure = match self.task {
                    Task::Single => "accuracy",
                    Task::Multi => "mAP",
                    Task::Regression => "loss",
                };
                print::aside(&format!("stopped early: the validation {figure} has not improved"));
            }
            Event::Features { done, total } => {
                let bar = self.bar(*total as u64, "features");
                bar.set_position(*done as u64);
                if done == total {
                    self.finish();
                }
            }
            Event::Step { epoch, step, steps, loss, images_per_second, remaining } => {
                let left = print::duration(*remaining);
                let bar = self.bar(*steps, &format!("epoch {epoch}"));
                bar.set_position(*step);
                bar.set_message(format!("loss {loss:.4}, {images_per_second:.1} images/s, {left} left"));
            }
            Event::Validate { done, total } => self.bar(*total, "validate").set_position(*done),
            Event::Epoch(row) => {
                self.finish();
                print::aside(&epoch_line(row, self.task));
            }
            Event::Skipped(picture) => {
                self.skipped += 1;
                self.aside(&format!("warning: skipped {picture}"));
            }
            Event::Warning(text) => self.aside(&format!("warning: {text}")),
            Event::Notice(text) => self.aside(&format!("note: {text}")),
            _ => {}
        }
    }

    /// The bar for `what`: a new one when another was there.
    fn bar(&mut self, total: u64, what: &str) -> &ProgressBar {
        if self.bar.as_ref().is_some_and(|bar| bar.prefix() != what) {
            self.finish();
        }
        self.bar.get_or_insert_with(|| print::bar(total, what))
    }

    fn aside(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::aside(text)),
            None => print::aside(text),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The groups of parameters, a line each.
fn table(groups: &[GroupRow]) -> String {
    let width = groups.iter().map(|g| print::width(&g.name)).max().unwrap_or(0).max("group".len());
    let mut text = format!("{:width$}   parameters   trains       rate   decay   part\n", "group");
    for row in groups {
        let GroupRow { name, part, parameters, trainable, lr, weight_decay } = row;
        let (parameters, trains) = (grouped(*parameters), if *trainable { "yes" } else { "no" });
        let (rate, decay) = match trainable {
            true => (format!("{lr:.1e}"), weight_decay.to_string()),
            false => ("-".to_owned(), "-".to_owned()),
        };
        let name = print::padded(name, width);
        text += &format!("{name}   {parameters:>10}   {trains:>6}   {rate:>8}   {decay:>5}   {part}");
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The figure of validation.
fn figure(task: Task, value: f64) -> String {
    match task {
        Task::Single => format!("{:5.1} %", 100.0 * value),
        Task::Multi => format!("mAP {:5.1} %", 100.0 * value),
        Task::Regression => format!("MAE {value:.5}"),
    }
}

fn epoch_line(row: &EpochRow, task: Task) -> String {
    let validation = match (row.val_loss, row.val_accuracy) {
        (Some(loss), Some(accuracy)) => format!("   val {loss:.4} {}", figure(task, accuracy)),
        _ => String::new(),
    };
    let EpochRow { epoch, train_loss, train_accuracy, images_per_second, .. } = row;
    let train = match task {
        // The steps know no mAP.
        Task::Single | Task::Multi => figure(Task::Single, *train_accuracy),
        Task::Regression => figure(task, *train_accuracy),
    };
    format!("epoch {epoch:3}   train {train_loss:.4} {train}{validation}   {images_per_second:.1} images/s")
}

/// 23,508,032
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{GroupRow, grouped, table};

    #[test]
    fn groups_are_shown_with_their_rates() {
        let row = |name: &str, trainable, lr| GroupRow {
            name: name.into(),
            part: if trainable { "weights" } else { "" },
            parameters: 2_223_872,
            trainable,
            lr,
            weight_decay: 0.01,
        };
        assert_eq!(
            table(&[row("layer4", true, 1e-4), row("frozen", false, 0.0)]),
            "group    parameters   trains       rate   decay   part\n\
             layer4    2,223,872      yes     1.0e-4    0.01   weights\n\
             frozen    2,223,872       no          -       -\n"
        );
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 23_508_032].map(grouped), ["0", "999", "1,000", "23,508,032"]);
    }
}
