//! The tests of this crate, a module for each part of it: one program, because each program links everything again. One part:
//! `cargo test -p offshoot-formats --test all onnx_tables::`.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod archives;
mod coreml;
mod coreml_recurrent;
mod forms;
mod functions;
mod litert;
mod onnx;
mod onnx_dynamic;
mod onnx_forms;
mod onnx_hostile;
mod onnx_interop;
mod onnx_lstm;
mod onnx_qdq;
mod onnx_quantized;
mod onnx_support;
mod onnx_tables;
mod onnx_text;
mod pt2;
mod pt2_hostile;
mod random_graphs;
mod torchscript;
mod torchscript_hostile;
mod weights;
mod weights_hostile;
