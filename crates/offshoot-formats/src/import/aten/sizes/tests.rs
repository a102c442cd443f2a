use offshoot_graph::Dim;

use super::*;

fn ints(items: &[i64]) -> Value {
    Value::List(items.iter().map(|&n| Value::Int(n)).collect())
}

#[test]
fn division_rounds_as_in_python() {
    for (a, b, quotient, rest) in
        [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, 3, 2, 0)]
    {
        let both = [Value::Int(a), Value::Int(b)];
        assert_eq!(compute("torch.floordiv", &both), Some(Value::Int(quotient)), "{a} {b}");
        assert_eq!(compute("torch.remainder", &both), Some(Value::Int(rest)), "{a} {b}");
    }
    assert_eq!(compute("torch.div", &[Value::Int(7), Value::Int(2)]), Some(Value::Float(3.5)));
    for name in ["torch.div", "torch.floordiv", "torch.remainder"] {
        assert_eq!(compute(name, &[Value::Int(7), Value::Int(0)]), None);
    }
    assert_eq!(compute("torch.floordiv", &[Value::Int(i64::MIN), Value::Int(-1)]), None);
    assert_eq!(compute("torch.remainder", &[Value::Int(i64::MIN), Value::Int(-1)]), None);
}

#[test]
fn what_depends_on_the_batch_is_a_size_or_unknown() {
    let one_more = Value::Size(Dim::symbol("batch").combine(DimOp::Add, &Dim::Fixed(1)));
    assert_eq!(compute("torch.add", &[batch(), Value::Int(1)]), Some(one_more.clone()));
    assert_eq!(compute("torch.sub", &[one_more, Value::Int(1)]), Some(batch()));
    assert_eq!(compute("torch.gt", &[batch(), Value::Int(0)]), Some(Value::Unknown));
    assert_eq!(compute("torch.eq", &[batch(), Value::Int(1)]), Some(Value::Unknown));
    assert_eq!(compute("torch.mul", &[batch(), Value::Float(0.5)]), Some(Value::Unknown));
    assert_eq!(compute("torch.len", &[ints(&[1, 2])]), Some(Value::Int(2)));
}

#[test]
fn slices_and_items_count_from_either_end() {
    let list = ints(&[1, 2, 3]);
    assert_eq!(compute("torch.slice", &[list.clone(), Value::Int(-2)]), Some(ints(&[2, 3])));
    assert_eq!(compute("torch.slice", &[list.clone(), Value::Int(2), Value::Int(1)]), Some(ints(&[])));
    assert_eq!(compute("torch.slice", &[list.clone(), Value::None, Value::Int(99)]), Some(list.clone()));
    assert_eq!(compute("torch.__getitem__", &[list.clone(), Value::Int(-1)]), Some(Value::Int(3)));
    assert_eq!(compute("torch.__getitem__", &[list, Value::Int(3)]), None);
}

fn batch() -> Value {
    Value::Size(Dim::symbol("batch"))
}

/// Numbers and truths as in Python.
#[test]
fn functions_of_numbers_are_pythons() {
    use Value::{Bool, Float, Int};
    for (name, arguments, wanted) in [
        ("ops.prim.NumToTensor", &[Int(3)][..], Int(3)),
        ("torch.Int", &[Float(-2.7)], Int(-2)),
        ("int", &[Bool(true)], Int(1)),
        ("int", &[Int(5)], Int(5)),
        ("float", &[Int(5)], Float(5.0)),
        ("torch.Float", &[Value::Text("0.25".into())], Float(0.25)),
        ("bool", &[Int(2)], Bool(true)),
        ("torch.Bool", &[Float(0.0)], Bool(false)),
        ("torch.__not__", &[Bool(false)], Bool(true)),
        ("torch.__not__", &[Int(2)], Bool(false)),
        ("torch.neg", &[Int(5)], Int(-5)),
        ("torch.neg", &[Float(0.5)], Float(-0.5)),
        ("torch.ceil", &[Float(1.2)], Float(2.0)),
        ("torch.floor", &[Float(-1.2)], Float(-2.0)),
        ("torch.ceil", &[Int(3)], Int(3)),
        ("torch.add", &[Int(5), Int(3)], Int(8)),
        ("torch.add", &[Float(5.0), Int(3), Int(1)], Float(8.0)),
        ("torch.sub", &[Int(5), Int(3), Int(1)], Int(2)),
        ("torch.sub", &[Float(5.0), Int(3)], Float(2.0)),
        ("torch.mul", &[Int(5), Int(3)], Int(15)),
        ("torch.mul", &[Float(5.0), Float(3.0)], Float(15.0)),
        ("torch.div", &[Float(5.0), Float(2.0)], Float(2.5)),
        ("torch.floordiv", &[Float(-5.0), Int(2)], Float(-3.0)),
        ("torch.max", &[Int(2), Int(3)], Int(3)),
        ("ops.prim.max", &[Int(3), Int(2)], Int(3)),
        ("torch.min", &[Int(2), Int(3)], Int(2)),
        ("ops.prim.min", &[Int(3), Int(2)], Int(2)),
        ("torch.clamp", &[Int(7), Int(1), Int(4)], Int(4)),
        ("torch.clamp", &[Int(0), Int(1)], Int(1)),
        ("torch.clamp", &[Int(7), Value::None, Int(4)], Int(4)),
        ("torch.clamp", &[Int(7), Int(1), Value::None], Int(7)),
        ("torch.len", &[ints(&[4, 5, 6])], Int(3)),
        ("torch.add", &[ints(&[1, 2]), ints(&[3])], ints(&[1, 2, 3])),
        ("torch.add", &[ints(&[0; 128]), ints(&[0; 128])], ints(&[0; 256])),
        ("torch.device", &[Value::Text("cpu".into())], Value::Text("cpu".into())),
        ("torch.format", &[Value::Text("{}".into()), Int(1)], Value::Text("".into())),
    ] {
        assert_eq!(compute(name, arguments), Some(wanted), "{name} {arguments:?}");
    }
    for (name, arguments) in [
        ("ops.prim.NumToTensor", &[ints(&[1])][..]),
        ("int", &[ints(&[1])]),
        ("torch.add", &[Int(5), Int(3), Int(2)]),
        ("torch.add", &[Value::None, Int(3)]),
        ("torch.add", &[Int(3), Value::None]),
        ("torch.add", &[ints(&[0; 128]), ints(&[0; 129])]),
        ("torch.div", &[Float(5.0), Float(0.0)]),
        ("torch.clamp", &[Int(7), Int(1), Int(4), Int(4)]),
        ("torch.sin", &[Float(0.0)]),
    ] {
        assert_eq!(compute(name, arguments), None, "{name} {arguments:?}");
    }
}

