//! Runs that train longer than was asked for at first: `--resume --epochs 20` of a run of 10.
//!
//! What has happened stays: the best epoch, and the epochs after which something was unfrozen or pictures changed their size. From
//! where the run is, the learning rate is that of a run of the new number of epochs. What looks at the last epochs starts again:
//! the epochs that early stopping has waited, and the average of the last epochs.

use std::path::PathBuf;

use crate::part;
use crate::progressive::Progressive;
use crate::recipe::Recipe;
use crate::unfreeze::Unfreeze;

impl Recipe {
    /// The recipe of the same run with `epochs`, more than there were.
    pub(crate) fn longer(&self, epochs: u64) -> Recipe {
        let moved = |at: f64| part::of(part::epoch(at, self.epochs), epochs);
        let unfreeze = self.unfreeze.iter().map(|u| Unfreeze { at: moved(u.at), ..u.clone() });
        let progressive = self.progressive.iter().map(|p| Progressive { at: moved(p.at), ..*p });
        let (unfreeze, progressive) = (unfreeze.collect(), progressive.collect());
        Recipe { epochs, unfreeze, progressive, ..self.clone() }
    }
}

/// Whether `now` is the recipe `saved` with more epochs, wherever its pictures are; both as the text of `recipe.toml`.
pub(crate) fn is_longer(saved: &str, now: &str) -> bool {
    with_both(saved, now, |saved, now| now.epochs > saved.epochs && saved.longer(now.epochs) == *now)
}

/// Whether `now` is the recipe `saved`, wherever its pictures are.
pub(crate) fn is_same(saved: &str, now: &str) -> bool {
    saved == now || with_both(saved, now, |saved, now| saved == now)
}

/// What `holds` says of two recipes whose pictures are in one place.
fn with_both(saved: &str, now: &str, holds: impl Fn(&Recipe, &Recipe) -> bool) -> bool {
    match (toml::from_str::<Recipe>(saved), toml::from_str::<Recipe>(now)) {
        (Ok(saved), Ok(now)) => holds(&Recipe { data: now.data.clone(), ..saved }, &now),
        _ => false,
    }
}

/// Where the pictures of the recipe `saved` are.
pub(crate) fn data_of(saved: &str) -> Option<PathBuf> {
    toml::from_str::<Recipe>(saved).ok().map(|recipe| recipe.data)
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;

    #[test]
    fn what_has_happened_keeps_its_epoch() {
        for (epochs, more) in [(10, 20), (3, 7), (7, 1000), (30, 31), (999, 999_999)] {
            let settings = Settings {
                model: Some("m".into()),
                data: Some("d".into()),
                epochs: Some(epochs),
                unfreeze: Some(vec!["a@50%".parse().unwrap(), "b@0%:x0.3".parse().unwrap()]),
                progressive: Some(vec!["128@0%".parse().unwrap(), "224@60%".parse().unwrap()]),
                ..Settings::default()
            };
            let recipe = Recipe::resolve(settings, &Preprocessing::default()).unwrap();
            let longer = recipe.longer(more);
            // As the file holds it.
            let longer: Recipe = toml::from_str(&longer.to_toml()).unwrap();
            let starts = |r: &Recipe| -> Vec<u64> {
                let sizes = r.progressive.iter().map(|p| p.epoch(r.epochs));
                r.unfreeze.iter().map(|u| u.epoch(r.epochs)).chain(sizes).collect()
            };
            assert_eq!(starts(&recipe), starts(&longer), "{epochs} {more}");
            assert!(is_longer(&recipe.to_toml(), &longer.to_toml()));
            assert!(!is_longer(&longer.to_toml(), &recipe.to_toml()));
            let twice = recipe.longer(more).longer(more + 5);
            assert_eq!(starts(&recipe), starts(&twice), "{epochs} {more}");
            assert!(is_longer(&recipe.to_toml(), &twice.to_toml()), "{epochs} {more}");
            let moved = Recipe { data: "elsewhere".into(), ..longer.clone() };
            assert!(is_longer(&recipe.to_toml(), &moved.to_toml()));
            assert!(
                is_same(&longer.to_toml(), &moved.to_toml()) && !is_same(&recipe.to_toml(), &moved.to_toml())
            );
            let other = Recipe { seed: 1, ..longer };
            assert!(!is_longer(&recipe.to_toml(), &other.to_toml()));
        }
    }
}
