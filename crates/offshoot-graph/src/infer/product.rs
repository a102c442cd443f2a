//! The shapes of matrix products.

use super::checks::{floats, one_of, rank, same_dtype};
use crate::graph::Value;
use crate::op::{Gemm, MatMul};
use crate::shape::Shape;
use crate::tensor::DType;

pub(super) fn gemm_shape(gemm: Gemm, inputs: &[&Value]) -> Result<Shape, String> {
    floats(inputs)?;
    matrices_shape(gemm, inputs[0], inputs[1], inputs.get(2).copied())
}

fn matrices_shape(gemm: Gemm, a: &Value, b: &Value, c: Option<&Value>) -> Result<Shape, String> {
    let matrix = |value: &Value, transposed: bool| {
        rank(value, 2)?;
        let [rows, columns] = [0, 1].map(|i| value.shape.0[i].clone());
        Ok::<_, String>(if transposed { (columns, rows) } else { (rows, columns) })
    };
    let ((m, k), (k2, n)) = (matrix(a, gemm.trans_a)?, matrix(b, gemm.trans_b)?);
    if k != k2 {
        return Err(format!("`{}` has {k} columns, `{}` {k2} rows", a.name, b.name));
    }
    let shape = Shape(vec![m, n]);
    match c {
        Some(c) if c.shape.0 != shape.0[1..] => Err(format!("the bias is {}, the output {shape}", c.shape)),
        Some(_) | None => Ok(shape),
    }
}

pub(super) fn matmul_shape(inputs: &[&Value], MatMul { trans_a, trans_b }: MatMul) -> Result<Shape, String> {
    let (a, b) = (inputs[0], inputs[1]);
    same_dtype(a, b)?;
    let rank = a.shape.rank();
    if rank < 2 || b.shape.rank() != rank || a.shape.0[..rank - 2] != b.shape.0[..rank - 2] {
        return Err(format!("{} and {} are no stacks of as many matrices", a.shape, b.shape));
    }
    let matrix = |shape: &Shape, transposed: bool| {
        let [rows, columns] = [rank - 2, rank - 1].map(|i| shape.0[i].clone());
        if transposed { (columns, rows) } else { (rows, columns) }
    };
    let ((m, k), (k2, n)) = (matrix(&a.shape, trans_a), matrix(&b.shape, trans_b));
    if k != k2 {
        return Err(format!("`{}` has {k} columns, `{}` {k2} rows", a.name, b.name));
    }
    let mut shape = a.shape.0[..rank - 2].to_vec();
    shape.extend([m, n]);
    Ok(Shape(shape))
}

pub(super) fn dynamic_product_shape(inputs: &[&Value], trans_b: bool) -> Result<Shape, String> {
    let (x, weight) = (inputs[0], inputs[1]);
    if x.dtype != DType::F32 {
        return Err(format!("`{}` is {}, and only f32 is quantized", x.name, x.dtype));
    }
    one_of(weight, &[DType::I8])?;
    rank(x, 2)?;
    rank(weight, 2)?;
    let (depth, width) = (&weight.shape.0[usize::from(trans_b)], &weight.shape.0[usize::from(!trans_b)]);
    if x.shape.0[1] != *depth {
        return Err(format!("`{}` is {} and `{}` is {}", x.name, x.shape, weight.name, weight.shape));
    }
    let one_each = |v: &&&Value| v.dtype == DType::F32 && v.shape.0 == std::slice::from_ref(width);
    match inputs[2..].iter().find(|v| !one_each(v)) {
        None => Ok(Shape(vec![x.shape.0[0].clone(), width.clone()])),
        Some(v) => Err(format!("`{}` is {}{}, the product has {width} columns", v.name, v.dtype, v.shape)),
    }
}
