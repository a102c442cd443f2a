//! The architectures that offshoot can build, by name.

use offshoot_graph::Graph;

use crate::architecture::{Architecture, BuildError, BuildOptions, UnknownArchitecture};
use crate::{
    convnext, densenet, efficientnet, efficientnet_lite, googlenet, inception, maxvit, mnasnet, mobilenet_v2,
    mobilenet_v3, mobilenet_v4, regnet, resnet, shufflenet, squeezenet, swin, vgg, vit,
};

/// Every architecture.
pub fn architectures() -> impl Iterator<Item = &'static Architecture> {
    const MOBILENETS: [Architecture; 2] = [mobilenet_v2::ARCHITECTURE, mobilenet_v4::ARCHITECTURE];
    const OTHERS: [Architecture; 8] = [
        densenet::ARCHITECTURE,
        regnet::ARCHITECTURE,
        squeezenet::ARCHITECTURE,
        mnasnet::ARCHITECTURE,
        shufflenet::ARCHITECTURE,
        googlenet::ARCHITECTURE,
        inception::ARCHITECTURE,
        maxvit::ARCHITECTURE,
    ];
    const FAMILIES: [&[Architecture]; 10] = [
        &resnet::ARCHITECTURES,
        &MOBILENETS,
        &mobilenet_v3::ARCHITECTURES,
        &efficientnet_lite::ARCHITECTURES,
        &efficientnet::ARCHITECTURES,
        &convnext::ARCHITECTURES,
        &vit::ARCHITECTURES,
        &swin::ARCHITECTURES,
        &vgg::ARCHITECTURES,
        &OTHERS,
    ];
    FAMILIES.into_iter().flatten()
}

/// The architecture called `name`, or that timm calls so.
///
/// # Errors
/// When none is; the message lists all and proposes the nearest.
pub fn find(name: &str) -> Result<&'static Architecture, UnknownArchitecture> {
    architectures()
        .find(|a| a.name == name)
        .or_else(|| architectures().find(|a| a.timm == Some(name)))
        .ok_or_else(|| UnknownArchitecture { name: name.to_string(), nearest: nearest(name), known: names() })
}

/// The graph of the architecture called `name`: see [`Architecture::build`].
///
/// # Errors
/// As [`find`] and [`Architecture::build`].
pub fn build(name: &str, options: &BuildOptions) -> Result<Graph, BuildError> {
    find(name)?.build(options)
}

/// The known name with the fewest edits to `name`, if they are at most a third of it.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let candidates = architectures().map(|a| (strsim::damerau_levenshtein(&name, a.name), a.name));
    let (edits, nearest) = candidates.min_by_key(|&(edits, _)| edits)?;
    (edits <= nearest.len() / 3).then_some(nearest)
}

