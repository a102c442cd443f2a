//! Requests and answers of inference: JSON, and binary tensors after it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use offshoot_graph::text::{escaped, shortened};
use serde::{Deserialize, Serialize};

use super::numbers::Numbers;
use crate::failure::Failure;

/// How many bytes of a body are JSON; tensors follow.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The only type of tensors.
const FP32: &str = "FP32";
/// The longest text of a client that is repeated to it.
const LONGEST: usize = 100;

#[derive(Deserialize)]
struct Request {
    id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    #[serde(default)]
    parameters: InputParameters,
    data: Option<Numbers>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    #[serde(default)]
    classification: u64,
}

/// What a model takes and gives.
pub(super) struct Ends<'a> {
    pub(super) input: &'a str,
    pub(super) output: &'a str,
    pub(super) size: usize,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    id: Option<String>,
    /// How many pictures there are.
    pub(super) count: usize,
    /// Their inputs, one after another.
    pub(super) numbers: Vec<f32>,
    binary: bool,
}

/// What a client sent, so that it can be repeated.
fn told(text: &str) -> String {
    shortened(&escaped(text), LONGEST).into_owned()
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is damaged, or does not fit the model.
    pub(super) fn read(headers: &HeaderMap, body: &[u8], ends: &Ends<'_>) -> Result<Asked, Failure> {
        let (json, tensors) = split(headers, body)?;
        let request: Request = serde_json::from_slice(json)
            .map_err(|e| Failure::bad(format!("not a request of inference: {e}")))?;
        let binary = request.wants_binary(ends)?;
        let Request { id, inputs, .. } = request;
        let [input] = <[Input; 1]>::try_from(inputs).map_err(|inputs| {
            Failure::bad(format!("{} inputs; the model has one, `{}`", inputs.len(), ends.input))
        })?;
        let count = input.check(ends)?;
        let numbers = input.numbers(tensors)?;
        Ok(Asked { id, count, numbers, binary })
    }

    /// The answer with the outputs of all pictures, one after another.
    pub(super) fn answer(
        self,
        model: (&str, u64),
        ends: &Ends<'_>,
        outputs: &[f32],
    ) -> Result<Response, Failure> {
        let bytes = size_of_val(outputs);
        let tensor = Tensor {
            name: ends.output,
            shape: [self.count, outputs.len() / self.count.max(1)],
            datatype: FP32,
            parameters: self.binary.then_some(Size { binary_data_size: bytes }),
            data: (!self.binary).then_some(outputs),
        };
        let (model_name, model_version) = (model.0, model.1.to_string());
        let answer = Answer { model_name, model_version, id: self.id, outputs: [tensor] };
        let mut body = serde_json::to_vec(&answer)
            .map_err(|e| Failure::broken(format!("the answer cannot be written: {e}")))?;
        if !self.binary {
            return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
        }
        let length = HeaderValue::from(body.len());
        body.reserve_exact(bytes);
        outputs.iter().for_each(|x| body.extend(x.to_le_bytes()));
        let kind = HeaderValue::from_static("application/octet-stream");
        Ok(([(header::CONTENT_TYPE, kind), (HEADER_LENGTH, length)], body).into_response())
    }
}

/// The JSON of a body, and the tensors after it.
fn split<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Failure> {
    let Some(length) = headers.get(HEADER_LENGTH) else { return Ok((body, &[])) };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.and_then(|length| body.split_at_checked(length)).ok_or_else(|| {
        Failure::bad(format!("{HEADER_LENGTH}: give the length of the JSON, at most {} bytes", body.len()))
    })
}

impl Request {
    /// Whether the output shall be binary.
    fn wants_binary(&self, ends: &Ends<'_>) -> Result<bool, Failure> {
        let mut binary = self.parameters.binary_data_output;
        for output in &self.outputs {
            if output.name != ends.output {
                let name = told(&output.name);
                return Err(Failure::bad(format!("no output `{name}`; the model has `{}`", ends.output)));
            }
            if output.parameters.classification > 0 {
                let message = "`classification` is not read; POST pictures to /v1/models/NAME:classify";
                return Err(Failure::bad(message));
            }
            binary = output.parameters.binary_data.unwrap_or(binary);
        }
        Ok(binary)
    }
}

impl Input {
    /// The number of pictures.
    fn check(&self, ends: &Ends<'_>) -> Result<usize, Failure> {
        let size = ends.size;
        if self.name != ends.input {
            return Err(Failure::bad(format!(
                "no input `{}`; the model has `{}`",
                told(&self.name),
                ends.input
            )));
        }
        if self.datatype != FP32 {
            let message = format!("datatype `{}`; the model takes {FP32}", told(&self.datatype));
            return Err(Failure::bad(message));
        }
        match self.shape[..] {
            [count, 3, height, width] if count > 0 && (height, width) == (size, size) => Ok(count),
            _ => {
                let shape = told(&format!("{:?}", self.shape));
                let message = format!("shape {shape}; the model takes [N, 3, {size}, {size}], N at least 1");
                Err(Failure::bad(message))
            }
        }
    }

    /// As many numbers as the shape says.
    fn numbers(self, tensors: &[u8]) -> Result<Vec<f32>, Failure> {
        let wanted = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        let (data, binary) = (self.data, self.parameters.binary_data_size);
        if binary.unwrap_or(0) != tensors.len() {
            let (found, said) = (tensors.len(), binary.unwrap_or(0));
            return Err(Failure::bad(format!("{found} bytes after the JSON; binary_data_size says {said}")));
        }
        match (data, binary) {
            (Some(numbers), None) if numbers.all.len() != wanted => Err(Failure::bad(format!(
                "{} numbers in `data`; shape {:?} has {wanted}",
                numbers.all.len(),
                self.shape
            ))),
            (Some(numbers), None) if !numbers.have_shape(&self.shape) => {
                let message =
                    format!("`data` is no tensor of shape {:?}: lists differ in length", self.shape);
                Err(Failure::bad(message))
            }
            (Some(numbers), None) => Ok(numbers.all),
            (None, Some(bytes)) if wanted.checked_mul(4) != Some(bytes) => Err(Failure::bad(format!(
                "{bytes} bytes of FP32; shape {:?} has {wanted} numbers",
                self.shape
            ))),
            (None, Some(_)) => {
                let (four, _) = tensors.as_chunks::<4>();
                Ok(four.iter().map(|four| f32::from_le_bytes(*four)).collect())
            }
            (Some(_), Some(_)) | (None, None) => {
                Err(Failure::bad("give the input either `data` or the parameter binary_data_size"))
            }
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [Tensor<'a>; 1],
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: [usize; 2],
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}
