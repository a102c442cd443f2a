use offshoot_graph::Dim;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::onnx::proto::{AttributeProto, NodeProto};

#[derive(Deserialize)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
    float: bool,
}

impl Array {
    fn numbers(self) -> Numbers {
        let data = self.data.into_iter().map(Number::Known).collect();
        Numbers { shape: self.shape, data, float: self.float }
    }
}

#[derive(Deserialize)]
struct Case {
    op: String,
    inputs: Vec<Option<Array>>,
    attributes: Map<String, Value>,
    fill: Option<Array>,
    output: Array,
}

fn folded(
    op: &str,
    attributes: &Value,
    inputs: &[Option<Numbers>],
    fill: Option<Numbers>,
) -> Option<Numbers> {
    let attribute = |(name, value): (&String, &Value)| {
        let ints = value.as_array().map(|list| list.iter().filter_map(Value::as_i64).collect());
        AttributeProto {
            name: name.clone(),
            i: value.as_i64(),
            f: value.as_f64().filter(|_| value.is_f64()).map(|x| x as f32),
            ints: ints.unwrap_or_default(),
            ..Default::default()
        }
    };
    let attribute = attributes.as_object().unwrap().iter().map(attribute).collect();
    let proto = NodeProto { op_type: op.to_owned(), attribute, ..Default::default() };
    assert!(is_foldable(op), "{op}");
    fold(NodeView { proto: &proto }, inputs, fill)
}

fn ints(values: &[i64]) -> Option<Numbers> {
    Some(Numbers::vector(values.iter().map(|&n| Number::Known(n as f64)).collect(), false))
}

/// `scripts/golden/fold.py`.
#[test]
fn small_tensors_are_those_of_onnx_runtime() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/fold.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let attributes = Value::Object(case.attributes);
        let inputs: Vec<_> = case.inputs.into_iter().map(|input| input.map(Array::numbers)).collect();
        let found = folded(&case.op, &attributes, &inputs, case.fill.map(Array::numbers));
        assert_eq!(found, Some(case.output.numbers()), "{} of {inputs:?} {attributes}", case.op);
    }
}

#[test]
fn what_is_not_computed_is_refused() {
    let table = || Some(Numbers { shape: vec![2, 2], ..ints(&[1, 2, 3, 4]).unwrap() });
    let (one, none) = (|| ints(&[1]), json!({}));
    for (op, inputs, attributes) in [
        ("Add", vec![ints(&[1, 2]), ints(&[1, 2, 3])], &none),
        ("Add", vec![ints(&[1, 2]), Some(Numbers { shape: vec![1, 1], ..one().unwrap() })], &none),
        ("Div", vec![ints(&[1, 2]), ints(&[1, 0])], &none),
        ("Mod", vec![ints(&[1, 2]), ints(&[1, 0])], &none),
        ("Max", vec![one(), one(), one()], &none),
        ("Min", vec![one(), one(), one()], &none),
        ("Where", vec![ints(&[1, 0]), ints(&[1, 2, 3]), one()], &none),
        ("Where", vec![ints(&[1, 0]), one(), ints(&[1, 2, 3])], &none),
        ("Gather", vec![table(), one()], &none),
        ("Gather", vec![ints(&[1, 2]), one()], &json!({"axis": 1})),
        ("Gather", vec![ints(&[1, 2]), ints(&[2])], &none),
        ("Gather", vec![ints(&[1, 2]), ints(&[-3])], &none),
        ("Unsqueeze", vec![one(), ints(&[2])], &none),
        ("Unsqueeze", vec![one(), ints(&[0, 0])], &none),
        ("Unsqueeze", vec![one(), ints(&[0, 1, 2, 3, 4, 5, 6, 7])], &none),
        ("Squeeze", vec![ints(&[1, 2]), ints(&[0])], &none),
        ("Squeeze", vec![one(), ints(&[1])], &none),
        ("Concat", vec![table(), table()], &none),
        ("Concat", vec![ints(&[0; 256]), one()], &none),
        ("ConstantOfShape", vec![ints(&[257])], &none),
        ("ConstantOfShape", vec![ints(&[-1])], &none),
        ("Slice", vec![table(), ints(&[0]), ints(&[1]), ints(&[1])], &none),
        ("Slice", vec![table(), ints(&[0, 0]), ints(&[1, 1]), ints(&[0, 1])], &none),
        ("Slice", vec![table(), ints(&[0]), ints(&[1]), ints(&[0]), ints(&[0])], &none),
        ("Slice", vec![table(), ints(&[0])], &none),
        ("Transpose", vec![table()], &json!({"perm": [0, 0]})),
        ("Reshape", vec![table(), ints(&[3])], &none),
        ("Reshape", vec![table(), ints(&[3, -1])], &none),
        ("Reshape", vec![table(), ints(&[4, 1, 1, 1, 1, 1, 1, 1, 1])], &none),
        ("ReduceProd", vec![table()], &none),
        ("ReduceProd", vec![one()], &json!({"axes": [1]})),
    ] {
        assert_eq!(folded(op, attributes, &inputs, None), None, "{op} of {inputs:?} {attributes}");
    }
    assert!(folded("Concat", &json!({}), &[ints(&[0; 255]), ints(&[1])], None).is_some());
    assert!(folded("ConstantOfShape", &json!({}), &[ints(&[16, 16])], None).is_some());
    assert!(!is_foldable("Sin"));
}

