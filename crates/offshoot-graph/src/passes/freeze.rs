//! Which parameters training changes.

use std::fmt;
use std::str::FromStr;

use crate::graph::Graph;

/// A glob on parameter names: `*` stands for any characters, `?` for one, and `layer4` for `layer4` and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether it matches the parameter called `name`.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        glob(pattern, name, true)
    }

    /// How specific it is: of two patterns that match, the one with more literal characters wins.
    pub fn specificity(&self) -> usize {
        self.0.chars().filter(|c| !matches!(c, '*' | '?')).count()
    }
}

/// Whether `pattern` matches `name`, or, where `below` allows it, a prefix of `name` that ends before a dot.
fn glob(pattern: &[u8], name: &[u8], below: bool) -> bool {
    // The usual greedy matcher: on a mismatch, the last star takes one character more.
    let (mut p, mut n, mut star) = (0, 0, None);
    loop {
        if p == pattern.len() && (n == name.len() || (below && name[n] == b'.')) {
            return true;
        }
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if n < name.len() && (c == b'?' || c == name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) if from < name.len() => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                _ => return false,
            },
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        if text.is_empty() {
            return Err("an empty pattern matches no parameter".into());
        }
        Ok(Pattern(text.to_string()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Freezes every parameter that `frozen` holds for and makes every other weight trainable.
pub fn freeze(graph: &mut Graph, frozen: impl Fn(&str) -> bool) {
    for id in graph.parameters().to_vec() {
        let trainable = !frozen(&graph.value(id).name);
        graph.set_trainable(id, trainable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_all_below_them() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().matches(name);
        assert!(matches("layer4", "layer4.0.conv1.weight"));
        assert!(matches("layer4.*", "layer4.0.conv1.weight"));
        assert!(!matches("layer4", "layer40.0.conv1.weight"));
        assert!(matches("*.bias", "layer4.0.bn1.bias"));
        assert!(!matches("*.bias", "layer4.0.conv1.weight"));
        assert!(matches("layer?.0", "layer3.0.conv1.weight"));
        assert!(matches("*", "fc.weight"));
        assert!(matches("*conv1*", "layer1.0.conv1.weight"));
        assert!(!matches("fc.weight.more", "fc.weight"));
        assert!("".parse::<Pattern>().is_err());
    }

    #[test]
    fn more_literal_characters_are_more_specific() {
        let specificity = |p: &str| p.parse::<Pattern>().unwrap().specificity();
        assert!(specificity("layer4.1") > specificity("layer4.*"));
        assert_eq!(specificity("*"), 0);
    }
}
