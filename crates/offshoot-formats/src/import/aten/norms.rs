//! Norms.

use offshoot_graph::Role;
use offshoot_graph::op::BatchNormalization;

use super::call::Bound;
use super::state::Aten;
use super::table::Rows;
use super::value::Value;
use crate::error::Problem;
use crate::import::{Affine, Site};

pub(super) const ROWS: Rows = &[
    (
        "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, \
         float momentum, float eps, bool cudnn_enabled)",
        batch_norm,
    ),
    (
        "_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, \
         float momentum, float eps)",
        batch_norm,
    ),
    (
        "layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, \
         bool cudnn_enable=True)",
        layer_norm,
    ),
    (
        "native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps)",
        layer_norm,
    ),
    (
        "native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW, int group, float eps)",
        group_norm,
    ),
    (
        "group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05, \
         bool cudnn_enabled=True)",
        group_norm,
    ),
    (
        "instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, \
         bool use_input_stats, float momentum, float eps, bool cudnn_enabled)",
        instance_norm,
    ),
];

fn batch_norm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if call.get("training").is_some() && call.flag("training")? {
        return Err(call.call.in_training_mode());
    }
    let x = aten.tensor(call, "input")?;
    let mut parameter = |name, role| aten.weight(call, name, role);
    let parameters = [
        parameter("weight", Role::Weight)?,
        parameter("bias", Role::Weight)?,
        parameter("running_mean", Role::Buffer)?,
        parameter("running_var", Role::Buffer)?,
    ];
    let norm =
        BatchNormalization { epsilon: call.number("eps")? as f32, momentum: call.number("momentum")? as f32 };
    let id = aten.import.batch_norm(call, x, parameters, norm)?;
    Ok(aten.define(id))
}

fn affine(aten: &mut Aten, call: &Bound<'_>) -> Result<Affine, Problem> {
    Ok(Affine { weight: aten.given(call, "weight")?, bias: aten.given(call, "bias")? })
}

fn layer_norm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let count = call.list("normalized_shape").unwrap_or_default().len();
    let x = aten.tensor(call, "input")?;
    let axis = aten.import.rank(x).checked_sub(count).filter(|_| count > 0);
    let axis = axis.ok_or_else(|| call.damage("its normalized shape is not that of the last axes"))?;
    let affine = affine(aten, call)?;
    let id = aten.import.layer_norm(call, x, axis, affine, call.number("eps")? as f32)?;
    Ok(aten.define(id))
}

fn group_norm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    let x = aten.tensor(call, "input")?;
    let name = if call.signature.name == "group_norm" { "num_groups" } else { "group" };
    let groups = usize::try_from(call.int(name)?).unwrap_or(0);
    let affine = affine(aten, call)?;
    let id = aten.import.group_norm(call, x, groups, affine, call.number("eps")? as f32)?;
    Ok(aten.define(id))
}

fn instance_norm(aten: &mut Aten, call: &Bound<'_>) -> Result<Value, Problem> {
    if !call.flag("use_input_stats")? {
        // With running statistics it is a batch norm.
        return batch_norm(aten, call);
    }
    let x = aten.tensor(call, "input")?;
    let affine = affine(aten, call)?;
    let id = aten.import.instance_norm(call, x, affine, call.number("eps")? as f32)?;
    Ok(aten.define(id))
}
