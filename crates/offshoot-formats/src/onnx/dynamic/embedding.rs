//! Tables of embeddings as bytes.
//!
//! Where its rows are much alike a table has one scale and one zero point, as ONNX Runtime's tools make it:
//!
//! ```text
//! y = Gather(table, i)   ->   y = DequantizeLinear(Gather(bytes, i), scale, zero point)
//! ```
//!
//! Else each row has a scale, as PyTorch's tools make it:
//!
//! ```text
//! y = Gather(table, i)   ->   y = Cast(Gather(bytes, i)) * Gather(scales, i)
//! ```
//!
//! A table that is the matrix of a product too (tied weights) is stored once: as that product's matrix, whose columns are rows
//! here, each with its scale.

use std::rc::Rc;

use offshoot_graph::{Data, Tensor, int8};

use super::super::attributes::NodeView;
use super::super::proto::NodeProto;
use super::super::wire::Field;
use super::super::write::{int, ints, proto_node};
use super::product::FLOAT;
use super::scope::{Scope, home, stored};
use super::{Bytewise, Pass, node_field, not_finite};
use crate::error::Problem;

/// With fewer elements the further nodes take more room than the bytes save.
const LEAST: usize = 256;

/// Of narrower rows the scale is most.
const NARROWEST: usize = 4;

/// Scales of rows take room: they must make the error, in the mean over the rows, smaller by this factor.
const GAIN: f64 = 2.0;

/// The largest byte of a row with its own scale.
const LARGEST: f32 = 127.0;

/// A table of bytes.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The table as it was.
    floats: Tensor,
    bytes: String,
    scale: String,
    /// Where one scale is for all rows.
    zero_point: Option<String>,
    /// One scale for each row, where a product reads the bytes too.
    scales: Vec<f32>,
}

impl Pass {
    /// What stands in the place of a Gather, if something does.
    pub(super) fn embedding(
        &mut self,
        node: NodeView<'_>,
        scopes: &mut [Scope],
    ) -> Result<Option<Vec<Field>>, Problem> {
        let (Some(name), Some(indices), [output]) = (node.input(0), node.input(1), &node.proto.output[..])
        else {
            return Ok(None);
        };
        let Some(at) = home(scopes, name).filter(|_| node.int("axis", 0) == 0) else { return Ok(None) };
        let key = (scopes[at].id, name.to_owned());
        let table = match self.embeddings.get(&key) {
            Some(made) => made.clone(),
            None => {
                let Some(floats) = stored(scopes, name, &mut self.tensors)? else { return Ok(None) };
                let &[_, width] = floats.shape() else { return Ok(None) };
                if floats.as_f32().is_none() || width < NARROWEST || floats.len() < LEAST {
                    return Ok(None);
                }
                if !self.only_looked_up(name) {
                    self.keep(node, "something else reads its table too");
                    return Ok(None);
                }
                let made = self.table(name, &floats, scopes)?.map(Rc::new);
                self.embeddings.insert(key, made.clone());
                made
            }
        };
        let Some(table) = table else {
            // Infinities may be masks; what reads a NaN gives NaN.
            if stored(scopes, name, &mut self.tensors)?.is_some_and(|table| has_nan(&table)) {
                return Err(not_finite(node));
            }
            self.keep(node, "its table is not all finite numbers");
            return Ok(None);
        };
        let made = self.lookup(node, &table, indices, output);
        self.release(name);
        self.report.quantized.push(node.name().to_owned());
        Ok(Some(made.iter().map(node_field).collect()))
    }

    /// Whether only lookups and products read a table, so that its floats go.
    fn only_looked_up(&self, name: &str) -> bool {
        let products = self.products.iter().filter(|(product, _)| product == name).count();
        let lookups = self.lookups.get(name).copied().unwrap_or(0);
        // A Transpose before a product.
        let movers = self.movers.values().flatten().filter(|inputs| inputs.iter().any(|i| i == name)).count();
        self.uses.get(name).is_none_or(|&uses| uses <= lookups + products + movers)
    }

    fn lookup(&mut self, node: NodeView<'_>, table: &Table, indices: &str, output: &str) -> Vec<NodeProto> {
        let mut made = Vec::new();
        let mut step = |op: &str, part: &str, inputs: &[&str], output: Option<&str>| {
            let name = self.unused(format!("{}_{part}", node.name()));
            let output = match output {
                Some(output) => output.to_owned(),
                None => self.unused(format!("{}_{part}_output", node.name())),
            };
            let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
            made.push(proto_node(op, &name, inputs, &output));
            output
        };
        let rows = step("Gather", "quant", &[&table.bytes, indices], None);
        if let Some(zero_point) = &table.zero_point {
            step("DequantizeLinear", "dequant", &[&rows, &table.scale, zero_point], Some(output));
        } else {
            let floats = step("Cast", "cast", &[&rows], None);
            let scales = step("Gather", "scales", &[&table.scale, indices], None);
            step("Mul", "scales_mul", &[&floats, &scales], Some(output));
        }
        for node in made.iter_mut().filter(|node| node.op_type == "Cast") {
            node.attribute = vec![int("to", FLOAT.into())];
        }
        made
    }

