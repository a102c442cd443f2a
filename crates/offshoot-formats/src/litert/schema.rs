//! The parts of LiteRT's schema (version 3) that our files have: the numbers of its slots, types and operators.

/// The four bytes that tell a file of LiteRT.
pub(super) const IDENTIFIER: &[u8; 4] = b"TFL3";
pub(super) const VERSION: i32 = 3;

/// Slots of tables, by table.
pub(super) mod slot {
    pub(in crate::litert) mod model {
        pub(in crate::litert) const VERSION: u16 = 0;
        pub(in crate::litert) const OPERATOR_CODES: u16 = 1;
        pub(in crate::litert) const SUBGRAPHS: u16 = 2;
        pub(in crate::litert) const DESCRIPTION: u16 = 3;
        pub(in crate::litert) const BUFFERS: u16 = 4;
        pub(in crate::litert) const METADATA: u16 = 6;
        pub(in crate::litert) const SIGNATURES: u16 = 7;
    }
    pub(in crate::litert) mod subgraph {
        pub(in crate::litert) const TENSORS: u16 = 0;
        pub(in crate::litert) const INPUTS: u16 = 1;
        pub(in crate::litert) const OUTPUTS: u16 = 2;
        pub(in crate::litert) const OPERATORS: u16 = 3;
        pub(in crate::litert) const NAME: u16 = 4;
    }
    pub(in crate::litert) mod tensor {
        pub(in crate::litert) const SHAPE: u16 = 0;
        pub(in crate::litert) const TYPE: u16 = 1;
        pub(in crate::litert) const BUFFER: u16 = 2;
        pub(in crate::litert) const NAME: u16 = 3;
        pub(in crate::litert) const QUANTIZATION: u16 = 4;
        pub(in crate::litert) const SIGNATURE: u16 = 7;
    }
    pub(in crate::litert) mod quantization {
        pub(in crate::litert) const SCALE: u16 = 2;
        pub(in crate::litert) const ZERO_POINT: u16 = 3;
        pub(in crate::litert) const AXIS: u16 = 6;
    }
    pub(in crate::litert) mod operator {
        pub(in crate::litert) const CODE: u16 = 0;
        pub(in crate::litert) const INPUTS: u16 = 1;
        pub(in crate::litert) const OUTPUTS: u16 = 2;
        pub(in crate::litert) const OPTIONS_TYPE: u16 = 3;
        pub(in crate::litert) const OPTIONS: u16 = 4;
    }
    pub(in crate::litert) mod code {
        pub(in crate::litert) const SMALL: u16 = 0;
        pub(in crate::litert) const VERSION: u16 = 2;
        pub(in crate::litert) const NUMBER: u16 = 3;
    }
    pub(in crate::litert) mod buffer {
        pub(in crate::litert) const DATA: u16 = 0;
    }
    pub(in crate::litert) mod metadata {
        pub(in crate::litert) const NAME: u16 = 0;
        pub(in crate::litert) const BUFFER: u16 = 1;
    }
    pub(in crate::litert) mod conv {
        pub(in crate::litert) const PADDING: u16 = 0;
        pub(in crate::litert) const STRIDE_W: u16 = 1;
        pub(in crate::litert) const STRIDE_H: u16 = 2;
        pub(in crate::litert) const ACTIVATION: u16 = 3;
        pub(in crate::litert) const DILATION_W: u16 = 4;
        pub(in crate::litert) const DILATION_H: u16 = 5;
    }
    /// Padding and strides are those of [`conv`].
    pub(in crate::litert) mod depthwise {
        pub(in crate::litert) const MULTIPLIER: u16 = 3;
        pub(in crate::litert) const ACTIVATION: u16 = 4;
        pub(in crate::litert) const DILATION_W: u16 = 5;
        pub(in crate::litert) const DILATION_H: u16 = 6;
    }
    /// Padding and strides are those of [`conv`].
    pub(in crate::litert) mod pool {
        pub(in crate::litert) const WIDTH: u16 = 3;
        pub(in crate::litert) const HEIGHT: u16 = 4;
        pub(in crate::litert) const ACTIVATION: u16 = 5;
    }
    pub(in crate::litert) mod resize {
        pub(in crate::litert) const ALIGN_CORNERS: u16 = 2;
        pub(in crate::litert) const HALF_PIXEL: u16 = 3;
    }
}

/// Types of elements.
pub(super) mod kind {
    pub(in crate::litert) const F32: u8 = 0;
    pub(in crate::litert) const F16: u8 = 1;
    pub(in crate::litert) const I32: u8 = 2;
    pub(in crate::litert) const I8: u8 = 9;
}

