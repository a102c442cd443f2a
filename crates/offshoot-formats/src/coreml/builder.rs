//! A program under construction: constants, operators, and names that MIL accepts.

use std::collections::{BTreeMap, HashSet};

use half::f16;

use super::blob::BlobWriter;
use super::proto::{
    Argument, Binding, BlobFileValue, Block, NamedValueType, Operation, Value, ValueType, data_type,
};
use super::{INPUT, LABEL, LOGITS, PROBABILITIES, Precision, TARGETS};
use crate::error::Problem;

/// Where the program finds its weights in the package.
pub(super) const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

/// Constants of fewer elements stand in the program itself.
const SMALLEST_BLOB: usize = 10;

/// Words of MIL's text, into which a device compiles the program.
const RESERVED: [&str; 14] = [
    "any", "block", "bool", "dict", "false", "fp16", "fp32", "func", "list", "program", "string", "tensor",
    "true", "tuple",
];

/// Collects the operations of a program.
pub(super) struct Builder {
    operations: Vec<Operation>,
    names: HashSet<String>,
    blobs: BlobWriter,
    pub(super) precision: Precision,
}

/// What the operator calls one of its parameters, and the name of the value that it is.
pub(super) type Parameter<'a> = (&'a str, String);

impl Builder {
    pub(super) fn new(precision: Precision) -> Builder {
        let names = [INPUT, LOGITS, TARGETS, LABEL, PROBABILITIES]
            .into_iter()
            .chain(RESERVED)
            .map(str::to_owned)
            .collect();
        Builder { operations: Vec::new(), names, blobs: BlobWriter::new(), precision }
    }

    /// The block of all operations, and the file of weights.
    pub(super) fn finish(self, outputs: &[&str]) -> (Block, Vec<u8>) {
        let outputs = outputs.iter().map(|&name| name.to_owned()).collect();
        (Block { outputs, operations: self.operations }, self.blobs.finish())
    }

    /// The type of the program's activations.
    pub(super) fn float(&self) -> i32 {
        float(self.precision)
    }

    /// Adds a conversion of a tensor of `shape` and returns the name of its result.
    pub(super) fn cast(&mut self, to: Precision, name: &str, x: String, shape: &[usize]) -> String {
        let text = match to {
            Precision::F16 => "fp16",
            Precision::F32 => "fp32",
        };
        let dtype = self.constant(&format!("{name}_dtype"), Value::string(text));
        let name = self.unused(name);
        let result = named_type(&name, ValueType::tensor(float(to), shape));
        self.named("cast", &[("x", x), ("dtype", dtype)], vec![result]);
        name
    }

