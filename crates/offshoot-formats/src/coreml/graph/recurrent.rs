//! LSTMs as they are written (`program/recurrent.rs`).

use offshoot_graph::op::{Direction, Recurrent};
use offshoot_graph::{Op, ValueId};

use super::{Call, Known, Reader};
use crate::coreml::program::{ACTIVATIONS, DIRECTIONS, OPERANDS, exchanged};
use crate::error::Problem;

impl Reader<'_> {
    pub(super) fn lstm(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let direction = self.direction(call)?;
        let x = self.value(call, "x")?;
        let name = call.operation.outputs.first().map(|o| o.name.clone()).unwrap_or_default();
        let name = name.strip_suffix("_y").unwrap_or(&name);
        let mut inputs = vec![x];
        for (i, what) in ["weight", "recurrence", "bias"].into_iter().enumerate() {
            inputs.push(self.gates(call, &format!("{name}.{what}"), i, direction.ways())?);
        }
        let results = self.graph.add_node(name, Op::Recurrent(Recurrent::Lstm(direction)), &inputs);
        let results = results.map_err(|e| call.damaged(e.to_string()))?;
        // The third is the last cell state, which nothing reads.
        for (output, id) in call.operation.outputs.iter().zip(results) {
            self.know(call, output.name.clone(), Known::Joined(id))?;
        }
        Ok(())
    }

    /// The direction, of an LSTM that has nothing which ours has not.
    fn direction(&self, call: &Call<'_>) -> Result<Direction, Problem> {
        let is = |parameter: &str, wanted: &str| {
            Ok(matches!(self.get(call, parameter)?, Known::Text(text) if text == wanted))
        };
        for (parameter, wanted) in ACTIVATIONS {
            if !is(parameter, wanted)? {
                return Err(call.foreign(format!("its `{parameter}` is no {wanted}")));
            }
        }
        for state in ["initial_h", "initial_c"] {
            let zero = matches!(self.get(call, state)?, Known::Numbers { values, .. } if values.iter().all(|&x| x == 0.0));
            if !zero {
                return Err(call.foreign("it starts from other states than zeros"));
            }
        }
        let more = ["clip", "peephole", "peephole_back"];
        if !self.bool(call, "output_sequence")? || more.iter().any(|m| call.operation.inputs.contains_key(*m))
        {
            return Err(call.foreign("offshoot writes no such LSTM"));
        }
        for (direction, name) in DIRECTIONS {
            if is("direction", name)? {
                return Ok(direction);
            }
        }
        Err(call.foreign("its direction is not known"))
    }

    /// Operand `i` of each direction as one parameter. A bias is that of the weight, and that of the recurrence is 0.
    fn gates(&mut self, call: &Call<'_>, name: &str, i: usize, ways: usize) -> Result<ValueId, Problem> {
        let (mut all, mut of_all) = (Vec::new(), Vec::new());
        for names in OPERANDS.iter().take(ways) {
            let Known::Numbers { shape, values } = self.get(call, names[i])? else {
                return Err(call.damaged(format!("its `{}` is no constant of its own", names[i])));
            };
            let four = shape.first().is_some_and(|rows| rows.is_multiple_of(4));
            if !four || !of_all.is_empty() && of_all != *shape {
                return Err(call.damaged(format!("its `{}` has not four gates for each direction", names[i])));
            }
            of_all.clone_from(shape);
            all.extend(exchanged(values));
            if i == 2 {
                all.resize(all.len() + values.len(), 0.0);
            }
        }
        let rows = if i == 2 { 2 * of_all[0] } else { of_all[0] };
        let shape = [&[ways, rows], &of_all[1..]].concat();
        Ok(self.parameter(name, shape, all))
    }

    /// Whether an operator moves a result of an LSTM.
    pub(super) fn is_apart(&self, call: &Call<'_>) -> Result<bool, Problem> {
        Ok(matches!(self.get(call, "x")?, Known::Joined(_) | Known::Apart(_)))
    }

    /// A result of an LSTM: with an axis of the directions, and then as ours has it.
    pub(super) fn apart(&self, call: &Call<'_>) -> Result<Known, Problem> {
        let foreign = || call.foreign("it moves an LSTM's directions otherwise than offshoot does");
        let exchanged = |id: ValueId, mut of: Vec<usize>| {
            let rank = self.graph.value(id).shape.rank();
            if of.len() == rank {
                of.swap(rank - 3, rank - 2);
            }
            of
        };
        match (call.operation.r#type.as_str(), self.get(call, "x")?) {
            ("reshape", &Known::Joined(id)) => {
                let wanted = exchanged(id, self.one_picture(id));
                let shape = self.list(call, "shape")?;
                if shape == wanted { Ok(Known::Apart(id)) } else { Err(foreign()) }
            }
            ("transpose", &Known::Apart(id)) => {
                let wanted = exchanged(id, (0..self.graph.value(id).shape.rank()).collect());
                let perm = self.list(call, "perm")?;
                if perm == wanted { Ok(Known::Value(id)) } else { Err(foreign()) }
            }
            _ => Err(foreign()),
        }
    }
}
