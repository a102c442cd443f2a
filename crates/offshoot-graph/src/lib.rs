//! The typed graph that everything in offshoot reads, derives or prints.

pub mod builder;
mod cost;
mod executor;
mod graph;
mod infer;
pub mod int8;
pub mod model;
pub mod op;
pub mod passes;
pub mod preprocessing;
mod print;
pub mod random;
mod regression;
pub mod remedy;
mod shape;
mod tensor;
pub mod text;

pub use cost::{Cost, costs};
pub use executor::{ExecuteError, Executor, Peaks, Session, StepTime};
pub use graph::{Graph, GraphError, Node, NodeId, Parameter, Role, Source, Value, ValueId};
pub use model::{Metadata, Model, Rejection, Score, Task};
pub use op::{Op, Operator};
pub use passes::InferenceGraph;
pub use preprocessing::{Fit, Interpolation, Preprocessing};
pub use regression::{Regression, RegressionLoss, RegressionLossError, Scale};
pub use shape::{Bindings, Dim, DimError, DimOp, Shape};
pub use tensor::{DType, Data, Tensor, TensorSizeError, Weights};
