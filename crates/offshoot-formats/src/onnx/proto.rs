//! The part of [onnx.proto](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that a classifier needs.
//!
//! Fields that are not named here are skipped by the decoder. Subgraphs are among them: the operators that have
//! one are refused by name.

use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::error::Problem;

/// More length-delimited fields (nodes, attributes, tensors, names, dims) than any file of a classifier has. Tells
/// a file apart whose two-byte fields would each become a large struct.
const MAX_FIELDS: u64 = 1 << 20;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(int64, optional, tag = "1")]
    pub(super) ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) producer_version: Option<String>,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub(super) opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub(super) metadata_props: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSetIdProto {
    #[prost(string, optional, tag = "1")]
    pub(super) domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub(super) version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeProto>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "13")]
    pub(super) value_info: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub(super) sparse_initializer: Vec<SparseTensorProto>,
}

/// Known so that it can be refused by name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub(super) values: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, optional, tag = "2")]
    pub(super) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(super) i: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) s: Option<Bytes>,
    #[prost(message, optional, boxed, tag = "5")]
    pub(super) t: Option<Box<TensorProto>>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub(super) floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(super) strings: Vec<Bytes>,
    #[prost(int32, optional, tag = "20")]
    pub(super) r#type: Option<i32>,
}

/// The values of [`AttributeProto::type`] that we write.
pub(super) mod attribute_type {
    pub(in crate::onnx) const FLOAT: i32 = 1;
    pub(in crate::onnx) const INT: i32 = 2;
    pub(in crate::onnx) const STRING: i32 = 3;
    pub(in crate::onnx) const TENSOR: i32 = 4;
    pub(in crate::onnx) const INTS: i32 = 7;
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub(super) data_type: Option<i32>,
    #[prost(float, repeated, tag = "4")]
    pub(super) float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub(super) int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(super) raw_data: Option<Bytes>,
    #[prost(double, repeated, tag = "10")]
    pub(super) double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub(super) uint64_data: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<StringStringEntryProto>,
    #[prost(int32, optional, tag = "14")]
    pub(super) data_location: Option<i32>,
}

/// [`TensorProto::data_location`] of elements in another file.
pub(super) const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub(super) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) dim_param: Option<String>,
}

/// The model in `bytes`. Tensors refer to `bytes` without a copy.
pub(super) fn decode(bytes: Bytes) -> Result<ModelProto, Problem> {
    let mut left = MAX_FIELDS;
    count_fields(&bytes, Kind::Model, &mut left)?;
    ModelProto::decode(bytes).map_err(|e| Problem::damaged("ONNX messages", e.to_string()))
}

/// The node in `bytes`, of at most `left` fields.
pub(super) fn decode_node(bytes: Bytes, left: &mut u64) -> Result<NodeProto, Problem> {
    count_fields(&bytes, Kind::Node, left)?;
    NodeProto::decode(bytes).map_err(|e| Problem::damaged("ONNX messages", e.to_string()))
}

/// The tensor in `bytes`, of at most `left` fields.
pub(super) fn decode_tensor(bytes: Bytes, left: &mut u64) -> Result<TensorProto, Problem> {
    count_fields(&bytes, Kind::Tensor, left)?;
    TensorProto::decode(bytes).map_err(|e| Problem::damaged("ONNX messages", e.to_string()))
}

/// The messages that hold others.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
}

impl Kind {
    /// What the field `tag` holds, when it can hold fields that count.
    fn child(self, tag: u32) -> Option<Kind> {
        match (self, tag) {
            (Kind::Model, 7) => Some(Kind::Graph),
            (Kind::Graph, 1) => Some(Kind::Node),
            (Kind::Graph, 5) | (Kind::Attribute, 5) | (Kind::Sparse, 1) => Some(Kind::Tensor),
            (Kind::Graph, 15) => Some(Kind::Sparse),
            (Kind::Graph, 11..=13) => Some(Kind::ValueInfo),
            (Kind::Node, 5) => Some(Kind::Attribute),
            (Kind::ValueInfo, 2) => Some(Kind::Type),
            (Kind::Type, 1) => Some(Kind::TensorType),
            (Kind::TensorType, 2) => Some(Kind::Shape),
            _ => None,
        }
    }
}

/// Subtracts the length-delimited fields of a message from `left`, before memory is taken for any of them.
fn count_fields(mut bytes: &[u8], kind: Kind, left: &mut u64) -> Result<(), Problem> {
    let broken = |e: prost::DecodeError| Problem::damaged("ONNX messages", e.to_string());
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).map_err(broken)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, tag, &mut bytes, DecodeContext::default()).map_err(broken)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(broken)?;
        let Some((field, rest)) = usize::try_from(length).ok().and_then(|n| bytes.split_at_checked(n)) else {
            let what = format!("a field claims {length} bytes and {} are left", bytes.len());
            return Err(Problem::damaged("ONNX messages", what));
        };
        *left = left.checked_sub(1).ok_or_else(|| Problem::TooLarge {
            place: "ONNX messages".into(),
            what: format!("more than {MAX_FIELDS} nodes, attributes, tensors and names"),
            limit: MAX_FIELDS,
        })?;
        if let Some(child) = kind.child(tag) {
            count_fields(field, child, left)?;
        }
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_small_messages_is_refused_before_it_is_decoded() {
        // Nodes of two bytes each; decoded, each would take more than a hundred.
        let nodes = [0x0a, 0x00].repeat(MAX_FIELDS as usize + 1);
        let mut model = vec![0x3a];
        prost::encoding::encode_varint(nodes.len() as u64, &mut model);
        model.extend(nodes);
        let problem = decode(model.into()).unwrap_err();
        assert!(matches!(problem, Problem::TooLarge { .. }), "{problem}");
    }

    #[test]
    fn a_lying_length_is_damage() {
        let problem = decode(Bytes::from_static(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])).unwrap_err();
        assert!(matches!(problem, Problem::Damaged { .. }), "{problem}");
    }
}
