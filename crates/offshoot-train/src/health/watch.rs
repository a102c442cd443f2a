//! What the figures of finished epochs say about a run: warnings, each given once.

use offshoot_graph::Task;
use offshoot_graph::remedy::{AUGMENT, CACHE_VIEWS, FREEZE, HEAD, LABEL_SMOOTHING, LR, WEIGHT_DECAY};
use serde::{Deserialize, Serialize};

use super::interval::wilson;
use super::log::NormSums;
use crate::freeze::Freeze;
use crate::recipe::Recipe;
use crate::results::EpochRow;

/// Epochs in a row in which a run must look as if it memorized its pictures before that is reported.
const GAP_EPOCHS: u64 = 3;

/// The loss of an epoch is too high when it is by more than this above that of random guessing: `offshoot check` says the same of the
/// loss before training.
const ABOVE_A_GUESS: f64 = 1.0;

/// The loss rises when it is by more than this fraction of the loss of random guessing above the lowest of the stage.
const RISE: f64 = 0.5;

/// An update that changes more than this part of a group's weights is too large. Good ones change about a thousandth; the
/// default rate changes a new head by less than a tenth.
const LARGE_UPDATE: f64 = 0.5;

/// Epochs whose losses are compared to see whether it moves.
const STILL_EPOCHS: usize = 3;

/// A loss moves when the highest of those is by more than this part above the lowest.
const STILL: f64 = 0.02;

/// A loss below this fraction of the loss of random guessing has moved before.
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
    /// Epochs in a row since the lowest validation loss with a gap between the accuracies.
    gaps: u64,
    /// The lowest validation loss, and its epoch.
    #[serde(default)]
    best: Option<(u64, f64)>,
    told: Vec<Trouble>,
}

/// A finished epoch.
pub(crate) struct Facts<'a> {
    pub(crate) row: &'a EpochRow,
    pub(crate) norms: &'a NormSums,
    pub(crate) recipe: &'a Recipe,
    pub(crate) stage: usize,
    /// The training pictures that were looked at again after the epoch, and the validation pictures.
    pub(crate) images: [u64; 2],
    /// The loss of random guessing.
    pub(crate) guess: f64,
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
        let (loss, guess) = (facts.row.train_loss, facts.guess);
        let lowest = self.lowest.filter(|(stage, _)| *stage == facts.stage).map_or(loss, |(_, loss)| loss);
        self.lowest = Some((facts.stage, lowest.min(loss)));
        let what = if loss > guess + ABOVE_A_GUESS {
            format!(
                "the mean loss of epoch {} is {loss:.2}, and {} has {guess:.2}",
                facts.row.epoch,
                guessing(facts.recipe.task)
            )
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
        Some(format!("the learning rate looks too high: {what}; try {LR} {}", a_tenth(facts.recipe.lr)))
    }

    fn still_loss(&mut self, facts: &Facts<'_>) -> Option<String> {
        self.losses.push(facts.row.train_loss);
        if self.losses.len() > STILL_EPOCHS {
            self.losses.remove(0);
        }
        let (low, high) = (least(&self.losses), greatest(&self.losses));
        let still = self.losses.len() == STILL_EPOCHS && high <= (1.0 + STILL) * low;
        (still && low > LEARNED * facts.guess).then(|| {
            format!(
                "the loss does not change: {low:.3} to {high:.3} in the last {STILL_EPOCHS} epochs, and {} has {:.3}; \
                 try a higher {LR} (`offshoot lr-find` suggests one), and check that the {} fit the pictures",
                guessing(facts.recipe.task),
                facts.guess,
                if facts.recipe.task == Task::Regression { "targets" } else { "folder names" }
            )
        })
    }

    /// Overfitting is a trend: for some epochs in a row the accuracy on training pictures is above that on validation pictures by more
    /// than so many pictures can show by chance (their intervals do not meet), and the validation loss has not come back to its lowest.
    fn overfitting(&mut self, facts: &Facts<'_>) -> Option<String> {
        // The intervals are those of a fraction of pictures, which the figures of several labels and of numbers are not.
        if !facts.recipe.task.is_single() {
            return None;
        }
        let EpochRow { epoch, .. } = *facts.row;
        let (seen, new, loss) =
            (facts.row.train_eval_accuracy?, facts.row.val_accuracy?, facts.row.val_loss?);
        let [seen_images, new_images] = facts.images;
        let ([least, _], [low, high]) = (wilson(seen, seen_images), wilson(new, new_images));
        let (best_epoch, lowest) = self.best.filter(|(_, lowest)| loss >= *lowest).unwrap_or((epoch, loss));
        self.best = Some((best_epoch, lowest));
        self.gaps = if least > high && best_epoch < epoch { self.gaps + 1 } else { 0 };
        (self.gaps >= GAP_EPOCHS).then(|| {
            let percent = |x: f64| 100.0 * x;
            format!(
                "overfitting: after epoch {epoch} the accuracy is {:.1} % on training pictures and {:.1} % on validation pictures \
                 (95 % interval of {new_images} pictures: {:.1} to {:.1} %), and the validation loss has been above that of epoch \
                 {best_epoch} since; try {}",
                percent(seen),
                percent(new),
                percent(low),
                percent(high),
                advice(facts).join(", ")
            )
        })
    }
}

