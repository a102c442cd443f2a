//! The types of settings that are more than a number or a switch, and that no other module has.

use offshoot_data::Policy;
use offshoot_graph::{Fit, Interpolation};
use serde::{Deserialize, Serialize};

/// The head that replaces the pretrained one unless another is asked for.
pub const DEFAULT_HEAD: &str = "linear,dropout=0.2";

/// What happens to a training picture at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// Nothing: each epoch sees the same pictures.
    Off,
    /// What [`super::Recipe::augmentation`] says: by default a random resized crop and a random flip where the fit is `crop`, a random
    /// flip where it is `pad` or `stretch`.
    On,
}

/// What becomes of a step that would leave a number which is not finite, and so is refused. Steps that a loss scaler leaves out
/// are none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// The run ends with an error.
    #[default]
    Stop,
    /// It is left out, with a warning. The run ends with an error after ten of them in a row, or an epoch of nothing else.
    Skip,
    /// The run goes back to where its epoch began and goes on at half the rate, with a warning; the sixth time it ends with an
    /// error. A second copy of what trains is kept in memory for that.
    Rollback,
}

/// Changes to the default [`offshoot_data::Augmentation`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields are those of `Augmentation`
pub struct AugmentationSettings {
    pub crop_scale: Option<[f64; 2]>,
    pub crop_ratio: Option<[f64; 2]>,
    pub flip: Option<f64>,
    pub flip_vertical: Option<f64>,
    pub rotate: Option<f64>,
    pub brightness: Option<f64>,
    pub contrast: Option<f64>,
    pub saturation: Option<f64>,
    pub hue: Option<f64>,
    pub policy: Option<Policy>,
    pub erase: Option<f64>,
    pub mixup: Option<f64>,
    pub cutmix: Option<f64>,
}

/// Changes to a model's [`offshoot_graph::Preprocessing`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the fields are those of `Preprocessing`
pub struct PreprocessingSettings {
    pub size: Option<usize>,
    pub resize: Option<usize>,
    pub fit: Option<Fit>,
    pub interpolation: Option<Interpolation>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    pub background: Option<[u8; 3]>,
    pub exif_rotation: Option<bool>,
}
