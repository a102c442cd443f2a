//! What messages tell people to change, by type. Libraries do not know how their settings are given: on a command line they are
//! flags. So a message of theirs names a [`Remedy`], and the program says once, by [`word_as`], what those are called.

use std::cell::RefCell;
use std::fmt;
use std::sync::OnceLock;

macro_rules! remedies {
    ($($(#[$doc:meta])* $remedy:ident $constant:ident $name:literal;)*) => {
        /// A setting that a message tells to change. Displayed, it is what the program calls it, else its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Remedy {
            $($(#[$doc])* $remedy,)*
        }

        $($(#[$doc])* pub const $constant: Remedy = Remedy::$remedy;)*

        impl Remedy {
            /// All of them.
            pub const ALL: &'static [Remedy] = &[$(Remedy::$remedy,)*];

            /// The name of the setting in the library.
            pub fn name(self) -> &'static str {
                match self {
                    $(Remedy::$remedy => $name,)*
                }
            }
        }
    };
}

remedies! {
    /// Batches that an update learns from.
    Accumulate ACCUMULATE "accumulate";
    /// Random changes to training pictures.
    Augment AUGMENT "augment";
    /// Pictures in a batch that is timed.
    Batch BATCH "batch";
    /// Pictures in a batch of training.
    BatchSize BATCH_SIZE "batch_size";
    /// The most bytes of cached features.
    CacheBudget CACHE_BUDGET "cache_budget";
    /// The folder of cached features.
    CacheDir CACHE_DIR "cache_dir";
    /// Random versions of each picture whose features are cached.
    CacheViews CACHE_VIEWS "cache_views";
    /// Pictures to calibrate on.
    Calibration CALIBRATION "calibration";
    /// A folder of pictures.
    Data DATA "data";
    /// How a picture becomes a square.
    Fit FIT "fit";
    /// The format of what is written.
    Format FORMAT "format";
    /// What does not learn.
    Freeze FREEZE "freeze";
    /// Whether batch norms stay as they are.
    FreezeNorms FREEZE_NORMS "freeze_norms";
    /// The classification head.
    Head HEAD "head";
    /// What a model takes in place of pictures.
    Inputs INPUTS "inputs";
    /// Label smoothing.
    LabelSmoothing LABEL_SMOOTHING "label_smoothing";
    /// The last checkpoint of a run in place of its best model.
    Last LAST "last";
    /// The learning rate.
    Lr LR "lr";
    /// The accuracy that quantization may cost.
    MaxDrop MAX_DROP "max_drop";
    /// The most pixels of a picture.
    MaxMegapixels MAX_MEGAPIXELS "max_megapixels";
    /// What is subtracted from each channel.
    Mean MEAN "mean";
    /// The memory that a picture may take.
    MemoryLimit MEMORY_LIMIT "memory_limit";
    /// How long a process of a job waits for another one.
    MpiTimeout MPI_TIMEOUT "mpi_timeout";
    /// How a model is quantized.
    Mode MODE "mode";
    /// The architecture.
    Model MODEL "model";
    /// Where something is written.
    Out OUT "out";
    /// The type that is computed in.
    Precision PRECISION "precision";
    /// Quantization-aware training.
    Qat QAT "qat";
    /// Whether a run goes on.
    Resume RESUME "resume";
    /// Whether TorchScript prepares its pictures.
    Script SCRIPT "script";
    /// The size of the input.
    Size SIZE "size";
    /// What each channel is divided by.
    Std STD "std";
    /// From which score on a picture is accepted.
    Threshold THRESHOLD "threshold";
    /// Weight decay.
    WeightDecay WEIGHT_DECAY "weight_decay";
    /// The file of weights.
    Weights WEIGHTS "weights";
}

/// What a program calls the settings.
static WORDS: OnceLock<fn(Remedy) -> &'static str> = OnceLock::new();

thread_local! {
    /// The remedies that this thread has displayed, where somebody asks.
    static NAMED: RefCell<Option<Vec<Remedy>>> = const { RefCell::new(None) };
}

/// From now on, messages of this process call settings what `words` says. The first call counts.
pub fn word_as(words: fn(Remedy) -> &'static str) {
    let _ = WORDS.set(words);
}

/// A text that `make` makes, and the remedies that it names, in order.
pub fn named<T>(make: impl FnOnce() -> T) -> (T, Vec<Remedy>) {
    let before = NAMED.replace(Some(Vec::new()));
    let made = make();
    (made, NAMED.replace(before).unwrap_or_default())
}

/// A text with the names of remedies in braces, such as `give another {size}`, in the words of the program.
pub fn worded(text: &str) -> String {
    Remedy::ALL.iter().fold(text.to_owned(), |text, remedy| {
        let name = format!("{{{}}}", remedy.name());
        if text.contains(&name) { text.replace(&name, &remedy.to_string()) } else { text }
    })
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NAMED.with_borrow_mut(|named| named.iter_mut().for_each(|named| named.push(*self)));
        match WORDS.get() {
            Some(words) => f.write_str(words(*self)),
            None => write!(f, "`{}`", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_remedies_by_type() {
        let (text, remedies) = named(|| format!("give another folder with {OUT}, or {RESUME}"));
        assert_eq!(text, "give another folder with `out`, or `resume`");
        assert_eq!(remedies, [OUT, RESUME]);
        let (text, remedies) = named(|| worded("leave {size} and {std} out {x}"));
        assert_eq!((text.as_str(), &remedies[..]), ("leave `size` and `std` out {x}", &[SIZE, STD][..]));
        assert!(named(|| "nothing".to_owned()).1.is_empty());
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = Remedy::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Remedy::ALL.len());
    }
}