/// What a model does that has learned nothing, in words.
pub(super) fn guessing(task: Task) -> &'static str {
    match task {
        Task::Single | Task::Multi => "random guessing",
        Task::Regression => "predicting the mean",
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
         zeros only; `offshoot check` names it; start again from the pretrained weights with a lower {LR}",
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
        let views = if facts.has_prefix { format!(" {CACHE_VIEWS} 4") } else { String::new() };
        advice.push(format!("{AUGMENT} on{views}"));
    }
    let dropout = recipe.head.split(',').find_map(|part| part.trim().strip_prefix("dropout="));
    let dropout = dropout.and_then(|ratio| ratio.parse::<f64>().ok()).unwrap_or(0.0);
    if dropout < 0.5 {
        let kind = recipe.head.split(',').next().unwrap_or("linear");
        let more = if dropout < 0.2 { 0.2 } else { 0.5 };
        advice.push(format!("more dropout ({HEAD} {kind},dropout={more})"));
    }
    if recipe.weight_decay < 0.05 {
        let more = if recipe.weight_decay < 0.01 { 0.01 } else { 0.1 };
        advice.push(format!("more weight decay ({WEIGHT_DECAY} {more})"));
    }
    match (&recipe.freeze, recipe.unfreeze.is_empty()) {
        (Freeze::Backbone, true) => {}
        (Freeze::Backbone, false) => advice.push(format!("fewer unfrozen layers ({FREEZE} backbone)")),
        (Freeze::None | Freeze::Patterns(_), _) => advice.push(format!("fewer layers that train ({FREEZE})")),
    }
    if recipe.label_smoothing == 0.0 {
        advice.push(format!("{LABEL_SMOOTHING} 0.1"));
    }
    advice.push("more pictures".into());
    advice
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A tenth of a learning rate, without the digits that only rounding gives it.
fn a_tenth(lr: f64) -> String {
    let rounded = format!("{:.3e}", lr / 10.0).parse().unwrap_or(lr / 10.0);
    format!("{rounded:e}")
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
            gradient_norm: Some(1.0),
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
                images: [400, 100],
                guess: 6f64.ln(),
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

    /// The warnings after each of these epochs: the two accuracies, and the validation loss.
    fn of_gaps(images: [u64; 2], epochs: &[([f64; 2], f64)]) -> Vec<String> {
        let recipe = recipe(|_| {});
        let mut watch = Watch::default();
        let mut told = Vec::new();
        for (&(accuracies, loss), epoch) in epochs.iter().zip(1..) {
            let row = EpochRow { val_loss: Some(loss), ..row(epoch, 1.0 / epoch as f64, accuracies) };
            let norms = &NormSums::default();
            let facts = Facts {
                row: &row,
                norms,
                recipe: &recipe,
                stage: 0,
                images,
                guess: 6f64.ln(),
                trained: 8,
                has_prefix: true,
            };
            told.push(watch.look(&facts).join(" "));
        }
        told
    }

    #[test]
    fn overfitting_is_a_trend_that_is_told_of_once() {
        let (wide, narrow) = ([1.0, 0.8], [0.9, 0.87]);
        let told = |images, epochs: &[([f64; 2], f64)]| -> Vec<bool> {
            of_gaps(images, epochs).iter().map(|text| text.contains("overfitting")).collect()
        };
        let rising = [(wide, 0.5), (wide, 0.6), (wide, 0.7), (wide, 0.8), (wide, 0.9)];
        assert_eq!(told([400, 100], &rising), [false, false, false, true, false]);
        // The validation loss goes on falling: it learns.
        let falling = [(wide, 0.9), (wide, 0.8), (wide, 0.7), (wide, 0.6), (wide, 0.5)];
        assert_eq!(told([400, 100], &falling), [false; 5]);
        // Of ten pictures, two more or less are chance.
        let few = rising.map(|(_, loss)| ([0.95, 0.8], loss));
        assert_eq!(told([400, 10], &few), [false; 5]);
        assert_eq!(told([400, 100], &few), [false, false, false, true, false]);
        let interrupted = [(wide, 0.5), (wide, 0.6), (wide, 0.7), (narrow, 0.8), (wide, 0.9), (wide, 0.9)];
        assert_eq!(told([400, 100], &interrupted), [false; 6]);
        // One epoch, or the last one, is no trend.
        assert_eq!(told([400, 1000], &rising[..1]), [false]);
        let text = &of_gaps([400, 100], &rising)[3];
        // Of 80 of 100: 0.7111708 to 0.8666331.
        assert!(
            text.contains("interval of 100 pictures: 71.1 to 86.7 %") && text.contains("epoch 1 since"),
            "{text}"
        );
    }

    #[test]
    fn advice_is_what_the_recipe_has_not_used() {
        let advice = |change: &dyn Fn(&mut Settings)| {
            let norms = &NormSums::default();
            let row = row(1, 0.1, [0.99, 0.9]);
            let recipe = &recipe(change);
            let (row, images) = (&row, [400, 100]);
            super::advice(&Facts {
                row,
                norms,
                recipe,
                stage: 0,
                images,
                guess: 6f64.ln(),
                trained: 8,
                has_prefix: true,
            })
            .join(", ")
        };
        let text = advice(&|s| s.freeze = Some(Freeze::Backbone));
        for part in ["`augment` on `cache_views` 4", "dropout=0.5", "`weight_decay` 0.1", "more pictures"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("fewer"), "{text}");
        let text = advice(&|s| {
            s.augment = Some(Augment::On);
            s.head = Some("mlp:64,dropout=0.5".into());
            s.weight_decay = Some(0.1);
            s.label_smoothing = Some(0.1);
        });
        assert_eq!(text, "fewer layers that train (`freeze`), more pictures");
        let text = advice(&|s| s.unfreeze = Some(vec!["layer4@0%".parse().unwrap()]));
        assert!(text.contains("fewer unfrozen layers (`freeze` backbone)"), "{text}");
    }

    #[test]
    fn a_rate_is_too_high_when_the_loss_says_so() {
        // ln(6) is 1.79.
        let told = of_losses(&[2.9, 3.5]);
        assert!(told[0][0].contains("epoch 1 is 2.90") && told[0][0].contains("`lr` 1e-4"), "{told:?}");
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
        assert!(told[2][0].contains("does not change") && told[3].is_empty(), "{told:?}");
        assert!(of_losses(&[0.5, 0.5, 0.5, 0.5]).iter().all(Vec::is_empty));
        assert!(of_losses(&[1.8, 1.78, 1.72, 1.66]).iter().all(Vec::is_empty));
    }
}
