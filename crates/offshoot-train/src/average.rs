//! The equal average of the weights of late epochs. (The exponential moving average, which moves at each step, is part of the
//! step's graph.)

use std::collections::BTreeMap;

use offshoot_graph::{Tensor, Weights};
use rayon::prelude::*;

use crate::optimizer::StateError;

/// Elements that one task updates.
const CHUNK: usize = 1 << 14;

/// More updates than any run makes.
const MAX_COUNT: f32 = 1e7;

/// A number of updates, as states hold it under `count`.
pub(crate) fn counted(updates: u64) -> Tensor {
    Tensor::full([], (updates as f32).min(MAX_COUNT))
}

/// The number of updates in a state.
pub(crate) fn count_of(state: &Weights) -> Result<u64, StateError> {
    let count = state.get("count").and_then(Tensor::as_f32).and_then(|count| count.first().copied());
    let whole = |count: &f32| (0.0..=MAX_COUNT).contains(count) && count.fract() == 0.0;
    count.filter(whole).map(|count| count as u64).ok_or_else(|| StateError("count".into()))
}

/// An average of weights and running statistics, updated as `torch.optim.swa_utils.AveragedModel` with
/// `use_buffers=True` does: the first update copies, and each later one moves the average towards the weights.
///
/// What is not part of an average has not changed: it is frozen. What joins later starts from the value that it has then,
/// which is what its average would have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    count: u64,
    values: BTreeMap<String, Vec<f32>>,
}

impl Average {
    /// The mean of the weights of all updates.
    pub fn equal() -> Average {
        Average { count: 0, values: BTreeMap::new() }
    }

    /// How many updates there have been.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in the weights as they are now.
    pub fn update(&mut self, weights: impl Iterator<Item = (String, Tensor)>) {
        let part = (1.0 / (self.count as f64 + 1.0)) as f32;
        for (name, now) in weights {
            let now = now.as_f32().unwrap_or_default();
            match self.values.get_mut(&name) {
                Some(average) if part < 1.0 => blend(average, now, part),
                Some(average) => average.copy_from_slice(now),
                None => {
                    self.values.insert(name, now.to_vec());
                }
            }
        }
        self.count += 1;
    }

    /// Lets parameters join that have been frozen so far, at the value that they have. Without updates, all wait for the first.
    pub fn join(&mut self, weights: impl Iterator<Item = (String, Tensor)>) {
        if self.count > 0 {
            for (name, now) in weights {
                let now = now.as_f32().unwrap_or_default();
                self.values.entry(name).or_insert_with(|| now.to_vec());
            }
        }
    }

    /// Puts the average in place of what it has an average of.
    pub fn put_into(&self, weights: &mut Weights) {
        for (name, average) in &self.values {
            if let Some(weight) = weights.get_mut(name).and_then(Tensor::as_f32_mut) {
                weight.copy_from_slice(average);
            }
        }
    }

    /// What a checkpoint keeps: `count` and each average under its name.
    pub fn state(&self) -> Weights {
        let values = self.values.iter().map(|(name, v)| (name.clone(), Tensor::f32([v.len()], v.clone())));
        values.chain([("count".to_owned(), counted(self.count))]).collect()
    }

    /// Takes over what [`Average::state`] gave, for the parameters in `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another size; nothing is changed then.
    pub fn load_state(
        &mut self,
        state: &Weights,
        weights: impl Iterator<Item = (String, Tensor)>,
    ) -> Result<(), StateError> {
        let read = |name: &str, len: usize| {
            let found = state.get(name).and_then(Tensor::as_f32).filter(|data| data.len() == len);
            found.ok_or_else(|| StateError(name.to_owned()))
        };
        let count = count_of(state)?;
        let mut values = BTreeMap::new();
        for (name, now) in weights.filter(|_| count > 0) {
            let value = read(&name, now.len())?.to_vec();
            values.insert(name, value);
        }
        (self.count, self.values) = (count, values);
        Ok(())
    }
}

/// `average += part (now - average)`, PyTorch's `lerp_`.
fn blend(average: &mut [f32], now: &[f32], part: f32) {
    average.par_chunks_mut(CHUNK).zip(now.par_chunks(CHUNK)).for_each(|(average, now)| {
        for (a, &w) in average.iter_mut().zip(now) {
            *a = if part < 0.5 { *a + part * (w - *a) } else { w - (w - *a) * (1.0 - part) };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, values: &[f32]) -> (String, Tensor) {
        (name.to_owned(), Tensor::f32([values.len()], values.to_vec()))
    }

    fn update(average: &mut Average, name: &str, values: &[f32]) {
        average.update([named(name, values)].into_iter());
    }

    fn value(average: &Average, name: &str) -> Vec<f32> {
        let mut weights = Weights::from([(name.to_string(), Tensor::zeros([2]))]);
        average.put_into(&mut weights);
        weights[name].as_f32().unwrap().to_vec()
    }

    #[test]
    fn averages_are_what_they_say() {
        let mut equal = Average::equal();
        for values in [[1.0, -4.0], [3.0, 0.0], [8.0, 1.0]] {
            update(&mut equal, "w", &values);
        }
        assert_eq!(value(&equal, "w"), [4.0, -1.0]);
    }

    #[test]
    fn what_joins_late_starts_where_it_is() {
        let mut average = Average::equal();
        update(&mut average, "w", &[1.0, 1.0]);
        average.join([named("w", &[9.0, 9.0]), named("v", &[2.0, 4.0])].into_iter());
        assert_eq!((value(&average, "w"), value(&average, "v")), (vec![1.0, 1.0], vec![2.0, 4.0]));
        update(&mut average, "v", &[4.0, 4.0]);
        assert_eq!(value(&average, "v"), [3.0, 4.0]);
    }

    #[test]
    fn a_state_comes_back_and_a_wrong_one_does_not() {
        let mut average = Average::equal();
        update(&mut average, "w", &[1.0, 2.0]);
        let mut other = Average::equal();
        other.load_state(&average.state(), [named("w", &[0.0; 2])].into_iter()).unwrap();
        assert_eq!(other, average);
        let refused = other.load_state(&average.state(), [named("w", &[0.0; 3])].into_iter());
        assert_eq!(refused, Err(StateError("w".into())));
        let broken = Weights::from([("count".to_string(), Tensor::full([], 0.5))]);
        assert_eq!(other.load_state(&broken, std::iter::empty()), Err(StateError("count".into())));
    }
}
