//! The first pass over a file: who reads what, and what is stored where.

use prost::bytes::Bytes;

use super::{Pass, check_depth, scope, tag, text, value_name};
use crate::error::Problem;
use crate::onnx::attributes::NodeView;
use crate::onnx::proto::{EXTERNAL, TensorProto};
use crate::onnx::tensors::claimed_bytes;

impl Pass {
    /// Enters the names of a graph and its subgraphs, how often they are read, and the bytes of its tensors.
    pub(super) fn survey(&mut self, graph: &Bytes, depth: usize) -> Result<(), Problem> {
        check_depth(depth)?;
        for field in self.splitter.fields(graph)? {
            let Some(body) = &field.body else { continue };
            match field.tag {
                tag::GRAPH_NODE => self.survey_node(body, depth)?,
                tag::GRAPH_INITIALIZER => {
                    let tensor = self.splitter.tensor(body)?;
                    self.count(&tensor);
                    self.taken.insert(tensor.name);
                }
                tag::GRAPH_INPUT | tag::GRAPH_VALUE_INFO => {
                    self.taken.insert(value_name(body)?);
                }
                tag::GRAPH_OUTPUT => *self.uses.entry(value_name(body)?).or_default() += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn survey_node(&mut self, node: &Bytes, depth: usize) -> Result<(), Problem> {
        let proto = self.splitter.node(node)?;
        if let ([output], true) = (&proto.output[..], scope::moves_weights(&proto)) {
            let entry = self.movers.entry(output.clone());
            entry.and_modify(|known| *known = None).or_insert(Some(proto.input.clone()));
        }
        if let ("MatMul" | "Gemm", Some(b)) = (proto.op_type.as_str(), proto.input.get(1)) {
            let node = NodeView { proto: &proto };
            let gemm = node.op() == "Gemm";
            let alike = !gemm || node.float("alpha").is_none_or(|alpha| alpha == 1.0);
            self.products.push((b.clone(), alike.then_some(gemm && node.flag("transB"))));
        }
        if let ("Gather", Some(table)) = (proto.op_type.as_str(), proto.input.first()) {
            *self.lookups.entry(table.clone()).or_default() += 1;
        }
        for field in self.splitter.fields(node)? {
            let Some(body) = &field.body else { continue };
            match field.tag {
                tag::NODE_INPUT => *self.uses.entry(text(body)?).or_default() += 1,
                tag::NODE_OUTPUT | tag::NODE_NAME => {
                    self.taken.insert(text(body)?);
                }
                tag::NODE_ATTRIBUTE => {
                    for part in self.splitter.fields(body)? {
                        match (part.tag, &part.body) {
                            (tag::ATTRIBUTE_GRAPH | tag::ATTRIBUTE_GRAPHS, Some(graph)) => {
                                self.survey(graph, depth + 1)?;
                            }
                            (tag::ATTRIBUTE_TENSOR, Some(tensor)) => {
                                let tensor = self.splitter.tensor(tensor)?;
                                self.count(&tensor);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the bytes of a tensor to the report's.
    fn count(&mut self, tensor: &TensorProto) {
        let (report, bytes) = (&mut self.report, claimed_bytes(tensor));
        report.stored_bytes = report.stored_bytes.saturating_add(bytes);
        if tensor.data_location == Some(EXTERNAL) {
            report.file_bytes = report.file_bytes.saturating_add(bytes);
        }
    }
}
