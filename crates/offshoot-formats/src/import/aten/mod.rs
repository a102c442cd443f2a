//! PyTorch's operators (ATen): one table for every format that holds them. An operator is found by its name and overload, its
//! arguments by the names of PyTorch's own signature, whatever the format says them with.

mod arithmetic;
mod call;
mod classifier;
mod linear;
mod moves;
mod norms;
mod pictures;
mod places;
mod recurrent;
mod reductions;
mod signature;
pub(crate) mod sizes;
mod state;
mod table;
mod value;

pub(crate) use self::call::{Call, Tensors};
pub(crate) use self::classifier::{Classifier, LAYOUT, Own, Source};
pub(crate) use self::recurrent::STACKED;
pub(crate) use self::state::Aten;
pub(crate) use self::value::{Stored, Value};