#[test]
fn a_size_of_the_input_stays_one_in_whole_numbers() {
    let batch = Dim::symbol("batch");
    let (size, unknown) = (Number::Size(batch.clone()), Number::Unknown);
    let of = |number: &Number, float| Some(Numbers::vector(vec![number.clone()], float));
    for (op, a, b, wanted) in [
        ("Add", of(&size, false), ints(&[2]), Number::Size(batch.combine(DimOp::Add, &Dim::Fixed(2)))),
        ("Mul", of(&size, false), of(&size, false), Number::Size(batch.combine(DimOp::Mul, &batch))),
        ("Div", of(&size, false), ints(&[2]), Number::Size(batch.combine(DimOp::Div, &Dim::Fixed(2)))),
        ("Mul", of(&size, true), ints(&[2]), unknown.clone()),
        ("Mod", of(&size, false), ints(&[2]), unknown.clone()),
        ("Max", of(&size, false), ints(&[2]), unknown.clone()),
        ("Equal", of(&size, false), ints(&[-1]), Number::Known(0.0)),
        ("Equal", ints(&[-1]), of(&size, false), Number::Known(0.0)),
        ("Equal", of(&size, false), ints(&[0]), unknown.clone()),
        ("Equal", ints(&[1]), of(&size, false), unknown.clone()),
        ("Floor", of(&size, false), None, unknown.clone()),
        ("Cast", of(&size, false), None, size.clone()),
        ("ReduceProd", of(&size, false), None, size.clone()),
    ] {
        let found = folded(op, &json!({"to": 7}), &[a, b], None).unwrap();
        assert_eq!(found.data, [wanted], "{op}");
    }
    assert_eq!(folded("Where", &json!({}), &[of(&size, false), ints(&[1]), ints(&[2])], None), None);
    assert_eq!(of(&size, false).unwrap().to_shape(), Some(Shape(vec![batch])));
    assert_eq!((of(&size, false).unwrap().known(), of(&unknown, false).unwrap().to_shape()), (None, None));
}

#[test]
fn only_few_elements_of_a_tensor_are_numbers() {
    let ones = |n: usize| Numbers::from_tensor(&Tensor::i64([n], vec![1; n]));
    assert_eq!(ones(MAX_NUMBERS).map(|n| n.ints()), Some(Some(vec![1; MAX_NUMBERS])));
    assert_eq!(ones(MAX_NUMBERS + 1), None);
    let truths = Numbers::from_tensor(&Tensor::new([2], Data::Bool(vec![true, false])).unwrap()).unwrap();
    assert_eq!((truths.known(), truths.float), (Some(vec![1.0, 0.0]), false));
    let halves = Numbers::from_tensor(&Tensor::f32([1], vec![0.5])).unwrap();
    assert_eq!((halves.to_tensor(), halves.float), (Some(Tensor::f32([1], vec![0.5])), true));
}

#[test]
fn a_product_of_floats_is_rounded_as_f32() {
    let number = |x: f32| Numbers { shape: Vec::new(), data: vec![Number::Known(x.into())], float: true };
    for (size, factor, floor) in [(10.0, 0.7, 7.0), (5.0, 1.4, 7.0), (20.0, 0.9, 18.0), (10.0, 0.65, 6.0)] {
        let scaled = arithmetic(&number(size), &number(factor), DimOp::Mul, |a, b| a * b).unwrap();
        assert_eq!(
            scaled.map(f64::floor).known(),
            Some(vec![f64::from(size * factor).floor()]),
            "{size} {factor}"
        );
        assert_eq!(f64::from(size * factor).floor(), floor, "{size} {factor}");
    }
}
