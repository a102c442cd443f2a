//! The numbers of a tensor in JSON, flat or as nested lists, without a value of its own for each.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, SeqAccess, Visitor};

/// Numbers in row-major order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) all: Vec<f32>,
    /// How long the lists at each depth are.
    lengths: Vec<usize>,
    /// The depth of the numbers.
    depth: Option<usize>,
    /// Lists at one depth differ, in length or in what they hold.
    ragged: bool,
}

impl Numbers {
    /// Whether they are a tensor of that shape: one list of all, or nested lists of these lengths.
    pub(super) fn have_shape(&self, shape: &[usize]) -> bool {
        let flat = self.lengths == [self.all.len()];
        !self.ragged && (flat || self.lengths == shape)
    }

    fn list(&mut self, depth: usize, length: usize) {
        if self.lengths.len() <= depth {
            self.lengths.resize(depth + 1, usize::MAX);
        }
        let known = &mut self.lengths[depth];
        self.ragged |= *known != usize::MAX && *known != length;
        *known = length;
    }

    fn number(&mut self, depth: usize, number: f32) {
        self.ragged |= *self.depth.get_or_insert(depth) != depth;
        self.all.push(number);
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        let mut numbers = Numbers::default();
        deserializer.deserialize_seq(Place { numbers: &mut numbers, depth: 0 })?;
        Ok(numbers)
    }
}

/// What is read next: a number, or a list of what is a level deeper.
struct Place<'a> {
    numbers: &'a mut Numbers,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, or lists of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Place { numbers, depth } = self;
        let mut length = 0;
        while list.next_element_seed(Place { numbers: &mut *numbers, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        numbers.list(depth, length);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.numbers.number(self.depth, number as f32);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.numbers.number(self.depth, number as f32);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.numbers.number(self.depth, number as f32);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Numbers {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn flat_and_nested_lists_are_the_same_numbers() {
        let all = [1.0, -2.0, 0.5, 4.0, 5e9, 6.0];
        for text in ["[1, -2, 0.5, 4, 5e9, 6]", "[[1, -2, 0.5], [4, 5e9, 6]]"] {
            let numbers = read(text);
            assert_eq!(numbers.all, all);
            assert!(numbers.have_shape(&[2, 3]), "{text}");
        }
        assert!(!read("[[1, 2], [3, 4], [5, 6]]").have_shape(&[2, 3]));
    }

    #[test]
    fn lists_that_differ_are_no_tensor() {
        for text in ["[[1, 2], [3]]", "[1, [2, 3]]", "[[1, 2], 3]", "[[1], [[2]], 3]", "[[], [1, 2, 3]]"] {
            let numbers = read(text);
            assert!(!numbers.have_shape(&[numbers.all.len()]) && !numbers.have_shape(&[1, 3]), "{text}");
        }
        for text in ["1", "[\"1\"]", "[null]", "[{}]", "[true]", "{}"] {
            assert!(serde_json::from_str::<Numbers>(text).is_err(), "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(serde_json::from_str::<Numbers>(&deep).is_err());
    }
}
