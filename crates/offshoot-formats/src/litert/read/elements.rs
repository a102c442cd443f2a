//! Functions of elements, and reductions.

use offshoot_graph::op::{Alpha, Binary, Clip, Pooling, Reduce, Unary};
use offshoot_graph::{Op, ValueId};

use super::{CHANNELS_LAST, Call, Known, Reader, plain};
use crate::error::Problem;
use crate::litert::schema::{Code, Fused, kind};

/// The function of two elements that an operator is.
fn of_two(code: Code) -> Option<Binary> {
    match code {
        Code::Add => Some(Binary::Add),
        Code::Sub => Some(Binary::Sub),
        Code::Mul => Some(Binary::Mul),
        Code::Div => Some(Binary::Div),
        Code::Maximum => Some(Binary::Max),
        Code::Minimum => Some(Binary::Min),
        Code::Pow => Some(Binary::Pow),
        _ => None,
    }
}

/// The functions of one element that an operator is, one after another.
fn of_one(call: &Call<'_>, code: Code) -> Result<Vec<Unary>, Problem> {
    let clip = |max| Unary::Clip(Clip { min: 0.0, max });
    Ok(match code {
        Code::Logistic => vec![Unary::Sigmoid],
        Code::Relu => vec![Unary::Relu],
        Code::Relu6 => vec![clip(6.0)],
        Code::Relu0To1 => vec![clip(1.0)],
        Code::Tanh => vec![Unary::Tanh],
        Code::Exp => vec![Unary::Exp],
        Code::Neg => vec![Unary::Neg],
        Code::Log => vec![Unary::Log],
        Code::Sqrt => vec![Unary::Sqrt],
        Code::Rsqrt => vec![Unary::Sqrt, Unary::Reciprocal],
        Code::LeakyRelu => vec![Unary::LeakyRelu(Alpha { alpha: call.float(0)? })],
        Code::Abs => vec![Unary::Abs],
        Code::Elu => vec![Unary::Elu(Alpha { alpha: 1.0 })],
        Code::HardSwish => vec![Unary::HardSwish],
        Code::Gelu if !call.flag(0)? => vec![Unary::Gelu],
        _ => return Err(call.foreign("it is no function that offshoot writes")),
    })
}

impl Reader<'_> {
    pub(super) fn unary(&mut self, call: &Call<'_>, code: Code) -> Result<(), Problem> {
        let functions = of_one(call, code)?;
        let (mut id, order) = self.value(call, call.tensor(0)?)?;
        for unary in functions {
            id = self.add(call, call.output.name, Op::Unary(unary), &[id])?;
        }
        self.give(call, id, &order)
    }

    pub(super) fn binary(&mut self, call: &Call<'_>, code: Code) -> Result<(), Problem> {
        let binary = of_two(code).ok_or_else(|| call.damaged("it has no function"))?;
        let fused = match binary {
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => call.fused(0)?,
            Binary::Max | Binary::Min | Binary::Pow => Fused::None,
        };
        let order = self.common_order(call)?;
        let inputs = [self.operand(call, 0, &order)?, self.operand(call, 1, &order)?];
        let id = self.add(call, call.output.name, Op::Binary(binary), &inputs)?;
        self.give_fused(call, id, &order, fused)
    }

    /// An operand in an order, or as it is where it has fewer axes.
    fn operand(&mut self, call: &Call<'_>, i: usize, order: &[usize]) -> Result<ValueId, Problem> {
        let tensor = call.tensor(i)?;
        match self.order(tensor) {
            Some(own) if own.len() < order.len() => self.in_order(call, tensor, &plain(own.len())),
            _ => self.in_order(call, tensor, order),
        }
    }

    /// The order in which operands meet, as the writer chooses it.
    pub(super) fn common_order(&self, call: &Call<'_>) -> Result<Vec<usize>, Problem> {
        let rank = call.output.sizes.len();
        let orders: Vec<_> = call.inputs().iter().filter_map(|&tensor| self.order(tensor)).collect();
        let all = orders.iter().all(|order| order.len() == rank);
        Ok(orders.into_iter().next().filter(|_| all).unwrap_or_else(|| plain(rank)))
    }

    /// A reduction along one axis, or the mean of each picture's channels.
    pub(super) fn reduce(&mut self, call: &Call<'_>, code: Code) -> Result<(), Problem> {
        let op = match code {
            Code::Sum => Reduce::Sum,
            Code::ReduceMax => Reduce::Max,
            Code::ReduceMin => Reduce::Min,
            _ => Reduce::Mean,
        };
        let foreign = || call.foreign("it is no reduction that offshoot writes");
        if !call.flag(0)? {
            return Err(foreign());
        }
        let axes = self.sizes(call, 1)?;
        if axes == [1, 2] && op == Reduce::Mean && call.output.sizes.len() == 4 {
            let x = self.in_order(call, call.tensor(0)?, &CHANNELS_LAST)?;
            let id = self.add(call, call.output.name, Op::Pool(Pooling::GlobalAverage), &[x])?;
            return self.give(call, id, &CHANNELS_LAST);
        }
        let (id, order) = self.value(call, call.tensor(0)?)?;
        let axes: Option<Vec<usize>> = axes.iter().map(|&axis| order.get(axis).copied()).collect();
        let op = match axes.as_deref() {
            Some(&[axis]) => Op::Reduce { op, axis },
            _ => return Err(foreign()),
        };
        let id = self.add(call, call.output.name, op, &[id])?;
        self.give(call, id, &order)
    }

    pub(super) fn softmax(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        if call.float(0)? != 1.0 {
            return Err(call.foreign("it multiplies by a number before"));
        }
        let (id, order) = self.value(call, call.tensor(0)?)?;
        let &axis = order.last().ok_or_else(|| call.damaged("its operand has no axes"))?;
        let id = self.add(call, call.output.name, Op::Softmax { axis }, &[id])?;
        self.give(call, id, &order)
    }

    /// Floats or bytes as the bytes that the result is.
    pub(super) fn quantize(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        if call.output.kind != kind::I8 {
            return Err(call.foreign("its result is not of int8"));
        }
        let (id, order) = self.value(call, call.tensor(0)?)?;
        self.give(call, id, &order)
    }

    /// Bytes as floats, or stored numbers of f16 as f32.
    pub(super) fn dequantize(&mut self, call: &Call<'_>) -> Result<(), Problem> {
        let tensor = call.tensor(0)?;
        let held = &self.file.tensors[tensor];
        if held.kind != kind::F16 {
            let (id, order) = self.value(call, tensor)?;
            return match call.output.kind {
                kind::F32 => self.give(call, id, &order),
                _ => Err(call.foreign("its result is not of f32")),
            };
        }
        if held.sizes != call.output.sizes || call.output.kind != kind::F32 {
            return Err(call.damaged("its result is not as large as what is stored"));
        }
        let numbers = self.numbers(call, tensor)?;
        self.insert(call, Known::Numbers(numbers))
    }
}
