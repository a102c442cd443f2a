//! The values of a `config.json`.

use offshoot_graph::op::Unary;
use serde_json::{Map, Value};

use super::TransformersError;

/// The most layers, stages or channels that are accepted.
const MOST: usize = 1 << 16;
/// The most numbers in a list.
const LONGEST: usize = 64;

type Result<T> = std::result::Result<T, TransformersError>;

/// A `config.json`. What it leaves out has the default of transformers.
#[derive(Clone, Copy)]
pub(super) struct Config<'a>(pub(super) &'a Map<String, Value>);

impl Config<'_> {
    fn error<T>(&self, key: &str, wanted: impl Into<String>) -> Result<T> {
        let found = self.0.get(key).map_or("nothing".to_owned(), Value::to_string);
        Err(TransformersError::Value { key: key.to_owned(), found, wanted: wanted.into() })
    }

    /// The value, but for `null`, which is as good as none.
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn is_whole(value: &Value) -> Option<usize> {
        let number = usize::try_from(value.as_u64()?).ok()?;
        (1..=MOST).contains(&number).then_some(number)
    }

    /// A whole number, at least 1.
    pub(super) fn whole(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.value(key) else { return Ok(default) };
        Self::is_whole(value).map_or_else(|| self.error(key, format!("a number in 1..={MOST}")), Ok)
    }

    /// A side of a square: a number, or a list of two that are the same.
    pub(super) fn side(&self, key: &str, default: usize) -> Result<usize> {
        match self.value(key) {
            Some(Value::Array(sides)) => match sides.as_slice() {
                [a, b] if a == b => {
                    Self::is_whole(a).map_or_else(|| self.error(key, "a number of pixels"), Ok)
                }
                _ => self.error(key, "a square: height and width the same"),
            },
            _ => self.whole(key, default),
        }
    }

    /// Whole numbers, which may be 0 where `zero`.
    pub(super) fn list(&self, key: &str, default: &[usize], zero: bool) -> Result<Vec<usize>> {
        let wanted = || self.error(key, format!("a list of at most {LONGEST} numbers up to {MOST}"));
        match self.value(key) {
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) if list.len() <= LONGEST => {
                let whole = |value: &Value| {
                    if zero && value.as_u64() == Some(0) { Some(0) } else { Self::is_whole(value) }
                };
                list.iter().map(whole).collect::<Option<Vec<_>>>().map_or_else(wanted, Ok)
            }
            Some(_) => wanted(),
        }
    }

    /// A number above 0.
    pub(super) fn float(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.value(key) else { return Ok(default) };
        match value.as_f64().filter(|number| *number > 0.0 && *number <= MOST as f64) {
            Some(number) => Ok(number),
            None => self.error(key, format!("a number above 0 and at most {MOST}")),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => self.error(key, "true or false"),
        }
    }

    pub(super) fn text<'v>(&'v self, key: &str, default: &'v str) -> Result<&'v str> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(_) => self.error(key, "a text"),
        }
    }

    /// Refuses a whole number other than the only one that is built.
    pub(super) fn only(&self, key: &str, wanted: usize) -> Result<()> {
        match self.whole(key, wanted)? {
            number if number == wanted => Ok(()),
            _ => self.error(key, wanted.to_string()),
        }
    }

    /// Refuses a flag other than the only one that is built.
    pub(super) fn only_flag(&self, key: &str, wanted: bool) -> Result<()> {
        if self.flag(key, wanted)? == wanted { Ok(()) } else { self.error(key, wanted.to_string()) }
    }

    /// Refuses a text other than those that mean the same and are built.
    pub(super) fn only_text(&self, key: &str, default: &str, wanted: &[&str]) -> Result<()> {
        let text = self.text(key, default)?;
        if wanted.contains(&text) { Ok(()) } else { self.error(key, wanted.join(" or ")) }
    }

    /// Refuses numbers that do not fit others.
    pub(super) fn refuse<T>(&self, key: &str, wanted: impl Into<String>) -> Result<T> {
        self.error(key, wanted)
    }

    /// The activation of the layers within the network.
    pub(super) fn activation(&self, default: &str) -> Result<Unary> {
        match self.text("hidden_act", default)? {
            "gelu" => Ok(Unary::Gelu),
            "relu" => Ok(Unary::Relu),
            "silu" | "swish" => Ok(Unary::Silu),
            "mish" => Ok(Unary::Mish),
            _ => self.error("hidden_act", "gelu, relu, silu or mish"),
        }
    }
}
