//! No `match` on an operator has an arm that takes all others: a new operator must be handled wherever operators are told
//! apart, and the compiler lists these places only where each operator is named. What looks for a pattern uses `if let` or
//! `matches!`.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod sources;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ExprMatch, Pat};

/// The types whose variants are operators.
const OPERATORS: [&str; 10] = [
    "Op",
    "CpuOp",
    "QuantizedOp",
    "GradOp",
    "TrainOp",
    "SequenceOp",
    "UpdateOp",
    "Unary",
    "Binary",
    "Reduce",
];

/// Whether a pattern names an operator.
#[derive(Default)]
struct Names(bool);

impl<'a> Visit<'a> for Names {
    // A guard says nothing about which variants an arm takes.
    fn visit_expr(&mut self, _: &'a syn::Expr) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut before_last = path.segments.iter().rev().skip(1);
        self.0 |=
            before_last.next().is_some_and(|segment| OPERATORS.iter().any(|name| segment.ident == name));
        visit::visit_path(self, path);
    }
}

fn takes_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(name) => {
            name.subpat.is_none() && name.ident.to_string().starts_with(|c: char| c.is_lowercase())
        }
        Pat::Or(or) => or.cases.iter().any(takes_all),
        Pat::Tuple(tuple) => tuple.elems.iter().all(takes_all),
        Pat::Paren(inner) => takes_all(&inner.pat),
        Pat::Reference(inner) => takes_all(&inner.pat),
        _ => false,
    }
}

/// The lines of arms that take all other operators.
#[derive(Default)]
struct Wildcards(Vec<usize>);

impl<'a> Visit<'a> for Wildcards {
    fn visit_expr_match(&mut self, of: &'a ExprMatch) {
        let mut names = Names::default();
        of.arms.iter().for_each(|arm| names.visit_pat(&arm.pat));
        if names.0 {
            let arms = of.arms.iter().filter(|arm| takes_all(&arm.pat));
            self.0.extend(arms.map(|arm| arm.pat.span().start().line));
        }
        visit::visit_expr_match(self, of);
    }
}

fn wildcards(source: &str) -> Vec<usize> {
    let mut found = Wildcards::default();
    found.visit_file(&syn::parse_file(source).unwrap());
    found.0
}

#[test]
fn matches_on_operators_name_each() {
    let files: Vec<_> = sources::all().iter().flat_map(|src| sources::below(src)).collect();
    assert!(files.len() > 200, "{} files", files.len());
    let mut found = Vec::new();
    for file in files {
        let lines = wildcards(&std::fs::read_to_string(&file).unwrap());
        found.extend(lines.into_iter().map(|line| format!("{}:{line}", file.display())));
    }
    assert!(found.is_empty(), "arms that take all other operators:\n{}", found.join("\n"));
}

#[test]
fn a_wildcard_is_found() {
    let with = |arms: &str| format!("fn f(op: &Op) {{\n match op {{\n Op::Conv(_) => 1,\n {arms} }} }}");
    assert_eq!(wildcards(&with("_ => 0,")), [4]);
    assert_eq!(wildcards(&with("other => 0,")), [4]);
    assert_eq!(wildcards(&with("Op::Gemm(_) | _ => 0,")), [4]);
    assert_eq!(wildcards(&with("Op::Unary(unary) => match unary { Unary::Relu => 1,\n _ => 0 },")), [5]);
    assert_eq!(wildcards(&with("Op::Gemm(_) => match 1 { 1 => 2, _ => 3 },")), [0usize; 0]);
    assert_eq!(wildcards("fn f() { match (a, op) { (1, Op::Relu) => 1, (_, _) => 2 } }"), [1]);
}