fn names() -> String {
    architectures().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Interpolation;
    use offshoot_graph::Preprocessing;
    use offshoot_graph::model::OUTPUT;

    use super::*;
    use crate::architecture::expected_parameters;
    use crate::head::Head;

    #[test]
    fn an_unknown_name_lists_the_known_and_proposes_the_nearest() {
        assert_eq!(
            find("ResNet5O").unwrap_err().to_string(),
            format!("no architecture is called `ResNet5O`; did you mean `resnet50`? Known: {}", names())
        );
        assert_eq!(find("mobilenetv2").unwrap_err().nearest, Some("mobilenet_v2"));
        assert_eq!(find("volo_d1").unwrap_err().nearest, None);
        assert_eq!(find("").unwrap_err().nearest, None);
        assert_eq!(find("tf_efficientnet_lite0").unwrap().name, "efficientnet_lite0");
        for (timm, ours) in [
            ("mobilenetv2_100", "mobilenet_v2"),
            ("mobilenetv3_small_100", "mobilenet_v3_small"),
            ("tf_mobilenetv3_small_100", "tf_mobilenetv3_small_100"),
            ("tf_efficientnet_b0", "tf_efficientnet_b0"),
            ("efficientnet_b0", "efficientnet_b0"),
            ("vit_base_patch16_224", "vit_b_16"),
            ("regnety_004", "regnet_y_400mf"),
        ] {
            assert_eq!(find(timm).unwrap().name, ours);
        }
        for name in ["tf_mobilenet_v3_small", "tf_efficientnet_lite0_symmetric", "tf_resnet18"] {
            assert!(find(name).is_err(), "{name}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let options = BuildOptions { classes: 10, size: 64, head: None };
        let message = |options| build("resnet18", &options).unwrap_err().to_string();
        assert_eq!(
            message(BuildOptions { classes: 0, ..options }),
            "resnet18 with 0 classes: the number must be in 1..=131072"
        );
        assert_eq!(
            message(BuildOptions { size: 0, ..options }),
            "resnet18 for pictures of 0 pixels a side: the size must be in 1..=16384"
        );
        assert!(build("resnet18", &BuildOptions { size: usize::MAX, ..options }).is_err());
        assert!(build("resnet18", &BuildOptions { classes: usize::MAX, ..options }).is_err());
        let head = Some(Head::Mlp { hidden: 0, dropout: 0.0 });
        assert!(matches!(build("resnet18", &BuildOptions { head, ..options }), Err(BuildError::Head(_))));
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused_with_those_that_do() {
        let message =
            |name, size| build(name, &BuildOptions { classes: 3, size, head: None }).unwrap_err().to_string();
        assert_eq!(
            message("vit_b_16", 230),
            "vit_b_16 takes no pictures of 230 pixels a side: the size must be a multiple of 16, such as 224"
        );
        assert_eq!(
            message("vgg16", 256),
            "vgg16 takes no pictures of 256 pixels a side: the size must be 224 to 255, or 448 to 479"
        );
        assert_eq!(
            message("densenet121", 31),
            "densenet121 takes no pictures of 31 pixels a side: the size must be at least 32"
        );
    }

    #[test]
    fn every_size_builds() {
        for architecture in architectures() {
            for size in [1, 2, 31, 33, 97, 112, 224, 255] {
                if architecture.sizes.refuse(size).is_some() {
                    continue;
                }
                let graph = architecture.build(&BuildOptions { classes: 3, size, head: None }).unwrap();
                let logits = graph.value(graph.output(OUTPUT).unwrap());
                assert_eq!(logits.shape.to_string(), "[batch_size, 3]");
            }
        }
    }

    #[test]
    fn stem_blocks_tail_and_head_are_all_of_the_parameters() {
        for architecture in architectures() {
            let size = architecture.size;
            let graph = architecture.build(&BuildOptions { classes: 3, size, head: None }).unwrap();
            let modules: Vec<&str> =
                [architecture.stem, architecture.blocks, architecture.tail, &[architecture.head]].concat();
            let inside = |name: &str, module: &str| {
                name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let parameters = expected_parameters(&graph);
            for (name, _) in &parameters {
                let count = modules.iter().filter(|m| inside(name, m)).count();
                assert_eq!(count, 1, "{}: {name}", architecture.name);
            }
            for module in modules {
                assert!(parameters.iter().any(|(name, _)| inside(name, module)), "{module} is empty");
            }
            let (_, shape) =
                parameters.iter().find(|(n, _)| *n == format!("{}.weight", architecture.head)).unwrap();
            assert_eq!(shape[..2], [3, architecture.features]);
        }
    }

    #[test]
    fn preprocessing_is_the_published_one() {
        let lite = find("efficientnet_lite2").unwrap().preprocessing();
        assert_eq!((lite.size, lite.resize, lite.interpolation), (260, 292, Interpolation::Bicubic));
        // (x - 127) / 128 of the byte 255 is 1.
        assert!(((1.0 - lite.mean[0]) / lite.std[0] - 1.0).abs() < 1e-6);
        assert_eq!(find("resnet18").unwrap().preprocessing(), Preprocessing::default());
    }
}