#[test]
fn comparisons_and_truths_are_pythons() {
    let numbers = |a: i64, b: i64| [Value::Int(a), Value::Int(b)];
    for (name, truths) in [
        ("torch.lt", [true, false, false]),
        ("torch.le", [true, true, false]),
        ("torch.gt", [false, false, true]),
        ("torch.ge", [false, true, true]),
        ("torch.eq", [false, true, false]),
        ("torch.ne", [true, false, true]),
    ] {
        let found = [(1, 2), (2, 2), (3, 2)].map(|(a, b)| compute(name, &numbers(a, b)));
        assert_eq!(found, truths.map(|truth| Some(Value::Bool(truth))), "{name}");
    }
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        for (name, truth) in [
            ("torch.__and__", a && b),
            ("torch.__or__", a || b),
            ("torch.__is__", a == b),
            ("torch.__isnot__", a != b),
        ] {
            assert_eq!(compute(name, &[Value::Bool(a), Value::Bool(b)]), Some(Value::Bool(truth)), "{name}");
        }
    }
    let text = |text: &str| Value::Text(text.into());
    for (a, b, truth) in [
        (text("a"), text("a"), true),
        (text("a"), text("b"), false),
        (ints(&[1, 2]), ints(&[1, 2]), true),
        (ints(&[1, 2]), ints(&[3, 2]), false),
        (ints(&[1, 2]), ints(&[1, 2, 3]), false),
    ] {
        assert_eq!(compute("torch.eq", &[a.clone(), b.clone()]), Some(Value::Bool(truth)), "{a:?} {b:?}");
        assert_eq!(compute("torch.ne", &[a, b]), Some(Value::Bool(!truth)));
    }
    for (other, truth) in [
        (Value::None, Some(true)),
        (Value::Int(0), Some(false)),
        (Value::Module(0), Some(false)),
        (Value::Unknown, None),
    ] {
        assert_eq!(
            compute("torch.__is__", &[other.clone(), Value::None]),
            truth.map(Value::Bool),
            "{other:?}"
        );
    }
}

#[test]
fn sizes_that_the_batch_decides_are_combined_or_unknown() {
    for (name, op) in [("torch.mul", DimOp::Mul), ("torch.floordiv", DimOp::Div)] {
        let combined = Value::Size(Dim::symbol("batch").combine(op, &Dim::Fixed(2)));
        assert_eq!(compute(name, &[batch(), Value::Int(2)]), Some(combined), "{name}");
    }
    for (name, arguments) in [
        ("torch.floordiv", [batch(), Value::Float(0.5)]),
        ("torch.floordiv", [Value::Float(0.5), Value::Unknown]),
        ("torch.div", [batch(), Value::Int(2)]),
        ("torch.max", [batch(), Value::Int(2)]),
        ("torch.__and__", [Value::Bool(true), Value::Unknown]),
    ] {
        assert_eq!(compute(name, &arguments), Some(Value::Unknown), "{name}");
    }
    assert_eq!(compute("torch.floordiv", &[batch(), Value::Int(0)]), None);
    assert_eq!(compute("bool", &[batch()]), Some(Value::Unknown));
    assert_eq!(compute("int", &[batch()]), Some(batch()));
    assert_eq!(compute("bool", &[Value::Module(0)]), None);
}
