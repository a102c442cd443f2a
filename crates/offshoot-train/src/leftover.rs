//! Batches that are too small for the batch norms that train.

use offshoot_graph::op::Norm;
use offshoot_graph::{Bindings, Dim, Graph, Op};

use crate::error::TrainError;
use crate::recipe::Recipe;

/// The fewest pictures of a batch that `graph` can be trained on, with pictures of any of these `sizes`: 2 where a batch norm in
/// training would have one value a channel to take statistics of, which has no variance; else 1.
fn least_batch(graph: &Graph, mut sizes: impl Iterator<Item = usize>) -> usize {
    let trainable = |id| graph.parameter_info(id).is_some_and(|p| p.trainable);
    let in_training = graph.nodes().iter().filter(|node| {
        matches!(node.op, Op::Norm(Norm::Batch(_))) && node.inputs[1..3].iter().any(|&id| trainable(id))
    });
    let shapes: Vec<&[Dim]> = in_training.map(|node| &graph.value(node.inputs[0]).shape.0[..]).collect();
    let one_value = sizes.any(|size| {
        let bindings = one_picture(graph, size);
        let one = |(axis, dim): (usize, &Dim)| axis == 1 || dim.eval(&bindings) == Ok(1);
        shapes.iter().any(|shape| shape.iter().enumerate().all(one))
    });
    if one_value { 2 } else { 1 }
}

/// What symbols stand for when the input is one picture of `size` pixels a side.
fn one_picture(graph: &Graph, size: usize) -> Bindings {
    let shape = graph.inputs().first().map_or(&[][..], |&input| &graph.value(input).shape.0);
    let symbols = shape.iter().zip([1, 3, size, size]).filter_map(|(dim, n)| match dim {
        Dim::Symbol(name) => Some((name.to_string(), n)),
        Dim::Fixed(_) | Dim::Expr(_) => None,
    });
    symbols.collect()
}

/// The fewest pictures of a batch in a run of `recipe` with `pictures` training pictures, in whose `graph` is marked what trains
/// at last.
///
/// # Errors
/// When no batch has as many.
pub(crate) fn check(graph: &Graph, recipe: &Recipe, pictures: usize) -> Result<usize, TrainError> {
    let sizes = recipe.progressive.iter().map(|change| change.size).chain([recipe.preprocessing.size]);
    let least = least_batch(graph, sizes);
    match recipe.batch_size.min(pictures) {
        // That there is no picture at all is said elsewhere.
        1 if least > 1 => Err(TrainError::OnePicture { pictures }),
        _ => Ok(least),
    }
}

/// What there is to say where the last batch of an epoch joins the one before it.
pub(crate) fn notice(pictures: usize, batch_size: usize, least: usize) -> Option<String> {
    let joins = pictures > batch_size && (1..least).contains(&(pictures % batch_size.max(1)));
    joins.then(|| {
        format!(
            "{pictures} training pictures in batches of {batch_size} leave one picture over, and batch norms in training need \
             two: it joins the batch before it"
        )
    })
}

#[cfg(test)]
mod tests {
    use offshoot_graph::builder::{BATCH_NORM, Conv2d};
    use offshoot_graph::model::{INPUT, OUTPUT};
    use offshoot_graph::op::{Pooling, ShapeOp};
    use offshoot_graph::passes::freeze;
    use offshoot_graph::{DType, Shape};

    use super::*;

    /// A batch norm behind a stride of 2 and one behind a pooling.
    fn graph(size: usize, pooled: bool) -> Graph {
        let mut graph = Graph::new("small");
        let shape = Shape(vec!["batch".into(), 3.into(), size.into(), size.into()]);
        let mut x = graph.add_input(INPUT, DType::F32, shape);
        x = graph.conv2d("conv", x, &Conv2d::new(8, 3).stride(2)).unwrap();
        x = graph.batch_norm("bn", x, BATCH_NORM).unwrap();
        if pooled {
            x = graph.add("pool", Op::Pool(Pooling::GlobalAverage), &[x]).unwrap();
            x = graph.batch_norm("last", x, BATCH_NORM).unwrap();
        }
        x = graph.add("flatten", Op::Shape(ShapeOp::Flatten { axis: 1 }), &[x]).unwrap();
        graph.add_output(OUTPUT, x);
        graph
    }

    #[test]
    fn one_value_a_channel_needs_a_second_picture() {
        let least = |graph: &Graph, sizes: &[usize]| least_batch(graph, sizes.iter().copied());
        assert_eq!(least(&graph(2, false), &[2]), 2);
        assert_eq!(least(&graph(4, false), &[4]), 1);
        let mut pooled = graph(4, true);
        assert_eq!(least(&pooled, &[4]), 2);
        freeze(&mut pooled, |name| name.starts_with("last"));
        assert_eq!(least(&pooled, &[4]), 1);
        freeze(&mut pooled, |name| name == "last.weight");
        assert_eq!(least(&pooled, &[4]), 2, "its bias trains");
    }

    #[test]
    fn any_of_the_sizes_of_a_run_counts() {
        let mut graph = Graph::new("any");
        let shape = Shape(vec!["batch".into(), 3.into(), "height".into(), "width".into()]);
        let x = graph.add_input(INPUT, DType::F32, shape);
        let x = graph.conv2d("conv", x, &Conv2d::new(8, 3).stride(2)).unwrap();
        let x = graph.batch_norm("bn", x, BATCH_NORM).unwrap();
        graph.add_output(OUTPUT, x);
        assert_eq!(least_batch(&graph, [4, 8].into_iter()), 1);
        assert_eq!(least_batch(&graph, [4, 2].into_iter()), 2);
    }

    #[test]
    fn the_way_out_fits_what_is_too_few() {
        let said = |pictures| TrainError::OnePicture { pictures }.to_string();
        assert!(
            said(9).starts_with("`batch_size` 1: ")
                && said(9).contains("a larger `batch_size`, `freeze_norms` on")
        );
        assert!(
            said(1).starts_with("there is one picture")
                && said(1).contains("more pictures, `freeze_norms` on")
        );
    }

    #[test]
    fn a_picture_left_over_is_told_of() {
        let told = |pictures, batch_size, least| notice(pictures, batch_size, least).is_some();
        assert!(told(9, 8, 2) && told(17, 8, 2));
        assert!(!told(9, 8, 1) && !told(8, 8, 2) && !told(10, 8, 2) && !told(1, 8, 2));
    }
}
