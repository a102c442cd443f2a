//! Recurrent operators that an executor computes as one: one row a member. The GRU is a [`super::Composite`].

use super::unary::Autocast;

/// (x [T, N, F], weights, bias) -> (y [T, D, N, H], last h [D, N, H]) from states of 0. D is 2 when it is bidirectional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recurrent {
    /// (x, weight [D, 4 H, F], recurrence [D, 4 H, H], bias [D, 8 H]): ONNX's LSTM with its own activations; gates in the order i, o,
    /// f, c; the bias is that of the weight and that of the recurrence.
    Lstm(Direction),
    /// (x, weight i8 [D, F, 4 H], recurrence i8 [D, H, 4 H], weight scale [D, 4 H], recurrence scale [D, 4 H], bias [D, 8 H]): as
    /// [`Recurrent::Lstm`], f32, with products as in [`super::Op::DynamicQuantizeMatMul`]: one scale for all of x and one for h at each step.
    DynamicQuantizeLstm(Direction),
}

/// The order in which the steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Reverse,
    /// The first of two forward, the second in reverse.
    Bidirectional,
}

impl Direction {
    /// The number of directions.
    pub fn ways(self) -> usize {
        match self {
            Direction::Forward | Direction::Reverse => 1,
            Direction::Bidirectional => 2,
        }
    }

    /// Whether direction `index` takes the steps from the last to the first.
    pub fn is_reverse(self, index: usize) -> bool {
        self == Direction::Reverse || index == 1
    }
}

/// All that is known of a member of [`Recurrent`] beside its function.
#[derive(Clone, Copy, Debug)]
pub struct RecurrentRow {
    /// Its name here, in messages, and ONNX Runtime's.
    pub onnx: &'static str,
    /// Products of x and of h at each step, of H columns each.
    pub gates: usize,
    /// Its type under autocast.
    pub autocast: Autocast,
}

impl Recurrent {
    /// The member's row.
    pub const fn row(&self) -> RecurrentRow {
        let onnx = match self {
            Recurrent::Lstm(_) => "LSTM",
            Recurrent::DynamicQuantizeLstm(_) => "DynamicQuantizeLSTM",
        };
        RecurrentRow { onnx, gates: 4, autocast: Autocast::Full }
    }
}
