//! The tensors of an archive: what the operators that read them ask, and their elements at the end.

use std::io::{Read, Seek};

use offshoot_graph::{Data, Tensor, Weights};

use super::program::Program;
use crate::error::Problem;
use crate::import::aten::{Stored, Tensors, Value};
use crate::pth::storage;
use crate::pth::values::Node;

impl<R> Tensors for Program<R> {
    fn shape(&self, stored: Stored) -> Result<Vec<usize>, Problem> {
        let heap = if stored.constant { &self.constants.heap } else { &self.data.heap };
        let name = self.key(stored);
        let view = self
            .tensor(stored.constant, stored.node)
            .ok_or_else(|| Problem::damaged(format!("`{name}`"), "it is no tensor"))?;
        storage::shape(heap, &name, view)
    }

    fn key(&self, stored: Stored) -> String {
        match stored.constant {
            true => format!("constants.{}", self.constant_index(stored.node)),
            false => self.name(stored.node).to_string(),
        }
    }

    fn small(&self, stored: Stored) -> Option<&Tensor> {
        self.small_constants.get(&stored.node).filter(|_| stored.constant)
    }
}

impl<R> Program<R> {
    /// The number that a constant of one element is.
    pub(super) fn number(&self, stored: Stored) -> Option<Value> {
        let tensor = self.small(stored).filter(|t| t.shape().is_empty())?;
        match tensor.data() {
            Data::I64(v) => v.first().map(|&n| Value::Int(n)),
            Data::I32(v) => v.first().map(|&n| Value::Int(n.into())),
            Data::F64(v) => v.first().map(|&x| Value::Float(x)),
            Data::F32(v) => v.first().map(|&x| Value::Float(x.into())),
            Data::Bool(v) => v.first().map(|&b| Value::Bool(b)),
            Data::F16(_) | Data::BF16(_) | Data::I8(_) | Data::U8(_) => None,
        }
    }
}

/// The weights that the graph uses, from the archive.
pub(super) fn load<R: Read + Seek>(
    program: &mut Program<R>,
    used: &[(String, Stored)],
) -> Result<Weights, Problem> {
    let mut weights = Weights::new();
    let (limit, order) = (program.archive.memory_limit(), program.archive.byte_order()?);
    for constant in [false, true] {
        let (heap, folder) = match constant {
            true => (&program.constants.heap, "constants"),
            false => (&program.data.heap, "data"),
        };
        let wanted = used.iter().filter(|(_, stored)| stored.constant == constant);
        let found = wanted.filter_map(|(name, stored)| match heap.nodes.get(stored.node) {
            Some(Node::Tensor(view)) => Some((name.clone(), view)),
            _ => None,
        });
        let found: Vec<_> = found.collect();
        let archive = &mut program.archive;
        let source = storage::Source { bytes: &mut |storage| archive.storage(folder, storage), limit, order };
        weights.append(&mut storage::load(heap, &found, source)?);
    }
    Ok(weights)
}
