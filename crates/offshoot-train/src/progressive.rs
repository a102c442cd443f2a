//! Progressive resizing: smaller pictures in the first epochs, which take a part of the time.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::Preprocessing;
use offshoot_graph::text::quoted;
use serde::{Deserialize, Serialize};

use crate::part;

/// What networks halve a picture by in all: sizes that differ by multiples of it are halved alike.
const STRIDE: usize = 32;

/// From some point of the run on, training pictures have another size: `128@0%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progressive {
    /// Height and width, in pixels.
    pub size: usize,
    /// From which part of the epochs on, 0..1; what is no whole number of epochs is rounded up.
    pub at: f64,
}

impl Progressive {
    /// The finished epochs after which it happens, in a run of `epochs`.
    pub fn epoch(&self, epochs: u64) -> u64 {
        part::epoch(self.at, epochs)
    }

    /// Why a network for pictures of `size` pixels cannot be trained with these.
    pub fn problem(&self, size: usize) -> Option<String> {
        let fits =
            self.size >= STRIDE && self.size.abs_diff(size).is_multiple_of(STRIDE) && self.size <= 4 * size;
        (!fits).then(|| {
            format!(
                "has `{self}`: sizes must differ from the network's own, {size}, by a multiple of {STRIDE}, and be within \
                 {STRIDE} and {}",
                4 * size
            )
        })
    }
}

/// Height and width of the training pictures in the epoch after `epoch` finished ones of `epochs`; `own` where no change has come.
pub fn size_at(changes: &[Progressive], epoch: u64, epochs: u64, own: usize) -> usize {
    let due = changes.iter().filter(|change| change.epoch(epochs) <= epoch);
    due.max_by_key(|change| change.epoch(epochs)).map_or(own, |change| change.size)
}

/// `own` for pictures of another size, resized in the same proportion before they are cut.
pub fn resized(own: &Preprocessing, size: usize) -> Preprocessing {
    Preprocessing { size, resize: own.resize_for(size).max(size), ..own.clone() }
}

impl FromStr for Progressive {
    type Err = String;

    fn from_str(text: &str) -> Result<Progressive, String> {
        let explain =
            || format!("`{}` is not SIZE@PERCENT% as in 128@0%, with 0 to below 100 percent", quoted(text));
        let (size, at) = text.split_once('@').ok_or_else(explain)?;
        let size = size.parse().map_err(|_| explain())?;
        Ok(Progressive { size, at: part::parse(at).ok_or_else(explain)? })
    }
}

impl fmt::Display for Progressive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.size, part::text(self.at))
    }
}

impl Serialize for Progressive {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Progressive {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Progressive, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Progressive {
        text.parse().unwrap()
    }

    #[test]
    fn a_change_is_written_as_it_is_read() {
        for text in ["128@0%", "160@12.5%", "224@60%"] {
            assert_eq!(parse(text).to_string(), text);
        }
        for text in ["128", "128@50", "@50%", "128@100%", "128@-1%", "-1@5%"] {
            assert!(text.parse::<Progressive>().unwrap_err().contains(text));
        }
    }

    #[test]
    fn the_latest_change_that_is_due_counts() {
        let changes = [parse("160@50%"), parse("128@0%")];
        assert_eq!([0, 4, 5, 9].map(|epoch| size_at(&changes, epoch, 10, 224)), [128, 128, 160, 160]);
        assert_eq!([0, 4, 5].map(|epoch| size_at(&changes[..1], epoch, 10, 224)), [224, 224, 160]);
        assert_eq!(size_at(&[], 3, 10, 224), 224);
    }

    #[test]
    fn sizes_are_halved_like_the_own_one() {
        assert_eq!(parse("128@0%").problem(224), None);
        for text in ["120@0%", "0@0%", "9984@0%"] {
            assert!(parse(text).problem(224).unwrap().contains("multiple of 32"));
        }
    }
}
