//! What an app sees of a package.

use std::collections::BTreeMap;

use offshoot_graph::{Metadata, Task};

use crate::coreml::proto::{
    self, ARRAY_FLOAT32, ArrayFeatureType, DictionaryFeatureType, Empty, FeatureDescription, FeatureType,
    ImageFeatureType, ModelDescription, RGB,
};
use crate::coreml::{BATCH_KEY, INPUT, LABEL, LOGITS, METADATA_KEY, PROBABILITIES, TARGETS};
use crate::error::Problem;

/// `batch` is the axis of the batch in the results that it names.
pub(super) fn description(
    metadata: &Metadata,
    batch: &BTreeMap<String, usize>,
) -> Result<ModelDescription, Problem> {
    let text = |json: serde_json::Result<String>| {
        json.map_err(|e| Problem::unsupported("metadata", e.to_string(), "Use finite numbers"))
    };
    let mut user_defined =
        BTreeMap::from([(METADATA_KEY.to_owned(), text(serde_json::to_string(metadata))?)]);
    if !batch.is_empty() {
        user_defined.insert(BATCH_KEY.to_owned(), text(serde_json::to_string(batch))?);
    }
    let feature = |name: &str, text: &str, r#type: FeatureType| FeatureDescription {
        name: name.to_owned(),
        short_description: text.to_owned(),
        r#type: Some(r#type),
    };
    let side = metadata.preprocessing.size as i64;
    let image = Some(ImageFeatureType { width: side, height: side, color_space: RGB });
    let shape = vec![1, metadata.classes.len() as i64];
    let multi_array = Some(ArrayFeatureType { shape, data_type: ARRAY_FLOAT32 });
    let input = vec![feature(INPUT, "an RGB picture", FeatureType { image, ..Default::default() })];
    let about = Some(proto::Metadata {
        short_description: metadata.architecture.clone().unwrap_or_default(),
        user_defined,
    });
    if metadata.task == Task::Regression {
        let targets = FeatureType { multi_array, ..Default::default() };
        let output = vec![feature(TARGETS, "the predicted numbers, in their units", targets)];
        return Ok(ModelDescription { input, output, metadata: about, ..Default::default() });
    }
    let dictionary = Some(DictionaryFeatureType { string_key: Some(Empty {}) });
    Ok(ModelDescription {
        input,
        output: vec![
            feature(
                LABEL,
                "the most probable class",
                FeatureType { string: Some(Empty {}), ..Default::default() },
            ),
            feature(
                PROBABILITIES,
                "the probability of each class",
                FeatureType { dictionary, ..Default::default() },
            ),
            feature(LOGITS, "the network's output", FeatureType { multi_array, ..Default::default() }),
        ],
        predicted_feature_name: LABEL.to_owned(),
        predicted_probabilities_name: PROBABILITIES.to_owned(),
        metadata: about,
    })
}
