//! What the figures of finished epochs say about a run: warnings, each given once.

use serde::{Deserialize, Serialize};

use super::log::NormSums;
use crate::recipe::{Freeze, Recipe};
use crate::run::EpochRow;

/// By more than this the accuracy on training pictures may not be above that on validation pictures.
const GAP: f64 = 0.05;

/// Epochs in a row with such a gap before it is told of; one is enough at the end of the run.
const GAP_EPOCHS: u64 = 3;

/// The loss of an epoch is too high when it is by more than this above that of a guess: `offshoot check` says the same of the
/// loss before training.
const ABOVE_A_GUESS: f64 = 1.0;

/// The loss rises when it is by more than this part of a guess's above the lowest of the stage.
const RISE: f64 = 0.5;

/// An update that changes more than this part of a group's weights is too large. Good ones change about a thousandth; the
/// default rate changes a new head by less than a tenth.
const LARGE_UPDATE: f64 = 0.5;

/// Epochs whose losses are compared to see whether it moves.
const STILL_EPOCHS: usize = 3;

/// A loss moves when the highest of those is by more than this part above the lowest.
const STILL: f64 = 0.02;

/// A loss below this part of a guess's has moved before.
const LEARNED: f64 = 0.9;

/// Below this mean loss a gradient may be 0 because there is nothing left to learn.
const PERFECT: f64 = 1e-3;

/// Parameters that are named in a message.
const NAMED: usize = 4;

/// What there is to warn of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trouble {
    Overfitting,
    DeadLayer,
    HighRate,
    StillLoss,
}

/// What has been seen of a run so far. It is part of each checkpoint, so a resumed run repeats no warning and leaves none out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watch {
    /// The lowest training loss of a stage's epochs, and the stage.
    lowest: Option<(usize, f64)>,
    /// The training losses of the last epochs.
    losses: Vec<f64>,
    /// Epochs in a row with a gap between the accuracies.
    gaps: u64,
    told: Vec<Trouble>,
}

/// A finished epoch.
pub(crate) struct Facts<'a> {
    pub(crate) row: &'a EpochRow,
    pub(crate) norms: &'a NormSums,
    pub(crate) recipe: &'a Recipe,
    pub(crate) stage: usize,
    /// Whether it is the last of the run.
    pub(crate) last: bool,
    pub(crate) classes: usize,
    /// How many parameters train.
    pub(crate) trained: usize,
    /// Whether a part of the network is frozen and before all that trains.
    pub(crate) has_prefix: bool,
}

impl Watch {
    /// Takes in an epoch. Gives what is to be warned of and has not been before, a line each.
    pub(crate) fn look(&mut self, facts: &Facts<'_>) -> Vec<String> {
        let found = [
            (Trouble::DeadLayer, dead_layer(facts)),
            (Trouble::HighRate, self.high_rate(facts)),
            (Trouble::StillLoss, self.still_loss(facts)),
            (Trouble::Overfitting, self.overfitting(facts)),
        ];
        let mut warnings = Vec::new();
        for (trouble, text) in found {
            if let Some(text) = text.filter(|_| !self.told.contains(&trouble)) {
                self.told.push(trouble);
                warnings.push(text);
            }
        }
        warnings
    }

    fn high_rate(&mut self, facts: &Facts<'_>) -> Option<String> {
        let (loss, guess) = (facts.row.train_loss, guess(facts));
        let lowest = self.lowest.filter(|(stage, _)| *stage == facts.stage).map_or(loss, |(_, loss)| loss);
        self.lowest = Some((facts.stage, lowest.min(loss)));
        let what = if loss > guess + ABOVE_A_GUESS {
            format!("the mean loss of epoch {} is {loss:.2}, and a guess has {guess:.2}", facts.row.epoch)
        } else if loss > lowest + RISE * guess {
            format!("the loss has risen from {lowest:.2} to {loss:.2} in epoch {}", facts.row.epoch)
        } else {
            let (group, ratio) = facts.norms.ratios().find(|(_, ratio)| *ratio > LARGE_UPDATE)?;
            format!(
                "a step of epoch {} changed `{group}` by {:.0} % of its norm",
                facts.row.epoch,
                100.0 * ratio
            )
        };
        Some(format!(
            "the learning rate looks too high: {what}; try --lr {:e}, or what `offshoot lr-find` suggests",
            facts.recipe.lr / 10.0
        ))
    }

    fn still_loss(&mut self, facts: &Facts<'_>) -> Option<String> {
        self.losses.push(facts.row.train_loss);
        if self.losses.len() > STILL_EPOCHS {
            self.losses.remove(0);
        }
        let (low, high) = (least(&self.losses), greatest(&self.losses));
        let still = self.losses.len() == STILL_EPOCHS && high <= (1.0 + STILL) * low;
        (still && low > LEARNED * guess(facts)).then(|| {
            format!(
                "the loss does not move: {low:.3} to {high:.3} in the last {STILL_EPOCHS} epochs, and a guess has {:.3}; \
                 try a higher --lr (`offshoot lr-find` suggests one), and look whether the folders' names fit the pictures",
                guess(facts)
            )
        })
    }

