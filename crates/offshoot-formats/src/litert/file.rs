//! A file as tensors and operators, all of whose numbers are checked against each other.

use super::flat::{Table, Word, root};
use super::schema::{self, Code, slot};
use super::{METADATA_KEY, WAY_OUT};
use crate::error::Problem;

/// More axes than a tensor of ours has.
const MAX_RANK: usize = 8;
/// More bytes than a name of ours has.
const MAX_NAME: usize = 1 << 12;
/// More operands than an operator of a classifier has.
const MAX_INPUTS: usize = 1 << 10;

/// What a file holds.
pub(super) struct File<'a> {
    pub(super) tensors: Vec<Tensor<'a>>,
    pub(super) operators: Vec<Operator<'a>>,
    pub(super) input: usize,
    pub(super) output: usize,
    /// Our metadata.
    pub(super) json: &'a str,
    /// The size of the whole file.
    pub(super) bytes: usize,
}

/// A tensor, without what it is called in other places.
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    /// For one picture.
    pub(super) sizes: Vec<usize>,
    pub(super) kind: u8,
    /// Its elements, where they are stored.
    pub(super) data: Option<&'a [u8]>,
    pub(super) scales: &'a [Word],
    pub(super) zeros: &'a [[u8; 8]],
    pub(super) axis: i32,
}

/// An operator with one result.
pub(super) struct Operator<'a> {
    pub(super) code: Code,
    pub(super) inputs: Vec<usize>,
    pub(super) output: usize,
    pub(super) options: Option<Table<'a>>,
}

fn foreign(place: &str, what: impl Into<String>) -> Problem {
    Problem::unsupported(place, what, WAY_OUT)
}

impl<'a> File<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<File<'a>, Problem> {
        let model = root(bytes, schema::IDENTIFIER)?;
        let version = model.int(slot::model::VERSION, 0)?;
        if version != schema::VERSION {
            return Err(foreign("file", format!("it is of version {version} of the format")));
        }
        let buffers = model.tables(slot::model::BUFFERS)?;
        let json = json(&model, &buffers)?;
        let subgraphs = model.tables(slot::model::SUBGRAPHS)?;
        let [subgraph] = subgraphs[..] else {
            return Err(foreign("file", format!("it has {} subgraphs, not one", subgraphs.len())));
        };
        let codes = model.tables(slot::model::OPERATOR_CODES)?;
        let tensors = subgraph.tables(slot::subgraph::TENSORS)?;
        let tensors = tensors.iter().enumerate().map(|(i, table)| tensor(table, i, &buffers));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let operators = subgraph.tables(slot::subgraph::OPERATORS)?;
        let operators =
            operators.iter().enumerate().map(|(i, table)| operator(table, i, &codes, tensors.len()));
        let operators = operators.collect::<Result<Vec<_>, _>>()?;
        let one = |slot, what: &str| match indices(subgraph.words(slot)?, "file", tensors.len())?[..] {
            [index] => Ok(index),
            ref all => Err(foreign("file", format!("it has {} {what}, not one", all.len()))),
        };
        let input = one(slot::subgraph::INPUTS, "inputs")?;
        let output = one(slot::subgraph::OUTPUTS, "outputs")?;
        Ok(File { input, output, tensors, operators, json, bytes: bytes.len() })
    }
}

/// Our metadata.
fn json<'a>(model: &Table<'a>, buffers: &[Table<'a>]) -> Result<&'a str, Problem> {
    for entry in model.tables(slot::model::METADATA)? {
        if entry.text(slot::metadata::NAME)? == METADATA_KEY {
            let data = buffer(buffers, entry.int(slot::metadata::BUFFER, 0)?, "metadata")?;
            return std::str::from_utf8(data).map_err(|_| Problem::damaged("metadata", "it is no UTF-8"));
        }
    }
    Err(foreign("file", format!("its metadata has no entry `{METADATA_KEY}`")))
}

fn buffer<'a>(buffers: &[Table<'a>], index: i32, place: &str) -> Result<&'a [u8], Problem> {
    let table = usize::try_from(index).ok().and_then(|index| buffers.get(index));
    let table = table.ok_or_else(|| Problem::damaged(place, format!("there is no buffer {index}")))?;
    table.bytes(slot::buffer::DATA)
}

