use super::*;

fn parsed(text: &str) -> Result<Module, String> {
    parse(text, &"f.py".into()).map_err(|e| e.to_string())
}

/// The statements of a function with these lines.
fn body(lines: &str) -> Result<String, String> {
    let block: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    let module = parsed(&format!("def f(x) -> Tensor:\n{block}"))?;
    Ok(shown(&module.functions["f"].body))
}

fn shown(body: &[Statement]) -> String {
    let text: Vec<String> = body.iter().map(|s| format!("{} {:?}", s.line, s.kind)).collect();
    text.join("; ")
}

/// The tree of an expression.
fn tree(text: &str) -> Result<String, String> {
    body(&format!("return {text}")).map(|line| line["2 Return(".len()..line.len() - 1].to_owned())
}

#[test]
fn expressions_are_trees() {
    for (text, wanted) in [
        ("-2", "Int(-2)"),
        ("-2.5", "Float(-2.5)"),
        ("7", "Int(7)"),
        ("0.5", "Float(0.5)"),
        ("inf", "Float(inf)"),
        ("None", "None"),
        ("[True, False, ]", "List([Bool(true), Bool(false)])"),
        ("(1)", "Int(1)"),
        ("(1,)", "Tuple([Int(1)])"),
        ("(1, \"a\")", "Tuple([Int(1), Text(\"a\")])"),
        ("()", "Tuple([])"),
        ("a.b[0]", "Index(Attribute(Name(\"a\"), \"b\"), Int(0))"),
        ("a[0, 1]", "Index(Name(\"a\"), Tuple([Int(0), Int(1)]))"),
        (
            "f(1, n=2, )(3)",
            "Call(Call { callee: Call(Call { callee: Name(\"f\"), arguments: [Int(1)], named: [(\"n\", Int(2))] }), \
             arguments: [Int(3)], named: [] })",
        ),
    ] {
        assert_eq!(tree(text).as_deref(), Ok(wanted), "{text}");
    }
    for (text, what) in [
        ("(1 2)", "`,` is missing"),
        ("f(1 2)", "`,` is missing"),
        ("f(1=2)", "the name of an argument is missing"),
        ("-a", "a number is missing"),
        ("a.1", "an attribute is missing"),
        ("a b", "the end of the line is missing"),
        (")", "closes nothing"),
        (":", "line 2: an expression is missing"),
    ] {
        let error = tree(text).unwrap_err();
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn statements_are_trees_with_their_lines() {
    for (lines, wanted) in [
        ("a : int = 1\npass", "2 Assign(Name(\"a\"), Int(1)); 3 Pass"),
        (
            "a, b, = x\na, = x",
            "2 Assign(Names([\"a\", \"b\"]), Name(\"x\")); 3 Assign(Names([\"a\"]), Name(\"x\"))",
        ),
        ("a, b = x, 1", "2 Assign(Names([\"a\", \"b\"]), Tuple([Name(\"x\"), Int(1)]))"),
        ("x\nreturn 1", "2 Expression(Name(\"x\")); 3 Return(Int(1))"),
        (
            "for i in range(2):\n  x",
            "2 For(\"i\", Int(2), [Statement { line: 3, kind: Expression(Name(\"x\")) }])",
        ),
        ("while x:\n  pass", "2 While(Name(\"x\"), [Statement { line: 3, kind: Pass }])"),
        (
            "if x:\n  pass\nelse:\n  y\npass",
            "2 If(Name(\"x\"), [Statement { line: 3, kind: Pass }], [Statement { line: 5, kind: Expression(Name(\"y\")) }]); 6 Pass",
        ),
        (
            "if x:\n  pass\ny",
            "2 If(Name(\"x\"), [Statement { line: 3, kind: Pass }], []); 4 Expression(Name(\"y\"))",
        ),
    ] {
        assert_eq!(body(lines).as_deref(), Ok(wanted), "{lines}");
    }
    for (lines, what) in [
        ("for i of x:\n  pass", "line 2: `in` is missing"),
        ("for i in x:\n  pass", "line 2: only loops over `range`"),
        ("if x\n  pass", "`:` is missing"),
        ("if x:\npass", "line 3: an indented block is missing"),
        ("a, 1 = x", "a name to assign to is missing"),
    ] {
        let error = body(lines).unwrap_err();
        assert!(error.contains(what), "{lines}: {error}");
    }
}

#[test]
fn classes_have_methods_and_constants() {
    let text = "import torch\n\
        class A(Module):\n  __parameters__ = [\"w\", ]\n  __annotations__[\"0\"] = Tensor\n  pass\n  w : Tensor\n  n : Final[int] = 3\n  \
        def forward(self,\n    x: Tensor,\n    n: int=1) -> Tensor:\n    return x\n\
        def f():\n  pass\n";
    let module = parsed(text).unwrap();
    let class = &module.classes["A"];
    assert_eq!(format!("{:?}", class.constants), "{\"n\": Int(3)}");
    let forward = &class.methods["forward"];
    assert_eq!(forward.place.line, 8);
    assert_eq!(
        format!("{:?}", forward.parameters),
        "[(\"self\", None), (\"x\", None), (\"n\", Some(Int(1)))]"
    );
    assert_eq!((shown(&forward.body).as_str(), class.methods.len()), ("11 Return(Name(\"x\"))", 1));
    assert_eq!((module.functions["f"].place.line, module.functions.len()), (12, 1));
    for (text, what) in [
        ("x = 1\n", "line 1: `x` is neither a class nor a function"),
        ("def f(x y):\n  pass\n", "`,` is missing"),
        ("class A(Module:\n  pass\n", "a bracket is not closed"),
        ("class A(Module):\n  1\n", "line 2: a member of the class is missing"),
        ("class A(Module):\n  w : Tensor pass\n", "the end of the line is missing"),
    ] {
        let error = parsed(text).unwrap_err();
        assert!(error.contains(what), "{text}: {error}");
    }
}

#[test]
fn lists_and_chains_have_a_longest_length() {
    let many = |n: usize| "1, ".repeat(n);
    for (text, limit) in [
        (&(|n| format!("[{}]", many(n))) as &dyn Fn(usize) -> String, MAX_ITEMS),
        (&|n| format!("f({}a=1)", many(n - 1)), MAX_ITEMS),
        (&|n| format!("a{}", ".b".repeat(n)), MAX_CHAIN),
    ] {
        assert!(tree(&text(limit)).is_ok(), "{limit}");
        assert!(tree(&text(limit + 1)).unwrap_err().contains("too many"), "{limit}");
    }
}
