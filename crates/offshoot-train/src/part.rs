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

/// A part that [`epoch`] makes `epoch` of in a run of `epochs`, and that stays so when [`text`] has rounded it.
pub(crate) fn of(epoch: u64, epochs: u64) -> f64 {
    let [exact, safe] = [epoch as f64, epoch as f64 - 0.5].map(|n| n.max(0.0) / epochs as f64);
    let kept = parse(&text(exact)).is_some_and(|part| self::epoch(part, epochs) == epoch);
    let part = if kept { exact } else { safe };
    parse(&text(part)).unwrap_or(part)
}

/// The part as [`parse`] reads it.
pub(crate) fn text(part: f64) -> String {
    // Rounded where the percentage has come out of binary fractions.
    format!("{}%", (part * 100.0 * 1e9).round() / 1e9)
}