fn tensor<'a>(table: &Table<'a>, index: usize, buffers: &[Table<'a>]) -> Result<Tensor<'a>, Problem> {
    let name = table.text(slot::tensor::NAME)?;
    let place = format!("tensor {index}");
    if name.len() > MAX_NAME {
        return Err(foreign(&place, format!("its name is of {} bytes", name.len())));
    }
    let shape = table.words(slot::tensor::SHAPE)?;
    if shape.len() > MAX_RANK {
        return Err(foreign(&place, format!("it has {} axes", shape.len())));
    }
    let size = |word: &Word| usize::try_from(i32::from_le_bytes(*word)).ok();
    let sizes: Option<Vec<usize>> = shape.iter().map(size).collect();
    let sizes = sizes.ok_or_else(|| Problem::damaged(&place, "a size of it is below 0"))?;
    let data = buffer(buffers, table.int(slot::tensor::BUFFER, 0)?, &place)?;
    let affine = table.table(slot::tensor::QUANTIZATION)?;
    let (scales, zeros, axis): (&[Word], &[[u8; 8]], i32) = match affine {
        Some(affine) => (
            affine.words(slot::quantization::SCALE)?,
            affine.longs(slot::quantization::ZERO_POINT)?,
            affine.int(slot::quantization::AXIS, 0)?,
        ),
        None => (&[], &[], 0),
    };
    let data = (!data.is_empty()).then_some(data);
    Ok(Tensor { name, sizes, kind: table.byte(slot::tensor::TYPE)?, data, scales, zeros, axis })
}

fn operator<'a>(
    table: &Table<'a>,
    index: usize,
    codes: &[Table<'a>],
    tensors: usize,
) -> Result<Operator<'a>, Problem> {
    let place = format!("operator {index}");
    let code = table.int(slot::operator::CODE, 0)?;
    let code = usize::try_from(code).ok().and_then(|code| codes.get(code));
    let code = code.ok_or_else(|| Problem::damaged(&place, "it has no code"))?;
    // The larger of both: one of them is as large as a byte can be, or left out.
    let number = code.int(slot::code::NUMBER, 0)?.max(i32::from(code.byte(slot::code::SMALL)?));
    let code = Code::from_number(number)
        .ok_or_else(|| foreign(&place, format!("operator {number} of LiteRT is not known")))?;
    let inputs = table.words(slot::operator::INPUTS)?;
    if inputs.len() > MAX_INPUTS {
        return Err(foreign(&place, format!("it has {} operands", inputs.len())));
    }
    let inputs = indices(inputs, &place, tensors)?;
    let outputs = table.words(slot::operator::OUTPUTS)?;
    let &[output] = outputs else {
        return Err(foreign(&place, format!("it has {} results, not one", outputs.len())));
    };
    let output = indices(&[output], &place, tensors)?[0];
    let kind = table.byte(slot::operator::OPTIONS_TYPE)?;
    let options = match kind {
        0 => None,
        _ if kind == code.row().options => table.table(slot::operator::OPTIONS)?,
        _ => return Err(Problem::damaged(&place, "its options are those of another operator")),
    };
    Ok(Operator { code, inputs, output, options })
}

/// Numbers of tensors.
fn indices(words: &[Word], place: &str, tensors: usize) -> Result<Vec<usize>, Problem> {
    let index = |word: &Word| {
        let number = i32::from_le_bytes(*word);
        let index = usize::try_from(number).ok().filter(|&index| index < tensors);
        index.ok_or_else(|| Problem::damaged(place, format!("there is no tensor {number}")))
    };
    words.iter().map(index).collect()
}
