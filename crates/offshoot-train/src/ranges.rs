//! The range of each setting that is a number: flags, recipe files and their comments go by this one list.

use std::fmt;
use std::ops::RangeInclusive;

use crate::recipe_error::SettingError;

/// The most epochs that are accepted.
pub(crate) const MAX_EPOCHS: u64 = 1_000_000;

/// Settings that are whole numbers, as the recipe file calls them, and numbers of flags that are no settings, as those are called.
const WHOLE: [(&str, RangeInclusive<u64>); 17] = [
    ("epochs", 1..=MAX_EPOCHS),
    ("batch_size", 1..=1_000_000),
    ("accumulate", 1..=1_000_000),
    ("average_last", 0..=MAX_EPOCHS),
    ("patience", 1..=MAX_EPOCHS),
    ("cache_views", 1..=1000),
    ("threads", 1..=1024),
    ("seed", 0..=i64::MAX as u64),
    ("preprocessing.size", 1..=16_384),
    ("preprocessing.resize", 1..=65_536),
    ("checkpoint_every", 0..=100_000_000),
    ("batch", 1..=65_536),
    ("batch_min", 1..=65_536),
    ("batch_opt", 1..=65_536),
    ("batch_max", 1..=65_536),
    ("runs", 1..=100_000),
    ("suspects", 0..=1_000_000_000),
];

/// The values of a setting that is a number with a fraction.
struct Real {
    /// In words, after "must be".
    words: &'static str,
    holds: fn(f64) -> bool,
    /// Whether it is computed with as f32, which then must be in the range too.
    single: bool,
}

const fn real(words: &'static str, holds: fn(f64) -> bool, single: bool) -> Real {
    Real { words, holds, single }
}

/// The same for all entries of a table stands under the table's name.
const REAL: [(&str, Real); 26] = [
    ("lr", real("above 0", |x| x > 0.0, true)),
    ("lr_groups", real("above 0", |x| x > 0.0, true)),
    ("weight_decay", real("at least 0", |x| x >= 0.0, true)),
    ("momentum", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), true)),
    ("label_smoothing", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), true)),
    ("val_fraction", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), false)),
    ("warmup", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), false)),
    ("ema", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), true)),
    ("min_delta", real("at least 0 and below 1", |x| (0.0..1.0).contains(&x), false)),
    ("reject_precision", real("above 0 and at most 1", |x| x > 0.0 && x <= 1.0, false)),
    ("clip_norm", real("above 0", |x| x > 0.0, true)),
    ("clip_value", real("above 0", |x| x > 0.0, true)),
    ("layer_decay", real("above 0 and at most 1", |x| x > 0.0 && x <= 1.0, true)),
    // Losses are multiplied by them and summed.
    ("class_weights", real("within 1e-9 and 1e9", |x| (1e-9..=1e9).contains(&x), false)),
    ("augmentation.flip", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.flip_vertical", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.erase", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.brightness", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.contrast", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.saturation", real("within 0 and 1", |x| (0.0..=1.0).contains(&x), false)),
    ("augmentation.hue", real("within 0 and 0.5", |x| (0.0..=0.5).contains(&x), false)),
    ("augmentation.rotate", real("within 0 and 180", |x| (0.0..=180.0).contains(&x), false)),
    ("augmentation.mixup", real("0, or within 0.01 and 100", mixes, false)),
    ("augmentation.cutmix", real("0, or within 0.01 and 100", mixes, false)),
    ("preprocessing.mean", real("finite", |_| true, true)),
    ("preprocessing.std", real("above 0", |x| x > 0.0, true)),
];

fn mixes(x: f64) -> bool {
    x == 0.0 || (0.01..=100.0).contains(&x)
}

/// A number in a message: no hundreds of digits.
pub(crate) fn shown(x: f64) -> String {
    let plain = x == 0.0 || !x.is_finite() || (1e-6..1e16).contains(&x.abs());
    if plain { x.to_string() } else { format!("{x:e}") }
}

/// The range of a whole number.
fn range_of(setting: &str) -> Option<&'static RangeInclusive<u64>> {
    WHOLE.iter().find(|(name, _)| *name == setting).map(|(_, range)| range)
}

/// The range of the setting that the recipe file calls `setting`, in words: `1 to 1000000`, `above 0`. `None` where it is no
/// number.
pub fn in_words(setting: &str) -> Option<String> {
    let real = || Some(REAL.iter().find(|(name, _)| *name == setting)?.1.words.to_owned());
    range_of(setting).map(|range| format!("{} to {}", range.start(), range.end())).or_else(real)
}