    fn overfitting(&mut self, facts: &Facts<'_>) -> Option<String> {
        let (seen, new) = (facts.row.train_eval_accuracy?, facts.row.val_accuracy?);
        self.gaps = if seen - new > GAP { self.gaps + 1 } else { 0 };
        let enough = self.gaps >= GAP_EPOCHS || (self.gaps > 0 && facts.last);
        enough.then(|| {
            format!(
                "overfitting: after epoch {} it knows {:.1} % of the pictures it trains with, and {:.1} % of those it does \
                 not; try {}",
                facts.row.epoch,
                100.0 * seen,
                100.0 * new,
                advice(facts).join(", ")
            )
        })
    }
}

/// Parameters that no gradient reaches, where others have one.
fn dead_layer(facts: &Facts<'_>) -> Option<String> {
    let silent = facts.norms.silent();
    if silent.is_empty() || silent.len() == facts.trained || facts.row.train_loss < PERFECT {
        return None;
    }
    let named = listed(silent, NAMED, |name| format!("`{name}`"));
    Some(format!(
        "a dead layer: the gradient of {named} was exactly 0 in each step of epoch {}, as behind an activation that gives \
         zeros only; `offshoot check` names it; start again from the pretrained weights with a lower --lr",
        facts.row.epoch
    ))
}