    /// A table [rows, width] as bytes; `None` where it is not finite.
    fn table(&mut self, name: &str, floats: &Tensor, scopes: &[Scope]) -> Result<Option<Table>, Problem> {
        let (Some(elements), &[rows, width]) = (floats.as_f32(), floats.shape()) else { return Ok(None) };
        if elements.iter().any(|x| !x.is_finite()) {
            return Ok(None);
        }
        let tied = self.is_tied(floats, scopes)?;
        let by_row = || elements.chunks_exact(width);
        let (least, most) =
            elements.iter().fold((0f32, 0f32), |(least, most), &x| (least.min(x), most.max(x)));
        let step = (most / 255.0 - least / 255.0).max(f32::MIN_POSITIVE);
        let own = |row: &[f32]| row.iter().fold(0f32, |most, x| most.max(x.abs())) / LARGEST;
        let mean = by_row().map(|row| f64::from(own(row)).powi(2)).sum::<f64>() / rows as f64;
        self.report.quantized_bytes += 4 * elements.len() as u64;
        let [bytes, scale, zero_point] =
            ["quantized", "scale", "zero_point"].map(|part| format!("{name}_{part}"));
        if !tied && GAIN * mean.sqrt() > f64::from(step) {
            let zero = (-least / step).round().clamp(0.0, 255.0);
            let data = elements.iter().map(|x| (x / step + zero).round().clamp(0.0, 255.0) as u8).collect();
            return Ok(Some(Table {
                floats: floats.clone(),
                bytes: self.add(bytes, &[rows, width], Data::U8(data))?,
                scale: self.add(scale, &[], Data::F32(vec![step]))?,
                zero_point: Some(self.add(zero_point, &[], Data::U8(vec![zero as u8]))?),
                scales: Vec::new(),
            }));
        }
        let quantized = |x: f32, scale: f32| (x / scale).round().clamp(-LARGEST, LARGEST) as i8;
        let scales: Vec<f32> = match tied {
            true => by_row().map(|row| int8::scale(row.iter().copied()).unwrap_or(1.0)).collect(),
            false => by_row().map(own).map(|s| if s.is_normal() { s } else { 1.0 }).collect(),
        };
        let mut data = Vec::with_capacity(elements.len());
        for (row, &scale) in by_row().zip(&scales) {
            data.extend(row.iter().map(|&x| match tied {
                true => int8::quantize(x, scale),
                false => quantized(x, scale),
            }));
        }
        let table = Table {
            floats: floats.clone(),
            bytes: self.add(bytes, &[rows, width], Data::I8(data))?,
            scale: self.add(scale, &[rows, 1], Data::F32(scales.clone()))?,
            zero_point: None,
            scales,
        };
        if tied {
            self.tables.push(table.clone());
        }
        Ok(Some(table))
    }

    /// Whether a product reads the same numbers.
    fn is_tied(&mut self, table: &Tensor, scopes: &[Scope]) -> Result<bool, Problem> {
        for (name, transposed) in self.products.clone() {
            let Some(transposed) = transposed else { continue };
            let matrix = stored(scopes, &name, &mut self.tensors)?;
            if matrix.is_some_and(|matrix| is_same(table, &matrix, transposed)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The bytes of a table in the place of a product's matrix, where they are the same numbers.
    pub(super) fn tied(
        &mut self,
        matrix: &Tensor,
        transposed: bool,
        factor: f32,
    ) -> Result<Option<Bytewise>, Problem> {
        let same = |table: &&Table| factor == 1.0 && is_same(&table.floats, matrix, transposed);
        let Some(table) = self.tables.iter().find(same).cloned() else { return Ok(None) };
        let weight = self.unused(format!("{}_transposed", table.bytes));
        let name = self.unused(format!("{}_Transpose", table.bytes));
        let mut node = proto_node("Transpose", &name, vec![table.bytes.clone()], &weight);
        node.attribute = vec![ints("perm", &[1, 0])];
        self.first.push(node);
        let scale = format!("{}_of_columns", table.scale);
        Ok(Some(Bytewise {
            weight,
            scale: self.add(scale, &[table.scales.len()], Data::F32(table.scales.clone()))?,
            zero_point: self.add(format!("{}_zero_point", table.bytes), &[], Data::I8(vec![0]))?,
        }))
    }
}

/// Whether `matrix` [width, rows], or [rows, width] where it is read transposed, has the numbers of `table` [rows, width].
fn is_same(table: &Tensor, matrix: &Tensor, transposed: bool) -> bool {
    let (Some(a), Some(b), &[rows, width]) = (table.as_f32(), matrix.as_f32(), table.shape()) else {
        return false;
    };
    if transposed {
        return matrix.shape() == table.shape() && a == b;
    }
    let at = |i: usize| b[i % width * rows + i / width];
    *matrix.shape() == [width, rows] && (0..a.len()).all(|i| a[i] == at(i))
}

fn has_nan(table: &Tensor) -> bool {
    table.as_f32().is_some_and(|numbers| numbers.iter().any(|x| x.is_nan()))
}