/// How windows at the border are padded.
pub(super) mod padding {
    pub(in crate::litert) const SAME: u8 = 0;
    pub(in crate::litert) const VALID: u8 = 1;
}

/// What an operator applies to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Fused {
    #[default]
    None,
    Relu,
    Relu6,
}

impl Fused {
    pub(super) fn number(self) -> u8 {
        match self {
            Fused::None => 0,
            Fused::Relu => 1,
            Fused::Relu6 => 3,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Fused> {
        [Fused::None, Fused::Relu, Fused::Relu6].into_iter().find(|fused| fused.number() == number)
    }
}

/// All that is known of a member of [`Code`].
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeRow {
    pub(super) number: i32,
    pub(super) name: &'static str,
    /// The number of its table of options; 0 where it has none.
    pub(super) options: u8,
    /// The version of the operator that is written, in f32 and in int8.
    pub(super) versions: [i32; 2],
}

/// Makes the enum, the list of its members and their rows from one row each.
macro_rules! codes {
    ($($member:ident $number:literal $name:literal $options:literal [$float:literal, $bytes:literal];)*) => {
        /// An operator of LiteRT.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) enum Code {
            $($member,)*
        }

        impl Code {
            pub(super) const ALL: &[Code] = &[$(Code::$member,)*];

            pub(super) const fn row(self) -> CodeRow {
                match self {
                    $(Code::$member => CodeRow {
                        number: $number, name: $name, options: $options, versions: [$float, $bytes],
                    },)*
                }
            }
        }
    };
}

codes! {
    Add 0 "ADD" 11 [1, 2];
    AveragePool 1 "AVERAGE_POOL_2D" 5 [1, 2];
    Concat 2 "CONCATENATION" 10 [1, 2];
    Conv 3 "CONV_2D" 1 [1, 3];
    Depthwise 4 "DEPTHWISE_CONV_2D" 2 [1, 3];
    Dequantize 6 "DEQUANTIZE" 38 [3, 2];
    FullyConnected 9 "FULLY_CONNECTED" 8 [1, 4];
    Logistic 14 "LOGISTIC" 0 [1, 2];
    MaxPool 17 "MAX_POOL_2D" 5 [1, 2];
    Mul 18 "MUL" 21 [1, 2];
    Relu 19 "RELU" 0 [1, 2];
    Relu6 21 "RELU6" 0 [1, 2];
    Reshape 22 "RESHAPE" 17 [1, 1];
    ResizeBilinear 23 "RESIZE_BILINEAR" 15 [3, 3];
    Softmax 25 "SOFTMAX" 9 [1, 2];
    Tanh 28 "TANH" 0 [1, 2];
    Pad 34 "PAD" 22 [1, 2];
    Transpose 39 "TRANSPOSE" 26 [1, 2];
    Mean 40 "MEAN" 27 [1, 2];
    Sub 41 "SUB" 28 [1, 2];
    Div 42 "DIV" 29 [1, 2];
    Exp 47 "EXP" 33 [1, 2];
    Maximum 55 "MAXIMUM" 39 [1, 2];
    Minimum 57 "MINIMUM" 39 [1, 2];
    Neg 59 "NEG" 42 [1, 2];
    PadV2 60 "PADV2" 43 [1, 2];
    Slice 65 "SLICE" 48 [1, 2];
    Log 73 "LOG" 0 [1, 2];
    Sum 74 "SUM" 27 [1, 2];
    Sqrt 75 "SQRT" 0 [1, 2];
    Rsqrt 76 "RSQRT" 0 [1, 2];
    Pow 78 "POW" 56 [1, 1];
    ReduceMax 82 "REDUCE_MAX" 27 [1, 2];
    ReduceMin 89 "REDUCE_MIN" 27 [1, 2];
    LeakyRelu 98 "LEAKY_RELU" 75 [1, 2];
    MirrorPad 100 "MIRROR_PAD" 77 [1, 2];
    Abs 101 "ABS" 78 [1, 2];
    Elu 111 "ELU" 0 [1, 1];
    Quantize 114 "QUANTIZE" 89 [1, 2];
    HardSwish 117 "HARD_SWISH" 91 [1, 1];
    BatchMatMul 126 "BATCH_MATMUL" 101 [1, 2];
    Gelu 150 "GELU" 116 [1, 2];
    Relu0To1 152 "RELU_0_TO_1" 0 [1, 1];
}

impl Code {
    pub(super) fn from_number(number: i32) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.row().number == number)
    }
}
