//! Protocol Buffers messages as a list of fields, for files that are carried over rather than understood.
//!
//! What stands in no `.proto` that we know, or in one that is newer than this program, survives: a field that nobody
//! touches keeps its bytes.

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use super::proto::{self, NodeProto, TensorProto};
use crate::error::Problem;

/// More fields of messages that are taken apart (nodes, attributes, initializers) than any model has.
const MAX_FIELDS: u64 = 1 << 21;

/// One field of a message. Its bytes are shared with the message's.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) tag: u32,
    /// Key and content.
    whole: Bytes,
    /// The content of a message, a text or bytes.
    pub(super) body: Option<Bytes>,
}

impl Field {
    /// A field that holds `body`.
    pub(super) fn new(tag: u32, body: &[u8]) -> Field {
        let mut whole = Vec::with_capacity(body.len() + 16);
        encode_key(tag, WireType::LengthDelimited, &mut whole);
        encode_varint(body.len() as u64, &mut whole);
        let start = whole.len();
        whole.extend_from_slice(body);
        let whole = Bytes::from(whole);
        Field { tag, body: Some(whole.slice(start..)), whole }
    }

    /// A field that holds a number.
    pub(super) fn number(tag: u32, number: u64) -> Field {
        let mut whole = Vec::new();
        encode_key(tag, WireType::Varint, &mut whole);
        encode_varint(number, &mut whole);
        Field { tag, whole: whole.into(), body: None }
    }

    /// The number that it holds, if it holds one.
    pub(super) fn to_number(&self) -> Option<u64> {
        let mut bytes = self.whole.clone();
        match decode_key(&mut bytes) {
            Ok((_, WireType::Varint)) => decode_varint(&mut bytes).ok(),
            _ => None,
        }
    }

    /// A field that holds `message`.
    pub(super) fn message(tag: u32, message: &impl Message) -> Field {
        Field::new(tag, &message.encode_to_vec())
    }

    /// The content, of a field that has `tag`.
    pub(super) fn tagged(&self, tag: u32) -> Option<&Bytes> {
        self.body.as_ref().filter(|_| self.tag == tag)
    }
}

/// Takes messages apart, as many fields as a model has.
pub(super) struct Splitter {
    left: u64,
}

impl Splitter {
    pub(super) fn new() -> Splitter {
        Splitter { left: MAX_FIELDS }
    }

    /// The fields of `message`, in order.
    pub(super) fn fields(&mut self, message: &Bytes) -> Result<Vec<Field>, Problem> {
        let mut rest = message.clone();
        let mut fields = Vec::new();
        while rest.has_remaining() {
            self.left = self.left.checked_sub(1).ok_or_else(|| Problem::TooLarge {
                place: "ONNX messages".into(),
                what: format!("more than {MAX_FIELDS} nodes, attributes and tensors"),
                limit: MAX_FIELDS,
            })?;
            fields.push(next(&mut rest)?);
        }
        Ok(fields)
    }

    /// The node in `bytes`, without its subgraphs.
    pub(super) fn node(&mut self, bytes: &Bytes) -> Result<NodeProto, Problem> {
        proto::decode_node(bytes.clone(), &mut self.left)
    }

    /// The tensor in `bytes`.
    pub(super) fn tensor(&mut self, bytes: &Bytes) -> Result<TensorProto, Problem> {
        proto::decode_tensor(bytes.clone(), &mut self.left)
    }
}

fn next(rest: &mut Bytes) -> Result<Field, Problem> {
    let broken = |e: prost::DecodeError| Problem::damaged("ONNX messages", e.to_string());
    let start = rest.clone();
    let (tag, wire) = decode_key(rest).map_err(broken)?;
    let body = if wire == WireType::LengthDelimited {
        let length = decode_varint(rest).map_err(broken)?;
        let fits = usize::try_from(length).ok().filter(|&n| n <= rest.len());
        let length = fits.ok_or_else(|| {
            let what = format!("a field claims {length} bytes and {} are left", rest.len());
            Problem::damaged("ONNX messages", what)
        })?;
        Some(rest.split_to(length))
    } else {
        skip_field(wire, tag, rest, DecodeContext::default()).map_err(broken)?;
        None
    };
    let whole = start.slice(..start.len() - rest.len());
    Ok(Field { tag, whole, body })
}

/// The message that has `fields`.
pub(super) fn join(fields: &[Field]) -> Vec<u8> {
    let mut message = Vec::with_capacity(fields.iter().map(|f| f.whole.len()).sum());
    fields.iter().for_each(|field| message.extend_from_slice(&field.whole));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_apart_is_put_together_again_whatever_it_is() {
        // A varint, a text, a number of four bytes, an unknown tag.
        let bytes = Bytes::from_static(&[
            0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4, 0xfa, 0x07, 0x00,
        ]);
        let fields = Splitter::new().fields(&bytes).unwrap();
        assert_eq!(fields.iter().map(|f| f.tag).collect::<Vec<_>>(), [1, 2, 3, 127]);
        assert_eq!(fields[1].tagged(2).map(|b| &b[..]), Some(&b"hi"[..]));
        assert_eq!(join(&fields), bytes);
        assert_eq!((fields[0].to_number(), fields[1].to_number()), (Some(150), None));
        assert_eq!(join(&[Field::number(1, 150)]), bytes[..3]);
        assert_eq!(join(&[Field::new(2, b"hi")]), bytes[3..7]);
    }

    #[test]
    fn a_lying_length_is_damage() {
        let problem = Splitter::new().fields(&Bytes::from_static(&[0x3a, 0xff, 0x7f])).unwrap_err();
        assert!(matches!(problem, Problem::Damaged { .. }), "{problem}");
    }
}
