//! Forms of operators that are not read.

use super::files::{
    attribute, field, float, head, info, ints, model, model_of, node, refused_with, tensor, whole, word,
};

/// Ones of the given dims.
fn ones(name: &str, dims: &[i64]) -> Vec<u8> {
    let count = dims.iter().product::<i64>() as usize;
    tensor(name, dims, Some(&1f32.to_le_bytes().repeat(count)))
}

/// Tensors for operators of the input `x` [N, 3, 8, 8].
fn tensors() -> Vec<u8> {
    [
        tensor("w", &[4, 3, 3, 3], None),
        tensor("cube", &[4, 3, 3], None),
        tensor("matrix", &[8, 4], None),
        ones("one", &[]),
        ones("two_ones", &[2]),
        tensor("zero", &[], None),
        whole("none", &[0], &[]),
        whole("axis", &[1], &[2]),
        whole("three", &[3], &[1, 2, 3]),
        whole("pads", &[8], &[0, 0, 0, 0, 0, 0, 0, -1]),
    ]
    .concat()
}

#[test]
fn forms_that_are_not_read_are_named() {
    let kernel = |side: i64| ints("kernel_shape", &[side, side]);
    for (op, inputs, attributes, what) in [
        ("Conv", &["x", "cube"][..], vec![], "not as many axes as its weight"),
        ("Conv", &["x", "w"], vec![kernel(2)], "kernel_shape is not that of its weight"),
        ("Conv", &["x", "w"], vec![ints("strides", &[1, 1, 1])], "strides is [1, 1, 1], not 2 numbers"),
        ("Conv", &["x", "w"], vec![word("auto_pad", "SAME")], "auto_pad is `SAME`"),
        ("MaxPool", &["x"], vec![], "kernel_shape is missing"),
        ("MaxPool", &["x"], vec![kernel(2), ints("dilations", &[1, 2])], "pooling with dilations"),
        ("Pad", &["x", "three"], vec![], "3 pads for 4 axes"),
        ("Pad", &["x", "pads"], vec![], "only padding by 0 to"),
        ("Pad", &["x", "pads"], vec![word("mode", "wrap")], "padding of the mode `wrap`"),
        ("Pad", &["x", "pads", "two_ones"], vec![], "the number of its padding is not known"),
        ("Resize", &["x", "", "two_ones"], vec![], "2 sizes are given of 4 axes"),
        ("Resize", &["x", "", "x"], vec![], "the size of its result is not known"),
        ("Resize", &["x", "", "one"], vec![attribute("exclude_outside", 1)], "`exclude_outside`"),
        (
            "Resize",
            &["x", "", "one"],
            vec![word("keep_aspect_ratio_policy", "not_larger")],
            "the policy `stretch`",
        ),
        ("Resize", &["x", "", "one"], vec![word("mode", "cubic"), float("cubic_coeff_a", -0.5)], "a = -0.75"),
        ("Split", &["x", "three"], vec![attribute("axis", 1)], "not those of 1 outputs and an axis of 3"),
        ("Split", &["x"], vec![], "only an axis of known size is split"),
        ("Gather", &["x", "three"], vec![attribute("axis", 1)], "an index is outside of 3"),
        ("Gather", &["x", "three"], vec![], "the axis has no known size"),
        ("Gather", &["x", "axis"], vec![attribute("axis", -5)], "axis -5 is outside of 4 axes"),
        ("Slice", &["x", "three", "axis"], vec![], "not one start, end, axis and step"),
        ("Slice", &["x", "axis", "three"], vec![], "not one start, end, axis and step"),
        ("Slice", &["x", "axis", "axis", "axis", "axis"], vec![], "it picks nothing"),
        ("Squeeze", &["x", "axis"], vec![], "only axes of one place are removed"),
        ("Flatten", &["x"], vec![attribute("axis", 5)], "axis 5 is outside of 4 axes"),
        ("Reshape", &["x", "x"], vec![], "its shape is not known before the run"),
        ("ReduceSum", &["x"], vec![attribute("noop_with_empty_axes", 1)], "only a reduction over given axes"),
        ("ReduceSum", &["x", "none"], vec![attribute("noop_with_empty_axes", 1)], "over given axes"),
        ("Dropout", &["x", "one"], vec![], "its ratio is 1"),
        ("Clip", &["x", "two_ones"], vec![], "its min is not one number"),
        ("Gelu", &["x"], vec![word("approximate", "sine")], "its approximation is none"),
        ("Einsum", &["x"], vec![word("equation", "bchw->bchwx")], "of the form `bchw->bchwx`"),
        ("Einsum", &["x"], vec![word("equation", "bcii->bci")], "of the form `bcii->bci`"),
        ("Einsum", &["x", "x"], vec![word("equation", "...c,...c->...")], "of the form"),
        ("Tile", &["x", "three"], vec![], "one number of repetitions for each axis"),
        ("Tile", &["x", "x"], vec![], "one number of repetitions for each axis"),
        ("Trilu", &["one"], vec![], "only matrices of known size"),
        ("SpaceToDepth", &["x"], vec![], "have not the same number of elements"),
        ("ScatterND", &["x", "three", "x"], vec![], "have not the same number of elements"),
        ("ScatterND", &["x", "x", "x"], vec![], "only a box of elements"),
        ("ScatterND", &["x", "three", "x"], vec![word("reduction", "add")], "a scattered sum"),
        ("ScatterElements", &["x", "three", "x"], vec![], "only a box of elements"),
        ("GatherND", &["x", "three"], vec![], "only elements at places that are known"),
        ("CumSum", &["x", "one"], vec![], "this operator is not read"),
        ("Attention", &["x", "x", "x"], vec![attribute("is_causal", 1)], "causal masks"),
        ("Attention", &["x", "x", "x", "one", "x"], vec![], "past keys"),
        ("Elu", &["x"], vec![float("alpha", f32::INFINITY)], "one of its attributes is inf"),
        ("Cast", &["w"], vec![attribute("to", 7)], "a cast to integers"),
        ("Gemm", &["x", "matrix"], vec![attribute("transA", 1)], "a transposed first operand"),
        ("BatchNormalization", &["x", "two_ones"], vec![attribute("spatial", 0)], "`spatial` = 0"),
        ("GroupNormalization", &["x"], vec![attribute("num_groups", 2)], "3 channels are no 2 groups"),
        ("QuantizeLinear", &["x", "one"], vec![attribute("output_dtype", 9)], "only 8-bit integers"),
        ("QuantizeLinear", &["x", "one"], vec![attribute("precision", 1)], "only 8-bit integers"),
        ("QuantizeLinear", &["x", "one"], vec![attribute("block_size", 2)], "scales of blocks"),
        ("QuantizeLinear", &["x", "zero"], vec![], "a scale is no positive number"),
        ("QuantizeLinear", &["x", "one", "two_ones"], vec![], "2 zero points of f32 for 1 scales"),
        ("DequantizeLinear", &["x", "one"], vec![attribute("output_dtype", 10)], "only floats of 32 bits"),
    ] {
        let file = model(&[node(op, inputs, "f", &attributes), tensors(), head()]);
        refused_with(&file, &[&format!("node `the_f` ({op})"), what]);
    }
}