/// The first `most` of some things, and how many more there are.
pub(crate) fn listed<T>(things: &[T], most: usize, name: impl Fn(&T) -> String) -> String {
    let named: Vec<String> = things.iter().take(most).map(name).collect();
    match things.len().saturating_sub(most) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What the recipe has not used yet against overfitting.
fn advice(facts: &Facts<'_>) -> Vec<String> {
    let recipe = facts.recipe;
    let mut advice = Vec::new();
    if recipe.augmentation().is_none() {
        let views = if facts.has_prefix { " --cache-views 4" } else { "" };
        advice.push(format!("--augment on{views}"));
    }
    let dropout = recipe.head.split(',').find_map(|part| part.trim().strip_prefix("dropout="));
    let dropout = dropout.and_then(|ratio| ratio.parse::<f64>().ok()).unwrap_or(0.0);
    if dropout < 0.5 {
        let kind = recipe.head.split(',').next().unwrap_or("linear");
        let more = if dropout < 0.2 { 0.2 } else { 0.5 };
        advice.push(format!("more dropout (--head {kind},dropout={more})"));
    }
    if recipe.weight_decay < 0.05 {
        let more = if recipe.weight_decay < 0.01 { 0.01 } else { 0.1 };
        advice.push(format!("more weight decay (--weight-decay {more})"));
    }
    match (&recipe.freeze, recipe.unfreeze.is_empty()) {
        (Freeze::Backbone, true) => {}
        (Freeze::Backbone, false) => advice.push("fewer unfrozen layers (--freeze backbone)".into()),
        (Freeze::None | Freeze::Patterns(_), _) => advice.push("fewer layers that train (--freeze)".into()),
    }
    if recipe.label_smoothing == 0.0 {
        advice.push("--label-smoothing 0.1".into());
    }
    advice.push("more pictures".into());
    advice
}

/// The loss of a guess.
fn guess(facts: &Facts<'_>) -> f64 {
    (facts.classes.max(1) as f64).ln()
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::{Augment, Settings};

    fn recipe(change: impl FnOnce(&mut Settings)) -> Recipe {
        let mut settings =
            Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        change(&mut settings);
        Recipe::resolve(settings, &Preprocessing::default()).unwrap()
    }

    fn row(epoch: u64, train_loss: f64, accuracies: [f64; 2]) -> EpochRow {
        EpochRow {
            epoch,
            train_loss,
            train_accuracy: 0.5,
            val_loss: Some(1.0),
            val_accuracy: Some(accuracies[1]),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            train_eval_accuracy: Some(accuracies[0]),
            skipped_steps: 0,
            loss_scale: None,
            images_per_second: 1.0,
            seconds: 1.0,
            peak_mib: None,
        }
    }

    /// The warnings after each of these epochs, of a run of `epochs`.
    fn warnings(recipe: &Recipe, norms: &NormSums, rows: &[EpochRow], stages: &[usize]) -> Vec<Vec<String>> {
        let mut watch = Watch::default();
        let look = |(row, &stage): (&EpochRow, &usize)| {
            let facts = Facts {
                row,
                norms,
                recipe,
                stage,
                last: row.epoch == recipe.epochs,
                classes: 6,
                trained: 8,
                has_prefix: true,
            };
            watch.look(&facts)
        };
        rows.iter().zip(stages).map(look).collect()
    }

    fn of_losses(losses: &[f64]) -> Vec<Vec<String>> {
        let rows: Vec<EpochRow> =
            losses.iter().zip(1..).map(|(&loss, epoch)| row(epoch, loss, [0.5, 0.5])).collect();
        warnings(&recipe(|_| {}), &NormSums::default(), &rows, &vec![0; rows.len()])
    }

    #[test]
    fn a_gap_is_told_of_once_after_three_epochs_or_at_the_end() {
        let of = |gaps: &[[f64; 2]], epochs| {
            let rows: Vec<EpochRow> =
                gaps.iter().zip(1..).map(|(&gap, epoch)| row(epoch, 1.0 / epoch as f64, gap)).collect();
            let told = warnings(
                &recipe(|s| s.epochs = Some(epochs)),
                &NormSums::default(),
                &rows,
                &vec![0; rows.len()],
            );
            told.iter().map(Vec::len).collect::<Vec<_>>()
        };
        let (wide, narrow) = ([1.0, 0.9], [0.95, 0.91]);
        assert_eq!(of(&[wide, wide, wide, wide], 9), [0, 0, 1, 0]);
        assert_eq!(of(&[wide, wide, narrow, wide, wide], 9), [0; 5]);
        assert_eq!(of(&[narrow, wide], 2), [0, 1]);
        assert_eq!(of(&[wide, narrow], 2), [0, 0]);
    }

    #[test]
    fn advice_is_what_the_recipe_has_not_used() {
        let advice = |change: &dyn Fn(&mut Settings)| {
            let recipe = recipe(|s| {
                s.epochs = Some(1);
                change(s);
            });
            let told = warnings(&recipe, &NormSums::default(), &[row(1, 0.1, [0.99, 0.9])], &[0]);
            told[0][0].clone()
        };
        let text = advice(&|s| s.freeze = Some(Freeze::Backbone));
        assert!(text.contains("99.0 %") && text.contains("90.0 %"), "{text}");
        for part in ["--augment on --cache-views 4", "dropout=0.5", "--weight-decay 0.1", "more pictures"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("fewer"), "{text}");
        let text = advice(&|s| {
            s.augment = Some(Augment::On);
            s.head = Some("mlp:64,dropout=0.5".into());
            s.weight_decay = Some(0.1);
            s.label_smoothing = Some(0.1);
        });
        assert!(text.ends_with("try fewer layers that train (--freeze), more pictures"), "{text}");
        let text = advice(&|s| s.unfreeze = Some(vec!["layer4@0%".parse().unwrap()]));
        assert!(text.contains("fewer unfrozen layers (--freeze backbone)"), "{text}");
    }

    #[test]
    fn a_rate_is_too_high_when_the_loss_says_so() {
        // ln(6) is 1.79.
        let told = of_losses(&[2.9, 3.5]);
        assert!(told[0][0].contains("epoch 1 is 2.90") && told[0][0].contains("--lr 1e-4"), "{told:?}");
        assert!(told[1].is_empty());
        let told = of_losses(&[1.2, 0.6, 1.6]);
        assert!(told[2][0].contains("risen from 0.60 to 1.60"), "{told:?}");
        for good in [&[2.7, 1.5, 1.0, 0.7, 0.9][..], &[1.8, 1.7, 1.5, 1.4]] {
            assert!(of_losses(good).iter().all(Vec::is_empty), "{good:?}");
        }
        // An unfreezing may raise it.
        let rows = [row(1, 0.2, [0.5, 0.5]), row(2, 1.3, [0.5, 0.5])];
        let told = warnings(&recipe(|_| {}), &NormSums::default(), &rows, &[0, 1]);
        assert!(told.iter().all(Vec::is_empty), "{told:?}");
    }

    #[test]
    fn a_large_update_and_a_dead_layer_are_named() {
        let norms: NormSums = serde_json::from_str(
            r#"{"updates":1,"gradients":[],"ratios":[["all",0.6],["fc",0.7]],"silent":["conv1.weight","bn1.bias"]}"#,
        )
        .unwrap();
        let told = warnings(&recipe(|_| {}), &norms, &[row(1, 1.0, [0.5, 0.5])], &[0]);
        assert!(told[0][0].contains("`conv1.weight`, `bn1.bias` was exactly 0"), "{told:?}");
        assert!(told[0][1].contains("`fc` by 70 %"), "{told:?}");
        // Nothing is left to learn.
        let told = warnings(&recipe(|_| {}), &norms, &[row(1, 1e-4, [0.5, 0.5])], &[0]);
        assert_eq!(told[0].len(), 1, "{told:?}");
    }

    #[test]
    fn a_loss_that_stays_at_a_guess_is_told_of() {
        let told = of_losses(&[1.80, 1.79, 1.80, 1.79]);
        assert!(told[2][0].contains("does not move") && told[3].is_empty(), "{told:?}");
        assert!(of_losses(&[0.5, 0.5, 0.5, 0.5]).iter().all(Vec::is_empty));
        assert!(of_losses(&[1.8, 1.78, 1.72, 1.66]).iter().all(Vec::is_empty));
    }
}
