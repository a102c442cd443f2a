//! Functions of two elements: one row a member.

use super::unary::Autocast;

/// All that is known of a member of [`Binary`] beside its function, which an executor has.
#[derive(Clone, Copy, Debug)]
pub struct BinaryRow {
    /// Its name here, in messages and in ONNX.
    pub onnx: &'static str,
    /// Its names in ATen, without the `aten::`; the first is written.
    pub aten: &'static [&'static str],
    /// Its name in Core ML's MIL.
    pub mil: &'static str,
    /// Whether its operands may be exchanged.
    pub commutes: bool,
    /// Its type under autocast.
    pub autocast: Autocast,
}

/// Makes the enum, the list of its members and their rows from one row each.
macro_rules! binary {
    ($($(#[doc = $doc:literal])+ $member:ident $row:expr;)*) => {
        /// A function of two elements: (a, b) -> their shapes broadcast as NumPy does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Binary {
            $($(#[doc = $doc])+ $member,)*
        }

        impl Binary {
            /// Each member once.
            pub const ALL: &[Binary] = &[$(Binary::$member,)*];

            /// The member's row.
            pub const fn row(self) -> BinaryRow {
                match self {
                    $(Binary::$member => $row,)*
                }
            }
        }
    };
}

const fn row(
    onnx: &'static str,
    aten: &'static [&'static str],
    mil: &'static str,
    commutes: bool,
) -> BinaryRow {
    BinaryRow { onnx, aten, mil, commutes, autocast: Autocast::Widest }
}

binary! {
    /// a + b
    Add row("Add", &["add"], "add", true);
    /// a - b
    Sub row("Sub", &["sub"], "sub", false);
    /// a b
    Mul row("Mul", &["mul"], "mul", true);
    /// a / b
    Div row("Div", &["div"], "real_div", false);
    /// The larger of a and b; NaN where one is NaN. Where they are equal each takes half of the gradient.
    Max row("Max", &["maximum", "max"], "maximum", true);
    /// The smaller of a and b; NaN where one is NaN. Where they are equal each takes half of the gradient.
    Min row("Min", &["minimum", "min"], "minimum", true);
    /// a to the power of b: NaN where a is below 0 and b is no whole number
    Pow BinaryRow { autocast: Autocast::Full, ..row("Pow", &["pow"], "pow", false) };
}

impl Binary {
    /// The member that ONNX calls `name`.
    pub fn from_onnx(name: &str) -> Option<Binary> {
        Binary::ALL.iter().copied().find(|binary| binary.row().onnx == name)
    }

    /// The member that ATen calls `name`.
    pub fn from_aten(name: &str) -> Option<Binary> {
        Binary::ALL.iter().copied().find(|binary| binary.row().aten.contains(&name))
    }

    /// The member that Core ML's MIL calls `name`.
    pub fn from_mil(name: &str) -> Option<Binary> {
        Binary::ALL.iter().copied().find(|binary| binary.row().mil == name)
    }
}
