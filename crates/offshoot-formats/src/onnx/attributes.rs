//! The attributes of an ONNX node, and the errors that name it.

use super::proto::{AttributeProto, NodeProto, TensorProto};
use super::translate::SIMPLIFY;
use crate::error::Problem;
use crate::import::Site;
use crate::metadata::MAX_SIDE;

/// A node with its label for people.
#[derive(Clone, Copy)]
pub(super) struct NodeView<'a> {
    pub(super) proto: &'a NodeProto,
}

impl Site for NodeView<'_> {
    fn name(&self) -> &str {
        NodeView::name(self)
    }

    fn place(&self) -> String {
        NodeView::place(self)
    }

    fn way_out(&self) -> &str {
        SIMPLIFY
    }
}

impl<'a> NodeView<'a> {
    /// The node's name, or that of its first output.
    pub(super) fn name(&self) -> &'a str {
        match (self.proto.name.as_str(), self.proto.output.first()) {
            ("", Some(output)) => output,
            (name, _) => name,
        }
    }

    pub(super) fn op(&self) -> &'a str {
        &self.proto.op_type
    }

    /// Where an error is.
    pub(super) fn place(&self) -> String {
        format!("node `{}` ({})", self.name(), self.op())
    }

    pub(super) fn unsupported(&self, what: impl Into<String>, way_out: &str) -> Problem {
        Problem::unsupported(self.place(), what, way_out)
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(self.place(), what)
    }

    /// The name of input `index`, when it is given.
    pub(super) fn input(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// The name of input `index`.
    pub(super) fn required(&self, index: usize) -> Result<&'a str, Problem> {
        self.input(index).ok_or_else(|| self.damaged(format!("input {index} is missing")))
    }

    /// The name of its first output.
    pub(super) fn required_output(&self) -> Result<&'a str, Problem> {
        let output = self.proto.output.first().filter(|name| !name.is_empty());
        output.map(String::as_str).ok_or_else(|| self.damaged("it has no output"))
    }

    fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|a| a.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).and_then(|a| a.i).unwrap_or(default)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    pub(super) fn float(&self, name: &str) -> Option<f32> {
        self.find(name).and_then(|a| a.f)
    }

    pub(super) fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.find(name).map(|a| a.floats.as_slice())
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|a| a.ints.as_slice())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.find(name).and_then(|a| a.s.as_deref()).and_then(|s| std::str::from_utf8(s).ok())
    }

    /// Whether the attribute is these texts, over and over.
    pub(super) fn repeats(&self, name: &str, texts: &[&str]) -> bool {
        let given = self.find(name).map_or(&[][..], |a| a.strings.as_slice());
        given.iter().zip(texts.iter().cycle()).all(|(given, text)| **given == *text.as_bytes())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.find(name).and_then(|a| a.t.as_deref())
    }

    /// `N` sizes of at least `least`, or `default` where the attribute is not given.
    pub(super) fn sizes<const N: usize>(
        &self,
        name: &str,
        default: [usize; N],
        least: usize,
    ) -> Result<[usize; N], Problem> {
        let Some(values) = self.ints(name) else { return Ok(default) };
        let fits = |&v: &i64| usize::try_from(v).ok().filter(|v| (least..=MAX_SIDE).contains(v));
        let sizes: Option<Vec<usize>> = values.iter().map(fits).collect();
        sizes.and_then(|s| s.try_into().ok()).ok_or_else(|| {
            let what = format!("{name} is {values:?}, not {N} numbers from {least} to {MAX_SIDE}");
            self.unsupported(what, "Only operators over pictures (two spatial axes) are read")
        })
    }

    /// An axis of a value of `rank` axes, counted from the end when negative.
    pub(super) fn place_of(&self, axis: i64, rank: usize) -> Result<usize, Problem> {
        self.axis_of(axis, rank)
    }

    /// As [`NodeView::place_of`], or the end: `rank` itself, behind which nothing stands.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Problem> {
        let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        usize::try_from(counted)
            .ok()
            .filter(|&a| a <= rank)
            .ok_or_else(|| self.damaged(format!("axis {axis} is outside of {rank} axes")))
    }
}
