//! What messages of the library tell to change, as flags.

use offshoot::Remedy;

/// The flag of a setting.
pub fn flag(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Accumulate => "--accumulate",
        Remedy::Augment => "--augment",
        Remedy::Batch => "--batch",
        Remedy::BatchSize => "--batch-size",
        Remedy::CacheBudget => "--cache-budget",
        Remedy::CacheDir => "--cache-dir",
        Remedy::CacheViews => "--cache-views",
        Remedy::Calibration => "--calibration",
        Remedy::Data => "--data",
        Remedy::Fit => "--fit",
        Remedy::Format => "--format",
        Remedy::Freeze => "--freeze",
        Remedy::FreezeNorms => "--freeze-norms",
        Remedy::Head => "--head",
        Remedy::Inputs => "--inputs",
        Remedy::LabelSmoothing => "--label-smoothing",
        Remedy::Last => "--last",
        Remedy::Lr => "--lr",
        Remedy::MaxDrop => "--max-drop",
        Remedy::MaxMegapixels => "--max-megapixels",
        Remedy::Mean => "--mean",
        Remedy::MemoryLimit => "--memory-limit",
        Remedy::MpiTimeout => "--mpi-timeout",
        Remedy::Mode => "--mode",
        Remedy::Model => "--model",
        Remedy::Out => "--out",
        Remedy::Precision => "--precision",
        Remedy::Qat => "--qat",
        Remedy::Resume => "--resume",
        Remedy::Script => "--script",
        Remedy::Size => "--size",
        Remedy::Std => "--std",
        Remedy::Threshold => "--threshold",
        Remedy::WeightDecay => "--weight-decay",
        Remedy::Weights => "--weights",
        other => other.name(),
    }
}
