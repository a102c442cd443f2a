//! The last layers of a classifier, which fine-tuning replaces.

use std::fmt;
use std::str::FromStr;

use offshoot_graph::builder::Conv2d;
use offshoot_graph::op::{Op, Pooling, ShapeOp, Unary};
use offshoot_graph::text::{quoted, shortened};
use offshoot_graph::{Graph, GraphError, ValueId};

use crate::squeeze::{self, biased};

/// Most hidden features that are accepted.
const MAX_HIDDEN: usize = 1 << 16;
const DEFAULT_DROPOUT: f32 = 0.2;

/// What turns features into logits. Its text form is the command line's: `linear`, `linear,dropout=0.2`,
/// `mlp:256,dropout=0.4`. Where no dropout is written it is 0.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// Dropout, Linear.
    Linear {
        /// The probability with which a feature becomes zero in training, at least 0 and below 1.
        dropout: f32,
    },
    /// Linear, ReLU, Dropout, Linear.
    Mlp {
        /// Features between the two linear layers.
        hidden: usize,
        /// The probability with which a hidden feature becomes zero in training, at least 0 and below 1.
        dropout: f32,
    },
}

/// A head that cannot be built, or a text that describes none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head `{head}`: {reason}; write `linear`, `linear,dropout=0.2` or `mlp:256,dropout=0.4`")]
pub struct HeadError {
    /// The head as it was written.
    pub head: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Default for Head {
    /// `linear,dropout=0.2`.
    fn default() -> Head {
        Head::Linear { dropout: DEFAULT_DROPOUT }
    }
}

impl Head {
    /// The same layers with the dropout that a text leaves out: equal for two heads that have the same weights.
    pub fn without_dropout(self) -> Head {
        match self {
            Head::Linear { .. } => Head::default(),
            Head::Mlp { hidden, .. } => Head::Mlp { hidden, dropout: DEFAULT_DROPOUT },
        }
    }

    /// Appends the head to `features` [N, C] and returns the logits [N, classes].
    ///
    /// `path` is the module that the head replaces. Keys: `path.weight` and `path.bias` for [`Head::Linear`], the
    /// same under `path.0` and `path.3` for [`Head::Mlp`].
    pub(crate) fn append(
        self,
        graph: &mut Graph,
        path: &str,
        features: ValueId,
        classes: usize,
    ) -> Result<ValueId, GraphError> {
        match self {
            Head::Linear { dropout } => {
                let x = add_dropout(graph, &dropout_path(path), features, dropout)?;
                graph.linear(path, x, classes)
            }
            Head::Mlp { hidden, dropout } => {
                let x = graph.linear(&format!("{path}.0"), features, hidden)?;
                let x = graph.add(&format!("{path}.1"), Op::Unary(Unary::Relu), &[x])?;
                let x = add_dropout(graph, &format!("{path}.2"), x, dropout)?;
                graph.linear(&format!("{path}.3"), x, classes)
            }
        }
    }

    /// Checks the sizes, which the fields leave open.
    pub(crate) fn check(self) -> Result<Head, HeadError> {
        let error = |reason: String| HeadError { head: self.to_string(), reason };
        let (Head::Linear { dropout } | Head::Mlp { dropout, .. }) = self;
        if !(0.0..1.0).contains(&dropout) {
            return Err(error(format!("dropout {dropout} is outside 0 <= dropout < 1")));
        }
        match self {
            Head::Mlp { hidden, .. } if !(1..=MAX_HIDDEN).contains(&hidden) => {
                Err(error(format!("{hidden} hidden features are outside 1..={MAX_HIDDEN}")))
            }
            Head::Mlp { .. } | Head::Linear { .. } => Ok(self),
        }
    }
}

/// The dropout in front of a linear layer: torchvision's `classifier.0` in front of `classifier.1`.
fn dropout_path(path: &str) -> String {
    let place = path.rsplit_once('.').and_then(|(parent, last)| Some((parent, last.parse::<usize>().ok()?)));
    match place {
        Some((sequential, index @ 1..)) => format!("{sequential}.{}", index - 1),
        Some(_) | None => "dropout".into(),
    }
}

/// A head as MaxViT's: Dropout, and a linear layer without a bias. [N, features] -> [N, classes].
pub(crate) fn unbiased(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    dropout: f32,
    sizes: [usize; 2],
) -> Result<ValueId, GraphError> {
    let x = add_dropout(graph, &dropout_path(path), x, dropout)?;
    squeeze::unbiased(graph, path, x, sizes)
}

/// A head as SqueezeNet's: Dropout, a 1x1 convolution, ReLU, the mean of all pixels. [N, C, H, W] -> [N, classes].
pub(crate) fn convolutional(
    graph: &mut Graph,
    path: &str,
    x: ValueId,
    dropout: f32,
    classes: usize,
) -> Result<ValueId, GraphError> {
    let x = add_dropout(graph, &dropout_path(path), x, dropout)?;
    let x = biased(graph, path, x, Conv2d::new(classes, 1))?;
    let x = graph.add("classifier.2", Op::Unary(Unary::Relu), &[x])?;
    let x = graph.add("avgpool", Op::Pool(Pooling::GlobalAverage), &[x])?;
    graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x])
}