/// What another opset says.
#[test]
fn forms_of_other_opsets_that_are_not_read_are_named() {
    let with = |opset: i64, part: Vec<u8>| {
        let ends = [info(11, "x", 1, &[0, 3, 8, 8]), info(12, "y", 1, &[])];
        model_of(&[&[part, tensors(), head()][..], &ends].concat(), opset, &[])
    };
    let softmax = node("Softmax", &["x"], "f", &[attribute("axis", 1)]);
    refused_with(&with(12, softmax), &["`the_f` (Softmax)", "a softmax over several axes"]);
    let scales: Vec<u8> = [1f32, 1.0, 0.625, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let resize = [node("Resize", &["x", "s"], "f", &[]), tensor("s", &[4], Some(&scales))].concat();
    refused_with(&with(10, resize), &["`the_f` (Resize)", "the nearest pixel of fewer"]);
}

#[test]
fn recurrent_forms_that_are_not_read_are_named() {
    let activations = |names: &[&str]| {
        let names: Vec<Vec<u8>> = names.iter().map(|name| field(9, name)).collect();
        field(5, [field(1, "activations"), names.concat()].concat())
    };
    let usual = || activations(&["Sigmoid", "Tanh", "Sigmoid", "Tanh"]);
    let (three, eight) = (&["x", "w", "w"][..], ["x", "w", "w", "", "", "", "", "w"]);
    for (inputs, attributes, what) in [
        (three, vec![activations(&["Sigmoid", "Relu"])], "other activations than Sigmoid, Tanh"),
        (three, vec![usual(), attribute("layout", 1)], "the batch first"),
        (three, vec![usual(), attribute("input_forget", 1)], "input_forget"),
        (three, vec![usual(), attribute("clip", 0)], "clip"),
        (three, vec![usual(), word("direction", "sideways")], "its direction is `sideways`"),
        (&["x", "w", "w", "", "w"], vec![usual()], "sequence_lens"),
        (&eight, vec![usual()], "peepholes"),
        (&["x", "w", "w", "", "", "one"], vec![usual()], "other states than zeros"),
    ] {
        let one = ones("one", &[1, 1, 1]);
        let parts = [node("GRU", inputs, "f", &attributes), tensor("w", &[1, 3, 1], None), one, head()];
        refused_with(&model(&parts), &["node `the_f` (GRU)", what]);
    }
}

#[test]
fn weights_of_another_shape_than_a_recurrent_operators() {
    let gru = |weights: [&[i64]; 3], hidden: i64| {
        let [w, r, b] = weights;
        let parts = [
            node("Reshape", &["x", "steps"], "s", &[]),
            whole("steps", &[3], &[24, -1, 8]),
            tensor("w", w, None),
            tensor("r", r, None),
            tensor("b", b, None),
            node("GRU", &["s", "w", "r", "b"], "y", &[attribute("hidden_size", hidden)]),
        ];
        model(&parts)
    };
    let good: [&[i64]; 3] = [&[1, 12, 8], &[1, 12, 4], &[1, 24]];
    for (weights, hidden, what) in [
        (good, 5, "its hidden_size is 5, and its weights are of 4"),
        (good, -1, "its hidden_size is -1"),
        ([&[1, 8, 12], good[1], good[2]], 4, "its W is [1, 8, 12], and must be [1, 12, 8]"),
        ([&[2, 12, 8], good[1], good[2]], 4, "its W is [2, 12, 8], and must be [1, 12, 8]"),
        ([good[0], &[1, 4, 12], good[2]], 4, "its hidden_size is 4, and its weights are of 12"),
        ([good[0], good[1], &[1, 12]], 4, "its B is [1, 12], and must be [1, 24]"),
    ] {
        refused_with(&gru(weights, hidden), &["(GRU)", what]);
    }
}
