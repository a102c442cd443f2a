//! LSTMs with stored weights.

use offshoot_graph::{Data, Tensor, int8};
use prost::Message;
use prost::bytes::Bytes;

use super::super::MICROSOFT;
use super::super::attributes::NodeView;
use super::super::proto::{AttributeProto, NodeProto};
use super::super::wire::{Field, join};
use super::product::unfit;
use super::scope::{Scope, home, stored};
use super::{Bytewise, Pass, not_finite, tag};
use crate::error::Problem;

/// X, W, R, B, sequence_lens, initial_h, initial_c, P.
const INPUTS: usize = 8;

impl Pass {
    /// What stands in the place of an LSTM, if something does.
    pub(super) fn lstm(
        &mut self,
        node: NodeView<'_>,
        body: &Bytes,
        scopes: &mut [Scope],
    ) -> Result<Option<Vec<Field>>, Problem> {
        let (Some(w), Some(r)) = (node.input(1), node.input(2)) else { return Ok(None) };
        let mut weights = Vec::new();
        for name in [w, r] {
            let Some(tensor) = stored(scopes, name, &mut self.tensors)? else { return Ok(None) };
            if let Some(reason) = unfit(&tensor, 3).or_else(|| batch_first(node)) {
                self.keep(node, reason);
                return Ok(None);
            }
            weights.push(self.gates(name, &tensor, scopes)?);
        }
        let [Some(input), Some(recurrent)] = &weights[..] else {
            return Err(not_finite(node));
        };
        let mut inputs = node.proto.input.clone();
        inputs.resize(INPUTS, String::new());
        inputs[1].clone_from(&input.weight);
        inputs[2].clone_from(&recurrent.weight);
        for scales in [input, recurrent] {
            inputs.extend([scales.scale.clone(), scales.zero_point.clone()]);
        }
        let made = NodeProto {
            input: inputs,
            output: node.proto.output.clone(),
            name: node.proto.name.clone(),
            op_type: "DynamicQuantizeLSTM".into(),
            domain: MICROSOFT.into(),
            ..NodeProto::default()
        };
        let mut fields = self.splitter.fields(&made.encode_to_vec().into())?;
        fields.extend(self.attributes(body)?);
        self.release(w);
        self.release(r);
        self.microsoft = true;
        self.report.quantized.push(node.name().to_owned());
        Ok(Some(vec![Field::new(tag::GRAPH_NODE, &join(&fields))]))
    }

    /// The attributes of an LSTM as they stand, but for `layout`, which ONNX Runtime's operator has not.
    fn attributes(&mut self, body: &Bytes) -> Result<Vec<Field>, Problem> {
        let mut kept = Vec::new();
        for field in self.splitter.fields(body)? {
            let Some(attribute) = field.tagged(tag::NODE_ATTRIBUTE) else { continue };
            let attribute = AttributeProto::decode(attribute.clone())
                .map_err(|e| Problem::damaged("ONNX messages", e.to_string()))?;
            if attribute.name != "layout" {
                kept.push(field);
            }
        }
        Ok(kept)
    }

    /// Weights [directions, 4 * hidden, k] as bytes [directions, k, 4 * hidden], with a scale for each direction and gate
    /// unit; `None` where they are not finite.
    fn gates(&mut self, name: &str, weights: &Tensor, scopes: &[Scope]) -> Result<Option<Bytewise>, Problem> {
        let scope = home(scopes, name).map_or(0, |at| scopes[at].id);
        let key = (scope, name.to_owned(), false, 1f32.to_bits());
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let made = self.gate_bytes(name, weights)?;
        self.made.insert(key, made.clone());
        Ok(made)
    }

    fn gate_bytes(&mut self, name: &str, weights: &Tensor) -> Result<Option<Bytewise>, Problem> {
        let (Some(elements), &[directions, units, k]) = (weights.as_f32(), weights.shape()) else {
            return Ok(None);
        };
        let rows = elements.chunks_exact(k);
        let Some(scales) = rows.map(|row| int8::scale(row.iter().copied())).collect::<Option<Vec<f32>>>()
        else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(elements.len());
        for direction in 0..directions {
            let rows = direction * units..(direction + 1) * units;
            for i in 0..k {
                bytes.extend(rows.clone().map(|row| int8::quantize(elements[row * k + i], scales[row])));
            }
        }
        self.report.quantized_bytes += 4 * elements.len() as u64;
        let zeros = vec![0; scales.len()];
        Ok(Some(Bytewise {
            weight: self.add(format!("{name}_quantized"), &[directions, k, units], Data::I8(bytes))?,
            scale: self.add(format!("{name}_scale"), &[directions, units], Data::F32(scales))?,
            zero_point: self.add(format!("{name}_zero_point"), &[directions, units], Data::I8(zeros))?,
        }))
    }
}

fn batch_first(node: NodeView<'_>) -> Option<String> {
    node.flag("layout").then(|| "ONNX Runtime's int8 LSTM does not take the batch first (layout = 1)".into())
}
