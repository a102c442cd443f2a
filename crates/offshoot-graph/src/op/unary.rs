//! Functions of one element: one row a member.

use super::{Clip, HardSigmoid};

/// How autocast treats an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autocast {
    /// A matrix operator: it computes in the half type.
    Half,
    /// It computes in f32, as `torch.autocast` lists it.
    Full,
    /// It computes in the widest type of its inputs.
    Widest,
    /// It computes in the type that comes in.
    Follow,
}

/// What an element's derivative is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// The function's input, x.
    OfInput,
    /// The function's output, y: x need not be kept for the backward pass.
    OfOutput,
}

/// The name of an operator in another format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// An operator of that name, from this version of the format's opset on.
    Operator(&'static str, i64),
    /// The format has none: it is written as the operators that [`crate::passes::decompose`] gives.
    None,
}

/// An attribute of a member, as the formats name it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute {
    /// Its name in ONNX and Core ML.
    pub onnx: &'static str,
    /// Its value where an ONNX node does not give it.
    pub onnx_default: f32,
    /// Its place among ATen's arguments and its name there; `None` where PyTorch fixes it to its default.
    pub aten: Option<(usize, &'static str)>,
    /// Its value where PyTorch's code does not give it.
    pub aten_default: f32,
}

/// An argument of an ATen operator that must have this value to be the member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fixed {
    /// Its place among the arguments.
    pub place: usize,
    /// Its name.
    pub name: &'static str,
    /// The value, also where it is not given.
    pub value: f64,
}

/// A function from a member's numbers and the bounds of x, low and high, to those of the result.
pub type Range = fn(&[f32], (f64, f64)) -> (f64, f64);

/// All that is known of a member of [`Unary`] beside its function, which an executor has.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The operator's name here and in messages: that of the variant.
    pub name: &'static str,
    /// The name of its gradient.
    pub gradient: &'static str,
    /// Its name in ONNX.
    pub onnx: Name,
    /// Its name in ATen, without the `aten::`.
    pub aten: &'static str,
    /// Its name in Core ML's MIL.
    pub mil: Name,
    /// Its attributes, in the order of [`Unary::numbers`].
    pub attributes: &'static [Attribute],
    /// ATen's arguments that the member does not have.
    pub fixed: &'static [Fixed],
    /// What its derivative is computed from.
    pub derivative: Derivative,
    /// Its type under autocast.
    pub autocast: Autocast,
    /// Whether it makes probabilities of logits.
    pub probability: bool,
    /// The bounds of the result for x within bounds, with the member's numbers.
    pub range: Range,
}

const PLAIN: Row = Row {
    name: "",
    gradient: "",
    onnx: Name::None,
    aten: "",
    mil: Name::None,
    attributes: &[],
    fixed: &[],
    derivative: Derivative::OfInput,
    autocast: Autocast::Follow,
    probability: false,
    range: |_, _| (f64::NEG_INFINITY, f64::INFINITY),
};

/// The attribute of [`Unary::LeakyRelu`] and [`Unary::Elu`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alpha {
    /// The factor below 0.
    pub alpha: f32,
}

/// The numbers that a member holds, in the order of its row's attributes.
trait Numbers: Copy {
    /// Those of the member in [`Unary::ALL`].
    const DEFAULT: Self;
    fn numbers(self) -> Vec<f32>;
    fn with(numbers: &[f32]) -> Self;
}

impl Numbers for Clip {
    const DEFAULT: Clip = Clip { min: -1.0, max: 1.0 };
    fn numbers(self) -> Vec<f32> {
        vec![self.min, self.max]
    }
    fn with(numbers: &[f32]) -> Clip {
        Clip { min: numbers[0], max: numbers[1] }
    }
}

impl Numbers for HardSigmoid {
    const DEFAULT: HardSigmoid = HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
    fn numbers(self) -> Vec<f32> {
        vec![self.alpha, self.beta]
    }
    fn with(numbers: &[f32]) -> HardSigmoid {
        HardSigmoid { alpha: numbers[0], beta: numbers[1] }
    }
}

impl Numbers for Alpha {
    const DEFAULT: Alpha = Alpha { alpha: 0.1 };
    fn numbers(self) -> Vec<f32> {
        vec![self.alpha]
    }
    fn with(numbers: &[f32]) -> Alpha {
        Alpha { alpha: numbers[0] }
    }
}

