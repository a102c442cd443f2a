//! What a recipe and the classes of the pictures make of the options of a step.

use offshoot_data::{Dataset, Sample};
use offshoot_graph::model::OUTPUT;
use offshoot_graph::{Model, Regression, Task};

use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::scales::scales;
use crate::step::StepOptions;
use crate::targets::loss_of_means;
use crate::unfreeze::Stages;

/// The options of a step in a stage.
pub(crate) fn for_stage(options: &StepOptions, stages: &Stages, stage: usize) -> StepOptions {
    let mut options = options.clone();
    options.rates.unfrozen = stages.unfrozen(stage);
    options
}

pub(crate) fn check_classes(model: &Model, data: &Dataset) -> Result<(), TrainError> {
    let shape = model.graph.output(OUTPUT).map(|id| &model.graph.value(id).shape);
    let classes = shape.and_then(|s| s.0.get(1)).and_then(|d| d.fixed());
    if classes == Some(data.classes.len()) && model.metadata.classes == data.classes {
        return Ok(());
    }
    let model = classes.map_or("no known number of".into(), |n| n.to_string());
    Err(TrainError::Classes { model, data: data.classes.len() })
}

pub(crate) fn step_options(recipe: &Recipe, data: &Dataset) -> Result<StepOptions, TrainError> {
    Ok(StepOptions {
        optimizer: recipe.optimizer_options(),
        rates: recipe.rates(Vec::new()).map_err(TrainError::Pattern)?,
        clip: recipe.clip(),
        task: recipe.task,
        regression: recipe.loss.unwrap_or_default(),
        // Where pictures have weights or several labels, the targets are smoothed before.
        label_smoothing: match recipe.task {
            Task::Single if data.weights.is_empty() => recipe.label_smoothing as f32,
            Task::Single | Task::Multi | Task::Regression => 0.0,
        },
        class_weights: class_weights(recipe, data)?,
        soft_targets: !data.weights.is_empty() || recipe.augmentation().is_some_and(|how| how.mix().is_on()),
        amp: recipe.amp,
        ema: recipe.ema,
    })
}

/// The loss of random guessing: ln(classes); of several labels ln(2), more where what has a class weighs more; of numbers, that of always
/// predicting the means.
pub(crate) fn guess(task: Task, data: &Dataset, options: &StepOptions) -> f64 {
    let classes = data.classes.len().max(1);
    match task {
        Task::Single => (classes as f64).ln(),
        Task::Multi => {
            let weight = |label: usize| {
                options.class_weights.as_ref().map_or(1.0, |weights| f64::from(weights[label]))
            };
            let labels = data.train.iter().flat_map(Sample::classes);
            let more: f64 = labels.map(|label| weight(label) - 1.0).sum();
            std::f64::consts::LN_2 * (1.0 + more / (data.train.len().max(1) * classes) as f64)
        }
        Task::Regression => {
            let scales = scales(data).unwrap_or_default();
            loss_of_means(&Regression { loss: options.regression, scales }, data.train.iter())
        }
    }
}

/// The weights given, times (pictures / classes / pictures of the class) where classes are balanced; of several labels, times
/// (pictures without the class / pictures with it). Of numbers, one over the deviation of each.
fn class_weights(recipe: &Recipe, data: &Dataset) -> Result<Option<Vec<f32>>, TrainError> {
    if recipe.task == Task::Regression {
        let regression = Regression { scales: scales(data)?, ..Regression::default() };
        return Ok(Some(regression.inverse_deviations()));
    }
    if let Some(class) = recipe.class_weights.keys().find(|class| !data.classes.contains(class)) {
        return Err(TrainError::ClassWeight { class: class.clone(), classes: data.classes.join(", ") });
    }
    if recipe.class_weights.is_empty() && !recipe.balance_classes {
        return Ok(None);
    }
    let mut pictures = vec![0; data.classes.len()];
    data.train.iter().flat_map(Sample::classes).for_each(|label| pictures[label] += 1);
    let weight = |(class, pictures): (&String, usize)| {
        let given = recipe.class_weights.get(class).copied().unwrap_or(1.0);
        let (all, of_class) = (data.train.len(), pictures.max(1) as f64);
        let balance = match recipe.task {
            Task::Single => all as f64 / (data.classes.len() as f64 * of_class),
            // A class that all pictures have keeps some weight.
            Task::Multi | Task::Regression => (all - pictures).max(1) as f64 / of_class,
        };
        (if recipe.balance_classes { given * balance } else { given }) as f32
    };
    Ok(Some(data.classes.iter().zip(pictures).map(weight).collect()))
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;

    fn data() -> Dataset {
        let sample = |label| Sample::new("x.png", label);
        let classes = vec!["a".to_string(), "b".to_string()];
        Dataset { classes, train: [0, 0, 0, 1].map(sample).to_vec(), ..Dataset::default() }
    }

    fn weights(change: impl FnOnce(&mut Settings)) -> Option<Vec<f32>> {
        let mut settings =
            Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        change(&mut settings);
        let recipe = Recipe::resolve(settings, &Preprocessing::default()).unwrap();
        class_weights(&recipe, &data()).unwrap()
    }

    #[test]
    fn what_has_a_class_weighs_as_much_as_what_has_not() {
        let mut settings =
            Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        settings.task = Some(Task::Multi);
        settings.balance_classes = Some(true);
        settings.class_weights = Some([("b".to_string(), 2.0)].into());
        let recipe = Recipe::resolve(settings, &Preprocessing::default()).unwrap();
        let labels: [&[usize]; 4] = [&[0], &[0, 1], &[], &[0]];
        let train = labels.map(|labels| Sample::several("x.png", labels.iter().copied())).to_vec();
        let data = Dataset { train, ..data() };
        let options = step_options(&recipe, &data).unwrap();
        assert_eq!(options.class_weights, Some(vec![1.0 / 3.0, 6.0]));
        assert_eq!((options.task, options.label_smoothing), (Task::Multi, 0.0));
        // Three labels of a third less two thirds, and one of six.
        let guess = guess(Task::Multi, &data, &options);
        assert!((guess / std::f64::consts::LN_2 - (1.0 + (-2.0 + 5.0) / 8.0)).abs() < 1e-6, "{guess}");
    }

    #[test]
    fn classes_weigh_what_is_asked_for() {
        let given = || Some([("b".to_string(), 3.0)].into());
        assert_eq!(weights(|_| ()), None);
        assert_eq!(weights(|s| s.class_weights = given()), Some(vec![1.0, 3.0]));
        let balanced = Some(vec![4.0 / 6.0, 2.0]);
        assert_eq!(weights(|s| s.balance_classes = Some(true)), balanced);
        let both = weights(|s| {
            s.balance_classes = Some(true);
            s.class_weights = given();
        });
        assert_eq!(both, Some(vec![4.0 / 6.0, 6.0]));
    }
}
