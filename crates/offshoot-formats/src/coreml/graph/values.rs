//! Numbers and tensors of a program, before the run.

use half::f16;

use super::{Call, Known, Reader, immediate, text};
use crate::coreml::blob;
use crate::coreml::builder::WEIGHT_FILE;
use crate::coreml::proto::{Value, data_type};
use crate::error::Problem;
use crate::metadata;

impl Reader<'_> {
    pub(super) fn number(&self, call: &Call<'_>, parameter: &str) -> Result<f32, Problem> {
        match self.get(call, parameter)? {
            Known::Numbers { values, .. } if values.len() == 1 => Ok(values[0]),
            _ => Err(call.damaged(format!("its `{parameter}` is no number"))),
        }
    }

    /// Whether a maximum or minimum is that of a value and a number: a part of a Clip.
    pub(super) fn is_bound(&self, call: &Call<'_>) -> Result<bool, Problem> {
        let extreme = matches!(call.operation.r#type.as_str(), "maximum" | "minimum");
        Ok(extreme && matches!(self.get(call, "y")?, Known::Numbers { values, .. } if values.len() == 1))
    }

    /// N sizes, none larger than a side may be.
    pub(super) fn sizes<const N: usize>(
        &self,
        call: &Call<'_>,
        parameter: &str,
    ) -> Result<[usize; N], Problem> {
        let sizes = self.list(call, parameter)?;
        let sizes = Some(sizes).filter(|sizes| sizes.iter().all(|&n| n <= metadata::MAX_SIDE));
        let wrong = || call.damaged(format!("its `{parameter}` is not {N} sizes"));
        sizes.and_then(|sizes| <[usize; N]>::try_from(sizes).ok()).ok_or_else(wrong)
    }

    /// Numbers that are not negative.
    pub(super) fn list(&self, call: &Call<'_>, parameter: &str) -> Result<Vec<usize>, Problem> {
        let wrong = || call.damaged(format!("its `{parameter}` is no list of sizes"));
        let Known::Ints(ints) = self.get(call, parameter)? else { return Err(wrong()) };
        ints.iter().map(|&n| usize::try_from(n).map_err(|_| wrong())).collect()
    }

    pub(super) fn constant(&self, call: &Call<'_>, value: &Value) -> Result<Known, Problem> {
        let tensor = call.tensor_type(value)?;
        match tensor.data_type {
            data_type::FLOAT16 | data_type::FLOAT32 => {
                let (shape, values) = self.numbers(call, value)?;
                Ok(Known::Numbers { shape, values })
            }
            data_type::INT32 => {
                let ints = immediate(value).and_then(|t| t.ints.as_ref());
                ints.map(|ints| Known::Ints(ints.values.clone()))
                    .ok_or_else(|| call.damaged("it holds no integers"))
            }
            data_type::BOOL => {
                let bools = immediate(value).and_then(|t| t.bools.as_ref()).and_then(|b| b.values.first());
                bools.map(|&b| Known::Bool(b)).ok_or_else(|| call.damaged("it holds no boolean"))
            }
            data_type::STRING => {
                text(value).map(|t| Known::Text(t.to_owned())).ok_or_else(|| call.damaged("it holds no text"))
            }
            other => Err(call.foreign(format!("elements of type {other} are not read"))),
        }
    }

    /// int8 levels times the scale of their part along the first axis.
    pub(super) fn dequantized(&self, call: &Call<'_>) -> Result<Known, Problem> {
        let levels = call.attribute("quantized_data")?;
        let shape = call.shape(call.tensor_type(levels)?)?;
        let levels = self.raw(call, levels, data_type::INT8)?;
        let (_, scales) = self.numbers(call, call.attribute("scale")?)?;
        let zeros = self.raw(call, call.attribute("zero_point")?, data_type::INT8)?;
        let axis =
            immediate(call.attribute("axis")?).and_then(|t| t.ints.as_ref()).map(|i| i.values.as_slice());
        let channels = shape.first().copied().unwrap_or_default();
        if axis != Some(&[0]) || scales.len() != channels || zeros.iter().any(|&z| z != 0) || channels == 0 {
            return Err(
                call.foreign("its weights have no scale for each output channel and a zero point of 0")
            );
        }
        let channel = levels.chunks((levels.len() / channels).max(1)).zip(&scales);
        let values =
            channel.flat_map(|(levels, scale)| levels.iter().map(move |&l| f32::from(l as i8) * scale));
        Ok(Known::Numbers { shape, values: values.collect() })
    }

    /// The f16 or f32 numbers of a value.
    pub(super) fn numbers(&self, call: &Call<'_>, value: &Value) -> Result<(Vec<usize>, Vec<f32>), Problem> {
        let tensor = call.tensor_type(value)?;
        let shape = call.shape(tensor)?;
        if let Some(floats) = immediate(value).and_then(|t| t.floats.as_ref()) {
            let fits = tensor.data_type == data_type::FLOAT32
                && floats.values.len() == shape.iter().product::<usize>();
            return if fits {
                Ok((shape, floats.values.clone()))
            } else {
                Err(call.damaged("the number of its elements does not match its shape"))
            };
        }
        let bytes = self.raw(call, value, tensor.data_type)?;
        let values = match tensor.data_type {
            data_type::FLOAT16 => {
                bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
            }
            _ => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        };
        Ok((shape, values))
    }

    /// The bytes of a value of `data_type` elements, in the program or in the file of weights.
    pub(super) fn raw<'v>(
        &'v self,
        call: &Call<'_>,
        value: &'v Value,
        data_type: i32,
    ) -> Result<&'v [u8], Problem> {
        let tensor = call.tensor_type(value)?;
        let size = match data_type {
            data_type::INT8 => 1,
            data_type::FLOAT16 => 2,
            _ => 4,
        };
        let len = call.shape(tensor)?.iter().try_fold(size, |n: usize, &d| n.checked_mul(d));
        let len =
            len.filter(|_| tensor.data_type == data_type).ok_or_else(|| call.damaged("its type is wrong"))?;
        if let Some(blob) = &value.blob {
            if blob.file_name != WEIGHT_FILE {
                return Err(call.foreign(format!("its weights are in `{}`", blob.file_name)));
            }
            return blob::read(self.file, blob.offset, data_type, len);
        }
        let bytes = immediate(value).and_then(|t| t.bytes.as_ref()).map(|b| b.values.as_slice());
        bytes
            .filter(|b| b.len() == len)
            .ok_or_else(|| call.damaged("the number of its elements does not match its shape"))
    }
}
