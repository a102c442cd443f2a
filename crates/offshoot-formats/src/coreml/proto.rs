//! The part of Core ML's [Model.proto and MIL.proto](https://github.com/apple/coremltools/tree/main/mlmodel/format) that a
//! classifier needs. Where they have a `oneof`, one of several optional fields is set here: the bytes are the same. Maps are
//! ordered, so that equal models give equal bytes.

use std::collections::BTreeMap;

use prost::Message;

/// Of `Model.specificationVersion`: iOS 16, macOS 13.
pub(super) const SPECIFICATION: i32 = 7;
/// The set of operators that came with it.
pub(super) const OPSET: &str = "CoreML6";

/// Of `DataType`.
pub(super) mod data_type {
    pub(in super::super) const BOOL: i32 = 1;
    pub(in super::super) const STRING: i32 = 2;
    pub(in super::super) const FLOAT16: i32 = 10;
    pub(in super::super) const FLOAT32: i32 = 11;
    pub(in super::super) const FLOAT64: i32 = 12;
    pub(in super::super) const INT8: i32 = 21;
    pub(in super::super) const INT32: i32 = 23;
}

/// Of `ImageFeatureType.ColorSpace`.
pub(super) const RGB: i32 = 20;
/// Of `ArrayFeatureType.ArrayDataType`.
pub(super) const ARRAY_FLOAT32: i32 = 65568;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int32, tag = "1")]
    pub(super) specification_version: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) description: Option<ModelDescription>,
    #[prost(message, optional, tag = "502")]
    pub(super) ml_program: Option<Program>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelDescription {
    #[prost(message, repeated, tag = "1")]
    pub(super) input: Vec<FeatureDescription>,
    #[prost(message, repeated, tag = "10")]
    pub(super) output: Vec<FeatureDescription>,
    #[prost(string, tag = "11")]
    pub(super) predicted_feature_name: String,
    #[prost(string, tag = "12")]
    pub(super) predicted_probabilities_name: String,
    #[prost(message, optional, tag = "100")]
    pub(super) metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureDescription {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) short_description: String,
    #[prost(message, optional, tag = "3")]
    pub(super) r#type: Option<FeatureType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FeatureType {
    #[prost(message, optional, tag = "3")]
    pub(super) string: Option<Empty>,
    #[prost(message, optional, tag = "4")]
    pub(super) image: Option<ImageFeatureType>,
    #[prost(message, optional, tag = "5")]
    pub(super) multi_array: Option<ArrayFeatureType>,
    #[prost(message, optional, tag = "6")]
    pub(super) dictionary: Option<DictionaryFeatureType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageFeatureType {
    #[prost(int64, tag = "1")]
    pub(super) width: i64,
    #[prost(int64, tag = "2")]
    pub(super) height: i64,
    #[prost(int32, tag = "3")]
    pub(super) color_space: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ArrayFeatureType {
    #[prost(int64, repeated, tag = "1")]
    pub(super) shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DictionaryFeatureType {
    #[prost(message, optional, tag = "2")]
    pub(super) string_key: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(string, tag = "1")]
    pub(super) short_description: String,
    #[prost(btree_map = "string, string", tag = "100")]
    pub(super) user_defined: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Program {
    #[prost(int64, tag = "1")]
    pub(super) version: i64,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) functions: BTreeMap<String, Function>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Function {
    #[prost(message, repeated, tag = "1")]
    pub(super) inputs: Vec<NamedValueType>,
    #[prost(string, tag = "2")]
    pub(super) opset: String,
    #[prost(btree_map = "string, message", tag = "3")]
    pub(super) block_specializations: BTreeMap<String, Block>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Block {
    #[prost(string, repeated, tag = "2")]
    pub(super) outputs: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) operations: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Operation {
    #[prost(string, tag = "1")]
    pub(super) r#type: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) inputs: BTreeMap<String, Argument>,
    #[prost(message, repeated, tag = "3")]
    pub(super) outputs: Vec<NamedValueType>,
    #[prost(btree_map = "string, message", tag = "5")]
    pub(super) attributes: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Argument {
    #[prost(message, repeated, tag = "1")]
    pub(super) arguments: Vec<Binding>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Binding {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedValueType {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<ValueType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueType {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor: Option<TensorType>,
    #[prost(message, optional, boxed, tag = "2")]
    pub(super) list: Option<Box<ListType>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub(super) dictionary: Option<Box<DictionaryType>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) data_type: i32,
    #[prost(int64, tag = "2")]
    pub(super) rank: i64,
    #[prost(message, repeated, tag = "3")]
    pub(super) dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListType {
    #[prost(message, optional, tag = "1")]
    pub(super) r#type: Option<ValueType>,
    #[prost(message, optional, tag = "2")]
    pub(super) length: Option<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DictionaryType {
    #[prost(message, optional, tag = "1")]
    pub(super) key: Option<ValueType>,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<ValueType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(message, optional, tag = "1")]
    pub(super) constant: Option<ConstantDimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ConstantDimension {
    #[prost(uint64, tag = "1")]
    pub(super) size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<ValueType>,
    #[prost(message, optional, tag = "3")]
    pub(super) immediate: Option<ImmediateValue>,
    #[prost(message, optional, tag = "5")]
    pub(super) blob: Option<BlobFileValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImmediateValue {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor: Option<TensorValue>,
    #[prost(message, optional, tag = "3")]
    pub(super) list: Option<ListValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlobFileValue {
    #[prost(string, tag = "1")]
    pub(super) file_name: String,
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorValue {
    #[prost(message, optional, tag = "1")]
    pub(super) floats: Option<Floats>,
    #[prost(message, optional, tag = "2")]
    pub(super) ints: Option<Ints>,
    #[prost(message, optional, tag = "3")]
    pub(super) bools: Option<Bools>,
    #[prost(message, optional, tag = "4")]
    pub(super) strings: Option<Strings>,
    #[prost(message, optional, tag = "7")]
    pub(super) bytes: Option<RawBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Floats {
    #[prost(float, repeated, tag = "1")]
    pub(super) values: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ints {
    #[prost(int32, repeated, tag = "1")]
    pub(super) values: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bools {
    #[prost(bool, repeated, tag = "1")]
    pub(super) values: Vec<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Strings {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawBytes {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) values: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListValue {
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<Value>,
}

impl ValueType {
    /// A tensor of these dims; a scalar has none.
    pub(super) fn tensor(data_type: i32, shape: &[usize]) -> ValueType {
        let dimensions = shape.iter().map(|&size| Dimension::of(size)).collect();
        let tensor = TensorType { data_type, rank: shape.len() as i64, dimensions };
        ValueType { tensor: Some(tensor), ..Default::default() }
    }

    /// A list of strings.
    pub(super) fn strings(length: usize) -> ValueType {
        let element = ValueType::tensor(data_type::STRING, &[]);
        let list = ListType { r#type: Some(element), length: Some(Dimension::of(length)) };
        ValueType { list: Some(Box::new(list)), ..Default::default() }
    }

    /// From labels to probabilities.
    pub(super) fn probabilities() -> ValueType {
        let key = Some(ValueType::tensor(data_type::STRING, &[]));
        let value = Some(ValueType::tensor(data_type::FLOAT64, &[]));
        ValueType { dictionary: Some(Box::new(DictionaryType { key, value })), ..Default::default() }
    }
}

impl Dimension {
    fn of(size: usize) -> Dimension {
        Dimension { constant: Some(ConstantDimension { size: size as u64 }) }
    }
}

impl Value {
    fn immediate(r#type: ValueType, tensor: TensorValue) -> Value {
        let immediate = ImmediateValue { tensor: Some(tensor), list: None };
        Value { r#type: Some(r#type), immediate: Some(immediate), blob: None }
    }

    /// A scalar string.
    pub(super) fn string(text: &str) -> Value {
        let strings = Some(Strings { values: vec![text.to_owned()] });
        Value::immediate(
            ValueType::tensor(data_type::STRING, &[]),
            TensorValue { strings, ..Default::default() },
        )
    }

    /// A scalar boolean.
    pub(super) fn bool(value: bool) -> Value {
        let bools = Some(Bools { values: vec![value] });
        Value::immediate(ValueType::tensor(data_type::BOOL, &[]), TensorValue { bools, ..Default::default() })
    }

    /// Integers; one alone may be a scalar.
    pub(super) fn ints(values: Vec<i32>, shape: &[usize]) -> Value {
        let ints = Some(Ints { values });
        Value::immediate(
            ValueType::tensor(data_type::INT32, shape),
            TensorValue { ints, ..Default::default() },
        )
    }

    /// f32 numbers.
    pub(super) fn floats(values: Vec<f32>, shape: &[usize]) -> Value {
        let floats = Some(Floats { values });
        Value::immediate(
            ValueType::tensor(data_type::FLOAT32, shape),
            TensorValue { floats, ..Default::default() },
        )
    }

    /// Numbers of another type as their little-endian bytes.
    pub(super) fn bytes(data_type: i32, values: Vec<u8>, shape: &[usize]) -> Value {
        let bytes = Some(RawBytes { values });
        Value::immediate(ValueType::tensor(data_type, shape), TensorValue { bytes, ..Default::default() })
    }

    /// A list of strings.
    pub(super) fn strings(values: &[String]) -> Value {
        let list = ListValue { values: values.iter().map(|text| Value::string(text)).collect() };
        let immediate = ImmediateValue { tensor: None, list: Some(list) };
        Value { r#type: Some(ValueType::strings(values.len())), immediate: Some(immediate), blob: None }
    }
}