/// Makes the enum, the list of its members and their rows from one row each.
macro_rules! unary {
    ($($(#[doc = $doc:literal])+ $member:ident $(($attributes:ident))? { $($field:ident: $value:expr),* $(,)? })*) => {
        /// A function of one element: (x) -> x's shape. It is applied to each element of x.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Unary {
            $($(#[doc = $doc])+ $member $(($attributes))?,)*
        }

        impl Unary {
            /// Each member once, with some values of its attributes.
            pub const ALL: &[Unary] = &[$(Unary::$member $((<$attributes as Numbers>::DEFAULT))?,)*];

            /// The member's row.
            pub const fn row(self) -> Row {
                match self {
                    $(Unary::$member { .. } => Row {
                        name: stringify!($member),
                        gradient: concat!("Grad.", stringify!($member)),
                        $($field: $value,)*
                        ..PLAIN
                    },)*
                }
            }

            /// The values of the row's attributes.
            pub fn numbers(self) -> Vec<f32> {
                match self {
                    $(Unary::$member $((held @ $attributes { .. }))? => {
                        let held: &[Vec<f32>] = &[$(<$attributes as Numbers>::numbers(held))?];
                        held.concat()
                    })*
                }
            }

            /// The same member with other values of its attributes: as many as its row lists.
            pub fn with_numbers(self, numbers: &[f32]) -> Unary {
                match self {
                    $(Unary::$member { .. } => Unary::$member $((<$attributes as Numbers>::with(numbers)))?,)*
                }
            }
        }
    };
}

/// `x` between a Clip's two numbers.
fn within(numbers: &[f32], x: f64) -> f64 {
    x.max(f64::from(numbers[0])).min(f64::from(numbers[1]))
}

/// ATen's name of an attribute at a place, with PyTorch's default and ONNX's.
const fn attribute(
    onnx: &'static str,
    onnx_default: f32,
    aten: (usize, &'static str),
    default: f32,
) -> Attribute {
    Attribute { onnx, onnx_default, aten: Some(aten), aten_default: default }
}

const HARD_SIGMOID: &[Attribute] = &[
    Attribute { onnx: "alpha", onnx_default: 0.2, aten: None, aten_default: 1.0 / 6.0 },
    Attribute { onnx: "beta", onnx_default: 0.5, aten: None, aten_default: 0.5 },
];
const CLIP: &[Attribute] = &[
    attribute("min", f32::NEG_INFINITY, (1, "min"), f32::NEG_INFINITY),
    attribute("max", f32::INFINITY, (2, "max"), f32::INFINITY),
];
const LEAKY: &[Attribute] = &[attribute("alpha", 0.01, (1, "negative_slope"), 0.01)];
const ELU: &[Attribute] = &[attribute("alpha", 1.0, (1, "alpha"), 1.0)];
const ONE_SCALE: &[Fixed] =
    &[Fixed { place: 2, name: "scale", value: 1.0 }, Fixed { place: 3, name: "input_scale", value: 1.0 }];
/// From 20 on PyTorch's softplus is x, which f32 cannot tell from the exact form.
const PLAIN_SOFTPLUS: &[Fixed] =
    &[Fixed { place: 1, name: "beta", value: 1.0 }, Fixed { place: 2, name: "threshold", value: 20.0 }];

use Autocast::Full;
use Derivative::OfOutput;
use Name::Operator;

unary! {
    /// max(x, 0)
    Relu {
        onnx: Operator("Relu", 6), aten: "relu", mil: Operator("relu", 0), derivative: OfOutput,
        range: |_, (low, high)| (low.max(0.0), high.max(0.0)),
    }
    /// min(max(x, min), max); its derivative is 0 at the bounds, as that of PyTorch's `hardtanh`
    Clip(Clip) {
        onnx: Operator("Clip", 11), aten: "clamp", mil: Operator("clip", 0), attributes: CLIP,
        derivative: OfOutput,
        range: |numbers, (low, high)| (within(numbers, low), within(numbers, high)),
    }
    /// 1 / (1 + exp(-x))
    Sigmoid {
        onnx: Operator("Sigmoid", 6), aten: "sigmoid", mil: Operator("sigmoid", 0),
        probability: true, range: |_, _| (0.0, 1.0),
    }
    /// min(max(alpha x + beta, 0), 1); its derivative is 0 at the bounds, as in PyTorch
    HardSigmoid(HardSigmoid) {
        onnx: Operator("HardSigmoid", 6), aten: "hardsigmoid",
        mil: Operator("sigmoid_hard", 0), attributes: HARD_SIGMOID, probability: true,
        range: |_, _| (0.0, 1.0),
    }
    /// x min(max(x + 3, 0), 6) / 6
    HardSwish { onnx: Operator("HardSwish", 14), aten: "hardswish" }
    /// 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x
    Erf { onnx: Operator("Erf", 9), aten: "erf", mil: Operator("erf", 0), range: |_, _| (-1.0, 1.0) }
    /// x times the standard normal distribution's cumulative function at x: the exact form,
    /// x (1 + erf(x / sqrt 2)) / 2
    Gelu { onnx: Operator("Gelu", 20), aten: "gelu", mil: Operator("gelu", 0) }
    /// x / (1 + exp(-x))
    Silu { aten: "silu", mil: Operator("silu", 0) }
    /// The hyperbolic tangent
    Tanh {
        onnx: Operator("Tanh", 6), aten: "tanh", mil: Operator("tanh", 0), derivative: OfOutput,
        range: |_, _| (-1.0, 1.0),
    }
    /// e^x
    Exp {
        onnx: Operator("Exp", 6), aten: "exp", mil: Operator("exp", 0), derivative: OfOutput, autocast: Full,
        range: |_, (low, high)| (low.exp(), high.exp()),
    }
    /// The natural logarithm: NaN below 0, minus infinity at 0
    Log {
        onnx: Operator("Log", 6), aten: "log", mil: Operator("log", 0), autocast: Full,
        range: |_, (low, high)| (low.max(0.0).ln(), high.max(0.0).ln()),
    }
    /// The square root: NaN below 0
    Sqrt {
        onnx: Operator("Sqrt", 6), aten: "sqrt", mil: Operator("sqrt", 0), derivative: OfOutput,
        range: |_, (low, high)| (low.max(0.0).sqrt(), high.max(0.0).sqrt()),
    }
    /// -x
    Neg { onnx: Operator("Neg", 6), aten: "neg", range: |_, (low, high)| (-high, -low) }
    /// 1 / x
    Reciprocal { onnx: Operator("Reciprocal", 6), aten: "reciprocal", derivative: OfOutput }
    /// |x|; its derivative at 0 is 0
    Abs {
        onnx: Operator("Abs", 6), aten: "abs", mil: Operator("abs", 0),
        range: |_, (low, high)| (low.max(-high).max(0.0), high.max(-low)),
    }
    /// log(1 + e^x)
    Softplus {
        onnx: Operator("Softplus", 1), aten: "softplus", mil: Operator("softplus", 0),
        fixed: PLAIN_SOFTPLUS, autocast: Full,
        range: |_, (low, high)| (low.exp().ln_1p(), high.max(high.exp().ln_1p())),
    }
    /// x tanh(log(1 + e^x))
    Mish { onnx: Operator("Mish", 18), aten: "mish" }
    /// x, and alpha x below 0
    LeakyRelu(Alpha) {
        onnx: Operator("LeakyRelu", 6), aten: "leaky_relu", mil: Operator("leaky_relu", 0),
        attributes: LEAKY,
    }
    /// x, and alpha (e^x - 1) below 0
    Elu(Alpha) {
        onnx: Operator("Elu", 6), aten: "elu", mil: Operator("elu", 0), attributes: ELU,
        fixed: ONE_SCALE,
    }
}

impl Unary {
    /// The member that ONNX calls `name`; its attributes are to be set.
    pub fn from_onnx(name: &str) -> Option<Unary> {
        Unary::ALL.iter().copied().find(|unary| matches!(unary.row().onnx, Operator(own, _) if own == name))
    }

    /// The member that ATen calls `name`; its attributes are to be set.
    pub fn from_aten(name: &str) -> Option<Unary> {
        Unary::ALL.iter().copied().find(|unary| unary.row().aten == name)
    }

    /// The member that Core ML's MIL calls `name`; its attributes are to be set.
    pub fn from_mil(name: &str) -> Option<Unary> {
        Unary::ALL.iter().copied().find(|unary| matches!(unary.row().mil, Operator(own, _) if own == name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_member_has_a_name_of_its_own_everywhere_and_keeps_its_numbers() {
        let mut names = HashSet::new();
        for &unary in Unary::ALL {
            let row = unary.row();
            assert!(names.insert(row.name), "{} twice", row.name);
            assert_eq!(Unary::from_aten(row.aten), Some(unary));
            for (found, name) in [(Unary::from_onnx as fn(&str) -> _, row.onnx), (Unary::from_mil, row.mil)] {
                if let Operator(name, _) = name {
                    assert_eq!(found(name), Some(unary), "{name}");
                }
            }
            let numbers: Vec<f32> = row.attributes.iter().enumerate().map(|(i, _)| i as f32 + 0.25).collect();
            assert_eq!(unary.with_numbers(&numbers).numbers(), numbers);
            assert_eq!(unary.numbers().len(), row.attributes.len());
        }
    }
}
