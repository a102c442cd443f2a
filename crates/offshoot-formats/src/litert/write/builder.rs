//! A file that grows: its tensors, what they hold, its operators.

use crate::error::Problem;
use crate::litert::flat::{Field, Fields, encode};
use crate::litert::schema::{self, Code, slot};

/// Offsets in a file are of 32 bits, and LiteRT reads them as signed ones.
const MAX_BYTES: u64 = i32::MAX as u64;

/// What integers stand for: scale (level - zero point), along an axis where there are several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<i64>,
    pub(super) axis: i32,
}

/// A tensor to add.
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) kind: u8,
    /// Its sizes for one picture.
    pub(super) sizes: Vec<i32>,
    /// Its sizes with -1 where they depend on the number of pictures; `None` where none does.
    pub(super) signature: Option<Vec<i32>>,
    pub(super) affine: Option<&'a Affine>,
}

pub(super) struct Builder {
    tensors: Vec<Fields>,
    buffers: Vec<Fields>,
    codes: Vec<(Code, i32)>,
    operators: Vec<Fields>,
    metadata: Vec<Fields>,
    bytes: u64,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            tensors: Vec::new(),
            // The first one is empty: that of what is computed.
            buffers: vec![Vec::new()],
            codes: Vec::new(),
            operators: Vec::new(),
            metadata: Vec::new(),
            bytes: 0,
        }
    }

    fn buffer(&mut self, bytes: Vec<u8>) -> i32 {
        self.bytes += bytes.len() as u64;
        self.buffers.push(vec![(slot::buffer::DATA, Field::Bytes(bytes))]);
        self.buffers.len() as i32 - 1
    }

    /// Adds a tensor that is computed.
    pub(super) fn tensor(&mut self, spec: Spec<'_>) -> i32 {
        self.with_buffer(spec, 0)
    }

    /// Adds a tensor that holds `bytes`.
    pub(super) fn constant(&mut self, spec: Spec<'_>, bytes: Vec<u8>) -> i32 {
        let buffer = self.buffer(bytes);
        self.with_buffer(spec, buffer)
    }

    fn with_buffer(&mut self, spec: Spec<'_>, buffer: i32) -> i32 {
        let mut fields: Fields = vec![
            (slot::tensor::SHAPE, Field::Ints(spec.sizes)),
            (slot::tensor::TYPE, Field::Byte(spec.kind)),
            (slot::tensor::BUFFER, Field::Int(buffer)),
            (slot::tensor::NAME, Field::Text(spec.name.to_owned())),
        ];
        fields.extend(spec.signature.map(|sizes| (slot::tensor::SIGNATURE, Field::Ints(sizes))));
        if let Some(Affine { scales, zeros, axis }) = spec.affine {
            let affine = vec![
                (slot::quantization::SCALE, Field::Floats(scales.clone())),
                (slot::quantization::ZERO_POINT, Field::Longs(zeros.clone())),
                (slot::quantization::AXIS, Field::Int(*axis)),
            ];
            fields.push((slot::tensor::QUANTIZATION, Field::Table(affine)));
        }
        self.tensors.push(fields);
        self.tensors.len() as i32 - 1
    }

    /// Adds an operator of a version.
    pub(super) fn operator(
        &mut self,
        code: Code,
        version: i32,
        inputs: Vec<i32>,
        output: i32,
        options: Fields,
    ) {
        let known = self.codes.iter().position(|&one| one == (code, version));
        let index = known.unwrap_or_else(|| {
            self.codes.push((code, version));
            self.codes.len() - 1
        });
        let mut fields = vec![
            (slot::operator::CODE, Field::Int(index as i32)),
            (slot::operator::INPUTS, Field::Ints(inputs)),
            (slot::operator::OUTPUTS, Field::Ints(vec![output])),
        ];
        if code.row().options != 0 {
            fields.push((slot::operator::OPTIONS_TYPE, Field::Byte(code.row().options)));
            fields.push((slot::operator::OPTIONS, Field::Table(options)));
        }
        self.operators.push(fields);
    }

    /// Adds what the program does not read.
    pub(super) fn metadata(&mut self, name: &str, bytes: Vec<u8>) {
        let buffer = self.buffer(bytes);
        self.metadata.push(vec![
            (slot::metadata::NAME, Field::Text(name.to_owned())),
            (slot::metadata::BUFFER, Field::Int(buffer)),
        ]);
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When they are more than the format can hold.
    pub(super) fn finish(
        self,
        name: &str,
        input: (&str, i32),
        output: (&str, i32),
    ) -> Result<Vec<u8>, Problem> {
        // What describes a tensor or an operator is short.
        let bytes = self.bytes + 1024 * (self.tensors.len() + self.operators.len()) as u64;
        if bytes > MAX_BYTES {
            let what = format!("weights of {} bytes", self.bytes);
            return Err(Problem::TooLarge { place: "graph".into(), what, limit: MAX_BYTES });
        }
        let code = |(code, version): &(Code, i32)| {
            let number = code.row().number;
            vec![
                // What programs from before there were more than 127 operators read.
                (slot::code::SMALL, Field::Byte(number.min(127) as u8)),
                (slot::code::VERSION, Field::Int(*version)),
                (slot::code::NUMBER, Field::Int(number)),
            ]
        };
        let subgraph = vec![
            (slot::subgraph::TENSORS, Field::Tables(self.tensors)),
            (slot::subgraph::INPUTS, Field::Ints(vec![input.1])),
            (slot::subgraph::OUTPUTS, Field::Ints(vec![output.1])),
            (slot::subgraph::OPERATORS, Field::Tables(self.operators)),
            (slot::subgraph::NAME, Field::Text("main".into())),
        ];
        let end = |(name, tensor): (&str, i32)| {
            Field::Tables(vec![vec![(0, Field::Text(name.to_owned())), (1, Field::Int(tensor))]])
        };
        let signature = vec![(0, end(input)), (1, end(output)), (2, Field::Text("serving_default".into()))];
        let model = vec![
            (slot::model::VERSION, Field::Int(schema::VERSION)),
            (slot::model::OPERATOR_CODES, Field::Tables(self.codes.iter().map(code).collect())),
            (slot::model::SUBGRAPHS, Field::Tables(vec![subgraph])),
            (slot::model::DESCRIPTION, Field::Text(name.to_owned())),
            (slot::model::BUFFERS, Field::Tables(self.buffers)),
            (slot::model::METADATA, Field::Tables(self.metadata)),
            (slot::model::SIGNATURES, Field::Tables(vec![signature])),
        ];
        Ok(encode(&model, schema::IDENTIFIER))
    }
}
