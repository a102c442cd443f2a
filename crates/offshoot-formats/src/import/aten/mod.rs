//! PyTorch's operators (ATen): one table for every format that holds them. An operator is found by its name and overload, its
//! arguments by the names of PyTorch's own signature, whatever the format says them with.

mod arithmetic;
mod call;
mod linear;
mod moves;
mod norms;
mod pictures;
mod recurrent;
mod reductions;
mod signature;
mod state;
mod table;
mod value;

pub(crate) use self::call::{Call, Tensors};
pub(crate) use self::recurrent::STACKED;
pub(crate) use self::state::{Aten, Stacked};
pub(crate) use self::value::{Stored, Value};
