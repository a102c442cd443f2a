//! The row of a member that has nothing but a name and a type under autocast beside its definition.

use super::unary::Autocast;

/// All that is known of a member of [`super::Norm`], [`super::Pooling`] or [`super::ShapeOp`] beside what it computes.
#[derive(Clone, Copy, Debug)]
pub struct MemberRow {
    /// Its name here, in messages and in ONNX.
    pub onnx: &'static str,
    /// Its type under autocast.
    pub autocast: Autocast,
}