    /// A name that MIL accepts, `[A-Za-z_][A-Za-z0-9_@]*`, and that nothing has yet.
    pub(super) fn unused(&mut self, wanted: &str) -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
        let mut base: String = wanted.chars().map(keep).collect();
        if base.chars().next().is_none_or(|c| c.is_ascii_digit()) {
            base.insert(0, '_');
        }
        let mut name = base.clone();
        let mut n = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{base}_{n}");
            n += 1;
        }
        name
    }

    /// Adds an operator whose result has a name that is taken already.
    pub(super) fn named(&mut self, kind: &str, inputs: &[Parameter<'_>], outputs: Vec<NamedValueType>) {
        let inputs = inputs.iter().map(|(parameter, name)| (parameter.to_string(), by_name(name))).collect();
        let attributes = BTreeMap::from([("name".to_owned(), Value::string(&outputs[0].name))]);
        self.operations.push(Operation { r#type: kind.to_owned(), inputs, outputs, attributes });
    }

    /// Adds an operator and returns the name of its result, a tensor of `shape` in the program's type.
    pub(super) fn operator(
        &mut self,
        kind: &str,
        name: &str,
        inputs: &[Parameter<'_>],
        shape: &[usize],
    ) -> String {
        let name = self.unused(name);
        self.named(kind, inputs, vec![named_type(&name, ValueType::tensor(self.float(), shape))]);
        name
    }

    /// Gives the operator that was added last a list of values.
    pub(super) fn give_list(&mut self, parameter: &str, names: &[String]) {
        let arguments = names.iter().flat_map(|name| by_name(name).arguments).collect();
        if let Some(operation) = self.operations.last_mut() {
            operation.inputs.insert(parameter.to_owned(), Argument { arguments });
        }
    }

    /// Adds the operator that names the classes.
    pub(super) fn classify(&mut self, probabilities: &str, classes: &[String]) {
        let label = named_type(LABEL, ValueType::tensor(data_type::STRING, &[]));
        let outputs = vec![label, named_type(PROBABILITIES, ValueType::probabilities())];
        self.named("classify", &[("probabilities", probabilities.to_owned())], outputs);
        let classes = Binding { name: None, value: Some(Value::strings(classes)) };
        if let Some(classify) = self.operations.last_mut() {
            classify.inputs.insert("classes".to_owned(), Argument { arguments: vec![classes] });
        }
    }

    /// Adds a constant and returns its name.
    pub(super) fn constant(&mut self, name: &str, value: Value) -> String {
        self.constant_operation("const", name, value.r#type.clone(), vec![("val", value)])
    }

    /// Adds a constant of f32 numbers, whatever the program computes in.
    pub(super) fn constant_f32(&mut self, name: &str, values: &[f32], shape: &[usize]) -> String {
        let value = self.stored(data_type::FLOAT32, shape, bytes_f32(values));
        self.constant(name, value)
    }

    /// Adds a constant of numbers in the program's type and returns its name.
    ///
    /// # Errors
    /// When a number is too large for it; `place` says where it is from.
    pub(super) fn numbers(
        &mut self,
        place: &str,
        name: &str,
        values: &[f32],
        shape: &[usize],
    ) -> Result<String, Problem> {
        self.numbers_of(self.precision, place, name, values, shape)
    }

    /// As [`Builder::numbers`], in a type of their own.
    pub(super) fn numbers_of(
        &mut self,
        precision: Precision,
        place: &str,
        name: &str,
        values: &[f32],
        shape: &[usize],
    ) -> Result<String, Problem> {
        let value = self.floats(precision, place, values, shape)?;
        Ok(self.constant(name, value))
    }

    /// Adds a weight as int8 with a scale for each part along the first axis and returns its name.
    ///
    /// # Errors
    /// When a scale is too large for the program's type, or a number is not finite.
    pub(super) fn quantized(
        &mut self,
        place: &str,
        name: &str,
        values: &[f32],
        shape: &[usize],
    ) -> Result<String, Problem> {
        let channels = shape.first().copied().unwrap_or(1).max(1);
        let (mut scales, mut levels) = (Vec::with_capacity(channels), Vec::with_capacity(values.len()));
        for channel in values.chunks(values.len().div_ceil(channels).max(1)) {
            let largest =
                channel.iter().fold(0.0f32, |most, x| if x.is_nan() { f32::NAN } else { most.max(x.abs()) });
            let scale = match self.precision {
                Precision::F16 => f16::from_f32(largest / 127.0).to_f32(),
                Precision::F32 => largest / 127.0,
            };
            scales.push(scale);
            levels.extend(channel.iter().map(|x| level(*x, scale)));
        }
        let values = vec![
            ("axis", Value::ints(vec![0], &[])),
            ("quantized_data", self.stored(data_type::INT8, shape, levels)),
            ("scale", self.floats(self.precision, place, &scales, &[channels])?),
            ("zero_point", self.stored(data_type::INT8, &[channels], vec![0; channels])),
        ];
        let r#type = ValueType::tensor(self.float(), shape);
        Ok(self.constant_operation("constexpr_affine_dequantize", name, Some(r#type), values))
    }

    fn constant_operation(
        &mut self,
        kind: &str,
        name: &str,
        r#type: Option<ValueType>,
        values: Vec<(&str, Value)>,
    ) -> String {
        let name = self.unused(name);
        let mut attributes = BTreeMap::from([("name".to_owned(), Value::string(&name))]);
        attributes.extend(values.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let outputs = vec![NamedValueType { name: name.clone(), r#type }];
        self.operations.push(Operation {
            r#type: kind.to_owned(),
            outputs,
            attributes,
            ..Default::default()
        });
        name
    }

    fn floats(
        &mut self,
        precision: Precision,
        place: &str,
        values: &[f32],
        shape: &[usize],
    ) -> Result<Value, Problem> {
        let bytes = match precision {
            Precision::F32 => bytes_f32(values),
            Precision::F16 => bytes_f16(values),
        };
        let finite = |x: &&f32| match precision {
            Precision::F32 => x.is_finite(),
            Precision::F16 => f16::from_f32(**x).is_finite(),
        };
        if let Some(x) = values.iter().find(|x| !finite(x)) {
            let (what, way_out) = match x.is_finite() {
                true => (format!("it holds {x}, more than f16 can"), "Write f32: {precision} f32"),
                false => (format!("it holds {x}"), "Look for where training went wrong: offshoot check"),
            };
            return Err(Problem::unsupported(place, what, way_out));
        }
        Ok(self.stored(float(precision), shape, bytes))
    }

    /// A value of elements given as bytes: in the program when it is small, else in the file of weights.
    fn stored(&mut self, data_type: i32, shape: &[usize], bytes: Vec<u8>) -> Value {
        if shape.iter().product::<usize>() < SMALLEST_BLOB {
            if data_type != data_type::FLOAT32 {
                return Value::bytes(data_type, bytes, shape);
            }
            let floats = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            return Value::floats(floats, shape);
        }
        let offset = self.blobs.add(data_type, &bytes);
        let blob = Some(BlobFileValue { file_name: WEIGHT_FILE.to_owned(), offset });
        Value { r#type: Some(ValueType::tensor(data_type, shape)), immediate: None, blob }
    }
}

fn float(precision: Precision) -> i32 {
    match precision {
        Precision::F16 => data_type::FLOAT16,
        Precision::F32 => data_type::FLOAT32,
    }
}

/// The int8 level of a number, as its byte. A scale that f16 rounds to zero makes all of its channel zero.
fn level(x: f32, scale: f32) -> u8 {
    let level = if scale > 0.0 { (x / scale).round_ties_even().clamp(-127.0, 127.0) } else { 0.0 };
    (level as i8) as u8
}

fn bytes_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn bytes_f16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// An argument that is the value called `name`.
fn by_name(name: &str) -> Argument {
    Argument { arguments: vec![Binding { name: Some(name.to_owned()), value: None }] }
}

/// A name and its type.
pub(super) fn named_type(name: &str, r#type: ValueType) -> NamedValueType {
    NamedValueType { name: name.to_owned(), r#type: Some(r#type) }
}
