//! What every executor must compute, on every SIMD path, for any number of threads, optimized and node by node.

use offshoot_conformance::{
    Executors, FAKE_QUANTIZATION, GRADIENTS, LOSSES, NETWORKS, OPERATORS, PATTERNS, QUANTIZATION,
    RANDOM_GRAPHS, Suite, TRAINING,
};
use offshoot_cpu::Isa;

use crate::support::{executors, unoptimized};

/// Each path, with executors that differ in their threads only.
fn check(suite: Suite) {
    for isa in Isa::available() {
        let [one, two, three] = &executors(isa);
        suite.check(Executors(&[one, two, three]));
        suite.check(Executors(&[&unoptimized(isa)]));
    }
}

#[test]
fn operators() {
    check(OPERATORS);
}

#[test]
fn gradients() {
    check(GRADIENTS);
}

#[test]
fn losses() {
    check(LOSSES);
}

#[test]
fn quantization() {
    check(QUANTIZATION);
}

#[test]
fn fake_quantization() {
    check(FAKE_QUANTIZATION);
}

#[test]
fn networks() {
    check(NETWORKS);
}

#[test]
fn training() {
    check(TRAINING);
}

#[test]
fn patterns() {
    check(PATTERNS);
}

#[test]
fn random_graphs() {
    check(RANDOM_GRAPHS);
}
