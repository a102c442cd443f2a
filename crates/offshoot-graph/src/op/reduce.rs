//! Reductions along an axis: one row a member.

/// All that is known of a member of [`Reduce`] beside its function, which an executor has.
#[derive(Clone, Copy, Debug)]
pub struct ReduceRow {
    /// Its name here, in messages and in ONNX.
    pub onnx: &'static str,
    /// Its names in ATen, without the `aten::`; the first is written.
    pub aten: &'static [&'static str],
    /// Its name in Core ML's MIL.
    pub mil: &'static str,
}

/// Makes the enum, the list of its members and their rows from one row each.
macro_rules! reduce {
    ($($(#[doc = $doc:literal])+ $member:ident $onnx:literal $aten:expr, $mil:literal;)*) => {
        /// A reduction: (x) -> x's shape with 1 along the axis.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reduce {
            $($(#[doc = $doc])+ $member,)*
        }

        impl Reduce {
            /// Each member once.
            pub const ALL: &[Reduce] = &[$(Reduce::$member,)*];

            /// The member's row.
            pub const fn row(self) -> ReduceRow {
                match self {
                    $(Reduce::$member => ReduceRow { onnx: $onnx, aten: &$aten, mil: $mil },)*
                }
            }
        }
    };
}

reduce! {
    /// The sum
    Sum "ReduceSum" ["sum"], "reduce_sum";
    /// The mean
    Mean "ReduceMean" ["mean"], "reduce_mean";
    /// The largest element; NaN where one is NaN. Equal largest elements share the gradient.
    Max "ReduceMax" ["amax"], "reduce_max";
    /// The smallest element; NaN where one is NaN. Equal smallest elements share the gradient.
    Min "ReduceMin" ["amin"], "reduce_min";
    /// The square root of the sum of squares. Its gradient is 0 where it is 0.
    L2 "ReduceL2" ["linalg_vector_norm", "norm"], "reduce_l2_norm";
}

impl Reduce {
    /// The member that ONNX calls `name`.
    pub fn from_onnx(name: &str) -> Option<Reduce> {
        Reduce::ALL.iter().copied().find(|reduce| reduce.row().onnx == name)
    }

    /// The member that ATen calls `name`.
    pub fn from_aten(name: &str) -> Option<Reduce> {
        Reduce::ALL.iter().copied().find(|reduce| reduce.row().aten.contains(&name))
    }

    /// The member that Core ML's MIL calls `name`.
    pub fn from_mil(name: &str) -> Option<Reduce> {
        Reduce::ALL.iter().copied().find(|reduce| reduce.row().mil == name)
    }
}
