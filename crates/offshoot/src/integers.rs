//! Whether a model computes in integers already.

use offshoot_graph::op::Recurrent;
use offshoot_graph::{Model, Op};

use crate::error::{Error, Result};

/// Whether a model computes in integers already.
pub fn is_quantized(model: &Model) -> bool {
    model.graph.nodes().iter().any(|n| {
        matches!(
            n.op,
            Op::QuantizeLinear { .. }
                | Op::DequantizeLinear { .. }
                | Op::DynamicQuantizeMatMul { .. }
                | Op::Recurrent(Recurrent::DynamicQuantizeLstm(_))
        )
    })
}

/// An error for a model that computes in integers already.
///
/// # Errors
/// When it does.
pub fn check_float(model: &Model) -> Result<()> {
    match is_quantized(model) {
        true => {
            Err(Error::Input("the model is quantized already; give the float model it was made of".into()))
        }
        false => Ok(()),
    }
}