/// The whole number in `text`, for the flag of a setting.
///
/// # Errors
/// When it is none, or out of the setting's range.
pub fn parse<T: TryFrom<u64>>(setting: &'static str, text: &str) -> Result<T, String> {
    let number = text.parse::<u64>().ok().filter(|number| check_whole(setting, Some(*number)).is_ok());
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("give a whole number, {}", in_words(setting).unwrap_or_default()))
}

/// Checks a whole number, where it is given.
pub(crate) fn check_whole(setting: &str, value: Option<u64>) -> Result<(), SettingError> {
    let (Some(value), Some(range)) = (value, range_of(setting)) else { return Ok(()) };
    let reason = match () {
        () if value < *range.start() => format!("must be at least {}, not {value}", range.start()),
        () if value > *range.end() => format!("must be at most {}, not {value}", range.end()),
        () => return Ok(()),
    };
    Err(SettingError { setting: setting.into(), reason })
}

/// Checks a number of `setting`, which is an entry of a table where it has a point that is not a setting's own.
///
/// # Errors
/// When it is given and out of the range.
pub fn check_real(setting: &str, value: Option<f64>) -> Result<(), SettingError> {
    let table = setting.split_once('.').map_or(setting, |(table, _)| table);
    let found = REAL.iter().find(|(name, _)| *name == setting);
    let found = found.or_else(|| REAL.iter().find(|(name, _)| *name == table));
    let (Some(x), Some((_, Real { words, holds, single }))) = (value, found) else { return Ok(()) };
    let refuse = |reason: String| Err(SettingError { setting: setting.into(), reason });
    if !x.is_finite() || !holds(x) {
        return refuse(format!("must be {words}, not {}", shown(x)));
    }
    match *single && !fits_f32(x, *holds) {
        true => refuse(format!(
            "must be {words} also as the f32 that is computed with{}, not {}",
            limits(x),
            shown(x)
        )),
        false => Ok(()),
    }
}

/// Whether a number that `holds` is one that holds as f32 too, and no 0 unless it was one.
fn fits_f32(x: f64, holds: fn(f64) -> bool) -> bool {
    let single = x as f32;
    single.is_finite() && (single == 0.0) == (x == 0.0) && holds(single.into())
}

/// What f32 holds, where `x` is beyond it.
fn limits(x: f64) -> impl fmt::Display {
    if (x as f32).is_finite() && x as f32 != 0.0 { "" } else { " (1e-45 to 3.4e38)" }
}

/// Whether the product of two positive numbers is one as f32 too.
pub(crate) fn product_fits(a: f64, b: f64) -> bool {
    let product = (a * b) as f32;
    product.is_finite() && product > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_hold_for_the_type_that_computes() {
        let error = |setting, x| check_real(setting, Some(x)).map_err(|e| e.to_string());
        for (setting, good) in [
            ("lr", 1e30),
            ("lr", 1e-40),
            ("momentum", 0.9999),
            ("weight_decay", 0.0),
            ("class_weights.x", 1e-9),
            ("class_weights.x", 1e9),
        ] {
            assert_eq!(error(setting, good), Ok(()));
        }
        for (setting, bad) in [
            ("lr", 1e39),
            ("lr", 1e-46),
            ("lr", 1e300),
            ("lr_groups.fc", 1e39),
            ("weight_decay", 1e-60),
            ("momentum", 0.999_999_999_999),
            ("label_smoothing", 0.999_999_999_999),
            ("clip_norm", 1e39),
            ("layer_decay", 1e-50),
            ("class_weights.x", 1e300),
            ("class_weights.x", 1e-300),
            ("lr", f64::NAN),
            ("ema", 0.999_999_999_999),
        ] {
            let text = error(setting, bad).unwrap_err();
            assert!(text.contains(setting) && text.contains("must be") && text.len() < 120, "{text}");
        }
        assert_eq!(shown(1e300), "1e300");
        assert_eq!([0.0, -1.5, 1e-5].map(shown), ["0", "-1.5", "0.00001"]);
    }

    #[test]
    fn flags_and_words_have_the_range_of_the_recipe() {
        assert_eq!(in_words("epochs").as_deref(), Some("1 to 1000000"));
        assert_eq!(in_words("lr").as_deref(), Some("above 0"));
        assert_eq!(in_words("model"), None);
        for (name, range) in WHOLE {
            for number in [*range.start(), *range.end()] {
                assert_eq!(parse::<u64>(name, &number.to_string()), Ok(number));
            }
            let digits = "9".repeat(10_000);
            for bad in ["-1", "", "1.5", "18446744073709551616", "nan", &digits] {
                assert!(parse::<u64>(name, bad).is_err(), "{name} {bad}");
            }
            assert!(parse::<u64>(name, &(range.end() + 1).to_string()).is_err(), "{name}");
        }
    }
}
