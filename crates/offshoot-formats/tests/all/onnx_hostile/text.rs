//! Models of text.

use offshoot_formats::onnx::{self, ReadOptions};

use super::files::{attribute, info, model_of, node, tensor, whole};

/// A model of tokens [batch, steps] with a table of 5 rows of 4 numbers.
fn text(parts: &[Vec<u8>]) -> Vec<u8> {
    let ends = [info(11, "x", 7, &[0, 0]), info(12, "y", 1, &[]), tensor("table", &[5, 4], None)];
    model_of(&[parts, &ends].concat(), 17, &[])
}

fn text_refused(parts: &[Vec<u8>], words: &[&str]) {
    let options = ReadOptions { size: None, any_input: true };
    let message = match onnx::read_bytes_with(text(parts), options) {
        Err(problem) => problem.to_string(),
        Ok(read) => panic!("it was read:\n{}", read.model.graph),
    };
    words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is not in: {message}"));
}

#[test]
fn indices_that_are_none() {
    let embedded = node("Gather", &["table", "x"], "e", &[]);
    text_refused(
        &[embedded.clone(), node("Gather", &["table", "e"], "y", &[])],
        &["node `the_y` (Gather)", "`the_e` is f32", "i64"],
    );
    for index in [5, -6, i64::MAX, i64::MIN] {
        let known = [node("Gather", &["table", "i"], "y", &[]), whole("i", &[1, 1], &[index])];
        text_refused(&known, &["(Gather)", &format!("index {index} is outside of 5 rows")]);
    }
    text_refused(
        &[node("Gather", &["table", "x"], "y", &[attribute("axis", 1)])],
        &["(Gather)", "only rows (axis 0)"],
    );
    let past = node("Gather", &["e", "i"], "y", &[attribute("axis", 3)]);
    text_refused(&[embedded.clone(), past, whole("i", &[], &[0])], &["(Gather)", "axis 3 is outside of 3"]);
    for (op, inputs) in [("Squeeze", &["e", "three"][..]), ("Slice", &["e", "i", "three", "three"])] {
        let parts = [
            embedded.clone(),
            node(op, inputs, "y", &[]),
            whole("three", &[1], &[3]),
            whole("i", &[1], &[0]),
        ];
        text_refused(&parts, &[&format!("({op})"), "axis 3 is outside of 3"]);
    }
}

#[test]
fn comparisons_and_choices_of_other_things_than_tokens() {
    let embedded = node("Gather", &["table", "x"], "e", &[]);
    let one = whole("one", &[], &[1]);
    text_refused(&[embedded.clone(), node("Equal", &["e", "one"], "y", &[]), one.clone()], &["(Equal)"]);
    text_refused(&[node("Equal", &["x", "x"], "y", &[])], &["(Equal)", "one number that is known"]);
    text_refused(&[embedded.clone(), node("Not", &["e"], "y", &[])], &["(Not)", "no boolean"]);
    text_refused(&[embedded.clone(), node("Where", &["e", "e", "e"], "y", &[])], &["(Where)"]);
    text_refused(&[embedded.clone(), node("Add", &["e", "x"], "y", &[])], &["(Add)", "i64"]);
    text_refused(&[embedded, node("Cast", &["e"], "y", &[attribute("to", 7)])], &["(Cast)"]);
    text_refused(&[node("ReduceSum", &["x", "one"], "y", &[]), one], &["(ReduceSum)"]);
}

#[test]
fn sizes_that_a_file_multiplies_stay_small() {
    let with = |steps: &[Vec<u8>], last: &str| {
        let zero = tensor("zero", &[1], None);
        let parts =
            [&[node("Shape", &["x"], "s0", &[])], steps, &[node("Expand", &["zero", last], "y", &[]), zero]];
        parts.concat()
    };
    let huge = [node("Mul", &["s0", "big"], "s1", &[]), whole("big", &[1], &[1 << 39])];
    text_refused(&with(&huge, "s1"), &["(Expand)", "limit"]);
    // Doubles an expression forty times.
    let double = |i: usize| {
        let (from, to) = (format!("s{i}"), format!("s{}", i + 1));
        node("Add", &[&from, &from], &to, &[])
    };
    let doubled: Vec<Vec<u8>> = (0..40).map(double).collect();
    text_refused(&with(&doubled, "s40"), &["(Expand)", "not known"]);
    let count =
        [node("Range", &["i", "many", "one"], "y", &[]), whole("i", &[], &[0]), whole("one", &[], &[1])];
    text_refused(&[&count[..], &[whole("many", &[], &[1 << 60])]].concat(), &["(Range)", "limit"]);
    text_refused(&[&count[..], &[whole("many", &[], &[1 << 27])]].concat(), &["(Range)", "limit"]);
}
