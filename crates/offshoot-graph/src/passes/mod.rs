//! Functions from graph to graph.

mod any_size;
mod autocast;
mod class_gradient;
mod decompose;
mod differentiate;
mod dynamic;
mod ending;
mod expand;
mod expose;
mod fold;
mod freeze;
mod gated;
mod gelu;
mod group_norm;
mod head;
mod inference;
mod rewrite;
mod scale;
mod train;
mod update;

pub use any_size::any_picture_size;
pub use autocast::autocast;
pub use class_gradient::{CLASS_MASK, class_gradients, exposed_gradient, exposed_value};
pub use decompose::{decompose, plain_products};
pub use differentiate::{Gradients, differentiate, differentiate_by};
pub use dynamic::{dynamic_int8, dynamic_int8_graph};
pub use ending::{LeftOut, confined_scores, gives_probabilities, without_softmax};
pub(crate) use expand::expanded;
pub use expand::{expand, expand_nodes, unroll};
pub use expose::expose;
pub use fold::{FoldError, fold_batch_norm};
pub use freeze::{Pattern, freeze};
pub use gated::recognize_gated;
pub use gelu::recognize_gelu;
pub use group_norm::recognize_group_norms;
pub use head::{layer_before, up_to};
pub use inference::{InferenceGraph, NotForInference, remove_training_leftovers, shipped};
pub use rewrite::{Rewriter, prune};
pub use scale::{OutputScale, output_scale, rescaled_layer, scale_outputs};
pub use train::{
    CLASS_WEIGHTS, KEYS, LABELS, LOSS, LOSS_SCALE, LossOptions, TrainingGraph, gradient_output, state_output,
    training_graph,
};
pub use update::{
    AVERAGE_PART, SQUARES, UNSCALE, UPDATE_RATES, UpdateRule, apply_graph, average_parameter,
    moment_parameter, step_graph, sum_parameter, trained_in_order,
};