fn add_dropout(graph: &mut Graph, path: &str, x: ValueId, ratio: f32) -> Result<ValueId, GraphError> {
    if ratio == 0.0 { Ok(x) } else { graph.add(path, Op::Dropout { ratio }, &[x]) }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Head::Linear { dropout } => write!(f, "linear,dropout={dropout}"),
            Head::Mlp { hidden, dropout } => write!(f, "mlp:{hidden},dropout={dropout}"),
        }
    }
}

/// The most characters of a reason, which may repeat what was given.
const REASON: usize = 300;

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Head, HeadError> {
        let error = |reason: String| HeadError {
            head: quoted(text).into_owned(),
            reason: shortened(&reason, REASON).into_owned(),
        };
        let (kind, option) = match text.split_once(',') {
            Some((kind, option)) => (kind, Some(option)),
            None => (text, None),
        };
        let dropout = match option.map(|o| o.split_once('=').unwrap_or((o, ""))) {
            None => DEFAULT_DROPOUT,
            Some(("dropout", number)) => {
                number.parse().map_err(|_| error(format!("the dropout `{number}` is not a number")))?
            }
            Some((option, _)) => return Err(error(format!("`{option}` is no option"))),
        };
        let head = match kind.split_once(':') {
            None if kind == "linear" => Head::Linear { dropout },
            Some(("mlp", hidden)) => {
                let hidden = hidden
                    .parse()
                    .map_err(|_| error(format!("`{hidden}` is not a number of hidden features")))?;
                Head::Mlp { hidden, dropout }
            }
            Some(_) | None => return Err(error(format!("`{kind}` is no kind of head"))),
        };
        head.check().map_err(|e| error(e.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_written() {
        for (text, head, written) in [
            ("linear", Head::Linear { dropout: 0.2 }, "linear,dropout=0.2"),
            ("linear,dropout=0", Head::Linear { dropout: 0.0 }, "linear,dropout=0"),
            ("mlp:256,dropout=0.4", Head::Mlp { hidden: 256, dropout: 0.4 }, "mlp:256,dropout=0.4"),
            ("mlp:64", Head::Mlp { hidden: 64, dropout: 0.2 }, "mlp:64,dropout=0.2"),
        ] {
            assert_eq!(text.parse(), Ok(head));
            assert_eq!(head.to_string(), written);
            assert_eq!(written.parse(), Ok(head));
        }
    }

    #[test]
    fn what_is_no_head_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "`` is no kind of head"),
            ("conv", "`conv` is no kind of head"),
            ("linear:3", "`linear:3` is no kind of head"),
            ("mlp", "`mlp` is no kind of head"),
            ("mlp:x", "`x` is not a number of hidden features"),
            ("mlp:0", "0 hidden features are outside 1..=65536"),
            ("mlp:99999999999", "99999999999 hidden features are outside 1..=65536"),
            ("mlp:8,rate=2", "`rate` is no option"),
            ("linear,", "`` is no option"),
            ("linear,dropout", "the dropout `` is not a number"),
            ("linear,dropout=1", "dropout 1 is outside 0 <= dropout < 1"),
            ("linear,dropout=NaN", "dropout NaN is outside 0 <= dropout < 1"),
            ("linear,dropout=0.1,dropout=0.2", "the dropout `0.1,dropout=0.2` is not a number"),
        ] {
            let error = text.parse::<Head>().unwrap_err();
            assert_eq!((error.head.as_str(), error.reason.as_str()), (text, reason));
        }
    }
}
