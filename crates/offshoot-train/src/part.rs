//! From which part of a run on something holds: the `50%` of `layer4@50%`, as a number 0..1.

/// The finished epochs after which it holds, in a run of `epochs`; what is no whole number of epochs is rounded up.
pub(crate) fn epoch(part: f64, epochs: u64) -> u64 {
    // 75 % of 4 epochs is 3, whatever the last bit of the product says.
    (part * epochs as f64 - 1e-9).ceil().max(0.0) as u64
}

/// The part that `text` names, as in `50%`; `None` where it is none of 0 to below 100 percent.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let percent = text.strip_suffix('%')?.parse::<f64>().ok()?;
    (0.0..100.0).contains(&percent).then_some(percent / 100.0)
}

/// The part as [`parse`] reads it.
pub(crate) fn text(part: f64) -> String {
    // Rounded where the percentage has come out of binary fractions.
    format!("{}%", (part * 100.0 * 1e9).round() / 1e9)
}
