//! Convolutions, products and pools.

use offshoot_graph::op::{AveragePool, Conv, Gemm, MatMul, Pool, Pooling};
use offshoot_graph::{Op, ValueId};

use super::{CHANNELS_LAST, Call, Frame, Known, Reader, plain};
use crate::error::Problem;
use crate::litert::schema::{Code, padding, slot};
use crate::metadata::MAX_SIDE;

/// What the padding around windows is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Around {
    Zeros,
    Least,
}

/// An operand of windows, in the graph's order, and what the windows take around it.
struct Padded {
    x: ValueId,
    /// Top, left, bottom, right.
    pads: [usize; 4],
    /// Whether an operator before this one made them.
    framed: bool,
}

impl Reader<'_> {
    pub(super) fn conv(&mut self, call: &Call<'_>, code: Code) -> Result<(), Problem> {
        let filter = call.tensor(1)?;
        let sizes = self.file.tensors[filter].sizes.clone();
        let [_, height, width, _] = sizes[..] else {
            return Err(call.damaged("its filter does not have four axes"));
        };
        let depthwise = code == Code::Depthwise;
        let (slots, fused) = match depthwise {
            true => ([slot::depthwise::DILATION_H, slot::depthwise::DILATION_W], slot::depthwise::ACTIVATION),
            false => ([slot::conv::DILATION_H, slot::conv::DILATION_W], slot::conv::ACTIVATION),
        };
        let (dilations, strides) = ([call.size(slots[0], 1)?, call.size(slots[1], 1)?], strides(call)?);
        let Padded { x, pads, .. } = self.padded(call, [height, width], strides, dilations, Around::Zeros)?;
        // [out, height, width, in] or [1, height, width, out]
        let perm = if depthwise { [3, 0, 1, 2] } else { [0, 3, 1, 2] };
        let weight = self.parameter(call, filter, sizes.clone(), &perm)?;
        let channels = self.one_picture(x)[1];
        let group = if depthwise { channels } else { channels.checked_div(sizes[3]).unwrap_or_default() };
        let mut inputs = vec![x, weight];
        inputs.extend(self.bias(call)?);
        let op = Op::Conv(Conv { strides, pads, dilations, group });
        let id = self.add(call, call.output.name, op, &inputs)?;
        self.give_fused(call, id, &CHANNELS_LAST, call.fused(fused)?)
    }

    fn bias(&mut self, call: &Call<'_>) -> Result<Option<ValueId>, Problem> {
        let Some(&bias) = call.inputs().get(2) else { return Ok(None) };
        let sizes = self.file.tensors[bias].sizes.clone();
        let perm = plain(sizes.len());
        self.parameter(call, bias, sizes, &perm).map(Some)
    }

    /// The first operand and its padding, as an operator before this one or the operator itself makes it.
    fn padded(
        &mut self,
        call: &Call<'_>,
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
        around: Around,
    ) -> Result<Padded, Problem> {
        let tensor = call.tensor(0)?;
        if let Some(Known::Framed(frame)) = self.known.get(&tensor).cloned()
            && call.byte(slot::conv::PADDING)? == padding::VALID
            && let Some(pads) = window_pads(&frame, around)
            && self.order(frame.tensor).as_deref() == Some(&CHANNELS_LAST)
        {
            let x = self.in_order(call, frame.tensor, &CHANNELS_LAST)?;
            return Ok(Padded { x, pads, framed: true });
        }
        let x = self.in_order(call, tensor, &CHANNELS_LAST)?;
        let mut pads = [0; 4];
        match call.byte(slot::conv::PADDING)? {
            padding::VALID => {}
            padding::SAME => {
                let sizes = self.one_picture(x);
                for axis in 0..2 {
                    let reach = reach(sizes[2 + axis], kernel[axis], strides[axis], dilations[axis]);
                    let reach = reach.ok_or_else(|| call.damaged("its windows are too large"))?;
                    let missing = reach.saturating_sub(sizes[2 + axis]);
                    (pads[axis], pads[axis + 2]) = (missing / 2, missing - missing / 2);
                }
            }
            other => return Err(call.foreign(format!("padding {other} is not known"))),
        }
        Ok(Padded { x, pads, framed: false })
    }

    pub(super) fn linear(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        if call.byte(1)? != 0 || call.flag(2)? {
            return Err(call.foreign("it is no plain product of matrices"));
        }
        let x = self.in_order(call, call.tensor(0)?, &[0, 1])?;
        let weight = call.tensor(1)?;
        let sizes = self.file.tensors[weight].sizes.clone();
        if sizes.len() != 2 {
            return Err(call.damaged("its weight is no matrix"));
        }
        let mut inputs = vec![x, self.parameter(call, weight, sizes, &[0, 1])?];
        inputs.extend(self.bias(call)?);
        let op = Op::Gemm(Gemm { trans_a: false, trans_b: true });
        let id = self.add(call, call.output.name, op, &inputs)?;
        self.give_fused(call, id, &[0, 1], call.fused(0)?)
    }

    pub(super) fn product(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let (trans_a, trans_b) = (call.flag(0)?, call.flag(1)?);
        let order = plain(call.output.sizes.len());
        let mut inputs = Vec::with_capacity(2);
        for i in 0..2 {
            inputs.push(self.in_order(call, call.tensor(i)?, &order)?);
        }
        let op = match order.len() {
            2 => Op::Gemm(Gemm { trans_a, trans_b }),
            _ => Op::MatMul(MatMul { trans_a, trans_b }),
        };
        let id = self.add(call, call.output.name, op, &inputs)?;
        self.give(call, id, &order)
    }

    fn pool(&mut self, call: &Call<'_>, around: Around) -> Result<(Padded, Pool), Problem> {
        if call.byte(slot::pool::ACTIVATION)? != 0 {
            return Err(call.foreign("it applies an activation"));
        }
        let kernel = [call.size(slot::pool::HEIGHT, 0)?, call.size(slot::pool::WIDTH, 0)?];
        let strides = strides(call)?;
        let padded = self.padded(call, kernel, strides, [1, 1], around)?;
        let pads = padded.pads;
        Ok((padded, Pool { kernel, strides, pads, ceil_mode: false }))
    }

    pub(super) fn max_pool(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let (padded, pool) = self.pool(call, Around::Least)?;
        let id = self.add(call, call.output.name, Op::Pool(Pooling::Max(pool)), &[padded.x])?;
        self.give(call, id, &CHANNELS_LAST)
    }

    /// LiteRT's mean leaves out what it pads itself, and counts what was there before.
    pub(super) fn average_pool(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let (padded, pool) = self.pool(call, Around::Zeros)?;
        let average = AveragePool { pool, count_include_pad: padded.framed };
        let id = self.add(call, call.output.name, Op::Pool(Pooling::Average(average)), &[padded.x])?;
        self.give(call, id, &CHANNELS_LAST)
    }
}

fn strides(call: &Call<'_>) -> Result<[usize; 2], Problem> {
    let strides = [call.size(slot::conv::STRIDE_H, 0)?, call.size(slot::conv::STRIDE_W, 0)?];
    match strides.contains(&0) {
        true => Err(call.damaged("it has no strides")),
        false => Ok(strides),
    }
}

/// How far windows reach that begin at every stride of a side.
fn reach(side: usize, kernel: usize, stride: usize, dilation: usize) -> Option<usize> {
    let windows = side.div_ceil(stride).checked_sub(1)?;
    let span = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    windows.checked_mul(stride)?.checked_add(span)
}

/// A frame as the padding of windows that take `around` for it.
fn window_pads(frame: &Frame, around: Around) -> Option<[usize; 4]> {
    let fits = match around {
        Around::Zeros => frame.number == Some(0.0),
        Around::Least => frame.number.is_none(),
    };
    let &[[0, 0], [top, bottom], [left, right], [0, 0]] = &frame.pads[..] else { return None };
    let pads = [top, left, bottom, right];
    (fits && pads.iter().all(|&n| n <= MAX_SIDE)).then_some(pads)
}
